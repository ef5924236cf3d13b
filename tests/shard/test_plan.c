/* SPDX-License-Identifier: Apache-2.0 */
#include <CUnit/Basic.h>
#include <stdlib.h>
#include <string.h>

#include "shard/plan.h"
#include "tests/shard/edited.h"

#define GIB (1ull << 30)
#define MIB (1ull << 20)

static struct shard_gguf *gguf; /* llama-1b: 16 equal layers */
static struct shard_model *model;
static struct proto_error error;
static uint32_t threads = 1; /* of each worker */
static struct shard_plan_options defaults = {
    .kv = KERN_KV_F16, .ctx = 2048, .max_seqs = 1, .max_rows = 64};

static int open_model(void)
{
    gguf = preset_open("llama-1b", "Q8_0", true);
    return shard_model_create(&model, gguf, &error) != PROTO_OK;
}

static int close_model(void)
{
    shard_model_destroy(model);
    shard_gguf_close(gguf);
    return 0;
}

static struct shard_plan *plan_for(const uint64_t *memory, uint32_t n,
                                   const struct shard_plan_options *options)
{
    struct shard_plan_worker workers[32];
    struct shard_plan *plan;
    for (uint32_t i = 0; i < n; i++)
        workers[i] =
            (struct shard_plan_worker){.name = "n", .memory_bytes = memory[i], .threads = threads};
    workers[0].name = "alpha";
    if (shard_plan_create(&plan, model, workers, n, options, &error) != PROTO_OK)
        return NULL;
    return plan;
}

/* Stages follow one another, cover the model, and fit. */
static void check_sound(const struct shard_plan *plan, const uint64_t *memory)
{
    uint32_t next = 0;
    for (uint32_t s = 0; s < plan->n_stages; s++) {
        const struct shard_stage *stage = &plan->stages[s];
        CU_ASSERT_EQUAL(stage->layer_first, next);
        CU_ASSERT(stage->layer_end > stage->layer_first);
        CU_ASSERT_EQUAL(stage->embed, s == 0);
        CU_ASSERT_EQUAL(stage->head, s + 1 == plan->n_stages);
        CU_ASSERT(s == 0 || stage->worker > plan->stages[s - 1].worker);
        CU_ASSERT(stage->weight_bytes + stage->kv_bytes + stage->scratch_bytes <=
                  memory[stage->worker]);
        next = stage->layer_end;
    }
    CU_ASSERT_EQUAL(next, model->n_layers);
}

static uint32_t layers(const struct shard_plan *plan, uint32_t s)
{
    return plan->stages[s].layer_end - plan->stages[s].layer_first;
}

static void test_one_worker(void)
{
    const uint64_t memory[] = {2 * GIB};
    struct shard_plan *plan = plan_for(memory, 1, &defaults);
    CU_ASSERT_PTR_NOT_NULL_FATAL(plan);
    check_sound(plan, memory);
    /* 1.1 G parameters at 8.5 bits, KV of 16 layers x 8 heads x 64 x 2 halves a position. */
    CU_ASSERT_DOUBLE_EQUAL((double)plan->stages[0].weight_bytes, 1.11e9 * 8.5 / 8, 0.03e9);
    CU_ASSERT_EQUAL(plan->stages[0].kv_bytes, 2048ull * 16 * 8 * 64 * 2 * 2);
    shard_plan_destroy(plan);
}

static void test_proportions(void)
{
    const uint64_t equal[] = {2 * GIB, 2 * GIB, 2 * GIB, 2 * GIB};
    struct shard_plan *plan = plan_for(equal, 4, &defaults);
    CU_ASSERT_PTR_NOT_NULL_FATAL(plan);
    check_sound(plan, equal);
    CU_ASSERT_EQUAL(plan->n_stages, 4);
    for (uint32_t s = 0; s < 4; s++)
        CU_ASSERT(layers(plan, s) >= 3 && layers(plan, s) <= 5);
    shard_plan_destroy(plan);

    /* Embedding and head are as large as a layer each, so the middle gets one more. */
    plan = plan_for(equal, 3, &defaults);
    CU_ASSERT_PTR_NOT_NULL_FATAL(plan);
    CU_ASSERT(layers(plan, 0) == 5 && layers(plan, 1) == 6 && layers(plan, 2) == 5);
    shard_plan_destroy(plan);

    const uint64_t uneven[] = {1 * GIB, 4 * GIB, 2 * GIB};
    plan = plan_for(uneven, 3, &defaults);
    CU_ASSERT_PTR_NOT_NULL_FATAL(plan);
    check_sound(plan, uneven);
    CU_ASSERT(layers(plan, 0) < layers(plan, 2) && layers(plan, 2) < layers(plan, 1));
    CU_ASSERT(layers(plan, 1) >= 8);
    shard_plan_destroy(plan);
}

static void test_more_workers_than_layers(void)
{
    uint64_t memory[20];
    for (int i = 0; i < 20; i++)
        memory[i] = i % 5 == 2 ? GIB / 2 : GIB;
    struct shard_plan *plan = plan_for(memory, 20, &defaults);
    CU_ASSERT_PTR_NOT_NULL_FATAL(plan);
    check_sound(plan, memory);
    CU_ASSERT_EQUAL(plan->n_stages, 16);
    for (uint32_t s = 0; s < plan->n_stages; s++)
        CU_ASSERT(plan->stages[s].worker % 5 != 2);
    shard_plan_destroy(plan);
}

static void test_does_not_fit(void)
{
    const uint64_t small[] = {512 * MIB, 512 * MIB};
    CU_ASSERT_PTR_NULL(plan_for(small, 2, &defaults));
    CU_ASSERT_EQUAL(error.status, PROTO_CAPACITY);
    CU_ASSERT_PTR_NOT_NULL(strstr(error.text, "the workers offer 1.00 GiB"));
    CU_ASSERT_PTR_NOT_NULL(strstr(error.text, "are missing"));
    struct shard_plan_options long_context = defaults;
    const uint64_t fair[] = {1 * GIB, 1 * GIB};
    CU_ASSERT_PTR_NOT_NULL(strstr(error.text, "KV 64.00 MiB"));
    long_context.max_seqs = 64;
    CU_ASSERT_PTR_NULL(plan_for(fair, 2, &long_context));
    CU_ASSERT_PTR_NOT_NULL(strstr(error.text, "KV 4.00 GiB for 64 sequences of 2048"));
    /* Enough in all, but a layer with the embedding is too much for the first. */
    const uint64_t lopsided[] = {64 * MIB, 4 * GIB};
    CU_ASSERT_PTR_NULL(plan_for(lopsided, 2, &defaults));
    CU_ASSERT_EQUAL(error.status, PROTO_CAPACITY);
    CU_ASSERT_PTR_NOT_NULL(strstr(error.text, "worker alpha offers 64.00 MiB, but layers 0-0"));
}

/* The context that an error recommends; 0: it says that there is none. */
static uint64_t recommended(void)
{
    const char *at = strstr(error.text, "(--ctx ");
    return at ? strtoull(at + 7, NULL, 10) : 0;
}

/* What is recommended fits, and a page more does not. */
static void check_recommended(const uint64_t *memory, uint32_t n, struct shard_plan_options options)
{
    CU_ASSERT_PTR_NULL(plan_for(memory, n, &options));
    CU_ASSERT_EQUAL(error.status, PROTO_CAPACITY);
    CU_ASSERT_PTR_NULL(strchr(error.text, '\n'));
    uint64_t ctx = recommended();
    CU_ASSERT_FATAL(ctx > 0 && ctx < options.ctx);
    options.ctx = ctx;
    struct shard_plan *plan = plan_for(memory, n, &options);
    CU_ASSERT_PTR_NOT_NULL_FATAL(plan);
    check_sound(plan, memory);
    shard_plan_destroy(plan);
    options.ctx = ctx + 32;
    CU_ASSERT_PTR_NULL(plan_for(memory, n, &options));
}

static void test_long_contexts(void)
{
    const uint64_t memory[] = {2 * GIB, 1 * GIB, 3 * GIB};
    struct shard_plan_options options = defaults;
    options.ctx = PROTO_MAX_CONTEXT;
    check_recommended(memory, 1, options);
    check_recommended(memory, 3, options);
    options.max_seqs = PROTO_MAX_SEQUENCES;
    check_recommended(memory, 3, options);
    options.max_seqs = 4;
    options.layers = "0-7,8-8,9-15";
    check_recommended(memory, 3, options);
    options.layers = NULL;
    const uint64_t none[] = {256 * MIB};
    CU_ASSERT_PTR_NULL(plan_for(none, 1, &options));
    CU_ASSERT_EQUAL(recommended(), 0);
    CU_ASSERT_PTR_NOT_NULL(strstr(error.text, "no context is small enough"));
}

/* Every thread has scores of its own for every position. */
static void test_threads(void)
{
    const uint64_t memory[] = {4 * GIB};
    struct shard_plan_options options = defaults;
    options.ctx = 1 << 15;
    struct shard_plan *one = plan_for(memory, 1, &options);
    threads = 64;
    struct shard_plan *many = plan_for(memory, 1, &options);
    CU_ASSERT_FATAL(one && many);
    uint64_t scratch = many->stages[0].scratch_bytes - one->stages[0].scratch_bytes;
    /* Four query heads share a KV head, and scores of several rows take at most 1 MiB; half as much
     * again for growing. */
    uint64_t scores = options.ctx * 4 * 4 > 1u << 20 ? options.ctx * 4 * 4 : 1u << 20;
    CU_ASSERT(scratch >= 63 * scores * 3 / 2);
    CU_ASSERT(scratch < 63 * scores * 2);
    shard_plan_destroy(one);
    shard_plan_destroy(many);
    options.ctx = PROTO_MAX_CONTEXT;
    check_recommended(memory, 1, options);
    uint64_t with_many = recommended();
    threads = 1;
    check_recommended(memory, 1, options);
    CU_ASSERT(recommended() > with_many);
}

static void test_explicit_layers(void)
{
    const uint64_t memory[] = {2 * GIB, 2 * GIB, 2 * GIB};
    struct shard_plan_options options = defaults;
    options.layers = "0-1,2-14,15";
    struct shard_plan *plan = plan_for(memory, 3, &options);
    CU_ASSERT_PTR_NOT_NULL_FATAL(plan);
    check_sound(plan, memory);
    CU_ASSERT(layers(plan, 0) == 2 && layers(plan, 1) == 13 && layers(plan, 2) == 1);
    shard_plan_destroy(plan);
    options.layers = "0-15";
    plan = plan_for(memory, 3, &options);
    CU_ASSERT_PTR_NOT_NULL_FATAL(plan);
    CU_ASSERT_EQUAL(plan->n_stages, 1);
    shard_plan_destroy(plan);

    static const char *const bad[] = {"",         "x",         "0-",
                                      "0-7",      "0-7,9-15",  "1-15",
                                      "0-16",     "0-7,8-15,", "0-7;8-15",
                                      "8-15,0-7", "0-7,7-15",  "0-3,4-7,8-11,12-15",
                                      "0--1",     "7-0",       "0-99999999999999999999"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        options.layers = bad[i];
        CU_ASSERT_PTR_NULL(plan_for(memory, 3, &options));
        CU_ASSERT_EQUAL(error.status, PROTO_INVALID);
        CU_ASSERT_PTR_NOT_NULL(strstr(error.text, "0 to 15"));
    }
    const uint64_t small[] = {256 * MIB, 2 * GIB};
    options.layers = "0-7,8-15";
    CU_ASSERT_PTR_NULL(plan_for(small, 2, &options));
    CU_ASSERT_EQUAL(error.status, PROTO_CAPACITY);
    CU_ASSERT_PTR_NOT_NULL(strstr(error.text, "worker alpha offers 256.00 MiB, but layers 0-7"));
}

static void test_bad_requests(void)
{
    const uint64_t memory[] = {2 * GIB};
    struct shard_plan_options options = defaults;
    CU_ASSERT_PTR_NULL(plan_for(memory, 0, &options));
    CU_ASSERT_PTR_NOT_NULL(strstr(error.text, "0 workers"));
    options.ctx = 0;
    CU_ASSERT_PTR_NULL(plan_for(memory, 1, &options));
    CU_ASSERT_EQUAL(error.status, PROTO_LIMIT);
    options = defaults;
    options.max_rows = PROTO_MAX_BATCH_ROWS + 1;
    CU_ASSERT_PTR_NULL(plan_for(memory, 1, &options));
    CU_ASSERT_EQUAL(error.status, PROTO_LIMIT);
}

int main(void)
{
    CU_initialize_registry();
    CU_pSuite suite = CU_add_suite("plan", open_model, close_model);
    CU_add_test(suite, "one worker", test_one_worker);
    CU_add_test(suite, "proportions", test_proportions);
    CU_add_test(suite, "more workers than layers", test_more_workers_than_layers);
    CU_add_test(suite, "does not fit", test_does_not_fit);
    CU_add_test(suite, "long contexts", test_long_contexts);
    CU_add_test(suite, "threads", test_threads);
    CU_add_test(suite, "explicit layers", test_explicit_layers);
    CU_add_test(suite, "bad requests", test_bad_requests);
    CU_basic_set_mode(CU_BRM_VERBOSE);
    CU_basic_run_tests();
    int failures = (int)CU_get_number_of_failures();
    CU_cleanup_registry();
    return failures != 0;
}
