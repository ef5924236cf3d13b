/* SPDX-License-Identifier: Apache-2.0 */
/* Generations as the client receives them: server-sent events, a line at a time. Only files of this
 * folder include it. */
#ifndef COORDINATOR_API_CLIENT_EVENTS_H
#define COORDINATOR_API_CLIENT_EVENTS_H

#include "coordinator/api/client_http.h"

struct api__generation {
    const char *path;
    json_t *body;              /* borrowed */
    const atomic_bool *cancel; /* ends the exchange once it is true; NULL: nothing does */
    /* An element of an event's choices; false ends the exchange. */
    bool (*on_choice)(void *user, const json_t *choice);
    void *user;
    struct api_client_done *done;
};

enum proto_status api__generate(struct api_client *client, const struct api__generation *generation,
                                struct proto_error *error);

/* What bodies of completions and chats have in common; NULL without memory. */
json_t *api__generation_body(uint32_t max_tokens, bool ignore_eog, const struct text_sampling *s);

#endif
