/* SPDX-License-Identifier: Apache-2.0 */
/* What is read of models with compressed attention or with recurrent layers, and their programs. */
#include <CUnit/Basic.h>
#include <math.h>
#include <string.h>

#include "shard/kv.h"
#include "tests/shard/edited.h"

static struct shard_gguf *deepseek, *qwen;
static struct proto_error error;

static int open_all(void)
{
    deepseek = preset_open("deepseek2-tiny", "F32", false);
    qwen = preset_open("qwen35moe-tiny", "F32", false);
    return 0;
}

static int close_all(void)
{
    shard_gguf_close(deepseek);
    shard_gguf_close(qwen);
    return 0;
}

static struct shard_model *model_of(const struct shard_gguf *gguf)
{
    struct shard_model *m;
    enum proto_status status = shard_model_create(&m, gguf, &error);
    if (status != PROTO_OK)
        printf("\n    %s\n", error.text);
    CU_ASSERT_EQUAL_FATAL(status, PROTO_OK);
    return m;
}

static size_t count(const struct shard_model *m, enum shard_op_kind kind)
{
    struct shard_program *p;
    size_t n = 0;
    CU_ASSERT_EQUAL_FATAL(shard_program_create(&p, m, 0, m->n_layers, true, true, &error),
                          PROTO_OK);
    for (size_t i = 0; i < p->n_ops; i++)
        n += p->ops[i].kind == kind;
    shard_program_destroy(p);
    return n;
}

static void test_mla(void)
{
    struct shard_model *m = model_of(deepseek);
    const struct shard_rope_params *rope = &m->rope[SHARD_ROPE_GLOBAL];
    CU_ASSERT(m->mla.kv_rank == 32 && m->mla.q_rank == 64 && m->mla.nope == 32);
    CU_ASSERT(m->mla.dim_v == 32 && m->head_dim_k == 48 && m->head_dim_v == 32);
    CU_ASSERT(rope->n_rot == 16 && rope->yarn_factor == 4.0 && rope->original_ctx == 1024);
    double mscale = 1.0 + 0.1 * log(4.0);
    CU_ASSERT_DOUBLE_EQUAL(m->layers[0].score_scale, mscale * mscale / sqrt(48), 1e-6);
    CU_ASSERT(m->gate == SHARD_GATE_SIGMOID && m->gate_normalised && m->gate_scale == 2.5f);
    CU_ASSERT(m->n_expert_groups == 4 && m->n_expert_groups_used == 2 && m->ff_shared == 64);
    CU_ASSERT(!m->layers[0].moe && m->layers[1].moe && m->layers[2].moe);
    CU_ASSERT_EQUAL(count(m, SHARD_OP_MATMUL_HEADS), 6);
    CU_ASSERT_EQUAL(count(m, SHARD_OP_ATTENTION), 3);
    shard_model_destroy(m);
}

/* A position takes one row a layer: its values are the start of its key. */
static void test_mla_cache(void)
{
    struct shard_model *m = model_of(deepseek);
    struct shard_program *p;
    CU_ASSERT_EQUAL_FATAL(shard_program_create(&p, m, 0, 3, false, false, &error), PROTO_OK);
    CU_ASSERT_EQUAL(shard_kv_bytes(p, KERN_KV_F32, 32), 3 * 32 * 48 * 4);
    struct shard_kv *kv;
    struct shard_kv_options options = {.max_seqs = 1};
    CU_ASSERT_EQUAL_FATAL(shard_kv_create(&kv, p, &options, &error), PROTO_OK);
    CU_ASSERT_EQUAL(shard_kv_v_offset(kv, 1, 0), shard_kv_k_offset(kv, 1, 0));
    shard_kv_destroy(kv);
    shard_program_destroy(p);
    shard_model_destroy(m);
}

/* The frequencies between those that turn often over the original context and those that do not. */
static void test_yarn(void)
{
    struct shard_model *m = model_of(deepseek);
    struct shard_program *p;
    CU_ASSERT_EQUAL_FATAL(shard_program_create(&p, m, 0, 1, true, false, &error), PROTO_OK);
    CU_ASSERT_EQUAL(p->rope_freqs[SHARD_ROPE_GLOBAL][0], 1.0);
    CU_ASSERT_DOUBLE_EQUAL(p->rope_freqs[SHARD_ROPE_GLOBAL][7], pow(10000.0, -14.0 / 16) / 4.0,
                           1e-12);
    /* Pairs 1.41 and 4.42 turn 32 times and once: the ramp is from 1 to 5. */
    CU_ASSERT_DOUBLE_EQUAL(p->rope_freqs[SHARD_ROPE_GLOBAL][3],
                           pow(10000.0, -6.0 / 16) * (0.5 + 0.5 / 4), 1e-9);
    shard_program_destroy(p);
    shard_model_destroy(m);
}

static void test_whole_query(void)
{
    struct edit edits[12] = {{.drop_key = "deepseek2.attention.q_lora_rank"},
                             {.drop_key = "deepseek2.expert_gating_func"},
                             {.drop_key = "deepseek2.expert_weights_norm"}};
    static char names[9][40];
    static const char *const dropped[] = {"q_a.weight", "q_a_norm.weight", "q_b.weight"};
    struct shard_gguf *gguf = edited(deepseek, edits, 3), *next;
    for (int i = 0; i < 9; i++) {
        snprintf(names[i], sizeof names[i], "blk.%d.attn_%s", i / 3, dropped[i % 3]);
        edits[3 + i] = (struct edit){.drop_tensor = names[i]};
    }
    next = edited(gguf, edits + 3, 9);
    struct edit whole[3];
    static char queries[3][40];
    for (int i = 0; i < 3; i++) {
        snprintf(queries[i], sizeof queries[i], "blk.%d.attn_q.weight", i);
        whole[i] = (struct edit){.tensor = queries[i], .dims = {64, 4 * 48}, .type = KERN_F32};
    }
    struct shard_gguf *lite = edited(next, whole, 3);
    struct shard_model *m = model_of(lite);
    CU_ASSERT(m->mla.q_rank == 0 && m->layers[1].tensor[SHARD_ATTN_Q] >= 0);
    CU_ASSERT(m->gate == SHARD_GATE_SOFTMAX && !m->gate_normalised);
    shard_model_destroy(m);
    shard_gguf_close(lite);
    shard_gguf_close(next);
    shard_gguf_close(gguf);
}

static void test_delta(void)
{
    struct shard_model *m = model_of(qwen);
    CU_ASSERT(m->delta.n_v == 8 && m->delta.n_k == 4 && m->delta.dim == 32 && m->delta.taps == 4);
    CU_ASSERT(!m->delta.grouped && m->gated_attention);
    for (uint32_t il = 0; il < 5; il++)
        CU_ASSERT_EQUAL(m->layers[il].delta, il != 3);
    CU_ASSERT_EQUAL(m->rope[SHARD_ROPE_GLOBAL].n_rot, 16);
    CU_ASSERT_EQUAL(count(m, SHARD_OP_DELTA), 4);
    CU_ASSERT_EQUAL(count(m, SHARD_OP_CONV), 4);
    CU_ASSERT_EQUAL(count(m, SHARD_OP_SIGMOID_MUL), 1);
    CU_ASSERT_EQUAL(count(m, SHARD_OP_SIGMOID_SCALE), 5);
    shard_model_destroy(m);
}

/* Blocks that predict further tokens are counted as layers, and left out. */
static void test_skipped_blocks(void)
{
    struct edit edits[] = {
        {.u32_key = "qwen35moe.block_count", .u32 = 6},
        {.u32_key = "qwen35moe.nextn_predict_layers", .u32 = 1},
        {.tensor = "blk.5.nextn.eh_proj.weight", .dims = {128, 64}, .type = KERN_F32},
    };
    struct shard_gguf *gguf = edited(qwen, edits, 3);
    struct shard_model *m = model_of(gguf);
    CU_ASSERT(m->n_layers == 5 && m->n_skipped == 1);
    shard_model_destroy(m);
    shard_gguf_close(gguf);
}

struct refusal {
    struct shard_gguf **base;
    struct edit edit;
    enum proto_status status;
    const char *words;
};

static const struct refusal refusals[] = {
    {&deepseek,
     {.drop_key = "deepseek2.attention.key_length_mla"},
     PROTO_FORMAT,
     "attn_kv_b.weight' is missing"},
    {&deepseek,
     {.u32_key = "deepseek2.attention.key_length_mla", .u32 = 16},
     PROTO_LIMIT,
     "key_length_mla' is 16"},
    {&deepseek,
     {.u32_key = "deepseek2.attention.kv_lora_rank", .u32 = 31},
     PROTO_FORMAT,
     "keys of 48 and values of 32, expected 47 and 31"},
    {&deepseek,
     {.u32_key = "deepseek2.attention.head_count_kv", .u32 = 2},
     PROTO_FORMAT,
     "2 KV heads, expected 1"},
    {&deepseek,
     {.u32_key = "deepseek2.expert_group_count", .u32 = 3},
     PROTO_FORMAT,
     "16 experts in 3 groups"},
    {&deepseek,
     {.u32_key = "deepseek2.expert_used_count", .u32 = 9},
     PROTO_FORMAT,
     "room for 9 experts"},
    {&deepseek, {.u32_key = "deepseek2.expert_gating_func", .u32 = 4}, PROTO_LIMIT, "0 to 2"},
    {&deepseek,
     {.drop_key = "deepseek2.rope.scaling.factor"},
     PROTO_FORMAT,
     "rope.scaling.factor' is missing"},
    {&deepseek,
     {.tensor = "blk.1.attn_k_b.weight", .dims = {32, 32, 3}, .type = KERN_F32},
     PROTO_FORMAT,
     "{32, 32, 3}, expected {32, 32, 4}"},
    {&deepseek, {.drop_tensor = "blk.2.attn_v_b.weight"}, PROTO_FORMAT, "attn_v_b.weight' is mis"},
    {&deepseek,
     {.tensor = "blk.0.attn_q.bias", .dims = {192}, .type = KERN_F32},
     PROTO_UNSUPPORTED,
     "'blk.0.attn_q.bias' is not known"},
    {&qwen, {.u32_key = "qwen35moe.ssm.group_count", .u32 = 3}, PROTO_UNSUPPORTED, "3 K heads"},
    {&qwen, {.u32_key = "qwen35moe.ssm.inner_size", .u32 = 128}, PROTO_UNSUPPORTED, "of 128"},
    {&qwen, {.u32_key = "qwen35moe.ssm.conv_kernel", .u32 = 17}, PROTO_LIMIT, "1 to 16"},
    {&qwen, {.u32_key = "qwen35moe.full_attention_interval", .u32 = 0}, PROTO_LIMIT, "is 0"},
    {&qwen,
     {.u32_key = "qwen35moe.full_attention_interval", .u32 = 2},
     PROTO_FORMAT,
     "'blk.1.attn_qkv.weight' has shape"},
    {&qwen, {.drop_tensor = "blk.0.ssm_a"}, PROTO_FORMAT, "'blk.0.ssm_a' is missing"},
    {&qwen,
     {.tensor = "blk.0.ssm_in.weight", .dims = {64, 768}, .type = KERN_F32},
     PROTO_UNSUPPORTED,
     "'blk.0.ssm_in.weight' is not known"},
    {&qwen, {.u32_key = "qwen35moe.nextn_predict_layers", .u32 = 5}, PROTO_LIMIT, "nextn"},
};

static void test_refusals(void)
{
    for (size_t i = 0; i < sizeof refusals / sizeof refusals[0]; i++) {
        const struct refusal *r = &refusals[i];
        struct shard_gguf *gguf = edited(*r->base, &r->edit, 1);
        struct shard_model *m;
        memset(&error, 0, sizeof error);
        enum proto_status status = shard_model_create(&m, gguf, &error);
        bool good = status == r->status && m == NULL && strstr(error.text, r->words);
        if (!good)
            printf("\n    refusal %zu: status %d, '%s'", i, (int)status, error.text);
        CU_ASSERT(good);
        shard_gguf_close(gguf);
    }
}

int main(void)
{
    CU_initialize_registry();
    CU_pSuite suite = CU_add_suite("hybrid", open_all, close_all);
    CU_add_test(suite, "compressed attention", test_mla);
    CU_add_test(suite, "its cache", test_mla_cache);
    CU_add_test(suite, "yarn", test_yarn);
    CU_add_test(suite, "a query that is not compressed", test_whole_query);
    CU_add_test(suite, "delta-net layers", test_delta);
    CU_add_test(suite, "skipped blocks", test_skipped_blocks);
    CU_add_test(suite, "refusals", test_refusals);
    CU_basic_set_mode(CU_BRM_VERBOSE);
    CU_basic_run_tests();
    int failures = (int)CU_get_number_of_failures();
    CU_cleanup_registry();
    return failures != 0;
}
