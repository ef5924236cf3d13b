/* SPDX-License-Identifier: Apache-2.0 */
/* The body of a completion or chat request, checked. No state, any thread. */
#ifndef COORDINATOR_API_PARAMS_H
#define COORDINATOR_API_PARAMS_H

#include "coordinator/api/json.h"
#include "coordinator/text/chat.h"

#define API__MAX_CHOICES 128u /* prompts times n */
#define API__MAX_STOPS   16u

struct api__prompt {
    const char *text; /* as given, borrowed from the body; NULL for a list of ids */
    size_t text_len;
    int32_t *ids; /* BOS included where the vocabulary asks for it */
    size_t n_ids;
};

struct api__params {
    struct api__prompt *prompts;
    size_t n_prompts;
    uint32_t n; /* choices of each prompt */
    uint32_t max_tokens;
    struct text_sampling sampling; /* of each prompt's first choice; the others count the seed up */
    const char *stops[API__MAX_STOPS]; /* borrowed from the body */
    size_t n_stops;
    int top_logprobs; /* -1: none are wanted */
    bool echo, stream, include_usage, ignore_eos;
    /* Of a chat: */
    const struct text_marks *marks; /* NULL: no thinking is told apart */
    bool thinking;                  /* the answer begins with it */
};

/* Reads the fields of `body`, which must outlive *params. model is the only name accepted.
 *
 * Fields that OpenAI has get OpenAI's defaults (temperature 1, top_p 1, 16 tokens, a random seed);
 * the others of sampling get those of TEXT_SAMPLING_DEFAULT. Control tokens spelled in
 * a text prompt are control tokens: whoever writes the prompt of a completion writes the whole
 * document, template and all. False with *fault set otherwise; *params needs finishing either
 * way. */
bool api__params_read(struct api__params *params, const json_t *body, const char *model,
                      const struct text_vocab *vocab, struct api__fault *fault);

/* What completions and chats have in common: model, sampling, n, stop, stream, stream_options,
 * ignore_eos. */
bool api__params_read_shared(struct api__params *params, const json_t *body, const char *model,
                             const struct text_vocab *vocab, struct api__fault *fault);
/* Whether a completion has a field of that name. */
bool api__params_has(const char *name);

/* The same for a chat (chat_params.c). Defaults differ: as many tokens as the context leaves.
 * Control tokens spelled in a message stay text. */
bool api__chat_params_read(struct api__params *params, const json_t *body, const char *model,
                           const struct text_vocab *vocab, const struct text_chat *chat,
                           struct api__fault *fault);

void api__params_finish(struct api__params *params);

#endif
