/* SPDX-License-Identifier: Apache-2.0 */
#include <CUnit/Basic.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "coordinator/text/sampler.h"

static struct proto_error error;

/* Everything off: draws from the candidates as they are. */
static struct text_sampling plain;

static int set_plain(void)
{
    plain = TEXT_SAMPLING_DEFAULT;
    plain.temperature = 1;
    plain.top_k = 0;
    plain.top_p = 1;
    plain.min_p = 0;
    return 0;
}

static struct text_sampler *create(const struct text_sampling *sampling)
{
    struct text_sampler *sampler = NULL;
    CU_ASSERT_EQUAL_FATAL(text_sampler_create(&sampler, sampling, NULL, &error), PROTO_OK);
    return sampler;
}

/* Candidates 0 to n - 1 with these probabilities, in falling order. */
static void fill(struct text_candidate *c, const double *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        c[i] = (struct text_candidate){(int32_t)i, (float)log(p[i])};
}

static const double shares[4] = {0.5, 0.3, 0.15, 0.05};
#define DRAWS 20000

/* Draws many times; counts[i] is how often candidate i came. */
static void count_draws(const struct text_sampling *sampling, unsigned counts[4])
{
    struct text_sampler *sampler = create(sampling);
    memset(counts, 0, 4 * sizeof *counts);
    for (int i = 0; i < DRAWS; i++) {
        struct text_candidate c[4];
        fill(c, shares, 4);
        int32_t id = text_sampler_sample(sampler, c, 4);
        CU_ASSERT_FATAL(id >= 0 && id < 4);
        counts[id]++;
    }
    text_sampler_destroy(sampler);
}

/* Five standard deviations; the draws are the same on every run. */
static void check_share(unsigned count, double p)
{
    double deviation = sqrt(DRAWS * p * (1 - p));
    CU_ASSERT(fabs(count - DRAWS * p) <= 5 * deviation);
}

static void test_shares(void)
{
    unsigned counts[4];
    count_draws(&plain, counts);
    for (int i = 0; i < 4; i++)
        check_share(counts[i], shares[i]);
}

static void test_top_k(void)
{
    struct text_sampling s = plain;
    unsigned counts[4];
    s.top_k = 2;
    count_draws(&s, counts);
    check_share(counts[0], 0.5 / 0.8);
    check_share(counts[1], 0.3 / 0.8);
    CU_ASSERT_EQUAL(counts[2] + counts[3], 0);
}

static void test_top_p(void)
{
    struct text_sampling s = plain;
    unsigned counts[4];
    s.top_p = 0.81f; /* 0.8 is not enough: the third one goes in */
    count_draws(&s, counts);
    check_share(counts[2], 0.15 / 0.95);
    CU_ASSERT_EQUAL(counts[3], 0);
    s.top_p = 1e-6f;
    count_draws(&s, counts);
    CU_ASSERT_EQUAL(counts[0], DRAWS);
}

/* Each cut works on what the one before left, made to sum to one again. */
static void test_cuts_renormalise(void)
{
    struct text_sampling s = plain;
    unsigned counts[4];
    s.top_k = 2;
    s.top_p = 0.6f; /* of the two, the first has 0.625 */
    count_draws(&s, counts);
    CU_ASSERT_EQUAL(counts[0], DRAWS);
}

static void test_min_p(void)
{
    struct text_sampling s = plain;
    unsigned counts[4];
    s.min_p = 0.2f; /* of 0.5 */
    count_draws(&s, counts);
    CU_ASSERT_EQUAL(counts[3], 0);
    check_share(counts[2], 0.15 / 0.95);
}

static void test_temperature(void)
{
    struct text_sampling s = plain;
    unsigned counts[4];
    double sum = 0;
    for (int i = 0; i < 4; i++)
        sum += shares[i] * shares[i];
    s.temperature = 0.5f;
    count_draws(&s, counts);
    for (int i = 0; i < 4; i++)
        check_share(counts[i], shares[i] * shares[i] / sum);
    s.temperature = 1e-30f;
    count_draws(&s, counts);
    CU_ASSERT_EQUAL(counts[0], DRAWS);
}

static void test_greedy(void)
{
    struct text_sampling s = TEXT_SAMPLING_DEFAULT;
    s.temperature = 0;
    struct text_sampler *sampler = create(&s);
    struct text_candidate c[] = {{7, 2.5f}, {9, 2.5f}, {3, 1}};
    for (int i = 0; i < 100; i++)
        CU_ASSERT_EQUAL(text_sampler_sample(sampler, c, 3), 7);
    text_sampler_destroy(sampler);
}

static void test_penalty(void)
{
    struct text_sampling s = plain;
    s.temperature = 0;
    s.repeat_penalty = 2;
    s.repeat_last_n = 2;
    struct text_sampler *sampler = create(&s);
    for (int32_t id = 5; id < 8; id++)
        text_sampler_accept(sampler, id); /* 5 has left the window */
    struct text_candidate c[] = {{6, 3}, {5, 2}, {7, 1}};
    CU_ASSERT_EQUAL(text_sampler_sample(sampler, c, 3), 5);
    CU_ASSERT(c[0].logit == 2 && c[1].id == 6 && c[1].logit == 1.5f && c[2].logit == 0.5f);
    struct text_candidate negative[] = {{6, -1}, {7, -1.5f}, {4, -1.75f}};
    CU_ASSERT_EQUAL(text_sampler_sample(sampler, negative, 3), 4);
    CU_ASSERT(negative[1].id == 6 && negative[1].logit == -2);
    struct text_candidate ties[] = {{6, 4}, {1, 2}};
    CU_ASSERT_EQUAL(text_sampler_sample(sampler, ties, 2), 1);
    text_sampler_destroy(sampler);
}

/* The same on every machine. */
static void test_seed(void)
{
    static const int32_t want[16] = {1, 0, 0, 0, 0, 2, 0, 2, 0, 1, 0, 0, 1, 1, 1, 0};
    struct text_sampling s = plain;
    s.seed = 42;
    for (int round = 0; round < 2; round++) {
        struct text_sampler *sampler = create(&s);
        for (int i = 0; i < 16; i++) {
            struct text_candidate c[4];
            fill(c, shares, 4);
            CU_ASSERT_EQUAL(text_sampler_sample(sampler, c, 4), want[i]);
        }
        text_sampler_destroy(sampler);
    }
}

/* A sampler that accepts what another has, and gets its state, goes on as the other does. */
static void check_restored(const struct text_sampling *sampling)
{
    int32_t ids[60];
    struct text_sampler *one = create(sampling), *other = NULL;
    for (int i = 0; i < 60; i++) {
        struct text_candidate c[4];
        struct text_sampler_state state = text_sampler_save(one);
        fill(c, shares, 4);
        ids[i] = text_sampler_sample(one, c, 4);
        text_sampler_accept(one, ids[i]);
        other = create(sampling);
        for (int k = 0; k < i; k++)
            text_sampler_accept(other, ids[k]);
        text_sampler_restore(other, &state);
        fill(c, shares, 4);
        CU_ASSERT_EQUAL(text_sampler_sample(other, c, 4), ids[i]);
        text_sampler_destroy(other);
    }
    text_sampler_destroy(one);
}

static void test_restored(void)
{
    struct text_sampling sampling = plain;
    sampling.seed = 9;
    sampling.frequency_penalty = 0.5f;
    sampling.dry_multiplier = 0.8f;
    sampling.xtc_probability = 0.5f;
    check_restored(&sampling);
    sampling = plain;
    sampling.mirostat = 2;
    sampling.mirostat_tau = 1;
    check_restored(&sampling);
}

static void test_infinite_logits(void)
{
    struct text_sampler *sampler = create(&plain);
    struct text_candidate down[] = {{4, 1}, {5, -INFINITY}};
    struct text_candidate up[] = {{4, INFINITY}, {5, 1}};
    struct text_candidate all[] = {{4, -INFINITY}, {5, -INFINITY}};
    for (int i = 0; i < 100; i++) {
        CU_ASSERT_EQUAL(text_sampler_sample(sampler, down, 2), 4);
        CU_ASSERT_EQUAL(text_sampler_sample(sampler, up, 2), 4);
        CU_ASSERT(text_sampler_sample(sampler, all, 2) >= 4);
    }
    text_sampler_destroy(sampler);
}

static void check_needs(float temperature, int32_t top_k, float penalty, uint32_t want)
{
    struct text_sampling s = TEXT_SAMPLING_DEFAULT;
    s.temperature = temperature;
    s.top_k = top_k;
    s.repeat_penalty = penalty;
    CU_ASSERT_EQUAL(text_sampling_needs(&s, 0), want);
}

static void test_needs(void)
{
    check_needs(0.8f, 40, 1, 40);
    check_needs(0.8f, 40, 1.1f, 104);
    check_needs(0.8f, 40, 0.9f, 0);
    check_needs(0.8f, 0, 1, 0);
    check_needs(0.8f, 5000, 1, 0);
    check_needs(0.8f, INT32_MAX, 1.1f, 0);
    check_needs(0, 40, 1, 1);
    check_needs(0, 0, 1.1f, 65);
    check_needs(0, 0, 0.5f, 0);
}

#define VOCAB 400

static int by_logit(const void *a, const void *b)
{
    const struct text_candidate *ca = a, *cb = b;
    if (ca->logit != cb->logit)
        return ca->logit < cb->logit ? 1 : -1;
    return ca->id - cb->id;
}

/* As many candidates as are said to be needed give the whole vocabulary's tokens. */
static void test_needs_is_enough(void)
{
    struct text_sampling s = TEXT_SAMPLING_DEFAULT;
    s.repeat_penalty = 1.5f;
    s.repeat_last_n = 16;
    s.top_k = 8;
    CU_ASSERT_EQUAL_FATAL(text_sampling_needs(&s, 0), 24);
    struct text_sampler *all = create(&s), *some = create(&s);
    srand(1);
    for (int round = 0; round < 5000; round++) {
        struct text_candidate c[VOCAB], best[24];
        for (int i = 0; i < VOCAB; i++)
            c[i] = (struct text_candidate){i, (float)(rand() % 24 - 12)};
        qsort(c, VOCAB, sizeof *c, by_logit);
        memcpy(best, c, sizeof best);
        int32_t id = text_sampler_sample(all, c, VOCAB);
        CU_ASSERT_EQUAL_FATAL(text_sampler_sample(some, best, 24), id);
        text_sampler_accept(all, id);
        text_sampler_accept(some, id);
    }
    text_sampler_destroy(all);
    text_sampler_destroy(some);
}

static void check_refused(struct text_sampling s, const char *word)
{
    struct text_sampler *sampler = NULL;
    CU_ASSERT_EQUAL(text_sampler_create(&sampler, &s, NULL, &error), PROTO_INVALID);
    CU_ASSERT_PTR_NOT_NULL(strstr(error.text, word));
}

static void test_refused(void)
{
    struct text_sampling s = TEXT_SAMPLING_DEFAULT;
    CU_ASSERT_EQUAL(text_sampling_check(&s, &error), PROTO_OK);
    s.temperature = NAN;
    check_refused(s, "temperature");
    s = TEXT_SAMPLING_DEFAULT;
    s.top_p = 0;
    check_refused(s, "top_p is 0");
    s = TEXT_SAMPLING_DEFAULT;
    s.min_p = 1.5f;
    check_refused(s, "min_p is 1.5");
    s = TEXT_SAMPLING_DEFAULT;
    s.repeat_penalty = 0;
    check_refused(s, "repeat_penalty");
    s = TEXT_SAMPLING_DEFAULT;
    s.repeat_last_n = UINT32_MAX;
    check_refused(s, "repeat_last_n");
}

int main(void)
{
    CU_initialize_registry();
    CU_pSuite suite = CU_add_suite("sampler", set_plain, NULL);
    CU_add_test(suite, "shares", test_shares);
    CU_add_test(suite, "top_k", test_top_k);
    CU_add_test(suite, "top_p", test_top_p);
    CU_add_test(suite, "cuts renormalise", test_cuts_renormalise);
    CU_add_test(suite, "min_p", test_min_p);
    CU_add_test(suite, "temperature", test_temperature);
    CU_add_test(suite, "greedy", test_greedy);
    CU_add_test(suite, "penalty", test_penalty);
    CU_add_test(suite, "seed", test_seed);
    CU_add_test(suite, "restored", test_restored);
    CU_add_test(suite, "infinite logits", test_infinite_logits);
    CU_add_test(suite, "needs", test_needs);
    CU_add_test(suite, "needs is enough", test_needs_is_enough);
    CU_add_test(suite, "refused", test_refused);
    CU_basic_run_tests();
    unsigned failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    return failures > 0;
}
