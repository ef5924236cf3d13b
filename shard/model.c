/* SPDX-License-Identifier: Apache-2.0 */
#include "shard/model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "shard/arch.h"

/* Reads keys of one architecture. The first failure stays; later reads then give `min`. */
struct reader {
    const struct shard_gguf *gguf;
    const char *arch;
    struct proto_error *error;
    enum proto_status status;
};

#define REQUIRED  UINT64_MAX
#define KEY_BYTES 128

static const char *key_of(const struct reader *r, const char *suffix, char key[KEY_BYTES])
{
    snprintf(key, KEY_BYTES, "%s.%s", r->arch, suffix);
    return key;
}

static uint32_t check_u32(struct reader *r, const char *key, enum proto_status status,
                          uint32_t value, uint64_t fallback, uint32_t min, uint32_t max)
{
    if (status == PROTO_NOTFOUND && fallback != REQUIRED) {
        value = (uint32_t)fallback;
        status = PROTO_OK;
    }
    if (status == PROTO_NOTFOUND)
        r->status = proto_fail(r->error, PROTO_FORMAT,
                               "key '%s' is missing; the model cannot be read without it", key);
    else if (status != PROTO_OK)
        r->status = status;
    else if (value < min || value > max)
        r->status = proto_fail(r->error, PROTO_LIMIT, "key '%s' is %u, expected %u to %u", key,
                               value, min, max);
    return r->status == PROTO_OK ? value : min;
}

static uint32_t read_u32(struct reader *r, const char *suffix, uint64_t fallback, uint32_t min,
                         uint32_t max)
{
    char key[KEY_BYTES];
    uint32_t value = 0;
    if (r->status != PROTO_OK)
        return min;
    enum proto_status status = shard_gguf_u32(r->gguf, key_of(r, suffix, key), &value, r->error);
    return check_u32(r, key, status, value, fallback, min, max);
}

/* A key that is one number for all layers or an array of one a layer. */
static uint32_t read_layer_u32(struct reader *r, const char *suffix, uint32_t layer,
                               uint64_t fallback, uint32_t min, uint32_t max)
{
    char key[KEY_BYTES];
    uint32_t value = 0;
    if (r->status != PROTO_OK)
        return min;
    enum proto_status status =
        shard_gguf_u32_at(r->gguf, key_of(r, suffix, key), layer, &value, r->error);
    return check_u32(r, key, status, value, fallback, min, max);
}

static float read_f32(struct reader *r, const char *suffix, float fallback, float min, float max)
{
    char key[KEY_BYTES];
    float value = fallback;
    if (r->status != PROTO_OK)
        return min;
    enum proto_status status = shard_gguf_f32(r->gguf, key_of(r, suffix, key), &value, r->error);
    if (status == PROTO_NOTFOUND && isnan(fallback))
        status = proto_fail(r->error, PROTO_FORMAT,
                            "key '%s' is missing; the model cannot be read without it", key);
    if (status != PROTO_OK && status != PROTO_NOTFOUND)
        r->status = status;
    else if (!(value >= min && value <= max))
        r->status = proto_fail(r->error, PROTO_LIMIT, "key '%s' is %g, expected %g to %g", key,
                               (double)value, (double)min, (double)max);
    return value;
}

static bool read_bool(struct reader *r, const char *suffix, bool fallback)
{
    char key[KEY_BYTES];
    bool value = fallback;
    if (r->status != PROTO_OK)
        return fallback;
    enum proto_status status = shard_gguf_bool(r->gguf, key_of(r, suffix, key), &value, r->error);
    if (status != PROTO_OK && status != PROTO_NOTFOUND)
        r->status = status;
    return value;
}

static bool has_key(const struct reader *r, const char *suffix)
{
    char key[KEY_BYTES];
    return shard_gguf_find(r->gguf, key_of(r, suffix, key)) != NULL;
}

static const struct shard__arch *read_arch(struct shard_model *m, struct proto_error *error)
{
    struct shard_gguf_string text;
    enum proto_status status = shard_gguf_str(m->gguf, "general.architecture", &text, error);
    if (status == PROTO_NOTFOUND)
        proto_fail(error, PROTO_FORMAT, "key 'general.architecture' is missing; is this a model?");
    if (status != PROTO_OK)
        return NULL;
    const struct shard__arch *arch = shard__arch_find(text.data, text.len);
    if (!arch) {
        char list[256];
        shard__arch_list(list, sizeof list);
        int len = text.len < 64 ? (int)text.len : 64;
        proto_fail(error, PROTO_UNSUPPORTED, "architecture '%.*s' is not supported; supported: %s",
                   len, text.data, list);
        return NULL;
    }
    snprintf(m->arch, sizeof m->arch, "%s", arch->name);
    return arch;
}

static void read_name(struct shard_model *m)
{
    struct shard_gguf_string text;
    snprintf(m->name, sizeof m->name, "%s", m->arch);
    if (shard_gguf_str(m->gguf, "general.name", &text, NULL) != PROTO_OK || text.len == 0)
        return;
    size_t n = text.len < sizeof m->name - 1 ? text.len : sizeof m->name - 1;
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)text.data[i];
        m->name[i] = c < 0x20 || c == 0x7f ? '?' : (char)c;
    }
    m->name[n] = '\0';
}

static void read_sizes(struct shard_model *m, struct reader *r)
{
    uint32_t n_blocks = read_u32(r, "block_count", REQUIRED, 1, PROTO_MAX_LAYERS);
    m->n_skipped = read_u32(r, "nextn_predict_layers", 0, 0, n_blocks - 1);
    m->n_layers = n_blocks - m->n_skipped;
    m->n_ctx = read_u32(r, "context_length", REQUIRED, 1, PROTO_MAX_CONTEXT);
    m->n_embd = read_u32(r, "embedding_length", REQUIRED, 1, PROTO_MAX_EMBD);
    m->eps = read_f32(r, "attention.layer_norm_rms_epsilon", NAN, 0.0f, 1.0f);
    uint32_t n_head = read_layer_u32(r, "attention.head_count", 0, REQUIRED, 1, PROTO_MAX_HEADS);
    bool divides = m->n_embd % n_head == 0;
    uint64_t fallback = divides ? m->n_embd / n_head : REQUIRED;
    m->head_dim_k = read_u32(r, "attention.key_length", fallback, 1, PROTO_MAX_HEAD_DIM);
    m->head_dim_v = read_u32(r, "attention.value_length", fallback, 1, PROTO_MAX_HEAD_DIM);
}

/* How much YaRN stretches cos and sin for a factor. */
static double yarn_magnitude(double factor, double multiplier)
{
    return factor <= 1.0 ? 1.0 : 0.1 * multiplier * log(factor) + 1.0;
}

static void read_yarn(struct shard_rope_params *rope, struct reader *r)
{
    double factor = (double)read_f32(r, "rope.scaling.factor", NAN, 1e-3f, 1e6f);
    double multiplier = (double)read_f32(r, "rope.scaling.yarn_log_multiplier", 0.0f, 0.0f, 1e6f);
    double more = (double)read_f32(r, "rope.scaling.attn_factor", 1.0f, 1e-6f, 1e6f);
    rope->yarn_factor = factor;
    rope->yarn_beta_fast = (double)read_f32(r, "rope.scaling.yarn_beta_fast", 32.0f, 1e-6f, 1e6f);
    rope->yarn_beta_slow = (double)read_f32(r, "rope.scaling.yarn_beta_slow", 1.0f, 1e-6f, 1e6f);
    rope->original_ctx =
        read_u32(r, "rope.scaling.original_context_length", REQUIRED, 1, PROTO_MAX_CONTEXT);
    rope->gain = (float)(yarn_magnitude(factor, 1.0) / yarn_magnitude(factor, multiplier) * more);
}

static void read_linear(struct shard_rope_params *rope, struct reader *r)
{
    const char *suffix =
        has_key(r, "rope.scaling.factor") ? "rope.scaling.factor" : "rope.scale_linear";
    float factor = read_f32(r, suffix, 1.0f, 0.0f, 1e6f);
    rope->scale = factor > 0.0f ? (double)factor : 1.0;
}

static bool is_text(const struct shard_gguf_string *text, const char *word)
{
    return text->len == strlen(word) && memcmp(text->data, word, text->len) == 0;
}

static void read_rope_scaling(struct shard_rope_params *rope, struct reader *r)
{
    char key[KEY_BYTES];
    struct shard_gguf_string type = {"linear", 6};
    if (r->status != PROTO_OK)
        return;
    enum proto_status status =
        shard_gguf_str(r->gguf, key_of(r, "rope.scaling.type", key), &type, r->error);
    if (status != PROTO_OK && status != PROTO_NOTFOUND)
        r->status = status;
    else if (is_text(&type, "linear"))
        read_linear(rope, r);
    else if (is_text(&type, "yarn"))
        read_yarn(rope, r);
    else if (!is_text(&type, "none"))
        r->status = proto_fail(r->error, PROTO_UNSUPPORTED,
                               "%s is '%.*s', which is not supported; supported: none, linear, "
                               "yarn",
                               key, type.len < 32 ? (int)type.len : 32, type.data);
}

static void read_rope_set(struct shard_rope_params *rope, struct reader *r, bool windowed,
                          uint32_t head_dim, bool partial)
{
    const char *key = windowed ? "rope.dimension_count_swa" : "rope.dimension_count";
    *rope = (struct shard_rope_params){.scale = 1.0, .gain = 1.0f};
    rope->n_rot = read_u32(r, key, head_dim, 1, PROTO_MAX_HEAD_DIM);
    rope->base = (double)read_f32(r, windowed ? "rope.freq_base_swa" : "rope.freq_base", 10000.0f,
                                  1e-3f, 1e12f);
    bool fits = partial ? rope->n_rot <= head_dim : rope->n_rot == head_dim;
    if (r->status == PROTO_OK && (!fits || rope->n_rot % 2 != 0))
        r->status = proto_fail(
            r->error, PROTO_UNSUPPORTED, "%s.%s is %u, expected %s (%u)", r->arch, key, rope->n_rot,
            partial ? "an even number up to the key length" : "the even key length", head_dim);
}

/* Old files describe attention as it is with K and V decompressed, and have both's matrices in one
 * tensor: n_rot of each key are common to all heads, the rest and the value come from it. */
static void read_joined_mla(struct shard_model *m, struct reader *r, uint32_t n_rot)
{
    struct shard_mla *mla = &m->mla;
    mla->joined = true;
    mla->kv_rank = read_u32(r, "attention.kv_lora_rank", REQUIRED, 1, PROTO_MAX_HEAD_DIM - n_rot);
    mla->nope = m->head_dim_k - n_rot;
    mla->dim_v = m->head_dim_v;
    m->head_dim_k = mla->kv_rank + n_rot;
    m->head_dim_v = mla->kv_rank;
    if (r->status == PROTO_OK &&
        (mla->nope == 0 || mla->nope % KERN_PANEL || mla->dim_v % KERN_PANEL))
        r->status = proto_fail(r->error, PROTO_UNSUPPORTED,
                               "%s has attention in its old form (attn_kv_b) with %u values of a "
                               "key that are not rotated and %u of a value, expected multiples of "
                               "%u; get or convert a newer file, with attn_k_b and attn_v_b",
                               m->arch, mla->nope, mla->dim_v, KERN_PANEL);
}

/* Compressed attention's numbers, which must agree with those that describe its cache. */
static void read_mla(struct shard_model *m, struct reader *r, const struct shard__arch *arch)
{
    struct shard_mla *mla = &m->mla;
    uint32_t n_rot = m->rope[SHARD_ROPE_GLOBAL].n_rot;
    if (!arch->mla || r->status != PROTO_OK)
        return;
    m->rope[SHARD_ROPE_GLOBAL].gain = 1.0f; /* score_scale stands in for it */
    mla->q_rank = read_u32(r, "attention.q_lora_rank", 0, 0, PROTO_MAX_EMBD);
    if (!has_key(r, "attention.key_length_mla")) {
        read_joined_mla(m, r, n_rot);
        return;
    }
    mla->kv_rank = read_u32(r, "attention.kv_lora_rank", REQUIRED, 1, PROTO_MAX_HEAD_DIM);
    mla->dim_v = read_u32(r, "attention.value_length_mla", REQUIRED, 1, PROTO_MAX_HEAD_DIM);
    mla->nope = read_u32(r, "attention.key_length_mla", REQUIRED, n_rot + 1, PROTO_MAX_HEAD_DIM);
    mla->nope -= r->status == PROTO_OK ? n_rot : 0;
    if (r->status == PROTO_OK &&
        (m->head_dim_k != mla->kv_rank + n_rot || m->head_dim_v != mla->kv_rank))
        r->status =
            proto_fail(r->error, PROTO_FORMAT,
                       "%s has keys of %u and values of %u, expected %u and %u: the "
                       "attention.kv_lora_rank, with and without rope.dimension_count",
                       m->arch, m->head_dim_k, m->head_dim_v, mla->kv_rank + n_rot, mla->kv_rank);
}

static void read_delta(struct shard_model *m, struct reader *r, const struct shard__arch *arch)
{
    struct shard_delta *d = &m->delta;
    if (!arch->delta)
        return;
    m->gated_attention = true;
    d->grouped = arch->delta_grouped;
    d->n_v = read_u32(r, "ssm.time_step_rank", REQUIRED, 1, PROTO_MAX_HEADS);
    d->n_k = read_u32(r, "ssm.group_count", REQUIRED, 1, d->n_v);
    d->dim = read_u32(r, "ssm.state_size", REQUIRED, 1, PROTO_MAX_HEAD_DIM);
    d->taps = read_u32(r, "ssm.conv_kernel", REQUIRED, 1, SHARD_MAX_TAPS);
    uint32_t inner = read_u32(r, "ssm.inner_size", d->n_v * d->dim, 1, UINT32_MAX);
    if (r->status == PROTO_OK && (d->n_v % d->n_k != 0 || inner != d->n_v * d->dim))
        r->status = proto_fail(r->error, PROTO_UNSUPPORTED,
                               "%s has %u V heads of %u and %u K heads and an ssm.inner_size of "
                               "%u, expected a multiple of the K heads and V heads x length",
                               m->arch, d->n_v, d->dim, d->n_k, inner);
    if (r->status == PROTO_OK && m->head_dim_v != m->head_dim_k)
        r->status = proto_fail(r->error, PROTO_UNSUPPORTED,
                               "%s has values of %u, expected the key length (%u), as the gate "
                               "has",
                               m->arch, m->head_dim_v, m->head_dim_k);
}

/* Head dimensions and rotation, which windowed layers of some models have of their own. */
static void read_heads(struct shard_model *m, struct reader *r, const struct shard__arch *arch,
                       struct shard_layer *windowed)
{
    windowed->head_dim_k = m->head_dim_k;
    windowed->head_dim_v = m->head_dim_v;
    read_rope_set(&m->rope[SHARD_ROPE_GLOBAL], r, false, m->head_dim_k, arch->partial_rotary);
    read_rope_scaling(&m->rope[SHARD_ROPE_GLOBAL], r);
    if (!arch->rope_by_window)
        return;
    windowed->rope_set = SHARD_ROPE_WINDOWED;
    windowed->head_dim_k =
        read_u32(r, "attention.key_length_swa", m->head_dim_k, 1, PROTO_MAX_HEAD_DIM);
    windowed->head_dim_v =
        read_u32(r, "attention.value_length_swa", m->head_dim_v, 1, PROTO_MAX_HEAD_DIM);
    read_rope_set(&m->rope[SHARD_ROPE_WINDOWED], r, true, windowed->head_dim_k,
                  arch->partial_rotary);
}

/* What expert_gating_func says of a gate; 0 stands for "not said" in files of some converters. */
static void check_gate(struct reader *r, const struct shard__arch *arch)
{
    static const uint32_t numbers[] = {
        [SHARD_GATE_SOFTMAX] = 1, [SHARD_GATE_SIGMOID] = 2, [SHARD_GATE_SOFTMAX_SELECTED] = 3};
    if (arch->gate_in_file)
        return;
    uint32_t expected = numbers[arch->gate];
    uint32_t found = read_u32(r, "expert_gating_func", expected, 0, UINT32_MAX);
    if (r->status == PROTO_OK && found != expected && found != 0)
        r->status = proto_fail(r->error, PROTO_UNSUPPORTED,
                               "%s.expert_gating_func is %u, expected %u for this architecture",
                               arch->name, found, expected);
}

static void read_groups(struct shard_model *m, struct reader *r)
{
    uint32_t n = read_u32(r, "expert_group_count", 0, 0, m->n_experts);
    uint32_t used = read_u32(r, "expert_group_used_count", n, 0, n);
    if (r->status != PROTO_OK || n <= 1 || used == 0 || used == n)
        return;
    if (m->n_experts % n != 0 || m->n_experts / n * used < m->n_experts_used)
        r->status = proto_fail(r->error, PROTO_FORMAT,
                               "%s has %u experts in %u groups, of which %u are used, expected "
                               "equal groups with room for %u experts",
                               m->arch, m->n_experts, n, used, m->n_experts_used);
    m->n_expert_groups = n;
    m->n_expert_groups_used = used;
}

static void read_gate(struct shard_model *m, struct reader *r, const struct shard__arch *arch)
{
    check_gate(r, arch);
    m->gate = arch->gate;
    /* Old files do not say it, and have softmax. */
    if (arch->gate_in_file && read_u32(r, "expert_gating_func", 1, 0, 2) == 2)
        m->gate = SHARD_GATE_SIGMOID;
    m->gate_on_input = arch->gate_on_input;
    m->gate_normalised = read_bool(r, "expert_weights_norm", arch->gate_normalised);
    m->gate_scale = read_f32(r, "expert_weights_scale", 1.0f, 0.0f, 1e6f);
    /* 0 is written for "not said" too. */
    m->gate_scale = m->gate_scale == 0.0f ? 1.0f : m->gate_scale;
}

static void read_shared_expert(struct shard_model *m, struct reader *r)
{
    uint32_t n = read_u32(r, "expert_shared_count", 1, 0, PROTO_MAX_EXPERTS);
    uint64_t width = (uint64_t)n * m->ff_expert;
    m->ff_shared = read_u32(r, "expert_shared_feed_forward_length",
                            width < PROTO_MAX_FF ? width : PROTO_MAX_FF, 0, PROTO_MAX_FF);
}

static void read_experts(struct shard_model *m, struct reader *r, const struct shard__arch *arch)
{
    uint64_t none = arch->needs_experts ? REQUIRED : 0;
    m->n_experts =
        read_u32(r, "expert_count", none, arch->needs_experts ? 1 : 0, PROTO_MAX_EXPERTS);
    m->gate_scale = 1.0f;
    if (m->n_experts == 0)
        return;
    read_gate(m, r, arch);
    m->dense_beside = arch->dense_beside;
    m->n_experts_used = read_u32(r, "expert_used_count", REQUIRED, 1, m->n_experts);
    uint64_t fallback = REQUIRED;
    if (!arch->needs_experts)
        fallback = read_layer_u32(r, "feed_forward_length", 0, REQUIRED, 1, PROTO_MAX_FF);
    m->ff_expert = read_u32(r, "expert_feed_forward_length", fallback, 1, PROTO_MAX_FF);
    if (arch->shared_expert)
        read_shared_expert(m, r);
    read_groups(m, r);
}

/* The file's window must be the one that the architecture is known by. */
static void check_window(struct reader *r, const struct shard__arch *arch)
{
    if (arch->chunk == 0)
        return;
    uint32_t found = read_u32(r, "attention.sliding_window", arch->chunk, 0, UINT32_MAX);
    if (r->status == PROTO_OK && found != arch->chunk)
        r->status = proto_fail(r->error, PROTO_UNSUPPORTED,
                               "%s.attention.sliding_window is %u, expected %u: a derived model "
                               "with other attention is not supported",
                               arch->name, found, arch->chunk);
}

/* Whether layer il sees a window only: the file's array or period, else the architecture's. */
static bool is_windowed(struct reader *r, uint32_t il, const struct shard__arch *arch)
{
    char key[KEY_BYTES];
    const struct shard_gguf_value *said =
        shard_gguf_find(r->gguf, key_of(r, "attention.sliding_window_pattern", key));
    if (said && said->kind == SHARD_GGUF_ARRAY)
        return read_layer_u32(r, "attention.sliding_window_pattern", il, REQUIRED, 0, 1);
    uint64_t usual = arch->window_every ? arch->window_every : REQUIRED;
    uint32_t every = read_u32(r, "attention.sliding_window_pattern", usual, 1, PROTO_MAX_LAYERS);
    return il % every < every - 1;
}

/* YaRN lengthens MLA's scores in place of cos and sin: M^2 / sqrt(key length), M = 1 +
 * yarn_log_multiplier * ln(factor), the multiplier being 0.1 x mscale_all_dim of the original
 * (DeepseekV3Attention). */
static float mla_score_scale(const struct shard_model *m, struct reader *r)
{
    const struct shard_rope_params *rope = &m->rope[SHARD_ROPE_GLOBAL];
    double multiplier = (double)read_f32(r, "rope.scaling.yarn_log_multiplier", 0.0f, 0.0f, 100.0f);
    double mscale = rope->yarn_factor > 1.0 ? 1.0 + multiplier * log(rope->yarn_factor) : 1.0;
    return (float)(mscale * mscale / sqrt((double)(m->mla.nope + rope->n_rot)));
}

static float score_scale(const struct shard_model *m, struct reader *r,
                         const struct shard_layer *layer, const struct shard__arch *arch)
{
    if (m->mla.kv_rank)
        return mla_score_scale(m, r);
    if (arch->unscaled_scores)
        return 1.0f;
    if (arch->wide_scores && m->n_layers == arch->wide_scores)
        return (float)(1.0 / sqrt((double)m->n_embd / layer->n_head));
    return (float)(1.0 / sqrt((double)layer->head_dim_k));
}

static void read_layer_kind(const struct shard_model *m, struct reader *r,
                            struct shard_layer *layer, uint32_t il, const struct shard__arch *arch,
                            const struct shard_layer *windowed)
{
    bool nope = arch->nope_every && (il + 1) % arch->nope_every == 0;
    layer->rope = nope ? SHARD_ROPE_NONE : arch->rope;
    layer->head_dim_k = m->head_dim_k;
    layer->head_dim_v = m->head_dim_v;
    if (!nope && arch->chunk) {
        layer->mask = SHARD_MASK_CHUNK;
        layer->window = arch->chunk;
    }
    if (windowed->window && is_windowed(r, il, arch)) {
        layer->mask = SHARD_MASK_WINDOW;
        layer->window = windowed->window;
        layer->rope_set = windowed->rope_set;
        layer->head_dim_k = windowed->head_dim_k;
        layer->head_dim_v = windowed->head_dim_v;
    }
    layer->temperature =
        arch->temperature_in_file ? m->temperature_scale != 0.0f : nope && arch->temperature_length;
    layer->qk_norm_after_rope =
        !nope && arch->qk_norm_except && m->n_experts != arch->qk_norm_except;
}

/* Whether a layer of a hybrid model has a state in place of keys and values. */
static bool read_recurrent(const struct shard_model *m, struct reader *r, uint32_t il)
{
    if (m->delta.n_v == 0)
        return false;
    if (has_key(r, "attention.recurrent_layers"))
        return read_layer_u32(r, "attention.recurrent_layers", il, REQUIRED, 0, 1) != 0;
    return (il + 1) % read_u32(r, "full_attention_interval", 4, 1, UINT32_MAX) != 0;
}

static void read_layers(struct shard_model *m, struct reader *r, const struct shard__arch *arch,
                        const struct shard_layer *windowed)
{
    uint32_t step = 1, dense = read_u32(r, "leading_dense_block_count", 0, 0, UINT32_MAX);
    if (arch->moe_interleaved)
        step = read_u32(r, "interleave_moe_layer_step", REQUIRED, 1, PROTO_MAX_LAYERS);
    for (uint32_t il = 0; il < m->n_layers && r->status == PROTO_OK; il++) {
        struct shard_layer *layer = &m->layers[il];
        for (int slot = 0; slot < SHARD_N_SLOTS; slot++)
            layer->tensor[slot] = -1;
        read_layer_kind(m, r, layer, il, arch, windowed);
        layer->n_head = read_layer_u32(r, "attention.head_count", il, REQUIRED, 1, PROTO_MAX_HEADS);
        layer->n_head_kv =
            read_layer_u32(r, "attention.head_count_kv", il, layer->n_head, 1, PROTO_MAX_HEADS);
        layer->n_head_kv = m->mla.joined ? 1 : layer->n_head_kv;
        layer->moe = m->n_experts > 0 && il >= dense && (il + 1) % step == 0;
        bool no_dense = layer->moe && !m->dense_beside;
        layer->ff =
            read_layer_u32(r, "feed_forward_length", il, no_dense ? 1 : REQUIRED, 1, PROTO_MAX_FF);
        layer->score_scale = score_scale(m, r, layer, arch);
        layer->delta = read_recurrent(m, r, il);
        if (r->status == PROTO_OK && layer->n_head % layer->n_head_kv != 0)
            r->status = proto_fail(r->error, PROTO_FORMAT,
                                   "layer %u has %u heads, expected a multiple of its %u KV heads",
                                   il, layer->n_head, layer->n_head_kv);
        if (r->status == PROTO_OK && m->mla.kv_rank && layer->n_head_kv != 1)
            r->status = proto_fail(r->error, PROTO_FORMAT,
                                   "layer %u has %u KV heads, expected 1: the compressed row", il,
                                   layer->n_head_kv);
    }
}

/* The last layer before `end` that sees as far as layer il, or n_layers. */
static uint32_t find_kv_layer(const struct shard_model *m, uint32_t il, uint32_t end)
{
    const struct shard_layer *layer = &m->layers[il];
    while (end-- > 0) {
        if (m->layers[end].mask == layer->mask && m->layers[end].window == layer->window)
            return end;
    }
    return m->n_layers;
}

static void read_shared_kv(struct shard_model *m, struct reader *r, const struct shard__arch *arch)
{
    uint32_t n =
        read_u32(r, "attention.shared_kv_layers", 0, 0, arch->layer_inputs ? m->n_layers - 1 : 0);
    for (uint32_t il = 0; il < m->n_layers && r->status == PROTO_OK; il++) {
        m->layers[il].kv_layer = il;
        if (il < m->n_layers - n)
            continue;
        uint32_t of = find_kv_layer(m, il, m->n_layers - n);
        if (of == m->n_layers || m->layers[of].n_head_kv != m->layers[il].n_head_kv) {
            r->status = proto_fail(r->error, PROTO_FORMAT,
                                   "layer %u is one of %u (%s.attention.shared_kv_layers) without "
                                   "K and V, expected a layer before them that sees as far and has "
                                   "as many KV heads (%u)",
                                   il, n, r->arch, m->layers[il].n_head_kv);
            return;
        }
        m->layers[il].kv_layer = of;
        m->layers[of].kv_shared = true;
    }
}

static void read_temperature(struct shard_model *m, struct reader *r,
                             const struct shard__arch *arch)
{
    m->temperature_length = arch->temperature_length;
    m->temperature_offset = 1;
    m->temperature_scale = arch->temperature_scale;
    if (!arch->temperature_in_file)
        return;
    m->temperature_offset = 0;
    m->temperature_scale = read_f32(r, "attention.temperature_scale", 0.0f, 0.0f, 1e6f);
    m->temperature_length = read_u32(r, "attention.temperature_length",
                                     m->rope[SHARD_ROPE_GLOBAL].original_ctx, 0, PROTO_MAX_CONTEXT);
    if (r->status == PROTO_OK && m->temperature_scale != 0.0f && m->temperature_length == 0)
        r->status = proto_fail(r->error, PROTO_FORMAT,
                               "%s.attention.temperature_scale is set, but the context that it "
                               "counts in, %s.rope.scaling.original_context_length of YaRN, is not",
                               r->arch, r->arch);
}

static void read_scales(struct shard_model *m, struct reader *r, const struct shard__arch *arch)
{
    m->glu = arch->glu;
    m->value_norm = arch->value_norm;
    m->embd_scale = arch->scaled_embedding ? (float)sqrt((double)m->n_embd) : 1.0f;
    m->logit_softcap = read_f32(r, "final_logit_softcapping", 0.0f, 0.0f, 1e6f);
}

static void read_layer_input(struct shard_model *m, struct reader *r,
                             const struct shard__arch *arch)
{
    uint32_t most = arch->layer_inputs ? PROTO_MAX_EMBD / m->n_layers : 0;
    m->layer_input = read_u32(r, "embedding_length_per_layer_input", 0, 0, most);
}

static enum proto_status read_metadata(struct shard_model *m, const struct shard__arch *arch,
                                       struct proto_error *error)
{
    struct reader r = {.gguf = m->gguf, .arch = arch->name, .error = error};
    struct shard_layer windowed = {0}; /* what windowed layers have of their own */
    read_name(m);
    read_sizes(m, &r);
    read_heads(m, &r, arch, &windowed);
    read_mla(m, &r, arch);
    read_delta(m, &r, arch);
    read_experts(m, &r, arch);
    check_window(&r, arch);
    if (arch->windowed)
        windowed.window = read_u32(&r, "attention.sliding_window", REQUIRED, 1, PROTO_MAX_CONTEXT);
    read_temperature(m, &r, arch);
    read_scales(m, &r, arch);
    read_layer_input(m, &r, arch);
    if (r.status != PROTO_OK)
        return r.status;
    m->layers = calloc(m->n_layers, sizeof m->layers[0]);
    if (!m->layers)
        return proto_fail_nomem(error, m->n_layers * sizeof m->layers[0], "the model's layers");
    read_layers(m, &r, arch, &windowed);
    read_shared_kv(m, &r, arch);
    return r.status;
}

/* Puts the file's name before a text that does not have it. */
static void name_file(const struct shard_gguf *gguf, struct proto_error *error)
{
    const char *path = shard_gguf_path(gguf, 0);
    struct proto_error plain = *error;
    if (strncmp(plain.text, path, strlen(path)) != 0)
        proto_fail(error, plain.status, "%.200s: %s", path, plain.text);
}

enum proto_status shard_model_create(struct shard_model **out, const struct shard_gguf *gguf,
                                     struct proto_error *error)
{
    *out = NULL;
    struct proto_error local;
    struct proto_error *e = error ? error : &local;
    struct shard_model *m = calloc(1, sizeof *m);
    if (!m)
        return proto_fail_nomem(e, sizeof *m, "the model");
    m->gguf = gguf;
    m->token_embd = m->output_norm = m->output = m->rope_freqs = -1;
    m->input_embd = m->input_proj = m->input_norm = -1;
    const struct shard__arch *arch = read_arch(m, e);
    enum proto_status status = arch ? read_metadata(m, arch, e) : e->status;
    if (status == PROTO_OK)
        status = shard__model_find_tensors(m, arch, e);
    if (status != PROTO_OK) {
        name_file(gguf, e);
        shard_model_destroy(m);
        return status;
    }
    *out = m;
    return PROTO_OK;
}

void shard_model_destroy(struct shard_model *model)
{
    if (!model)
        return;
    for (uint32_t il = 0; model->layers && il < model->n_layers; il++)
        free(model->layers[il].expert_tensor);
    free(model->layers);
    free(model);
}
