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
    if (api__job_submit(job, &error)) {
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

void api__jobs_free(struct api_server *server)
{
    while (server->jobs) {
        struct api__job *job = server->jobs;
        server->jobs = job->next;
        job_destroy(job);
    }
}
