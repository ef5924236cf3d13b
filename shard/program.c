/* SPDX-License-Identifier: Apache-2.0 */
#include "shard/program.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_BUFFERS   48
#define OPS_PER_LAYER 48
#define N_ACTS        3

struct builder {
    struct shard_program *program;
    const struct shard_model *model;
    int16_t x, rope_table;
    int32_t embedding; /* weight, shared with a tied head */
    /* Whether the operand of that kind made of a float buffer still holds the buffer's values. */
    bool fresh[MAX_BUFFERS][N_ACTS];
};

uint64_t shard_mask_first(enum shard_mask mask, uint32_t window, uint64_t pos)
{
    if (mask == SHARD_MASK_CHUNK)
        return pos / window * window;
    if (mask == SHARD_MASK_WINDOW)
        return pos < window ? 0 : pos - window + 1;
    return 0;
}

static int16_t add_buffer(struct builder *b, const char *name, enum shard_buffer_kind kind,
                          enum kern_act act, uint64_t width, bool tail)
{
    struct shard_program *p = b->program;
    struct shard_buffer *buffer = &p->buffers[p->n_buffers];
    snprintf(buffer->name, sizeof buffer->name, "%s", name);
    buffer->kind = kind;
    buffer->act = act;
    buffer->width = (uint32_t)width;
    buffer->tail = tail;
    return (int16_t)p->n_buffers++;
}

/* The buffer of that name, made or widened. Names keep layers from taking buffers of their own. */
static int16_t buffer(struct builder *b, const char *name, enum shard_buffer_kind kind,
                      enum kern_act act, uint64_t width, bool tail)
{
    for (size_t i = 0; i < b->program->n_buffers; i++) {
        struct shard_buffer *found = &b->program->buffers[i];
        if (strcmp(found->name, name) == 0) {
            found->width = width > found->width ? (uint32_t)width : found->width;
            return (int16_t)i;
        }
    }
    return add_buffer(b, name, kind, act, width, tail);
}

static int16_t floats(struct builder *b, const char *name, uint64_t width)
{
    return buffer(b, name, SHARD_BUFFER_F32, KERN_ACT_F32, width, false);
}

static struct shard_op *emit(struct builder *b, enum shard_op_kind kind, int16_t dst, int16_t a)
{
    struct shard_op *op = &b->program->ops[b->program->n_ops++];
    op->kind = kind;
    op->dst = dst;
    op->a = a;
    op->b = op->c = -1;
    op->w = op->w2 = op->w3 = -1;
    if (dst >= 0)
        memset(b->fresh[dst], 0, sizeof b->fresh[dst]);
    return op;
}

static int32_t add_weight(struct builder *b, enum shard_weight_form form, long tensor)
{
    struct shard_program *p = b->program;
    const struct shard_tensor *t = shard_gguf_tensor(b->model->gguf, (size_t)tensor);
    struct shard_weight *w = &p->weights[p->n_weights];
    bool panels = form == SHARD_WEIGHT_PANELS;
    w->form = form;
    w->type = panels ? t->type : NULL;
    w->k = panels ? t->dims[0] : 1;
    w->n_out = panels ? t->dims[1] : t->dims[0];
    w->n_mats = (uint32_t)t->dims[2];
    w->first_part = (uint32_t)p->n_parts;
    w->n_parts = 1;
    p->parts[p->n_parts++] = (uint32_t)tensor;
    return (int32_t)p->n_weights++;
}

/* A slot's matrix, or its matrix of each expert. */
static int32_t matrix(struct builder *b, const struct shard_layer *layer, enum shard_slot slot)
{
    int32_t w = add_weight(b, SHARD_WEIGHT_PANELS, layer->tensor[slot]);
    bool experts = slot >= SHARD_GATE_EXPS && slot <= SHARD_DOWN_EXPS;
    if (!experts || !layer->experts_split)
        return w;
    struct shard_program *p = b->program;
    struct shard_weight *weight = &p->weights[w];
    weight->n_mats = weight->n_parts = b->model->n_experts;
    for (uint32_t x = 1; x < b->model->n_experts; x++)
        p->parts[p->n_parts++] =
            (uint32_t)layer->expert_tensor[3 * x + (uint32_t)(slot - SHARD_GATE_EXPS)];
    return w;
}

/* What a product with weight w reads in place of float buffer src: src itself, or src quantised,
 * by an operation that is emitted once and serves all consumers. */
static int16_t operand(struct builder *b, int16_t src, int32_t w)
{
    static const char *const suffixes[N_ACTS] = {"f32", "q8_32", "q8_256"};
    enum kern_act act = b->program->weights[w].type->act;
    uint64_t k = b->program->weights[w].k;
    if (act == KERN_ACT_F32)
        return src;
    char name[sizeof b->program->buffers[0].name];
    const struct shard_buffer *from = &b->program->buffers[src];
    snprintf(name, sizeof name, "%.15s.%s", from->name, suffixes[act]);
    int16_t dst = buffer(b, name, SHARD_BUFFER_ACT, act, k, from->tail);
    if (!b->fresh[src][act])
        emit(b, SHARD_OP_QUANT, dst, src)->width = (uint32_t)k;
    b->fresh[src][act] = true;
    return dst;
}

static int16_t matmul(struct builder *b, const char *name, int32_t w, int16_t src)
{
    int16_t a = operand(b, src, w);
    int16_t dst = buffer(b, name, SHARD_BUFFER_F32, KERN_ACT_F32, b->program->weights[w].n_out,
                         b->program->buffers[src].tail);
    emit(b, SHARD_OP_MATMUL, dst, a)->w = w;
    return dst;
}

static void bias(struct builder *b, int16_t dst, const struct shard_layer *layer,
                 enum shard_slot slot)
{
    if (layer->tensor[slot] >= 0)
        emit(b, SHARD_OP_BIAS, dst, -1)->w =
            add_weight(b, SHARD_WEIGHT_VECTOR, layer->tensor[slot]);
}

static void add(struct builder *b, int16_t dst, int16_t a)
{
    emit(b, SHARD_OP_ADD, dst, a)->width = b->model->n_embd;
}

static int16_t norm(struct builder *b, int16_t dst, int16_t src, long tensor)
{
    struct shard_op *op = emit(b, SHARD_OP_RMS_NORM, dst, src);
    op->w = add_weight(b, SHARD_WEIGHT_VECTOR, tensor);
    op->n_heads = 1;
    op->width = b->model->n_embd;
    op->eps = b->model->eps;
    return dst;
}

static void copy(struct builder *b, int16_t dst, int16_t src, uint32_t offset, uint32_t width)
{
    struct shard_op *op = emit(b, SHARD_OP_COPY, dst, src);
    op->offset = offset;
    op->width = width;
}

struct qkv {
    int16_t q, k, v;
};

static struct qkv emit_qkv(struct builder *b, const struct shard_layer *layer, int16_t h)
{
    uint32_t q_width = layer->n_head * b->model->head_dim_k;
    uint32_t k_width = layer->n_head_kv * b->model->head_dim_k;
    uint32_t v_width = layer->n_head_kv * b->model->head_dim_v;
    struct qkv r;
    if (layer->tensor[SHARD_ATTN_QKV] >= 0) {
        int16_t fused = matmul(b, "qkv", matrix(b, layer, SHARD_ATTN_QKV), h);
        r = (struct qkv){floats(b, "q", q_width), floats(b, "k", k_width), floats(b, "v", v_width)};
        copy(b, r.q, fused, 0, q_width);
        copy(b, r.k, fused, q_width, k_width);
        copy(b, r.v, fused, q_width + k_width, v_width);
    } else {
        int32_t wq = matrix(b, layer, SHARD_ATTN_Q);
        int32_t wk = matrix(b, layer, SHARD_ATTN_K);
        int32_t wv = matrix(b, layer, SHARD_ATTN_V);
        /* Operands of all three first, so that the products stand side by side. */
        operand(b, h, wq);
        operand(b, h, wk);
        operand(b, h, wv);
        r = (struct qkv){matmul(b, "q", wq, h), matmul(b, "k", wk, h), matmul(b, "v", wv, h)};
    }
    bias(b, r.q, layer, SHARD_ATTN_Q_BIAS);
    bias(b, r.k, layer, SHARD_ATTN_K_BIAS);
    bias(b, r.v, layer, SHARD_ATTN_V_BIAS);
    return r;
}

static void emit_head_norm(struct builder *b, int16_t dst, uint32_t n_heads)
{
    struct shard_op *op = emit(b, SHARD_OP_RMS_NORM, dst, dst);
    op->n_heads = n_heads;
    op->width = b->model->head_dim_k;
    op->eps = b->model->eps;
}

static void emit_rotation(struct builder *b, int16_t dst, uint32_t n_heads, enum shard_rope rope)
{
    struct shard_op *op = emit(b, SHARD_OP_ROPE, dst, b->rope_table);
    op->n_heads = n_heads;
    op->width = b->model->head_dim_k;
    op->rope = rope;
}

static void emit_positions(struct builder *b, const struct shard_layer *layer, struct qkv r)
{
    const struct shard_model *m = b->model;
    if (layer->rope != SHARD_ROPE_NONE) {
        emit_rotation(b, r.q, layer->n_head, layer->rope);
        emit_rotation(b, r.k, layer->n_head_kv, layer->rope);
    }
    if (layer->qk_norm_after_rope) {
        emit_head_norm(b, r.q, layer->n_head);
        emit_head_norm(b, r.k, layer->n_head_kv);
    }
    if (layer->temperature) {
        struct shard_op *op = emit(b, SHARD_OP_TEMPERATURE, r.q, -1);
        op->width = layer->n_head * m->head_dim_k;
        op->scale = m->temperature_scale;
        op->length = m->temperature_length;
    }
}

static void emit_attention(struct builder *b, uint32_t il)
{
    const struct shard_model *m = b->model;
    const struct shard_layer *layer = &m->layers[il];
    int16_t h = norm(b, floats(b, "h", m->n_embd), b->x, layer->tensor[SHARD_ATTN_NORM]);
    struct qkv r = emit_qkv(b, layer, h);
    emit_positions(b, layer, r);
    struct shard_op *store = emit(b, SHARD_OP_KV_STORE, -1, r.k);
    store->b = r.v;
    store->layer = il;
    store->n_head_kv = layer->n_head_kv;
    int16_t mixed = floats(b, "mixed", (uint64_t)layer->n_head * m->head_dim_v);
    struct shard_op *op = emit(b, SHARD_OP_ATTENTION, mixed, r.q);
    op->layer = il;
    op->n_heads = layer->n_head;
    op->n_head_kv = layer->n_head_kv;
    op->mask = layer->mask;
    op->window = layer->window;
    op->scale = (float)(1.0 / sqrt((double)m->head_dim_k));
    int16_t y = matmul(b, "y", matrix(b, layer, SHARD_ATTN_OUTPUT), mixed);
    bias(b, y, layer, SHARD_ATTN_OUTPUT_BIAS);
    add(b, b->x, y);
}

static void emit_silu(struct builder *b, int16_t gate, int16_t up, uint32_t width)
{
    struct shard_op *op = emit(b, SHARD_OP_SILU_MUL, gate, gate);
    op->b = up;
    op->width = width;
}

static void emit_dense(struct builder *b, const struct shard_layer *layer, int16_t h)
{
    int32_t w_gate = matrix(b, layer, SHARD_FFN_GATE);
    int32_t w_up = matrix(b, layer, SHARD_FFN_UP);
    operand(b, h, w_gate);
    operand(b, h, w_up);
    int16_t gate = matmul(b, "gate", w_gate, h);
    int16_t up = matmul(b, "up", w_up, h);
    emit_silu(b, gate, up, layer->ff);
    add(b, b->x, matmul(b, "y", matrix(b, layer, SHARD_FFN_DOWN), gate));
}

static void emit_route(struct builder *b, int16_t routes, int16_t logits)
{
    const struct shard_model *m = b->model;
    struct shard_op *op = emit(b, SHARD_OP_ROUTE, routes, logits);
    op->width = m->n_experts;
    op->gate = m->gate;
    op->gate_normalised = m->gate_normalised;
    op->gate_on_input = m->gate_on_input;
    op->scale = m->gate_scale;
    op->n_used = m->n_experts_used;
}

static int16_t emit_experts(struct builder *b, const struct shard_layer *layer, int16_t h,
                            int16_t routes)
{
    const struct shard_model *m = b->model;
    int32_t gate = matrix(b, layer, SHARD_GATE_EXPS);
    int32_t up = matrix(b, layer, SHARD_UP_EXPS);
    int32_t down = matrix(b, layer, SHARD_DOWN_EXPS);
    int16_t x_gate = operand(b, h, gate);
    int16_t x_up = operand(b, h, up);
    int16_t dst = floats(b, "experts", m->n_embd);
    struct shard_op *op = emit(b, SHARD_OP_EXPERTS, dst, x_gate);
    op->b = routes;
    op->c = x_up;
    op->w = gate;
    op->w2 = up;
    op->w3 = down;
    op->width = m->ff_expert;
    op->gate_on_input = m->gate_on_input;
    op->n_used = m->n_experts_used;
    return dst;
}

static void emit_moe(struct builder *b, const struct shard_layer *layer, int16_t h)
{
    const struct shard_model *m = b->model;
    int16_t gate = -1, up = -1;
    int32_t router = matrix(b, layer, SHARD_ROUTER);
    operand(b, h, router);
    /* The shared expert's first products stand beside the router's, so that they run as one. */
    if (m->ff_shared) {
        int32_t w_gate = matrix(b, layer, SHARD_GATE_SHARED);
        int32_t w_up = matrix(b, layer, SHARD_UP_SHARED);
        operand(b, h, w_gate);
        operand(b, h, w_up);
        gate = matmul(b, "gate", w_gate, h);
        up = matmul(b, "up", w_up, h);
    }
    int16_t logits = matmul(b, "router", router, h);
    int16_t routes =
        buffer(b, "routes", SHARD_BUFFER_ROUTE, KERN_ACT_F32, m->n_experts_used, false);
    emit_route(b, routes, logits);
    if (m->ff_shared)
        emit_silu(b, gate, up, m->ff_shared);
    int16_t sum = emit_experts(b, layer, h, routes);
    if (m->ff_shared)
        add(b, sum, matmul(b, "y", matrix(b, layer, SHARD_DOWN_SHARED), gate));
    add(b, b->x, sum);
}

static void emit_layer(struct builder *b, uint32_t il)
{
    const struct shard_layer *layer = &b->model->layers[il];
    emit_attention(b, il);
    int16_t h = norm(b, floats(b, "h", b->model->n_embd), b->x, layer->tensor[SHARD_FFN_NORM]);
    if (layer->moe)
        emit_moe(b, layer, h);
    else
        emit_dense(b, layer, h);
}

static void emit_rope_table(struct builder *b)
{
    const struct shard_program *p = b->program;
    bool rotates = false;
    for (uint32_t il = p->layer_first; il < p->layer_end; il++)
        rotates |= b->model->layers[il].rope != SHARD_ROPE_NONE;
    if (!rotates)
        return;
    b->rope_table = floats(b, "rope", b->model->n_rot);
    struct shard_op *op = emit(b, SHARD_OP_ROPE_TABLE, b->rope_table, -1);
    op->width = b->model->n_rot;
    if (b->model->rope_freqs >= 0)
        op->w = add_weight(b, SHARD_WEIGHT_VECTOR, b->model->rope_freqs);
}

static void emit_head(struct builder *b)
{
    const struct shard_model *m = b->model;
    struct shard_program *p = b->program;
    p->tail = p->n_ops;
    int16_t x = buffer(b, "wanted", SHARD_BUFFER_F32, KERN_ACT_F32, m->n_embd, true);
    emit(b, SHARD_OP_SELECT, x, b->x)->width = m->n_embd;
    norm(b, x, x, m->output_norm);
    bool tied = m->output == m->token_embd && b->embedding >= 0;
    int32_t w = tied ? b->embedding : add_weight(b, SHARD_WEIGHT_PANELS, m->output);
    p->logits = matmul(b, "logits", w, x);
}

static void emit_program(struct builder *b)
{
    struct shard_program *p = b->program;
    b->x = floats(b, "x", b->model->n_embd);
    b->embedding = -1;
    if (p->embed) {
        b->embedding = add_weight(b, SHARD_WEIGHT_PANELS, b->model->token_embd);
        emit(b, SHARD_OP_EMBED, b->x, -1)->w = b->embedding;
    }
    emit_rope_table(b);
    for (uint32_t il = p->layer_first; il < p->layer_end; il++)
        emit_layer(b, il);
    p->tail = p->n_ops;
    if (p->head)
        emit_head(b);
}

static void fill_rope_freqs(struct shard_program *p)
{
    const struct shard_model *m = p->model;
    for (uint32_t i = 0; i < m->n_rot / 2; i++)
        p->rope_freqs[i] = pow(m->rope_base, -2.0 * i / m->n_rot) / m->rope_scale;
}

static enum proto_status allocate(struct shard_program *p, struct proto_error *error)
{
    size_t n_layers = p->layer_end - p->layer_first;
    size_t n_ops = n_layers * OPS_PER_LAYER + 8;
    size_t n_weights = n_layers * SHARD_N_SLOTS + 4;
    size_t n_parts = n_weights;
    for (uint32_t il = p->layer_first; il < p->layer_end; il++)
        n_parts += p->model->layers[il].experts_split ? 3 * (size_t)p->model->n_experts : 0;
    p->ops = calloc(n_ops, sizeof p->ops[0]);
    p->buffers = calloc(MAX_BUFFERS, sizeof p->buffers[0]);
    p->weights = calloc(n_weights, sizeof p->weights[0]);
    p->parts = calloc(n_parts, sizeof p->parts[0]);
    p->rope_freqs = calloc(p->model->n_rot / 2 + 1, sizeof p->rope_freqs[0]);
    if (!p->ops || !p->buffers || !p->weights || !p->parts || !p->rope_freqs)
        return proto_fail_nomem(error, n_ops * sizeof p->ops[0], "a slice's program");
    return PROTO_OK;
}

static enum proto_status check_cut(const struct shard_model *model, uint32_t first, uint32_t end,
                                   bool embed, bool head, struct proto_error *error)
{
    bool nothing = first == end && !embed && !head;
    if (first > end || end > model->n_layers || nothing)
        return proto_fail(error, PROTO_INVALID,
                          "cannot cut layers %u to %u (the end not included) of a model with %u "
                          "layers",
                          first, end, model->n_layers);
    return PROTO_OK;
}

enum proto_status shard_program_create(struct shard_program **out, const struct shard_model *model,
                                       uint32_t layer_first, uint32_t layer_end, bool embed,
                                       bool head, struct proto_error *error)
{
    *out = NULL;
    enum proto_status status = check_cut(model, layer_first, layer_end, embed, head, error);
    if (status != PROTO_OK)
        return status;
    struct shard_program *p = calloc(1, sizeof *p);
    if (!p)
        return proto_fail_nomem(error, sizeof *p, "a slice's program");
    *p = (struct shard_program){.model = model,
                                .layer_first = layer_first,
                                .layer_end = layer_end,
                                .embed = embed,
                                .head = head,
                                .logits = -1};
    status = allocate(p, error);
    if (status != PROTO_OK) {
        shard_program_destroy(p);
        return status;
    }
    struct builder b = {.program = p, .model = model, .rope_table = -1};
    emit_program(&b);
    fill_rope_freqs(p);
    *out = p;
    return PROTO_OK;
}

void shard_program_destroy(struct shard_program *program)
{
    if (!program)
        return;
    free(program->ops);
    free(program->buffers);
    free(program->weights);
    free(program->parts);
    free(program->rope_freqs);
    free(program);
}
