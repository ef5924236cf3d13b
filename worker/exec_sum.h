/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The two trees of shard/experts.h, by which a row's products with its experts are added: binary
 * trees over ranges of experts, and of segments. Any thread.
 */
#ifndef WORKER_EXEC_SUM_H
#define WORKER_EXEC_SUM_H

#include "kernels/table.h"

/* What stands under a node of a tree: one expert's or segment's product, or a sum of several. */
struct worker__term {
    uint32_t number; /* of the first expert or segment under the node */
    float *values;
};

/* The sum of n >= 1 terms, in order, over the tree of [lo, hi); `width` values. Made in place: the
 * result is the first term's values, the others are left changed. */
float *worker__sum_terms(const struct kern_table *table, const struct worker__term *terms,
                         uint32_t n, uint32_t lo, uint32_t hi, size_t width);

/* The end of the maximal node of the tree over segments [0, n) that starts with `segment` and lies
 * within [.., end). */
uint32_t worker__segment_node(uint32_t n, uint32_t segment, uint32_t end);

/* How many maximal nodes lie within [first, end). */
uint32_t worker__segment_nodes(uint32_t n, uint32_t first, uint32_t end);

#endif
