/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/loader.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define PROGRESS_MS 100u

/* What the thread is to do. */
struct worker_task {
    struct worker_task *next;
    struct worker_deployment *d;
    bool build; /* else to be disposed of */
    struct worker_deployment *before[WORKER_MAX_SLICES];
    uint32_t n_before, silence_ms;
};

struct worker_loader {
    struct worker_loader_options options;
    bool stopped; /* what is still posted is only freed */
    pthread_t thread;
    bool started;
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    struct worker_task *first, **last;
    bool stopping, drained;
    /* The thread's. */
    uint64_t epoch, progress_ns;
};

/* ---- the loading thread ---- */

struct note {
    struct worker_loader *loader;
    struct proto_msg msg;
};

/* On the loop's thread. */
static void send_note(void *arg)
{
    struct note *note = arg;
    if (!note->loader->stopped)
        note->loader->options.tell(note->loader->options.arg, &note->msg);
    free(note);
}

enum proto_status worker_loader_send(void *arg, const struct proto_msg *msg,
                                     struct proto_error *error)
{
    struct worker_loader *loader = arg;
    struct note *note = malloc(sizeof *note);
    if (note)
        *note = (struct note){.loader = loader, .msg = *msg};
    if (!note || net_loop_post(loader->options.loop, send_note, note) != PROTO_OK) {
        free(note);
        return proto_fail_nomem(error, sizeof *note, "a message");
    }
    return PROTO_OK;
}

static void post_progress(void *arg, uint64_t done, uint64_t total, uint64_t fetched)
{
    struct worker_loader *loader = arg;
    uint64_t now_ns = net_now_ns();
    if (done < total && now_ns - loader->progress_ns < PROGRESS_MS * 1000000ull)
        return;
    loader->progress_ns = now_ns;
    struct proto_msg msg = {.kind = PROTO_MSG_PROGRESS,
                            .progress = {.epoch = loader->epoch,
                                         .done_bytes = done,
                                         .total_bytes = total,
                                         .fetched_bytes = fetched}};
    worker_loader_send(loader, &msg, NULL);
}

static enum proto_status build_slice(struct worker_loader *loader, const struct worker_task *task,
                                     struct proto_error *error)
{
    const struct worker_loader_options *o = &loader->options;
    struct worker_deployment *d = task->d;
    struct worker_fetch fetch = worker_fetcher_calls(d->fetcher);
    struct worker_slice_options how = {.table = o->table,
                                       .compute_pool = worker_compute_pool(o->compute),
                                       .remote = worker_asker_calls(d->asker),
                                       .threads = o->threads,
                                       .cache_dir = o->cache_dir,
                                       .keep_packed = o->keep_packed,
                                       .memory_bytes = o->memory_bytes,
                                       .cache_limit_bytes = o->cache_limit_bytes,
                                       .supply = o->supply,
                                       .boundary_bytes = o->boundary_bytes,
                                       .fetch = &fetch,
                                       .progress = post_progress,
                                       .progress_arg = loader,
                                       .cancel = &d->cancel};
    for (uint32_t i = 0; i < task->n_before; i++)
        if (task->before[i]->slice)
            how.before[how.n_before++] = task->before[i]->slice;
    return worker_slice_create(&d->slice, &d->msg.load, net_payload_data(d->card),
                               net_payload_len(d->card), &how, error);
}

static enum proto_status build(struct worker_loader *loader, const struct worker_task *task,
                               struct proto_error *error)
{
    const struct worker_loader_options *o = &loader->options;
    struct worker_deployment *d = task->d;
    const struct proto_load *load = &d->msg.load;
    if (atomic_load(&d->cancel))
        return proto_fail(error, PROTO_CANCELLED, "cancelled");
    loader->epoch = load->epoch;
    /* First of all: stages wait for the answer that they are known. */
    enum proto_status status = worker_expert_server_expect(o->experts, load, error);
    worker_compute_hold(o->compute);
    if (status == PROTO_OK)
        status = build_slice(loader, task, error);
    worker_compute_let_go(o->compute);
    if (status != PROTO_OK)
        return status;
    worker_expert_server_serve(o->experts, load->epoch, d->slice->host);
    return worker_asker_connect(d->asker, load, task->silence_ms, &d->cancel, error);
}

static void take_down(struct worker_loader *loader, struct worker_deployment *d)
{
    worker_expert_server_forget(loader->options.experts, d->msg.load.epoch);
    worker_deployment_destroy(d);
}

struct built {
    struct worker_loader *loader;
    uint64_t epoch;
    enum proto_status status;
    struct proto_error error;
};

/* On the loop's thread. */
static void say_built(void *arg)
{
    struct built *built = arg;
    const struct worker_loader_options *o = &built->loader->options;
    if (!built->loader->stopped)
        o->done(o->arg, built->epoch, built->status, &built->error);
    free(built);
}

static void run_task(struct worker_loader *loader, const struct worker_task *task)
{
    if (!task->build) {
        take_down(loader, task->d);
        return;
    }
    struct built *built = calloc(1, sizeof *built);
    if (!built)
        return; /* the coordinator's patience says the rest */
    built->loader = loader;
    built->epoch = task->d->msg.load.epoch;
    built->status = build(loader, task, &built->error);
    if (net_loop_post(loader->options.loop, say_built, built) != PROTO_OK)
        free(built);
}

static struct worker_task *next_task(struct worker_loader *loader)
{
    pthread_mutex_lock(&loader->mutex);
    while (!loader->first && !loader->stopping)
        pthread_cond_wait(&loader->changed, &loader->mutex);
    struct worker_task *task = loader->stopping ? NULL : loader->first;
    if (task) {
        loader->first = task->next;
        if (!loader->first)
            loader->last = &loader->first;
    }
    pthread_mutex_unlock(&loader->mutex);
    return task;
}

static void *loader_main(void *arg)
{
    struct worker_loader *loader = arg;
    struct worker_task *task;
    while ((task = next_task(loader))) {
        run_task(loader, task);
        free(task);
    }
    return NULL;
}

/* ---- life ---- */

enum proto_status worker_loader_create(struct worker_loader **out,
                                       const struct worker_loader_options *options,
                                       struct proto_error *error)
{
    struct worker_loader *loader = calloc(1, sizeof *loader);
    if (!loader)
        return proto_fail_nomem(error, sizeof *loader, "the loader");
    loader->options = *options;
    loader->last = &loader->first;
    pthread_mutex_init(&loader->mutex, NULL);
    pthread_cond_init(&loader->changed, NULL);
    int rc = pthread_create(&loader->thread, NULL, loader_main, loader);
    loader->started = rc == 0;
    if (rc) {
        worker_loader_destroy(loader);
        return proto_fail_errno(error, rc, "start", "the loading thread");
    }
    *out = loader;
    return PROTO_OK;
}

void worker_loader_stop(struct worker_loader *loader)
{
    if (!loader || loader->stopped)
        return;
    loader->stopped = true;
    pthread_mutex_lock(&loader->mutex);
    loader->stopping = true;
    pthread_cond_signal(&loader->changed);
    pthread_mutex_unlock(&loader->mutex);
    if (loader->started)
        pthread_join(loader->thread, NULL);
    pthread_mutex_lock(&loader->mutex);
    struct worker_task *left = loader->first;
    loader->first = NULL;
    loader->drained = true;
    pthread_mutex_unlock(&loader->mutex);
    while (left) {
        struct worker_task *task = left;
        left = task->next;
        if (!task->build)
            take_down(loader, task->d);
        free(task);
    }
}

void worker_loader_destroy(struct worker_loader *loader)
{
    if (!loader)
        return;
    pthread_cond_destroy(&loader->changed);
    pthread_mutex_destroy(&loader->mutex);
    free(loader);
}

/* ---- tasks ---- */

/* False when there is nobody any more to do it. */
static bool add_task(struct worker_loader *loader, struct worker_task *task)
{
    pthread_mutex_lock(&loader->mutex);
    bool taken = !loader->drained;
    if (taken) {
        *loader->last = task;
        loader->last = &task->next;
        pthread_cond_signal(&loader->changed);
    }
    pthread_mutex_unlock(&loader->mutex);
    return taken;
}

enum proto_status worker_loader_build(struct worker_loader *loader, struct worker_deployment *d,
                                      struct worker_deployment *const *before, uint32_t n_before,
                                      uint32_t silence_ms, struct proto_error *error)
{
    struct worker_task *task = calloc(1, sizeof *task);
    d->burial = calloc(1, sizeof *d->burial);
    if (!task || !d->burial) {
        free(task);
        free(d->burial);
        d->burial = NULL;
        return proto_fail_nomem(error, sizeof *task, "a load");
    }
    d->burial->d = task->d = d;
    task->build = true;
    task->silence_ms = silence_ms;
    task->n_before = n_before;
    memcpy(task->before, before, n_before * sizeof(struct worker_deployment *));
    add_task(loader, task);
    return PROTO_OK;
}

void worker_loader_dispose(struct worker_loader *loader, struct worker_deployment *d)
{
    struct worker_task *task = d->burial;
    if (task && add_task(loader, task))
        return;
    take_down(loader, d);
    free(task);
}
