/* SPDX-License-Identifier: Apache-2.0 */
/* Sampling parameters out of range, or at odds with each other: completions and chats refuse them
 * alike, with the field and the reason. */
#include <CUnit/Basic.h>

#include <string.h>

#include "tests/api/chat_call.h"

struct refusal {
    const char *fields;
    const char *param; /* the error's */
    const char *says;  /* part of its message */
};

static const struct refusal refusals[] = {
    /* Out of range. */
    {"\"temperature\": -0.1", "temperature", "-0.1, expected 0 to 100"},
    {"\"temperature\": 100.5", "temperature", "expected 0 to 100"},
    {"\"top_p\": 0", "top_p", "expected 1e-06 to 1"},
    {"\"top_p\": 1.1", "top_p", "1.1, expected"},
    {"\"min_p\": 1.1", "min_p", "expected 0 to 1"},
    {"\"min_p\": -0.1", "min_p", "expected 0 to 1"},
    {"\"top_k\": -2", "top_k", "expected -1 to"},
    {"\"top_k\": 1.5", "top_k", "expected an integer"},
    {"\"top_k\": 4294967296", "top_k", "expected -1 to"},
    {"\"typical\": 0", "typical", "expected 1e-06 to 1"},
    {"\"typical_p\": 2", "typical_p", "expected 1e-06 to 1"},
    {"\"top_n_sigma\": 101", "top_n_sigma", "expected -1 to 100"},
    {"\"repeat_penalty\": 0", "repeat_penalty", "expected 0.01 to 100"},
    {"\"repeat_last_n\": -1", "repeat_last_n", "expected 0 to"},
    {"\"frequency_penalty\": 2.5", "frequency_penalty", "expected -2 to 2"},
    {"\"presence_penalty\": \"1\"", "presence_penalty", "a string, expected a number"},
    {"\"dry_multiplier\": -1", "dry_multiplier", "expected 0 to 100"},
    {"\"dry_base\": 0.5", "dry_base", "expected 1 to 100"},
    {"\"dry_allowed_length\": 0", "dry_allowed_length", "expected 1 to"},
    {"\"dry_penalty_last_n\": -2", "dry_penalty_last_n", "expected -1 to"},
    {"\"dry_sequence_breakers\": \"x\"", "dry_sequence_breakers", "expected an array"},
    {"\"dry_sequence_breakers\": [\"\"]", "dry_sequence_breakers", "text 1 is empty"},
    {"\"xtc_probability\": 1.5", "xtc_probability", "expected 0 to 1"},
    {"\"xtc_threshold\": -1", "xtc_threshold", "expected 0 to 1"},
    {"\"dynatemp_range\": -1", "dynatemp_range", "expected 0 to 100"},
    {"\"dynatemp_exponent\": 0", "dynatemp_exponent", "expected 1e-06 to 100"},
    {"\"mirostat\": 1", "mirostat", "expected 0 (off) or 2"},
    {"\"mirostat\": 3", "mirostat", "expected 0 to 2"},
    {"\"mirostat_tau\": 0", "mirostat_tau", "expected 1e-06 to 100"},
    {"\"mirostat_eta\": 1.5", "mirostat_eta", "expected 1e-06 to 1"},
    {"\"seed\": 1.5", "seed", "expected an integer"},
    {"\"seed\": \"1\"", "seed", "expected an integer"},
    {"\"n\": 0", "n", "expected 1 to 128"},
    {"\"n\": 129", "n", "expected 1 to 128"},
    {"\"logit_bias\": {\"9999\": 1}", "logit_bias", "token '9999', expected an id from 0 to"},
    {"\"logit_bias\": {\"-1\": 1}", "logit_bias", "token '-1'"},
    {"\"logit_bias\": {\"x\": 1}", "logit_bias", "token 'x'"},
    {"\"logit_bias\": {\"5\": 1, \"05\": 2}", "logit_bias", "token '05'"},
    {"\"logit_bias\": {\"5\": 101}", "logit_bias", "out of range, expected a number from -100"},
    {"\"logit_bias\": {\"5\": \"1\"}", "logit_bias", "a string"},
    {"\"logit_bias\": [5]", "logit_bias", "expected an object"},
    {"\"samplers\": \"top_q\"", "samplers", "\"top_q\"; known are penalties"},
    {"\"samplers\": [\"top_k\", 3]", "samplers", "element 1 is an integer"},
    {"\"samplers\": {}", "samplers", "expected an array"},
    {"\"stop\": \"\"", "stop", "0 bytes, expected 1 to 1024"},
    {"\"stop\": [\"a\", 5]", "stop", "holds an integer"},
    {"\"stop\": [\"1\",\"2\",\"3\",\"4\",\"5\",\"6\",\"7\",\"8\",\"9\",\"a\",\"b\",\"c\",\"d\","
     "\"e\",\"f\",\"g\",\"h\"]",
     "stop", "17 strings, at most 16"},
    /* At odds with each other. */
    {"\"mirostat\": 2, \"top_k\": 5", "top_k", "but mirostat takes its place"},
    {"\"mirostat\": 2, \"top_p\": 0.5", "top_p", "but mirostat takes its place"},
    {"\"mirostat\": 2, \"min_p\": 0.5", "min_p", "but mirostat takes its place"},
    {"\"mirostat\": 2, \"typical\": 0.5", "typical", "but mirostat takes its place"},
    {"\"mirostat\": 2, \"top_n_sigma\": 1", "top_n_sigma", "but mirostat takes its place"},
    {"\"mirostat\": 2, \"xtc_probability\": 0.5", "xtc_probability", "but mirostat"},
    {"\"mirostat\": 2, \"repeat_penalty\": 1.5", "repeat_penalty", "but mirostat"},
    {"\"mirostat\": 2, \"frequency_penalty\": 1", "frequency_penalty", "but mirostat"},
    {"\"mirostat\": 2, \"presence_penalty\": 1", "presence_penalty", "but mirostat"},
    {"\"mirostat\": 2, \"dry_multiplier\": 1", "dry_multiplier", "but mirostat"},
    {"\"mirostat\": 2, \"samplers\": [\"top_k\"]", "samplers", "but mirostat takes their place"},
    {"\"mirostat\": 2, \"temperature\": 0", "temperature", "nothing to draw from"},
    {"\"temperature\": 0, \"dynatemp_range\": 1", "dynatemp_range", "at a temperature of 0"},
    {"\"temperature\": 0, \"samplers\": [\"top_k\"]", "temperature", "samplers leaves the"},
    {"\"samplers\": [\"top_k\", \"top_k\"]", "samplers", "top_k twice"},
    {"\"samplers\": \"top_k;min_p;top_k\"", "samplers", "top_k twice"},
    {"\"typical\": 0.5, \"typical_p\": 0.9", "typical_p", "they are the same, give one"},
    {"\"repeat_penalty\": 1.5, \"repetition_penalty\": 1", "repeat_penalty", "give one"},
    {"\"stream_options\": {\"include_usage\": true}", "stream_options", "needs \"stream\": true"},
    /* What would enforce a form. */
    {"\"grammar\": \"root ::= [a-z]\"", "grammar", "not supported by this version"},
    {"\"json_schema\": {\"type\": \"object\"}", "json_schema", "not supported by this version"},
};

/* A completion's alone. */
static const struct refusal completions[] = {
    {"\"best_of\": 0", "best_of", "expected 1 to 128"},
    {"\"best_of\": 1, \"n\": 2", "best_of", "best_of is 1 and n is 2"},
    {"\"best_of\": 3, \"n\": 2", "best_of", "above n is not supported"},
    {"\"best_of\": \"2\"", "best_of", "expected an integer"},
    {"\"suffix\": \"y\"", "suffix", "not supported by this version"},
};

static void check(const char *path, const char *start, const struct refusal *r)
{
    char body[512];
    snprintf(body, sizeof body, "{%s, %s}", start, r->fields);
    struct answer answer = call(chat_url, "POST", path, "", body);
    json_t *json = answer_json(&answer);
    const json_t *error = json_object_get(json, "error");
    const char *message = json_string_value(json_object_get(error, "message"));
    const char *param = json_string_value(json_object_get(error, "param"));
    bool ok = answer.status == 400 && message && param && strcmp(param, r->param) == 0 &&
              strstr(message, r->says) && strstr(message, r->param) && !strchr(message, '\n');
    CU_ASSERT_TRUE(ok);
    if (!ok)
        fprintf(stderr, "%s %s\n -> %d %s: %s\n", path, body, answer.status, param, message);
    json_decref(json);
    answer_finish(&answer);
}

static void test_refusals(void)
{
    for (size_t i = 0; i < sizeof refusals / sizeof refusals[0]; i++) {
        check("/v1/completions", "\"prompt\": \"x\"", &refusals[i]);
        check("/v1/chat/completions", CHAT_HI + 1, &refusals[i]);
    }
    for (size_t i = 0; i < sizeof completions / sizeof completions[0]; i++)
        check("/v1/completions", "\"prompt\": \"x\"", &completions[i]);
    CU_ASSERT_EQUAL(fake_engine_streams(chat_engine), 0);
}

/* What says the same twice, or nothing, is taken. */
static void test_agreeing(void)
{
    struct answer answer =
        call(chat_url, "POST", "/v1/completions", "",
             "{\"prompt\": \"x\", \"repeat_penalty\": 2, \"repetition_penalty\": 2.0,"
             "\"n\": 2, \"best_of\": 2, \"grammar\": null, \"suffix\": null, \"stop\": []}");
    CU_ASSERT_EQUAL(answer.status, 200);
    answer_finish(&answer);
}

int main(void)
{
    CU_initialize_registry();
    CU_pSuite suite = CU_add_suite("sampling refusals", chat_set_up, chat_tear_down);
    CU_add_test(suite, "refusals", test_refusals);
    CU_add_test(suite, "agreeing", test_agreeing);
    CU_basic_set_mode(CU_BRM_NORMAL);
    CU_basic_run_tests();
    unsigned bad = CU_get_number_of_failures() + CU_get_number_of_suites_failed();
    CU_cleanup_registry();
    return bad > 0;
}
