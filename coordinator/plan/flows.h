/* SPDX-License-Identifier: Apache-2.0 */
/* Private to a plan's view: what stages send to hosts of experts. */
#ifndef COORDINATOR_PLAN_FLOWS_H
#define COORDINATOR_PLAN_FLOWS_H

#include "coordinator/plan/view.h"

/* Fills view->flows from its answer. PROTO_NOMEM. */
enum proto_status coord__plan_flows(struct coord_plan_view *view, struct proto_error *error);

#endif
