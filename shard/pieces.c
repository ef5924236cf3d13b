/* SPDX-License-Identifier: Apache-2.0 */
#include "shard/pieces.h"

#include <inttypes.h>
#include <sodium.h>

/* How every matrix of a tensor is cut. */
struct cut {
    uint64_t row_bytes;
    uint64_t rows;           /* of a matrix */
    uint64_t rows_per_piece; /* a multiple of KERN_PANEL */
    uint64_t per_mat;        /* pieces of a matrix */
};

static struct cut cut_of(const struct shard_tensor *tensor)
{
    struct cut cut = {.row_bytes = kern_type_bytes(tensor->type, tensor->dims[0]),
                      .rows = tensor->dims[1]};
    uint64_t panels = 1;
    if (cut.row_bytes > 0 && cut.row_bytes <= PROTO_PIECE_BYTES / KERN_PANEL)
        panels = PROTO_PIECE_BYTES / (cut.row_bytes * KERN_PANEL);
    cut.rows_per_piece = panels * KERN_PANEL;
    cut.per_mat = cut.rows / cut.rows_per_piece + (cut.rows % cut.rows_per_piece != 0);
    return cut;
}

uint64_t shard_pieces_count(const struct shard_tensor *tensor)
{
    return cut_of(tensor).per_mat * tensor->dims[2] * tensor->dims[3];
}

struct shard_piece shard_pieces_get(const struct shard_tensor *tensor, uint64_t i)
{
    struct cut cut = cut_of(tensor);
    struct shard_piece piece = {.mat = i / cut.per_mat,
                                .row_first = i % cut.per_mat * cut.rows_per_piece};
    uint64_t left = cut.rows - piece.row_first;
    piece.rows = left < cut.rows_per_piece ? left : cut.rows_per_piece;
    piece.bytes = piece.rows * cut.row_bytes;
    piece.offset = (piece.mat * cut.rows + piece.row_first) * cut.row_bytes;
    return piece;
}

enum proto_status shard_pieces_chunk(const struct shard_tensor *tensor, uint64_t i, uint64_t offset,
                                     uint32_t bytes, struct shard_piece *piece,
                                     struct proto_error *error)
{
    *piece = (struct shard_piece){0};
    if (i < shard_pieces_count(tensor))
        *piece = shard_pieces_get(tensor, i);
    if (bytes > 0 && bytes <= PROTO_CHUNK_BYTES && offset <= piece->bytes &&
        bytes <= piece->bytes - offset)
        return PROTO_OK;
    return proto_fail(error, PROTO_FORMAT,
                      "a worker asked for bytes %" PRIu64 "+%" PRIu32 " of piece %" PRIu64
                      " of %s, which has %" PRIu64,
                      offset, bytes, i, tensor->name, piece->bytes);
}

void shard_hash(uint8_t hash[PROTO_HASH_BYTES], const void *bytes, size_t len)
{
    /* Before sodium_init the library hashes too, but with its slow portable code. */
    int started = sodium_init();
    (void)started;
    crypto_generichash(hash, PROTO_HASH_BYTES, bytes, len, NULL, 0);
}

_Static_assert(SHARD_TAG_BYTES == crypto_onetimeauth_poly1305_BYTES &&
                   PROTO_KEY_BYTES == crypto_onetimeauth_poly1305_KEYBYTES,
               "a tag is Poly1305's");

void shard_tag(uint8_t tag[SHARD_TAG_BYTES], const void *bytes, size_t len,
               const uint8_t key[PROTO_KEY_BYTES])
{
    crypto_onetimeauth_poly1305(tag, bytes, len, key);
}

void shard_tag_key(uint8_t key[PROTO_KEY_BYTES])
{
    crypto_onetimeauth_poly1305_keygen(key);
}
