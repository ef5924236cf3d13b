/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Gated delta-net layers. A sequence's rows follow one another: a task of the recurrence is one
 * head of one sequence and takes its rows in order, so no row's bits depend on the batch. The
 * convolution looks back a few rows only, which are in the batch or in the state, so its rows are
 * computed side by side.
 */
#include "worker/exec_state.h"

#include <math.h>
#include <string.h>

#include "kernels/math.h"

/* Below this many products the calling thread does it alone. */
#define INLINE_PRODUCTS 32768u

struct delta_job {
    struct worker_exec *e;
    const struct shard_op *op;
};

/* Rows [first, end) of the batch are one sequence's. */
struct span {
    size_t first, end;
    uint64_t pos;
    uint32_t seq;
};

static struct span span_of(const struct worker_exec *e, size_t range)
{
    size_t first = e->starts[range];
    return (struct span){first, e->starts[range + 1], e->rows[first].pos, e->rows[first].seq};
}

static float *conv_part(const struct worker_exec *e, float *state)
{
    return state + shard_delta_state_floats(&e->program->model->delta);
}

/* The convolution's input `back` positions before pos: a row of the batch or, before its first,
 * of the state, which holds zeros before a sequence's start. */
static const float *input_back(const struct delta_job *job, const struct span *s, uint64_t pos,
                               size_t back, const float *before)
{
    size_t n_before = job->e->program->model->delta.taps - 1;
    size_t index = (size_t)(pos - s->pos);
    if (index >= back)
        return worker__at(job->e, job->op->a, s->first + index - back);
    return before + (n_before - (back - index)) * job->op->width;
}

static void convolve(const struct delta_job *job, const struct span *s, size_t row)
{
    const struct worker_exec *e = job->e;
    const float *taps[SHARD_MAX_TAPS];
    size_t n_taps = e->program->model->delta.taps;
    const float *before = conv_part(e, shard_kv_state(e->kv, s->seq, job->op->layer));
    for (size_t t = 0; t < n_taps; t++)
        taps[t] = input_back(job, s, e->rows[row].pos, n_taps - 1 - t, before);
    e->table->conv_silu(worker__at(e, job->op->dst, row), taps, n_taps,
                        e->weights->data[job->op->w], job->op->width);
}

static void conv_rows(void *arg, size_t first, size_t last, unsigned thread)
{
    const struct delta_job *job = arg;
    (void)thread;
    for (size_t row = first; row < last; row++) {
        struct span s = span_of(job->e, job->e->rows[row].range);
        convolve(job, &s, row);
    }
}

/* Writes the inputs that a row at pos would look back to. to may be where `before` lies: each row
 * is read before a later one is written over it. */
static void save_inputs(const struct delta_job *job, const struct span *s, uint64_t pos, float *to,
                        const float *before)
{
    size_t n_before = job->e->program->model->delta.taps - 1, width = job->op->width;
    for (size_t i = 0; i < n_before; i++) {
        const float *from = input_back(job, s, pos, n_before - i, before);
        if (from != to + i * width)
            memcpy(to + i * width, from, width * sizeof *to);
    }
}

static void save_span(const struct delta_job *job, const struct span *s)
{
    const struct worker_exec *e = job->e;
    uint64_t next = s->pos + (s->end - s->first);
    float *before = conv_part(e, shard_kv_state(e->kv, s->seq, job->op->layer));
    for (uint64_t pos = s->pos + 1; pos <= next; pos++) {
        float *copy = shard_kv_snapshot(e->kv, s->seq, job->op->layer, pos);
        if (copy)
            save_inputs(job, s, pos, conv_part(e, copy), before);
    }
    save_inputs(job, s, next, before, before);
}

void worker__conv_run(struct worker_exec *e, const struct shard_op *op, size_t n_rows)
{
    struct delta_job job = {.e = e, .op = op};
    if (n_rows * op->width * e->program->model->delta.taps < INLINE_PRODUCTS)
        conv_rows(&job, 0, n_rows, 0);
    else
        kern_pool_run(e->pool, n_rows, 0, conv_rows, &job);
    for (size_t i = 0; i < e->n_ranges; i++) {
        struct span s = span_of(e, i);
        save_span(&job, &s);
    }
}

/* Row `row` of V head `head`. */
static void step_head(const struct delta_job *job, size_t row, size_t head, float *state)
{
    const struct worker_exec *e = job->e;
    const struct shard_op *op = job->op;
    const struct shard_delta *d = &e->program->model->delta;
    const float *dt = e->weights->data[op->w], *a = e->weights->data[op->w2];
    const float *beta = worker__at(e, op->b, row), *alpha = worker__at(e, op->c, row);
    const float *qkv = worker__at(e, op->a, row);
    size_t k_head = d->grouped ? head / (d->n_v / d->n_k) : head % d->n_k;
    size_t keys = (size_t)d->n_k * d->dim;
    struct kern_delta step = {
        .out = (float *)worker__at(e, op->dst, row) + head * d->dim,
        .state = state,
        .q = qkv + k_head * d->dim,
        .k = qkv + keys + k_head * d->dim,
        .v = qkv + 2 * keys + head * d->dim,
        .dim_k = d->dim,
        .dim_v = d->dim,
        .decay = kern_expf(a[head] * kern_softplusf(alpha[head] + dt[head])),
        .beta = kern_sigmoidf(beta[head]),
    };
    e->table->delta(&step);
}

static void delta_tasks(void *arg, size_t first, size_t last, unsigned thread)
{
    const struct delta_job *job = arg;
    const struct worker_exec *e = job->e;
    size_t n_heads = job->op->n_heads, n = (size_t)job->op->width * job->op->width;
    (void)thread;
    for (size_t task = first; task < last; task++) {
        struct span s = span_of(e, task / n_heads);
        size_t head = task % n_heads;
        float *state = shard_kv_state(e->kv, s.seq, job->op->layer) + head * n;
        for (size_t row = s.first; row < s.end; row++) {
            step_head(job, row, head, state);
            float *copy =
                shard_kv_snapshot(e->kv, s.seq, job->op->layer, s.pos + (row - s.first) + 1);
            if (copy)
                memcpy(copy + head * n, state, n * sizeof *state);
        }
    }
}

void worker__delta_run(struct worker_exec *e, const struct shard_op *op, size_t n_rows)
{
    struct delta_job job = {.e = e, .op = op};
    size_t n_tasks = e->n_ranges * op->n_heads;
    if ((uint64_t)n_rows * op->n_heads * op->width * op->width < INLINE_PRODUCTS)
        delta_tasks(&job, 0, n_tasks, 0);
    else
        kern_pool_run(e->pool, n_tasks, 1, delta_tasks, &job);
}
