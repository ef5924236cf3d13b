/* SPDX-License-Identifier: Apache-2.0 */
/* The tensors of a model: found by name, checked against the metadata, summed up. */
#include "shard/arch.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SHAPE_BYTES 96
#define NAME_BYTES  (PROTO_MAX_NAME_BYTES + 33)

struct finder {
    struct shard_model *model;
    const struct shard__arch *arch;
    bool *seen; /* by tensor: part of the model */
    struct proto_error *error;
};

static void format_shape(char text[SHAPE_BYTES], const uint64_t dims[4])
{
    int n = 4;
    while (n > 1 && dims[n - 1] == 1)
        n--;
    size_t len = 0;
    for (int i = 0; i < n; i++)
        len += (size_t)snprintf(text + len, SHAPE_BYTES - len, "%s%llu", i ? ", " : "{",
                                (unsigned long long)dims[i]);
    snprintf(text + len, SHAPE_BYTES - len, "}");
}

static enum proto_status fail_type(const struct shard_tensor *t, struct proto_error *error)
{
    char list[160] = "";
    size_t n, len = 0;
    const struct kern_type_info *all = kern_type_all(&n);
    for (size_t i = 0; i < n && len < sizeof list; i++) {
        if (all[i].packed_bytes)
            len += (size_t)snprintf(list + len, sizeof list - len, "%s%s", len ? ", " : "",
                                    all[i].name);
    }
    return proto_fail(error, PROTO_UNSUPPORTED,
                      "tensor '%s' has type %s, which is not supported yet; supported: %s", t->name,
                      t->type->name, list);
}

static enum proto_status check_tensor(const struct shard_tensor *t, const uint64_t dims[4],
                                      struct proto_error *error)
{
    if (memcmp(t->dims, dims, sizeof t->dims) != 0) {
        char found[SHAPE_BYTES], expected[SHAPE_BYTES];
        format_shape(found, t->dims);
        format_shape(expected, dims);
        return proto_fail(error, PROTO_FORMAT,
                          "tensor '%s' has shape %s, expected %s from the metadata", t->name, found,
                          expected);
    }
    return t->type->packed_bytes ? PROTO_OK : fail_type(t, error);
}

static enum proto_status fail_missing(const char *name, struct proto_error *error)
{
    return proto_fail(error, PROTO_FORMAT,
                      "tensor '%s' is missing; the file is incomplete or of another architecture",
                      name);
}

/* *out is -1 where the tensor is absent and not required. */
static enum proto_status find(struct finder *f, const char *name, const uint64_t dims[4],
                              bool required, long *out)
{
    *out = shard_gguf_find_tensor(f->model->gguf, name);
    if (*out < 0)
        return required ? fail_missing(name, f->error) : PROTO_OK;
    f->seen[*out] = true;
    return check_tensor(shard_gguf_tensor(f->model->gguf, (size_t)*out), dims, f->error);
}

static uint64_t dim_of(const struct shard_model *m, const struct shard_layer *layer,
                       enum shard__dim dim)
{
    uint64_t q = (uint64_t)layer->n_head * layer->head_dim_k * (m->gated_attention ? 2 : 1);
    uint64_t k = (uint64_t)layer->n_head_kv * layer->head_dim_k;
    uint64_t v = (uint64_t)layer->n_head_kv * layer->head_dim_v;
    if (m->mla.kv_rank)
        q = (uint64_t)layer->n_head * (m->mla.nope + m->rope[SHARD_ROPE_GLOBAL].n_rot);
    switch (dim) {
    case SHARD__DIM_NONE:
        return 1;
    case SHARD__DIM_EMBD:
        return m->n_embd;
    case SHARD__DIM_Q:
        return q;
    case SHARD__DIM_K:
        return k;
    case SHARD__DIM_V:
        return v;
    case SHARD__DIM_QKV:
        return layer->delta ? (uint64_t)m->delta.dim * (m->delta.n_v + 2 * m->delta.n_k)
                            : q + k + v;
    case SHARD__DIM_OUT:
        return (uint64_t)layer->n_head * (m->mla.kv_rank ? m->mla.dim_v : layer->head_dim_v);
    case SHARD__DIM_FF:
        return layer->ff;
    case SHARD__DIM_FF_EXPERT:
        return m->ff_expert;
    case SHARD__DIM_FF_EXPERT_2:
        return 2 * (uint64_t)m->ff_expert;
    case SHARD__DIM_FF_SHARED:
        return m->ff_shared;
    case SHARD__DIM_EXPERTS:
        return m->n_experts;
    case SHARD__DIM_HEADS:
        return layer->n_head;
    case SHARD__DIM_HEAD:
        return layer->head_dim_k;
    case SHARD__DIM_ONE:
        return 1;
    case SHARD__DIM_Q_RANK:
        return m->mla.q_rank;
    case SHARD__DIM_KV_RANK:
        return m->mla.kv_rank;
    case SHARD__DIM_KV_ROW:
        return m->mla.kv_rank + m->rope[SHARD_ROPE_GLOBAL].n_rot;
    case SHARD__DIM_NOPE:
        return m->mla.nope;
    case SHARD__DIM_KV_B:
        return (uint64_t)layer->n_head * (m->mla.nope + m->mla.dim_v);
    case SHARD__DIM_MLA_V:
        return m->mla.dim_v;
    case SHARD__DIM_DELTA_V:
        return (uint64_t)m->delta.n_v * m->delta.dim;
    case SHARD__DIM_DELTA_IN:
        return 2 * (uint64_t)m->delta.dim * (m->delta.n_v + m->delta.n_k);
    case SHARD__DIM_DELTA_NV:
        return m->delta.n_v;
    case SHARD__DIM_DELTA_2NV:
        return 2 * (uint64_t)m->delta.n_v;
    case SHARD__DIM_DELTA_HEAD:
        return m->delta.dim;
    case SHARD__DIM_INPUT:
        return m->layer_input;
    case SHARD__DIM_TAPS:
        return m->delta.taps;
    }
    return 0;
}

enum need { ABSENT, ALLOWED, NEEDED };

static enum need need_when(const struct shard_model *m, const struct shard_layer *layer,
                           enum shard__when when)
{
    switch (when) {
    case SHARD__ALWAYS:
        return NEEDED;
    case SHARD__OPTIONAL:
        return m->mla.kv_rank || m->delta.n_v ? ABSENT : ALLOWED;
    case SHARD__QKV:
        if (layer->delta)
            return layer->tensor[SHARD_DELTA_IN] >= 0 ? ABSENT : NEEDED;
        return m->mla.kv_rank ? ABSENT : ALLOWED;
    case SHARD__UNFUSED:
        return layer->tensor[SHARD_ATTN_QKV] >= 0 || m->mla.kv_rank || layer->delta ? ABSENT
                                                                                    : NEEDED;
    case SHARD__WHOLE_Q:
        return layer->tensor[SHARD_ATTN_QKV] >= 0 || m->mla.q_rank || layer->delta ? ABSENT
                                                                                   : NEEDED;
    case SHARD__RANK_Q:
        return m->mla.q_rank ? NEEDED : ABSENT;
    case SHARD__SPLIT:
        return m->mla.joined ? ABSENT : NEEDED;
    case SHARD__JOINED:
        return m->mla.joined ? NEEDED : ABSENT;
    case SHARD__ATTENTION:
        return layer->delta ? ABSENT : NEEDED;
    case SHARD__DELTA:
        return layer->delta ? NEEDED : ABSENT;
    case SHARD__DELTA_Z:
        return layer->delta && layer->tensor[SHARD_DELTA_IN] < 0 ? NEEDED : ABSENT;
    case SHARD__INPUT:
        return m->layer_input ? NEEDED : ABSENT;
    case SHARD__DENSE:
        return layer->moe && !m->dense_beside ? ABSENT : NEEDED;
    case SHARD__MOE:
        return layer->moe ? NEEDED : ABSENT;
    case SHARD__MOE_UNFUSED:
        return layer->moe && layer->tensor[SHARD_GATE_UP_EXPS] < 0 ? NEEDED : ABSENT;
    case SHARD__MOE_OPTIONAL:
        return layer->moe ? ALLOWED : ABSENT;
    case SHARD__SHARED:
        return layer->moe && m->ff_shared ? NEEDED : ABSENT;
    }
    return ABSENT;
}

/* An architecture may list a slot that others lack, or need not have one that others need. */
static enum need need_of(const struct finder *f, const struct shard_layer *layer, int slot)
{
    enum need need = need_when(f->model, layer, shard__slots[slot].when);
    /* K in place of V has to have its shape. */
    bool fits = slot != SHARD_ATTN_V || layer->head_dim_k == layer->head_dim_v;
    if (need == NEEDED && fits && f->arch->may & SHARD__BIT(slot))
        return ALLOWED;
    if (shard__slots[slot].listed && !((f->arch->needs | f->arch->may) & SHARD__BIT(slot)))
        return ABSENT;
    return need;
}

static const char *name_of(const struct finder *f, int slot)
{
    bool post = slot == SHARD_FFN_NORM && f->arch->ffn_norm_is_post;
    return shard__slots[post ? SHARD_POST_ATTN_NORM : slot].name;
}

static void slot_dims(const struct shard_model *m, const struct shard_layer *layer, int slot,
                      uint64_t dims[4])
{
    for (int i = 0; i < 3; i++)
        dims[i] = dim_of(m, layer, shard__slots[slot].dims[i]);
    dims[3] = 1;
}

/* Whether a slot has a matrix of each expert. */
static bool is_expert(int slot)
{
    return (slot >= SHARD_GATE_EXPS && slot <= SHARD_DOWN_EXPS) || slot == SHARD_GATE_UP_EXPS;
}

static bool is_kv(int slot)
{
    return slot == SHARD_ATTN_K || slot == SHARD_ATTN_V || slot == SHARD_ATTN_K_BIAS ||
           slot == SHARD_ATTN_V_BIAS || slot == SHARD_ATTN_K_NORM;
}

static enum proto_status find_slot(struct finder *f, uint32_t il, int slot)
{
    struct shard_layer *layer = &f->model->layers[il];
    bool borrows = layer->kv_layer != il;
    enum need need = need_of(f, layer, slot);
    if (need == ABSENT || (layer->experts_split && is_expert(slot)) ||
        (borrows && slot == SHARD_ATTN_QKV))
        return PROTO_OK;
    uint64_t dims[4];
    char name[NAME_BYTES];
    slot_dims(f->model, layer, slot, dims);
    snprintf(name, sizeof name, "blk.%u.%s", il, name_of(f, slot));
    long unused; /* some files have the tensors that the original never used */
    if (borrows && is_kv(slot))
        return find(f, name, dims, false, &unused);
    return find(f, name, dims, need == NEEDED, &layer->tensor[slot]);
}

/* Mixtral files of 2023 hold an expert's matrices as tensors of their own. */
static bool has_split_experts(const struct shard_model *m, uint32_t il)
{
    char name[NAME_BYTES];
    snprintf(name, sizeof name, "blk.%u.ffn_gate.0.weight", il);
    return m->layers[il].moe && shard_gguf_find_tensor(m->gguf, name) >= 0;
}

static enum proto_status find_split_expert(struct finder *f, uint32_t il, uint32_t x, int part)
{
    static const char *const names[3] = {"gate", "up", "down"};
    static const int slots[3] = {SHARD_GATE_EXPS, SHARD_UP_EXPS, SHARD_DOWN_EXPS};
    const struct shard_gguf *gguf = f->model->gguf;
    struct shard_layer *layer = &f->model->layers[il];
    long *out = &layer->expert_tensor[3 * x + (uint32_t)part];
    uint64_t dims[4];
    char name[NAME_BYTES];
    slot_dims(f->model, layer, slots[part], dims);
    dims[2] = 1;
    snprintf(name, sizeof name, "blk.%u.ffn_%s.%u.weight", il, names[part], x);
    enum proto_status status = find(f, name, dims, true, out);
    if (status != PROTO_OK)
        return status;
    if (x == 0)
        layer->tensor[slots[part]] = *out;
    const struct shard_tensor *first = shard_gguf_tensor(gguf, (size_t)layer->tensor[slots[part]]);
    const struct shard_tensor *found = shard_gguf_tensor(gguf, (size_t)*out);
    if (found->type != first->type)
        return proto_fail(f->error, PROTO_UNSUPPORTED,
                          "tensor '%s' has type %s, expected %s as expert 0 of its layer", name,
                          found->type->name, first->type->name);
    return PROTO_OK;
}

static enum proto_status find_split_experts(struct finder *f, uint32_t il)
{
    struct shard_layer *layer = &f->model->layers[il];
    uint32_t n = f->model->n_experts;
    layer->experts_split = true;
    layer->expert_tensor = calloc(3 * (size_t)n, sizeof(long));
    if (!layer->expert_tensor)
        return proto_fail_nomem(f->error, 3ull * n * sizeof(long), "a layer's experts");
    enum proto_status status = PROTO_OK;
    for (uint32_t i = 0; i < 3 * n && status == PROTO_OK; i++)
        status = find_split_expert(f, il, i / 3, (int)(i % 3));
    return status;
}

static enum proto_status find_layer(struct finder *f, uint32_t il)
{
    /* What is fused decides what else is needed. */
    enum proto_status status = find_slot(f, il, SHARD_DELTA_IN);
    if (status == PROTO_OK)
        status = find_slot(f, il, SHARD_ATTN_QKV);
    if (status == PROTO_OK)
        status = find_slot(f, il, SHARD_GATE_UP_EXPS);
    if (status == PROTO_OK && has_split_experts(f->model, il))
        status = find_split_experts(f, il);
    for (int slot = 0; slot < SHARD_N_SLOTS && status == PROTO_OK; slot++)
        status = find_slot(f, il, slot);
    return status;
}

static enum proto_status check_vocab(const struct shard_model *m, struct proto_error *error)
{
    char key[64];
    uint32_t said;
    const struct shard_gguf_value *tokens = shard_gguf_find(m->gguf, "tokenizer.ggml.tokens");
    if (tokens && tokens->count != m->n_vocab)
        return proto_fail(error, PROTO_FORMAT,
                          "tensor 'token_embd.weight' has %u rows, expected %llu: the tokens in "
                          "'tokenizer.ggml.tokens'",
                          m->n_vocab, (unsigned long long)tokens->count);
    snprintf(key, sizeof key, "%s.vocab_size", m->arch);
    enum proto_status status = shard_gguf_u32(m->gguf, key, &said, error);
    if (status == PROTO_OK && said != m->n_vocab)
        return proto_fail(error, PROTO_FORMAT,
                          "tensor 'token_embd.weight' has %u rows, expected %u from '%s'",
                          m->n_vocab, said, key);
    return status == PROTO_NOTFOUND ? PROTO_OK : status;
}

/* The vocabulary's size is the embedding's: a model card carries no tokens. */
static enum proto_status find_embedding(struct finder *f)
{
    struct shard_model *m = f->model;
    long i = shard_gguf_find_tensor(m->gguf, "token_embd.weight");
    if (i < 0)
        return fail_missing("token_embd.weight", f->error);
    uint64_t rows = shard_gguf_tensor(m->gguf, (size_t)i)->dims[1];
    if (rows > PROTO_MAX_VOCAB)
        return proto_fail(f->error, PROTO_LIMIT,
                          "tensor 'token_embd.weight' has %llu rows, expected at most %u",
                          (unsigned long long)rows, PROTO_MAX_VOCAB);
    m->n_vocab = (uint32_t)rows;
    uint64_t dims[4] = {m->n_embd, rows, 1, 1};
    enum proto_status status = find(f, "token_embd.weight", dims, true, &m->token_embd);
    return status == PROTO_OK ? check_vocab(m, f->error) : status;
}

/* What makes the inputs of all layers, side by side. */
static enum proto_status find_layer_inputs(struct finder *f)
{
    struct shard_model *m = f->model;
    uint64_t width = (uint64_t)m->layer_input * m->n_layers;
    if (width == 0)
        return PROTO_OK;
    enum proto_status status = find(f, "per_layer_token_embd.weight",
                                    (uint64_t[4]){width, m->n_vocab, 1, 1}, true, &m->input_embd);
    if (status == PROTO_OK)
        status = find(f, "per_layer_model_proj.weight", (uint64_t[4]){m->n_embd, width, 1, 1}, true,
                      &m->input_proj);
    if (status == PROTO_OK)
        status = find(f, "per_layer_proj_norm.weight", (uint64_t[4]){m->layer_input, 1, 1, 1}, true,
                      &m->input_norm);
    return status;
}

static enum proto_status find_globals(struct finder *f)
{
    struct shard_model *m = f->model;
    enum proto_status status = find_embedding(f);
    if (status == PROTO_OK)
        status = find_layer_inputs(f);
    if (status != PROTO_OK)
        return status;
    uint64_t norm[4] = {m->n_embd, 1, 1, 1};
    uint64_t head[4] = {m->n_embd, m->n_vocab, 1, 1};
    uint64_t freqs[4] = {m->rope[SHARD_ROPE_GLOBAL].n_rot / 2, 1, 1, 1};
    status = find(f, "output_norm.weight", norm, true, &m->output_norm);
    if (status == PROTO_OK)
        status = find(f, "output.weight", head, false, &m->output);
    if (status == PROTO_OK)
        status = find(f, "rope_freqs.weight", freqs, false, &m->rope_freqs);
    if (m->output < 0)
        m->output = m->token_embd;
    return status;
}

/* Whether a tensor is of a block after the layers. */
static bool is_skipped(const struct shard_model *m, const char *name)
{
    char *end;
    if (m->n_skipped == 0 || strncmp(name, "blk.", 4) != 0)
        return false;
    unsigned long block = strtoul(name + 4, &end, 10);
    return *end == '.' && block >= m->n_layers && block - m->n_layers < m->n_skipped;
}

/* A tensor that the architecture does not know would be left out of the computation silently. */
static enum proto_status check_all_seen(const struct finder *f)
{
    const struct shard_gguf *gguf = f->model->gguf;
    for (size_t i = 0; i < shard_gguf_n_tensors(gguf); i++) {
        const char *name = shard_gguf_tensor(gguf, i)->name;
        if (!f->seen[i] && !is_skipped(f->model, name))
            return proto_fail(f->error, PROTO_UNSUPPORTED,
                              "tensor '%s' is not known in a %s model of this shape; the file may "
                              "need a newer version",
                              name, f->model->arch);
    }
    return PROTO_OK;
}

enum proto_status shard__model_find_tensors(struct shard_model *model,
                                            const struct shard__arch *arch,
                                            struct proto_error *error)
{
    size_t n = shard_gguf_n_tensors(model->gguf);
    struct finder f = {
        .model = model, .arch = arch, .seen = calloc(n + 1, sizeof(bool)), .error = error};
    if (!f.seen)
        return proto_fail_nomem(error, n + 1, "the list of tensors");
    enum proto_status status = find_globals(&f);
    for (uint32_t il = 0; il < model->n_layers && status == PROTO_OK; il++)
        status = find_layer(&f, il);
    if (status == PROTO_OK)
        status = check_all_seen(&f);
    free(f.seen);
    return status;
}

static uint64_t tensor_bytes(const struct shard_model *model, long tensor)
{
    return tensor < 0 ? 0 : shard_gguf_tensor(model->gguf, (size_t)tensor)->bytes;
}

/* Bytes of all experts' matrices in a slot. */
static uint64_t expert_bytes(const struct shard_model *model, const struct shard_layer *layer,
                             int slot)
{
    uint64_t bytes = tensor_bytes(model, layer->tensor[slot]);
    return layer->experts_split ? bytes * model->n_experts : bytes;
}

uint64_t shard_model_layer_bytes(const struct shard_model *model, uint32_t layer)
{
    const struct shard_layer *l = &model->layers[layer];
    uint64_t sum = 0;
    for (int slot = 0; slot < SHARD_N_SLOTS; slot++)
        sum +=
            is_expert(slot) ? expert_bytes(model, l, slot) : tensor_bytes(model, l->tensor[slot]);
    return sum;
}

uint64_t shard_model_embd_bytes(const struct shard_model *model)
{
    return tensor_bytes(model, model->token_embd) + tensor_bytes(model, model->input_embd) +
           tensor_bytes(model, model->input_proj) + tensor_bytes(model, model->input_norm);
}

uint64_t shard_model_head_bytes(const struct shard_model *model)
{
    return tensor_bytes(model, model->output_norm) + tensor_bytes(model, model->output);
}

uint64_t shard_model_parameters(const struct shard_model *model)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < shard_gguf_n_tensors(model->gguf); i++) {
        const struct shard_tensor *t = shard_gguf_tensor(model->gguf, i);
        if ((long)i != model->rope_freqs)
            sum += t->dims[0] * t->dims[1] * t->dims[2] * t->dims[3];
    }
    return sum;
}

static bool is_expert_bias(int slot)
{
    return slot >= SHARD_GATE_EXPS_BIAS && slot <= SHARD_DOWN_EXPS_BIAS;
}

uint64_t shard_model_bytes_per_token(const struct shard_model *model)
{
    uint64_t sum = tensor_bytes(model, model->output);
    if (model->layer_input)
        sum += tensor_bytes(model, model->input_proj);
    for (uint32_t il = 0; il < model->n_layers; il++) {
        const struct shard_layer *layer = &model->layers[il];
        for (int slot = 0; slot < SHARD_N_SLOTS; slot++) {
            if (is_expert(slot) && layer->moe)
                sum += expert_bytes(model, layer, slot) / model->n_experts * model->n_experts_used;
            else if (shard__slots[slot].dims[1] != SHARD__DIM_NONE && !is_expert_bias(slot))
                sum += tensor_bytes(model, layer->tensor[slot]);
        }
    }
    return sum;
}
