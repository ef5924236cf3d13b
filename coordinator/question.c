/* SPDX-License-Identifier: Apache-2.0 */
#include "coordinator/question.h"

#include "coordinator/plan/measured.h"

#include <stdio.h>
#include <stdlib.h>

#define EFFORT 0.25 /* of plan_search: below a quarter of a second, mostly */

static void fill_worker(struct coord_worker_status *out, const struct coord_worker *w)
{
    snprintf(out->name, sizeof out->name, "%s", w->name);
    snprintf(out->endpoint, sizeof out->endpoint, "%s", w->endpoint);
    out->local = w->local;
    out->threads = w->threads;
    out->memory_bytes = w->memory_bytes;
    out->profiled = w->profiled;
    out->profile = w->profile;
    out->slowdown = w->pace.slowdown;
}

static enum proto_status fill_status(const struct coord_engine *e,
                                     struct coord_worker *const *workers, uint32_t n,
                                     struct coord_status *out, struct proto_error *error)
{
    out->n_workers = n;
    out->workers = calloc((size_t)n + 1, sizeof *out->workers);
    for (uint32_t i = 0; i < n && out->workers; i++)
        fill_worker(&out->workers[i], workers[i]);
    return out->workers && engine__describe_links(e, out)
               ? PROTO_OK
               : proto_fail_nomem(error, n * sizeof *out->workers, "the plan");
}

enum proto_status engine__ask(struct engine__question *q, const struct coord_engine *e,
                              struct coord_worker *const *workers, uint32_t n,
                              struct proto_error *error)
{
    const struct coord_engine_options *o = &e->options;
    const struct plan_shape_options sizes = {o->kv, o->ctx, o->parallel, o->batch};
    enum proto_status status;
    *q = (struct engine__question){.options = {.aim = o->aim,
                                               .split = (enum plan_split)o->split,
                                               .slices = o->slices,
                                               .replicas = o->replicas,
                                               .stages = o->stages,
                                               .cpu_only = true,
                                               .effort = EFFORT}};
    if ((status = fill_status(e, workers, n, &q->status, error)) ||
        (status = plan_shape_create(&q->shape, e->model, &sizes, error)) ||
        (e->usage && (status = plan_shape_popularity(q->shape, e->usage, e->model->n_layers,
                                                     e->model->n_experts, error))) ||
        (status = coord_cluster_measured(&q->cluster, NULL, &q->status, q->shape->type_ops, error)))
        return status;
    q->load = plan_load_complete(&q->options.load, q->shape);
    return PROTO_OK;
}

void engine__question_finish(struct engine__question *q)
{
    coord_status_finish(&q->status);
    plan_shape_destroy(q->shape);
    plan_cluster_destroy(q->cluster);
}

enum proto_status engine__place(struct plan_placement **out, const struct engine__question *q,
                                const struct shard_plan *plan, engine__number_fn *number,
                                const void *arg, struct proto_error *error)
{
    enum proto_status status =
        plan_placement_create(out, q->cluster->n_machines, plan->n_stages, plan->n_parts, error);
    if (status)
        return status;
    struct plan_placement *p = *out;
    for (uint32_t i = 0; i < plan->n_stages; i++) {
        const struct shard_stage *s = &plan->stages[i];
        uint32_t machine = number(arg, plan, s->worker);
        p->stages[p->n_stages++] =
            (struct plan_stage){.worker = plan_placement_worker(p, machine, PLAN_CPU),
                                .layer_first = s->layer_first,
                                .layer_end = s->layer_end,
                                .embed = s->embed,
                                .head = s->head};
    }
    for (uint32_t i = 0; i < plan->n_parts; i++) {
        struct shard_expert_part part = plan->parts[i];
        part.worker = plan_placement_worker(p, number(arg, plan, part.worker), PLAN_CPU);
        p->parts[p->n_parts++] = part;
    }
    plan_placement_trim(p);
    return PROTO_OK;
}

uint32_t engine__same_number(const void *arg, const struct shard_plan *plan, uint32_t worker)
{
    (void)arg;
    (void)plan;
    return worker;
}

enum proto_status engine__price(struct plan_cost *cost, const struct engine__question *q,
                                const struct plan_placement *placement, struct proto_error *error)
{
    return plan_cost_estimate(cost, NULL, placement, q->shape, q->cluster, &q->load, error);
}
