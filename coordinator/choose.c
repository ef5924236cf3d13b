/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where machines are several and have measured themselves, the planner searches; else layers, or
 * experts, are dealt by rule. A search blocks the loop, so it is a short one: what a longer one
 * finds besides is seldom worth much, and `caravan plan` tells it.
 */
#include "coordinator/parts.h"

#include "coordinator/plan/explain.h"
#include "coordinator/plan/measured.h"
#include "coordinator/plan/view.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EFFORT 0.25 /* of plan_search: below a quarter of a second, mostly */

bool engine__may_search(const struct coord_engine *e)
{
    return e->options.profile && e->options.split == SHARD_SPLIT_AUTO && !e->layers;
}

static bool same_computer(const struct coord_worker *a, const struct coord_worker *b)
{
    return (a->local && b->local) || (a->profiled && b->profiled && a->profile.machine &&
                                      a->profile.machine == b->profile.machine);
}

bool engine__one_computer(const struct coord_engine *e)
{
    const struct coord_worker *first = NULL;
    for (uint32_t i = 0; i < e->n_workers; i++) {
        const struct coord_worker *w = e->workers[i];
        if (!engine__is_here(w))
            continue;
        if (first && !same_computer(first, w))
            return false;
        first = first ? first : w;
    }
    return first != NULL;
}

/* ---- what the planner is asked ---- */

/* Some workers as machines of a cluster, which have their numbers. */
struct question {
    struct coord_status status;
    struct plan_shape *shape;
    struct plan_cluster *cluster;
    struct plan_options options;
    struct plan_load load; /* complete */
};

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

static enum proto_status ask(struct question *q, const struct coord_engine *e,
                             struct coord_worker *const *workers, uint32_t n,
                             struct proto_error *error)
{
    const struct coord_engine_options *o = &e->options;
    const struct plan_shape_options sizes = {o->kv, o->ctx, o->parallel, o->batch};
    enum proto_status status;
    *q = (struct question){.options = {.aim = o->aim,
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

static void finish(struct question *q)
{
    coord_status_finish(&q->status);
    plan_shape_destroy(q->shape);
    plan_cluster_destroy(q->cluster);
}

static bool all_profiled(struct coord_worker *const *workers, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        if (!workers[i]->profiled)
            return false;
    return n > 0;
}

static bool one_computer(struct coord_worker *const *workers, uint32_t n)
{
    for (uint32_t i = 1; i < n; i++)
        if (!same_computer(workers[0], workers[i]))
            return false;
    return true;
}

static void explain(struct shard_plan *plan, const struct question *q,
                    const struct plan_placement *placement, const struct plan_cost *cost,
                    const char *how)
{
    int n = snprintf(plan->why, sizeof plan->why, "%s", how);
    coord_plan_explain(plan->why + n, sizeof plan->why - (size_t)n, placement, cost, q->cluster,
                       &q->load, q->options.aim);
}

/* ---- advice ---- */

/* Adds what quantisation would fit. */
static void recommend(const struct coord_engine *e, const struct question *q,
                      struct proto_error *error)
{
    struct plan_type types[COORD_PLAN_MAX_TYPES];
    struct plan_options options = q->options;
    const struct coord_source source = {.model = e->model};
    char text[PROTO_ERROR_TEXT_BYTES];
    if (e->was_ready ||
        coord_plan_types(types, &options.n_types, &source, &q->shape->options, NULL) != PROTO_OK)
        return;
    options.types = types;
    int type = plan_largest_type(q->shape, q->cluster, &options);
    memcpy(text, error->text, sizeof text);
    if (type >= 0)
        proto_fail(error, PROTO_CAPACITY, "%s; the largest quantisation that fits is %s", text,
                   types[type].name);
    else
        proto_fail(error, PROTO_CAPACITY, "%s; no quantisation is small enough", text);
}

/* ---- by rule ---- */

/* The shape that a plan is to have, as in struct shard_plan_options. */
struct coord_wish {
    const char *layers;
    enum shard_split_kind split;
    uint32_t stages, slices, replicas;
};

static enum proto_status deal(const struct coord_engine *e, const struct coord_wish *wish,
                              struct coord_worker *const *workers, uint32_t n,
                              struct shard_plan **out, struct proto_error *error)
{
    struct shard_plan_worker machines[PROTO_MAX_WORKERS];
    for (uint32_t i = 0; i < n; i++)
        machines[i] = (struct shard_plan_worker){.name = workers[i]->name,
                                                 .memory_bytes = workers[i]->memory_bytes,
                                                 .threads = workers[i]->threads};
    struct shard_plan_options options = {.kv = e->options.kv,
                                         .ctx = e->options.ctx,
                                         .max_seqs = e->options.parallel,
                                         .max_rows = e->options.batch,
                                         .layers = wish->layers,
                                         .split = wish->split,
                                         .stages = wish->stages,
                                         .slices = wish->slices,
                                         .replicas = wish->replicas,
                                         .map_experts = e->options.map_experts};
    return shard_plan_create(out, e->model, machines, n, &options, error);
}

/* The number of a plan's worker in a list, which has it. */
typedef uint32_t number_fn(const void *arg, const struct shard_plan *plan, uint32_t worker);

/* A plan as a placement on a question's cluster. */
static enum proto_status place(struct plan_placement **out, const struct question *q,
                               const struct shard_plan *plan, number_fn *number, const void *arg,
                               struct proto_error *error)
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

static uint32_t same_number(const void *arg, const struct shard_plan *plan, uint32_t worker)
{
    (void)arg;
    (void)plan;
    return worker;
}

static enum proto_status price(struct plan_cost *cost, const struct question *q,
                               const struct plan_placement *placement, struct proto_error *error)
{
    return plan_cost_estimate(cost, NULL, placement, q->shape, q->cluster, &q->load, error);
}

/* ---- by search ---- */

/* Some of the engine's workers. */
struct some {
    const struct coord_engine *e;
    struct coord_worker *const *workers;
    uint32_t n;
};

static uint32_t number_in_last(const void *arg, const struct shard_plan *plan, uint32_t worker)
{
    const struct some *some = arg;
    (void)plan;
    return engine__last_worker(some->e, some->workers, some->n, worker);
}

/* The plan of an earlier life, where it still is one; *cost of it. */
static enum proto_status place_last(struct plan_placement **out, struct plan_cost *cost,
                                    const struct question *q, const struct some *some)
{
    if (!engine__last_plan_possible(some->e, some->workers, some->n))
        return PROTO_NOTFOUND;
    enum proto_status status = place(out, q, some->e->last_plan, number_in_last, some, NULL);
    /* It comes from a file: first whether it is whole, then whether it fits. */
    if (!status)
        status = plan_placement_check(*out, q->shape, q->cluster, NULL);
    if (status)
        return status;
    plan_placement_measure(*out, q->shape, q->cluster);
    if ((status = plan_placement_refine(*out, q->shape, q->cluster, NULL)) ||
        (status = plan_placement_check(*out, q->shape, q->cluster, NULL)))
        return status;
    return price(cost, q, *out, NULL);
}

/* Whether what was found is too little better for all to be loaded anew. */
static bool goes_on(const struct question *q, const struct some *some, const struct plan_cost *last,
                    const struct plan_cost *found)
{
    double gain = plan_objective(last, q->options.aim) / plan_objective(found, q->options.aim) - 1;
    return gain * 100 <= some->e->options.rebalance_percent;
}

static enum proto_status search(struct shard_plan **out, struct question *q,
                                const struct some *some, struct proto_error *error)
{
    struct plan_answer *answer = NULL;
    struct plan_placement *last = NULL;
    struct plan_cost cost;
    enum proto_status status = plan_search(&answer, q->shape, q->cluster, &q->options, error);
    bool keeps = !status && place_last(&last, &cost, q, some) == PROTO_OK &&
                 goes_on(q, some, &cost, &answer->cost);
    if (!status)
        status = shard_plan_from(out, keeps ? last : answer->placement, q->shape, error);
    if (!status && keeps)
        explain(*out, q, last, &cost, "as before, ");
    else if (!status)
        explain(*out, q, answer->placement, &answer->cost, "");
    plan_placement_destroy(last);
    plan_answer_destroy(answer);
    return status;
}

/* What is expected of a plan that was not searched, where that is known. */
static void expect(struct shard_plan *plan, const struct question *q, const char *how)
{
    struct plan_placement *placement = NULL;
    struct plan_cost cost;
    if (place(&placement, q, plan, same_number, NULL, NULL) == PROTO_OK &&
        price(&cost, q, placement, NULL) == PROTO_OK)
        explain(plan, q, placement, &cost, how);
    plan_placement_destroy(placement);
}

static enum proto_status choose(const struct coord_engine *e, const struct coord_wish *wish,
                                struct coord_worker *const *workers, uint32_t n,
                                struct shard_plan **out, struct proto_error *error)
{
    struct question q = {0};
    bool measured = all_profiled(workers, n);
    enum proto_status status = measured ? ask(&q, e, workers, n, error) : PROTO_OK;
    if (!status && engine__may_search(e) && measured && !one_computer(workers, n))
        status = search(out, &q, &(struct some){e, workers, n}, error);
    else if (!status)
        status = deal(e, wish, workers, n, out, error);
    if (status == PROTO_CAPACITY && (measured || ask(&q, e, workers, n, NULL) == PROTO_OK))
        recommend(e, &q, error);
    else if (!status && measured && !(*out)->why[0])
        expect(*out, &q, "by rule, ");
    finish(&q);
    return status;
}

/* The next shape that asks for less; false: there is none. Layers that a person dealt stay so. */
static bool ask_for_less(struct coord_wish *wish)
{
    if (wish->replicas > 1 || wish->slices > 1) {
        wish->replicas = wish->slices = 0;
        return true;
    }
    if (wish->split == SHARD_SPLIT_AUTO || wish->layers)
        return false;
    *wish = (struct coord_wish){.split = SHARD_SPLIT_AUTO};
    return true;
}

/* Who is left after a loss may be too few for the shape that was asked for, and still hold the
 * model. */
enum proto_status engine__choose_plan(const struct coord_engine *e,
                                      struct coord_worker *const *workers, uint32_t n,
                                      struct shard_plan **out, struct proto_error *error)
{
    const struct coord_engine_options *o = &e->options;
    struct coord_wish wish = {e->layers, o->split, o->stages, o->slices, o->replicas};
    struct proto_error ignored;
    enum proto_status status = choose(e, &wish, workers, n, out, error);
    for (enum proto_status less = status; less && e->was_ready && ask_for_less(&wish);)
        if (!(less = choose(e, &wish, workers, n, out, &ignored)))
            status = PROTO_OK;
    return status;
}

/* What was measured of others says nothing. */
void engine__explain_change(const struct coord_engine *e, struct shard_plan *plan,
                            struct coord_worker *const *workers, uint32_t n)
{
    struct question q = {0};
    bool profiled = true;
    for (uint32_t i = 0; i < plan->n_stages; i++)
        profiled &= workers[plan->stages[i].worker]->profiled;
    for (uint32_t i = 0; i < plan->n_hosts; i++)
        profiled &= workers[plan->hosts[i].worker]->profiled;
    plan->why[0] = 0;
    if (profiled && ask(&q, e, workers, n, NULL) == PROTO_OK)
        expect(plan, &q, "after a change, ");
    finish(&q);
}

/* ---- what the plan in force is to take ---- */

/* Of a worker by its own speed: speeds that the question has slowed down are as they were. */
static void expect_member(struct coord_member *m, const struct plan_usage *first,
                          const struct plan_usage *deep, uint64_t depth, bool waits)
{
    double speed = fmax(m->worker->pace.slowdown, 1);
    double first_s = first->token.compute_s + first->token.memory_s;
    double deep_s = deep->token.compute_s + deep->token.memory_s;
    m->depth_s = fmax(deep_s - first_s, 0) / speed / fmax((double)depth, 1);
    m->token_s = first_s / speed + (waits ? 0 : first->token.wait_s);
    m->row_s = deep->prefill_s / speed;
}

enum proto_status engine__expect_pace(const struct coord_engine *e, struct coord_deployment *d,
                                      struct proto_error *error)
{
    struct plan_placement *placement = NULL;
    struct plan_usage first[PROTO_MAX_WORKERS], deep[PROTO_MAX_WORKERS];
    struct plan_cost cost;
    struct question q;
    enum proto_status status = ask(&q, e, d->workers, d->n_workers, error);
    struct plan_load at_first = q.load;
    at_first.depth = 1; /* 0 is the default */
    if (!status)
        status = place(&placement, &q, d->plan, same_number, NULL, error);
    if (!status)
        status = plan_cost_estimate(&cost, first, placement, q.shape, q.cluster, &at_first, error);
    if (!status)
        status = plan_cost_estimate(&cost, deep, placement, q.shape, q.cluster, &q.load, error);
    for (uint32_t i = 0; !status && i < placement->n_workers; i++) {
        struct coord_member *m = engine__member(d, d->workers[placement->workers[i].machine]);
        if (m)
            expect_member(m, &first[i], &deep[i], q.load.depth, d->plan->n_parts > 0);
    }
    plan_placement_destroy(placement);
    finish(&q);
    return status;
}

/* ---- another plan than the one in force ---- */

/* Workers that the plan gives something to. */
static uint32_t count_members(const struct shard_plan *plan)
{
    uint32_t n = plan->n_stages;
    for (uint32_t i = 0; i < plan->n_hosts; i++) {
        bool is_stage = false;
        for (uint32_t s = 0; s < plan->n_stages; s++)
            is_stage |= plan->stages[s].worker == plan->hosts[i].worker;
        n += !is_stage;
    }
    return n;
}

/* All that are here. */
struct everybody {
    const struct coord_engine *e;
    struct coord_worker *const *workers; /* of the other plan */
    struct coord_worker *all[PROTO_MAX_WORKERS];
    uint32_t n;
};

static uint32_t number_of(const struct everybody *here, const struct coord_worker *w)
{
    uint32_t i = 0;
    while (here->all[i] != w)
        i++;
    return i;
}

static uint32_t number_in_force(const void *arg, const struct shard_plan *plan, uint32_t worker)
{
    const struct everybody *here = arg;
    (void)plan;
    return number_of(here, here->e->current->workers[worker]);
}

static uint32_t number_in_other(const void *arg, const struct shard_plan *plan, uint32_t worker)
{
    const struct everybody *here = arg;
    (void)plan;
    return number_of(here, here->workers[worker]);
}

static enum proto_status objective_of(double *out, const struct question *q,
                                      const struct shard_plan *plan, number_fn *number,
                                      const struct everybody *here, struct proto_error *error)
{
    struct plan_placement *placement = NULL;
    struct plan_cost cost;
    enum proto_status status = place(&placement, q, plan, number, here, error);
    if (!status)
        status = price(&cost, q, placement, error);
    if (!status)
        *out = plan_objective(&cost, q->options.aim);
    plan_placement_destroy(placement);
    return status;
}

enum proto_status engine__plan_gain(const struct coord_engine *e,
                                    struct coord_worker *const *workers,
                                    const struct shard_plan *plan, double *gain,
                                    struct proto_error *error)
{
    struct everybody here = {.e = e, .workers = workers};
    struct question q;
    double now = 0, then = 0;
    for (uint32_t i = 0; i < e->n_workers; i++)
        if (engine__is_here(e->workers[i]))
            here.all[here.n++] = e->workers[i];
    enum proto_status status = ask(&q, e, here.all, here.n, error);
    if (!status)
        status = objective_of(&now, &q, e->current->plan, number_in_force, &here, error);
    if (!status)
        status = objective_of(&then, &q, plan, number_in_other, &here, error);
    if (!status)
        *gain = now / then - 1;
    finish(&q);
    return status;
}

bool engine__worth_it(const struct coord_engine *e, struct coord_worker *const *workers,
                      const struct shard_plan *plan)
{
    uint32_t n_expected = e->options.local_workers + e->options.workers;
    struct proto_error error;
    double gain;
    /* A plan in force holds the whole model, so that, where nobody knows speeds, another one only
     * helps by using workers that were expected. */
    if (!engine__may_search(e) || engine__one_computer(e))
        return count_members(plan) > e->current->n_members && e->current->n_members < n_expected;
    /* Of machines that are still being measured it is decided when that is over. */
    return e->surveyed && engine__plan_gain(e, workers, plan, &gain, &error) == PROTO_OK &&
           gain * 100 > e->options.rebalance_percent;
}
