/* SPDX-License-Identifier: Apache-2.0 */
/* Measures how fast this machine reads memory. */
#ifndef KERNELS_BANDWIDTH_H
#define KERNELS_BANDWIDTH_H

#include "kernels/pool.h"

/* Seconds of a plain sequential read of memory by all the pool's threads; of whole MiB. */
double kern_read_pass(struct kern_pool *pool, const void *data, size_t bytes);

/* Bytes a second of that: the best of `rounds` passes over `bytes`, which are taken for the time of
 * the call. *result is 0 on failure. */
enum proto_status kern_read_bandwidth(struct kern_pool *pool, size_t bytes, unsigned rounds,
                                      double *result, struct proto_error *error);

#endif
