/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A running cluster as the planner sees it: a machine for each worker that is here, with what it
 * measured of itself and of the links. Workers of one machine are machines of one computer. Where a
 * worker cannot be reached by another, the link is so slow that no plan uses it. What was not
 * measured is estimated (plan_cluster_complete), and said to be.
 */
#ifndef COORDINATOR_PLAN_MEASURED_H
#define COORDINATOR_PLAN_MEASURED_H

#include "coordinator/engine.h"
#include "shard/plan/cluster.h"

/* Whether the plan gives it something. */
bool coord_worker_has_part(const struct coord_worker_status *worker);
/* It is being drained. */
bool coord_worker_is_leaving(const struct coord_worker_status *worker);
/* Neither lost nor gone, nor about to go. One that is leaving counts as long as it has a part. */
bool coord_worker_is_here(const struct coord_worker_status *worker);

/* type_ops: the model's operations a row by weight type (plan_shape.type_ops), which the rates of
 * products are weighted with. *machines, where it is not NULL, gets for each worker of the status
 * its machine's number or UINT32_MAX; malloc'ed, the caller's. PROTO_LOST: no worker is here. The
 * caller destroys the cluster. */
enum proto_status coord_cluster_measured(struct plan_cluster **out, uint32_t **machines,
                                         const struct coord_status *status,
                                         const double type_ops[KERN_TYPE_SLOTS],
                                         struct proto_error *error);

#endif
