/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a stage sent on of live sequences: when the stage after it is lost, whoever takes its place
 * gets these rows again, and nothing before it has to be computed anew. Kept within a budget; of a
 * sequence that is always from position 0 on. One thread, the computing one.
 */
#ifndef WORKER_BOUNDARY_H
#define WORKER_BOUNDARY_H

#include "proto/wire.h"

struct worker_boundary;

/* Rows of row_bytes, of sequences below max_seqs, at most budget_bytes in all. */
enum proto_status worker_boundary_create(struct worker_boundary **out, uint32_t max_seqs,
                                         size_t row_bytes, uint64_t budget_bytes,
                                         struct proto_error *error);
/* NULL is allowed, as below. */
void worker_boundary_destroy(struct worker_boundary *boundary);

/* Keeps the rows of a batch, which follow one another in the order of its ranges. A range that goes
 * back takes the place of what was there; one that does not follow on, or that the budget has no
 * room for, is not kept, nor is what comes after it. */
void worker_boundary_keep(struct worker_boundary *boundary, const struct proto_range *ranges,
                          uint32_t n_ranges, const void *rows);

/* Positions of a sequence that are kept; their rows from pos on, or NULL where there are not n. */
uint64_t worker_boundary_kept(const struct worker_boundary *boundary, uint32_t seq);
const void *worker_boundary_rows(const struct worker_boundary *boundary, uint32_t seq, uint64_t pos,
                                 uint32_t n);
size_t worker_boundary_row_bytes(const struct worker_boundary *boundary);

void worker_boundary_drop(struct worker_boundary *boundary, uint32_t seq);

/* Takes over all that `from` keeps, of rows of the same layer's end. */
void worker_boundary_take(struct worker_boundary *boundary, struct worker_boundary *from);

#endif
