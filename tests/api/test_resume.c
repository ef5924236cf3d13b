/* SPDX-License-Identifier: Apache-2.0 */
/* Requests that outlive their connection or their server, and what is too much. */
#include <CUnit/Basic.h>

#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "coordinator/api/client.h"
#include "coordinator/api/server.h"
#include "tests/api/call.h"
#include "tests/api/fake_engine.h"

#define PATH "/v1/completions"

static char folder[] = "/tmp/caravan-resume-XXXXXX", state[64];
static const uint8_t cluster[PROTO_KEY_BYTES];
static struct coord_engine *engine;
static struct coord_journal *journal;
static struct api_server *server;
static const char *url;
static unsigned stall = UINT_MAX; /* from the engine's start on */

static void start(struct api_server_options options)
{
    struct proto_error error = {0};
    engine = fake_engine_create();
    fake_engine_stall_after(engine, stall);
    options.listen = "127.0.0.1:0";
    if (coord_journal_open(&journal, state, cluster, &error)) {
        fprintf(stderr, "%s\n", error.text);
        abort();
    }
    options.journal = journal;
    if (!engine || api_server_start(&server, engine, &options, &error)) {
        fprintf(stderr, "%s\n", error.text);
        abort();
    }
    url = api_server_url(server);
}

static void finish(void)
{
    api_server_stop(server);
    coord_engine_destroy(engine);
    coord_journal_close(journal);
}

static int set_up(void)
{
    if (!mkdtemp(folder))
        return -1;
    snprintf(state, sizeof state, "%s/state", folder);
    return 0;
}

static int tear_down(void)
{
    unlink(state);
    return rmdir(folder);
}

/* Sends a request and reads its head and what comes until the text was seen; the connection. */
static int begin(const char *headers, const char *body, const char *text, char *bytes, size_t room)
{
    char head[512];
    int fd = call_connect(url);
    int n = snprintf(head, sizeof head,
                     "POST " PATH " HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                     "%sContent-Length: %zu\r\n\r\n",
                     headers, strlen(body));
    call_send(fd, head, (size_t)n);
    call_send(fd, body, strlen(body));
    size_t len = 0;
    ssize_t got = 1;
    bytes[0] = '\0';
    while (!strstr(bytes, text) && got > 0 && len < room - 1) {
        got = read(fd, bytes + len, room - 1 - len);
        len += got > 0 ? (size_t)got : 0;
        bytes[len] = '\0';
    }
    CU_ASSERT_PTR_NOT_NULL_FATAL(strstr(bytes, text));
    return fd;
}

/* The request's id, from the head of its answer. */
static void read_id(const char *bytes, char id[64])
{
    const char *at = strcasestr(bytes, "x-request-id: ");
    CU_ASSERT_PTR_NOT_NULL_FATAL(at);
    snprintf(id, 64, "%.*s", (int)strcspn(at + 14, "\r"), at + 14);
}

static struct answer get(const char *id, const char *query, const char *headers)
{
    char path[160];
    snprintf(path, sizeof path, "/v1/requests/%s%s", id, query);
    return call(url, "GET", path, headers, NULL);
}

static void check_get(const char *id, const char *query, const char *headers, const char *expected)
{
    struct answer answer = get(id, query, headers);
    CU_ASSERT_EQUAL(answer.status, 200);
    CU_ASSERT_PTR_NOT_NULL(answer.body);
    CU_ASSERT(answer.body && strcmp(answer.body, expected) == 0);
    answer_finish(&answer);
}

/* The events behind that with the id. */
static const char *behind(const char *body, const char *id)
{
    char line[40];
    snprintf(line, sizeof line, "id: %s\n", id);
    const char *at = strstr(body, line);
    CU_ASSERT_PTR_NOT_NULL_FATAL(at);
    return strstr(at, "\n\n") + 2;
}

/* The id of the last event that has one. */
static unsigned last_id(const char *body)
{
    unsigned id = 0;
    for (const char *at = body; (at = strstr(at, "id: ")); at++)
        if (at == body || at[-1] == '\n')
            id = (unsigned)strtoul(at + 4, NULL, 10);
    return id;
}

#define STREAM                                                                                     \
    "{\"prompt\": \"x\", \"stream\": true, \"seed\": 0, \"stream_options\": "                      \
    "{\"include_usage\": true}}"

/* A finished answer can be read again from any event on. */
static void test_again(void)
{
    char id[64];
    start((struct api_server_options){0});
    struct answer whole = call(url, "POST", PATH, "", STREAM);
    CU_ASSERT_EQUAL_FATAL(whole.status, 200);
    read_id(whole.head, id);
    check_get(id, "", "", whole.body);
    check_get(id, "?after=0", "", whole.body);
    check_get(id, "?after=3", "", behind(whole.body, "3"));
    check_get(id, "", "Last-Event-ID: 5\r\n", behind(whole.body, "5"));
    char last[32], beyond[32];
    snprintf(last, sizeof last, "?after=%u", last_id(whole.body));
    snprintf(beyond, sizeof beyond, "?after=%u", last_id(whole.body) + 1);
    check_get(id, last, "", "data: [DONE]\n\n");
    const char *const odd[] = {"?after=", "?after=x", "?after=1,2", "?after=-1", beyond};
    for (size_t i = 0; i < sizeof odd / sizeof odd[0]; i++) {
        struct answer answer = get(id, odd[i], "");
        CU_ASSERT_EQUAL(answer.status, 400);
        answer_finish(&answer);
    }
    struct answer answer = get("cmpl-1", "", "");
    CU_ASSERT_EQUAL(answer.status, 404);
    answer_finish(&answer);
    /* The next server still has it. */
    finish();
    start((struct api_server_options){0});
    check_get(id, "?after=3", "", behind(whole.body, "3"));
    CU_ASSERT_EQUAL(fake_engine_streams(engine), 0);
    answer_finish(&whole);
    finish();
}

/* Each choice has its own place in an event's id. */
static void test_choices(void)
{
    char id[64];
    start((struct api_server_options){0});
    struct answer whole = call(url, "POST", PATH, "",
                               "{\"prompt\": \"x\", \"stream\": true, \"seed\": 0, \"n\": 2,"
                               "\"max_tokens\": 3, \"echo\": true}");
    CU_ASSERT_EQUAL_FATAL(whole.status, 200);
    read_id(whole.head, id);
    check_get(id, "?after=5,5", "", "data: [DONE]\n\n");
    struct answer rest = get(id, "?after=5,4", "");
    CU_ASSERT_PTR_NOT_NULL(strstr(rest.body, "\"index\":1"));
    CU_ASSERT_PTR_NULL(strstr(rest.body, "\"index\":0"));
    answer_finish(&rest);
    answer_finish(&whole);
    finish();
}

/* Another server goes on where the first was ended. */
static void test_restart(void)
{
    char bytes[8192], id[64];
    start((struct api_server_options){0});
    struct answer whole = call(url, "POST", PATH, "", STREAM);
    size_t n_prompt = fake_engine_request(engine).n_ids;
    fake_engine_stall_after(engine, 3);
    int fd = begin("", STREAM, "id: 4\n", bytes, sizeof bytes);
    read_id(bytes, id);
    finish();
    close(fd);
    start((struct api_server_options){0});
    CU_ASSERT_TRUE(fake_engine_wait_streams(engine, 1));
    struct coord_request request = fake_engine_request(engine);
    CU_ASSERT_EQUAL(request.n_ids, n_prompt + 3);
    CU_ASSERT_EQUAL(request.max_tokens, 16 - 3);
    CU_ASSERT(request.sampling.seed == 0 && request.sampler != NULL);
    struct answer rest = get(id, "?after=4", "");
    CU_ASSERT_EQUAL_FATAL(rest.status, 200);
    /* The same but for the id of the request and its time. */
    char *expected = strdup(behind(whole.body, "4")), *found = rest.body;
    unsigned n = 0;
    for (const char *at = expected; (at = strstr(at, "\"text\"")); at++, n++) {
        found = strstr(found, "\"text\"");
        CU_ASSERT_PTR_NOT_NULL_FATAL(found);
        CU_ASSERT_EQUAL(strncmp(at, found, strcspn(at, "\n")), 0);
        found++;
    }
    CU_ASSERT(n > 2);
    CU_ASSERT_PTR_NOT_NULL(strstr(found, "[DONE]"));
    free(expected);
    answer_finish(&rest);
    answer_finish(&whole);
    finish();
}

/* One that nobody comes back for is forgotten. */
static void test_nobody_returns(void)
{
    char bytes[8192], id[64];
    start((struct api_server_options){0});
    fake_engine_stall_after(engine, 3);
    int fd = begin("", STREAM, "id: 4\n", bytes, sizeof bytes);
    read_id(bytes, id);
    finish();
    close(fd);
    stall = 0;
    start((struct api_server_options){.resume_s = 1});
    stall = UINT_MAX;
    CU_ASSERT_TRUE(fake_engine_wait_streams(engine, 1));
    CU_ASSERT_TRUE(fake_engine_wait_idle(engine));
    struct answer answer = get(id, "", "");
    CU_ASSERT_EQUAL(answer.status, 404);
    answer_finish(&answer);
    finish();
    start((struct api_server_options){0});
    answer = get(id, "", "");
    CU_ASSERT_EQUAL(answer.status, 404);
    answer_finish(&answer);
    finish();
}

/* A client that said so may go away. */
static void test_absent_client(void)
{
    char bytes[8192], id[64];
    start((struct api_server_options){0});
    fake_engine_stall_after(engine, 2);
    int fd = begin("X-Caravan-Resume: 60\r\n", STREAM, "id: 3\n", bytes, sizeof bytes);
    read_id(bytes, id);
    close(fd);
    fake_engine_stall_after(engine, UINT_MAX);
    struct answer answer = get(id, "?after=3", "");
    CU_ASSERT_EQUAL(answer.status, 200);
    CU_ASSERT(answer.body && strstr(answer.body, "[DONE]"));
    answer_finish(&answer);
    CU_ASSERT_TRUE(fake_engine_wait_idle(engine));
    answer = call(url, "POST", PATH, "X-Caravan-Resume: soon\r\n", STREAM);
    CU_ASSERT_EQUAL(answer.status, 400);
    answer_finish(&answer);
    finish();
}

/* Two connections may read one answer. */
static void test_two_readers(void)
{
    char bytes[8192], id[64];
    start((struct api_server_options){0});
    fake_engine_stall_after(engine, 2);
    int fd = begin("", STREAM, "id: 3\n", bytes, sizeof bytes);
    read_id(bytes, id);
    char head[160];
    int second = call_connect(url);
    int n = snprintf(head, sizeof head,
                     "GET /v1/requests/%s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", id);
    call_send(second, head, (size_t)n);
    /* Once it has got something it is a reader, and the first may go. */
    char peeked[4096] = "";
    while (!strstr(peeked, "id: 3\n")) {
        ssize_t got = recv(second, peeked, sizeof peeked - 1, MSG_PEEK);
        CU_ASSERT_FATAL(got > 0);
        peeked[got] = '\0';
    }
    close(fd);
    fake_engine_stall_after(engine, UINT_MAX);
    struct answer answer = call_receive(second);
    CU_ASSERT(answer.body && strstr(answer.body, "id: 3\n") && strstr(answer.body, "[DONE]"));
    answer_finish(&answer);
    finish();
}

static void test_too_many(void)
{
    char bytes[8192];
    start((struct api_server_options){.max_waiting = 1});
    fake_engine_stall_after(engine, 1);
    /* Four places and one that waits. */
    int fd = begin("", "{\"prompt\": \"x\", \"stream\": true, \"seed\": 0, \"n\": 4}",
                   "id: ", bytes, sizeof bytes);
    int last = begin("", "{\"prompt\": \"x\", \"stream\": true, \"seed\": 0}", "id: ", bytes,
                     sizeof bytes);
    struct answer answer = call(url, "POST", PATH, "", "{\"prompt\": \"x\"}");
    CU_ASSERT_EQUAL(answer.status, 429);
    CU_ASSERT_PTR_NOT_NULL(strcasestr(answer.head, "retry-after: "));
    CU_ASSERT_PTR_NOT_NULL(strstr(answer.body, "\"busy\""));
    answer_finish(&answer);
    close(fd);
    fake_engine_stall_after(engine, UINT_MAX);
    close(last);
    CU_ASSERT_TRUE(fake_engine_wait_idle(engine));
    answer = call(url, "POST", PATH, "", "{\"prompt\": \"x\", \"seed\": 0}");
    CU_ASSERT_EQUAL(answer.status, 200);
    answer_finish(&answer);
    finish();
}

static void test_connections(void)
{
    int idle[2];
    start((struct api_server_options){.max_connections = 2});
    for (int i = 0; i < 2; i++)
        idle[i] = call_connect(url);
    struct answer answer = call(url, "GET", "/health", "", NULL);
    CU_ASSERT_EQUAL(answer.status, 503);
    CU_ASSERT_PTR_NOT_NULL(strstr(answer.body, "too_many_connections"));
    answer_finish(&answer);
    close(idle[0]);
    do {
        answer_finish(&answer);
        answer = call(url, "GET", "/health", "", NULL);
    } while (answer.status == 503);
    CU_ASSERT_EQUAL(answer.status, 200);
    answer_finish(&answer);
    close(idle[1]);
    finish();
}

int main(void)
{
    CU_initialize_registry();
    CU_pSuite suite = CU_add_suite("resume", set_up, tear_down);
    CU_add_test(suite, "a finished answer again", test_again);
    CU_add_test(suite, "several choices", test_choices);
    CU_add_test(suite, "another server", test_restart);
    CU_add_test(suite, "nobody comes back", test_nobody_returns);
    CU_add_test(suite, "a client that is away", test_absent_client);
    CU_add_test(suite, "two readers", test_two_readers);
    CU_add_test(suite, "too many requests", test_too_many);
    CU_add_test(suite, "too many connections", test_connections);
    CU_basic_set_mode(CU_BRM_NORMAL);
    CU_basic_run_tests();
    unsigned bad = CU_get_number_of_failures() + CU_get_number_of_suites_failed();
    CU_cleanup_registry();
    return bad > 0;
}
