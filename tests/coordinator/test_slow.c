/* SPDX-License-Identifier: Apache-2.0 */
/* Workers that become slower than they were, or are slower than others, by made-up times. */
#include <CUnit/Basic.h>

#include "coordinator/pace.h"

#define MOST    4
#define STEP_NS (100ull * 1000000) /* a batch, and a judgement */
#define SECONDS 10                 /* steps */

static struct coord_pace paces[MOST];
static struct coord_pace *list[MOST] = {&paces[0], &paces[1], &paces[2], &paces[3]};
static double factors[MOST]; /* that batches take of what is expected */
static uint32_t n_workers;
static uint64_t now_ns, changes;

static void begin(uint32_t n)
{
    n_workers = n;
    now_ns = 1000000000ull;
    changes = 0;
    for (uint32_t i = 0; i < MOST; i++) {
        paces[i] = (struct coord_pace){0};
        factors[i] = 1.2;
    }
}

static void judge(void)
{
    bool changed[MOST];
    coord_pace_judge(list, n_workers, now_ns, changed);
    for (uint32_t i = 0; i < n_workers; i++)
        changes += changed[i];
}

/* Every third batch takes up to four times as long. */
static void compute(uint32_t steps)
{
    for (uint32_t step = 0; step < steps; step++) {
        now_ns += STEP_NS;
        for (uint32_t i = 0; i < n_workers; i++)
            coord_pace_add(&paces[i], factors[i] * (step % 3 ? 1 : 1 + step % 4) * 0.01, 0.01,
                           now_ns);
        judge();
    }
}

static void test_noise(void)
{
    begin(2);
    compute(60 * SECONDS);
    factors[1] = 1.6;
    compute(60 * SECONDS);
    CU_ASSERT_EQUAL(changes, 0);
    CU_ASSERT_EQUAL(paces[1].slowdown, 0);
}

static void test_slow(void)
{
    begin(2);
    compute(20 * SECONDS);
    factors[1] = 2.4;
    compute(9 * SECONDS);
    CU_ASSERT_EQUAL(changes, 0);
    compute(5 * SECONDS);
    CU_ASSERT_EQUAL(changes, 1);
    CU_ASSERT_EQUAL(paces[0].slowdown, 0);
    CU_ASSERT_DOUBLE_EQUAL(paces[1].slowdown, 2, 0.01);
    compute(60 * SECONDS);
    CU_ASSERT_EQUAL(changes, 1);
}

static void test_not_for_long(void)
{
    begin(2);
    compute(20 * SECONDS);
    for (uint32_t i = 0; i < 5; i++) {
        factors[1] = 2.4;
        compute(8 * SECONDS);
        factors[1] = 1.2;
        compute(8 * SECONDS);
    }
    /* Nor is it known to last while nothing is computed. */
    factors[1] = 2.4;
    compute(8 * SECONDS);
    for (uint32_t i = 0; i < 60 * SECONDS; i++) {
        now_ns += STEP_NS;
        judge();
    }
    compute(8 * SECONDS);
    CU_ASSERT_EQUAL(changes, 0);
}

static void test_recovery(void)
{
    begin(2);
    compute(20 * SECONDS);
    factors[1] = 2.4;
    compute(20 * SECONDS);
    CU_ASSERT_DOUBLE_EQUAL(paces[1].slowdown, 2, 0.01);
    /* Another plan, made because of it. */
    coord_pace_begin(&paces[0]);
    coord_pace_begin(&paces[1]);
    compute(20 * SECONDS);
    CU_ASSERT_EQUAL(changes, 1);
    CU_ASSERT_DOUBLE_EQUAL(paces[1].slowdown, 2, 0.01);
    factors[1] = 1.3;
    compute(9 * SECONDS);
    CU_ASSERT_EQUAL(changes, 1);
    compute(5 * SECONDS);
    CU_ASSERT_EQUAL(changes, 2);
    CU_ASSERT_EQUAL(paces[1].slowdown, 0);
}

static void test_worse_and_better(void)
{
    begin(2);
    compute(20 * SECONDS);
    factors[1] = 2.4;
    compute(20 * SECONDS);
    factors[1] = 4.8;
    compute(20 * SECONDS);
    CU_ASSERT_EQUAL(changes, 2);
    CU_ASSERT_DOUBLE_EQUAL(paces[1].slowdown, 4, 0.01);
    factors[1] = 1.8;
    compute(20 * SECONDS);
    CU_ASSERT_EQUAL(changes, 3);
    CU_ASSERT_DOUBLE_EQUAL(paces[1].slowdown, 1.5, 0.01);
}

/* One of three, and all that would be slow otherwise. */
static void test_from_the_start(void)
{
    begin(3);
    factors[2] = 2.4;
    compute(20 * SECONDS);
    CU_ASSERT_EQUAL(changes, 1);
    CU_ASSERT_DOUBLE_EQUAL(paces[2].slowdown, 2, 0.01);
    begin(2);
    factors[1] = 2.4;
    compute(20 * SECONDS);
    CU_ASSERT_EQUAL(changes, 0);
}

/* Long contexts, say. */
static void test_all_slower(void)
{
    begin(3);
    compute(20 * SECONDS);
    for (uint32_t i = 0; i < 3; i++)
        factors[i] = 3;
    compute(60 * SECONDS);
    CU_ASSERT_EQUAL(changes, 0);
}

static void compute_slowly(uint32_t steps)
{
    for (uint32_t step = 0; step < steps; step++) {
        now_ns += COORD_PACE_HOLD_NS / 4;
        for (uint32_t i = 0; i < n_workers; i++)
            coord_pace_add(&paces[i], factors[i] * 0.01, 0.01, now_ns);
        judge();
    }
}

static void test_few(void)
{
    begin(3);
    factors[2] = 24;
    compute_slowly(COORD_PACE_BATCHES - 1);
    for (uint32_t i = 0; i < 60 * SECONDS; i++) {
        now_ns += STEP_NS;
        for (uint32_t k = 0; k < 3; k++)
            coord_pace_add(&paces[k], 0.01, 0, now_ns); /* nothing was expected */
        judge();
    }
    CU_ASSERT_EQUAL(changes, 0);
    CU_ASSERT_EQUAL(paces[2].n, COORD_PACE_BATCHES - 1);
    /* One more, and time. */
    compute_slowly(6);
    CU_ASSERT_EQUAL(changes, 1);
}

static void test_alone(void)
{
    begin(1);
    factors[0] = 6; /* predictions may be that wrong */
    compute(60 * SECONDS);
    CU_ASSERT_EQUAL(changes, 0);
    factors[0] = 12;
    compute(20 * SECONDS);
    CU_ASSERT_EQUAL(changes, 1);
    CU_ASSERT_DOUBLE_EQUAL(paces[0].slowdown, 2, 0.01);
}

int main(void)
{
    CU_initialize_registry();
    CU_pSuite suite = CU_add_suite("slow workers", NULL, NULL);
    CU_add_test(suite, "noise", test_noise);
    CU_add_test(suite, "one becomes slow", test_slow);
    CU_add_test(suite, "not for long enough", test_not_for_long);
    CU_add_test(suite, "one recovers", test_recovery);
    CU_add_test(suite, "worse and better", test_worse_and_better);
    CU_add_test(suite, "slow from the start", test_from_the_start);
    CU_add_test(suite, "all become slower", test_all_slower);
    CU_add_test(suite, "few batches", test_few);
    CU_add_test(suite, "one alone", test_alone);
    CU_basic_run_tests();
    unsigned failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    return failures ? 1 : 0;
}
