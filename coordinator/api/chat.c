/* SPDX-License-Identifier: Apache-2.0 */
/* /v1/chat/completions */
#include "coordinator/api/completions.h"

static bool read_chat(struct api__params *params, const json_t *body,
                      const struct api_server *server, struct api__fault *fault)
{
    return api__chat_params_read(params, body, server->model, coord_engine_vocab(server->engine),
                                 coord_engine_chat(server->engine), fault);
}

const struct api__form api__chat_form = {.id_prefix = "chatcmpl-",
                                         .object = "chat.completion",
                                         .event_object = "chat.completion.chunk",
                                         .chat = true,
                                         .read = read_chat,
                                         .take = api__chat_choice_take};

enum MHD_Result api__chat(struct api__request *r)
{
    return api__complete(r, &api__chat_form);
}
