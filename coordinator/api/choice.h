/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One choice of a completion: a stream of the engine, and what of its text and logprobs has not
 * been sent yet. One thread.
 */
#ifndef COORDINATOR_API_CHOICE_H
#define COORDINATOR_API_CHOICE_H

#include "coordinator/api/params.h"
#include "coordinator/text/stream.h"

struct api__choice {
    struct coord_stream *stream; /* NULL once finished */
    struct text_stream *text;
    const struct text_vocab *vocab;
    uint32_t index;
    int top_logprobs; /* -1: none are kept */
    char *pending;    /* text not taken yet */
    size_t pending_len, pending_cap;
    json_t *logprobs;   /* OpenAI's object of four arrays, not taken yet; NULL: nothing */
    uint64_t offset;    /* characters of the tokens so far */
    const char *finish; /* "stop" or "length" once finished */
    uint64_t n_generated;
};

/* Submits choice `index` of the request; *choice is zeroed memory and needs finishing either
 * way. */
bool api__choice_start(struct api__choice *choice, struct coord_engine *engine,
                       const struct api__params *params, uint32_t index, struct api__fault *fault);
void api__choice_finish(struct api__choice *choice);

/* Takes an event of the choice's stream in. False when the generation failed. */
bool api__choice_event(struct api__choice *choice, const struct coord_event *event,
                       struct api__fault *fault);

/* Whether there is anything to send. */
bool api__choice_has_news(const struct api__choice *choice);

/* What is there to send, as an element of "choices"; it counts as sent then. NULL without
 * memory. */
json_t *api__choice_take(struct api__choice *choice);

#endif
