/* SPDX-License-Identifier: Apache-2.0 */
/* Statistics of experts in plans: copies of the popular ones; and machines that are one computer's.
 */
#include <CUnit/Basic.h>
#include <stdlib.h>
#include <string.h>

#include "shard/plan/search.h"
#include "shard/plan/simulate.h"
#include "tests/shard/planned.h"

enum { LAYERS = 3, EXPERTS = 8 };

static struct proto_error error;
static struct made_cluster made;
static struct plan_shape *shape;
static uint64_t counts[LAYERS * EXPERTS];

/* Each layer's expert `il + 2` has half of the rows. */
static void count_one_hot(void)
{
    for (uint32_t i = 0; i < LAYERS * EXPERTS; i++)
        counts[i] = i % EXPERTS == i / EXPERTS + 2 ? 7000000 : 1000000;
}

/* A stage without room for experts, and hosts with room for some more than a share; arithmetic is
 * slow, so that rows count and not what is read. */
static void make_hosts(double memory_gb)
{
    make_cluster(&made, 5, memory_gb, 100);
    made.machines[0].device[PLAN_CPU].memory_bytes = 600 << 20;
    for (uint32_t i = 0; i < 5; i++)
        made.machines[i].device[PLAN_CPU].ops_row_s = made.machines[i].device[PLAN_CPU].ops_rows_s =
            1e11;
    made.cluster.any = (struct plan_link){.rtt_s = 1e-6, .bytes_s = 10e9};
    CU_ASSERT_EQUAL_FATAL(plan_cluster_complete(&made.cluster, &error), PROTO_OK);
}

static int make_shape(void)
{
    shape = made_shape(LAYERS, 32 << 20, EXPERTS, 1, 64 << 20);
    shape->options.max_seqs = 8;
    count_one_hot();
    return 0;
}

static int destroy(void)
{
    plan_shape_destroy(shape);
    return 0;
}

static uint32_t count_copies(const struct plan_placement *p, uint32_t layer, uint32_t expert)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < p->n_parts; i++)
        n += shard_part_has(&p->parts[i], 4, layer, expert, 0);
    return n;
}

static struct plan_answer *search(void)
{
    const struct plan_options options = {
        .split = PLAN_SPLIT_EXPERTS, .stages = 1, .slices = 1, .cpu_only = true};
    struct plan_answer *answer;
    CU_ASSERT_EQUAL_FATAL(plan_search(&answer, shape, &made.cluster, &options, &error), PROTO_OK);
    CU_ASSERT_EQUAL(plan_placement_check(answer->placement, shape, &made.cluster, &error),
                    PROTO_OK);
    return answer;
}

static void test_popularity(void)
{
    CU_ASSERT_EQUAL_FATAL(plan_shape_popularity(shape, counts, LAYERS, EXPERTS, &error), PROTO_OK);
    for (uint32_t il = 0; il < LAYERS; il++) {
        const struct plan_layer *l = &shape->layers[il];
        CU_ASSERT_DOUBLE_EQUAL(plan_layer_popularity(l, 0, EXPERTS), EXPERTS, 1e-3);
        CU_ASSERT_DOUBLE_EQUAL(plan_layer_popularity(l, il + 2, il + 3), EXPERTS / 2.0, 1e-3);
    }
    /* A handful of rows says little. */
    memset(counts, 0, sizeof counts);
    counts[0] = 2;
    CU_ASSERT_EQUAL_FATAL(plan_shape_popularity(shape, counts, LAYERS, EXPERTS, &error), PROTO_OK);
    CU_ASSERT(plan_layer_popularity(&shape->layers[0], 0, 1) < 1.2);
    CU_ASSERT_EQUAL(plan_shape_popularity(shape, counts, LAYERS + 1, EXPERTS, &error),
                    PROTO_INVALID);
    count_one_hot();
    CU_ASSERT_EQUAL_FATAL(plan_shape_popularity(shape, counts, LAYERS, EXPERTS, &error), PROTO_OK);
}

static void test_copies(void)
{
    struct plan_cost plain, skewed;
    make_hosts(2);
    struct plan_answer *answer = search();
    for (uint32_t il = 0; il < LAYERS; il++) {
        CU_ASSERT_EQUAL(count_copies(answer->placement, il, il + 2), 2);
        CU_ASSERT_EQUAL(count_copies(answer->placement, il, 7), 1);
    }
    /* The same plan without copies: half of the rows go to one host. */
    struct plan_placement *p = answer->placement;
    uint32_t n = 0;
    for (uint32_t i = 0; i < p->n_parts; i++) {
        bool copy = i > 0 && p->parts[i].layer_first == p->parts[i - 1].layer_first &&
                    p->parts[i].expert_first == p->parts[i - 1].expert_first;
        if (!copy)
            p->parts[n++] = p->parts[i];
    }
    CU_ASSERT_EQUAL(p->n_parts - n, LAYERS);
    p->n_parts = n;
    const struct plan_load load = {.sequences = 8};
    CU_ASSERT_EQUAL(plan_cost_estimate(&skewed, NULL, p, shape, &made.cluster, &load, &error),
                    PROTO_OK);
    CU_ASSERT(answer->cost.prompt_s < 0.95 * skewed.prompt_s);
    CU_ASSERT(answer->cost.step_s < skewed.step_s);
    /* Of experts alike it is as fast as the planner takes it to be. */
    const struct plan_layer *l = &shape->layers[0];
    const float *popular = l->popular;
    for (uint32_t il = 0; il < LAYERS; il++)
        shape->layers[il].popular = NULL;
    CU_ASSERT_EQUAL(plan_cost_estimate(&plain, NULL, p, shape, &made.cluster, &load, &error),
                    PROTO_OK);
    CU_ASSERT(plain.prompt_s < 0.9 * skewed.prompt_s);
    for (uint32_t il = 0; il < LAYERS; il++)
        shape->layers[il].popular = popular + il * (EXPERTS + 1);
    plan_answer_destroy(answer);
}

/* Where no host has room nothing is copied, and the plan is the same. */
static void test_no_room(void)
{
    make_hosts(0.45);
    struct plan_answer *answer = search();
    for (uint32_t il = 0; il < LAYERS; il++)
        for (uint32_t e = 0; e < EXPERTS; e++)
            CU_ASSERT_EQUAL(count_copies(answer->placement, il, e), 1);
    plan_answer_destroy(answer);
}

/* The simulator's rows choose as was counted: the host of the popular expert is the busiest. */
static void test_simulated(void)
{
    const struct plan_simulation options = {
        .seed = 1, .requests = 32, .clients = 8, .prompt = 64, .answer = 32};
    struct plan_simulated skewed, even;
    make_hosts(2);
    struct plan_placement *p = new_placement();
    add_stage(p, shape, 0, PLAN_CPU, LAYERS);
    for (uint32_t i = 0; i < 4; i++)
        add_part(p, i + 1, 0, LAYERS, i * 2, i * 2 + 2, 0, 1);
    CU_ASSERT_EQUAL(plan_simulate(&skewed, p, shape, &made.cluster, &options, &error), PROTO_OK);
    float *popularity = shape->popularity;
    shape->popularity = NULL;
    CU_ASSERT_EQUAL(plan_simulate(&even, p, shape, &made.cluster, &options, &error), PROTO_OK);
    shape->popularity = popularity;
    CU_ASSERT(skewed.requests_s < 0.95 * even.requests_s);
    plan_placement_destroy(p);
}

/* Narrow experts cannot be cut, however much faster that would be. */
static void test_segments(void)
{
    const struct plan_options options = {.split = PLAN_SPLIT_EXPERTS, .stages = 1};
    struct plan_answer *answer;
    make_hosts(2);
    for (uint32_t n = 1; n <= 2; n++) {
        for (uint32_t il = 0; il < LAYERS; il++)
            shape->layers[il].n_segments = n;
        CU_ASSERT_EQUAL_FATAL(plan_search(&answer, shape, &made.cluster, &options, &error),
                              PROTO_OK);
        for (uint32_t i = 0; i < answer->placement->n_parts; i++)
            CU_ASSERT(answer->placement->parts[i].n_slices <= n);
        answer->placement->parts[0].n_slices = 4;
        CU_ASSERT_EQUAL(plan_placement_check(answer->placement, shape, &made.cluster, &error),
                        PROTO_INVALID);
        plan_answer_destroy(answer);
        struct plan_options more = options;
        more.slices = 2 * n;
        CU_ASSERT_EQUAL(plan_search(&answer, shape, &made.cluster, &more, &error), PROTO_INVALID);
        plan_answer_destroy(answer);
    }
    for (uint32_t il = 0; il < LAYERS; il++)
        shape->layers[il].n_segments = 4;
}

/* ---- one computer ---- */

static double prefill(const struct plan_placement *p, double *decode)
{
    struct plan_cost cost;
    const struct plan_load load = {.sequences = 8};
    CU_ASSERT_EQUAL_FATAL(plan_cluster_complete(&made.cluster, &error), PROTO_OK);
    CU_ASSERT_EQUAL_FATAL(plan_cost_estimate(&cost, NULL, p, shape, &made.cluster, &load, &error),
                          PROTO_OK);
    *decode = 1 / cost.decode_s;
    return load.sequences / cost.row_s;
}

/* The first two machines become workers of one computer, each with so much of it. */
static void share(double part)
{
    for (uint32_t i = 0; i < 2; i++) {
        made.machines[i].computer = 1;
        made.machines[i].compute_share = made.machines[i].read_share = part;
    }
}

static void test_stages_share(void)
{
    struct plan_placement *p = new_placement();
    double decode, alone, full, half, same;
    make_hosts(2);
    add_stage(p, shape, 0, PLAN_CPU, 1);
    add_stage(p, shape, 1, PLAN_CPU, LAYERS);
    alone = prefill(p, &decode);
    CU_ASSERT_FALSE(made.cluster.shared);
    share(0.5);
    half = prefill(p, &same);
    CU_ASSERT_TRUE(made.cluster.shared);
    CU_ASSERT_DOUBLE_EQUAL(half, alone, 0.01 * alone);
    share(1);
    full = prefill(p, &same);
    CU_ASSERT(full < 0.8 * alone);
    /* Of one token only one of them has work at a time, and their link is the computer's own. */
    made.cluster.any.rtt_s = 0.01;
    double near;
    prefill(p, &near);
    made.machines[1].computer = 0;
    double far;
    prefill(p, &far);
    CU_ASSERT(near > far);
    plan_placement_destroy(p);
}

/* Hosts of one computer that work at the same time slow one another down. */
static void test_hosts_share(void)
{
    struct plan_placement *p = new_placement();
    double alone, shared, decode;
    make_hosts(2);
    add_stage(p, shape, 4, PLAN_CPU, LAYERS);
    add_part(p, 0, 0, LAYERS, 0, EXPERTS / 2, 0, 1);
    add_part(p, 1, 0, LAYERS, EXPERTS / 2, EXPERTS, 0, 1);
    alone = prefill(p, &decode);
    share(1);
    shared = prefill(p, &decode);
    CU_ASSERT(shared < 0.9 * alone);
    share(0.5);
    CU_ASSERT_DOUBLE_EQUAL(prefill(p, &decode), alone, 0.01 * alone);
    /* So does the simulator say. */
    const struct plan_simulation options = {
        .seed = 1, .requests = 32, .clients = 8, .prompt = 64, .answer = 32};
    struct plan_simulated apart, together;
    CU_ASSERT_EQUAL(plan_simulate(&apart, p, shape, &made.cluster, &options, &error), PROTO_OK);
    share(1);
    CU_ASSERT_EQUAL(plan_simulate(&together, p, shape, &made.cluster, &options, &error), PROTO_OK);
    CU_ASSERT(together.requests_s < 0.9 * apart.requests_s);
    plan_placement_destroy(p);
}

/* What arithmetic bounds for one host alone, the memory of both may bound. */
static void test_hosts_share_memory(void)
{
    struct plan_placement *p = new_placement();
    double alone, shared;
    make_hosts(2);
    add_stage(p, shape, 4, PLAN_CPU, LAYERS);
    add_part(p, 0, 0, LAYERS, 0, EXPERTS, 0, 2);
    add_part(p, 1, 0, LAYERS, 0, EXPERTS, 1, 2);
    for (uint32_t i = 0; i < 2; i++) {
        struct plan_device *device = &made.machines[i].device[PLAN_CPU];
        device->ops_row_s = device->ops_rows_s = 2 * device->read_bytes_s / 1.1;
    }
    prefill(p, &alone);
    share(0.5);
    made.machines[0].read_share = made.machines[1].read_share = 1;
    prefill(p, &shared);
    CU_ASSERT(shared < 0.9 * alone);
    plan_placement_destroy(p);
}

static void test_coordinator_links(void)
{
    struct plan_named_link links[] = {{0, PLAN_ELSEWHERE, {.rtt_s = 0.5, .bytes_s = 1e9}},
                                      {PLAN_ELSEWHERE, 0, {.rtt_s = 0.25, .bytes_s = 1e9}}};
    make_hosts(2);
    made.cluster.links = links;
    made.cluster.n_links = 2;
    CU_ASSERT_EQUAL(plan_cluster_complete(&made.cluster, &error), PROTO_OK);
    CU_ASSERT_EQUAL(plan_cluster_link(&made.cluster, 0, PLAN_ELSEWHERE).rtt_s, 0.5);
    CU_ASSERT_EQUAL(plan_cluster_link(&made.cluster, PLAN_ELSEWHERE, 0).rtt_s, 0.25);
    CU_ASSERT_EQUAL(plan_cluster_link(&made.cluster, PLAN_ELSEWHERE, 1).rtt_s, 1e-6);
    made.machines[2].compute_share = 1.5;
    CU_ASSERT_EQUAL(plan_cluster_complete(&made.cluster, &error), PROTO_INVALID);
}

int main(void)
{
    CU_initialize_registry();
    CU_pSuite suite = CU_add_suite("usage", make_shape, destroy);
    CU_add_test(suite, "popularity", test_popularity);
    CU_add_test(suite, "copies", test_copies);
    CU_add_test(suite, "no room", test_no_room);
    CU_add_test(suite, "simulated", test_simulated);
    CU_add_test(suite, "segments", test_segments);
    CU_add_test(suite, "stages share a computer", test_stages_share);
    CU_add_test(suite, "hosts share a computer", test_hosts_share);
    CU_add_test(suite, "hosts share memory", test_hosts_share_memory);
    CU_add_test(suite, "links of the coordinator", test_coordinator_links);
    CU_basic_set_mode(CU_BRM_VERBOSE);
    CU_basic_run_tests();
    int failures = (int)CU_get_number_of_failures();
    CU_cleanup_registry();
    return failures != 0;
}
