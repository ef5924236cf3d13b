/* SPDX-License-Identifier: Apache-2.0 */
/* What the planner expects of the plan that a running cluster has in force, to be set beside what
 * is measured. */
#ifndef COORDINATOR_PLAN_PREDICTION_H
#define COORDINATOR_PLAN_PREDICTION_H

#include "coordinator/engine.h"
#include "shard/plan/simulate.h"

struct coord_prediction {
    double prefill, decode; /* tokens a second, of all sequences together; 0: not known */
    char bottleneck[PLAN_BOTTLENECK_TEXT]; /* of decoding */
};

/* PROTO_NOTFOUND: a worker of the plan has not measured its machine. Links that were not measured
 * are estimated. load->sequences decode together. */
enum proto_status coord_predict(struct coord_prediction *out, const struct coord_status *status,
                                const struct shard_model *model, const struct plan_load *load,
                                struct proto_error *error);

/* The same for many requests, see shard/plan/simulate.h. */
enum proto_status coord_simulate(struct plan_simulated *out, const struct coord_status *status,
                                 const struct shard_model *model,
                                 const struct plan_simulation *question, struct proto_error *error);

/* The plan in force: a worker for each of the status that has layers or experts. The caller
 * destroys it. */
enum proto_status coord_placement_of(struct plan_placement **out, const struct coord_status *status,
                                     const uint32_t *machines, struct proto_error *error);

#endif
