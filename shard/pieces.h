/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How a tensor is cut into pieces: the unit that is hashed, cached and sent. A piece is a whole
 * number of panels of rows (16 rows) and at most PROTO_PIECE_BYTES long (one panel where even that
 * is longer); each expert starts a new piece. Pure functions, any thread.
 */
#ifndef SHARD_PIECES_H
#define SHARD_PIECES_H

#include "shard/gguf.h"

struct shard_piece {
    uint64_t offset; /* in the tensor */
    uint64_t bytes;
    uint64_t mat;       /* matrix (expert) it belongs to */
    uint64_t row_first; /* in that matrix */
    uint64_t rows;
};

/* Rows of n_dims - 1 .. are counted over dims[1]; a 1-D tensor is one row. */
uint64_t shard_pieces_count(const struct shard_tensor *tensor);

/* Piece i < count. */
struct shard_piece shard_pieces_get(const struct shard_tensor *tensor, uint64_t i);

/* BLAKE2b-256 of bytes. */
void shard_hash(uint8_t hash[PROTO_HASH_BYTES], const void *bytes, size_t len);

#endif
