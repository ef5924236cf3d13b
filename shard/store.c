/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What keeps a half piece from being taken for whole: only commit gives a file its final name, and
 * only after the hash of everything in it was right and the bytes were on the disk. A ".part" file
 * belongs to whoever holds its flock, so a process that dies lets go of it, and the next one
 * appends where it stopped; whatever a crash left in it, the hash at commit covers it.
 */
#include "shard/store_file.h"

#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "proto/log.h"

struct shard_store {
    char *dir;
    struct shard__room room;
};

struct shard_store_part {
    crypto_generichash_state state; /* over the bytes in the file so far */
    uint8_t hash[PROTO_HASH_BYTES];
    uint64_t bytes, have;
    int fd;
    char *path, *final_path;
    struct shard_store *store;
};

static enum proto_status default_dir(char **dir, struct proto_error *error)
{
    const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    if (cache && cache[0] == '/') /* the XDG rules: a relative path counts as unset */
        *dir = shard__store_format("%s/caravan", cache);
    else if (home && home[0] == '/')
        *dir = shard__store_format("%s/.cache/caravan", home);
    else
        return proto_fail(error, PROTO_INVALID,
                          "no place for the piece cache: neither XDG_CACHE_HOME nor HOME is an "
                          "absolute path; choose a directory with --cache-dir");
    return *dir ? PROTO_OK : shard__store_fail_nomem(error);
}

/* Makes path and what it lies in. */
static enum proto_status make_dirs(char *path, struct proto_error *error)
{
    enum proto_status status = PROTO_OK;
    for (char *slash = strchr(path + 1, '/'); slash && !status; slash = strchr(slash + 1, '/')) {
        *slash = 0;
        status = shard__store_make_dir(path, error);
        *slash = '/';
    }
    return status ? status : shard__store_make_dir(path, error);
}

enum proto_status shard_store_open(struct shard_store **out, const char *dir,
                                   struct proto_error *error)
{
    *out = NULL;
    if (sodium_init() < 0)
        return proto_fail(error, PROTO_IO, "libsodium does not start: no source of random bytes");
    struct shard_store *store = calloc(1, sizeof *store);
    if (!store)
        return proto_fail_nomem(error, sizeof *store, "the piece cache");
    pthread_mutex_init(&store->room.mutex, NULL);
    enum proto_status status = PROTO_OK;
    if (!dir)
        status = default_dir(&store->dir, error);
    else if (!*dir)
        status = proto_fail(error, PROTO_INVALID,
                            "the piece cache's directory is empty; give --cache-dir a path");
    else if (!(store->dir = strdup(dir)))
        status = shard__store_fail_nomem(error);
    if (!status)
        status = make_dirs(store->dir, error);
    if (!status)
        status = shard__store_make_subdir(store, "pieces", error);
    if (!status)
        status = shard__store_make_subdir(store, "manifests", error);
    if (status) {
        shard_store_close(store);
        return status;
    }
    *out = store;
    return PROTO_OK;
}

void shard_store_close(struct shard_store *store)
{
    if (!store)
        return;
    pthread_mutex_destroy(&store->room.mutex);
    free(store->dir);
    free(store);
}

void shard_store_limit(struct shard_store *store, uint64_t bytes)
{
    store->room.limit = bytes;
}

void shard_store_trim(struct shard_store *store)
{
    struct proto_error why;
    /* What may not go leaves too little room: whoever wants to keep more hears of it. */
    if (shard__room_take(store, &store->room, 0, &why) && why.status != PROTO_NOSPACE)
        proto_log(PROTO_LOG_WARN, "SHARD-UNTRIMMED", "why=\"%s\"", why.text);
}

struct shard__room *shard__store_room(struct shard_store *store)
{
    return &store->room;
}

const char *shard_store_dir(const struct shard_store *store)
{
    return store->dir;
}

/* PROTO_NOTFOUND has no text: the caller fetches the piece. */
static enum proto_status map_file(int fd, const char *path, const uint8_t hash[PROTO_HASH_BYTES],
                                  uint64_t bytes, struct shard_mapped *out,
                                  struct proto_error *error)
{
    struct stat info;
    if (fstat(fd, &info) < 0)
        return proto_fail_errno(error, errno, "cannot read the cached piece", path);
    if ((uint64_t)info.st_size != bytes) {
        shard__store_remove_bad(path, "wrong length");
        return PROTO_NOTFOUND;
    }
    struct shard_mapped mapped;
    uint8_t found[PROTO_HASH_BYTES];
    enum proto_status status = shard__store_map_file(fd, path, bytes, MAP_POPULATE, &mapped, error);
    if (status)
        return status;
    shard__room_note_use(fd);
    shard_hash(found, mapped.data, bytes);
    if (memcmp(found, hash, sizeof found) != 0 || shard_mapped_lost(&mapped)) {
        shard_store_unmap(&mapped);
        shard__store_remove_bad(path, "wrong hash");
        return PROTO_NOTFOUND;
    }
    *out = mapped;
    return PROTO_OK;
}

enum proto_status shard_store_map(struct shard_store *store, const uint8_t hash[PROTO_HASH_BYTES],
                                  uint64_t bytes, struct shard_mapped *out,
                                  struct proto_error *error)
{
    *out = (struct shard_mapped){0};
    char *path = shard__store_path(store, "pieces", hash, ".piece");
    if (!path)
        return shard__store_fail_nomem(error);
    enum proto_status status = PROTO_NOTFOUND;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd >= 0)
        status = map_file(fd, path, hash, bytes, out, error);
    else if (errno != ENOENT)
        status = proto_fail_errno(error, errno, "cannot open the cached piece", path);
    if (fd >= 0)
        close(fd);
    free(path);
    return status;
}

void shard_store_unmap(struct shard_mapped *mapped)
{
    shard__guard_end(mapped->guard);
    if (mapped->data)
        munmap((void *)mapped->data, mapped->len);
    *mapped = (struct shard_mapped){0};
}

bool shard_mapped_lost(const struct shard_mapped *mapped)
{
    return mapped->guard && shard__guard_lost(mapped->guard);
}

bool shard_store_knows(const struct shard_store *store, const uint8_t hash[PROTO_HASH_BYTES])
{
    char *piece = shard__store_path(store, "pieces", hash, ".piece");
    char *part = shard__store_path(store, "pieces", hash, ".part");
    bool known = !piece || !part || access(piece, F_OK) == 0 || access(part, F_OK) == 0;
    free(piece);
    free(part);
    return known;
}

void shard_store_drop(struct shard_store *store, const uint8_t hash[PROTO_HASH_BYTES])
{
    char *path = shard__store_path(store, "pieces", hash, ".piece");
    if (path && unlink(path) < 0 && errno != ENOENT)
        proto_log(PROTO_LOG_WARN, "SHARD-PIECE-STAYS", "path=\"%s\" why=\"%s\"", path,
                  strerror(errno));
    free(path);
}

static void part_destroy(struct shard_store_part *part)
{
    if (!part)
        return;
    if (part->fd >= 0)
        close(part->fd); /* lets go of the lock */
    free(part->path);
    free(part->final_path);
    free(part);
}

/* Hashes what an earlier transfer left in the file. */
static enum proto_status hash_old_bytes(struct shard_store_part *part, struct proto_error *error)
{
    if (part->have > part->bytes) {
        if (ftruncate(part->fd, 0) < 0)
            return proto_fail_errno(error, errno, "cannot empty", part->path);
        part->have = 0;
    }
    uint8_t buffer[1 << 16];
    for (uint64_t at = 0; at < part->have;) {
        ssize_t n = pread(part->fd, buffer, sizeof buffer, (off_t)at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return proto_fail_errno(error, n < 0 ? errno : EIO, "cannot read", part->path);
        crypto_generichash_update(&part->state, buffer, (size_t)n);
        at += (uint64_t)n;
    }
    return PROTO_OK;
}

static enum proto_status part_create(struct shard_store *store,
                                     const uint8_t hash[PROTO_HASH_BYTES], uint64_t bytes,
                                     struct shard_store_part **out, struct proto_error *error)
{
    struct shard_store_part *part = aligned_alloc(_Alignof(struct shard_store_part), sizeof *part);
    if (!part)
        return proto_fail_nomem(error, sizeof *part, "a transfer into the piece cache");
    memset(part, 0, sizeof *part);
    part->store = store;
    part->bytes = bytes;
    part->fd = -1;
    memcpy(part->hash, hash, PROTO_HASH_BYTES);
    crypto_generichash_init(&part->state, NULL, 0, PROTO_HASH_BYTES);
    part->path = shard__store_path(store, "pieces", hash, ".part");
    part->final_path = shard__store_path(store, "pieces", hash, ".piece");
    if (!part->path || !part->final_path) {
        part_destroy(part);
        return shard__store_fail_nomem(error);
    }
    *out = part;
    return PROTO_OK;
}

enum proto_status shard_store_begin(struct shard_store *store, const uint8_t hash[PROTO_HASH_BYTES],
                                    uint64_t bytes, struct shard_store_part **out, uint64_t *have,
                                    struct proto_error *error)
{
    *out = NULL;
    *have = 0;
    struct shard_store_part *part = NULL;
    enum proto_status status = part_create(store, hash, bytes, &part, error);
    if (status)
        return status;
    status = shard__store_make_place(store, "pieces", hash, error);
    if (!status)
        status = shard__store_lock(part->path, &part->fd, &part->have, error);
    if (!status)
        status = hash_old_bytes(part, error);
    if (!status)
        status = shard__room_take(store, &store->room, bytes - part->have, error);
    if (status) {
        part_destroy(part);
        return status;
    }
    *out = part;
    *have = part->have;
    return PROTO_OK;
}

static enum proto_status fail_write(const struct shard_store_part *part, int errno_value,
                                    struct proto_error *error)
{
    if (errno_value != ENOSPC && errno_value != EDQUOT && errno_value != EFBIG)
        return proto_fail_errno(error, errno_value, "cannot write the cached piece", part->path);
    return proto_fail(error, PROTO_NOSPACE,
                      "no room in the piece cache %s: a piece of %llu bytes lacks %llu (%s); free "
                      "room there or choose another directory with --cache-dir",
                      part->store->dir, (unsigned long long)part->bytes,
                      (unsigned long long)(part->bytes - part->have), strerror(errno_value));
}

enum proto_status shard_store_append(struct shard_store_part *part, const void *data, size_t len,
                                     struct proto_error *error)
{
    if (len > part->bytes - part->have)
        return proto_fail(error, PROTO_INVALID, "%s: %zu bytes more than the %llu of its piece",
                          part->path, (size_t)(len - (part->bytes - part->have)),
                          (unsigned long long)part->bytes);
    const uint8_t *at = data;
    while (len > 0) {
        ssize_t n = pwrite(part->fd, at, len, (off_t)part->have);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return fail_write(part, n < 0 ? errno : ENOSPC, error);
        /* Hashed bytes and bytes in the file stay the same, whenever a write fails. */
        crypto_generichash_update(&part->state, at, (size_t)n);
        part->have += (uint64_t)n;
        at += n;
        len -= (size_t)n;
    }
    return PROTO_OK;
}

/* A new name is on the disk only after its directory is. */
static enum proto_status sync_parent(const char *path, struct proto_error *error)
{
    char *dir = shard__store_format("%.*s", (int)(strrchr(path, '/') - path), path);
    if (!dir)
        return shard__store_fail_nomem(error);
    enum proto_status status = PROTO_OK;
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 || fsync(fd) < 0)
        status = proto_fail_errno(error, errno, "cannot write the directory", dir);
    if (fd >= 0)
        close(fd);
    free(dir);
    return status;
}

static enum proto_status commit(struct shard_store_part *part, struct proto_error *error)
{
    if (part->have != part->bytes)
        return proto_fail(error, PROTO_INVALID, "%s holds %llu of its piece's %llu bytes",
                          part->path, (unsigned long long)part->have,
                          (unsigned long long)part->bytes);
    uint8_t found[PROTO_HASH_BYTES];
    crypto_generichash_final(&part->state, found, sizeof found);
    if (memcmp(found, part->hash, sizeof found) != 0) {
        unlink(part->path);
        return proto_fail(error, PROTO_CORRUPT, "%s: the bytes received have another hash",
                          part->path);
    }
    if (fsync(part->fd) < 0) {
        int errno_value = errno;
        unlink(part->path); /* what of it is on the disk is not known any more */
        part->have = 0;
        return fail_write(part, errno_value, error);
    }
    if (rename(part->path, part->final_path) < 0)
        return proto_fail_errno(error, errno, "cannot rename", part->path);
    return sync_parent(part->final_path, error);
}

enum proto_status shard_store_commit(struct shard_store_part *part, struct shard_mapped *mapped,
                                     struct proto_error *error)
{
    enum proto_status status = commit(part, error);
    if (!status && mapped)
        status = shard__store_map_file(part->fd, part->final_path, part->bytes, MAP_POPULATE,
                                       mapped, error);
    part_destroy(part);
    return status;
}

void shard_store_abort(struct shard_store_part *part)
{
    part_destroy(part);
}

void shard_store_discard(struct shard_store_part *part)
{
    if (part)
        unlink(part->path);
    part_destroy(part);
}
