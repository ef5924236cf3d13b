/* SPDX-License-Identifier: Apache-2.0 */
#include "shard/kv_state.h"

#include <stdlib.h>
#include <string.h>

#define BLOCKS (1u + SHARD_KV_SNAPSHOTS)

struct sequence {
    char *blocks[BLOCKS];  /* the current state, then copies; taken in this order */
    uint64_t kept[BLOCKS]; /* position after which a copy was made; 0: none */
};

struct shard__states {
    uint32_t layer_first, n_layers, max_seqs;
    uint64_t *offsets; /* of each layer in a block, and the block's bytes */
    struct sequence *seqs;
};

static uint64_t layer_bytes(const struct shard_model *m, uint32_t il)
{
    uint64_t floats = shard_delta_state_floats(&m->delta) + shard_delta_conv_floats(&m->delta);
    return m->layers[il].delta ? floats * sizeof(float) : 0;
}

static uint64_t block_bytes(const struct shard_program *program)
{
    uint64_t sum = 0;
    for (uint32_t il = program->layer_first; il < program->layer_end; il++)
        sum += layer_bytes(program->model, il);
    return sum;
}

static uint32_t blocks_needed(uint64_t n)
{
    uint64_t copies = n / SHARD_KV_SNAPSHOT_EVERY;
    return 1 + (uint32_t)(copies < SHARD_KV_SNAPSHOTS ? copies : SHARD_KV_SNAPSHOTS);
}

/* The block that keeps the state after position p - 1, a multiple above 0. */
static uint32_t block_of(uint64_t p)
{
    return 1 + (uint32_t)((p / SHARD_KV_SNAPSHOT_EVERY - 1) % SHARD_KV_SNAPSHOTS);
}

uint64_t shard__states_bytes(const struct shard_program *program, uint64_t n)
{
    return blocks_needed(n) * block_bytes(program);
}

enum proto_status shard__states_create(struct shard__states **out,
                                       const struct shard_program *program, uint32_t max_seqs,
                                       struct proto_error *error)
{
    *out = NULL;
    if (block_bytes(program) == 0)
        return PROTO_OK;
    struct shard__states *s = calloc(1, sizeof *s);
    if (!s)
        return proto_fail_nomem(error, sizeof *s, "recurrent states");
    s->layer_first = program->layer_first;
    s->n_layers = program->layer_end - program->layer_first;
    s->max_seqs = max_seqs;
    s->offsets = calloc((size_t)s->n_layers + 1, sizeof *s->offsets);
    s->seqs = calloc(max_seqs, sizeof *s->seqs);
    if (!s->offsets || !s->seqs) {
        shard__states_destroy(s);
        return proto_fail_nomem(error, max_seqs * sizeof *s->seqs, "recurrent states");
    }
    for (uint32_t i = 0; i < s->n_layers; i++)
        s->offsets[i + 1] = s->offsets[i] + layer_bytes(program->model, s->layer_first + i);
    *out = s;
    return PROTO_OK;
}

void shard__states_destroy(struct shard__states *states)
{
    if (!states)
        return;
    for (uint32_t seq = 0; states->seqs && seq < states->max_seqs; seq++)
        shard__states_give_back(states, seq, 0);
    free(states->offsets);
    free(states->seqs);
    free(states);
}

uint32_t shard__states_held(const struct shard__states *states, uint32_t seq)
{
    uint32_t n = 0;
    while (states && n < BLOCKS && states->seqs[seq].blocks[n])
        n++;
    return n;
}

uint64_t shard__states_block(const struct shard__states *states)
{
    return states ? states->offsets[states->n_layers] : 0;
}

uint32_t shard__states_needed(const struct shard__states *states, uint64_t n)
{
    return states ? blocks_needed(n) : 0;
}

enum proto_status shard__states_take(struct shard__states *states, uint32_t seq, uint32_t n,
                                     struct proto_error *error)
{
    uint64_t bytes = shard__states_block(states);
    for (uint32_t i = shard__states_held(states, seq); i < n; i++) {
        char *block = aligned_alloc(64, bytes);
        if (!block)
            return proto_fail_nomem(error, bytes, "a sequence's recurrent state");
        states->seqs[seq].blocks[i] = block;
        states->seqs[seq].kept[i] = 0;
    }
    return PROTO_OK;
}

void shard__states_give_back(struct shard__states *states, uint32_t seq, uint32_t n)
{
    for (uint32_t i = n; states && i < BLOCKS; i++) {
        free(states->seqs[seq].blocks[i]);
        states->seqs[seq].blocks[i] = NULL;
        states->seqs[seq].kept[i] = 0;
    }
}

bool shard__states_can(const struct shard__states *states, uint32_t seq, uint64_t end, uint64_t pos)
{
    if (!states || pos == end || pos == 0)
        return true;
    return pos % SHARD_KV_SNAPSHOT_EVERY == 0 && states->seqs[seq].kept[block_of(pos)] == pos;
}

void shard__states_move(struct shard__states *states, uint32_t seq, uint64_t end, uint64_t pos,
                        uint64_t next)
{
    if (!states)
        return;
    struct sequence *s = &states->seqs[seq];
    uint64_t bytes = shard__states_block(states), every = SHARD_KV_SNAPSHOT_EVERY;
    if (pos == 0)
        memset(s->blocks[0], 0, bytes);
    else if (pos != end)
        memcpy(s->blocks[0], s->blocks[block_of(pos)], bytes);
    for (uint32_t i = 1; i < BLOCKS; i++)
        s->kept[i] = s->kept[i] > pos ? 0 : s->kept[i];
    for (uint64_t p = (pos / every + 1) * every; p <= next; p += every)
        s->kept[block_of(p)] = p;
}

size_t shard__states_layer(const struct shard__states *states, uint32_t layer)
{
    if (!states || layer < states->layer_first || layer - states->layer_first >= states->n_layers)
        return 0;
    uint32_t i = layer - states->layer_first;
    return states->offsets[i + 1] - states->offsets[i];
}

bool shard__states_cover(const struct shard__states *from, const struct shard__states *states)
{
    return !states ||
           (from && states->layer_first >= from->layer_first &&
            states->layer_first + states->n_layers <= from->layer_first + from->n_layers);
}

bool shard__states_inherit(struct shard__states *states, struct shard__states *from, uint32_t seq)
{
    if (!states)
        return true;
    struct sequence *to = &states->seqs[seq], *s = &from->seqs[seq];
    uint32_t held = shard__states_held(from, seq), first = states->layer_first - from->layer_first;
    if (states->n_layers == from->n_layers) {
        *to = *s;
        memset(s, 0, sizeof *s);
        return true;
    }
    if (shard__states_take(states, seq, held, NULL) != PROTO_OK)
        return false;
    for (uint32_t i = 0; i < held; i++) {
        to->kept[i] = s->kept[i];
        memcpy(to->blocks[i], s->blocks[i] + from->offsets[first], shard__states_block(states));
    }
    return true;
}

void shard__states_join(struct shard__states *states, const struct shard__states *from,
                        uint32_t seq)
{
    struct sequence *to = &states->seqs[seq];
    memset(to->kept, 0, sizeof to->kept);
    for (uint32_t i = 0; i < states->n_layers && from && from->seqs[seq].blocks[0]; i++) {
        uint32_t layer = states->layer_first + i;
        size_t bytes = shard__states_layer(states, layer);
        if (bytes && shard__states_layer(from, layer) == bytes)
            memcpy(shard__states_at(states, seq, 0, layer), shard__states_at(from, seq, 0, layer),
                   bytes);
    }
}

float *shard__states_at(const struct shard__states *states, uint32_t seq, uint32_t block,
                        uint32_t layer)
{
    char *base = states->seqs[seq].blocks[block];
    return base ? (float *)(base + states->offsets[layer - states->layer_first]) : NULL;
}

float *shard_kv_state(const struct shard_kv *kv, uint32_t seq, uint32_t layer)
{
    return shard__states_at(shard__kv_states(kv), seq, 0, layer);
}

float *shard_kv_snapshot(const struct shard_kv *kv, uint32_t seq, uint32_t layer, uint64_t pos)
{
    if (pos == 0 || pos % SHARD_KV_SNAPSHOT_EVERY != 0)
        return NULL;
    return shard__states_at(shard__kv_states(kv), seq, block_of(pos), layer);
}
