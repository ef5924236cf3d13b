/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From a plan to its being in force. Its workers load their parts beside what they serve with, and
 * copy what others cache of layers that are to be theirs; when all have, and no batch is in flight
 * any more, each is told to serve. It takes the caches of the plan before over as far as it had the
 * same layers, and fetches what was cached elsewhere since it copied, as long as that plan is
 * whole. A worker says from which position it can go on with each sequence; what the least of them
 * lacks is computed again from the tokens, which are all here. Since the result of a position does
 * not depend on the batch it is in, nobody notices.
 */
#include "coordinator/parts.h"

#include "coordinator/report.h"
#include "proto/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define REDRAW_MS 100u
#define PLAIN_MS  5000u  /* between lines where standard error is no terminal */
#define COMMIT_MS 30000u /* for a worker that may have a batch in work */

bool engine__serving(const struct coord_engine *e)
{
    return e->current && e->current->state == COORD_SERVING;
}

/* ---- progress ---- */

/* False while a worker has not said yet how much it loads. */
static bool sum_progress(const struct coord_deployment *d, uint64_t *done, uint64_t *total,
                         uint64_t *fetched)
{
    bool known = true;
    *done = *total = *fetched = 0;
    for (uint32_t i = 0; i < d->n_members; i++) {
        *done += d->members[i].done_bytes;
        *total += d->members[i].total_bytes;
        *fetched += d->members[i].fetched_bytes;
        known &= d->members[i].total_bytes > 0;
    }
    return known;
}

static void show_progress(struct coord_engine *e)
{
    uint64_t now_ns = net_now_ns(), done, total, fetched;
    char done_text[16], total_text[16], fetched_text[16];
    bool terminal = isatty(STDERR_FILENO);
    uint64_t pause_ms = terminal ? REDRAW_MS : PLAIN_MS;
    uint32_t n = e->next->n_members;
    /* Who is being served is not told about preparations. */
    if (!e->options.progress || engine__serving(e) ||
        now_ns - e->progress_ns < pause_ms * 1000000ull)
        return;
    if (!sum_progress(e->next, &done, &total, &fetched))
        return;
    e->progress_ns = now_ns;
    e->progress_shown = true;
    coord_format_bytes(done, done_text);
    coord_format_bytes(total, total_text);
    coord_format_bytes(fetched, fetched_text);
    fprintf(stderr, "%sloading: %3.0f%%  %s of %s on %u worker%s", terminal ? "\r" : "",
            total ? 100.0 * (double)done / (double)total : 0.0, done_text, total_text, n,
            n == 1 ? "" : "s");
    if (fetched)
        fprintf(stderr, ", %s over the network", fetched_text);
    fputs(terminal ? "\033[K" : "\n", stderr);
    fflush(stderr);
}

static void show_loaded(struct coord_engine *e)
{
    const struct coord_deployment *d = e->current;
    uint64_t done, total, fetched;
    char text[16];
    if (!e->options.progress)
        return;
    sum_progress(d, &done, &total, &fetched);
    coord_format_bytes(total, text);
    if (e->progress_shown && isatty(STDERR_FILENO))
        fputs("\r\033[K", stderr);
    fprintf(stderr, "loaded %s on %u worker%s in %.1f s\n", text, d->n_members,
            d->n_members == 1 ? "" : "s", (double)(net_now_ns() - e->deploy_ns) / 1e9);
}

void engine__on_progress(struct coord_engine *e, struct coord_worker *w,
                         const struct proto_progress *progress)
{
    struct coord_member *m = engine__member(e->next, w);
    if (!m || progress->epoch != e->next->epoch)
        return;
    m->done_bytes = progress->done_bytes;
    m->total_bytes = progress->total_bytes;
    m->fetched_bytes = progress->fetched_bytes;
    show_progress(e);
}

/* ---- preparing ---- */

/* Its workers let their slices go. */
static void release(const struct coord_deployment *d)
{
    struct proto_msg msg = {.kind = PROTO_MSG_RELEASE, .release = {.epoch = d->epoch}};
    for (uint32_t i = 0; i < d->n_members; i++)
        if (engine__is_here(d->members[i].worker))
            engine__tell(d->members[i].worker, &msg, NULL, NULL);
}

void engine__drop_next(struct coord_engine *e)
{
    struct coord_deployment *d = e->next;
    if (!d)
        return;
    e->next = NULL;
    release(d);
    engine__deployment_destroy(d);
}

/* Once, however often it is tried. */
static void say_plan(struct coord_engine *e)
{
    const char *why = e->next->plan->why;
    if (!e->options.progress || !why[0] || strcmp(why, e->said_plan) == 0)
        return;
    snprintf(e->said_plan, sizeof e->said_plan, "%s", why);
    fprintf(stderr, "plan: %s\n", why);
}

enum proto_status engine__prepare(struct coord_engine *e, struct coord_deployment **d,
                                  struct proto_error *error)
{
    struct coord_deployment *old = e->next;
    (*d)->epoch = ++e->epoch;
    e->deploy_ns = net_now_ns();
    e->progress_ns = 0;
    e->progress_shown = false;
    e->retry_ns = 0;
    e->next = *d;
    *d = NULL;
    proto_log(PROTO_LOG_INFO, "COORD-PREPARE", "epoch=%llu stages=%u hosts=%u",
              (unsigned long long)e->epoch, e->next->plan->n_stages, e->next->plan->n_hosts);
    say_plan(e);
    enum proto_status status = engine__assign(e, e->next, error);
    /* A load takes the place of one before it. */
    if (old)
        release(old);
    engine__deployment_destroy(old);
    if (status != PROTO_OK)
        engine__drop_next(e);
    return status;
}

void engine__on_ready(struct coord_engine *e, struct coord_worker *w,
                      const struct proto_ready *ready)
{
    struct coord_member *m = engine__member(e->next, w);
    if (!m || ready->epoch != e->next->epoch || e->next->state != COORD_PREPARING)
        return;
    m->ready = true;
    m->weight_bytes = ready->weight_bytes;
    m->kv_limit_bytes = ready->kv_limit_bytes;
    m->scratch_bytes = ready->scratch_bytes;
    for (uint32_t i = 0; i < e->next->n_members; i++)
        if (!e->next->members[i].ready)
            return;
    engine__deployment_set(e->next, COORD_PREPARED);
    engine__try_commit(e);
}

/* ---- committing ---- */

/* The sequences that go on, and how much of each all workers of the plan in force have. */
static bool list_held(struct coord_engine *e, struct coord_deployment *d)
{
    d->held = calloc((size_t)e->n_active + 1, sizeof *d->held);
    d->answers = calloc((size_t)e->n_active * d->plan->n_stages + 1, sizeof *d->answers);
    d->refills = calloc((size_t)e->n_active + 1, sizeof *d->refills);
    if (!d->held || !d->answers || !d->refills)
        return false;
    for (const struct coord_seq *seq = e->active; seq; seq = seq->next)
        if (!seq->finished)
            d->held[d->n_held++] = (struct proto_held){.seq = seq->slot, .pos = seq->done};
    return true;
}

/* Asks all members; their answers are at most what is asked for. */
static void ask_commit(struct coord_engine *e)
{
    struct coord_deployment *d = e->next;
    struct proto_msg msg = {.kind = PROTO_MSG_COMMIT,
                            .commit = {.epoch = d->epoch,
                                       .from = e->current ? e->current->epoch : 0,
                                       .held = d->held,
                                       .n_held = d->n_held,
                                       .move = engine__serving(e)}};
    for (uint32_t i = 0; i < d->n_members; i++) {
        d->members[i].committed = false;
        engine__tell(d->members[i].worker, &msg, NULL, NULL);
    }
}

void engine__try_commit(struct coord_engine *e)
{
    struct coord_deployment *d = e->next;
    if (!d || d->state != COORD_PREPARED || e->n_batches)
        return;
    if (!list_held(e, d)) {
        proto_log(PROTO_LOG_ERROR, "COORD-PLAN", "epoch=%llu error=\"out of memory\"",
                  (unsigned long long)d->epoch);
        engine__drop_next(e);
        return;
    }
    /* Sequences that are not named are forgotten. */
    e->n_drops = 0;
    engine__deployment_set(d, COORD_COMMITTING);
    ask_commit(e);
}

/* Those that go on do so from where all can. */
static void rewind_sequences(struct coord_engine *e, const struct coord_deployment *d)
{
    for (struct coord_seq *seq = e->active; seq; seq = seq->next) {
        for (uint32_t i = 0; i < d->n_held; i++) {
            if (d->held[i].seq != seq->slot)
                continue;
            e->caches.replayed += seq->done - d->held[i].pos;
            e->caches.refilled += d->refills[i].end - d->refills[i].at;
            if (d->held[i].pos < seq->done)
                proto_log(PROTO_LOG_INFO, "COORD-REPLAY", "seq=%u from=%llu to=%zu", seq->slot,
                          (unsigned long long)d->held[i].pos, seq->n_ids);
            seq->sent = seq->done = d->held[i].pos;
            seq->refill = d->refills[i];
            if (seq->refill.end)
                proto_log(PROTO_LOG_INFO, "COORD-REFILL", "seq=%u stage=%u from=%llu to=%llu",
                          seq->slot, seq->refill.stage, (unsigned long long)seq->refill.at,
                          (unsigned long long)seq->refill.end);
        }
    }
}

void engine__dismiss(struct coord_engine *e)
{
    struct proto_msg msg = {.kind = PROTO_MSG_BYE, .bye = {.drained = true}};
    for (uint32_t i = 0; i < e->n_workers; i++) {
        struct coord_worker *w = e->workers[i];
        if (!w->draining || !engine__is_here(w) || engine__member(e->current, w) ||
            engine__member(e->next, w))
            continue;
        proto_log(PROTO_LOG_INFO, "COORD-WORKER-DRAINED", "name=%s", w->name);
        engine__tell(w, &msg, NULL, NULL);
        w->draining = false;
        w->state = COORD_LEFT;
        net_link_forget(w->link, w->peer);
    }
}

static void take_over(struct coord_engine *e)
{
    struct coord_deployment *old = e->current;
    bool interrupted = !old || old->state != COORD_SERVING;
    rewind_sequences(e, e->next);
    e->current = e->next;
    e->next = NULL;
    engine__deployment_set(e->current, COORD_SERVING);
    if (old)
        release(old);
    engine__deployment_destroy(old);
    e->stuck_ns = 0;
    e->stuck.status = PROTO_OK;
    e->settle_ns = 0;
    e->progressed_ns = net_now_ns();
    e->speed = (struct coord_speed){0};
    proto_log(PROTO_LOG_INFO, "COORD-SERVING", "epoch=%llu stages=%u hosts=%u",
              (unsigned long long)e->current->epoch, e->current->plan->n_stages,
              e->current->plan->n_hosts);
    if (interrupted)
        show_loaded(e);
    engine__dismiss(e);
    engine__set_ready(e, true);
    engine__replan(e);
    engine__schedule(e);
}

/* Whether an answer is one to what was asked. */
static bool fits(const struct coord_deployment *d, const struct proto_commit *commit)
{
    if (commit->n_held != d->n_held)
        return false;
    for (uint32_t i = 0; i < d->n_held; i++)
        if (commit->held[i].seq != d->held[i].seq)
            return false;
    return true;
}

/* What a stage answered about a sequence. */
static const struct proto_held *answer_of(const struct coord_deployment *d, uint32_t stage,
                                          uint32_t i)
{
    return &d->answers[(size_t)stage * d->n_held + i];
}

/* Whether one stage alone has less of a sequence than the others, which have the same, and the
 * input that it lacks is at hand; then it is what is refilled. */
static bool find_refill(struct coord_deployment *d, uint32_t i, uint64_t most)
{
    uint32_t n = 0, stage = 0;
    for (uint32_t s = 0; s < d->plan->n_stages; s++)
        if (answer_of(d, s, i)->pos < most) {
            stage = s;
            n++;
        }
    if (n != 1 || d->plan->n_stages == 1 || (stage && answer_of(d, stage - 1, i)->kept < most))
        return false;
    uint64_t from = answer_of(d, stage, i)->pos;
    d->refills[i] = (struct coord_refill){.stage = stage, .at = from, .done = from, .end = most};
    return true;
}

/* From where a sequence goes on: from what all have, or what all will have. Where that is not clear
 * yet they are asked anew, for a cache may be able to go on from some positions only. */
static bool agree(struct coord_deployment *d, uint32_t i)
{
    uint64_t least = UINT64_MAX, most = 0;
    for (uint32_t s = 0; s < d->plan->n_stages; s++) {
        uint64_t pos = answer_of(d, s, i)->pos;
        least = pos < least ? pos : least;
        most = pos > most ? pos : most;
    }
    d->refills[i] = (struct coord_refill){0};
    bool refill = least < most && find_refill(d, i, most);
    d->held[i].pos = refill ? most : least;
    return refill || least == most || least == 0;
}

static bool agree_all(struct coord_deployment *d)
{
    bool all = true;
    for (uint32_t i = 0; i < d->n_held; i++)
        all &= agree(d, i);
    return all;
}

void engine__on_committed(struct coord_engine *e, struct coord_worker *w,
                          const struct proto_commit *commit)
{
    struct coord_deployment *d = e->next;
    struct coord_member *m = engine__member(d, w);
    if (!m || commit->epoch != d->epoch || d->state != COORD_COMMITTING || m->committed)
        return;
    if (!fits(d, commit)) {
        engine__lose_worker(e, w, "it answered for other sequences than it was asked about");
        return;
    }
    m->committed = true;
    e->caches.moved += commit->moved;
    e->caches.moved_bytes += commit->moved_bytes;
    if (m->stage >= 0 && d->n_held)
        memcpy(&d->answers[(size_t)m->stage * d->n_held], commit->held,
               d->n_held * sizeof *d->answers);
    for (uint32_t i = 0; i < d->n_members; i++)
        if (!d->members[i].committed)
            return;
    if (agree_all(d))
        take_over(e);
    else
        ask_commit(e);
}

void engine__check_commit(struct coord_engine *e, uint64_t now_ns)
{
    const struct coord_deployment *d = e->next;
    if (!d || d->state != COORD_COMMITTING || now_ns < d->since_ns + COMMIT_MS * 1000000ull)
        return;
    for (uint32_t i = 0; i < d->n_members; i++) {
        if (d->members[i].committed)
            continue;
        engine__lose_worker(e, d->members[i].worker, "it did not take up its part in time");
        return;
    }
}

void engine__lose_caches(struct coord_engine *e)
{
    const struct coord_deployment *d = e->next;
    if (!d)
        return;
    struct proto_msg msg = {.kind = PROTO_MSG_KV_LOST, .link.epoch = d->epoch};
    for (uint32_t i = 0; i < d->n_members; i++)
        engine__tell(d->members[i].worker, &msg, NULL, NULL);
}

/* ---- the end of a plan ---- */

/* Workers that are told to serve the next plan do so, even if it is never whole. */
static void count_as_current(struct coord_engine *e)
{
    struct coord_deployment *old = e->current;
    e->current = e->next;
    e->next = NULL;
    if (old)
        release(old);
    engine__deployment_destroy(old);
}

void engine__break(struct coord_engine *e, const char *why)
{
    bool committing = e->next && e->next->state == COORD_COMMITTING;
    snprintf(e->loss, sizeof e->loss, "%s", why);
    if (!committing && !engine__serving(e))
        return;
    if (committing)
        count_as_current(e);
    engine__deployment_set(e->current, COORD_BROKEN);
    engine__forget_batches(e);
    engine__set_ready(e, false);
}
