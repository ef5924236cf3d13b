/* SPDX-License-Identifier: Apache-2.0 */
/* Measures how fast this machine reads memory. */
#ifndef KERNELS_BANDWIDTH_H
#define KERNELS_BANDWIDTH_H

#include "kernels/pool.h"

/* Bytes a second: the best and the median of the passes. */
struct kern_bandwidth {
    double best, typical;
};

/* A plain sequential read of `bytes` of memory by all the pool's threads, in 1 to
 * KERN_MAX_READ_ROUNDS passes. Takes that much memory for the time of the call. *result is 0 on
 * failure. */
#define KERN_MAX_READ_ROUNDS 64u
enum proto_status kern_read_bandwidth(struct kern_pool *pool, size_t bytes, unsigned rounds,
                                      struct kern_bandwidth *result, struct proto_error *error);

#endif
