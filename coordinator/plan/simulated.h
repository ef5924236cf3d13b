/* SPDX-License-Identifier: Apache-2.0 */
/* A plan under many requests, simulated, for a terminal. */
#ifndef COORDINATOR_PLAN_SIMULATED_H
#define COORDINATOR_PLAN_SIMULATED_H

#include <stdio.h>

#include "coordinator/plan/view.h"
#include "shard/plan/simulate.h"

/* Simulates the view's plan, and where it saturates; prompt, answer and clients of 0 are those of
 * the view's load. */
enum proto_status coord_plan_print_simulated(const struct coord_plan_view *view,
                                             const struct plan_simulation *simulation, FILE *out,
                                             struct proto_error *error);

#endif
