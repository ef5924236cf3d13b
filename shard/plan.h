/* SPDX-License-Identifier: Apache-2.0 */
/* Which worker gets which layers. Pure: numbers in, plan out. */
#ifndef SHARD_PLAN_H
#define SHARD_PLAN_H

#include "shard/model.h"
#include "kernels/table.h"

struct shard_plan_worker {
    const char *name;      /* for error texts */
    uint64_t memory_bytes; /* what it may use for weights, KV and scratch */
    uint32_t threads;      /* each has scratch of its own */
};

struct shard_stage {
    uint32_t worker;                 /* index of the worker */
    uint32_t layer_first, layer_end; /* [first, end) */
    bool embed, head;
    uint64_t weight_bytes, kv_bytes, scratch_bytes; /* estimates in memory */
};

struct shard_plan {
    uint32_t n_stages;
    struct shard_stage *stages; /* in the order of the pipeline */
};

struct shard_plan_options {
    enum kern_kv kv;
    uint64_t ctx;       /* positions a sequence may take */
    uint32_t max_seqs;  /* sequences that must fit at full length */
    uint32_t max_rows;  /* rows of a batch */
    const char *layers; /* "0-11,12-23": explicit ranges for workers in order, or NULL */
};

/* Splits by layers in proportion to memory; stages in the order of the workers; a worker may be
 * left out only if there are more workers than layers. PROTO_CAPACITY names what is missing and
 * how much, and the largest context that would fit; PROTO_INVALID explains a bad `layers`. The
 * caller destroys the plan. */
enum proto_status shard_plan_create(struct shard_plan **out, const struct shard_model *model,
                                    const struct shard_plan_worker *workers, uint32_t n_workers,
                                    const struct shard_plan_options *options,
                                    struct proto_error *error);
void shard_plan_destroy(struct shard_plan *plan);

#endif
