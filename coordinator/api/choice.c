/* SPDX-License-Identifier: Apache-2.0 */
#include "coordinator/api/choice.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static bool no_memory(struct api__fault *fault)
{
    return api__fault_set(fault, 500, NULL, NULL, "out of memory for the answer");
}

static bool add_text(struct api__choice *c, const char *text, size_t len, struct api__fault *fault)
{
    if (len == 0)
        return true;
    if (c->pending_cap - c->pending_len < len) {
        size_t cap = c->pending_cap > 0 ? c->pending_cap : 64;
        while (cap - c->pending_len < len)
            cap *= 2;
        char *grown = realloc(c->pending, cap);
        if (!grown)
            return no_memory(fault);
        c->pending = grown;
        c->pending_cap = cap;
    }
    memcpy(c->pending + c->pending_len, text, len);
    c->pending_len += len;
    return true;
}

static uint64_t count_characters(const char *text, size_t len)
{
    uint64_t n = 0;
    for (size_t i = 0; i < len; i++)
        n += ((unsigned char)text[i] & 0xc0) != 0x80;
    return n;
}

static bool echo_prompt(struct api__choice *c, const struct api__prompt *prompt,
                        struct api__fault *fault)
{
    if (prompt->text)
        return add_text(c, prompt->text, prompt->text_len, fault);
    char *text = NULL;
    size_t len = 0;
    struct proto_error error;
    if (text_decode(c->vocab, prompt->ids, prompt->n_ids, true, &text, &len, &error))
        return api__fault_from(fault, &error);
    bool ok = add_text(c, text, len, fault);
    free(text);
    return ok;
}

bool api__choice_start(struct api__choice *choice, struct coord_engine *engine,
                       const struct api__params *params, uint32_t index, struct api__fault *fault)
{
    const struct api__prompt *prompt = &params->prompts[index / params->n];
    choice->vocab = coord_engine_vocab(engine);
    choice->index = index;
    choice->top_logprobs = params->top_logprobs;
    struct proto_error error;
    if (text_stream_create(&choice->text, choice->vocab, params->stops, params->n_stops, false,
                           &error))
        return api__fault_from(fault, &error);
    if (params->echo && !echo_prompt(choice, prompt, fault))
        return false;
    struct coord_request request = {
        .want = COORD_WANT_TOKENS,
        .ids = prompt->ids,
        .n_ids = prompt->n_ids,
        .max_tokens = params->max_tokens,
        .ignore_eog = params->ignore_eos,
        .top_logprobs = params->top_logprobs > 0 ? (uint32_t)params->top_logprobs : 0,
        .sampling = params->sampling,
    };
    request.sampling.seed += index % params->n;
    return !coord_engine_submit(engine, &request, &choice->stream, &error) ||
           api__fault_from(fault, &error);
}

void api__choice_finish(struct api__choice *choice)
{
    coord_stream_destroy(choice->stream);
    text_stream_destroy(choice->text);
    free(choice->pending);
    json_decref(choice->logprobs);
    *choice = (struct api__choice){0};
}

/* JSON has no infinities; a token that cannot be has OpenAI's -9999. */
static json_t *logprob_json(float logprob)
{
    return json_real(isfinite(logprob) ? (double)logprob : -9999.0);
}

/* The token's bytes as JSON; *characters gets how many characters it is long. */
static json_t *token_json(const struct text_vocab *vocab, int32_t id, uint64_t *characters)
{
    char small[256];
    size_t len = text_decode_token(vocab, id, true, small, sizeof small);
    char *text = small;
    if (len > sizeof small) {
        text = malloc(len);
        if (!text)
            return NULL;
        text_decode_token(vocab, id, true, text, len);
    }
    json_t *json = api__json_token(text, len);
    *characters = count_characters(text, len);
    if (text != small)
        free(text);
    return json;
}

/* The best candidates and the chosen token, by their text. Tokens of the same text share a name;
 * the better one has it. */
static json_t *top_json(const struct api__choice *c, const struct coord_event *event)
{
    json_t *top = json_object();
    uint32_t n =
        event->n_top < (uint32_t)c->top_logprobs ? event->n_top : (uint32_t)c->top_logprobs;
    for (uint32_t i = 0; top && i <= n; i++) {
        int32_t id = i < n ? event->top[i].id : event->token;
        float logprob = i < n ? event->top[i].logit : event->logprob;
        uint64_t unused;
        json_t *name = token_json(c->vocab, id, &unused);
        const char *text = json_string_value(name);
        if (text && !json_object_get(top, text) &&
            json_object_setn_new(top, text, json_string_length(name), logprob_json(logprob))) {
            json_decref(top);
            top = NULL;
        }
        json_decref(name);
    }
    return top;
}

static bool add_logprobs(struct api__choice *c, const struct coord_event *event,
                         struct api__fault *fault)
{
    if (!c->logprobs)
        c->logprobs = json_pack("{s:[], s:[], s:[], s:[]}", "tokens", "token_logprobs",
                                "top_logprobs", "text_offset");
    uint64_t characters = 0;
    json_t *token = token_json(c->vocab, event->token, &characters);
    json_t *l = c->logprobs;
    if (!l || json_array_append_new(json_object_get(l, "tokens"), token) ||
        json_array_append_new(json_object_get(l, "token_logprobs"), logprob_json(event->logprob)) ||
        json_array_append_new(json_object_get(l, "top_logprobs"), top_json(c, event)) ||
        json_array_append_new(json_object_get(l, "text_offset"),
                              json_integer((json_int_t)c->offset)))
        return no_memory(fault);
    c->offset += characters;
    return true;
}

/* Ends the stream: nothing more is computed for this choice. */
static void close_stream(struct api__choice *c, const char *finish)
{
    c->finish = finish;
    coord_stream_destroy(c->stream);
    c->stream = NULL;
}

static bool take_token(struct api__choice *c, const struct coord_event *event,
                       struct api__fault *fault)
{
    c->n_generated++;
    if (event->eog)
        return true;
    if (c->top_logprobs >= 0 && !add_logprobs(c, event, fault))
        return false;
    const char *text = NULL;
    size_t len = 0;
    bool stopped = false;
    struct proto_error error;
    if (text_stream_push(c->text, event->token, &text, &len, &stopped, &error))
        return api__fault_from(fault, &error);
    if (!add_text(c, text, len, fault))
        return false;
    if (stopped)
        close_stream(c, "stop");
    return true;
}

static bool take_done(struct api__choice *c, const struct coord_event *event,
                      struct api__fault *fault)
{
    if (event->finish == COORD_FINISH_CANCELLED)
        return api__fault_stopping(fault);
    const char *text = NULL;
    size_t len = 0;
    struct proto_error error;
    if (text_stream_finish(c->text, &text, &len, &error))
        return api__fault_from(fault, &error);
    if (!add_text(c, text, len, fault))
        return false;
    close_stream(c, event->finish == COORD_FINISH_STOP ? "stop" : "length");
    return true;
}

bool api__choice_event(struct api__choice *choice, const struct coord_event *event,
                       struct api__fault *fault)
{
    switch (event->kind) {
    case COORD_EVENT_TOKEN:
        return take_token(choice, event, fault);
    case COORD_EVENT_DONE:
        return take_done(choice, event, fault);
    case COORD_EVENT_FAILED:
        return api__fault_from(fault, &event->error);
    case COORD_EVENT_LOGITS:
        break;
    }
    return true;
}

bool api__choice_has_news(const struct api__choice *choice)
{
    return choice->pending_len > 0 || choice->logprobs || choice->finish;
}

json_t *api__choice_take(struct api__choice *choice)
{
    json_t *json = json_pack(
        "{s:o, s:i, s:O?, s:s?}", "text",
        api__json_text(choice->pending ? choice->pending : "", choice->pending_len), "index",
        (int)choice->index, "logprobs", choice->logprobs, "finish_reason", choice->finish);
    choice->pending_len = 0;
    json_decref(choice->logprobs);
    choice->logprobs = NULL;
    return json;
}
