/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/bandwidth.h"

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define CHUNK_BYTES ((size_t)1 << 20)
#define WORDS       32u /* read between two additions to the same sum: enough to hide their latency */
#define STEP_BYTES  (WORDS * sizeof(uint64_t))

struct reading {
    const unsigned char *data;
    /* What each thread has read, so that the reads are not left out; a cache line apart. */
    struct {
        _Alignas(64) uint64_t sum;
    } threads[KERN_POOL_MAX_THREADS];
};

static void fill(void *arg, size_t first, size_t last, unsigned thread)
{
    (void)thread;
    memset((unsigned char *)arg + first * CHUNK_BYTES, 1, (last - first) * CHUNK_BYTES);
}

static void read_chunks(void *arg, size_t first, size_t last, unsigned thread)
{
    struct reading *reading = arg;
    const uint64_t *p = (const void *)(reading->data + first * CHUNK_BYTES);
    uint64_t sums[WORDS] = {0};
    for (size_t i = 0; i < (last - first) * CHUNK_BYTES / STEP_BYTES; i++, p += WORDS)
        for (size_t w = 0; w < WORDS; w++)
            sums[w] += p[w];
    for (size_t w = 0; w < WORDS; w++)
        reading->threads[thread].sum += sums[w];
}

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

double kern_read_pass(struct kern_pool *pool, const void *data, size_t bytes)
{
    struct reading reading = {.data = data};
    double start = now_s();
    kern_pool_run(pool, bytes / CHUNK_BYTES, 1, read_chunks, &reading);
    return now_s() - start;
}

enum proto_status kern_read_bandwidth(struct kern_pool *pool, size_t bytes, unsigned rounds,
                                      double *result, struct proto_error *error)
{
    size_t n_chunks = bytes / CHUNK_BYTES;
    *result = 0;
    if (!n_chunks || !rounds)
        return proto_fail(error, PROTO_INVALID,
                          "read bandwidth: expected at least %zu bytes and 1 round, found %zu "
                          "and %u; ask for more",
                          CHUNK_BYTES, bytes, rounds);
    unsigned char *data = aligned_alloc(64, n_chunks * CHUNK_BYTES);
    if (!data)
        return proto_fail_nomem(error, bytes, "measuring the read bandwidth");
    kern_pool_run(pool, n_chunks, 1, fill, data);
    for (unsigned r = 0; r < rounds; r++) {
        double seconds = kern_read_pass(pool, data, n_chunks * CHUNK_BYTES);
        *result = fmax(*result, (double)(n_chunks * CHUNK_BYTES) / seconds);
    }
    free(data);
    return PROTO_OK;
}
