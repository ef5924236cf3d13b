/* SPDX-License-Identifier: Apache-2.0 */
/* What the last stage sends back: candidates in order, whole rows, in parts of bounded size. */
#include <CUnit/Basic.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "worker/answer.h"

struct pair {
    uint32_t id;
    float logit;
};

/* Everything that was delivered, one part after another. */
struct heard {
    struct worker_output *parts[64];
    unsigned n;
};

static void hear(void *arg, struct worker_output *output)
{
    struct heard *heard = arg;
    heard->parts[heard->n++] = output;
}

static void forget(struct heard *heard)
{
    for (unsigned i = 0; i < heard->n; i++)
        worker_output_destroy(heard->parts[i]);
    heard->n = 0;
}

static uint32_t next_random(uint32_t *state)
{
    *state = *state * 1664525u + 1013904223u;
    return *state >> 8;
}

static int by_logit(const void *a, const void *b)
{
    const struct pair *x = a, *y = b;
    if (x->logit != y->logit)
        return x->logit < y->logit ? 1 : -1;
    return x->id < y->id ? -1 : 1;
}

/* Few different values, so that ties are everywhere. */
static void test_best_candidates(void)
{
    float logits[300];
    struct pair all[300], best[300];
    uint32_t state = 1;
    for (uint32_t i = 0; i < 300; i++) {
        logits[i] = (float)(next_random(&state) % 20) - 10.0f;
        all[i] = (struct pair){i, logits[i]};
    }
    qsort(all, 300, sizeof *all, by_logit);
    const uint32_t counts[] = {1, 2, 3, 40, 299, 300};
    for (size_t c = 0; c < sizeof counts / sizeof *counts; c++) {
        worker_best_candidates(logits, 300, counts[c], (uint8_t *)best);
        CU_ASSERT_EQUAL(memcmp(best, all, counts[c] * sizeof *best), 0);
    }
}

static void test_not_a_number_comes_last(void)
{
    float logits[4] = {NAN, 1.0f, NAN, -INFINITY};
    struct pair best[3];
    worker_best_candidates(logits, 4, 3, (uint8_t *)best);
    CU_ASSERT_EQUAL(best[0].id, 1);
    CU_ASSERT_EQUAL(best[1].id, 3);
    CU_ASSERT_EQUAL(best[2].id, 0);
}

static struct proto_range ranges[] = {
    {.seq = 0, .pos = 5, .n = 1, .want = PROTO_WANT_LAST, .candidates = 2},
    {.seq = 1, .pos = 0, .n = 3, .want = PROTO_WANT_ALL, .candidates = 0},
};
static struct proto_stage_time times[] = {{.received_ns = 1, .finished_ns = 2}};
static const struct proto_batch batch = {
    .epoch = 3, .batch = 9, .ranges = ranges, .n_ranges = 2, .times = times, .n_times = 1};

static void start(struct worker_answer *answer, uint32_t n_vocab, struct heard *heard)
{
    worker_answer_init(answer, &batch, kern_table_get(KERN_ISA_PORTABLE), n_vocab, hear, heard);
}

static void test_candidates_and_rows(void)
{
    struct heard heard = {0};
    struct worker_answer answer;
    struct proto_error error;
    const struct worker_result_row rows[] = {{0, 5}, {1, 0}};
    _Alignas(64) float logits[2][16] = {{0, 3, 1}, {7, 8, 9}};
    start(&answer, 3, &heard);
    CU_ASSERT_EQUAL(worker_answer_rows(&answer, rows, 2, logits[0], 16, &error), PROTO_OK);
    CU_ASSERT_EQUAL(worker_answer_finish(&answer, &error), PROTO_OK);
    worker_answer_discard(&answer);
    CU_ASSERT_EQUAL_FATAL(heard.n, 1);
    const struct proto_result *result = &heard.parts[0]->msg.result;
    CU_ASSERT_TRUE(result->last);
    CU_ASSERT_EQUAL(result->batch, 9);
    CU_ASSERT_EQUAL(result->n_times, 1);
    CU_ASSERT_EQUAL_FATAL(result->n_rows, 2);
    CU_ASSERT_EQUAL(result->rows[0].count, 2);
    CU_ASSERT_EQUAL(result->rows[1].count, 0);
    CU_ASSERT_DOUBLE_EQUAL(result->rows[0].lse, log(exp(0) + exp(3) + exp(1)), 1e-5);
    CU_ASSERT_EQUAL(
        proto_result_check(result, net_payload_len(heard.parts[0]->payload), &error), PROTO_OK);
    const struct pair *best = net_payload_data(heard.parts[0]->payload);
    CU_ASSERT_EQUAL(best[0].id, 1);
    CU_ASSERT_EQUAL(best[1].id, 2);
    CU_ASSERT_EQUAL(memcmp(best + 2, logits[1], 12), 0);
    forget(&heard);
}

/* Rows of 1M logits: three parts of 4 MB would not fit one. */
static void test_parts(void)
{
    const uint32_t n_vocab = 1u << 20;
    struct heard heard = {0};
    struct worker_answer answer;
    struct proto_error error;
    float *logits = aligned_alloc(64, n_vocab * sizeof *logits);
    CU_ASSERT_PTR_NOT_NULL_FATAL(logits);
    memset(logits, 0, n_vocab * sizeof *logits);
    start(&answer, n_vocab, &heard);
    for (uint64_t pos = 0; pos < 3; pos++) {
        const struct worker_result_row row = {1, pos};
        CU_ASSERT_EQUAL(worker_answer_rows(&answer, &row, 1, logits, n_vocab, &error), PROTO_OK);
    }
    CU_ASSERT_EQUAL(worker_answer_finish(&answer, &error), PROTO_OK);
    uint32_t rows = 0;
    for (unsigned i = 0; i < heard.n; i++) {
        const struct proto_result *result = &heard.parts[i]->msg.result;
        const struct net_payload *payload = heard.parts[i]->payload;
        CU_ASSERT_EQUAL(result->last, i + 1 == heard.n);
        CU_ASSERT_EQUAL(proto_result_check(result, payload ? net_payload_len(payload) : 0, &error),
                        PROTO_OK);
        rows += result->n_rows;
    }
    CU_ASSERT_EQUAL(rows, 3);
    CU_ASSERT_TRUE(heard.n > 1);
    forget(&heard);
    free(logits);
}

static void test_logits_not_finite(void)
{
    struct heard heard = {0};
    struct worker_answer answer;
    struct proto_error error = {0};
    const struct worker_result_row row = {0, 5};
    _Alignas(64) float logits[16] = {NAN, 1, 2};
    start(&answer, 3, &heard);
    CU_ASSERT_EQUAL(worker_answer_rows(&answer, &row, 1, logits, 16, &error), PROTO_CORRUPT);
    CU_ASSERT_PTR_NOT_NULL(strstr(error.text, "position 5"));
    worker_answer_discard(&answer);
    CU_ASSERT_EQUAL(heard.n, 0);
}

int main(void)
{
    CU_initialize_registry();
    CU_pSuite suite = CU_add_suite("answer", NULL, NULL);
    CU_add_test(suite, "best candidates", test_best_candidates);
    CU_add_test(suite, "not a number comes last", test_not_a_number_comes_last);
    CU_add_test(suite, "candidates and rows", test_candidates_and_rows);
    CU_add_test(suite, "parts", test_parts);
    CU_add_test(suite, "logits not finite", test_logits_not_finite);
    CU_basic_set_mode(CU_BRM_NORMAL);
    CU_basic_run_tests();
    unsigned failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    return failures > 0;
}
