/* SPDX-License-Identifier: Apache-2.0 */
/* Placements by rule: what a person or a test asks for, or what is done without speeds. */
#include <stdlib.h>
#include <string.h>

#include "shard/plan/draft.h"

struct rule {
    struct plan__problem problem;
    const struct plan_options *options;
    struct proto_error *error;
};

static uint32_t stages_of(const struct rule *r)
{
    uint32_t instead = r->options->split == PLAN_SPLIT_EXPERTS ? 1 : r->problem.n_seats;
    uint32_t n = r->options->stages ? r->options->stages : instead;
    return n < r->problem.shape->n_layers ? n : r->problem.shape->n_layers;
}

static enum proto_status check_request(const struct rule *r)
{
    const struct plan_options *o = r->options;
    uint32_t n = r->problem.n_seats, stages = stages_of(r);
    if (n == 0 || r->problem.cluster->n_machines > PLAN__MAX_SEATS)
        return proto_fail(r->error, PROTO_CAPACITY,
                          "%u workers with memory have joined, expected 1 to %u; start "
                          "caravan-worker on the machines that are to help",
                          n, PLAN__MAX_SEATS);
    if (o->split == PLAN_SPLIT_EXPERTS && n <= stages)
        return proto_fail(r->error, PROTO_INVALID,
                          "--split experts: %u worker%s, of which %u %s: nobody is left to hold "
                          "experts; add workers",
                          n, n == 1 ? "" : "s", stages,
                          stages == 1 ? "is the stage" : "are stages");
    if (o->stages > n || o->stages > r->problem.shape->n_layers)
        return proto_fail(r->error, PROTO_INVALID,
                          "%u stages asked for, but there are %u machines and %u layers", o->stages,
                          n, r->problem.shape->n_layers);
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

static void cut_as_told(const struct rule *r, struct plan__draft *draft)
{
    draft->n_teams = 0;
    draft->n_stages = r->options->stages;
    memset(draft->team_of, 0, sizeof draft->team_of);
    for (uint32_t s = 0; s < draft->n_stages; s++) {
        draft->stage_seat[s] = (uint16_t)s;
        draft->stage_end[s] = (uint16_t)r->options->stage_ends[s];
    }
}

static enum proto_status cut_by_memory(const struct rule *r, struct plan__draft *draft)
{
    bool experts = r->options->split == PLAN_SPLIT_EXPERTS;
    uint16_t seats[PLAN__MAX_SEATS];
    uint32_t n = 0, most = stages_of(r);
    double share;
    if (r->options->stages || experts) {
        for (; n < most; n++)
            seats[n] = (uint16_t)n;
    } else {
        n = choose_fullest(&r->problem, most, seats);
    }
    struct plan__split split = {.experts = !experts, .even = true, .n_seats = n, .seats = seats};
    return plan__split_layers(draft, &share, &r->problem, &split, r->error);
}

static enum proto_status place(struct plan_placement **out, struct rule *r,
                               struct plan__draft *draft)
{
    struct plan__problem *p = &r->problem;
    enum proto_status status = PROTO_OK;
    if (r->options->stage_ends)
        cut_as_told(r, draft);
    else
        status = cut_by_memory(r, draft);
    if (status == PROTO_OK && !plan__draft_build(p, draft))
        status =
            proto_fail(r->error, PROTO_INVALID,
                       "the stages' layers are out of order or not those of %s", p->shape->name);
    if (status == PROTO_OK && r->options->split == PLAN_SPLIT_EXPERTS)
        status = plan__lay_experts(p, r->options, r->error);
    if (status != PROTO_OK)
        return status;
    plan_placement_measure(p->placement, p->shape, p->cluster);
    status = plan_placement_refine(p->placement, p->shape, p->cluster, r->error);
    if (status == PROTO_OK)
        status = plan_placement_check(p->placement, p->shape, p->cluster, r->error);
    return status == PROTO_OK ? plan_placement_copy(out, p->placement, r->error) : status;
}

enum proto_status plan_by_rule(struct plan_placement **out, const struct plan_shape *shape,
                               const struct plan_cluster *cluster,
                               const struct plan_options *options, struct proto_error *error)
{
    /* The draft has stages alone, for experts are dealt behind it. */
    struct plan_options draft_options = *options;
    struct rule r = {.options = options, .error = error};
    *out = NULL;
    draft_options.cpu_only = true;
    draft_options.split = PLAN_SPLIT_LAYERS;
    enum proto_status status =
        plan__problem_init(&r.problem, shape, cluster, &draft_options, error);
    if (status == PROTO_OK)
        status = check_request(&r);
    if (status == PROTO_OK) {
        struct plan__draft *draft = malloc(sizeof *draft);
        status = draft ? place(out, &r, draft) : proto_fail_nomem(error, sizeof *draft, "the plan");
        free(draft);
    }
    plan__problem_finish(&r.problem);
    return status;
}
