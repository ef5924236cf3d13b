/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/bandwidth.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define CHUNK_BYTES ((size_t)1 << 20)
#define WORDS       32u /* read between two additions to the same sum: enough to hide their latency */
#define STEP_BYTES  (WORDS * sizeof(uint64_t))

struct reading {
    unsigned char *data;
    /* What each thread has read, so that the reads are not left out; a cache line apart. */
    struct {
        _Alignas(64) uint64_t sum;
    } threads[KERN_POOL_MAX_THREADS];
};

static void fill(void *arg, size_t first, size_t last, unsigned thread)
{
    (void)thread;
    struct reading *reading = arg;
    memset(reading->data + first * CHUNK_BYTES, 1, (last - first) * CHUNK_BYTES);
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

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

enum proto_status kern_read_bandwidth(struct kern_pool *pool, size_t bytes, unsigned rounds,
                                      struct kern_bandwidth *result, struct proto_error *error)
{
    enum proto_status status = PROTO_OK;
    double speeds[KERN_MAX_READ_ROUNDS];
    size_t n_chunks = bytes / CHUNK_BYTES;
    struct reading *reading = aligned_alloc(64, sizeof(*reading));
    *result = (struct kern_bandwidth){0};
    if (!reading)
        return proto_fail_nomem(error, sizeof(*reading), "measuring the read bandwidth");
    memset(reading, 0, sizeof(*reading));
    if (!n_chunks || !rounds || rounds > KERN_MAX_READ_ROUNDS) {
        status = proto_fail(error, PROTO_INVALID,
                            "read bandwidth: expected at least %zu bytes and 1 to %u rounds, "
                            "found %zu and %u; ask for that",
                            CHUNK_BYTES, KERN_MAX_READ_ROUNDS, bytes, rounds);
        goto done;
    }
    reading->data = aligned_alloc(64, n_chunks * CHUNK_BYTES);
    if (!reading->data) {
        status = proto_fail_nomem(error, bytes, "measuring the read bandwidth");
        goto done;
    }
    kern_pool_run(pool, n_chunks, 1, fill, reading);
    for (unsigned r = 0; r < rounds; r++) {
        double start = now_s();
        kern_pool_run(pool, n_chunks, 1, read_chunks, reading);
        speeds[r] = (double)(n_chunks * CHUNK_BYTES) / (now_s() - start);
    }
    qsort(speeds, rounds, sizeof *speeds, by_value);
    *result = (struct kern_bandwidth){.best = speeds[rounds - 1], .typical = speeds[rounds / 2]};
done:
    free(reading->data);
    free(reading);
    return status;
}
