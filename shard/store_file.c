/* SPDX-License-Identifier: Apache-2.0 */
#include "shard/store_file.h"

#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "proto/log.h"

#define LOCK_TRIES 16 /* each one lost means that another process finished the file */

char *shard__store_format(const char *format, ...)
{
    char *path = NULL;
    va_list args;
    va_start(args, format);
    int len = vasprintf(&path, format, args);
    va_end(args);
    return len < 0 ? NULL : path;
}

enum proto_status shard__store_fail_nomem(struct proto_error *error)
{
    return proto_fail_nomem(error, PROTO_MAX_STRING_BYTES, "a path in the piece cache");
}

static enum proto_status fail_dir(struct proto_error *error, int errno_value, const char *path)
{
    enum proto_status status = proto_fail_errno(NULL, errno_value, "", "");
    return proto_fail(error, status,
                      "cannot use the piece cache: %s: %s; make it writable or choose another "
                      "directory with --cache-dir",
                      path, strerror(errno_value));
}

char *shard__store_path(const struct shard_store *store, const char *folder,
                        const uint8_t hash[PROTO_HASH_BYTES], const char *suffix)
{
    char hex[2 * PROTO_HASH_BYTES + 1];
    sodium_bin2hex(hex, sizeof hex, hash, PROTO_HASH_BYTES);
    return shard__store_format("%s/%s/%.2s/%s%s", shard_store_dir(store), folder, hex, hex, suffix);
}

enum proto_status shard__store_make_dir(const char *path, struct proto_error *error)
{
    if (mkdir(path, 0700) == 0 || errno == EEXIST)
        return PROTO_OK;
    return fail_dir(error, errno, path);
}

enum proto_status shard__store_make_subdir(const struct shard_store *store, const char *folder,
                                           struct proto_error *error)
{
    char *path = shard__store_format("%s/%s", shard_store_dir(store), folder);
    if (!path)
        return shard__store_fail_nomem(error);
    enum proto_status status = shard__store_make_dir(path, error);
    free(path);
    return status;
}

enum proto_status shard__store_make_place(const struct shard_store *store, const char *folder,
                                          const uint8_t hash[PROTO_HASH_BYTES],
                                          struct proto_error *error)
{
    char name[64];
    snprintf(name, sizeof name, "%s/%02x", folder, hash[0]);
    return shard__store_make_subdir(store, name, error);
}

static enum proto_status lock_once(const char *path, int fd, struct stat *locked,
                                   struct proto_error *error)
{
    if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
        if (errno == EWOULDBLOCK)
            return proto_fail(error, PROTO_BUSY, "%s is being written by another process", path);
        return proto_fail_errno(error, errno, "cannot lock", path);
    }
    return fstat(fd, locked) < 0 ? proto_fail_errno(error, errno, "cannot read", path) : PROTO_OK;
}

/* Between opening and locking, another process may have renamed or removed the file; then the lock
 * is on a file that has no longer this name, and is worth nothing. */
enum proto_status shard__store_lock(const char *path, int *fd, uint64_t *bytes,
                                    struct proto_error *error)
{
    for (int tries = 0; tries < LOCK_TRIES; tries++) {
        struct stat locked, named;
        *fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
        if (*fd < 0)
            return fail_dir(error, errno, path);
        enum proto_status status = lock_once(path, *fd, &locked, error);
        if (!status && stat(path, &named) == 0 && named.st_ino == locked.st_ino &&
            named.st_dev == locked.st_dev) {
            *bytes = (uint64_t)locked.st_size;
            return PROTO_OK;
        }
        close(*fd);
        *fd = -1;
        if (status)
            return status;
    }
    return proto_fail(error, PROTO_BUSY, "%s is replaced all the time by other processes", path);
}

enum proto_status shard__store_map_file(int fd, const char *path, size_t len, int flags,
                                        struct shard_mapped *out, struct proto_error *error)
{
    void *data = mmap(NULL, len, PROT_READ, MAP_SHARED | flags, fd, 0);
    if (data == MAP_FAILED)
        return proto_fail_errno(error, errno, "cannot map", path);
    struct shard__guard *guard = shard__guard_begin(data, len);
    if (!guard) {
        munmap(data, len);
        return proto_fail_nomem(error, len, "a mapping");
    }
    *out = (struct shard_mapped){.data = data, .len = len, .guard = guard};
    return PROTO_OK;
}

void shard__store_remove_bad(const char *path, const char *why)
{
    const char *removed = unlink(path) == 0 ? "yes" : strerror(errno);
    proto_log(PROTO_LOG_WARN, "SHARD-PIECE-BAD", "path=\"%s\" why=\"%s\" removed=\"%s\"", path, why,
              removed);
}
