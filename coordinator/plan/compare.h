/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A running cluster's plan beside the best that the planner finds for it, in tables, as JSON and as
 * a page. One thread; a comparison takes about a second.
 */
#ifndef COORDINATOR_PLAN_COMPARE_H
#define COORDINATOR_PLAN_COMPARE_H

#include <jansson.h>

#include "coordinator/engine.h"
#include "coordinator/plan/view.h"

struct coord_comparison {
    struct coord_source source; /* of the model that runs, which is borrowed */
    struct plan_cluster *cluster;
    struct coord_plan_view now; /* answer NULL: no plan is in force */
    struct coord_plan_view best;
    struct coord_speed measured; /* with the plan in force */
    uint64_t epoch;              /* of the plan in force */
    bool same;                   /* nothing better was found: best is the plan in force */
    double gain;                 /* of best over now: 0.18 is 18% faster; 0: there is no plan now */
};

/* PROTO_CAPACITY: the model does not fit the workers that are here; PROTO_NOTFOUND: some of them
 * have not measured their machines. The caller finishes it in any case. */
enum proto_status coord_compare(struct coord_comparison *out, const struct coord_status *status,
                                const struct shard_model *model, enum plan_aim aim,
                                struct proto_error *error);
void coord_comparison_finish(struct coord_comparison *comparison);

/* Both plans, what would change, and as the last line what is predicted of the best. */
enum proto_status coord_comparison_print(const struct coord_comparison *comparison, FILE *out,
                                         struct proto_error *error);

/* NULL without memory. */
json_t *coord_comparison_json(const struct coord_comparison *comparison);

/* A page for a browser. */
void coord_comparison_print_html(const struct coord_comparison *comparison, FILE *out);

#endif
