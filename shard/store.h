/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The cache of pieces on a machine's disk: DIR/pieces/ab/abcdef....piece, named by BLAKE2b-256.
 * A piece that is being fetched is a ".part" file beside it, appended to in order, so that an
 * interrupted transfer goes on where it stopped; it is renamed only when its hash is right. No
 * half piece is ever taken for whole. One store may be used by several processes at once.
 *
 * Also the manifests: the hashes of a model file's pieces, kept under DIR/manifests by the file's
 * device, inode, size and modification time, so that a file is hashed once.
 */
#ifndef SHARD_STORE_H
#define SHARD_STORE_H

#include <stdbool.h>

#include "shard/pieces.h"

struct shard_store;

/* dir NULL: $XDG_CACHE_HOME/caravan, else $HOME/.cache/caravan. Created where missing, for its
 * owner only. Any thread. */
enum proto_status shard_store_open(struct shard_store **out, const char *dir,
                                   struct proto_error *error);
void shard_store_close(struct shard_store *store);
const char *shard_store_dir(const struct shard_store *store);

/* Bytes that pieces and packed weights together may take; 0, the default: what the disk has. Before
 * more is kept, what was used least recently and is on nobody's lease is removed. Each process that
 * uses the directory keeps to its own limit. Called before the store is used. */
void shard_store_limit(struct shard_store *store, uint64_t bytes);

/* Removes what is beyond the limit and may go, before anything more is kept. */
void shard_store_trim(struct shard_store *store);

/* What lies in a store: verified pieces, packed weights, and what is still being fetched or
 * packed. */
enum shard_kept { SHARD_KEPT_PIECE, SHARD_KEPT_PACKED, SHARD_KEPT_PART, SHARD_N_KEPT };

struct shard_store_use {
    uint64_t files, bytes, leased_bytes;
    int64_t oldest, latest; /* uses, Unix time; 0 without files */
};
enum proto_status shard_store_look(const struct shard_store *store,
                                   struct shard_store_use out[SHARD_N_KEPT],
                                   struct proto_error *error);

/* Removes what was used least recently until so many bytes are freed, or nothing is left that may
 * go: what is on a lease or being written stays. */
enum proto_status shard_store_evict(const struct shard_store *store, uint64_t bytes,
                                    uint64_t *freed, struct proto_error *error);

/* A list of names, of pieces and packed weights, that its owner needs: no process removes them to
 * make room while the owner lives. Other locks than this do not hold them: what is damaged goes.
 * Any thread; NULL is allowed for a lease. */
struct shard_lease;
enum proto_status shard_lease_create(struct shard_lease **out, struct shard_store *store,
                                     struct proto_error *error);
void shard_lease_add(struct shard_lease *lease, const uint8_t name[PROTO_HASH_BYTES]);
void shard_lease_destroy(struct shard_lease *lease);

/* A verified piece, mapped read-only. PROTO_NOTFOUND where the store does not have it; a piece on
 * disk whose length or hash is wrong is removed and counts as not found (logged). */
struct shard_mapped {
    const void *data;
    size_t len;
    struct shard__guard *guard;
};
enum proto_status shard_store_map(struct shard_store *store, const uint8_t hash[PROTO_HASH_BYTES],
                                  uint64_t bytes, struct shard_mapped *out,
                                  struct proto_error *error);
void shard_store_unmap(struct shard_mapped *mapped);

/* Whether bytes of it turned out not to be there any more: the file was cut short, or its disk
 * fails. They read as zeros, so what was computed from it is worth nothing until this was asked. */
bool shard_mapped_lost(const struct shard_mapped *mapped);

/* Whether the store has a piece, or a part of it; nothing is verified. */
bool shard_store_knows(const struct shard_store *store, const uint8_t hash[PROTO_HASH_BYTES]);

/* Removes a piece, where it is there; who has it mapped keeps it. */
void shard_store_drop(struct shard_store *store, const uint8_t hash[PROTO_HASH_BYTES]);

/* A transfer into the store. begin opens (or goes on with) the part file and says how many bytes
 * are there already (PROTO_NOSPACE: the store's limit); append adds bytes in order (PROTO_NOSPACE
 * on a full disk: the text names the directory and the bytes needed; PROTO_INVALID beyond the
 * piece's end; what was written stays and counts); commit verifies and renames (PROTO_CORRUPT: the
 * part is removed and must be fetched again; PROTO_INVALID: bytes are missing, the part is kept).
 * abort keeps the part for later, discard removes it; NULL is allowed for both. All three end the
 * transfer, whatever they return. A part that another transfer, of this or another process, has
 * open gives PROTO_BUSY. One thread a transfer. */
struct shard_store_part;
enum proto_status shard_store_begin(struct shard_store *store, const uint8_t hash[PROTO_HASH_BYTES],
                                    uint64_t bytes, struct shard_store_part **out, uint64_t *have,
                                    struct proto_error *error);
enum proto_status shard_store_append(struct shard_store_part *part, const void *data, size_t len,
                                     struct proto_error *error);
/* After PROTO_OK *mapped, where it is not NULL, is the piece as shard_store_map gives it, without
 * hashing its bytes a second time. */
enum proto_status shard_store_commit(struct shard_store_part *part, struct shard_mapped *mapped,
                                     struct proto_error *error);
void shard_store_abort(struct shard_store_part *part);
void shard_store_discard(struct shard_store_part *part);

/* The hashes of a model's pieces, computed tensor by tensor when first asked for and kept in the
 * store, which may be NULL. Thread-safe. gguf is borrowed and outlives the manifest. */
struct shard_manifest;
enum proto_status shard_manifest_create(struct shard_manifest **out, struct shard_store *store,
                                        const struct shard_gguf *gguf, struct proto_error *error);
void shard_manifest_destroy(struct shard_manifest *manifest);

/* hashes: shard_pieces_count(tensor) * PROTO_HASH_BYTES bytes, filled. Takes about a second a GB
 * the first time. PROTO_INVALID for a tensor that the model lacks or has no data of. What was
 * computed is saved every GB and on destroy. */
enum proto_status shard_manifest_hashes(struct shard_manifest *manifest, uint32_t tensor,
                                        uint8_t *hashes, struct proto_error *error);

#endif
