/* SPDX-License-Identifier: Apache-2.0 */
/* What /v1/chat/completions does not take, and what it says then. */
#include <CUnit/Basic.h>

#include <string.h>

#include "tests/api/chat_call.h"

struct refusal {
    const char *body;
    const char *param; /* the error's */
    const char *says;  /* part of its message */
};

#define USER(content) "{\"messages\": [{\"role\": \"user\", \"content\": " content "}]}"
#define MESSAGE(text) "{\"messages\": [" text "]}"
#define CALL(call)                                                                                 \
    MESSAGE("{\"role\": \"assistant\", \"tool_calls\": [" call "]},"                               \
            "{\"role\": \"tool\", \"content\": \"4\"}")

static const struct refusal refusals[] = {
    {"{}", "messages", "messages is missing"},
    {"{\"messages\": []}", "messages", "messages is empty"},
    {"{\"messages\": \"hi\"}", "messages", "messages is a string"},
    {MESSAGE("7"), "messages", "messages[0] is an integer"},
    {MESSAGE("{\"content\": \"hi\"}"), "messages", "messages[0].role is missing"},
    {MESSAGE("{\"role\": 1, \"content\": \"hi\"}"), "messages", "role is an integer"},
    {MESSAGE("{\"role\": \"function\", \"content\": \"hi\"}"), "messages", "role is 'function'"},
    {MESSAGE("{\"role\": \"user\", \"content\": \"a\"}, {\"role\": \"user\"}"), "messages",
     "messages[1].content is missing"},
    {USER("null"), "messages", "content is missing"},
    {USER("{}"), "messages", "content is an object"},
    {USER("[]"), "messages", "messages[0].content is empty"},
    {USER("[null]"), "messages", "content[0] has no type"},
    {USER("[\"a\"]"), "messages", "content[0] has no type"},
    {USER("[{\"type\": \"text\"}]"), "messages", "content[0].text is missing"},
    {USER("[{\"type\": \"text\", \"text\": \"a\"},"
          "{\"type\": \"image_url\", \"image_url\": {\"url\": \"data:\"}}]"),
     "messages", "messages[0].content[1] is an image ('image_url')"},
    {USER("[{\"type\": \"input_audio\"}]"), "messages", "content[0] is audio ('input_audio')"},
    {USER("[{\"type\": \"file\"}]"), "messages", "content[0] is a file ('file')"},
    {MESSAGE("{\"role\": \"user\", \"content\": \"a\", \"weight\": 1}"), "messages",
     "has the field 'weight'"},
    {MESSAGE("{\"role\": \"user\", \"content\": \"a\", \"name\": 1}"), "messages",
     "messages[0].name is an integer"},
    {CALL("{\"function\": {}}"), "messages", "without function.name"},
    {CALL("7"), "messages", "without function.name"},
    {CALL("{\"function\": {\"name\": \"f\", \"arguments\": \"[1]\"}}"), "messages",
     "the arguments of f are not a JSON object"},
    {CALL("{\"function\": {\"name\": \"f\"}}"), "messages", "the arguments of f"},
    {MESSAGE("{\"role\": \"assistant\", \"tool_calls\": {\"a\": 1}}"), "messages",
     "tool_calls is an object"},
    {CHAT_HI ", \"tools\": [{\"type\": \"function\"}]}", "tools", "tools is not supported"},
    {CHAT_HI ", \"tool_choice\": \"required\"}", "tool_choice", "tool_choice is not supported"},
    {CHAT_HI ", \"tool_choice\": {\"type\": \"function\"}}", "tool_choice", "not supported"},
    {CHAT_HI ", \"functions\": [{}]}", "functions", "functions is not supported"},
    {CHAT_HI ", \"function_call\": {\"name\": \"f\"}}", "function_call", "not supported"},
    {CHAT_HI ", \"response_format\": {\"type\": \"json_object\"}}", "response_format",
     "response_format is not supported"},
    {CHAT_HI ", \"response_format\": {\"type\": \"json_schema\", \"json_schema\": {}}}",
     "response_format", "not supported"},
    {CHAT_HI ", \"audio\": {}}", "audio", "audio is not supported"},
    {CHAT_HI ", \"modalities\": [\"text\", \"audio\"]}", "modalities", "holds audio, but only"},
    {CHAT_HI ", \"modalities\": \"text\"}", "modalities", "is a string, expected an array"},
    {CHAT_HI ", \"prompt\": \"a\"}", "prompt", "unknown field 'prompt'"},
    {CHAT_HI ", \"echo\": true}", "echo", "unknown field 'echo'"},
    {CHAT_HI ", \"tempreature\": 1}", "tempreature", "unknown field 'tempreature'"},
    {CHAT_HI ", \"model\": \"gpt-4\"}", "model", NULL},
    {CHAT_HI ", \"max_tokens\": 0}", "max_tokens", "expected 1 to"},
    {CHAT_HI ", \"max_tokens\": 3, \"max_completion_tokens\": 4}", "max_tokens", "give one"},
    {CHAT_HI ", \"logprobs\": 2}", "logprobs", "expected true or false"},
    {CHAT_HI ", \"top_logprobs\": 2}", "top_logprobs", "needs \"logprobs\": true"},
    {CHAT_HI ", \"logprobs\": true, \"top_logprobs\": 21}", "top_logprobs", "expected 0 to 20"},
    {CHAT_HI ", \"chat_template_kwargs\": []}", "chat_template_kwargs", "is an array"},
    {CHAT_HI ", \"chat_template_kwargs\": {\"bos_token\": \"x\"}}", "chat_template_kwargs",
     "sets bos_token"},
    {CHAT_HI ", \"chat_template_kwargs\": {\"messages\": []}}", "chat_template_kwargs",
     "sets messages"},
    {CHAT_HI ", \"reasoning_effort\": 3}", "reasoning_effort", "is an integer"},
    {CHAT_HI ", \"reasoning_effort\": \"low\","
             "\"chat_template_kwargs\": {\"reasoning_effort\": \"high\"}}",
     "reasoning_effort", "give one"},
};

static void test_refusals(void)
{
    unsigned before = fake_engine_streams(chat_engine);
    for (size_t i = 0; i < sizeof refusals / sizeof refusals[0]; i++) {
        const struct refusal *r = &refusals[i];
        json_t *json = chat_post(r->body, r->says ? 400 : 404);
        const json_t *error = json_object_get(json, "error");
        const char *message = json_string_value(json_object_get(error, "message"));
        const char *param = json_string_value(json_object_get(error, "param"));
        bool ok = message && param && strcmp(param, r->param) == 0 &&
                  (!r->says || strstr(message, r->says));
        CU_ASSERT_TRUE(ok);
        if (!ok)
            fprintf(stderr, "%s\n -> %s: %s\n", r->body, param, message);
        CU_ASSERT_STRING_EQUAL(json_string_value(json_object_get(error, "type")),
                               "invalid_request_error");
        json_decref(json);
    }
    CU_ASSERT_EQUAL(fake_engine_streams(chat_engine), before);
}

/* Fields that ask for nothing are no reason to refuse. */
static void test_neutral(void)
{
    json_decref(chat_post(
        CHAT_HI ", \"model\": \"fake\", \"tools\": [], \"tool_choice\": \"none\","
                "\"functions\": null, \"response_format\": {\"type\": \"text\"},"
                "\"modalities\": [\"text\"], \"parallel_tool_calls\": true, \"store\": false,"
                "\"metadata\": {}, \"service_tier\": \"auto\", \"user\": \"me\","
                "\"logit_bias\": {}, \"logprobs\": false, \"max_tokens\": 3,"
                "\"max_completion_tokens\": 3}",
        200));
}

static void check_template(const char *source, const char *says)
{
    CU_ASSERT_TRUE(fake_engine_set_template(chat_engine, source));
    json_t *json = chat_post(CHAT_HI "}", 400);
    const char *message =
        json_string_value(json_object_get(json_object_get(json, "error"), "message"));
    CU_ASSERT_TRUE(message && strstr(message, says));
    json_decref(json);
    /* The model still completes texts. */
    struct answer answer = call(chat_url, "POST", "/v1/completions", "", "{\"prompt\": \"a\"}");
    CU_ASSERT_EQUAL(answer.status, 200);
    answer_finish(&answer);
}

static void test_templates(void)
{
    check_template(CHAT_RAISES, "no user");
    check_template(CHAT_LOOPS, "cannot be used, only completions can: template line 1: it needs");
    check_template(CHAT_BROKEN, "chat template cannot be used");
    CU_ASSERT_TRUE(fake_engine_set_template(chat_engine, NULL));
}

int main(void)
{
    CU_initialize_registry();
    CU_pSuite suite = CU_add_suite("chat refusals", chat_set_up, chat_tear_down);
    CU_add_test(suite, "refusals", test_refusals);
    CU_add_test(suite, "neutral fields", test_neutral);
    CU_add_test(suite, "templates", test_templates);
    CU_basic_set_mode(CU_BRM_NORMAL);
    CU_basic_run_tests();
    unsigned bad = CU_get_number_of_failures() + CU_get_number_of_suites_failed();
    CU_cleanup_registry();
    return bad > 0;
}
