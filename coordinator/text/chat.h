/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How a model takes a conversation: its chat template (tokenizer.chat_template; ChatML where the
 * file has none) and the marks around its thinking. Constant after creation; any thread.
 */
#ifndef COORDINATOR_TEXT_CHAT_H
#define COORDINATOR_TEXT_CHAT_H

#include <jansson.h>

#include "coordinator/text/answer.h"

struct text_chat;

/* vocab is borrowed and must outlive it. A template that cannot be parsed, or that goes beyond a
 * limit over one short message, is no failure here, as the model still completes texts:
 * text_chat_check and text_chat_encode report it. */
enum proto_status text_chat_create(struct text_chat **out, const struct shard_gguf *gguf,
                                   const struct text_vocab *vocab, struct proto_error *error);
void text_chat_destroy(struct text_chat *chat);

/* PROTO_OK where the template can be used, else what is wrong with it. */
enum proto_status text_chat_check(const struct text_chat *chat, struct proto_error *error);

/* For text_answer_create; NULL: the model shows no thinking. */
const struct text_marks *text_chat_marks(const struct text_chat *chat);

struct text_chat_prompt {
    int32_t *ids; /* with BOS where the vocabulary asks for it */
    size_t n_ids;
    bool thinking; /* it ends behind the opening mark */
};
void text_chat_prompt_finish(struct text_chat_prompt *prompt);

/* Renders and encodes. messages: an array of objects with role (OpenAI's names), content (a string)
 * and what else the template may look at. variables: an object of further ones for the template, or
 * NULL; those that text_chat_reserves names are not among them. unix_time: the date that templates
 * ask for. PROTO_INVALID, PROTO_LIMIT, PROTO_FORMAT, PROTO_UNSUPPORTED: the template does not take
 * this, or is broken. */
enum proto_status text_chat_encode(const struct text_chat *chat, const json_t *messages,
                                   const json_t *variables, long long unix_time,
                                   struct text_chat_prompt *out, struct proto_error *error);

/* Whether the template's variable of that name is set here alone. */
bool text_chat_reserves(const char *name);

#endif
