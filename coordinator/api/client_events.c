/* SPDX-License-Identifier: Apache-2.0 */
#include "coordinator/api/client_events.h"

#include "coordinator/api/sampling.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Events come at least every few seconds. */
#define EVENTS_QUIET_S 60u
/* The longest line of an event stream that is believed. */
#define MAX_LINE_BYTES ((size_t)1 << 20)
/* For which a coordinator that went away is waited for, from the last event on. */
#define PATIENCE_S 20
#define RETRY_MS   250

struct events {
    struct api_client *client;
    const struct api__generation *generation;
    char request[64];        /* its id, "": not known */
    char last[32], next[32]; /* ids of the last event, and of the one that is being read */
    bool finished;           /* [DONE] was seen */
    bool lost;               /* the coordinator stopped, or cannot be reached */
    bool failed;             /* the request did */
    time_t heard_s;          /* when the last event came */
    char *line;
    size_t len, cap;
};

static time_t now_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec;
}

static uint64_t count(const json_t *usage, const char *name)
{
    json_int_t value = json_integer_value(json_object_get(usage, name));
    return value > 0 ? (uint64_t)value : 0;
}

static enum proto_status take_event(struct events *e, const json_t *json, struct proto_error *error)
{
    const struct api__generation *g = e->generation;
    const json_t *choice = json_array_get(json_object_get(json, "choices"), 0);
    const char *finish = json_string_value(json_object_get(choice, "finish_reason"));
    const json_t *usage = json_object_get(json, "usage");
    const json_t *fault = json_object_get(json, "error");
    const char *code = json_string_value(json_object_get(fault, "code"));
    e->heard_s = now_s();
    e->failed = fault && !(code && strcmp(code, "stopping") == 0);
    if (fault)
        return api__answer_error(json, 503, error);
    if (choice && !g->on_choice(g->user, choice))
        return proto_fail(error, PROTO_CANCELLED, "the generation was ended");
    if (finish)
        g->done->finish = strcmp(finish, "stop") == 0 ? COORD_FINISH_STOP : COORD_FINISH_LENGTH;
    if (json_is_object(usage)) {
        g->done->n_prompt = count(usage, "prompt_tokens");
        g->done->n_generated = count(usage, "completion_tokens");
    }
    return PROTO_OK;
}

static enum proto_status read_event(struct events *e, const char *text, size_t len,
                                    struct proto_error *error)
{
    if (len == 6 && memcmp(text, "[DONE]", 6) == 0) {
        e->finished = true;
        return PROTO_OK;
    }
    json_t *json = json_loadb(text, len, JSON_ALLOW_NUL, NULL);
    if (!json)
        return api__answer_odd("has an event that is not JSON", error);
    enum proto_status status = take_event(e, json, error);
    json_decref(json);
    return status;
}

static enum proto_status take_line(struct events *e, struct proto_error *error)
{
    size_t len = e->len;
    e->len = 0;
    /* An id stands before its data, and counts once these were taken. */
    if (len > 4 && memcmp(e->line, "id: ", 4) == 0)
        snprintf(e->next, sizeof e->next, "%.*s", (int)(len - 4), e->line + 4);
    if (len < 6 || memcmp(e->line, "data: ", 6) != 0)
        return PROTO_OK;
    enum proto_status status = read_event(e, e->line + 6, len - 6, error);
    if (!status)
        memcpy(e->last, e->next, sizeof e->last);
    return status;
}

static enum proto_status line_add(struct events *e, const char *data, size_t len,
                                  struct proto_error *error)
{
    if (len > MAX_LINE_BYTES - e->len)
        return api__answer_odd("has an event that is too long", error);
    if (e->cap - e->len < len) {
        size_t cap = e->cap > 0 ? e->cap : 1024;
        while (cap - e->len < len)
            cap *= 2;
        char *grown = realloc(e->line, cap);
        if (!grown)
            return proto_fail_nomem(error, cap, "an event");
        e->line = grown;
        e->cap = cap;
    }
    memcpy(e->line + e->len, data, len);
    e->len += len;
    return PROTO_OK;
}

static enum proto_status sink_events(void *user, const char *data, size_t len,
                                     struct proto_error *error)
{
    struct events *e = user;
    const char *id = e->request[0] ? NULL : api__answer_header(e->client, "X-Request-Id");
    if (id && !id[strspn(id, "abcdefghijklmnopqrstuvwxyz0123456789-")])
        snprintf(e->request, sizeof e->request, "%s", id);
    while (len > 0) {
        const char *end = memchr(data, '\n', len);
        size_t n = end ? (size_t)(end - data) : len;
        enum proto_status status = line_add(e, data, n, error);
        if (!status && end)
            status = take_line(e, error);
        if (status)
            return status;
        data += n + (end != NULL);
        len -= n + (end != NULL);
    }
    return PROTO_OK;
}

/* The request, or what it lacks yet. e->lost: another try may go better. */
static enum proto_status receive(struct events *e, struct proto_error *error)
{
    const struct api__generation *g = e->generation;
    char path[96], header[64];
    struct api__exchange exchange = {.path = g->path,
                                     .body = g->body,
                                     .cancel = g->cancel,
                                     .quiet_s = EVENTS_QUIET_S,
                                     .sink = sink_events,
                                     .user = e,
                                     .cut = &e->lost};
    if (e->request[0]) {
        snprintf(path, sizeof path, "/v1/requests/%s", e->request);
        snprintf(header, sizeof header, "Last-Event-ID: %s", e->last);
        exchange.path = path;
        exchange.header = e->last[0] ? header : NULL;
        exchange.body = NULL;
    }
    e->lost = false;
    e->len = 0;
    enum proto_status status = api__exchange(e->client, &exchange, error);
    if (!status && !e->finished)
        status = proto_fail(error, PROTO_LOST, "the coordinator ended its answer early");
    e->lost |= status == PROTO_LOST && !e->failed;
    return status;
}

/* Whether to ask again: the request has an id, its coordinator went away just now, and nobody wants
 * it to end. */
static bool try_again(struct events *e, unsigned *tries)
{
    const atomic_bool *cancel = e->generation->cancel;
    const struct timespec pause = {.tv_nsec = RETRY_MS * 1000000};
    if (!e->lost || !e->request[0] || (cancel && atomic_load(cancel)) ||
        now_s() - e->heard_s > PATIENCE_S)
        return false;
    if ((*tries)++ == 0)
        fputs("caravan: the coordinator is gone; waiting for it to come back\n", stderr);
    nanosleep(&pause, NULL);
    return true;
}

enum proto_status api__generate(struct api_client *client, const struct api__generation *generation,
                                struct proto_error *error)
{
    *generation->done = (struct api_client_done){0};
    struct events events = {.client = client, .generation = generation, .heard_s = now_s()};
    unsigned tries = 0;
    enum proto_status status;
    do
        status = receive(&events, error);
    while (status && try_again(&events, &tries));
    free(events.line);
    return status;
}

json_t *api__generation_body(uint32_t max_tokens, bool ignore_eog, const struct text_sampling *s)
{
    json_t *body =
        json_pack("{s:I, s:b, s:b, s:{s:b}}", "max_tokens", (json_int_t)max_tokens, "ignore_eos",
                  ignore_eog, "stream", true, "stream_options", "include_usage", true);
    if (body && !api__sampling_write(body, s)) {
        json_decref(body);
        return NULL;
    }
    return body;
}
