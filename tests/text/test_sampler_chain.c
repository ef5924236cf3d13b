/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The chain of sampling against a slow reference, which follows each step's definition word for
 * word over a table of all tokens, with any parameters in any order; and as many candidates as are
 * said to be needed against the whole vocabulary.
 */
#include <CUnit/Basic.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>

#include "slow_sampler.h"

#define HISTORY 48 /* tokens before the first that is drawn */

static struct proto_error error;

static uint64_t state = 3;

static unsigned random_below(unsigned n)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (unsigned)(state >> 33) % n;
}

static float random_float(double low, double high)
{
    return (float)(low + (high - low) * random_below(1 << 20) / (1 << 20));
}

static struct text_bias biases[4];

static bool half(void)
{
    return random_below(2);
}

static void random_order(struct text_sampling *s)
{
    if (half())
        return;
    for (unsigned i = TEXT_N_STEPS; i-- > 1;) {
        unsigned other = random_below(i + 1);
        enum text_step step = s->steps[i];
        s->steps[i] = s->steps[other];
        s->steps[other] = step;
    }
    s->n_steps = half() ? TEXT_N_STEPS : random_below(TEXT_N_STEPS + 1);
}

static void random_history_parameters(struct text_sampling *s)
{
    s->repeat_last_n = half() ? 64 : random_below(8);
    s->repeat_penalty = half() ? 1 : random_float(half() ? 1 : 0.5, 2);
    s->frequency_penalty = half() ? 0 : random_float(half() ? 0 : -1, 1);
    s->presence_penalty = half() ? 0 : random_float(half() ? 0 : -1, 1);
    s->dry_multiplier = half() ? 0 : random_float(0.1, 2);
    s->dry_base = random_float(1, 2);
    s->dry_allowed_length = 1 + random_below(3);
    s->dry_last_n = half() ? -1 : (int32_t)random_below(20);
}

static struct text_sampling random_sampling(void)
{
    struct text_sampling s = TEXT_SAMPLING_DEFAULT;
    s.seed = random_below(1000);
    s.temperature = random_below(4) == 0 ? 0 : half() ? 1 : random_float(0.3, 2);
    s.dynatemp_range = half() || s.temperature <= 0 ? 0 : random_float(0, 2);
    s.dynatemp_exponent = random_float(0.5, 2);
    s.top_k = half() ? 0 : (int32_t)(1 + random_below(12));
    s.top_p = half() ? 1 : random_float(0.2, 0.99);
    s.min_p = half() ? 0 : random_float(0.01, 0.5);
    s.typical = half() ? 1 : random_float(0.2, 0.99);
    s.top_n_sigma = half() ? -1 : random_float(0.3, 3);
    s.xtc_probability = half() ? 0 : random_float(0, 1);
    s.xtc_threshold = random_float(0.02, 0.6);
    random_history_parameters(&s);
    s.n_biases = half() ? 0 : 1 + random_below(4);
    s.biases = biases;
    for (size_t i = 0; i < s.n_biases; i++) {
        int32_t id = (int32_t)(i * 15 + random_below(15));
        biases[i] = (struct text_bias){id, half() ? -INFINITY : random_float(half() ? 0 : -3, 0)};
        if (random_below(8) == 0)
            biases[i].bias = random_float(0, 3);
    }
    random_order(&s);
    return s;
}

static struct text_sampling random_mirostat(void)
{
    struct text_sampling s = TEXT_SAMPLING_DEFAULT;
    s.seed = random_below(1000);
    s.mirostat = 2;
    s.temperature = random_float(0.5, 2);
    s.mirostat_tau = random_float(0.5, 6);
    s.mirostat_eta = random_float(0.05, 0.5);
    return s;
}

static int by_logit(const void *a, const void *b)
{
    const struct text_candidate *ca = a, *cb = b;
    if (ca->logit != cb->logit)
        return ca->logit < cb->logit ? 1 : -1;
    return ca->id - cb->id;
}

static unsigned n_partial; /* runs with fewer candidates than all */

static int32_t sample(struct text_sampler *sampler, const float *logits, size_t n)
{
    struct text_candidate c[SLOW_VOCAB];
    for (int i = 0; i < SLOW_VOCAB; i++)
        c[i] = (struct text_candidate){i, logits[i]};
    qsort(c, SLOW_VOCAB, sizeof *c, by_logit);
    return text_sampler_sample(sampler, c, n);
}

/* Several tokens with one set of parameters: all three ways must agree on each. */
static bool agree(const struct text_sampling *s)
{
    struct slow_sampler slow = {.s = *s, .state = s->seed, .mu = 2 * (double)s->mirostat_tau};
    slow.n_banned = random_below(4);
    slow.n_breakers = random_below(4);
    for (int i = 0; i < 4; i++) {
        slow.banned[i] = (int32_t)random_below(SLOW_VOCAB);
        slow.breakers[i] = (int32_t)random_below(8);
    }
    const struct text_sampler_tokens tokens = {slow.banned, slow.n_banned, slow.breakers,
                                               slow.n_breakers, half() ? 0 : SLOW_HISTORY};
    uint32_t needs = text_sampling_needs(s, slow.n_banned);
    struct text_sampler *all = NULL, *some = NULL;
    bool equal = text_sampler_create(&all, s, &tokens, &error) == PROTO_OK &&
                 text_sampler_create(&some, s, &tokens, &error) == PROTO_OK;
    bool whole = half();
    n_partial += needs > 0 && needs < SLOW_VOCAB;
    for (int i = 0; i < HISTORY + 8 && equal; i++) {
        int32_t id = (int32_t)random_below(i % 8 ? 4 : 8);
        if (i >= HISTORY) {
            float logits[SLOW_VOCAB];
            for (int t = 0; t < SLOW_VOCAB; t++)
                logits[t] = whole ? (float)random_below(9) - 4 : random_float(-6, 6);
            id = slow_sampler_sample(&slow, logits);
            equal =
                sample(all, logits, SLOW_VOCAB) == id &&
                sample(some, logits, needs > 0 && needs < SLOW_VOCAB ? needs : SLOW_VOCAB) == id;
        }
        slow.history[slow.n_history++] = id;
        text_sampler_accept(all, id);
        text_sampler_accept(some, id);
    }
    text_sampler_destroy(all);
    text_sampler_destroy(some);
    return equal;
}

static void test_chain(void)
{
    unsigned checked = 0;
    n_partial = 0;
    for (int round = 0; round < 5000; round++) {
        struct text_sampling s = random_sampling();
        if (text_sampling_check(&s, &error) != PROTO_OK)
            continue;
        checked++;
        CU_ASSERT_TRUE_FATAL(agree(&s));
    }
    CU_ASSERT(checked > 3500);
    CU_ASSERT(n_partial > 250);
}

static void test_mirostat(void)
{
    for (int round = 0; round < 1000; round++) {
        struct text_sampling s = random_mirostat();
        CU_ASSERT_EQUAL_FATAL(text_sampling_check(&s, &error), PROTO_OK);
        CU_ASSERT_EQUAL(text_sampling_needs(&s, 0), 0);
        CU_ASSERT_TRUE_FATAL(agree(&s));
    }
}

/* A DRY window of a hundred thousand tokens, all the same: no quadratic search. */
static void test_long_history(void)
{
    struct text_sampling s = TEXT_SAMPLING_DEFAULT;
    s.temperature = 0;
    s.dry_multiplier = 1;
    struct text_sampler *sampler = NULL;
    CU_ASSERT_EQUAL_FATAL(text_sampler_create(&sampler, &s, NULL, &error), PROTO_OK);
    for (int i = 0; i < 1 << 20; i++)
        text_sampler_accept(sampler, 7);
    for (int i = 0; i < 4; i++) {
        struct text_candidate c[] = {{7, 1e6f}, {8, 0}};
        CU_ASSERT_EQUAL(text_sampler_sample(sampler, c, 2), 8);
        text_sampler_accept(sampler, 7);
    }
    text_sampler_destroy(sampler);
}

static void test_banned(void)
{
    struct text_sampling s = TEXT_SAMPLING_DEFAULT;
    s.temperature = 0;
    const struct text_bias up[] = {{1, 5}, {2, -INFINITY}};
    s.biases = up;
    s.n_biases = 2;
    const int32_t ban = 1;
    struct text_sampler *sampler = NULL;
    CU_ASSERT_EQUAL_FATAL(text_sampler_create(&sampler, &s,
                                              &(struct text_sampler_tokens){&ban, 1, NULL, 0, 0},
                                              &error),
                          PROTO_OK);
    struct text_candidate c[] = {{2, 9}, {1, 8}, {5, -3}, {4, -3}};
    qsort(c, 4, sizeof *c, by_logit);
    CU_ASSERT_EQUAL(text_sampler_sample(sampler, c, 4), 4); /* a ban wins over a bias */
    struct text_candidate only[] = {{1, 8}};
    CU_ASSERT_EQUAL(text_sampler_sample(sampler, only, 1), 1); /* there must be a token */
    text_sampler_destroy(sampler);
}

int main(void)
{
    CU_initialize_registry();
    CU_pSuite suite = CU_add_suite("sampler chain", NULL, NULL);
    CU_add_test(suite, "chain against slow", test_chain);
    CU_add_test(suite, "mirostat against slow", test_mirostat);
    CU_add_test(suite, "long history", test_long_history);
    CU_add_test(suite, "bans", test_banned);
    CU_basic_run_tests();
    unsigned failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    return failures > 0;
}
