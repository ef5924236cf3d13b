/* SPDX-License-Identifier: Apache-2.0 */
#include "shard/experts.h"

#include <stdbool.h>
#include <string.h>

#include "proto/limits.h"

struct shard_segments shard_expert_segments(uint32_t ff_expert)
{
    struct shard_segments s = {.n = 1, .at = {0, ff_expert}};
    uint32_t block = ff_expert % 256 == 0 ? 256 : 32, blocks = ff_expert / block;
    if (ff_expert < 256 || ff_expert % block != 0)
        return s;
    s.n = blocks < SHARD_EXPERT_SEGMENTS ? blocks : SHARD_EXPERT_SEGMENTS;
    for (uint32_t i = 0; i <= s.n; i++)
        s.at[i] = i * blocks / s.n * block;
    return s;
}

void shard_part_segments(const struct shard_expert_part *part, uint32_t n, uint32_t *first,
                         uint32_t *end)
{
    *first = *end = 0;
    if (part->slice >= part->n_slices || part->n_slices > n)
        return;
    *first = part->slice * n / part->n_slices;
    *end = (part->slice + 1) * n / part->n_slices;
}

bool shard_part_has(const struct shard_expert_part *part, uint32_t n, uint32_t layer,
                    uint32_t expert, uint32_t segment)
{
    uint32_t first, end;
    shard_part_segments(part, n, &first, &end);
    return layer >= part->layer_first && layer < part->layer_end && expert >= part->expert_first &&
           expert < part->expert_end && segment >= first && segment < end;
}

static uint32_t nodes_between(uint32_t lo, uint32_t hi, uint32_t first, uint32_t end)
{
    uint32_t mid = (lo + hi) / 2;
    if (end <= lo || hi <= first)
        return 0;
    if (first <= lo && hi <= end)
        return 1;
    return nodes_between(lo, mid, first, end) + nodes_between(mid, hi, first, end);
}

uint32_t shard_expert_nodes(uint32_t n_experts, uint32_t first, uint32_t end)
{
    return first < end ? nodes_between(0, n_experts, first, end) : 0;
}

/* Maximal nodes of the tree over [lo, hi) all of whose experts are held. */
static uint32_t count_nodes(const bool *held, uint32_t lo, uint32_t hi)
{
    const bool *missing = memchr(held + lo, false, hi - lo);
    if (!missing)
        return 1;
    if (hi - lo == 1)
        return 0;
    uint32_t mid = (lo + hi) / 2;
    return count_nodes(held, lo, mid) + count_nodes(held, mid, hi);
}

uint32_t shard_expert_vectors_most(const struct shard_expert_part *parts, uint32_t n_parts,
                                   const struct shard_expert_layer *layer, uint32_t worker)
{
    uint32_t sum = 0;
    for (uint32_t segment = 0; segment < layer->n_segments; segment++) {
        bool held[PROTO_MAX_EXPERTS] = {false}, replicas = false;
        uint32_t n_held = 0;
        for (uint32_t x = 0; x < layer->n_experts; x++) {
            uint32_t n = 0;
            for (uint32_t i = 0; i < n_parts; i++) {
                bool has = shard_part_has(&parts[i], layer->n_segments, layer->layer, x, segment);
                held[x] |= has && parts[i].worker == worker;
                n += has;
            }
            n_held += held[x];
            replicas |= held[x] && n > 1;
        }
        uint32_t most = n_held < layer->n_used ? n_held : layer->n_used;
        uint32_t nodes = n_held ? count_nodes(held, 0, layer->n_experts) : 0;
        sum += replicas || most < nodes ? most : nodes;
    }
    return sum;
}
