/* SPDX-License-Identifier: Apache-2.0 */
/* Tables for people: what each worker holds and where a token's time goes. */
#ifndef COORDINATOR_REPORT_H
#define COORDINATOR_REPORT_H

#include "coordinator/engine.h"

/* A row a stage: layers, bytes held, compute, wait and wire time a batch since the last reset (a
 * batch is a token while one sequence generates), and a last row with the sums; waiting is for the
 * stage's turn and for experts of others. Then, where workers hold experts for stages, a row for
 * each, with what stages asked of it a batch, and the frames and bytes on the wire of a batch. */
void coord_report_workers(const struct coord_status *status, FILE *out);

/* "1.23 GB", "45.6 MB", "789 kB" into text. */
void coord_format_bytes(uint64_t bytes, char text[16]);

/* "experts 0-63 of layers 1-47", with "1/2 of" in front where it is the first of two slices; "-":
 * none. */
void coord_format_experts(const struct coord_worker_status *w, char text[64]);

/* "0-11", with "embed" and "head" where the worker holds them: "embed 0-5", "6-11 head". */
void coord_format_layers(const struct coord_worker_status *w, char text[32]);

#endif
