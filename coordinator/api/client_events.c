/* SPDX-License-Identifier: Apache-2.0 */
#include "coordinator/api/client_events.h"

#include "coordinator/api/sampling.h"

#include <stdlib.h>
#include <string.h>

/* Events come at least every few seconds. */
#define EVENTS_QUIET_S 60u
/* The longest line of an event stream that is believed. */
#define MAX_LINE_BYTES ((size_t)1 << 20)

struct events {
    const struct api__generation *generation;
    bool finished; /* [DONE] was seen */
    char *line;
    size_t len, cap;
};

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
    if (json_object_get(json, "error"))
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
    if (len < 6 || memcmp(e->line, "data: ", 6) != 0)
        return PROTO_OK;
    return read_event(e, e->line + 6, len - 6, error);
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

enum proto_status api__generate(struct api_client *client, const struct api__generation *generation,
                                struct proto_error *error)
{
    *generation->done = (struct api_client_done){0};
    struct events events = {.generation = generation};
    const struct api__exchange exchange = {.path = generation->path,
                                           .body = generation->body,
                                           .cancel = generation->cancel,
                                           .quiet_s = EVENTS_QUIET_S,
                                           .sink = sink_events,
                                           .user = &events};
    enum proto_status status = api__exchange(client, &exchange, error);
    if (!status && !events.finished)
        status = proto_fail(error, PROTO_LOST, "the coordinator ended its answer early");
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
