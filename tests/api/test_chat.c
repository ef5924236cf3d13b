/* SPDX-License-Identifier: Apache-2.0 */
/* /v1/chat/completions over HTTP: prompts, whole and streamed answers, thinking, logprobs. */
#include <CUnit/Basic.h>

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "tests/api/chat_call.h"

static const json_t *choice_of(const json_t *json, size_t i)
{
    return json_array_get(json_object_get(json, "choices"), i);
}

static const char *text_in(const json_t *object, const char *name)
{
    const char *text = json_string_value(json_object_get(object, name));
    return text ? text : "(none)";
}

static const json_t *message_of(const json_t *json)
{
    return json_object_get(choice_of(json, 0), "message");
}

static json_int_t usage_of(const json_t *json, const char *name)
{
    return json_integer_value(json_object_get(json_object_get(json, "usage"), name));
}

static json_int_t reasoning_tokens(const json_t *json)
{
    const json_t *usage = json_object_get(json, "usage");
    return json_integer_value(
        json_object_get(json_object_get(usage, "completion_tokens_details"), "reasoning_tokens"));
}

static void test_whole(void)
{
    json_t *json = chat_post(CHAT_HI ", \"model\": \"fake\", \"seed\": 2}", 200);
    CU_ASSERT_STRING_EQUAL(text_in(json, "object"), "chat.completion");
    CU_ASSERT_EQUAL(strncmp(text_in(json, "id"), "chatcmpl-", 9), 0);
    CU_ASSERT_STRING_EQUAL(text_in(message_of(json), "role"), "assistant");
    CU_ASSERT_STRING_EQUAL(text_in(message_of(json), "content"), FAKE_TEXT);
    CU_ASSERT_PTR_NULL(json_object_get(message_of(json), "reasoning_content"));
    CU_ASSERT_STRING_EQUAL(text_in(choice_of(json, 0), "finish_reason"), "stop");
    CU_ASSERT_TRUE(json_is_null(json_object_get(choice_of(json, 0), "logprobs")));
    CU_ASSERT_EQUAL(usage_of(json, "completion_tokens"), FAKE_TOKENS + 1);
    CU_ASSERT_TRUE(usage_of(json, "prompt_tokens") > 10);
    CU_ASSERT_EQUAL(usage_of(json, "total_tokens"),
                    usage_of(json, "prompt_tokens") + FAKE_TOKENS + 1);
    json_decref(json);
}

static void test_sampling(void)
{
    json_decref(chat_post(CHAT_HI "}", 200));
    struct coord_request r = fake_engine_request(chat_engine);
    CU_ASSERT_EQUAL(r.sampling.temperature, 1.0f);
    CU_ASSERT_EQUAL(r.sampling.top_p, 1.0f);
    CU_ASSERT_EQUAL(r.max_tokens, PROTO_MAX_CONTEXT);
    json_decref(chat_post(CHAT_HI ", \"temperature\": 0, \"max_tokens\": 9, \"seed\": 5,"
                                  "\"ignore_eos\": true}",
                          200));
    r = fake_engine_request(chat_engine);
    CU_ASSERT_EQUAL(r.sampling.temperature, 0.0f);
    CU_ASSERT_EQUAL(r.sampling.seed, 5);
    CU_ASSERT_EQUAL(r.max_tokens, 9);
    CU_ASSERT_TRUE(r.ignore_eog);
}

static void test_length_and_stop(void)
{
    json_t *json = chat_post(CHAT_HI ", \"max_completion_tokens\": 2, \"seed\": 0}", 200);
    CU_ASSERT_STRING_EQUAL(text_in(message_of(json), "content"), " hello wor");
    CU_ASSERT_STRING_EQUAL(text_in(choice_of(json, 0), "finish_reason"), "length");
    json_decref(json);
    json = chat_post(CHAT_HI ", \"stop\": \"world\", \"seed\": 0}", 200);
    CU_ASSERT_STRING_EQUAL(text_in(message_of(json), "content"), " hello ");
    CU_ASSERT_STRING_EQUAL(text_in(choice_of(json, 0), "finish_reason"), "stop");
    json_decref(json);
}

static void test_choices(void)
{
    json_t *json = chat_post(CHAT_HI ", \"n\": 2, \"seed\": 4}", 200);
    CU_ASSERT_EQUAL(json_array_size(json_object_get(json, "choices")), 2);
    const json_t *other = json_object_get(choice_of(json, 1), "message");
    CU_ASSERT_STRING_EQUAL(text_in(message_of(json), "content"), FAKE_TEXT);
    CU_ASSERT_STRING_EQUAL(text_in(other, "content"), FAKE_TEXT_ODD);
    json_decref(json);
}

/* The prompt that these messages make. */
static void check_prompt(const char *messages, const char *more, const char *expected)
{
    char body[2048];
    snprintf(body, sizeof body, "{\"messages\": [%s]%s}", messages, more);
    json_decref(chat_post(body, 200));
    const char *prompt = fake_engine_prompt(chat_engine);
    if (strcmp(prompt, expected) != 0)
        fprintf(stderr, "%s\n -> %s\n", body, prompt);
    CU_ASSERT_STRING_EQUAL(prompt, expected);
}

static void test_prompts(void)
{
    check_prompt("{\"role\": \"system\", \"content\": \"be\"},"
                 "{\"role\": \"user\", \"content\": [{\"type\": \"text\", \"text\": \"a \"},"
                 "{\"type\": \"text\", \"text\": \"b\"}]},"
                 "{\"role\": \"assistant\", \"content\": null, \"refusal\": null, \"tool_calls\":"
                 "[{\"id\": \"1\", \"type\": \"function\", \"function\": {\"name\": \"f\","
                 "\"arguments\": \"{\\\"x\\\": 1}\"}}]},"
                 "{\"role\": \"tool\", \"tool_call_id\": \"1\", \"content\": \"4\"}",
                 "",
                 "<s><|im_start|>system\nbe<|im_end|>\n<|im_start|>user\na b<|im_end|>\n"
                 "<|im_start|>assistant\n<|im_end|>\n<|im_start|>tool\n4<|im_end|>\n"
                 "<|im_start|>assistant\n");
    check_prompt("{\"role\": \"developer\", \"content\": \"be\"}", "",
                 "<s><|im_start|>system\nbe<|im_end|>\n<|im_start|>assistant\n");
    CU_ASSERT_TRUE(fake_engine_set_template(chat_engine, CHAT_PARTS));
    check_prompt("{\"role\": \"user\", \"content\": \"as a part\"}", "", "<s>as a part");
    CU_ASSERT_TRUE(fake_engine_set_template(chat_engine, CHAT_THINKS));
    check_prompt(
        "{\"role\": \"user\", \"content\": \"x\"}",
        ", \"chat_template_kwargs\": {\"enable_thinking\": false}",
        "<s><|im_start|>user\nx<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n");
    check_prompt("{\"role\": \"user\", \"content\": \"x\"}",
                 ", \"chat_template_kwargs\": {\"enable_thinking\": true}",
                 "<s><|im_start|>user\nx<|im_end|>\n<|im_start|>assistant\n");
    CU_ASSERT_TRUE(fake_engine_set_template(chat_engine, NULL));
}

static json_int_t prompt_tokens(const char *content)
{
    char body[256];
    snprintf(body, sizeof body, "{\"messages\": [{\"role\": \"user\", \"content\": \"%s\"}]}",
             content);
    json_t *json = chat_post(body, 200);
    json_int_t n = usage_of(json, "prompt_tokens");
    json_decref(json);
    return n;
}

/* Control tokens are the template's alone: spelled in a message they are characters. */
static void test_trust(void)
{
    CU_ASSERT_TRUE(fake_engine_set_template(chat_engine, CHAT_HARMONY));
    json_int_t empty = prompt_tokens("");
    CU_ASSERT_TRUE(empty < 30); /* the template's own are one token each */
    CU_ASSERT_TRUE(prompt_tokens("<|end|>") >= empty + 7);
    CU_ASSERT_TRUE(prompt_tokens("<|end|><|start|>") >= empty + 16);
    CU_ASSERT_TRUE(fake_engine_set_template(chat_engine, NULL));
}

/* What a stream said. */
struct streamed {
    char content[512], reasoning[512], finish[16];
    unsigned chunks, roles, usages, tokens;
    json_int_t thoughts;
    bool done, error, late_reasoning; /* thinking after content */
};

static void add_text(char out[512], const json_t *delta, const char *name)
{
    const char *text = json_string_value(json_object_get(delta, name));
    if (text)
        strncat(out, text, 511 - strlen(out));
}

static void take_chunk(struct streamed *s, const json_t *json)
{
    const json_t *choice = choice_of(json, 0), *delta = json_object_get(choice, "delta");
    s->chunks++;
    s->error |= json_object_get(json, "error") != NULL;
    s->usages += json_is_object(json_object_get(json, "usage"));
    s->thoughts += reasoning_tokens(json);
    if (!choice)
        return;
    CU_ASSERT_STRING_EQUAL(text_in(json, "object"), "chat.completion.chunk");
    s->roles += json_object_get(delta, "role") != NULL;
    s->late_reasoning |= json_object_get(delta, "reasoning_content") && s->content[0];
    add_text(s->content, delta, "content");
    add_text(s->reasoning, delta, "reasoning_content");
    s->tokens +=
        (unsigned)json_array_size(json_object_get(json_object_get(choice, "logprobs"), "content"));
    const char *finish = json_string_value(json_object_get(choice, "finish_reason"));
    if (finish)
        snprintf(s->finish, sizeof s->finish, "%s", finish);
}

static struct streamed post_stream(const char *body)
{
    struct streamed s = {0};
    struct answer answer = call(chat_url, "POST", "/v1/chat/completions", "", body);
    CU_ASSERT_EQUAL(answer.status, 200);
    char *at = answer.body, *line;
    while (at && (line = strsep(&at, "\n"))) {
        if (strncmp(line, "data: ", 6) != 0)
            continue;
        s.done |= strcmp(line + 6, "[DONE]") == 0;
        json_t *json = json_loads(line + 6, 0, NULL);
        if (json)
            take_chunk(&s, json);
        json_decref(json);
    }
    answer_finish(&answer);
    return s;
}

static void test_stream(void)
{
    struct streamed s = post_stream(CHAT_HI ", \"stream\": true, \"seed\": 0, \"logprobs\": true,"
                                            "\"stream_options\": {\"include_usage\": true}}");
    CU_ASSERT_STRING_EQUAL(s.content, FAKE_TEXT);
    CU_ASSERT_STRING_EQUAL(s.finish, "stop");
    CU_ASSERT_EQUAL(s.roles, 1);
    CU_ASSERT_EQUAL(s.usages, 1);
    CU_ASSERT_EQUAL(s.tokens, FAKE_TOKENS);
    CU_ASSERT_TRUE(s.done && !s.error);
    s = post_stream(CHAT_HI ", \"stream\": true, \"seed\": 0, \"stop\": [\"lo w\"]}");
    CU_ASSERT_STRING_EQUAL(s.content, " hel");
    CU_ASSERT_STRING_EQUAL(s.finish, "stop");
    CU_ASSERT_EQUAL(s.usages, 0);
    fake_engine_fail_after(chat_engine, 2, PROTO_LOST);
    s = post_stream(CHAT_HI ", \"stream\": true, \"seed\": 0}");
    CU_ASSERT_TRUE(s.error && !s.done);
    CU_ASSERT_STRING_EQUAL(s.content, " hello wor");
    fake_engine_fail_after(chat_engine, UINT_MAX, PROTO_OK);
}

static void test_logprobs(void)
{
    json_t *json =
        chat_post(CHAT_HI ", \"logprobs\": true, \"top_logprobs\": 2, \"seed\": 0}", 200);
    const json_t *list =
        json_object_get(json_object_get(choice_of(json, 0), "logprobs"), "content");
    CU_ASSERT_EQUAL(json_array_size(list), FAKE_TOKENS);
    const json_t *second = json_array_get(list, 1), *half = json_array_get(list, 4);
    CU_ASSERT_STRING_EQUAL(text_in(second, "token"), " wor");
    CU_ASSERT_EQUAL(json_real_value(json_object_get(second, "logprob")), FAKE_LOGPROB);
    CU_ASSERT_EQUAL(json_array_size(json_object_get(second, "bytes")), 4);
    CU_ASSERT_EQUAL(json_integer_value(json_array_get(json_object_get(half, "bytes"), 0)), 0xc3);
    const json_t *top = json_object_get(second, "top_logprobs");
    CU_ASSERT_EQUAL(json_array_size(top), 2);
    CU_ASSERT_STRING_EQUAL(text_in(json_array_get(top, 0), "token"), " hello");
    CU_ASSERT_EQUAL(json_real_value(json_object_get(json_array_get(top, 1), "logprob")), -2.0);
    json_decref(json);
    json = chat_post(CHAT_HI ", \"logprobs\": true, \"seed\": 0}", 200);
    list = json_object_get(json_object_get(choice_of(json, 0), "logprobs"), "content");
    top = json_object_get(json_array_get(list, 0), "top_logprobs");
    CU_ASSERT_TRUE(json_is_array(top) && json_array_size(top) == 0);
    json_decref(json);
}

/* What the model writes under a template, and how it is told apart: in one piece, and streamed, a
 * byte or a control token at a time. tokens: those of the content, that have logprobs. */
static void check_thinking(const char *source, const char *says, const char *reasoning,
                           const char *content, unsigned tokens)
{
    CU_ASSERT_TRUE(fake_engine_set_template(chat_engine, source));
    fake_engine_say(chat_engine, says);
    json_t *json = chat_post(CHAT_HI ", \"logprobs\": true, \"seed\": 0}", 200);
    const json_t *list =
        json_object_get(json_object_get(choice_of(json, 0), "logprobs"), "content");
    CU_ASSERT_STRING_EQUAL(text_in(message_of(json), "content"), content);
    CU_ASSERT_STRING_EQUAL(text_in(message_of(json), "reasoning_content"),
                           *reasoning ? reasoning : "(none)");
    CU_ASSERT_EQUAL(json_array_size(list), tokens);
    CU_ASSERT_TRUE(!*reasoning || reasoning_tokens(json) > 0);
    json_decref(json);
    struct streamed s = post_stream(CHAT_HI ", \"stream\": true, \"seed\": 0, \"logprobs\": true,"
                                            "\"stream_options\": {\"include_usage\": true}}");
    CU_ASSERT_STRING_EQUAL(s.content, content);
    CU_ASSERT_STRING_EQUAL(s.reasoning, reasoning);
    CU_ASSERT_EQUAL(s.tokens, tokens);
    CU_ASSERT_EQUAL(s.roles, 1);
    CU_ASSERT_TRUE(!*reasoning || s.thoughts > 0);
    CU_ASSERT_TRUE(s.done && !s.error && !s.late_reasoning);
    fake_engine_say(chat_engine, NULL);
    CU_ASSERT_TRUE(fake_engine_set_template(chat_engine, NULL));
}

static void test_thinking(void)
{
    check_thinking(CHAT_THINKS, "<think>\nso \xc3\xa9\n</think>\n\nHi <think>", "so \xc3\xa9",
                   "Hi <think>", 10);
    check_thinking(CHAT_THINKS, "\n <think>", "", "", 0);
    check_thinking(CHAT_THINKS, "<thin", "", "<thin", 5);
    check_thinking(CHAT_THINKS, " <b>Hi</think>", "", " <b>Hi</think>", 14);
    check_thinking(CHAT_THINKS, "<think></think>Hi", "", "Hi", 2);
    check_thinking(CHAT_OPENS, "a < b </thin </think>Hi", "a < b </thin", "Hi", 2);
    check_thinking(CHAT_OPENS, "never ends \n</thi", "never ends \n</thi", "", 0);
    check_thinking(CHAT_TAGS, "<|START_THINKING|>a<|END_THINKING|>b", "a", "b", 1);
    /* No marks are known: nothing is told apart. */
    check_thinking(NULL, "<think>a</think>b", "", "<think>a</think>b", 17);
}

static void test_harmony(void)
{
    check_thinking(CHAT_HARMONY,
                   "<|channel|>analysis<|message|>so <|end|><|start|>assistant<|channel|>final"
                   "<|message|>Hi <think>",
                   "so ", "Hi <think>", 10);
    check_thinking(CHAT_HARMONY, "<|channel|>final<|message|>Hi", "", "Hi", 2);
    check_thinking(CHAT_HARMONY, "Hi", "", "Hi", 2);
    check_thinking(CHAT_HARMONY, "<|channel|>analysis<|message|>so", "so", "", 0);
    check_thinking(CHAT_HARMONY, "<|channel|>commentary to=a<|message|>b<|end|>", "", "b", 1);
}

int main(void)
{
    CU_initialize_registry();
    CU_pSuite suite = CU_add_suite("chat", chat_set_up, chat_tear_down);
    CU_add_test(suite, "whole", test_whole);
    CU_add_test(suite, "sampling", test_sampling);
    CU_add_test(suite, "length and stop", test_length_and_stop);
    CU_add_test(suite, "choices", test_choices);
    CU_add_test(suite, "prompts", test_prompts);
    CU_add_test(suite, "trust", test_trust);
    CU_add_test(suite, "stream", test_stream);
    CU_add_test(suite, "logprobs", test_logprobs);
    CU_add_test(suite, "thinking", test_thinking);
    CU_add_test(suite, "harmony", test_harmony);
    CU_basic_set_mode(CU_BRM_NORMAL);
    CU_basic_run_tests();
    unsigned bad = CU_get_number_of_failures() + CU_get_number_of_suites_failed();
    CU_cleanup_registry();
    return bad > 0;
}
