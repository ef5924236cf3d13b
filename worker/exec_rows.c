/* SPDX-License-Identifier: Apache-2.0 */
/* The operations that work on each row alone. */
#include "worker/exec_state.h"

#include <math.h>
#include <string.h>

#include "kernels/math.h"

static const float *vector(const struct worker_exec *e, int32_t w)
{
    return w < 0 ? NULL : e->weights->data[w];
}

static void embed(const struct worker_exec *e, const struct shard_op *op, size_t row)
{
    const struct shard_weight *w = &e->program->weights[op->w];
    kern_unpack_row(w->type, e->weights->data[op->w], (size_t)e->ids[row], w->k,
                    worker__at(e, op->dst, row));
}

/* Angles in double: a float position would lose whole turns at 10^5 and beyond. */
static void rope_table(const struct worker_exec *e, const struct shard_op *op, size_t row)
{
    float *cs = worker__at(e, op->dst, row);
    double pos = (double)e->rows[row].pos;
    for (uint32_t i = 0; i < op->width / 2; i++) {
        double angle = pos * e->rope_freqs[i];
        cs[2 * i] = (float)cos(angle);
        cs[2 * i + 1] = (float)sin(angle);
    }
}

static void quantize(const struct worker_exec *e, const struct shard_op *op, size_t first,
                     size_t end)
{
    enum kern_act act = e->program->buffers[op->dst].act;
    char *records = e->buffers[op->dst] + first * kern_act_bytes(act, op->width);
    e->table->quantize[act](records, worker__at(e, op->a, first), worker__ld(e, op->a), end - first,
                            op->width);
}

static void rope(const struct worker_exec *e, const struct shard_op *op, size_t row)
{
    e->table->rope(worker__at(e, op->dst, row), op->n_heads, op->width, e->program->model->n_rot,
                   op->rope == SHARD_ROPE_NEOX, worker__at(e, op->a, row));
}

static void temperature(const struct worker_exec *e, const struct shard_op *op, size_t row)
{
    float *x = worker__at(e, op->dst, row);
    double steps = (double)((e->rows[row].pos + 1) / op->length);
    e->table->scale(x, x, (float)(1.0 + (double)op->scale * log(1.0 + steps)), op->width);
}

static void kv_store(const struct worker_exec *e, const struct shard_op *op, size_t row)
{
    const struct shard_model *m = e->program->model;
    const struct worker__row *r = &e->rows[row];
    struct shard_kv_view view = shard_kv_view(e->kv, r->seq, op->layer);
    enum kern_kv type = shard_kv_type(e->kv);
    size_t value_bytes = type == KERN_KV_F16 ? 2 : 4;
    size_t slot = r->pos % SHARD_KV_PAGE_ROWS;
    char *page = view.pages[r->pos / SHARD_KV_PAGE_ROWS];
    const float *k = worker__at(e, op->a, row), *v = worker__at(e, op->b, row);
    for (uint32_t h = 0; h < op->n_head_kv; h++) {
        char *to_k = page + shard_kv_k_offset(e->kv, op->layer, h);
        char *to_v = page + shard_kv_v_offset(e->kv, op->layer, h);
        e->table->kv_store(to_k + slot * m->head_dim_k * value_bytes, k + h * m->head_dim_k,
                           m->head_dim_k, type);
        e->table->kv_store(to_v + slot * m->head_dim_v * value_bytes, v + h * m->head_dim_v,
                           m->head_dim_v, type);
    }
}

/* The best experts by logit, in falling order; of equal ones the lower number is better. */
static void choose(struct shard_choice *choices, uint32_t n_used, const float *logits, uint32_t n)
{
    uint32_t have = 0;
    for (uint32_t x = 0; x < n; x++) {
        uint32_t at = have < n_used ? have : n_used;
        while (at > 0 && logits[x] > choices[at - 1].weight)
            at--;
        if (at == n_used)
            continue;
        have += have < n_used;
        memmove(&choices[at + 1], &choices[at], (have - 1 - at) * sizeof *choices);
        choices[at] = (struct shard_choice){.expert = x, .weight = logits[x]};
    }
}

/* Weights of the chosen: softmax over all logits, or over theirs alone. */
static void softmax_weights(struct shard_choice *choices, uint32_t n_used, const float *logits,
                            uint32_t n, bool selected_only)
{
    float max = choices[0].weight, sum = 0.0f;
    if (selected_only) {
        for (uint32_t i = 0; i < n_used; i++)
            sum += kern_expf(choices[i].weight - max);
    } else {
        for (uint32_t x = 0; x < n; x++)
            sum += kern_expf(logits[x] - max);
    }
    for (uint32_t i = 0; i < n_used; i++)
        choices[i].weight = kern_expf(choices[i].weight - max) / sum;
}

static void route(const struct worker_exec *e, const struct shard_op *op, size_t row)
{
    struct shard_choice *choices = worker__at(e, op->dst, row);
    const float *logits = worker__at(e, op->a, row);
    choose(choices, op->n_used, logits, op->width);
    if (op->gate == SHARD_GATE_SIGMOID) {
        for (uint32_t i = 0; i < op->n_used; i++)
            choices[i].weight = 1.0f / (1.0f + kern_expf(-choices[i].weight));
    } else {
        softmax_weights(choices, op->n_used, logits, op->width,
                        op->gate == SHARD_GATE_SOFTMAX_SELECTED);
    }
    float divisor = 1.0f;
    if (op->gate_normalised) {
        float sum = 0.0f;
        for (uint32_t i = 0; i < op->n_used; i++)
            sum += choices[i].weight;
        divisor = sum > 0x1p-14f ? sum : 0x1p-14f;
    }
    for (uint32_t i = 0; i < op->n_used; i++)
        choices[i].weight = choices[i].weight / divisor * op->scale;
}

static void row_op(const struct worker_exec *e, const struct shard_op *op, size_t row)
{
    float *dst = op->dst < 0 ? NULL : worker__at(e, op->dst, row);
    const float *a = op->a < 0 ? NULL : worker__at(e, op->a, row);
    switch (op->kind) {
    case SHARD_OP_EMBED:
        embed(e, op, row);
        break;
    case SHARD_OP_ROPE_TABLE:
        rope_table(e, op, row);
        break;
    case SHARD_OP_RMS_NORM:
        e->table->rms_norm(dst, a, vector(e, op->w), op->n_heads, op->width, op->eps);
        break;
    case SHARD_OP_BIAS:
        e->table->add(dst, vector(e, op->w), e->program->weights[op->w].n_out);
        break;
    case SHARD_OP_COPY:
        memcpy(dst, a + op->offset, op->width * sizeof(float));
        break;
    case SHARD_OP_ROPE:
        rope(e, op, row);
        break;
    case SHARD_OP_TEMPERATURE:
        temperature(e, op, row);
        break;
    case SHARD_OP_KV_STORE:
        kv_store(e, op, row);
        break;
    case SHARD_OP_SILU_MUL:
        e->table->silu_mul(dst, a, worker__at(e, op->b, row), 1.0f, op->width);
        break;
    case SHARD_OP_ADD:
        e->table->add(dst, a, op->width);
        break;
    case SHARD_OP_ROUTE:
        route(e, op, row);
        break;
    case SHARD_OP_SELECT:
        memcpy(dst, worker__at(e, op->a, e->tail_rows[row]), op->width * sizeof(float));
        break;
    default:
        break;
    }
}

void worker__rows_run(struct worker_exec *e, const struct shard_op *op, size_t first, size_t end)
{
    if (op->kind == SHARD_OP_QUANT) {
        quantize(e, op, first, end);
        return;
    }
    for (size_t row = first; row < end; row++)
        row_op(e, op, row);
}

uint64_t worker__row_cost(const struct shard_program *program, const struct shard_op *op)
{
    const struct shard_model *m = program->model;
    switch (op->kind) {
    case SHARD_OP_EMBED:
        return 2 * (uint64_t)m->n_embd;
    case SHARD_OP_ROPE_TABLE:
        return 32 * (uint64_t)op->width;
    case SHARD_OP_RMS_NORM:
    case SHARD_OP_ROPE:
        return (uint64_t)op->n_heads * op->width;
    case SHARD_OP_BIAS:
        return program->weights[op->w].n_out;
    case SHARD_OP_KV_STORE:
        return (uint64_t)op->n_head_kv * (m->head_dim_k + m->head_dim_v);
    case SHARD_OP_SILU_MUL:
    case SHARD_OP_ROUTE:
        return 4 * (uint64_t)op->width;
    default:
        return op->width;
    }
}
