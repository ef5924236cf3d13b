/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The metadata and tensors of a synthetic model, in the order in which they are written. Names,
 * order and numbers are fixed: golden cases depend on every byte.
 */
#include "shard/mkmodel_spec.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Q and K weights are doubled, so that attention is far from uniform; the head's are fourfold, so
 * that the top token stands out. */
#define QK   2.0
#define HEAD 4.0

struct build {
    const struct shard_dims *d;
    const struct shard_mixture *mixture;
    struct shard__spec *spec;
    char prefix[24]; /* "blk.3." or "" */
    uint32_t layer;
    enum proto_status status;
    struct proto_error *error;
};

/* A shape, fastest dimension first; the macros take it slowest first, as out x in. */
struct shape {
    uint32_t n_dims;
    uint64_t dims[3];
};

#define VECTOR(n)         ((struct shape){1, {n}})
#define MATRIX(out, in)   ((struct shape){2, {in, out}})
#define STACK(n, out, in) ((struct shape){3, {in, out, n}})

static bool is(const struct build *b, const char *arch)
{
    return !strcmp(b->d->arch, arch);
}

/* Keys of the architecture: "llama4." in front. */
struct key {
    char text[96];
};

static struct key own(const struct build *b, const char *name)
{
    struct key key;
    snprintf(key.text, sizeof key.text, "%s.%s", b->d->arch, name);
    return key;
}

static void u32(struct build *b, const char *name, uint32_t value)
{
    shard_gguf_writer_u32(b->spec->writer, own(b, name).text, value);
}

static void f32(struct build *b, const char *name, double value)
{
    shard_gguf_writer_f32(b->spec->writer, own(b, name).text, (float)value);
}

static void check_shape(struct build *b, const char *name, const struct kern_type_info *type,
                        const struct shape *shape)
{
    for (uint32_t i = 0; i < shape->n_dims && !b->status; i++)
        if (!shape->dims[i])
            b->status = proto_fail(b->error, PROTO_INVALID,
                                   "preset %s: tensor \"%s\" would have a dimension of 0, "
                                   "expected at least 1; change --set",
                                   b->d->preset, name);
    if (!b->status && shape->dims[0] % type->block)
        b->status = proto_fail(b->error, PROTO_INVALID,
                               "preset %s: tensor \"%s\" has rows of %" PRIu64
                               " values, expected a multiple of %" PRIu32
                               ", the block of %s; choose another --type or preset",
                               b->d->preset, name, shape->dims[0], type->block, type->name);
}

static bool reserve(struct build *b)
{
    struct shard__spec *spec = b->spec;
    if (spec->n < spec->capacity)
        return true;
    size_t capacity = spec->capacity ? 2 * spec->capacity : 64;
    struct shard__recipe *recipes = realloc(spec->recipes, capacity * sizeof *recipes);
    if (!recipes) {
        b->status = proto_fail_nomem(b->error, capacity * sizeof *recipes, "a model's tensors");
        return false;
    }
    spec->recipes = recipes;
    spec->capacity = capacity;
    return true;
}

/* Takes over recipe.values. */
static void add(struct build *b, const char *name, const struct kern_type_info *type,
                struct shape shape, struct shard__recipe recipe)
{
    char full[PROTO_MAX_NAME_BYTES + 1];
    snprintf(full, sizeof full, "%s%s", b->prefix, name);
    if (!b->status)
        check_shape(b, full, type, &shape);
    if (b->status || !reserve(b)) {
        free(recipe.values);
        return;
    }
    shard_gguf_writer_tensor(b->spec->writer, full, type, shape.n_dims, shape.dims);
    b->spec->recipes[b->spec->n++] = recipe;
}

/* Whether there is no head but the embedding. */
static bool is_tied(const struct build *b)
{
    return is(b, "gemma4") || b->d->tied;
}

static const struct kern_type_info *matrix_type(const struct build *b, const char *name,
                                                const struct shape *shape)
{
    const struct shard_dims *d = b->d;
    const struct shard_mixture_tensor tensor = {
        .name = name,
        .layer = b->layer,
        .n_layers = d->layers,
        .heads_per_kv = d->kv ? d->heads / d->kv : 1,
        .n_experts = d->experts,
        .row = shape->dims[0],
        .experts = strstr(name, "_exps.weight") != NULL,
        .is_head = !strcmp(name, is_tied(b) ? "token_embd.weight" : "output.weight"),
    };
    return shard_mixture_type(b->mixture, &tensor);
}

static void uniform(struct build *b, const char *name, struct shape shape, double std)
{
    add(b, name, matrix_type(b, name, &shape), shape,
        (struct shard__recipe){.rule = SHARD__UNIFORM, .std = std});
}

/* A matrix (or stack of them) whose product with a vector of variance 1 has variance k^2. */
static void scaled(struct build *b, const char *name, struct shape shape, double k)
{
    uniform(b, name, shape, k / sqrt((double)shape.dims[0]));
}

static void matrix(struct build *b, const char *name, struct shape shape)
{
    scaled(b, name, shape, 1.0);
}

static void norm(struct build *b, const char *name, uint64_t n)
{
    add(b, name, kern_type_find(KERN_F32), VECTOR(n), (struct shard__recipe){.rule = SHARD__NORM});
}

static void floats(struct build *b, const char *name, struct shape shape, double std)
{
    add(b, name, kern_type_find(KERN_F32), shape,
        (struct shard__recipe){.rule = SHARD__UNIFORM, .std = std});
}

static void given(struct build *b, const char *name, uint64_t n,
                  float (*at)(uint64_t i, uint64_t n))
{
    float *values = malloc((n + 1) * sizeof *values);
    if (!values) {
        b->status = proto_fail_nomem(b->error, (n + 1) * sizeof *values, "a tensor");
        return;
    }
    for (uint64_t i = 0; i < n; i++)
        values[i] = at(i, n);
    add(b, name, kern_type_find(KERN_F32), VECTOR(n),
        (struct shard__recipe){.rule = SHARD__VALUES, .values = values});
}

/* Element i of n numbers evenly from start to stop; the last is exact. */
static double even(double start, double stop, uint64_t i, uint64_t n)
{
    if (n > 1 && i == n - 1)
        return stop;
    return n > 1 ? (double)i * ((stop - start) / (double)(n - 1)) + start : start;
}

static float rope_factor(uint64_t i, uint64_t n)
{
    return (float)even(1, 8, i, n);
}

/* The first quarter of the pairs rotates, the rest does not. */
static float rope_factor_partial(uint64_t i, uint64_t n)
{
    return i < n / 4 ? 1.0f : 1e30f;
}

static float decay(uint64_t i, uint64_t n)
{
    return -(float)exp(even(-1.5, 1.5, i, n));
}

static void attention(struct build *b, bool bias, bool qk_norm, bool out_bias)
{
    const struct shard_dims *d = b->d;
    uint64_t q = (uint64_t)d->heads * d->hd, kv = (uint64_t)d->kv * d->hd;
    scaled(b, "attn_q.weight", MATRIX(q, d->embd), QK);
    scaled(b, "attn_k.weight", MATRIX(kv, d->embd), QK);
    matrix(b, "attn_v.weight", MATRIX(kv, d->embd));
    matrix(b, "attn_output.weight", MATRIX(d->embd, q));
    if (bias) {
        floats(b, "attn_q.bias", VECTOR(q), 0.5);
        floats(b, "attn_k.bias", VECTOR(kv), 0.5);
        floats(b, "attn_v.bias", VECTOR(kv), 0.1);
    }
    if (out_bias)
        floats(b, "attn_output.bias", VECTOR(d->embd), 0.1);
    if (qk_norm) {
        norm(b, "attn_q_norm.weight", d->hd);
        norm(b, "attn_k_norm.weight", d->hd);
    }
}

static void dense_ffn(struct build *b)
{
    matrix(b, "ffn_gate.weight", MATRIX(b->d->ff, b->d->embd));
    matrix(b, "ffn_up.weight", MATRIX(b->d->ff, b->d->embd));
    matrix(b, "ffn_down.weight", MATRIX(b->d->embd, b->d->ff));
}

static void experts(struct build *b, uint64_t width)
{
    uint64_t n = b->d->experts, embd = b->d->embd;
    floats(b, "ffn_gate_inp.weight", MATRIX(n, embd), 2 / sqrt((double)embd));
    matrix(b, "ffn_gate_exps.weight", STACK(n, width, embd));
    matrix(b, "ffn_up_exps.weight", STACK(n, width, embd));
    matrix(b, "ffn_down_exps.weight", STACK(n, embd, width));
}

static void shared_expert(struct build *b, uint64_t width)
{
    matrix(b, "ffn_gate_shexp.weight", MATRIX(width, b->d->embd));
    matrix(b, "ffn_up_shexp.weight", MATRIX(width, b->d->embd));
    matrix(b, "ffn_down_shexp.weight", MATRIX(b->d->embd, width));
}

/* llama, llama4, qwen2, qwen3, qwen3moe */
static void plain_layer(struct build *b, uint32_t i)
{
    const struct shard_dims *d = b->d;
    attention(b, is(b, "qwen2"), is(b, "qwen3") || is(b, "qwen3moe"), false);
    norm(b, "ffn_norm.weight", d->embd);
    if (is(b, "llama4") && (i + 1) % d->step == 0) {
        experts(b, d->ffe);
        shared_expert(b, d->ffe);
    } else if (is(b, "qwen3moe")) {
        experts(b, d->ffe);
    } else if (is(b, "llama") && d->experts) {
        experts(b, d->ff);
    } else {
        dense_ffn(b);
    }
}

/* What follows attention in deepseek2 and glm4moe. */
static void dense_or_experts(struct build *b, uint32_t i)
{
    if (i < b->d->dense) {
        dense_ffn(b);
        return;
    }
    experts(b, b->d->ffe);
    floats(b, "exp_probs_b.bias", VECTOR(b->d->experts), 0.1);
    shared_expert(b, (uint64_t)b->d->ffe * b->d->shared);
}

static void deepseek2_layer(struct build *b, uint32_t i)
{
    const struct shard_dims *d = b->d;
    const uint64_t q = (uint64_t)d->heads * (d->nope + d->rope);
    if (d->qlora) {
        matrix(b, "attn_q_a.weight", MATRIX(d->qlora, d->embd));
        norm(b, "attn_q_a_norm.weight", d->qlora);
        scaled(b, "attn_q_b.weight", MATRIX(q, d->qlora), QK);
    } else {
        scaled(b, "attn_q.weight", MATRIX(q, d->embd), QK);
    }
    scaled(b, "attn_kv_a_mqa.weight", MATRIX((uint64_t)d->kvlora + d->rope, d->embd), QK);
    norm(b, "attn_kv_a_norm.weight", d->kvlora);
    scaled(b, "attn_k_b.weight", STACK(d->heads, d->kvlora, d->nope), QK);
    matrix(b, "attn_v_b.weight", STACK(d->heads, d->vhd, d->kvlora));
    matrix(b, "attn_output.weight", MATRIX(d->embd, (uint64_t)d->heads * d->vhd));
    norm(b, "ffn_norm.weight", d->embd);
    dense_or_experts(b, i);
}

static void gpt_oss_layer(struct build *b)
{
    const struct shard_dims *d = b->d;
    attention(b, true, false, true);
    floats(b, "attn_sinks.weight", VECTOR(d->heads), 1.0);
    norm(b, "post_attention_norm.weight", d->embd);
    experts(b, d->ffe);
    floats(b, "ffn_gate_inp.bias", VECTOR(d->experts), 0.1);
    floats(b, "ffn_gate_exps.bias", MATRIX(d->experts, d->ffe), 0.1);
    floats(b, "ffn_up_exps.bias", MATRIX(d->experts, d->ffe), 0.1);
    floats(b, "ffn_down_exps.bias", MATRIX(d->experts, d->embd), 0.1);
}

static void qwen35moe_attention(struct build *b)
{
    const struct shard_dims *d = b->d;
    uint64_t q = (uint64_t)d->heads * d->hd, kv = (uint64_t)d->kv * d->hd;
    scaled(b, "attn_q.weight", MATRIX(2 * q, d->embd), QK); /* query and gate */
    scaled(b, "attn_k.weight", MATRIX(kv, d->embd), QK);
    matrix(b, "attn_v.weight", MATRIX(kv, d->embd));
    matrix(b, "attn_output.weight", MATRIX(d->embd, q));
    norm(b, "attn_q_norm.weight", d->hd);
    norm(b, "attn_k_norm.weight", d->hd);
}

static void qwen35moe_linear_attention(struct build *b)
{
    const uint64_t head = b->d->dhead, n_value = b->d->dvalues;
    const uint64_t key = head * b->d->dkeys, value = head * n_value, embd = b->d->embd;
    matrix(b, "attn_qkv.weight", MATRIX(2 * key + value, embd));
    matrix(b, "attn_gate.weight", MATRIX(value, embd));
    floats(b, "ssm_conv1d.weight", MATRIX(2 * key + value, 4), 0.5);
    floats(b, "ssm_dt.bias", VECTOR(n_value), 1.0);
    given(b, "ssm_a", n_value, decay);
    matrix(b, "ssm_beta.weight", MATRIX(n_value, embd));
    matrix(b, "ssm_alpha.weight", MATRIX(n_value, embd));
    norm(b, "ssm_norm.weight", head);
    matrix(b, "ssm_out.weight", MATRIX(embd, value));
}

static void qwen35moe_layer(struct build *b, uint32_t i)
{
    const struct shard_dims *d = b->d;
    norm(b, "post_attention_norm.weight", d->embd);
    if ((i + 1) % d->every == 0)
        qwen35moe_attention(b);
    else
        qwen35moe_linear_attention(b);
    if (i < d->dense) {
        dense_ffn(b);
        return;
    }
    experts(b, d->ffe);
    floats(b, "ffn_gate_inp_shexp.weight", VECTOR(d->embd), 1 / sqrt((double)d->embd));
    shared_expert(b, d->ffs);
}

static bool gemma4_slides(const struct shard_dims *d, uint32_t layer)
{
    return (layer + 1) % d->every != 0;
}

static uint32_t gemma4_kv(const struct shard_dims *d, uint32_t layer)
{
    return d->kv_full && !gemma4_slides(d, layer) ? d->kv_full : d->kv;
}

/* Beside the dense FFN. */
static void gemma4_experts(struct build *b)
{
    const struct shard_dims *d = b->d;
    experts(b, d->ffe);
    norm(b, "ffn_gate_inp.scale", d->embd);
    norm(b, "ffn_down_exps.scale", d->experts);
    norm(b, "pre_ffw_norm_2.weight", d->embd);
    norm(b, "post_ffw_norm_1.weight", d->embd);
    norm(b, "post_ffw_norm_2.weight", d->embd);
}

static void gemma4_layer(struct build *b, uint32_t i)
{
    const struct shard_dims *d = b->d;
    uint64_t head = gemma4_slides(d, i) ? d->hd / 2 : d->hd, kv = gemma4_kv(d, i) * head;
    bool own_kv = i + d->shared_kv < d->layers;
    matrix(b, "attn_q.weight", MATRIX(d->heads * head, d->embd));
    if (own_kv)
        matrix(b, "attn_k.weight", MATRIX(kv, d->embd));
    if (own_kv && gemma4_slides(d, i)) /* elsewhere V is the projection of K */
        matrix(b, "attn_v.weight", MATRIX(kv, d->embd));
    matrix(b, "attn_output.weight", MATRIX(d->embd, d->heads * head));
    norm(b, "attn_q_norm.weight", head);
    if (own_kv)
        norm(b, "attn_k_norm.weight", head);
    norm(b, "post_attention_norm.weight", d->embd);
    floats(b, "layer_output_scale.weight", VECTOR(1), 0.3);
    norm(b, "ffn_norm.weight", d->embd);
    dense_ffn(b);
    if (d->experts)
        gemma4_experts(b);
    norm(b, "post_ffw_norm.weight", d->embd);
    if (d->layer_input) {
        matrix(b, "inp_gate.weight", MATRIX(d->layer_input, d->embd));
        matrix(b, "proj.weight", MATRIX(d->embd, d->layer_input));
        norm(b, "post_norm.weight", d->embd);
    }
}

static void layer(struct build *b, uint32_t i)
{
    snprintf(b->prefix, sizeof b->prefix, "blk.%" PRIu32 ".", i);
    b->layer = i;
    norm(b, "attn_norm.weight", b->d->embd);
    if (is(b, "deepseek2")) {
        deepseek2_layer(b, i);
    } else if (is(b, "gpt-oss")) {
        gpt_oss_layer(b);
    } else if (is(b, "qwen35moe")) {
        qwen35moe_layer(b, i);
    } else if (is(b, "gemma4")) {
        gemma4_layer(b, i);
    } else if (is(b, "glm4moe")) {
        attention(b, true, true, false);
        norm(b, "post_attention_norm.weight", b->d->embd);
        dense_or_experts(b, i);
    } else {
        plain_layer(b, i);
    }
}

static void common_keys(struct build *b)
{
    const struct shard_dims *d = b->d;
    shard_gguf_writer_str(b->spec->writer, "general.architecture", d->arch);
    shard_gguf_writer_str(b->spec->writer, "general.name", d->preset);
    u32(b, "block_count", d->layers);
    u32(b, "context_length", d->ctx);
    u32(b, "embedding_length", d->embd);
    u32(b, "feed_forward_length", d->ff);
    u32(b, "attention.head_count", d->heads);
    u32(b, "vocab_size", d->vocab);
    f32(b, "attention.layer_norm_rms_epsilon", d->eps);
    f32(b, "rope.freq_base", d->theta);
    if (!is(b, "deepseek2")) {
        if (!d->kv_full)
            u32(b, "attention.head_count_kv", d->kv);
        u32(b, "attention.key_length", d->hd);
        u32(b, "attention.value_length", d->hd);
        if (!is(b, "qwen35moe"))
            u32(b, "rope.dimension_count", d->hd);
    }
    if (d->experts) {
        u32(b, "expert_count", d->experts);
        u32(b, "expert_used_count", d->used);
    }
    if (d->ffe)
        u32(b, "expert_feed_forward_length", d->ffe);
}

static void experts_keys(struct build *b, double scale)
{
    f32(b, "expert_weights_scale", scale);
    shard_gguf_writer_bool(b->spec->writer, own(b, "expert_weights_norm").text, true);
}

static void yarn_keys(struct build *b, double factor)
{
    shard_gguf_writer_str(b->spec->writer, own(b, "rope.scaling.type").text, "yarn");
    f32(b, "rope.scaling.factor", factor);
}

/* Latent attention, stored absorbed: one KV head of kvlora + rope values. */
static void deepseek2_keys(struct build *b)
{
    const struct shard_dims *d = b->d;
    u32(b, "attention.head_count_kv", 1);
    u32(b, "attention.key_length", d->kvlora + d->rope);
    u32(b, "attention.value_length", d->kvlora);
    u32(b, "attention.key_length_mla", d->nope + d->rope);
    u32(b, "attention.value_length_mla", d->vhd);
    if (d->qlora)
        u32(b, "attention.q_lora_rank", d->qlora);
    u32(b, "attention.kv_lora_rank", d->kvlora);
    u32(b, "rope.dimension_count", d->rope);
    u32(b, "leading_dense_block_count", d->dense);
    u32(b, "expert_shared_count", d->shared);
    u32(b, "expert_gating_func", 2);
    u32(b, "expert_group_count", d->groups);
    u32(b, "expert_group_used_count", d->groups_used);
    u32(b, "rope.scaling.original_context_length", d->ctx / 4);
    experts_keys(b, 2.5);
    yarn_keys(b, 4.0);
    f32(b, "rope.scaling.yarn_log_multiplier", 0.1);
}

static void gpt_oss_keys(struct build *b)
{
    u32(b, "attention.sliding_window", b->d->swa);
    yarn_keys(b, 32.0);
    u32(b, "rope.scaling.original_context_length", 4096);
}

static void qwen35moe_keys(struct build *b)
{
    int32_t hd = (int32_t)b->d->hd;
    u32(b, "expert_shared_feed_forward_length", b->d->ffs);
    u32(b, "rope.dimension_count", b->d->hd / 2);
    shard_gguf_writer_i32s(b->spec->writer, own(b, "rope.dimension_sections").text,
                           (int32_t[]){hd / 8, hd / 16, hd / 16, 0}, 4);
    u32(b, "ssm.conv_kernel", 4);
    u32(b, "ssm.inner_size", b->d->dvalues * b->d->dhead);
    u32(b, "ssm.state_size", b->d->dhead);
    u32(b, "ssm.time_step_rank", b->d->dvalues);
    u32(b, "ssm.group_count", b->d->dkeys);
    u32(b, "full_attention_interval", b->d->every);
    if (b->d->dense)
        u32(b, "leading_dense_block_count", b->d->dense);
}

static void gemma4_keys(struct build *b)
{
    bool slides[PROTO_MAX_LAYERS];
    int32_t kv[PROTO_MAX_LAYERS];
    uint32_t half = b->d->hd / 2;
    for (uint32_t i = 0; i < b->d->layers; i++) {
        slides[i] = gemma4_slides(b->d, i);
        kv[i] = (int32_t)gemma4_kv(b->d, i);
    }
    if (b->d->kv_full)
        shard_gguf_writer_i32s(b->spec->writer, own(b, "attention.head_count_kv").text, kv,
                               b->d->layers);
    u32(b, "attention.sliding_window", b->d->swa);
    u32(b, "embedding_length_per_layer_input", b->d->layer_input);
    if (b->d->shared_kv)
        u32(b, "attention.shared_kv_layers", b->d->shared_kv);
    u32(b, "attention.key_length_swa", half);
    u32(b, "attention.value_length_swa", half);
    u32(b, "rope.dimension_count_swa", half);
    shard_gguf_writer_bools(b->spec->writer, own(b, "attention.sliding_window_pattern").text,
                            slides, b->d->layers);
    f32(b, "rope.freq_base_swa", 10000.0);
    f32(b, "final_logit_softcapping", 30.0);
}

static void glm4moe_keys(struct build *b)
{
    u32(b, "leading_dense_block_count", b->d->dense);
    u32(b, "expert_shared_count", b->d->shared);
    u32(b, "expert_gating_func", 2);
    experts_keys(b, 1.5);
}

static void own_keys(struct build *b)
{
    if (is(b, "llama4"))
        u32(b, "interleave_moe_layer_step", b->d->step);
    else if (is(b, "deepseek2"))
        deepseek2_keys(b);
    else if (is(b, "gpt-oss"))
        gpt_oss_keys(b);
    else if (is(b, "qwen35moe"))
        qwen35moe_keys(b);
    else if (is(b, "gemma4"))
        gemma4_keys(b);
    else if (is(b, "glm4moe"))
        glm4moe_keys(b);
}

/* What inputs of layers are made of, of all layers side by side. */
static void layer_input_tensors(struct build *b)
{
    const struct shard_dims *d = b->d;
    uint64_t width = (uint64_t)d->layers * d->layer_input;
    uniform(b, "per_layer_token_embd.weight", MATRIX(d->vocab, width),
            1 / sqrt((double)d->layer_input));
    matrix(b, "per_layer_model_proj.weight", MATRIX(width, d->embd));
    norm(b, "per_layer_proj_norm.weight", d->layer_input);
}

static void model_tensors(struct build *b)
{
    const struct shard_dims *d = b->d;
    uniform(b, "token_embd.weight", MATRIX(d->vocab, d->embd), 1.0);
    norm(b, "output_norm.weight", d->embd);
    if (!is_tied(b))
        scaled(b, "output.weight", MATRIX(d->vocab, d->embd), HEAD);
    if (is(b, "gemma4"))
        given(b, "rope_freqs.weight", d->hd / 2, rope_factor_partial);
    else if (d->rope_freqs)
        given(b, "rope_freqs.weight", d->hd / 2, rope_factor);
    if (is(b, "gemma4") && d->layer_input)
        layer_input_tensors(b);
}

enum proto_status shard__spec_init(struct shard__spec *spec, const struct shard_dims *dims,
                                   const struct shard_mixture *mixture, struct proto_error *error)
{
    *spec = (struct shard__spec){.writer = shard_gguf_writer_create()};
    struct build b = {.d = dims, .mixture = mixture, .spec = spec, .error = error};
    common_keys(&b);
    own_keys(&b);
    model_tensors(&b);
    for (uint32_t i = 0; i < dims->layers; i++)
        layer(&b, i);
    return b.status;
}

void shard__spec_finish(struct shard__spec *spec)
{
    shard_gguf_writer_destroy(spec->writer);
    for (size_t i = 0; i < spec->n; i++)
        free(spec->recipes[i].values);
    free(spec->recipes);
    *spec = (struct shard__spec){0};
}

enum proto_status shard_dims_header(const struct shard_dims *dims,
                                    const struct shard_mixture *mixture, void **bytes, size_t *len,
                                    struct proto_error *error)
{
    struct shard__spec spec;
    *bytes = NULL;
    *len = 0;
    enum proto_status status = shard__spec_init(&spec, dims, mixture, error);
    if (!status)
        status = shard_gguf_writer_header(spec.writer, bytes, len, error);
    shard__spec_finish(&spec);
    return status;
}
