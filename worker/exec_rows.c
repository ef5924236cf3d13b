/* SPDX-License-Identifier: Apache-2.0 */
/* The operations that work on each row alone. */
#include "worker/exec_state.h"

#include <math.h>
#include <string.h>

#include "kernels/math.h"

void worker_exec_unpack_rows(const struct shard_program *program, float *x, const void *from,
                             size_t n)
{
    size_t stride = worker_exec_stride(program);
    size_t bytes = shard_row_floats(program->model, program->layer_first) * sizeof *x;
    for (size_t row = 0; row < n; row++)
        memcpy(x + row * stride, (const char *)from + row * bytes, bytes);
}

void worker_exec_pack_rows(const struct shard_program *program, float *x, size_t n)
{
    size_t stride = worker_exec_stride(program);
    size_t width = shard_row_floats(program->model, program->layer_end);
    for (size_t row = 1; row < n && width < stride; row++)
        memmove(x + row * width, x + row * stride, width * sizeof *x);
}

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
    double gain = (double)e->program->model->rope[op->rope_set].gain;
    for (uint32_t i = 0; i < op->width / 2; i++) {
        double angle = pos * e->rope_freqs[op->rope_set][i];
        cs[2 * i] = (float)(cos(angle) * gain);
        cs[2 * i + 1] = (float)(sin(angle) * gain);
    }
}

/* Records of a row lie one after another, as those of an operation without heads do. */
static void quantize_heads(const struct worker_exec *e, const struct shard_op *op, size_t row)
{
    enum kern_act act = e->program->buffers[op->dst].act;
    size_t bytes = kern_act_bytes(act, op->width);
    char *records = e->buffers[op->dst] + row * op->n_heads * bytes;
    const float *x = worker__at(e, op->a, row);
    for (uint32_t h = 0; h < op->n_heads; h++)
        e->table->quantize[act](records + h * bytes, x + (size_t)h * op->stride, op->width, 1,
                                op->width);
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
    e->table->rope((float *)worker__at(e, op->dst, row) + op->offset, op->n_heads, op->width,
                   op->n_rot, op->rope == SHARD_ROPE_NEOX, worker__at(e, op->a, row));
}

static void temperature(const struct worker_exec *e, const struct shard_op *op, size_t row)
{
    float *x = worker__at(e, op->dst, row);
    double steps = (double)((e->rows[row].pos + op->offset) / op->length);
    e->table->scale(x, x, (float)(1.0 + (double)op->scale * log(1.0 + steps)), op->width);
}

static void kv_store(const struct worker_exec *e, const struct shard_op *op, size_t row)
{
    const struct worker__row *r = &e->rows[row];
    struct shard_kv_view view = shard_kv_view(e->kv, r->seq, op->layer);
    enum kern_kv type = shard_kv_type(e->kv);
    size_t k_bytes = kern_kv_bytes(type, op->dim_k);
    size_t v_bytes = kern_kv_bytes(type, op->dim_v);
    size_t slot = r->pos % SHARD_KV_PAGE_ROWS;
    char *page = view.pages[r->pos / SHARD_KV_PAGE_ROWS];
    const float *k = worker__at(e, op->a, row), *v = op->b < 0 ? NULL : worker__at(e, op->b, row);
    for (uint32_t h = 0; h < op->n_head_kv; h++) {
        char *to_k = page + shard_kv_k_offset(e->kv, op->layer, h);
        char *to_v = page + shard_kv_v_offset(e->kv, op->layer, h);
        e->table->kv_store(to_k + slot * k_bytes, k + h * op->dim_k, op->dim_k, type);
        if (v)
            e->table->kv_store(to_v + slot * v_bytes, v + h * op->dim_v, op->dim_v, type);
    }
}

static void copy_heads(const struct worker_exec *e, const struct shard_op *op, size_t row)
{
    const float *from = (const float *)worker__at(e, op->a, row) + op->offset;
    float *to = (float *)worker__at(e, op->dst, row) + op->dst_offset;
    for (uint32_t h = 0; h < op->n_heads; h++)
        memcpy(to + (size_t)h * op->dst_stride, from + (size_t)h * op->stride,
               op->width * sizeof *to);
}

/* x / sqrt(sum x^2 + eps) * length, by way of x / sqrt(mean x^2 + eps / width). */
static void make_unit(const struct worker_exec *e, const struct shard_op *op, size_t row)
{
    float *x = (float *)worker__at(e, op->dst, row) + op->offset;
    e->table->rms_norm(x, x, NULL, op->n_heads, op->width, op->eps / (float)op->width);
    e->table->scale(x, x, op->scale / sqrtf((float)op->width), (size_t)op->n_heads * op->width);
}

void worker__glu(const struct worker_exec *e, enum shard_glu glu, float *gate, const float *up,
                 float scale, size_t n)
{
    switch (glu) {
    case SHARD_GLU_SILU:
        e->table->silu_mul(gate, gate, up, scale, n);
        break;
    case SHARD_GLU_GELU:
        e->table->gelu_mul(gate, gate, up, scale, n);
        break;
    case SHARD_GLU_SWIGLU_OAI:
        e->table->swiglu_oai(gate, gate, up, scale, n);
        break;
    }
}

static void row_op(const struct worker_exec *e, const struct shard_op *op, size_t row)
{
    float *dst = op->dst < 0 ? NULL : worker__at(e, op->dst, row);
    const float *a = op->a < 0 ? NULL : worker__at(e, op->a, row);
    switch (op->kind) {
    case SHARD_OP_QUANT:
        quantize_heads(e, op, row);
        break;
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
    case SHARD_OP_COPY_HEADS:
        copy_heads(e, op, row);
        break;
    case SHARD_OP_SIGMOID_MUL:
        e->table->sigmoid_mul(dst, dst, a, op->width);
        break;
    case SHARD_OP_SIGMOID_SCALE:
        e->table->scale(dst, dst, kern_sigmoidf(a[0]), op->width);
        break;
    case SHARD_OP_UNIT:
        make_unit(e, op, row);
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
    case SHARD_OP_SCALE:
        e->table->scale(dst, dst, op->w < 0 ? op->scale : *vector(e, op->w), op->width);
        break;
    case SHARD_OP_SOFTCAP:
        e->table->softcap(dst, op->scale, op->width);
        break;
    case SHARD_OP_GLU:
        worker__glu(e, op->glu, dst, worker__at(e, op->b, row), 1.0f, op->width);
        break;
    case SHARD_OP_ADD:
        e->table->add(dst, a, op->width);
        break;
    case SHARD_OP_ROUTE:
        worker__route(e, op, row);
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
    if (op->kind == SHARD_OP_QUANT && op->n_heads == 0) {
        quantize(e, op, first, end);
        return;
    }
    for (size_t row = first; row < end; row++)
        row_op(e, op, row);
}

uint64_t worker__row_cost(const struct shard_program *program, const struct shard_op *op)
{
    switch (op->kind) {
    case SHARD_OP_EMBED:
        return 2 * program->weights[op->w].k;
    case SHARD_OP_ROPE_TABLE:
        return 32 * (uint64_t)op->width;
    case SHARD_OP_QUANT:
        return (uint64_t)(op->n_heads ? op->n_heads : 1) * op->width;
    case SHARD_OP_RMS_NORM:
    case SHARD_OP_ROPE:
    case SHARD_OP_COPY_HEADS:
    case SHARD_OP_UNIT:
        return (uint64_t)op->n_heads * op->width;
    case SHARD_OP_BIAS:
        return program->weights[op->w].n_out;
    case SHARD_OP_KV_STORE:
        return (uint64_t)op->n_head_kv * (op->dim_k + op->dim_v);
    case SHARD_OP_GLU:
    case SHARD_OP_SOFTCAP:
    case SHARD_OP_SIGMOID_MUL:
    case SHARD_OP_ROUTE:
        return 4 * (uint64_t)op->width;
    default:
        return op->width;
    }
}
