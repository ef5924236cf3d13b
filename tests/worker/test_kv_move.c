/* SPDX-License-Identifier: Apache-2.0 */
/* A cache that is fetched from workers which answer as they should, or not: all on one loop. */
#include <CUnit/Basic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "net/loop.h"
#include "proto/log.h"
#include "tests/shard/edited.h"
#include "worker/kv_move.h"
#include "worker/kv_serve.h"

#define N_HOLDERS  2
#define EPOCH      7u
#define SEQS       3u
#define DEADLINE_S 60u

enum fault { NONE, SHORT, UNASKED, LACKS, GONE, SILENT };

/* A worker that holds layers in the plan in force. */
static struct holder {
    struct net_keypair key;
    struct net_link *link;
    struct shard_program *program;
    struct shard_kv *kv;
    enum fault fault; /* of what is asked for from fault_from on */
    unsigned fault_from, n_asked, n_lists;
} holders[N_HOLDERS];

static struct net_loop *loop;
static struct net_keypair own;
static uint8_t secret[PROTO_KEY_BYTES];
static struct shard_gguf *gguf;
static struct shard_model *model;
static struct shard_program *program; /* all layers: those of both holders */
static struct shard_kv *kv;
static struct worker_kv_move *move;
static struct proto_holder places[N_HOLDERS];
static struct proto_load load;
static struct proto_error error;
static bool is_ready, is_over;
static bool time_stands; /* for the move: it notices nobody's silence */
static uint64_t started_ns;
static void (*when_ready)(void); /* before the move is to be finished */
static struct proto_held held[SEQS];

/* ---- what holders have ---- */

static float value_of(uint32_t layer, uint32_t seq, uint64_t pos)
{
    return (float)(layer * 1000000 + seq * 100000 + pos);
}

/* Stands in for an executor. */
static void compute(struct shard_kv *of, uint32_t seq, uint64_t pos, uint32_t n)
{
    uint32_t first, n_layers;
    CU_ASSERT_EQUAL_FATAL(shard_kv_reserve(of, seq, pos, n, &error), PROTO_OK);
    shard_kv_layers(of, &first, &n_layers);
    for (uint32_t layer = first; layer < first + n_layers; layer++) {
        if (shard_kv_state_bytes(of, layer))
            *shard_kv_state(of, seq, layer) = value_of(layer, seq, pos + n);
        for (uint64_t p = pos; p < pos + n && shard_kv_page_bytes(of, layer); p++)
            *(float *)shard_kv_view(of, seq, layer).pages[p / SHARD_KV_PAGE_ROWS] =
                value_of(layer, seq, p);
    }
    shard_kv_trim(of, seq, pos + n);
}

static void compute_all(uint32_t seq, uint64_t pos, uint32_t n)
{
    for (int i = 0; i < N_HOLDERS; i++)
        compute(holders[i].kv, seq, pos, n);
}

/* Whether the cache has positions of a sequence up to `end` as holders computed them. */
static bool is_right(uint32_t seq, uint64_t end)
{
    if (!shard_kv_take(kv, NULL, seq, end))
        return false;
    for (uint32_t layer = 0; layer < model->n_layers; layer++) {
        struct shard_kv_view view = shard_kv_view(kv, seq, layer);
        if (shard_kv_state_bytes(kv, layer) &&
            *shard_kv_state(kv, seq, layer) != value_of(layer, seq, end))
            return false;
        for (uint64_t page = 0; shard_kv_page_bytes(kv, layer) && page * 32 < end; page++) {
            uint64_t last = (page + 1) * 32 < end ? (page + 1) * 32 - 1 : end - 1;
            if (*(const float *)view.pages[page] != value_of(layer, seq, last))
                return false;
        }
    }
    return true;
}

/* ---- how they answer ---- */

static void free_data(void *data, void *arg)
{
    (void)arg;
    free(data);
}

static void answer_list(struct holder *h, net_peer from, const struct proto_kv_ask *ask)
{
    struct proto_kv_seq seqs[SEQS];
    struct proto_msg msg = {.kind = PROTO_MSG_KV_HELD,
                            .kv_held = {.epoch = ask->epoch, .seqs = seqs}};
    h->n_lists++;
    for (uint32_t seq = 0; seq < SEQS; seq++)
        if (shard_kv_end(h->kv, seq))
            seqs[msg.kv_held.n_seqs++] =
                (struct proto_kv_seq){seq, shard_kv_version(h->kv, seq), shard_kv_end(h->kv, seq)};
    net_link_send(h->link, from, &msg, NULL, NULL);
}

static void answer_fetch(struct holder *h, net_peer from, const struct proto_kv_fetch *f)
{
    enum fault fault = h->n_asked++ >= h->fault_from ? h->fault : NONE;
    if (fault == GONE) {
        net_link_destroy(h->link, 0);
        h->link = NULL;
        return;
    }
    struct proto_msg msg = {.kind = PROTO_MSG_KV_CHUNK,
                            .kv_chunk = {f->epoch, f->seq, f->version, f->layer, f->page, f->n}};
    struct net_payload *payload = NULL;
    char *data = malloc(f->bytes);
    bool there = shard_kv_version(h->kv, f->seq) == f->version &&
                 (f->n ? shard_kv_read_pages(h->kv, f->seq, f->layer, f->page, f->n, data)
                       : shard_kv_read_state(h->kv, f->seq, f->layer, data));
    msg.kv_chunk.page += fault == UNASKED;
    if (fault == SILENT || fault == LACKS || !there)
        free(data);
    else
        payload = net_payload_wrap(data, f->bytes - (fault == SHORT), free_data, NULL);
    if (fault != SILENT)
        net_link_send(h->link, from, &msg, &payload, NULL);
}

static void on_question(void *arg, net_peer from, const uint8_t *key, struct proto_msg *msg,
                        struct net_payload **payload)
{
    struct holder *h = arg;
    const uint8_t *proof = msg->kind == PROTO_MSG_KV_ASK ? msg->kv_ask.proof : msg->kv_fetch.proof;
    (void)payload;
    CU_ASSERT(net_proof_ok(proof, secret, key));
    if (msg->kind == PROTO_MSG_KV_ASK)
        answer_list(h, from, &msg->kv_ask);
    else
        answer_fetch(h, from, &msg->kv_fetch);
}

static void on_bad(void *arg, net_peer from, const uint8_t *key, const struct proto_error *why)
{
    (void)arg, (void)from, (void)key;
    printf("%s\n", why->text);
    CU_FAIL("a frame makes no sense");
}

/* ---- a move ---- */

static void start(const char *preset, uint32_t at)
{
    CU_ASSERT_EQUAL_FATAL(net_loop_create(&loop, &error), PROTO_OK);
    gguf = preset_open(preset, "F32", false);
    CU_ASSERT_EQUAL_FATAL(shard_model_create(&model, gguf, &error), PROTO_OK);
    const struct shard_kv_options options = {.max_seqs = SEQS, .ctx = 4096};
    for (uint32_t i = 0; i < N_HOLDERS; i++) {
        struct holder *h = &holders[i];
        const struct net_link_handler handler = {
            .on_message = on_question, .on_bad = on_bad, .arg = h};
        char endpoint[64];
        *h = (struct holder){0};
        places[i] =
            (struct proto_holder){.layer_first = i ? at : 0, .layer_end = i ? model->n_layers : at};
        snprintf(endpoint, sizeof endpoint, "ipc://@caravan-test-kv-%ld-%u", (long)getpid(), i);
        CU_ASSERT_EQUAL_FATAL(net_keypair_generate(&h->key, &error), PROTO_OK);
        CU_ASSERT_EQUAL_FATAL(net_link_listen(&h->link, loop, endpoint, &h->key, &handler, &error),
                              PROTO_OK);
        CU_ASSERT_EQUAL_FATAL(shard_program_create(&h->program, model, places[i].layer_first,
                                                   places[i].layer_end, false, false, &error),
                              PROTO_OK);
        CU_ASSERT_EQUAL_FATAL(shard_kv_create(&h->kv, h->program, &options, &error), PROTO_OK);
        places[i].endpoint = (char *)net_link_endpoint(h->link);
        memcpy(places[i].key, h->key.public_key, PROTO_KEY_BYTES);
    }
    CU_ASSERT_EQUAL_FATAL(
        shard_program_create(&program, model, 0, model->n_layers, false, false, &error), PROTO_OK);
    CU_ASSERT_EQUAL_FATAL(shard_kv_create(&kv, program, &options, &error), PROTO_OK);
    load = (struct proto_load){
        .epoch = EPOCH + 1, .from = EPOCH, .holders = places, .n_holders = N_HOLDERS};
    when_ready = NULL;
    time_stands = false;
    memset(held, 0, sizeof held);
}

static void finish(void)
{
    worker_kv_move_destroy(move);
    move = NULL;
    shard_kv_destroy(kv);
    shard_program_destroy(program);
    for (int i = 0; i < N_HOLDERS; i++) {
        net_link_destroy(holders[i].link, 0);
        shard_kv_destroy(holders[i].kv);
        shard_program_destroy(holders[i].program);
    }
    shard_model_destroy(model);
    shard_gguf_close(gguf);
    net_loop_destroy(loop);
}

static void on_ready(void *arg)
{
    (void)arg;
    CU_ASSERT(!is_ready);
    is_ready = true;
}

static void on_over(void *arg)
{
    (void)arg;
    CU_ASSERT(!is_over);
    is_over = true;
}

static void on_tick(void *arg)
{
    bool *finishing = arg;
    uint64_t now_ns = net_now_ns();
    if (is_ready && !*finishing) {
        *finishing = true;
        if (when_ready)
            when_ready();
        worker_kv_move_finish(move, held, SEQS);
    } else {
        worker_kv_move_tick(move, time_stands ? started_ns : now_ns);
    }
    if (is_over || now_ns > started_ns + DEADLINE_S * 1000000000ull)
        net_loop_stop(loop);
}

/* Moves what the holders have; sequences go on at `ends`. */
static void run(const uint64_t ends[SEQS])
{
    const struct worker_kv_move_options options = {.loop = loop,
                                                   .own = &own,
                                                   .secret = secret,
                                                   .load = &load,
                                                   .kv = kv,
                                                   .ready = on_ready,
                                                   .over = on_over};
    struct net_timer *timer;
    bool finishing = false;
    is_ready = is_over = false;
    started_ns = net_now_ns();
    for (uint32_t seq = 0; seq < SEQS; seq++)
        held[seq] = (struct proto_held){.seq = seq, .pos = ends[seq]};
    CU_ASSERT_EQUAL_FATAL(worker_kv_move_create(&move, &options, &error), PROTO_OK);
    CU_ASSERT_PTR_NOT_NULL_FATAL(move);
    CU_ASSERT_EQUAL_FATAL(net_timer_create(&timer, loop, 5, on_tick, &finishing, &error), PROTO_OK);
    net_loop_run(loop);
    net_timer_destroy(timer);
    CU_ASSERT_FATAL(is_ready && is_over && worker_kv_move_is_over(move));
}

static void compute_more(void)
{
    compute_all(0, 300, 45);
    compute_all(2, 0, 10);
}

/* What is added after the last round, a sequence that begins then, one that is over. */
static void test_moves(void)
{
    start("llama4-scout-tiny", 2);
    compute_all(0, 0, 300);
    compute_all(1, 0, 77);
    when_ready = compute_more;
    run((uint64_t[]){345, 0, 10});
    const uint64_t *ends = worker_kv_move_ends(move);
    CU_ASSERT(ends[0] == 345 && ends[1] == 0 && ends[2] == 10);
    CU_ASSERT_EQUAL(worker_kv_move_positions(move), 355);
    CU_ASSERT(worker_kv_move_bytes(move) >= 11 * 5 * shard_kv_page_bytes(kv, 0));
    CU_ASSERT(is_right(0, 345) && is_right(2, 10));
    CU_ASSERT(!shard_kv_take(kv, NULL, 1, ends[1]));
    finish();
}

static void test_states(void)
{
    start("qwen35moe-tiny", 2);
    compute_all(0, 0, 300);
    compute_all(1, 0, 50);
    when_ready = compute_more;
    run((uint64_t[]){345, 49, 10}); /* there is no state of position 49 */
    const uint64_t *ends = worker_kv_move_ends(move);
    CU_ASSERT(ends[0] == 345 && ends[1] == 0 && ends[2] == 10);
    CU_ASSERT(is_right(0, 345) && is_right(2, 10));
    finish();
}

/* Layers that are here already are not asked for. */
static void test_here(void)
{
    start("llama4-scout-tiny", 2);
    struct worker_kv_move_options options = {
        .loop = loop, .own = &own, .secret = secret, .load = &load, .kv = kv, .here = kv};
    CU_ASSERT_EQUAL(worker_kv_move_create(&move, &options, &error), PROTO_OK);
    CU_ASSERT_PTR_NULL(move);
    load.n_holders = 0;
    options.here = NULL;
    CU_ASSERT_EQUAL(worker_kv_move_create(&move, &options, &error), PROTO_OK);
    CU_ASSERT_PTR_NULL(move);
    finish();
}

static void cut_back(void)
{
    compute_all(0, 100, 3);
}

static void begin_anew(void)
{
    for (int i = 0; i < N_HOLDERS; i++)
        shard_kv_drop(holders[i].kv, 0);
    compute_all(0, 0, 400);
}

/* The slot is another sequence's with one holder only: such a sequence is not there. */
static void lose_one(void)
{
    shard_kv_drop(holders[1].kv, 0);
}

/* What was copied ahead is of a sequence that is cut back, or over, in the end. */
static void test_changes(void)
{
    static const struct {
        void (*change)(void);
        uint64_t end, moved;
    } cases[] = {{cut_back, 103, 103}, {begin_anew, 400, 400}, {lose_one, 300, 0}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        start("llama4-scout-tiny", 2);
        compute_all(0, 0, 300);
        when_ready = cases[i].change;
        run((uint64_t[]){cases[i].end, 0, 0});
        CU_ASSERT_EQUAL(worker_kv_move_ends(move)[0], cases[i].moved);
        CU_ASSERT(!cases[i].moved || is_right(0, cases[i].moved));
        finish();
    }
}

static void set_fault(enum fault fault, unsigned from)
{
    holders[1].fault = fault;
    holders[1].fault_from = holders[1].n_asked + from;
}

static void be_silent(void)
{
    set_fault(SILENT, 0);
}

static void lack(void)
{
    set_fault(LACKS, 0);
}

static void go(void)
{
    set_fault(GONE, 0);
}

/* A holder that sends nonsense, lacks what it said to have, or ends: nothing counts, and nothing
 * waits. */
static void test_faults(void)
{
    for (enum fault fault = SHORT; fault <= GONE; fault++) {
        start("llama4-scout-tiny", 2);
        time_stands = fault == GONE;
        compute_all(0, 0, 300);
        set_fault(fault, 2);
        run((uint64_t[]){300, 0, 0});
        CU_ASSERT_EQUAL(worker_kv_move_ends(move)[0], 0);
        CU_ASSERT_EQUAL(worker_kv_move_positions(move), 0);
        finish();
    }
}

/* In the end, which is waited for. */
static void test_faults_in_the_end(void)
{
    void (*const faults[])(void) = {be_silent, lack, go};
    for (int i = 0; i < 3; i++) {
        start("llama4-scout-tiny", 2);
        time_stands = faults[i] == go;
        compute_all(0, 0, 300);
        when_ready = faults[i];
        run((uint64_t[]){300, 0, 0});
        CU_ASSERT_EQUAL(worker_kv_move_ends(move)[0], 0);
        finish();
    }
}

static void give_up(void)
{
    worker_kv_move_give_up(move, "it is a test");
}

static void test_given_up(void)
{
    start("llama4-scout-tiny", 2);
    compute_all(0, 0, 300);
    when_ready = give_up;
    run((uint64_t[]){300, 0, 0});
    CU_ASSERT_EQUAL(worker_kv_move_ends(move)[0], 0);
    CU_ASSERT_EQUAL(shard_kv_used(kv), 0);
    finish();
}

int main(void)
{
    proto_log_set_level(PROTO_LOG_ERROR);
    if (net_keypair_generate(&own, &error) != PROTO_OK)
        return 1;
    memset(secret, 5, sizeof secret);
    CU_initialize_registry();
    CU_pSuite suite = CU_add_suite("kv move", NULL, NULL);
    CU_add_test(suite, "moves", test_moves);
    CU_add_test(suite, "states", test_states);
    CU_add_test(suite, "layers that are here", test_here);
    CU_add_test(suite, "changes", test_changes);
    CU_add_test(suite, "faults", test_faults);
    CU_add_test(suite, "faults in the end", test_faults_in_the_end);
    CU_add_test(suite, "given up", test_given_up);
    CU_basic_set_mode(CU_BRM_VERBOSE);
    CU_basic_run_tests();
    int failures = (int)CU_get_number_of_failures();
    CU_cleanup_registry();
    return failures != 0;
}
