/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A lease is a file DIR/leases/XXXXXX of the names that its owner needs, 32 bytes each, locked for
 * as long as the owner lives. Whoever makes room reads those that are locked and removes the
 * others, whose owners are gone.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "proto/log.h"
#include "shard/store_file.h"

#define NAMES_MOST (1u << 24) /* of all leases together: more are no leases */

struct shard_lease {
    pthread_mutex_t mutex;
    int fd;
    bool failed; /* said so */
    char *path;
};

enum proto_status shard_lease_create(struct shard_lease **out, struct shard_store *store,
                                     struct proto_error *error)
{
    *out = NULL;
    enum proto_status status = shard__store_make_subdir(store, "leases", error);
    if (status)
        return status;
    struct shard_lease *lease = calloc(1, sizeof *lease);
    if (!lease)
        return proto_fail_nomem(error, sizeof *lease, "a lease");
    lease->fd = -1;
    pthread_mutex_init(&lease->mutex, NULL);
    lease->path = shard__store_format("%s/leases/XXXXXX", shard_store_dir(store));
    if (!lease->path)
        status = shard__store_fail_nomem(error);
    /* Between making and locking it another process may take it for one without an owner, and
     * remove it: then it guards nothing, and only room is at stake. */
    else if ((lease->fd = mkostemp(lease->path, O_CLOEXEC | O_APPEND)) < 0 ||
             flock(lease->fd, LOCK_EX | LOCK_NB) < 0)
        status = proto_fail_errno(error, errno, "cannot make", lease->path);
    if (status) {
        shard_lease_destroy(lease);
        return status;
    }
    *out = lease;
    return PROTO_OK;
}

void shard_lease_add(struct shard_lease *lease, const uint8_t name[PROTO_HASH_BYTES])
{
    if (!lease)
        return;
    pthread_mutex_lock(&lease->mutex);
    bool written = write(lease->fd, name, PROTO_HASH_BYTES) == PROTO_HASH_BYTES;
    bool news = !written && !lease->failed;
    lease->failed |= news;
    pthread_mutex_unlock(&lease->mutex);
    if (news)
        proto_log(PROTO_LOG_WARN, "SHARD-LEASE", "path=\"%s\" why=\"%s\"", lease->path,
                  strerror(errno));
}

void shard_lease_destroy(struct shard_lease *lease)
{
    if (!lease)
        return;
    if (lease->fd >= 0) {
        unlink(lease->path);
        close(lease->fd);
    }
    free(lease->path);
    pthread_mutex_destroy(&lease->mutex);
    free(lease);
}

static enum proto_status add_names(struct shard__names *names, int fd, uint64_t bytes,
                                   struct proto_error *error)
{
    uint64_t n = bytes / PROTO_HASH_BYTES;
    if (n > NAMES_MOST - names->n)
        return proto_fail(error, PROTO_LIMIT, "leases of more than %u files", NAMES_MOST);
    uint8_t(*grown)[PROTO_HASH_BYTES] =
        realloc(names->of, (size_t)(names->n + n + 1) * PROTO_HASH_BYTES);
    if (!grown)
        return proto_fail_nomem(error, (size_t)bytes, "leases");
    names->of = grown;
    ssize_t got = pread(fd, grown[names->n], (size_t)n * PROTO_HASH_BYTES, 0);
    if (got > 0)
        names->n += (size_t)got / PROTO_HASH_BYTES;
    return PROTO_OK;
}

static enum proto_status take_lease(const char *path, struct shard__names *names,
                                    struct proto_error *error)
{
    struct stat info;
    enum proto_status status = PROTO_OK;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &info) < 0 || !S_ISREG(info.st_mode)) {
        if (fd >= 0)
            close(fd);
        return PROTO_OK; /* ended just now */
    }
    if (flock(fd, LOCK_SH | LOCK_NB) == 0)
        unlink(path);
    else
        status = add_names(names, fd, (uint64_t)info.st_size, error);
    close(fd);
    return status;
}

static int by_name(const void *a, const void *b)
{
    return memcmp(a, b, PROTO_HASH_BYTES);
}

enum proto_status shard__leases_read(const struct shard_store *store, struct shard__names *names,
                                     struct proto_error *error)
{
    *names = (struct shard__names){0};
    char *path = shard__store_format("%s/leases", shard_store_dir(store));
    if (!path)
        return shard__store_fail_nomem(error);
    DIR *dir = opendir(path);
    enum proto_status status = PROTO_OK;
    for (struct dirent *entry; dir && !status && (entry = readdir(dir));) {
        char *file =
            entry->d_name[0] == '.' ? NULL : shard__store_format("%s/%s", path, entry->d_name);
        if (file)
            status = take_lease(file, names, error);
        free(file);
    }
    if (dir)
        closedir(dir);
    free(path);
    if (names->n)
        qsort(names->of, names->n, PROTO_HASH_BYTES, by_name);
    return status;
}

bool shard__names_have(const struct shard__names *names, const uint8_t name[PROTO_HASH_BYTES])
{
    return names->n && bsearch(name, names->of, names->n, PROTO_HASH_BYTES, by_name);
}
