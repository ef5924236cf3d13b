/* SPDX-License-Identifier: Apache-2.0 */
/* Experts dealt to machines in the shape that a person asked for. */
#include "shard/plan/draft.h"

/* With fewer experts a range, one more or less is too much of a difference. */
#define FEW 8u

/* Depth at which the tree of [0, n) is cut at `at`: 0 is its root's cut. */
static uint32_t depth_of(uint32_t n, uint32_t at)
{
    uint32_t low = 0, high = n, depth = 0;
    for (;; depth++) {
        uint32_t middle = (low + high) / 2;
        if (middle == at || high - low < 2)
            return depth;
        if (at < middle)
            high = middle;
        else
            low = middle;
    }
}

uint32_t plan_expert_cut(uint32_t n_experts, uint32_t n_ranges, uint32_t i)
{
    uint64_t product = (uint64_t)n_experts * i;
    uint32_t floor = (uint32_t)(product / n_ranges);
    if (product % n_ranges == 0 || n_experts < FEW * n_ranges ||
        depth_of(n_experts, floor) <= depth_of(n_experts, floor + 1))
        return floor;
    return floor + 1;
}

/* Seats [first, end) that hold the experts of a stage's layers, or of all. */
struct group {
    uint32_t first, end, layer_first, layer_end;
};

static uint32_t value_or(uint32_t value, uint32_t instead)
{
    return value ? value : instead;
}

static enum proto_status check_model(const struct plan__problem *p, const struct plan_options *o,
                                     struct proto_error *error)
{
    uint32_t most = SHARD_EXPERT_SEGMENTS;
    if (p->moe_layers == 0)
        return proto_fail(error, PROTO_INVALID,
                          "--split experts: the model \"%s\" is dense, it has no experts; split it "
                          "by layers",
                          p->shape->name);
    for (uint32_t il = 0; il < p->shape->n_layers; il++) {
        const struct plan_layer *l = &p->shape->layers[il];
        most = l->n_experts && l->n_segments < most ? l->n_segments : most;
    }
    if (o->slices > most)
        return proto_fail(error, PROTO_INVALID,
                          "--expert-slices %u: the experts of \"%s\" can be cut into at most %u "
                          "slices",
                          o->slices, p->shape->name, most);
    return PROTO_OK;
}

static enum proto_status check_group(const struct plan__problem *p, const struct group *group,
                                     const struct plan_options *o, struct proto_error *error)
{
    uint32_t n = group->end - group->first, slices = value_or(o->slices, 1), moe_layers = 0;
    uint32_t replicas = value_or(o->replicas, 1), each = slices * replicas;
    bool many = group->layer_end - group->layer_first < p->shape->n_layers;
    for (uint32_t il = group->layer_first; il < group->layer_end; il++)
        moe_layers += p->shape->layers[il].n_experts > 0;
    if (moe_layers == 0)
        return proto_fail(error, PROTO_INVALID,
                          "layers %u-%u have no experts: %u hosts would hold nothing; choose other "
                          "--stages or --layers",
                          group->layer_first, group->layer_end - 1, n);
    if (replicas > n)
        return proto_fail(error, PROTO_INVALID,
                          "%u replicas of each expert need as many hosts, %s %u: add workers, or "
                          "lower --replicas",
                          replicas, many ? "each stage has" : "there are", n);
    if (n % each)
        return proto_fail(error, PROTO_INVALID,
                          "%u hosts of experts cannot hold %u slices of each expert %u times: "
                          "expected a multiple of %u hosts%s",
                          n, slices, replicas, each, many ? " for each stage" : "");
    if (n / each > p->n_experts)
        return proto_fail(error, PROTO_INVALID,
                          "%u hosts for %u experts: expected at most one for each expert", n / each,
                          p->n_experts);
    return PROTO_OK;
}

/* Hosts of a group follow one another by range of experts, then by slice, then by replica. */
static void lay_group(struct plan__problem *p, const struct group *group,
                      const struct plan_options *o)
{
    uint32_t slices = value_or(o->slices, 1), replicas = value_or(o->replicas, 1);
    uint32_t n_ranges = (group->end - group->first) / (slices * replicas);
    struct plan_placement *placement = p->placement;
    for (uint32_t i = group->first; i < group->end; i++) {
        uint32_t at = (i - group->first) / replicas, range = at / slices;
        const struct plan__seat *seat = &p->seats[i];
        placement->parts[placement->n_parts++] = (struct shard_expert_part){
            .worker = plan_placement_worker(placement, seat->machine, seat->kind),
            .layer_first = group->layer_first,
            .layer_end = group->layer_end,
            .expert_first = plan_expert_cut(p->n_experts, n_ranges, range),
            .expert_end = plan_expert_cut(p->n_experts, n_ranges, range + 1),
            .slice = at % slices,
            .n_slices = slices};
    }
}

enum proto_status plan__lay_experts(struct plan__problem *problem,
                                    const struct plan_options *options, struct proto_error *error)
{
    const struct plan_placement *placement = problem->placement;
    uint32_t stages = placement->n_stages, n = problem->n_seats - stages;
    uint32_t n_groups = n < stages ? 1 : stages;
    enum proto_status status = check_model(problem, options, error);
    for (uint32_t g = 0; g < n_groups && status == PROTO_OK; g++) {
        const struct plan_stage *last = &placement->stages[n_groups == 1 ? stages - 1 : g];
        struct group group = {.first = stages + n * g / n_groups,
                              .end = stages + n * (g + 1) / n_groups,
                              .layer_first = placement->stages[g].layer_first,
                              .layer_end = last->layer_end};
        status = check_group(problem, &group, options, error);
        if (status == PROTO_OK)
            lay_group(problem, &group, options);
    }
    return status;
}
