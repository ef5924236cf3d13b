/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A placement while it is looked for: stages over processors (seats), and teams that hold the
 * experts of the layers given to them. Private to shard/plan.
 */
#ifndef SHARD_PLAN_DRAFT_H
#define SHARD_PLAN_DRAFT_H

#include "shard/plan/search.h"
#include "shard/plan/work.h"

#define PLAN__MAX_SEATS 256u /* of larger clusters the best serve */
#define PLAN__MAX_TEAMS 128u
#define PLAN__MAX_PARTS 16384u

struct plan__seat {
    uint32_t machine;
    enum plan_device_kind kind;
    const struct plan_device *device;
    double expert_s; /* that an expert of a token takes here, from the typical stage and back */
};

/* A search's question. Not shared between threads. */
struct plan__problem {
    const struct plan_shape *shape;
    const struct plan_cluster *cluster;
    const struct plan_options *options;
    struct plan_load load; /* complete */
    uint32_t n_seats;
    struct plan__seat seats[PLAN__MAX_SEATS];
    uint32_t n_experts, moe_layers;   /* 0: none */
    struct plan_placement *placement; /* of the draft that was tried last */
    struct plan__tally *tallies;
    double work;     /* done, in about as many nanoseconds */
    uint64_t chance; /* state of the generator */
};

/* n_groups ranges of experts in order, each on slices x copies seats (slice by slice). Experts that
 * are in none stay with the stage. */
struct plan__team {
    uint16_t slices, copies, n_groups;
    uint16_t experts[PLAN__MAX_SEATS];
    uint16_t seats[PLAN__MAX_SEATS]; /* n_groups x slices x copies */
};

struct plan__draft {
    uint32_t n_stages, n_teams;
    uint16_t stage_seat[PLAN__MAX_SEATS], stage_end[PLAN__MAX_SEATS];
    uint8_t team_of[PROTO_MAX_LAYERS]; /* 0: the stage's own; t + 1: teams[t] */
    double overflow;                   /* bytes that do not fit */
    double objective;
    struct plan__team teams[PLAN__MAX_TEAMS];
};

static inline uint32_t plan__width(const struct plan__team *team)
{
    return (uint32_t)team->slices * team->copies;
}

/* The caller finishes the problem. */
enum proto_status plan__problem_init(struct plan__problem *problem, const struct plan_shape *shape,
                                     const struct plan_cluster *cluster,
                                     const struct plan_options *options, struct proto_error *error);
void plan__problem_finish(struct plan__problem *problem);

/* A number below n. */
uint32_t plan__chance(struct plan__problem *problem, uint32_t n);

/* Copies what is in use. */
void plan__draft_copy(struct plan__draft *to, const struct plan__draft *from);

/* Whether a is better: less overflow, then a smaller objective. */
bool plan__draft_better(const struct plan__draft *a, const struct plan__draft *b);

/* Makes problem->placement of it, measured; false: it breaks a rule or an option. */
bool plan__draft_build(struct plan__problem *problem, const struct plan__draft *draft);

/* The same, and fills overflow and objective; both infinite where it breaks a rule. */
void plan__draft_try(struct plan__problem *problem, struct plan__draft *draft);

/* About what trying a draft with that many parts is of problem->work. */
double plan__work(const struct plan__problem *problem, uint32_t parts);

/* Seat of the stage that has a layer. */
uint32_t plan__draft_owner(const struct plan__draft *draft, uint32_t layer);

/* ---- layers.c ---- */

/* What a split of layers minimises. */
struct plan__split {
    bool experts;     /* the stages hold their layers' experts */
    bool skip;        /* seats may be left out; else each gets at least one layer */
    bool even;        /* the fullest memory is least full, speeds do not matter */
    bool least_max;   /* the largest stage's time; else the sum of all */
    double cap;       /* seconds of a stage; 0: none. Not with even. */
    uint32_t n_seats; /* in the order of the pipeline */
    const uint16_t *seats;
};

/* Sets the draft's stages, with no teams; *most: the largest stage's time, or share of memory.
 * PROTO_CAPACITY without a text: there is none that fits (never with even). */
enum proto_status plan__split_layers(struct plan__draft *draft, double *most,
                                     const struct plan__problem *problem,
                                     const struct plan__split *split, struct proto_error *error);

/* ---- rule_experts.c ---- */

/* Deals all experts to the seats behind those of the placement's stages, see plan_by_rule. The
 * caller measures. PROTO_INVALID says in a line why that cannot be. */
enum proto_status plan__lay_experts(struct plan__problem *problem,
                                    const struct plan_options *options, struct proto_error *error);

/* ---- seeds.c, small.c ---- */

/* The best drafts so far, all different, the best first. */
struct plan__shelf {
    struct plan__draft *drafts;
    uint32_t n, room;
};

/* Copies a draft that was tried to its place, if it has one. */
void plan__shelve(struct plan__shelf *shelf, const struct plan__draft *draft);

/* Tries ways to cut that are good for some cluster, until that much work is done. */
enum proto_status plan__seed(struct plan__shelf *shelf, struct plan__problem *problem, double work,
                             struct proto_error *error);

/* Tries all ways, or nothing if that is more than `work`. */
enum proto_status plan__try_all(struct plan__shelf *shelf, struct plan__problem *problem,
                                double work, struct proto_error *error);

/* ---- moves.c ---- */

/* Changes a draft at random; false: nothing was changed. */
bool plan__move(struct plan__problem *problem, struct plan__draft *draft);

/* Brings a seat that has nothing into a draft, in one of several ways (way 0, 1, ...); false: there
 * are no more ways. The draft may break rules then. */
bool plan__bring_in(const struct plan__problem *problem, struct plan__draft *draft, uint32_t seat,
                    uint32_t way);

/* ---- replicate.c ---- */

/* Where the shape knows experts' popularity: adds copies of the popular ones to the answer's
 * placement if that is predicted to be faster, and predicts its cost. */
enum proto_status plan__replicate(struct plan_answer *answer, const struct plan_shape *shape,
                                  const struct plan_cluster *cluster,
                                  const struct plan_options *options, struct proto_error *error);

/* ---- search.c, fit.c ---- */

/* plan_search with other effort (1: its own), without advice in errors; with less, idle machines
 * are not explained. */
enum proto_status plan__search_with(struct plan_answer **out, const struct plan_shape *shape,
                                    const struct plan_cluster *cluster,
                                    const struct plan_options *options, double effort,
                                    struct proto_error *error);

/* Whether a short search finds something that fits. */
bool plan__fits(const struct plan_shape *shape, const struct plan_cluster *cluster,
                const struct plan_options *options);

/* Adds to a capacity error what would fit. */
void plan__recommend(const struct plan_shape *shape, const struct plan_cluster *cluster,
                     const struct plan_options *options, struct proto_error *error);

#endif
