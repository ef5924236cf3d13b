/* SPDX-License-Identifier: Apache-2.0 */
/* Choices in a chat's shape. */
#include "coordinator/api/choice.h"

#include <stdlib.h>

static json_t *pending_json(struct api__pending *p)
{
    json_t *json = api__json_text(p->text ? p->text : "", p->len);
    p->len = 0;
    return json;
}

/* {"token", "logprob", "bytes"} */
static json_t *token_json(const struct text_vocab *vocab, int32_t id, float logprob)
{
    size_t len;
    char *bytes = api__token_bytes(vocab, id, &len);
    if (!bytes)
        return NULL;
    json_t *list = json_array();
    for (size_t i = 0; list && i < len; i++) {
        if (json_array_append_new(list, json_integer((unsigned char)bytes[i]))) {
            json_decref(list);
            list = NULL;
        }
    }
    json_t *json = json_pack("{s:o, s:o, s:o}", "token", api__json_text(bytes, len), "logprob",
                             api__logprob_json(logprob), "bytes", list);
    free(bytes);
    return json;
}

json_t *api__chat_logprob(const struct api__choice *choice, const struct coord_event *event)
{
    uint32_t n = (uint32_t)choice->top_logprobs;
    if (event->n_top < n)
        n = event->n_top;
    json_t *top = json_array();
    for (uint32_t i = 0; top && i < n; i++) {
        const struct text_candidate *candidate = &event->top[i];
        if (json_array_append_new(top,
                                  token_json(choice->vocab, candidate->id, candidate->logit))) {
            json_decref(top);
            top = NULL;
        }
    }
    json_t *json = top ? token_json(choice->vocab, event->token, event->logprob) : NULL;
    if (json && json_object_set(json, "top_logprobs", top)) {
        json_decref(json);
        json = NULL;
    }
    json_decref(top);
    return json;
}

/* Parts of an event that say nothing are left out, but not the first content. */
static json_t *delta_json(struct api__choice *c)
{
    bool first = !c->greeted;
    c->greeted = true;
    return json_pack("{s:s*, s:o*, s:o*}", "role", first ? "assistant" : NULL, "reasoning_content",
                     c->reasoning.len > 0 ? pending_json(&c->reasoning) : NULL, "content",
                     first || c->content.len > 0 ? pending_json(&c->content) : NULL);
}

static json_t *message_json(struct api__choice *c)
{
    return json_pack("{s:s, s:o*, s:o, s:n}", "role", "assistant", "reasoning_content",
                     c->reasoning.len > 0 ? pending_json(&c->reasoning) : NULL, "content",
                     pending_json(&c->content), "refusal");
}

json_t *api__chat_choice_take(struct api__choice *choice, bool event)
{
    json_t *logprobs = choice->logprobs
                           ? json_pack("{s:o, s:n}", "content", choice->logprobs, "refusal")
                           : json_null();
    choice->logprobs = NULL;
    return json_pack("{s:i, s:o, s:o, s:s?}", "index", (int)choice->index,
                     event ? "delta" : "message", event ? delta_json(choice) : message_json(choice),
                     "logprobs", logprobs, "finish_reason", choice->finish);
}
