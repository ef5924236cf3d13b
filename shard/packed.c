/* SPDX-License-Identifier: Apache-2.0 */
#include "shard/packed.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sodium.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "shard/store_file.h"

#define LEAF_BYTES (1u << 20)
#define TAG_BYTES  crypto_onetimeauth_poly1305_BYTES
#define FREE_BYTES 10000000000u /* of the disk that stay free; of a smaller one, a tenth */

_Static_assert(PROTO_HASH_BYTES == crypto_onetimeauth_poly1305_KEYBYTES, "a name is a key");

struct shard_packed_part {
    const struct shard_store *store;
    uint8_t name[PROTO_HASH_BYTES];
    uint64_t bytes;
    struct shard_mapped mapped;
    int fd;
    char *path, *final_path;
};

/* Pages of a mapping to bring in, leaf by leaf. */
struct leaves {
    uint8_t *data;
    uint64_t bytes;
    const uint8_t *key;
    uint8_t *tags;    /* filled */
    int advice;       /* MADV_POPULATE_... */
    atomic_bool lost; /* the disk did not give a page */
};

static uint64_t n_leaves(uint64_t bytes)
{
    return bytes / LEAF_BYTES + (bytes % LEAF_BYTES != 0);
}

/* 0 where that many bytes and their tags are more than memory can hold. */
static size_t file_bytes(uint64_t bytes)
{
    return bytes > SIZE_MAX / 2 ? 0 : (size_t)(bytes + n_leaves(bytes) * TAG_BYTES);
}

static uint64_t leaf_bytes(const struct leaves *leaves, size_t i)
{
    uint64_t left = leaves->bytes - (uint64_t)i * LEAF_BYTES;
    return left < LEAF_BYTES ? left : LEAF_BYTES;
}

/* Asked for, a page that cannot be had is an error; only touched, it would be a signal. Systems
 * before Linux 5.14 do not know the question. */
static bool bring_in(const struct leaves *leaves, size_t i)
{
    return madvise(leaves->data + i * LEAF_BYTES, leaf_bytes(leaves, i), leaves->advice) == 0 ||
           errno == EINVAL;
}

static void tag_leaves(void *arg, size_t first, size_t last, unsigned thread)
{
    (void)thread;
    struct leaves *leaves = arg;
    for (size_t i = first; i < last; i++) {
        if (bring_in(leaves, i))
            crypto_onetimeauth_poly1305(leaves->tags + i * TAG_BYTES, leaves->data + i * LEAF_BYTES,
                                        leaf_bytes(leaves, i), leaves->key);
        else
            atomic_store(&leaves->lost, true);
    }
}

static void touch_leaves(void *arg, size_t first, size_t last, unsigned thread)
{
    (void)thread;
    struct leaves *leaves = arg;
    for (size_t i = first; i < last; i++)
        if (!bring_in(leaves, i))
            atomic_store(&leaves->lost, true);
}

/* Whether every page was there. tags: n_leaves(bytes) * TAG_BYTES. */
static bool make_tags(const struct shard_mapped *mapped, uint64_t bytes,
                      const uint8_t name[PROTO_HASH_BYTES], uint8_t *tags, struct kern_pool *pool)
{
    struct leaves leaves = {.data = (void *)mapped->data,
                            .bytes = bytes,
                            .key = name,
                            .tags = tags,
                            .advice = MADV_POPULATE_READ};
    kern_pool_run(pool, n_leaves(bytes), 1, tag_leaves, &leaves);
    return !atomic_load(&leaves.lost);
}

/* *bad: set to what is wrong with the file. */
static enum proto_status verify(const struct shard_mapped *mapped, uint64_t bytes,
                                const uint8_t name[PROTO_HASH_BYTES], struct kern_pool *pool,
                                const char **bad, struct proto_error *error)
{
    size_t tags_bytes = n_leaves(bytes) * TAG_BYTES;
    uint8_t *tags = malloc(tags_bytes);
    if (!tags)
        return proto_fail_nomem(error, tags_bytes, "the tags of a packed weight");
    if (!make_tags(mapped, bytes, name, tags, pool))
        *bad = "unreadable";
    else if (memcmp(tags, (const uint8_t *)mapped->data + bytes, tags_bytes) != 0)
        *bad = "wrong tags";
    free(tags);
    return PROTO_OK;
}

static enum proto_status map_file(int fd, const char *path, const uint8_t name[PROTO_HASH_BYTES],
                                  uint64_t bytes, struct kern_pool *pool, struct shard_mapped *out,
                                  struct proto_error *error)
{
    struct stat info;
    if (fstat(fd, &info) < 0)
        return proto_fail_errno(error, errno, "cannot read the packed weight", path);
    struct shard_mapped mapped;
    size_t len = file_bytes(bytes);
    if (info.st_size <= 0 || (uint64_t)info.st_size != len) {
        shard__store_remove_bad(path, "wrong length");
        return PROTO_NOTFOUND;
    }
    enum proto_status status = shard__store_map_file(fd, path, len, 0, &mapped, error);
    if (status)
        return status;
    posix_fadvise(fd, 0, 0, POSIX_FADV_WILLNEED);
    shard__room_note_use(fd);
    const char *bad = NULL;
    status = verify(&mapped, bytes, name, pool, &bad, error);
    if (!status && shard_mapped_lost(&mapped))
        bad = "unreadable";
    if (!status && !bad) {
        *out = mapped;
        return PROTO_OK;
    }
    shard_store_unmap(&mapped);
    if (status)
        return status;
    shard__store_remove_bad(path, bad);
    return PROTO_NOTFOUND;
}

enum proto_status shard_packed_map(struct shard_store *store, const uint8_t name[PROTO_HASH_BYTES],
                                   uint64_t bytes, struct kern_pool *pool,
                                   struct shard_mapped *mapped, struct proto_error *error)
{
    *mapped = (struct shard_mapped){0};
    char *path = shard__store_path(store, "packed", name, ".packed");
    if (!path)
        return shard__store_fail_nomem(error);
    enum proto_status status = PROTO_NOTFOUND;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd >= 0)
        status = map_file(fd, path, name, bytes, pool, mapped, error);
    else if (errno != ENOENT)
        status = proto_fail_errno(error, errno, "cannot open the packed weight", path);
    if (fd >= 0)
        close(fd);
    free(path);
    return status;
}

static void part_destroy(struct shard_packed_part *part)
{
    shard_store_unmap(&part->mapped);
    if (part->fd >= 0)
        close(part->fd); /* lets go of the lock */
    free(part->path);
    free(part->final_path);
    free(part);
}

void shard_packed_abort(struct shard_packed_part *part)
{
    if (!part)
        return;
    if (part->fd >= 0)
        unlink(part->path);
    part_destroy(part);
}

static enum proto_status part_create(const struct shard_store *store,
                                     const uint8_t name[PROTO_HASH_BYTES], uint64_t bytes,
                                     struct shard_packed_part **out, struct proto_error *error)
{
    struct shard_packed_part *part = calloc(1, sizeof *part);
    if (!part)
        return proto_fail_nomem(error, sizeof *part, "a packed weight");
    part->store = store;
    part->bytes = bytes;
    part->fd = -1;
    memcpy(part->name, name, PROTO_HASH_BYTES);
    part->path = shard__store_path(store, "packed", name, ".part");
    part->final_path = shard__store_path(store, "packed", name, ".packed");
    if (!part->path || !part->final_path) {
        part_destroy(part);
        return shard__store_fail_nomem(error);
    }
    *out = part;
    return PROTO_OK;
}

static enum proto_status fail_space(const struct shard_packed_part *part, const char *why,
                                    struct proto_error *error)
{
    return proto_fail(error, PROTO_NOSPACE,
                      "no room in the piece cache %s for packed weights: %" PRIu64 " bytes (%s); "
                      "free room there or choose another directory with --cache-dir",
                      shard_store_dir(part->store), part->bytes, why);
}

/* All blocks are taken on the disk before the memory is written to: a write to a mapped page that
 * the disk has no room for would be a signal. */
static enum proto_status reserve(const struct shard_packed_part *part, size_t len,
                                 struct proto_error *error)
{
    struct statvfs disk;
    if (ftruncate(part->fd, 0) < 0 || fstatvfs(part->fd, &disk) < 0)
        return proto_fail_errno(error, errno, "cannot empty", part->path);
    uint64_t tenth = disk.f_blocks / 10, kept = FREE_BYTES / disk.f_frsize;
    kept = tenth < kept ? tenth : kept;
    if (disk.f_bavail < kept || disk.f_bavail - kept < len / disk.f_frsize)
        return fail_space(part, "some of the disk stays free", error);
    int rc;
    do
        rc = fallocate(part->fd, 0, 0, (off_t)len);
    while (rc < 0 && errno == EINTR);
    if (rc == 0)
        return PROTO_OK;
    if (errno == ENOSPC || errno == EDQUOT || errno == EFBIG)
        return fail_space(part, strerror(errno), error);
    return proto_fail_errno(error, errno, "cannot reserve room for", part->path);
}

static enum proto_status map_part(struct shard_packed_part *part, size_t len,
                                  struct kern_pool *pool, struct proto_error *error)
{
    void *data = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, part->fd, 0);
    if (data == MAP_FAILED)
        return proto_fail_errno(error, errno, "cannot map", part->path);
    part->mapped = (struct shard_mapped){.data = data, .len = len};
    if (!(part->mapped.guard = shard__guard_begin(data, len)))
        return proto_fail_nomem(error, len, "a mapping");
    struct leaves leaves = {.data = data, .bytes = len, .advice = MADV_POPULATE_WRITE};
    kern_pool_run(pool, n_leaves(len), 1, touch_leaves, &leaves);
    return atomic_load(&leaves.lost) ? fail_space(part, "the disk takes no more", error) : PROTO_OK;
}

enum proto_status shard_packed_begin(struct shard_store *store,
                                     const uint8_t name[PROTO_HASH_BYTES], uint64_t bytes,
                                     struct kern_pool *pool, struct shard_packed_part **out,
                                     void **memory, struct proto_error *error)
{
    *out = NULL;
    *memory = NULL;
    size_t len = file_bytes(bytes);
    if (!len)
        return proto_fail(error, PROTO_LIMIT, "a packed weight of %" PRIu64 " bytes", bytes);
    struct shard_packed_part *part = NULL;
    uint64_t old_bytes;
    enum proto_status status = part_create(store, name, bytes, &part, error);
    if (status)
        return status;
    if ((status = shard__store_make_subdir(store, "packed", error)) ||
        (status = shard__store_make_place(store, "packed", name, error)) ||
        (status = shard__store_lock(part->path, &part->fd, &old_bytes, error)) ||
        (status = shard__room_take(store, shard__store_room(store), len, error)) ||
        (status = reserve(part, len, error)) || (status = map_part(part, len, pool, error))) {
        shard_packed_abort(part);
        return status;
    }
    *out = part;
    *memory = (void *)part->mapped.data;
    return PROTO_OK;
}

static enum proto_status commit(struct shard_packed_part *part, struct kern_pool *pool,
                                bool durable, struct proto_error *error)
{
    uint8_t *data = (void *)part->mapped.data;
    if (!make_tags(&part->mapped, part->bytes, part->name, data + part->bytes, pool))
        return proto_fail(error, PROTO_IO, "cannot read back %s", part->path);
    if (mprotect(data, part->mapped.len, PROT_READ) < 0)
        return proto_fail_errno(error, errno, "cannot protect", part->path);
    if (durable && fsync(part->fd) < 0)
        return proto_fail_errno(error, errno, "cannot write", part->path);
    if (shard_mapped_lost(&part->mapped))
        return proto_fail(error, PROTO_IO, "%s was cut short while it was written", part->path);
    if (rename(part->path, part->final_path) < 0)
        return proto_fail_errno(error, errno, "cannot rename", part->path);
    return PROTO_OK;
}

enum proto_status shard_packed_commit(struct shard_packed_part *part, struct kern_pool *pool,
                                      bool durable, struct shard_mapped *mapped,
                                      struct proto_error *error)
{
    *mapped = (struct shard_mapped){0};
    enum proto_status status = commit(part, pool, durable, error);
    if (status) {
        shard_packed_abort(part);
        return status;
    }
    *mapped = part->mapped;
    part->mapped = (struct shard_mapped){0};
    part_destroy(part);
    return PROTO_OK;
}
