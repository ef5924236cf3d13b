/* SPDX-License-Identifier: Apache-2.0 */
#include <CUnit/Basic.h>
#include <math.h>
#include <string.h>

#include "shard/plan/cost.h"
#include "shard/plan/slowest.h"
#include "shard/plan/work.h"
#include "tests/shard/planned.h"

#define CPUS 9u

static struct proto_error error;
static struct plan_shape *maverick;

static int open_shape(void)
{
    maverick = preset_shape("maverick", "Q4_K",
                            &(struct plan_shape_options){
                                .kv = KERN_KV_F16, .ctx = 4096, .max_seqs = 4, .max_rows = 512});
    return 0;
}

static int close_shape(void)
{
    destroy_shape(maverick);
    return 0;
}

static struct plan_cost cost_of(struct plan_placement *p, const struct plan_shape *shape,
                                const struct made_cluster *made, const struct plan_load *load)
{
    struct plan_cost cost;
    CU_ASSERT_EQUAL(plan_placement_check(p, shape, &made->cluster, &error), PROTO_OK);
    CU_ASSERT_EQUAL_FATAL(plan_cost_estimate(&cost, NULL, p, shape, &made->cluster, load, &error),
                          PROTO_OK);
    const struct plan_budget *t = &cost.token;
    CU_ASSERT_DOUBLE_EQUAL(t->compute_s + t->memory_s + t->wire_s + t->wait_s, cost.decode_s,
                           cost.decode_s * 1e-9);
    return cost;
}

/* Llama 4 Maverick at 4.5 bits: DESIGN.md, section 1, whose estimates were made with other means.
 * Nothing of the attention counts: depth 1. */
static void test_design(void)
{
    const struct plan_load load = {.depth = 1};
    struct made_cluster made;
    make_cluster(&made, CPUS + 1, 64, 40);
    make_gpu(&made, 0, 12, 360);

    struct plan_placement *p = new_placement();
    for (uint32_t i = 1; i <= 6; i++)
        add_stage(p, maverick, i, PLAN_CPU, i * 8);
    struct plan_cost cost = cost_of(p, maverick, &made, &load);
    CU_ASSERT_DOUBLE_EQUAL(1 / cost.decode_s, 4.4, 0.2);
    CU_ASSERT_EQUAL(cost.decode_bound.kind, PLAN_BOUND_MEMORY);
    CU_ASSERT_DOUBLE_EQUAL(cost.frames, 7, 1e-9);
    plan_placement_destroy(p);

    p = new_placement();
    add_stage(p, maverick, 0, PLAN_GPU, 48);
    for (uint32_t i = 0; i < 8; i++)
        add_part(p, 1 + i, 0, 48, i * 16, i * 16 + 16, 0, 1);
    cost = cost_of(p, maverick, &made, &load);
    CU_ASSERT_DOUBLE_EQUAL(1 / cost.decode_s, 13.5, 1.0);
    CU_ASSERT_DOUBLE_EQUAL(cost.frames, 2 * 24 + 2, 1e-6);
    plan_placement_destroy(p);

    p = new_placement();
    add_stage(p, maverick, 0, PLAN_GPU, 48);
    for (uint32_t i = 0; i < 8; i++)
        add_part(p, 1 + i, 0, 48, i / 2 * 32, i / 2 * 32 + 32, i % 2, 2);
    cost = cost_of(p, maverick, &made, &load);
    CU_ASSERT_DOUBLE_EQUAL(1 / cost.decode_s, 18.9, 1.5);
    CU_ASSERT_DOUBLE_EQUAL(cost.frames, 2 * 24 * 2 + 2, 1e-6);
    CU_ASSERT(plan_placement_uses_gpu(p));
    plan_placement_destroy(p);
}

/* Products: bound by memory for one row, by arithmetic for many, and the rate of one row is that of
 * the profile. */
static void test_products(void)
{
    const struct plan_device d = {
        .read_bytes_s = 40e9, .ops_row_s = 1e12, .ops_rows_s = 4e12, .ops_float_s = 1e11};
    struct plan__time one = plan__products(&d, 40e6, 80e6, 1);
    CU_ASSERT(one.compute_s <= 0);
    CU_ASSERT_DOUBLE_EQUAL(one.memory_s, 1e-3, 1e-12);
    one = plan__products(&d, 1, 80e6, 1);
    CU_ASSERT_DOUBLE_EQUAL(one.compute_s, 80e-6, 1e-12);
    struct plan__time many = plan__products(&d, 40e6, 80e6 * 1000, 1000);
    CU_ASSERT(many.memory_s <= 0);
    CU_ASSERT_DOUBLE_EQUAL(many.compute_s, 20e-3, 0.1e-3);
}

/* Draws two of six experts that three racers have, in all 15 ways. */
static void test_slowest(void)
{
    const struct plan__racer racers[3] = {{3, 0.5, 1.0, 0}, {2, 0.1, 2.0, 0}, {1, 0.7, 0.3, 1}};
    static const int owner[6] = {0, 0, 0, 1, 1, 2};
    double sum = 0;
    for (int i = 0; i < 6; i++) {
        for (int j = 0; j < i; j++) {
            double most = racers[2].base_s;
            for (int r = 0; r < 3; r++) {
                int n = (owner[i] == r) + (owner[j] == r);
                double t = n || racers[r].always ? racers[r].base_s + n * racers[r].each_s : 0;
                most = fmax(most, t);
            }
            sum += most;
        }
    }
    CU_ASSERT_DOUBLE_EQUAL(plan__slowest_drawn(racers, 3, 2), sum / 15, 1e-9);
    CU_ASSERT_DOUBLE_EQUAL(plan__slowest_drawn(racers, 3, 1), (3 * 1.5 + 2 * 2.1 + 1 * 1.0) / 6,
                           1e-9);
    CU_ASSERT_DOUBLE_EQUAL(plan__largest_normal(2), 0.564, 1e-9);
    CU_ASSERT_DOUBLE_EQUAL(plan__largest_normal(1), 0, 1e-9);
}

/* A stage with hosts: frames, bytes, and the parts of a token's time by worker. */
static void test_hosts(void)
{
    enum { LAYERS = 6, EXPERTS = 64, USED = 8 };
    struct plan_shape *shape = made_shape(LAYERS, 10000000, EXPERTS, USED, 1000000);
    struct made_cluster made;
    struct plan_usage usage[5];
    struct plan_cost cost;
    make_cluster(&made, 3, 8, 40);
    made.machines[0].coordinator = true;
    struct plan_placement *p = new_placement();
    add_stage(p, shape, 0, PLAN_CPU, LAYERS);
    add_part(p, 1, 0, LAYERS, 0, EXPERTS, 0, 2);
    add_part(p, 2, 0, LAYERS, 0, EXPERTS, 1, 2);
    CU_ASSERT_EQUAL_FATAL(plan_cost_estimate(&cost, usage, p, shape, &made.cluster,
                                             &(struct plan_load){.depth = 1}, &error),
                          PROTO_OK);
    /* Each host holds whole slices of all experts: one sum comes back. */
    CU_ASSERT_DOUBLE_EQUAL(cost.frames, 2 * LAYERS * 2 + 2, 1e-9);
    CU_ASSERT_DOUBLE_EQUAL(cost.wire_bytes, LAYERS * 2 * (4096 + 16384), 1e-6);
    double token = 0;
    for (uint32_t w = 0; w < p->n_workers; w++)
        token += usage[w].token.compute_s + usage[w].token.memory_s + usage[w].token.wire_s +
                 usage[w].token.wait_s;
    CU_ASSERT_DOUBLE_EQUAL(token, cost.decode_s, cost.decode_s * 1e-6);
    /* 8 MB of experts halved, a round trip, what passes on the link: two requests or answers one
     * after another, the answers being longer. */
    double wire = 2 * 16384 / 125e6 + 4096 / 125e6;
    double layer = 10e6 / 40e9 + 4e6 / 40e9 + 0.3e-3 + wire;
    CU_ASSERT_DOUBLE_EQUAL(cost.decode_s, LAYERS * layer + 10e6 / 40e9, 30e-6);
    CU_ASSERT_EQUAL(cost.decode_bound.machine, 0);

    /* Many rows touch most experts: more is read for them, but less for each. */
    struct plan_cost many;
    plan_cost_estimate(&many, NULL, p, shape, &made.cluster,
                       &(struct plan_load){.depth = 1, .sequences = 32}, &error);
    CU_ASSERT(many.step_s > cost.step_s && many.step_s < 32 * cost.step_s);
    plan_placement_destroy(p);
    destroy_shape(shape);
}

/* The slowest of three stages sets the pace of many, and of a long prompt. */
static void test_pipeline(void)
{
    struct plan_shape *shape = made_shape(12, 100000000, 0, 0, 0);
    struct made_cluster made;
    struct plan_cost cost;
    make_cluster(&made, 3, 8, 40);
    made.machines[1].device[PLAN_CPU].read_bytes_s = 20e9;
    made.machines[1].device[PLAN_CPU].ops_rows_s = 1e12;
    struct plan_placement *p = new_placement();
    for (uint32_t i = 0; i < 3; i++)
        add_stage(p, shape, i, PLAN_CPU, 4 * i + 4);
    const struct plan_load load = {.depth = 1, .sequences = 3, .prompt = 4096};
    cost = cost_of(p, shape, &made, &load);
    CU_ASSERT_EQUAL(cost.many_bound.kind, PLAN_BOUND_MEMORY);
    CU_ASSERT_EQUAL(cost.many_bound.machine, 1);
    CU_ASSERT_DOUBLE_EQUAL(cost.step_s, 3 * 4 * 100e6 / 20e9, 1e-3);
    CU_ASSERT_EQUAL(cost.prefill_bound.machine, 1);
    CU_ASSERT_EQUAL(cost.prefill_bound.kind, PLAN_BOUND_COMPUTE);
    CU_ASSERT_EQUAL(cost.chunk_rows, 352);
    double rows_s = 1e12 / (4 * 200e6);
    CU_ASSERT(cost.prompt_s > 4096 / rows_s && cost.prompt_s < 1.25 * 4096 / rows_s);
    char text[PLAN_BOTTLENECK_TEXT];
    CU_ASSERT_PTR_NOT_NULL(strstr(plan_bottleneck_text(&cost.many_bound, &made.cluster, text),
                                  "memory bandwidth of m1"));
    plan_placement_destroy(p);
    destroy_shape(shape);
}

int main(void)
{
    CU_initialize_registry();
    CU_pSuite suite = CU_add_suite("plan cost", open_shape, close_shape);
    CU_add_test(suite, "the design's estimates", test_design);
    CU_add_test(suite, "products", test_products);
    CU_add_test(suite, "the slowest host", test_slowest);
    CU_add_test(suite, "hosts", test_hosts);
    CU_add_test(suite, "a pipeline", test_pipeline);
    CU_basic_set_mode(CU_BRM_VERBOSE);
    CU_basic_run_tests();
    int failures = (int)CU_get_number_of_failures();
    CU_cleanup_registry();
    return failures != 0;
}
