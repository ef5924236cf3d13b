/* SPDX-License-Identifier: Apache-2.0 */
/* The states of recurrent layers beside the pages: memory, copies, and going back to them. */
#include <CUnit/Basic.h>
#include <string.h>

#include "shard/kv.h"
#include "tests/shard/edited.h"

/* qwen35moe-tiny: 5 layers, of which layer 3 has 2 KV heads of 32; the others have 8 states of
 * 32 x 32 and 3 rows of 512 channels. */
#define LAYERS      5u
#define FULL_LAYER  3u
#define STATE       (8u * 32u * 32u)
#define STATE_BYTES ((STATE + 3u * 512u) * 4u)
#define BLOCK_BYTES (4u * (uint64_t)STATE_BYTES)
#define PAGE_BYTES  (2u * 2u * 32u * 4u * SHARD_KV_PAGE_ROWS)

static struct shard_gguf *gguf;
static struct shard_model *model;
static struct shard_program *program;
static struct proto_error error;

static int open_model(void)
{
    gguf = preset_open("qwen35moe-tiny", "F32", false);
    return shard_model_create(&model, gguf, &error) ||
           shard_program_create(&program, model, 0, LAYERS, false, false, &error);
}

static int close_model(void)
{
    shard_program_destroy(program);
    shard_model_destroy(model);
    shard_gguf_close(gguf);
    return 0;
}

static struct shard_kv *create(uint64_t max_bytes)
{
    struct shard_kv *kv;
    struct shard_kv_options options = {.max_seqs = 2, .max_bytes = max_bytes};
    CU_ASSERT_EQUAL_FATAL(shard_kv_create(&kv, program, &options, &error), PROTO_OK);
    return kv;
}

static bool is_zero(const float *x, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (x[i] != 0.0f)
            return false;
    }
    return true;
}

/* Stands in for an executor: every value of the states becomes the count of positions behind it. */
static void advance(struct shard_kv *kv, uint64_t pos, uint32_t n)
{
    CU_ASSERT_EQUAL_FATAL(shard_kv_reserve(kv, 0, pos, n, &error), PROTO_OK);
    for (uint64_t p = pos + 1; p <= pos + n; p++) {
        for (uint32_t il = 0; il < LAYERS; il++) {
            float *state = il == FULL_LAYER ? NULL : shard_kv_state(kv, 0, il);
            float *copy = state ? shard_kv_snapshot(kv, 0, il, p) : NULL;
            for (size_t i = 0; state && i < STATE; i++)
                state[i] = (float)p;
            if (copy)
                memcpy(copy, state, STATE * sizeof *copy);
        }
    }
    shard_kv_trim(kv, 0, pos + n);
}

static bool holds(const struct shard_kv *kv, uint32_t layer, uint64_t pos)
{
    const float *state = shard_kv_state(kv, 0, layer);
    return state[0] == (float)pos && state[STATE - 1] == (float)pos;
}

static void test_memory(void)
{
    struct shard_kv *kv = create(0);
    CU_ASSERT_EQUAL(shard_delta_state_floats(&model->delta), STATE);
    CU_ASSERT_EQUAL(shard_kv_reserve(kv, 0, 0, 1, &error), PROTO_OK);
    CU_ASSERT_EQUAL(shard_kv_used(kv), BLOCK_BYTES + PAGE_BYTES);
    CU_ASSERT_EQUAL(shard_kv_bytes(program, KERN_KV_F32, 1), BLOCK_BYTES + PAGE_BYTES);
    CU_ASSERT(is_zero(shard_kv_state(kv, 0, 4), STATE_BYTES / 4));
    CU_ASSERT_PTR_NULL(shard_kv_snapshot(kv, 0, 0, SHARD_KV_SNAPSHOT_EVERY));
    for (uint64_t n = 100; n <= 900; n += 100) {
        CU_ASSERT_EQUAL(shard_kv_reserve(kv, 0, n - 100, 100, &error), PROTO_OK);
        CU_ASSERT_EQUAL(shard_kv_used(kv), shard_kv_bytes(program, KERN_KV_F32, n));
    }
    CU_ASSERT_EQUAL(shard_kv_used(kv), 3 * BLOCK_BYTES + 29 * PAGE_BYTES);
    shard_kv_drop(kv, 0);
    CU_ASSERT_EQUAL(shard_kv_used(kv), 0);
    shard_kv_destroy(kv);
}

static void test_going_back(void)
{
    struct shard_kv *kv = create(0);
    advance(kv, 0, 300);
    CU_ASSERT(holds(kv, 0, 300) && holds(kv, 4, 300));
    CU_ASSERT_EQUAL(shard_kv_reserve(kv, 0, 299, 1, &error), PROTO_INVALID);
    CU_ASSERT_PTR_NOT_NULL(strstr(error.text, "start it again from position 256"));
    CU_ASSERT(holds(kv, 0, 300));
    CU_ASSERT_EQUAL(shard_kv_resume(kv, 0, 300), 300);
    CU_ASSERT_EQUAL(shard_kv_resume(kv, 0, 9999), 300);
    CU_ASSERT_EQUAL(shard_kv_resume(kv, 0, 299), 256);
    CU_ASSERT_EQUAL(shard_kv_resume(kv, 0, 255), 0);
    CU_ASSERT_EQUAL(shard_kv_reserve(kv, 0, 256, 1, &error), PROTO_OK);
    CU_ASSERT(holds(kv, 0, 256) && holds(kv, 4, 256));
    shard_kv_destroy(kv);
}

/* The latest copies only, and none of positions that were forgotten. */
static void test_copies(void)
{
    struct shard_kv *kv = create(0);
    advance(kv, 0, 1000);
    CU_ASSERT_EQUAL(shard_kv_resume(kv, 0, 999), 768);
    CU_ASSERT_EQUAL(shard_kv_resume(kv, 0, 767), 512);
    CU_ASSERT_EQUAL(shard_kv_resume(kv, 0, 511), 0);
    advance(kv, 512, 10);
    CU_ASSERT(holds(kv, 2, 522));
    CU_ASSERT_EQUAL(shard_kv_resume(kv, 0, 521), 512);
    advance(kv, 522, 246);
    CU_ASSERT_EQUAL(shard_kv_resume(kv, 0, 768), 768);
    CU_ASSERT_EQUAL(shard_kv_reserve(kv, 0, 512, 1, &error), PROTO_OK);
    CU_ASSERT(holds(kv, 2, 512));
    CU_ASSERT_EQUAL(shard_kv_reserve(kv, 0, 0, 1, &error), PROTO_OK);
    CU_ASSERT(is_zero(shard_kv_state(kv, 0, 0), STATE));
    CU_ASSERT_EQUAL(shard_kv_reserve(kv, 0, 512, 1, &error), PROTO_INVALID);
    CU_ASSERT_EQUAL(shard_kv_resume(kv, 0, 512), 1);
    shard_kv_destroy(kv);
}

static void test_capacity(void)
{
    struct shard_kv *kv = create(BLOCK_BYTES + 8 * PAGE_BYTES);
    CU_ASSERT_EQUAL(shard_kv_reserve(kv, 1, 0, 1, &error), PROTO_OK);
    CU_ASSERT_EQUAL(shard_kv_reserve(kv, 0, 0, 1, &error), PROTO_CAPACITY);
    CU_ASSERT_EQUAL(shard_kv_reserve(kv, 1, 1, 254, &error), PROTO_OK);
    CU_ASSERT_EQUAL(shard_kv_used(kv), BLOCK_BYTES + 8 * PAGE_BYTES);
    /* The page is there, but the first copy would not fit. */
    CU_ASSERT_EQUAL(shard_kv_reserve(kv, 1, 255, 1, &error), PROTO_CAPACITY);
    CU_ASSERT_EQUAL(shard_kv_used(kv), BLOCK_BYTES + 8 * PAGE_BYTES);
    shard_kv_drop(kv, 1);
    CU_ASSERT_EQUAL(shard_kv_reserve(kv, 0, 0, 1, &error), PROTO_OK);
    shard_kv_destroy(kv);
}

/* A cut without recurrent layers has no states, and goes back anywhere. */
static void test_full_layer(void)
{
    struct shard_program *one;
    struct shard_kv *kv;
    CU_ASSERT_EQUAL_FATAL(
        shard_program_create(&one, model, FULL_LAYER, FULL_LAYER + 1, false, false, &error),
        PROTO_OK);
    struct shard_kv_options options = {.max_seqs = 1};
    CU_ASSERT_EQUAL_FATAL(shard_kv_create(&kv, one, &options, &error), PROTO_OK);
    CU_ASSERT_EQUAL(shard_kv_reserve(kv, 0, 0, 600, &error), PROTO_OK);
    CU_ASSERT_EQUAL(shard_kv_reserve(kv, 0, 399, 1, &error), PROTO_OK);
    CU_ASSERT_EQUAL(shard_kv_used(kv), 13 * PAGE_BYTES);
    shard_kv_destroy(kv);
    shard_program_destroy(one);
}

int main(void)
{
    CU_initialize_registry();
    CU_pSuite suite = CU_add_suite("kv state", open_model, close_model);
    CU_add_test(suite, "memory", test_memory);
    CU_add_test(suite, "going back", test_going_back);
    CU_add_test(suite, "copies", test_copies);
    CU_add_test(suite, "capacity", test_capacity);
    CU_add_test(suite, "a full layer alone", test_full_layer);
    CU_basic_set_mode(CU_BRM_VERBOSE);
    CU_basic_run_tests();
    int failures = (int)CU_get_number_of_failures();
    CU_cleanup_registry();
    return failures != 0;
}
