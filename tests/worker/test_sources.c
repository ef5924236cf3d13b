/* SPDX-License-Identifier: Apache-2.0 */
/* Weights from several sources at once. The loop is on a thread of its own, with two workers that
 * listen on it and the coordinator's answers; this thread loads. */
#include <CUnit/Basic.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "proto/log.h"
#include "tests/worker/load_rig.h"
#include "worker/fetch.h"
#include "worker/supply.h"

#define N_PEERS    2
#define SILENCE_MS 2000u /* a busy machine is not silent */

enum fault { NONE, LIES, LIES_OF_LARGE, SILENT, STOPS, LACKS, SHORT };

static struct peer {
    struct net_keypair key;
    struct net_link *link;
    struct worker_supply *supply;
    atomic_int fault; /* enum fault */
    atomic_uint n_asked;
} peers[N_PEERS];

static struct net_loop *loop;
static pthread_t loop_thread;
static struct worker_fetcher *fetcher;
static struct net_keypair own;
static uint8_t secret[PROTO_KEY_BYTES], other_secret[PROTO_KEY_BYTES];
static struct worker_weights held; /* what the peers hold */
static struct coordinator {
    atomic_int fault;
    atomic_uint n_asked;
    unsigned n_peers; /* that it names */
} coordinator;

static void free_data(void *data, void *arg)
{
    (void)arg;
    free(data);
}

/* Bytes of the model's file, with one bit another if they are to be wrong. */
static struct net_payload *chunk_of(const struct proto_fetch *f, bool wrong)
{
    const struct shard_tensor *tensor = shard_gguf_tensor(gguf, f->tensor);
    uint8_t *data = malloc(f->bytes);
    if (!data)
        abort();
    memcpy(data, tensor->data + shard_pieces_get(tensor, f->piece).offset + f->offset, f->bytes);
    data[f->bytes / 2] ^= wrong;
    return net_payload_wrap(data, f->bytes, free_data, NULL);
}

static struct proto_chunk about(const struct proto_fetch *f)
{
    return (struct proto_chunk){
        .epoch = f->epoch, .tensor = f->tensor, .piece = f->piece, .offset = f->offset};
}

static void on_fetch(void *arg, net_peer from, const uint8_t *key, struct proto_msg *msg,
                     struct net_payload **payload)
{
    struct peer *peer = arg;
    struct proto_msg answer = {.kind = PROTO_MSG_CHUNK};
    struct net_payload *bytes = NULL;
    (void)payload;
    if (msg->kind != PROTO_MSG_FETCH)
        return;
    unsigned before = atomic_fetch_add(&peer->n_asked, 1);
    int fault = atomic_load(&peer->fault);
    if (fault == NONE || (fault == STOPS && before < 3) ||
        (fault == LIES_OF_LARGE && msg->fetch.tensor != LARGE)) {
        worker_supply_fetch(peer->supply, peer->link, from, key, &msg->fetch);
        return;
    }
    if (fault == SILENT || fault == STOPS)
        return;
    answer.chunk = about(&msg->fetch);
    if (fault == LIES || fault == LIES_OF_LARGE)
        bytes = chunk_of(&msg->fetch, true);
    else if (fault == SHORT)
        bytes = net_payload_copy("x", 1);
    net_link_send(peer->link, from, &answer, &bytes, NULL);
}

static void on_bad(void *arg, net_peer from, const uint8_t *key, const struct proto_error *why)
{
    (void)arg, (void)from, (void)key;
    printf("%s\n", why->text);
    CU_FAIL("a frame makes no sense");
}

/* ---- the coordinator ---- */

static void answer_want(const struct proto_want *want)
{
    const struct shard_tensor *t = shard_gguf_tensor(gguf, want->tensor);
    size_t n = shard_pieces_count(t), bytes = n * PROTO_HASH_BYTES;
    uint8_t *hashes = malloc(bytes);
    struct proto_source sources[N_PEERS];
    for (size_t i = 0; i < n; i++) {
        struct shard_piece piece = shard_pieces_get(t, i);
        shard_hash(hashes + i * PROTO_HASH_BYTES, t->data + piece.offset, piece.bytes);
    }
    for (unsigned i = 0; i < coordinator.n_peers; i++) {
        sources[i].endpoint = (char *)net_link_endpoint(peers[i].link);
        memcpy(sources[i].key, peers[i].key.public_key, PROTO_KEY_BYTES);
    }
    struct net_payload *payload = net_payload_wrap(hashes, bytes, free_data, NULL);
    const struct proto_hashes answer = {want->epoch, want->tensor, sources, coordinator.n_peers};
    worker_fetcher_hashes(fetcher, &answer, &payload);
}

static void answer_fetch(const struct proto_fetch *fetch_)
{
    const struct proto_chunk chunk = about(fetch_);
    int fault = atomic_load(&coordinator.fault);
    atomic_fetch_add(&coordinator.n_asked, 1);
    struct net_payload *payload = fault == LACKS ? NULL : chunk_of(fetch_, fault == LIES);
    if (fault == SILENT)
        net_payload_destroy(payload);
    else
        worker_fetcher_chunk(fetcher, &chunk, &payload);
}

static void answer_question(void *arg)
{
    struct proto_msg *msg = arg;
    if (msg->kind == PROTO_MSG_WANT)
        answer_want(&msg->want);
    else
        answer_fetch(&msg->fetch);
    free(msg);
}

static enum proto_status send_question(void *arg, const struct proto_msg *msg,
                                       struct proto_error *why)
{
    (void)arg, (void)why;
    struct proto_msg *copy = malloc(sizeof *copy);
    if (!copy)
        abort();
    *copy = *msg;
    return net_loop_post(loop, answer_question, copy);
}

/* ---- life ---- */

static void *run_loop(void *arg)
{
    (void)arg;
    net_loop_run(loop);
    return NULL;
}

static int start_peer(struct peer *peer)
{
    const struct net_link_handler handler = {.on_message = on_fetch, .on_bad = on_bad, .arg = peer};
    char endpoint[96];
    snprintf(endpoint, sizeof endpoint, "ipc://@caravan-test-sources-%ld-%d", (long)getpid(),
             (int)(peer - peers));
    return net_keypair_generate(&peer->key, &error) ||
           net_link_listen(&peer->link, loop, endpoint, &peer->key, &handler, &error) ||
           worker_supply_create(&peer->supply, loop, secret, &error) ||
           worker_supply_add(peer->supply, &program, &held, &error);
}

static int start(void)
{
    struct worker_load_options options = {.pool = pool};
    memset(secret, 1, sizeof secret);
    if (open_all() || net_loop_create(&loop, &error) || net_keypair_generate(&own, &error))
        return 1;
    options.pool = pool;
    options.file = gguf;
    use_model(gguf);
    if (worker_load(&held, &program, &options, &error) || start_peer(&peers[0]) ||
        start_peer(&peers[1]))
        return 1;
    return pthread_create(&loop_thread, NULL, run_loop, NULL);
}

static int finish(void)
{
    net_loop_stop(loop);
    pthread_join(loop_thread, NULL);
    for (int i = 0; i < N_PEERS; i++) {
        worker_supply_stop(peers[i].supply);
        net_link_destroy(peers[i].link, 0);
    }
    net_loop_destroy(loop);
    for (int i = 0; i < N_PEERS; i++)
        worker_supply_destroy(peers[i].supply);
    worker_weights_finish(&held);
    return close_all();
}

/* ---- tests ---- */

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static bool closed;

static void close_fetcher(void *arg)
{
    (void)arg;
    worker_fetcher_close(fetcher);
    pthread_mutex_lock(&mutex);
    closed = true;
    pthread_cond_signal(&changed);
    pthread_mutex_unlock(&mutex);
}

/* A load with these faults; n_asked count from 0. */
static void run(int first, int second, int of_coordinator, const uint8_t *known_secret,
                enum proto_status expected)
{
    const struct worker_fetcher_options options = {.epoch = 3,
                                                   .deadline_ms = 60000,
                                                   .silence_ms = SILENCE_MS,
                                                   .send = send_question,
                                                   .loop = loop,
                                                   .own = &own,
                                                   .secret = known_secret};
    struct worker_weights loaded;
    atomic_store(&peers[0].fault, first);
    atomic_store(&peers[1].fault, second);
    atomic_store(&coordinator.fault, of_coordinator);
    for (int i = 0; i < N_PEERS; i++)
        atomic_store(&peers[i].n_asked, 0);
    atomic_store(&coordinator.n_asked, 0);
    CU_ASSERT_EQUAL_FATAL(worker_fetcher_create(&fetcher, &options, &error), PROTO_OK);
    const struct worker_fetch calls = worker_fetcher_calls(fetcher);
    const struct worker_load_options how = {.pool = pool, .fetch = &calls};
    enum proto_status status = worker_load(&loaded, &program, &how, &error);
    CU_ASSERT_EQUAL(status, expected);
    if (status != expected)
        printf("%s\n", error.text);
    if (!status)
        check_weights(&loaded, &program);
    worker_weights_finish(&loaded);
    closed = false;
    net_loop_post(loop, close_fetcher, NULL);
    pthread_mutex_lock(&mutex);
    while (!closed)
        pthread_cond_wait(&changed, &mutex);
    pthread_mutex_unlock(&mutex);
    worker_fetcher_destroy(fetcher);
}

static unsigned asked(int peer)
{
    return atomic_load(&peers[peer].n_asked);
}

/* Chunks of the whole model. */
static unsigned n_chunks(void)
{
    unsigned n = 0;
    for (uint32_t i = 0; i < N_TENSORS; i++)
        for (uint64_t p = 0; p < shard_pieces_count(shard_gguf_tensor(gguf, i)); p++) {
            uint64_t bytes = shard_pieces_get(shard_gguf_tensor(gguf, i), p).bytes;
            n += (unsigned)((bytes + PROTO_CHUNK_BYTES - 1) / PROTO_CHUNK_BYTES);
        }
    return n;
}

static void test_workers_serve(void)
{
    coordinator.n_peers = 2;
    run(NONE, NONE, NONE, secret, PROTO_OK);
    CU_ASSERT_EQUAL(asked(0) + asked(1) + atomic_load(&coordinator.n_asked), n_chunks());
    CU_ASSERT(asked(0) > 0 && asked(1) > 0);
}

static void test_coordinator_has_nothing(void)
{
    coordinator.n_peers = 2;
    run(NONE, NONE, LACKS, secret, PROTO_OK);
    CU_ASSERT(asked(0) + asked(1) >= n_chunks());
    run(LACKS, NONE, LACKS, secret, PROTO_OK);
    CU_ASSERT(asked(1) >= n_chunks());
    run(LACKS, LACKS, LACKS, secret, PROTO_NOTFOUND);
    CU_ASSERT_PTR_NOT_NULL(strstr(error.text, "neither the coordinator nor any worker"));
}

/* Who lies is found out, and asked no more. */
static void test_a_liar(void)
{
    coordinator.n_peers = 2;
    run(LIES, NONE, NONE, secret, PROTO_OK);
    CU_ASSERT(asked(0) < n_chunks());
    run(LIES, NONE, LACKS, secret, PROTO_OK);
    run(LIES, LIES, NONE, secret, PROTO_OK);
    run(LIES, LIES, LIES, secret, PROTO_CORRUPT);
    CU_ASSERT_PTR_NOT_NULL(strstr(error.text, "hash was wrong"));
    /* A piece of several sources, of which one lies. */
    run(LIES_OF_LARGE, NONE, NONE, secret, PROTO_OK);
    run(LIES_OF_LARGE, NONE, LACKS, secret, PROTO_OK);
    run(LIES_OF_LARGE, LIES_OF_LARGE, LACKS, secret, PROTO_CORRUPT);
    run(SHORT, NONE, NONE, secret, PROTO_OK);
    CU_ASSERT(asked(0) <= 8);
}

static void test_who_is_silent(void)
{
    coordinator.n_peers = 2;
    run(SILENT, NONE, NONE, secret, PROTO_OK);
    CU_ASSERT(asked(0) <= 8);
    run(STOPS, SILENT, NONE, secret, PROTO_OK);
}

/* Without the cluster's secret nobody but the coordinator answers. */
static void test_strangers_get_nothing(void)
{
    coordinator.n_peers = 2;
    run(NONE, NONE, NONE, other_secret, PROTO_OK);
    CU_ASSERT(asked(0) > 0);
    CU_ASSERT(atomic_load(&coordinator.n_asked) >= n_chunks());
}

static void test_coordinator_alone(void)
{
    coordinator.n_peers = 0;
    run(NONE, NONE, NONE, secret, PROTO_OK);
    CU_ASSERT_EQUAL(asked(0) + asked(1), 0);
    run(NONE, NONE, LIES, secret, PROTO_CORRUPT);
    run(NONE, NONE, LACKS, secret, PROTO_NOTFOUND);
}

/* The file's bytes at any place, of any length. */
static void test_bytes_of_packed_weights(void)
{
    uint8_t found[3000];
    uint32_t random = 7;
    for (int round = 0; round < 2000; round++) {
        random = random * 1664525 + 1013904223;
        uint32_t tensor = random >> 8 & 0xffff;
        tensor %= N_TENSORS;
        const struct shard_tensor *t = shard_gguf_tensor(gguf, tensor);
        uint64_t i = (random >> 3) % shard_pieces_count(t);
        struct shard_piece piece = shard_pieces_get(t, i);
        uint64_t offset = (random >> 5) % piece.bytes, n = piece.bytes - offset;
        n = n < sizeof found ? n : 1 + random % sizeof found;
        n = n < piece.bytes - offset ? n : piece.bytes - offset;
        memset(found, 0x55, sizeof found);
        CU_ASSERT(worker_supply_read(&program, &held, tensor, i, offset, (uint32_t)n, found));
        CU_ASSERT_EQUAL(memcmp(found, t->data + piece.offset + offset, n), 0);
    }
    CU_ASSERT_FALSE(worker_supply_read(&program, &held, 0, 1, 0, 1, found));
    CU_ASSERT_FALSE(worker_supply_read(&program, &held, 0, 0, 400, 1, found));
}

int main(void)
{
    proto_log_set_level(PROTO_LOG_ERROR);
    CU_initialize_registry();
    CU_pSuite suite = CU_add_suite("sources", start, finish);
    CU_add_test(suite, "bytes of packed weights", test_bytes_of_packed_weights);
    CU_add_test(suite, "workers serve", test_workers_serve);
    CU_add_test(suite, "the coordinator has nothing", test_coordinator_has_nothing);
    CU_add_test(suite, "a liar", test_a_liar);
    CU_add_test(suite, "who is silent", test_who_is_silent);
    CU_add_test(suite, "strangers get nothing", test_strangers_get_nothing);
    CU_add_test(suite, "the coordinator alone", test_coordinator_alone);
    CU_basic_run_tests();
    unsigned failures = CU_get_number_of_failures() + (CU_get_error() != CUE_SUCCESS);
    CU_cleanup_registry();
    return failures > 0;
}
