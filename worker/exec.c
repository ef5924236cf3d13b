/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/exec_state.h"

#include <stdlib.h>
#include <string.h>

/* Row-wise work below this stays on the calling thread. */
#define INLINE_COST 32768u

struct rows_job {
    struct worker_exec *e;
    const struct worker__step *step;
};

static void row_items(void *arg, size_t first, size_t last, unsigned thread)
{
    const struct rows_job *job = arg;
    (void)thread;
    for (size_t i = job->step->first; i < job->step->end; i++)
        worker__rows_run(job->e, &job->e->program->ops[i], first, last);
}

static void run_rows(struct worker_exec *e, const struct worker__step *step, size_t n_rows)
{
    struct rows_job job = {.e = e, .step = step};
    if (n_rows == 1 || n_rows * step->cost < INLINE_COST)
        row_items(&job, 0, n_rows, 0);
    else
        kern_pool_run(e->pool, n_rows, 0, row_items, &job);
}

static enum proto_status run_step(struct worker_exec *e, const struct worker__step *step,
                                  size_t n_rows, struct proto_error *error)
{
    const struct shard_op *op = &e->program->ops[step->first];
    enum proto_status status = PROTO_OK;
    switch (step->kind) {
    case WORKER__STEP_ROWS:
        run_rows(e, step, n_rows);
        break;
    case WORKER__STEP_MATMULS:
        worker__matmuls_run(e, step, n_rows);
        break;
    case WORKER__STEP_ATTENTION:
        status = worker__attention_run(e, op, n_rows, error);
        break;
    case WORKER__STEP_EXPERTS:
        if (op->remote)
            status = worker__experts_collect(e, op, n_rows, error);
        else
            worker__experts_run(e, op, n_rows);
        break;
    case WORKER__STEP_EXPERTS_SEND:
        status = worker__experts_send(e, op, n_rows, error);
        break;
    case WORKER__STEP_CONV:
        worker__conv_run(e, op, n_rows);
        break;
    case WORKER__STEP_DELTA:
        worker__delta_run(e, op, n_rows);
        break;
    }
    atomic_fetch_add_explicit(&e->n_executed, step->end - step->first, memory_order_relaxed);
    return status;
}

static enum proto_status run_steps(struct worker_exec *e, size_t first, size_t end, size_t n_rows,
                                   struct proto_error *error)
{
    enum proto_status status = PROTO_OK;
    for (size_t i = first; i < end && status == PROTO_OK; i++)
        status = run_step(e, &e->steps[i], n_rows, error);
    return status;
}

static enum worker__step_kind step_kind(const struct shard_op *op)
{
    switch (op->kind) {
    case SHARD_OP_MATMUL:
    case SHARD_OP_MATMUL_HEADS:
        return WORKER__STEP_MATMULS;
    case SHARD_OP_ATTENTION:
        return WORKER__STEP_ATTENTION;
    case SHARD_OP_EXPERTS:
        return WORKER__STEP_EXPERTS;
    case SHARD_OP_EXPERTS_SEND:
        return WORKER__STEP_EXPERTS_SEND;
    case SHARD_OP_CONV:
        return WORKER__STEP_CONV;
    case SHARD_OP_DELTA:
        return WORKER__STEP_DELTA;
    default:
        return WORKER__STEP_ROWS;
    }
}

static bool joins(const struct shard_program *p, const struct worker__step *step,
                  const struct shard_op *op)
{
    if (step_kind(op) != step->kind)
        return false;
    if (step->kind != WORKER__STEP_MATMULS)
        return step->kind == WORKER__STEP_ROWS;
    for (size_t i = step->first; i < step->end; i++) {
        if (p->ops[i].dst == op->a || p->ops[i].dst == op->dst)
            return false;
    }
    return true;
}

static void build_steps(struct worker_exec *e)
{
    const struct shard_program *p = e->program;
    struct worker__step *step = NULL;
    for (size_t i = 0; i < p->n_ops; i++) {
        const struct shard_op *op = &p->ops[i];
        if (!step || i == p->tail || !joins(p, step, op)) {
            if (i == p->tail)
                e->tail_step = e->n_steps;
            step = &e->steps[e->n_steps++];
            *step = (struct worker__step){.kind = step_kind(op), .first = i};
        }
        step->end = i + 1;
        if (step->kind == WORKER__STEP_ROWS)
            step->cost += worker__row_cost(p, op);
    }
    if (p->tail == p->n_ops)
        e->tail_step = e->n_steps;
}

static uint64_t align64(uint64_t bytes)
{
    return (bytes + 63) & ~(uint64_t)63;
}

static enum proto_status place_buffers(struct worker_exec *e, struct proto_error *error)
{
    const struct shard_program *p = e->program;
    uint64_t bytes = shard_program_buffer_bytes(p, e->max_rows), at = 0;
    e->memory = aligned_alloc(64, align64(bytes) + 64);
    if (!e->memory)
        return proto_fail_nomem(error, bytes, "a slice's buffers");
    /* Padding of rows is read and written freely, so it is defined from the start. */
    memset(e->memory, 0, align64(bytes) + 64);
    for (size_t i = 0; i < p->n_buffers; i++) {
        e->strides[i] = shard_buffer_stride(&p->buffers[i]);
        e->buffers[i] = e->memory + at;
        if (i > 0)
            at += align64((p->buffers[i].tail ? SHARD_TAIL_ROWS : e->max_rows) * e->strides[i]);
    }
    e->experts = e->memory + at;
    return PROTO_OK;
}

/* The program's frequencies, divided by the rope_freqs tensor where there is one. */
static void fill_rope_freqs(struct worker_exec *e, enum shard_rope_set set)
{
    const struct shard_program *p = e->program;
    const float *divisors = NULL;
    for (size_t i = 0; i < p->n_ops && !divisors; i++) {
        const struct shard_op *op = &p->ops[i];
        if (op->kind == SHARD_OP_ROPE_TABLE && op->rope_set == set && op->w >= 0)
            divisors = e->weights->data[op->w];
    }
    for (uint32_t i = 0; i < p->model->rope[set].n_rot / 2; i++) {
        double freq = p->rope_freqs[set][i];
        e->rope_freqs[set][i] = divisors ? freq / (double)divisors[i] : freq;
    }
}

static enum proto_status allocate(struct worker_exec *e, struct proto_error *error)
{
    const struct shard_program *p = e->program;
    e->steps = calloc(p->n_ops + 1, sizeof *e->steps);
    e->buffers = calloc(p->n_buffers, sizeof *e->buffers);
    e->strides = calloc(p->n_buffers, sizeof *e->strides);
    bool no_freqs = false;
    for (int set = 0; set < SHARD_N_ROPE_SETS; set++) {
        e->rope_freqs[set] = calloc(p->model->rope[set].n_rot / 2 + 1, sizeof(double));
        no_freqs = no_freqs || !e->rope_freqs[set];
    }
    e->scratch = calloc(e->n_threads, sizeof *e->scratch);
    e->rows = calloc(e->max_rows, sizeof *e->rows);
    e->wanted = calloc(e->max_rows, sizeof *e->wanted);
    e->starts = calloc((size_t)e->max_rows + 1, sizeof *e->starts);
    e->groups = calloc(e->max_rows, sizeof *e->groups);
    e->seq_seen = calloc(e->kv ? shard_kv_max_seqs(e->kv) : 1, sizeof *e->seq_seen);
    if (!e->steps || !e->buffers || !e->strides || no_freqs || !e->scratch || !e->rows ||
        !e->wanted || !e->starts || !e->groups || !e->seq_seen)
        return proto_fail_nomem(error, e->max_rows * sizeof *e->rows, "the executor");
    enum proto_status status = worker__entries_init(&e->entries, p, e->max_rows, error);
    if (status == PROTO_OK)
        status = worker__usage_init(e, error);
    if (status == PROTO_OK)
        status = worker__asked_init(&e->asked, p, e->max_rows, error);
    return status == PROTO_OK ? place_buffers(e, error) : status;
}

static enum proto_status check_kernels(const struct worker_exec *e, struct proto_error *error)
{
    for (size_t i = 0; i < e->program->n_weights; i++) {
        const struct kern_type_info *type = e->program->weights[i].type;
        if (type && !e->table->matmul[type->type])
            return proto_fail(error, PROTO_UNSUPPORTED, "the %s kernels have none for type %s",
                              e->table->name, type->name);
    }
    return PROTO_OK;
}

enum proto_status worker_exec_create(struct worker_exec **out, const struct shard_program *program,
                                     const struct worker_weights *weights,
                                     const struct worker_exec_options *options,
                                     struct proto_error *error)
{
    *out = NULL;
    if (options->max_rows == 0 || options->max_rows > PROTO_MAX_BATCH_ROWS)
        return proto_fail(error, PROTO_LIMIT, "batches of %u rows asked for, expected 1 to %u",
                          options->max_rows, PROTO_MAX_BATCH_ROWS);
    struct worker_exec *e = calloc(1, sizeof *e);
    if (!e)
        return proto_fail_nomem(error, sizeof *e, "the executor");
    e->program = program;
    e->weights = weights;
    e->table = options->table;
    e->pool = options->pool;
    e->n_threads = kern_pool_threads(options->pool);
    e->kv = options->kv;
    e->max_rows = options->max_rows;
    e->inexact = options->inexact;
    enum proto_status status = check_kernels(e, error);
    if (status == PROTO_OK)
        status = worker__remote_init(&e->remote, program, options, error);
    if (status == PROTO_OK)
        status = allocate(e, error);
    if (status != PROTO_OK) {
        worker_exec_destroy(e);
        return status;
    }
    build_steps(e);
    for (int set = 0; set < SHARD_N_ROPE_SETS; set++)
        fill_rope_freqs(e, (enum shard_rope_set)set);
    *out = e;
    return PROTO_OK;
}

void worker_exec_destroy(struct worker_exec *exec)
{
    if (!exec)
        return;
    for (unsigned t = 0; exec->scratch && t < exec->n_threads; t++) {
        free(exec->scratch[t].scores);
        free(exec->scratch[t].pages);
    }
    worker__entries_finish(&exec->entries);
    worker__asked_finish(&exec->asked);
    free(exec->usage);
    worker__remote_finish(&exec->remote);
    free(exec->steps);
    free(exec->memory);
    free(exec->buffers);
    free(exec->strides);
    for (int set = 0; set < SHARD_N_ROPE_SETS; set++)
        free(exec->rope_freqs[set]);
    free(exec->scratch);
    free(exec->rows);
    free(exec->wanted);
    free(exec->starts);
    free(exec->groups);
    free(exec->seq_seen);
    free(exec);
}

uint64_t worker_exec_scratch_bytes(const struct shard_program *program, uint32_t max_rows,
                                   unsigned threads, uint64_t ctx)
{
    uint64_t a_row = sizeof(struct worker__row) + 2 * sizeof(uint32_t);
    return shard_program_buffer_bytes(program, max_rows) + max_rows * a_row +
           worker__entries_bytes(program, max_rows) + worker__asked_bytes(program, max_rows) +
           worker__remote_bytes(program, max_rows) +
           threads * shard_attention_scratch_bytes(program, ctx);
}

size_t worker_exec_stride(const struct shard_program *program)
{
    return shard_buffer_stride(&program->buffers[0]) / sizeof(float);
}

static enum proto_status check_range(const struct worker_exec *e, const struct proto_range *range,
                                     uint64_t rows, struct proto_error *error)
{
    if (range->n == 0 || rows + range->n > e->max_rows)
        return proto_fail(error, PROTO_INVALID,
                          "a batch's range has %u rows after %llu others, expected 1 or more and "
                          "at most %u in all",
                          range->n, (unsigned long long)rows, e->max_rows);
    if (range->seq >= shard_kv_max_seqs(e->kv))
        return proto_fail(error, PROTO_INVALID, "a batch has sequence %u, expected one below %u",
                          range->seq, shard_kv_max_seqs(e->kv));
    return PROTO_OK;
}

static enum proto_status check_ids(const struct worker_exec *e, const int32_t *ids, size_t n,
                                   struct proto_error *error)
{
    uint32_t n_vocab = e->program->model->n_vocab;
    for (size_t i = 0; i < n; i++) {
        if (ids[i] < 0 || (uint32_t)ids[i] >= n_vocab)
            return proto_fail(error, PROTO_INVALID, "token id %d, expected 0 to %u", ids[i],
                              n_vocab - 1);
    }
    return PROTO_OK;
}

/* Lists the batch's rows and which are wanted. A sequence may be there once: its rows would
 * otherwise be computed before those that they see are stored. */
static enum proto_status list_rows(struct worker_exec *e, const struct worker_batch *batch,
                                   size_t *n_rows, size_t *n_wanted, struct proto_error *error)
{
    size_t n = 0, wanted = 0;
    memset(e->seq_seen, 0, shard_kv_max_seqs(e->kv));
    for (uint32_t i = 0; i < batch->n_ranges; i++) {
        const struct proto_range *range = &batch->ranges[i];
        enum proto_status status = check_range(e, range, n, error);
        if (status != PROTO_OK)
            return status;
        if (e->seq_seen[range->seq]++)
            return proto_fail(error, PROTO_INVALID, "a batch has sequence %u twice, expected once",
                              range->seq);
        e->starts[i] = (uint32_t)n;
        for (uint32_t j = 0; j < range->n; j++, n++) {
            e->rows[n] = (struct worker__row){.pos = range->pos + j, .seq = range->seq, .range = i};
            if (range->want == PROTO_WANT_ALL ||
                (range->want == PROTO_WANT_LAST && j + 1 == range->n))
                e->wanted[wanted++] = (uint32_t)n;
        }
    }
    e->n_ranges = batch->n_ranges;
    e->starts[e->n_ranges] = (uint32_t)n;
    *n_rows = n;
    *n_wanted = wanted;
    return e->program->embed ? check_ids(e, batch->ids, n, error) : PROTO_OK;
}

static enum proto_status reserve(struct worker_exec *e, const struct worker_batch *batch,
                                 struct proto_error *error)
{
    enum proto_status status = PROTO_OK;
    for (uint32_t i = 0; i < batch->n_ranges && status == PROTO_OK; i++) {
        const struct proto_range *range = &batch->ranges[i];
        status = shard_kv_reserve(e->kv, range->seq, range->pos, range->n, error);
    }
    return status;
}

static enum proto_status run_tail(struct worker_exec *e, size_t n_wanted,
                                  worker_logits_fn *on_logits, void *arg, struct proto_error *error)
{
    int16_t logits = e->program->logits;
    struct worker_result_row rows[SHARD_TAIL_ROWS];
    for (size_t first = 0; first < n_wanted; first += SHARD_TAIL_ROWS) {
        size_t n = n_wanted - first < SHARD_TAIL_ROWS ? n_wanted - first : SHARD_TAIL_ROWS;
        e->tail_rows = e->wanted + first;
        enum proto_status status = run_steps(e, e->tail_step, e->n_steps, n, error);
        if (status != PROTO_OK)
            return status;
        for (size_t i = 0; i < n; i++) {
            const struct worker__row *row = &e->rows[e->tail_rows[i]];
            rows[i] = (struct worker_result_row){.range = row->range, .pos = row->pos};
        }
        status = on_logits(arg, rows, (uint32_t)n, worker__at(e, logits, 0), worker__ld(e, logits),
                           error);
        if (status != PROTO_OK)
            return status;
    }
    return PROTO_OK;
}

enum proto_status worker_exec_run(struct worker_exec *exec, const struct worker_batch *batch,
                                  worker_logits_fn *on_logits, void *arg, struct proto_error *error)
{
    size_t n_rows = 0, n_wanted = 0;
    enum proto_status status = list_rows(exec, batch, &n_rows, &n_wanted, error);
    if (status == PROTO_OK)
        status = reserve(exec, batch, error);
    if (status != PROTO_OK || n_rows == 0)
        return status;
    exec->ids = batch->ids;
    exec->buffers[0] = (char *)batch->x;
    status = run_steps(exec, 0, exec->tail_step, n_rows, error);
    if (status == PROTO_OK && exec->program->head && on_logits)
        status = run_tail(exec, n_wanted, on_logits, arg, error);
    for (uint32_t i = 0; i < batch->n_ranges; i++)
        shard_kv_trim(exec->kv, batch->ranges[i].seq, batch->ranges[i].pos + batch->ranges[i].n);
    return status;
}

uint64_t worker_exec_steps(const struct worker_exec *exec)
{
    return atomic_load_explicit(&exec->n_executed, memory_order_relaxed);
}
