/* SPDX-License-Identifier: Apache-2.0 */
/* Times of a batch's parts, private to shard/plan: the cost model adds them up, the simulator lets
 * them queue. */
#ifndef SHARD_PLAN_WORK_H
#define SHARD_PLAN_WORK_H

#include "shard/plan/cost.h"
#include "shard/plan/span.h"

/* A time, as what bounds it: the other one is 0. */
struct plan__time {
    double compute_s, memory_s;
};

static inline double plan__sum(struct plan__time t)
{
    return t.compute_s + t.memory_s;
}

static inline void plan__add(struct plan__time *t, struct plan__time more)
{
    t->compute_s += more.compute_s;
    t->memory_s += more.memory_s;
}

/* Rows that pass through together. */
struct plan__batch {
    double rows;
    double seqs;   /* that the rows are of: each one's keys are read once */
    double depth;  /* mean position of the rows */
    double wanted; /* rows that the head computes */
    bool prompt;   /* one more may be in flight than there are stages */
};

/* Products that read `bytes` and take `ops` in all, with `rows` rows a matrix. */
struct plan__time plan__products(const struct plan_device *device, double bytes, double ops,
                                 double rows);

/* A stage's part of a layer up to its routed experts, without the shared one, which is
 * plan__beside; attention included. */
struct plan__time plan__trunk(const struct plan_device *device, const struct plan_layer *layer,
                              const struct plan__batch *batch);
struct plan__time plan__beside(const struct plan_device *device, const struct plan_layer *layer,
                               double rows);
/* Routed experts of which `touched` are read, `segments` of their segments, by `entries` rows in
 * all. */
struct plan__time plan__experts(const struct plan_device *device, const struct plan_layer *layer,
                                double touched, double entries, uint32_t segments);
struct plan__time plan__head(const struct plan_device *device, const struct plan_shape *shape,
                             double rows);

/* What a worker has to do with a batch; by worker of the placement. */
struct plan__tally {
    struct plan__time own; /* its part of the time that the batch takes, waits for it included */
    double link_s, latency_s, wake_s;
    struct plan__time work; /* that it computes, in the batch's way or not */
    double busy_s;          /* that it works, in the batch's way or not; a stage that waits works */
    double transfer_s;      /* that its links are busy with rows */
    /* While a layer's experts are looked at: the chance that it computes some, and how much slower
     * it is for those that compute on the same computer meanwhile. */
    double active, compute_crowd, read_crowd;
};

/* The sums over a batch. */
struct plan__pass {
    double seconds;  /* from the coordinator and back */
    double interval; /* between batches: what the slowest worker or link takes, or a share of
                        `seconds` where not more are in flight */
    struct plan_budget budget;
    double frames, bytes;
    uint32_t slowest; /* worker; n_workers: none, there are too few batches */
    bool slowest_is_link;
};

/* What `times` layers alike with experts elsewhere take from routing on: added to *pass and to the
 * tallies. stage: index of the layer's. */
struct plan__remote {
    const struct plan_placement *placement;
    const struct plan_shape *shape;
    const struct plan_cluster *cluster;
    const struct plan__span *span;
    uint32_t stage, layer;
};
void plan__remote_experts(struct plan__pass *pass, struct plan__tally *tallies,
                          const struct plan__remote *at, double rows, double times);

/* Whether two layers' routed experts and what is beside them are alike. */
bool plan__same_experts(const struct plan_layer *a, const struct plan_layer *b);

/* Chance that a row with n_used choices uses one of `experts` of a layer's. */
double plan__use_chance(const struct plan_layer *layer, double experts);
/* And that it uses no others. */
double plan__all_chance(const struct plan_layer *layer, double experts);
/* Groups into which the host of experts [first, end) adds up what a row uses, on average: see
 * plan_range_answers. */
double plan__groups(const struct plan_layer *layer, uint32_t first, uint32_t end);

/* Fills *pass; tallies: one for each worker, which are cleared. */
void plan__pass(struct plan__pass *pass, struct plan__tally *tallies,
                const struct plan_placement *placement, const struct plan_shape *shape,
                const struct plan_cluster *cluster, const struct plan__batch *batch);

/* plan_cost_estimate with tallies (n_workers) from the caller; what concerns one sequence, or many,
 * is left out where it is not asked for. */
void plan__cost(struct plan_cost *out, struct plan__tally *tallies,
                const struct plan_placement *placement, const struct plan_shape *shape,
                const struct plan_cluster *cluster, const struct plan_load *load, bool one,
                bool many);

/* Rows of a chunk of a prompt: those of the coordinator's scheduler. */
double plan__chunk_rows(double prompt, uint32_t stages, uint32_t max_rows);

#endif
