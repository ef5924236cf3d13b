/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Finds the placement that is predicted to be fastest. Deterministic: the same numbers give the
 * same plan.
 */
#ifndef SHARD_PLAN_SEARCH_H
#define SHARD_PLAN_SEARCH_H

#include "shard/plan/cost.h"

enum plan_aim {
    PLAN_LATENCY,    /* a request alone: request_alone_s */
    PLAN_THROUGHPUT, /* many: request_many_s */
    PLAN_BALANCED    /* the geometric mean of both */
};

enum plan_split { PLAN_SPLIT_AUTO, PLAN_SPLIT_LAYERS, PLAN_SPLIT_EXPERTS };

/* A weight type that the model might have instead. */
struct plan_type {
    char name[16];
    double bits; /* a weight */
};

struct plan_options {
    enum plan_aim aim;
    struct plan_load load;
    enum plan_split split; /* LAYERS: no experts elsewhere; EXPERTS: all routed experts elsewhere
                              than on stages, where there is another worker */
    uint32_t slices;       /* of each expert elsewhere; 0: as is best */
    uint32_t replicas;     /* of each expert elsewhere, on different machines; 0: 1, and more of
                              those that the shape says are popular where that is faster */
    uint32_t stages;       /* 0: as is best */
    const uint32_t *stage_ends; /* for plan_by_rule alone: where the layers of each of `stages` end;
                                   NULL: in proportion to memory */
    bool cpu_only;              /* what can be deployed today */
    double effort;              /* of plan_search: 1 takes up to a second; 0: 1. Machines left out
                                   are explained with all of it only */
    const struct plan_type *types; /* that capacity errors and advice may recommend; may be NULL */
    uint32_t n_types;
};

/* Why a machine has nothing to do. */
struct plan_idle {
    uint32_t machine;
    double loss; /* the objective with it, in the best place found for it, is so much more (0.07:
                    7%); 0: no place was found where it fits */
    char why[160];
};

struct plan_answer {
    struct plan_placement *placement;
    struct plan_cost cost;
    uint32_t n_idle;
    struct plan_idle *idle;
};

/* PROTO_CAPACITY: what is missing, on which machine if it is one that is too small for its least
 * part, the largest of options->types that would fit, and the largest context that would.
 * PROTO_INVALID: a request that contradicts itself (more stages than layers, slices that are no
 * divisor of the segments, replicas without machines). The caller destroys the answer. */
enum proto_status plan_search(struct plan_answer **out, const struct plan_shape *shape,
                              const struct plan_cluster *cluster,
                              const struct plan_options *options, struct proto_error *error);
/* NULL is allowed. */
void plan_answer_destroy(struct plan_answer *answer);

/* What `aim` minimises. */
double plan_objective(const struct plan_cost *cost, enum plan_aim aim);

/*
 * A placement by rule, without speeds (only memory counts): the first `stages` workers (machines'
 * CPUs in order; 0: all of them, those with most memory where there are more than layers, or 1 with
 * experts elsewhere) are stages with layers in proportion to memory, or those of stage_ends.
 *
 * With split EXPERTS the others hold all routed experts: each stage has hosts of its own, that
 * follow one another, as many as the others, or one more; where there are fewer hosts than stages
 * they serve all of them. Those of a stage share its experts in as many ranges as their number
 * allows (plan_expert_cut), `slices` of them each range, and each slice on `replicas` of them.
 *
 * PROTO_CAPACITY as above; PROTO_INVALID says in a line why that cannot be, with the command line's
 * names of options: a dense model, more slices than experts can be cut into, hosts that are fewer
 * than replicas or no multiple of slices times replicas.
 */
enum proto_status plan_by_rule(struct plan_placement **out, const struct plan_shape *shape,
                               const struct plan_cluster *cluster,
                               const struct plan_options *options, struct proto_error *error);

/* Where to cut n experts into that many ranges, range i being [cut(i), cut(i + 1)): of equal size,
 * and where they cannot all be but are large, cut at the higher of two nodes of the tree of
 * shard/experts.h. */
uint32_t plan_expert_cut(uint32_t n_experts, uint32_t n_ranges, uint32_t i);

/* The largest of options->types (by bits) that fits, of those smaller than the shape's, or -1. */
int plan_largest_type(const struct plan_shape *shape, const struct plan_cluster *cluster,
                      const struct plan_options *options);

/* The largest context that fits, whole pages below the shape's, or 0; also if shape->model is NULL,
 * for only from it can a shape with another context be made. */
uint64_t plan_largest_context(const struct plan_shape *shape, const struct plan_cluster *cluster,
                              const struct plan_options *options);

enum plan_change_kind {
    PLAN_MORE_MACHINES,  /* another like `machine` */
    PLAN_FASTER_LINKS,   /* all links of `link` */
    PLAN_SHORTER_LINKS,  /* all round trips of `link` */
    PLAN_OTHER_TYPE,     /* weights of `type` */
    PLAN_WITHOUT_MACHINE /* without `machine`, which the best plan uses */
};

struct plan_change {
    enum plan_change_kind kind;
    uint32_t machine;
    struct plan_link link;
    int type;       /* index in options->types */
    bool fits;      /* whether there is a plan then */
    double gain;    /* of 1 / objective: 0.18 is 18% faster, below 0 slower */
    char text[160]; /* "another machine like mini" */
};

/* What would help most, the best first. `answer` is what plan_search found; NULL: nothing fits,
 * then what makes it fit is listed, and gains are 0. *n: room in, changes out. Short searches, so
 * a gain is what is found at least. */
enum proto_status plan_advise(struct plan_change *changes, uint32_t *n,
                              const struct plan_answer *answer, const struct plan_shape *shape,
                              const struct plan_cluster *cluster,
                              const struct plan_options *options, struct proto_error *error);

#endif
