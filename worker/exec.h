/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Executes a program on the CPU: walks the array of operations with the thread pool. One thread
 * calls; the pool's threads work below it.
 */
#ifndef WORKER_EXEC_H
#define WORKER_EXEC_H

#include <stdatomic.h>

#include "kernels/pool.h"
#include "kernels/table.h"
#include "proto/wire.h"
#include "shard/kv.h"
#include "shard/program.h"
#include "shard/store.h"

/* Loaded weights, by number in program->weights: floats of a VECTOR, panels of PANELS. Read-only
 * where they are a file's mapping. */
struct worker_weights {
    void **data;
    size_t n;
    struct shard_mapped *mapped;        /* that data[i] lies in; without data: memory of its own */
    struct shard_lease *lease;          /* on what is mapped; NULL: none */
    uint8_t (*names)[PROTO_HASH_BYTES]; /* of what is mapped, in the store */
    unsigned **holders;       /* how many such structs share data[i]; NULL, or a NULL in it: one */
    struct worker_lazy *lazy; /* has those whose data is NULL; or NULL */
};

struct worker_exec;

/* How a stage reaches the workers that hold experts of its layers. Calls come from the computing
 * thread: at an operation all of `send`, one for each worker that gets rows, then as many of
 * `receive`. After a call that failed the batch fails; what was asked for and not yet received is
 * then never asked for again, and the transport drops its answers when they come. */
struct worker_remote {
    /* Sends a request (worker/expert_rows.h) for experts of `layer` to worker `host`, a number as
     * in struct shard_expert_part. Does not wait for the answer; the bytes are the caller's again.
     */
    enum proto_status (*send)(void *arg, uint32_t host, uint32_t layer, const void *bytes,
                              size_t len, struct proto_error *error);
    /* An answer to one of those requests, in any order; blocks, with the transport's deadline. The
     * data, of any alignment, is valid until the next call. */
    enum proto_status (*receive)(void *arg, uint32_t *host, const void **data, size_t *len,
                                 struct proto_error *error);
    void *arg;
};

struct worker_exec_options {
    const struct kern_table *table; /* borrowed, as are all of these */
    struct kern_pool *pool;
    struct shard_kv *kv;
    const struct worker_remote *remote; /* NULL where all experts are the program's own */
    uint32_t max_rows;                  /* of a batch */
    bool inexact; /* float products of many rows may be OpenBLAS's: a row's bits depend on its
                     batch, but on neither threads nor cuts */
};

enum proto_status worker_exec_create(struct worker_exec **out, const struct shard_program *program,
                                     const struct worker_weights *weights,
                                     const struct worker_exec_options *options,
                                     struct proto_error *error);
void worker_exec_destroy(struct worker_exec *exec);

/* Scratch that create takes, in bytes, for planning. */
uint64_t worker_exec_scratch_bytes(const struct shard_program *program, uint32_t max_rows,
                                   unsigned threads, uint64_t ctx);

/* Floats from one residual row to the next in memory. Rows on the wire are packed:
 * shard_row_floats of them each. */
size_t worker_exec_stride(const struct shard_program *program);

/* Puts n rows that came from the stage before at x, and packs those for the stage after, at x. */
void worker_exec_unpack_rows(const struct shard_program *program, float *x, const void *from,
                             size_t n);
void worker_exec_pack_rows(const struct shard_program *program, float *x, size_t n);

struct worker_batch {
    const struct proto_range *ranges;
    uint32_t n_ranges;
    const int32_t *ids; /* rows ids, for a slice with the embedding; checked against n_vocab */
    float *x;           /* rows x stride, 64-byte aligned: in (without embedding), and out */
};

/* Logits of wanted rows, at most SHARD_TAIL_ROWS at a time, in the order of the batch; rows[i] says
 * whose they are. Rows of logits are `ld` floats apart and may be changed. */
struct worker_result_row {
    uint32_t range;
    uint64_t pos;
};
typedef enum proto_status worker_logits_fn(void *arg, const struct worker_result_row *rows,
                                           uint32_t n_rows, float *logits, size_t ld,
                                           struct proto_error *error);

/* Runs the program on a batch: reserves KV, computes, trims. Sequences, positions and ids are
 * checked (they come from a peer); a sequence may be in a batch once. on_logits is called for
 * slices with a head where rows are wanted. On failure the batch's sequences are left in an
 * unspecified state. */
enum proto_status worker_exec_run(struct worker_exec *exec, const struct worker_batch *batch,
                                  worker_logits_fn *on_logits, void *arg,
                                  struct proto_error *error);

/* How often each expert was chosen by a row since the last call: n_layers x n_experts counts of the
 * program's layers, zero for those without experts. Any thread. */
void worker_exec_usage(struct worker_exec *exec, uint32_t *counts);

/* Operations executed so far, for liveness; any thread. */
uint64_t worker_exec_steps(const struct worker_exec *exec);

#endif
