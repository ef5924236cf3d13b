/* SPDX-License-Identifier: Apache-2.0 */
/* Who holds what: the planner's answer. */
#ifndef SHARD_PLAN_PLACEMENT_H
#define SHARD_PLAN_PLACEMENT_H

#include "shard/plan/cluster.h"
#include "shard/plan/shape.h"

/* Groups of a span times their copies, see below. */
#define PLAN_MAX_RACERS 2048u

/* A processor that holds something. */
struct plan_worker {
    uint32_t machine;
    enum plan_device_kind device;
    /* What it takes, see plan_placement_measure. */
    uint64_t weight_bytes, kv_bytes, scratch_bytes;
};

struct plan_stage {
    uint32_t worker;                 /* index in workers */
    uint32_t layer_first, layer_end; /* [first, end) */
    bool embed, head;
};

/*
 * Experts that no part names are held by the stage that has their layer; a part may name a stage's
 * worker (for other stages' layers, or as one of the hosts of its own). All slices of an expert are
 * named, or none; the same slice on several workers: replicas.
 *
 * Parts are sorted by layer_first, expert_first, slice. Parts with a layer in common have the same
 * layers (a span), those of a span with an expert in common the same experts and n_slices (a
 * group), and a group has as many parts of one slice as of another.
 */
struct plan_placement {
    uint32_t n_workers;
    struct plan_worker *workers;
    uint32_t n_stages;
    struct plan_stage *stages; /* in the order of the pipeline */
    uint32_t n_parts;
    struct shard_expert_part *parts; /* .worker: index in workers */
};

/* An empty placement with room for that many of each. */
enum proto_status plan_placement_create(struct plan_placement **out, uint32_t workers,
                                        uint32_t stages, uint32_t parts, struct proto_error *error);
/* The caller destroys it. */
enum proto_status plan_placement_copy(struct plan_placement **out,
                                      const struct plan_placement *from, struct proto_error *error);
/* NULL is allowed. */
void plan_placement_destroy(struct plan_placement *placement);

/* Index of a processor among the workers, which are added to; there is room. */
uint32_t plan_placement_worker(struct plan_placement *placement, uint32_t machine,
                               enum plan_device_kind device);

/* Fills each worker's bytes. */
void plan_placement_measure(struct plan_placement *placement, const struct plan_shape *shape,
                            const struct plan_cluster *cluster);

/* Parts that name every expert of every MoE layer, as programs want them: the placement's, and
 * those of stages for what these leave out. None where the placement has none. */
struct plan_parts {
    struct shard_expert_part *at; /* .worker: index in the placement's workers */
    uint32_t n;
};

/* The caller frees parts->at. */
enum proto_status plan_parts_create(struct plan_parts *parts,
                                    const struct plan_placement *placement,
                                    const struct plan_shape *shape, struct proto_error *error);

/* Sets workers' bytes to those of their programs, and of what these ask and answer; nothing without
 * shape->model. */
enum proto_status plan_placement_refine(struct plan_placement *placement,
                                        const struct plan_shape *shape,
                                        const struct plan_cluster *cluster,
                                        struct proto_error *error);

/* Whether all is held and fits (after measure). PROTO_CAPACITY names the first machine that lacks
 * memory, what it should hold and how much is missing; PROTO_INVALID what is wrong with a
 * placement that is not whole. */
enum proto_status plan_placement_check(const struct plan_placement *placement,
                                       const struct plan_shape *shape,
                                       const struct plan_cluster *cluster,
                                       struct proto_error *error);

/* Drops parts that say only that a stage holds experts of its own layers, as plan_parts_create adds
 * them, and sorts the others. */
void plan_placement_trim(struct plan_placement *placement);

/* Such a placement cannot be deployed yet. */
bool plan_placement_uses_gpu(const struct plan_placement *placement);

/* Index of the stage that holds a layer. */
uint32_t plan_placement_stage(const struct plan_placement *placement, uint32_t layer);

/* Sums that a host sends back for a row on average, where it holds experts [first, end) of the
 * layer's and `segments` of their segments: shard/experts.h lets it add up the experts that the row
 * uses under a node of the tree if all of them are its own, and the segments if it has all that the
 * row uses. Rows that do not use the host count as 0. */
double plan_range_answers(const struct plan_layer *layer, uint32_t first, uint32_t end,
                          uint32_t segments);

#endif
