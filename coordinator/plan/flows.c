/* SPDX-License-Identifier: Apache-2.0 */
#include "coordinator/plan/flows.h"

#include <math.h>
#include <stdlib.h>

static int compare_u32(uint32_t a, uint32_t b)
{
    return a < b ? -1 : a > b;
}

/* Replicas are equal but for their worker. */
static int compare_parts(const void *left, const void *right)
{
    const struct shard_expert_part *a = left, *b = right;
    int order = compare_u32(a->layer_first, b->layer_first);
    order = order ? order : compare_u32(a->layer_end, b->layer_end);
    order = order ? order : compare_u32(a->expert_first, b->expert_first);
    order = order ? order : compare_u32(a->expert_end, b->expert_end);
    order = order ? order : compare_u32(a->n_slices, b->n_slices);
    return order ? order : compare_u32(a->slice, b->slice);
}

/* What one of n replicas gets of a layer's requests. */
static void add_layer(struct coord_plan_flow *flow, const struct plan_layer *layer,
                      const struct shard_expert_part *part, uint32_t replicas)
{
    uint32_t experts = part->expert_end - part->expert_first;
    uint32_t segments = layer->n_segments / (part->n_slices ? part->n_slices : 1);
    if (!layer->n_experts)
        return;
    double used = 1 - pow(1 - (double)experts / layer->n_experts, layer->n_used);
    flow->there += used / replicas * (double)layer->request_bytes;
    flow->back += plan_range_answers(layer, part->expert_first, part->expert_end, segments) /
                  replicas * (double)layer->answer_bytes;
}

static void add_part(struct coord_plan_view *view, const struct shard_expert_part *part,
                     uint32_t replicas)
{
    const struct plan_placement *p = view->answer->placement;
    for (uint32_t s = 0; s < p->n_stages; s++) {
        const struct plan_stage *stage = &p->stages[s];
        struct coord_plan_flow *flow = &view->flows[(size_t)s * p->n_workers + part->worker];
        for (uint32_t il = stage->layer_first; il < stage->layer_end; il++)
            if (il >= part->layer_first && il < part->layer_end && stage->worker != part->worker)
                add_layer(flow, &view->shape->layers[il], part, replicas);
    }
}

enum proto_status coord__plan_flows(struct coord_plan_view *view, struct proto_error *error)
{
    const struct plan_placement *p = view->answer->placement;
    size_t n = (size_t)p->n_stages * p->n_workers;
    struct shard_expert_part *parts = malloc((p->n_parts + 1) * sizeof *parts);
    view->flows = calloc(n + 1, sizeof *view->flows);
    if (!parts || !view->flows) {
        free(parts);
        return proto_fail_nomem(error, n * sizeof *view->flows, "a plan");
    }
    for (uint32_t i = 0; i < p->n_parts; i++)
        parts[i] = p->parts[i];
    qsort(parts, p->n_parts, sizeof *parts, compare_parts);
    for (uint32_t first = 0, end; first < p->n_parts; first = end) {
        end = first + 1;
        while (end < p->n_parts && compare_parts(&parts[first], &parts[end]) == 0)
            end++;
        for (uint32_t i = first; i < end; i++)
            add_part(view, &parts[i], end - first);
    }
    free(parts);
    return PROTO_OK;
}

const struct coord_plan_flow *coord_plan_hosts(const struct coord_plan_view *view, uint32_t stage,
                                               uint32_t worker)
{
    return &view->flows[(size_t)stage * view->answer->placement->n_workers + worker];
}

bool coord_plan_drawn_here(const struct coord_plan_view *view, uint32_t stage, uint32_t worker)
{
    const struct plan_placement *p = view->answer->placement;
    for (uint32_t s = 0; s < p->n_stages; s++)
        if (p->stages[s].worker == worker ||
            (s < stage && coord_plan_hosts(view, s, worker)->there > 0))
            return false;
    return true;
}
