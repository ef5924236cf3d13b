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

uint64_t shard_weight_segment(const struct shard_weight *weight, uint32_t i, uint64_t *k)
{
    const struct shard_segments *s = &weight->columns;
    *k = s->n ? s->at[i + 1] - s->at[i] : weight->k;
    return s->n ? kern_packed_bytes(weight->type, weight->n_out, s->at[i] - s->at[0]) : 0;
}

/* Holdings of an operation that have the same expert, at most. */
static uint32_t most_copies(const struct shard_program *program, const struct shard_op *op)
{
    uint32_t most = 0;
    const struct shard_holding *h = &program->holdings[op->first_holding];
    for (uint32_t i = 0; i < op->n_holdings; i++) {
        uint32_t n = 0;
        for (uint32_t j = 0; j < op->n_holdings; j++)
            n += h[j].expert_first <= h[i].expert_first && h[i].expert_first < h[j].expert_end;
        most = n > most ? n : most;
    }
    return most;
}

/* Strides: the most that any holding needs. */
static void size_holdings(struct shard_experts_scratch *s, const struct shard_program *program,
                          const struct shard_op *op, enum kern_act act)
{
    for (uint32_t i = 0; i < op->n_holdings; i++) {
        const struct shard_holding *h = &program->holdings[op->first_holding + i];
        const struct shard_weight *down = &program->weights[h->down];
        size_t ff = round_up(program->weights[h->gate].n_out, 16), bytes = 0;
        for (uint32_t j = 0; j < h->segment_end - h->segment_first; j++) {
            uint64_t k;
            shard_weight_segment(down, j, &k);
            bytes += kern_act_bytes(act, k);
        }
        s->ff_stride = ff > s->ff_stride ? ff : s->ff_stride;
        s->down_bytes = bytes > s->down_bytes ? bytes : s->down_bytes;
    }
}

/* Floats of products with down: what a cache holds, and more for a few rows, whose products have
 * all their columns at once. */
#define PRODUCTS     (256u << 10)
#define ROWS_AT_ONCE 16u

static uint64_t products_room(uint64_t n_experts, uint64_t max_rows, uint32_t n_segments,
                              uint64_t n_embd)
{
    uint64_t all = round_up(n_embd, 16), least = SHARD_EXPERT_PANELS * KERN_PANEL;
    uint64_t few = max_rows < ROWS_AT_ONCE ? max_rows : ROWS_AT_ONCE;
    uint64_t n = max_rows * n_experts * n_segments * (all < least ? all : least);
    uint64_t n_few = few * n_experts * n_segments * all;
    n = n > PRODUCTS ? n : PRODUCTS;
    return n > n_few ? n : n_few;
}

struct shard_experts_scratch shard_experts_scratch(const struct shard_program *program,
                                                   const struct shard_op *op, uint32_t max_rows)
{
    const struct shard_model *m = program->model;
    struct shard_expert_types types = shard_expert_types(m, op->layer);
    uint32_t n_segments = shard_expert_segments(m->ff_expert).n;
    uint64_t each = (uint64_t)most_copies(program, op) * op->n_used;
    struct shard_experts_scratch s = {.entries = max_rows * each};
    size_holdings(&s, program, op, types.down->act);
    s.products = products_room(each, max_rows, n_segments, m->n_embd);
    uint64_t ff_bytes = s.entries * s.ff_stride * sizeof(float);
    uint64_t at = s.entries * kern_act_bytes(types.gate->act, m->n_embd);
    if (types.up->act != types.gate->act) {
        s.x_up = at;
        at += s.entries * kern_act_bytes(types.up->act, m->n_embd);
    }
    s.gate = at;
    s.up = s.gate + ff_bytes;
    s.x_down = s.up + ff_bytes;
    s.down = s.x_down + s.entries * s.down_bytes;
    s.bytes = s.down + s.products * sizeof(float);
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

static struct shard_expert_layer expert_layer(const struct shard_program *program, uint32_t layer)
{
    const struct shard_model *m = program->model;
    return (struct shard_expert_layer){.layer = layer,
                                       .n_experts = m->n_experts,
                                       .n_used = m->n_experts_used,
                                       .n_segments = shard_expert_segments(m->ff_expert).n};
}

/* Vectors of a row of a layer, all hosts'. */
static uint32_t vectors_asked(const struct shard_program *p, uint32_t layer)
{
    struct shard_expert_layer shape = expert_layer(p, layer);
    uint32_t sum = 0, most = shape.n_used * shape.n_segments;
    for (uint32_t i = 0; i < p->n_placement && sum < most; i++) {
        bool seen = false;
        for (uint32_t j = 0; j < i && !seen; j++)
            seen = p->placement[j].worker == p->placement[i].worker;
        if (!seen)
            sum += shard_expert_vectors_most(p->placement, p->n_placement, &shape,
                                             p->placement[i].worker);
    }
    return sum < most ? sum : most;
}

uint64_t shard_program_asked_bytes(const struct shard_program *program, uint32_t max_rows)
{
    const struct shard_model *m = program->model;
    uint64_t most = 0;
    for (size_t i = 0; i < program->n_ops; i++) {
        if (program->ops[i].kind != SHARD_OP_EXPERTS_SEND)
            continue;
        struct shard_expert_types types = shard_expert_types(m, program->ops[i].layer);
        uint64_t bytes = vectors_asked(program, program->ops[i].layer) *
                             shard_record_floats(m->n_embd) * sizeof(float) +
                         kern_act_bytes(types.gate->act, m->n_embd) +
                         kern_act_bytes(types.up->act, m->n_embd);
        most = bytes > most ? bytes : most;
    }
    return max_rows * most;
}

uint64_t shard_program_answer_bytes(const struct shard_program *program, uint32_t max_rows)
{
    uint64_t most = 0;
    for (size_t i = 0; i < program->n_ops; i++) {
        struct shard_expert_layer shape = expert_layer(program, program->ops[i].layer);
        uint32_t n = shard_expert_vectors_most(program->placement, program->n_placement, &shape,
                                               program->worker);
        most = n > most ? n : most;
    }
    return max_rows * most * shard_record_floats(program->model->n_embd) * sizeof(float);
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
