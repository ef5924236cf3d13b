/* SPDX-License-Identifier: Apache-2.0 */
/* Private to the profile: its measurements, and the file that keeps it. */
#ifndef WORKER_PROFILE_PARTS_H
#define WORKER_PROFILE_PARTS_H

#include "worker/profile.h"

/* Memory to measure with, taken once: several times what the last cache holds, of a part of the
 * free memory. Between two passes over `bytes` the threads fill the caches with `other`: models are
 * larger than caches. */
struct worker__profile_memory {
    uint8_t *bytes, *other;
    size_t n; /* of each; whole MiB */
};

enum proto_status worker__profile_memory_create(struct worker__profile_memory *memory,
                                                const struct worker_profile_options *options,
                                                struct proto_error *error);
void worker__profile_memory_finish(struct worker__profile_memory *memory);
void worker__profile_scrub(const struct worker__profile_memory *memory, struct kern_pool *pool);

/* Looked at before every pass over the memory: on a busy machine a few take seconds, for which
 * whoever wants the threads would wait. What was measured until then says nothing. */
bool worker__profile_cancelled(const struct worker_profile_options *options);
enum proto_status worker__profile_fail_cancelled(struct proto_error *error);

/* Everything but free_bytes, disk_bytes_s and machine. PROTO_CANCELLED, PROTO_NOMEM. */
enum proto_status worker__profile_compute(struct proto_profile *out,
                                          const struct worker__profile_memory *memory,
                                          const struct worker_profile_options *options,
                                          struct proto_error *error);

/* Lowers the rates of products and of memory to what layers of a model reach that are run whole.
 * Kernels of less than some 20 Gop/s are left as they are. PROTO_CANCELLED, PROTO_NOMEM. */
enum proto_status worker__profile_layers(struct proto_profile *profile,
                                         const struct worker__profile_memory *memory,
                                         const struct worker_profile_options *options,
                                         struct proto_error *error);

/* Bytes a second that a file in `dir` is read with, past the page cache; 0 where that cannot be
 * measured (no room, no direct reads). Writes 64 MiB, less on a slow disk, and removes them. */
double worker__profile_disk(const char *dir, const atomic_bool *cancel);

/* The line that names hardware and program: one profile is good for one key. */
#define WORKER__PROFILE_KEY_BYTES 512
void worker__profile_key(char key[WORKER__PROFILE_KEY_BYTES], const struct kern_table *table,
                         unsigned threads);

/* The profile in the file; false where there is none or it is not whole, of this key and of
 * numbers that a profile may have. */
bool worker__profile_read(struct proto_profile *out, const char *path, const char *key);

/* Writes the file beside and renames it. */
enum proto_status worker__profile_write(const struct proto_profile *profile, const char *path,
                                        const char *key, struct proto_error *error);

/* Seconds of a monotonic clock. */
double worker__profile_now(void);

/* The typical one of n > 0 times, which it sorts. What a machine can do is what it does most of the
 * time: programs beside it, and other computers' on the same memory bus, come and go. */
double worker__profile_median(double *times, size_t n);

#endif
