/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/profile_parts.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kernels/machine.h"

#define MIB          ((size_t)1 << 20)
#define FEWEST_BYTES (4 * MIB) /* where there is hardly any memory */
#define LEAST_BYTES  (64 * MIB)
#define MOST_BYTES   (512 * MIB)
#define SCRUB_BYTES  65536u /* that a thread takes at a time */
#define LINE_BYTES   64u

static size_t bytes_to_measure_with(void)
{
    long cache = sysconf(_SC_LEVEL3_CACHE_SIZE);
    uint64_t bytes = cache > 0 ? (uint64_t)cache * 4 : 2 * LEAST_BYTES;
    uint64_t free_part = kern_machine_free_memory() / 8;
    bytes = bytes < LEAST_BYTES ? LEAST_BYTES : bytes > MOST_BYTES ? MOST_BYTES : bytes;
    if (free_part && bytes > free_part)
        bytes = free_part < FEWEST_BYTES ? FEWEST_BYTES : free_part;
    return (size_t)bytes / MIB * MIB;
}

/* Memory that was never written is one page of zeros. */
static enum proto_status write_all(const struct worker__profile_memory *memory,
                                   const struct worker_profile_options *options,
                                   struct proto_error *error)
{
    for (size_t i = 0; i < memory->n; i += MIB) {
        if (worker__profile_cancelled(options))
            return worker__profile_fail_cancelled(error);
        memset(memory->bytes + i, 1, MIB);
        memset(memory->other + i, 1, MIB);
    }
    return PROTO_OK;
}

enum proto_status worker__profile_memory_create(struct worker__profile_memory *memory,
                                                const struct worker_profile_options *options,
                                                struct proto_error *error)
{
    size_t n = bytes_to_measure_with();
    memory->n = n;
    memory->bytes = aligned_alloc(LINE_BYTES, n);
    memory->other = aligned_alloc(LINE_BYTES, n);
    enum proto_status status = memory->bytes && memory->other
                                   ? write_all(memory, options, error)
                                   : proto_fail_nomem(error, 2 * n, "measuring this machine");
    if (status)
        worker__profile_memory_finish(memory);
    return status;
}

void worker__profile_memory_finish(struct worker__profile_memory *memory)
{
    free(memory->bytes);
    free(memory->other);
    *memory = (struct worker__profile_memory){0};
}

/* A byte of each line. */
static void touch(void *arg, size_t first, size_t last, unsigned thread)
{
    (void)thread;
    uint8_t *other = arg;
    for (size_t i = first * SCRUB_BYTES; i < last * SCRUB_BYTES; i += LINE_BYTES)
        other[i]++;
}

void worker__profile_scrub(const struct worker__profile_memory *memory, struct kern_pool *pool)
{
    kern_pool_run(pool, memory->n / SCRUB_BYTES, 1, touch, memory->other);
}
