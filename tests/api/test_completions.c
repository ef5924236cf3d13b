/* SPDX-License-Identifier: Apache-2.0 */
/* /v1/completions over HTTP: whole and streamed answers, choices, logprobs, failures. */
#include <CUnit/Basic.h>

#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "coordinator/api/server.h"
#include "tests/api/call.h"
#include "tests/api/fake_engine.h"

#define PATH "/v1/completions"

static struct coord_engine *engine;
static struct api_server *server;
static const char *url;

static int set_up(void)
{
    struct proto_error error = {0};
    engine = fake_engine_create();
    if (!engine)
        return -1;
    const struct api_server_options options = {.listen = "127.0.0.1:0"};
    if (api_server_start(&server, engine, &options, &error)) {
        fprintf(stderr, "%s\n", error.text);
        return -1;
    }
    url = api_server_url(server);
    return 0;
}

static int tear_down(void)
{
    api_server_stop(server);
    coord_engine_destroy(engine);
    return 0;
}

static json_t *post(const char *body, int status)
{
    struct answer answer = call(url, "POST", PATH, "", body);
    CU_ASSERT_EQUAL(answer.status, status);
    if (answer.status != status)
        fprintf(stderr, "%s\n -> %d %s\n", body, answer.status, answer.body);
    json_t *json = answer_json(&answer);
    CU_ASSERT_PTR_NOT_NULL(json);
    answer_finish(&answer);
    return json;
}

static json_t *choice_of(const json_t *json, size_t i)
{
    return json_array_get(json_object_get(json, "choices"), i);
}

static const char *text_of(const json_t *json, size_t i)
{
    const char *text = json_string_value(json_object_get(choice_of(json, i), "text"));
    return text ? text : "(none)";
}

static const char *finish_of(const json_t *json, size_t i)
{
    const char *text = json_string_value(json_object_get(choice_of(json, i), "finish_reason"));
    return text ? text : "(none)";
}

static json_int_t usage_of(const json_t *json, const char *name)
{
    return json_integer_value(json_object_get(json_object_get(json, "usage"), name));
}

static void test_whole(void)
{
    json_t *json = post("{\"model\": \"fake\", \"prompt\": \"hello\", \"seed\": 2}", 200);
    CU_ASSERT_STRING_EQUAL(text_of(json, 0), FAKE_TEXT);
    CU_ASSERT_STRING_EQUAL(finish_of(json, 0), "stop");
    CU_ASSERT_STRING_EQUAL(json_string_value(json_object_get(json, "object")), "text_completion");
    CU_ASSERT_EQUAL(strncmp(json_string_value(json_object_get(json, "id")), "cmpl-", 5), 0);
    CU_ASSERT_STRING_EQUAL(json_string_value(json_object_get(json, "model")), FAKE_MODEL);
    CU_ASSERT_TRUE(json_is_integer(json_object_get(json, "created")));
    CU_ASSERT_TRUE(json_is_null(json_object_get(choice_of(json, 0), "logprobs")));
    CU_ASSERT_EQUAL(usage_of(json, "completion_tokens"), FAKE_TOKENS + 1);
    CU_ASSERT_TRUE(usage_of(json, "prompt_tokens") > 0);
    CU_ASSERT_EQUAL(usage_of(json, "total_tokens"),
                    usage_of(json, "prompt_tokens") + FAKE_TOKENS + 1);
    json_decref(json);
}

static void test_length(void)
{
    json_t *json = post("{\"prompt\": [259, 260], \"max_tokens\": 5, \"seed\": 0}", 200);
    /* The fifth token is half a character. */
    CU_ASSERT_STRING_EQUAL(text_of(json, 0), " hello world!\xef\xbf\xbd");
    CU_ASSERT_STRING_EQUAL(finish_of(json, 0), "length");
    CU_ASSERT_EQUAL(usage_of(json, "prompt_tokens"), 2);
    CU_ASSERT_EQUAL(usage_of(json, "completion_tokens"), 5);
    json_decref(json);
    json = post("{\"prompt\": \"x\", \"max_tokens\": 9, \"ignore_eos\": true, \"seed\": 0}", 200);
    CU_ASSERT_STRING_EQUAL(text_of(json, 0), FAKE_TEXT " hello wor");
    json_decref(json);
    json = post("{\"prompt\": \"x\", \"seed\": 0, \"ignore_eos\": true}", 200);
    CU_ASSERT_EQUAL(usage_of(json, "completion_tokens"), 16);
    json_decref(json);
}

static void test_stop(void)
{
    json_t *json = post("{\"prompt\": \"x\", \"stop\": [\"never\", \"world\"], \"seed\": 0}", 200);
    CU_ASSERT_STRING_EQUAL(text_of(json, 0), " hello ");
    CU_ASSERT_STRING_EQUAL(finish_of(json, 0), "stop");
    json_decref(json);
    CU_ASSERT_TRUE(fake_engine_wait_idle(engine));
    json = post("{\"prompt\": \"x\", \"stop\": \" hello\", \"seed\": 0}", 200);
    CU_ASSERT_STRING_EQUAL(text_of(json, 0), "");
    json_decref(json);
}

static void test_echo(void)
{
    json_t *json = post("{\"prompt\": \"hello\", \"echo\": true, \"seed\": 0}", 200);
    CU_ASSERT_STRING_EQUAL(text_of(json, 0), "hello" FAKE_TEXT);
    json_decref(json);
    json = post("{\"prompt\": [259], \"echo\": true, \"seed\": 0}", 200);
    CU_ASSERT_STRING_EQUAL(text_of(json, 0), "hello" FAKE_TEXT);
    json_decref(json);
}

static void test_choices(void)
{
    unsigned before = fake_engine_streams(engine);
    json_t *json = post("{\"prompt\": [\"a\", [259]], \"n\": 2, \"seed\": 4}", 200);
    CU_ASSERT_EQUAL(json_array_size(json_object_get(json, "choices")), 4);
    for (unsigned i = 0; i < 4; i++) {
        CU_ASSERT_STRING_EQUAL(text_of(json, i), i % 2 ? FAKE_TEXT_ODD : FAKE_TEXT);
        CU_ASSERT_EQUAL(json_integer_value(json_object_get(choice_of(json, i), "index")), i);
        CU_ASSERT_EQUAL(fake_engine_seed(engine, before + i), 4 + i % 2);
    }
    json_decref(json);
    CU_ASSERT_TRUE(fake_engine_wait_idle(engine));
}

static void test_sampling(void)
{
    json_decref(post("{\"prompt\": \"x\", \"temperature\": 0.5, \"top_p\": 0.25, \"top_k\": 7,"
                     "\"min_p\": 0.125, \"repetition_penalty\": 1.5, \"seed\": -3,"
                     "\"stop\": null, \"suffix\": null, \"best_of\": 1, \"logit_bias\": {},"
                     "\"presence_penalty\": 0, \"user\": \"me\"}",
                     200));
    struct text_sampling s = fake_engine_request(engine).sampling;
    CU_ASSERT_EQUAL(s.temperature, 0.5f);
    CU_ASSERT_EQUAL(s.top_p, 0.25f);
    CU_ASSERT_EQUAL(s.top_k, 7);
    CU_ASSERT_EQUAL(s.min_p, 0.125f);
    CU_ASSERT_EQUAL(s.repeat_penalty, 1.5f);
    CU_ASSERT_EQUAL(s.seed, (uint64_t)-3);
    json_decref(post("{\"prompt\": \"x\"}", 200));
    s = fake_engine_request(engine).sampling;
    CU_ASSERT_EQUAL(s.temperature, 1.0f);
    CU_ASSERT_EQUAL(s.top_p, 1.0f);
    CU_ASSERT_EQUAL(s.top_k, TEXT_SAMPLING_DEFAULT.top_k);
}

static void test_all_sampling(void)
{
    json_decref(post("{\"prompt\": \"x\", \"frequency_penalty\": 0.5, \"presence_penalty\": -0.25,"
                     "\"repeat_last_n\": 5, \"typical_p\": 0.5, \"top_n_sigma\": 1.5,"
                     "\"xtc_probability\": 0.25, \"xtc_threshold\": 0.125, \"dry_multiplier\": 0.5,"
                     "\"dry_base\": 2, \"dry_allowed_length\": 3, \"dry_penalty_last_n\": 9,"
                     "\"dry_sequence_breakers\": [\"x\"], \"dynatemp_range\": 0.5,"
                     "\"dynatemp_exponent\": 2, \"samplers\": [\"temperature\", \"dry\"],"
                     "\"logit_bias\": {\"5\": -100, \"7\": 1.5}}",
                     200));
    struct text_sampling s = fake_engine_request(engine).sampling;
    CU_ASSERT(s.frequency_penalty == 0.5f && s.presence_penalty == -0.25f);
    CU_ASSERT(s.repeat_last_n == 5 && s.typical == 0.5f && s.top_n_sigma == 1.5f);
    CU_ASSERT(s.xtc_probability == 0.25f && s.xtc_threshold == 0.125f);
    CU_ASSERT(s.dry_multiplier == 0.5f && s.dry_base == 2 && s.dry_allowed_length == 3);
    CU_ASSERT(s.dry_last_n == 9 && s.n_dry_breakers == 1 && s.n_biases == 2);
    CU_ASSERT(s.dynatemp_range == 0.5f && s.dynatemp_exponent == 2);
    CU_ASSERT(s.n_steps == 2 && s.steps[0] == TEXT_STEP_TEMPERATURE && s.steps[1] == TEXT_STEP_DRY);
    json_decref(post("{\"prompt\": \"x\", \"mirostat\": 2, \"mirostat_tau\": 4,"
                     "\"mirostat_eta\": 0.5}",
                     200));
    s = fake_engine_request(engine).sampling;
    CU_ASSERT(s.mirostat == 2 && s.mirostat_tau == 4 && s.mirostat_eta == 0.5f);
}

static void test_logprobs(void)
{
    json_t *json = post("{\"prompt\": \"x\", \"logprobs\": 2, \"seed\": 0}", 200);
    const json_t *l = json_object_get(choice_of(json, 0), "logprobs");
    const json_t *tokens = json_object_get(l, "tokens");
    CU_ASSERT_EQUAL(json_array_size(tokens), FAKE_TOKENS);
    CU_ASSERT_STRING_EQUAL(json_string_value(json_array_get(tokens, 1)), " wor");
    CU_ASSERT_STRING_EQUAL(json_string_value(json_array_get(tokens, 4)), "bytes:\\xc3");
    const json_t *offsets = json_object_get(l, "text_offset");
    const json_int_t expected[FAKE_TOKENS] = {0, 6, 10, 12, 13, 14};
    for (size_t i = 0; i < FAKE_TOKENS; i++) {
        CU_ASSERT_EQUAL(json_integer_value(json_array_get(offsets, i)), expected[i]);
        CU_ASSERT_EQUAL(json_real_value(json_array_get(json_object_get(l, "token_logprobs"), i)),
                        FAKE_LOGPROB);
    }
    const json_t *top = json_array_get(json_object_get(l, "top_logprobs"), 2);
    CU_ASSERT_EQUAL(json_object_size(top), 3);
    CU_ASSERT_EQUAL(json_real_value(json_object_get(top, " hello")), -1.0);
    CU_ASSERT_EQUAL(json_real_value(json_object_get(top, "ld")), FAKE_LOGPROB);
    json_decref(json);
    json = post("{\"prompt\": \"x\", \"logprobs\": 0, \"seed\": 0}", 200);
    top = json_array_get(
        json_object_get(json_object_get(choice_of(json, 0), "logprobs"), "top_logprobs"), 0);
    CU_ASSERT_EQUAL(json_object_size(top), 1);
    json_decref(json);
}

/* What a stream said, by choice. */
struct streamed {
    char text[2][256];
    char finish[2][16];
    unsigned chunks, usages, tokens;
    bool done, error;
};

static void take_chunk(struct streamed *s, const json_t *json)
{
    s->chunks++;
    s->error |= json_object_get(json, "error") != NULL;
    s->usages += json_is_object(json_object_get(json, "usage"));
    const json_t *choice = choice_of(json, 0);
    if (!choice)
        return;
    size_t i = (size_t)json_integer_value(json_object_get(choice, "index")) % 2;
    strcat(s->text[i], json_string_value(json_object_get(choice, "text")));
    const char *finish = json_string_value(json_object_get(choice, "finish_reason"));
    if (finish)
        strcat(s->finish[i], finish);
    s->tokens +=
        (unsigned)json_array_size(json_object_get(json_object_get(choice, "logprobs"), "tokens"));
}

static struct streamed stream(const char *body)
{
    struct streamed s = {0};
    struct answer answer = call(url, "POST", PATH, "", body);
    CU_ASSERT_EQUAL(answer.status, 200);
    CU_ASSERT_PTR_NOT_NULL(strcasestr(answer.head, "content-type: text/event-stream"));
    char *rest = NULL;
    for (char *line = strtok_r(answer.body, "\n", &rest); line;
         line = strtok_r(NULL, "\n", &rest)) {
        if (strcmp(line, "data: [DONE]") == 0) {
            s.done = true;
            continue;
        }
        CU_ASSERT_FALSE(s.done);
        if (strncmp(line, "id: ", 4) == 0)
            continue;
        CU_ASSERT_EQUAL(strncmp(line, "data: ", 6), 0);
        json_t *json = json_loads(line + 6, 0, NULL);
        CU_ASSERT_PTR_NOT_NULL(json);
        take_chunk(&s, json);
        json_decref(json);
    }
    answer_finish(&answer);
    CU_ASSERT_TRUE(fake_engine_wait_idle(engine));
    return s;
}

static void test_stream(void)
{
    struct streamed s = stream("{\"prompt\": \"x\", \"stream\": true, \"seed\": 0}");
    CU_ASSERT_STRING_EQUAL(s.text[0], FAKE_TEXT);
    CU_ASSERT_STRING_EQUAL(s.finish[0], "stop");
    CU_ASSERT_TRUE(s.done);
    CU_ASSERT_EQUAL(s.usages, 0);
    CU_ASSERT_TRUE(s.chunks >= 5);
    s = stream("{\"prompt\": \"x\", \"stream\": true, \"seed\": 0, \"n\": 2, \"logprobs\": 1,"
               "\"stream_options\": {\"include_usage\": true}, \"max_tokens\": 3}");
    CU_ASSERT_STRING_EQUAL(s.text[0], " hello world");
    CU_ASSERT_STRING_EQUAL(s.text[1], " world!");
    CU_ASSERT_STRING_EQUAL(s.finish[1], "length");
    CU_ASSERT_EQUAL(s.usages, 1);
    CU_ASSERT_EQUAL(s.tokens, 6);
    CU_ASSERT_TRUE(s.done);
    s = stream("{\"prompt\": \"x\", \"stream\": true, \"seed\": 0, \"stop\": \"or\","
               "\"echo\": true}");
    CU_ASSERT_STRING_EQUAL(s.text[0], "x hello w");
    CU_ASSERT_STRING_EQUAL(s.finish[0], "stop");
}

static void test_failures(void)
{
    const struct {
        enum proto_status status;
        int http;
    } cases[] = {{PROTO_BUSY, 429}, {PROTO_LOST, 503},    {PROTO_TIMEOUT, 503},
                 {PROTO_IO, 500},   {PROTO_INVALID, 400}, {PROTO_CANCELLED, 503}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        fake_engine_refuse(engine, cases[i].status);
        struct answer answer = call(url, "POST", PATH, "", "{\"prompt\": \"x\", \"stream\": true}");
        CU_ASSERT_EQUAL(answer.status, cases[i].http);
        CU_ASSERT_EQUAL(strcasestr(answer.head, "retry-after: 1") != NULL,
                        cases[i].http == 429 || cases[i].http == 503);
        answer_finish(&answer);
    }
    fake_engine_refuse(engine, PROTO_OK);
    fake_engine_fail_after(engine, 2, PROTO_LOST);
    json_t *json = post("{\"prompt\": \"x\"}", 503);
    CU_ASSERT_STRING_EQUAL(
        json_string_value(json_object_get(json_object_get(json, "error"), "code")), "worker_lost");
    json_decref(json);
    struct streamed s = stream("{\"prompt\": \"x\", \"stream\": true, \"seed\": 0}");
    CU_ASSERT_STRING_EQUAL(s.text[0], " hello wor");
    CU_ASSERT_TRUE(s.error);
    CU_ASSERT_FALSE(s.done);
    fake_engine_fail_after(engine, 0, PROTO_OK);
    CU_ASSERT_TRUE(fake_engine_wait_idle(engine));
}

static int send_request(const char *body)
{
    char head[512];
    int fd = call_connect(url);
    int n = snprintf(head, sizeof head,
                     "POST " PATH " HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                     "Content-Length: %zu\r\n\r\n%s",
                     strlen(body), body);
    call_send(fd, head, (size_t)n);
    return fd;
}

/* Reads until the text was seen. */
static bool read_until(int fd, const char *text)
{
    char bytes[8192];
    size_t len = 0;
    ssize_t n;
    while (len < sizeof bytes - 1 && (n = read(fd, bytes + len, sizeof bytes - 1 - len)) > 0) {
        len += (size_t)n;
        bytes[len] = '\0';
        if (strstr(bytes, text))
            return true;
    }
    return false;
}

static void test_vanish(void)
{
    fake_engine_stall_after(engine, 2);
    unsigned before = fake_engine_streams(engine);
    /* What was generated arrives although more is to come. */
    int fd = send_request("{\"prompt\": \"x\", \"stream\": true, \"n\": 2, \"seed\": 0}");
    CU_ASSERT_TRUE(read_until(fd, " hello"));
    CU_ASSERT_EQUAL(fake_engine_streams(engine), before + 2);
    close(fd);
    CU_ASSERT_TRUE(fake_engine_wait_idle(engine));
    fd = send_request("{\"prompt\": \"x\"}");
    CU_ASSERT_TRUE(fake_engine_wait_streams(engine, before + 3));
    close(fd);
    CU_ASSERT_TRUE(fake_engine_wait_idle(engine));
    fake_engine_stall_after(engine, UINT_MAX);
}

/* A stream that is silent for long is kept alive by comments. */
static void test_keepalive(void)
{
    fake_engine_stall_after(engine, 1);
    int fd = send_request("{\"prompt\": \"x\", \"stream\": true, \"seed\": 0}");
    CU_ASSERT_TRUE(read_until(fd, ": still here\n\n"));
    close(fd);
    CU_ASSERT_TRUE(fake_engine_wait_idle(engine));
    fake_engine_stall_after(engine, UINT_MAX);
}

/* Last: the server is stopped while it answers. */
static void test_stop_server(void)
{
    fake_engine_stall_after(engine, 1);
    unsigned before = fake_engine_streams(engine);
    int whole = send_request("{\"prompt\": \"x\"}");
    int events = send_request("{\"prompt\": \"x\", \"stream\": true, \"seed\": 0}");
    CU_ASSERT_TRUE(fake_engine_wait_streams(engine, before + 2));
    api_server_stop(server);
    server = NULL;
    CU_ASSERT_TRUE(fake_engine_wait_idle(engine));
    close(whole);
    close(events);
}

int main(void)
{
    CU_initialize_registry();
    CU_pSuite suite = CU_add_suite("completions", set_up, tear_down);
    CU_add_test(suite, "whole", test_whole);
    CU_add_test(suite, "length", test_length);
    CU_add_test(suite, "stop", test_stop);
    CU_add_test(suite, "echo", test_echo);
    CU_add_test(suite, "choices", test_choices);
    CU_add_test(suite, "sampling", test_sampling);
    CU_add_test(suite, "all of sampling", test_all_sampling);
    CU_add_test(suite, "logprobs", test_logprobs);
    CU_add_test(suite, "stream", test_stream);
    CU_add_test(suite, "failures", test_failures);
    CU_add_test(suite, "vanish", test_vanish);
    CU_add_test(suite, "keepalive", test_keepalive);
    CU_add_test(suite, "stop server", test_stop_server);
    CU_basic_set_mode(CU_BRM_NORMAL);
    CU_basic_run_tests();
    unsigned bad = CU_get_number_of_failures() + CU_get_number_of_suites_failed();
    CU_cleanup_registry();
    return bad > 0;
}
