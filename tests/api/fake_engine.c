/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/api/fake_engine.h"
#include "tests/api/fake_vocab.h"

#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define N_VOCAB   FAKE_N_VOCAB
#define MAX_SEEDS 1024
#define MAX_SAID  1024
#define EOS       FAKE_EOS

struct coord_engine {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct text_vocab *vocab;
    struct text_chat *chat;
    struct shard_model model;
    int32_t said[MAX_SAID]; /* what streams write, again and again; an end token is last */
    size_t n_said;
    char *prompt; /* text of the last request's ids */
    enum proto_status refuse, fail;
    unsigned fail_after, stall_after;
    bool ready;
    unsigned submitted, destroyed;
    uint64_t seeds[MAX_SEEDS];
    struct coord_request request;
};

struct coord_stream {
    struct coord_engine *engine;
    struct coord_request request; /* ids: not to be used */
    unsigned step, sent;
    float row[N_VOCAB];
    bool over;
    pthread_t thread; /* of one that hands its events over */
    atomic_bool destroyed;
};

static const int32_t canned[] = {
    FAKE_HELLO, FAKE_HELLO + 1, FAKE_HELLO + 2, FAKE_HELLO + 3, 3 + 0xc3, 3 + 0xa9, EOS};
#define N_CANNED (sizeof canned / sizeof canned[0])

struct coord_engine *fake_engine_create(void)
{
    struct coord_engine *e = calloc(1, sizeof *e);
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_mutex_init(&e->lock, NULL);
    pthread_cond_init(&e->changed, &attr);
    pthread_condattr_destroy(&attr);
    e->ready = true;
    e->stall_after = UINT_MAX;
    snprintf(e->model.name, sizeof e->model.name, FAKE_MODEL);
    e->model.n_vocab = N_VOCAB;
    e->model.n_ctx = 4096;
    e->model.output = -1; /* no tensors */
    memcpy(e->said, canned, sizeof canned);
    e->n_said = N_CANNED;
    if (fake_engine_set_template(e, NULL))
        return e;
    coord_engine_destroy(e);
    return NULL;
}

void coord_engine_destroy(struct coord_engine *e)
{
    if (!e)
        return;
    text_chat_destroy(e->chat);
    text_vocab_destroy(e->vocab);
    free(e->prompt);
    pthread_mutex_destroy(&e->lock);
    pthread_cond_destroy(&e->changed);
    free(e);
}

void fake_engine_refuse(struct coord_engine *e, enum proto_status status)
{
    pthread_mutex_lock(&e->lock);
    e->refuse = status;
    pthread_mutex_unlock(&e->lock);
}

void fake_engine_fail_after(struct coord_engine *e, unsigned n, enum proto_status status)
{
    pthread_mutex_lock(&e->lock);
    e->fail = status;
    e->fail_after = n;
    pthread_mutex_unlock(&e->lock);
}

void fake_engine_stall_after(struct coord_engine *e, unsigned n)
{
    pthread_mutex_lock(&e->lock);
    e->stall_after = n;
    pthread_cond_broadcast(&e->changed);
    pthread_mutex_unlock(&e->lock);
}

void fake_engine_set_ready(struct coord_engine *e, bool ready)
{
    pthread_mutex_lock(&e->lock);
    e->ready = ready;
    pthread_mutex_unlock(&e->lock);
}

unsigned fake_engine_streams(struct coord_engine *e)
{
    pthread_mutex_lock(&e->lock);
    unsigned n = e->submitted;
    pthread_mutex_unlock(&e->lock);
    return n;
}

uint64_t fake_engine_seed(struct coord_engine *e, unsigned i)
{
    pthread_mutex_lock(&e->lock);
    uint64_t seed = e->seeds[i % MAX_SEEDS];
    pthread_mutex_unlock(&e->lock);
    return seed;
}

struct coord_request fake_engine_request(struct coord_engine *e)
{
    pthread_mutex_lock(&e->lock);
    struct coord_request request = e->request;
    pthread_mutex_unlock(&e->lock);
    return request;
}

static struct timespec after_ms(long ms)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    t.tv_sec += ms / 1000;
    t.tv_nsec += ms % 1000 * 1000000;
    if (t.tv_nsec >= 1000000000) {
        t.tv_sec++;
        t.tv_nsec -= 1000000000;
    }
    return t;
}

bool fake_engine_wait_streams(struct coord_engine *e, unsigned streams)
{
    struct timespec end = after_ms(20000);
    pthread_mutex_lock(&e->lock);
    while (e->submitted < streams && !pthread_cond_timedwait(&e->changed, &e->lock, &end))
        ;
    bool ok = e->submitted >= streams;
    pthread_mutex_unlock(&e->lock);
    return ok;
}

bool fake_engine_wait_idle(struct coord_engine *e)
{
    struct timespec end = after_ms(20000);
    pthread_mutex_lock(&e->lock);
    while (e->destroyed < e->submitted && !pthread_cond_timedwait(&e->changed, &e->lock, &end))
        ;
    bool ok = e->destroyed == e->submitted;
    pthread_mutex_unlock(&e->lock);
    return ok;
}

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
    return &e->model;
}

uint32_t coord_engine_ctx(const struct coord_engine *e)
{
    return e->model.n_ctx;
}

char *coord_engine_memory(struct coord_engine *e)
{
    (void)e;
    return strdup("worker of a fake engine\n");
}

void coord_engine_reset_times(struct coord_engine *e)
{
    (void)e;
}

enum proto_status coord_engine_read_bandwidth(struct coord_engine *e, double *bytes_s,
                                              struct proto_error *error)
{
    *bytes_s = 1e10;
    return e->ready ? PROTO_OK : proto_fail(error, PROTO_LOST, "the model is not loaded");
}

static void keep_prompt(struct coord_engine *e, const struct coord_request *request)
{
    struct proto_error error;
    size_t len;
    free(e->prompt);
    e->prompt = NULL;
    text_decode(e->vocab, request->ids, request->n_ids, true, &e->prompt, &len, &error);
}

const char *fake_engine_prompt(struct coord_engine *e)
{
    pthread_mutex_lock(&e->lock);
    const char *prompt = e->prompt ? e->prompt : "";
    pthread_mutex_unlock(&e->lock);
    return prompt;
}

bool fake_engine_set_template(struct coord_engine *e, const char *source)
{
    struct proto_error error = {0};
    fake_engine_wait_idle(e);
    text_chat_destroy(e->chat);
    text_vocab_destroy(e->vocab);
    e->chat = NULL;
    e->vocab = NULL;
    if (!fake_vocab_create(&e->vocab, &e->chat, source, &error))
        return true;
    fprintf(stderr, "fake vocabulary: %s\n", error.text);
    return false;
}

void fake_engine_say(struct coord_engine *e, const char *text)
{
    fake_engine_wait_idle(e);
    e->n_said = 0;
    while (text && *text && e->n_said < MAX_SAID - 1) {
        size_t len;
        e->said[e->n_said++] = fake_vocab_next(text, &len);
        text += len;
    }
    e->said[e->n_said++] = EOS;
    if (text)
        return;
    memcpy(e->said, canned, sizeof canned);
    e->n_said = N_CANNED;
}

static void *hand_over(void *user)
{
    struct coord_stream *s = user;
    struct coord_event event;
    bool more = true;
    while (more && !s->over && !atomic_load(&s->destroyed))
        if (coord_stream_next(s, &event, 10))
            more = s->request.on_event(s->request.user, &event);
    return NULL;
}

/* A stream goes on after what was generated before. */
static void go_on(struct coord_stream *s)
{
    if (s->request.sampler)
        s->step = (unsigned)s->request.sampler->random;
}

enum proto_status coord_engine_submit(struct coord_engine *e, const struct coord_request *request,
                                      struct coord_stream **out, struct proto_error *error)
{
    pthread_mutex_lock(&e->lock);
    enum proto_status refuse = e->refuse;
    if (!refuse) {
        e->seeds[e->submitted++ % MAX_SEEDS] = request->sampling.seed;
        e->request = *request;
        e->request.ids = NULL;
        keep_prompt(e, request);
    }
    pthread_cond_broadcast(&e->changed);
    pthread_mutex_unlock(&e->lock);
    if (refuse)
        return proto_fail(error, refuse, "refused as told: %s", proto_status_text(refuse));
    struct coord_stream *s = calloc(1, sizeof *s);
    s->engine = e;
    s->request = *request;
    s->request.ids = NULL;
    s->step = request->sampling.seed % 2;
    go_on(s);
    if (request->on_event)
        pthread_create(&s->thread, NULL, hand_over, s);
    *out = s;
    return PROTO_OK;
}

static void done(struct coord_stream *s, struct coord_event *event, enum coord_finish finish)
{
    event->kind = COORD_EVENT_DONE;
    event->finish = finish;
    event->n_generated = s->sent;
    event->prompt_ns = 500000000;
    event->decode_ns = 2000000000;
    s->over = true;
}

static void next_token(struct coord_stream *s, struct coord_event *event)
{
    const struct coord_engine *e = s->engine;
    size_t previous = (s->step + e->n_said - 1) % e->n_said;
    if (s->sent > 0 && e->said[previous] == EOS && !s->request.ignore_eog) {
        done(s, event, COORD_FINISH_STOP);
        return;
    }
    if (s->sent == s->request.max_tokens) {
        done(s, event, COORD_FINISH_LENGTH);
        return;
    }
    event->kind = COORD_EVENT_TOKEN;
    event->token = e->said[s->step % e->n_said];
    event->eog = event->token == EOS;
    event->logprob = FAKE_LOGPROB;
    event->n_top = s->request.top_logprobs;
    for (uint32_t i = 0; i < event->n_top; i++)
        event->top[i] =
            (struct text_candidate){FAKE_HELLO + (int32_t)(i % FAKE_N_WORDS), -1.0f - (float)i};
    s->step = (s->step + 1) % e->n_said;
    s->sent++;
    event->sampler.random = s->step;
}

static void next_row(struct coord_stream *s, struct coord_event *event)
{
    if (s->sent == s->request.n_ids) {
        done(s, event, COORD_FINISH_LENGTH);
        return;
    }
    event->kind = COORD_EVENT_LOGITS;
    event->pos = s->sent++;
    for (int i = 0; i < N_VOCAB; i++)
        s->row[i] = (float)event->pos * 1000.0f + (float)i;
    event->logits = s->row;
}

static bool stalled(struct coord_stream *s, int timeout_ms)
{
    struct timespec end = after_ms(timeout_ms < 0 ? 20000 : timeout_ms);
    struct coord_engine *e = s->engine;
    pthread_mutex_lock(&e->lock);
    while (s->sent >= e->stall_after && !pthread_cond_timedwait(&e->changed, &e->lock, &end))
        ;
    bool still = s->sent >= e->stall_after;
    pthread_mutex_unlock(&e->lock);
    return still;
}

bool coord_stream_next(struct coord_stream *s, struct coord_event *event, int timeout_ms)
{
    *event = (struct coord_event){0};
    if (s->over || stalled(s, timeout_ms))
        return false;
    pthread_mutex_lock(&s->engine->lock);
    enum proto_status fail = s->sent >= s->engine->fail_after ? s->engine->fail : PROTO_OK;
    pthread_mutex_unlock(&s->engine->lock);
    if (fail) {
        event->kind = COORD_EVENT_FAILED;
        proto_fail(&event->error, fail, "failed as told: %s", proto_status_text(fail));
        s->over = true;
    } else if (s->request.want == COORD_WANT_LOGITS) {
        next_row(s, event);
    } else {
        next_token(s, event);
    }
    return true;
}

void coord_stream_destroy(struct coord_stream *s)
{
    if (!s)
        return;
    struct coord_engine *e = s->engine;
    atomic_store(&s->destroyed, true);
    if (s->request.on_event)
        pthread_join(s->thread, NULL);
    free(s);
    pthread_mutex_lock(&e->lock);
    e->destroyed++;
    pthread_cond_broadcast(&e->changed);
    pthread_mutex_unlock(&e->lock);
}

enum proto_status coord_engine_status(struct coord_engine *e, struct coord_status *out,
                                      struct proto_error *error)
{
    (void)error;
    pthread_mutex_lock(&e->lock);
    *out = (struct coord_status){.model = FAKE_MODEL,
                                 .epoch = 7,
                                 .ready = e->ready,
                                 .inexact = true,
                                 .max_active = 4,
                                 .requests = e->submitted,
                                 .active = e->submitted - e->destroyed};
    pthread_mutex_unlock(&e->lock);
    if (!out->ready)
        snprintf(out->missing, sizeof out->missing, "worker \"b\" is loading");
    out->kv = KERN_KV_Q8_0;
    out->ctx = 4096;
    out->max_rows = 256;
    out->n_workers = 2;
    out->workers = calloc(2, sizeof *out->workers);
    out->usage = calloc(24 * 4, sizeof *out->usage);
    out->usage[23 * 4 + 2] = 9;
    out->n_layers = 24;
    out->n_experts = 4;
    for (unsigned i = 0; i < 2; i++) {
        struct coord_worker_status *w = &out->workers[i];
        snprintf(w->name, sizeof w->name, "worker \"%c\"", 'a' + (int)i);
        snprintf(w->state, sizeof w->state, i == 0 || out->ready ? "ready" : "loading");
        snprintf(w->isa, sizeof w->isa, "avx2");
        w->layer_first = i * 12;
        w->layer_end = (i + 1) * 12;
        w->rows = 10;
        w->compute_ns = 5000000000;
        w->rtt_ms = 0.5;
        w->rss_bytes = (uint64_t)3 << 30;
    }
    out->workers[1].profiled = true;
    out->workers[1].profile = (struct proto_profile){.free_bytes = (uint64_t)5 << 30,
                                                     .read_bytes_s = 40.5e9,
                                                     .float_ops_s = 1.5e11,
                                                     .wake_s = 2e-5,
                                                     .run_s = 3e-6,
                                                     .disk_bytes_s = 2e9,
                                                     .machine = 0xfedcba9876543210u,
                                                     .machine_read_bytes_s = 6e10,
                                                     .machine_ops_s = 2e12,
                                                     .types = {{KERN_Q4_K, 7e10, 1e12}},
                                                     .n_types = 1};
    out->n_links = 2;
    out->links = calloc(2, sizeof *out->links);
    out->links[0] = (struct coord_link_status){0, 1, 0.25e-3, 125e6};
    out->links[1] = (struct coord_link_status){1, COORD_HERE, 0.5e-3, 12.5e6};
    struct coord_worker_status *host = &out->workers[1];
    snprintf(host->expert_endpoint, sizeof host->expert_endpoint, "tcp://10.0.0.2:7");
    host->expert_first = 64;
    host->expert_end = 128;
    host->expert_layer_first = 1;
    host->expert_layer_end = 12;
    host->expert_slice = 1;
    host->n_slices = 2;
    out->caches = (struct coord_caches){21, 22, 23, 24};
    snprintf(out->plan, sizeof out->plan, "2 stages, as if");
    out->n_parts = 1;
    out->parts = calloc(1, sizeof *out->parts);
    out->parts[0] = (struct shard_expert_part){1, 1, 12, 64, 128, 1, 2};
    host->expert_wait_ns = 3;
    host->slowdown = 1.75;
    host->experts = (struct coord_expert_times){11, 12, 13, 14, 15, 16};
    return PROTO_OK;
}

void coord_status_finish(struct coord_status *status)
{
    free(status->workers);
    free(status->links);
    free(status->parts);
    free(status->usage);
    *status = (struct coord_status){0};
}

enum proto_status coord_engine_apply_plan(struct coord_engine *e, struct shard_plan **plan,
                                          const char *const *names, uint32_t n,
                                          struct proto_error *error)
{
    (void)e;
    (void)names;
    (void)n;
    shard_plan_destroy(*plan);
    *plan = NULL;
    return proto_fail(error, PROTO_BUSY, "this engine has no plans");
}

enum proto_status coord_engine_drain(struct coord_engine *e, const char *worker,
                                     struct proto_error *error)
{
    (void)e;
    if (strcmp(worker, "needed") == 0)
        return proto_fail(error, PROTO_CAPACITY, "12 GB are missing");
    return strcmp(worker, "w1") == 0 ? PROTO_OK
                                     : proto_fail(error, PROTO_NOTFOUND, "there is no such worker");
}
