/* SPDX-License-Identifier: Apache-2.0 */
/* Placements by rule: what a person or a test asks for, or what is done without speeds. */
#include <stdlib.h>

#include "shard/plan/draft.h"

static enum proto_status check_request(const struct plan__problem *p, struct proto_error *error)
{
    const struct plan_options *o = p->options;
    uint32_t n = p->cluster->n_machines;
    if (n == 0 || n > PLAN__MAX_SEATS)
        return proto_fail(error, PROTO_CAPACITY,
                          "%u workers have joined, expected 1 to %u; start caravan-worker on the "
                          "machines that are to help",
                          n, PLAN__MAX_SEATS);
    if (o->stages > n || o->stages > p->shape->n_layers)
        return proto_fail(error, PROTO_INVALID,
                          "%u stages asked for, but there are %u machines and %u layers", o->stages,
                          n, p->shape->n_layers);
    if (o->split == PLAN_SPLIT_EXPERTS && p->moe_layers == 0)
        return proto_fail(error, PROTO_INVALID,
                          "the model has no routed experts to split; split it by layers");
    if (o->slices > SHARD_EXPERT_SEGMENTS)
        return proto_fail(error, PROTO_INVALID, "%u slices of each expert, expected 1 to %u",
                          o->slices, SHARD_EXPERT_SEGMENTS);
    return PROTO_OK;
}

/* The seats with most memory, in their order. */
static uint32_t choose_fullest(const struct plan__problem *p, uint32_t most, uint16_t *seats)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < p->n_seats; i++) {
        uint32_t better = 0;
        uint64_t mine = p->seats[i].device->memory_bytes;
        for (uint32_t j = 0; j < p->n_seats; j++) {
            uint64_t other = p->seats[j].device->memory_bytes;
            better += other > mine || (other == mine && j < i);
        }
        if (better < most)
            seats[n++] = (uint16_t)i;
    }
    return n;
}

/* The team of a stage: hosts first, first + step, ... */
static enum proto_status form_team(struct plan__team *team, const struct plan__problem *p,
                                   uint32_t first, uint32_t step, struct proto_error *error)
{
    const struct plan_options *o = p->options;
    uint32_t n = 0, hosts = 0;
    team->slices = (uint16_t)(o->slices ? o->slices : 1);
    team->copies = (uint16_t)(o->replicas ? o->replicas : 1);
    for (uint32_t i = first; i < p->n_seats; i += step)
        hosts++;
    uint32_t width = plan__width(team), groups = hosts / (width ? width : 1);
    groups = groups < p->n_experts ? groups : p->n_experts;
    if (groups == 0)
        return proto_fail(
            error, PROTO_INVALID,
            "%u slices of each expert %u times need %u machines besides each stage's, "
            "but there are %u",
            team->slices, team->copies, width, hosts);
    team->n_groups = (uint16_t)groups;
    for (uint32_t g = 0; g < groups; g++)
        team->experts[g] = (uint16_t)((g + 1) * p->n_experts / groups - g * p->n_experts / groups);
    for (uint32_t i = first; n < groups * width; i += step)
        team->seats[n++] = (uint16_t)i;
    return PROTO_OK;
}

static enum proto_status form_teams(struct plan__draft *draft, const struct plan__problem *p,
                                    uint32_t stages, struct proto_error *error)
{
    if (stages > PLAN__MAX_TEAMS)
        return proto_fail(error, PROTO_INVALID, "%u stages with experts elsewhere, expected %u",
                          stages, PLAN__MAX_TEAMS);
    for (uint32_t s = 0, first = 0; s < stages; first = draft->stage_end[s++]) {
        enum proto_status status = form_team(&draft->teams[s], p, stages + s, stages, error);
        if (status != PROTO_OK)
            return status;
        for (uint32_t il = first; il < draft->stage_end[s]; il++)
            draft->team_of[il] = (uint8_t)(s + 1);
    }
    draft->n_teams = stages;
    return PROTO_OK;
}

static enum proto_status place(struct plan_placement **out, struct plan__problem *p,
                               struct plan__draft *draft, struct proto_error *error)
{
    const struct plan_options *o = p->options;
    bool experts = o->split == PLAN_SPLIT_EXPERTS;
    uint16_t seats[PLAN__MAX_SEATS];
    uint32_t most = o->stages ? o->stages : experts ? 1 : p->n_seats, n = 0;
    double share;
    most = most < p->shape->n_layers ? most : p->shape->n_layers;
    if (o->stages || experts) {
        for (; n < most; n++)
            seats[n] = (uint16_t)n;
    } else {
        n = choose_fullest(p, most, seats);
    }
    struct plan__split split = {.experts = !experts, .even = true, .n_seats = n, .seats = seats};
    enum proto_status status = plan__split_layers(draft, &share, p, &split, error);
    if (status == PROTO_OK && experts)
        status = form_teams(draft, p, n, error);
    if (status != PROTO_OK)
        return status;
    if (!plan__draft_build(p, draft))
        return proto_fail(error, PROTO_INVALID,
                          "the machines cannot be split as asked for: %u stages, %u slices, %u "
                          "copies",
                          n, o->slices, o->replicas);
    status = plan_placement_refine(p->placement, p->shape, p->cluster, error);
    if (status == PROTO_OK)
        status = plan_placement_check(p->placement, p->shape, p->cluster, error);
    return status == PROTO_OK ? plan_placement_copy(out, p->placement, error) : status;
}

enum proto_status plan_by_rule(struct plan_placement **out, const struct plan_shape *shape,
                               const struct plan_cluster *cluster,
                               const struct plan_options *options, struct proto_error *error)
{
    struct plan_options cpu = *options;
    struct plan__problem problem;
    *out = NULL;
    cpu.cpu_only = true;
    enum proto_status status = plan__problem_init(&problem, shape, cluster, &cpu, error);
    if (status == PROTO_OK)
        status = check_request(&problem, error);
    if (status == PROTO_OK) {
        struct plan__draft *draft = malloc(sizeof *draft);
        status = draft ? place(out, &problem, draft, error)
                       : proto_fail_nomem(error, sizeof *draft, "the plan");
        free(draft);
    }
    plan__problem_finish(&problem);
    return status;
}
