/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Workers that are slower than they could be, by the times of batches in which every sequence has
 * one more token: a token's time is what is predicted best, and there are many of them.
 */
#include "coordinator/parts.h"

#include "proto/log.h"

/* After which a worker without a part, of which nothing is seen, is given another chance. */
#define FORGET_NS (600ull * 1000000000)

/* ---- batches ---- */

/* Whether it is one row of each sequence; *depth: the sum of their positions. */
static bool is_tokens(const struct coord_batch *batch, double *depth)
{
    *depth = 0;
    for (uint32_t i = 0; i < batch->n_ranges; i++) {
        if (batch->ranges[i].range.n != 1)
            return false;
        *depth += (double)batch->ranges[i].range.pos;
    }
    return true;
}

/* What the member computed as a stage and for stages. */
static double computed_s(const struct coord_member *m, const struct proto_result *result)
{
    double ns = 0;
    if (m->stage >= 0) {
        const struct proto_stage_time *t = &result->times[m->stage];
        ns = (double)(int64_t)(t->finished_ns - t->started_ns - t->expert_wait_ns);
    }
    for (uint32_t i = 0; i < result->n_host_times && m->host >= 0; i++)
        if (result->host_times[i].host == (uint64_t)m->host)
            ns += (double)result->host_times[i].compute_ns;
    return ns / 1e9;
}

void engine__note_pace(struct coord_engine *e, const struct coord_batch *batch,
                       const struct proto_result *result)
{
    uint64_t now_ns = net_now_ns();
    double depth;
    if (batch->refill || result->n_times != e->current->plan->n_stages || !is_tokens(batch, &depth))
        return;
    for (uint32_t i = 0; i < e->current->n_members; i++) {
        struct coord_member *m = &e->current->members[i];
        double expected_s =
            m->token_s + depth * m->depth_s + (double)(batch->n_rows - 1) * m->row_s;
        coord_pace_add(&m->worker->pace, computed_s(m, result), m->token_s > 0 ? expected_s : 0,
                       now_ns);
    }
}

/* ---- verdicts ---- */

static void say(const struct coord_worker *w)
{
    if (w->pace.slowdown > 0)
        proto_log(PROTO_LOG_WARN, "COORD-WORKER-SLOW", "name=%s factor=%.1f", w->name,
                  w->pace.slowdown);
    else
        proto_log(PROTO_LOG_WARN, "COORD-WORKER-RECOVERED", "name=%s", w->name);
}

/* Of those that are stages, or of those that are hosts alone. */
static bool judge(struct coord_deployment *d, bool stages, uint64_t now_ns)
{
    struct coord_worker *workers[PROTO_MAX_WORKERS];
    struct coord_pace *paces[PROTO_MAX_WORKERS] = {NULL};
    bool changed[PROTO_MAX_WORKERS], any = false;
    uint32_t n = 0;
    for (uint32_t i = 0; i < d->n_members; i++)
        if ((d->members[i].stage >= 0) == stages) {
            workers[n] = d->members[i].worker;
            paces[n] = &workers[n]->pace;
            n++;
        }
    coord_pace_judge(paces, n, now_ns, changed);
    for (uint32_t i = 0; i < n; i++) {
        any |= changed[i];
        if (changed[i])
            say(workers[i]);
    }
    return any;
}

static bool forget_old(struct coord_engine *e, uint64_t now_ns)
{
    bool any = false;
    for (uint32_t i = 0; i < e->n_workers; i++) {
        struct coord_worker *w = e->workers[i];
        if (w->pace.slowdown == 0 || engine__member(e->current, w) ||
            now_ns < w->pace.added_ns + FORGET_NS)
            continue;
        w->pace = (struct coord_pace){0};
        say(w);
        any = true;
    }
    return any;
}

static bool all_profiled(const struct coord_deployment *d)
{
    for (uint32_t i = 0; i < d->n_members; i++)
        if (!d->members[i].worker->profiled)
            return false;
    return true;
}

void engine__pace_tick(struct coord_engine *e, uint64_t now_ns)
{
    struct coord_deployment *d = e->current;
    struct proto_error error;
    if (!engine__serving(e) || e->next)
        return;
    if (!d->expected && all_profiled(d)) {
        d->expected = true;
        for (uint32_t i = 0; i < d->n_members; i++)
            coord_pace_begin(&d->members[i].worker->pace);
        if (engine__expect_pace(e, d, &error) != PROTO_OK)
            proto_log(PROTO_LOG_WARN, "COORD-PACE", "error=\"%s\"", error.text);
    }
    bool stages = judge(d, true, now_ns), hosts = judge(d, false, now_ns);
    if (forget_old(e, now_ns) || stages || hosts)
        engine__replan_around(e);
}
