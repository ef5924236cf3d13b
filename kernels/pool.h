/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A pool of threads that run one loop at a time. The caller is one of the threads. Each thread has
 * a share of the items that lie side by side, so that it reads memory in order, and takes it in
 * chunks; when its own is done it takes chunks of the others', so a thread that is held up does
 * less. Between loops the
 * threads spin for at most 50 microseconds and then sleep.
 *
 * Several threads may call; their loops take turns.
 */
#ifndef KERNELS_POOL_H
#define KERNELS_POOL_H

#include <stddef.h>

#include "proto/status.h"

struct kern_pool;

#define KERN_POOL_MAX_THREADS 256u

/* n_threads >= 1, the caller included. */
enum proto_status kern_pool_create(struct kern_pool **out, unsigned n_threads,
                                   struct proto_error *error);

/* Waits for its threads to end. NULL is allowed. */
void kern_pool_destroy(struct kern_pool *pool);

unsigned kern_pool_threads(const struct kern_pool *pool);

/* Does items [first, last); thread is in [0, threads), distinct for calls of one loop that run at
 * once. */
typedef void kern_pool_fn(void *arg, size_t first, size_t last, unsigned thread);

/* Runs fn over [0, n) in chunks of `chunk` items (0: a size that gives each thread several) and
 * returns when all are done. What the functions wrote is visible to the caller. */
void kern_pool_run(struct kern_pool *pool, size_t n, size_t chunk, kern_pool_fn *fn, void *arg);

#endif
