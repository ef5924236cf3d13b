/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Weights in the layout that the kernels read, kept in a store so that a second start maps them as
 * they are: DIR/packed/ab/abcdef....packed, named by what they were made from and how (the caller's
 * hash). A file is the weight's bytes and after them a tag of 16 bytes for each MiB: Poly1305 with
 * the file's name for a key. Tags find damage, as BLAKE2b does where bytes come from elsewhere, at
 * six times its speed; against somebody who may write here nothing would help.
 *
 * A file that is being made is a ".part" beside it, as in shard/store.h. A half one, or one whose
 * bytes a power cut took, never counts as whole: its tags are wrong.
 */
#ifndef SHARD_PACKED_H
#define SHARD_PACKED_H

#include "kernels/pool.h"
#include "shard/store.h"

/* The weight of this name and so many bytes (> 0), mapped read-only and page-aligned, every byte
 * of it verified and brought into memory by the pool's threads; mapped->len has the tags in it.
 * PROTO_NOTFOUND, without a text, where the store does not have it; a file whose length or tags are
 * wrong, or that the disk does not give back, is removed and counts as not found (logged). */
enum proto_status shard_packed_map(struct shard_store *store, const uint8_t name[PROTO_HASH_BYTES],
                                   uint64_t bytes, struct kern_pool *pool,
                                   struct shard_mapped *mapped, struct proto_error *error);

/* A weight on its way into the store. begin reserves its place on the disk and *memory, page-
 * aligned, `bytes` bytes to fill in any order and from any thread. PROTO_NOSPACE where less than 10
 * GB, or a tenth of a smaller disk, would stay free, PROTO_BUSY where another transfer makes the
 * same file. */
struct shard_packed_part;
enum proto_status shard_packed_begin(struct shard_store *store,
                                     const uint8_t name[PROTO_HASH_BYTES], uint64_t bytes,
                                     struct kern_pool *pool, struct shard_packed_part **out,
                                     void **memory, struct proto_error *error);

/* Ends it, whatever is returned; the memory stays valid as *mapped, read-only, after PROTO_OK.
 * durable: returns when the bytes are on the disk; otherwise the system writes them when it
 * likes. */
enum proto_status shard_packed_commit(struct shard_packed_part *part, struct kern_pool *pool,
                                      bool durable, struct shard_mapped *mapped,
                                      struct proto_error *error);
/* Ends it and removes what was written. NULL is allowed. */
void shard_packed_abort(struct shard_packed_part *part);

#endif
