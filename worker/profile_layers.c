/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Between the products of a layer there are operations row by row, attention, and threads that wait
 * for one another, and memory is not read meanwhile. So layers of a model are run as the executor
 * runs them, and rates of products become those that make up for the layers' time.
 */
#include "worker/profile_parts.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "shard/kv.h"
#include "shard/synthetic.h"
#include "worker/load.h"

#define SHAPE       "llama-1b:Q4_0"
#define TYPE        KERN_Q4_0
#define LAYERS      4u
#define MOST_ROWS   128u
#define BUDGET_S    0.2
#define LEAST       5u  /* passes that say something */
#define FLOOR       0.5 /* of the rate of products alone */
#define MOST_PASSES 512u
#define LEAST_OPS_S                                                                                \
    2e10 /* of a row; slower kernels would take seconds for what they hardly show                  \
          */

struct layers {
    const struct worker_profile_options *options;
    struct shard_synthetic *synthetic;
    struct shard_model *model;
    struct shard_program *program;
    struct worker_weights weights;
    struct shard_kv *kv;
    struct worker_exec *exec;
    float *x;
    size_t x_floats;
    const struct worker__profile_memory *memory;
};

static void close_layers(struct layers *l)
{
    worker_exec_destroy(l->exec);
    shard_kv_destroy(l->kv);
    worker_weights_finish(&l->weights);
    shard_program_destroy(l->program);
    shard_model_destroy(l->model);
    shard_synthetic_destroy(l->synthetic);
    free(l->x);
}

static enum proto_status open_executor(struct layers *l, struct proto_error *error)
{
    const struct worker_profile_options *o = l->options;
    const struct shard_kv_options kv = {.type = KERN_KV_F32, .ctx = MOST_ROWS, .max_seqs = 1};
    const struct worker_load_options load = {
        .pool = o->pool, .synthetic = l->synthetic, .cancel = o->cancel, .unsaid = true};
    enum proto_status status = worker_load(&l->weights, l->program, &load, error);
    if (!status)
        status = shard_kv_create(&l->kv, l->program, &kv, error);
    const struct worker_exec_options exec = {
        .table = o->table, .pool = o->pool, .kv = l->kv, .max_rows = MOST_ROWS};
    if (!status)
        status = worker_exec_create(&l->exec, l->program, &l->weights, &exec, error);
    return status;
}

static enum proto_status open_layers(struct layers *l, struct proto_error *error)
{
    enum proto_status status = shard_synthetic_create(&l->synthetic, SHAPE, error);
    if (!status)
        status = shard_model_create(&l->model, shard_synthetic_gguf(l->synthetic), error);
    if (!status)
        status = shard_program_create(&l->program, l->model, 0, LAYERS, false, false, error);
    if (!status)
        status = open_executor(l, error);
    if (status)
        return status;
    l->x_floats = MOST_ROWS * worker_exec_stride(l->program);
    l->x = aligned_alloc(64, (l->x_floats * sizeof *l->x + 63) / 64 * 64);
    return l->x ? PROTO_OK
                : proto_fail_nomem(error, l->x_floats * sizeof *l->x, "measuring layers");
}

/* That the threads compute: other processes may interrupt them, and a thread that waits for the
 * others does so awake (pool.h). */
static double computing_s(const struct layers *l)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return ((double)t.tv_sec + (double)t.tv_nsec * 1e-9) / kern_pool_threads(l->options->pool);
}

/* Seconds of a batch of so many rows from position 0 on. */
static enum proto_status time_batch(struct layers *l, uint32_t rows, double *seconds,
                                    struct proto_error *error)
{
    const struct proto_range range = {.n = rows, .want = PROTO_WANT_NONE};
    const struct worker_batch batch = {.ranges = &range, .n_ranges = 1, .x = l->x};
    for (size_t i = 0; i < l->x_floats; i++)
        l->x[i] = (float)(i * 2654435761u >> 7 & 1023) / 512.0f - 1.0f;
    worker__profile_scrub(l->memory, l->options->pool);
    double start = computing_s(l);
    enum proto_status status = worker_exec_run(l->exec, &batch, NULL, NULL, error);
    *seconds = computing_s(l) - start;
    shard_kv_drop(l->kv, 0);
    return status;
}

static enum proto_status typical_batch(struct layers *l, uint32_t rows, double *seconds,
                                       struct proto_error *error)
{
    double times[MOST_PASSES], start = worker__profile_now();
    size_t n = 0;
    enum proto_status status = time_batch(l, rows, seconds, error);
    while (!status && n < MOST_PASSES && (n < LEAST || worker__profile_now() - start < BUDGET_S))
        status = worker__profile_cancelled(l->options) ? worker__profile_fail_cancelled(error)
                                                       : time_batch(l, rows, &times[n++], error);
    *seconds = n > 0 ? worker__profile_median(times, n) : *seconds;
    return status;
}

/* Multiplications and additions of a row's products, in all layers. */
static double row_ops(const struct shard_program *program)
{
    double ops = 0;
    for (size_t i = 0; i < program->n_weights; i++) {
        const struct shard_weight *w = &program->weights[i];
        if (w->form == SHARD_WEIGHT_PANELS)
            ops += 2.0 * (double)w->n_out * (double)w->k;
    }
    return ops;
}

static double attention_ops(const struct shard_program *program, double rows)
{
    double ops = 0;
    for (size_t i = 0; i < program->n_ops; i++) {
        const struct shard_op *op = &program->ops[i];
        if (op->kind == SHARD_OP_ATTENTION)
            ops += 2.0 * op->n_heads * (op->dim_k + op->dim_v);
    }
    return ops * rows * (rows + 1) / 2;
}

/* What the rate of products times this makes up for. */
static enum proto_status share_of(struct layers *l, uint32_t rows, double rate, double float_rate,
                                  double *share, struct proto_error *error)
{
    double products = rows * row_ops(l->program) / rate, seconds;
    double attention = attention_ops(l->program, rows) / float_rate;
    enum proto_status status = typical_batch(l, rows, &seconds, error);
    if (!status)
        *share = fmin(fmax(products / fmax(seconds - attention, products), FLOOR), 1);
    return status;
}

static const struct proto_type_rate *rate_of(const struct proto_profile *p)
{
    for (uint32_t i = 0; i < p->n_types; i++)
        if (p->types[i].type == TYPE)
            return &p->types[i];
    return NULL;
}

/* A product of `rows` takes what the cost model says: shard/plan/cost.h. */
static double rate_at(const struct proto_type_rate *rate, double rows)
{
    return rate->rows_ops_s * rows / (rows + fmax(rate->rows_ops_s / rate->row_ops_s - 1, 0));
}

static void scale(struct proto_profile *p, double row, double rows)
{
    p->read_bytes_s *= row;
    for (uint32_t i = 0; i < p->n_types; i++) {
        p->types[i].row_ops_s *= row;
        p->types[i].rows_ops_s *= rows;
    }
}

enum proto_status worker__profile_layers(struct proto_profile *profile,
                                         const struct worker__profile_memory *memory,
                                         const struct worker_profile_options *options,
                                         struct proto_error *error)
{
    struct layers l = {.options = options, .memory = memory};
    const struct proto_type_rate *rate = rate_of(profile);
    double row = 1, rows = 1;
    if (!rate || rate_at(rate, 1) < LEAST_OPS_S)
        return PROTO_OK;
    enum proto_status status = open_layers(&l, error);
    if (!status)
        status = share_of(&l, 1, rate->row_ops_s, profile->float_ops_s, &row, error);
    if (!status)
        status =
            share_of(&l, MOST_ROWS, rate_at(rate, MOST_ROWS), profile->float_ops_s, &rows, error);
    close_layers(&l);
    if (!status)
        scale(profile, row, rows);
    return status;
}
