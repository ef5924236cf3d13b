/* SPDX-License-Identifier: Apache-2.0 */
/* Jobs as the journal has them. What a body says is read again; what was chosen when it came (the
 * prompt's tokens, which depend on the time of day in a chat, and a random seed) is taken from the
 * journal. */
#include "coordinator/api/job.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "coordinator/api/completions.h"
#include "proto/log.h"

struct restoring {
    struct api_server *server;
    struct api__job *job; /* whose tokens come; NULL: they are of none */
    int64_t finished;     /* Unix time; 0: it is not */
    int64_t now;
};

static bool has_ended(const struct api__log *log)
{
    const struct api__job *job = log->job;
    const struct api__params *p = &job->params;
    size_t n_prompt = p->prompts[log->index / p->n].n_ids;
    return log->n >= p->max_tokens || n_prompt + log->n >= coord_engine_ctx(job->server->engine);
}

/* The endings follow from the tokens, as they do in the engine. */
static void settle(struct restoring *r)
{
    struct api__job *job = r->job;
    if (!job)
        return;
    const struct text_vocab *vocab = coord_engine_vocab(job->server->engine);
    for (size_t i = 0; i < job->n_logs; i++) {
        struct api__log *log = &job->logs[i];
        bool eog = log->n > 0 && text_vocab_is_eog(vocab, log->tokens[log->n - 1].id);
        if (log->ending != API__RUNNING)
            continue;
        if (eog && !job->params.ignore_eos)
            log->ending = API__STOPPED;
        else if (has_ended(log))
            log->ending = API__CUT;
        if (log->ending != API__RUNNING) {
            job->n_running--;
            api__leave(job->server, 1);
        }
    }
    if (job->n_running == 0) {
        uint64_t age_s = r->finished && r->finished < r->now ? (uint64_t)(r->now - r->finished) : 0;
        uint64_t now_ns = api__now_ns(), age_ns = age_s * 1000000000u;
        job->finished_ns = age_ns < now_ns ? now_ns - age_ns : 1;
        if (!r->finished)
            coord_journal_finish(job->server->journal, job->number, r->now);
    }
    api__job_adopt(job);
    r->job = NULL;
}

static bool take_prompts(struct api__job *job, const struct coord_journal_request *request)
{
    struct api__params *p = &job->params;
    uint32_t n_vocab = text_vocab_size(coord_engine_vocab(job->server->engine));
    if (request->n_prompts != p->n_prompts)
        return false;
    for (size_t i = 0; i < p->n_prompts; i++) {
        const struct coord_journal_prompt *kept = &request->prompts[i];
        int32_t *ids = kept->n_ids ? malloc(kept->n_ids * sizeof *ids) : NULL;
        if (!ids)
            return false;
        memcpy(ids, kept->ids, kept->n_ids * sizeof *ids);
        free(p->prompts[i].ids);
        p->prompts[i].ids = ids;
        p->prompts[i].n_ids = kept->n_ids;
        for (size_t k = 0; k < kept->n_ids; k++)
            if ((uint32_t)ids[k] >= n_vocab)
                return false;
    }
    return true;
}

static bool on_request(void *user, const struct coord_journal_request *request)
{
    struct restoring *r = user;
    struct api__fault fault = {0};
    settle(r);
    const struct api__form *form = request->chat ? &api__chat_form : &api__completion_form;
    if (!api__job_create(&r->job, r->server, form, request->body, request->body_len, &fault)) {
        r->job = NULL;
        proto_log(PROTO_LOG_WARN, "API-NOT-RESUMED", "request=%.40s error=\"%s\"", request->id,
                  fault.message);
        coord_journal_remove(r->server->journal, request->number);
        return true;
    }
    struct api__job *job = r->job;
    atomic_fetch_add(&r->server->n_running, job->n_running);
    snprintf(job->id, sizeof job->id, "%s", request->id);
    job->created = request->created;
    job->resume_s = request->resume_s;
    job->number = request->number;
    job->params.sampling.seed = request->seed;
    r->finished = request->finished;
    if (!take_prompts(job, request)) {
        proto_log(PROTO_LOG_WARN, "API-NOT-RESUMED",
                  "request=%s error=\"its prompts do not fit its body\"", job->id);
        api__job_discard(job);
        r->job = NULL;
    }
    return true;
}

static bool on_token(void *user, uint32_t choice, const struct coord_event *event)
{
    const struct restoring *r = user;
    struct api__job *job = r->job;
    if (!job || choice >= job->n_logs || job->logs[choice].ending != API__RUNNING ||
        (uint32_t)event->token >= text_vocab_size(coord_engine_vocab(job->server->engine)))
        return true;
    api__job_take(&job->logs[choice], event);
    return true;
}

enum proto_status api__jobs_restore(struct api_server *server, struct proto_error *error)
{
    struct restoring r = {.server = server, .now = (int64_t)time(NULL)};
    const struct coord_journal_reader reader = {on_request, on_token, &r};
    enum proto_status status = coord_journal_read(server->journal, &reader, error);
    settle(&r);
    return status;
}
