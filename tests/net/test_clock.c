/* SPDX-License-Identifier: Apache-2.0 */
#include "net/clock.h"

#include <CUnit/Basic.h>

static void test_offset_is_halfway(void)
{
    struct net_clock clock;
    net_clock_init(&clock, 50);
    CU_ASSERT_EQUAL(clock.best_rtt_ns, UINT64_MAX);
    /* The peer is 1000 ahead, the way there takes 10, the answer 5, the way back 10. */
    net_clock_sample(&clock, 100, 1110, 1115, 125);
    CU_ASSERT_EQUAL(clock.best_rtt_ns, 20);
    CU_ASSERT_EQUAL(clock.offset_ns, 1000);
    CU_ASSERT_EQUAL(net_clock_to_own(&clock, 1500), 500);
}

static void test_peer_may_be_behind(void)
{
    struct net_clock clock;
    net_clock_init(&clock, 0);
    net_clock_sample(&clock, 5000, 1010, 1010, 5020);
    CU_ASSERT_EQUAL(clock.offset_ns, -4000);
    CU_ASSERT_EQUAL(net_clock_to_own(&clock, 1010), 5010);
}

static void test_shortest_round_trip_counts(void)
{
    struct net_clock clock;
    net_clock_init(&clock, 0);
    net_clock_sample(&clock, 100, 1110, 1110, 120);
    net_clock_sample(&clock, 200, 1290, 1290, 300); /* slower, and lopsided */
    CU_ASSERT_EQUAL(clock.offset_ns, 1000);
    net_clock_sample(&clock, 400, 1408, 1408, 410);
    CU_ASSERT_EQUAL(clock.best_rtt_ns, 10);
    CU_ASSERT_EQUAL(clock.offset_ns, 1003);
}

static void test_best_is_forgotten_after_64_others(void)
{
    struct net_clock clock;
    net_clock_init(&clock, 0);
    net_clock_sample(&clock, 0, 1005, 1005, 10);
    for (int i = 0; i < 64; i++)
        net_clock_sample(&clock, 100, 2150, 2150, 200);
    CU_ASSERT_EQUAL(clock.best_rtt_ns, 10);
    net_clock_sample(&clock, 100, 2150, 2150, 200);
    CU_ASSERT_EQUAL(clock.best_rtt_ns, 100);
    CU_ASSERT_EQUAL(clock.offset_ns, 2000);
}

static void test_contradictions_are_ignored(void)
{
    struct net_clock clock;
    net_clock_init(&clock, 0);
    net_clock_sample(&clock, 100, 50, 60, 99);  /* got before it was sent */
    net_clock_sample(&clock, 100, 60, 50, 200); /* answered before it was received */
    net_clock_sample(&clock, 100, 0, 500, 200); /* held longer than the whole exchange took */
    CU_ASSERT_EQUAL(clock.best_rtt_ns, UINT64_MAX);
    CU_ASSERT_EQUAL(clock.offset_ns, 0);
    /* A clock that is anywhere at all. */
    net_clock_sample(&clock, 100, UINT64_MAX - 5, UINT64_MAX - 5, 120);
    CU_ASSERT_EQUAL(net_clock_to_own(&clock, UINT64_MAX - 5), 110);
}

static void test_silence(void)
{
    struct net_clock clock;
    net_clock_init(&clock, 1000);
    CU_ASSERT_FALSE(net_clock_overdue(&clock, 1300, 300));
    CU_ASSERT_TRUE(net_clock_overdue(&clock, 1301, 300));
    CU_ASSERT_FALSE(net_clock_overdue(&clock, 0, 300));
    net_clock_heard(&clock, 1301);
    CU_ASSERT_FALSE(net_clock_overdue(&clock, 1301, 300));
}

int main(void)
{
    CU_initialize_registry();
    CU_pSuite suite = CU_add_suite("clock", NULL, NULL);
    CU_ADD_TEST(suite, test_offset_is_halfway);
    CU_ADD_TEST(suite, test_peer_may_be_behind);
    CU_ADD_TEST(suite, test_shortest_round_trip_counts);
    CU_ADD_TEST(suite, test_best_is_forgotten_after_64_others);
    CU_ADD_TEST(suite, test_contradictions_are_ignored);
    CU_ADD_TEST(suite, test_silence);
    CU_basic_run_tests();
    int failures = (int)CU_get_number_of_failures();
    CU_cleanup_registry();
    return failures != 0;
}
