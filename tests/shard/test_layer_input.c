/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gemma4-e-tiny: layers with inputs of their own, of which the last three see keys and values of
 * earlier ones. Layers 2 and 5 see everything, the others 32 positions.
 */
#include <CUnit/Basic.h>
#include <string.h>

#include "shard/kv.h"
#include "shard/plan.h"
#include "tests/shard/edited.h"

#define LAYERS 6u
#define INPUT  32u
/* K and V rows: 2 KV heads of 16, of 32 in the layers that see everything. */
#define LOCAL_KV  (2u * 2u * 16u)
#define GLOBAL_KV (2u * 2u * 32u)

static struct shard_gguf *gguf;
static struct shard_model *model;
static struct proto_error error;

static int open_model(void)
{
    gguf = preset_open("gemma4-e-tiny", "F32", false);
    return shard_model_create(&model, gguf, &error) != PROTO_OK;
}

static int close_model(void)
{
    shard_model_destroy(model);
    shard_gguf_close(gguf);
    return 0;
}

static struct shard_program *cut(uint32_t first, uint32_t end)
{
    struct shard_program *p = NULL;
    CU_ASSERT_EQUAL_FATAL(
        shard_program_create(&p, model, first, end, first == 0, end == LAYERS, &error), PROTO_OK);
    return p;
}

static size_t count(const struct shard_program *p, enum shard_op_kind kind)
{
    size_t n = 0;
    for (size_t i = 0; i < p->n_ops; i++)
        n += p->ops[i].kind == kind;
    return n;
}

static void test_whose_kv(void)
{
    static const uint32_t whose[LAYERS] = {0, 1, 2, 1, 1, 2};
    for (uint32_t il = 0; il < LAYERS; il++) {
        CU_ASSERT_EQUAL(model->layers[il].kv_layer, whose[il]);
        CU_ASSERT_EQUAL(model->layers[il].kv_shared, il == 1 || il == 2);
        CU_ASSERT_EQUAL(model->layers[il].tensor[SHARD_ATTN_K] >= 0, il < 3);
    }
    struct shard_program *p = cut(0, LAYERS);
    CU_ASSERT_EQUAL(count(p, SHARD_OP_EMBED), 2);
    CU_ASSERT_EQUAL(count(p, SHARD_OP_KV_STORE), 3);
    CU_ASSERT_EQUAL(count(p, SHARD_OP_ATTENTION), LAYERS);
    CU_ASSERT_EQUAL(p->buffers[0].width, 64);
    shard_program_destroy(p);
}

/* The residual row, K and V of layers 1 and 2 after them, and the inputs of the layers to come. */
static void test_rows_between_stages(void)
{
    static const uint32_t kv[LAYERS] = {
        0, 0, LOCAL_KV, LOCAL_KV + GLOBAL_KV, LOCAL_KV + GLOBAL_KV, LOCAL_KV + GLOBAL_KV};
    for (uint32_t il = 0; il < LAYERS; il++)
        CU_ASSERT_EQUAL(shard_row_floats(model, il), 64 + kv[il] + (LAYERS - il) * INPUT);
    CU_ASSERT_EQUAL(shard_row_floats(model, LAYERS), 64);
    struct shard_program *p = cut(2, 4);
    CU_ASSERT_EQUAL(p->buffers[0].width, shard_row_floats(model, 4));
    CU_ASSERT_EQUAL(count(p, SHARD_OP_KV_STORE), 2); /* layer 1's, which came, and its own */
    shard_program_destroy(p);
}

/* A slice keeps what its layers see, and no more. */
static void test_caches(void)
{
    uint64_t row = sizeof(float) * SHARD_KV_PAGE_ROWS;
    static const struct {
        uint32_t first, end, floats;
    } slices[] = {{0, 6, 2 * LOCAL_KV + GLOBAL_KV},
                  {0, 3, 2 * LOCAL_KV + GLOBAL_KV},
                  {3, 6, LOCAL_KV + GLOBAL_KV},
                  {3, 5, LOCAL_KV},
                  {5, 6, GLOBAL_KV},
                  {2, 4, LOCAL_KV + GLOBAL_KV}};
    for (size_t i = 0; i < sizeof slices / sizeof slices[0]; i++) {
        struct shard_program *p = cut(slices[i].first, slices[i].end);
        struct shard_kv_options options = {.type = KERN_KV_F32, .max_seqs = 1};
        struct shard_kv *kv;
        CU_ASSERT_EQUAL(shard_kv_bytes(p, KERN_KV_F32, 1), slices[i].floats * row);
        CU_ASSERT_EQUAL_FATAL(shard_kv_create(&kv, p, &options, &error), PROTO_OK);
        CU_ASSERT_EQUAL(shard_kv_reserve(kv, 0, 0, 1, &error), PROTO_OK);
        CU_ASSERT_EQUAL(shard_kv_used(kv), slices[i].floats * row);
        shard_kv_destroy(kv);
        shard_program_destroy(p);
    }
}

/* A cache that several stages keep counts in each. */
static void test_plan(void)
{
    struct shard_plan_options options = {
        .kv = KERN_KV_F32, .ctx = 4096, .max_seqs = 4, .max_rows = 16};
    struct shard_plan_worker workers[3];
    struct shard_plan *plan;
    for (uint32_t i = 0; i < 3; i++)
        workers[i] = (struct shard_plan_worker){.name = "n", .memory_bytes = 1u << 30};
    CU_ASSERT_EQUAL_FATAL(shard_plan_create(&plan, model, workers, 3, &options, &error), PROTO_OK);
    for (uint32_t s = 0; s < plan->n_stages; s++) {
        const struct shard_stage *stage = &plan->stages[s];
        struct shard_program *p = cut(stage->layer_first, stage->layer_end);
        CU_ASSERT_EQUAL(stage->kv_bytes, 4 * shard_kv_bytes(p, KERN_KV_F32, 4096));
        shard_program_destroy(p);
    }
    shard_plan_destroy(plan);
}

static enum proto_status status_of(const struct edit *edits, size_t n)
{
    struct shard_gguf *changed = edited(gguf, edits, n);
    struct shard_model *m;
    enum proto_status status = shard_model_create(&m, changed, &error);
    shard_model_destroy(m);
    shard_gguf_close(changed);
    return status;
}

static void test_files(void)
{
    static const struct edit unused[] = {
        {.tensor = "blk.3.attn_k.weight", .dims = {64, 32}, .type = KERN_F32},
        {.tensor = "blk.5.attn_k_norm.weight", .dims = {32}, .type = KERN_F32},
    };
    static const struct {
        struct edit edit;
        enum proto_status status;
        const char *word;
    } bad[] = {
        {{.drop_tensor = "per_layer_token_embd.weight"}, PROTO_FORMAT, "per_layer_token_embd"},
        {{.drop_tensor = "per_layer_model_proj.weight"}, PROTO_FORMAT, "per_layer_model_proj"},
        {{.drop_tensor = "per_layer_proj_norm.weight"}, PROTO_FORMAT, "per_layer_proj_norm"},
        {{.drop_tensor = "blk.4.inp_gate.weight"}, PROTO_FORMAT, "blk.4.inp_gate"},
        {{.drop_tensor = "blk.4.post_norm.weight"}, PROTO_FORMAT, "blk.4.post_norm"},
        {{.u32_key = "gemma4.embedding_length_per_layer_input", .u32 = 64},
         PROTO_FORMAT,
         "{192, 512}, expected {384, 512}"},
        {{.u32_key = "gemma4.embedding_length_per_layer_input", .u32 = 1u << 20},
         PROTO_LIMIT,
         "embedding_length_per_layer_input"},
        {{.u32_key = "gemma4.attention.shared_kv_layers", .u32 = 6},
         PROTO_LIMIT,
         "shared_kv_layers"},
        {{.u32_key = "gemma4.attention.shared_kv_layers", .u32 = 5},
         PROTO_FORMAT,
         "layer 2 is one of 5"},
        {{.u32_key = "gemma4.attention.shared_kv_layers", .u32 = 2},
         PROTO_FORMAT,
         "blk.3.attn_k.weight"},
        {{.tensor = "blk.3.attn_k.weight", .dims = {64, 16}, .type = KERN_F32},
         PROTO_FORMAT,
         "blk.3.attn_k.weight"},
    };
    CU_ASSERT_EQUAL(status_of(unused, 2), PROTO_OK);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        enum proto_status status = status_of(&bad[i].edit, 1);
        bool good = status == bad[i].status && strstr(error.text, bad[i].word);
        if (!good)
            printf("\n    refusal %zu: status %d, '%s'", i, (int)status, error.text);
        CU_ASSERT(good);
    }
}

int main(void)
{
    CU_initialize_registry();
    CU_pSuite suite = CU_add_suite("layer inputs", open_model, close_model);
    CU_add_test(suite, "whose keys and values", test_whose_kv);
    CU_add_test(suite, "rows between stages", test_rows_between_stages);
    CU_add_test(suite, "caches", test_caches);
    CU_add_test(suite, "plan", test_plan);
    CU_add_test(suite, "files", test_files);
    CU_basic_set_mode(CU_BRM_VERBOSE);
    CU_basic_run_tests();
    int failures = (int)CU_get_number_of_failures();
    CU_cleanup_registry();
    return failures != 0;
}
