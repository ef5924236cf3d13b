/* SPDX-License-Identifier: Apache-2.0 */
/* Matrix products: how they are cut into chunks of panels. */
#include "worker/exec_state.h"

#include "kernels/blas.h"
#include "worker/cut.h"
#include "worker/lazy.h"

/* Weight bytes and rows of products that are not worth waking threads for. */
#define FEW_BYTES 65536u

size_t worker__panels(const struct shard_weight *w)
{
    return (w->n_out + KERN_PANEL - 1) / KERN_PANEL;
}

size_t worker__record_bytes(const struct worker_exec *e, int16_t buffer, size_t k)
{
    const struct shard_buffer *b = &e->program->buffers[buffer];
    return b->kind == SHARD_BUFFER_ACT ? kern_act_bytes(b->act, k) : e->strides[buffer];
}

/* Rows from which on OpenBLAS multiplies by w; at least 2. */
static size_t blas_rows(const struct worker_exec *e, const struct shard_weight *w)
{
    return e->inexact ? kern_blas_min_rows(e->table, w->type->type) : SIZE_MAX;
}

size_t worker__panels_a_chunk(const struct worker_exec *e, const struct shard_weight *w, uint64_t k,
                              size_t n_rows)
{
    size_t most = worker_cut_panels(e->table, w->type->type, kern_panel_bytes(w->type, k),
                                    worker__panels(w), n_rows, e->n_threads);
    /* Whole products of OpenBLAS's, so that its sums do not depend on the chunks. An expert has
     * more than one row only where the mean is more than one. */
    if (n_rows > 1 && blas_rows(e, w) != SIZE_MAX)
        most = (most + KERN_BLAS_PANELS - 1) / KERN_BLAS_PANELS * KERN_BLAS_PANELS;
    return most;
}

static const char *matrix_of(const struct worker_exec *e, int32_t w, size_t mat)
{
    const struct shard_weight *weight = &e->program->weights[w];
    const char *data = e->weights->data[w];
    if (!data)
        return worker_lazy_panels(e->weights->lazy, (size_t)w, (uint32_t)mat);
    return data + mat * kern_packed_bytes(weight->type, weight->n_out, weight->k);
}

void worker__multiply_segment(const struct worker_exec *e, int32_t w, size_t mat, uint32_t segment,
                              size_t first, size_t end, float *y, size_t ldy, const char *x,
                              size_t x_bytes, size_t n_rows)
{
    const struct shard_weight *weight = &e->program->weights[w];
    uint64_t k, at = shard_weight_segment(weight, segment, &k);
    const char *panels = matrix_of(e, w, mat) + at + first * kern_panel_bytes(weight->type, k);
    if (n_rows >= blas_rows(e, weight)) {
        kern_blas_matmul(weight->type, y, ldy, panels, end - first, x, x_bytes, n_rows, k);
        return;
    }
    size_t block = worker_cut_rows(e->table, weight->type->type, x_bytes, n_rows);
    for (size_t r = 0; r < n_rows; r += block) {
        size_t n = n_rows - r < block ? n_rows - r : block;
        e->table->matmul[weight->type->type](y + r * ldy, ldy, panels, end - first, x + r * x_bytes,
                                             x_bytes, n, k);
    }
}

void worker__multiply(const struct worker_exec *e, int32_t w, size_t mat, size_t first, size_t end,
                      float *y, size_t ldy, const char *x, size_t x_bytes, size_t n_rows)
{
    worker__multiply_segment(e, w, mat, 0, first, end, y + first * KERN_PANEL, ldy, x, x_bytes,
                             n_rows);
}

/* Matrix products side by side: an item is a chunk of panels of one of them. */
struct matmul_job {
    struct worker_exec *e;
    const struct worker__step *step;
    size_t n_rows;
};

/* Of one matrix; *panels: in a chunk. */
static size_t matrix_chunks(const struct matmul_job *job, const struct shard_op *op, size_t *panels)
{
    const struct shard_weight *w = &job->e->program->weights[op->w];
    *panels = worker__panels_a_chunk(job->e, w, w->k, job->n_rows);
    return (worker__panels(w) + *panels - 1) / *panels;
}

static size_t n_mats(const struct shard_op *op)
{
    return op->kind == SHARD_OP_MATMUL_HEADS ? op->n_heads : 1;
}

/* Bytes of a record of a where a row has one for each matrix. */
static size_t head_bytes(const struct worker_exec *e, const struct shard_op *op)
{
    const struct shard_buffer *b = &e->program->buffers[op->a];
    size_t k = e->program->weights[op->w].k;
    return b->kind == SHARD_BUFFER_ACT ? kern_act_bytes(b->act, k)
                                       : shard_record_floats(k) * sizeof(float);
}

/* Chunk [first, end) of panels of head `mat`: its record of each row by its matrix. */
static void multiply_head(const struct matmul_job *job, const struct shard_op *op, size_t mat,
                          size_t first, size_t end)
{
    const struct worker_exec *e = job->e;
    const struct shard_weight *w = &e->program->weights[op->w];
    size_t bytes = head_bytes(e, op);
    bool act = e->program->buffers[op->a].kind == SHARD_BUFFER_ACT;
    float *y = (float *)worker__at(e, op->dst, 0) + mat * shard_record_floats(w->n_out);
    worker__multiply(e, op->w, mat, first, end, y, worker__ld(e, op->dst),
                     e->buffers[op->a] + mat * bytes, act ? op->n_heads * bytes : e->strides[op->a],
                     job->n_rows);
}

static void matmul_item(const struct matmul_job *job, size_t item)
{
    const struct worker_exec *e = job->e;
    const struct shard_op *op = &e->program->ops[job->step->first];
    size_t panels, n;
    while (item >= (n = n_mats(op) * matrix_chunks(job, op, &panels))) {
        item -= n;
        op++;
    }
    const struct shard_weight *w = &e->program->weights[op->w];
    size_t chunks = n / n_mats(op), first = item % chunks * panels, end = first + panels;
    end = end < worker__panels(w) ? end : worker__panels(w);
    if (op->kind == SHARD_OP_MATMUL_HEADS) {
        multiply_head(job, op, item / chunks, first, end);
        return;
    }
    worker__multiply(e, op->w, 0, first, end, worker__at(e, op->dst, 0), worker__ld(e, op->dst),
                     e->buffers[op->a], worker__record_bytes(e, op->a, w->k), job->n_rows);
}

static void matmul_items(void *arg, size_t first, size_t last, unsigned thread)
{
    (void)thread;
    for (size_t item = first; item < last; item++)
        matmul_item(arg, item);
}

void worker__matmuls_run(struct worker_exec *e, const struct worker__step *step, size_t n_rows)
{
    struct matmul_job job = {.e = e, .step = step, .n_rows = n_rows};
    size_t items = 0, panels;
    uint64_t bytes = 0;
    for (size_t i = step->first; i < step->end; i++) {
        const struct shard_op *op = &e->program->ops[i];
        items += n_mats(op) * matrix_chunks(&job, op, &panels);
        bytes += shard_weight_bytes(&e->program->weights[op->w]);
    }
    if (bytes * n_rows < FEW_BYTES)
        matmul_items(&job, 0, items, 0);
    else
        kern_pool_run(e->pool, items, 1, matmul_items, &job);
}
