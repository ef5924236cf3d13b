/* SPDX-License-Identifier: Apache-2.0 */
/* What the engine does with results and statistics that are not as they should be. */
#include <CUnit/Basic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine_rig.h"

static void test_good_answers(void)
{
    rig_start_ready(rig_answer_well);
    rig_check_generates();
    rig_finish();
}

/* The request fails and the worker is given up, with a text that has these words. */
static void check_given_up(void (*on_batch)(struct puppet *puppet, const struct proto_batch *batch),
                           const char *word)
{
    rig_start_ready(on_batch);
    struct coord_event end = rig_generate(4, NULL);
    CU_ASSERT_EQUAL(end.kind, COORD_EVENT_FAILED);
    CU_ASSERT_EQUAL(end.error.status, PROTO_LOST);
    CU_ASSERT_PTR_NOT_NULL(strstr(end.error.text, "\"puppet\""));
    CU_ASSERT_PTR_NOT_NULL(strstr(end.error.text, word));
    rig_finish();
}

static void answer_other_vocabulary(struct puppet *p, const struct proto_batch *batch)
{
    struct rig_answer answer;
    rig_make_answer(&answer, batch);
    answer.msg.result.n_vocab = 511;
    rig_send_answer(p, &answer);
}

static void test_other_vocabulary(void)
{
    check_given_up(answer_other_vocabulary, "vocabulary");
}

static void answer_short(struct puppet *p, const struct proto_batch *batch)
{
    struct rig_answer answer;
    rig_make_answer(&answer, batch);
    answer.len--;
    rig_send_answer(p, &answer);
}

static void test_short_payload(void)
{
    check_given_up(answer_short, "bytes");
}

static void answer_without_rows(struct puppet *p, const struct proto_batch *batch)
{
    struct rig_answer answer;
    rig_make_answer(&answer, batch);
    answer.msg.result.n_rows = 0;
    answer.len = 0;
    rig_send_answer(p, &answer);
}

/* Nobody waits for ever for a row that will not come. */
static void test_missing_rows(void)
{
    check_given_up(answer_without_rows, "left out");
}

static void answer_other_row(struct puppet *p, const struct proto_batch *batch)
{
    struct rig_answer answer;
    rig_make_answer(&answer, batch);
    answer.row.pos++;
    rig_send_answer(p, &answer);
}

static void test_row_that_nobody_wants(void)
{
    check_given_up(answer_other_row, "left out");
}

static void answer_strange_token(struct puppet *p, const struct proto_batch *batch)
{
    struct rig_answer answer;
    rig_make_answer(&answer, batch);
    answer.candidate.id = 512;
    rig_send_answer(p, &answer);
}

static void test_token_out_of_range(void)
{
    rig_start_ready(answer_strange_token);
    struct coord_event end = rig_generate(4, NULL);
    CU_ASSERT_EQUAL(end.kind, COORD_EVENT_FAILED);
    CU_ASSERT_PTR_NOT_NULL(strstr(end.error.text, "vocabulary"));
    rig_finish();
}

static void answer_failed(struct puppet *p, const struct proto_batch *batch)
{
    struct proto_msg msg = {.kind = PROTO_MSG_FAILED,
                            .failed = {.epoch = batch->epoch,
                                       .batch = batch->batch,
                                       .status = PROTO_NOMEM,
                                       .text = "no wood is left"}};
    puppet_send(p, &msg, NULL, 0);
}

/* A batch that failed ends its requests and nothing else. */
static void test_failed_batch(void)
{
    rig_start_ready(answer_failed);
    for (int i = 0; i < 2; i++) {
        struct coord_event end = rig_generate(4, NULL);
        CU_ASSERT_EQUAL(end.kind, COORD_EVENT_FAILED);
        CU_ASSERT_EQUAL(end.error.status, PROTO_NOMEM);
        CU_ASSERT_PTR_NOT_NULL(strstr(end.error.text, "no wood is left"));
    }
    rig_finish();
}

static void answer_with_noise(struct puppet *p, const struct proto_batch *batch)
{
    /* A host that no plan has. */
    struct proto_host_time time = {.host = 200, .requests = 1};
    struct rig_answer answer;
    rig_make_answer(&answer, batch);
    answer.msg.result.host_times = &time;
    answer.msg.result.n_host_times = 1;
    answer.msg.result.batch += 1000;
    rig_send_answer(p, &answer);
    answer.msg.result.batch -= 1000;
    answer.msg.result.epoch++;
    rig_send_answer(p, &answer);
    answer.msg.result.epoch--;
    rig_send_answer(p, &answer);
    rig_send_answer(p, &answer); /* once more, when it is over */
}

/* Results of batches and epochs that are not, and messages out of turn, change nothing. */
static void test_out_of_turn(void)
{
    rig_start_ready(answer_with_noise);
    struct proto_msg messages[] = {
        {.kind = PROTO_MSG_READY, .ready = {.epoch = 1}},
        {.kind = PROTO_MSG_READY, .ready = {.epoch = 77}},
        {.kind = PROTO_MSG_PROGRESS, .progress = {.epoch = 1, .done_bytes = 1, .total_bytes = 9}},
        {.kind = PROTO_MSG_FAILED, .failed = {.epoch = 1, .status = PROTO_IO, .text = "?"}},
        {.kind = PROTO_MSG_FAILED,
         .failed = {.epoch = 1, .batch = 12345, .status = PROTO_IO, .text = "?"}},
        {.kind = PROTO_MSG_WANT, .want = {.epoch = 1, .tensor = 4000}},
        {.kind = PROTO_MSG_FETCH, .fetch = {.epoch = 1, .tensor = 4000, .bytes = 16}},
        {.kind = PROTO_MSG_FETCH, .fetch = {.epoch = 1, .piece = 1u << 31, .bytes = 16}},
        {.kind = PROTO_MSG_FETCH, .fetch = {.epoch = 1, .offset = 67000000, .bytes = 16}},
        {.kind = PROTO_MSG_LINK, .link = {.epoch = 1}},
        {.kind = PROTO_MSG_WELCOME, .welcome = {.ping_ms = 1, .deadline_ms = 1}},
        {.kind = PROTO_MSG_MEASURED, .measured = {.read_bytes_s = 1}},
        {.kind = PROTO_MSG_EXPERTS, .experts = {.epoch = 1, .number = 1}},
        {.kind = PROTO_MSG_EXPERTS_DONE, .experts_done = {.epoch = 1, .number = 1}},
        {.kind = PROTO_MSG_USAGE},
        {.kind = PROTO_MSG_USED, .used = {.epoch = 1, .n_layers = 2, .n_experts = 8}},
    };
    for (size_t i = 0; i < sizeof messages / sizeof *messages; i++)
        puppet_post(&rig.puppet, &messages[i]);
    /* Answered: what was sent before has been taken. */
    struct proto_msg want = {.kind = PROTO_MSG_WANT, .want = {.epoch = 1, .tensor = 0}};
    puppet_post(&rig.puppet, &want);
    CU_ASSERT(puppet_wait(&rig.puppet, PROTO_MSG_HASHES, 1));
    CU_ASSERT_EQUAL(puppet_heard(&rig.puppet, PROTO_MSG_CHUNK), 0);
    rig_check_generates();
    rig_check_generates();
    CU_ASSERT_EQUAL(puppet_heard(&rig.puppet, PROTO_MSG_LOAD), 1);
    rig_finish();
}

/* A worker that says goodbye ends what it was doing. */
static void answer_goodbye(struct puppet *p, const struct proto_batch *batch)
{
    struct proto_msg msg = {.kind = PROTO_MSG_BYE};
    (void)batch;
    puppet_send(p, &msg, NULL, 0);
}

static void test_goodbye(void)
{
    check_given_up(answer_goodbye, "left the cluster");
}

/* ---- statistics of experts ---- */

/* Counts for all layers of the model: expert i of a layer was chosen i times. */
static void send_counts(struct puppet *p, uint64_t epoch, uint32_t layer_first)
{
    const struct shard_model *m = coord_engine_model(rig.engine);
    uint32_t counts[256];
    size_t n = (size_t)m->n_layers * m->n_experts;
    CU_ASSERT_FATAL(n > 0 && n <= 256);
    for (size_t i = 0; i < n; i++)
        counts[i] = (uint32_t)(i % m->n_experts);
    struct proto_msg msg = {.kind = PROTO_MSG_USED,
                            .used = {.epoch = epoch,
                                     .layer_first = layer_first,
                                     .n_layers = m->n_layers,
                                     .n_experts = m->n_experts}};
    puppet_send(p, &msg, counts, n * sizeof *counts);
}

/* Twice in each batch of rows (one that only drops a sequence may come after all answers), and once
 * for a plan that is not. */
static void answer_and_count(struct puppet *p, const struct proto_batch *batch)
{
    for (int i = 0; i < 2 && proto_batch_rows(batch) > 0; i++)
        send_counts(p, batch->epoch, 0);
    send_counts(p, batch->epoch + 1, 0);
    rig_answer_well(p, batch);
}

static void test_usage(void)
{
    struct coord_status status;
    struct proto_error error;
    rig.moe = true;
    rig_start_ready(answer_and_count);
    rig_check_generates();
    CU_ASSERT_EQUAL_FATAL(coord_engine_status(rig.engine, &status, &error), PROTO_OK);
    const struct shard_model *m = coord_engine_model(rig.engine);
    CU_ASSERT_PTR_NOT_NULL_FATAL(status.usage);
    CU_ASSERT(status.n_layers == m->n_layers && status.n_experts == m->n_experts);
    for (size_t i = 0; i < (size_t)m->n_layers * m->n_experts; i++)
        CU_ASSERT_EQUAL(status.usage[i], 2 * 4 * (i % m->n_experts));
    coord_status_finish(&status);
    rig_finish();
    rig.moe = false;
}

static void count_other_layers(struct puppet *p, const struct proto_batch *batch)
{
    send_counts(p, batch->epoch, 1);
}

static void test_usage_of_other_layers(void)
{
    rig.moe = true;
    check_given_up(count_other_layers, "statistics");
    rig.moe = false;
}

int main(void)
{
    if (!rig_create() || CU_initialize_registry() != CUE_SUCCESS)
        return 1;
    CU_pSuite suite = CU_add_suite("results", NULL, NULL);
    CU_add_test(suite, "good answers", test_good_answers);
    CU_add_test(suite, "a result for another vocabulary", test_other_vocabulary);
    CU_add_test(suite, "a payload that is too short", test_short_payload);
    CU_add_test(suite, "a result without its rows", test_missing_rows);
    CU_add_test(suite, "a row that nobody wants", test_row_that_nobody_wants);
    CU_add_test(suite, "a token out of range", test_token_out_of_range);
    CU_add_test(suite, "a batch that fails", test_failed_batch);
    CU_add_test(suite, "messages out of turn", test_out_of_turn);
    CU_add_test(suite, "a goodbye", test_goodbye);
    CU_add_test(suite, "statistics of experts", test_usage);
    CU_add_test(suite, "statistics of other layers", test_usage_of_other_layers);
    CU_basic_set_mode(CU_BRM_VERBOSE);
    CU_basic_run_tests();
    unsigned failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    rig_destroy();
    return failures ? 1 : 0;
}
