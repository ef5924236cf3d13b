/* SPDX-License-Identifier: Apache-2.0 */
/* A stage's waits for hosts of its experts end when a host fails or another thread says so. */
#include <CUnit/Basic.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/worker/service_rig.h"
#include "worker/asker.h"
#include "worker/expert_server.h"

static struct proto_error error;
static atomic_bool no_cancel;

/* A host that knows everybody, and does with requests as it is told. */
enum habit { SILENT, GONE, WRONG_NUMBER };
struct puppet {
    struct net_exchange *exchange; /* the thread's */
    char endpoint[128];
    pthread_t thread;
    enum habit habit;
};

static void answer_request(struct puppet *p, struct net_received *got)
{
    struct proto_msg msg = {
        .kind = PROTO_MSG_EXPERTS_DONE,
        .experts_done = {.epoch = SERVICE_EPOCH, .number = got->msg.experts.number}};
    if (p->habit == SILENT || p->habit == GONE)
        return;
    if (p->habit == WRONG_NUMBER) {
        msg.experts_done.number += 77; /* is dropped, the good one comes after it */
        net_exchange_send(p->exchange, got->from, &msg, NULL, NULL);
        msg.experts_done.number -= 77;
    }
    net_exchange_send(p->exchange, got->from, &msg, &got->payload, NULL);
}

static void *puppet_main(void *arg)
{
    struct puppet *p = arg;
    struct net_received got;
    struct proto_msg linked = {.kind = PROTO_MSG_LINKED, .link = {.epoch = SERVICE_EPOCH}};
    bool gone = false;
    while (!gone && net_exchange_receive(p->exchange, &got, UINT64_MAX, NULL) == PROTO_OK) {
        if (got.msg.kind == PROTO_MSG_LINK)
            net_exchange_send(p->exchange, got.from, &linked, NULL, NULL);
        else
            answer_request(p, &got);
        gone = got.msg.kind == PROTO_MSG_EXPERTS && p->habit == GONE;
        net_received_finish(&got);
    }
    if (gone)
        net_exchange_destroy(p->exchange, 0);
    return NULL;
}

static struct worker_asker *ask_puppet(struct puppet *p, enum habit habit)
{
    struct proto_load load = service_load(true);
    struct worker_asker *asker;
    p->habit = habit;
    CU_ASSERT_EQUAL_FATAL(net_exchange_listen(&p->exchange, service.hosts[0].loop,
                                              "tcp://127.0.0.1:0", &service.hosts[0].key, &error),
                          PROTO_OK);
    snprintf(p->endpoint, sizeof p->endpoint, "%s", net_exchange_endpoint(p->exchange, 0));
    service.list[0] = (struct proto_host){.endpoint = p->endpoint, .name = "puppet"};
    memcpy(service.list[0].key, service.hosts[0].key.public_key, PROTO_KEY_BYTES);
    load.n_hosts = load.n_parts = 1;
    if (pthread_create(&p->thread, NULL, puppet_main, p))
        abort();
    CU_ASSERT_EQUAL(worker_asker_create(&asker, service.stage.loop, &service.stage.key, &error),
                    PROTO_OK);
    CU_ASSERT_EQUAL_FATAL(worker_asker_connect(asker, &load, 60000, &no_cancel, &error), PROTO_OK);
    worker_asker_begin(asker);
    return asker;
}

static void end_puppet(struct puppet *p, struct worker_asker *asker)
{
    if (p->habit != GONE)
        net_exchange_cancel(p->exchange);
    pthread_join(p->thread, NULL);
    if (p->habit != GONE)
        net_exchange_destroy(p->exchange, 0);
    worker_asker_destroy(asker);
}

static enum proto_status ask(struct worker_asker *asker, const void **data, size_t *len)
{
    struct worker_remote remote = worker_asker_calls(asker);
    uint32_t host = 99;
    enum proto_status status = remote.send(remote.arg, 0, 1, "abcdef", 6, &error);
    if (status == PROTO_OK)
        status = remote.receive(remote.arg, &host, data, len, &error);
    CU_ASSERT(status != PROTO_OK || host == 0);
    return status;
}

static void *cancel(void *arg)
{
    worker_asker_cancel(arg);
    return NULL;
}

static void test_cancel(void)
{
    struct puppet p;
    pthread_t thread;
    const void *data;
    size_t len;
    struct worker_asker *asker = ask_puppet(&p, SILENT);
    CU_ASSERT_EQUAL(pthread_create(&thread, NULL, cancel, asker), 0);
    CU_ASSERT_EQUAL(ask(asker, &data, &len), PROTO_CANCELLED);
    CU_ASSERT_EQUAL(ask(asker, &data, &len), PROTO_CANCELLED);
    pthread_join(thread, NULL);
    end_puppet(&p, asker);
}

static void test_lost(void)
{
    struct puppet p;
    const void *data;
    size_t len;
    struct worker_asker *asker = ask_puppet(&p, GONE);
    for (int i = 0; i < 2; i++) {
        CU_ASSERT_EQUAL(ask(asker, &data, &len), PROTO_LOST);
        CU_ASSERT_PTR_NOT_NULL(strstr(
            error.text, "\"puppet\", which holds experts 0-3 of layers 0-2, does not answer"));
    }
    end_puppet(&p, asker);
}

static void test_wrong_number(void)
{
    struct puppet p;
    const void *data;
    size_t len;
    struct worker_asker *asker = ask_puppet(&p, WRONG_NUMBER);
    for (int i = 0; i < 3; i++) {
        CU_ASSERT_EQUAL_FATAL(ask(asker, &data, &len), PROTO_OK);
        CU_ASSERT(len == 6 && memcmp(data, "abcdef", 6) == 0);
    }
    end_puppet(&p, asker);
}

/* The wait for a host that does not know this stage ends when the load is cancelled. */
static void test_cancelled_link(void)
{
    atomic_bool cancelled = true;
    struct worker_asker *asker;
    struct proto_load load = service_load(true);
    service.list[0] = service.list[1] = (struct proto_host){"ipc://@caravan-nobody", "nobody", {1}};
    CU_ASSERT_EQUAL(worker_asker_create(&asker, service.stage.loop, &service.stage.key, &error),
                    PROTO_OK);
    CU_ASSERT_EQUAL(worker_asker_connect(asker, &load, 60000, &cancelled, &error), PROTO_CANCELLED);
    worker_asker_cancel(asker);
    worker_asker_destroy(asker);
    worker_asker_destroy(NULL);
    worker_expert_server_destroy(NULL);
}

int main(void)
{
    CU_initialize_registry();
    CU_pSuite suite = CU_add_suite("asker", service_set_up, service_tear_down);
    CU_ADD_TEST(suite, test_cancel);
    CU_ADD_TEST(suite, test_lost);
    CU_ADD_TEST(suite, test_wrong_number);
    CU_ADD_TEST(suite, test_cancelled_link);
    CU_basic_run_tests();
    int failures = (int)CU_get_number_of_failures();
    CU_cleanup_registry();
    return failures != 0;
}
