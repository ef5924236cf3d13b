/* SPDX-License-Identifier: Apache-2.0 */
/* A cluster's status as a table for people. */
#ifndef COORDINATOR_STATUS_TABLE_H
#define COORDINATOR_STATUS_TABLE_H

#include "coordinator/engine.h"

/* A line for each worker, columns lined up: state, layers or experts, memory held, threads,
 * instruction set, round trip, and milliseconds of compute, queue and wire a token (of all tokens
 * since the last coord_engine_reset_times, prompts' included). Stages come first, in order. */
void coord_status_table(FILE *out, const struct coord_status *status);

/* What became of cached positions when plans changed; nothing where none did. */
void coord_status_caches(FILE *out, const struct coord_caches *caches);

/* Which experts are chosen most and least, by their share of their layer's choices; nothing where
 * nobody has counted. */
void coord_status_usage(FILE *out, const struct coord_status *status);

#endif
