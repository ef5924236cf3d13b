/* SPDX-License-Identifier: Apache-2.0 */
#include "coordinator/plan/prediction.h"

#include <stdlib.h>
#include <string.h>

#include "coordinator/plan/measured.h"

static bool has_part(const struct coord_worker_status *w)
{
    return w->n_slices > 0;
}

static bool has_stage(const struct coord_worker_status *w)
{
    return w->layer_end > 0;
}

static void add_stage(struct plan_placement *p, const struct coord_worker_status *w,
                      uint32_t machine)
{
    p->stages[p->n_stages++] =
        (struct plan_stage){.worker = plan_placement_worker(p, machine, PLAN_CPU),
                            .layer_first = w->layer_first,
                            .layer_end = w->layer_end,
                            .embed = w->embed,
                            .head = w->head};
}

static void add_part(struct plan_placement *p, const struct coord_worker_status *w,
                     uint32_t machine)
{
    p->parts[p->n_parts++] =
        (struct shard_expert_part){.worker = plan_placement_worker(p, machine, PLAN_CPU),
                                   .layer_first = w->expert_layer_first,
                                   .layer_end = w->expert_layer_end,
                                   .expert_first = w->expert_first,
                                   .expert_end = w->expert_end,
                                   .slice = w->expert_slice,
                                   .n_slices = w->n_slices};
}

/* As placements have them: by layer, expert, slice. */
static int by_place(const void *a, const void *b)
{
    const struct shard_expert_part *x = a, *y = b;
    if (x->layer_first != y->layer_first)
        return x->layer_first < y->layer_first ? -1 : 1;
    if (x->expert_first != y->expert_first)
        return x->expert_first < y->expert_first ? -1 : 1;
    return x->slice < y->slice ? -1 : x->slice > y->slice;
}

enum proto_status coord_placement_of(struct plan_placement **out, const struct coord_status *status,
                                     const uint32_t *machines, struct proto_error *error)
{
    uint32_t n = status->n_workers;
    enum proto_status result = plan_placement_create(out, n, n, n, error);
    for (uint32_t i = 0; i < n && !result; i++) {
        const struct coord_worker_status *w = &status->workers[i];
        if (machines[i] == UINT32_MAX)
            continue;
        if (has_stage(w))
            add_stage(*out, w, machines[i]);
        if (has_part(w))
            add_part(*out, w, machines[i]);
    }
    if (!result && (*out)->n_parts)
        qsort((*out)->parts, (*out)->n_parts, sizeof *(*out)->parts, by_place);
    return result;
}

static bool all_profiled(const struct coord_status *status)
{
    bool any = false;
    for (uint32_t i = 0; i < status->n_workers; i++) {
        const struct coord_worker_status *w = &status->workers[i];
        if (!has_stage(w) && !has_part(w))
            continue;
        if (!w->profiled)
            return false;
        any = true;
    }
    return any;
}

static void fill(struct coord_prediction *out, const struct plan_cost *cost,
                 const struct plan_load *load, const struct plan_cluster *cluster)
{
    bool many = load->sequences > 1;
    out->prefill = cost->prompt_s > 0 ? load->prompt / cost->prompt_s : 0;
    if (many)
        out->decode = cost->step_s > 0 ? load->sequences / cost->step_s : 0;
    else
        out->decode = cost->decode_s > 0 ? 1 / cost->decode_s : 0;
    plan_bottleneck_text(many ? &cost->many_bound : &cost->decode_bound, cluster, out->bottleneck);
}

/* The placement's cost on the cluster. */
static enum proto_status estimate(struct coord_prediction *out, const struct coord_status *status,
                                  const struct plan_shape *shape, const struct plan_load *load,
                                  struct proto_error *error)
{
    struct plan_cluster *cluster = NULL;
    struct plan_placement *placement = NULL;
    struct plan_cost cost;
    uint32_t *machines = NULL;
    enum proto_status result =
        coord_cluster_measured(&cluster, &machines, status, shape->type_ops, error);
    if (!result)
        result = coord_placement_of(&placement, status, machines, error);
    if (!result)
        result = plan_cost_estimate(&cost, NULL, placement, shape, cluster, load, error);
    if (!result)
        fill(out, &cost, load, cluster);
    plan_placement_destroy(placement);
    plan_cluster_destroy(cluster);
    free(machines);
    return result;
}

enum proto_status coord_predict(struct coord_prediction *out, const struct coord_status *status,
                                const struct shard_model *model, const struct plan_load *load,
                                struct proto_error *error)
{
    const struct plan_shape_options options = {.kv = status->kv,
                                               .ctx = status->ctx,
                                               .max_seqs = status->max_active,
                                               .max_rows = status->max_rows};
    struct plan_shape *shape;
    memset(out, 0, sizeof *out);
    if (!status->ready || !all_profiled(status))
        return proto_fail(error, PROTO_NOTFOUND, "not all machines of the plan were measured");
    enum proto_status result = plan_shape_create(&shape, model, &options, error);
    if (result)
        return result;
    result = estimate(out, status, shape, load, error);
    plan_shape_destroy(shape);
    return result;
}
