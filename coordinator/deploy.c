/* SPDX-License-Identifier: Apache-2.0 */
#include "coordinator/parts.h"

#include "coordinator/report.h"
#include "proto/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define REDRAW_MS 100u
#define PLAIN_MS  5000u /* between lines where standard error is no terminal */

/* ---- progress ---- */

/* False while a worker has not said yet how much it loads. */
static bool sum_progress(const struct coord_engine *e, uint64_t *done, uint64_t *total,
                         uint64_t *fetched)
{
    bool known = true;
    *done = *total = *fetched = 0;
    for (uint32_t i = 0; e->plan && i < e->plan->n_stages; i++) {
        *done += e->stages[i]->done_bytes;
        *total += e->stages[i]->total_bytes;
        *fetched += e->stages[i]->fetched_bytes;
        known &= e->stages[i]->total_bytes > 0;
    }
    return known;
}

static void show_progress(struct coord_engine *e)
{
    uint64_t now_ns = net_now_ns(), done, total, fetched;
    char done_text[16], total_text[16], fetched_text[16];
    bool terminal = isatty(STDERR_FILENO);
    uint64_t pause_ms = terminal ? REDRAW_MS : PLAIN_MS;
    if (!e->options.progress || now_ns - e->progress_ns < pause_ms * 1000000ull)
        return;
    if (!sum_progress(e, &done, &total, &fetched))
        return;
    e->progress_ns = now_ns;
    e->progress_shown = true;
    coord_format_bytes(done, done_text);
    coord_format_bytes(total, total_text);
    coord_format_bytes(fetched, fetched_text);
    fprintf(stderr, "%sloading: %3.0f%%  %s of %s on %u worker%s", terminal ? "\r" : "",
            total ? 100.0 * (double)done / (double)total : 0.0, done_text, total_text,
            e->plan->n_stages, e->plan->n_stages == 1 ? "" : "s");
    if (fetched)
        fprintf(stderr, ", %s over the network", fetched_text);
    fputs(terminal ? "\033[K" : "\n", stderr);
    fflush(stderr);
}

static void show_loaded(struct coord_engine *e)
{
    uint64_t done, total, fetched;
    char text[16];
    if (!e->options.progress)
        return;
    sum_progress(e, &done, &total, &fetched);
    coord_format_bytes(total, text);
    if (e->progress_shown && isatty(STDERR_FILENO))
        fputs("\r\033[K", stderr);
    fprintf(stderr, "loaded %s on %u worker%s in %.1f s\n", text, e->plan->n_stages,
            e->plan->n_stages == 1 ? "" : "s", (double)(net_now_ns() - e->deploy_ns) / 1e9);
}

/* ---- the plan ---- */

void engine__undeploy(struct coord_engine *e)
{
    for (uint32_t i = 0; i < e->n_workers; i++)
        e->workers[i]->stage = -1;
    shard_plan_destroy(e->plan);
    free(e->stages);
    e->plan = NULL;
    e->stages = NULL;
    e->state = COORD_WAITING;
    engine__set_ready(e, false);
}

/* Workers that are here: children first, then in the order of joining. */
static uint32_t gather_workers(struct coord_engine *e, struct coord_worker **out)
{
    uint32_t n = 0;
    for (int local = 1; local >= 0; local--)
        for (uint32_t i = 0; i < e->n_workers; i++)
            if (e->workers[i]->state != COORD_LOST && e->workers[i]->local == (local != 0))
                out[n++] = e->workers[i];
    return n;
}

/* Children join in the order in which they happen to start; their stages follow their names. */
static int by_name(const void *a, const void *b)
{
    const struct coord_worker *x = *(struct coord_worker *const *)a;
    const struct coord_worker *y = *(struct coord_worker *const *)b;
    size_t x_len = strlen(x->name), y_len = strlen(y->name);
    return x_len != y_len ? (x_len > y_len ? 1 : -1) : strcmp(x->name, y->name);
}

static enum proto_status make_plan(struct coord_engine *e, struct coord_worker **workers,
                                   uint32_t n, struct proto_error *error)
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
                                         .layers = e->layers};
    enum proto_status status = shard_plan_create(&e->plan, e->model, machines, n, &options, error);
    if (status != PROTO_OK)
        return status;
    e->stages = calloc(e->plan->n_stages, sizeof *e->stages);
    if (!e->stages)
        return proto_fail_nomem(error, e->plan->n_stages * sizeof *e->stages, "the plan");
    for (uint32_t i = 0; i < e->plan->n_stages; i++) {
        e->stages[i] = workers[e->plan->stages[i].worker];
        e->stages[i]->stage = (int)i;
    }
    return PROTO_OK;
}

static void leave_card(void *data, void *arg)
{
    (void)data;
    (void)arg;
}

/* files: the model's, which a worker of this machine reads itself. */
static enum proto_status send_load(struct coord_engine *e, uint32_t stage, char **files,
                                   struct proto_error *error)
{
    struct coord_worker *w = e->stages[stage];
    const struct shard_stage *part = &e->plan->stages[stage];
    bool last = stage + 1 == e->plan->n_stages;
    struct proto_msg msg = {.kind = PROTO_MSG_LOAD,
                            .load = {.epoch = e->epoch,
                                     .stage = stage,
                                     .n_stages = e->plan->n_stages,
                                     .layer_first = part->layer_first,
                                     .layer_end = part->layer_end,
                                     .embed = part->embed,
                                     .head = part->head,
                                     .kv_type = e->options.kv,
                                     .ctx = e->options.ctx,
                                     .max_seqs = e->options.parallel,
                                     .max_rows = e->options.batch,
                                     .inexact = e->options.inexact,
                                     .next_endpoint = last ? "" : e->stages[stage + 1]->endpoint}};
    memcpy(msg.load.previous_key, stage ? e->stages[stage - 1]->key : e->keys.pair.public_key,
           PROTO_KEY_BYTES);
    if (!last)
        memcpy(msg.load.next_key, e->stages[stage + 1]->key, PROTO_KEY_BYTES);
    if (w->local) {
        msg.load.files = files;
        msg.load.n_files = (uint32_t)shard_gguf_n_files(e->gguf);
    }
    /* The card lives as long as the engine, which outlives its links. */
    struct net_payload *card = net_payload_wrap(e->card, e->card_bytes, leave_card, NULL);
    if (!card)
        return proto_fail_nomem(error, e->card_bytes, "the model card");
    w->state = COORD_LOADING;
    w->done_bytes = w->total_bytes = w->fetched_bytes = 0;
    return engine__tell(w, &msg, &card, error);
}

static enum proto_status send_loads(struct coord_engine *e, struct proto_error *error)
{
    size_t n_files = shard_gguf_n_files(e->gguf);
    char **files = calloc(n_files, sizeof *files);
    enum proto_status status = PROTO_OK;
    if (!files)
        return proto_fail_nomem(error, n_files * sizeof *files, "file names");
    for (size_t i = 0; i < n_files; i++)
        files[i] = (char *)shard_gguf_path(e->gguf, i);
    for (uint32_t i = 0; i < e->plan->n_stages && status == PROTO_OK; i++)
        status = send_load(e, i, files, error);
    free(files);
    return status;
}

void engine__deploy(struct coord_engine *e)
{
    struct coord_worker *workers[PROTO_MAX_WORKERS];
    struct proto_error error;
    uint32_t n = gather_workers(e, workers);
    if (e->state != COORD_WAITING || n == 0 || n < e->options.local_workers + e->options.workers)
        return;
    qsort(workers, e->options.local_workers < n ? e->options.local_workers : n, sizeof *workers,
          by_name);
    /* An earlier failure is over. */
    pthread_mutex_lock(&e->mutex);
    e->failure.status = PROTO_OK;
    pthread_mutex_unlock(&e->mutex);
    e->epoch++;
    e->deploy_ns = net_now_ns();
    e->progress_ns = 0;
    e->progress_shown = false;
    enum proto_status status = make_plan(e, workers, n, &error);
    if (status == PROTO_OK) {
        e->state = COORD_DEPLOYING;
        status = send_loads(e, &error);
    }
    if (status != PROTO_OK) {
        engine__undeploy(e);
        engine__fail(e, &error);
    }
}

void engine__on_progress(struct coord_engine *e, struct coord_worker *w,
                         const struct proto_progress *progress)
{
    if (progress->epoch != e->epoch || e->state != COORD_DEPLOYING)
        return;
    w->done_bytes = progress->done_bytes;
    w->total_bytes = progress->total_bytes;
    w->fetched_bytes = progress->fetched_bytes;
    show_progress(e);
}

void engine__on_ready(struct coord_engine *e, struct coord_worker *w,
                      const struct proto_ready *ready)
{
    if (ready->epoch != e->epoch || e->state != COORD_DEPLOYING || w->stage < 0)
        return;
    w->state = COORD_READY;
    w->weight_bytes = ready->weight_bytes;
    w->kv_limit_bytes = ready->kv_limit_bytes;
    w->scratch_bytes = ready->scratch_bytes;
    for (uint32_t i = 0; i < e->plan->n_stages; i++)
        if (e->stages[i]->state != COORD_READY)
            return;
    e->state = COORD_SERVING;
    e->progressed_ns = net_now_ns();
    proto_log(PROTO_LOG_INFO, "COORD-SERVING", "epoch=%llu stages=%u", (unsigned long long)e->epoch,
              e->plan->n_stages);
    show_loaded(e);
    engine__set_ready(e, true);
    engine__schedule(e);
}
