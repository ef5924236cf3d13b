/* SPDX-License-Identifier: Apache-2.0 */
/* The models that are known without a file, as a table. */
#ifndef COORDINATOR_PLAN_LIST_H
#define COORDINATOR_PLAN_LIST_H

#include <stdio.h>

#include "proto/status.h"

/* Parameters, experts, sizes in a few quantisations, and what a token reads. */
enum proto_status coord_plan_list(FILE *out, struct proto_error *error);

#endif
