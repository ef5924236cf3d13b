/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the machines and the links between them can do: profiles come from the workers by
 * themselves, links are measured one direction at a time while nothing is computed, of large
 * clusters several links that have no end in common at once. Each pair of workers that can reach
 * one another is measured once, and the coordinator with each worker; a worker that joins anew is
 * measured anew.
 */
#include "coordinator/parts.h"

#include "proto/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define QUIET_NS    (500ull * 1000000)   /* without work before a link is measured */
#define DEADLINE_NS (15ull * 1000000000) /* longer than a worker's own */
#define ECHOES      64u                  /* numbers, more than a measurement takes */
#define FEW         8u                   /* workers whose links are measured one after another */
#define PATIENCE_NS (20ull * 1000000000) /* that the first plan waits for measurements */
#define NOTICED_NS  (500ull * 1000000)   /* of that without a word */
#define HERE        COORD_HERE
#define NOBODY      UINT32_MAX

static struct coord_link_rate *rate_of(const struct coord_engine *e, uint32_t from, uint32_t to)
{
    return from == HERE ? &e->workers[to]->from_here : &e->workers[from]->links[to];
}

void engine__survey_forget(struct coord_engine *e, struct coord_worker *w)
{
    if (engine__recalled(w))
        return;
    w->profile = (struct proto_profile){0};
    w->profiled = false;
    w->pace = (struct coord_pace){0};
    w->from_here = (struct coord_link_rate){0};
    memset(w->links, 0, sizeof w->links);
    for (uint32_t i = 0; i < e->n_workers; i++) {
        if (e->workers[i] != w)
            continue;
        for (uint32_t k = 0; k < e->n_workers; k++)
            e->workers[k]->links[i] = (struct coord_link_rate){0};
        for (uint32_t k = 0; k < COORD_MAX_PROBES; k++)
            if (e->survey.probes[k].from == i || e->survey.probes[k].to == i)
                e->survey.probes[k].active = false;
    }
}

void engine__on_profile(struct coord_engine *e, struct coord_worker *w,
                        const struct proto_profile *profile)
{
    w->profile = *profile;
    w->profiled = true;
    proto_log(PROTO_LOG_INFO, "COORD-PROFILE", "worker=%s read_gb_s=%.1f disk_gb_s=%.2f", w->name,
              profile->read_bytes_s / 1e9, profile->disk_bytes_s / 1e9);
    engine__replan(e);
}

/* ---- one measurement ---- */

static void finish(struct coord_engine *e, struct coord_probe *probe, double rtt_s, double bytes_s)
{
    struct coord_link_rate *rate = rate_of(e, probe->from, probe->to);
    probe->active = false;
    rate->tried = true;
    rate->rtt_s = rtt_s;
    rate->bytes_s = bytes_s;
}

static void send_echo(struct coord_engine *e, struct coord_probe *probe)
{
    struct coord_worker *w = e->workers[probe->to];
    struct proto_error error;
    if (net_probe_send(&probe->probe, w->link, w->peer, NULL, &error) != PROTO_OK)
        finish(e, probe, 0, 0);
}

/* The measurement under way from one end to a worker or, with `to` NULL, to any; or NULL. */
static struct coord_probe *find_probe(struct coord_engine *e, const struct coord_worker *from,
                                      const struct coord_worker *to)
{
    for (uint32_t i = 0; i < COORD_MAX_PROBES; i++) {
        struct coord_probe *p = &e->survey.probes[i];
        const struct coord_worker *here = NULL;
        if (p->active && (p->from == HERE ? here : e->workers[p->from]) == from &&
            (!to || (p->to != HERE && e->workers[p->to] == to)))
            return p;
    }
    return NULL;
}

void engine__on_echoed(struct coord_engine *e, const struct coord_worker *w,
                       const struct proto_echoed *echoed)
{
    struct coord_probe *p = find_probe(e, NULL, w);
    bool done = false;
    if (!p)
        return;
    if (net_probe_echoed(&p->probe, echoed->number, net_now_ns(), &done))
        send_echo(e, p);
    else if (done)
        finish(e, p, p->probe.rtt_s, p->probe.bytes_s);
}

void engine__on_probed(struct coord_engine *e, const struct coord_worker *w,
                       const struct proto_probed *probed)
{
    struct coord_probe *p = find_probe(e, w, NULL);
    if (p && probed->number == p->number)
        finish(e, p, probed->rtt_s, probed->bytes_s);
}

static void start(struct coord_engine *e, struct coord_probe *p, uint32_t from, uint32_t to,
                  uint64_t now_ns)
{
    e->survey.number += ECHOES;
    *p = (struct coord_probe){
        .active = true, .from = from, .to = to, .since_ns = now_ns, .number = e->survey.number};
    if (from == HERE) {
        net_probe_init(&p->probe, p->number);
        send_echo(e, p);
        return;
    }
    struct proto_msg msg = {.kind = PROTO_MSG_PROBE,
                            .probe = {.number = p->number, .endpoint = (char *)""}};
    if (to != HERE) {
        msg.probe.endpoint = e->workers[to]->endpoint;
        memcpy(msg.probe.key, e->workers[to]->key, PROTO_KEY_BYTES);
    }
    if (engine__tell(e->workers[from], &msg, NULL, NULL) != PROTO_OK)
        finish(e, p, 0, 0);
}

/* ---- which comes next ---- */

/* What a child listens on is no address for other machines. */
static bool reaches(const struct coord_worker *from, const struct coord_worker *to)
{
    return from->local || strncmp(to->endpoint, "ipc://", 6) != 0;
}

static bool wanted(const struct coord_engine *e, uint32_t from, uint32_t to)
{
    if (from == to || (from != HERE && !engine__is_here(e->workers[from])) ||
        (to != HERE && !engine__is_here(e->workers[to])))
        return false;
    if (from != HERE && to != HERE && !reaches(e->workers[from], e->workers[to]))
        return false;
    return !rate_of(e, from, to)->tried;
}

/* Numbers of workers from 0, then HERE. */
static uint32_t place_at(const struct coord_engine *e, uint32_t i)
{
    return i < e->n_workers ? i : HERE;
}

/* Whether a link with that end is being measured. */
static bool is_taken(const struct coord_engine *e, uint32_t end)
{
    for (uint32_t i = 0; i < COORD_MAX_PROBES; i++) {
        const struct coord_probe *p = &e->survey.probes[i];
        if (p->active && (p->from == end || p->to == end))
            return true;
    }
    return false;
}

/* One that is to be measured; `now`: whose ends are free. */
static bool find_next(const struct coord_engine *e, bool now, uint32_t *from, uint32_t *to)
{
    for (uint32_t i = 0; i <= e->n_workers; i++) {
        for (uint32_t k = 0; k <= e->n_workers; k++) {
            *from = place_at(e, i);
            *to = place_at(e, k);
            if (wanted(e, *from, *to) && !(now && (is_taken(e, *from) || is_taken(e, *to))))
                return true;
        }
    }
    return false;
}

/* A worker that measures itself keeps its threads busy. */
static bool all_profiled(const struct coord_engine *e)
{
    for (uint32_t i = 0; i < e->n_workers; i++)
        if (engine__is_here(e->workers[i]) && !e->workers[i]->profiled)
            return false;
    return true;
}

static bool is_idle(struct coord_engine *e)
{
    pthread_mutex_lock(&e->mutex);
    bool measuring = e->measured < 0;
    pthread_mutex_unlock(&e->mutex);
    return !measuring && !e->next && !e->n_active && !e->n_waiting && !e->n_batches;
}

static void set_surveyed(struct coord_engine *e, bool surveyed)
{
    pthread_mutex_lock(&e->mutex);
    if (e->surveyed != surveyed) {
        e->surveyed = surveyed;
        pthread_cond_broadcast(&e->changed);
    }
    pthread_mutex_unlock(&e->mutex);
}

/* Gives up what takes too long, and starts as many more as may be. */
static void start_probes(struct coord_engine *e, uint64_t now_ns)
{
    uint32_t most = e->n_workers > FEW ? e->n_workers / 2 : 1, from, to;
    for (uint32_t i = 0; i < most && i < COORD_MAX_PROBES; i++) {
        struct coord_probe *p = &e->survey.probes[i];
        if (p->active && now_ns - p->since_ns > DEADLINE_NS)
            finish(e, p, 0, 0);
        if (!p->active && now_ns - e->survey.busy_ns > QUIET_NS && find_next(e, true, &from, &to))
            start(e, p, from, to, now_ns);
    }
}

/* Makes the first plan when everything that helps it is known, or that has taken too long. */
static void await(struct coord_engine *e, uint64_t now_ns)
{
    if (e->survey.awaits_ns && !e->survey.decided && !engine__survey_awaited(e, now_ns))
        engine__replan(e);
}

void engine__survey_tick(struct coord_engine *e, uint64_t now_ns)
{
    uint32_t from, to;
    if (!e->options.profile)
        return;
    if (!is_idle(e))
        e->survey.busy_ns = now_ns;
    bool profiled = e->n_workers && all_profiled(e);
    if (profiled)
        start_probes(e, now_ns);
    set_surveyed(e, profiled && !find_next(e, false, &from, &to));
    await(e, now_ns);
}

/* Workers of one computer are not told apart by measuring, so nothing is searched. */
static bool knows_enough(const struct coord_engine *e)
{
    uint32_t from, to;
    return !engine__may_search(e) ||
           (all_profiled(e) && (engine__one_computer(e) || !find_next(e, false, &from, &to)));
}

/* Whether the workers of an earlier life's plan are here again, so that nobody needs to be measured
 * for another. What is measured already is heard of at once. */
static bool goes_on(const struct coord_engine *e)
{
    struct coord_worker *here[PROTO_MAX_WORKERS];
    uint32_t n = 0;
    for (uint32_t i = 0; i < e->n_workers; i++)
        if (engine__is_here(e->workers[i]))
            here[n++] = e->workers[i];
    return !all_profiled(e) && engine__last_plan_possible(e, here, n);
}

bool engine__survey_awaited(struct coord_engine *e, uint64_t now_ns)
{
    struct coord_survey *survey = &e->survey;
    survey->awaits_ns = survey->awaits_ns ? survey->awaits_ns : now_ns;
    uint64_t waited_ns = now_ns - survey->awaits_ns;
    survey->decided = survey->decided || waited_ns > PATIENCE_NS || knows_enough(e) ||
                      (waited_ns > NOTICED_NS && goes_on(e));
    if (!survey->decided && !survey->said && waited_ns > NOTICED_NS && e->options.progress) {
        survey->said = true;
        fputs("measuring the machines and the links between them, for a plan\n", stderr);
    }
    return !survey->decided;
}

enum proto_status coord_engine_wait_survey(struct coord_engine *e, uint32_t deadline_s,
                                           struct proto_error *error)
{
    struct timespec deadline;
    int rc = 0;
    clock_gettime(CLOCK_REALTIME, &deadline);
    deadline.tv_sec += deadline_s;
    pthread_mutex_lock(&e->mutex);
    while (!e->surveyed && !e->interrupted && rc == 0)
        rc = pthread_cond_timedwait(&e->changed, &e->mutex, &deadline);
    bool surveyed = e->surveyed, interrupted = e->interrupted;
    pthread_mutex_unlock(&e->mutex);
    if (interrupted)
        return proto_fail(error, PROTO_CANCELLED, "interrupted");
    return surveyed
               ? PROTO_OK
               : proto_fail(error, PROTO_TIMEOUT,
                            "machines and links were not all measured within %u s", deadline_s);
}

/* ---- for people ---- */

/* Where a worker stands in the status, or NOBODY. */
static uint32_t index_in(const struct coord_status *status, const struct coord_worker *w)
{
    for (uint32_t i = 0; i < status->n_workers; i++)
        if (strcmp(status->workers[i].name, w->name) == 0)
            return i;
    return NOBODY;
}

static void add_link(const struct coord_engine *e, struct coord_status *out, uint32_t from,
                     uint32_t to)
{
    if (from == to)
        return;
    const struct coord_link_rate *rate = rate_of(e, from, to);
    uint32_t a = from == HERE ? HERE : index_in(out, e->workers[from]);
    uint32_t b = to == HERE ? HERE : index_in(out, e->workers[to]);
    if (rate->rtt_s <= 0 || a == NOBODY || b == NOBODY)
        return;
    out->links[out->n_links++] = (struct coord_link_status){
        .from = a, .to = b, .rtt_s = rate->rtt_s, .bytes_s = rate->bytes_s};
}

bool engine__describe_links(const struct coord_engine *e, struct coord_status *out)
{
    size_t n = (size_t)(e->n_workers + 1) * (e->n_workers + 1);
    out->links = calloc(n, sizeof *out->links);
    if (!out->links)
        return false;
    for (uint32_t i = 0; i <= e->n_workers; i++)
        for (uint32_t k = 0; k <= e->n_workers; k++)
            add_link(e, out, place_at(e, i), place_at(e, k));
    return true;
}
