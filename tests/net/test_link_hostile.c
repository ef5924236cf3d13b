/* SPDX-License-Identifier: Apache-2.0 */
/* Peers that keep to CURVE but not to the protocol, and some that keep to neither. */
#include <CUnit/Basic.h>
#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <zmq.h>

#include "proto/log.h"
#include "side.h"

static struct side server, client;

/* A plain ZeroMQ socket that speaks CURVE with the server. */
struct raw {
    void *context, *socket;
    struct net_keypair key;
};

static void raw_open(struct raw *raw, const char *route)
{
    int deadline = 30000, linger = 0;
    CU_ASSERT_EQUAL_FATAL(net_keypair_generate(&raw->key, NULL), PROTO_OK);
    raw->context = zmq_ctx_new();
    raw->socket = zmq_socket(raw->context, ZMQ_DEALER);
    zmq_setsockopt(raw->socket, ZMQ_SNDTIMEO, &deadline, sizeof deadline);
    zmq_setsockopt(raw->socket, ZMQ_RCVTIMEO, &deadline, sizeof deadline);
    zmq_setsockopt(raw->socket, ZMQ_LINGER, &linger, sizeof linger);
    if (route)
        zmq_setsockopt(raw->socket, ZMQ_ROUTING_ID, route, strlen(route));
    zmq_setsockopt(raw->socket, ZMQ_CURVE_SERVERKEY, server.key.public_key, PROTO_KEY_BYTES);
    zmq_setsockopt(raw->socket, ZMQ_CURVE_PUBLICKEY, raw->key.public_key, PROTO_KEY_BYTES);
    zmq_setsockopt(raw->socket, ZMQ_CURVE_SECRETKEY, raw->key.secret_key, PROTO_KEY_BYTES);
    CU_ASSERT_EQUAL_FATAL(zmq_connect(raw->socket, net_link_endpoint(server.link)), 0);
}

static void raw_close(struct raw *raw)
{
    zmq_close(raw->socket);
    zmq_ctx_term(raw->context);
}

static void raw_send(struct raw *raw, const void *bytes, size_t len, bool more)
{
    CU_ASSERT_EQUAL(zmq_send(raw->socket, bytes, len, more ? ZMQ_SNDMORE : 0), (int)len);
}

static void raw_ping(struct raw *raw, uint64_t number)
{
    struct proto_msg msg = {.kind = PROTO_MSG_PING, .ping = {number}};
    uint8_t *bytes;
    size_t len;
    CU_ASSERT_EQUAL_FATAL(proto_msg_encode(&msg, &bytes, &len, NULL), PROTO_OK);
    raw_send(raw, bytes, len, false);
    free(bytes);
}

static void open_pair(void)
{
    side_start(&server);
    side_start(&client);
    CU_ASSERT_EQUAL_FATAL(side_listen(&server, "tcp://127.0.0.1:0", NULL), PROTO_OK);
    side_connect(&client, net_link_endpoint(server.link), server.key.public_key);
    CU_ASSERT_EQUAL(side_send(&client, 0, 1, SIDE_NO_PAYLOAD), PROTO_OK);
    CU_ASSERT_TRUE_FATAL(side_wait(&server, &server.n_heard, 1));
}

/* The well-behaved peer still is served. */
static void close_pair(void)
{
    unsigned n = side_count(&server, &server.n_heard);
    CU_ASSERT_EQUAL(side_send(&client, 0, 2, 5000), PROTO_OK);
    CU_ASSERT_TRUE(side_wait(&server, &server.n_heard, n + 1));
    CU_ASSERT_EQUAL(server.heard[n].number, 2);
    CU_ASSERT_EQUAL(server.heard[n].from, server.heard[0].from);
    side_finish(&client);
    side_finish(&server);
}

static void send_garbage(struct raw *raw)
{
    raw_send(raw, "\xff\xff\xff garbage", 11, false);
}

static void send_three_frames(struct raw *raw)
{
    raw_send(raw, "\x92\x01", 3, true); /* a BYE */
    raw_send(raw, "payload", 7, true);
    raw_send(raw, "and more", 8, false);
}

static void send_empty(struct raw *raw)
{
    raw_send(raw, "", 0, false);
}

static void send_large_header(struct raw *raw)
{
    size_t len = PROTO_MAX_HEADER_BYTES + 1;
    char *bytes = calloc(1, len);
    raw_send(raw, bytes, len, false);
    free(bytes);
}

/* After the frame the peer's good messages are ignored, and it is reported once. */
static void check_bad(void (*send_bad)(struct raw *raw), bool forget)
{
    struct raw raw;
    open_pair();
    server.forget_bad = forget;
    raw_open(&raw, NULL);
    raw_ping(&raw, 10);
    CU_ASSERT_TRUE_FATAL(side_wait(&server, &server.n_heard, 2));
    CU_ASSERT_EQUAL(memcmp(server.heard[1].key, raw.key.public_key, PROTO_KEY_BYTES), 0);
    send_bad(&raw);
    CU_ASSERT_TRUE_FATAL(side_wait(&server, &server.n_bad, 1));
    CU_ASSERT_EQUAL(server.bad_from, server.heard[1].from);
    CU_ASSERT_EQUAL(server.bad.status, PROTO_FORMAT);
    raw_ping(&raw, 11);
    send_bad(&raw);
    if (!forget) {
        /* What it is told arrives, so what it said before has arrived too. */
        char bytes[64];
        CU_ASSERT_EQUAL(side_send(&server, server.bad_from, 12, SIDE_NO_PAYLOAD), PROTO_OK);
        CU_ASSERT(zmq_recv(raw.socket, bytes, sizeof bytes, 0) > 0);
    }
    close_pair();
    CU_ASSERT_EQUAL(server.n_heard, 3);
    CU_ASSERT_EQUAL(server.n_bad, 1);
    raw_close(&raw);
}

static void test_garbage(void)
{
    check_bad(send_garbage, false);
    check_bad(send_garbage, true);
}

static void test_too_many_frames(void)
{
    check_bad(send_three_frames, false);
}

static void test_empty_frame(void)
{
    check_bad(send_empty, false);
}

static void test_large_header(void)
{
    check_bad(send_large_header, false);
}

/* Until the server's transport has noticed that the peer went; false if that takes a minute. */
static bool wait_gone(net_peer peer)
{
    uint64_t until = net_now_ns() + 60000000000u;
    while (side_send(&server, peer, 0, SIDE_NO_PAYLOAD) != PROTO_LOST)
        if (net_now_ns() > until)
            return false;
    return true;
}

/* A routing id that a peer left behind does not make another one that peer. */
static void test_taken_up_routing_id(void)
{
    struct raw first, second;
    open_pair();
    raw_open(&first, "name");
    raw_ping(&first, 10);
    CU_ASSERT_TRUE_FATAL(side_wait(&server, &server.n_heard, 2));
    net_peer peer = server.heard[1].from;
    raw_close(&first);
    CU_ASSERT_TRUE_FATAL(wait_gone(peer));
    raw_open(&second, "name");
    raw_ping(&second, 11);
    CU_ASSERT_TRUE_FATAL(side_wait(&server, &server.n_heard, 3));
    CU_ASSERT_EQUAL(memcmp(server.heard[2].key, second.key.public_key, PROTO_KEY_BYTES), 0);
    CU_ASSERT_NOT_EQUAL(server.heard[2].from, peer);
    raw_close(&second);
    close_pair();
}

static int tcp_connect(void)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in address = {
        .sin_family = AF_INET,
        .sin_port = htons((uint16_t)atoi(strrchr(net_link_endpoint(server.link), ':') + 1)),
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    CU_ASSERT_EQUAL_FATAL(connect(fd, (struct sockaddr *)&address, sizeof address), 0);
    return fd;
}

/* The server hangs up on every one of them. */
static void test_what_is_not_zeromq(void)
{
    static const char greeting[] = "\xff\0\0\0\0\0\0\0\0\x7f\x03\0NULL";
    uint8_t bytes[4096];
    open_pair();
    for (int kind = 0; kind < 4; kind++) {
        int fd = tcp_connect();
        memset(bytes, kind == 1 ? 0xff : 0, sizeof bytes);
        if (kind == 0)
            strcpy((char *)bytes, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
        if (kind >= 2)
            memcpy(bytes, greeting, sizeof greeting);
        CU_ASSERT(send(fd, bytes, kind == 2 ? 64 : sizeof bytes, MSG_NOSIGNAL) > 0);
        shutdown(fd, SHUT_WR);
        ssize_t n;
        while ((n = recv(fd, bytes, sizeof bytes, 0)) > 0)
            ;
        CU_ASSERT(n == 0 || errno == ECONNRESET);
        close(fd);
    }
    close_pair();
    CU_ASSERT_EQUAL(server.n_heard, 2);
    CU_ASSERT_EQUAL(server.n_bad, 0);
}

/* A client without CURVE has nothing delivered. */
static void test_plain_client(void)
{
    int linger = 0;
    open_pair();
    void *context = zmq_ctx_new(), *socket = zmq_socket(context, ZMQ_DEALER);
    zmq_setsockopt(socket, ZMQ_LINGER, &linger, sizeof linger);
    CU_ASSERT_EQUAL(zmq_socket_monitor(socket, "inproc://m", ZMQ_EVENT_DISCONNECTED), 0);
    void *monitor = zmq_socket(context, ZMQ_PAIR);
    CU_ASSERT_EQUAL(zmq_connect(monitor, "inproc://m"), 0);
    CU_ASSERT_EQUAL(zmq_connect(socket, net_link_endpoint(server.link)), 0);
    CU_ASSERT_EQUAL(zmq_send(socket, "\x92\x01", 3, 0), 3);
    char event[6];
    CU_ASSERT_EQUAL(zmq_recv(monitor, event, sizeof event, 0), 6);
    zmq_socket_monitor(socket, NULL, 0);
    zmq_close(monitor);
    zmq_close(socket);
    zmq_ctx_term(context);
    close_pair();
    CU_ASSERT_EQUAL(server.n_heard, 2);
    CU_ASSERT_EQUAL(server.n_bad, 0);
}

int main(void)
{
    proto_log_set_level(PROTO_LOG_ERROR);
    CU_initialize_registry();
    CU_pSuite suite = CU_add_suite("hostile peers", NULL, NULL);
    CU_ADD_TEST(suite, test_garbage);
    CU_ADD_TEST(suite, test_too_many_frames);
    CU_ADD_TEST(suite, test_empty_frame);
    CU_ADD_TEST(suite, test_large_header);
    CU_ADD_TEST(suite, test_taken_up_routing_id);
    CU_ADD_TEST(suite, test_what_is_not_zeromq);
    CU_ADD_TEST(suite, test_plain_client);
    CU_basic_run_tests();
    int failures = (int)CU_get_number_of_failures();
    CU_cleanup_registry();
    return failures != 0;
}
