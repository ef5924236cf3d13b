/* SPDX-License-Identifier: Apache-2.0 */
#include <CUnit/Basic.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "shard/plan/simulate.h"
#include "tests/shard/planned.h"

static struct proto_error error;
static const struct plan_shape_options sizes = {
    .kv = KERN_KV_F16, .ctx = 4096, .max_seqs = 8, .max_rows = 512};

static struct plan_simulated simulate(const struct plan_placement *p,
                                      const struct plan_shape *shape,
                                      const struct made_cluster *made,
                                      struct plan_simulation options)
{
    struct plan_simulated s = {0};
    options.seed = options.seed ? options.seed : 1;
    CU_ASSERT_EQUAL(plan_simulate(&s, p, shape, &made->cluster, &options, &error), PROTO_OK);
    return s;
}

/* One sequence, all experts alike: the times of the cost model. */
static void check_agrees(const struct plan_placement *p, const struct plan_shape *shape,
                         const struct made_cluster *made, double within)
{
    struct plan_cost cost;
    const struct plan_load load = {.depth = 640, .prompt = 512};
    CU_ASSERT_EQUAL_FATAL(plan_cost_estimate(&cost, NULL, p, shape, &made->cluster, &load, &error),
                          PROTO_OK);
    struct plan_simulated s = simulate(
        p, shape, made,
        (struct plan_simulation){.requests = 2, .clients = 1, .prompt = 512, .answer = 257});
    CU_ASSERT_DOUBLE_EQUAL(s.token_s.mean / cost.decode_s, 1, within);
    CU_ASSERT_DOUBLE_EQUAL(s.first_s.mean / cost.prompt_s, 1, within);
}

static void test_one_sequence(void)
{
    struct plan_shape *maverick = preset_shape("maverick", "Q4_K", &sizes);
    struct plan_shape *qwen = preset_shape("qwen3moe-3b", "Q4_K", &sizes);
    struct made_cluster made;
    make_cluster(&made, 9, 64, 40);
    make_gpu(&made, 0, 16, 360);

    struct plan_placement *p = new_placement();
    for (uint32_t i = 1; i <= 6; i++)
        add_stage(p, maverick, i, PLAN_CPU, i * 8);
    check_agrees(p, maverick, &made, 0.03);
    plan_placement_destroy(p);

    for (uint32_t slices = 1; slices <= 2; slices++) {
        p = new_placement();
        add_stage(p, maverick, 0, PLAN_GPU, 48);
        for (uint32_t i = 0; i < 8; i++)
            add_part(p, 1 + i, 0, 48, i / slices * 16 * slices, (i / slices + 1) * 16 * slices,
                     i % slices, slices);
        check_agrees(p, maverick, &made, 0.04);
        plan_placement_destroy(p);
    }

    /* Eight of 64 experts a row, on two stages with two hosts each, half of them on the stages. */
    p = new_placement();
    add_stage(p, qwen, 0, PLAN_CPU, 8);
    add_stage(p, qwen, 1, PLAN_CPU, 16);
    for (uint32_t s = 0; s < 2; s++) {
        add_part(p, 2 + 2 * s, s * 8, s * 8 + 8, 0, 16, 0, 1);
        add_part(p, 3 + 2 * s, s * 8, s * 8 + 8, 16, 32, 0, 1);
    }
    check_agrees(p, qwen, &made, 0.05);
    plan_placement_destroy(p);
    destroy_shape(maverick);
    destroy_shape(qwen);
}

/* A machine alone that serves one token a request: M/D/1. The mean time of a request is
 * D (1 + rho / (2 (1 - rho))), rho = arrivals D (Pollaczek and Khinchine). */
static void test_queue(void)
{
    struct plan_shape *shape = made_shape(4, 100000000, 0, 0, 0);
    struct made_cluster made;
    struct plan_cost cost;
    make_cluster(&made, 1, 8, 40);
    made.cluster.any = (struct plan_link){.rtt_s = 1e-9, .bytes_s = 1e15};
    struct plan_placement *p = new_placement();
    add_stage(p, shape, 0, PLAN_CPU, 4);
    plan_cost_estimate(&cost, NULL, p, shape, &made.cluster, &(struct plan_load){.depth = 1},
                       &error);
    for (int percent = 30; percent <= 90; percent += 30) {
        double rho = percent / 100.0, d = cost.decode_s;
        struct plan_simulated s = simulate(p, shape, &made,
                                           (struct plan_simulation){.requests = 200000,
                                                                    .arrivals_s = rho / d,
                                                                    .answer = 1,
                                                                    .max_seqs = 4096,
                                                                    .max_rows = 1});
        CU_ASSERT_DOUBLE_EQUAL(s.request_s.mean / (d * (1 + rho / (2 * (1 - rho)))), 1, 0.04);
        CU_ASSERT_DOUBLE_EQUAL(s.busiest.share, rho, 0.02);
        CU_ASSERT_FALSE(s.saturated);
    }
    struct plan_simulated s = simulate(p, shape, &made,
                                       (struct plan_simulation){.requests = 5000,
                                                                .arrivals_s = 1.5 / cost.decode_s,
                                                                .answer = 1,
                                                                .max_seqs = 1,
                                                                .max_rows = 1});
    CU_ASSERT(s.saturated);
    CU_ASSERT_DOUBLE_EQUAL(s.requests_s * cost.decode_s, 1, 0.01);
    plan_placement_destroy(p);
    destroy_shape(shape);
}

/* Three equal stages, a row a batch: n sequences get min(n, 3) tokens each time that one takes. */
static void test_closed(void)
{
    struct plan_shape *shape = made_shape(6, 100000000, 0, 0, 0);
    struct made_cluster made;
    struct plan_cost cost;
    make_cluster(&made, 3, 8, 40);
    shape->head_bytes = 0;
    shape->head_ops = 0;
    made.cluster.any = (struct plan_link){.rtt_s = 1e-9, .bytes_s = 1e15};
    struct plan_placement *p = new_placement();
    for (uint32_t i = 0; i < 3; i++)
        add_stage(p, shape, i, PLAN_CPU, 2 * i + 2);
    plan_cost_estimate(&cost, NULL, p, shape, &made.cluster, &(struct plan_load){.depth = 1},
                       &error);
    for (uint32_t n = 1; n <= 6; n++) {
        struct plan_simulated s = simulate(
            p, shape, &made,
            (struct plan_simulation){
                .requests = 40 * n, .clients = n, .answer = 100, .max_seqs = n, .max_rows = 1});
        CU_ASSERT_DOUBLE_EQUAL(s.answer_tokens_s * cost.decode_s / (n < 3 ? n : 3), 1, 0.02);
    }
    plan_placement_destroy(p);
    destroy_shape(shape);
}

/* Popularity changes the times, and so does chance; the same seed gives the same. */
static void test_skew(void)
{
    struct plan_shape *qwen = preset_shape("qwen3moe-3b", "Q4_K", &sizes);
    struct made_cluster made;
    make_cluster(&made, 5, 64, 10);
    struct plan_placement *p = new_placement();
    add_stage(p, qwen, 0, PLAN_CPU, 16);
    for (uint32_t i = 0; i < 4; i++)
        add_part(p, 1 + i, 0, 16, i * 16, i * 16 + 16, 0, 1);
    struct plan_simulation options = {
        .requests = 16, .clients = 8, .prompt = 64, .answer = 32, .zipf = 0};
    struct plan_simulated even = simulate(p, qwen, &made, options);
    options.zipf = 1.2;
    struct plan_simulated skewed = simulate(p, qwen, &made, options);
    struct plan_simulated again = simulate(p, qwen, &made, options);
    CU_ASSERT(skewed.seconds > even.seconds * 0.5 && skewed.seconds < even.seconds * 2);
    CU_ASSERT(fabs(skewed.seconds - even.seconds) > even.seconds * 0.001);
    CU_ASSERT_DOUBLE_EQUAL(skewed.seconds, again.seconds, 0);
    CU_ASSERT_DOUBLE_EQUAL(skewed.token_s.p99, again.token_s.p99, 0);
    options.seed = 2;
    struct plan_simulated other = simulate(p, qwen, &made, options);
    CU_ASSERT(fabs(skewed.seconds - other.seconds) > 0);
    CU_ASSERT(skewed.token_s.p50 <= skewed.token_s.p90 && skewed.token_s.p90 <= skewed.token_s.max);
    plan_placement_destroy(p);
    destroy_shape(qwen);
}

/* Ten thousand machines: stages of few layers, and hosts of single experts behind each. */
static void test_large(void)
{
    enum { STAGES = 80, HOSTS = 124, ALL = STAGES * (HOSTS + 1) };
    struct plan_shape *shape = made_shape(STAGES, 100000000, HOSTS, 4, 50000000);
    static struct plan_machine machines[ALL];
    struct made_cluster one;
    struct plan_placement *p;
    make_cluster(&one, 1, 8, 40);
    for (uint32_t i = 0; i < ALL; i++)
        machines[i] = one.machines[0];
    one.cluster.n_machines = ALL;
    one.cluster.machines = machines;
    CU_ASSERT_EQUAL_FATAL(plan_placement_create(&p, ALL, STAGES, ALL, &error), PROTO_OK);
    p->n_workers = ALL;
    for (uint32_t i = 0; i < ALL; i++)
        p->workers[i] = (struct plan_worker){.machine = i};
    for (uint32_t s = 0; s < STAGES; s++) {
        p->stages[p->n_stages++] = (struct plan_stage){s, s, s + 1, s == 0, s + 1 == STAGES};
        for (uint32_t h = 0; h < HOSTS; h++)
            p->parts[p->n_parts++] =
                (struct shard_expert_part){STAGES + s * HOSTS + h, s, s + 1, h, h + 1, 0, 1};
    }
    plan_placement_measure(p, shape, &one.cluster);
    CU_ASSERT_EQUAL(plan_placement_check(p, shape, &one.cluster, &error), PROTO_OK);
    struct plan_simulation options = {.requests = 200,
                                      .arrivals_s = 20,
                                      .max_seqs = 128,
                                      .prompt = 32,
                                      .answer = 8,
                                      .spread = true};
    struct plan_simulated open = simulate(p, shape, &one, options), most;
    CU_ASSERT(open.seconds > 0 && open.request_s.p99 >= open.request_s.p50);
    options.seed = 1;
    CU_ASSERT_EQUAL(plan_saturation(&most, p, shape, &one.cluster, &options, &error), PROTO_OK);
    CU_ASSERT(most.requests_s > 0 && most.busiest.share <= 1.0001);
    plan_placement_destroy(p);
    destroy_shape(shape);
}

static void test_bad_options(void)
{
    static const struct plan_simulation bad[] = {
        {.clients = 1, .answer = 1},
        {.requests = 1, .answer = 1},
        {.requests = 1, .clients = 1},
        {.requests = 1, .clients = 1, .answer = 1, .zipf = -1},
        {.requests = 1, .clients = 1, .answer = 1, .zipf = NAN},
        {.requests = 1, .arrivals_s = INFINITY, .answer = 1},
        {.requests = 1, .arrivals_s = -1, .answer = 1},
        {.requests = 1, .clients = 1, .answer = 1, .max_seqs = UINT32_MAX},
    };
    struct plan_shape *shape = made_shape(2, 1000, 0, 0, 0);
    struct made_cluster made;
    struct plan_simulated s;
    make_cluster(&made, 1, 8, 40);
    struct plan_placement *p = new_placement();
    add_stage(p, shape, 0, PLAN_CPU, 2);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        CU_ASSERT_EQUAL(plan_simulate(&s, p, shape, &made.cluster, &bad[i], &error), PROTO_LIMIT);
    plan_placement_destroy(p);
    destroy_shape(shape);
}

int main(void)
{
    CU_initialize_registry();
    CU_pSuite suite = CU_add_suite("plan simulate", NULL, NULL);
    CU_add_test(suite, "one sequence", test_one_sequence);
    CU_add_test(suite, "a queue", test_queue);
    CU_add_test(suite, "a closed network", test_closed);
    CU_add_test(suite, "skew", test_skew);
    CU_add_test(suite, "ten thousand machines", test_large);
    CU_add_test(suite, "bad options", test_bad_options);
    CU_basic_set_mode(CU_BRM_VERBOSE);
    CU_basic_run_tests();
    int failures = (int)CU_get_number_of_failures();
    CU_cleanup_registry();
    return failures != 0;
}
