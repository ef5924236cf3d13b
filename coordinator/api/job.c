/* SPDX-License-Identifier: Apache-2.0 */
#include "coordinator/api/job.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "coordinator/api/completions.h"
#include "proto/log.h"

/* ---- making ---- */

static bool make_id(const char *prefix, char id[API__ID_BYTES], struct api__fault *fault)
{
    unsigned char random[16];
    if (getrandom(random, sizeof random, 0) != (ssize_t)sizeof random)
        return api__fault_set(fault, 500, NULL, NULL, "no random numbers for an id");
    int used = snprintf(id, API__ID_BYTES, "%s", prefix);
    for (size_t i = 0; i < sizeof random; i++)
        used += snprintf(id + used, API__ID_BYTES - (size_t)used, "%02x", random[i]);
    return true;
}

static void init_lock(struct api__job *job)
{
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_mutex_init(&job->mutex, NULL);
    pthread_cond_init(&job->changed, &attr);
    pthread_condattr_destroy(&attr);
}

void api__job_release(struct api__job *job)
{
    pthread_mutex_lock(&job->mutex);
    job->released = true;
    pthread_mutex_unlock(&job->mutex);
    for (size_t i = 0; i < job->n_logs; i++) {
        pthread_mutex_lock(&job->mutex);
        struct coord_stream *stream = job->logs[i].stream;
        job->logs[i].stream = NULL;
        pthread_mutex_unlock(&job->mutex);
        coord_stream_destroy(stream);
    }
}

static void job_destroy(struct api__job *job)
{
    api__job_release(job);
    for (size_t i = 0; i < job->n_logs; i++) {
        text_answer_destroy(job->logs[i].watch);
        free(job->logs[i].tokens);
        free(job->logs[i].top);
    }
    free(job->logs);
    api__params_finish(&job->params);
    json_decref(job->body);
    pthread_cond_destroy(&job->changed);
    pthread_mutex_destroy(&job->mutex);
    free(job);
}

static bool make_logs(struct api__job *job, struct api__fault *fault)
{
    const struct api__params *p = &job->params;
    struct proto_error error;
    size_t n = p->n_prompts * p->n;
    job->logs = calloc(n, sizeof *job->logs);
    if (!job->logs)
        return api__fault_set(fault, 500, NULL, NULL, "out of memory for %zu choices", n);
    job->n_logs = job->n_running = n;
    for (size_t i = 0; i < n; i++) {
        job->logs[i].job = job;
        job->logs[i].index = (uint32_t)i;
        if (p->n_stops &&
            text_answer_create(&job->logs[i].watch, coord_engine_vocab(job->server->engine),
                               p->marks, p->thinking, p->stops, p->n_stops, &error))
            return api__fault_from(fault, &error);
    }
    return true;
}

bool api__job_create(struct api__job **out, struct api_server *server, const struct api__form *form,
                     const char *body, size_t len, struct api__fault *fault)
{
    struct api__job *job = calloc(1, sizeof *job);
    if (!job)
        return api__fault_set(fault, 500, NULL, NULL, "out of memory for a request");
    init_lock(job);
    job->server = server;
    job->form = form;
    job->created = (int64_t)time(NULL);
    job->body = api__json_load(body, len, fault);
    job->body_len = len;
    if (job->body && make_id(form->id_prefix, job->id, fault) &&
        form->read(&job->params, job->body, server, fault) && make_logs(job, fault)) {
        *out = job;
        return true;
    }
    job_destroy(job);
    return false;
}

/* ---- events ---- */

static bool grow(void **list, size_t *cap, size_t needed, size_t size)
{
    size_t larger = *cap ? *cap : 16;
    while (larger < needed)
        larger *= 2;
    void *grown = needed > *cap ? realloc(*list, larger * size) : *list;
    if (!grown)
        return false;
    *list = grown;
    *cap = needed > *cap ? larger : *cap;
    return true;
}

static bool append(struct api__log *log, const struct coord_event *event)
{
    if (!grow((void **)&log->tokens, &log->cap, log->n + 1, sizeof *log->tokens) ||
        (event->n_top &&
         !grow((void **)&log->top, &log->cap_top, log->n_top + event->n_top, sizeof *log->top)))
        return false;
    log->tokens[log->n++] =
        (struct api__token){event->token, event->logprob, event->n_top, log->n_top};
    if (event->n_top)
        memcpy(log->top + log->n_top, event->top, event->n_top * sizeof *log->top);
    log->n_top += event->n_top;
    log->sampler = event->sampler;
    return true;
}

static void end_log(struct api__log *log, enum api__ending ending)
{
    struct api__job *job = log->job;
    log->ending = ending;
    if (--job->n_running == 0)
        job->finished_ns = api__now_ns();
    api__leave(job->server, 1);
    api__note_length(job->server, log->n);
}

/* Whether a stop string is complete with this token. */
static bool is_stopped(struct api__log *log, int32_t token)
{
    struct text_news news;
    struct proto_error error;
    return log->watch && !text_answer_push(log->watch, token, &news, &error) && news.stopped;
}

/* A failure is no part of the answer: the journal forgets the request, unless this server only
 * stops. */
static void fail(struct api__job *job, const struct proto_error *error)
{
    api__fault_from(&job->fault, error);
    job->finished_ns = api__now_ns();
    api__leave(job->server, job->n_running);
    job->n_running = 0;
    if (error->status != PROTO_CANCELLED)
        coord_journal_remove(job->server->journal, job->number);
}

bool api__job_take(struct api__log *log, const struct coord_event *event)
{
    struct api__job *job = log->job;
    struct proto_error error;
    if (!append(log, event)) {
        proto_fail_nomem(&error, log->n * sizeof *log->tokens, "the answer");
        fail(job, &error);
        return false;
    }
    bool eog = text_vocab_is_eog(coord_engine_vocab(job->server->engine), event->token);
    if (eog || !is_stopped(log, event->token))
        return true;
    end_log(log, API__STOPPED);
    return false;
}

static void take_end(struct api__log *log, const struct coord_event *event)
{
    struct api__job *job = log->job;
    const struct proto_error cancelled = {PROTO_CANCELLED, "the coordinator is stopping"};
    if (event->kind == COORD_EVENT_FAILED)
        fail(job, &event->error);
    else if (event->finish == COORD_FINISH_CANCELLED)
        fail(job, &cancelled);
    else
        end_log(log, event->finish == COORD_FINISH_STOP ? API__STOPPED : API__CUT);
}

static bool take_event(struct api__log *log, const struct coord_event *event)
{
    struct api__job *job = log->job;
    struct api_server *server = job->server;
    bool more = true;
    if (event->kind == COORD_EVENT_TOKEN) {
        atomic_fetch_add(&server->n_tokens, 1);
        coord_journal_token(server->journal, job->number, log->index, log->n, event);
        more = api__job_take(log, event);
    } else {
        take_end(log, event);
    }
    if (job->finished_ns && !job->fault.status)
        coord_journal_finish(server->journal, job->number, (int64_t)time(NULL));
    job->n_events++;
    pthread_cond_broadcast(&job->changed);
    return more;
}

/* Of the engine, on its thread. */
static bool on_event(void *user, const struct coord_event *event)
{
    struct api__log *log = user;
    pthread_mutex_lock(&log->job->mutex);
    bool wanted = log->ending == API__RUNNING && !log->job->fault.status;
    bool more = wanted && take_event(log, event);
    pthread_mutex_unlock(&log->job->mutex);
    return more;
}

/* ---- the engine ---- */

/* The prompt and what was generated; malloc'ed. */
static int32_t *ids_so_far(const struct api__log *log, const struct api__prompt *prompt)
{
    int32_t *ids = malloc((prompt->n_ids + log->n) * sizeof *ids);
    if (!ids)
        return NULL;
    memcpy(ids, prompt->ids, prompt->n_ids * sizeof *ids);
    for (size_t i = 0; i < log->n; i++)
        ids[prompt->n_ids + i] = log->tokens[i].id;
    return ids;
}

static bool submit_log(struct api__log *log, struct proto_error *error)
{
    const struct api__params *p = &log->job->params;
    const struct api__prompt *prompt = &p->prompts[log->index / p->n];
    /* Events may come before the submission has returned. */
    const struct text_sampler_state sampler = log->sampler;
    const size_t n = log->n;
    int32_t *ids = n ? ids_so_far(log, prompt) : prompt->ids;
    struct coord_request request = {
        .want = COORD_WANT_TOKENS,
        .ids = ids,
        .n_ids = prompt->n_ids + n,
        .max_tokens = p->max_tokens - (uint32_t)n,
        .ignore_eog = p->ignore_eos,
        .top_logprobs = p->top_logprobs > 0 ? (uint32_t)p->top_logprobs : 0,
        .sampling = p->sampling,
        .sampler = n ? &sampler : NULL,
        .on_event = on_event,
        .user = log,
    };
    struct coord_stream *stream = NULL;
    request.sampling.seed += log->index % p->n;
    bool ok = ids ? !coord_engine_submit(log->job->server->engine, &request, &stream, error)
                  : !proto_fail_nomem(error, request.n_ids * sizeof *ids, "a request");
    if (n)
        free(ids);
    pthread_mutex_lock(&log->job->mutex);
    log->stream = stream;
    log->job->released = false;
    pthread_mutex_unlock(&log->job->mutex);
    return ok;
}

static bool submit(struct api__job *job, struct proto_error *error)
{
    for (size_t i = 0; i < job->n_logs; i++)
        if (job->logs[i].ending == API__RUNNING && !submit_log(&job->logs[i], error))
            return false;
    return true;
}

static bool submit_fault(const struct api__job *job, const struct proto_error *error,
                         struct api__fault *fault)
{
    size_t longest = 0;
    for (size_t i = 0; i < job->params.n_prompts; i++)
        if (job->params.prompts[i].n_ids > longest)
            longest = job->params.prompts[i].n_ids;
    if (error->status == PROTO_INVALID && longest >= coord_engine_ctx(job->server->engine))
        return api__fault_set(fault, 400, job->form->chat ? "messages" : "prompt",
                              "context_length_exceeded", "%s", error->text);
    return api__fault_from(fault, error);
}

/* ---- the list ---- */

static void publish(struct api__job *job, unsigned readers, uint64_t wait_s)
{
    struct api_server *server = job->server;
    struct api__job **at = &server->jobs;
    pthread_mutex_lock(&server->mutex);
    while (*at)
        at = &(*at)->next;
    *at = job;
    job->refs = 1 + readers;
    job->readers = readers;
    job->wait_s = wait_s;
    job->idle_ns = api__now_ns();
    pthread_mutex_unlock(&server->mutex);
}

void api__job_withdraw(struct api__job *job)
{
    struct api__job **at = &job->server->jobs;
    while (*at != job)
        at = &(*at)->next;
    *at = job->next;
}

void api__job_unref(struct api__job *job)
{
    struct api_server *server = job->server;
    pthread_mutex_lock(&server->mutex);
    bool last = --job->refs == 0;
    pthread_mutex_unlock(&server->mutex);
    if (!last)
        return;
    api__job_release(job);
    api__leave(server, job->n_running);
    job_destroy(job);
}

void api__job_drop(struct api__job *job)
{
    /* What the engine still says of it must not come behind its removal. */
    api__job_release(job);
    coord_journal_remove(job->server->journal, job->number);
    api__job_unref(job);
}

static bool is_finished(struct api__job *job)
{
    pthread_mutex_lock(&job->mutex);
    bool finished = job->finished_ns != 0;
    pthread_mutex_unlock(&job->mutex);
    return finished;
}

static uint64_t keep_request(const struct api__job *job, const char *body)
{
    const struct api__params *p = &job->params;
    struct coord_journal_prompt prompts[API__MAX_CHOICES];
    for (size_t i = 0; i < p->n_prompts; i++)
        prompts[i] = (struct coord_journal_prompt){p->prompts[i].ids, p->prompts[i].n_ids};
    const struct coord_journal_request request = {.id = job->id,
                                                  .created = job->created,
                                                  .chat = job->form->chat,
                                                  .seed = p->sampling.seed,
                                                  .resume_s = job->resume_s,
                                                  .body = body,
                                                  .body_len = job->body_len,
                                                  .prompts = prompts,
                                                  .n_prompts = p->n_prompts};
    return coord_journal_add(job->server->journal, &request);
}

bool api__job_start(struct api__job *job, const char *body, struct api__fault *fault)
{
    struct api_server *server = job->server;
    struct proto_error error;
    if (!api__enter(server, job->n_logs, fault)) {
        job_destroy(job);
        return false;
    }
    job->number = keep_request(job, body);
    job->submitted = true;
    publish(job, 1, job->resume_s);
    if (submit(job, &error)) {
        /* Whoever learns the id may count on it. */
        coord_journal_sync(server->journal);
        return true;
    }
    submit_fault(job, &error, fault);
    pthread_mutex_lock(&server->mutex);
    api__job_withdraw(job);
    pthread_mutex_unlock(&server->mutex);
    api__job_drop(job);
    api__job_unref(job);
    return false;
}

void api__job_adopt(struct api__job *job)
{
    job->submitted = job->n_running == 0;
    publish(job, 0, job->server->resume_s);
}

void api__job_discard(struct api__job *job)
{
    coord_journal_remove(job->server->journal, job->number);
    api__leave(job->server, job->n_running);
    job_destroy(job);
}

struct api__job *api__job_attach(struct api_server *server, const char *id)
{
    pthread_mutex_lock(&server->mutex);
    struct api__job *job = server->jobs;
    while (job && strcmp(job->id, id) != 0)
        job = job->next;
    if (job) {
        job->refs++;
        job->readers++;
    }
    pthread_mutex_unlock(&server->mutex);
    return job;
}

void api__job_detach(struct api__job *job)
{
    struct api_server *server = job->server;
    bool finished = is_finished(job), dropped = false;
    if (finished)
        api__job_release(job);
    pthread_mutex_lock(&server->mutex);
    if (--job->readers == 0) {
        job->idle_ns = api__now_ns();
        job->wait_s = job->resume_s;
        dropped = !finished && !job->resume_s && !atomic_load(&server->stopping);
    }
    if (dropped)
        api__job_withdraw(job);
    pthread_mutex_unlock(&server->mutex);
    if (dropped)
        api__job_drop(job);
    api__job_unref(job);
}

bool api__job_take_up(struct api__job *job)
{
    struct proto_error error = {0};
    bool ok = submit(job, &error);
    if (!ok)
        api__job_release(job);
    if (error.status == PROTO_LOST || error.status == PROTO_BUSY || error.status == PROTO_CANCELLED)
        return false;
    if (!ok) {
        proto_log(PROTO_LOG_WARN, "API-NOT-RESUMED", "request=%s error=\"%s\"", job->id,
                  error.text);
        pthread_mutex_lock(&job->mutex);
        fail(job, &error);
        job->n_events++;
        pthread_cond_broadcast(&job->changed);
        pthread_mutex_unlock(&job->mutex);
    }
    pthread_mutex_lock(&job->server->mutex);
    job->submitted = true;
    pthread_mutex_unlock(&job->server->mutex);
    return true;
}

/* ---- reading ---- */

int api__job_read(struct api__job *job, uint32_t choice, size_t at, struct coord_event *event,
                  struct api__fault *fault)
{
    const struct api__log *log = &job->logs[choice];
    int found = 1;
    pthread_mutex_lock(&job->mutex);
    if (at < log->n) {
        const struct api__token *token = &log->tokens[at];
        *event = (struct coord_event){.kind = COORD_EVENT_TOKEN,
                                      .token = token->id,
                                      .logprob = token->logprob,
                                      .n_top = token->n_top};
        event->eog = text_vocab_is_eog(coord_engine_vocab(job->server->engine), token->id);
        if (token->n_top)
            memcpy(event->top, log->top + token->top, token->n_top * sizeof *log->top);
    } else if (log->ending != API__RUNNING) {
        *event = (struct coord_event){.kind = COORD_EVENT_DONE,
                                      .finish = log->ending == API__STOPPED ? COORD_FINISH_STOP
                                                                            : COORD_FINISH_LENGTH};
    } else if (job->fault.status) {
        *fault = job->fault;
        found = -1;
    } else {
        found = 0;
    }
    pthread_mutex_unlock(&job->mutex);
    return found;
}

uint64_t api__job_wait(struct api__job *job, uint64_t seen)
{
    struct timespec end;
    int rc = 0;
    api__after_ms(&end, API__POLL_MS);
    pthread_mutex_lock(&job->mutex);
    while (job->n_events == seen && rc == 0)
        rc = pthread_cond_timedwait(&job->changed, &job->mutex, &end);
    seen = job->n_events;
    pthread_mutex_unlock(&job->mutex);
    return seen;
}

void api__jobs_free(struct api_server *server)
{
    while (server->jobs) {
        struct api__job *job = server->jobs;
        server->jobs = job->next;
        job_destroy(job);
    }
}
