/* SPDX-License-Identifier: Apache-2.0 */
/* What the planner is asked about workers of the engine. Private to it; the loop's thread. */
#ifndef COORDINATOR_QUESTION_H
#define COORDINATOR_QUESTION_H

#include "coordinator/parts.h"

/* Some workers as machines of a cluster, which have their numbers. */
struct engine__question {
    struct coord_status status;
    struct plan_shape *shape;
    struct plan_cluster *cluster;
    struct plan_options options;
    struct plan_load load; /* complete */
};

/* The caller finishes it, also after a failure. */
enum proto_status engine__ask(struct engine__question *q, const struct coord_engine *e,
                              struct coord_worker *const *workers, uint32_t n,
                              struct proto_error *error);
void engine__question_finish(struct engine__question *q);

/* The number among the question's workers of a plan's worker, which is there. */
typedef uint32_t engine__number_fn(const void *arg, const struct shard_plan *plan, uint32_t worker);
/* Where the plan is of these workers. */
uint32_t engine__same_number(const void *arg, const struct shard_plan *plan, uint32_t worker);

/* A plan as a placement on the question's cluster, which the caller destroys, also after a
 * failure. */
enum proto_status engine__place(struct plan_placement **out, const struct engine__question *q,
                                const struct shard_plan *plan, engine__number_fn *number,
                                const void *arg, struct proto_error *error);

/* What it is predicted to take. */
enum proto_status engine__price(struct plan_cost *cost, const struct engine__question *q,
                                const struct plan_placement *placement, struct proto_error *error);

#endif
