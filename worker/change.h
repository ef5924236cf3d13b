/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A slice comes into force: what the computing thread, which owns the caches, does about it. It
 * hands the slice the caches of layers that the one before it has as well, forgets sequences that
 * are over, finds out how far the others can go on, and tells the coordinator.
 */
#ifndef WORKER_CHANGE_H
#define WORKER_CHANGE_H

#include "worker/compute.h"

struct worker_change;

/* Takes the commit's memory, also on failure. The slice stays until the change has come. */
enum proto_status worker_change_create(struct worker_change **out, struct worker_compute *compute,
                                       struct worker_slice *slice, struct proto_commit *commit,
                                       struct proto_error *error);
/* One that was not begun. NULL is allowed. */
void worker_change_destroy(struct worker_change *change);

const struct proto_commit *worker_change_commit(const struct worker_change *change);

/* The slice takes over what `old` has, which stays until the change has come. */
void worker_change_inherit(struct worker_change *change, struct worker_slice *old);

/* Other layers were moved to the slice's cache: up to which position of each of its sequences (0:
 * not at all), which is copied; and the figures to tell. PROTO_NOMEM: all is computed again. */
enum proto_status worker_change_moved(struct worker_change *change, const uint64_t *ends,
                                      uint64_t positions, uint64_t bytes,
                                      struct proto_error *error);

/* Queues it behind what is being computed. It is gone afterwards, also on failure. */
enum proto_status worker_change_begin(struct worker_change **change, struct proto_error *error);

#endif
