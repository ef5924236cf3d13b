/* SPDX-License-Identifier: Apache-2.0 */
/* What a worker caches, asked for by those who may, by strangers, and by who asks for what is not
 * there. */
#include <CUnit/Basic.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "net/loop.h"
#include "proto/log.h"
#include "tests/shard/edited.h"
#include "worker/kv_serve.h"

#define EPOCH      7u
#define SEQS       3u
#define ROWS       100u /* of sequence 1 */
#define PAGES      4u   /* that they take */
#define ASKER      5u
#define DEADLINE_S 60

static struct proto_error error;
static struct shard_gguf *gguf;
static struct shard_model *model;
static struct shard_program *program;
static struct worker_slice slice, other; /* nothing of them but caches is there */
static struct worker_compute *compute;
static struct worker_kv_serve *serve;
static uint8_t secret[PROTO_KEY_BYTES];
static uint32_t paged, recurrent; /* layers */

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
/* Under the mutex. */
static struct worker_output *answers[WORKER_KV_QUESTIONS + 1];
static unsigned n_answers;
static bool go_on;

/* ---- what is there ---- */

/* On the computing thread. */
static void deliver(void *arg, struct worker_output *output)
{
    (void)arg;
    pthread_mutex_lock(&mutex);
    CU_ASSERT_FATAL(n_answers < sizeof answers / sizeof *answers);
    answers[n_answers++] = output;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&mutex);
}

static void wait_for(const unsigned *counter, unsigned n)
{
    struct timespec until;
    int rc = 0;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += DEADLINE_S;
    pthread_mutex_lock(&mutex);
    while (*counter < n && rc == 0)
        rc = pthread_cond_timedwait(&changed, &mutex, &until);
    pthread_mutex_unlock(&mutex);
    CU_ASSERT_FATAL(rc == 0);
}

static void forget_answers(void)
{
    for (unsigned i = 0; i < n_answers; i++)
        worker_output_destroy(answers[i]);
    n_answers = 0;
}

/* Stands in for an executor: the first number of each row is its position. */
static void compute_rows(struct shard_kv *kv, uint32_t seq, uint32_t n)
{
    if (shard_kv_reserve(kv, seq, 0, n, &error))
        abort();
    for (uint32_t layer = 0; layer < model->n_layers; layer++) {
        if (shard_kv_state_bytes(kv, layer))
            *shard_kv_state(kv, seq, layer) = (float)(layer + n);
        for (uint32_t page = 0; shard_kv_page_bytes(kv, layer) && page * 32 < n; page++)
            *(float *)shard_kv_view(kv, seq, layer).pages[page] = (float)(1000 * layer + page);
    }
    shard_kv_trim(kv, seq, n);
}

static void make_cache(struct worker_slice *of)
{
    const struct shard_kv_options options = {.max_seqs = SEQS, .ctx = 4096};
    *of = (struct worker_slice){0};
    if (shard_kv_create(&of->kv, program, &options, &error))
        abort();
}

static int set_up(void)
{
    const struct worker_compute_options options = {
        .table = kern_table_get(kern_isa_best()), .threads = 1, .deliver = deliver};
    memset(secret, 5, sizeof secret);
    gguf = preset_open("qwen35moe-tiny", "F32", false);
    if (shard_model_create(&model, gguf, &error) ||
        shard_program_create(&program, model, 0, model->n_layers, false, false, &error) ||
        worker_compute_create(&compute, &options, &error) ||
        worker_kv_serve_create(&serve, secret, compute, &error))
        return -1;
    make_cache(&slice);
    make_cache(&other);
    compute_rows(slice.kv, 1, ROWS);
    for (uint32_t layer = 0; layer < model->n_layers; layer++)
        *(shard_kv_page_bytes(slice.kv, layer) ? &paged : &recurrent) = layer;
    return shard_kv_page_bytes(slice.kv, paged) && shard_kv_state_bytes(slice.kv, recurrent) ? 0
                                                                                             : -1;
}

static int tear_down(void)
{
    worker_compute_destroy(compute);
    worker_kv_serve_destroy(serve);
    forget_answers();
    shard_kv_destroy(slice.kv);
    shard_kv_destroy(other.kv);
    shard_program_destroy(program);
    shard_model_destroy(model);
    shard_gguf_close(gguf);
    return 0;
}

/* ---- questions ---- */

/* The answer, until the next question. */
static const struct worker_output *ask(const struct proto_msg *question, struct worker_slice *first,
                                       struct worker_slice *second)
{
    forget_answers();
    worker_kv_serve_answer(serve, ASKER, question, first, second);
    wait_for(&n_answers, 1);
    CU_ASSERT_EQUAL(answers[0]->to, ASKER);
    return answers[0];
}

static struct proto_kv_fetch pages(uint64_t page, uint32_t n)
{
    return (struct proto_kv_fetch){.epoch = EPOCH,
                                   .seq = 1,
                                   .version = shard_kv_version(slice.kv, 1),
                                   .layer = paged,
                                   .page = page,
                                   .n = n,
                                   .bytes = n * shard_kv_page_bytes(slice.kv, paged)};
}

static struct proto_kv_fetch state(void)
{
    struct proto_kv_fetch fetch = pages(0, 0);
    fetch.layer = recurrent;
    fetch.bytes = shard_kv_state_bytes(slice.kv, recurrent);
    return fetch;
}

/* What is answered, whether or not it is there, says what was asked for. */
static const struct net_payload *fetch_from(const struct proto_kv_fetch *fetch,
                                            struct worker_slice *first, struct worker_slice *second)
{
    const struct proto_msg question = {.kind = PROTO_MSG_KV_FETCH, .kv_fetch = *fetch};
    const struct worker_output *answer = ask(&question, first, second);
    const struct proto_kv_chunk *chunk = &answer->msg.kv_chunk;
    CU_ASSERT_EQUAL_FATAL(answer->msg.kind, PROTO_MSG_KV_CHUNK);
    CU_ASSERT(chunk->epoch == fetch->epoch && chunk->seq == fetch->seq &&
              chunk->version == fetch->version && chunk->layer == fetch->layer &&
              chunk->page == fetch->page && chunk->n == fetch->n);
    return answer->payload;
}

static const struct net_payload *fetch(struct proto_kv_fetch f)
{
    return fetch_from(&f, &slice, NULL);
}

static float first_of(const struct net_payload *payload, size_t page_bytes, uint32_t page)
{
    float value;
    memcpy(&value, (const char *)net_payload_data(payload) + page * page_bytes, sizeof value);
    return value;
}

static void test_list(void)
{
    const struct proto_msg question = {.kind = PROTO_MSG_KV_ASK, .kv_ask.epoch = EPOCH};
    const struct worker_output *answer = ask(&question, &slice, NULL);
    CU_ASSERT_EQUAL(answer->msg.kind, PROTO_MSG_KV_HELD);
    CU_ASSERT_EQUAL(answer->msg.kv_held.epoch, EPOCH);
    CU_ASSERT_EQUAL_FATAL(answer->msg.kv_held.n_seqs, 1);
    const struct proto_kv_seq *seq = &answer->msg.kv_held.seqs[0];
    CU_ASSERT(seq->seq == 1 && seq->end == ROWS && seq->version == shard_kv_version(slice.kv, 1));
}

static void test_chunks(void)
{
    size_t bytes = shard_kv_page_bytes(slice.kv, paged);
    const struct net_payload *found = fetch(pages(1, 3));
    CU_ASSERT_PTR_NOT_NULL_FATAL(found);
    CU_ASSERT_EQUAL_FATAL(net_payload_len(found), 3 * bytes);
    for (uint32_t i = 0; i < 3; i++)
        CU_ASSERT_EQUAL(first_of(found, bytes, i), (float)(1000 * paged + 1 + i));
    found = fetch(state());
    CU_ASSERT_PTR_NOT_NULL_FATAL(found);
    CU_ASSERT_EQUAL(net_payload_len(found), shard_kv_state_bytes(slice.kv, recurrent));
    CU_ASSERT_EQUAL(first_of(found, 0, 0), (float)(recurrent + ROWS));
}

/* What one slice has no more the other took over. */
static void test_two_slices(void)
{
    struct proto_kv_fetch f = pages(0, 1);
    CU_ASSERT_PTR_NULL(fetch_from(&f, &other, NULL));
    CU_ASSERT_PTR_NOT_NULL(fetch_from(&f, &slice, &other));
    CU_ASSERT_PTR_NOT_NULL(fetch_from(&f, &other, &slice));
}

/* Of an epoch that is not known here there is nothing. */
static void test_no_slice(void)
{
    const struct proto_msg question = {.kind = PROTO_MSG_KV_ASK, .kv_ask.epoch = EPOCH + 1};
    struct proto_kv_fetch f = pages(0, 1);
    struct worker_slice host = {0}; /* it caches nothing */
    CU_ASSERT_EQUAL(ask(&question, NULL, NULL)->msg.kv_held.n_seqs, 0);
    CU_ASSERT_EQUAL(ask(&question, &host, NULL)->msg.kv_held.n_seqs, 0);
    CU_ASSERT_PTR_NULL(fetch_from(&f, NULL, NULL));
    CU_ASSERT_PTR_NULL(fetch_from(&f, &host, NULL));
}

/* ---- what nobody who means well asks for ---- */

static void test_pages_that_are_not_there(void)
{
    static const struct {
        uint64_t page;
        uint32_t n;
    } ranges[] = {{PAGES, 1},      {PAGES - 1, 2},  {0, PAGES + 1},       {UINT64_MAX, 1},
                  {UINT64_MAX, 2}, {1ull << 63, 1}, {UINT64_MAX - 3, 4},  {UINT32_MAX, 1},
                  {1, UINT32_MAX}, {0, UINT32_MAX}, {UINT64_MAX / 32, 32}};
    CU_ASSERT_PTR_NOT_NULL(fetch(pages(0, PAGES)));
    for (size_t i = 0; i < sizeof ranges / sizeof *ranges; i++)
        CU_ASSERT_PTR_NULL(fetch(pages(ranges[i].page, ranges[i].n)));
}

static void test_places_that_are_not_there(void)
{
    static const uint32_t numbers[] = {SEQS, UINT32_MAX, 1u << 31};
    const uint32_t layers[] = {model->n_layers, UINT32_MAX, 1u << 31};
    struct proto_kv_fetch f;
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        for (int states = 0; states < 2; states++) {
            f = states ? state() : pages(0, 1);
            f.seq = numbers[i];
            CU_ASSERT_PTR_NULL(fetch(f));
            f.version = 0; /* that of what is not there */
            CU_ASSERT_PTR_NULL(fetch(f));
            f = states ? state() : pages(0, 1);
            f.layer = layers[i];
            CU_ASSERT_PTR_NULL(fetch(f));
            f.bytes = 0; /* likewise */
            CU_ASSERT_PTR_NULL(fetch(f));
        }
    }
}

/* One that has not begun, and another one than was listed. */
static void test_sequences_that_are_not_there(void)
{
    for (int states = 0; states < 2; states++) {
        struct proto_kv_fetch f = states ? state() : pages(0, 1);
        f.seq = 0;
        f.version = shard_kv_version(slice.kv, 0);
        CU_ASSERT_PTR_NULL(fetch(f));
        f = states ? state() : pages(0, 1);
        f.version++;
        CU_ASSERT_PTR_NULL(fetch(f));
        f.version = UINT64_MAX;
        CU_ASSERT_PTR_NULL(fetch(f));
    }
}

/* Nobody has memory taken for more, or less, than what is sent. */
static void test_wrong_sizes(void)
{
    uint64_t page = shard_kv_page_bytes(slice.kv, paged);
    const uint64_t sizes[] = {0, 1, page - 1, page + 1, 2 * page, UINT64_MAX, 1ull << 63};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        struct proto_kv_fetch f = pages(0, 1);
        f.bytes = sizes[i];
        CU_ASSERT_PTR_NULL(fetch(f));
        f = state();
        f.bytes = sizes[i];
        CU_ASSERT(sizes[i] == shard_kv_state_bytes(slice.kv, recurrent) || !fetch(f));
    }
    /* The one kind of layer asked for what the other has. */
    struct proto_kv_fetch f = pages(0, 1);
    f.layer = recurrent;
    CU_ASSERT_PTR_NULL(fetch(f));
    f = state();
    f.layer = paged;
    CU_ASSERT_PTR_NULL(fetch(f));
}

/* Pages that are there, but more than belong into one answer. */
static void test_too_much_at_once(void)
{
    uint32_t n = (uint32_t)(WORKER_KV_CHUNK_BYTES / shard_kv_page_bytes(slice.kv, paged));
    struct proto_kv_fetch f = pages(0, n);
    compute_rows(slice.kv, 2, (n + 1) * 32);
    f.seq = 2;
    f.version = shard_kv_version(slice.kv, 2);
    CU_ASSERT_PTR_NOT_NULL(fetch(f));
    f.n++;
    f.bytes += shard_kv_page_bytes(slice.kv, paged);
    CU_ASSERT_PTR_NULL(fetch(f));
    shard_kv_drop(slice.kv, 2);
}

/* ---- too many, and strangers ---- */

static void hold_up(struct worker_call *call, bool dropped)
{
    (void)call, (void)dropped;
    pthread_mutex_lock(&mutex);
    while (!go_on)
        pthread_cond_wait(&changed, &mutex);
    pthread_mutex_unlock(&mutex);
}

static void test_flood(void)
{
    struct worker_call call = {.fn = hold_up};
    const struct proto_msg question = {.kind = PROTO_MSG_KV_ASK, .kv_ask.epoch = EPOCH};
    forget_answers();
    go_on = false;
    CU_ASSERT_EQUAL_FATAL(worker_compute_call(compute, &call, &error), PROTO_OK);
    for (unsigned i = 0; i < 3 * WORKER_KV_QUESTIONS; i++)
        worker_kv_serve_answer(serve, ASKER, &question, &slice, NULL);
    pthread_mutex_lock(&mutex);
    go_on = true;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&mutex);
    wait_for(&n_answers, WORKER_KV_QUESTIONS);
    /* It comes after all of them, and finds nobody before it. */
    worker_kv_serve_answer(serve, ASKER + 1, &question, &slice, NULL);
    wait_for(&n_answers, WORKER_KV_QUESTIONS + 1);
    CU_ASSERT_EQUAL(answers[WORKER_KV_QUESTIONS]->to, ASKER + 1);
}

static void test_strangers(void)
{
    const struct net_link_handler handler = {0};
    struct net_keypair key, member;
    struct net_loop *loop;
    struct net_link *link;
    char endpoint[64];
    snprintf(endpoint, sizeof endpoint, "ipc://@caravan-test-kv-serve-%ld", (long)getpid());
    CU_ASSERT_EQUAL_FATAL(net_loop_create(&loop, &error), PROTO_OK);
    CU_ASSERT_EQUAL_FATAL(net_keypair_generate(&key, &error), PROTO_OK);
    CU_ASSERT_EQUAL_FATAL(net_keypair_generate(&member, &error), PROTO_OK);
    CU_ASSERT_EQUAL_FATAL(net_link_listen(&link, loop, endpoint, &key, &handler, &error), PROTO_OK);
    for (int fetching = 0; fetching < 2; fetching++) {
        struct proto_msg msg = {.kind = fetching ? PROTO_MSG_KV_FETCH : PROTO_MSG_KV_ASK};
        uint8_t *proof = fetching ? msg.kv_fetch.proof : msg.kv_ask.proof;
        CU_ASSERT_FALSE(worker_kv_serve_admit(serve, link, 1, member.public_key, &msg));
        net_proof_make(proof, secret, member.public_key);
        CU_ASSERT_TRUE(worker_kv_serve_admit(serve, link, 2, member.public_key, &msg));
        /* Another's proof, heard of somewhere. */
        CU_ASSERT_FALSE(worker_kv_serve_admit(serve, link, 3, key.public_key, &msg));
    }
    net_link_destroy(link, 0);
    net_loop_destroy(loop);
}

int main(void)
{
    proto_log_set_level(PROTO_LOG_ERROR);
    CU_initialize_registry();
    CU_pSuite suite = CU_add_suite("kv serve", set_up, tear_down);
    CU_add_test(suite, "list", test_list);
    CU_add_test(suite, "chunks", test_chunks);
    CU_add_test(suite, "two slices", test_two_slices);
    CU_add_test(suite, "no slice", test_no_slice);
    CU_add_test(suite, "pages that are not there", test_pages_that_are_not_there);
    CU_add_test(suite, "places that are not there", test_places_that_are_not_there);
    CU_add_test(suite, "sequences that are not there", test_sequences_that_are_not_there);
    CU_add_test(suite, "wrong sizes", test_wrong_sizes);
    CU_add_test(suite, "too much at once", test_too_much_at_once);
    CU_add_test(suite, "flood", test_flood);
    CU_add_test(suite, "strangers", test_strangers);
    CU_basic_set_mode(CU_BRM_VERBOSE);
    CU_basic_run_tests();
    unsigned failures = CU_get_number_of_failures() + CU_get_number_of_suites_failed();
    CU_cleanup_registry();
    return failures > 0;
}
