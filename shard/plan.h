/* SPDX-License-Identifier: Apache-2.0 */
/* Which worker gets which layers, and which experts. Pure: numbers in, plan out. */
#ifndef SHARD_PLAN_H
#define SHARD_PLAN_H

#include "shard/experts.h"
#include "shard/model.h"
#include "kernels/table.h"
#include "shard/plan/placement.h"

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

/* A worker that parts name. Of one that is a stage, the bytes are 0, for they are the stage's. */
struct shard_plan_host {
    uint32_t worker;
    uint64_t weight_bytes, scratch_bytes; /* estimates in memory */
};

struct shard_plan {
    uint32_t n_stages;
    struct shard_stage *stages; /* in the order of the pipeline */
    uint32_t n_hosts;
    struct shard_plan_host *hosts;
    uint32_t n_parts;
    struct shard_expert_part
        *parts;    /* of the hosts; none: stages hold the experts of their layers */
    char why[240]; /* in a line, for people; "": nothing is to be said */
};

enum shard_split_kind { SHARD_SPLIT_AUTO, SHARD_SPLIT_LAYERS, SHARD_SPLIT_EXPERTS };

struct shard_plan_options {
    enum kern_kv kv;
    uint64_t ctx;       /* positions a sequence may take */
    uint32_t max_seqs;  /* sequences that must fit at full length */
    uint32_t max_rows;  /* rows of a batch */
    const char *layers; /* "0-11,12-23": explicit ranges for workers in order, or NULL */
    /*
     * AUTO: by layers, over all workers or the first `stages`. EXPERTS: the first `stages` workers
     * are stages, and the others hold all routed experts: whole ones, or one of `slices` of each,
     * on `replicas` workers. Each stage has hosts of its own, as many as the others; where there
     * are fewer hosts than stages they serve all of them. A number of 0 means 1, and as many stages
     * as `layers` has ranges. See plan_by_rule.
     */
    enum shard_split_kind split;
    uint32_t stages, slices, replicas;
    /* Experts may be more than memory holds: what does not fit stays in the model's file, which
     * every worker has. Memory must hold all else; workers see to that themselves. */
    bool map_experts;
};

/* Splits by layers in proportion to memory; stages in the order of the workers; a worker may be
 * left out only if there are more workers than layers. PROTO_CAPACITY names what is missing and
 * how much, and the largest context that would fit; PROTO_INVALID explains a bad `layers` or a
 * split that cannot be. The caller destroys the plan. */
enum proto_status shard_plan_create(struct shard_plan **out, const struct shard_model *model,
                                    const struct shard_plan_worker *workers, uint32_t n_workers,
                                    const struct shard_plan_options *options,
                                    struct proto_error *error);
/* The same from a placement that was found otherwise, whose workers are CPUs of a cluster's
 * machines: the plan's workers are the machines' numbers. */
enum proto_status shard_plan_from(struct shard_plan **out, const struct plan_placement *placement,
                                  const struct plan_shape *shape, struct proto_error *error);
/* NULL is allowed. */
void shard_plan_destroy(struct shard_plan *plan);

#endif
