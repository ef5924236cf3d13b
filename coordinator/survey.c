/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the machines and the links between them can do: profiles come from the workers by
 * themselves, links are measured one direction at a time while nothing is computed. Each pair of
 * workers that can reach one another is measured once, and the coordinator with each worker; a
 * worker that joins anew is measured anew.
 */
#include "coordinator/parts.h"

#include "proto/log.h"

#include <stdlib.h>
#include <string.h>

#define QUIET_NS    (500ull * 1000000)   /* without work before a link is measured */
#define DEADLINE_NS (15ull * 1000000000) /* longer than a worker's own */
#define ECHOES      64u                  /* numbers, more than a measurement takes */
#define HERE        COORD_HERE

static struct coord_link_rate *rate_of(struct coord_engine *e, uint32_t from, uint32_t to)
{
    return from == HERE ? &e->workers[to]->from_here : &e->workers[from]->links[to];
}

void engine__survey_forget(struct coord_engine *e, struct coord_worker *w)
{
    w->profile = (struct proto_profile){0};
    w->profiled = false;
    w->from_here = (struct coord_link_rate){0};
    memset(w->links, 0, sizeof w->links);
    for (uint32_t i = 0; i < e->n_workers; i++) {
        if (e->workers[i] != w)
            continue;
        for (uint32_t k = 0; k < e->n_workers; k++)
            e->workers[k]->links[i] = (struct coord_link_rate){0};
        if (e->survey.from == i || e->survey.to == i)
            e->survey.active = false;
    }
}

void engine__on_profile(struct coord_worker *w, const struct proto_profile *profile)
{
    w->profile = *profile;
    w->profiled = true;
    proto_log(PROTO_LOG_INFO, "COORD-PROFILE", "worker=%s read_gb_s=%.1f disk_gb_s=%.2f", w->name,
              profile->read_bytes_s / 1e9, profile->disk_bytes_s / 1e9);
}

/* ---- one measurement ---- */

static void finish(struct coord_engine *e, double rtt_s, double bytes_s)
{
    struct coord_survey *survey = &e->survey;
    struct coord_link_rate *rate = rate_of(e, survey->from, survey->to);
    survey->active = false;
    rate->tried = true;
    rate->rtt_s = rtt_s;
    rate->bytes_s = bytes_s;
}

static void send_echo(struct coord_engine *e)
{
    struct coord_worker *w = e->workers[e->survey.to];
    struct proto_error error;
    if (net_probe_send(&e->survey.probe, w->link, w->peer, NULL, &error) != PROTO_OK)
        finish(e, 0, 0);
}

void engine__on_echoed(struct coord_engine *e, const struct coord_worker *w,
                       const struct proto_echoed *echoed)
{
    struct coord_survey *survey = &e->survey;
    bool done = false;
    if (!survey->active || survey->from != HERE || e->workers[survey->to] != w)
        return;
    if (net_probe_echoed(&survey->probe, echoed->number, net_now_ns(), &done))
        send_echo(e);
    else if (done)
        finish(e, survey->probe.rtt_s, survey->probe.bytes_s);
}

void engine__on_probed(struct coord_engine *e, const struct coord_worker *w,
                       const struct proto_probed *probed)
{
    const struct coord_survey *survey = &e->survey;
    if (survey->active && survey->from != HERE && e->workers[survey->from] == w &&
        probed->number == survey->number)
        finish(e, probed->rtt_s, probed->bytes_s);
}

static void start(struct coord_engine *e, uint32_t from, uint32_t to, uint64_t now_ns)
{
    struct coord_survey *survey = &e->survey;
    survey->active = true;
    survey->from = from;
    survey->to = to;
    survey->since_ns = now_ns;
    survey->number += ECHOES;
    if (from == HERE) {
        net_probe_init(&survey->probe, survey->number);
        send_echo(e);
        return;
    }
    struct proto_msg msg = {.kind = PROTO_MSG_PROBE,
                            .probe = {.number = survey->number, .endpoint = (char *)""}};
    if (to != HERE) {
        msg.probe.endpoint = e->workers[to]->endpoint;
        memcpy(msg.probe.key, e->workers[to]->key, PROTO_KEY_BYTES);
    }
    if (engine__tell(e->workers[from], &msg, NULL, NULL) != PROTO_OK)
        finish(e, 0, 0);
}

/* ---- which comes next ---- */

/* What a child listens on is no address for other machines. */
static bool reaches(const struct coord_worker *from, const struct coord_worker *to)
{
    return from->local || strncmp(to->endpoint, "ipc://", 6) != 0;
}

static bool wanted(struct coord_engine *e, uint32_t from, uint32_t to)
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

static bool find_next(struct coord_engine *e, uint32_t *from, uint32_t *to)
{
    for (uint32_t i = 0; i <= e->n_workers; i++) {
        for (uint32_t k = 0; k <= e->n_workers; k++) {
            *from = place_at(e, i);
            *to = place_at(e, k);
            if (wanted(e, *from, *to))
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

void engine__survey_tick(struct coord_engine *e, uint64_t now_ns)
{
    struct coord_survey *survey = &e->survey;
    uint32_t from, to;
    if (!e->options.profile)
        return;
    if (survey->active && now_ns - survey->since_ns > DEADLINE_NS)
        finish(e, 0, 0);
    if (!is_idle(e))
        survey->busy_ns = now_ns;
    bool profiled = e->n_workers && all_profiled(e);
    bool more = profiled && find_next(e, &from, &to);
    set_surveyed(e, profiled && !more);
    if (more && !survey->active && now_ns - survey->busy_ns > QUIET_NS)
        start(e, from, to, now_ns);
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

/* Where a worker stands in the status. */
static uint32_t index_in(const struct coord_status *status, const struct coord_worker *w)
{
    for (uint32_t i = 0; i < status->n_workers; i++)
        if (strcmp(status->workers[i].name, w->name) == 0)
            return i;
    return HERE;
}

static void add_link(struct coord_engine *e, struct coord_status *out, uint32_t from, uint32_t to)
{
    if (from == to)
        return;
    const struct coord_link_rate *rate = rate_of(e, from, to);
    if (rate->rtt_s <= 0)
        return;
    out->links[out->n_links++] =
        (struct coord_link_status){.from = from == HERE ? HERE : index_in(out, e->workers[from]),
                                   .to = to == HERE ? HERE : index_in(out, e->workers[to]),
                                   .rtt_s = rate->rtt_s,
                                   .bytes_s = rate->bytes_s};
}

bool engine__describe_links(struct coord_engine *e, struct coord_status *out)
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
