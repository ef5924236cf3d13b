/* SPDX-License-Identifier: Apache-2.0 */
/* Whose echoes a worker answers, and that it measures a link when it is told to. The coordinator
 * and another machine are links of one loop; the worker is a session on a thread of its own. */
#include <CUnit/Basic.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "net/probe.h"
#include "proto/log.h"
#include "worker/session.h"

#define DEADLINE_MS 60000u

static struct {
    struct net_cluster_keys cluster;
    struct net_keypair other_key;
    struct net_loop *loop;
    struct net_timer *timer;
    struct net_link *coordinator, *other;
    net_peer worker;
    uint64_t echoed[4];
    unsigned n_echoed, n_echoes;
    uint64_t payload_bytes; /* of the worker's echoes */
    struct proto_probed probed;
    bool late;
} test;

static void tell(const struct proto_msg *msg)
{
    CU_ASSERT_EQUAL(net_link_send(test.coordinator, test.worker, msg, NULL, NULL), PROTO_OK);
}

static void on_other(void *arg, net_peer from, const uint8_t *key, struct proto_msg *msg,
                     struct net_payload **payload)
{
    const struct proto_msg probe = {.kind = PROTO_MSG_PROBE, .probe = {.number = 5}};
    (void)arg, (void)from, (void)key, (void)payload;
    if (msg->kind != PROTO_MSG_ECHOED)
        return;
    test.echoed[test.n_echoed++ % 4] = msg->echoed.number;
    tell(&probe);
}

static void on_bad(void *arg, net_peer from, const uint8_t *key, const struct proto_error *error)
{
    (void)arg, (void)from, (void)key;
    CU_FAIL("a frame makes no sense");
    fprintf(stderr, "%s\n", error->text);
    net_loop_stop(test.loop);
}

/* Two echoes of one that is not known: with the proof of another key, then with its own. */
static void connect_other(const struct proto_hello *hello, const uint8_t *worker_key)
{
    const struct net_link_handler handler = {.on_message = on_other, .on_bad = on_bad};
    struct proto_msg msg = {.kind = PROTO_MSG_ECHO, .echo = {.number = 1}};
    CU_ASSERT_EQUAL_FATAL(net_link_connect(&test.other, test.loop, hello->endpoint, &test.other_key,
                                           worker_key, &handler, NULL),
                          PROTO_OK);
    memcpy(msg.echo.proof, hello->proof, sizeof msg.echo.proof);
    CU_ASSERT_EQUAL(net_link_send(test.other, 0, &msg, NULL, NULL), PROTO_OK);
    msg.echo.number = 2;
    net_proof_make(msg.echo.proof, test.cluster.secret, test.other_key.public_key);
    CU_ASSERT_EQUAL(net_link_send(test.other, 0, &msg, NULL, NULL), PROTO_OK);
}

static void on_coordinator(void *arg, net_peer from, const uint8_t *key, struct proto_msg *msg,
                           struct net_payload **payload)
{
    const struct proto_msg welcome = {.kind = PROTO_MSG_WELCOME,
                                      .welcome = {.ping_ms = 250, .deadline_ms = DEADLINE_MS}};
    const struct proto_msg bye = {.kind = PROTO_MSG_BYE};
    (void)arg;
    test.worker = from;
    if (msg->kind == PROTO_MSG_HELLO) {
        tell(&welcome);
        if (!test.other)
            connect_other(&msg->hello, key);
    } else if (msg->kind == PROTO_MSG_ECHO) {
        test.n_echoes++;
        test.payload_bytes += *payload ? net_payload_len(*payload) : 0;
        net_probe_answer(test.coordinator, from, &msg->echo);
    } else if (msg->kind == PROTO_MSG_PROBED) {
        test.probed = msg->probed;
        tell(&bye); /* which ends the worker */
        net_loop_stop(test.loop);
    }
}

static void on_late(void *arg)
{
    (void)arg;
    test.late = true;
    net_loop_stop(test.loop);
}

static void *run_worker(void *arg)
{
    static char dir[] = "/tmp/caravan-test-echo";
    struct worker_session_options options = {.endpoint = arg,
                                             .name = "w",
                                             .cache_dir = dir,
                                             .table = kern_table_get(KERN_ISA_PORTABLE),
                                             .threads = 1,
                                             .memory_bytes = 1 << 30,
                                             .local = true};
    struct proto_error error;
    memcpy(options.token.cluster_key, test.cluster.pair.public_key, PROTO_KEY_BYTES);
    memcpy(options.token.secret, test.cluster.secret, PROTO_KEY_BYTES);
    CU_ASSERT_EQUAL(net_keypair_generate(&options.own, NULL), PROTO_OK);
    CU_ASSERT_EQUAL(worker_session_run(&options, &error), PROTO_OK);
    return NULL;
}

static void test_echoes(void)
{
    const struct net_link_handler handler = {.on_message = on_coordinator, .on_bad = on_bad};
    char endpoint[96];
    pthread_t worker;
    snprintf(endpoint, sizeof endpoint, "ipc://@caravan-test-echo-%ld", (long)getpid());
    CU_ASSERT_EQUAL_FATAL(net_cluster_keys_generate(&test.cluster, "", NULL), PROTO_OK);
    CU_ASSERT_EQUAL_FATAL(net_keypair_generate(&test.other_key, NULL), PROTO_OK);
    CU_ASSERT_EQUAL_FATAL(net_loop_create(&test.loop, NULL), PROTO_OK);
    CU_ASSERT_EQUAL_FATAL(
        net_link_listen(&test.coordinator, test.loop, endpoint, &test.cluster.pair, &handler, NULL),
        PROTO_OK);
    CU_ASSERT_EQUAL_FATAL(
        net_timer_create(&test.timer, test.loop, DEADLINE_MS, on_late, NULL, NULL), PROTO_OK);
    CU_ASSERT_EQUAL_FATAL(pthread_create(&worker, NULL, run_worker, endpoint), 0);
    net_loop_run(test.loop);
    net_timer_destroy(test.timer);
    net_link_destroy(test.other, 0);
    net_link_destroy(test.coordinator, 10000);
    pthread_join(worker, NULL);
    net_loop_destroy(test.loop);
    CU_ASSERT_FALSE(test.late);
    CU_ASSERT_EQUAL(test.n_echoed, 1);
    CU_ASSERT_EQUAL(test.echoed[0], 2);
    CU_ASSERT(test.n_echoes > NET_PROBE_TRIPS && test.payload_bytes > 0);
    CU_ASSERT_EQUAL(test.probed.number, 5);
    CU_ASSERT(test.probed.rtt_s > 0 && test.probed.bytes_s > 0);
}

int main(void)
{
    proto_log_set_level(PROTO_LOG_ERROR);
    CU_initialize_registry();
    CU_pSuite suite = CU_add_suite("echo", NULL, NULL);
    CU_add_test(suite, "echoes", test_echoes);
    CU_basic_run_tests();
    unsigned failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    return failures != 0;
}
