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

/* The piece that a question for bytes [offset, offset + bytes) of piece i is about. PROTO_FORMAT
 * where the tensor has no such bytes, or they are none or more than a chunk. */
enum proto_status shard_pieces_chunk(const struct shard_tensor *tensor, uint64_t i, uint64_t offset,
                                     uint32_t bytes, struct shard_piece *piece,
                                     struct proto_error *error);

/* BLAKE2b-256 of bytes. */
void shard_hash(uint8_t hash[PROTO_HASH_BYTES], const void *bytes, size_t len);

/* Poly1305 of bytes under a random key of 32 bytes: six times as fast, to tell bytes apart that
 * somebody without the key chose. */
#define SHARD_TAG_BYTES 16u
void shard_tag(uint8_t tag[SHARD_TAG_BYTES], const void *bytes, size_t len,
               const uint8_t key[PROTO_KEY_BYTES]);
void shard_tag_key(uint8_t key[PROTO_KEY_BYTES]);

#endif
