/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/profile_parts.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define STEP_BYTES  ((size_t)4 << 20)
#define MOST_BYTES  (16 * STEP_BYTES)
#define LEAST_BYTES (2 * STEP_BYTES) /* less says nothing */
#define BUDGET_S    0.35             /* of writing, and of reading */
#define ALIGNMENT   4096u

static bool goes_on(const atomic_bool *cancel, double start)
{
    return worker__profile_now() - start < BUDGET_S && !(cancel && atomic_load(cancel));
}

/* Bytes that are in the file now. Direct writes, so that none of them wait in the page cache. */
static size_t write_file(int fd, const void *step, const atomic_bool *cancel)
{
    size_t bytes = 0;
    double start = worker__profile_now();
    while (bytes < MOST_BYTES && goes_on(cancel, start) &&
           pwrite(fd, step, STEP_BYTES, (off_t)bytes) == (ssize_t)STEP_BYTES)
        bytes += STEP_BYTES;
    return bytes;
}

static double read_file(int fd, void *step, size_t bytes, const atomic_bool *cancel)
{
    size_t done = 0;
    double start = worker__profile_now();
    while (done < bytes && goes_on(cancel, start) &&
           pread(fd, step, STEP_BYTES, (off_t)done) == (ssize_t)STEP_BYTES)
        done += STEP_BYTES;
    double seconds = worker__profile_now() - start;
    return done >= LEAST_BYTES && seconds > 0 ? (double)done / seconds : 0;
}

double worker__profile_disk(const char *dir, const atomic_bool *cancel)
{
    char *path;
    double rate = 0;
    if (asprintf(&path, "%s/profile-disk.XXXXXX", dir) < 0)
        return 0;
    void *step = aligned_alloc(ALIGNMENT, STEP_BYTES);
    int fd = mkostemp(path, O_CLOEXEC | O_DIRECT);
    if (fd >= 0)
        unlink(path); /* gone with the process, however it ends */
    if (step && fd >= 0) {
        memset(step, 0x5a, STEP_BYTES);
        size_t bytes = write_file(fd, step, cancel);
        if (bytes >= LEAST_BYTES && fdatasync(fd) == 0)
            rate = read_file(fd, step, bytes, cancel);
    }
    if (fd >= 0)
        close(fd);
    free(step);
    free(path);
    return rate;
}
