/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The KV cache of a slice: for each sequence and layer, pages of SHARD_KV_PAGE_ROWS positions. A
 * page holds, for each KV head, its K rows and then its V rows. Pages come from one pool with a
 * limit; a chunked or windowed layer gives back the pages that no later query can see. One thread
 * (the one that executes).
 */
#ifndef SHARD_KV_H
#define SHARD_KV_H

#include "shard/program.h"

#define SHARD_KV_PAGE_ROWS 32u

struct shard_kv;

struct shard_kv_options {
    enum kern_kv type;
    uint32_t max_seqs;
    uint64_t ctx;       /* positions a sequence may take; 0: PROTO_MAX_CONTEXT */
    uint64_t max_bytes; /* of pages; 0: no limit */
};

enum proto_status shard_kv_create(struct shard_kv **out, const struct shard_program *program,
                                  const struct shard_kv_options *options,
                                  struct proto_error *error);
void shard_kv_destroy(struct shard_kv *kv);

/* Makes room for positions [pos, pos + n) of a sequence in every layer of the slice, after which
 * the sequence ends. On failure (PROTO_CAPACITY: the text says how much is missing) nothing has
 * changed. pos may go back over what is there (rows are overwritten, later ones forgotten), but
 * not to where a layer has given back positions that it would have to see, and it may not skip
 * positions; the end may not pass the context: PROTO_INVALID. */
enum proto_status shard_kv_reserve(struct shard_kv *kv, uint32_t seq, uint64_t pos, uint32_t n,
                                   struct proto_error *error);

/* After a batch that ended at position next - 1: gives back pages that no query at next or later
 * sees. */
void shard_kv_trim(struct shard_kv *kv, uint32_t seq, uint64_t next);

/* Forgets a sequence. */
void shard_kv_drop(struct shard_kv *kv, uint32_t seq);

/* The page tables of one KV head: element i points at rows of positions 32 i .. 32 i + 31. Valid
 * until the next reserve, trim or drop of that sequence. Released pages are NULL. The table is of
 * page bases: a head's K rows start k_offset bytes into a page, its V rows v_offset. */
struct shard_kv_view {
    void *const *pages;
    size_t n_pages;
};
struct shard_kv_view shard_kv_view(const struct shard_kv *kv, uint32_t seq, uint32_t layer);
size_t shard_kv_k_offset(const struct shard_kv *kv, uint32_t layer, uint32_t head);
size_t shard_kv_v_offset(const struct shard_kv *kv, uint32_t layer, uint32_t head);

uint32_t shard_kv_max_seqs(const struct shard_kv *kv);
enum kern_kv shard_kv_type(const struct shard_kv *kv);

/* Bytes of pages in use, and the bytes that a sequence of n positions takes at most: a chunked or
 * windowed layer holds its window and, until the batch is done, the batch's rows. */
uint64_t shard_kv_used(const struct shard_kv *kv);
uint64_t shard_kv_bytes(const struct shard_program *program, enum kern_kv type, uint64_t n);

#endif
