/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One choice of a completion as one connection reads it: what of its text and logprobs has not been
 * sent yet. It is made of the events of the choice's log alone, so two connections that read the
 * same log make the same of it. One thread.
 */
#ifndef COORDINATOR_API_CHOICE_H
#define COORDINATOR_API_CHOICE_H

#include "coordinator/api/params.h"

struct api__pending {
    char *text;
    size_t len, cap;
};

struct api__choice {
    struct text_answer *answer;
    const struct text_vocab *vocab;
    uint32_t index;
    int top_logprobs;                       /* -1: none are kept */
    bool chat;                              /* logprobs are in a chat's shape */
    bool greeted;                           /* of a chat's events: the role was sent */
    struct api__pending content, reasoning; /* text not taken yet */
    json_t *logprobs;   /* not taken yet; NULL: nothing. Completion: OpenAI's object of four arrays;
                           chat: an array, of the content's tokens alone */
    uint64_t offset;    /* characters of the tokens so far */
    const char *finish; /* "stop" or "length" once finished, until it was sent */
    bool closed;        /* finished: no more events are taken */
    size_t at;          /* events of the log that were taken */
    uint64_t mark; /* 1 + the events behind what was sent last; 0: nothing was. Together with those
                      of the other choices it is the id of an event */
    uint64_t skip; /* what has a mark up to this one was sent on another connection */
    uint64_t n_generated, n_reasoning; /* the latter are among the former */
};

/* Begins choice `index` of the request; *choice is zeroed memory and needs finishing either way. */
bool api__choice_start(struct api__choice *choice, const struct text_vocab *vocab,
                       const struct api__params *params, bool chat, uint32_t index,
                       struct api__fault *fault);
void api__choice_finish(struct api__choice *choice);

/* Takes the next event of the choice's log in. False when it cannot. */
bool api__choice_event(struct api__choice *choice, const struct coord_event *event,
                       struct api__fault *fault);

/* Whether there is anything to send. */
bool api__choice_has_news(const struct api__choice *choice);

/* What is there to send, as an element of "choices"; it counts as sent then. NULL without
 * memory. */
json_t *api__choice_take(struct api__choice *choice);
/* The same of a chat; event: as a part of a streamed answer. */
json_t *api__chat_choice_take(struct api__choice *choice, bool event);

/* A token's logprob as an element of a chat's logprobs. NULL without memory. */
json_t *api__chat_logprob(const struct api__choice *choice, const struct coord_event *event);

/* JSON has no infinities; a token that cannot be has OpenAI's -9999. */
json_t *api__logprob_json(float logprob);

/* The bytes of a token, malloc'ed; *len is their number. NULL without memory. */
char *api__token_bytes(const struct text_vocab *vocab, int32_t id, size_t *len);

#endif
