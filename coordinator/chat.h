/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A chat in the terminal: lines are messages, answers appear as they are generated. Ctrl-C stops an
 * answer, Ctrl-D ends the chat. Where standard input is no terminal, its lines are the user's
 * messages as they are, and standard output gets the answers alone. One thread.
 */
#ifndef COORDINATOR_CHAT_H
#define COORDINATOR_CHAT_H

#include <jansson.h>

#include "coordinator/backend.h"
#include "coordinator/interrupt.h"

struct coord_chat_options {
    const char *system;  /* the system's message, or NULL */
    uint32_t max_tokens; /* of an answer */
    bool ignore_eog;
    struct text_sampling sampling; /* each answer counts the seed up */
};

/* Ends with the input. */
enum proto_status coord_chat(struct coord_backend *backend,
                             const struct coord_chat_options *options, struct proto_error *error);

/* One answer; only chat.c and chat_answer.c use what follows. */
struct coord_chat_answer {
    char *text; /* of the content, malloc'ed, NUL-terminated, the caller's; NULL: nothing came */
    size_t len, cap;
    enum coord_finish finish; /* CANCELLED: by the flags */
};

/* Writes the answer to standard output as it comes; thinking only at a terminal. messages: an array
 * as /v1/chat/completions takes it. */
enum proto_status coord__chat_answer(struct coord_backend *backend, const json_t *messages,
                                     const struct coord_chat_options *options,
                                     struct coord_interrupt_flags *flags,
                                     struct coord_chat_answer *answer, struct proto_error *error);

#endif
