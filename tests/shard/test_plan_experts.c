/* SPDX-License-Identifier: Apache-2.0 */
/* Experts dealt to workers: every one where it should be, and what the workers need for it. */
#include <CUnit/Basic.h>
#include <stdlib.h>
#include <string.h>

#include "shard/plan.h"
#include "shard/plan/search.h"
#include "tests/shard/edited.h"

#define GIB (1ull << 30)
#define MIB (1ull << 20)

static struct shard_gguf *gguf; /* qwen3moe-3b */
static struct shard_model *model;
static struct proto_error error;
static uint64_t memory = 16 * GIB; /* of each worker but the last */
static uint64_t last_memory = 16 * GIB;
static const struct shard_plan_options defaults = {
    .kv = KERN_KV_F16, .ctx = 2048, .max_seqs = 1, .max_rows = 64, .split = SHARD_SPLIT_EXPERTS};

static int open_model(void)
{
    gguf = preset_open("qwen3moe-3b", "Q8_0", true);
    return shard_model_create(&model, gguf, &error) != PROTO_OK;
}

static int close_model(void)
{
    shard_model_destroy(model);
    shard_gguf_close(gguf);
    return 0;
}

static struct shard_plan *plan_with(uint32_t n, const struct shard_plan_options *options)
{
    struct shard_plan_worker workers[300];
    struct shard_plan *plan;
    for (uint32_t i = 0; i < n; i++)
        workers[i] = (struct shard_plan_worker){
            .name = "n", .memory_bytes = i + 1 < n ? memory : last_memory, .threads = 1};
    if (shard_plan_create(&plan, model, workers, n, options, &error) != PROTO_OK)
        return NULL;
    return plan;
}

/* How often a segment of an expert is held. */
static unsigned held(const struct shard_plan *plan, uint32_t layer, uint32_t expert,
                     uint32_t segment, uint32_t n_segments)
{
    unsigned n = 0;
    for (uint32_t i = 0; i < plan->n_parts; i++)
        n += shard_part_has(&plan->parts[i], n_segments, layer, expert, segment);
    return n;
}

static void check_held(const struct shard_plan *plan, unsigned replicas)
{
    uint32_t n_segments = shard_expert_segments(model->ff_expert).n, wrong = 0;
    for (uint32_t il = 0; il < model->n_layers; il++)
        for (uint32_t x = 0; x < model->n_experts && model->layers[il].moe; x++)
            for (uint32_t s = 0; s < n_segments; s++)
                wrong += held(plan, il, x, s, n_segments) != replicas;
    CU_ASSERT_EQUAL(wrong, 0);
}

/* Stages come first, hosts after them, each with what it has counted. */
static void check_shape(const struct shard_plan *plan, uint32_t n_stages, uint32_t n_hosts)
{
    CU_ASSERT_EQUAL_FATAL(plan->n_stages, n_stages);
    CU_ASSERT_EQUAL_FATAL(plan->n_hosts, n_hosts);
    CU_ASSERT_EQUAL_FATAL(plan->n_parts, n_hosts);
    for (uint32_t i = 0; i < n_stages; i++)
        CU_ASSERT_EQUAL(plan->stages[i].worker, i);
    for (uint32_t i = 0; i < n_hosts; i++) {
        CU_ASSERT_EQUAL(plan->hosts[i].worker, n_stages + i);
        CU_ASSERT_EQUAL(plan->parts[i].worker, n_stages + i);
        CU_ASSERT(plan->hosts[i].weight_bytes > 0 && plan->hosts[i].scratch_bytes > 0);
    }
}

static uint64_t all_weights(const struct shard_plan *plan)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < plan->n_stages; i++)
        sum += plan->stages[i].weight_bytes;
    for (uint32_t i = 0; i < plan->n_hosts; i++)
        sum += plan->hosts[i].weight_bytes;
    return sum;
}

static uint64_t host_weights(const struct shard_plan *plan)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < plan->n_hosts; i++)
        sum += plan->hosts[i].weight_bytes;
    return sum;
}

static void test_shapes(void)
{
    static const struct {
        uint32_t n, stages, slices, replicas;
    } cases[] = {{3, 0, 0, 0}, {2, 1, 1, 1}, {5, 1, 2, 1}, {5, 1, 1, 2},
                 {6, 2, 1, 1}, {9, 1, 2, 2}, {5, 3, 1, 1}, {4, 1, 1, 3}};
    struct shard_plan_options options = defaults;
    options.split = SHARD_SPLIT_LAYERS;
    struct shard_plan *whole = plan_with(1, &options);
    CU_ASSERT_PTR_NOT_NULL_FATAL(whole);
    CU_ASSERT(whole->n_hosts == 0 && whole->n_parts == 0);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        uint32_t stages = cases[i].stages ? cases[i].stages : 1;
        uint32_t replicas = cases[i].replicas ? cases[i].replicas : 1;
        options = defaults;
        options.stages = cases[i].stages;
        options.slices = cases[i].slices;
        options.replicas = cases[i].replicas;
        struct shard_plan *plan = plan_with(cases[i].n, &options);
        CU_ASSERT_PTR_NOT_NULL_FATAL(plan);
        check_shape(plan, stages, cases[i].n - stages);
        check_held(plan, replicas);
        /* Nothing is held twice but replicas. */
        uint64_t more = host_weights(plan) / replicas * (replicas - 1);
        CU_ASSERT_EQUAL(all_weights(plan) - more, all_weights(whole));
        shard_plan_destroy(plan);
    }
    shard_plan_destroy(whole);
}

/* Each stage's hosts hold the experts of its layers alone. */
static void test_hosts_of_stages(void)
{
    struct shard_plan_options options = defaults;
    options.stages = 2;
    struct shard_plan *plan = plan_with(6, &options);
    CU_ASSERT_PTR_NOT_NULL_FATAL(plan);
    for (uint32_t i = 0; i < 4; i++) {
        CU_ASSERT_EQUAL(plan->parts[i].layer_first, plan->stages[i / 2].layer_first);
        CU_ASSERT_EQUAL(plan->parts[i].layer_end, plan->stages[i / 2].layer_end);
    }
    shard_plan_destroy(plan);
}

static void refuse(uint32_t n, const struct shard_plan_options *options, enum proto_status status,
                   const char *word)
{
    struct shard_plan *plan = plan_with(n, options);
    CU_ASSERT_PTR_NULL(plan);
    CU_ASSERT_EQUAL(error.status, status);
    CU_ASSERT_PTR_NULL(strchr(error.text, '\n'));
    CU_ASSERT_PTR_NOT_NULL(strstr(error.text, word));
    if (!strstr(error.text, word))
        fprintf(stderr, "%s\n", error.text);
}

/* Stages are cut by what they hold, which is not their experts. */
static void test_layers_of_stages(void)
{
    struct shard_plan_options options = defaults;
    options.layers = "0-2,3-5,6-";
    CU_ASSERT_PTR_NULL(plan_with(9, &options));
    char layers[32];
    snprintf(layers, sizeof layers, "0-2,3-5,6-%u", model->n_layers - 1);
    options.layers = layers;
    struct shard_plan *plan = plan_with(9, &options);
    CU_ASSERT_PTR_NOT_NULL_FATAL(plan);
    check_shape(plan, 3, 6);
    check_held(plan, 1);
    CU_ASSERT_EQUAL(plan->stages[1].layer_first, 3);
    shard_plan_destroy(plan);
    options.stages = 2;
    refuse(9, &options, PROTO_INVALID, "as many ranges as stages");
}

static void check_cuts(uint32_t n, uint32_t ranges, const uint32_t *cuts)
{
    for (uint32_t i = 0; i <= ranges; i++)
        CU_ASSERT_EQUAL(plan_expert_cut(n, ranges, i), cuts[i]);
}

static void test_cuts(void)
{
    check_cuts(8, 2, (const uint32_t[]){0, 4, 8});
    check_cuts(8, 4, (const uint32_t[]){0, 2, 4, 6, 8});
    check_cuts(8, 3, (const uint32_t[]){0, 2, 5, 8});
    check_cuts(10, 4, (const uint32_t[]){0, 2, 5, 7, 10});
    check_cuts(128, 1, (const uint32_t[]){0, 128});
    /* 34 is a node of depth 4, 33 of 6; 66 of 5, 67 of 6. */
    check_cuts(100, 3, (const uint32_t[]){0, 34, 66, 100});
    unsigned wrong = 0;
    for (uint32_t n = 1; n < 140; n++)
        for (uint32_t ranges = 1; ranges <= n; ranges++)
            for (uint32_t i = 0; i < ranges; i++) {
                uint32_t size = plan_expert_cut(n, ranges, i + 1) - plan_expert_cut(n, ranges, i);
                uint32_t least = n / ranges, slack = least >= 8;
                wrong += size + slack < least || size > least + 1 + slack;
            }
    CU_ASSERT_EQUAL(wrong, 0);
}

static void test_what_cannot_be(void)
{
    struct shard_plan_options options = defaults;
    refuse(1, &options, PROTO_INVALID, "add workers");
    options.stages = 4;
    refuse(4, &options, PROTO_INVALID, "4 are stages");
    options = defaults;
    options.slices = 2;
    refuse(4, &options, PROTO_INVALID, "multiple of 2 hosts");
    options.slices = 64;
    refuse(65, &options, PROTO_INVALID, "at most");
    options = defaults;
    options.replicas = 3;
    refuse(3, &options, PROTO_INVALID, "there are 2");
    options = defaults;
    refuse(model->n_experts + 2, &options, PROTO_INVALID, "at most one for each expert");
}

static void test_too_small(void)
{
    struct shard_plan_options options = defaults;
    last_memory = 64 * MIB;
    refuse(3, &options, PROTO_CAPACITY, "worker n offers 64.00 MiB, but experts");
    memory = last_memory;
    refuse(3, &options, PROTO_CAPACITY, "the model does not fit");
    memory = last_memory = 16 * GIB;
}

static void test_dense(void)
{
    struct shard_gguf *dense = preset_open("llama-1b", "Q8_0", true);
    struct shard_model *moe = model;
    CU_ASSERT_EQUAL_FATAL(shard_model_create(&model, dense, &error), PROTO_OK);
    refuse(3, &defaults, PROTO_INVALID, "dense");
    shard_model_destroy(model);
    shard_gguf_close(dense);
    model = moe;
}

int main(void)
{
    CU_initialize_registry();
    CU_pSuite suite = CU_add_suite("plan of experts", open_model, close_model);
    CU_add_test(suite, "shapes", test_shapes);
    CU_add_test(suite, "hosts of stages", test_hosts_of_stages);
    CU_add_test(suite, "layers of stages", test_layers_of_stages);
    CU_add_test(suite, "cuts", test_cuts);
    CU_add_test(suite, "what cannot be", test_what_cannot_be);
    CU_add_test(suite, "too small", test_too_small);
    CU_add_test(suite, "dense", test_dense);
    CU_basic_set_mode(CU_BRM_VERBOSE);
    CU_basic_run_tests();
    int failures = (int)CU_get_number_of_failures();
    CU_cleanup_registry();
    return failures != 0;
}
