/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A slice of a model as a worker holds it: the model card, and cut from it what the worker computes
 * as a stage (program, weights, KV cache, executor), or what it holds for the stages of others
 * (experts), or both. Built on a loading thread, then used by the computing thread and by the
 * experts' thread.
 */
#ifndef WORKER_SLICE_H
#define WORKER_SLICE_H

#include "worker/boundary.h"
#include "worker/expert_host.h"
#include "worker/load.h"
#include "worker/supply.h"

struct worker_slice {
    void *card; /* the model card's bytes, to tell whether another slice is of the same model */
    size_t card_bytes;
    struct shard_gguf *gguf;
    struct shard_model *model;
    struct shard_gguf *file;         /* the local copy, where experts stay in it; or NULL */
    struct shard_expert_part *parts; /* the load's */
    struct shard_program *program;   /* the stage's, NULL: none */
    struct worker_weights weights;
    struct shard_kv *kv;
    struct worker_exec *exec;
    struct worker_boundary *boundary;   /* NULL: none, or nothing is sent on */
    struct shard_program *host_program; /* the experts', NULL: none */
    struct worker_weights host_weights;
    struct worker_expert_host *host;
    struct worker_remote remote; /* the executor's */
    struct proto_load load;      /* what was asked for; strings and arrays are not kept */
    bool synthetic;              /* the weights were made */
    struct worker_supply *supply;
    uint64_t weight_bytes, kv_limit_bytes, scratch_bytes; /* of both */
};

#define WORKER_MAX_SLICES                                                                          \
    4u /* at once: in force, the next, and those that a newer next replaces                        \
        */

struct worker_slice_options {
    /* Slices from which weights may be shared; created and destroyed on the same thread. */
    struct worker_slice *before[WORKER_MAX_SLICES];
    uint32_t n_before;
    const struct kern_table *table;
    struct kern_pool *compute_pool; /* the executor's; borrowed for the slice's life */
    struct worker_remote remote;    /* reaches the experts that others hold */
    unsigned threads;               /* that loading may use */
    const char *cache_dir;          /* of the store; NULL: the default */
    bool keep_packed;               /* keep packed weights in it */
    uint64_t memory_bytes;          /* for all; experts beyond it stay in a local copy of the model
                                       (worker/lazy.h); 0: no limit */
    uint64_t cache_limit_bytes;     /* as of shard_store_limit */
    struct worker_supply *supply;   /* gives others what the slice holds; borrowed */
    uint64_t boundary_bytes;        /* for rows that are sent on; 0: none are kept */
    const struct worker_fetch *fetch;
    void (*progress)(void *arg, uint64_t done, uint64_t total, uint64_t fetched);
    void *progress_arg;
    const atomic_bool *cancel;
};

/* Builds the slice that `load` asks for from the model card. Reads load->files where they are
 * given and match the card, else the store and options->fetch. */
enum proto_status worker_slice_create(struct worker_slice **out, const struct proto_load *load,
                                      const void *card, size_t card_bytes,
                                      const struct worker_slice_options *options,
                                      struct proto_error *error);
void worker_slice_destroy(struct worker_slice *slice);

/* Whether weights of it were lost (see shard_mapped_lost): nothing that was computed with it since
 * the last question is worth anything. Any thread. */
bool worker_slice_lost(const struct worker_slice *slice);

#endif
