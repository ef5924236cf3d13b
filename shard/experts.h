/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How routed experts may lie on several machines without changing a bit of the result.
 *
 * An expert's FFN width is cut into segments at block boundaries, segment i of n covering blocks
 * [i * b / n, (i + 1) * b / n) of the b blocks of `down`'s rows. A row's sum over its experts is
 *     sum over segments (tree) of sum over experts (tree) of weight * (down . h of that segment),
 * where both sums are binary trees over the index range, split in the middle, (lo + hi) / 2, in
 * which what is absent contributes nothing (a node with one child is that child). So whoever holds
 * all of a row's experts under a node can add them up, and the additions are those of one machine.
 */
#ifndef SHARD_EXPERTS_H
#define SHARD_EXPERTS_H

#include <stdint.h>

/* Segments of an expert, fewer where its width has fewer blocks of 256. */
#define SHARD_EXPERT_SEGMENTS 4u

/* Experts that a worker holds: of each MoE layer in [layer_first, layer_end) the experts
 * [expert_first, expert_end), and of their FFNs slice `slice` of n_slices: segments
 * [slice * s / n_slices, (slice + 1) * s / n_slices) of the layer's s. */
struct shard_expert_part {
    uint32_t worker;
    uint32_t layer_first, layer_end;
    uint32_t expert_first, expert_end;
    uint32_t slice, n_slices;
};

#endif
