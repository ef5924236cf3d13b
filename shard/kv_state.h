/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The states of a slice's recurrent layers, private to shard/kv*.c. A sequence has one block with
 * the state of each such layer, after its last position, and up to SHARD_KV_SNAPSHOTS copies of
 * it as it was after a multiple of SHARD_KV_SNAPSHOT_EVERY positions: the latest such multiples.
 * Unlike keys and values a state cannot be cut back, so a sequence goes on at an earlier position
 * only from a copy. One thread.
 */
#ifndef SHARD_KV_STATE_H
#define SHARD_KV_STATE_H

#include "shard/kv.h"

struct shard__states;

/* *out is NULL where the slice has no recurrent layers; the functions below take that. */
enum proto_status shard__states_create(struct shard__states **out,
                                       const struct shard_program *program, uint32_t max_seqs,
                                       struct proto_error *error);
void shard__states_destroy(struct shard__states *states);

/* Bytes of the states of layers of a sequence of n positions, with the copies. */
uint64_t shard__states_bytes(const struct shard_program *program, uint64_t n);

/* Blocks that a sequence holds, and bytes of one. */
uint32_t shard__states_held(const struct shard__states *states, uint32_t seq);
uint64_t shard__states_block(const struct shard__states *states);

/* Blocks that a sequence of n positions holds. */
uint32_t shard__states_needed(const struct shard__states *states, uint64_t n);

/* Takes blocks up to `n` in all; PROTO_NOMEM, after which those taken before are still held. */
enum proto_status shard__states_take(struct shard__states *states, uint32_t seq, uint32_t n,
                                     struct proto_error *error);

/* Gives back the blocks from the n-th on. */
void shard__states_give_back(struct shard__states *states, uint32_t seq, uint32_t n);

/* Whether a sequence that ends at `end` can go on at pos. */
bool shard__states_can(const struct shard__states *states, uint32_t seq, uint64_t end,
                       uint64_t pos);

/* Makes the state that of pos, from which the batch goes on to next. The blocks are there. */
void shard__states_move(struct shard__states *states, uint32_t seq, uint64_t end, uint64_t pos,
                        uint64_t next);

/* Bytes of a layer's state; 0: there is none. Any layer number. */
size_t shard__states_layer(const struct shard__states *states, uint32_t layer);

/* Whether `from` keeps all layers that `states` keeps. */
bool shard__states_cover(const struct shard__states *from, const struct shard__states *states);

/* Takes over a sequence's blocks; where `from` keeps other layers as well they are copied, and
 * false says that there was no memory. */
bool shard__states_inherit(struct shard__states *states, struct shard__states *from, uint32_t seq);

/* Copies the current states of layers that both keep into the sequence's first block, which is
 * there; no copies are kept. */
void shard__states_join(struct shard__states *states, const struct shard__states *from,
                        uint32_t seq);

/* A layer's part of a block: 0 the current one, then the copies. */
float *shard__states_at(const struct shard__states *states, uint32_t seq, uint32_t block,
                        uint32_t layer);

const struct shard__states *shard__kv_states(const struct shard_kv *kv);

#endif
