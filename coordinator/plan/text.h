/* SPDX-License-Identifier: Apache-2.0 */
/* A plan for a terminal: tables that line up, a drawing, and the last line that programs read. */
#ifndef COORDINATOR_PLAN_TEXT_H
#define COORDINATOR_PLAN_TEXT_H

#include <stdio.h>

#include "coordinator/plan/view.h"

/* What the model and the cluster are, and what is asked for. */
void coord_plan_print_question(const struct coord_plan_view *view, FILE *out);

/* The plan alone: what is held, by whom, where time goes, speeds. PROTO_NOMEM. */
enum proto_status coord_plan_print_plan(const struct coord_plan_view *view, FILE *out,
                                        struct proto_error *error);

/* The answer, but for its last line. PROTO_NOMEM. */
enum proto_status coord_plan_print_answer(const struct coord_plan_view *view, FILE *out,
                                          struct proto_error *error);

/* What would help, or make the model fit where nothing does. */
void coord_plan_print_changes(const struct coord_plan_view *view, FILE *out);

/* What was estimated, since `why`. */
enum proto_status coord_plan_print_estimates(const struct plan_cluster *cluster, const char *why,
                                             FILE *out, struct proto_error *error);

#endif
