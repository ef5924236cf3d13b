/* SPDX-License-Identifier: Apache-2.0 */
#include "net/exchange.h"

#include <CUnit/Basic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zmq.h>

#include "side.h"

#define SILENCE_MS 60000u
#define N_HOSTS    3

/* Sides lend their loops and keys; their own links are not used. */
static struct side stage, other, host_sides[N_HOSTS];

/* A host that answers on a thread of its own until it is cancelled. */
struct host {
    struct net_exchange *exchange;
    pthread_t thread;
    uint8_t asker[PROTO_KEY_BYTES]; /* of the last request */
    unsigned n_answered;
};
static struct host hosts[N_HOSTS];

static uint64_t in_a_minute(void)
{
    return net_now_ns() + 60000000000u;
}

/* Every request comes back as its answer, with the payload. */
static void *answer_all(void *arg)
{
    struct host *host = arg;
    struct net_received request;
    while (net_exchange_receive(host->exchange, &request, UINT64_MAX, NULL) == PROTO_OK) {
        struct proto_msg answer = {.kind = PROTO_MSG_EXPERTS_DONE,
                                   .experts_done = {.epoch = request.msg.experts.epoch,
                                                    .number = request.msg.experts.number}};
        memcpy(host->asker, request.key, PROTO_KEY_BYTES);
        if (net_exchange_send(host->exchange, request.from, &answer, &request.payload, NULL) !=
            PROTO_OK)
            abort();
        host->n_answered++;
        net_received_finish(&request);
    }
    return NULL;
}

static void open_host(unsigned i, const char *endpoint)
{
    struct host *host = &hosts[i];
    memset(host, 0, sizeof *host);
    struct proto_error error;
    if (net_exchange_listen(&host->exchange, host_sides[i].loop, endpoint, &host_sides[i].key,
                            &error) != PROTO_OK) {
        fprintf(stderr, "%s\n", error.text);
        abort();
    }
}

static void start_host(unsigned i, const char *endpoint)
{
    open_host(i, endpoint);
    if (pthread_create(&hosts[i].thread, NULL, answer_all, &hosts[i]))
        abort();
}

static void stop_host(unsigned i)
{
    net_exchange_cancel(hosts[i].exchange);
    pthread_join(hosts[i].thread, NULL);
    net_exchange_destroy(hosts[i].exchange, 0);
}

static struct net_exchange *connect_to(unsigned n, const uint8_t *key)
{
    struct net_exchange_host list[N_HOSTS];
    struct net_exchange *exchange;
    for (unsigned i = 0; i < n; i++) {
        list[i].endpoint = net_exchange_endpoint(hosts[i].exchange, 0);
        memcpy(list[i].key, key ? key : host_sides[i].key.public_key, PROTO_KEY_BYTES);
    }
    CU_ASSERT_EQUAL_FATAL(
        net_exchange_connect(&exchange, stage.loop, list, n, &stage.key, SILENCE_MS, NULL),
        PROTO_OK);
    return exchange;
}

static void release(void *data, void *arg)
{
    (void)arg;
    free(data);
}

static enum proto_status ask(struct net_exchange *exchange, uint32_t host, uint64_t number,
                             size_t len)
{
    struct proto_msg msg = {.kind = PROTO_MSG_EXPERTS,
                            .experts = {.epoch = 5, .number = number, .layer = 3}};
    struct net_payload *payload = NULL;
    if (len != SIDE_NO_PAYLOAD) {
        uint8_t *bytes = malloc(len + 1);
        memset(bytes, (int)number, len);
        payload = net_payload_wrap(bytes, len, release, NULL);
    }
    enum proto_status status = net_exchange_send(exchange, host, &msg, &payload, NULL);
    CU_ASSERT_PTR_NULL(payload);
    return status;
}

/* Asks until there is a connection. */
static void ask_first(struct net_exchange *exchange, uint32_t host, uint64_t number, size_t len)
{
    uint64_t until_ns = in_a_minute();
    enum proto_status status;
    while ((status = ask(exchange, host, number, len)) == PROTO_LOST && net_now_ns() < until_ns) {
        struct net_received none;
        CU_ASSERT_EQUAL(net_exchange_receive(exchange, &none, net_now_ns() + 1000000, NULL),
                        PROTO_TIMEOUT);
    }
    CU_ASSERT_EQUAL_FATAL(status, PROTO_OK);
}

static void check_answer(struct net_exchange *exchange, uint32_t host, uint64_t number, size_t len)
{
    struct net_received answer;
    CU_ASSERT_EQUAL_FATAL(net_exchange_receive(exchange, &answer, in_a_minute(), NULL), PROTO_OK);
    CU_ASSERT_EQUAL(answer.from, host);
    CU_ASSERT_EQUAL(memcmp(answer.key, host_sides[host].key.public_key, PROTO_KEY_BYTES), 0);
    CU_ASSERT_EQUAL(answer.msg.kind, PROTO_MSG_EXPERTS_DONE);
    CU_ASSERT_EQUAL(answer.msg.experts_done.number, number);
    CU_ASSERT_EQUAL(answer.payload != NULL, len != SIDE_NO_PAYLOAD);
    if (answer.payload) {
        const uint8_t *bytes = net_payload_data(answer.payload);
        CU_ASSERT_EQUAL_FATAL(net_payload_len(answer.payload), len);
        CU_ASSERT(len == 0 || (bytes[0] == (uint8_t)number && bytes[len - 1] == (uint8_t)number));
    }
    net_received_finish(&answer);
}

static void exchange_with_all(const char *const endpoints[N_HOSTS])
{
    static const size_t sizes[] = {0, 1, 5000, SIDE_NO_PAYLOAD, 3u << 20};
    for (unsigned i = 0; i < N_HOSTS; i++)
        start_host(i, endpoints[i]);
    struct net_exchange *exchange = connect_to(N_HOSTS, NULL);
    for (unsigned i = 0; i < N_HOSTS; i++) {
        ask_first(exchange, i, i, 10);
        check_answer(exchange, i, i, 10);
    }
    for (unsigned round = 0; round < 200; round++) {
        unsigned seen = 0;
        for (unsigned i = 0; i < N_HOSTS; i++)
            CU_ASSERT_EQUAL(ask(exchange, i, 1000 + round, sizes[round % 4]), PROTO_OK);
        for (unsigned i = 0; i < N_HOSTS; i++) {
            struct net_received answer;
            CU_ASSERT_EQUAL_FATAL(net_exchange_receive(exchange, &answer, in_a_minute(), NULL),
                                  PROTO_OK);
            CU_ASSERT_EQUAL(answer.msg.experts_done.number, 1000 + round);
            seen |= 1u << answer.from;
            net_received_finish(&answer);
        }
        CU_ASSERT_EQUAL(seen, (1u << N_HOSTS) - 1);
    }
    CU_ASSERT_EQUAL(ask(exchange, 1, 7, sizes[4]), PROTO_OK);
    check_answer(exchange, 1, 7, sizes[4]);
    net_exchange_destroy(exchange, 0);
    for (unsigned i = 0; i < N_HOSTS; i++) {
        stop_host(i);
        CU_ASSERT_EQUAL(hosts[i].n_answered, 201 + (i == 1));
        CU_ASSERT_EQUAL(memcmp(hosts[i].asker, stage.key.public_key, PROTO_KEY_BYTES), 0);
    }
}

static void test_tcp(void)
{
    static const char any[] = "tcp://127.0.0.1:0";
    exchange_with_all((const char *const[]){any, "tcp://127.0.0.1:*", any});
}

static void test_ipc(void)
{
    char names[N_HOSTS][64];
    for (int i = 0; i < N_HOSTS; i++)
        snprintf(names[i], sizeof names[i], "ipc://@caravan-exchange-%ld-%d", (long)getpid(), i);
    exchange_with_all((const char *const[]){names[0], names[1], names[2]});
}

static void *cancel_soon(void *arg)
{
    net_exchange_cancel(arg);
    return NULL;
}

/* A wait without end is ended by another thread, and so are all that follow. */
static void test_cancel(void)
{
    struct net_received none;
    pthread_t thread;
    open_host(0, "tcp://127.0.0.1:0");
    struct net_exchange *exchange = connect_to(1, NULL);
    CU_ASSERT_EQUAL(pthread_create(&thread, NULL, cancel_soon, exchange), 0);
    CU_ASSERT_EQUAL(net_exchange_receive(exchange, &none, UINT64_MAX, NULL), PROTO_CANCELLED);
    CU_ASSERT_EQUAL(net_exchange_receive(exchange, &none, UINT64_MAX, NULL), PROTO_CANCELLED);
    pthread_join(thread, NULL);
    net_exchange_destroy(exchange, 0);
    net_exchange_destroy(hosts[0].exchange, 0);
}

static void test_deadline(void)
{
    struct net_received none;
    open_host(0, "tcp://127.0.0.1:0");
    struct net_exchange *exchange = connect_to(1, NULL);
    ask_first(exchange, 0, 1, 8); /* nobody takes it */
    uint64_t deadline_ns = net_now_ns() + 30000000;
    CU_ASSERT_EQUAL(net_exchange_receive(exchange, &none, deadline_ns, NULL), PROTO_TIMEOUT);
    CU_ASSERT(net_now_ns() >= deadline_ns);
    CU_ASSERT_EQUAL(net_exchange_receive(exchange, &none, 0, NULL), PROTO_TIMEOUT);
    net_exchange_destroy(exchange, 0);
    net_exchange_destroy(hosts[0].exchange, 0);
}

/* A host that goes away ends the wait for it, by name; one that comes back is asked again. */
static void test_lost_host(void)
{
    char endpoint[128];
    struct net_received none;
    for (unsigned i = 0; i < 2; i++)
        start_host(i, "tcp://127.0.0.1:0");
    struct net_exchange *exchange = connect_to(2, NULL);
    for (unsigned i = 0; i < 2; i++) {
        ask_first(exchange, i, i, 8);
        check_answer(exchange, i, i, 8);
    }
    snprintf(endpoint, sizeof endpoint, "%s", net_exchange_endpoint(hosts[1].exchange, 0));
    stop_host(1);
    CU_ASSERT_EQUAL_FATAL(net_exchange_receive(exchange, &none, in_a_minute(), NULL), PROTO_LOST);
    CU_ASSERT_EQUAL(none.from, 1);
    CU_ASSERT_EQUAL(ask(exchange, 1, 2, 8), PROTO_LOST);
    /* The other one is as it was. */
    CU_ASSERT_EQUAL(ask(exchange, 0, 3, 8), PROTO_OK);
    check_answer(exchange, 0, 3, 8);
    start_host(1, endpoint);
    ask_first(exchange, 1, 4, 8);
    check_answer(exchange, 1, 4, 8);
    net_exchange_destroy(exchange, 0);
    stop_host(0);
    stop_host(1);
}

/* What is there under another key than the host's gets nothing. */
static void test_wrong_host(void)
{
    struct net_received none;
    open_host(0, "tcp://127.0.0.1:0");
    struct net_exchange *exchange = connect_to(1, other.key.public_key);
    CU_ASSERT_EQUAL(ask(exchange, 0, 1, 8), PROTO_LOST);
    CU_ASSERT_EQUAL(net_exchange_receive(exchange, &none, net_now_ns() + 200000000, NULL),
                    PROTO_TIMEOUT);
    CU_ASSERT_EQUAL(ask(exchange, 0, 1, 8), PROTO_LOST);
    CU_ASSERT_EQUAL(net_exchange_receive(hosts[0].exchange, &none, 0, NULL), PROTO_TIMEOUT);
    net_exchange_destroy(exchange, 0);
    net_exchange_destroy(hosts[0].exchange, 0);
}

/* Frames that make no sense, of a peer with a proven key: it is ignored, others are answered. */
static void test_rubbish(void)
{
    struct side *host = &host_sides[0];
    start_host(0, "tcp://127.0.0.1:0");
    void *context = zmq_ctx_new(), *stranger = zmq_socket(context, ZMQ_DEALER);
    int no_linger = 0;
    zmq_setsockopt(stranger, ZMQ_CURVE_SERVERKEY, host->key.public_key, PROTO_KEY_BYTES);
    zmq_setsockopt(stranger, ZMQ_CURVE_PUBLICKEY, other.key.public_key, PROTO_KEY_BYTES);
    zmq_setsockopt(stranger, ZMQ_CURVE_SECRETKEY, other.key.secret_key, PROTO_KEY_BYTES);
    zmq_setsockopt(stranger, ZMQ_LINGER, &no_linger, sizeof no_linger);
    CU_ASSERT_EQUAL(zmq_connect(stranger, net_exchange_endpoint(hosts[0].exchange, 0)), 0);
    uint8_t *bytes;
    size_t len;
    struct proto_msg msg = {.kind = PROTO_MSG_EXPERTS};
    CU_ASSERT_EQUAL(proto_msg_encode(&msg, &bytes, &len, NULL), PROTO_OK);
    char answer[64];
    /* A good request first, so that the rubbish is known to arrive. */
    CU_ASSERT_EQUAL(zmq_send(stranger, bytes, len, 0), (int)len);
    CU_ASSERT(zmq_recv(stranger, answer, sizeof answer, 0) > 0);
    CU_ASSERT_EQUAL(zmq_send(stranger, "rubbish", 7, 0), 7);
    CU_ASSERT_EQUAL(zmq_send(stranger, bytes, len, 0), (int)len);
    struct net_exchange *exchange = connect_to(1, NULL);
    ask_first(exchange, 0, 1, 8);
    check_answer(exchange, 0, 1, 8);
    CU_ASSERT_EQUAL(zmq_recv(stranger, answer, sizeof answer, ZMQ_DONTWAIT), -1);
    net_exchange_destroy(exchange, 0);
    free(bytes);
    zmq_close(stranger);
    zmq_ctx_term(context);
    stop_host(0);
    CU_ASSERT_EQUAL(hosts[0].n_answered, 2);
}

static void test_bad_endpoints(void)
{
    struct net_exchange *exchange;
    struct proto_error error;
    struct net_exchange_host none = {.endpoint = "udp://1.2.3.4:5"};
    CU_ASSERT_EQUAL(net_exchange_listen(&exchange, stage.loop, "nowhere", &stage.key, &error),
                    PROTO_INVALID);
    CU_ASSERT_PTR_NULL(exchange);
    CU_ASSERT_EQUAL(net_exchange_connect(&exchange, stage.loop, &none, 1, &stage.key, 1, &error),
                    PROTO_INVALID);
    CU_ASSERT_PTR_NOT_NULL(strstr(error.text, "udp://1.2.3.4:5"));
    CU_ASSERT_EQUAL(net_exchange_connect(&exchange, stage.loop, &none, 0, &stage.key, 1, &error),
                    PROTO_LIMIT);
    CU_ASSERT_PTR_NULL(exchange);
    net_exchange_destroy(NULL, 0);
}

int main(void)
{
    side_start(&stage);
    side_start(&other);
    for (unsigned i = 0; i < N_HOSTS; i++)
        side_start(&host_sides[i]);
    CU_initialize_registry();
    CU_pSuite suite = CU_add_suite("exchange", NULL, NULL);
    CU_ADD_TEST(suite, test_tcp);
    CU_ADD_TEST(suite, test_ipc);
    CU_ADD_TEST(suite, test_cancel);
    CU_ADD_TEST(suite, test_deadline);
    CU_ADD_TEST(suite, test_lost_host);
    CU_ADD_TEST(suite, test_wrong_host);
    CU_ADD_TEST(suite, test_rubbish);
    CU_ADD_TEST(suite, test_bad_endpoints);
    CU_basic_run_tests();
    int failures = (int)CU_get_number_of_failures();
    CU_cleanup_registry();
    side_finish(&stage);
    side_finish(&other);
    for (unsigned i = 0; i < N_HOSTS; i++)
        side_finish(&host_sides[i]);
    return failures != 0;
}
