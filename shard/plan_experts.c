/* SPDX-License-Identifier: Apache-2.0 */
/* Experts dealt to workers in the shape that a person asked for. */
#include <stdlib.h>

#include "shard/plan.h"

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

uint32_t shard_plan_expert_cut(uint32_t n_experts, uint32_t n_ranges, uint32_t i)
{
    uint64_t product = (uint64_t)n_experts * i;
    uint32_t floor = (uint32_t)(product / n_ranges);
    if (product % n_ranges == 0 || n_experts < FEW * n_ranges ||
        depth_of(n_experts, floor) <= depth_of(n_experts, floor + 1))
        return floor;
    return floor + 1;
}

/* Hosts [first, end) of a stage, or of all. */
struct group {
    uint32_t first, end; /* among the plan's hosts */
    uint32_t layer_first, layer_end;
};

static uint32_t value_or(uint32_t value, uint32_t instead)
{
    return value ? value : instead;
}

static enum proto_status check_group(const struct group *group, const struct shard_model *model,
                                     const struct shard_plan_options *options,
                                     struct proto_error *error)
{
    uint32_t n = group->end - group->first, slices = value_or(options->slices, 1);
    uint32_t replicas = value_or(options->replicas, 1), each = slices * replicas;
    bool any = false;
    for (uint32_t il = group->layer_first; il < group->layer_end; il++)
        any |= model->layers[il].moe;
    if (!any)
        return proto_fail(error, PROTO_INVALID,
                          "layers %u-%u have no experts: %u hosts would hold nothing; choose other "
                          "--stages or --layers",
                          group->layer_first, group->layer_end - 1, n);
    if (replicas > n)
        return proto_fail(error, PROTO_INVALID,
                          "%u replicas of each expert need as many hosts, %s %u: add workers, or "
                          "lower --replicas",
                          replicas, options->stages > 1 ? "each stage has" : "there are", n);
    if (n % each)
        return proto_fail(error, PROTO_INVALID,
                          "%u hosts of experts cannot hold %u slices of each expert %u times: "
                          "expected a multiple of %u hosts%s",
                          n, slices, replicas, each, options->stages > 1 ? " for each stage" : "");
    if (n / each > model->n_experts)
        return proto_fail(error, PROTO_INVALID,
                          "%u hosts for %u experts: expected at most one for each expert", n / each,
                          model->n_experts);
    return PROTO_OK;
}

/* Hosts of a group follow one another by range of experts, then by slice, then by replica. */
static void lay_group(struct shard_plan *plan, const struct group *group,
                      const struct shard_model *model, const struct shard_plan_options *options)
{
    uint32_t slices = value_or(options->slices, 1), replicas = value_or(options->replicas, 1);
    uint32_t n_ranges = (group->end - group->first) / (slices * replicas);
    for (uint32_t i = group->first; i < group->end; i++) {
        uint32_t at = (i - group->first) / replicas, range = at / slices;
        plan->parts[plan->n_parts++] = (struct shard_expert_part){
            .worker = plan->hosts[i].worker,
            .layer_first = group->layer_first,
            .layer_end = group->layer_end,
            .expert_first = shard_plan_expert_cut(model->n_experts, n_ranges, range),
            .expert_end = shard_plan_expert_cut(model->n_experts, n_ranges, range + 1),
            .slice = at % slices,
            .n_slices = slices};
    }
}

static enum proto_status check_model(const struct shard_model *model,
                                     const struct shard_plan_options *options,
                                     struct proto_error *error)
{
    uint32_t slices = value_or(options->slices, 1);
    if (model->n_experts == 0)
        return proto_fail(error, PROTO_INVALID,
                          "--split experts: the model \"%s\" is dense, it has no experts; split it "
                          "by layers",
                          model->name);
    uint32_t most = shard_expert_segments(model->ff_expert).n;
    if (slices > most)
        return proto_fail(error, PROTO_INVALID,
                          "--expert-slices %u: the experts of \"%s\" (%u values wide) can be cut "
                          "into at most %u slices",
                          slices, model->name, model->ff_expert, most);
    return PROTO_OK;
}

enum proto_status shard_plan_lay_experts(struct shard_plan *plan, const struct shard_model *model,
                                         uint32_t first_host, uint32_t n_workers,
                                         const struct shard_plan_options *options,
                                         struct proto_error *error)
{
    uint32_t n = n_workers - first_host, n_groups = n < plan->n_stages ? 1 : plan->n_stages;
    enum proto_status status = check_model(model, options, error);
    if (status != PROTO_OK)
        return status;
    plan->hosts = calloc(n, sizeof *plan->hosts);
    plan->parts = calloc(n, sizeof *plan->parts);
    if (!plan->hosts || !plan->parts)
        return proto_fail_nomem(error, n * sizeof *plan->parts, "the plan");
    plan->n_hosts = n;
    for (uint32_t i = 0; i < n; i++)
        plan->hosts[i].worker = first_host + i;
    for (uint32_t g = 0; g < n_groups && status == PROTO_OK; g++) {
        struct group group = {.first = (uint32_t)((uint64_t)n * g / n_groups),
                              .end = (uint32_t)((uint64_t)n * (g + 1) / n_groups),
                              .layer_first = n_groups == 1 ? 0 : plan->stages[g].layer_first,
                              .layer_end =
                                  n_groups == 1 ? model->n_layers : plan->stages[g].layer_end};
        status = check_group(&group, model, options, error);
        if (status == PROTO_OK)
            lay_group(plan, &group, model, options);
    }
    return status;
}
