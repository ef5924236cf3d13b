/* SPDX-License-Identifier: Apache-2.0 */
/* The simulator's parts, private to shard/plan: events, processors and links (sim_run.c), chance
 * (sim_chance.c), and the coordinator, which forms batches (simulate.c). */
#ifndef SHARD_PLAN_SIM_H
#define SHARD_PLAN_SIM_H

#include "shard/plan/simulate.h"
#include "shard/plan/work.h"

enum plan__sim_kind {
    PLAN__SIM_ARRIVAL,  /* of a request at the coordinator */
    PLAN__SIM_STAGE,    /* a batch at a stage */
    PLAN__SIM_ROUTED,   /* it has computed what is before a layer's experts elsewhere */
    PLAN__SIM_REQUEST,  /* rows at a host of experts */
    PLAN__SIM_COMPUTED, /* the host is done */
    PLAN__SIM_ANSWER,   /* sums at the stage, or its own experts' */
    PLAN__SIM_LEFT,     /* the batch has left the stage's processor for good */
    PLAN__SIM_DONE      /* candidates at the coordinator */
};

struct plan__sim_event {
    double at;
    uint64_t number; /* of events at one time the earlier one comes first */
    enum plan__sim_kind kind;
    uint32_t batch, worker;
    double seconds; /* REQUEST: that the host takes */
    double bytes;   /* REQUEST, COMPUTED: of the answer */
};

struct plan__sim_batch {
    double rows, seqs, depth, wanted;
    uint32_t stage, layer;                      /* layer: the next one */
    uint32_t pending;                           /* answers of the layer that are missing */
    uint32_t next;                              /* in a stage's queue; UINT32_MAX: none */
    uint32_t n_members, *members, *member_rows; /* requests, and rows of each */
};

struct plan__sim_stage {
    bool busy;
    uint32_t first, last; /* batches that wait; UINT32_MAX: none */
};

/* A xorshift64* generator. */
struct plan__sim_chance {
    uint64_t state;
};
double plan__sim_uniform(struct plan__sim_chance *chance); /* in (0, 1] */
double plan__sim_exponential(struct plan__sim_chance *chance, double mean);

/* Which experts rows choose, by layer. */
struct plan__sim_choices {
    uint32_t n_experts;
    uint32_t stride;     /* n_experts where layers' popularities differ, else 0 */
    double *popularity;  /* of ranks, sums to 1: [layer][rank] by the stride */
    double *cumulative;  /* of ranks, likewise */
    uint16_t *expert_of; /* [layer][rank] */
    uint32_t *entries;   /* of the last draw: rows by expert */
    uint32_t *last_row;  /* by expert: who chose it last */
};
enum proto_status plan__sim_choices_init(struct plan__sim_choices *choices,
                                         const struct plan_shape *shape, double zipf,
                                         struct plan__sim_chance *chance,
                                         struct proto_error *error);
void plan__sim_choices_finish(struct plan__sim_choices *choices);

/* What a batch's rows want of a group of experts. */
struct plan__sim_want {
    double touched; /* experts */
    double entries; /* rows of them */
    double rows;    /* that use the group */
    double all;     /* rows that use this group alone */
};
/* wants: one for each group of the span in order. Few rows draw; of many each expert's mean counts.
 */
void plan__sim_choose(struct plan__sim_want *wants, struct plan__sim_choices *choices,
                      struct plan__sim_chance *chance, const struct plan_layer *layer, uint32_t il,
                      const struct plan__span *span, double rows);

struct plan__sim {
    const struct plan_placement *placement;
    const struct plan_shape *shape;
    const struct plan_cluster *cluster;
    uint32_t home;              /* the coordinator's machine */
    struct plan__span *span_of; /* by layer; n_parts 0: none */
    struct plan__sim_chance chance;
    struct plan__sim_choices choices;
    struct plan__sim_want *wants;
    double *groups; /* by a group's first part: plan__groups of a row that also uses others */
    double now;
    struct plan__sim_event *heap;
    size_t n_events, room;
    uint64_t n_pushed;
    bool nomem;                         /* an event found no room */
    double *free_at, *busy;             /* processors, by worker */
    double *out_at, *in_at, *link_busy; /* links, by machine */
    struct plan__sim_stage *stages;
    uint32_t n_batches; /* room for */
    struct plan__sim_batch *batches;
};

enum proto_status plan__sim_init(struct plan__sim *sim, const struct plan_placement *placement,
                                 const struct plan_shape *shape, const struct plan_cluster *cluster,
                                 const struct plan_simulation *options, uint32_t max_seqs,
                                 struct proto_error *error);
void plan__sim_finish(struct plan__sim *sim);

void plan__sim_push(struct plan__sim *sim, struct plan__sim_event event);
bool plan__sim_pop(struct plan__sim *sim, struct plan__sim_event *event);

/* A batch leaves the coordinator now. */
void plan__sim_send_batch(struct plan__sim *sim, uint32_t batch);
/* Everything but ARRIVAL and DONE. */
void plan__sim_step(struct plan__sim *sim, const struct plan__sim_event *event);

#endif
