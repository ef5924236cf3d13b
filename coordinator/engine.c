/* SPDX-License-Identifier: Apache-2.0 */
#include "coordinator/parts.h"

#include "proto/log.h"

#include <limits.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define TICK_MS             100u
#define RETRY_S             3u /* from a load that failed to the next; twice that after the second */
#define RETRY_MOST_S        60u
#define DEFAULT_DEADLINE_MS 2000u
#define DEFAULT_CTX         8192u
#define DEFAULT_BATCH       512u
#define DEFAULT_PARALLEL    4u
#define MEASURE_BYTES       (512u << 20)
#define MEASURE_DEADLINE_S  60

/* ---- calls from other threads ---- */

struct call {
    void (*fn)(void *arg);
    void *arg;
    pthread_mutex_t mutex;
    pthread_cond_t done_cond;
    bool done;
};

static void run_call(void *arg)
{
    struct call *call = arg;
    call->fn(call->arg);
    pthread_mutex_lock(&call->mutex);
    call->done = true;
    pthread_cond_signal(&call->done_cond);
    pthread_mutex_unlock(&call->mutex);
}

void engine__call(struct coord_engine *e, void (*fn)(void *arg), void *arg)
{
    struct call call = {.fn = fn, .arg = arg};
    pthread_mutex_init(&call.mutex, NULL);
    pthread_cond_init(&call.done_cond, NULL);
    if (net_loop_post(e->loop, run_call, &call) == PROTO_OK) {
        pthread_mutex_lock(&call.mutex);
        while (!call.done)
            pthread_cond_wait(&call.done_cond, &call.mutex);
        pthread_mutex_unlock(&call.mutex);
    }
    pthread_cond_destroy(&call.done_cond);
    pthread_mutex_destroy(&call.mutex);
}

void engine__set_ready(struct coord_engine *e, bool ready)
{
    pthread_mutex_lock(&e->mutex);
    e->ready = ready;
    e->was_ready |= ready;
    if (ready) {
        e->failure.status = PROTO_OK;
        e->retries = e->same_failures = 0;
    }
    pthread_cond_broadcast(&e->changed);
    pthread_mutex_unlock(&e->mutex);
}

static bool is_power_of_two(uint32_t n)
{
    return (n & (n - 1)) == 0;
}

void engine__retry_later(struct coord_engine *e, const struct proto_error *error)
{
    uint32_t delay_s = RETRY_S;
    e->same_failures = strcmp(e->last_failure, error->text) == 0 ? e->same_failures + 1 : 1;
    snprintf(e->last_failure, sizeof e->last_failure, "%s", error->text);
    for (uint32_t i = 0; i < e->retries && delay_s < RETRY_MOST_S; i++)
        delay_s *= 2;
    delay_s = delay_s < RETRY_MOST_S ? delay_s : RETRY_MOST_S;
    e->retries++;
    e->retry_ns = net_now_ns() + delay_s * 1000000000ull;
    if (is_power_of_two(e->same_failures))
        proto_log(PROTO_LOG_WARN, "COORD-FAILED", "error=\"%s\" times=%u next_try_s=%u",
                  error->text, e->same_failures, delay_s);
}

void engine__fail(struct coord_engine *e, const struct proto_error *error)
{
    pthread_mutex_lock(&e->mutex);
    /* Who waits for the first load says it, and decides. */
    if (e->was_ready)
        engine__retry_later(e, error);
    e->failure = *error;
    pthread_cond_broadcast(&e->changed);
    pthread_mutex_unlock(&e->mutex);
}

enum proto_status coord_engine_wait_ready(struct coord_engine *e, struct proto_error *error)
{
    enum proto_status status = PROTO_OK;
    pthread_mutex_lock(&e->mutex);
    while (!e->ready && !e->interrupted && e->failure.status == PROTO_OK)
        pthread_cond_wait(&e->changed, &e->mutex);
    if (e->interrupted)
        status = proto_fail(error, PROTO_CANCELLED, "interrupted");
    else if (!e->ready)
        status = proto_fail(error, e->failure.status, "%s", e->failure.text);
    pthread_mutex_unlock(&e->mutex);
    return status;
}

static void interrupt_all(void *arg)
{
    struct coord_engine *e = arg;
    struct proto_error error = {PROTO_CANCELLED, "interrupted"};
    struct coord_event event = {.kind = COORD_EVENT_FAILED, .error = error};
    for (struct coord_seq *seq = e->active; seq; seq = seq->next)
        engine__finish_seq(e, seq, &event);
    engine__schedule(e);
}

void coord_engine_interrupt(struct coord_engine *e)
{
    pthread_mutex_lock(&e->mutex);
    e->interrupted = true;
    pthread_cond_broadcast(&e->changed);
    pthread_mutex_unlock(&e->mutex);
    net_loop_post(e->loop, interrupt_all, e);
}

/* ---- time ---- */

static void retry(struct coord_engine *e, uint64_t now_ns)
{
    if (!e->retry_ns || now_ns < e->retry_ns)
        return;
    e->retry_ns = 0;
    engine__replan(e);
}

static void on_tick(void *arg)
{
    struct coord_engine *e = arg;
    uint64_t now_ns = net_now_ns();
    retry(e, now_ns);
    engine__ping_workers(e, now_ns);
    engine__usage_tick(e, now_ns);
    engine__tick_children(e, now_ns);
    engine__check_batches(e, now_ns);
    engine__check_commit(e, now_ns);
    engine__check_patience(e, now_ns);
    engine__survey_tick(e, now_ns);
    engine__pace_tick(e, now_ns);
    engine__rebalance_tick(e, now_ns);
    engine__schedule(e);
}

static void *loop_main(void *arg)
{
    struct coord_engine *e = arg;
    net_loop_run(e->loop);
    return NULL;
}

/* ---- life ---- */

static void set_defaults(struct coord_engine *e)
{
    struct coord_engine_options *o = &e->options;
    uint32_t model_ctx = e->model->n_ctx;
    if (o->deadline_ms == 0)
        o->deadline_ms = DEFAULT_DEADLINE_MS;
    if (o->batch == 0)
        o->batch = DEFAULT_BATCH;
    if (o->ctx == 0) {
        uint64_t wish = o->ctx_needed > DEFAULT_CTX ? o->ctx_needed : DEFAULT_CTX;
        uint32_t most = model_ctx && model_ctx < PROTO_MAX_CONTEXT ? model_ctx : PROTO_MAX_CONTEXT;
        o->ctx = wish < most ? (uint32_t)wish : most;
    }
    if (o->parallel == 0) {
        uint32_t workers = o->local_workers + o->workers;
        o->parallel = workers > DEFAULT_PARALLEL ? workers : DEFAULT_PARALLEL;
    }
}

static enum proto_status check_options(const struct coord_engine *e, struct proto_error *error)
{
    const struct coord_engine_options *o = &e->options;
    if (o->local_workers + o->workers == 0)
        return proto_fail(error, PROTO_INVALID, "no workers: say --local-workers N or --workers N");
    if (o->local_workers + o->workers > PROTO_MAX_WORKERS)
        return proto_fail(error, PROTO_INVALID, "%u workers: at most %u are supported",
                          o->local_workers + o->workers, PROTO_MAX_WORKERS);
    if (o->workers && !o->listen)
        return proto_fail(error, PROTO_INVALID,
                          "--workers %u: no address is known where they may join; say "
                          "--worker-listen HOST:PORT",
                          o->workers);
    if (o->batch > PROTO_MAX_BATCH_ROWS)
        return proto_fail(error, PROTO_INVALID, "--batch %u: at most %u", o->batch,
                          PROTO_MAX_BATCH_ROWS);
    if (o->parallel > PROTO_MAX_SEQUENCES)
        return proto_fail(error, PROTO_INVALID, "--parallel %u: at most %u", o->parallel,
                          PROTO_MAX_SEQUENCES);
    if (e->model->n_ctx && o->ctx > e->model->n_ctx)
        return proto_fail(error, PROTO_INVALID,
                          "--ctx %u: the model was made for contexts of at most %u", o->ctx,
                          e->model->n_ctx);
    return PROTO_OK;
}

static char *copy_text(const char *text)
{
    return text ? strdup(text) : NULL;
}

/* The worker program that was built with this one. */
static char *worker_beside_us(void)
{
    char path[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", path, sizeof path - 1);
    if (n <= 0)
        return strdup("caravan-worker");
    path[n] = 0;
    char *slash = strrchr(path, '/');
    size_t room = sizeof path - (size_t)(slash + 1 - path);
    snprintf(slash + 1, room, "caravan-worker");
    return strdup(path);
}

static enum proto_status copy_options(struct coord_engine *e,
                                      const struct coord_engine_options *options,
                                      struct proto_error *error)
{
    e->options = *options;
    e->model_path = copy_text(options->model_path);
    e->synthetic_shape = copy_text(options->synthetic);
    e->worker_path = options->worker_path ? strdup(options->worker_path) : worker_beside_us();
    e->layers = copy_text(options->layers);
    e->isa = copy_text(options->isa);
    e->cache_dir = copy_text(options->cache_dir);
    if (options->keys) {
        e->keys = *options->keys;
        return PROTO_OK;
    }
    return net_cluster_keys_generate(&e->keys, "", error);
}

/* The model's file, or the header of a model without one. */
static enum proto_status open_header(struct coord_engine *e, const struct shard_gguf **out,
                                     struct proto_error *error)
{
    enum proto_status status =
        e->synthetic_shape ? shard_synthetic_create(&e->synthetic, e->synthetic_shape, error)
                           : shard_gguf_open(&e->gguf, e->model_path, error);
    if (status == PROTO_OK)
        *out = e->synthetic ? shard_synthetic_gguf(e->synthetic) : e->gguf;
    return status;
}

static enum proto_status open_model(struct coord_engine *e, struct proto_error *error)
{
    const struct shard_gguf *header = NULL;
    enum proto_status status;
    if ((status = open_header(e, &header, error)) ||
        (status = shard_model_create(&e->model, header, error)) ||
        (status = text_vocab_create(&e->vocab, header, error)) ||
        (status = text_chat_create(&e->chat, header, e->vocab, error)) ||
        (status = shard_gguf_card(header, &e->card, &e->card_bytes, error)))
        return status;
    if (text_vocab_size(e->vocab) != e->model->n_vocab)
        return proto_fail(error, PROTO_FORMAT,
                          "%s: %u tokens in the vocabulary, but token_embd has %u rows",
                          shard_gguf_path(header, 0), text_vocab_size(e->vocab), e->model->n_vocab);
    return PROTO_OK;
}

static enum proto_status make_slots(struct coord_engine *e, struct proto_error *error)
{
    e->slot_used = calloc(e->options.parallel, sizeof *e->slot_used);
    e->drops = calloc(e->options.parallel, sizeof *e->drops);
    return e->slot_used && e->drops
               ? PROTO_OK
               : proto_fail_nomem(error, e->options.parallel * 5ull, "sequence slots");
}

static enum proto_status open_ports(struct coord_engine *e, struct proto_error *error)
{
    enum proto_status status = PROTO_OK;
    char endpoint[96];
    if (e->options.local_workers) {
        snprintf(endpoint, sizeof endpoint, "ipc://@caravan-%ld-%llx", (long)getpid(),
                 (unsigned long long)net_now_ns());
        e->inner.local = true;
        status = engine__open_port(e, &e->inner, endpoint, error);
    }
    if (status == PROTO_OK && e->options.listen) {
        status = engine__open_port(e, &e->outer, e->options.listen, error);
        if (status == PROTO_OK && e->gguf) /* workers make synthetic weights themselves */
            status = engine__supply_create(&e->supply, e, error);
    }
    return status;
}

static enum proto_status start(struct coord_engine *e, struct proto_error *error)
{
    enum proto_status status;
    if ((status = net_loop_create(&e->loop, error)) || (status = open_ports(e, error)) ||
        (status = net_timer_create(&e->timer, e->loop, TICK_MS, on_tick, e, error)) ||
        (e->options.local_workers && (status = engine__start_children(e, error))))
        return status;
    int rc = pthread_create(&e->thread, NULL, loop_main, e);
    e->thread_started = rc == 0;
    return rc ? proto_fail_errno(error, rc, "start", "the engine's thread") : PROTO_OK;
}

enum proto_status coord_engine_create(struct coord_engine **out,
                                      const struct coord_engine_options *options,
                                      struct proto_error *error)
{
    struct coord_engine *e = calloc(1, sizeof *e);
    enum proto_status status;
    if (!e)
        return proto_fail_nomem(error, sizeof *e, "the engine");
    pthread_mutex_init(&e->mutex, NULL);
    pthread_cond_init(&e->changed, NULL);
    e->waiting_last = &e->waiting;
    e->active_last = &e->active;
    e->batches_last = &e->batches;
    e->next_batch = 1;
    e->epoch = options->first_epoch;
    if ((status = copy_options(e, options, error)) || (status = open_model(e, error)))
        goto fail;
    set_defaults(e);
    if ((status = check_options(e, error)) || (status = make_slots(e, error)) ||
        (status = engine__usage_create(e, error)) ||
        (status = engine__recall(e, options->memory, error)) || (status = start(e, error)))
        goto fail;
    *out = e;
    return PROTO_OK;
fail:
    coord_engine_destroy(e);
    return status;
}

static void begin_stop(void *arg)
{
    struct coord_engine *e = arg;
    struct proto_error error = {PROTO_CANCELLED, "the coordinator is stopping"};
    struct proto_msg bye = {.kind = PROTO_MSG_BYE};
    e->stopping = true;
    engine__fail_all(e, &error);
    for (uint32_t i = 0; i < e->n_workers; i++)
        if (engine__is_here(e->workers[i]))
            engine__tell(e->workers[i], &bye, NULL, NULL);
    net_loop_stop(e->loop);
}

static void free_parts(struct coord_engine *e)
{
    for (uint32_t i = 0; i < e->n_workers; i++) {
        engine__supply_have(e->workers[i], NULL);
        free(e->workers[i]);
    }
    engine__deployment_destroy(e->current);
    engine__deployment_destroy(e->next);
    shard_plan_destroy(e->last_plan);
    plan_shape_destroy(e->shape);
    free(e->usage);
    free(e->slot_used);
    free(e->drops);
    free(e->card);
    text_chat_destroy(e->chat);
    text_vocab_destroy(e->vocab);
    shard_model_destroy(e->model);
    shard_gguf_close(e->gguf);
    shard_synthetic_destroy(e->synthetic);
    free(e->model_path);
    free(e->synthetic_shape);
    free(e->worker_path);
    free(e->layers);
    free(e->isa);
    free(e->cache_dir);
}

void coord_engine_destroy(struct coord_engine *e)
{
    if (!e)
        return;
    if (e->thread_started) {
        net_loop_post(e->loop, begin_stop, e);
        pthread_join(e->thread, NULL);
    }
    e->stopping = true;
    engine__end_children(e);
    engine__supply_destroy(e->supply);
    net_timer_destroy(e->timer);
    net_link_destroy(e->inner.link, 0);
    net_link_destroy(e->outer.link, 200);
    net_loop_destroy(e->loop);
    free_parts(e);
    pthread_cond_destroy(&e->changed);
    pthread_mutex_destroy(&e->mutex);
    free(e);
}

/* ---- what is constant ---- */

const struct text_vocab *coord_engine_vocab(const struct coord_engine *e)
{
    return e->vocab;
}

const struct text_chat *coord_engine_chat(const struct coord_engine *e)
{
    return e->chat;
}

const struct shard_model *coord_engine_model(const struct coord_engine *e)
{
    return e->model;
}

uint32_t coord_engine_ctx(const struct coord_engine *e)
{
    return e->options.ctx;
}

void coord_engine_fingerprint(const struct coord_engine *e, char text[2 * PROTO_HASH_BYTES + 1])
{
    uint8_t hash[PROTO_HASH_BYTES];
    crypto_generichash(hash, sizeof hash, e->card, e->card_bytes, NULL, 0);
    sodium_bin2hex(text, 2 * PROTO_HASH_BYTES + 1, hash, sizeof hash);
}

const char *coord_engine_endpoint(const struct coord_engine *e)
{
    return e->outer.link ? net_link_endpoint(e->outer.link) : "";
}

/* ---- measuring ---- */

struct question {
    struct coord_engine *e;
    enum proto_status status;
    struct proto_error *error;
};

static void ask_measure(void *arg)
{
    struct question *q = arg;
    struct proto_msg msg = {.kind = PROTO_MSG_MEASURE, .measure = {.bytes = MEASURE_BYTES}};
    if (!engine__serving(q->e))
        q->status = proto_fail(q->error, PROTO_LOST, "the model is not loaded");
    else
        q->status = engine__tell(q->e->current->stages[0], &msg, NULL, q->error);
}

enum proto_status coord_engine_read_bandwidth(struct coord_engine *e, double *bytes_s,
                                              struct proto_error *error)
{
    struct question q = {.e = e, .status = PROTO_NOMEM, .error = error};
    struct timespec deadline;
    pthread_mutex_lock(&e->mutex);
    e->measured = -1;
    pthread_mutex_unlock(&e->mutex);
    engine__call(e, ask_measure, &q);
    if (q.status != PROTO_OK)
        return q.status;
    clock_gettime(CLOCK_REALTIME, &deadline);
    deadline.tv_sec += MEASURE_DEADLINE_S;
    int rc = 0;
    pthread_mutex_lock(&e->mutex);
    while (e->measured < 0 && e->ready && !e->interrupted && rc == 0)
        rc = pthread_cond_timedwait(&e->changed, &e->mutex, &deadline);
    *bytes_s = e->measured;
    pthread_mutex_unlock(&e->mutex);
    return *bytes_s > 0 ? PROTO_OK
                        : proto_fail(error, PROTO_TIMEOUT,
                                     "the first worker did not measure its memory's speed");
}
