/* SPDX-License-Identifier: Apache-2.0 */
/* What completions and chats share: everything but how a request is read and a choice is written.
 * Only files of this folder include it. */
#ifndef COORDINATOR_API_COMPLETIONS_H
#define COORDINATOR_API_COMPLETIONS_H

#include "coordinator/api/choice.h"

struct api__form {
    const char *id_prefix, *object, *event_object;
    bool chat;
    bool (*read)(struct api__params *params, const json_t *body, const struct api_server *server,
                 struct api__fault *fault);
    /* What of the choice was not sent yet; event: as a part of a streamed answer. */
    json_t *(*take)(struct api__choice *choice, bool event);
};

extern const struct api__form api__completion_form, api__chat_form;

/* Answers a new request. */
enum MHD_Result api__complete(struct api__request *r, const struct api__form *form);

#endif
