/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files that emit programs build them with: buffers by name, operations, weights, and the
 * operations that every architecture is made of. Private to shard/program*.c.
 *
 * Room is taken beforehand for OPS_PER_LAYER operations a layer, OPS_BESIDES and WEIGHTS_BESIDES
 * that belong to none, and MAX_BUFFERS buffers.
 */
#ifndef SHARD_PROGRAM_BUILD_H
#define SHARD_PROGRAM_BUILD_H

#include <stdio.h>
#include <string.h>

#include "shard/program.h"

#define OPS_PER_LAYER   64
#define OPS_BESIDES     40
#define WEIGHTS_BESIDES 8
#define MAX_BUFFERS     48
#define N_ACTS          3

struct builder {
    struct shard_program *program;
    const struct shard_model *model;
    int16_t x, rope_table[SHARD_N_ROPE_SETS];
    int16_t layer_inputs; /* of layers from layer_first on, side by side */
    int32_t embedding;    /* weight, shared with a tied head */
    /* Whether the operand of that kind made of a float buffer still holds the buffer's values. */
    bool fresh[MAX_BUFFERS][N_ACTS];
};

/* See SHARD_OP_COPY_HEADS. */
struct heads_copy {
    uint32_t n_heads, width;
    uint32_t offset, stride;
    uint32_t dst_offset, dst_stride;
};

static inline int16_t add_buffer(struct builder *b, const char *name, enum shard_buffer_kind kind,
                                 enum kern_act act, uint64_t width, bool tail)
{
    struct shard_program *p = b->program;
    struct shard_buffer *buffer = &p->buffers[p->n_buffers];
    snprintf(buffer->name, sizeof buffer->name, "%s", name);
    buffer->kind = kind;
    buffer->act = act;
    buffer->width = (uint32_t)width;
    buffer->records = 1;
    buffer->tail = tail;
    return (int16_t)p->n_buffers++;
}

/* The buffer of that name, made or widened. Names keep layers from taking buffers of their own. */
static inline int16_t buffer(struct builder *b, const char *name, enum shard_buffer_kind kind,
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

static inline int16_t floats(struct builder *b, const char *name, uint64_t width)
{
    return buffer(b, name, SHARD_BUFFER_F32, KERN_ACT_F32, width, false);
}

static inline struct shard_op *emit(struct builder *b, enum shard_op_kind kind, int16_t dst,
                                    int16_t a)
{
    struct shard_op *op = &b->program->ops[b->program->n_ops++];
    op->kind = kind;
    op->dst = dst;
    op->a = a;
    op->b = op->c = -1;
    op->w = op->w2 = -1;
    op->bias[0] = op->bias[1] = op->bias[2] = -1;
    if (dst >= 0)
        memset(b->fresh[dst], 0, sizeof b->fresh[dst]);
    return op;
}

static inline int32_t add_weight(struct builder *b, enum shard_weight_form form, long tensor)
{
    struct shard_program *p = b->program;
    const struct shard_tensor *t = shard_gguf_tensor(b->model->gguf, (size_t)tensor);
    struct shard_weight *w = &p->weights[p->n_weights];
    bool panels = form == SHARD_WEIGHT_PANELS;
    w->form = form;
    w->type = panels ? t->type : NULL;
    w->k = panels ? t->dims[0] : 1;
    w->n_out = panels ? t->dims[1] : t->dims[0] * t->dims[1];
    w->n_mats = (uint32_t)t->dims[2];
    w->first_part = (uint32_t)p->n_parts;
    w->n_parts = 1;
    p->parts[p->n_parts++] = (uint32_t)tensor;
    return (int32_t)p->n_weights++;
}

static inline int32_t matrix(struct builder *b, const struct shard_layer *layer,
                             enum shard_slot slot)
{
    return add_weight(b, SHARD_WEIGHT_PANELS, layer->tensor[slot]);
}

/* What a product with a matrix of that type, of rows of k values, reads in place of float buffer
 * src: src itself, or src quantised, by an operation that is emitted once and serves all consumers.
 */
static inline int16_t operand_of(struct builder *b, int16_t src, const struct kern_type_info *type,
                                 uint64_t k)
{
    static const char *const suffixes[N_ACTS] = {"f32", "q8_32", "q8_256"};
    enum kern_act act = type->act;
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

static inline int16_t operand(struct builder *b, int16_t src, int32_t w)
{
    return operand_of(b, src, b->program->weights[w].type, b->program->weights[w].k);
}

static inline int16_t matmul(struct builder *b, const char *name, int32_t w, int16_t src)
{
    int16_t a = operand(b, src, w);
    int16_t dst = buffer(b, name, SHARD_BUFFER_F32, KERN_ACT_F32, b->program->weights[w].n_out,
                         b->program->buffers[src].tail);
    emit(b, SHARD_OP_MATMUL, dst, a)->w = w;
    return dst;
}

/* A slot's vector, or -1. */
static inline int32_t vector(struct builder *b, const struct shard_layer *layer,
                             enum shard_slot slot)
{
    return layer->tensor[slot] < 0 ? -1 : add_weight(b, SHARD_WEIGHT_VECTOR, layer->tensor[slot]);
}

static inline void bias(struct builder *b, int16_t dst, const struct shard_layer *layer,
                        enum shard_slot slot)
{
    if (layer->tensor[slot] >= 0)
        emit(b, SHARD_OP_BIAS, dst, -1)->w = vector(b, layer, slot);
}

static inline void scale(struct builder *b, int16_t dst, uint32_t width, float factor)
{
    struct shard_op *op = emit(b, SHARD_OP_SCALE, dst, -1);
    op->width = width;
    op->scale = factor;
}

static inline void add(struct builder *b, int16_t dst, int16_t a)
{
    emit(b, SHARD_OP_ADD, dst, a)->width = b->model->n_embd;
}

static inline int16_t norm(struct builder *b, int16_t dst, int16_t src, long tensor)
{
    struct shard_op *op = emit(b, SHARD_OP_RMS_NORM, dst, src);
    op->w = add_weight(b, SHARD_WEIGHT_VECTOR, tensor);
    op->n_heads = 1;
    op->width = b->model->n_embd;
    op->eps = b->model->eps;
    return dst;
}

static inline void copy_heads(struct builder *b, int16_t dst, int16_t src,
                              const struct heads_copy *c)
{
    struct shard_op *op = emit(b, SHARD_OP_COPY_HEADS, dst, src);
    op->n_heads = c->n_heads;
    op->width = c->width;
    op->offset = c->offset;
    op->stride = c->stride;
    op->dst_offset = c->dst_offset;
    op->dst_stride = c->dst_stride;
}

static inline void copy(struct builder *b, int16_t dst, int16_t src, uint32_t offset,
                        uint32_t width)
{
    struct shard_op *op = emit(b, SHARD_OP_COPY, dst, src);
    op->offset = offset;
    op->width = width;
}

static inline void kv_store(struct builder *b, uint32_t il, int16_t k, int16_t v)
{
    const struct shard_layer *layer = &b->model->layers[il];
    struct shard_op *op = emit(b, SHARD_OP_KV_STORE, -1, k);
    op->b = v;
    op->layer = il;
    op->n_head_kv = layer->n_head_kv;
    op->dim_k = layer->head_dim_k;
    op->dim_v = layer->head_dim_v;
}

/* Attention of layer il as these architectures have it: what they add to the residual stream is
 * added. */
void shard__emit_mla(struct builder *b, uint32_t il);
void shard__emit_delta(struct builder *b, uint32_t il);
void shard__emit_gated_attention(struct builder *b, uint32_t il);

/* The routed experts of layer il over float buffer h: the rows of those held elsewhere go out,
 * where there are any; then, when what can be computed meanwhile stands behind that, the rest,
 * which returns the buffer of the sum. */
void shard__emit_experts_send(struct builder *b, uint32_t il, int16_t h, int16_t routes);
int16_t shard__emit_experts(struct builder *b, uint32_t il, int16_t h, int16_t routes);

/* The operation of an expert host for layer il, if it has experts of it. */
void shard__emit_hosted(struct builder *b, uint32_t il);

/* Whether workers other than the program's compute experts of layer il. */
bool shard__experts_remote(const struct shard_program *p, uint32_t il);

/* Takes the split's placement over, checked, and room for holdings; every expert of the program's
 * layers must be somewhere. */
enum proto_status shard__experts_init(struct shard_program *p, const struct shard_split *split,
                                      struct proto_error *error);

/* Weights, and tensors of weights, that the experts of layer il take. */
size_t shard__experts_weights(const struct shard_program *p, uint32_t il);
size_t shard__experts_tensors(const struct shard_program *p, uint32_t il);

/* Inputs of layers: made of token ids and embeddings, and what layer il adds to the residual
 * stream for its own. Nothing for models without. */
void shard__emit_inputs(struct builder *b);
void shard__emit_input(struct builder *b, uint32_t il);

/* What rows between stages hold besides the residual: taken in; layer il's keys and values put
 * there; the rest put there at the end. */
void shard__emit_arrival(struct builder *b);
void shard__emit_kv_carry(struct builder *b, uint32_t il, int16_t k, int16_t v);
void shard__emit_departure(struct builder *b);

#endif
