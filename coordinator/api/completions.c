/* SPDX-License-Identifier: Apache-2.0 */
/*
 * /v1/completions and /v1/chat/completions. All choices are submitted before the first byte of the
 * answer, so what the engine refuses still gets its own HTTP status. Then one loop takes events
 * from the choices in turn; the answer in one piece and the answer as server-sent events differ
 * only in when they take the news out of the choices.
 */
#include "coordinator/api/completions.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

/* With several choices, how long the loop waits for one of them while another may have news. */
#define TURN_MS 5
/* A silent event stream gets a comment this often, so that neither side takes the other for
 * dead. */
#define KEEPALIVE_S 5

struct completion {
    const struct api__form *form;
    struct api_server *server;
    struct MHD_Connection *connection;
    json_t *body; /* params borrow from it */
    struct api__params params;
    struct api__choice *choices;
    size_t n_choices, turn, n_finished;
    char id[48];
    int64_t created;
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
    api__params_finish(&c->params);
    json_decref(c->body);
    free(c->out);
    free(c);
}

static bool make_id(const char *prefix, char id[48], struct api__fault *fault)
{
    unsigned char random[16];
    if (getrandom(random, sizeof random, 0) != (ssize_t)sizeof random)
        return api__fault_set(fault, 500, NULL, NULL, "no random numbers for an id");
    int used = snprintf(id, 48, "%s", prefix);
    for (size_t i = 0; i < sizeof random; i++)
        used += snprintf(id + used, 48 - (size_t)used, "%02x", random[i]);
    return true;
}

static bool completion_start(struct completion *c, const struct api__request *r,
                             const struct api__form *form, struct api__fault *fault)
{
    c->form = form;
    c->server = r->server;
    c->connection = r->connection;
    c->created = (int64_t)time(NULL);
    struct coord_engine *engine = r->server->engine;
    c->body = api__json_load(r->body, r->len, fault);
    if (!c->body || !make_id(form->id_prefix, c->id, fault) ||
        !form->read(&c->params, c->body, r->server, fault))
        return false;
    size_t n = c->params.n_prompts * c->params.n;
    c->choices = calloc(n, sizeof *c->choices);
    if (!c->choices)
        return api__fault_set(fault, 500, NULL, NULL, "out of memory for %zu choices", n);
    while (c->n_choices < n) {
        uint32_t index = (uint32_t)c->n_choices++;
        if (!api__choice_start(&c->choices[index], engine, &c->params, form->chat, index, fault))
            return false;
    }
    return true;
}

enum step { STEP_NOTHING, STEP_EVENT, STEP_ENDED, STEP_FAILED };

/* One event of the next choice that has one, waiting a moment if none has. */
static enum step completion_step(struct completion *c, struct api__fault *fault)
{
    if (c->n_finished == c->n_choices)
        return STEP_ENDED;
    bool alone = c->n_choices - c->n_finished == 1;
    size_t asked = 0;
    for (size_t i = 0; i < c->n_choices; i++) {
        struct api__choice *choice = &c->choices[c->turn];
        c->turn = (c->turn + 1) % c->n_choices;
        if (!choice->stream)
            continue;
        bool last = ++asked == c->n_choices - c->n_finished;
        struct coord_event event;
        if (!coord_stream_next(choice->stream, &event, alone ? API__POLL_MS : last ? TURN_MS : 0))
            continue;
        if (!api__choice_event(choice, &event, fault))
            return STEP_FAILED;
        c->n_finished += !choice->stream;
        return STEP_EVENT;
    }
    return STEP_NOTHING;
}

static json_t *usage_json(const struct completion *c)
{
    json_int_t prompt = 0, generated = 0, reasoning = 0;
    for (size_t i = 0; i < c->params.n_prompts; i++)
        prompt += (json_int_t)c->params.prompts[i].n_ids;
    for (size_t i = 0; i < c->n_choices; i++) {
        generated += (json_int_t)c->choices[i].n_generated;
        reasoning += (json_int_t)c->choices[i].n_reasoning;
    }
    json_t *details = c->params.marks ? json_pack("{s:I}", "reasoning_tokens", reasoning) : NULL;
    return json_pack("{s:I, s:I, s:I, s:o*}", "prompt_tokens", prompt, "completion_tokens",
                     generated, "total_tokens", prompt + generated, "completion_tokens_details",
                     details);
}

/* Takes choices over; usage too, unless NULL. */
static json_t *completion_json(const struct completion *c, json_t *choices, json_t *usage)
{
    json_t *json = json_pack("{s:s, s:s, s:I, s:s, s:o}", "id", c->id, "object",
                             c->params.stream ? c->form->event_object : c->form->object, "created",
                             (json_int_t)c->created, "model", c->server->model, "choices", choices);
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
        if (json_array_append_new(choices, c->form->take(&c->choices[i], false))) {
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
    do {
        step = completion_step(c, &fault);
        if (step == STEP_NOTHING && api__gone(c->server, c->connection)) {
            api__fault_stopping(&fault);
            step = STEP_FAILED;
        }
    } while (step == STEP_EVENT || step == STEP_NOTHING);
    if (step == STEP_FAILED)
        return api__reply_fault(r, &fault);
    return api__reply_json(r, 200, completion_json(c, all_choices(c), usage_json(c)));
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

static bool out_choices(struct completion *c)
{
    for (size_t i = 0; i < c->n_choices; i++) {
        struct api__choice *choice = &c->choices[i];
        if (!api__choice_has_news(choice))
            continue;
        bool closing = choice->finish != NULL;
        json_t *usage = c->params.include_usage ? json_null() : NULL;
        if (!out_event(c, completion_json(c, json_pack("[o]", c->form->take(choice, true)), usage)))
            return false;
        if (closing)
            choice->finish = NULL;
    }
    return true;
}

static bool out_end(struct completion *c)
{
    c->ended = true;
    if (c->params.include_usage && !out_event(c, completion_json(c, json_array(), usage_json(c))))
        return false;
    return out_add(c, "data: [DONE]\n\n");
}

static bool out_failure(struct completion *c, const struct api__fault *fault)
{
    c->ended = true;
    return out_event(c, api__fault_json(fault));
}

static time_t now_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec;
}

/* Waits until there is something to send. */
static bool out_fill(struct completion *c)
{
    c->out_len = c->out_sent = 0;
    time_t keepalive = now_s() + KEEPALIVE_S;
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
            if (now_s() >= keepalive)
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

enum MHD_Result api__complete(struct api__request *r, const struct api__form *form)
{
    struct api__fault fault = {0};
    struct completion *c = calloc(1, sizeof *c);
    if (!c) {
        api__fault_set(&fault, 500, NULL, NULL, "out of memory for a completion");
        return api__reply_fault(r, &fault);
    }
    if (!completion_start(c, r, form, &fault)) {
        completion_destroy(c);
        return api__reply_fault(r, &fault);
    }
    if (c->params.stream)
        return answer_events(c, r);
    enum MHD_Result result = answer_whole(c, r);
    completion_destroy(c);
    return result;
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

enum MHD_Result api__completions(struct api__request *r)
{
    static const struct api__form form = {.id_prefix = "cmpl-",
                                          .object = "text_completion",
                                          .event_object = "text_completion",
                                          .read = read_completion,
                                          .take = take_completion};
    return api__complete(r, &form);
}
