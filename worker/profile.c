/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/profile.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "kernels/machine.h"
#include "proto/log.h"
#include "shard/store.h"
#include "worker/profile_parts.h"

#define LOCK_S     10.0 /* longer than another process may take to measure */
#define LOCK_NS    20000000
#define NAME_BYTES 16u

/* Where this machine's profile is kept; dir NULL: nowhere. */
struct place {
    char *dir, *path;
    char key[WORKER__PROFILE_KEY_BYTES];
};

static void place_finish(struct place *place)
{
    free(place->dir);
    free(place->path);
}

/* DIR/profiles/HASH-OF-KEY.bin */
static enum proto_status find_paths(struct place *place, const char *cache_dir,
                                    struct proto_error *error)
{
    uint8_t hash[PROTO_HASH_BYTES];
    char name[2 * NAME_BYTES + 1];
    shard_hash(hash, place->key, strlen(place->key));
    for (size_t i = 0; i < NAME_BYTES; i++)
        snprintf(name + 2 * i, 3, "%02x", hash[i]);
    if (asprintf(&place->dir, "%s/profiles", cache_dir) < 0)
        place->dir = NULL;
    else if (asprintf(&place->path, "%s/%s.bin", place->dir, name) < 0)
        place->path = NULL;
    if (!place->dir || !place->path)
        return proto_fail_nomem(error, PROTO_MAX_STRING_BYTES, "a path in the cache");
    if (mkdir(place->dir, 0700) != 0 && errno != EEXIST)
        return proto_fail_errno(error, errno, "cannot create", place->dir);
    return PROTO_OK;
}

static void log_unkept(const struct proto_error *error)
{
    proto_log(PROTO_LOG_WARN, "WORKER-PROFILE-UNKEPT", "reason=\"%s\"", error->text);
}

static void find_place(struct place *place, const struct worker_profile_options *options)
{
    struct shard_store *store = NULL;
    struct proto_error error;
    worker__profile_key(place->key, options->table, kern_pool_threads(options->pool));
    enum proto_status status = shard_store_open(&store, options->cache_dir, &error);
    if (!status)
        status = find_paths(place, shard_store_dir(store), &error);
    shard_store_close(store);
    if (!status)
        return;
    log_unkept(&error);
    place_finish(place);
    place->dir = place->path = NULL;
}

/* A descriptor to close, or -1: two processes that measure at once would measure each other. One
 * that does not come to an end is not waited for. */
static int lock(const struct place *place, const atomic_bool *cancel)
{
    const struct timespec pause = {.tv_nsec = LOCK_NS};
    char path[PROTO_MAX_STRING_BYTES];
    snprintf(path, sizeof path, "%s/lock", place->dir);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    double start = worker__profile_now();
    while (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) != 0) {
        if (worker__profile_now() - start > LOCK_S || (cancel && atomic_load(cancel)))
            break;
        nanosleep(&pause, NULL);
    }
    return fd;
}

bool worker__profile_cancelled(const struct worker_profile_options *options)
{
    return options->cancel && atomic_load(options->cancel);
}

enum proto_status worker__profile_fail_cancelled(struct proto_error *error)
{
    return proto_fail(error, PROTO_CANCELLED, "measuring was cancelled");
}

static enum proto_status measure(struct proto_profile *out, const struct place *place,
                                 const struct worker_profile_options *options,
                                 struct proto_error *error)
{
    double start = worker__profile_now();
    struct worker__profile_memory memory;
    enum proto_status status = worker__profile_memory_create(&memory, options, error);
    if (!status)
        status = worker__profile_compute(out, &memory, options, error);
    if (!status)
        status = worker__profile_layers(out, &memory, options, error);
    worker__profile_memory_finish(&memory);
    if (status || !place->dir)
        return status;
    struct proto_error unkept;
    out->disk_bytes_s = worker__profile_disk(place->dir, options->cancel);
    if (worker__profile_write(out, place->path, place->key, &unkept) != PROTO_OK)
        log_unkept(&unkept);
    proto_log(PROTO_LOG_INFO, "WORKER-PROFILE-MEASURED", "seconds=%.1f file=\"%s\"",
              worker__profile_now() - start, place->path);
    return PROTO_OK;
}

static bool recall(struct proto_profile *out, const struct place *place,
                   const struct worker_profile_options *options)
{
    return place->path && !options->anew && worker__profile_read(out, place->path, place->key);
}

enum proto_status worker_profile_get(struct proto_profile *out,
                                     const struct worker_profile_options *options,
                                     struct proto_error *error)
{
    struct place place = {0};
    enum proto_status status = PROTO_OK;
    *out = (struct proto_profile){0};
    find_place(&place, options);
    if (!recall(out, &place, options)) {
        int held = place.dir ? lock(&place, options->cancel) : -1;
        /* Who held the lock may have measured. */
        if (!recall(out, &place, options))
            status = measure(out, &place, options, error);
        if (held >= 0)
            close(held);
    }
    place_finish(&place);
    out->free_bytes = kern_machine_free_memory();
    out->machine = options->machine;
    return status;
}

/* ---- for people ---- */

static void print_line(FILE *out, const char *name, double value, const char *unit)
{
    if (value > 0)
        fprintf(out, "%-24s %10.2f %s\n", name, value, unit);
    else
        fprintf(out, "%-24s %10s\n", name, "unknown");
}

void worker_profile_print(const struct proto_profile *profile, FILE *out)
{
    print_line(out, "free memory", (double)profile->free_bytes / 1e9, "GB");
    print_line(out, "memory reads", profile->read_bytes_s / 1e9, "GB/s");
    print_line(out, "of all processors", profile->machine_read_bytes_s / 1e9, "GB/s");
    print_line(out, "disk reads", profile->disk_bytes_s / 1e9, "GB/s");
    print_line(out, "attention", profile->float_ops_s / 1e9, "Gop/s");
    print_line(out, "waking the threads", profile->wake_s * 1e6, "us");
    print_line(out, "a loop of awake threads", profile->run_s * 1e6, "us");
    fprintf(out, "\n%-10s %15s %15s\n", "weights", "1 row, Gop/s", "512 rows, Gop/s");
    for (uint32_t i = 0; i < profile->n_types; i++) {
        const struct proto_type_rate *rate = &profile->types[i];
        const struct kern_type_info *type = kern_type_find(rate->type);
        fprintf(out, "%-10s %15.1f %15.1f\n", type ? type->name : "?", rate->row_ops_s / 1e9,
                rate->rows_ops_s / 1e9);
    }
}
