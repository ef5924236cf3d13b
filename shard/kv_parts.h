/* SPDX-License-Identifier: Apache-2.0 */
/* What shard/kv.c and shard/kv_move.c share. */
#ifndef SHARD_KV_PARTS_H
#define SHARD_KV_PARTS_H

#include "shard/kv_state.h"

#define SHARD__KV_PAGE_ALIGN 64u

struct shard__kv_table {
    void **pages; /* by position / SHARD_KV_PAGE_ROWS; NULL: not there */
    size_t n_pages, capacity;
    size_t first_kept; /* pages before this one were given back */
};

struct shard__kv_layer {
    uint32_t n_head_kv;
    size_t k_bytes, v_bytes; /* of one head's rows in a page */
    size_t page_bytes;       /* 0: the slice keeps no keys and values of it */
    enum shard_mask mask;
    uint32_t window;
};

struct shard_kv {
    enum kern_kv type;
    uint32_t layer_first, n_layers, max_seqs;
    uint64_t ctx, max_bytes, used_bytes;
    struct shard__kv_layer *layers;
    struct shard__kv_table *tables; /* [seq][layer] */
    struct shard__states *states;
    uint64_t *ends;     /* position after the last of each sequence */
    uint64_t *versions; /* how often positions of it were forgotten */
};

/* Of the i-th layer. */
struct shard__kv_table *shard__kv_table(const struct shard_kv *kv, uint32_t seq, uint32_t i);

/* Gives back the pages [first, end) of the i-th layer's table. */
void shard__kv_release(struct shard_kv *kv, uint32_t i, struct shard__kv_table *t, size_t first,
                       size_t end);

/* Room for n_pages in the table. */
enum proto_status shard__kv_grow(struct shard__kv_table *t, size_t n_pages,
                                 struct proto_error *error);

/* Takes blocks of recurrent states up to n in all, and gives those from the n-th on back. */
enum proto_status shard__kv_take_states(struct shard_kv *kv, uint32_t seq, uint32_t n,
                                        struct proto_error *error);
void shard__kv_give_back_states(struct shard_kv *kv, uint32_t seq, uint32_t n);

#endif
