/* SPDX-License-Identifier: Apache-2.0 */
/* What the plan in force is to take, and what another one would gain. */
#include "coordinator/question.h"

#include <math.h>

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
    struct engine__question q;
    enum proto_status status = engine__ask(&q, e, d->workers, d->n_workers, error);
    struct plan_load at_first = q.load;
    at_first.depth = 1; /* 0 is the default */
    if (!status)
        status = engine__place(&placement, &q, d->plan, engine__same_number, NULL, error);
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
    engine__question_finish(&q);
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

static enum proto_status objective_of(double *out, const struct engine__question *q,
                                      const struct shard_plan *plan, engine__number_fn *number,
                                      const struct everybody *here, struct proto_error *error)
{
    struct plan_placement *placement = NULL;
    struct plan_cost cost;
    enum proto_status status = engine__place(&placement, q, plan, number, here, error);
    if (!status)
        status = engine__price(&cost, q, placement, error);
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
    struct engine__question q;
    double now = 0, then = 0;
    for (uint32_t i = 0; i < e->n_workers; i++)
        if (engine__is_here(e->workers[i]))
            here.all[here.n++] = e->workers[i];
    enum proto_status status = engine__ask(&q, e, here.all, here.n, error);
    if (!status)
        status = objective_of(&now, &q, e->current->plan, number_in_force, &here, error);
    if (!status)
        status = objective_of(&then, &q, plan, number_in_other, &here, error);
    if (!status)
        *gain = now / then - 1;
    engine__question_finish(&q);
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
