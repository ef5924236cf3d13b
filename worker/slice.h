/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A slice of a model as a worker holds it: the model card, the program cut from it, the weights,
 * the KV cache and the executor. Built on a loading thread, then used by the computing thread.
 */
#ifndef WORKER_SLICE_H
#define WORKER_SLICE_H

#include "worker/load.h"

struct worker_slice {
    void *card; /* the model card's bytes, to tell whether a later load asks for the same slice */
    size_t card_bytes;
    struct shard_gguf *gguf;
    struct shard_model *model;
    struct shard_program *program;
    struct worker_weights weights;
    struct shard_kv *kv;
    struct worker_exec *exec;
    struct proto_load load; /* what was asked for; strings and arrays are not kept */
    uint64_t kv_limit_bytes, scratch_bytes;
};

struct worker_slice_options {
    const struct kern_table *table;
    struct kern_pool *compute_pool; /* the executor's; borrowed for the slice's life */
    unsigned threads;               /* that loading may use */
    const char *cache_dir;          /* of the store; NULL: the default */
    bool keep_packed;               /* keep packed weights in it */
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

/* Whether the slice is what this load asks for (epoch and neighbours aside). */
bool worker_slice_serves(const struct worker_slice *slice, const struct proto_load *load,
                         const void *card, size_t card_bytes);

/* Takes the slice into a new epoch: forgets every sequence. */
void worker_slice_renew(struct worker_slice *slice, uint64_t epoch);

#endif
