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

/* What a prediction is made from. */
struct plan_in_force {
    struct plan_shape *shape;
    struct plan_cluster *cluster;
    struct plan_placement *placement;
};

static void finish(struct plan_in_force *plan)
{
    plan_placement_destroy(plan->placement);
    plan_cluster_destroy(plan->cluster);
    plan_shape_destroy(plan->shape);
}

/* Also after a failure the caller finishes it. */
static enum proto_status gather(struct plan_in_force *out, const struct coord_status *status,
                                const struct shard_model *model, struct proto_error *error)
{
    const struct plan_shape_options options = {.kv = status->kv,
                                               .ctx = status->ctx,
                                               .max_seqs = status->max_active,
                                               .max_rows = status->max_rows};
    uint32_t *machines = NULL;
    *out = (struct plan_in_force){0};
    if (!status->ready || !all_profiled(status))
        return proto_fail(error, PROTO_NOTFOUND, "not all machines of the plan were measured");
    enum proto_status result = plan_shape_create(&out->shape, model, &options, error);
    if (!result && status->usage)
        result = plan_shape_popularity(out->shape, status->usage, status->n_layers,
                                       status->n_experts, error);
    if (!result)
        result =
            coord_cluster_measured(&out->cluster, &machines, status, out->shape->type_ops, error);
    if (!result)
        result = coord_placement_of(&out->placement, status, machines, error);
    free(machines);
    return result;
}

enum proto_status coord_predict(struct coord_prediction *out, const struct coord_status *status,
                                const struct shard_model *model, const struct plan_load *load,
                                struct proto_error *error)
{
    struct plan_in_force plan;
    struct plan_cost cost;
    memset(out, 0, sizeof *out);
    enum proto_status result = gather(&plan, status, model, error);
    if (!result)
        result =
            plan_cost_estimate(&cost, NULL, plan.placement, plan.shape, plan.cluster, load, error);
    if (!result)
        fill(out, &cost, load, plan.cluster);
    finish(&plan);
    return result;
}

enum proto_status coord_simulate(struct plan_simulated *out, const struct coord_status *status,
                                 const struct shard_model *model,
                                 const struct plan_simulation *question, struct proto_error *error)
{
    struct plan_in_force plan;
    enum proto_status result = gather(&plan, status, model, error);
    if (!result)
        result = plan_simulate(out, plan.placement, plan.shape, plan.cluster, question, error);
    finish(&plan);
    return result;
}
