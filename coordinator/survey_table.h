/* SPDX-License-Identifier: Apache-2.0 */
/* What a cluster's machines and links can do, as tables for people. */
#ifndef COORDINATOR_SURVEY_TABLE_H
#define COORDINATOR_SURVEY_TABLE_H

#include "coordinator/engine.h"

/* A line for each worker that has measured itself: memory, disk, attention, threads; then products
 * by weight type, of one row and of 512. Nothing where none has. */
void coord_profile_table(FILE *out, const struct coord_status *status);

/* Links that were measured, from each row to each column: round trip in ms / Mbit/s. Nothing where
 * there are none. */
void coord_link_table(FILE *out, const struct coord_status *status);

#endif
