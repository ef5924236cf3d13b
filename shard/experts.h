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
 * A weighted product is rounded before it is added, and `down`'s bias is added to segment 0's
 * product before the weight.
 */
#ifndef SHARD_EXPERTS_H
#define SHARD_EXPERTS_H

#include <stdbool.h>
#include <stdint.h>

/* Segments of an expert at most. */
#define SHARD_EXPERT_SEGMENTS 4u

/* Segment i covers values [at[i], at[i + 1]) of an expert's width. */
struct shard_segments {
    uint32_t n;
    uint32_t at[SHARD_EXPERT_SEGMENTS + 1];
};

/* Segments of experts of ff_expert values: min(4, b) of them, b the width's blocks. Blocks are of
 * 256 values where the width is a multiple of 256, else of 32 where it is one of 32 (of such widths
 * no type has longer blocks); other widths, and those below 256, are one segment. */
struct shard_segments shard_expert_segments(uint32_t ff_expert);

/* Experts that a worker holds: of each MoE layer in [layer_first, layer_end) the experts
 * [expert_first, expert_end), and of their FFNs slice `slice` of n_slices: segments
 * [slice * s / n_slices, (slice + 1) * s / n_slices) of the layer's s. */
struct shard_expert_part {
    uint32_t worker;
    uint32_t layer_first, layer_end;
    uint32_t expert_first, expert_end;
    uint32_t slice, n_slices;
};

/* Segments [*first, *end) of n that the part has; none where it has more slices than n. */
void shard_part_segments(const struct shard_expert_part *part, uint32_t n, uint32_t *first,
                         uint32_t *end);

/* Whether the part has that segment, of n, of an expert of a layer. */
bool shard_part_has(const struct shard_expert_part *part, uint32_t n, uint32_t layer,
                    uint32_t expert, uint32_t segment);

/* Maximal nodes of the tree over [0, n_experts) that lie in [first, end). */
uint32_t shard_expert_nodes(uint32_t n_experts, uint32_t first, uint32_t end);

/* A MoE layer as its experts are shared out. */
struct shard_expert_layer {
    uint32_t layer, n_experts, n_used, n_segments;
};

/* Vectors of n_embd floats that `worker` computes at most for a row of the layer, where all parts
 * are those of the plan: one for each segment and each maximal node of the tree of experts that it
 * holds, and no more than experts that a row uses. Where experts are replicated, a row's may be
 * shared out in any way. */
uint32_t shard_expert_vectors_most(const struct shard_expert_part *parts, uint32_t n_parts,
                                   const struct shard_expert_layer *layer, uint32_t worker);

#endif
