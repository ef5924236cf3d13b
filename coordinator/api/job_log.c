/* SPDX-License-Identifier: Apache-2.0 */
/* A job's logs: what the engine writes there, what it is asked for, and what connections read. */
#include "coordinator/api/job.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "proto/log.h"

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

bool api__job_submit(struct api__job *job, struct proto_error *error)
{
    for (size_t i = 0; i < job->n_logs; i++)
        if (job->logs[i].ending == API__RUNNING && !submit_log(&job->logs[i], error))
            return false;
    return true;
}

bool api__job_take_up(struct api__job *job)
{
    struct proto_error error = {0};
    bool ok = api__job_submit(job, &error);
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

uint64_t api__job_most(struct api__job *job, uint32_t choice)
{
    const struct api__log *log = &job->logs[choice];
    pthread_mutex_lock(&job->mutex);
    uint64_t tokens = log->ending == API__RUNNING ? job->params.max_tokens : log->n;
    pthread_mutex_unlock(&job->mutex);
    return tokens + 1;
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
