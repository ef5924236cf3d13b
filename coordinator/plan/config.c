/* SPDX-License-Identifier: Apache-2.0 */
#include "coordinator/plan/config.h"

#include <jansson.h>
#include <string.h>

#include "proto/limits.h"

#define MAX_FILE_BYTES (16u << 20)

/* Reads keys of one configuration. The first failure stays; later reads then give `min`. */
struct reader {
    const json_t *config;
    const char *name;
    struct proto_error *error;
    enum proto_status status;
};

struct family {
    const char *type, *arch; /* model_type, and the architecture whose tensors have its shapes */
    void (*read)(struct reader *r, struct shard_dims *d);
    const char *note;
};

/* *out stays as it is where the key is absent or null, unless it is needed. */
static void whole(struct reader *r, const char *key, bool needed, uint32_t min, uint32_t max,
                  uint32_t *out)
{
    const json_t *value = json_object_get(r->config, key);
    bool absent = !value || json_is_null(value);
    json_int_t number = json_integer_value(value);
    if (r->status || (absent && !needed))
        return;
    if (absent)
        r->status = proto_fail(r->error, PROTO_INVALID,
                               "%.200s: has no %s, expected a whole number from %u to %u", r->name,
                               key, min, max);
    else if (!json_is_integer(value) || number < min || number > max)
        r->status =
            proto_fail(r->error, PROTO_INVALID, "%.200s: %s is not a whole number from %u to %u",
                       r->name, key, min, max);
    else
        *out = (uint32_t)number;
}

static void need(struct reader *r, const char *key, uint32_t max, uint32_t *out)
{
    whole(r, key, true, 1, max, out);
}

static void may(struct reader *r, const char *key, uint32_t max, uint32_t *out)
{
    whole(r, key, false, 0, max, out);
}

static void real(struct reader *r, const json_t *object, const char *key, double *out)
{
    const json_t *value = json_object_get(object, key);
    if (r->status || !json_is_number(value))
        return;
    *out = json_number_value(value);
    if (!(*out > 0 && *out < 1e12))
        r->status =
            proto_fail(r->error, PROTO_INVALID, "%.200s: %s is not a number above 0", r->name, key);
}

/* In new files RoPE's numbers have an object of their own, and one more for each kind of layer. */
static void read_theta(struct reader *r, struct shard_dims *d)
{
    const json_t *rope = json_object_get(r->config, "rope_parameters");
    const json_t *full = json_object_get(rope, "full_attention");
    d->theta = 10000;
    real(r, r->config, "rope_theta", &d->theta);
    real(r, full ? full : rope, "rope_theta", &d->theta);
}

static bool has_rope_factors(const struct reader *r)
{
    const json_t *scaling = json_object_get(r->config, "rope_scaling");
    const char *type = json_string_value(json_object_get(scaling, "rope_type"));
    return type && !strcmp(type, "llama3");
}

static void read_common(struct reader *r, struct shard_dims *d)
{
    need(r, "num_hidden_layers", PROTO_MAX_LAYERS, &d->layers);
    need(r, "hidden_size", PROTO_MAX_EMBD, &d->embd);
    need(r, "num_attention_heads", PROTO_MAX_HEADS, &d->heads);
    need(r, "vocab_size", PROTO_MAX_VOCAB, &d->vocab);
    need(r, "max_position_embeddings", PROTO_MAX_CONTEXT, &d->ctx);
    d->eps = 1e-5;
    real(r, r->config, "rms_norm_eps", &d->eps);
    read_theta(r, d);
    d->tied = json_is_true(json_object_get(r->config, "tie_word_embeddings"));
}

/* Attention with keys and values of their own. */
static void read_heads(struct reader *r, struct shard_dims *d)
{
    d->kv = d->heads;
    whole(r, "num_key_value_heads", false, 1, PROTO_MAX_HEADS, &d->kv);
    d->hd = r->status ? 0 : d->embd / d->heads;
    whole(r, "head_dim", false, 1, PROTO_MAX_HEAD_DIM, &d->hd);
}

static void read_experts(struct reader *r, struct shard_dims *d, const char *count,
                         const char *used, const char *width)
{
    need(r, count, PROTO_MAX_EXPERTS, &d->experts);
    need(r, used, PROTO_MAX_EXPERTS, &d->used);
    need(r, width, PROTO_MAX_FF, &d->ffe);
}

static void read_dense(struct reader *r, struct shard_dims *d)
{
    read_heads(r, d);
    need(r, "intermediate_size", PROTO_MAX_FF, &d->ff);
    d->rope_freqs = has_rope_factors(r);
}

static void read_mixtral(struct reader *r, struct shard_dims *d)
{
    read_dense(r, d);
    need(r, "num_local_experts", PROTO_MAX_EXPERTS, &d->experts);
    need(r, "num_experts_per_tok", PROTO_MAX_EXPERTS, &d->used);
}

static void read_llama4(struct reader *r, struct shard_dims *d)
{
    read_heads(r, d);
    need(r, "intermediate_size_mlp", PROTO_MAX_FF, &d->ff);
    read_experts(r, d, "num_local_experts", "num_experts_per_tok", "intermediate_size");
    need(r, "interleave_moe_layer_step", PROTO_MAX_LAYERS, &d->step);
    d->rope_freqs = has_rope_factors(r);
}

static void read_qwen3_moe(struct reader *r, struct shard_dims *d)
{
    read_dense(r, d);
    read_experts(r, d, "num_experts", "num_experts_per_tok", "moe_intermediate_size");
}

static void read_qwen3_5_moe(struct reader *r, struct shard_dims *d)
{
    read_heads(r, d);
    read_experts(r, d, "num_experts", "num_experts_per_tok", "moe_intermediate_size");
    need(r, "shared_expert_intermediate_size", PROTO_MAX_FF, &d->ffs);
    d->ff = d->ffe; /* no layer is dense */
    d->every = 4;
    whole(r, "full_attention_interval", false, 1, PROTO_MAX_LAYERS, &d->every);
    need(r, "linear_num_key_heads", PROTO_MAX_HEADS, &d->dkeys);
    need(r, "linear_num_value_heads", PROTO_MAX_HEADS, &d->dvalues);
    need(r, "linear_value_head_dim", PROTO_MAX_HEAD_DIM, &d->dhead);
}

static void read_gpt_oss(struct reader *r, struct shard_dims *d)
{
    read_dense(r, d);
    read_experts(r, d, "num_local_experts", "num_experts_per_tok", "intermediate_size");
    need(r, "sliding_window", PROTO_MAX_CONTEXT, &d->swa);
}

/* The period of layer_types: after how many layers the first with full attention comes. */
static void read_period(struct reader *r, struct shard_dims *d)
{
    const json_t *types = json_object_get(r->config, "layer_types");
    for (size_t i = 0; i < json_array_size(types) && !d->every; i++) {
        const char *type = json_string_value(json_array_get(types, i));
        if (type && !strcmp(type, "full_attention"))
            d->every = (uint32_t)i + 1;
    }
    if (!r->status && !d->every)
        r->status = proto_fail(r->error, PROTO_INVALID,
                               "%.200s: layer_types names no full_attention, expected it", r->name);
}

static void read_gemma4(struct reader *r, struct shard_dims *d)
{
    uint32_t half = 0;
    read_heads(r, d);
    half = d->hd;
    need(r, "global_head_dim", PROTO_MAX_HEAD_DIM, &d->hd);
    need(r, "intermediate_size", PROTO_MAX_FF, &d->ff);
    need(r, "sliding_window", PROTO_MAX_CONTEXT, &d->swa);
    may(r, "num_global_key_value_heads", PROTO_MAX_HEADS, &d->kv_full);
    may(r, "hidden_size_per_layer_input", PROTO_MAX_EMBD, &d->layer_input);
    may(r, "num_kv_shared_layers", PROTO_MAX_LAYERS, &d->shared_kv);
    read_period(r, d);
    if (json_is_true(json_object_get(r->config, "enable_moe_block")))
        read_experts(r, d, "num_experts", "top_k_experts", "moe_intermediate_size");
    d->tied = 0; /* in every model of the family */
    if (!r->status && d->hd != 2 * half)
        r->status = proto_fail(r->error, PROTO_UNSUPPORTED,
                               "%.200s: head_dim is %u and global_head_dim %u, expected twice that",
                               r->name, half, d->hd);
}

/* Leading dense layers, sigmoid routing, shared experts. */
static void read_deepseek_ffn(struct reader *r, struct shard_dims *d)
{
    const char *count =
        json_object_get(r->config, "n_routed_experts") ? "n_routed_experts" : "num_local_experts";
    read_experts(r, d, count, "num_experts_per_tok", "moe_intermediate_size");
    may(r, "first_k_dense_replace", PROTO_MAX_LAYERS, &d->dense);
    may(r, "n_shared_experts", PROTO_MAX_EXPERTS, &d->shared);
    may(r, "n_group", PROTO_MAX_EXPERTS, &d->groups);
    may(r, "topk_group", PROTO_MAX_EXPERTS, &d->groups_used);
    if (d->groups <= 1)
        d->groups = d->groups_used = 0;
    d->ff = d->ffe;
    may(r, "intermediate_size", PROTO_MAX_FF, &d->ff);
    may(r, "dense_intermediate_size", PROTO_MAX_FF, &d->ff);
}

static void read_glm4_moe(struct reader *r, struct shard_dims *d)
{
    read_heads(r, d);
    read_deepseek_ffn(r, d);
}

static void read_deepseek(struct reader *r, struct shard_dims *d)
{
    may(r, "q_lora_rank", PROTO_MAX_EMBD, &d->qlora);
    need(r, "kv_lora_rank", PROTO_MAX_HEAD_DIM, &d->kvlora);
    need(r, "qk_nope_head_dim", PROTO_MAX_HEAD_DIM, &d->nope);
    need(r, "qk_rope_head_dim", PROTO_MAX_HEAD_DIM, &d->rope);
    need(r, "v_head_dim", PROTO_MAX_HEAD_DIM, &d->vhd);
    read_deepseek_ffn(r, d);
}

/* One KV head of head_dim, and an output that goes through groups of rank o_lora_rank: values are
 * as wide, to a multiple of 16, as makes k_b, v_b and the output as large as those together. */
static void read_deepseek_v4(struct reader *r, struct shard_dims *d)
{
    uint32_t head = 1, rank = 0, groups = 0;
    read_deepseek_ffn(r, d);
    need(r, "q_lora_rank", PROTO_MAX_EMBD, &d->qlora);
    need(r, "qk_rope_head_dim", PROTO_MAX_HEAD_DIM / 2, &d->rope);
    whole(r, "head_dim", true, d->rope + 1, PROTO_MAX_HEAD_DIM, &head);
    need(r, "o_lora_rank", PROTO_MAX_EMBD, &rank);
    need(r, "o_groups", PROTO_MAX_HEADS, &groups);
    if (r->status)
        return;
    d->kvlora = d->nope = head - d->rope;
    double heads = d->heads, latent = d->kvlora;
    double wanted = heads * head * rank + (double)groups * rank * d->embd - heads * latent * latent;
    double width = wanted / (heads * (latent + d->embd));
    d->vhd = width < 16 ? 16 : width > 4080 ? 4096 : ((uint32_t)width + 8) / 16 * 16;
}

/* Experts of a narrower input than the residual: as wide as those, and with fewer rows. */
static void read_kimi_linear(struct reader *r, struct shard_dims *d)
{
    const json_t *whole_config = r->config;
    uint32_t narrow = 0;
    read_experts(r, d, "num_experts", "num_experts_per_token", "moe_intermediate_size");
    need(r, "intermediate_size", PROTO_MAX_FF, &d->ff);
    need(r, "routed_expert_hidden_size", PROTO_MAX_EMBD, &narrow);
    may(r, "first_k_dense_replace", PROTO_MAX_LAYERS, &d->dense);
    uint32_t shared = 0;
    may(r, "num_shared_experts", PROTO_MAX_EXPERTS, &shared);
    r->config = json_object_get(whole_config, "linear_attn_config");
    need(r, "num_heads", PROTO_MAX_HEADS, &d->dvalues);
    need(r, "head_dim", PROTO_MAX_HEAD_DIM, &d->dhead);
    r->config = whole_config;
    if (r->status)
        return;
    d->ffs = shared * d->ffe < PROTO_MAX_FF ? shared * d->ffe : PROTO_MAX_FF;
    d->ffe = (uint32_t)((uint64_t)d->ffe * narrow / d->embd);
    d->dkeys = d->dvalues;
    d->hd = d->dhead;
    d->kv = 2; /* as much KV as a latent row, nearly */
    d->every = 4;
}

static const struct family families[] = {
    {"llama", "llama", read_dense, NULL},
    {"mistral", "llama", read_dense, NULL},
    {"mixtral", "llama", read_mixtral, NULL},
    {"llama4_text", "llama4", read_llama4, NULL},
    {"qwen2", "qwen2", read_dense, NULL},
    {"qwen3", "qwen3", read_dense, NULL},
    {"qwen3_moe", "qwen3moe", read_qwen3_moe, NULL},
    {"qwen3_next", "qwen35moe", read_qwen3_5_moe, NULL},
    {"qwen3_5_moe_text", "qwen35moe", read_qwen3_5_moe, NULL},
    {"gpt_oss", "gpt-oss", read_gpt_oss, NULL},
    {"gemma4_text", "gemma4", read_gemma4, NULL},
    {"glm4_moe", "glm4moe", read_glm4_moe, NULL},
    {"deepseek_v2", "deepseek2", read_deepseek, NULL},
    {"deepseek_v3", "deepseek2", read_deepseek, NULL},
    {"kimi_k2", "deepseek2", read_deepseek, NULL},
    {"deepseek_v32", "deepseek2", read_deepseek, SHARD_DIMS_NO_INDEX},
    {"glm_moe_dsa", "deepseek2", read_deepseek, SHARD_DIMS_NO_INDEX},
    {"deepseek_v4", "deepseek2", read_deepseek_v4, SHARD_DIMS_COMPRESSED},
    {"minimax_m3", "glm4moe", read_glm4_moe, SHARD_DIMS_NO_INDEX},
    {"kimi_linear", "qwen35moe", read_kimi_linear, SHARD_DIMS_DELTA},
};

#define N_FAMILIES (sizeof families / sizeof families[0])

static enum proto_status find_family(const struct reader *r, const struct family **out)
{
    char list[PROTO_ERROR_TEXT_BYTES] = "";
    const char *type = json_string_value(json_object_get(r->config, "model_type"));
    for (size_t i = 0, len = 0; i < N_FAMILIES; i++) {
        *out = &families[i];
        if (type && !strcmp(type, families[i].type))
            return PROTO_OK;
        len += (size_t)snprintf(list + len, sizeof list - len, "%s%s", i ? ", " : "",
                                families[i].type);
    }
    if (!type)
        return proto_fail(r->error, PROTO_INVALID,
                          "%.200s: has no model_type, expected a model's config.json", r->name);
    return proto_fail(r->error, PROTO_UNSUPPORTED,
                      "%.160s: model_type is %.40s, expected one of: %s", r->name, type, list);
}

static enum proto_status read_config(struct reader *r, struct shard_dims *d)
{
    const json_t *text = json_object_get(r->config, "text_config");
    const struct family *family;
    if (json_is_object(text))
        r->config = text;
    enum proto_status status = find_family(r, &family);
    if (status)
        return status;
    *d = (struct shard_dims){.preset = r->name, .arch = family->arch, .note = family->note};
    read_common(r, d);
    family->read(r, d);
    if (!r->status && d->used > d->experts)
        r->status =
            proto_fail(r->error, PROTO_INVALID, "%.200s: %u of %u experts are used, expected fewer",
                       r->name, d->used, d->experts);
    return r->status;
}

enum proto_status coord_config_parse(struct shard_dims *dims, const void *bytes, size_t len,
                                     const char *name, struct proto_error *error)
{
    json_error_t where;
    if (len > MAX_FILE_BYTES)
        return proto_fail(error, PROTO_LIMIT, "%.200s: has %zu bytes, expected at most %u", name,
                          len, MAX_FILE_BYTES);
    json_t *config = json_loadb(bytes, len, 0, &where);
    if (!config)
        return proto_fail(error, PROTO_FORMAT, "%.200s:%d:%d: %.100s, expected JSON", name,
                          where.line, where.column, where.text);
    struct reader r = {.config = config, .name = name, .error = error};
    enum proto_status status = read_config(&r, dims);
    json_decref(config);
    return status;
}
