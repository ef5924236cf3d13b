/* SPDX-License-Identifier: Apache-2.0 */
/* The HTTP server around completions: addresses, refusals, keys, models, health, metrics. */
#include <CUnit/Basic.h>

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "coordinator/api/server.h"
#include "tests/api/call.h"
#include "tests/api/fake_engine.h"

static struct coord_engine *engine;
static struct api_server *server, *locked; /* locked: asks for the key "secret" */
static const char *url;

static int set_up(void)
{
    struct proto_error error = {0};
    engine = fake_engine_create();
    const struct api_server_options open = {.listen = "127.0.0.1:0"};
    const struct api_server_options closed = {
        .listen = ":0", .api_key = "secret", .model_name = "org/name"};
    if (!engine || api_server_start(&server, engine, &open, &error) ||
        api_server_start(&locked, engine, &closed, &error)) {
        fprintf(stderr, "%s\n", error.text);
        return -1;
    }
    url = api_server_url(server);
    return 0;
}

static int tear_down(void)
{
    api_server_stop(server);
    api_server_stop(locked);
    coord_engine_destroy(engine);
    return 0;
}

/* Checks an error answer in OpenAI's shape; param and code may be NULL for "null". */
static void check_error(struct answer *answer, int status, const char *param, const char *code)
{
    CU_ASSERT_EQUAL(answer->status, status);
    json_t *json = answer_json(answer);
    const json_t *error = json_object_get(json, "error");
    const char *found_param = json_string_value(json_object_get(error, "param"));
    const char *found_code = json_string_value(json_object_get(error, "code"));
    bool ok = json_string_length(json_object_get(error, "message")) > 0 &&
              json_is_string(json_object_get(error, "type")) && !!param == !!found_param &&
              (!param || strcmp(param, found_param) == 0) && !!code == !!found_code &&
              (!code || strcmp(code, found_code) == 0);
    CU_ASSERT_TRUE(ok);
    if (!ok || answer->status != status)
        fprintf(stderr, "expected %d %s %s, found %d %s\n", status, param ? param : "-",
                code ? code : "-", answer->status, answer->body ? answer->body : "nothing");
    json_decref(json);
    answer_finish(answer);
}

static void refused(const char *path, const char *body, int status, const char *param,
                    const char *code)
{
    struct answer answer = call(url, "POST", path, "", body);
    check_error(&answer, status, param, code);
}

static void test_fields(void)
{
    static const struct {
        const char *fields, *param, *code;
    } cases[] = {
        {"\"best_of\": 2", "best_of", "unsupported_parameter"},
        {"\"frequency_penalty\": false", "frequency_penalty", NULL},
        {"\"temprature\": 1", "temprature", "unknown_parameter"},
        {"\"max_tokens\": \"5\"", "max_tokens", NULL},
        {"\"max_tokens\": 0", "max_tokens", NULL},
        {"\"max_tokens\": 1.5", "max_tokens", NULL},
        {"\"temperature\": -1", "temperature", NULL},
        {"\"temperature\": \"hot\"", "temperature", NULL},
        {"\"repetition_penalty\": 0", "repetition_penalty", NULL},
        {"\"repeat_penalty\": []", "repeat_penalty", NULL},
        {"\"logprobs\": 21", "logprobs", NULL},
        {"\"logprobs\": true", "logprobs", NULL},
        {"\"logprobs\": 1, \"echo\": true", "logprobs", "unsupported_parameter"},
        {"\"echo\": 1", "echo", NULL},
        {"\"stream\": \"yes\"", "stream", NULL},
        {"\"stream_options\": {}", "stream_options", NULL},
        {"\"stream\": true, \"stream_options\": {\"x\": 1}", "x", "unknown_parameter"},
        {"\"stop\": \"\"", "stop", NULL},
        {"\"stop\": 5", "stop", NULL},
        {"\"stop\": [\"a\", 5]", "stop", NULL},
        {"\"stop\": \"a\\u0000b\"", "stop", NULL},
        {"\"stop\": [\"1\",\"2\",\"3\",\"4\",\"5\",\"6\",\"7\",\"8\",\"9\",\"a\",\"b\",\"c\","
         "\"d\",\"e\",\"f\",\"g\",\"h\"]",
         "stop", NULL},
        {"\"model\": 5", "model", NULL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char body[512];
        snprintf(body, sizeof body, "{\"prompt\": \"x\", %s}", cases[i].fields);
        refused("/v1/completions", body, 400, cases[i].param, cases[i].code);
    }
    refused("/v1/completions", "{\"prompt\": \"x\", \"model\": \"gpt\"}", 404, "model",
            "model_not_found");
    CU_ASSERT_EQUAL(fake_engine_streams(engine), 0);
}

static void test_prompts(void)
{
    static const char *const bodies[] = {
        "{}",
        "{\"prompt\": null}",
        "{\"prompt\": []}",
        "{\"prompt\": [[]]}",
        "{\"prompt\": 5}",
        "{\"prompt\": [1, \"x\"]}",
        "{\"prompt\": [\"x\", 1]}",
        "{\"prompt\": [[1, [2]]]}",
        "{\"prompt\": [-1]}",
        "{\"prompt\": [1.5]}",
        "{\"prompt\": [100000]}",
        "{\"prompt\": [\"a\", \"b\", \"c\"], \"n\": 100}",
    };
    for (size_t i = 0; i < sizeof bodies / sizeof bodies[0]; i++)
        refused("/v1/completions", bodies[i], 400, "prompt", NULL);
}

static void test_json(void)
{
    static const char *const bodies[] = {
        "",
        "{",
        "[]",
        "5",
        "{\"prompt\": \"x\"} x",
        "{\"prompt\": \"x\", \"prompt\": \"y\"}",
        "{\"prompt\": \"\xff\"}",
        "{\"prompt\": [[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]}",
        "{\"seed\": 99999999999999999999999}",
        "{\"temperature\": 1e999}",
    };
    for (size_t i = 0; i < sizeof bodies / sizeof bodies[0]; i++)
        refused("/v1/completions", bodies[i], 400, NULL, NULL);
}

static void test_many_values(void)
{
    size_t len = (size_t)9 << 20;
    char *body = malloc(len + 1);
    memset(body, ',', len);
    body[0] = '{';
    body[len] = '\0';
    refused("/v1/completions", body, 400, NULL, NULL);
    free(body);
}

static void test_large_body(void)
{
    size_t len = ((size_t)16 << 20) + 1;
    char *body = malloc(len + 1);
    memset(body, ' ', len);
    body[len] = '\0';
    refused("/v1/completions", body, 413, NULL, "body_too_large");
    /* Without a length in front it is noticed while it comes. */
    int fd = call_connect(url);
    static const char head[] = "POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
                               "Content-Type: application/json\r\n"
                               "Transfer-Encoding: chunked\r\n\r\n1000001\r\n";
    call_send(fd, head, sizeof head - 1);
    call_send(fd, body, len);
    call_send(fd, "\r\n0\r\n\r\n", 7);
    struct answer answer = call_receive(fd);
    check_error(&answer, 413, NULL, "body_too_large");
    /* And who asks first is told before sending. */
    fd = call_connect(url);
    static const char asking[] = "POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
                                 "Content-Type: application/json\r\nExpect: 100-continue\r\n"
                                 "Content-Length: 99999999999\r\n\r\n";
    call_send(fd, asking, sizeof asking - 1);
    answer = call_receive(fd);
    check_error(&answer, 413, NULL, "body_too_large");
    free(body);
}

static void test_paths(void)
{
    struct answer answer = call(url, "GET", "/v1/nothing", "", NULL);
    check_error(&answer, 404, NULL, "unknown_path");
    answer = call(url, "GET", "/v1/completions", "", NULL);
    CU_ASSERT_PTR_NOT_NULL(strstr(answer.head, "Allow: POST\r\n"));
    check_error(&answer, 405, NULL, "method_not_allowed");
    answer = call(url, "POST", "/v1/models", "", "{}");
    check_error(&answer, 405, NULL, "method_not_allowed");
    answer = call(url, "POST", "/v1/completions",
                  "Content-Type: text/plain\r\nContent-Length: 0\r\n", NULL);
    check_error(&answer, 415, NULL, "unsupported_media_type");
}

static void test_models(void)
{
    struct answer answer = call(url, "GET", "/v1/models", "", NULL);
    json_t *json = answer_json(&answer);
    const json_t *model = json_array_get(json_object_get(json, "data"), 0);
    CU_ASSERT_EQUAL(answer.status, 200);
    CU_ASSERT_STRING_EQUAL(json_string_value(json_object_get(model, "id")), FAKE_MODEL);
    CU_ASSERT_STRING_EQUAL(json_string_value(json_object_get(model, "object")), "model");
    json_decref(json);
    answer_finish(&answer);
    answer = call(url, "GET", "/v1/models/" FAKE_MODEL, "", NULL);
    CU_ASSERT_EQUAL(answer.status, 200);
    answer_finish(&answer);
    answer = call(url, "GET", "/v1/models/other", "", NULL);
    check_error(&answer, 404, "model", "model_not_found");
}

static void test_key(void)
{
    const char *locked_url = api_server_url(locked);
    static const char *const wrong[] = {"",
                                        "Authorization: Bearer secre\r\n",
                                        "Authorization: Bearer secrets\r\n",
                                        "Authorization: Bearer \r\n",
                                        "Authorization: Basic secret\r\n",
                                        "Authorization: Bearer Secret\r\n"};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        struct answer answer = call(locked_url, "GET", "/v1/models", wrong[i], NULL);
        CU_ASSERT_PTR_NOT_NULL(strcasestr(answer.head, "www-authenticate: bearer"));
        check_error(&answer, 401, NULL, "invalid_api_key");
        answer = call(locked_url, "POST", "/v1/completions", wrong[i], "{\"prompt\": \"x\"}");
        check_error(&answer, 401, NULL, "invalid_api_key");
        answer = call(locked_url, "GET", "/nothing", wrong[i], NULL);
        check_error(&answer, 401, NULL, "invalid_api_key");
    }
    const char *right = "Authorization: Bearer secret\r\n";
    struct answer answer = call(locked_url, "GET", "/v1/models/org/name", right, NULL);
    CU_ASSERT_EQUAL(answer.status, 200);
    answer_finish(&answer);
    answer = call(locked_url, "POST", "/v1/completions", right, "{\"prompt\": \"x\"}");
    CU_ASSERT_EQUAL(answer.status, 200);
    answer_finish(&answer);
    answer = call(locked_url, "GET", "/health", "", NULL);
    CU_ASSERT_EQUAL(answer.status, 200);
    answer_finish(&answer);
}

static void test_health(void)
{
    struct answer answer = call(url, "GET", "/health", "", NULL);
    CU_ASSERT_EQUAL(answer.status, 200);
    CU_ASSERT_STRING_EQUAL(answer.body, "{\"status\":\"ok\"}");
    answer_finish(&answer);
    fake_engine_set_ready(engine, false);
    answer = call(url, "GET", "/health", "", NULL);
    CU_ASSERT_PTR_NOT_NULL(strstr(answer.body, "is loading"));
    check_error(&answer, 503, NULL, "not_ready");
    fake_engine_set_ready(engine, true);
}

/* "name{labels} number" or "name number", of a series whose type was said before. */
static bool good_sample(const char *line, const char *type)
{
    size_t name = strcspn(line, "{ ");
    const char *value = strrchr(line, ' ');
    char *end = NULL;
    if (!value || strlen(type) != name || strncmp(line, type, name) != 0)
        return false;
    strtod(value + 1, &end);
    return end > value + 1 && !*end;
}

static void test_metrics(void)
{
    struct answer answer = call(url, "GET", "/metrics", "", NULL);
    CU_ASSERT_EQUAL(answer.status, 200);
    CU_ASSERT_PTR_NOT_NULL(strcasestr(answer.head, "text/plain; version=0.0.4"));
    CU_ASSERT_PTR_NOT_NULL(strstr(answer.body, "\ncaravan_ready 1\n"));
    CU_ASSERT_PTR_NOT_NULL(strstr(
        answer.body, "\ncaravan_worker_compute_seconds_total{worker=\"worker \\\"b\\\"\"} 5\n"));
    CU_ASSERT_PTR_NOT_NULL(
        strstr(answer.body, "\ncaravan_worker_experts{worker=\"worker \\\"b\\\"\"} 64\n"));
    CU_ASSERT_PTR_NOT_NULL(
        strstr(answer.body, "\ncaravan_expert_rows_total{layer=\"23\",expert=\"2\"} 9\n"));
    CU_ASSERT_PTR_NOT_NULL(
        strstr(answer.body, "\ncaravan_worker_layers{worker=\"worker \\\"a\\\"\"} 12\n"));
    CU_ASSERT_PTR_NOT_NULL(strstr(answer.body, "\ncaravan_link_bytes_per_second{from=\"worker "
                                               "\\\"b\\\"\",to=\"\"} 12500000\n"));
    CU_ASSERT_PTR_NOT_NULL(
        strstr(answer.body, "\ncaravan_worker_slowdown_ratio{worker=\"worker \\\"a\\\"\"} 1\n"));
    CU_ASSERT_PTR_NOT_NULL(
        strstr(answer.body, "\ncaravan_worker_slowdown_ratio{worker=\"worker \\\"b\\\"\"} 1.75\n"));
    char type[128] = "", *rest = NULL;
    unsigned samples = 0;
    for (char *line = strtok_r(answer.body, "\n", &rest); line;
         line = strtok_r(NULL, "\n", &rest)) {
        if (strncmp(line, "# TYPE ", 7) == 0) {
            snprintf(type, sizeof type, "%.*s", (int)strcspn(line + 7, " "), line + 7);
        } else if (line[0] != '#') {
            CU_ASSERT_TRUE(good_sample(line, type));
            samples++;
        }
    }
    CU_ASSERT_EQUAL(samples, 14 + 2 * 24 + 2 * 2 + 1);
    answer_finish(&answer);
}

static void test_calls(void)
{
    struct answer answer = call(url, "POST", "/caravan/v1/tokenize", "",
                                "{\"text\": \"hello\", \"special\": false, \"bos\": true}");
    CU_ASSERT_STRING_EQUAL(answer.body, "{\"ids\":[1,259]}");
    answer_finish(&answer);
    answer = call(url, "POST", "/caravan/v1/detokenize", "", "{\"ids\": [259, 260, 261]}");
    CU_ASSERT_STRING_EQUAL(answer.body, "{\"text\":\"hello world\"}");
    answer_finish(&answer);
    refused("/caravan/v1/tokenize", "{\"text\": 5}", 400, "text", NULL);
    refused("/caravan/v1/tokenize", "{\"text\": \"a\", \"x\": 1}", 400, "x", "unknown_parameter");
    refused("/caravan/v1/detokenize", "{\"ids\": [99999]}", 400, "ids", NULL);
    refused("/caravan/v1/detokenize", "{}", 400, "ids", NULL);
    refused("/caravan/v1/logits", "{\"ids\": \"1 2\"}", 400, "ids", NULL);
    fake_engine_fail_after(engine, 0, PROTO_LOST);
    refused("/caravan/v1/logits", "{\"ids\": [1, 2]}", 503, NULL, "worker_lost");
    fake_engine_fail_after(engine, 0, PROTO_OK);
    CU_ASSERT_TRUE(fake_engine_wait_idle(engine));
}

static void check_drain(const char *body, const char *words)
{
    struct answer answer = call(url, "POST", "/caravan/v1/cluster/drain", "", body);
    CU_ASSERT_PTR_NOT_NULL(strstr(answer.body, words));
    check_error(&answer, 400, "worker", NULL);
}

static void test_drain(void)
{
    check_drain("{}", "worker is missing, expected a string");
    check_drain("{\"worker\": 5}", "worker is an integer, expected a string");
    struct answer answer =
        call(url, "POST", "/caravan/v1/cluster/drain", "", "{\"worker\": \"w1\"}");
    CU_ASSERT_EQUAL(answer.status, 200);
    answer_finish(&answer);
}

static void test_addresses(void)
{
    static const struct {
        const char *listen;
        enum proto_status status;
    } cases[] = {
        {"127.0.0.1", PROTO_INVALID},
        {"127.0.0.1:", PROTO_INVALID},
        {"127.0.0.1:x", PROTO_INVALID},
        {"127.0.0.1:1x", PROTO_INVALID},
        {"127.0.0.1:65536", PROTO_INVALID},
        {"::1:0", PROTO_INVALID},
        {"", PROTO_INVALID},
        {"localhost:0", PROTO_OK},
        {"0.0.0.0:0", PROTO_OK},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct api_server *other = NULL;
        struct proto_error error;
        const struct api_server_options options = {.listen = cases[i].listen};
        CU_ASSERT_EQUAL(api_server_start(&other, engine, &options, &error), cases[i].status);
        api_server_stop(other);
    }
    CU_ASSERT_EQUAL(strncmp(api_server_url(locked), "http://127.0.0.1:", 17), 0);
}

static void test_taken_port(void)
{
    struct api_server *other = NULL;
    struct proto_error error = {0};
    const struct api_server_options options = {.listen = url + strlen("http://")};
    CU_ASSERT_EQUAL(api_server_start(&other, engine, &options, &error), PROTO_REFUSED);
    CU_ASSERT_PTR_NOT_NULL(strstr(error.text, "is taken"));
    CU_ASSERT_PTR_NOT_NULL(strstr(error.text, options.listen));
}

/* Bytes that are no HTTP end that connection and nothing else. */
static void test_garbage(void)
{
    int fd = call_connect(url);
    call_send(fd, "\x16\x03\x01\x02\x00\x01\r\n\r\n\r\n", 12);
    struct answer answer = call_receive(fd);
    CU_ASSERT_NOT_EQUAL(answer.status, 200);
    answer_finish(&answer);
    answer = call(url, "GET", "/health", "", NULL);
    CU_ASSERT_EQUAL(answer.status, 200);
    answer_finish(&answer);
}

int main(void)
{
    CU_initialize_registry();
    CU_pSuite suite = CU_add_suite("api", set_up, tear_down);
    CU_add_test(suite, "fields", test_fields);
    CU_add_test(suite, "prompts", test_prompts);
    CU_add_test(suite, "json", test_json);
    CU_add_test(suite, "many values", test_many_values);
    CU_add_test(suite, "large body", test_large_body);
    CU_add_test(suite, "paths", test_paths);
    CU_add_test(suite, "models", test_models);
    CU_add_test(suite, "key", test_key);
    CU_add_test(suite, "health", test_health);
    CU_add_test(suite, "metrics", test_metrics);
    CU_add_test(suite, "drain", test_drain);
    CU_add_test(suite, "calls", test_calls);
    CU_add_test(suite, "addresses", test_addresses);
    CU_add_test(suite, "taken port", test_taken_port);
    CU_add_test(suite, "garbage", test_garbage);
    CU_basic_set_mode(CU_BRM_NORMAL);
    CU_basic_run_tests();
    unsigned bad = CU_get_number_of_failures() + CU_get_number_of_suites_failed();
    CU_cleanup_registry();
    return bad > 0;
}
