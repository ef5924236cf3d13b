/* SPDX-License-Identifier: Apache-2.0 */
#include "coordinator/api/choice.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static bool no_memory(struct api__fault *fault)
{
    return api__fault_set(fault, 500, NULL, NULL, "out of memory for the answer");
}

static bool add_text(struct api__pending *p, const char *text, size_t len, struct api__fault *fault)
{
    if (len == 0)
        return true;
    if (p->cap - p->len < len) {
        size_t cap = p->cap > 0 ? p->cap : 64;
        while (cap - p->len < len)
            cap *= 2;
        char *grown = realloc(p->text, cap);
        if (!grown)
            return no_memory(fault);
        p->text = grown;
        p->cap = cap;
    }
    memcpy(p->text + p->len, text, len);
    p->len += len;
    return true;
}

static bool add_news(struct api__choice *c, const struct text_news *news, struct api__fault *fault)
{
    return add_text(&c->reasoning, news->reasoning, news->reasoning_len, fault) &&
           add_text(&c->content, news->content, news->content_len, fault);
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
        return add_text(&c->content, prompt->text, prompt->text_len, fault);
    char *text = NULL;
    size_t len = 0;
    struct proto_error error;
    if (text_decode(c->vocab, prompt->ids, prompt->n_ids, true, &text, &len, &error))
        return api__fault_from(fault, &error);
    bool ok = add_text(&c->content, text, len, fault);
    free(text);
    return ok;
}

bool api__choice_start(struct api__choice *choice, const struct text_vocab *vocab,
                       const struct api__params *params, bool chat, uint32_t index,
                       struct api__fault *fault)
{
    choice->vocab = vocab;
    choice->index = index;
    choice->chat = chat;
    choice->top_logprobs = params->top_logprobs;
    struct proto_error error;
    if (text_answer_create(&choice->answer, vocab, params->marks, params->thinking, params->stops,
                           params->n_stops, &error))
        return api__fault_from(fault, &error);
    return !params->echo || echo_prompt(choice, &params->prompts[index / params->n], fault);
}

void api__choice_finish(struct api__choice *choice)
{
    text_answer_destroy(choice->answer);
    free(choice->content.text);
    free(choice->reasoning.text);
    json_decref(choice->logprobs);
    *choice = (struct api__choice){0};
}

json_t *api__logprob_json(float logprob)
{
    return json_real(isfinite(logprob) ? (double)logprob : -9999.0);
}

char *api__token_bytes(const struct text_vocab *vocab, int32_t id, size_t *len)
{
    *len = text_decode_token(vocab, id, true, NULL, 0);
    char *bytes = malloc(*len + 1);
    if (bytes)
        text_decode_token(vocab, id, true, bytes, *len);
    return bytes;
}

/* The token's bytes as JSON; *characters gets how many characters it is long. */
static json_t *token_json(const struct text_vocab *vocab, int32_t id, uint64_t *characters)
{
    size_t len;
    char *bytes = api__token_bytes(vocab, id, &len);
    if (!bytes)
        return NULL;
    json_t *json = api__json_token(bytes, len);
    *characters = count_characters(bytes, len);
    free(bytes);
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
            json_object_setn_new(top, text, json_string_length(name), api__logprob_json(logprob))) {
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
        json_array_append_new(json_object_get(l, "token_logprobs"),
                              api__logprob_json(event->logprob)) ||
        json_array_append_new(json_object_get(l, "top_logprobs"), top_json(c, event)) ||
        json_array_append_new(json_object_get(l, "text_offset"),
                              json_integer((json_int_t)c->offset)))
        return no_memory(fault);
    c->offset += characters;
    return true;
}

static void close_choice(struct api__choice *c, const char *finish)
{
    c->finish = finish;
    c->closed = true;
}

static bool of_content(enum text_place place)
{
    return place == TEXT_PLACE_CONTENT || place == TEXT_PLACE_UNDECIDED;
}

/* Only content has logprobs in a chat. While it is undecided, tokens are taken for content; they
 * are forgotten where they turn out to be an opening mark. */
static bool add_chat_logprob(struct api__choice *c, const struct coord_event *event,
                             enum text_place before, struct api__fault *fault)
{
    enum text_place after = text_answer_place(c->answer);
    if (before == TEXT_PLACE_UNDECIDED && after == TEXT_PLACE_REASONING) {
        json_decref(c->logprobs);
        c->logprobs = NULL;
    }
    if (before == TEXT_PLACE_HEADER || !of_content(after))
        return true;
    if (!c->logprobs)
        c->logprobs = json_array();
    return !json_array_append_new(c->logprobs, api__chat_logprob(c, event)) || no_memory(fault);
}

static bool take_token(struct api__choice *c, const struct coord_event *event,
                       struct api__fault *fault)
{
    c->n_generated++;
    if (event->eog)
        return true;
    enum text_place before = text_answer_place(c->answer);
    struct text_news news;
    struct proto_error error;
    if (text_answer_push(c->answer, event->token, &news, &error))
        return api__fault_from(fault, &error);
    c->n_reasoning += text_answer_place(c->answer) == TEXT_PLACE_REASONING;
    if (c->top_logprobs >= 0 &&
        !(c->chat ? add_chat_logprob(c, event, before, fault) : add_logprobs(c, event, fault)))
        return false;
    if (!add_news(c, &news, fault))
        return false;
    if (news.stopped)
        close_choice(c, "stop");
    return true;
}

static bool take_done(struct api__choice *c, const struct coord_event *event,
                      struct api__fault *fault)
{
    struct text_news news;
    struct proto_error error;
    if (text_answer_finish(c->answer, &news, &error))
        return api__fault_from(fault, &error);
    if (!add_news(c, &news, fault))
        return false;
    close_choice(c, event->finish == COORD_FINISH_STOP ? "stop" : "length");
    return true;
}

bool api__choice_event(struct api__choice *choice, const struct coord_event *event,
                       struct api__fault *fault)
{
    choice->at++;
    return event->kind == COORD_EVENT_TOKEN ? take_token(choice, event, fault)
                                            : take_done(choice, event, fault);
}

bool api__choice_has_news(const struct api__choice *choice)
{
    /* Undecided tokens' logprobs wait for their text. */
    bool undecided = text_answer_place(choice->answer) == TEXT_PLACE_UNDECIDED;
    return choice->content.len > 0 || choice->reasoning.len > 0 || choice->finish ||
           (choice->logprobs && !undecided) || (choice->chat && !choice->greeted);
}

json_t *api__choice_take(struct api__choice *choice)
{
    json_t *json = json_pack(
        "{s:o, s:i, s:O?, s:s?}", "text",
        api__json_text(choice->content.text ? choice->content.text : "", choice->content.len),
        "index", (int)choice->index, "logprobs", choice->logprobs, "finish_reason", choice->finish);
    choice->content.len = 0;
    json_decref(choice->logprobs);
    choice->logprobs = NULL;
    return json;
}
