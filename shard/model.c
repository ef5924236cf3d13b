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
    m->n_layers = read_u32(r, "block_count", REQUIRED, 1, PROTO_MAX_LAYERS);
    m->n_ctx = read_u32(r, "context_length", REQUIRED, 1, PROTO_MAX_CONTEXT);
    m->n_embd = read_u32(r, "embedding_length", REQUIRED, 1, PROTO_MAX_EMBD);
    m->eps = read_f32(r, "attention.layer_norm_rms_epsilon", NAN, 0.0f, 1.0f);
    uint32_t n_head = read_layer_u32(r, "attention.head_count", 0, REQUIRED, 1, PROTO_MAX_HEADS);
    bool divides = m->n_embd % n_head == 0;
    uint64_t fallback = divides ? m->n_embd / n_head : REQUIRED;
    m->head_dim_k = read_u32(r, "attention.key_length", fallback, 1, PROTO_MAX_HEAD_DIM);
    m->head_dim_v = read_u32(r, "attention.value_length", fallback, 1, PROTO_MAX_HEAD_DIM);
}

static void read_rope_scaling(struct shard_model *m, struct reader *r)
{
    char key[KEY_BYTES];
    struct shard_gguf_string type = {"linear", 6};
    m->rope_scale = 1.0;
    if (r->status != PROTO_OK)
        return;
    enum proto_status status =
        shard_gguf_str(r->gguf, key_of(r, "rope.scaling.type", key), &type, r->error);
    if (status != PROTO_OK && status != PROTO_NOTFOUND) {
        r->status = status;
        return;
    }
    if (type.len == 4 && memcmp(type.data, "none", 4) == 0)
        return;
    if (type.len != 6 || memcmp(type.data, "linear", 6) != 0) {
        r->status = proto_fail(r->error, PROTO_UNSUPPORTED,
                               "%s is '%.*s', which is not supported yet; supported: none, linear",
                               key, type.len < 32 ? (int)type.len : 32, type.data);
        return;
    }
    const char *suffix =
        has_key(r, "rope.scaling.factor") ? "rope.scaling.factor" : "rope.scale_linear";
    float factor = read_f32(r, suffix, 1.0f, 0.0f, 1e6f);
    m->rope_scale = factor > 0.0f ? (double)factor : 1.0;
}

static void read_rope(struct shard_model *m, struct reader *r)
{
    m->n_rot = read_u32(r, "rope.dimension_count", m->head_dim_k, 1, PROTO_MAX_HEAD_DIM);
    m->rope_base = (double)read_f32(r, "rope.freq_base", 10000.0f, 1e-3f, 1e12f);
    if (r->status == PROTO_OK && (m->n_rot != m->head_dim_k || m->n_rot % 2 != 0))
        r->status = proto_fail(r->error, PROTO_UNSUPPORTED,
                               "%s.rope.dimension_count is %u, expected the even key length (%u)",
                               m->arch, m->n_rot, m->head_dim_k);
    read_rope_scaling(m, r);
}

static void check_gate(struct reader *r, const struct shard__arch *arch)
{
    uint32_t expected = arch->gate == SHARD_GATE_SIGMOID ? 2 : 1;
    uint32_t found = read_u32(r, "expert_gating_func", expected, 0, UINT32_MAX);
    /* 0 stands for "not said" in files of some converters. */
    if (r->status == PROTO_OK && found != expected && found != 0)
        r->status = proto_fail(r->error, PROTO_UNSUPPORTED,
                               "%s.expert_gating_func is %u, expected %u for this architecture",
                               arch->name, found, expected);
}

static void read_experts(struct shard_model *m, struct reader *r, const struct shard__arch *arch)
{
    uint64_t none = arch->needs_experts ? REQUIRED : 0;
    m->n_experts =
        read_u32(r, "expert_count", none, arch->needs_experts ? 1 : 0, PROTO_MAX_EXPERTS);
    m->gate = arch->gate;
    m->gate_normalised = arch->gate_normalised;
    m->gate_on_input = arch->gate_on_input;
    m->gate_scale = 1.0f;
    if (m->n_experts == 0)
        return;
    check_gate(r, arch);
    m->n_experts_used = read_u32(r, "expert_used_count", REQUIRED, 1, m->n_experts);
    uint64_t fallback = REQUIRED;
    if (!arch->needs_experts)
        fallback = read_layer_u32(r, "feed_forward_length", 0, REQUIRED, 1, PROTO_MAX_FF);
    m->ff_expert = read_u32(r, "expert_feed_forward_length", fallback, 1, PROTO_MAX_FF);
    m->ff_shared = arch->shared_expert ? m->ff_expert : 0;
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

static void read_layer_kind(const struct shard_model *m, struct shard_layer *layer, uint32_t il,
                            const struct shard__arch *arch)
{
    bool nope = arch->nope_every && (il + 1) % arch->nope_every == 0;
    layer->rope = nope ? SHARD_ROPE_NONE : arch->rope;
    if (!nope && arch->chunk) {
        layer->mask = SHARD_MASK_CHUNK;
        layer->window = arch->chunk;
    }
    layer->temperature = nope && arch->temperature_length;
    layer->qk_norm_after_rope =
        !nope && arch->qk_norm_except && m->n_experts != arch->qk_norm_except;
}

static void read_layers(struct shard_model *m, struct reader *r, const struct shard__arch *arch)
{
    uint32_t step = 1;
    if (arch->moe_interleaved)
        step = read_u32(r, "interleave_moe_layer_step", REQUIRED, 1, PROTO_MAX_LAYERS);
    for (uint32_t il = 0; il < m->n_layers && r->status == PROTO_OK; il++) {
        struct shard_layer *layer = &m->layers[il];
        for (int slot = 0; slot < SHARD_N_SLOTS; slot++)
            layer->tensor[slot] = -1;
        read_layer_kind(m, layer, il, arch);
        layer->n_head = read_layer_u32(r, "attention.head_count", il, REQUIRED, 1, PROTO_MAX_HEADS);
        layer->n_head_kv =
            read_layer_u32(r, "attention.head_count_kv", il, layer->n_head, 1, PROTO_MAX_HEADS);
        layer->ff = read_layer_u32(r, "feed_forward_length", il, REQUIRED, 1, PROTO_MAX_FF);
        layer->moe = m->n_experts > 0 && (il + 1) % step == 0;
        if (r->status == PROTO_OK && layer->n_head % layer->n_head_kv != 0)
            r->status = proto_fail(r->error, PROTO_FORMAT,
                                   "layer %u has %u heads, expected a multiple of its %u KV heads",
                                   il, layer->n_head, layer->n_head_kv);
    }
}

static enum proto_status read_metadata(struct shard_model *m, const struct shard__arch *arch,
                                       struct proto_error *error)
{
    struct reader r = {.gguf = m->gguf, .arch = arch->name, .error = error};
    read_name(m);
    read_sizes(m, &r);
    read_rope(m, &r);
    read_experts(m, &r, arch);
    check_window(&r, arch);
    if (r.status != PROTO_OK)
        return r.status;
    m->temperature_length = arch->temperature_length;
    m->temperature_scale = arch->temperature_scale;
    m->layers = calloc(m->n_layers, sizeof m->layers[0]);
    if (!m->layers)
        return proto_fail_nomem(error, m->n_layers * sizeof m->layers[0], "the model's layers");
    read_layers(m, &r, arch);
    return r.status;
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
    const struct shard__arch *arch = read_arch(m, e);
    enum proto_status status = arch ? read_metadata(m, arch, e) : e->status;
    if (status == PROTO_OK)
        status = shard__model_find_tensors(m, e);
    if (status != PROTO_OK) {
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
