/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writes a synthetic model. Tensors are independent, so several threads make them, each the next
 * one that nobody has taken, and write them to their places in the file. The file grows under
 * another name beside the one asked for and is renamed when all of it is there.
 */
#include "shard/mkmodel.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <sched.h>
#include <sodium.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "shard/mkmodel_spec.h"

#define CHUNK_BYTES    (1u << 20)
#define SPARE_BYTES    8u
#define MAX_THREADS    16
#define THREAD_BYTES   (16u << 20) /* less work than this is not worth a thread */
#define FILE_ALIGNMENT 32u

struct digest {
    char hex[2 * crypto_hash_sha256_BYTES + 1];
};

struct job {
    const struct shard_mkmodel_options *options;
    const struct shard__spec *spec;
    const struct shard_gguf *layout; /* the header, read back */
    const char *path;                /* of the file that grows */
    int fd;
    uint64_t total; /* bytes of tensors */
    struct digest *digests;
    atomic_size_t next;
    atomic_uint_least64_t done;
    atomic_bool failed;
    pthread_mutex_t lock; /* of status and error */
    enum proto_status status;
    struct proto_error error;
};

static void job_fail(struct job *job, enum proto_status status, const struct proto_error *error)
{
    pthread_mutex_lock(&job->lock);
    if (!job->status) {
        job->status = status;
        job->error = *error;
    }
    pthread_mutex_unlock(&job->lock);
    atomic_store(&job->failed, true);
}

static enum proto_status fail_write(const char *path, uint64_t bytes, struct proto_error *error)
{
    char action[64];
    int cause = errno;
    snprintf(action, sizeof action, "cannot write %" PRIu64 " bytes to", bytes);
    return proto_fail_errno(error, cause, action, path);
}

static enum proto_status write_at(int fd, const char *path, const uint8_t *bytes, size_t len,
                                  uint64_t offset, struct proto_error *error)
{
    while (len) {
        ssize_t n = pwrite(fd, bytes, len, (off_t)offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return fail_write(path, len, error);
        bytes += n;
        len -= (size_t)n;
        offset += (uint64_t)n;
    }
    return PROTO_OK;
}

static void digest_final(struct digest *digest, crypto_hash_sha256_state *state)
{
    unsigned char hash[crypto_hash_sha256_BYTES];
    crypto_hash_sha256_final(state, hash);
    sodium_bin2hex(digest->hex, sizeof digest->hex, hash, sizeof hash);
}

/* `report` where the thread is the caller's, which the progress callback runs on. */
static enum proto_status make_tensor(struct job *job, size_t i, uint8_t *chunk, bool report,
                                     struct proto_error *error)
{
    const struct shard_mkmodel_options *options = job->options;
    const struct shard_tensor *tensor = shard_gguf_tensor(job->layout, i);
    uint64_t step = CHUNK_BYTES / tensor->type->block_bytes & ~(uint64_t)7;
    uint64_t n = tensor->bytes / tensor->type->block_bytes;
    crypto_hash_sha256_state state;
    crypto_hash_sha256_init(&state);
    for (uint64_t first = 0; first < n && !atomic_load(&job->failed); first += step) {
        uint64_t count = n - first < step ? n - first : step;
        size_t len = count * tensor->type->block_bytes;
        shard__fill(chunk, tensor, &job->spec->recipes[i], options->seed, first, count);
        crypto_hash_sha256_update(&state, chunk, len);
        enum proto_status status =
            write_at(job->fd, job->path, chunk, len,
                     tensor->offset + first * tensor->type->block_bytes, error);
        if (status)
            return status;
        uint64_t done = atomic_fetch_add(&job->done, len) + len;
        if (report && options->progress)
            options->progress(options->progress_arg, done, job->total);
    }
    digest_final(&job->digests[i], &state);
    return PROTO_OK;
}

static void make_tensors(struct job *job, bool report)
{
    struct proto_error error;
    enum proto_status status = PROTO_OK;
    uint8_t *chunk = malloc(CHUNK_BYTES + SPARE_BYTES);
    if (!chunk)
        status = proto_fail_nomem(&error, CHUNK_BYTES + SPARE_BYTES, "a tensor's bytes");
    while (!status && !atomic_load(&job->failed)) {
        size_t i = atomic_fetch_add(&job->next, 1);
        if (i >= job->spec->n)
            break;
        status = make_tensor(job, i, chunk, report, &error);
    }
    if (status)
        job_fail(job, status, &error);
    free(chunk);
}

static void *thread_main(void *arg)
{
    make_tensors(arg, false);
    return NULL;
}

static size_t thread_count(uint64_t total)
{
    cpu_set_t cpus;
    uint64_t n = 1;
    if (!sched_getaffinity(0, sizeof cpus, &cpus))
        n = (uint64_t)CPU_COUNT(&cpus);
    if (n > total / THREAD_BYTES)
        n = total / THREAD_BYTES;
    return n < 1 ? 1 : n > MAX_THREADS ? MAX_THREADS : (size_t)n;
}

/* All tensors, on this thread and others; a thread that cannot be had is done without. */
static enum proto_status run(struct job *job, struct proto_error *error)
{
    pthread_t threads[MAX_THREADS];
    size_t n = 0, wanted = thread_count(job->total) - 1;
    while (n < wanted && !pthread_create(&threads[n], NULL, thread_main, job))
        n++;
    make_tensors(job, true);
    for (size_t i = 0; i < n; i++)
        pthread_join(threads[i], NULL);
    if (job->status && error)
        *error = job->error;
    return job->status;
}

static int compare_names(const void *a, const void *b, void *layout)
{
    return strcmp(shard_gguf_tensor(layout, *(const uint32_t *)a)->name,
                  shard_gguf_tensor(layout, *(const uint32_t *)b)->name);
}

/* SHA-256 over the sorted lines "NAME HEX\n". */
static enum proto_status digest_all(const struct job *job, char out[65], struct proto_error *error)
{
    size_t n = job->spec->n;
    uint32_t *order = malloc((n + 1) * sizeof *order);
    if (!order)
        return proto_fail_nomem(error, (n + 1) * sizeof *order, "the order of tensors");
    for (size_t i = 0; i < n; i++)
        order[i] = (uint32_t)i;
    qsort_r(order, n, sizeof *order, compare_names, (void *)job->layout);
    crypto_hash_sha256_state state;
    crypto_hash_sha256_init(&state);
    for (size_t i = 0; i < n; i++) {
        char line[PROTO_MAX_NAME_BYTES + sizeof(struct digest) + 3];
        int len =
            snprintf(line, sizeof line, "%s %s\n", shard_gguf_tensor(job->layout, order[i])->name,
                     job->digests[order[i]].hex);
        crypto_hash_sha256_update(&state, (const unsigned char *)line, (size_t)len);
    }
    struct digest digest;
    digest_final(&digest, &state);
    memcpy(out, digest.hex, sizeof digest.hex);
    free(order);
    return PROTO_OK;
}

static enum proto_status make_all(struct job *job, char digest[65], struct proto_error *error)
{
    job->digests = calloc(job->spec->n + 1, sizeof *job->digests);
    if (!job->digests)
        return proto_fail_nomem(error, (job->spec->n + 1) * sizeof *job->digests, "digests");
    pthread_mutex_init(&job->lock, NULL);
    enum proto_status status = run(job, error);
    pthread_mutex_destroy(&job->lock);
    if (!status)
        status = digest_all(job, digest, error);
    free(job->digests);
    return status;
}

/* Takes the room on the disk before the work is done; not every file system can. */
static enum proto_status set_size(int fd, const char *path, uint64_t bytes, bool sparse,
                                  struct proto_error *error)
{
    if (!sparse && fallocate(fd, 0, 0, (off_t)bytes) && errno != EOPNOTSUPP && errno != ENOSYS)
        return fail_write(path, bytes, error);
    if (ftruncate(fd, (off_t)bytes))
        return fail_write(path, bytes, error);
    return PROTO_OK;
}

static enum proto_status write_file(const struct shard_mkmodel_options *options,
                                    const struct shard__spec *spec, int fd, const char *path,
                                    char digest[65], struct proto_error *error)
{
    void *header = NULL;
    size_t len = 0;
    struct shard_gguf *layout = NULL;
    enum proto_status status = shard_gguf_writer_header(spec->writer, &header, &len, error);
    if (!status)
        status = shard_gguf_parse(&layout, header, len, path, error);
    if (status)
        goto done;
    const struct shard_tensor *last = shard_gguf_tensor(layout, spec->n - 1);
    uint64_t end =
        (last->offset + last->bytes + FILE_ALIGNMENT - 1) & ~(uint64_t)(FILE_ALIGNMENT - 1);
    struct job job = {.options = options,
                      .spec = spec,
                      .layout = layout,
                      .path = path,
                      .fd = fd,
                      .total = end - len};
    if (end > (uint64_t)INT64_MAX)
        status = proto_fail(error, PROTO_LIMIT,
                            "the model takes %" PRIu64 " bytes, a file holds at most 2^63", end);
    if (!status)
        status = set_size(fd, path, end, options->sparse, error);
    if (!status)
        status = write_at(fd, path, header, len, 0, error);
    if (!status && !options->sparse)
        status = make_all(&job, digest, error);
done:
    shard_gguf_close(layout);
    free(header);
    return status;
}

/* The rename at the end must not replace a folder or a device. */
static enum proto_status check_target(const char *path, struct proto_error *error)
{
    struct stat info;
    if (stat(path, &info)) {
        if (errno == ENOENT)
            return PROTO_OK;
        return proto_fail_errno(error, errno, "cannot examine", path);
    }
    if (!S_ISREG(info.st_mode))
        return proto_fail(error, PROTO_INVALID,
                          "%s: is not a regular file, expected the name of a file to write", path);
    return PROTO_OK;
}

/* Writes the file under another name beside `path`, then gives it its name. */
static enum proto_status write_beside(const struct shard_mkmodel_options *options,
                                      const struct shard__spec *spec, const char *path,
                                      char digest[65], struct proto_error *error)
{
    char *part;
    if (asprintf(&part, "%s.%08" PRIx32 ".part", path, randombytes_random()) < 0)
        return proto_fail_nomem(error, strlen(path) + 15, "a path");
    enum proto_status status = PROTO_OK;
    int fd = open(part, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd < 0) {
        status = proto_fail_errno(error, errno, "cannot create", part);
        free(part);
        return status;
    }
    status = write_file(options, spec, fd, part, digest, error);
    if (close(fd) && !status)
        status = proto_fail_errno(error, errno, "cannot finish", part);
    if (!status && rename(part, path))
        status = proto_fail_errno(error, errno, "cannot rename the finished file to", path);
    if (status)
        unlink(part);
    free(part);
    return status;
}

/* A type's name is of a model whose matrices all have it, a mixture's of a mixture. */
static enum proto_status find_type(const char *name, struct shard_mixture *out,
                                   struct proto_error *error)
{
    const struct kern_type_info *type = kern_type_by_name(name);
    if (!type)
        return shard_mixture_read(out, name, error);
    *out = shard_mixture_uniform(type);
    return PROTO_OK;
}

enum proto_status shard_mkmodel(const struct shard_mkmodel_options *options, const char *path,
                                char digest[65], struct proto_error *error)
{
    struct shard_dims dims;
    struct shard__spec spec = {0};
    struct shard_mixture mixture;
    digest[0] = '\0';
    if (sodium_init() < 0)
        return proto_fail(error, PROTO_IO, "libsodium finds no source of random numbers");
    enum proto_status status =
        shard_dims_read(&dims, options->preset, options->sets, options->n_sets, error);
    if (!status)
        status = find_type(options->type, &mixture, error);
    if (!status)
        status = check_target(path, error);
    if (!status)
        status = shard__spec_init(&spec, &dims, &mixture, error);
    if (!status)
        status = shard__spec_vocab(spec.writer, dims.vocab, error);
    if (!status)
        status = write_beside(options, &spec, path, digest, error);
    shard__spec_finish(&spec);
    return status;
}
