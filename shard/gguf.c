/* SPDX-License-Identifier: Apache-2.0 */
#include "shard/gguf_parse.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "shard/guard.h"

struct gguf_file {
    char *path;
    uint8_t *bytes;
    size_t len;
    struct shard__guard *guard; /* of the mapping; NULL: malloc'ed */
    struct shard_gguf_stamp stamp;
};

struct shard_gguf {
    struct gguf_file *files;
    size_t n_files;
    struct shard__gguf_header head; /* values of the first file, tensors of all */
    uint32_t *by_name;              /* numbers of the tensors in order of their names */
};

/* What a file says of its place in a split set. */
struct split {
    int64_t no, count, n_tensors;
};

static void file_finish(struct gguf_file *file)
{
    if (file->guard) {
        shard__guard_end(file->guard);
        munmap(file->bytes, file->len);
    } else
        free(file->bytes);
    free(file->path);
    *file = (struct gguf_file){0};
}

static uint64_t nanoseconds(struct timespec time)
{
    return (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
}

static enum proto_status file_map(struct gguf_file *file, int fd, struct proto_error *error)
{
    struct stat info;
    if (fstat(fd, &info))
        return proto_fail_errno(error, errno, "cannot examine", file->path);
    if (!S_ISREG(info.st_mode))
        return proto_fail(error, PROTO_INVALID, "%s: is not a regular file, expected a GGUF file",
                          file->path);
    if (!info.st_size)
        return proto_fail(error, PROTO_FORMAT,
                          "%s: is empty, expected a GGUF file; download it "
                          "again",
                          file->path);
    void *bytes = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_SHARED, fd, 0);
    if (bytes == MAP_FAILED)
        return proto_fail_errno(error, errno, "cannot map", file->path);
    file->guard = shard__guard_begin(bytes, (size_t)info.st_size);
    if (!file->guard) {
        munmap(bytes, (size_t)info.st_size);
        return proto_fail_nomem(error, (size_t)info.st_size, "a mapping");
    }
    file->bytes = bytes;
    file->len = (size_t)info.st_size;
    file->stamp = (struct shard_gguf_stamp){.inode = info.st_ino,
                                            .len = (uint64_t)info.st_size,
                                            .changed_ns = nanoseconds(info.st_mtim),
                                            .inode_changed_ns = nanoseconds(info.st_ctim)};
    return PROTO_OK;
}

static enum proto_status file_open(struct gguf_file *file, const char *path,
                                   struct proto_error *error)
{
    file->path = strdup(path);
    if (!file->path)
        return proto_fail_nomem(error, strlen(path) + 1, "a path");
    /* A FIFO must not make open wait; it is refused once its kind is known. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return proto_fail_errno(error, errno, "cannot open", path);
    enum proto_status status = file_map(file, fd, error);
    close(fd);
    return status;
}

static enum proto_status check_complete(const struct gguf_file *file,
                                        const struct shard__gguf_header *header,
                                        struct proto_error *error)
{
    if (header->end > file->len)
        return proto_fail(error, PROTO_FORMAT,
                          "%s: file is truncated: needs %" PRIu64
                          " bytes, has %zu; download it again",
                          file->path, header->end, file->len);
    return PROTO_OK;
}

/* *out stays as it is where the key is absent. */
static enum proto_status read_split_key(const struct shard__gguf_header *header, const char *path,
                                        const char *key, int64_t max, int64_t *out,
                                        struct proto_error *error)
{
    const struct shard_gguf_value *value = shard__gguf_find(header, key);
    if (!value)
        return PROTO_OK;
    if (value->kind == SHARD_GGUF_ARRAY || !shard__gguf_int(value, 0, out) || *out < 0 ||
        *out > max)
        return proto_fail(error, PROTO_FORMAT,
                          "%s: key \"%s\" is not an integer from 0 to %" PRId64
                          "; " SHARD__GGUF_AGAIN,
                          path, key, max);
    return PROTO_OK;
}

static enum proto_status read_split(const struct shard__gguf_header *header, const char *path,
                                    struct split *out, struct proto_error *error)
{
    *out = (struct split){.no = 0, .count = 1, .n_tensors = -1};
    enum proto_status status =
        read_split_key(header, path, "split.no", UINT16_MAX, &out->no, error);
    if (!status)
        status = read_split_key(header, path, "split.count", UINT16_MAX, &out->count, error);
    if (!status)
        status = read_split_key(header, path, "split.tensors.count", PROTO_MAX_TENSORS,
                                &out->n_tensors, error);
    return status;
}

/* Path of file `no` (from 0) of the set whose file `own` is at `path`; NULL with a text where the
 * name does not end as a split file's must. */
static char *sibling_path(const char *path, unsigned own, unsigned no, unsigned count,
                          struct proto_error *error)
{
    char suffix[32];
    size_t len = strlen(path);
    int suffix_len = snprintf(suffix, sizeof suffix, "-%05u-of-%05u.gguf", own + 1, count);
    if (len < (size_t)suffix_len || strcmp(path + len - suffix_len, suffix)) {
        proto_fail(error, PROTO_FORMAT,
                   "%s: is file %u of %u of a split set, so its name must end in \"%s\"; give "
                   "the files their first names again",
                   path, own + 1, count, suffix);
        return NULL;
    }
    char *sibling;
    if (asprintf(&sibling, "%.*s-%05u-of-%05u.gguf", (int)(len - (size_t)suffix_len), path, no + 1,
                 count) < 0) {
        proto_fail_nomem(error, len + 1, "a path");
        return NULL;
    }
    return sibling;
}

static enum proto_status check_sibling(const struct gguf_file *file,
                                       const struct shard__gguf_header *header, size_t no,
                                       size_t count, struct proto_error *error)
{
    struct split split;
    enum proto_status status = read_split(header, file->path, &split, error);
    if (status)
        return status;
    if (split.no != (int64_t)no || split.count != (int64_t)count)
        return proto_fail(error, PROTO_FORMAT,
                          "%s: says that it is file %" PRId64 " of %" PRId64
                          " of a split set, expected %zu of %zu; download the set again",
                          file->path, split.no + 1, split.count, no + 1, count);
    return check_complete(file, header, error);
}

static enum proto_status append_tensors(struct shard_gguf *gguf, size_t file,
                                        const struct shard__gguf_header *header,
                                        struct proto_error *error)
{
    size_t n = gguf->head.n_tensors + header->n_tensors;
    if (n > PROTO_MAX_TENSORS)
        return proto_fail(error, PROTO_LIMIT,
                          "%s: %zu tensors in the split set so far, at most %u are allowed",
                          gguf->files[file].path, n, PROTO_MAX_TENSORS);
    struct shard_tensor *tensors = realloc(gguf->head.tensors, (n + 1) * sizeof *tensors);
    if (!tensors)
        return proto_fail_nomem(error, (n + 1) * sizeof *tensors, "the tensors of a model");
    gguf->head.tensors = tensors;
    for (size_t i = 0; i < header->n_tensors; i++) {
        struct shard_tensor *tensor = &tensors[gguf->head.n_tensors++];
        *tensor = header->tensors[i];
        tensor->file = (unsigned)file;
    }
    return PROTO_OK;
}

static enum proto_status open_sibling(struct shard_gguf *gguf, size_t no, size_t count,
                                      struct proto_error *error)
{
    struct gguf_file *file = &gguf->files[no];
    char *path = sibling_path(gguf->files[0].path, 0, (unsigned)no, (unsigned)count, error);
    if (!path)
        return PROTO_FORMAT;
    gguf->n_files = no + 1;
    enum proto_status status = file_open(file, path, error);
    if (status == PROTO_NOTFOUND)
        proto_fail(error, status,
                   "%s: file %zu of %zu of a split set is missing; put it beside "
                   "the first",
                   path, no + 1, count);
    free(path);
    if (status)
        return status;
    struct shard__gguf_header header;
    status = shard__gguf_parse_header(&header, file->bytes, file->len, file->path, error);
    if (!status)
        status = check_sibling(file, &header, no, count, error);
    if (!status)
        status = append_tensors(gguf, no, &header, error);
    shard__gguf_header_finish(&header);
    return status;
}

static enum proto_status fail_not_first(const char *path, const struct split *split,
                                        struct proto_error *error)
{
    char *first = sibling_path(path, (unsigned)split->no, 0, (unsigned)split->count, error);
    if (!first)
        return PROTO_FORMAT;
    enum proto_status status =
        proto_fail(error, PROTO_INVALID,
                   "%s: is file %" PRId64 " of %" PRId64 " of a split set; open the first, %s",
                   path, split->no + 1, split->count, first);
    free(first);
    return status;
}

static enum proto_status open_siblings(struct shard_gguf *gguf, struct proto_error *error)
{
    struct split split;
    const char *path = gguf->files[0].path;
    enum proto_status status = read_split(&gguf->head, path, &split, error);
    if (status)
        return status;
    if (split.no)
        return fail_not_first(path, &split, error);
    if (split.count <= 1)
        return PROTO_OK;
    struct gguf_file *files = realloc(gguf->files, (size_t)split.count * sizeof *gguf->files);
    if (!files)
        return proto_fail_nomem(error, (size_t)split.count * sizeof *files, "a split set");
    gguf->files = files;
    memset(files + 1, 0, ((size_t)split.count - 1) * sizeof *files);
    for (size_t no = 1; no < (size_t)split.count && !status; no++)
        status = open_sibling(gguf, no, (size_t)split.count, error);
    if (!status && split.n_tensors != (int64_t)gguf->head.n_tensors)
        status = proto_fail(error, PROTO_FORMAT,
                            "%s: the split set holds %zu tensors, expected %" PRId64
                            " (split.tensors.count); download the set again",
                            gguf->files[0].path, gguf->head.n_tensors, split.n_tensors);
    return status;
}

static int compare_tensors(const void *a, const void *b, void *tensors)
{
    const struct shard_tensor *t = tensors;
    return strcmp(t[*(const uint32_t *)a].name, t[*(const uint32_t *)b].name);
}

static enum proto_status index_tensors(struct shard_gguf *gguf, struct proto_error *error)
{
    size_t n = gguf->head.n_tensors;
    struct shard_tensor *tensors = gguf->head.tensors;
    uint32_t *index = malloc((n + 1) * sizeof *index);
    gguf->by_name = index;
    if (!index)
        return proto_fail_nomem(error, (n + 1) * sizeof *index, "the index of tensors");
    for (size_t i = 0; i < n; i++)
        index[i] = (uint32_t)i;
    qsort_r(index, n, sizeof *index, compare_tensors, tensors);
    for (size_t i = 1; i < n; i++)
        if (!strcmp(tensors[index[i - 1]].name, tensors[index[i]].name))
            return proto_fail(error, PROTO_FORMAT,
                              "%s: two tensors are named \"%s\", expected one; convert the model "
                              "again",
                              gguf->files[0].path, tensors[index[i]].name);
    return PROTO_OK;
}

static void point_into_files(struct shard_gguf *gguf)
{
    for (size_t i = 0; i < gguf->head.n_tensors; i++) {
        struct shard_tensor *tensor = &gguf->head.tensors[i];
        tensor->data = gguf->files[tensor->file].bytes + tensor->offset;
    }
}

static struct shard_gguf *create(struct proto_error *error)
{
    struct shard_gguf *gguf = calloc(1, sizeof *gguf);
    if (gguf)
        gguf->files = calloc(1, sizeof *gguf->files);
    if (!gguf || !gguf->files) {
        proto_fail_nomem(error, sizeof *gguf + sizeof *gguf->files, "a model file");
        free(gguf);
        return NULL;
    }
    gguf->n_files = 1;
    return gguf;
}

static enum proto_status parse_first(struct shard_gguf *gguf, struct proto_error *error)
{
    const struct gguf_file *file = &gguf->files[0];
    return shard__gguf_parse_header(&gguf->head, file->bytes, file->len, file->path, error);
}

enum proto_status shard_gguf_open(struct shard_gguf **out, const char *path,
                                  struct proto_error *error)
{
    *out = NULL;
    struct shard_gguf *gguf = create(error);
    if (!gguf)
        return PROTO_NOMEM;
    enum proto_status status = file_open(&gguf->files[0], path, error);
    if (!status)
        status = parse_first(gguf, error);
    if (!status)
        status = check_complete(&gguf->files[0], &gguf->head, error);
    if (!status)
        status = open_siblings(gguf, error);
    if (!status)
        status = index_tensors(gguf, error);
    if (status) {
        shard_gguf_close(gguf);
        return status;
    }
    point_into_files(gguf);
    *out = gguf;
    return PROTO_OK;
}

enum proto_status shard_gguf_parse(struct shard_gguf **out, const void *bytes, size_t len,
                                   const char *name, struct proto_error *error)
{
    *out = NULL;
    struct shard_gguf *gguf = create(error);
    if (!gguf)
        return PROTO_NOMEM;
    struct gguf_file *file = &gguf->files[0];
    file->path = strdup(name);
    file->bytes = malloc(len + 1);
    file->len = len;
    enum proto_status status = PROTO_OK;
    if (!file->path || !file->bytes)
        status = proto_fail_nomem(error, len + strlen(name), "a model's header");
    else if (len)
        memcpy(file->bytes, bytes, len);
    if (!status)
        status = parse_first(gguf, error);
    if (!status)
        status = index_tensors(gguf, error);
    if (status) {
        shard_gguf_close(gguf);
        return status;
    }
    *out = gguf;
    return PROTO_OK;
}

void shard_gguf_close(struct shard_gguf *gguf)
{
    if (!gguf)
        return;
    shard__gguf_header_finish(&gguf->head);
    free(gguf->by_name);
    for (size_t i = 0; i < gguf->n_files; i++)
        file_finish(&gguf->files[i]);
    free(gguf->files);
    free(gguf);
}

unsigned shard_gguf_version(const struct shard_gguf *gguf)
{
    return gguf->head.version;
}

bool shard_gguf_lost(const struct shard_gguf *gguf)
{
    for (size_t i = 0; i < gguf->n_files; i++)
        if (gguf->files[i].guard && shard__guard_lost(gguf->files[i].guard))
            return true;
    return false;
}

size_t shard_gguf_n_files(const struct shard_gguf *gguf)
{
    return gguf->n_files;
}

const char *shard_gguf_path(const struct shard_gguf *gguf, size_t file)
{
    return gguf->files[file].path;
}

struct shard_gguf_stamp shard_gguf_stamp(const struct shard_gguf *gguf, size_t file)
{
    return gguf->files[file].stamp;
}

size_t shard_gguf_n_values(const struct shard_gguf *gguf)
{
    return gguf->head.n_values;
}

const struct shard_gguf_value *shard_gguf_value(const struct shard_gguf *gguf, size_t i)
{
    return &gguf->head.values[i];
}

const struct shard_gguf_value *shard_gguf_find(const struct shard_gguf *gguf, const char *key)
{
    return shard__gguf_find(&gguf->head, key);
}

size_t shard_gguf_n_tensors(const struct shard_gguf *gguf)
{
    return gguf->head.n_tensors;
}

const struct shard_tensor *shard_gguf_tensor(const struct shard_gguf *gguf, size_t i)
{
    return &gguf->head.tensors[i];
}

long shard_gguf_find_tensor(const struct shard_gguf *gguf, const char *name)
{
    size_t first = 0, end = gguf->head.n_tensors;
    while (first < end) {
        size_t middle = first + (end - first) / 2;
        uint32_t i = gguf->by_name[middle];
        int order = strcmp(name, gguf->head.tensors[i].name);
        if (!order)
            return (long)i;
        if (order < 0)
            end = middle;
        else
            first = middle + 1;
    }
    return -1;
}
