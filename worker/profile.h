/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a machine can do, measured by its worker: memory, products by weight type, attention, the
 * thread pool, the disk of the cache directory. It takes about four seconds (more where a single
 * step is slow), so the result is kept in the cache directory under a key of the hardware and the
 * program; what is not exactly as it was written is measured anew. One process of a machine
 * measures at a time. Rates are those of layers run whole (profile_layers.c), on a machine that
 * does little else.
 */
#ifndef WORKER_PROFILE_H
#define WORKER_PROFILE_H

#include "kernels/pool.h"
#include "kernels/table.h"
#include "proto/wire.h"

#include <stdatomic.h>
#include <stdio.h>

struct worker_profile_options {
    struct kern_pool *pool; /* the threads that compute; nobody else uses it meanwhile */
    const struct kern_table *table;
    const char *cache_dir;     /* of the store; NULL: the default */
    uint64_t machine;          /* that others may share, see struct proto_profile */
    bool anew;                 /* measure even where a profile is kept */
    const atomic_bool *cancel; /* set by another thread: PROTO_CANCELLED soon after; may be NULL */
};

/* The machine's profile, kept or measured; free_bytes is as of now. Blocks. A cache directory that
 * cannot be used is logged: the disk is unknown then, and nothing is kept. */
enum proto_status worker_profile_get(struct proto_profile *out,
                                     const struct worker_profile_options *options,
                                     struct proto_error *error);

/* As a table for people. */
void worker_profile_print(const struct proto_profile *profile, FILE *out);

#endif
