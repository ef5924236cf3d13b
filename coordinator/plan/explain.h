/* SPDX-License-Identifier: Apache-2.0 */
/* A plan in a line, for people who did not ask for more. */
#ifndef COORDINATOR_PLAN_EXPLAIN_H
#define COORDINATOR_PLAN_EXPLAIN_H

#include "shard/plan/search.h"

/* "2 stages, experts on 3 workers, 1 worker left out; predicted 123 tokens/s prefill, 4.5 decode;
 * bottleneck: ...". load is complete. The text is cut where it is full. */
void coord_plan_explain(char *text, size_t bytes, const struct plan_placement *placement,
                        const struct plan_cost *cost, const struct plan_cluster *cluster,
                        const struct plan_load *load, enum plan_aim aim);

#endif
