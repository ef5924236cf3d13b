/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/expert_host.h"

#include <stdlib.h>
#include <string.h>

#include "worker/exec_experts.h"
#include "worker/load.h"

struct worker_expert_host {
    struct worker_exec *exec;
    struct worker_expert_rows rows;
    struct worker__vectors vectors;
};

static uint64_t most_groups(const struct shard_program *program, uint32_t max_rows)
{
    const struct shard_model *m = program->model;
    return (uint64_t)max_rows * m->n_experts_used * shard_expert_segments(m->ff_expert).n;
}

enum proto_status worker_expert_host_create(struct worker_expert_host **out,
                                            const struct shard_program *program,
                                            const struct worker_weights *weights,
                                            const struct worker_expert_host_options *options,
                                            struct proto_error *error)
{
    *out = NULL;
    struct worker_expert_host *host = calloc(1, sizeof *host);
    if (!host)
        return proto_fail_nomem(error, sizeof *host, "an expert host");
    struct worker_exec_options exec = {.table = options->table,
                                       .pool = options->pool,
                                       .max_rows = options->max_rows,
                                       .inexact = options->inexact};
    enum proto_status status = worker_exec_create(&host->exec, program, weights, &exec, error);
    if (status == PROTO_OK) {
        size_t n = most_groups(program, options->max_rows);
        host->rows.groups = calloc(n + 1, sizeof *host->rows.groups);
        host->rows.members = calloc(n + 1, sizeof *host->rows.members);
        if (!host->rows.groups || !host->rows.members)
            status = proto_fail_nomem(error, n * sizeof *host->rows.groups, "an expert host");
    }
    if (status != PROTO_OK) {
        worker_expert_host_destroy(host);
        return status;
    }
    *out = host;
    return PROTO_OK;
}

void worker_expert_host_destroy(struct worker_expert_host *host)
{
    if (!host)
        return;
    worker_exec_destroy(host->exec);
    free(host->rows.groups);
    free(host->rows.members);
    free(host->vectors.at);
    free(host);
}

static const struct shard_op *find_op(const struct shard_program *p, uint32_t layer)
{
    for (size_t i = 0; i < p->n_ops; i++) {
        if (p->ops[i].layer == layer)
            return &p->ops[i];
    }
    return NULL;
}

/* Vectors are computed with room for whole registers, and sent without. */
static void pack_vectors(struct worker_expert_host *host, size_t width, size_t ld)
{
    for (size_t i = 1; i < host->rows.n_vectors && width != ld; i++)
        memmove(host->vectors.at + i * width, host->vectors.at + i * ld, width * sizeof(float));
}

static enum proto_status compute(struct worker_expert_host *host, const struct shard_op *op,
                                 const struct worker_expert_shape *shape, struct proto_error *error)
{
    size_t ld = shard_record_floats(shape->n_embd), stride = shape->gate_bytes + shape->up_bytes;
    enum proto_status status =
        worker__vectors_take(&host->vectors, host->rows.n_vectors * ld, error);
    if (status != PROTO_OK)
        return status;
    struct worker__expert_rows rows = {
        .gate = {.rows = host->rows.records, .stride = stride, .bytes = shape->gate_bytes},
        .n_groups = host->rows.n_groups,
        .groups = host->rows.groups,
        .members = host->rows.members,
        .vectors = host->vectors.at,
        .ld = ld};
    rows.up = rows.gate;
    if (shape->up_bytes) {
        rows.up.rows += shape->gate_bytes;
        rows.up.bytes = shape->up_bytes;
    }
    if (!worker__experts_compute(host->exec, op, &rows))
        return proto_fail(error, PROTO_NOTFOUND,
                          "experts of layer %u are asked for that this worker does not hold",
                          op->layer);
    pack_vectors(host, shape->n_embd, ld);
    return PROTO_OK;
}

enum proto_status worker_expert_host_run(struct worker_expert_host *host, uint32_t layer,
                                         const void *request, size_t len, const void **answer,
                                         size_t *answer_len, struct proto_error *error)
{
    const struct shard_op *op = find_op(host->exec->program, layer);
    if (!op)
        return proto_fail(error, PROTO_NOTFOUND,
                          "experts of layer %u are asked for, and this worker holds none of them",
                          layer);
    struct worker_expert_shape shape = worker__expert_shape(host->exec, op);
    enum proto_status status = worker_expert_rows_parse(&host->rows, &shape, request, len, error);
    if (status == PROTO_OK)
        status = compute(host, op, &shape, error);
    if (status == PROTO_OK && worker_weights_lost(host->exec->weights))
        status = proto_fail(error, PROTO_IO, "experts were cut short while they were in use");
    if (status != PROTO_OK)
        return status;
    *answer = host->vectors.at;
    *answer_len = worker_expert_answer_bytes(&shape, &host->rows);
    return PROTO_OK;
}

uint64_t worker_expert_host_bytes(const struct shard_program *program, uint32_t max_rows)
{
    return worker_exec_scratch_bytes(program, max_rows, 0, 0) +
           most_groups(program, max_rows) *
               (sizeof(struct worker_expert_group) + sizeof(struct worker_expert_member)) +
           shard_program_answer_bytes(program, max_rows);
}
