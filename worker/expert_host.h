/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Experts that a worker computes for the stages of others. One thread calls; it may be another than
 * the worker's stage has, on the same pool.
 */
#ifndef WORKER_EXPERT_HOST_H
#define WORKER_EXPERT_HOST_H

#include "worker/exec.h"

struct worker_expert_host;

struct worker_expert_host_options {
    const struct kern_table *table; /* borrowed, as is the pool */
    struct kern_pool *pool;
    uint32_t max_rows; /* of the stages' batches */
    bool inexact;      /* as in struct worker_exec_options */
};

/* program is of shard_program_create_host, weights those that worker_load filled for it; both are
 * borrowed. */
enum proto_status worker_expert_host_create(struct worker_expert_host **out,
                                            const struct shard_program *program,
                                            const struct worker_weights *weights,
                                            const struct worker_expert_host_options *options,
                                            struct proto_error *error);
void worker_expert_host_destroy(struct worker_expert_host *host);

/* Computes the answer to a request for experts of `layer` (worker/expert_rows.h), which is valid
 * until the next call. Both layer and request come from a peer and are checked: PROTO_NOTFOUND
 * where the host lacks an expert that is asked for, PROTO_FORMAT, PROTO_LIMIT; the host goes on
 * after any error. */
enum proto_status worker_expert_host_run(struct worker_expert_host *host, uint32_t layer,
                                         const void *request, size_t len, const void **answer,
                                         size_t *answer_len, struct proto_error *error);

/* Memory that it takes besides the weights (shard_program_weight_bytes), in bytes, at most. */
uint64_t worker_expert_host_bytes(const struct shard_program *program, uint32_t max_rows);

#endif
