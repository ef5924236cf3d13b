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
    for (uint32_t i = 0; i < e->n_members; i++) {
        *done += e->members[i]->done_bytes;
        *total += e->members[i]->total_bytes;
        *fetched += e->members[i]->fetched_bytes;
        known &= e->members[i]->total_bytes > 0;
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
            total ? 100.0 * (double)done / (double)total : 0.0, done_text, total_text, e->n_members,
            e->n_members == 1 ? "" : "s");
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
    fprintf(stderr, "loaded %s on %u worker%s in %.1f s\n", text, e->n_members,
            e->n_members == 1 ? "" : "s", (double)(net_now_ns() - e->deploy_ns) / 1e9);
}

/* ---- the plan ---- */

void engine__undeploy(struct coord_engine *e)
{
    for (uint32_t i = 0; i < e->n_workers; i++)
        e->workers[i]->stage = e->workers[i]->host = -1;
    shard_plan_destroy(e->plan);
    free(e->stages);
    free(e->hosts);
    free(e->members);
    e->plan = NULL;
    e->stages = e->hosts = e->members = NULL;
    e->n_members = 0;
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

void engine__describe_part(const struct coord_engine *e, const struct coord_worker *w, char *text,
                           size_t bytes)
{
    text[0] = 0;
    if (w->stage >= 0) {
        const struct shard_stage *stage = &e->plan->stages[w->stage];
        snprintf(text, bytes, "layers %u-%u", stage->layer_first, stage->layer_end - 1);
    }
    const struct shard_expert_part *part = e->plan->parts;
    for (uint32_t i = 0; i < e->plan->n_parts && w->host >= 0; i++, part++) {
        size_t used = strlen(text);
        if (part->worker != e->plan->hosts[w->host].worker || used + 1 >= bytes)
            continue;
        snprintf(text + used, bytes - used, "%sexperts %u-%u of layers %u-%u", used ? ", " : "",
                 part->expert_first, part->expert_end - 1, part->layer_first, part->layer_end - 1);
    }
}

/* The plan's workers, from their numbers in `workers`. */
static enum proto_status name_members(struct coord_engine *e, struct coord_worker **workers,
                                      struct proto_error *error)
{
    const struct shard_plan *plan = e->plan;
    size_t n = plan->n_stages + plan->n_hosts;
    e->stages = calloc(plan->n_stages, sizeof(struct coord_worker *));
    e->hosts = calloc(plan->n_hosts + 1, sizeof(struct coord_worker *));
    e->members = calloc(n, sizeof(struct coord_worker *));
    if (!e->stages || !e->hosts || !e->members)
        return proto_fail_nomem(error, n * sizeof *e->members, "the plan");
    for (uint32_t i = 0; i < plan->n_stages; i++) {
        e->stages[i] = e->members[e->n_members++] = workers[plan->stages[i].worker];
        e->stages[i]->stage = (int)i;
    }
    for (uint32_t i = 0; i < plan->n_hosts; i++) {
        e->hosts[i] = workers[plan->hosts[i].worker];
        e->hosts[i]->host = (int)i;
        if (e->hosts[i]->stage < 0)
            e->members[e->n_members++] = e->hosts[i];
    }
    return PROTO_OK;
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
                                         .layers = e->layers,
                                         .split = e->options.split,
                                         .stages = e->options.stages,
                                         .slices = e->options.slices,
                                         .replicas = e->options.replicas};
    enum proto_status status = shard_plan_create(&e->plan, e->model, machines, n, &options, error);
    return status == PROTO_OK ? name_members(e, workers, error) : status;
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
        status = engine__assign(e, &error);
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
    if (ready->epoch != e->epoch || e->state != COORD_DEPLOYING || (w->stage < 0 && w->host < 0))
        return;
    w->state = COORD_READY;
    w->weight_bytes = ready->weight_bytes;
    w->kv_limit_bytes = ready->kv_limit_bytes;
    w->scratch_bytes = ready->scratch_bytes;
    for (uint32_t i = 0; i < e->n_members; i++)
        if (e->members[i]->state != COORD_READY)
            return;
    e->state = COORD_SERVING;
    e->progressed_ns = net_now_ns();
    proto_log(PROTO_LOG_INFO, "COORD-SERVING", "epoch=%llu stages=%u hosts=%u",
              (unsigned long long)e->epoch, e->plan->n_stages, e->plan->n_hosts);
    show_loaded(e);
    engine__set_ready(e, true);
    engine__schedule(e);
}
