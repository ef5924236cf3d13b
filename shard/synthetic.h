/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Models without a file: the header of a synthetic model (mkmodel.h) in memory, and seeded weights
 * at the speed of memory, so that a cluster can be measured before anyone has the model. Weights
 * have the types, shapes and magnitudes of mkmodel's; of a large tensor only the first blocks are
 * made, and pieces of it are windows on their endless repetition, each from a place of its own. So
 * the same shape has the same weights on every machine, however it is cut. Constant after creation,
 * any thread.
 */
#ifndef SHARD_SYNTHETIC_H
#define SHARD_SYNTHETIC_H

#include "shard/gguf.h"
#include "shard/pieces.h"

struct shard_synthetic;

/* shape: "NAME:TYPE", a preset of mkmodel or a known model, and a quantisation ("maverick:Q4_K").
 * PROTO_INVALID lists the names. The caller destroys it. */
enum proto_status shard_synthetic_create(struct shard_synthetic **out, const char *shape,
                                         struct proto_error *error);
/* NULL is allowed. */
void shard_synthetic_destroy(struct shard_synthetic *synthetic);

/* The header, vocabulary and all; tensors have no data. */
const struct shard_gguf *shard_synthetic_gguf(const struct shard_synthetic *synthetic);
/* How it differs where it stands for an architecture that cannot be run, else NULL. */
const char *shard_synthetic_note(const struct shard_synthetic *synthetic);

/* The weights of one tensor, for a while. */
struct shard_synthetic_tensor {
    uint8_t *bytes;
    uint64_t period; /* blocks; 0: bytes are the whole tensor */
    size_t block_bytes;
    uint64_t seed;
};

/* Takes as much memory as the tensor's largest piece, and at most a few MiB more. */
enum proto_status shard_synthetic_tensor_init(struct shard_synthetic_tensor *out,
                                              const struct shard_synthetic *synthetic,
                                              uint32_t number, struct proto_error *error);
/* Of a zeroed one too. */
void shard_synthetic_tensor_finish(struct shard_synthetic_tensor *tensor);

/* The bytes of piece i, until finish. */
const uint8_t *shard_synthetic_piece(const struct shard_synthetic_tensor *tensor, uint64_t i,
                                     const struct shard_piece *piece);

#endif
