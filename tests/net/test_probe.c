/* SPDX-License-Identifier: Apache-2.0 */
/* A link measured by echoes over a link of known speed, on a clock of the test's. */
#include <CUnit/Basic.h>
#include <math.h>

#include "net/probe.h"

struct wire {
    double rtt_s, bytes_s;
    uint64_t now_ns, bytes;
    unsigned echoes;
    double longest_s;
};

/* Runs the probe to its end. */
static void run(struct net_probe *probe, struct wire *wire)
{
    bool done = false, more = true;
    net_probe_init(probe, 100);
    while (more) {
        CU_ASSERT_EQUAL(probe->number, 100 + wire->echoes);
        double seconds = wire->rtt_s + probe->bytes / wire->bytes_s;
        /* The handshake, and every fifth answer is late, of large payloads the first. */
        if (wire->echoes == 0 || (!probe->bytes && wire->echoes % 5 == 0))
            seconds += 0.5;
        if (probe->bytes == NET_PROBE_MOST_BYTES && probe->largest == 0)
            seconds *= 4;
        net_probe_sent(probe, wire->now_ns);
        wire->now_ns += (uint64_t)(seconds * 1e9);
        wire->bytes += probe->bytes;
        wire->longest_s = probe->bytes && seconds > wire->longest_s ? seconds : wire->longest_s;
        wire->echoes++;
        CU_ASSERT_FALSE(net_probe_echoed(probe, probe->number + 1, wire->now_ns, &done));
        CU_ASSERT_FALSE(done);
        more = net_probe_echoed(probe, probe->number, wire->now_ns, &done);
        CU_ASSERT_NOT_EQUAL(more, done);
        CU_ASSERT_FATAL(wire->echoes < 100);
    }
}

static void check(double rtt_s, double bytes_s)
{
    struct wire wire = {.rtt_s = rtt_s, .bytes_s = bytes_s, .now_ns = 1};
    struct net_probe probe;
    run(&probe, &wire);
    CU_ASSERT_DOUBLE_EQUAL(probe.rtt_s, rtt_s, 1e-8 + 1e-6 * rtt_s);
    CU_ASSERT_DOUBLE_EQUAL(probe.bytes_s, bytes_s, 0.01 * bytes_s);
    CU_ASSERT(wire.bytes <= (NET_PROBE_LARGEST + 1) * NET_PROBE_MOST_BYTES);
}

static void test_links(void)
{
    check(0.0003, 117e6);  /* gigabit Ethernet */
    check(0.00005, 1.1e9); /* 10 Gbit/s */
    check(0.01, 12e6);     /* 100 Mbit/s, far */
    check(0.03, 1e6);      /* 8 Mbit/s */
    check(0.00002, 4e9);   /* one machine */
}

/* A slow link is not kept busy for long. */
static void test_slow_link_is_spared(void)
{
    struct wire wire = {.rtt_s = 0.01, .bytes_s = 2e6, .now_ns = 1};
    struct net_probe probe;
    run(&probe, &wire);
    CU_ASSERT(wire.longest_s < 0.35);
    CU_ASSERT(wire.bytes < 1 << 20);
}

/* Where the round trip swallows the payload's time, there is a number all the same. */
static void test_never_infinite(void)
{
    struct wire wire = {.rtt_s = 0.2, .bytes_s = 1e15, .now_ns = 1};
    struct net_probe probe;
    run(&probe, &wire);
    CU_ASSERT(isfinite(probe.bytes_s) && probe.bytes_s > 0);
    wire = (struct wire){.rtt_s = 0, .bytes_s = (double)INFINITY, .now_ns = 1};
    run(&probe, &wire);
    CU_ASSERT(isfinite(probe.bytes_s) && probe.bytes_s > 0);
}

static void test_clock_that_runs_back(void)
{
    struct net_probe probe;
    bool done;
    net_probe_init(&probe, 7);
    net_probe_sent(&probe, 1000);
    CU_ASSERT_FALSE(net_probe_echoed(&probe, 7, 999, &done));
    CU_ASSERT_TRUE(net_probe_echoed(&probe, 7, 1000, &done));
}

int main(void)
{
    CU_initialize_registry();
    CU_pSuite suite = CU_add_suite("probe", NULL, NULL);
    CU_add_test(suite, "links", test_links);
    CU_add_test(suite, "a slow link is spared", test_slow_link_is_spared);
    CU_add_test(suite, "never infinite", test_never_infinite);
    CU_add_test(suite, "a clock that runs back", test_clock_that_runs_back);
    CU_basic_run_tests();
    unsigned failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    return failures != 0;
}
