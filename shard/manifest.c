/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A manifest file, numbers little-endian:
 *
 *   "CARAVANM", u32 version, u32 entries, 32 bytes key,
 *   an entry:  u32 tensor, u64 pieces, pieces x 32 bytes,
 *   32 bytes BLAKE2b of all that.
 *
 * The key is the hash of what tells one state of the model's files from another; it is also the
 * file's name. A file that does not hold together is worth nothing and is written anew: the model
 * file is what counts.
 */
#include "shard/store.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "proto/log.h"

#define MAGIC        "CARAVANM"
#define MAGIC_BYTES  8
#define VERSION      1u
#define HEAD_BYTES   (MAGIC_BYTES + 4 + 4 + PROTO_HASH_BYTES)
#define ENTRY_BYTES  (4 + 8)
#define UNSAVED_MOST (1ull << 30) /* bytes hashed since the last save: about a second's work */

struct shard_manifest {
    const struct shard_gguf *gguf;
    char *path;
    uint8_t key[PROTO_HASH_BYTES];
    pthread_mutex_t lock; /* over what follows */
    uint8_t **hashes;     /* by tensor; NULL: not known yet */
    uint64_t unsaved;     /* bytes of tensors hashed since the last save */
};

static uint8_t *put(uint8_t *at, uint64_t value, unsigned bytes)
{
    for (unsigned i = 0; i < bytes; i++)
        *at++ = (uint8_t)(value >> 8 * i);
    return at;
}

static uint64_t get(const uint8_t *at, unsigned bytes)
{
    uint64_t value = 0;
    for (unsigned i = 0; i < bytes; i++)
        value |= (uint64_t)at[i] << 8 * i;
    return value;
}

static uint64_t hashes_bytes(const struct shard_manifest *manifest, size_t tensor)
{
    return shard_pieces_count(shard_gguf_tensor(manifest->gguf, tensor)) * PROTO_HASH_BYTES;
}

/* Hash over the path, device, inode, size and time of change of all of the model's files. */
static enum proto_status make_key(struct shard_manifest *manifest, struct proto_error *error)
{
    crypto_generichash_state state;
    crypto_generichash_init(&state, NULL, 0, PROTO_HASH_BYTES);
    for (size_t i = 0; i < shard_gguf_n_files(manifest->gguf); i++) {
        const char *path = shard_gguf_path(manifest->gguf, i);
        struct stat info;
        if (stat(path, &info) < 0)
            return proto_fail_errno(error, errno, "cannot read the model file", path);
        uint8_t facts[5 * 8], *at = facts;
        at = put(at, info.st_dev, 8);
        at = put(at, info.st_ino, 8);
        at = put(at, (uint64_t)info.st_size, 8);
        at = put(at, (uint64_t)info.st_mtim.tv_sec, 8);
        put(at, (uint64_t)info.st_mtim.tv_nsec, 8);
        crypto_generichash_update(&state, facts, sizeof facts);
        crypto_generichash_update(&state, (const uint8_t *)path, strlen(path) + 1);
    }
    crypto_generichash_final(&state, manifest->key, sizeof manifest->key);
    return PROTO_OK;
}

/* Takes the entries of a file that is whole. Returns whether all of it made sense. */
static bool take_entries(struct shard_manifest *manifest, const uint8_t *bytes, size_t len)
{
    size_t n_tensors = shard_gguf_n_tensors(manifest->gguf);
    const uint8_t *at = bytes + HEAD_BYTES, *end = bytes + len - PROTO_HASH_BYTES;
    for (uint64_t left = get(bytes + MAGIC_BYTES + 4, 4); left > 0; left--) {
        if (end - at < ENTRY_BYTES)
            return false;
        uint64_t tensor = get(at, 4), pieces = get(at + 4, 8);
        at += ENTRY_BYTES;
        if (tensor >= n_tensors || pieces > (uint64_t)(end - at) / PROTO_HASH_BYTES ||
            pieces * PROTO_HASH_BYTES != hashes_bytes(manifest, tensor))
            return false;
        size_t size = pieces * PROTO_HASH_BYTES;
        if (!manifest->hashes[tensor] && (manifest->hashes[tensor] = malloc(size)))
            memcpy(manifest->hashes[tensor], at, size);
        at += size;
    }
    return at == end;
}

static bool is_whole(const struct shard_manifest *manifest, const uint8_t *bytes, size_t len)
{
    if (len < HEAD_BYTES + PROTO_HASH_BYTES || memcmp(bytes, MAGIC, MAGIC_BYTES) != 0 ||
        get(bytes + MAGIC_BYTES, 4) != VERSION ||
        memcmp(bytes + MAGIC_BYTES + 8, manifest->key, PROTO_HASH_BYTES) != 0)
        return false;
    uint8_t hash[PROTO_HASH_BYTES];
    shard_hash(hash, bytes, len - PROTO_HASH_BYTES);
    return memcmp(hash, bytes + len - PROTO_HASH_BYTES, PROTO_HASH_BYTES) == 0;
}

static size_t file_bytes_most(const struct shard_manifest *manifest)
{
    size_t most = HEAD_BYTES + PROTO_HASH_BYTES;
    for (size_t i = 0; i < shard_gguf_n_tensors(manifest->gguf); i++)
        most += ENTRY_BYTES + hashes_bytes(manifest, i);
    return most;
}

/* Adds what the manifest file knows; a missing or bad file adds nothing. */
static void read_file(struct shard_manifest *manifest)
{
    FILE *file = fopen(manifest->path, "rbe");
    if (!file)
        return;
    size_t room = file_bytes_most(manifest) + 1; /* a byte more shows a file that is too long */
    uint8_t *bytes = malloc(room);
    size_t len = bytes ? fread(bytes, 1, room, file) : 0;
    if (bytes &&
        (len == room || !is_whole(manifest, bytes, len) || !take_entries(manifest, bytes, len)))
        proto_log(PROTO_LOG_WARN, "SHARD-MANIFEST-BAD", "path=\"%s\"", manifest->path);
    free(bytes);
    fclose(file);
}

static enum proto_status write_file(const char *path, const uint8_t *bytes, size_t len,
                                    struct proto_error *error)
{
    char temporary[PROTO_MAX_STRING_BYTES];
    int used = snprintf(temporary, sizeof temporary, "%s.XXXXXX", path);
    if (used < 0 || (size_t)used >= sizeof temporary)
        return proto_fail(error, PROTO_LIMIT, "path too long: %s", path);
    int fd = mkostemp(temporary, O_CLOEXEC);
    if (fd < 0)
        return proto_fail_errno(error, errno, "cannot create", temporary);
    FILE *file = fdopen(fd, "wb");
    bool written = file && fwrite(bytes, 1, len, file) == len;
    if (file ? fclose(file) != 0 : close(fd) != 0)
        written = false;
    if (written && rename(temporary, path) == 0)
        return PROTO_OK;
    enum proto_status status = proto_fail_errno(error, errno, "cannot write", temporary);
    unlink(temporary);
    return status;
}

/* The known entries as a file; NULL without memory. */
static uint8_t *encode(const struct shard_manifest *manifest, size_t *len)
{
    uint8_t *bytes = malloc(file_bytes_most(manifest));
    if (!bytes)
        return NULL;
    uint32_t entries = 0;
    uint8_t *at = bytes + HEAD_BYTES;
    for (size_t i = 0; i < shard_gguf_n_tensors(manifest->gguf); i++) {
        if (!manifest->hashes[i])
            continue;
        uint64_t size = hashes_bytes(manifest, i);
        at = put(at, i, 4);
        at = put(at, size / PROTO_HASH_BYTES, 8);
        memcpy(at, manifest->hashes[i], size);
        at += size;
        entries++;
    }
    memcpy(bytes, MAGIC, MAGIC_BYTES);
    put(bytes + MAGIC_BYTES, VERSION, 4);
    put(bytes + MAGIC_BYTES + 4, entries, 4);
    memcpy(bytes + MAGIC_BYTES + 8, manifest->key, PROTO_HASH_BYTES);
    shard_hash(at, bytes, (size_t)(at - bytes));
    *len = (size_t)(at - bytes) + PROTO_HASH_BYTES;
    return bytes;
}

/* Without the file the hashes are computed again next time, so a failure is only logged. */
static void save(struct shard_manifest *manifest)
{
    if (!manifest->path)
        return;
    read_file(manifest); /* what another process has found out meanwhile is kept */
    size_t len = 0;
    uint8_t *bytes = encode(manifest, &len);
    struct proto_error error;
    enum proto_status status = bytes ? write_file(manifest->path, bytes, len, &error)
                                     : proto_fail_nomem(&error, len, "a manifest");
    if (status)
        proto_log(PROTO_LOG_WARN, "SHARD-MANIFEST-UNSAVED", "why=\"%s\"", error.text);
    free(bytes);
    manifest->unsaved = 0;
}

static enum proto_status make_path(struct shard_manifest *manifest, const char *dir,
                                   struct proto_error *error)
{
    enum proto_status status = make_key(manifest, error);
    if (status)
        return status;
    char hex[2 * PROTO_HASH_BYTES + 1];
    sodium_bin2hex(hex, sizeof hex, manifest->key, PROTO_HASH_BYTES);
    if (asprintf(&manifest->path, "%s/manifests/%s.bin", dir, hex) < 0) {
        manifest->path = NULL;
        return proto_fail_nomem(error, PROTO_MAX_STRING_BYTES, "a path in the piece cache");
    }
    return PROTO_OK;
}

enum proto_status shard_manifest_create(struct shard_manifest **out, struct shard_store *store,
                                        const struct shard_gguf *gguf, struct proto_error *error)
{
    *out = NULL;
    size_t n_tensors = shard_gguf_n_tensors(gguf);
    struct shard_manifest *manifest = calloc(1, sizeof *manifest);
    if (!manifest)
        return proto_fail_nomem(error, sizeof *manifest, "a manifest");
    manifest->gguf = gguf;
    pthread_mutex_init(&manifest->lock, NULL);
    manifest->hashes = calloc(n_tensors + 1, sizeof *manifest->hashes);
    enum proto_status status =
        manifest->hashes ? PROTO_OK
                         : proto_fail_nomem(error, n_tensors * sizeof(void *), "a manifest");
    if (!status && store)
        status = make_path(manifest, shard_store_dir(store), error);
    if (status) {
        shard_manifest_destroy(manifest);
        return status;
    }
    if (store)
        read_file(manifest);
    *out = manifest;
    return PROTO_OK;
}

void shard_manifest_destroy(struct shard_manifest *manifest)
{
    if (!manifest)
        return;
    if (manifest->unsaved > 0)
        save(manifest);
    for (size_t i = 0; manifest->hashes && i < shard_gguf_n_tensors(manifest->gguf); i++)
        free(manifest->hashes[i]);
    free(manifest->hashes);
    free(manifest->path);
    pthread_mutex_destroy(&manifest->lock);
    free(manifest);
}

static bool known(struct shard_manifest *manifest, uint32_t tensor, uint8_t *hashes)
{
    pthread_mutex_lock(&manifest->lock);
    const uint8_t *found = manifest->hashes[tensor];
    if (found)
        memcpy(hashes, found, hashes_bytes(manifest, tensor));
    pthread_mutex_unlock(&manifest->lock);
    return found != NULL;
}

static void remember(struct shard_manifest *manifest, uint32_t tensor, const uint8_t *hashes)
{
    uint64_t size = hashes_bytes(manifest, tensor);
    pthread_mutex_lock(&manifest->lock);
    if (!manifest->hashes[tensor] && (manifest->hashes[tensor] = malloc(size))) {
        memcpy(manifest->hashes[tensor], hashes, size);
        manifest->unsaved += shard_gguf_tensor(manifest->gguf, tensor)->bytes;
        if (manifest->unsaved >= UNSAVED_MOST)
            save(manifest);
    }
    pthread_mutex_unlock(&manifest->lock);
}

enum proto_status shard_manifest_hashes(struct shard_manifest *manifest, uint32_t tensor,
                                        uint8_t *hashes, struct proto_error *error)
{
    size_t n_tensors = shard_gguf_n_tensors(manifest->gguf);
    if (tensor >= n_tensors)
        return proto_fail(error, PROTO_INVALID, "tensor %u of %zu", tensor, n_tensors);
    if (known(manifest, tensor, hashes))
        return PROTO_OK;
    const struct shard_tensor *info = shard_gguf_tensor(manifest->gguf, tensor);
    if (!info->data)
        return proto_fail(error, PROTO_INVALID, "tensor %s: only the header is at hand, no data",
                          info->name);
    /* Without the lock, so that other tensors go on. Two threads that ask for one tensor at once
     * both hash it, and find the same. */
    for (uint64_t i = 0; i < shard_pieces_count(info); i++) {
        struct shard_piece piece = shard_pieces_get(info, i);
        shard_hash(hashes + i * PROTO_HASH_BYTES, info->data + piece.offset, piece.bytes);
    }
    if (shard_gguf_lost(manifest->gguf))
        return proto_fail(error, PROTO_IO,
                          "%s: was cut short while it is in use; put it back and restart",
                          shard_gguf_path(manifest->gguf, 0));
    remember(manifest, tensor, hashes);
    return PROTO_OK;
}
