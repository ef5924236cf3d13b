/* SPDX-License-Identifier: Apache-2.0 */
/* Chats through the client: thinking and content apart, and how they end. */
#include <CUnit/Basic.h>

#include <limits.h>
#include <string.h>

#include "coordinator/api/client.h"
#include "tests/api/chat_call.h"

static struct api_client *client;
static json_t *messages;
static atomic_bool cancel;

static int set_up(void)
{
    struct proto_error error;
    messages = json_pack("[{s:s, s:s}]", "role", "user", "content", "hi");
    return chat_set_up() || api_client_create(&client, chat_url, NULL, &error);
}

static int tear_down(void)
{
    json_decref(messages);
    api_client_destroy(client);
    return chat_tear_down();
}

struct heard {
    char text[2][256]; /* content, thinking */
    bool cancel;       /* after the first piece */
};

static bool on_delta(void *user, bool reasoning, const char *text, size_t len)
{
    struct heard *heard = user;
    strncat(heard->text[reasoning], text, len);
    if (heard->cancel)
        atomic_store(&cancel, true);
    return true;
}

static enum proto_status chat(struct heard *heard, struct api_client_done *done,
                              struct proto_error *error)
{
    const struct api_client_chat request = {.messages = messages,
                                            .max_tokens = 64,
                                            .sampling = TEXT_SAMPLING_DEFAULT,
                                            .cancel = &cancel};
    atomic_store(&cancel, false);
    return api_client_chat(client, &request, on_delta, heard, done, error);
}

static void test_answer(void)
{
    struct heard heard = {0};
    struct api_client_done done;
    struct proto_error error;
    CU_ASSERT_TRUE(fake_engine_set_template(chat_engine, CHAT_THINKS));
    fake_engine_say(chat_engine, "<think>so</think>Hi");
    CU_ASSERT_EQUAL(chat(&heard, &done, &error), PROTO_OK);
    CU_ASSERT_STRING_EQUAL(heard.text[0], "Hi");
    CU_ASSERT_STRING_EQUAL(heard.text[1], "so");
    CU_ASSERT_EQUAL(done.finish, COORD_FINISH_STOP);
    CU_ASSERT_EQUAL(done.n_generated, 20);
    CU_ASSERT_EQUAL(fake_engine_request(chat_engine).max_tokens, 64);
    CU_ASSERT_EQUAL(fake_engine_request(chat_engine).sampling.temperature,
                    TEXT_SAMPLING_DEFAULT.temperature);
    fake_engine_say(chat_engine, NULL);
}

/* The server falls silent, and nothing but the flag can end the call. */
static void test_cancelled(void)
{
    struct heard heard = {.cancel = true};
    struct api_client_done done;
    struct proto_error error;
    fake_engine_stall_after(chat_engine, 1);
    CU_ASSERT_EQUAL(chat(&heard, &done, &error), PROTO_CANCELLED);
    CU_ASSERT_STRING_EQUAL(heard.text[0], " hello");
    CU_ASSERT_TRUE(fake_engine_wait_idle(chat_engine));
    fake_engine_stall_after(chat_engine, UINT_MAX);
}

static void test_failures(void)
{
    struct heard heard = {0};
    struct api_client_done done;
    struct proto_error error;
    CU_ASSERT_TRUE(fake_engine_set_template(chat_engine, CHAT_RAISES));
    CU_ASSERT_EQUAL(chat(&heard, &done, &error), PROTO_INVALID);
    CU_ASSERT_PTR_NOT_NULL(strstr(error.text, "no user"));
    CU_ASSERT_TRUE(fake_engine_set_template(chat_engine, NULL));
    fake_engine_fail_after(chat_engine, 1, PROTO_LOST);
    CU_ASSERT_EQUAL(chat(&heard, &done, &error), PROTO_LOST);
    fake_engine_fail_after(chat_engine, UINT_MAX, PROTO_OK);
}

int main(void)
{
    CU_initialize_registry();
    CU_pSuite suite = CU_add_suite("client's chats", set_up, tear_down);
    CU_add_test(suite, "answer", test_answer);
    CU_add_test(suite, "cancelled", test_cancelled);
    CU_add_test(suite, "failures", test_failures);
    CU_basic_set_mode(CU_BRM_NORMAL);
    CU_basic_run_tests();
    unsigned bad = CU_get_number_of_failures() + CU_get_number_of_suites_failed();
    CU_cleanup_registry();
    return bad > 0;
}
