/* SPDX-License-Identifier: Apache-2.0 */
/* Which of the known models a cluster can run, in which quantisation, and how fast. */
#ifndef COORDINATOR_PLAN_FITS_H
#define COORDINATOR_PLAN_FITS_H

#include <stdio.h>

#include "coordinator/plan/view.h"

/* A row for the largest quantisation of each model that fits, and one for the usual one where that
 * is smaller. The cluster is complete. */
enum proto_status coord_plan_fits(const struct plan_cluster *cluster,
                                  const struct coord_plan_request *request, FILE *out,
                                  struct proto_error *error);

#endif
