/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A plan with all that is said of it: what the planner found for a model on a cluster, and words
 * and sums for whoever shows it. Everything but the answer is borrowed. One thread.
 */
#ifndef COORDINATOR_PLAN_VIEW_H
#define COORDINATOR_PLAN_VIEW_H

#include "coordinator/plan/source.h"
#include "shard/plan/search.h"

#define COORD_PLAN_MAX_CHANGES 8
#define COORD_PLAN_MAX_TYPES   16
#define COORD_PLAN_TEXT        160

struct coord_plan_request {
    struct plan_shape_options shape; /* ctx 0: the model's, at most 8192 */
    struct plan_options search;      /* without types */
};

/* Bytes of a token. */
struct coord_plan_flow {
    double there, back;
};

struct coord_plan_view {
    const struct coord_source *source;
    const struct plan_cluster *cluster; /* complete */
    struct plan_options options;        /* with types */
    struct plan_load load;              /* complete */
    struct plan_shape *shape;
    struct plan_answer *answer;    /* NULL: it does not fit */
    struct plan_usage *usage;      /* of each worker; NULL without an answer */
    struct coord_plan_flow *flows; /* [stage][worker]; NULL without an answer */
    struct plan_change changes[COORD_PLAN_MAX_CHANGES]; /* that help, the best first */
    uint32_t n_changes;
    struct plan_type types[COORD_PLAN_MAX_TYPES];
};

/* Plans. Where nothing fits it fails with PROTO_CAPACITY, and the view has what would make it fit.
 * The view is finished by the caller in any case. */
enum proto_status coord_plan_view_init(struct coord_plan_view *view,
                                       const struct coord_source *source,
                                       const struct plan_cluster *cluster,
                                       const struct coord_plan_request *request,
                                       struct proto_error *error);
/* The quantisations that may be recommended for a model, from the best to the smallest, at most
 * COORD_PLAN_MAX_TYPES. *n: 0 in. Of the source only the model counts. */
enum proto_status coord_plan_types(struct plan_type *types, uint32_t *n,
                                   const struct coord_source *source,
                                   const struct plan_shape_options *options,
                                   struct proto_error *error);

/* The same without advice: of what is said of changes and types nothing is known. */
enum proto_status coord_plan_view_search(struct coord_plan_view *view,
                                         const struct coord_source *source,
                                         const struct plan_cluster *cluster,
                                         const struct coord_plan_request *request,
                                         struct proto_error *error);
/* The steps of these: the shape, which may be told more; a search, or a plan that is given and
 * copied (in place of one that was there); what would help. */
enum proto_status coord_plan_view_begin(struct coord_plan_view *view,
                                        const struct coord_source *source,
                                        const struct plan_cluster *cluster,
                                        const struct coord_plan_request *request,
                                        struct proto_error *error);
enum proto_status coord_plan_view_find(struct coord_plan_view *view, struct proto_error *error);
enum proto_status coord_plan_view_given(struct coord_plan_view *view,
                                        const struct plan_placement *placement,
                                        struct proto_error *error);
enum proto_status coord_plan_view_advise(struct coord_plan_view *view, struct proto_error *error);
void coord_plan_view_finish(struct coord_plan_view *view);

/* Tokens a second that the plan's last line is about: of one request, or of all with the aim
 * throughput. */
double coord_plan_prefill(const struct coord_plan_view *view);
double coord_plan_decode(const struct coord_plan_view *view);
const struct plan_bottleneck *coord_plan_bottleneck(const struct coord_plan_view *view);

/* "predicted: P tokens/s prefill, D tokens/s decode; bottleneck: ..." */
const char *coord_plan_last_line(const struct coord_plan_view *view,
                                 char text[COORD_PLAN_TEXT * 2]);

/* "mini", "gaming GPU". */
const char *coord_plan_worker_name(const struct coord_plan_view *view, uint32_t worker,
                                   char text[COORD_PLAN_TEXT]);

/* "layers 0-23, embedding; experts 0-63 (1/2) of 24 layers": the first of two slices of each. */
const char *coord_plan_worker_holds(const struct coord_plan_view *view, uint32_t worker,
                                    char text[COORD_PLAN_TEXT]);

/* Bytes that the worker holds and those that its processor has. */
uint64_t coord_plan_worker_bytes(const struct coord_plan_view *view, uint32_t worker);
uint64_t coord_plan_worker_memory(const struct coord_plan_view *view, uint32_t worker);

/* What a stage sends to a host of its layers' experts for a token and gets back, on average; zero
 * where the worker is none. */
const struct coord_plan_flow *coord_plan_hosts(const struct coord_plan_view *view, uint32_t stage,
                                               uint32_t worker);

/* Whether the worker is best drawn as this stage's host: it is no stage, and no host of a stage
 * before. */
bool coord_plan_drawn_here(const struct coord_plan_view *view, uint32_t stage, uint32_t worker);

/* "0.3 ms, 1000 Mbit/s" between machines (UINT32_MAX: where the coordinator is). */
const char *coord_plan_link(const struct coord_plan_view *view, uint32_t from, uint32_t to,
                            char text[COORD_PLAN_TEXT]);

/* Three digits: "0.0123", "1.23", "123", "12300". */
const char *coord_plan_number(double value, char text[32]);

#endif
