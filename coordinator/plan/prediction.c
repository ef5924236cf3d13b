/* SPDX-License-Identifier: Apache-2.0 */
#include "coordinator/plan/prediction.h"

#include <stdlib.h>
#include <string.h>

#include "coordinator/plan/measured.h"

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

enum proto_status coord_placement_of(struct plan_placement **out, const struct coord_status *status,
                                     const uint32_t *machines, struct proto_error *error)
{
    uint32_t n = status->n_workers;
    enum proto_status result = plan_placement_create(out, n, n, status->n_parts, error);
    if (result)
        return result;
    for (uint32_t i = 0; i < n; i++)
        if (machines[i] != UINT32_MAX && has_stage(&status->workers[i]))
            add_stage(*out, &status->workers[i], machines[i]);
    for (uint32_t i = 0; i < status->n_parts; i++) {
        struct shard_expert_part part = status->parts[i];
        part.worker = plan_placement_worker(*out, machines[part.worker], PLAN_CPU);
        (*out)->parts[(*out)->n_parts++] = part;
    }
    plan_placement_trim(*out);
    return PROTO_OK;
}

static bool is_host(const struct coord_status *status, uint32_t worker)
{
    for (uint32_t i = 0; i < status->n_parts; i++)
        if (status->parts[i].worker == worker)
            return true;
    return false;
}

static bool all_profiled(const struct coord_status *status)
{
    bool any = false;
    for (uint32_t i = 0; i < status->n_workers; i++) {
        const struct coord_worker_status *w = &status->workers[i];
        if (!has_stage(w) && !is_host(status, i))
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
    if (status->usage)
        result =
            plan_shape_popularity(shape, status->usage, status->n_layers, status->n_experts, error);
    if (!result)
        result = estimate(out, status, shape, load, error);
    plan_shape_destroy(shape);
    return result;
}
