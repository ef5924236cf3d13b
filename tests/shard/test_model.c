/* SPDX-License-Identifier: Apache-2.0 */
#include <CUnit/Basic.h>
#include <string.h>

#include "tests/shard/edited.h"

static struct shard_gguf *llama, *llama3, *mixtral, *scout, *maverick;
static struct proto_error error;

static int open_all(void)
{
    llama = preset_open("llama-k", "Q4_K", false);
    llama3 = preset_open("llama3-tiny", "F32", false);
    mixtral = preset_open("mixtral-tiny", "F16", false);
    scout = preset_open("llama4-scout-tiny", "F32", false);
    maverick = preset_open("llama4-maverick-tiny", "F32", false);
    return 0;
}

static int close_all(void)
{
    shard_gguf_close(llama);
    shard_gguf_close(llama3);
    shard_gguf_close(mixtral);
    shard_gguf_close(scout);
    shard_gguf_close(maverick);
    return 0;
}

static struct shard_model *model_of(const struct shard_gguf *gguf)
{
    struct shard_model *m;
    enum proto_status status = shard_model_create(&m, gguf, &error);
    if (status != PROTO_OK)
        printf("%s\n", error.text);
    CU_ASSERT_EQUAL_FATAL(status, PROTO_OK);
    return m;
}

static void test_llama(void)
{
    struct shard_model *m = model_of(llama3);
    CU_ASSERT_STRING_EQUAL(m->arch, "llama");
    CU_ASSERT_STRING_EQUAL(m->name, "llama3-tiny");
    CU_ASSERT(m->n_layers == 3 && m->n_embd == 64 && m->n_vocab == 512 && m->n_ctx == 4096);
    CU_ASSERT(m->head_dim_k == 16 && m->head_dim_v == 16);
    const struct shard_rope_params *rope = &m->rope[SHARD_ROPE_GLOBAL];
    CU_ASSERT(rope->n_rot == 16 && rope->base == 500000.0 && rope->scale == 1.0);
    CU_ASSERT(m->rope_freqs >= 0);
    CU_ASSERT(m->n_experts == 0 && m->output != m->token_embd);
    for (uint32_t il = 0; il < 3; il++) {
        const struct shard_layer *layer = &m->layers[il];
        CU_ASSERT(layer->n_head == 4 && layer->n_head_kv == 2 && layer->ff == 128);
        CU_ASSERT(!layer->moe && layer->rope == SHARD_ROPE_NORM);
        CU_ASSERT(layer->mask == SHARD_MASK_CAUSAL && !layer->temperature);
    }
    shard_model_destroy(m);
}

static void test_mixtral(void)
{
    struct shard_model *m = model_of(mixtral);
    CU_ASSERT(m->n_experts == 8 && m->n_experts_used == 2 && m->ff_expert == 128);
    CU_ASSERT(m->gate == SHARD_GATE_SOFTMAX && m->gate_normalised && !m->gate_on_input);
    CU_ASSERT(m->ff_shared == 0 && m->layers[0].moe);
    CU_ASSERT(m->layers[0].tensor[SHARD_FFN_GATE] == -1);
    CU_ASSERT(m->layers[0].tensor[SHARD_GATE_EXPS] >= 0);
    shard_model_destroy(m);
}

static void test_llama4(void)
{
    struct shard_model *s = model_of(scout), *m = model_of(maverick);
    CU_ASSERT(s->gate == SHARD_GATE_SIGMOID && s->gate_on_input && !s->gate_normalised);
    CU_ASSERT(s->ff_shared == 64 && s->temperature_length == 8192);
    for (uint32_t il = 0; il < s->n_layers; il++) {
        const struct shard_layer *layer = &s->layers[il];
        bool nope = il % 4 == 3;
        CU_ASSERT(layer->moe);
        CU_ASSERT_EQUAL(layer->rope, nope ? SHARD_ROPE_NONE : SHARD_ROPE_NORM);
        CU_ASSERT_EQUAL(layer->mask, nope ? SHARD_MASK_CAUSAL : SHARD_MASK_CHUNK);
        CU_ASSERT(nope || layer->window == 8192);
        CU_ASSERT_EQUAL(layer->qk_norm_after_rope, !nope);
        CU_ASSERT_EQUAL(layer->temperature, nope);
    }
    for (uint32_t il = 0; il < m->n_layers; il++) {
        CU_ASSERT_EQUAL(m->layers[il].moe, il % 2 == 1);
        CU_ASSERT(!m->layers[il].qk_norm_after_rope);
    }
    shard_model_destroy(s);
    shard_model_destroy(m);
}

/* The published numbers of the real shape. */
static void test_maverick_size(void)
{
    struct shard_gguf *gguf = preset_open("maverick", "Q4_K", true);
    struct shard_model *m = model_of(gguf);
    CU_ASSERT_DOUBLE_EQUAL((double)shard_model_parameters(m), 400.71e9, 0.01e9);
    /* 16.15 G values of Q4_K, 4.5 bits each, but the routers of 24 layers are floats. */
    double routers = 24 * 5120.0 * 128;
    double bytes = (16.15e9 - routers) * 4.5 / 8 + routers * 4;
    CU_ASSERT_DOUBLE_EQUAL((double)shard_model_bytes_per_token(m), bytes, 0.005e9);
    uint64_t sum = shard_model_embd_bytes(m) + shard_model_head_bytes(m), all = 0;
    for (uint32_t il = 0; il < m->n_layers; il++)
        sum += shard_model_layer_bytes(m, il);
    for (size_t i = 0; i < shard_gguf_n_tensors(gguf); i++)
        all += shard_gguf_tensor(gguf, i)->bytes;
    CU_ASSERT_EQUAL(sum, all);
    shard_model_destroy(m);
    shard_gguf_close(gguf);
}

static void test_tied_output(void)
{
    struct shard_gguf *gguf = edited(llama, &(struct edit){.drop_tensor = "output.weight"}, 1);
    struct shard_model *m = model_of(gguf);
    CU_ASSERT(m->output == m->token_embd && m->output >= 0);
    shard_model_destroy(m);
    shard_gguf_close(gguf);
}

static void test_rope_scaling(void)
{
    struct edit edits[] = {
        {.str_key = "llama.rope.scaling.type", .str = "linear"},
        {.f32_key = "llama.rope.scaling.factor", .f32 = 4.0f},
    };
    struct shard_gguf *gguf = edited(llama, edits, 2);
    struct shard_model *m = model_of(gguf);
    CU_ASSERT_EQUAL(m->rope[SHARD_ROPE_GLOBAL].scale, 4.0);
    shard_model_destroy(m);
    shard_gguf_close(gguf);
    edits[0].str = "none";
    gguf = edited(llama, edits, 2);
    m = model_of(gguf);
    CU_ASSERT_EQUAL(m->rope[SHARD_ROPE_GLOBAL].scale, 1.0);
    shard_model_destroy(m);
    shard_gguf_close(gguf);
}

static void test_split_experts(void)
{
    static char names[3 * 8][40];
    struct edit edits[3 * 8 + 3] = {{.drop_tensor = "blk.1.ffn_gate_exps.weight"},
                                    {.drop_tensor = "blk.1.ffn_up_exps.weight"},
                                    {.drop_tensor = "blk.1.ffn_down_exps.weight"}};
    for (int i = 0; i < 24; i++) {
        static const char *const parts[] = {"gate", "up", "down"};
        snprintf(names[i], sizeof names[i], "blk.1.ffn_%s.%d.weight", parts[i % 3], i / 3);
        edits[3 + i] = (struct edit){.tensor = names[i], .type = KERN_F16};
        edits[3 + i].dims[0] = i % 3 == 2 ? 128 : 64;
        edits[3 + i].dims[1] = i % 3 == 2 ? 64 : 128;
    }
    struct shard_gguf *gguf = edited(mixtral, edits, 27);
    struct shard_model *m = model_of(gguf), *whole = model_of(mixtral);
    CU_ASSERT(m->layers[1].experts_split && !m->layers[0].experts_split);
    for (int i = 0; i < 24; i++)
        CU_ASSERT_EQUAL(m->layers[1].expert_tensor[i], shard_gguf_find_tensor(gguf, names[i]));
    CU_ASSERT_EQUAL(shard_model_layer_bytes(m, 1), shard_model_layer_bytes(whole, 1));
    shard_model_destroy(m);
    shard_model_destroy(whole);
    shard_gguf_close(gguf);
    edits[10].type = KERN_F32;
    gguf = edited(mixtral, edits, 27);
    CU_ASSERT_EQUAL(shard_model_create(&m, gguf, &error), PROTO_UNSUPPORTED);
    CU_ASSERT_PTR_NOT_NULL(strstr(error.text, names[7]));
    shard_gguf_close(gguf);
}

static void test_per_layer_shapes(void)
{
    struct edit edits[] = {
        {.tensor = "blk.1.attn_q.bias", .dims = {256}, .type = KERN_F32},
        {.tensor = "blk.1.attn_qkv.weight", .dims = {256, 256 + 64 + 64}, .type = KERN_Q4_K},
        {.drop_tensor = "blk.1.attn_q.weight"},
        {.drop_tensor = "blk.1.attn_k.weight"},
        {.drop_tensor = "blk.1.attn_v.weight"},
    };
    struct shard_gguf *gguf = edited(llama, edits, 5);
    struct shard_model *m = model_of(gguf);
    CU_ASSERT(m->layers[1].tensor[SHARD_ATTN_QKV] >= 0);
    CU_ASSERT(m->layers[1].tensor[SHARD_ATTN_Q] < 0 && m->layers[0].tensor[SHARD_ATTN_Q] >= 0);
    CU_ASSERT(m->layers[1].tensor[SHARD_ATTN_Q_BIAS] >= 0);
    shard_model_destroy(m);
    shard_gguf_close(gguf);
}

/* One change that must be refused, with a status and words that the text must hold. */
struct refusal {
    struct shard_gguf **base;
    struct edit edit;
    enum proto_status status;
    const char *words[3];
};

static const struct refusal refusals[] = {
    {&llama,
     {.str_key = "general.architecture", .str = "mamba"},
     PROTO_UNSUPPORTED,
     {"'mamba'", "llama, llama4"}},
    {&llama, {.drop_key = "general.architecture"}, PROTO_FORMAT, {"general.architecture"}},
    {&llama, {.drop_key = "llama.block_count"}, PROTO_FORMAT, {"'llama.block_count' is missing"}},
    {&llama, {.u32_key = "llama.block_count", .u32 = 513}, PROTO_LIMIT, {"513", "1 to 512"}},
    {&llama, {.u32_key = "llama.block_count", .u32 = 0}, PROTO_LIMIT, {"block_count' is 0"}},
    {&llama, {.u32_key = "llama.block_count", .u32 = 3}, PROTO_FORMAT, {"'blk.2.", "missing"}},
    {&llama,
     {.u32_key = "llama.block_count", .u32 = 1},
     PROTO_UNSUPPORTED,
     {"'blk.1.", "not known"}},
    {&llama, {.str_key = "llama.block_count", .str = "2"}, PROTO_FORMAT, {"llama.block_count"}},
    {&llama,
     {.u32_key = "llama.embedding_length", .u32 = 1u << 21},
     PROTO_LIMIT,
     {"embedding_length"}},
    {&llama,
     {.u32_key = "llama.embedding_length", .u32 = 512},
     PROTO_FORMAT,
     {"token_embd.weight", "{256, 512}", "{512, 512}"}},
    {&llama, {.u32_key = "llama.attention.head_count", .u32 = 0}, PROTO_LIMIT, {"head_count"}},
    {&llama,
     {.u32_key = "llama.attention.head_count_kv", .u32 = 3},
     PROTO_FORMAT,
     {"8 heads", "3 KV heads"}},
    {&llama, {.u32_key = "llama.attention.key_length", .u32 = 5000}, PROTO_LIMIT, {"key_length"}},
    {&llama,
     {.u32_key = "llama.rope.dimension_count", .u32 = 16},
     PROTO_UNSUPPORTED,
     {"dimension_count is 16", "32"}},
    {&llama, {.f32_key = "llama.rope.freq_base", .f32 = -1.0f}, PROTO_LIMIT, {"freq_base"}},
    {&llama,
     {.f32_key = "llama.attention.layer_norm_rms_epsilon", .f32 = 2.0f},
     PROTO_LIMIT,
     {"epsilon"}},
    {&llama,
     {.str_key = "llama.rope.scaling.type", .str = "longrope"},
     PROTO_UNSUPPORTED,
     {"'longrope'", "none, linear, yarn"}},
    {&llama,
     {.str_key = "llama.rope.scaling.type", .str = "yarn"},
     PROTO_FORMAT,
     {"'llama.rope.scaling.factor' is missing"}},
    {&llama,
     {.u32_key = "llama.feed_forward_length", .u32 = 1024},
     PROTO_FORMAT,
     {"blk.0.ffn_gate.weight", "{256, 512}", "{256, 1024}"}},
    {&llama, {.u32_key = "llama.vocab_size", .u32 = 511}, PROTO_FORMAT, {"512 rows", "511"}},
    {&llama,
     {.drop_tensor = "output_norm.weight"},
     PROTO_FORMAT,
     {"'output_norm.weight' is missing"}},
    {&llama,
     {.drop_tensor = "token_embd.weight"},
     PROTO_FORMAT,
     {"'token_embd.weight' is missing"}},
    {&llama,
     {.drop_tensor = "blk.1.ffn_up.weight"},
     PROTO_FORMAT,
     {"'blk.1.ffn_up.weight' is missing"}},
    {&llama,
     {.tensor = "blk.0.attn_q_norm.weight", .dims = {32}, .type = KERN_F32},
     PROTO_UNSUPPORTED,
     {"'blk.0.attn_q_norm.weight' is not known"}},
    {&llama,
     {.tensor = "blk.0.attn_norm.weight", .dims = {128}, .type = KERN_F32},
     PROTO_FORMAT,
     {"'blk.0.attn_norm.weight' has shape {128}, expected {256}"}},
    {&llama,
     {.tensor = "rope_freqs.weight", .dims = {32}, .type = KERN_F32},
     PROTO_FORMAT,
     {"{32}, expected {16}"}},
    {&mixtral, {.u32_key = "llama.expert_count", .u32 = 1025}, PROTO_LIMIT, {"1025"}},
    {&mixtral,
     {.u32_key = "llama.expert_used_count", .u32 = 9},
     PROTO_LIMIT,
     {"used_count' is 9", "1 to 8"}},
    {&mixtral,
     {.u32_key = "llama.expert_gating_func", .u32 = 2},
     PROTO_UNSUPPORTED,
     {"gating_func is 2"}},
    {&scout, {.drop_key = "llama4.expert_count"}, PROTO_FORMAT, {"llama4.expert_count"}},
    {&scout, {.drop_key = "llama4.interleave_moe_layer_step"}, PROTO_FORMAT, {"interleave"}},
    {&scout,
     {.u32_key = "llama4.interleave_moe_layer_step", .u32 = 0},
     PROTO_LIMIT,
     {"interleave"}},
    {&scout,
     {.u32_key = "llama4.attention.sliding_window", .u32 = 0},
     PROTO_UNSUPPORTED,
     {"sliding_window is 0", "8192"}},
};

static void test_refusals(void)
{
    for (size_t i = 0; i < sizeof refusals / sizeof refusals[0]; i++) {
        const struct refusal *r = &refusals[i];
        struct shard_gguf *gguf = edited(*r->base, &r->edit, 1);
        struct shard_model *m;
        memset(&error, 0, sizeof error);
        enum proto_status status = shard_model_create(&m, gguf, &error);
        bool good = status == r->status && m == NULL && error.status == status;
        good = good && strncmp(error.text, "edited: ", 8) == 0; /* the file */
        for (int w = 0; w < 3 && r->words[w]; w++)
            good = good && strstr(error.text, r->words[w]);
        if (!good)
            printf("\n    refusal %zu: status %d, '%s'", i, (int)status, error.text);
        CU_ASSERT(good);
        shard_gguf_close(gguf);
    }
}

int main(void)
{
    CU_initialize_registry();
    CU_pSuite suite = CU_add_suite("model", open_all, close_all);
    CU_add_test(suite, "llama", test_llama);
    CU_add_test(suite, "mixtral", test_mixtral);
    CU_add_test(suite, "llama4", test_llama4);
    CU_add_test(suite, "size of Maverick", test_maverick_size);
    CU_add_test(suite, "tied output", test_tied_output);
    CU_add_test(suite, "rope scaling", test_rope_scaling);
    CU_add_test(suite, "experts as tensors of their own", test_split_experts);
    CU_add_test(suite, "fused and biased attention", test_per_layer_shapes);
    CU_add_test(suite, "refusals", test_refusals);
    CU_basic_set_mode(CU_BRM_VERBOSE);
    CU_basic_run_tests();
    int failures = (int)CU_get_number_of_failures();
    CU_cleanup_registry();
    return failures != 0;
}
