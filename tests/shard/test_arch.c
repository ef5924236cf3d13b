/* SPDX-License-Identifier: Apache-2.0 */
/* What each architecture of the table makes of a file: numbers and flags, and the program. */
#include <CUnit/Basic.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "shard/gguf_writer.h"
#include "shard/kv.h"
#include "tests/shard/edited.h"

struct fixture {
    struct shard_gguf *gguf;
    struct shard_model *model;
    struct shard_program *program;
};

static struct proto_error error;

/* All layers of an opened header, which is closed with the fixture. */
static struct fixture whole(struct shard_gguf *gguf)
{
    struct fixture f = {.gguf = gguf};
    enum proto_status status = shard_model_create(&f.model, gguf, &error);
    if (status != PROTO_OK)
        printf("\n    %s", error.text);
    CU_ASSERT_EQUAL_FATAL(status, PROTO_OK);
    CU_ASSERT_EQUAL_FATAL(
        shard_program_create(&f.program, f.model, 0, f.model->n_layers, true, true, &error),
        PROTO_OK);
    return f;
}

static void finish(struct fixture *f)
{
    shard_program_destroy(f->program);
    shard_model_destroy(f->model);
    shard_gguf_close(f->gguf);
}

/* The header of a preset under another architecture's name, with edits. */
static struct shard_gguf *renamed(const char *preset, const char *from, const char *to,
                                  const struct edit *edits, size_t n)
{
    struct shard_gguf *base = preset_open(preset, "F32", false), *middle, *result;
    struct shard_gguf_writer *w = shard_gguf_writer_create();
    char keys[64][96];
    size_t n_keys = 0, from_len = strlen(from), len;
    void *bytes;
    for (size_t i = 0; i < shard_gguf_n_values(base); i++) {
        struct shard_gguf_value value = *shard_gguf_value(base, i);
        if (value.key.len > from_len && !memcmp(value.key.data, from, from_len)) {
            CU_ASSERT_FATAL(n_keys < 64);
            char *key = keys[n_keys++];
            snprintf(key, sizeof keys[0], "%s%.*s", to, (int)(value.key.len - from_len),
                     value.key.data + from_len);
            value.key = (struct shard_gguf_string){key, strlen(key)};
        }
        shard_gguf_writer_value(w, &value);
    }
    for (size_t i = 0; i < shard_gguf_n_tensors(base); i++) {
        const struct shard_tensor *t = shard_gguf_tensor(base, i);
        shard_gguf_writer_tensor(w, t->name, t->type, t->n_dims, t->dims);
    }
    CU_ASSERT_EQUAL_FATAL(shard_gguf_writer_header(w, &bytes, &len, &error), PROTO_OK);
    shard_gguf_writer_destroy(w);
    CU_ASSERT_EQUAL_FATAL(shard_gguf_parse(&middle, bytes, len, "renamed", &error), PROTO_OK);
    free(bytes);
    struct edit name = {.str_key = "general.architecture", .str = to};
    struct shard_gguf *named = edited(middle, &name, 1);
    result = edited(named, edits, n);
    shard_gguf_close(named);
    shard_gguf_close(middle);
    shard_gguf_close(base);
    return result;
}

static size_t count(const struct shard_program *p, enum shard_op_kind kind)
{
    size_t n = 0;
    for (size_t i = 0; i < p->n_ops; i++)
        n += p->ops[i].kind == kind;
    return n;
}

/* The i-th operation of a kind. */
static const struct shard_op *nth(const struct shard_program *p, enum shard_op_kind kind, size_t i)
{
    for (size_t at = 0; at < p->n_ops; at++) {
        if (p->ops[at].kind == kind && i-- == 0)
            return &p->ops[at];
    }
    CU_FAIL_FATAL("no such operation");
    return NULL;
}

static bool reads(const struct fixture *f, int32_t w, const char *name)
{
    if (w < 0)
        return false;
    uint32_t part = f->program->parts[f->program->weights[w].first_part];
    return strcmp(shard_gguf_tensor(f->gguf, part)->name, name) == 0;
}

static void test_qwen(void)
{
    struct fixture two = whole(preset_open("qwen2-tiny", "F32", false));
    struct fixture three = whole(preset_open("qwen3moe-tiny", "F32", false));
    CU_ASSERT_EQUAL(count(two.program, SHARD_OP_BIAS), 3 * 3);
    CU_ASSERT_EQUAL(nth(two.program, SHARD_OP_ROPE, 0)->rope, SHARD_ROPE_NEOX);
    CU_ASSERT_EQUAL(count(three.program, SHARD_OP_BIAS), 0);
    CU_ASSERT(three.model->gate_normalised && three.model->gate == SHARD_GATE_SOFTMAX);
    /* Q and K are normalised by head, with weights, and then turned. */
    const struct shard_op *q = nth(three.program, SHARD_OP_RMS_NORM, 1);
    CU_ASSERT(q->n_heads == 4 && q->width == 32 && reads(&three, q->w, "blk.0.attn_q_norm.weight"));
    CU_ASSERT(q[1].n_heads == 2 && reads(&three, q[1].w, "blk.0.attn_k_norm.weight"));
    CU_ASSERT(q[2].kind == SHARD_OP_ROPE && q[2].dst == q->dst);
    finish(&two);
    finish(&three);
}

static void test_gpt_oss(void)
{
    struct fixture f = whole(preset_open("gpt-oss-tiny", "F32", false));
    const struct shard_op *attention = nth(f.program, SHARD_OP_ATTENTION, 0);
    CU_ASSERT(reads(&f, attention->w, "blk.0.attn_sinks.weight"));
    for (uint32_t il = 0; il < 3; il++)
        CU_ASSERT_EQUAL(f.model->layers[il].mask, il % 2 ? SHARD_MASK_CAUSAL : SHARD_MASK_WINDOW);
    CU_ASSERT_EQUAL(f.model->layers[0].window, 32);
    const struct shard_op *experts = nth(f.program, SHARD_OP_EXPERTS, 0);
    CU_ASSERT_EQUAL(experts->glu, SHARD_GLU_SWIGLU_OAI);
    CU_ASSERT(reads(&f, experts->bias[0], "blk.0.ffn_gate_exps.bias"));
    CU_ASSERT(reads(&f, experts->bias[1], "blk.0.ffn_up_exps.bias"));
    CU_ASSERT(reads(&f, experts->bias[2], "blk.0.ffn_down_exps.bias"));
    CU_ASSERT_EQUAL(f.program->weights[experts->bias[2]].n_out, 8 * 64);
    const struct shard_op *route = nth(f.program, SHARD_OP_ROUTE, 0);
    CU_ASSERT(route[-1].kind == SHARD_OP_BIAS && route[-1].dst == route->a);
    CU_ASSERT(route->gate == SHARD_GATE_SOFTMAX_SELECTED && route->w < 0);
    CU_ASSERT(
        reads(&f, nth(f.program, SHARD_OP_RMS_NORM, 1)->w, "blk.0.post_attention_norm.weight"));
    CU_ASSERT_DOUBLE_EQUAL(f.model->rope[SHARD_ROPE_GLOBAL].gain, 1.34657, 1e-5);
    finish(&f);
}

/* The layer's pages: those of its window, once the batch is done. */
static void test_window_pages(void)
{
    struct fixture f = whole(preset_open("gpt-oss-tiny", "F32", false));
    struct shard_kv *kv;
    struct shard_kv_options options = {.type = KERN_KV_F32, .max_seqs = 1};
    CU_ASSERT_EQUAL_FATAL(shard_kv_create(&kv, f.program, &options, &error), PROTO_OK);
    uint64_t page = 2ull * 2 * 32 * SHARD_KV_PAGE_ROWS * sizeof(float);
    for (uint64_t pos = 0; pos < 1000; pos += 10) {
        CU_ASSERT_EQUAL(shard_kv_reserve(kv, 0, pos, 10, &error), PROTO_OK);
        shard_kv_trim(kv, 0, pos + 10);
    }
    /* The full layer has 32 pages; 969..999, which the next row of a windowed one sees, lie in 2.
     */
    CU_ASSERT_EQUAL(shard_kv_used(kv), (32 + 2 * 2) * page);
    shard_kv_destroy(kv);
    finish(&f);
}

static void test_glm4moe(void)
{
    struct fixture f = whole(preset_open("glm4moe-tiny", "F32", false));
    const struct shard_op *route = nth(f.program, SHARD_OP_ROUTE, 0);
    CU_ASSERT(!f.model->layers[0].moe && f.model->layers[1].moe && f.model->layers[2].moe);
    CU_ASSERT(route->gate == SHARD_GATE_SIGMOID && route->gate_normalised);
    CU_ASSERT(route->scale == 1.5f && reads(&f, route->w, "blk.1.exp_probs_b.bias"));
    CU_ASSERT_EQUAL(f.model->ff_shared, 64);
    finish(&f);
    struct shard_gguf *base = preset_open("glm4moe-tiny", "F32", false);
    struct edit half[] = {{.u32_key = "glm4moe.rope.dimension_count", .u32 = 8},
                          {.u32_key = "glm4moe.nextn_predict_layers", .u32 = 1},
                          {.tensor = "blk.2.nextn.enorm.weight", .dims = {64}, .type = KERN_F32}};
    f = whole(edited(base, half, 3));
    CU_ASSERT_EQUAL(f.model->n_layers, 2);
    CU_ASSERT(nth(f.program, SHARD_OP_ROPE, 0)->n_rot == 8);
    CU_ASSERT(nth(f.program, SHARD_OP_ROPE, 0)->width == 16);
    finish(&f);
    /* Tensors of blocks that are not skipped are as unknown as ever. */
    half[1].u32 = 0;
    struct shard_gguf *gguf = edited(base, half, 3);
    struct shard_model *m;
    CU_ASSERT_EQUAL(shard_model_create(&m, gguf, &error), PROTO_UNSUPPORTED);
    shard_gguf_close(gguf);
    half[1].u32 = 3;
    gguf = edited(base, half, 2);
    CU_ASSERT_EQUAL(shard_model_create(&m, gguf, &error), PROTO_LIMIT);
    shard_gguf_close(gguf);
    shard_gguf_close(base);
}

static void test_gemma4(void)
{
    struct fixture f = whole(preset_open("gemma4-tiny", "F32", false));
    const struct shard_program *p = f.program;
    const struct shard_layer *local = &f.model->layers[0], *global = &f.model->layers[2];
    CU_ASSERT(local->head_dim_k == 16 && local->mask == SHARD_MASK_WINDOW && local->window == 32);
    CU_ASSERT(global->head_dim_k == 32 && global->mask == SHARD_MASK_CAUSAL);
    CU_ASSERT(local->score_scale == 1.0f && global->score_scale == 1.0f);
    CU_ASSERT(local->rope_set == SHARD_ROPE_WINDOWED && global->rope_set == SHARD_ROPE_GLOBAL);
    CU_ASSERT(p->ops[1].kind == SHARD_OP_SCALE && p->ops[1].scale == 8.0f);
    CU_ASSERT_EQUAL(count(p, SHARD_OP_ROPE_TABLE), 2);
    CU_ASSERT(p->ops[2].w >= 0 && p->ops[2].width == 32); /* only global angles are divided */
    CU_ASSERT(p->ops[3].w < 0 && p->ops[3].width == 16);
    /* V is K before K's norm. */
    const struct shard_op *copy = nth(p, SHARD_OP_COPY, 0);
    CU_ASSERT_EQUAL(count(p, SHARD_OP_COPY), 2);
    CU_ASSERT(copy[1].kind == SHARD_OP_RMS_NORM && copy[2].dst == copy->a);
    CU_ASSERT(copy[3].dst == copy->dst && copy[3].w < 0 && copy[3].n_heads == 2);
    CU_ASSERT_EQUAL(nth(p, SHARD_OP_GLU, 0)->glu, SHARD_GLU_GELU);
    CU_ASSERT(reads(&f, nth(p, SHARD_OP_SCALE, 1)->w, "blk.0.layer_output_scale.weight"));
    CU_ASSERT(p->ops[p->n_ops - 1].kind == SHARD_OP_SOFTCAP && p->ops[p->n_ops - 1].scale == 30);
    finish(&f);
}

/* Experts beside the dense FFN, gate and up in one tensor. */
static void test_gemma4_moe(void)
{
    static const struct edit edits[] = {
        {.u32_key = "gemma4.expert_count", .u32 = 8},
        {.u32_key = "gemma4.expert_used_count", .u32 = 2},
        {.u32_key = "gemma4.expert_feed_forward_length", .u32 = 48},
        {.tensor = "blk.0.ffn_gate_inp.weight", .dims = {64, 8}, .type = KERN_F32},
        {.tensor = "blk.0.ffn_gate_inp.scale", .dims = {64}, .type = KERN_F32},
        {.tensor = "blk.0.ffn_down_exps.scale", .dims = {8}, .type = KERN_F32},
        {.tensor = "blk.0.ffn_gate_up_exps.weight", .dims = {64, 96, 8}, .type = KERN_F32},
        {.tensor = "blk.0.ffn_down_exps.weight", .dims = {48, 64, 8}, .type = KERN_F32},
        {.tensor = "blk.0.pre_ffw_norm_2.weight", .dims = {64}, .type = KERN_F32},
        {.tensor = "blk.0.post_ffw_norm_1.weight", .dims = {64}, .type = KERN_F32},
        {.tensor = "blk.0.post_ffw_norm_2.weight", .dims = {64}, .type = KERN_F32},
        {.u32_key = "gemma4.nextn_predict_layers", .u32 = 5}, /* one layer is enough */
    };
    struct shard_gguf *base = preset_open("gemma4-tiny", "F32", false);
    struct fixture f = whole(edited(base, edits, sizeof edits / sizeof edits[0]));
    const struct shard_op *experts = nth(f.program, SHARD_OP_EXPERTS, 0);
    const struct shard_holding *held = &f.program->holdings[experts->first_holding];
    CU_ASSERT_EQUAL(experts->n_holdings, 1);
    CU_ASSERT(held->up < 0 && experts->a == experts->c && experts->width == 48);
    CU_ASSERT(reads(&f, held->gate, "blk.0.ffn_gate_up_exps.weight"));
    CU_ASSERT_EQUAL(experts->glu, SHARD_GLU_GELU);
    CU_ASSERT_EQUAL(count(f.program, SHARD_OP_GLU), 1);
    const struct shard_op *route = nth(f.program, SHARD_OP_ROUTE, 0);
    CU_ASSERT(reads(&f, route->w2, "blk.0.ffn_down_exps.scale") && route->gate_normalised);
    CU_ASSERT(route[-2].kind == SHARD_OP_SCALE && route[-2].scale == 0.125f);
    finish(&f);
    shard_gguf_close(base);
}

static void test_gemma3(void)
{
    static char names[6][64];
    struct edit edits[8];
    for (int i = 0; i < 6; i++) {
        snprintf(names[i], sizeof names[i], "blk.%d.layer_output_scale.weight", i);
        edits[i] = (struct edit){.drop_tensor = names[i]};
    }
    edits[6] = (struct edit){.tensor = "blk.2.attn_v.weight", .dims = {64, 64}, .type = KERN_F32};
    edits[7] = (struct edit){.tensor = "blk.5.attn_v.weight", .dims = {64, 64}, .type = KERN_F32};
    struct fixture f = whole(renamed("gemma4-tiny", "gemma4", "gemma3", edits, 8));
    const struct shard_program *p = f.program;
    CU_ASSERT(p->ops[1].kind == SHARD_OP_SCALE && p->ops[1].scale == 8.0f);
    CU_ASSERT_EQUAL(count(p, SHARD_OP_COPY), 0);
    CU_ASSERT_EQUAL(count(p, SHARD_OP_RMS_NORM), 6 * 6 + 1);
    CU_ASSERT_DOUBLE_EQUAL(f.model->layers[0].score_scale, 0.25, 1e-7);
    CU_ASSERT_DOUBLE_EQUAL(f.model->layers[2].score_scale, 1 / sqrt(32.0), 1e-7);
    finish(&f);
    struct edit periodic[9];
    memcpy(periodic, edits, sizeof edits);
    periodic[8] = (struct edit){.drop_key = "gemma3.attention.sliding_window_pattern"};
    struct shard_gguf *gguf = renamed("gemma4-tiny", "gemma4", "gemma3", periodic, 9);
    struct shard_model *m;
    /* Now layer 2 is a windowed one, and its head dimension is another. */
    CU_ASSERT_EQUAL(shard_model_create(&m, gguf, &error), PROTO_FORMAT);
    CU_ASSERT_PTR_NOT_NULL(strstr(error.text, "blk.2.attn_q.weight"));
    shard_gguf_close(gguf);
}

static void test_mistral3(void)
{
    static const struct edit edits[] = {
        {.str_key = "mistral3.rope.scaling.type", .str = "yarn"},
        {.f32_key = "mistral3.rope.scaling.factor", .f32 = 16},
        {.u32_key = "mistral3.rope.scaling.original_context_length", .u32 = 16384},
        {.f32_key = "mistral3.rope.scaling.yarn_log_multiplier", .f32 = 1},
        {.f32_key = "mistral3.attention.temperature_scale", .f32 = 0.1f},
    };
    struct fixture f = whole(renamed("llama2-tiny", "llama", "mistral3", edits, 5));
    const struct shard_op *op = nth(f.program, SHARD_OP_TEMPERATURE, 2);
    CU_ASSERT(op->length == 16384 && op->offset == 0 && op->scale == 0.1f);
    CU_ASSERT_EQUAL(count(f.program, SHARD_OP_TEMPERATURE), 3);
    CU_ASSERT_EQUAL(f.model->rope[SHARD_ROPE_GLOBAL].gain, 1.0f);
    CU_ASSERT_EQUAL(nth(f.program, SHARD_OP_ROPE, 0)->rope, SHARD_ROPE_NORM);
    finish(&f);
    f = whole(renamed("llama2-tiny", "llama", "mistral3", NULL, 0));
    CU_ASSERT_EQUAL(count(f.program, SHARD_OP_TEMPERATURE), 0);
    finish(&f);
    struct shard_gguf *gguf = renamed("llama2-tiny", "llama", "mistral3", edits + 4, 1);
    struct shard_model *m;
    CU_ASSERT_EQUAL(shard_model_create(&m, gguf, &error), PROTO_FORMAT);
    shard_gguf_close(gguf);
}

/* The shape of gpt-oss: pairs turn 32 times in 4096 positions at 8.09, and once at 17.4. */
static void test_yarn(void)
{
    struct shard_rope_params params = {.n_rot = 64,
                                       .base = 150000,
                                       .scale = 1,
                                       .yarn_factor = 32,
                                       .yarn_beta_fast = 32,
                                       .yarn_beta_slow = 1,
                                       .original_ctx = 4096};
    double freqs[32];
    shard_rope_fill(freqs, &params);
    for (int i = 0; i < 32; i++) {
        double plain = pow(150000, -i / 32.0);
        double slow = i <= 8 ? 0 : i >= 18 ? 1 : (i - 8) / 10.0;
        CU_ASSERT_DOUBLE_EQUAL(freqs[i] / plain, 1 - slow + slow / 32, 1e-12);
    }
    params.yarn_factor = 0;
    params.scale = 8;
    shard_rope_fill(freqs, &params);
    CU_ASSERT_DOUBLE_EQUAL(freqs[31], pow(150000, -31 / 32.0) / 8, 1e-18);
}

struct refusal {
    const char *preset;
    struct edit edit;
    enum proto_status status;
    const char *word;
};

static void test_refusals(void)
{
    static const struct refusal refusals[] = {
        {"gemma4-tiny",
         {.drop_key = "gemma4.attention.sliding_window_pattern"},
         PROTO_FORMAT,
         "sliding_window_pattern"},
        {"gemma4-tiny",
         {.u32_key = "gemma4.attention.sliding_window", .u32 = 0},
         PROTO_LIMIT,
         "sliding_window"},
        {"gemma4-tiny",
         {.u32_key = "gemma4.rope.dimension_count_swa", .u32 = 32},
         PROTO_UNSUPPORTED,
         "dimension_count_swa is 32"},
        {"gemma4-tiny",
         {.drop_tensor = "blk.1.post_ffw_norm.weight"},
         PROTO_FORMAT,
         "'blk.1.post_ffw_norm.weight' is missing"},
        {"gpt-oss-tiny",
         {.drop_tensor = "blk.1.attn_sinks.weight"},
         PROTO_FORMAT,
         "'blk.1.attn_sinks.weight' is missing"},
        {"gpt-oss-tiny",
         {.tensor = "blk.1.ffn_up_exps.bias", .dims = {64, 7}, .type = KERN_F32},
         PROTO_FORMAT,
         "{64, 7}, expected {64, 8}"},
        {"gpt-oss-tiny",
         {.drop_key = "gpt-oss.rope.scaling.original_context_length"},
         PROTO_FORMAT,
         "original_context_length"},
        {"qwen3-tiny",
         {.drop_tensor = "blk.0.attn_q_norm.weight"},
         PROTO_FORMAT,
         "'blk.0.attn_q_norm.weight' is missing"},
        {"glm4moe-tiny",
         {.u32_key = "glm4moe.rope.dimension_count", .u32 = 18},
         PROTO_UNSUPPORTED,
         "dimension_count is 18"},
        {"gemma4-tiny",
         {.u32_key = "gemma4.attention.value_length", .u32 = 16},
         PROTO_FORMAT,
         "'blk.2.attn_v.weight' is missing"},
    };
    for (size_t i = 0; i < sizeof refusals / sizeof refusals[0]; i++) {
        const struct refusal *r = &refusals[i];
        struct shard_gguf *base = preset_open(r->preset, "F32", false);
        struct shard_gguf *gguf = edited(base, &r->edit, 1);
        struct shard_model *m;
        enum proto_status status = shard_model_create(&m, gguf, &error);
        bool good = status == r->status && m == NULL && strstr(error.text, r->word);
        if (!good)
            printf("\n    refusal %zu: status %d, '%s'", i, (int)status, error.text);
        CU_ASSERT(good);
        shard_gguf_close(gguf);
        shard_gguf_close(base);
    }
}

int main(void)
{
    CU_initialize_registry();
    CU_pSuite suite = CU_add_suite("architectures", NULL, NULL);
    CU_add_test(suite, "qwen2, qwen3moe", test_qwen);
    CU_add_test(suite, "gpt-oss", test_gpt_oss);
    CU_add_test(suite, "pages of a window", test_window_pages);
    CU_add_test(suite, "glm4moe", test_glm4moe);
    CU_add_test(suite, "gemma4", test_gemma4);
    CU_add_test(suite, "gemma4 with experts", test_gemma4_moe);
    CU_add_test(suite, "gemma3", test_gemma3);
    CU_add_test(suite, "mistral3", test_mistral3);
    CU_add_test(suite, "yarn", test_yarn);
    CU_add_test(suite, "refusals", test_refusals);
    CU_basic_set_mode(CU_BRM_VERBOSE);
    CU_basic_run_tests();
    int failures = (int)CU_get_number_of_failures();
    CU_cleanup_registry();
    return failures != 0;
}
