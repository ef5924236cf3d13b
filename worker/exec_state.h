/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files of the executor share; private to worker/exec*.c.
 *
 * Consecutive operations that can run side by side are one step with one loop over the pool: a run
 * of operations that work row by row, or of matrix products that do not read one another. A step
 * of little work runs on the calling thread, for waking the pool costs microseconds.
 */
#ifndef WORKER_EXEC_STATE_H
#define WORKER_EXEC_STATE_H

#include "worker/exec.h"
#include "worker/exec_remote.h"

enum worker__step_kind {
    WORKER__STEP_ROWS,
    WORKER__STEP_MATMULS,
    WORKER__STEP_ATTENTION,
    WORKER__STEP_EXPERTS,
    WORKER__STEP_EXPERTS_SEND,
    WORKER__STEP_CONV,
    WORKER__STEP_DELTA
};

struct worker__step {
    enum worker__step_kind kind;
    size_t first, end; /* operations */
    uint64_t cost;     /* ROWS: values touched a row, weighted */
};

struct worker__row {
    uint64_t pos;
    uint32_t seq;
    uint32_t range;
};

/* Rows of one sequence that attention takes together. */
struct worker__group {
    uint32_t first, n;
};

/* Scratch of one thread in attention. */
struct worker__scratch {
    float *scores;
    size_t n_scores;
    const void **pages; /* K pages, then V pages */
    size_t n_pages;
};

/* A row's expert in one holding. */
struct worker__entry {
    uint32_t row;
    uint32_t unit; /* holding and expert */
    float weight;
};

/* The entries of an EXPERTS operation, see worker/exec_experts.c. */
struct worker__entries {
    uint32_t n;
    struct worker__entry *found, *sorted; /* by row, and by unit */
    uint32_t *place;                      /* of each found: where it is sorted to */
    uint32_t *slot;                       /* entry found, by member and segment */
    uint32_t n_units;
    uint32_t *unit;    /* first of each holding */
    uint16_t *holding; /* of each unit */
    uint32_t *start;   /* first entry sorted of each unit, n_units + 1 */
    uint32_t *active;  /* units with entries, ascending */
    uint32_t n_active;
};

/* Choices of a batch's rows, n_experts_used each, in order of expert. */
struct worker__asked {
    struct worker_expert_group *groups;
    struct worker_expert_member *members;
};

struct worker_exec {
    const struct shard_program *program;
    const struct worker_weights *weights;
    const struct kern_table *table;
    struct kern_pool *pool;
    unsigned n_threads;
    struct shard_kv *kv;
    uint32_t max_rows;
    bool inexact;
    struct worker__step *steps;
    size_t n_steps, tail_step; /* steps from tail_step on are the tail's */
    char *memory;
    char **buffers; /* by number; 0 is the batch's x */
    size_t *strides;
    char *experts; /* scratch of EXPERTS operations */
    struct worker__entries entries;
    struct worker__asked asked;
    atomic_uint *usage; /* rows that chose an expert: of the program's layers, n_experts each */
    struct worker__remote remote;
    double *rope_freqs[SHARD_N_ROPE_SETS]; /* with the divisors */
    struct worker__scratch *scratch;       /* by thread */
    struct worker__row *rows;              /* of the batch */
    uint32_t *wanted;                      /* rows whose results are wanted, ascending */
    size_t n_ranges;
    uint32_t *starts;             /* first row of each range, and the batch's rows */
    struct worker__group *groups; /* of the attention being computed */
    uint8_t *seq_seen;
    const int32_t *ids;
    const uint32_t *tail_rows; /* rows of the batch that the tail works on now */
    atomic_uint_fast64_t n_executed;
};

static inline void *worker__at(const struct worker_exec *e, int16_t buffer, size_t row)
{
    return e->buffers[buffer] + row * e->strides[buffer];
}

/* Floats from a row of a float buffer to the next. */
static inline size_t worker__ld(const struct worker_exec *e, int16_t buffer)
{
    return e->strides[buffer] / sizeof(float);
}

/* Bytes from one operand record of buffer to the next: float rows serve as records as they are,
 * quantised ones lie packed by their own width, which may be less than the buffer's. */
size_t worker__record_bytes(const struct worker_exec *e, int16_t buffer, size_t k);

/* Runs a row-wise operation on rows [first, end); about how many values it touches a row. */
void worker__rows_run(struct worker_exec *e, const struct shard_op *op, size_t first, size_t end);
uint64_t worker__row_cost(const struct shard_program *program, const struct shard_op *op);

/* gate = gate and up joined, both times scale; n values. */
void worker__glu(const struct worker_exec *e, enum shard_glu glu, float *gate, const float *up,
                 float scale, size_t n);

/* Panels of a matrix, and those of rows of k values that a chunk of work takes for n_rows rows; of
 * experts that is the mean, rounded up. */
size_t worker__panels(const struct shard_weight *w);
size_t worker__panels_a_chunk(const struct worker_exec *e, const struct shard_weight *w, uint64_t k,
                              size_t n_rows);

/* y[r] = W x[r] for panels [first, end), a chunk, of matrix `mat` of weight w; the second takes a
 * segment of its columns, and its y starts with the chunk. */
void worker__multiply(const struct worker_exec *e, int32_t w, size_t mat, size_t first, size_t end,
                      float *y, size_t ldy, const char *x, size_t x_bytes, size_t n_rows);
void worker__multiply_segment(const struct worker_exec *e, int32_t w, size_t mat, uint32_t segment,
                              size_t first, size_t end, float *y, size_t ldy, const char *x,
                              size_t x_bytes, size_t n_rows);

void worker__matmuls_run(struct worker_exec *e, const struct worker__step *step, size_t n_rows);

enum proto_status worker__attention_run(struct worker_exec *e, const struct shard_op *op,
                                        size_t n_rows, struct proto_error *error);

void worker__conv_run(struct worker_exec *e, const struct shard_op *op, size_t n_rows);
void worker__delta_run(struct worker_exec *e, const struct shard_op *op, size_t n_rows);

/* Row-wise: the experts and weights that follow from a row's logits. */
void worker__route(const struct worker_exec *e, const struct shard_op *op, size_t row);

void worker__experts_run(struct worker_exec *e, const struct shard_op *op, size_t n_rows);

/* Sends rows to the workers that hold some of their experts; computes the rest, and adds up what
 * comes back. */
enum proto_status worker__experts_send(struct worker_exec *e, const struct shard_op *op,
                                       size_t n_rows, struct proto_error *error);
enum proto_status worker__experts_collect(struct worker_exec *e, const struct shard_op *op,
                                          size_t n_rows, struct proto_error *error);

/* Takes what EXPERTS operations need besides scratch; PROTO_NOMEM. How much that is. */
enum proto_status worker__entries_init(struct worker__entries *entries,
                                       const struct shard_program *program, uint32_t max_rows,
                                       struct proto_error *error);
void worker__entries_finish(struct worker__entries *entries);
uint64_t worker__entries_bytes(const struct shard_program *program, uint32_t max_rows);

/* Takes room for counting choices. */
enum proto_status worker__usage_init(struct worker_exec *e, struct proto_error *error);

enum proto_status worker__asked_init(struct worker__asked *asked,
                                     const struct shard_program *program, uint32_t max_rows,
                                     struct proto_error *error);
void worker__asked_finish(struct worker__asked *asked);
uint64_t worker__asked_bytes(const struct shard_program *program, uint32_t max_rows);

#endif
