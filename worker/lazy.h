/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Experts that do not fit into memory: they stay in the model's file, which is mapped, and one is
 * packed into a slot of memory when rows use it; the slots used longest ago are taken first. Bits
 * are those of weights that are loaded whole. The executor's thread only.
 */
#ifndef WORKER_LAZY_H
#define WORKER_LAZY_H

#include "kernels/pool.h"
#include "shard/program.h"

struct worker_lazy;

/* For the matrices of all routed experts of a program, from a local copy of the model, which is
 * borrowed. bytes: for slots; it takes what a layer's operation needs at least
 * (worker_lazy_least_bytes), and never more than all experts are. Memory is taken as slots are
 * filled. PROTO_INVALID: a tensor of the file does not fit the program. */
enum proto_status worker_lazy_create(struct worker_lazy **out, const struct shard_program *program,
                                     const struct shard_gguf *file, uint64_t bytes,
                                     struct proto_error *error);
/* NULL is allowed. */
void worker_lazy_destroy(struct worker_lazy *lazy);

/* Bytes of all weights that such experts would have, and the least that slots take. */
uint64_t worker_lazy_weight_bytes(const struct shard_program *program);
uint64_t worker_lazy_least_bytes(const struct shard_program *program);

/* Whether a weight is one of these; false without any. */
bool worker_lazy_has(const struct worker_lazy *lazy, size_t weight);

/* What is brought from now on stays until the next begin. */
void worker_lazy_begin(struct worker_lazy *lazy);
/* Packs matrix `mat` of a weight, unless it is there. False: there is no room before the next
 * begin; there always is for the first WORKER_LAZY_TOGETHER. */
#define WORKER_LAZY_TOGETHER 2u
bool worker_lazy_bring(struct worker_lazy *lazy, struct kern_pool *pool, size_t weight,
                       uint32_t mat);
/* Whether the file was cut short (shard_gguf_lost): what was packed since is worth nothing. Any
 * thread. */
bool worker_lazy_lost(const struct worker_lazy *lazy);
/* The panels of a matrix that was brought. */
const void *worker_lazy_panels(const struct worker_lazy *lazy, size_t weight, uint32_t mat);

#endif
