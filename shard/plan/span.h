/* SPDX-License-Identifier: Apache-2.0 */
/* Walking over a placement's parts, private to shard/plan: see struct plan_placement for spans and
 * groups. */
#ifndef SHARD_PLAN_SPAN_H
#define SHARD_PLAN_SPAN_H

#include "shard/plan/placement.h"

/* Layers [first, end) whose experts are elsewhere alike; `named` experts of each are in parts. */
struct plan__span {
    const struct shard_expert_part *parts;
    uint32_t n_parts, first, end, named;
};

/* Parts of the same experts: `copies` of each of n_slices slices, slice by slice. */
struct plan__group {
    const struct shard_expert_part *parts;
    uint32_t n_parts, experts, n_slices, copies;
};

/* The span after *span, or the first if it is zero. False: there is none. */
bool plan__span_next(struct plan__span *span, const struct plan_placement *placement);

/* The group of the span after *group, or the first if it is zero. */
bool plan__group_next(struct plan__group *group, const struct plan__span *span);

/* Segments of a layer that a part has. */
static inline uint32_t plan__segments(const struct shard_expert_part *part,
                                      const struct plan_layer *layer)
{
    uint32_t s = layer->n_segments;
    return (part->slice + 1) * s / part->n_slices - part->slice * s / part->n_slices;
}

/* Memory of a part in one layer. */
static inline uint64_t plan__part_bytes(const struct shard_expert_part *part,
                                        const struct plan_layer *layer)
{
    uint64_t experts = part->expert_end - part->expert_first;
    return experts * layer->expert_bytes * plan__segments(part, layer) / layer->n_segments;
}

/* Memory of a stage of layers [first, end) with all their experts, without KV; and its KV. */
uint64_t plan__stage_weights(const struct plan_shape *shape, uint32_t first, uint32_t end,
                             bool embed, bool head);
uint64_t plan__stage_kv(const struct plan_shape *shape, uint32_t first, uint32_t end);

/* Threads of a worker that need scratch each. */
uint32_t plan__threads(const struct plan_worker *worker, const struct plan_cluster *cluster);

#define PLAN__BYTES_TEXT 32
const char *plan__bytes_text(uint64_t bytes, char text[PLAN__BYTES_TEXT]);

#endif
