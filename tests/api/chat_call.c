/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/api/chat_call.h"

#include <CUnit/Basic.h>
#include <stdio.h>

struct coord_engine *chat_engine;
const char *chat_url;
static struct api_server *server;

int chat_set_up(void)
{
    struct proto_error error = {0};
    chat_engine = fake_engine_create();
    if (!chat_engine)
        return -1;
    const struct api_server_options options = {.listen = "127.0.0.1:0"};
    if (api_server_start(&server, chat_engine, &options, &error)) {
        fprintf(stderr, "%s\n", error.text);
        return -1;
    }
    chat_url = api_server_url(server);
    return 0;
}

int chat_tear_down(void)
{
    api_server_stop(server);
    coord_engine_destroy(chat_engine);
    return 0;
}

json_t *chat_post(const char *body, int status)
{
    struct answer answer = call(chat_url, "POST", "/v1/chat/completions", "", body);
    CU_ASSERT_EQUAL(answer.status, status);
    if (answer.status != status)
        fprintf(stderr, "%s\n -> %d %s\n", body, answer.status, answer.body);
    json_t *json = answer_json(&answer);
    CU_ASSERT_PTR_NOT_NULL(json);
    answer_finish(&answer);
    return json;
}
