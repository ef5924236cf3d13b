/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Keeps a store within its limit. What lies there is looked at when there seems to be no room, and
 * now and then for the sake of other processes; one process at a time removes files. Each file is
 * worth something by itself (a piece, a packed weight), so they go one by one, the one that was
 * used least recently first. A use is noted as the file's time of access, set on purpose: what file
 * systems do by themselves depends on how they are mounted.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "proto/log.h"
#include "shard/store_file.h"

/* Of the limit: made free beyond what is needed, so that not each file to come removes one; and
 * written since the last look, after which others may have filled the store. */
#define SLACK  16
#define UNSEEN 8

struct file {
    char *path;
    uint8_t name[PROTO_HASH_BYTES];
    enum shard_kept kind;
    uint64_t bytes;
    struct timespec used;
};

struct files {
    struct file *of;
    size_t n, room;
    uint64_t bytes;
};

static void files_finish(struct files *files)
{
    for (size_t i = 0; i < files->n; i++)
        free(files->of[i].path);
    free(files->of);
}

/* A name of 64 hexadecimal digits and ".piece", ".packed" or ".part". */
static bool is_ours(const char *base, struct file *file)
{
    static const char *const endings[SHARD_N_KEPT] = {[SHARD_KEPT_PIECE] = ".piece",
                                                      [SHARD_KEPT_PACKED] = ".packed",
                                                      [SHARD_KEPT_PART] = ".part"};
    size_t len;
    const char *dot;
    if (sodium_hex2bin(file->name, sizeof file->name, base, strcspn(base, "."), NULL, &len, &dot) ||
        len != sizeof file->name)
        return false;
    for (int kind = 0; kind < SHARD_N_KEPT; kind++) {
        file->kind = (enum shard_kept)kind;
        if (strcmp(dot, endings[kind]) == 0)
            return true;
    }
    return false;
}

static enum proto_status add_file(struct files *files, const char *dir, const char *base,
                                  struct proto_error *error)
{
    struct file file = {0};
    struct stat info;
    if (!is_ours(base, &file))
        return PROTO_OK;
    if (files->n == files->room) {
        size_t room = files->room ? 2 * files->room : 256;
        struct file *grown = realloc(files->of, room * sizeof *grown);
        if (!grown)
            return proto_fail_nomem(error, room * sizeof *grown, "the piece cache's files");
        files->of = grown;
        files->room = room;
    }
    file.path = shard__store_format("%s/%s", dir, base);
    if (!file.path)
        return shard__store_fail_nomem(error);
    if (stat(file.path, &info) < 0 || !S_ISREG(info.st_mode)) {
        free(file.path); /* gone meanwhile */
        return PROTO_OK;
    }
    file.bytes = (uint64_t)info.st_size;
    file.used = info.st_atim;
    files->bytes += file.bytes;
    files->of[files->n++] = file;
    return PROTO_OK;
}

/* The files in `path`, `depth` folders down. */
static enum proto_status look(struct files *files, const char *path, unsigned depth,
                              struct proto_error *error)
{
    enum proto_status status = PROTO_OK;
    DIR *dir = opendir(path);
    for (struct dirent *entry; dir && !status && (entry = readdir(dir));) {
        if (entry->d_name[0] == '.')
            continue;
        if (depth == 0) {
            status = add_file(files, path, entry->d_name, error);
            continue;
        }
        char *below = shard__store_format("%s/%s", path, entry->d_name);
        status = below ? look(files, below, depth - 1, error) : shard__store_fail_nomem(error);
        free(below);
    }
    if (dir)
        closedir(dir);
    return status;
}

static enum proto_status look_around(const struct shard_store *store, struct files *files,
                                     struct proto_error *error)
{
    static const char *const folders[] = {"pieces", "packed"};
    enum proto_status status = PROTO_OK;
    for (size_t i = 0; i < sizeof folders / sizeof *folders && !status; i++) {
        char *path = shard__store_format("%s/%s", shard_store_dir(store), folders[i]);
        status = path ? look(files, path, 1, error) : shard__store_fail_nomem(error);
        free(path);
    }
    return status;
}

static int by_use(const void *a, const void *b)
{
    const struct file *x = a, *y = b;
    if (x->used.tv_sec != y->used.tv_sec)
        return x->used.tv_sec < y->used.tv_sec ? -1 : 1;
    return x->used.tv_nsec < y->used.tv_nsec ? -1 : x->used.tv_nsec > y->used.tv_nsec;
}

/* A part that a transfer has open is locked. */
static bool remove_file(const struct file *file)
{
    int fd = file->kind == SHARD_KEPT_PART ? open(file->path, O_RDONLY | O_CLOEXEC) : -1;
    bool busy = fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) < 0;
    bool removed = !busy && unlink(file->path) == 0;
    if (fd >= 0)
        close(fd);
    return removed;
}

/* Removes files until at most `most` bytes are left, or nothing that may go. */
static enum proto_status remove_least_used(const struct shard_store *store, struct files *files,
                                           uint64_t most, struct proto_error *error)
{
    struct shard__names leased;
    uint64_t before = files->bytes;
    size_t removed = 0;
    enum proto_status status = shard__leases_read(store, &leased, error);
    if (files->n)
        qsort(files->of, files->n, sizeof *files->of, by_use);
    for (size_t i = 0; i < files->n && !status && files->bytes > most; i++) {
        if (shard__names_have(&leased, files->of[i].name) || !remove_file(&files->of[i]))
            continue;
        files->bytes -= files->of[i].bytes;
        removed++;
    }
    free(leased.of);
    if (removed)
        proto_log(PROTO_LOG_INFO, "SHARD-EVICTED", "files=%zu bytes=%" PRIu64 " left=%" PRIu64,
                  removed, before - files->bytes, files->bytes);
    return status;
}

/* Under the lock. */
static enum proto_status make_room(const struct shard_store *store, uint64_t limit, uint64_t bytes,
                                   uint64_t *used, struct proto_error *error)
{
    struct files files = {0};
    enum proto_status status = look_around(store, &files, error);
    uint64_t most = limit > bytes ? limit - bytes : 0, slack = most / SLACK;
    if (!status && files.bytes > most)
        status = remove_least_used(store, &files, most - slack, error);
    *used = files.bytes;
    if (!status && (files.bytes > most || limit < bytes))
        status = proto_fail(error, PROTO_NOSPACE,
                            "no room in the piece cache %s within its limit of %" PRIu64
                            " bytes: %" PRIu64 " are in use, %" PRIu64
                            " more are needed; raise --cache-limit",
                            shard_store_dir(store), limit, files.bytes, bytes);
    files_finish(&files);
    return status;
}

/* The lock that lets one process at a time remove files: *fd is to be closed, unless it is -1. */
static enum proto_status lock_room(const struct shard_store *store, int *fd,
                                   struct proto_error *error)
{
    char *path = shard__store_format("%s/room.lock", shard_store_dir(store));
    int rc = -1;
    *fd = -1;
    if (!path)
        return shard__store_fail_nomem(error);
    *fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    while (*fd >= 0 && (rc = flock(*fd, LOCK_EX)) < 0 && errno == EINTR)
        ;
    enum proto_status status =
        rc < 0 ? proto_fail_errno(error, errno, "cannot lock", path) : PROTO_OK;
    free(path);
    return status;
}

static enum proto_status make_room_alone(const struct shard_store *store, uint64_t limit,
                                         uint64_t bytes, uint64_t *used, struct proto_error *error)
{
    int fd;
    enum proto_status status = lock_room(store, &fd, error);
    if (!status)
        status = make_room(store, limit, bytes, used, error);
    if (fd >= 0)
        close(fd);
    return status;
}

enum proto_status shard__room_take(const struct shard_store *store, struct shard__room *room,
                                   uint64_t bytes, struct proto_error *error)
{
    enum proto_status status = PROTO_OK;
    pthread_mutex_lock(&room->mutex);
    if (room->limit) {
        bool known = room->seen && room->unseen < room->limit / UNSEEN;
        if (!known || bytes > room->limit || room->used > room->limit - bytes) {
            status = make_room_alone(store, room->limit, bytes, &room->used, error);
            room->seen = !status;
            room->unseen = 0;
        }
        if (!status) {
            room->used += bytes;
            room->unseen += bytes;
        }
    }
    pthread_mutex_unlock(&room->mutex);
    return status;
}

void shard__room_note_use(int fd)
{
    const struct timespec now[2] = {{.tv_nsec = UTIME_NOW}, {.tv_nsec = UTIME_OMIT}};
    /* Where it cannot be noted the file counts as used less recently than it was. */
    (void)!futimens(fd, now);
}

/* ---- for people ---- */

static void count_file(struct shard_store_use *use, const struct file *file, bool leased)
{
    int64_t used = file->used.tv_sec;
    use->oldest = use->files == 0 || used < use->oldest ? used : use->oldest;
    use->latest = use->files == 0 || used > use->latest ? used : use->latest;
    use->files++;
    use->bytes += file->bytes;
    use->leased_bytes += leased ? file->bytes : 0;
}

enum proto_status shard_store_look(const struct shard_store *store,
                                   struct shard_store_use out[SHARD_N_KEPT],
                                   struct proto_error *error)
{
    struct files files = {0};
    struct shard__names leased = {0};
    memset(out, 0, SHARD_N_KEPT * sizeof *out);
    enum proto_status status = look_around(store, &files, error);
    if (!status)
        status = shard__leases_read(store, &leased, error);
    for (size_t i = 0; i < files.n && !status; i++)
        count_file(&out[files.of[i].kind], &files.of[i],
                   shard__names_have(&leased, files.of[i].name));
    free(leased.of);
    files_finish(&files);
    return status;
}

enum proto_status shard_store_evict(const struct shard_store *store, uint64_t bytes,
                                    uint64_t *freed, struct proto_error *error)
{
    struct files files = {0};
    int fd;
    *freed = 0;
    enum proto_status status = lock_room(store, &fd, error);
    if (!status)
        status = look_around(store, &files, error);
    uint64_t before = files.bytes;
    if (!status)
        status = remove_least_used(store, &files, before > bytes ? before - bytes : 0, error);
    *freed = before - files.bytes;
    if (fd >= 0)
        close(fd);
    files_finish(&files);
    return status;
}
