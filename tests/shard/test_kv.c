/* SPDX-License-Identifier: Apache-2.0 */
#include <CUnit/Basic.h>
#include <string.h>

#include "shard/kv.h"
#include "tests/shard/edited.h"

/* llama4-scout-tiny: 5 layers, 2 KV heads of 16; layer 3 sees everything, the others 8192. */
#define LAYERS     5u
#define PAGE_BYTES (2u * 2u * 16u * 4u * SHARD_KV_PAGE_ROWS)
#define FULL_LAYER 3u

static struct shard_gguf *gguf;
static struct shard_model *model;
static struct shard_program *program;
static struct proto_error error;

static int open_model(void)
{
    gguf = preset_open("llama4-scout-tiny", "F32", false);
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

static struct shard_kv *create(struct shard_kv_options options)
{
    struct shard_kv *kv;
    options.max_seqs = options.max_seqs ? options.max_seqs : 3;
    CU_ASSERT_EQUAL_FATAL(shard_kv_create(&kv, program, &options, &error), PROTO_OK);
    return kv;
}

static bool has_page(const struct shard_kv *kv, uint32_t seq, uint32_t layer, size_t page)
{
    struct shard_kv_view view = shard_kv_view(kv, seq, layer);
    return page < view.n_pages && view.pages[page];
}

static void test_pages(void)
{
    struct shard_kv *kv = create((struct shard_kv_options){.type = KERN_KV_F32});
    CU_ASSERT_EQUAL(shard_kv_used(kv), 0);
    CU_ASSERT_EQUAL(shard_kv_reserve(kv, 0, 0, 1, &error), PROTO_OK);
    CU_ASSERT_EQUAL(shard_kv_used(kv), LAYERS * PAGE_BYTES);
    void *page = shard_kv_view(kv, 0, 2).pages[0];
    CU_ASSERT_EQUAL(shard_kv_reserve(kv, 0, 1, 32, &error), PROTO_OK);
    CU_ASSERT_EQUAL(shard_kv_used(kv), 2 * LAYERS * PAGE_BYTES);
    CU_ASSERT_PTR_EQUAL(shard_kv_view(kv, 0, 2).pages[0], page);
    CU_ASSERT_EQUAL(shard_kv_view(kv, 0, 2).n_pages, 2);
    CU_ASSERT_EQUAL(shard_kv_reserve(kv, 2, 0, 33, &error), PROTO_OK);
    CU_ASSERT_EQUAL(shard_kv_used(kv), 4 * LAYERS * PAGE_BYTES);
    shard_kv_drop(kv, 0);
    CU_ASSERT_EQUAL(shard_kv_used(kv), 2 * LAYERS * PAGE_BYTES);
    CU_ASSERT_EQUAL(shard_kv_reserve(kv, 0, 0, 5, &error), PROTO_OK);
    shard_kv_destroy(kv);
}

/* A head's K rows, its V rows, then the next head's, without overlap. */
static void test_layout(void)
{
    struct shard_kv *kv = create((struct shard_kv_options){.type = KERN_KV_F16});
    size_t rows = 16 * 2 * SHARD_KV_PAGE_ROWS;
    CU_ASSERT_EQUAL(shard_kv_k_offset(kv, 1, 0), 0);
    CU_ASSERT_EQUAL(shard_kv_v_offset(kv, 1, 0), rows);
    CU_ASSERT_EQUAL(shard_kv_k_offset(kv, 1, 1), 2 * rows);
    CU_ASSERT_EQUAL(shard_kv_v_offset(kv, 1, 1), 3 * rows);
    CU_ASSERT_EQUAL(shard_kv_reserve(kv, 0, 0, 1, &error), PROTO_OK);
    CU_ASSERT_EQUAL(shard_kv_used(kv), LAYERS * 4 * rows);
    CU_ASSERT_EQUAL(shard_kv_bytes(program, KERN_KV_F16, 33), 2 * LAYERS * 4 * rows);
    shard_kv_destroy(kv);
}

/* Quantised rows are blocks of 32, and heads of this model have 16 values. */
static void test_types(void)
{
    struct shard_kv *kv = NULL;
    for (enum kern_kv type = KERN_KV_Q8_0; type <= KERN_KV_Q4_0; type++) {
        struct shard_kv_options options = {.type = type, .max_seqs = 1};
        CU_ASSERT_EQUAL(shard_kv_create(&kv, program, &options, &error), PROTO_UNSUPPORTED);
        CU_ASSERT_PTR_NULL(kv);
        CU_ASSERT_PTR_NOT_NULL(strstr(error.text, kern_kv_name(type)));
        CU_ASSERT_PTR_NOT_NULL(strstr(error.text, "16 (K) and 16 (V)"));
    }
    struct shard_kv_options options = {.type = (enum kern_kv)KERN_N_KV, .max_seqs = 1};
    CU_ASSERT_EQUAL(shard_kv_create(&kv, program, &options, &error), PROTO_INVALID);
}

/* Bytes of a token of the model of 32 wide heads, in blocks of 34 and 18. */
static void test_quantised_bytes(void)
{
    struct shard_gguf *wide_file = preset_open("llama-k", "F32", true);
    struct shard_model *wide = NULL;
    struct shard_program *all = NULL;
    CU_ASSERT_EQUAL_FATAL(shard_model_create(&wide, wide_file, &error), PROTO_OK);
    CU_ASSERT_EQUAL_FATAL(shard_program_create(&all, wide, 0, wide->n_layers, true, true, &error),
                          PROTO_OK);
    /* 2 layers, 2 heads, K and V */
    CU_ASSERT_EQUAL(shard_kv_bytes(all, KERN_KV_F32, 32), 32 * 8 * 32 * 4);
    CU_ASSERT_EQUAL(shard_kv_bytes(all, KERN_KV_Q8_0, 32), 32 * 8 * 34);
    CU_ASSERT_EQUAL(shard_kv_bytes(all, KERN_KV_Q4_0, 32), 32 * 8 * 18);
    shard_program_destroy(all);
    shard_model_destroy(wide);
    shard_gguf_close(wide_file);
}

static void test_positions(void)
{
    struct shard_kv *kv = create((struct shard_kv_options){.ctx = 100});
    CU_ASSERT_EQUAL(shard_kv_reserve(kv, 3, 0, 1, &error), PROTO_INVALID);
    CU_ASSERT_EQUAL(shard_kv_reserve(kv, 0, 1, 1, &error), PROTO_INVALID);
    CU_ASSERT_EQUAL(shard_kv_reserve(kv, 0, 0, 101, &error), PROTO_INVALID);
    CU_ASSERT_EQUAL(shard_kv_reserve(kv, 0, 0, 100, &error), PROTO_OK);
    CU_ASSERT_EQUAL(shard_kv_reserve(kv, 0, 100, 1, &error), PROTO_INVALID);
    CU_ASSERT_PTR_NOT_NULL(strstr(error.text, "context of 100"));
    CU_ASSERT_EQUAL(shard_kv_reserve(kv, 0, UINT64_MAX, 1, &error), PROTO_INVALID);
    /* Going back forgets what came after. */
    CU_ASSERT_EQUAL(shard_kv_reserve(kv, 0, 10, 2, &error), PROTO_OK);
    CU_ASSERT_EQUAL(shard_kv_used(kv), LAYERS * PAGE_BYTES);
    CU_ASSERT_EQUAL(shard_kv_reserve(kv, 0, 13, 1, &error), PROTO_INVALID);
    CU_ASSERT_EQUAL(shard_kv_reserve(kv, 0, 12, 1, &error), PROTO_OK);
    shard_kv_destroy(kv);
}

static void test_capacity(void)
{
    uint64_t limit = 3 * LAYERS * PAGE_BYTES;
    struct shard_kv *kv = create((struct shard_kv_options){.max_bytes = limit});
    CU_ASSERT_EQUAL(shard_kv_reserve(kv, 0, 0, 64, &error), PROTO_OK);
    CU_ASSERT_EQUAL(shard_kv_reserve(kv, 1, 0, 33, &error), PROTO_CAPACITY);
    char missing[64];
    snprintf(missing, sizeof missing, "%u are missing", LAYERS * PAGE_BYTES);
    CU_ASSERT_PTR_NOT_NULL(strstr(error.text, missing));
    CU_ASSERT_EQUAL(shard_kv_used(kv), 2 * LAYERS * PAGE_BYTES);
    CU_ASSERT(!has_page(kv, 1, 0, 0));
    CU_ASSERT_EQUAL(shard_kv_reserve(kv, 1, 0, 32, &error), PROTO_OK);
    CU_ASSERT_EQUAL(shard_kv_reserve(kv, 0, 64, 1, &error), PROTO_CAPACITY);
    shard_kv_drop(kv, 1);
    CU_ASSERT_EQUAL(shard_kv_reserve(kv, 0, 64, 1, &error), PROTO_OK);
    shard_kv_destroy(kv);
}

/* A chunked layer keeps its chunk until no query sees it, and no longer. */
static void test_chunks(void)
{
    struct shard_kv *kv = create((struct shard_kv_options){0});
    CU_ASSERT_EQUAL(shard_kv_reserve(kv, 0, 0, 8000, &error), PROTO_OK);
    shard_kv_trim(kv, 0, 8000);
    CU_ASSERT(has_page(kv, 0, 0, 0));
    /* A batch over the boundary: its first rows still see the old chunk. */
    CU_ASSERT_EQUAL(shard_kv_reserve(kv, 0, 8000, 200, &error), PROTO_OK);
    CU_ASSERT(has_page(kv, 0, 0, 0) && has_page(kv, 0, 0, 256));
    shard_kv_trim(kv, 0, 8200);
    CU_ASSERT(!has_page(kv, 0, 0, 0) && !has_page(kv, 0, 0, 255) && has_page(kv, 0, 0, 256));
    CU_ASSERT(has_page(kv, 0, FULL_LAYER, 0));
    CU_ASSERT_EQUAL(shard_kv_used(kv), (257 + 4) * PAGE_BYTES);
    CU_ASSERT(shard_kv_used(kv) <= shard_kv_bytes(program, KERN_KV_F32, 8200));
    /* Back within the chunk is possible, before it is not, and from the start it is. */
    CU_ASSERT_EQUAL(shard_kv_reserve(kv, 0, 8193, 1, &error), PROTO_OK);
    CU_ASSERT_EQUAL(shard_kv_reserve(kv, 0, 8191, 1, &error), PROTO_INVALID);
    CU_ASSERT_PTR_NOT_NULL(strstr(error.text, "start it again"));
    CU_ASSERT_EQUAL(shard_kv_reserve(kv, 0, 0, 40, &error), PROTO_OK);
    CU_ASSERT_EQUAL(shard_kv_used(kv), 2 * LAYERS * PAGE_BYTES);
    CU_ASSERT_EQUAL(shard_kv_reserve(kv, 0, 40, 8160, &error), PROTO_OK);
    CU_ASSERT(has_page(kv, 0, 0, 0) && has_page(kv, 0, 0, 200));
    shard_kv_destroy(kv);
}

static void test_chunk_by_chunk(void)
{
    struct shard_kv *kv = create((struct shard_kv_options){.type = KERN_KV_F16});
    uint64_t most = 0;
    for (uint64_t pos = 0; pos < 40000; pos += 500) {
        CU_ASSERT_EQUAL_FATAL(shard_kv_reserve(kv, 1, pos, 500, &error), PROTO_OK);
        most = shard_kv_used(kv) > most ? shard_kv_used(kv) : most;
        shard_kv_trim(kv, 1, pos + 500);
    }
    CU_ASSERT(most <= shard_kv_bytes(program, KERN_KV_F16, 40000));
    CU_ASSERT_EQUAL(shard_kv_used(kv), (1250 + 4 * (1250 - 4 * 256)) * (uint64_t)PAGE_BYTES / 2);
    shard_kv_destroy(kv);
}

int main(void)
{
    CU_initialize_registry();
    CU_pSuite suite = CU_add_suite("kv", open_model, close_model);
    CU_add_test(suite, "pages", test_pages);
    CU_add_test(suite, "layout", test_layout);
    CU_add_test(suite, "types", test_types);
    CU_add_test(suite, "bytes of quantised types", test_quantised_bytes);
    CU_add_test(suite, "positions", test_positions);
    CU_add_test(suite, "capacity", test_capacity);
    CU_add_test(suite, "chunks", test_chunks);
    CU_add_test(suite, "chunk by chunk", test_chunk_by_chunk);
    CU_basic_set_mode(CU_BRM_VERBOSE);
    CU_basic_run_tests();
    int failures = (int)CU_get_number_of_failures();
    CU_cleanup_registry();
    return failures != 0;
}
