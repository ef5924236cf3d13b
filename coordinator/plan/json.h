/* SPDX-License-Identifier: Apache-2.0 */
/* A plan as JSON, for programs. */
#ifndef COORDINATOR_PLAN_JSON_H
#define COORDINATOR_PLAN_JSON_H

#include <jansson.h>
#include <stdio.h>

#include "coordinator/plan/view.h"

/* The same as below; NULL without memory. */
json_t *coord_plan_json(const struct coord_plan_view *view);

/* One object: what was asked, what each worker holds and how long it takes, what is predicted, what
 * would help. Times in seconds. */
enum proto_status coord_plan_print_json(const struct coord_plan_view *view, FILE *out,
                                        struct proto_error *error);

#endif
