/* SPDX-License-Identifier: Apache-2.0 */
#include <CUnit/Basic.h>
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "side.h"

static struct side server, client, other;

/* A server at the endpoint, and the client connected to it. */
static void open_pair(const char *endpoint)
{
    side_start(&server);
    side_start(&client);
    CU_ASSERT_EQUAL_FATAL(side_listen(&server, endpoint, NULL), PROTO_OK);
    side_connect(&client, net_link_endpoint(server.link), server.key.public_key);
}

static void close_pair(void)
{
    side_finish(&client);
    side_finish(&server);
}

static void check_heard(const struct side *side, unsigned i, uint64_t number,
                        const struct side *from, size_t payload_len)
{
    const struct side_heard *heard = &side->heard[i];
    CU_ASSERT_EQUAL(heard->number, number);
    CU_ASSERT_EQUAL(memcmp(heard->key, from->key.public_key, PROTO_KEY_BYTES), 0);
    CU_ASSERT_EQUAL(heard->has_payload, payload_len != SIDE_NO_PAYLOAD);
    if (heard->has_payload) {
        CU_ASSERT_EQUAL(heard->payload_len, payload_len);
        CU_ASSERT_TRUE(heard->payload_ok);
    }
}

static void exchange(const char *endpoint)
{
    static const size_t sizes[] = {SIDE_NO_PAYLOAD, 0, 1, 33, 34, 4096, 100000, 8u << 20};
    const unsigned n = sizeof sizes / sizeof *sizes;
    open_pair(endpoint);
    for (unsigned i = 0; i < n; i++)
        CU_ASSERT_EQUAL(side_send(&client, 0, 100 + i, sizes[i]), PROTO_OK);
    CU_ASSERT_TRUE_FATAL(side_wait(&server, &server.n_heard, n));
    net_peer peer = server.heard[0].from;
    CU_ASSERT_NOT_EQUAL(peer, 0);
    for (unsigned i = 0; i < n; i++) {
        check_heard(&server, i, 100 + i, &client, sizes[i]);
        CU_ASSERT_EQUAL(server.heard[i].from, peer);
        CU_ASSERT_EQUAL(side_send(&server, peer, 200 + i, sizes[i]), PROTO_OK);
    }
    CU_ASSERT_TRUE_FATAL(side_wait(&client, &client.n_heard, n));
    for (unsigned i = 0; i < n; i++) {
        check_heard(&client, i, 200 + i, &server, sizes[i]);
        CU_ASSERT_EQUAL(client.heard[i].from, 0);
    }
    CU_ASSERT_TRUE(side_wait(&client, &client.n_released, n - 1));
    CU_ASSERT_TRUE(side_wait(&server, &server.n_released, n - 1));
    close_pair();
    CU_ASSERT_EQUAL(client.n_released, n - 1);
    CU_ASSERT_EQUAL(server.n_released, n - 1);
    CU_ASSERT_EQUAL(client.n_bad + server.n_bad + client.n_trouble, 0);
}

static void test_tcp(void)
{
    exchange("tcp://127.0.0.1:0");
    exchange("tcp://127.0.0.1:*");
}

static void test_ipc(void)
{
    char name[64];
    snprintf(name, sizeof name, "ipc://@caravan-test-%ld", (long)getpid());
    exchange(name);
}

static void test_endpoint_has_the_real_port(void)
{
    side_start(&server);
    CU_ASSERT_EQUAL_FATAL(side_listen(&server, "tcp://*:0", NULL), PROTO_OK);
    const char *port = strrchr(net_link_endpoint(server.link), ':');
    CU_ASSERT_PTR_NOT_NULL_FATAL(port);
    CU_ASSERT(atoi(port + 1) > 0);
    side_finish(&server);
}

#define MANY 4000

struct burst {
    struct side *side;
    net_peer to;
    uint64_t next;
};

/* Sends what the queue takes, and the rest at later turns. */
static void send_burst(void *arg)
{
    struct burst *burst = arg;
    while (burst->next < MANY) {
        struct proto_msg msg = {.kind = PROTO_MSG_PING, .ping = {burst->next}};
        enum proto_status status = net_link_send(burst->side->link, burst->to, &msg, NULL, NULL);
        if (status == PROTO_BUSY)
            break;
        if (status != PROTO_OK)
            abort();
        burst->next++;
    }
    if (burst->next < MANY)
        net_loop_post(burst->side->loop, send_burst, burst);
}

/* Both sides send and receive at the same time, and every message is answered: no wakeup may be
 * lost. */
static void test_nothing_is_lost_in_a_flood(void)
{
    open_pair("tcp://127.0.0.1:0");
    CU_ASSERT_EQUAL(side_send(&client, 0, 0, SIDE_NO_PAYLOAD), PROTO_OK);
    CU_ASSERT_TRUE_FATAL(side_wait(&server, &server.n_heard, 1));
    struct burst up = {&client, 0, 0}, down = {&server, server.heard[0].from, 0};
    net_loop_post(client.loop, send_burst, &up);
    net_loop_post(server.loop, send_burst, &down);
    CU_ASSERT_TRUE(side_wait(&server, &server.n_heard, MANY + 1));
    CU_ASSERT_TRUE(side_wait(&client, &client.n_heard, MANY));
    unsigned wrong = 0;
    for (unsigned i = 0; i < MANY; i++)
        wrong += server.heard[i + 1].number != i || client.heard[i].number != i;
    CU_ASSERT_EQUAL(wrong, 0);
    close_pair();
}

static void test_ping_pong(void)
{
    open_pair("tcp://127.0.0.1:0");
    server.echo = true;
    for (unsigned i = 0; i < 300; i++) {
        size_t len = i % 3 == 0 ? SIDE_NO_PAYLOAD : i * 7;
        CU_ASSERT_EQUAL(side_send(&client, 0, i, len), PROTO_OK);
        CU_ASSERT_TRUE_FATAL(side_wait(&client, &client.n_heard, i + 1));
        check_heard(&client, i, i, &server, len);
    }
    close_pair();
}

static void test_large_payload(void)
{
    const size_t len = 64u << 20;
    open_pair("tcp://127.0.0.1:0");
    server.echo = true;
    CU_ASSERT_EQUAL(side_send(&client, 0, 5, len), PROTO_OK);
    CU_ASSERT_TRUE_FATAL(side_wait(&client, &client.n_heard, 1));
    check_heard(&client, 0, 5, &server, len);
    close_pair();
}

static void test_wrong_server_key(void)
{
    struct net_keypair stranger;
    CU_ASSERT_EQUAL(net_keypair_generate(&stranger, NULL), PROTO_OK);
    side_start(&server);
    side_start(&client);
    CU_ASSERT_EQUAL_FATAL(side_listen(&server, "tcp://127.0.0.1:0", NULL), PROTO_OK);
    side_connect(&client, net_link_endpoint(server.link), stranger.public_key);
    CU_ASSERT_EQUAL(side_send(&client, 0, 1, 10), PROTO_OK);
    CU_ASSERT_TRUE(side_wait(&client, &client.n_trouble, 1));
    CU_ASSERT_EQUAL(client.trouble.status, PROTO_REFUSED);
    CU_ASSERT_PTR_NOT_NULL(strstr(client.trouble.text, "token"));
    CU_ASSERT_PTR_NOT_NULL(strstr(client.trouble.text, net_link_endpoint(server.link)));
    close_pair();
    CU_ASSERT_EQUAL(server.n_heard, 0);
    CU_ASSERT_EQUAL(client.n_released, 1);
}

static void test_nobody_listens(void)
{
    side_start(&server);
    side_start(&client);
    CU_ASSERT_EQUAL_FATAL(side_listen(&server, "tcp://127.0.0.1:0", NULL), PROTO_OK);
    char endpoint[128];
    strcpy(endpoint, net_link_endpoint(server.link));
    side_finish(&server);
    side_connect(&client, endpoint, client.key.public_key);
    CU_ASSERT_TRUE(side_wait(&client, &client.n_trouble, 1));
    CU_ASSERT_PTR_NOT_NULL(strstr(client.trouble.text, "running"));
    /* The queue is bounded. */
    unsigned sent = 0;
    enum proto_status status = PROTO_OK;
    while (sent < 100000 && (status = side_send(&client, 0, sent, 8)) == PROTO_OK)
        sent++;
    CU_ASSERT_EQUAL(status, PROTO_BUSY);
    CU_ASSERT(sent >= 100);
    side_finish(&client);
    CU_ASSERT_EQUAL(client.n_released, sent + 1);
}

static void test_listener_may_come_late_and_come_back(void)
{
    open_pair("tcp://127.0.0.1:0");
    char endpoint[128];
    strcpy(endpoint, net_link_endpoint(server.link));
    CU_ASSERT_EQUAL(side_send(&client, 0, 1, 3), PROTO_OK);
    CU_ASSERT_TRUE_FATAL(side_wait(&server, &server.n_heard, 1));
    /* Another process takes the port over with the same keys. */
    struct net_keypair key = server.key;
    CU_ASSERT_EQUAL(side_count(&client, &client.n_closed), 0);
    side_finish(&server);
    CU_ASSERT_TRUE(side_wait(&client, &client.n_trouble, 1));
    CU_ASSERT_EQUAL(side_count(&client, &client.n_closed), 1);
    side_start(&server);
    server.key = key;
    CU_ASSERT_EQUAL_FATAL(side_listen(&server, endpoint, NULL), PROTO_OK);
    CU_ASSERT_EQUAL(side_send(&client, 0, 2, 3), PROTO_OK);
    CU_ASSERT_TRUE_FATAL(side_wait(&server, &server.n_heard, 1));
    check_heard(&server, 0, 2, &client, 3);
    close_pair();
}

/* What listens where the server was takes connections and closes them at once. */
static void test_handshakes_cut_short(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET};
    char endpoint[128];
    open_pair("tcp://127.0.0.1:0");
    CU_ASSERT_EQUAL(side_send(&client, 0, 1, 3), PROTO_OK);
    CU_ASSERT_TRUE_FATAL(side_wait(&server, &server.n_heard, 1));
    strcpy(endpoint, net_link_endpoint(server.link));
    struct net_keypair key = server.key;
    side_finish(&server);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons((uint16_t)atoi(strrchr(endpoint, ':') + 1));
    int relay = socket(AF_INET, SOCK_STREAM, 0), yes = 1;
    setsockopt(relay, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    CU_ASSERT_EQUAL_FATAL(bind(relay, (struct sockaddr *)&address, sizeof address), 0);
    CU_ASSERT_EQUAL_FATAL(listen(relay, 8), 0);
    for (int i = 0; i < 5; i++)
        close(accept(relay, NULL, NULL));
    CU_ASSERT_TRUE(side_wait(&client, &client.n_trouble, 1));
    CU_ASSERT_EQUAL(client.trouble.status, PROTO_LOST);
    CU_ASSERT_EQUAL(side_count(&client, &client.n_closed), 1);
    close(relay);
    side_start(&server);
    server.key = key;
    CU_ASSERT_EQUAL_FATAL(side_listen(&server, endpoint, NULL), PROTO_OK);
    CU_ASSERT_EQUAL(side_send(&client, 0, 2, 3), PROTO_OK);
    CU_ASSERT_TRUE_FATAL(side_wait(&server, &server.n_heard, 1));
    close_pair();
}

static void test_port_taken(void)
{
    side_start(&server);
    side_start(&other);
    CU_ASSERT_EQUAL_FATAL(side_listen(&server, "tcp://127.0.0.1:0", NULL), PROTO_OK);
    struct proto_error error;
    CU_ASSERT_EQUAL(side_listen(&other, net_link_endpoint(server.link), &error), PROTO_IO);
    CU_ASSERT_PTR_NOT_NULL(strstr(error.text, net_link_endpoint(server.link)));
    CU_ASSERT_PTR_NOT_NULL(strstr(error.text, "in use"));
    side_finish(&other);
    side_finish(&server);
}

static void test_endpoints_that_are_none(void)
{
    static const char *const bad[] = {"",
                                      "host:1",
                                      "tcp://",
                                      "inproc://x",
                                      "tcp://127.0.0.1:70000",
                                      "ipc://",
                                      "udp://127.0.0.1:1",
                                      "tcp://300.1.1.1:5"};
    side_start(&server);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct proto_error error = {.status = PROTO_OK};
        CU_ASSERT_NOT_EQUAL(side_listen(&server, bad[i], &error), PROTO_OK);
        CU_ASSERT_PTR_NOT_NULL(strstr(error.text, bad[i]));
        CU_ASSERT_PTR_NULL(server.link);
    }
    side_finish(&server);
}

struct probe {
    struct side *side;
    net_peer to;
    struct net_timer *timer;
    enum proto_status status;
    unsigned ended;
};

/* The transport notices in its own time; until then sends are taken. */
static void on_probe(void *arg)
{
    struct probe *probe = arg;
    struct proto_msg msg = {.kind = PROTO_MSG_PING};
    probe->status = net_link_send(probe->side->link, probe->to, &msg, NULL, NULL);
    if (probe->status == PROTO_OK)
        return;
    net_timer_destroy(probe->timer);
    pthread_mutex_lock(&probe->side->lock);
    probe->ended = 1;
    pthread_cond_broadcast(&probe->side->changed);
    pthread_mutex_unlock(&probe->side->lock);
}

static void start_probe(void *arg)
{
    struct probe *probe = arg;
    if (net_timer_create(&probe->timer, probe->side->loop, 2, on_probe, probe, NULL) != PROTO_OK)
        abort();
}

static void test_peer_that_is_gone(void)
{
    open_pair("tcp://127.0.0.1:0");
    CU_ASSERT_EQUAL(side_send(&client, 0, 1, SIDE_NO_PAYLOAD), PROTO_OK);
    CU_ASSERT_TRUE_FATAL(side_wait(&server, &server.n_heard, 1));
    struct probe probe = {.side = &server, .to = server.heard[0].from};
    side_close(&client, 0);
    side_call(&server, start_probe, &probe);
    CU_ASSERT_TRUE_FATAL(side_wait(&server, &probe.ended, 1));
    CU_ASSERT_EQUAL(probe.status, PROTO_LOST);
    CU_ASSERT_EQUAL(side_send(&server, probe.to, 2, 100), PROTO_LOST);
    CU_ASSERT_EQUAL(side_send(&server, 999, 2, 100), PROTO_LOST);
    CU_ASSERT_TRUE(side_wait(&server, &server.n_released, 2));
    close_pair();
}

static void forget(void *peer)
{
    net_link_forget(server.link, *(net_peer *)peer);
}

static void test_forgotten_peer_is_new(void)
{
    open_pair("tcp://127.0.0.1:0");
    CU_ASSERT_EQUAL(side_send(&client, 0, 1, SIDE_NO_PAYLOAD), PROTO_OK);
    CU_ASSERT_TRUE_FATAL(side_wait(&server, &server.n_heard, 1));
    net_peer first = server.heard[0].from;
    side_call(&server, forget, &first);
    side_call(&server, forget, &first);
    CU_ASSERT_EQUAL(side_send(&server, first, 2, SIDE_NO_PAYLOAD), PROTO_LOST);
    CU_ASSERT_EQUAL(side_send(&client, 0, 3, SIDE_NO_PAYLOAD), PROTO_OK);
    CU_ASSERT_TRUE_FATAL(side_wait(&server, &server.n_heard, 2));
    CU_ASSERT(server.heard[1].from > first);
    close_pair();
}

static void test_handler_destroys_its_link(void)
{
    open_pair("tcp://127.0.0.1:0");
    server.quit = true;
    for (int i = 0; i < 3; i++)
        CU_ASSERT_EQUAL(side_send(&client, 0, 1, 50), PROTO_OK);
    CU_ASSERT_TRUE(side_wait(&server, &server.n_heard, 1));
    close_pair();
    CU_ASSERT_EQUAL(server.n_heard, 1);
}

static void test_last_message_leaves(void)
{
    open_pair("tcp://127.0.0.1:0");
    CU_ASSERT_EQUAL(side_send(&client, 0, 1, SIDE_NO_PAYLOAD), PROTO_OK);
    CU_ASSERT_TRUE_FATAL(side_wait(&server, &server.n_heard, 1));
    CU_ASSERT_EQUAL(side_send(&client, 0, 2, 4u << 20), PROTO_OK);
    side_close(&client, 30000);
    side_finish(&client);
    CU_ASSERT_TRUE(side_wait(&server, &server.n_heard, 2));
    side_finish(&server);
}

static void test_message_that_cannot_be_sent(void)
{
    open_pair("tcp://127.0.0.1:0");
    struct proto_msg msg = {.kind = PROTO_MSG_WELCOME};
    int taken = 0;
    struct net_payload *payload = net_payload_wrap(&taken, sizeof taken, NULL, NULL);
    struct proto_error error;
    CU_ASSERT_EQUAL(net_link_send(client.link, 0, &msg, &payload, &error), PROTO_INVALID);
    CU_ASSERT_PTR_NULL(payload);
    close_pair();
}

int main(void)
{
    CU_initialize_registry();
    CU_pSuite suite = CU_add_suite("link", NULL, NULL);
    CU_ADD_TEST(suite, test_tcp);
    CU_ADD_TEST(suite, test_ipc);
    CU_ADD_TEST(suite, test_endpoint_has_the_real_port);
    CU_ADD_TEST(suite, test_nothing_is_lost_in_a_flood);
    CU_ADD_TEST(suite, test_ping_pong);
    CU_ADD_TEST(suite, test_large_payload);
    CU_ADD_TEST(suite, test_wrong_server_key);
    CU_ADD_TEST(suite, test_handshakes_cut_short);
    CU_ADD_TEST(suite, test_nobody_listens);
    CU_ADD_TEST(suite, test_listener_may_come_late_and_come_back);
    CU_ADD_TEST(suite, test_port_taken);
    CU_ADD_TEST(suite, test_endpoints_that_are_none);
    CU_ADD_TEST(suite, test_peer_that_is_gone);
    CU_ADD_TEST(suite, test_forgotten_peer_is_new);
    CU_ADD_TEST(suite, test_handler_destroys_its_link);
    CU_ADD_TEST(suite, test_last_message_leaves);
    CU_ADD_TEST(suite, test_message_that_cannot_be_sent);
    CU_basic_run_tests();
    int failures = (int)CU_get_number_of_failures();
    CU_cleanup_registry();
    return failures != 0;
}
