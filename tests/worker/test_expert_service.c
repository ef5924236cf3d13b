/* SPDX-License-Identifier: Apache-2.0 */
/* A stage that asks and hosts that serve, over sockets in one process: the same bits as one
 * worker's. */
#include <CUnit/Basic.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "shard/mkmodel.h"
#include "tests/worker/service_rig.h"
#include "worker/asker.h"
#include "worker/expert_server.h"
#include "worker/slice.h"

static char path[] = "/tmp/caravan-service-XXXXXX";
static struct shard_gguf *gguf;
static void *card;
static size_t card_bytes;
static struct kern_pool *pool;
static struct proto_error error;
static atomic_bool no_cancel;

static int set_up(void)
{
    static const char *const sets[] = {"layers=3", "experts=8", "used=3", "ffe=512"};
    struct shard_mkmodel_options model = {
        .preset = "qwen3moe-k", .type = "Q4_K", .seed = 3, .sets = sets, .n_sets = 4};
    char digest[65];
    close(mkstemp(path));
    service.file = path;
    if (shard_mkmodel(&model, path, digest, &error) || shard_gguf_open(&gguf, path, &error) ||
        shard_gguf_card(gguf, &card, &card_bytes, &error) || kern_pool_create(&pool, 2, &error)) {
        fprintf(stderr, "%s\n", error.text);
        return -1;
    }
    return service_set_up();
}

static int tear_down(void)
{
    kern_pool_destroy(pool);
    free(card);
    shard_gguf_close(gguf);
    unlink(path);
    return service_tear_down();
}

/* ---- loads ---- */

static struct proto_load load_of_host(uint32_t i)
{
    struct proto_load load = service_load(true);
    load.has_stage = load.embed = load.head = false;
    load.layer_end = 0;
    load.self = i;
    load.askers = &service.stage.key.public_key;
    load.n_askers = 1;
    return load;
}

static struct worker_slice *slice_of(const struct proto_load *load, struct worker_asker *asker)
{
    const struct worker_slice_options how = {.table = kern_table_get(kern_isa_best()),
                                             .compute_pool = pool,
                                             .remote = worker_asker_calls(asker),
                                             .threads = 1,
                                             .cancel = &no_cancel};
    struct worker_slice *slice;
    if (worker_slice_create(&slice, load, card, card_bytes, &how, &error) == PROTO_OK)
        return slice;
    fprintf(stderr, "%s\n", error.text);
    abort();
}

/* ---- the same bits ---- */

static enum proto_status take_logits(void *arg, const struct worker_result_row *rows,
                                     uint32_t n_rows, float *logits, size_t ld,
                                     struct proto_error *why)
{
    float *to = arg;
    (void)why;
    for (uint32_t i = 0; i < n_rows; i++)
        memcpy(to + rows[i].pos * 512, logits + i * ld, 512 * sizeof *to);
    return PROTO_OK;
}

static enum proto_status compute_rows(struct worker_slice *slice, float *x, float *logits,
                                      struct proto_error *why)
{
    static const int32_t ids[SERVICE_ROWS] = {3, 100, 257, 42, 9};
    struct proto_range range = {.n = SERVICE_ROWS, .want = PROTO_WANT_ALL};
    struct worker_batch batch = {.ranges = &range, .n_ranges = 1, .ids = ids, .x = x};
    for (uint32_t seq = 0; seq < slice->load.max_seqs; seq++)
        shard_kv_drop(slice->kv, seq);
    return worker_exec_run(slice->exec, &batch, take_logits, logits, why);
}

static float *rows_for(const struct worker_slice *slice)
{
    size_t bytes = SERVICE_ROWS * worker_exec_stride(slice->program) * sizeof(float);
    return aligned_alloc(64, (bytes + 63) / 64 * 64);
}

static enum proto_status compute(struct worker_slice *slice, float *logits)
{
    float *x = rows_for(slice);
    enum proto_status status = compute_rows(slice, x, logits, &error);
    free(x);
    return status;
}

static struct worker_expert_server *serve(uint32_t i, struct worker_slice **slice)
{
    struct worker_expert_server *server;
    struct proto_load load = load_of_host(i);
    CU_ASSERT_EQUAL_FATAL(worker_expert_server_create(&server, service.hosts[i].loop,
                                                      "tcp://127.0.0.1:0", &service.hosts[i].key,
                                                      &error),
                          PROTO_OK);
    CU_ASSERT_EQUAL_FATAL(worker_expert_server_expect(server, &load, &error), PROTO_OK);
    *slice = slice_of(&load, NULL);
    CU_ASSERT_PTR_NULL((*slice)->exec);
    CU_ASSERT_PTR_NOT_NULL_FATAL((*slice)->host);
    worker_expert_server_serve(server, load.epoch, (*slice)->host);
    service.list[i] = (struct proto_host){.endpoint = (char *)worker_expert_server_endpoint(server),
                                          .name = i ? "second" : "first"};
    memcpy(service.list[i].key, service.hosts[i].key.public_key, PROTO_KEY_BYTES);
    return server;
}

static void check_times(struct worker_asker *asker)
{
    struct proto_msg msg = {.kind = PROTO_MSG_BATCH};
    struct proto_batch *batch = &msg.batch;
    CU_ASSERT_EQUAL(worker_asker_add_times(asker, batch, &error), PROTO_OK);
    CU_ASSERT_EQUAL_FATAL(batch->n_host_times, SERVICE_HOSTS);
    uint64_t waited_ns = 0;
    for (uint32_t i = 0; i < SERVICE_HOSTS; i++) {
        const struct proto_host_time *t = &batch->host_times[i];
        CU_ASSERT_EQUAL(t->host, i);
        CU_ASSERT_EQUAL(t->requests, SERVICE_LAYERS);
        CU_ASSERT(t->bytes_out > 0 && t->bytes_in > 0 && t->compute_ns > 0);
        waited_ns += t->wait_ns;
    }
    CU_ASSERT_EQUAL(waited_ns, worker_asker_waited_ns(asker));
    /* What a stage before had of them is added to. */
    uint64_t requests = batch->host_times[1].requests;
    CU_ASSERT_EQUAL(worker_asker_add_times(asker, batch, &error), PROTO_OK);
    CU_ASSERT_EQUAL(batch->n_host_times, SERVICE_HOSTS);
    CU_ASSERT_EQUAL(batch->host_times[1].requests, 2 * requests);
    proto_msg_finish(&msg);
}

static void test_same_bits(void)
{
    static float expected[SERVICE_ROWS * 512], found[SERVICE_ROWS * 512];
    struct proto_load whole = service_load(false), split = service_load(true);
    struct worker_slice *slice = slice_of(&whole, NULL), *host_slices[SERVICE_HOSTS];
    CU_ASSERT_EQUAL(compute(slice, expected), PROTO_OK);
    worker_slice_destroy(slice);
    struct worker_expert_server *servers[SERVICE_HOSTS];
    for (uint32_t i = 0; i < SERVICE_HOSTS; i++)
        servers[i] = serve(i, &host_slices[i]);
    struct worker_asker *asker;
    CU_ASSERT_EQUAL(worker_asker_create(&asker, service.stage.loop, &service.stage.key, &error),
                    PROTO_OK);
    slice = slice_of(&split, asker);
    CU_ASSERT_PTR_NULL(slice->host);
    /* Connections may be made anew for the same slice. */
    for (int round = 0; round < 3; round++) {
        CU_ASSERT_EQUAL_FATAL(worker_asker_connect(asker, &split, 60000, &no_cancel, &error),
                              PROTO_OK);
        worker_asker_begin(asker);
        memset(found, 0, sizeof found);
        CU_ASSERT_EQUAL(compute(slice, found), PROTO_OK);
        CU_ASSERT_EQUAL(memcmp(found, expected, sizeof found), 0);
        check_times(asker);
    }
    for (uint32_t i = 0; i < SERVICE_HOSTS; i++)
        CU_ASSERT_EQUAL(worker_expert_server_steps(servers[i]), 3 * SERVICE_LAYERS);
    uint32_t counts[SERVICE_LAYERS * 8], sum = 0;
    worker_exec_usage(slice->exec, counts);
    for (unsigned i = 0; i < SERVICE_LAYERS * 8; i++)
        sum += counts[i];
    CU_ASSERT_EQUAL(sum, 3 * SERVICE_LAYERS * SERVICE_ROWS * 3);
    worker_exec_usage(slice->exec, counts);
    CU_ASSERT_EQUAL(counts[0] + counts[1] + counts[2], 0);
    /* A host without experts says so; the batch after that works again. */
    struct proto_load load = load_of_host(1);
    CU_ASSERT_EQUAL(worker_expert_server_expect(servers[1], &load, &error), PROTO_OK);
    worker_asker_begin(asker);
    CU_ASSERT_EQUAL(compute(slice, found), PROTO_NOTFOUND);
    CU_ASSERT_PTR_NOT_NULL(strstr(error.text, "\"second\", which holds experts 4-7 of layers 0-2"));
    worker_expert_server_serve(servers[1], load.epoch, host_slices[1]->host);
    worker_asker_begin(asker);
    CU_ASSERT_EQUAL(compute(slice, found), PROTO_OK);
    CU_ASSERT_EQUAL(memcmp(found, expected, sizeof found), 0);
    worker_slice_destroy(slice);
    worker_asker_destroy(asker);
    for (uint32_t i = 0; i < SERVICE_HOSTS; i++) {
        worker_expert_server_destroy(servers[i]);
        worker_slice_destroy(host_slices[i]);
    }
}

/* ---- stages that are hosts ---- */

/* A worker with layers of its own and half the experts of all layers. */
struct both {
    struct worker_expert_server *server;
    struct worker_asker *asker;
    struct worker_slice *slice;
    float *in, *out, *x; /* rows between the stages: what came, what is to come, room */
    float *logits;
    unsigned n_wrong;
};

static struct proto_load load_of_both(uint32_t i)
{
    struct proto_load load = service_load(true);
    load.n_stages = SERVICE_HOSTS;
    load.stage = load.self = i;
    load.layer_first = i;
    load.layer_end = i ? SERVICE_LAYERS : 1;
    load.embed = i == 0;
    load.head = i == 1;
    load.askers = &service.hosts[1 - i].key.public_key;
    load.n_askers = 1;
    return load;
}

static void start_both(uint32_t i, struct both *b)
{
    struct proto_load load = load_of_both(i);
    if (worker_expert_server_create(&b->server, service.hosts[i].loop, "tcp://127.0.0.1:0",
                                    &service.hosts[i].key, &error) ||
        worker_expert_server_expect(b->server, &load, &error) ||
        worker_asker_create(&b->asker, service.hosts[i].loop, &service.hosts[i].key, &error))
        abort();
    b->slice = slice_of(&load, b->asker);
    CU_ASSERT(b->slice->exec && b->slice->host);
    worker_expert_server_serve(b->server, load.epoch, b->slice->host);
    b->x = rows_for(b->slice);
    service.list[i] =
        (struct proto_host){.endpoint = (char *)worker_expert_server_endpoint(b->server),
                            .name = i ? "second" : "first"};
    memcpy(service.list[i].key, service.hosts[i].key.public_key, PROTO_KEY_BYTES);
}

static void end_both(struct both *b)
{
    worker_expert_server_destroy(b->server);
    worker_slice_destroy(b->slice);
    worker_asker_destroy(b->asker);
    free(b->x);
}

/* Computes the same rows again and again; results must be those of the first time. */
static void *compute_often(void *arg)
{
    struct both *b = arg;
    const struct shard_program *p = b->slice->program;
    struct proto_error why;
    size_t stride = worker_exec_stride(p);
    float logits[SERVICE_ROWS * 512];
    for (int i = 0; i < 20; i++) {
        if (!p->embed)
            worker_exec_unpack_rows(p, b->x, b->in, SERVICE_ROWS);
        worker_asker_begin(b->asker);
        bool ok = compute_rows(b->slice, b->x, logits, &why) == PROTO_OK;
        if (p->head)
            ok = ok && memcmp(logits, b->logits, sizeof logits) == 0;
        else
            ok = ok && memcmp(b->x, b->out, SERVICE_ROWS * stride * sizeof(float)) == 0;
        b->n_wrong += !ok;
    }
    return NULL;
}

/* Two stages that hold half of each other's experts, at work at the same time. */
static void test_stages_that_are_hosts(void)
{
    static float expected[SERVICE_ROWS * 512], found[SERVICE_ROWS * 512];
    struct proto_load whole = service_load(false);
    struct worker_slice *slice = slice_of(&whole, NULL);
    struct both both[SERVICE_HOSTS] = {{.logits = found}, {.logits = found}};
    pthread_t threads[SERVICE_HOSTS];
    CU_ASSERT_EQUAL(compute(slice, expected), PROTO_OK);
    worker_slice_destroy(slice);
    for (uint32_t i = 0; i < SERVICE_HOSTS; i++)
        start_both(i, &both[i]);
    for (uint32_t i = 0; i < SERVICE_HOSTS; i++) {
        struct proto_load load = load_of_both(i);
        CU_ASSERT_EQUAL_FATAL(worker_asker_connect(both[i].asker, &load, 60000, &no_cancel, &error),
                              PROTO_OK);
        worker_asker_begin(both[i].asker);
    }
    CU_ASSERT_EQUAL(compute_rows(both[0].slice, both[0].x, found, &error), PROTO_OK);
    size_t bytes = SERVICE_ROWS * worker_exec_stride(both[0].slice->program) * sizeof(float);
    float *between = malloc(bytes), *packed = malloc(bytes);
    memcpy(between, both[0].x, bytes);
    memcpy(packed, both[0].x, bytes);
    worker_exec_pack_rows(both[0].slice->program, packed, SERVICE_ROWS);
    worker_exec_unpack_rows(both[1].slice->program, both[1].x, packed, SERVICE_ROWS);
    CU_ASSERT_EQUAL(compute_rows(both[1].slice, both[1].x, found, &error), PROTO_OK);
    CU_ASSERT_EQUAL(memcmp(found, expected, sizeof found), 0);
    both[0].out = between;
    both[1].in = packed;
    for (uint32_t i = 0; i < SERVICE_HOSTS; i++)
        if (pthread_create(&threads[i], NULL, compute_often, &both[i]))
            abort();
    for (uint32_t i = 0; i < SERVICE_HOSTS; i++)
        pthread_join(threads[i], NULL);
    for (uint32_t i = 0; i < SERVICE_HOSTS; i++) {
        CU_ASSERT_EQUAL(both[i].n_wrong, 0);
        end_both(&both[i]);
    }
    free(between);
    free(packed);
}

/* A host answers only whom its load names. */
static void test_strangers(void)
{
    struct worker_slice *slice;
    struct worker_expert_server *server = serve(0, &slice);
    struct net_exchange_host host = {.endpoint = worker_expert_server_endpoint(server)};
    struct net_exchange *exchange;
    struct net_received none;
    memcpy(host.key, service.hosts[0].key.public_key, PROTO_KEY_BYTES);
    CU_ASSERT_EQUAL_FATAL(net_exchange_connect(&exchange, service.stranger.loop, &host, 1,
                                               &service.stranger.key, 60000, &error),
                          PROTO_OK);
    struct proto_msg msg = {.kind = PROTO_MSG_LINK, .link = {.epoch = SERVICE_EPOCH}};
    for (int sent = 0; sent < 3;) {
        sent += net_exchange_send(exchange, 0, &msg, NULL, NULL) == PROTO_OK;
        CU_ASSERT_EQUAL(net_exchange_receive(exchange, &none, net_now_ns() + 20000000, NULL),
                        PROTO_TIMEOUT);
    }
    net_exchange_destroy(exchange, 0);
    worker_expert_server_destroy(server);
    worker_slice_destroy(slice);
}

int main(void)
{
    CU_initialize_registry();
    CU_pSuite suite = CU_add_suite("service of experts", set_up, tear_down);
    CU_ADD_TEST(suite, test_same_bits);
    CU_ADD_TEST(suite, test_stages_that_are_hosts);
    CU_ADD_TEST(suite, test_strangers);
    CU_basic_run_tests();
    int failures = (int)CU_get_number_of_failures();
    CU_cleanup_registry();
    return failures != 0;
}
