/* SPDX-License-Identifier: Apache-2.0 */
/* What a program takes in memory: weights, buffers, and the scratch of operations. */
#include "shard/kv.h"

/* With MLA all heads share one: there must be tasks for every thread even so. */
#define HEADS_A_TASK 16u
/* Query heads of all rows: enough to make turning keys into tiles cheap. */
#define QUERIES_A_TASK 64u
/* Of several rows: 1 MiB, which stays in the second cache. */
#define SCORES_A_TASK ((uint64_t)1 << 18)

static uint64_t round_up(uint64_t n, uint64_t to)
{
    return (n + to - 1) / to * to;
}

uint64_t shard_weight_bytes(const struct shard_weight *weight)
{
    if (weight->form == SHARD_WEIGHT_VECTOR)
        return round_up(weight->n_out * sizeof(float), 64);
    return weight->n_mats * (uint64_t)kern_packed_bytes(weight->type, weight->n_out, weight->k);
}

uint64_t shard_program_weight_bytes(const struct shard_program *program)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < program->n_weights; i++)
        sum += shard_weight_bytes(&program->weights[i]);
    return sum;
}

size_t shard_buffer_stride(const struct shard_buffer *buffer)
{
    switch (buffer->kind) {
    case SHARD_BUFFER_F32:
        return round_up(buffer->width, 16) * sizeof(float);
    case SHARD_BUFFER_ACT:
        return buffer->records * kern_act_bytes(buffer->act, buffer->width);
    case SHARD_BUFFER_ROUTE:
        return buffer->width * sizeof(struct shard_choice);
    }
    return 0;
}

struct shard_experts_scratch shard_experts_scratch(const struct shard_program *program,
                                                   const struct shard_op *op, uint32_t max_rows)
{
    const struct shard_weight *gate = &program->weights[op->w];
    const struct shard_weight *up = &program->weights[op->w2 < 0 ? op->w : op->w2];
    const struct shard_weight *down = &program->weights[op->w3];
    uint64_t entries = (uint64_t)max_rows * op->n_used;
    struct shard_experts_scratch s = {.ff_stride = round_up(gate->n_out, 16),
                                      .out_stride = round_up(down->n_out, 16)};
    uint64_t ff_bytes = entries * s.ff_stride * sizeof(float);
    uint64_t at = entries * kern_act_bytes(gate->type->act, gate->k);
    if (op->c != op->a) {
        s.x_up = at;
        at += entries * kern_act_bytes(up->type->act, up->k);
    }
    s.gate = at;
    s.up = s.gate + ff_bytes;
    s.x_down = s.up + ff_bytes;
    s.down = s.x_down + entries * kern_act_bytes(down->type->act, down->k);
    s.bytes = s.down + entries * s.out_stride * sizeof(float);
    return s;
}

uint64_t shard_program_buffer_bytes(const struct shard_program *program, uint32_t max_rows)
{
    uint64_t sum = 0, experts = 0;
    for (size_t i = 1; i < program->n_buffers; i++) {
        const struct shard_buffer *buffer = &program->buffers[i];
        uint64_t rows = buffer->tail ? SHARD_TAIL_ROWS : max_rows;
        sum += round_up(rows * shard_buffer_stride(buffer), 64);
    }
    for (size_t i = 0; i < program->n_ops; i++) {
        if (program->ops[i].kind != SHARD_OP_EXPERTS)
            continue;
        uint64_t bytes = shard_experts_scratch(program, &program->ops[i], max_rows).bytes;
        experts = bytes > experts ? bytes : experts;
    }
    return sum + experts;
}

uint32_t shard_attention_heads(const struct shard_op *op)
{
    uint32_t n = op->n_heads / op->n_head_kv;
    return n < HEADS_A_TASK ? n : HEADS_A_TASK;
}

uint32_t shard_attention_rows(const struct shard_op *op, uint64_t span)
{
    uint64_t heads = shard_attention_heads(op), rows = QUERIES_A_TASK / heads;
    uint64_t fit = SCORES_A_TASK / (heads * (span ? span : 1));
    rows = rows < KERN_ATTENTION_ROWS ? rows : KERN_ATTENTION_ROWS;
    rows = rows < fit ? rows : fit;
    return rows > 1 ? (uint32_t)rows : 1;
}

/* The most floats that a task takes where its rows see up to `span` positions each. */
static uint64_t score_floats(const struct shard_op *op, uint64_t span)
{
    uint64_t heads = shard_attention_heads(op), most = KERN_ATTENTION_ROWS * heads * span;
    most = most < SCORES_A_TASK ? most : SCORES_A_TASK;
    most = most > heads * span ? most : heads * span;
    /* A row sees one position more than the row before, and counts are rounded up. */
    return most +
           kern_attention_scratch(KERN_ATTENTION_ROWS, heads, op->dim_k, 2 * KERN_ATTENTION_ROWS);
}

uint64_t shard_attention_scratch_bytes(const struct shard_program *program, uint64_t ctx)
{
    uint64_t most = 0;
    for (size_t i = 0; i < program->n_ops; i++) {
        const struct shard_op *op = &program->ops[i];
        if (op->kind != SHARD_OP_ATTENTION)
            continue;
        bool windowed = op->mask != SHARD_MASK_CAUSAL && op->window < ctx;
        uint64_t span = windowed ? op->window : ctx;
        uint64_t bytes = score_floats(op, span) * sizeof(float) +
                         (span / SHARD_KV_PAGE_ROWS + 2) * 2 * sizeof(void *);
        most = bytes > most ? bytes : most;
    }
    /* It grows by halves. */
    return most + most / 2;
}
