/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The layers of Qwen3-Next and Qwen3.5: gated delta-nets, and attention with a gate, as
 * Qwen3NextGatedDeltaNet and Qwen3NextAttention of Hugging Face transformers define them
 * (src/transformers/models/qwen3_next/modular_qwen3_next.py; torch_recurrent_gated_delta_rule is
 * the recurrence). A delta-net layer, token by token:
 *
 *   [q | k | v] = silu(causal depthwise convolution of qkv h), q and k made unit vectors by head
 *   beta = sigmoid(w_beta h), g = A softplus(w_alpha h + dt), A below 0
 *   of each V head, with the state S: S *= e^g; S += k (beta (v - S^T k))^T; o = S^T q / sqrt(dim)
 *   x += w_out (RMS(o) * norm * silu(z h))
 */
#include "shard/program_build.h"

#include <math.h>

/* Added to the squares' sum of a vector that is made a unit vector (l2norm of the source). */
#define UNIT_EPS 1e-6f

static void emit_unit(struct builder *b, int16_t dst, uint32_t n_heads, uint32_t offset,
                      float length)
{
    struct shard_op *op = emit(b, SHARD_OP_UNIT, dst, -1);
    op->n_heads = n_heads;
    op->width = b->model->delta.dim;
    op->offset = offset;
    op->scale = length;
    op->eps = UNIT_EPS;
}

/* The logits of beta and of the decay, of each V head. */
struct logits {
    int16_t beta, alpha;
};

/* One tensor may give both: those of a K head's V heads, beta's before alpha's. */
static struct logits emit_logits(struct builder *b, const struct shard_layer *layer, int16_t h)
{
    const struct shard_delta *d = &b->model->delta;
    if (layer->tensor[SHARD_DELTA_BETA_ALPHA] < 0) {
        int16_t beta = matmul(b, "beta", matrix(b, layer, SHARD_DELTA_BETA), h);
        return (struct logits){beta, matmul(b, "alpha", matrix(b, layer, SHARD_DELTA_ALPHA), h)};
    }
    int16_t both = matmul(b, "beta_alpha", matrix(b, layer, SHARD_DELTA_BETA_ALPHA), h);
    struct logits r = {floats(b, "beta", d->n_v), floats(b, "alpha", d->n_v)};
    uint32_t each = d->n_v / d->n_k;
    struct heads_copy part = {
        .n_heads = d->n_k, .width = each, .stride = 2 * each, .dst_stride = each};
    copy_heads(b, r.beta, both, &part);
    part.offset = each;
    copy_heads(b, r.alpha, both, &part);
    return r;
}

/* What the convolution reads, and the gate. */
struct inputs {
    int16_t qkv, z;
};

/* Old files have the matrices of both in one tensor, a K head's rows together: its q and k, and v
 * and z of its V heads. */
static struct inputs emit_inputs(struct builder *b, const struct shard_layer *layer, int16_t h)
{
    const struct shard_delta *d = &b->model->delta;
    uint32_t keys = d->n_k * d->dim, values = d->n_v / d->n_k * d->dim;
    if (layer->tensor[SHARD_DELTA_IN] < 0) {
        int16_t qkv = matmul(b, "qkv", matrix(b, layer, SHARD_ATTN_QKV), h);
        return (struct inputs){qkv, matmul(b, "z", matrix(b, layer, SHARD_DELTA_Z), h)};
    }
    int16_t all = matmul(b, "qkvz", matrix(b, layer, SHARD_DELTA_IN), h);
    struct inputs r = {floats(b, "qkv", 2 * keys + d->n_k * values),
                       floats(b, "z", d->n_k * values)};
    struct heads_copy part = {
        .n_heads = d->n_k, .width = d->dim, .stride = 2 * (d->dim + values), .dst_stride = d->dim};
    copy_heads(b, r.qkv, all, &part);
    part.offset = d->dim;
    part.dst_offset = keys;
    copy_heads(b, r.qkv, all, &part);
    part.offset = 2 * d->dim;
    part.dst_offset = 2 * keys;
    part.width = part.dst_stride = values;
    copy_heads(b, r.qkv, all, &part);
    part.offset += values;
    part.dst_offset = 0;
    copy_heads(b, r.z, all, &part);
    return r;
}

static int16_t emit_recurrence(struct builder *b, uint32_t il, int16_t qkv, struct logits logits)
{
    const struct shard_delta *d = &b->model->delta;
    const struct shard_layer *layer = &b->model->layers[il];
    uint32_t keys = d->n_k * d->dim, channels = 2 * keys + d->n_v * d->dim;
    int16_t mixed_qkv = floats(b, "conv", channels);
    struct shard_op *conv = emit(b, SHARD_OP_CONV, mixed_qkv, qkv);
    conv->w = add_weight(b, SHARD_WEIGHT_VECTOR, layer->tensor[SHARD_DELTA_CONV]);
    conv->width = channels;
    conv->layer = il;
    emit_unit(b, mixed_qkv, d->n_k, 0, 1.0f / sqrtf((float)d->dim));
    emit_unit(b, mixed_qkv, d->n_k, keys, 1.0f);
    int16_t dst = floats(b, "mixed", (uint64_t)d->n_v * d->dim);
    struct shard_op *op = emit(b, SHARD_OP_DELTA, dst, mixed_qkv);
    op->b = logits.beta;
    op->c = logits.alpha;
    op->w = add_weight(b, SHARD_WEIGHT_VECTOR, layer->tensor[SHARD_DELTA_DT]);
    op->w2 = add_weight(b, SHARD_WEIGHT_VECTOR, layer->tensor[SHARD_DELTA_A]);
    op->n_heads = d->n_v;
    op->n_head_kv = d->n_k;
    op->width = d->dim;
    op->layer = il;
    return dst;
}

void shard__emit_delta(struct builder *b, uint32_t il)
{
    const struct shard_model *m = b->model;
    const struct shard_layer *layer = &m->layers[il];
    int16_t h = norm(b, floats(b, "h", m->n_embd), b->x, layer->tensor[SHARD_ATTN_NORM]);
    struct inputs in = emit_inputs(b, layer, h);
    struct logits logits = emit_logits(b, layer, h);
    int16_t mixed = emit_recurrence(b, il, in.qkv, logits);
    struct shard_op *op = emit(b, SHARD_OP_RMS_NORM, mixed, mixed);
    op->w = add_weight(b, SHARD_WEIGHT_VECTOR, layer->tensor[SHARD_DELTA_NORM]);
    op->n_heads = m->delta.n_v;
    op->width = m->delta.dim;
    op->eps = m->eps;
    op = emit(b, SHARD_OP_GLU, in.z, in.z);
    op->glu = SHARD_GLU_SILU;
    op->b = mixed;
    op->width = m->delta.n_v * m->delta.dim;
    add(b, b->x, matmul(b, "y", matrix(b, layer, SHARD_DELTA_OUT), in.z));
}

static void emit_head(struct builder *b, int16_t dst, uint32_t n_heads, long norm_tensor,
                      enum shard_rope rope)
{
    struct shard_op *op = emit(b, SHARD_OP_RMS_NORM, dst, dst);
    op->w = add_weight(b, SHARD_WEIGHT_VECTOR, norm_tensor);
    op->n_heads = n_heads;
    op->width = b->model->head_dim_k;
    op->eps = b->model->eps;
    op = emit(b, SHARD_OP_ROPE, dst, b->rope_table[SHARD_ROPE_GLOBAL]);
    op->n_heads = n_heads;
    op->width = b->model->head_dim_k;
    op->n_rot = b->model->rope[SHARD_ROPE_GLOBAL].n_rot;
    op->rope = rope;
}

struct gated {
    int16_t q_gate, k, v; /* q_gate: [q | gate] by head */
};

static struct gated emit_projections(struct builder *b, const struct shard_layer *layer, int16_t h)
{
    uint32_t width = layer->n_head_kv * b->model->head_dim_k;
    if (layer->tensor[SHARD_ATTN_QKV] < 0) {
        int16_t q = matmul(b, "q_gate", matrix(b, layer, SHARD_ATTN_Q), h);
        int16_t k = matmul(b, "k", matrix(b, layer, SHARD_ATTN_K), h);
        return (struct gated){q, k, matmul(b, "v", matrix(b, layer, SHARD_ATTN_V), h)};
    }
    int16_t fused = matmul(b, "qkv", matrix(b, layer, SHARD_ATTN_QKV), h);
    uint32_t q_width = 2 * layer->n_head * b->model->head_dim_k;
    struct gated r = {fused, floats(b, "k", width), floats(b, "v", width)};
    copy(b, r.k, fused, q_width, width);
    copy(b, r.v, fused, q_width + width, width);
    return r;
}

void shard__emit_gated_attention(struct builder *b, uint32_t il)
{
    const struct shard_model *m = b->model;
    const struct shard_layer *layer = &m->layers[il];
    uint32_t dim = m->head_dim_k, width = layer->n_head * dim;
    int16_t h = norm(b, floats(b, "h", m->n_embd), b->x, layer->tensor[SHARD_ATTN_NORM]);
    struct gated r = emit_projections(b, layer, h);
    int16_t q = floats(b, "q", width), gate = floats(b, "q_gates", width);
    struct heads_copy part = {
        .n_heads = layer->n_head, .width = dim, .stride = 2 * dim, .dst_stride = dim};
    copy_heads(b, q, r.q_gate, &part);
    part.offset = dim;
    copy_heads(b, gate, r.q_gate, &part);
    emit_head(b, q, layer->n_head, layer->tensor[SHARD_ATTN_Q_NORM], layer->rope);
    emit_head(b, r.k, layer->n_head_kv, layer->tensor[SHARD_ATTN_K_NORM], layer->rope);
    kv_store(b, il, r.k, r.v);
    int16_t mixed = floats(b, "mixed", width);
    struct shard_op *op = emit(b, SHARD_OP_ATTENTION, mixed, q);
    op->layer = il;
    op->n_heads = layer->n_head;
    op->n_head_kv = layer->n_head_kv;
    op->dim_k = op->dim_v = dim;
    op->mask = layer->mask;
    op->window = layer->window;
    op->scale = layer->score_scale;
    emit(b, SHARD_OP_SIGMOID_MUL, mixed, gate)->width = width;
    add(b, b->x, matmul(b, "y", matrix(b, layer, SHARD_ATTN_OUTPUT), mixed));
}
