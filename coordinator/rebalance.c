/* SPDX-License-Identifier: Apache-2.0 */
/* A better plan, when more is known than when the plan in force was made. */
#include "coordinator/parts.h"

#define QUIET_NS (2ull * 1000000000) /* without work before a better plan is looked for */

/* What a plan depends on, as a number that changes with it: who has measured what, who is slow, and
 * how many rows experts were chosen by, in powers of two. */
static uint64_t known_so_far(const struct coord_engine *e)
{
    uint64_t known = 0, rows = 0;
    size_t n = e->usage ? (size_t)e->model->n_layers * e->model->n_experts : 0;
    for (uint32_t i = 0; i < e->n_workers; i++) {
        const struct coord_worker *w = e->workers[i];
        known = known * 31 + (engine__is_here(w) ? 1 + w->profiled : 0);
        for (uint32_t k = 0; k <= PROTO_MAX_WORKERS; k++)
            known += w->links[k].tried;
        known += w->from_here.tried;
        known += (uint64_t)(w->pace.slowdown * 1000) << 32;
    }
    for (size_t i = 0; i < n; i++)
        rows += e->usage[i];
    for (; rows; rows /= 2)
        known += 1u << 20;
    return known;
}

static bool is_surveyed(struct coord_engine *e)
{
    pthread_mutex_lock(&e->mutex);
    bool surveyed = e->surveyed;
    pthread_mutex_unlock(&e->mutex);
    return surveyed;
}

/* What is not done now is thought of again when nothing is computed. */
void engine__replan_around(struct coord_engine *e)
{
    if (e->stopping || e->next || !engine__serving(e) || engine__count_leaving(e->current) ||
        e->options.rebalance != COORD_REBALANCE_AUTO || !engine__may_search(e) ||
        engine__one_computer(e) || !is_surveyed(e))
        return;
    e->planned_with = known_so_far(e);
    engine__improve(e);
}

void engine__rebalance_tick(struct coord_engine *e, uint64_t now_ns)
{
    if (e->options.rebalance != COORD_REBALANCE_AUTO || !engine__serving(e) || e->next ||
        e->n_active || e->n_waiting || e->n_batches || !engine__may_search(e) ||
        engine__one_computer(e)) {
        e->quiet_ns = now_ns;
        return;
    }
    uint64_t known = known_so_far(e);
    if (!is_surveyed(e) || now_ns - e->quiet_ns < QUIET_NS || known == e->planned_with)
        return;
    e->planned_with = known;
    engine__improve(e);
}
