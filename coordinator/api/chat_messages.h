/* SPDX-License-Identifier: Apache-2.0 */
/* The messages of a chat request. No state, any thread. */
#ifndef COORDINATOR_API_CHAT_MESSAGES_H
#define COORDINATOR_API_CHAT_MESSAGES_H

#include "coordinator/api/json.h"

/* Checks `messages` of the body and writes them as templates take them: content one string, the
 * arguments of tool calls objects, nothing that is null. NULL and *fault otherwise; the caller's
 * reference. */
json_t *api__chat_messages(const json_t *body, struct api__fault *fault);

#endif
