/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Multi-head latent attention in its absorbed form, as DeepSeek-V2's paper (arXiv 2405.04434,
 * section 2.1) and DeepseekV3Attention of Hugging Face transformers define it. A position leaves
 * one row in the cache, [c | kr]: c compressed, kr rotated. A key of head h is [k_b c | kr] and a
 * value v_b c, so instead of decompressing every row the head's query is multiplied by k_b once,
 * and the weighted sum of rows by v_b:
 *
 *   score = (q_nope . k_b c) + q_rope . kr = (k_b^T q_nope) . c + q_rope . kr
 *
 * That is attention with a single KV head whose keys are the rows and whose values are their
 * starts. Old files hold k_b, not transposed, and v_b in one tensor, attn_kv_b; its rows are taken
 * apart when it is loaded (struct shard_weight).
 */
#include "shard/program_build.h"

/* The records of n_heads heads that a product by w reads: values of src, each head's `stride`
 * apart. */
static int16_t heads_operand(struct builder *b, int16_t src, uint32_t stride, uint32_t n_heads,
                             int32_t w)
{
    const struct shard_weight *weight = &b->program->weights[w];
    enum kern_act act = weight->type->act;
    uint32_t k = (uint32_t)weight->k, record = (uint32_t)shard_record_floats(k);
    char name[sizeof b->program->buffers[0].name];
    if (act == KERN_ACT_F32 && stride == record)
        return src;
    snprintf(name, sizeof name, "%.12s.heads%d", b->program->buffers[src].name, (int)act);
    if (act == KERN_ACT_F32) {
        int16_t dst = floats(b, name, (uint64_t)n_heads * record);
        copy_heads(b, dst, src,
                   &(struct heads_copy){
                       .n_heads = n_heads, .width = k, .stride = stride, .dst_stride = record});
        return dst;
    }
    int16_t dst = buffer(b, name, SHARD_BUFFER_ACT, act, k, false);
    if (b->program->buffers[dst].records < n_heads)
        b->program->buffers[dst].records = n_heads;
    struct shard_op *op = emit(b, SHARD_OP_QUANT, dst, src);
    op->width = k;
    op->n_heads = n_heads;
    op->stride = stride;
    return dst;
}

static int16_t matmul_heads(struct builder *b, const char *name, int32_t w, int16_t src,
                            uint32_t stride, uint32_t n_heads)
{
    int16_t a = heads_operand(b, src, stride, n_heads, w);
    size_t record = shard_record_floats(b->program->weights[w].n_out);
    int16_t dst = floats(b, name, n_heads * record);
    struct shard_op *op = emit(b, SHARD_OP_MATMUL_HEADS, dst, a);
    op->w = w;
    op->n_heads = n_heads;
    return dst;
}

static void emit_rope(struct builder *b, int16_t dst, uint32_t n_heads, uint32_t width,
                      uint32_t offset, enum shard_rope rope)
{
    struct shard_op *op = emit(b, SHARD_OP_ROPE, dst, b->rope_table[SHARD_ROPE_GLOBAL]);
    op->n_heads = n_heads;
    op->width = width;
    op->offset = offset;
    op->n_rot = b->model->rope[SHARD_ROPE_GLOBAL].n_rot;
    op->rope = rope;
}

static void emit_norm(struct builder *b, int16_t dst, uint32_t width, long tensor)
{
    struct shard_op *op = emit(b, SHARD_OP_RMS_NORM, dst, dst);
    op->w = add_weight(b, SHARD_WEIGHT_VECTOR, tensor);
    op->n_heads = 1;
    op->width = width;
    op->eps = b->model->eps;
}

/* A head's rows of attn_kv_b: those of K, transposed, or those of V. */
static int32_t joined_matrix(struct builder *b, const struct shard_layer *layer, bool values)
{
    const struct shard_mla *mla = &b->model->mla;
    int32_t w = matrix(b, layer, SHARD_ATTN_KV_B);
    struct shard_weight *weight = &b->program->weights[w];
    weight->n_mats = layer->n_head;
    weight->row_every = mla->nope + mla->dim_v;
    weight->row_first = values ? mla->nope : 0;
    weight->row_n = values ? mla->dim_v : mla->nope;
    weight->transposed = !values;
    weight->type = values ? weight->type : kern_type_find(KERN_F32);
    weight->k = values ? mla->kv_rank : mla->nope;
    weight->n_out = values ? mla->dim_v : mla->kv_rank;
    return w;
}

static int32_t k_b(struct builder *b, const struct shard_layer *layer)
{
    return b->model->mla.joined ? joined_matrix(b, layer, false) : matrix(b, layer, SHARD_ATTN_K_B);
}

static int32_t v_b(struct builder *b, const struct shard_layer *layer)
{
    return b->model->mla.joined ? joined_matrix(b, layer, true) : matrix(b, layer, SHARD_ATTN_V_B);
}

/* Queries of all heads, [nope | rope] each. */
static int16_t emit_query(struct builder *b, const struct shard_layer *layer, int16_t h)
{
    if (!b->model->mla.q_rank)
        return matmul(b, "q", matrix(b, layer, SHARD_ATTN_Q), h);
    int16_t q_a = matmul(b, "q_a", matrix(b, layer, SHARD_ATTN_Q_A), h);
    emit_norm(b, q_a, b->model->mla.q_rank, layer->tensor[SHARD_ATTN_Q_A_NORM]);
    return matmul(b, "q", matrix(b, layer, SHARD_ATTN_Q_B), q_a);
}

/* The queries that meet cache rows: [k_b^T q_nope | rotated q_rope] of each head. */
static int16_t absorb_query(struct builder *b, const struct shard_layer *layer, int16_t q)
{
    const struct shard_mla *mla = &b->model->mla;
    uint32_t n_rot = b->model->rope[SHARD_ROPE_GLOBAL].n_rot, length = mla->nope + n_rot;
    uint32_t row = mla->kv_rank + n_rot, n = layer->n_head;
    emit_rope(b, q, n, length, mla->nope, layer->rope);
    int16_t part = matmul_heads(b, "q_latent", k_b(b, layer), q, length, n);
    int16_t dst = floats(b, "q_absorbed", (uint64_t)n * row);
    copy_heads(b, dst, part,
               &(struct heads_copy){.n_heads = n,
                                    .width = mla->kv_rank,
                                    .stride = (uint32_t)shard_record_floats(mla->kv_rank),
                                    .dst_stride = row});
    copy_heads(b, dst, q,
               &(struct heads_copy){.n_heads = n,
                                    .width = n_rot,
                                    .offset = mla->nope,
                                    .stride = length,
                                    .dst_offset = mla->kv_rank,
                                    .dst_stride = row});
    if (layer->temperature) {
        struct shard_op *op = emit(b, SHARD_OP_TEMPERATURE, dst, -1);
        op->width = n * row;
        op->scale = b->model->temperature_scale;
        op->length = b->model->temperature_length;
        op->offset = b->model->temperature_offset;
    }
    return dst;
}

static void emit_row(struct builder *b, const struct shard_layer *layer, int16_t kv, uint32_t il)
{
    const struct shard_mla *mla = &b->model->mla;
    emit_norm(b, kv, mla->kv_rank, layer->tensor[SHARD_ATTN_KV_A_NORM]);
    emit_rope(b, kv, 1, b->model->head_dim_k, mla->kv_rank, layer->rope);
    kv_store(b, il, kv, -1);
}

/* What heads saw, decompressed and side by side. */
static int16_t expand_values(struct builder *b, const struct shard_layer *layer, int16_t seen)
{
    const struct shard_mla *mla = &b->model->mla;
    uint32_t record = (uint32_t)shard_record_floats(mla->dim_v), n = layer->n_head;
    int16_t values = matmul_heads(b, "values", v_b(b, layer), seen, mla->kv_rank, n);
    if (record == mla->dim_v)
        return values;
    int16_t dst = floats(b, "mixed", (uint64_t)n * mla->dim_v);
    copy_heads(b, dst, values,
               &(struct heads_copy){
                   .n_heads = n, .width = mla->dim_v, .stride = record, .dst_stride = mla->dim_v});
    return dst;
}

void shard__emit_mla(struct builder *b, uint32_t il)
{
    const struct shard_model *m = b->model;
    const struct shard_layer *layer = &m->layers[il];
    int16_t h = norm(b, floats(b, "h", m->n_embd), b->x, layer->tensor[SHARD_ATTN_NORM]);
    int16_t kv = matmul(b, "kv", matrix(b, layer, SHARD_ATTN_KV_A), h);
    int16_t q = absorb_query(b, layer, emit_query(b, layer, h));
    emit_row(b, layer, kv, il);
    int16_t seen = floats(b, "seen", (uint64_t)layer->n_head * m->mla.kv_rank);
    struct shard_op *op = emit(b, SHARD_OP_ATTENTION, seen, q);
    op->layer = il;
    op->n_heads = layer->n_head;
    op->n_head_kv = 1;
    op->dim_k = m->head_dim_k;
    op->dim_v = m->head_dim_v;
    op->mask = layer->mask;
    op->window = layer->window;
    op->scale = layer->score_scale;
    int16_t mixed = expand_values(b, layer, seen);
    add(b, b->x, matmul(b, "y", matrix(b, layer, SHARD_ATTN_OUTPUT), mixed));
}
