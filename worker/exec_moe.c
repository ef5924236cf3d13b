/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The routed experts of a layer. The (row, choice) pairs of a batch are sorted by expert, so that
 * an expert's weights are read once for all its rows; each pair's result has a place of its own,
 * and a row's results are added in the order of its choices. So no row's bits depend on what else
 * is in the batch, where the executor is exact.
 */
#include "worker/exec_state.h"

#include <stdlib.h>
#include <string.h>

struct experts_job {
    struct worker_exec *e;
    const struct shard_op *op;
    struct shard_experts_scratch at;
    size_t n_pairs;
    /* Chunks of panels in one expert's gate, up and down. */
    size_t gate_panels, up_panels, down_panels; /* panels a chunk */
    size_t gate_chunks, up_chunks, down_chunks;
};

/* An operand of gate or up: rows of a buffer, and where they are gathered. */
struct source {
    const char *rows;
    char *gathered;
    size_t bytes;
};

/* The weight that has up's rows. */
static int32_t up_weight(const struct shard_op *op)
{
    return op->w2 < 0 ? op->w : op->w2;
}

static size_t chunks_of(const struct shard_weight *w, size_t panels)
{
    size_t n = (w->n_out + KERN_PANEL - 1) / KERN_PANEL;
    return (n + panels - 1) / panels;
}

static struct source source_of(const struct experts_job *job, int16_t buffer, int32_t w)
{
    const struct worker_exec *e = job->e;
    bool second = buffer != job->op->a;
    return (struct source){.rows = e->buffers[buffer],
                           .gathered = e->experts + (second ? job->at.x_up : job->at.x_gate),
                           .bytes = worker__record_bytes(e, buffer, e->program->weights[w].k)};
}

static const struct shard_choice *choice_of(const struct experts_job *job, uint32_t pair)
{
    const struct shard_choice *row = worker__at(job->e, job->op->b, pair / job->op->n_used);
    return &row[pair % job->op->n_used];
}

/* Counting sort by expert; within an expert pairs keep their order. */
static void sort_pairs(struct experts_job *job)
{
    struct worker__entries *s = &job->e->entries;
    uint32_t n = job->e->program->model->n_experts;
    memset(s->start, 0, (n + 1) * sizeof *s->start);
    for (uint32_t pair = 0; pair < job->n_pairs; pair++)
        s->start[choice_of(job, pair)->expert + 1]++;
    s->n_active = 0;
    for (uint32_t x = 0; x < n; x++) {
        if (s->start[x + 1])
            s->active[s->n_active++] = x;
        s->start[x + 1] += s->start[x];
    }
    for (uint32_t pair = 0; pair < job->n_pairs; pair++) {
        uint32_t at = s->start[choice_of(job, pair)->expert]++;
        s->pair[at] = pair;
        s->entry[pair] = at;
    }
    memmove(s->start + 1, s->start, n * sizeof *s->start);
    s->start[0] = 0;
}

static void gather(void *arg, size_t first, size_t last, unsigned thread)
{
    const struct experts_job *job = arg;
    struct source gate = source_of(job, job->op->a, job->op->w);
    struct source up = source_of(job, job->op->c, up_weight(job->op));
    (void)thread;
    for (size_t i = first; i < last; i++) {
        size_t row = job->e->entries.pair[i] / job->op->n_used;
        memcpy(gate.gathered + i * gate.bytes, gate.rows + row * gate.bytes, gate.bytes);
        if (job->op->c != job->op->a)
            memcpy(up.gathered + i * up.bytes, up.rows + row * up.bytes, up.bytes);
    }
}

/* y = W x for a chunk of one expert's matrix, over the expert's entries. */
static void multiply_chunk(const struct experts_job *job, int32_t w, uint32_t expert, size_t chunk,
                           size_t panels, float *y, size_t ldy, const char *x, size_t x_bytes)
{
    const struct worker__entries *s = &job->e->entries;
    size_t all = (job->e->program->weights[w].n_out + KERN_PANEL - 1) / KERN_PANEL;
    size_t first = chunk * panels, end = first + panels < all ? first + panels : all;
    worker__multiply(job->e, w, expert, first, end, y + s->start[expert] * ldy, ldy, x, x_bytes,
                     s->start[expert + 1] - s->start[expert]);
}

/* A lone row is read where it is. */
static const char *operand_of(const struct experts_job *job, const struct source *source,
                              uint32_t expert)
{
    const struct worker__entries *s = &job->e->entries;
    size_t first = s->start[expert];
    if (job->n_pairs == job->op->n_used)
        return source->rows;
    return source->gathered + first * source->bytes;
}

static void gate_up_tasks(void *arg, size_t first, size_t last, unsigned thread)
{
    const struct experts_job *job = arg;
    const struct shard_op *op = job->op;
    struct source gate = source_of(job, op->a, op->w);
    struct source up = source_of(job, op->c, up_weight(op));
    float *y_gate = (float *)(job->e->experts + job->at.gate);
    float *y_up = (float *)(job->e->experts + job->at.up);
    size_t each = job->gate_chunks + job->up_chunks, ld = job->at.ff_stride;
    (void)thread;
    for (size_t i = first; i < last; i++) {
        uint32_t x = job->e->entries.active[i / each];
        size_t chunk = i % each;
        if (chunk < job->gate_chunks)
            multiply_chunk(job, op->w, x, chunk, job->gate_panels, y_gate, ld,
                           operand_of(job, &gate, x), gate.bytes);
        else
            multiply_chunk(job, op->w2, x, chunk - job->gate_chunks, job->up_panels, y_up, ld,
                           operand_of(job, &up, x), up.bytes);
    }
}

static enum kern_act down_act(const struct experts_job *job)
{
    return job->e->program->weights[job->op->w3].type->act;
}

static size_t down_bytes(const struct experts_job *job)
{
    size_t k = job->op->width;
    return down_act(job) == KERN_ACT_F32 ? job->at.ff_stride * sizeof(float)
                                         : kern_act_bytes(down_act(job), k);
}

/* y += an expert's row of bias 0 (gate), 1 (up) or 2 (down), where there are biases. */
static void add_bias(const struct experts_job *job, int which, uint32_t expert, float *y, size_t n)
{
    int32_t w = job->op->bias[which];
    if (w < 0)
        return;
    const float *rows = job->e->weights->data[w];
    job->e->table->add(y, rows + expert * n, n);
}

static void activate(void *arg, size_t first, size_t last, unsigned thread)
{
    const struct experts_job *job = arg;
    const struct worker_exec *e = job->e;
    enum kern_act act = down_act(job);
    (void)thread;
    for (size_t i = first; i < last; i++) {
        float *gate = (float *)(e->experts + job->at.gate) + i * job->at.ff_stride;
        float *up = (float *)(e->experts + job->at.up) + i * job->at.ff_stride;
        const struct shard_choice *choice = choice_of(job, e->entries.pair[i]);
        if (job->op->w2 < 0)
            up = gate + job->op->width;
        add_bias(job, 0, choice->expert, gate, job->op->width);
        add_bias(job, 1, choice->expert, up, job->op->width);
        worker__glu(e, job->op->glu, gate, up, job->op->gate_on_input ? choice->weight : 1.0f,
                    job->op->width);
        if (act != KERN_ACT_F32)
            e->table->quantize[act](e->experts + job->at.x_down + i * down_bytes(job), gate,
                                    job->at.ff_stride, 1, job->op->width);
    }
}

static void down_tasks(void *arg, size_t first, size_t last, unsigned thread)
{
    const struct experts_job *job = arg;
    const struct worker_exec *e = job->e;
    size_t bytes = down_bytes(job);
    const char *x = e->experts + (down_act(job) == KERN_ACT_F32 ? job->at.gate : job->at.x_down);
    (void)thread;
    for (size_t i = first; i < last; i++) {
        uint32_t expert = e->entries.active[i / job->down_chunks];
        multiply_chunk(job, job->op->w3, expert, i % job->down_chunks, job->down_panels,
                       (float *)(e->experts + job->at.down), job->at.out_stride,
                       x + e->entries.start[expert] * bytes, bytes);
    }
}

static void combine(void *arg, size_t first, size_t last, unsigned thread)
{
    const struct experts_job *job = arg;
    const struct worker_exec *e = job->e;
    uint32_t n_used = job->op->n_used;
    size_t width = e->program->weights[job->op->w3].n_out;
    (void)thread;
    for (size_t row = first; row < last; row++) {
        float *y = worker__at(e, job->op->dst, row);
        for (uint32_t c = 0; c < n_used; c++) {
            uint32_t pair = (uint32_t)row * n_used + c;
            float *part =
                (float *)(e->experts + job->at.down) + e->entries.entry[pair] * job->at.out_stride;
            add_bias(job, 2, choice_of(job, pair)->expert, part, width);
            float weight = job->op->gate_on_input ? 1.0f : choice_of(job, pair)->weight;
            if (c == 0)
                e->table->scale(y, part, weight, width);
            else
                e->table->axpy(y, part, weight, width);
        }
    }
}

static void run(const struct experts_job *job, size_t n, kern_pool_fn *fn)
{
    if (n <= 2)
        fn((void *)job, 0, n, 0);
    else
        kern_pool_run(job->e->pool, n, 0, fn, (void *)job);
}

void worker__experts_run(struct worker_exec *e, const struct shard_op *op, size_t n_rows)
{
    const struct shard_weight *gate = &e->program->weights[op->w];
    const struct shard_weight *up = &e->program->weights[up_weight(op)];
    const struct shard_weight *down = &e->program->weights[op->w3];
    struct experts_job job = {.e = e,
                              .op = op,
                              .at = shard_experts_scratch(e->program, op, e->max_rows),
                              .n_pairs = n_rows * op->n_used};
    sort_pairs(&job);
    size_t rows_each = (job.n_pairs + e->entries.n_active - 1) / e->entries.n_active;
    job.gate_panels = worker__panels_a_chunk(e, gate, rows_each);
    job.up_panels = worker__panels_a_chunk(e, up, rows_each);
    job.down_panels = worker__panels_a_chunk(e, down, rows_each);
    job.gate_chunks = chunks_of(gate, job.gate_panels);
    job.up_chunks = op->w2 < 0 ? 0 : chunks_of(up, job.up_panels);
    job.down_chunks = chunks_of(down, job.down_panels);
    if (n_rows > 1)
        run(&job, job.n_pairs, gather);
    kern_pool_run(e->pool, e->entries.n_active * (job.gate_chunks + job.up_chunks), 1,
                  gate_up_tasks, &job);
    run(&job, job.n_pairs, activate);
    kern_pool_run(e->pool, e->entries.n_active * job.down_chunks, 1, down_tasks, &job);
    run(&job, n_rows, combine);
}

enum proto_status worker__entries_init(struct worker__entries *entries,
                                       const struct shard_program *program, uint32_t max_rows,
                                       struct proto_error *error)
{
    const struct shard_model *m = program->model;
    size_t n_pairs = (size_t)max_rows * m->n_experts_used;
    if (m->n_experts == 0)
        return PROTO_OK;
    entries->pair = calloc(n_pairs, sizeof *entries->pair);
    entries->entry = calloc(n_pairs, sizeof *entries->entry);
    entries->start = calloc((size_t)m->n_experts + 1, sizeof *entries->start);
    entries->active = calloc(m->n_experts, sizeof *entries->active);
    if (!entries->pair || !entries->entry || !entries->start || !entries->active)
        return proto_fail_nomem(error, 2 * n_pairs * sizeof *entries->pair, "expert choices");
    return PROTO_OK;
}

void worker__entries_finish(struct worker__entries *entries)
{
    free(entries->pair);
    free(entries->entry);
    free(entries->start);
    free(entries->active);
}
