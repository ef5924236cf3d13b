/* SPDX-License-Identifier: Apache-2.0 */
/*
 * /v1/completions and /v1/chat/completions. A request becomes a job; all its choices are submitted
 * before the first byte of the answer, so what the engine refuses still gets its own HTTP status.
 * Then one loop takes events from the logs in turn; the answer in one piece and the answer as
 * server-sent events differ only in when they take the news out of the choices.
 *
 * An event's id says how much of each log is behind it. Who was cut off names the last one he got:
 * the logs are read again from their beginning, and what he has is left out.
 */
#include "coordinator/api/completions.h"

#include <stdlib.h>
#include <string.h>

#include "coordinator/api/job.h"

/* A silent event stream gets a comment this often, so that neither side takes the other for
 * dead. */
#define KEEPALIVE_NS 5000000000ull
/* For which a client may ask that its request waits for it. */
#define MAX_RESUME_S 86400u

struct completion {
    struct api__job *job; /* one of its readers */
    struct api_server *server;
    struct MHD_Connection *connection;
    struct api__choice *choices;
    size_t n_choices, turn, n_closed;
    uint64_t seen; /* of the job's events */
    /* Of an event stream: */
    char *out; /* events not handed out yet */
    size_t out_len, out_cap, out_sent;
    bool ended;
};

static void completion_destroy(struct completion *c)
{
    for (size_t i = 0; i < c->n_choices; i++)
        api__choice_finish(&c->choices[i]);
    free(c->choices);
    free(c->out);
    if (c->job)
        api__job_detach(c->job);
    free(c);
}

/* A reader of the job, which is taken over. */
static struct completion *completion_create(struct api__job *job, struct MHD_Connection *connection,
                                            struct api__fault *fault)
{
    struct completion *c = calloc(1, sizeof *c);
    if (!c) {
        api__fault_set(fault, 500, NULL, NULL, "out of memory for a completion");
        api__job_detach(job);
        return NULL;
    }
    c->job = job;
    c->server = job->server;
    c->connection = connection;
    c->choices = calloc(job->n_logs, sizeof *c->choices);
    bool ok = c->choices ||
              api__fault_set(fault, 500, NULL, NULL, "out of memory for %zu choices", job->n_logs);
    while (ok && c->n_choices < job->n_logs) {
        uint32_t index = (uint32_t)c->n_choices++;
        ok = api__choice_start(&c->choices[index], coord_engine_vocab(c->server->engine),
                               &job->params, job->form->chat, index, fault);
    }
    if (ok)
        return c;
    completion_destroy(c);
    return NULL;
}

enum step { STEP_NOTHING, STEP_EVENT, STEP_ENDED, STEP_FAILED };

/* One event of the next choice that has one, waiting a moment if none has. */
static enum step completion_step(struct completion *c, struct api__fault *fault)
{
    struct coord_event event;
    if (c->n_closed == c->n_choices)
        return STEP_ENDED;
    bool failed = false;
    for (size_t i = 0; i < c->n_choices; i++) {
        struct api__choice *choice = &c->choices[c->turn];
        c->turn = (c->turn + 1) % c->n_choices;
        if (choice->closed)
            continue;
        int found = api__job_read(c->job, choice->index, choice->at, &event, fault);
        failed |= found < 0;
        if (found <= 0)
            continue;
        if (!api__choice_event(choice, &event, fault))
            return STEP_FAILED;
        c->n_closed += choice->closed;
        return STEP_EVENT;
    }
    if (failed)
        return STEP_FAILED;
    c->seen = api__job_wait(c->job, c->seen);
    return STEP_NOTHING;
}

static json_t *usage_json(const struct completion *c)
{
    json_int_t prompt = 0, generated = 0, reasoning = 0;
    const struct api__params *params = &c->job->params;
    for (size_t i = 0; i < params->n_prompts; i++)
        prompt += (json_int_t)params->prompts[i].n_ids;
    for (size_t i = 0; i < c->n_choices; i++) {
        generated += (json_int_t)c->choices[i].n_generated;
        reasoning += (json_int_t)c->choices[i].n_reasoning;
    }
    json_t *details = params->marks ? json_pack("{s:I}", "reasoning_tokens", reasoning) : NULL;
    return json_pack("{s:I, s:I, s:I, s:o*}", "prompt_tokens", prompt, "completion_tokens",
                     generated, "total_tokens", prompt + generated, "completion_tokens_details",
                     details);
}

/* Takes choices over; usage too, unless NULL. */
static json_t *completion_json(const struct completion *c, json_t *choices, json_t *usage)
{
    const struct api__job *job = c->job;
    json_t *json =
        json_pack("{s:s, s:s, s:I, s:s, s:o}", "id", job->id, "object",
                  job->params.stream ? job->form->event_object : job->form->object, "created",
                  (json_int_t)job->created, "model", c->server->model, "choices", choices);
    if (json && usage && json_object_set_new(json, "usage", usage)) {
        json_decref(json);
        return NULL;
    }
    if (!json)
        json_decref(usage);
    return json;
}

/* The answer in one piece. */

static json_t *all_choices(struct completion *c)
{
    json_t *choices = json_array();
    for (size_t i = 0; i < c->n_choices; i++) {
        if (json_array_append_new(choices, c->job->form->take(&c->choices[i], false))) {
            json_decref(choices);
            return NULL;
        }
    }
    return choices;
}

static enum MHD_Result answer_whole(struct completion *c, struct api__request *r)
{
    struct api__fault fault;
    enum step step;
    snprintf(r->id, sizeof r->id, "%s", c->job->id);
    do {
        step = completion_step(c, &fault);
        if (step == STEP_NOTHING && api__gone(c->server, c->connection)) {
            api__fault_stopping(&fault);
            step = STEP_FAILED;
        }
    } while (step == STEP_EVENT || step == STEP_NOTHING);
    json_t *json = step == STEP_FAILED ? NULL : completion_json(c, all_choices(c), usage_json(c));
    completion_destroy(c);
    return step == STEP_FAILED ? api__reply_fault(r, &fault) : api__reply_json(r, 200, json);
}

/* The answer as events. */

static bool out_add(struct completion *c, const char *text)
{
    size_t len = strlen(text);
    if (c->out_cap - c->out_len < len) {
        size_t cap = c->out_cap > 0 ? c->out_cap : 1024;
        while (cap - c->out_len < len)
            cap *= 2;
        char *grown = realloc(c->out, cap);
        if (!grown)
            return false;
        c->out = grown;
        c->out_cap = cap;
    }
    memcpy(c->out + c->out_len, text, len);
    c->out_len += len;
    return true;
}

/* Takes json over. */
static bool out_event(struct completion *c, json_t *json)
{
    char *text = json ? json_dumps(json, JSON_COMPACT) : NULL;
    json_decref(json);
    bool ok = text && out_add(c, "data: ") && out_add(c, text) && out_add(c, "\n\n");
    free(text);
    return ok;
}

/* "id: 7", or "id: 7,5,9" with several choices. */
static bool out_id(struct completion *c)
{
    char text[32];
    bool ok = true;
    for (size_t i = 0; i < c->n_choices && ok; i++) {
        snprintf(text, sizeof text, "%s%llu",
                 i ? "," : "id: ", (unsigned long long)c->choices[i].mark);
        ok = out_add(c, text);
    }
    return ok && out_add(c, "\n");
}

static bool out_choice(struct completion *c, struct api__choice *choice)
{
    json_t *json = c->job->form->take(choice, true);
    choice->finish = NULL;
    choice->mark = choice->at + 1;
    if (choice->mark <= choice->skip) {
        json_decref(json);
        return json != NULL;
    }
    json_t *usage = c->job->params.include_usage ? json_null() : NULL;
    return out_id(c) && out_event(c, completion_json(c, json_pack("[o]", json), usage));
}

static bool out_choices(struct completion *c)
{
    for (size_t i = 0; i < c->n_choices; i++)
        if (api__choice_has_news(&c->choices[i]) && !out_choice(c, &c->choices[i]))
            return false;
    return true;
}

/* The usage counts as one more event of the last choice. */
static bool out_usage(struct completion *c)
{
    struct api__choice *last = &c->choices[c->n_choices - 1];
    if (!c->job->params.include_usage || ++last->mark <= last->skip)
        return true;
    return out_id(c) && out_event(c, completion_json(c, json_array(), usage_json(c)));
}

static bool out_end(struct completion *c)
{
    c->ended = true;
    return out_usage(c) && out_add(c, "data: [DONE]\n\n");
}

static bool out_failure(struct completion *c, const struct api__fault *fault)
{
    c->ended = true;
    return out_event(c, api__fault_json(fault));
}

/* Waits until there is something to send. */
static bool out_fill(struct completion *c)
{
    c->out_len = c->out_sent = 0;
    uint64_t keepalive_ns = api__now_ns() + KEEPALIVE_NS;
    if (!out_choices(c))
        return false;
    while (c->out_len == 0) {
        struct api__fault fault;
        switch (completion_step(c, &fault)) {
        case STEP_EVENT:
            if (!out_choices(c))
                return false;
            break;
        case STEP_ENDED:
            return out_end(c);
        case STEP_FAILED:
            return out_failure(c, &fault);
        case STEP_NOTHING:
            if (atomic_load(&c->server->stopping)) {
                api__fault_stopping(&fault);
                return out_failure(c, &fault);
            }
            if (api__gone(c->server, c->connection))
                return false;
            if (api__now_ns() >= keepalive_ns)
                return out_add(c, ": still here\n\n");
        }
    }
    return true;
}

static ssize_t read_events(void *user, uint64_t pos, char *buffer, size_t max)
{
    (void)pos;
    struct completion *c = user;
    if (c->out_sent == c->out_len) {
        if (c->ended)
            return MHD_CONTENT_READER_END_OF_STREAM;
        api__working(c->connection, true);
        bool ok = out_fill(c);
        api__working(c->connection, false);
        if (!ok)
            return MHD_CONTENT_READER_END_WITH_ERROR;
    }
    size_t n = c->out_len - c->out_sent < max ? c->out_len - c->out_sent : max;
    memcpy(buffer, c->out + c->out_sent, n);
    c->out_sent += n;
    return (ssize_t)n;
}

static void free_events(void *user)
{
    completion_destroy(user);
}

/* The response owns the completion from here on. */
static enum MHD_Result answer_events(struct completion *c, struct api__request *r)
{
    snprintf(r->id, sizeof r->id, "%s", c->job->id);
    struct MHD_Response *response =
        MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, 16384, read_events, c, free_events);
    if (!response) {
        completion_destroy(c);
        return MHD_NO;
    }
    MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, "text/event-stream");
    MHD_add_response_header(response, MHD_HTTP_HEADER_CACHE_CONTROL, "no-cache");
    return api__reply(r, 200, response);
}

/* Takes the job over; fault is set where it is NULL. */
static enum MHD_Result answer(struct api__job *job, struct api__request *r,
                              struct api__fault *fault)
{
    struct completion *c = job ? completion_create(job, r->connection, fault) : NULL;
    if (!c)
        return api__reply_fault(r, fault);
    return job->params.stream ? answer_events(c, r) : answer_whole(c, r);
}

static const char *header(const struct api__request *r, const char *name)
{
    return MHD_lookup_connection_value(r->connection, MHD_HEADER_KIND, name);
}

static bool read_resume(const struct api__request *r, uint32_t *seconds, struct api__fault *fault)
{
    const char *text = header(r, "X-Caravan-Resume");
    char *end = NULL;
    if (!text)
        return true;
    unsigned long value = strtoul(text, &end, 10);
    if (text[0] < '0' || text[0] > '9' || *end || value > MAX_RESUME_S)
        return api__fault_set(fault, 400, "X-Caravan-Resume", NULL,
                              "the header X-Caravan-Resume is '%.20s', expected seconds from 0 to "
                              "%u",
                              text, MAX_RESUME_S);
    *seconds = (uint32_t)value;
    return true;
}

enum MHD_Result api__complete(struct api__request *r, const struct api__form *form)
{
    struct api__fault fault = {0};
    struct api__job *job = NULL;
    uint32_t resume_s = 0;
    if (!read_resume(r, &resume_s, &fault) ||
        !api__job_create(&job, r->server, form, r->body, r->len, &fault))
        return api__reply_fault(r, &fault);
    job->resume_s = resume_s;
    return answer(api__job_start(job, r->body, &fault) ? job : NULL, r, &fault);
}

/* The highest mark that an event of the choice has, or may come to have. */
static uint64_t last_mark(const struct completion *c, size_t choice)
{
    bool usage = c->job->params.include_usage && choice + 1 == c->n_choices;
    return 1 + api__job_most(c->job, (uint32_t)choice) + usage;
}

/* Marks as in an event's id, one a choice; all of them, or what is wrong. */
static bool read_marks(struct completion *c, const char *text, struct api__fault *fault)
{
    const char *at = text;
    bool ok = true;
    for (size_t i = 0; i < c->n_choices && ok; i++) {
        char *end;
        c->choices[i].skip = strtoull(at, &end, 10);
        ok = at[0] >= '0' && at[0] <= '9' && *end == (i + 1 < c->n_choices ? ',' : '\0') &&
             c->choices[i].skip <= last_mark(c, i);
        at = end + 1;
    }
    return ok || api__fault_set(fault, 400, "after", NULL,
                                "the last event's id is '%.40s', expected one that this request's "
                                "events have",
                                text);
}

/* GET /v1/requests/ID: the whole answer of a request that wanted it whole; the events of one that
 * streams, behind the one that "Last-Event-ID" or "?after=" names. */
enum MHD_Result api__resume(struct api__request *r)
{
    struct api__fault fault = {0};
    struct api__job *job = api__job_attach(r->server, r->rest);
    const char *after = header(r, "Last-Event-ID");
    if (!after)
        after = MHD_lookup_connection_value(r->connection, MHD_GET_ARGUMENT_KIND, "after");
    if (!job) {
        api__fault_set(&fault, 404, NULL, "unknown_request",
                       "there is no request '%.60s' here: it was never made, or is over for too "
                       "long",
                       r->rest);
        return api__reply_fault(r, &fault);
    }
    if (!job->params.stream || !after)
        return answer(job, r, &fault);
    struct completion *c = completion_create(job, r->connection, &fault);
    if (c && read_marks(c, after, &fault))
        return answer_events(c, r);
    if (c)
        completion_destroy(c);
    return api__reply_fault(r, &fault);
}

static bool read_completion(struct api__params *params, const json_t *body,
                            const struct api_server *server, struct api__fault *fault)
{
    return api__params_read(params, body, server->model, coord_engine_vocab(server->engine), fault);
}

static json_t *take_completion(struct api__choice *choice, bool event)
{
    (void)event;
    return api__choice_take(choice);
}

const struct api__form api__completion_form = {.id_prefix = "cmpl-",
                                               .object = "text_completion",
                                               .event_object = "text_completion",
                                               .read = read_completion,
                                               .take = take_completion};

enum MHD_Result api__completions(struct api__request *r)
{
    return api__complete(r, &api__completion_form);
}
