/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where machines are several and have measured themselves, the planner searches; else layers, or
 * experts, are dealt by rule. A search blocks the loop, so it is a short one: what a longer one
 * finds besides is seldom worth much, and `caravan plan` tells it.
 */
#include "coordinator/question.h"

#include "coordinator/plan/explain.h"
#include "coordinator/plan/view.h"

#include <stdio.h>
#include <string.h>

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

static void explain(struct shard_plan *plan, const struct engine__question *q,
                    const struct plan_placement *placement, const struct plan_cost *cost,
                    const char *how)
{
    int n = snprintf(plan->why, sizeof plan->why, "%s", how);
    coord_plan_explain(plan->why + n, sizeof plan->why - (size_t)n, placement, cost, q->cluster,
                       &q->load, q->options.aim);
}

/* ---- advice ---- */

/* Adds what quantisation would fit. */
static void recommend(const struct coord_engine *e, const struct engine__question *q,
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

/* The plan of an earlier life, where it still is one. */
static enum proto_status place_last(struct plan_placement **out, const struct engine__question *q,
                                    const struct some *some)
{
    if (!engine__last_plan_possible(some->e, some->workers, some->n))
        return PROTO_NOTFOUND;
    enum proto_status status =
        engine__place(out, q, some->e->last_plan, number_in_last, some, NULL);
    /* It comes from a file: first whether it is whole, then whether it fits. */
    if (!status)
        status = plan_placement_check(*out, q->shape, q->cluster, NULL);
    if (status)
        return status;
    plan_placement_measure(*out, q->shape, q->cluster);
    status = plan_placement_refine(*out, q->shape, q->cluster, NULL);
    return status ? status : plan_placement_check(*out, q->shape, q->cluster, NULL);
}

/* Whether what was found is too little better for all to be loaded anew. */
static bool goes_on(const struct engine__question *q, const struct some *some,
                    const struct plan_cost *last, const struct plan_cost *found)
{
    double gain = plan_objective(last, q->options.aim) / plan_objective(found, q->options.aim) - 1;
    return gain * 100 <= some->e->options.rebalance_percent;
}

static enum proto_status search(struct shard_plan **out, struct engine__question *q,
                                const struct some *some, struct proto_error *error)
{
    struct plan_answer *answer = NULL;
    struct plan_placement *last = NULL;
    struct plan_cost cost;
    enum proto_status status = plan_search(&answer, q->shape, q->cluster, &q->options, error);
    bool keeps = !status && place_last(&last, q, some) == PROTO_OK &&
                 engine__price(&cost, q, last, NULL) == PROTO_OK &&
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

/* The same without a search, where not all is measured. */
static enum proto_status go_on(struct shard_plan **out, const struct some *some)
{
    struct plan_placement *last = NULL;
    struct engine__question q = {0};
    if (!engine__may_search(some->e) ||
        !engine__last_plan_possible(some->e, some->workers, some->n))
        return PROTO_NOTFOUND;
    enum proto_status status = engine__ask(&q, some->e, some->workers, some->n, NULL);
    if (!status)
        status = place_last(&last, &q, some);
    if (!status)
        status = shard_plan_from(out, last, q.shape, NULL);
    if (!status)
        snprintf((*out)->why, sizeof(*out)->why, "as before");
    plan_placement_destroy(last);
    engine__question_finish(&q);
    return status;
}

/* What is expected of a plan that was not searched, where that is known. */
static void expect(struct shard_plan *plan, const struct engine__question *q, const char *how)
{
    struct plan_placement *placement = NULL;
    struct plan_cost cost;
    if (engine__place(&placement, q, plan, engine__same_number, NULL, NULL) == PROTO_OK &&
        engine__price(&cost, q, placement, NULL) == PROTO_OK)
        explain(plan, q, placement, &cost, how);
    plan_placement_destroy(placement);
}

static enum proto_status choose(const struct coord_engine *e, const struct coord_wish *wish,
                                struct coord_worker *const *workers, uint32_t n,
                                struct shard_plan **out, struct proto_error *error)
{
    const struct some some = {e, workers, n};
    struct engine__question q = {0};
    bool measured = all_profiled(workers, n);
    if (!measured && go_on(out, &some) == PROTO_OK)
        return PROTO_OK;
    enum proto_status status = measured ? engine__ask(&q, e, workers, n, error) : PROTO_OK;
    if (!status && engine__may_search(e) && measured && !one_computer(workers, n))
        status = search(out, &q, &some, error);
    else if (!status)
        status = deal(e, wish, workers, n, out, error);
    if (status == PROTO_CAPACITY && (measured || engine__ask(&q, e, workers, n, NULL) == PROTO_OK))
        recommend(e, &q, error);
    else if (!status && measured && !(*out)->why[0])
        expect(*out, &q, "by rule, ");
    engine__question_finish(&q);
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
    bool may_ask_for_less = e->was_ready || n < o->local_workers + o->workers;
    struct coord_wish wish = {e->layers, o->split, o->stages, o->slices, o->replicas};
    struct proto_error ignored;
    enum proto_status status = choose(e, &wish, workers, n, out, error);
    for (enum proto_status less = status; less && may_ask_for_less && ask_for_less(&wish);)
        if (!(less = choose(e, &wish, workers, n, out, &ignored)))
            status = PROTO_OK;
    return status;
}

/* What was measured of others says nothing. */
void engine__explain_change(const struct coord_engine *e, struct shard_plan *plan,
                            struct coord_worker *const *workers, uint32_t n)
{
    struct engine__question q = {0};
    bool profiled = true;
    for (uint32_t i = 0; i < plan->n_stages; i++)
        profiled &= workers[plan->stages[i].worker]->profiled;
    for (uint32_t i = 0; i < plan->n_hosts; i++)
        profiled &= workers[plan->hosts[i].worker]->profiled;
    plan->why[0] = 0;
    if (profiled && engine__ask(&q, e, workers, n, NULL) == PROTO_OK)
        expect(plan, &q, "after a change, ");
    engine__question_finish(&q);
}
