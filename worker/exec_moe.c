/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The routed experts of a stage's layer: each row asks for its choices as one group, whose sum is
 * the result. Where other workers hold some of them see worker/exec_remote.c.
 */
#include <stdlib.h>

#include "worker/exec_experts.h"

/* A row's choices in order of expert. */
static void sort_choices(struct worker_expert_member *to, const struct shard_choice *choices,
                         uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        uint32_t at = i;
        for (; at > 0 && to[at - 1].expert > choices[i].expert; at--)
            to[at] = to[at - 1];
        to[at] = (struct worker_expert_member){choices[i].expert, choices[i].weight};
    }
}

void worker__list_choices(struct worker_exec *e, const struct shard_op *op, size_t n_rows)
{
    struct worker_expert_member *members = e->asked.members;
    atomic_uint *usage =
        e->usage + (size_t)(op->layer - e->program->layer_first) * e->program->model->n_experts;
    for (size_t row = 0; row < n_rows; row++)
        sort_choices(members + row * op->n_used, worker__at(e, op->b, row), op->n_used);
    for (size_t i = 0; i < n_rows * op->n_used; i++)
        atomic_fetch_add_explicit(&usage[members[i].expert], 1, memory_order_relaxed);
}

static size_t usage_counts(const struct worker_exec *e)
{
    const struct shard_program *p = e->program;
    return (size_t)(p->layer_end - p->layer_first) * p->model->n_experts;
}

enum proto_status worker__usage_init(struct worker_exec *e, struct proto_error *error)
{
    size_t n = usage_counts(e);
    e->usage = calloc(n + 1, sizeof *e->usage);
    return e->usage ? PROTO_OK : proto_fail_nomem(error, n * sizeof *e->usage, "expert statistics");
}

void worker_exec_usage(struct worker_exec *exec, uint32_t *counts)
{
    size_t n = usage_counts(exec);
    for (size_t i = 0; i < n; i++)
        counts[i] = atomic_exchange_explicit(&exec->usage[i], 0, memory_order_relaxed);
}

struct worker__operand worker__expert_operand(const struct worker_exec *e, int16_t buffer)
{
    size_t width = e->program->model->n_embd;
    return (struct worker__operand){.rows = e->buffers[buffer],
                                    .stride = worker__record_bytes(e, buffer, width),
                                    .bytes =
                                        kern_act_bytes(e->program->buffers[buffer].act, width)};
}

void worker__experts_run(struct worker_exec *e, const struct shard_op *op, size_t n_rows)
{
    uint32_t n_segments = shard_expert_segments(e->program->model->ff_expert).n;
    worker__list_choices(e, op, n_rows);
    for (uint32_t row = 0; row < n_rows; row++)
        e->asked.groups[row] = (struct worker_expert_group){.row = row,
                                                            .first_member = row * op->n_used,
                                                            .n_members = (uint16_t)op->n_used,
                                                            .segment_end = (uint8_t)n_segments,
                                                            .joined = true,
                                                            .first_vector = row};
    struct worker__expert_rows rows = {.gate = worker__expert_operand(e, op->a),
                                       .up = worker__expert_operand(e, op->c),
                                       .n_groups = (uint32_t)n_rows,
                                       .groups = e->asked.groups,
                                       .members = e->asked.members,
                                       .vectors = worker__at(e, op->dst, 0),
                                       .ld = worker__ld(e, op->dst)};
    worker__experts_compute(e, op, &rows);
}

enum proto_status worker__asked_init(struct worker__asked *asked,
                                     const struct shard_program *program, uint32_t max_rows,
                                     struct proto_error *error)
{
    size_t n_members = (size_t)max_rows * program->model->n_experts_used;
    asked->groups = calloc((size_t)max_rows + 1, sizeof *asked->groups);
    asked->members = calloc(n_members + 1, sizeof *asked->members);
    if (!asked->groups || !asked->members)
        return proto_fail_nomem(error, worker__asked_bytes(program, max_rows), "expert choices");
    return PROTO_OK;
}

void worker__asked_finish(struct worker__asked *asked)
{
    free(asked->groups);
    free(asked->members);
}

uint64_t worker__asked_bytes(const struct shard_program *program, uint32_t max_rows)
{
    return max_rows * (sizeof(struct worker_expert_group) +
                       program->model->n_experts_used * sizeof(struct worker_expert_member));
}
