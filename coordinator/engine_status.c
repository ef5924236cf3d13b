/* SPDX-License-Identifier: Apache-2.0 */
#include "coordinator/parts.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct question {
    struct coord_engine *e;
    struct coord_status *out;
    enum proto_status status;
    struct proto_error *error;
};

static const char *state_name(const struct coord_engine *e, const struct coord_worker *w)
{
    if (!engine__is_here(w))
        return w->state == COORD_LEFT ? "left" : "lost";
    if (w->draining)
        return "draining";
    if (engine__serving(e) && engine__member(e->current, w))
        return "ready";
    if (engine__member(e->next, w))
        return "loading";
    return e->current ? "standby" : "joined";
}

static uint32_t lesser(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

static uint32_t greater(uint32_t a, uint32_t b)
{
    return a > b ? a : b;
}

/* From the first to the last of what its parts cover. */
static void describe_experts(const struct shard_plan *plan, const struct coord_member *m,
                             struct coord_worker_status *out)
{
    for (uint32_t i = 0; m->host >= 0 && i < plan->n_parts; i++) {
        const struct shard_expert_part *p = &plan->parts[i];
        if (p->worker != plan->hosts[m->host].worker)
            continue;
        bool first = out->n_slices == 0;
        out->n_slices = p->n_slices;
        out->expert_slice = p->slice;
        out->expert_first = first ? p->expert_first : lesser(out->expert_first, p->expert_first);
        out->expert_end = greater(out->expert_end, p->expert_end);
        out->expert_layer_first =
            first ? p->layer_first : lesser(out->expert_layer_first, p->layer_first);
        out->expert_layer_end = greater(out->expert_layer_end, p->layer_end);
    }
}

static void describe_part(const struct coord_deployment *d, const struct coord_member *m,
                          struct coord_worker_status *out)
{
    out->weight_bytes = m->weight_bytes;
    out->kv_limit_bytes = m->kv_limit_bytes;
    out->scratch_bytes = m->scratch_bytes;
    out->done_bytes = m->done_bytes;
    out->total_bytes = m->total_bytes;
    describe_experts(d->plan, m, out);
    if (m->stage < 0)
        return;
    const struct shard_stage *stage = &d->plan->stages[m->stage];
    out->layer_first = stage->layer_first;
    out->layer_end = stage->layer_end;
    out->embed = stage->embed;
    out->head = stage->head;
}

/* The plan that people see: the one in force, while it works. */
static const struct coord_deployment *shown(const struct coord_engine *e)
{
    return engine__serving(e) || !e->next ? e->current : e->next;
}

static void describe_worker(const struct coord_engine *e, const struct coord_worker *w,
                            struct coord_worker_status *out)
{
    snprintf(out->name, sizeof out->name, "%s", w->name);
    snprintf(out->endpoint, sizeof out->endpoint, "%s", w->endpoint);
    snprintf(out->expert_endpoint, sizeof out->expert_endpoint, "%s", w->expert_endpoint);
    snprintf(out->isa, sizeof out->isa, "%s", w->isa);
    snprintf(out->state, sizeof out->state, "%s", state_name(e, w));
    out->local = w->local;
    out->threads = w->threads;
    out->memory_bytes = w->memory_bytes;
    out->rss_bytes = w->rss_bytes;
    out->stale_frames = w->stale_frames;
    out->rtt_ms = w->clock.best_rtt_ns < UINT64_MAX ? (double)w->clock.best_rtt_ns / 1e6 : 0;
    out->batches = w->batches;
    out->rows = w->rows;
    out->compute_ns = w->compute_ns;
    out->queue_ns = w->queue_ns;
    out->wire_ns = w->wire_ns;
    out->wire_back_ns = w->wire_back_ns;
    out->bytes_in = w->bytes_in;
    out->expert_wait_ns = w->expert_wait_ns;
    out->experts = w->experts;
    out->profiled = w->profiled;
    out->profile = w->profile;
    out->slowdown = w->pace.slowdown;
    const struct coord_deployment *d = shown(e);
    const struct coord_member *m = engine__member(d, w);
    if (m)
        describe_part(d, m, out);
}

static void describe_workers(const struct coord_engine *e, struct coord_status *out)
{
    const struct coord_deployment *d = shown(e);
    for (uint32_t i = 0; d && i < d->n_members; i++)
        describe_worker(e, d->members[i].worker, &out->workers[out->n_workers++]);
    for (uint32_t i = 0; i < e->n_workers; i++)
        if (!engine__member(d, e->workers[i]))
            describe_worker(e, e->workers[i], &out->workers[out->n_workers++]);
}

/* Members come first in the status, in the plan's order. */
static bool describe_parts(const struct coord_engine *e, struct coord_status *out)
{
    const struct coord_deployment *d = shown(e);
    uint32_t n = d ? d->plan->n_parts : 0;
    out->parts = calloc((size_t)n + 1, sizeof *out->parts);
    if (!out->parts)
        return false;
    for (uint32_t i = 0; i < n; i++) {
        const struct coord_worker *w = d->workers[d->plan->parts[i].worker];
        out->parts[i] = d->plan->parts[i];
        out->parts[i].worker = (uint32_t)(engine__member(d, w) - d->members);
    }
    out->n_parts = n;
    return true;
}

static void answer_status(void *arg)
{
    struct question *q = arg;
    struct coord_engine *e = q->e;
    struct coord_status *out = q->out;
    out->workers = calloc(e->n_workers + 1, sizeof *out->workers);
    if (!out->workers) {
        q->status = proto_fail_nomem(q->error, e->n_workers * sizeof *out->workers, "status");
        return;
    }
    size_t n_usage = (size_t)e->model->n_layers * e->model->n_experts;
    if (e->usage && (out->usage = malloc(n_usage * sizeof *out->usage))) {
        memcpy(out->usage, e->usage, n_usage * sizeof *out->usage);
        out->n_layers = e->model->n_layers;
        out->n_experts = e->model->n_experts;
    }
    snprintf(out->model, sizeof out->model, "%s", e->model->name);
    out->epoch = shown(e) ? shown(e)->epoch : e->epoch;
    out->ready = engine__serving(e);
    out->inexact = e->options.inexact;
    out->kv = e->options.kv;
    out->ctx = e->options.ctx;
    out->max_rows = e->options.batch;
    if (!out->ready)
        engine__describe_missing(e, out->missing, sizeof out->missing);
    describe_workers(e, out);
    out->speed = e->speed;
    out->caches = e->caches;
    if (shown(e))
        snprintf(out->plan, sizeof out->plan, "%s", shown(e)->plan->why);
    if (!engine__describe_links(e, out) || !describe_parts(e, out)) {
        coord_status_finish(out);
        q->status = proto_fail_nomem(q->error, sizeof *out->links, "status");
        return;
    }
    for (const struct coord_seq *seq = e->active; seq; seq = seq->next)
        out->active += !seq->finished;
    out->waiting = e->n_waiting;
    out->max_active = e->options.parallel;
    out->requests = e->requests;
    out->requests_failed = e->requests_failed;
    out->prompt_tokens = e->prompt_tokens;
    out->generated_tokens = e->generated_tokens;
    out->stale_frames = e->stale_frames;
    q->status = PROTO_OK;
}

enum proto_status coord_engine_status(struct coord_engine *e, struct coord_status *out,
                                      struct proto_error *error)
{
    struct question q = {.e = e, .out = out, .status = PROTO_NOMEM, .error = error};
    memset(out, 0, sizeof *out);
    engine__call(e, answer_status, &q);
    return q.status;
}

void coord_status_finish(struct coord_status *status)
{
    free(status->workers);
    free(status->links);
    free(status->parts);
    free(status->usage);
    memset(status, 0, sizeof *status);
}

static void reset_times(void *arg)
{
    struct coord_engine *e = arg;
    for (uint32_t i = 0; i < e->n_workers; i++) {
        struct coord_worker *w = e->workers[i];
        w->batches = w->rows = w->compute_ns = w->queue_ns = 0;
        w->wire_ns = w->wire_back_ns = w->bytes_in = w->expert_wait_ns = 0;
        memset(&w->experts, 0, sizeof w->experts);
    }
}

void coord_engine_reset_times(struct coord_engine *e)
{
    engine__call(e, reset_times, e);
}
