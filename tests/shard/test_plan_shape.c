/* SPDX-License-Identifier: Apache-2.0 */
#include <CUnit/Basic.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "shard/kv.h"
#include "shard/plan/search.h"
#include "shard/plan/span.h"
#include "tests/shard/planned.h"

static struct proto_error error;
static const struct plan_shape_options sizes = {
    .kv = KERN_KV_F16, .ctx = 4096, .max_seqs = 2, .max_rows = 128};

/* ---- shapes ---- */

/* Layers added up take what the program of all takes, but for vectors that each layer's has. */
static void check_sums(const char *preset, const char *type)
{
    struct plan_shape *shape = preset_shape(preset, type, &sizes);
    struct shard_program *all;
    CU_ASSERT_EQUAL_FATAL(
        shard_program_create(&all, shape->model, 0, shape->n_layers, true, true, &error), PROTO_OK);
    uint64_t exact = shard_program_weight_bytes(all), sum = plan_shape_weight_bytes(shape);
    CU_ASSERT(sum >= exact && sum <= exact + shape->n_layers * 1024ull);
    CU_ASSERT_EQUAL(plan__stage_weights(shape, 0, shape->n_layers, true, true), sum);
    CU_ASSERT_EQUAL(plan__stage_kv(shape, 0, shape->n_layers),
                    shard_kv_limit(all, sizes.kv, sizes.ctx, sizes.max_seqs));
    CU_ASSERT(plan_shape_token_bytes(shape) <= sum);
    shard_program_destroy(all);
    destroy_shape(shape);
}

static void test_sums(void)
{
    static const char *const presets[] = {"llama3-tiny",    "mixtral-tiny", "qwen3moe-tiny",
                                          "deepseek2-tiny", "gpt-oss-tiny", "qwen35moe-tiny",
                                          "gemma4-e-tiny",  "glm4moe-tiny", "llama4-scout-tiny"};
    for (size_t i = 0; i < sizeof presets / sizeof presets[0]; i++)
        check_sums(presets[i], "F16");
    check_sums("qwen3moe-k", "Q4_K");
    check_sums("maverick", "Q4_K");
}

static void test_maverick(void)
{
    struct plan_shape *shape = preset_shape("maverick", "Q4_K", &sizes), *scaled;
    const struct plan_layer *dense = &shape->layers[0], *moe = &shape->layers[1];
    CU_ASSERT_EQUAL(plan_shape_moe_layers(shape), 24);
    CU_ASSERT_EQUAL(dense->n_experts, 0);
    CU_ASSERT(moe->n_experts == 128 && moe->n_used == 1 && moe->n_segments == 4);
    /* 3 x 5120 x 8192 values of 4.5 bits, a little more in memory; a row of int8 with scales and
     * sums; a row of floats. */
    CU_ASSERT_DOUBLE_EQUAL((double)moe->expert_bytes, 3 * 5120 * 8192 * 4.5 / 8, 3e6);
    CU_ASSERT_DOUBLE_EQUAL(moe->expert_ops, 2.0 * 3 * 5120 * 8192, 1);
    CU_ASSERT(moe->request_bytes >= 5120 && moe->request_bytes < 6000);
    CU_ASSERT_EQUAL(moe->answer_bytes, 20480);
    CU_ASSERT_EQUAL(moe->row_bytes, 20480);
    CU_ASSERT_DOUBLE_EQUAL((double)moe->beside_bytes, (double)moe->expert_bytes, 1);
    CU_ASSERT_DOUBLE_EQUAL(shape->head_ops, 2.0 * 5120 * 202048, 1);
    /* Of four layers three see chunks of 8192, half of them on average; 8 KV heads of 2 x 128. */
    CU_ASSERT(dense->chunked && dense->window == 8192 && shape->layers[3].window == 0);
    CU_ASSERT_EQUAL(dense->key_bytes, 8 * 2 * 128 * 2);
    CU_ASSERT_DOUBLE_EQUAL(dense->key_ops, 2.0 * 40 * 256, 0);
    CU_ASSERT_DOUBLE_EQUAL(plan_layer_keys(dense, 100), 101, 0);
    CU_ASSERT_DOUBLE_EQUAL(plan_layer_keys(dense, 50000), 4096, 0);
    CU_ASSERT_DOUBLE_EQUAL(plan_layer_keys(&shape->layers[3], 50000), 50001, 0);
    CU_ASSERT_DOUBLE_EQUAL((double)plan_shape_token_bytes(shape), 9.2e9, 0.4e9);
    double ops = 0;
    for (int t = 0; t < KERN_TYPE_SLOTS; t++)
        ops += shape->type_ops[t];
    CU_ASSERT_DOUBLE_EQUAL(ops, 2 * 16.14e9, 0.2e9);
    CU_ASSERT_EQUAL(plan_shape_scaled(&scaled, shape, shape->weight_bits / 2, &error), PROTO_OK);
    CU_ASSERT_DOUBLE_EQUAL((double)plan_shape_weight_bytes(scaled),
                           (double)plan_shape_weight_bytes(shape) / 2, 1e6);
    CU_ASSERT_EQUAL(scaled->layers[1].answer_bytes, moe->answer_bytes);
    plan_shape_destroy(scaled);
    destroy_shape(shape);
}

static void test_chances(void)
{
    const struct plan_layer l = {.n_experts = 64, .n_used = 8};
    CU_ASSERT_DOUBLE_EQUAL(plan_layer_touched(&l, 64, 1), 8, 1e-9);
    CU_ASSERT_DOUBLE_EQUAL(plan_layer_touched(&l, 32, 2), 32 * (1 - 0.875 * 0.875), 1e-9);
    /* All of a row's: one sum. Half of them: the chance of none is C(32, 8) / C(64, 8). */
    CU_ASSERT_DOUBLE_EQUAL(plan_range_answers(&l, 0, 64, 4), 1, 1e-9);
    CU_ASSERT_DOUBLE_EQUAL(plan_range_answers(&l, 5, 5, 4), 0, 1e-9);
    double all = 10518300.0 / 4426165368.0;
    CU_ASSERT_DOUBLE_EQUAL(plan_range_answers(&l, 32, 64, 4), all + (1 - 2 * all) * 4, 1e-9);
    /* Two of four experts a row: the host of 1 and 2 has a node for each, both in a row that uses
     * both alone. Of the six rows it is used by 01 02 12 13 23 in 1 1 1 1 1 groups, 12 as the root.
     */
    const struct plan_layer four = {.n_experts = 4, .n_used = 2};
    CU_ASSERT_DOUBLE_EQUAL(plan_range_answers(&four, 1, 3, 4), (4 * 4 + 1) / 6.0, 1e-9);
    /* Three of them: 012 in 2 groups (1 and 2 are under different nodes), 013 023 in 1, 123 in 2.
     */
    const struct plan_layer three = {.n_experts = 4, .n_used = 3};
    CU_ASSERT_DOUBLE_EQUAL(plan_range_answers(&three, 1, 3, 1), (2 + 1 + 1 + 2) / 4.0, 1e-9);
}

static void test_bad_shapes(void)
{
    struct plan_shape *shape = preset_shape("llama-k", "Q4_K", &sizes), *none;
    struct plan_shape_options bad = sizes;
    bad.ctx = 0;
    CU_ASSERT_EQUAL(plan_shape_create(&none, shape->model, &bad, &error), PROTO_LIMIT);
    CU_ASSERT_PTR_NULL(none);
    bad = sizes;
    bad.max_seqs = PROTO_MAX_SEQUENCES + 1;
    CU_ASSERT_EQUAL(plan_shape_create(&none, shape->model, &bad, &error), PROTO_LIMIT);
    destroy_shape(shape);
}

/* ---- clusters ---- */

static void test_cluster(void)
{
    struct plan_machine machines[3] = {
        {.name = "a", .device = {{.memory_bytes = 1 << 30, .read_bytes_s = 75e9}}},
        {.name = "b",
         .device = {{.memory_bytes = 1 << 30}, {.memory_bytes = 1 << 30, .ops_rows_s = 1e13}},
         .coordinator = true},
        {.name = "c", .device = {{.memory_bytes = 1 << 30}}}};
    struct plan_named_link links[] = {{0, 1, {.rtt_s = 1e-4}}, {1, 0, {.bytes_s = 1e9}}};
    struct plan_cluster c = {.n_machines = 3, .machines = machines, .n_links = 2, .links = links};
    CU_ASSERT_EQUAL_FATAL(plan_cluster_complete(&c, &error), PROTO_OK);
    CU_ASSERT_EQUAL(machines[0].estimated & 2u, 0);
    CU_ASSERT(machines[0].estimated & 8u && machines[1].estimated & 2u);
    CU_ASSERT(machines[1].estimated & 1u << 6 && !(machines[1].estimated & 1u << 8));
    CU_ASSERT_DOUBLE_EQUAL(machines[0].device[PLAN_CPU].read_bytes_s, 75e9, 0);
    CU_ASSERT(machines[2].device[PLAN_CPU].ops_row_s > 0 && machines[2].threads > 0);
    CU_ASSERT_DOUBLE_EQUAL(machines[2].device[PLAN_GPU].read_bytes_s, 0, 0);
    CU_ASSERT(c.link_estimated);
    CU_ASSERT_DOUBLE_EQUAL(plan_cluster_link(&c, 0, 1).rtt_s, 1e-4, 0);
    CU_ASSERT_DOUBLE_EQUAL(plan_cluster_link(&c, 0, 1).bytes_s, c.any.bytes_s, 0);
    CU_ASSERT_DOUBLE_EQUAL(plan_cluster_link(&c, 1, 0).bytes_s, 1e9, 0);
    CU_ASSERT_DOUBLE_EQUAL(plan_cluster_link(&c, 2, 0).rtt_s, c.any.rtt_s, 0);
    CU_ASSERT_DOUBLE_EQUAL(plan_cluster_link(&c, 2, 2).rtt_s, c.local.rtt_s, 0);
    CU_ASSERT_EQUAL(plan_cluster_coordinator(&c), 1);
}

/* One thing is wrong; the text says what. */
static void check_refused(const char *text, void (*spoil)(struct made_cluster *))
{
    struct made_cluster made;
    make_cluster(&made, 3, 8, 40);
    spoil(&made);
    CU_ASSERT_NOT_EQUAL(plan_cluster_complete(&made.cluster, &error), PROTO_OK);
    CU_ASSERT_PTR_NOT_NULL(strstr(error.text, text));
}

static struct plan_named_link two_links[2];

static void no_memory(struct made_cluster *m)
{
    m->machines[1].device[PLAN_CPU].memory_bytes = 0;
}
static void negative(struct made_cluster *m)
{
    m->machines[2].device[PLAN_CPU].read_bytes_s = -1;
}
static void no_number(struct made_cluster *m)
{
    m->cluster.any.rtt_s = NAN;
}
static void two_coordinators(struct made_cluster *m)
{
    m->machines[0].coordinator = m->machines[2].coordinator = true;
}
static void unknown_end(struct made_cluster *m)
{
    two_links[0] = (struct plan_named_link){.from = 0, .to = 3};
    m->cluster.links = two_links;
    m->cluster.n_links = 1;
}
static void twice(struct made_cluster *m)
{
    two_links[0] = two_links[1] = (struct plan_named_link){.from = 0, .to = 1};
    m->cluster.links = two_links;
    m->cluster.n_links = 2;
}
static void nobody(struct made_cluster *m)
{
    m->cluster.n_machines = 0;
}

static void test_bad_clusters(void)
{
    check_refused("m1 has no memory", no_memory);
    check_refused("machine m2", negative);
    check_refused("any two machines", no_number);
    check_refused("m0 and m2 both", two_coordinators);
    check_refused("expected below 3", unknown_end);
    check_refused("named twice", twice);
    check_refused("0 machines", nobody);
}

static void test_rates(void)
{
    struct plan_device d = {.ops_row_s = 1, .ops_rows_s = 2};
    struct plan_type_rates rates = {0};
    double ops[KERN_TYPE_SLOTS] = {[KERN_Q4_K] = 3e9, [KERN_Q6_K] = 1e9};
    plan_device_rate(&d, &rates, ops);
    CU_ASSERT_DOUBLE_EQUAL(d.ops_row_s, 1, 0);
    rates.row_s[KERN_Q4_K] = 3e11;
    rates.row_s[KERN_Q6_K] = 1e11;
    rates.rows_s[KERN_Q4_K] = 4e11; /* the other: as the slowest */
    plan_device_rate(&d, &rates, ops);
    CU_ASSERT_DOUBLE_EQUAL(d.ops_row_s, 4e9 / 0.02, 1);
    CU_ASSERT_DOUBLE_EQUAL(d.ops_rows_s, 4e11, 1);
    rates.row_s[KERN_F16] = 1e10; /* tells nothing of types that come in blocks */
    ops[KERN_IQ4_NL] = 1e9;
    plan_device_rate(&d, &rates, ops);
    CU_ASSERT_DOUBLE_EQUAL(d.ops_row_s, 5e9 / 0.03, 1);
    ops[KERN_BF16] = 1e9;
    plan_device_rate(&d, &rates, ops);
    CU_ASSERT_DOUBLE_EQUAL(d.ops_row_s, 6e9 / 0.13, 1);
}

/* ---- placements ---- */

/* Programs want every expert named: stages have the last eight. */
static void check_parts(const struct plan_placement *p, const struct plan_shape *shape)
{
    struct plan_parts parts;
    CU_ASSERT_EQUAL_FATAL(plan_parts_create(&parts, p, shape, &error), PROTO_OK);
    CU_ASSERT_EQUAL_FATAL(parts.n, 4);
    for (uint32_t s = 0; s < 2; s++) {
        const struct shard_expert_part *part = &parts.at[2 + s];
        CU_ASSERT(part->worker == s && part->n_slices == 1);
        CU_ASSERT(part->layer_first == 6 * s && part->layer_end == 6 * (s + 1));
        CU_ASSERT(part->expert_first == 24 && part->expert_end == 32);
    }
    free(parts.at);
}

static void test_placement(void)
{
    struct plan_shape *shape = preset_shape("llama4-5b", "Q4_K", &sizes);
    struct made_cluster made;
    make_cluster(&made, 4, 8, 40);
    struct plan_placement *p = new_placement();
    add_stage(p, shape, 0, PLAN_CPU, 6);
    add_stage(p, shape, 1, PLAN_CPU, 12);
    for (uint32_t i = 0; i < 2; i++)
        add_part(p, 2 + i, 0, 12, 0, 24, i, 2);
    plan_placement_measure(p, shape, &made.cluster);
    CU_ASSERT_EQUAL(plan_placement_check(p, shape, &made.cluster, &error), PROTO_OK);
    uint64_t sum = 0, before[4];
    for (uint32_t w = 0; w < 4; w++)
        before[w] = p->workers[w].weight_bytes + p->workers[w].scratch_bytes;
    for (uint32_t w = 0; w < p->n_workers; w++)
        sum += p->workers[w].weight_bytes;
    CU_ASSERT_EQUAL(sum, plan_shape_weight_bytes(shape));
    CU_ASSERT_EQUAL(p->workers[2].weight_bytes, 6 * 24 * shape->layers[1].expert_bytes / 2);
    CU_ASSERT(p->workers[2].kv_bytes == 0 && p->workers[2].scratch_bytes > 0);
    CU_ASSERT_EQUAL(plan_placement_refine(p, shape, &made.cluster, &error), PROTO_OK);
    for (uint32_t w = 0; w < 4; w++) {
        uint64_t after = p->workers[w].weight_bytes + p->workers[w].scratch_bytes;
        CU_ASSERT(after <= before[w] && after > before[w] * 9 / 10);
    }
    check_parts(p, shape);

    const struct shard_expert_part good = p->parts[1];
    p->parts[1].slice = 0; /* the first slice twice, the second never */
    CU_ASSERT_EQUAL(plan_placement_check(p, shape, &made.cluster, &error), PROTO_INVALID);
    p->parts[1] = good;
    p->parts[1].expert_end = 25;
    CU_ASSERT_EQUAL(plan_placement_check(p, shape, &made.cluster, &error), PROTO_INVALID);
    p->parts[1] = good;
    p->parts[1].worker = p->parts[0].worker;
    CU_ASSERT_EQUAL(plan_placement_check(p, shape, &made.cluster, &error), PROTO_INVALID);
    p->parts[1] = good;
    p->parts[1].layer_end = 11;
    CU_ASSERT_EQUAL(plan_placement_check(p, shape, &made.cluster, &error), PROTO_INVALID);
    p->parts[1] = good;
    p->parts[0].expert_end = p->parts[1].expert_end = 33;
    CU_ASSERT_EQUAL(plan_placement_check(p, shape, &made.cluster, &error), PROTO_INVALID);
    p->parts[0].expert_end = p->parts[1].expert_end = 24;
    p->stages[1].layer_end = 11;
    CU_ASSERT_EQUAL(plan_placement_check(p, shape, &made.cluster, &error), PROTO_INVALID);
    p->stages[1].layer_end = 12;
    made.machines[3].device[PLAN_CPU].memory_bytes = 1000000;
    CU_ASSERT_EQUAL(plan_placement_check(p, shape, &made.cluster, &error), PROTO_CAPACITY);
    CU_ASSERT_PTR_NOT_NULL(strstr(error.text, "worker m3 offers"));
    plan_placement_destroy(p);
    destroy_shape(shape);
}

/* ---- by rule ---- */

static struct plan_placement *rule(const struct plan_shape *shape, const struct made_cluster *made,
                                   struct plan_options options)
{
    struct plan_placement *p;
    if (plan_by_rule(&p, shape, &made->cluster, &options, &error) != PROTO_OK)
        return NULL;
    CU_ASSERT_EQUAL(plan_placement_check(p, shape, &made->cluster, &error), PROTO_OK);
    return p;
}

static void test_rule(void)
{
    struct plan_shape *shape = preset_shape("qwen3moe-3b", "Q4_K", &sizes);
    struct made_cluster made;
    make_cluster(&made, 6, 8, 40);
    struct plan_placement *p =
        rule(shape, &made, (struct plan_options){.split = PLAN_SPLIT_EXPERTS});
    CU_ASSERT_FATAL(p && p->n_stages == 1 && p->n_parts == 5);
    CU_ASSERT(p->parts[0].expert_first == 0 && p->parts[4].expert_end == 64);
    plan_placement_destroy(p);

    /* Two stages with two hosts each: machines 2 and 3 serve the first. */
    p = rule(shape, &made, (struct plan_options){.split = PLAN_SPLIT_EXPERTS, .stages = 2});
    CU_ASSERT_FATAL(p && p->n_stages == 2 && p->n_parts == 4);
    CU_ASSERT_EQUAL(p->workers[p->parts[0].worker].machine, 2);
    CU_ASSERT_EQUAL(p->workers[p->parts[1].worker].machine, 3);
    CU_ASSERT_EQUAL(p->parts[2].layer_first, p->stages[1].layer_first);
    plan_placement_destroy(p);

    /* Five hosts cannot be paired. */
    CU_ASSERT_PTR_NULL(
        rule(shape, &made, (struct plan_options){.split = PLAN_SPLIT_EXPERTS, .slices = 2}));
    CU_ASSERT_EQUAL(error.status, PROTO_INVALID);
    CU_ASSERT_PTR_NOT_NULL(strstr(error.text, "multiple of 2 hosts"));
    made.cluster.n_machines = 5;
    p = rule(shape, &made, (struct plan_options){.split = PLAN_SPLIT_EXPERTS, .slices = 2});
    CU_ASSERT_FATAL(p && p->n_parts == 4 && p->parts[0].expert_end == 32);
    CU_ASSERT(p->parts[1].slice == 1 && p->parts[1].n_slices == 2);
    plan_placement_destroy(p);

    p = rule(shape, &made, (struct plan_options){.split = PLAN_SPLIT_EXPERTS, .replicas = 2});
    CU_ASSERT_FATAL(p && p->n_parts == 4);
    CU_ASSERT(p->parts[0].expert_end == 32 && p->parts[1].expert_end == 32);
    CU_ASSERT_NOT_EQUAL(p->parts[0].worker, p->parts[1].worker);
    plan_placement_destroy(p);

    p = rule(shape, &made, (struct plan_options){.stages = 3});
    CU_ASSERT_FATAL(p && p->n_stages == 3 && p->n_parts == 0);
    plan_placement_destroy(p);

    made.cluster.n_machines = 6;
    CU_ASSERT_PTR_NULL(
        rule(shape, &made,
             (struct plan_options){.split = PLAN_SPLIT_EXPERTS, .slices = 2, .replicas = 2}));
    CU_ASSERT_EQUAL(error.status, PROTO_INVALID);
    CU_ASSERT_PTR_NOT_NULL(strstr(error.text, "multiple of 4 hosts"));
    CU_ASSERT_PTR_NULL(
        rule(shape, &made, (struct plan_options){.split = PLAN_SPLIT_EXPERTS, .slices = 3}));
    CU_ASSERT_PTR_NOT_NULL(strstr(error.text, "at most 2 slices"));
    CU_ASSERT_PTR_NULL(rule(shape, &made, (struct plan_options){.stages = 7}));
    CU_ASSERT_EQUAL(error.status, PROTO_INVALID);
    destroy_shape(shape);
    shape = preset_shape("llama-1b", "Q4_K", &sizes);
    CU_ASSERT_PTR_NULL(rule(shape, &made, (struct plan_options){.split = PLAN_SPLIT_EXPERTS}));
    CU_ASSERT_PTR_NOT_NULL(strstr(error.text, "is dense"));
    destroy_shape(shape);
}

int main(void)
{
    CU_initialize_registry();
    CU_pSuite suite = CU_add_suite("plan shape", NULL, NULL);
    CU_add_test(suite, "sums", test_sums);
    CU_add_test(suite, "Maverick", test_maverick);
    CU_add_test(suite, "chances", test_chances);
    CU_add_test(suite, "bad shapes", test_bad_shapes);
    CU_add_test(suite, "cluster", test_cluster);
    CU_add_test(suite, "bad clusters", test_bad_clusters);
    CU_add_test(suite, "rates by type", test_rates);
    CU_add_test(suite, "placement", test_placement);
    CU_add_test(suite, "by rule", test_rule);
    CU_basic_set_mode(CU_BRM_VERBOSE);
    CU_basic_run_tests();
    int failures = (int)CU_get_number_of_failures();
    CU_cleanup_registry();
    return failures != 0;
}
