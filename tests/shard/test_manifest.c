/* SPDX-License-Identifier: Apache-2.0 */
#include <CUnit/Basic.h>
#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "proto/log.h"
#include "shard/gguf_writer.h"
#include "shard/store.h"

#define N_TENSORS 3
#define N_HASHES  9 /* 1 + 1 + 7 pieces */

static char dir[] = "/tmp/caravan-test-manifest-XXXXXX";
static char model_path[64];
static off_t data_at; /* of the model's first tensor */
static struct shard_store *store;
static struct shard_gguf *gguf;
static struct proto_error error;

static int remove_entry(const char *path, const struct stat *info, int flag, struct FTW *ftw)
{
    (void)info, (void)flag, (void)ftw;
    return remove(path);
}

static bool write_model(void)
{
    static const uint64_t shapes[N_TENSORS][3] = {{64, 1, 1}, {32, 40, 1}, {32, 17, 7}};
    static uint8_t data[32 * 17 * 7 * 4 * 2];
    struct shard_gguf_writer *w = shard_gguf_writer_create();
    shard_gguf_writer_str(w, "general.architecture", "llama");
    for (uint32_t i = 0; i < N_TENSORS; i++) {
        char name[16];
        snprintf(name, sizeof name, "t%u", i);
        shard_gguf_writer_tensor(w, name, kern_type_find(KERN_F32), i + 1, shapes[i]);
    }
    void *header = NULL;
    size_t len = 0;
    bool written = shard_gguf_writer_header(w, &header, &len, &error) == PROTO_OK;
    for (size_t i = 0; i < sizeof data; i++)
        data[i] = (uint8_t)(i * 2654435761u >> 11);
    snprintf(model_path, sizeof model_path, "%s/model.gguf", dir);
    FILE *file = fopen(model_path, "wb");
    written = written && file && fwrite(header, 1, len, file) == len &&
              fwrite(data, 1, sizeof data, file) == sizeof data;
    if (file)
        fclose(file);
    free(header);
    shard_gguf_writer_destroy(w);
    data_at = (off_t)len;
    return written;
}

static int open_all(void)
{
    return !mkdtemp(dir) || !write_model() || shard_store_open(&store, dir, &error) ||
           shard_gguf_open(&gguf, model_path, &error);
}

static int close_all(void)
{
    shard_gguf_close(gguf);
    shard_store_close(store);
    return nftw(dir, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

/* The one file under manifests; false where there is none. */
static bool manifest_path(char path[512])
{
    char folder[128];
    snprintf(folder, sizeof folder, "%s/manifests", dir);
    DIR *entries = opendir(folder);
    bool found = false;
    for (struct dirent *entry; entries && (entry = readdir(entries));)
        if (entry->d_name[0] != '.') {
            CU_ASSERT_FALSE(found);
            found = true;
            snprintf(path, 512, "%s/%s", folder, entry->d_name);
        }
    if (entries)
        closedir(entries);
    return found;
}

static void remove_manifest(void)
{
    char path[512];
    if (manifest_path(path))
        CU_ASSERT_EQUAL(remove(path), 0);
}

static void ask_all(struct shard_manifest *manifest, uint8_t hashes[N_HASHES][PROTO_HASH_BYTES])
{
    uint32_t at = 0;
    for (uint32_t i = 0; i < N_TENSORS; i++) {
        CU_ASSERT_EQUAL(shard_manifest_hashes(manifest, i, hashes[at], &error), PROTO_OK);
        at += (uint32_t)shard_pieces_count(shard_gguf_tensor(gguf, i));
    }
    CU_ASSERT_EQUAL(at, N_HASHES);
}

/* The hashes that a new manifest gives. */
static void read_hashes(uint8_t hashes[N_HASHES][PROTO_HASH_BYTES])
{
    struct shard_manifest *manifest;
    CU_ASSERT_EQUAL_FATAL(shard_manifest_create(&manifest, store, gguf, &error), PROTO_OK);
    ask_all(manifest, hashes);
    shard_manifest_destroy(manifest);
}

/* Changes a byte of tensor 0, unseen if the file's time stays. */
static void change_model(bool keep_time)
{
    struct stat info;
    uint8_t byte = 0;
    int fd = open(model_path, O_RDWR);
    CU_ASSERT_FATAL(fd >= 0);
    CU_ASSERT_EQUAL(fstat(fd, &info), 0);
    CU_ASSERT_EQUAL(pread(fd, &byte, 1, data_at), 1);
    byte ^= 1;
    CU_ASSERT_EQUAL(pwrite(fd, &byte, 1, data_at), 1);
    struct timespec times[2] = {info.st_atim, info.st_mtim};
    times[1].tv_sec += keep_time ? 0 : 1;
    CU_ASSERT_EQUAL(futimens(fd, times), 0);
    close(fd);
}

static void test_hashes_are_those_of_the_pieces(void)
{
    uint8_t hashes[N_HASHES][PROTO_HASH_BYTES], *at = hashes[0];
    read_hashes(hashes);
    for (size_t i = 0; i < N_TENSORS; i++) {
        const struct shard_tensor *tensor = shard_gguf_tensor(gguf, i);
        for (uint64_t p = 0; p < shard_pieces_count(tensor); p++) {
            struct shard_piece piece = shard_pieces_get(tensor, p);
            uint8_t expected[PROTO_HASH_BYTES];
            shard_hash(expected, tensor->data + piece.offset, piece.bytes);
            CU_ASSERT_EQUAL(memcmp(at, expected, sizeof expected), 0);
            at += PROTO_HASH_BYTES;
        }
    }
    remove_manifest();
}

/* A change that keeps the file's time shows where hashes come from. */
static void test_a_file_is_hashed_once(void)
{
    uint8_t first[N_HASHES][PROTO_HASH_BYTES], again[N_HASHES][PROTO_HASH_BYTES];
    read_hashes(first);
    change_model(true);
    read_hashes(again);
    CU_ASSERT_EQUAL(memcmp(first, again, sizeof first), 0);
    remove_manifest();
    read_hashes(again);
    CU_ASSERT_NOT_EQUAL(memcmp(first[0], again[0], PROTO_HASH_BYTES), 0);
    CU_ASSERT_EQUAL(memcmp(first[1], again[1], sizeof first - PROTO_HASH_BYTES), 0);
    remove_manifest();
}

static void test_a_changed_file_is_hashed_again(void)
{
    uint8_t first[N_HASHES][PROTO_HASH_BYTES], again[N_HASHES][PROTO_HASH_BYTES];
    char path[512];
    read_hashes(first);
    CU_ASSERT_FATAL(manifest_path(path));
    change_model(false);
    read_hashes(again);
    CU_ASSERT_NOT_EQUAL(memcmp(first[0], again[0], PROTO_HASH_BYTES), 0);
    CU_ASSERT_EQUAL(remove(path), 0);
    remove_manifest();
}

/* What two manifests found out of different tensors is in one file afterwards. */
static void test_two_manifests_share_a_file(void)
{
    struct shard_manifest *a, *b;
    uint8_t hashes[N_HASHES][PROTO_HASH_BYTES], again[N_HASHES][PROTO_HASH_BYTES];
    CU_ASSERT_EQUAL_FATAL(shard_manifest_create(&a, store, gguf, &error), PROTO_OK);
    CU_ASSERT_EQUAL_FATAL(shard_manifest_create(&b, store, gguf, &error), PROTO_OK);
    CU_ASSERT_EQUAL(shard_manifest_hashes(a, 0, hashes[0], &error), PROTO_OK);
    CU_ASSERT_EQUAL(shard_manifest_hashes(b, 1, hashes[1], &error), PROTO_OK);
    shard_manifest_destroy(a);
    shard_manifest_destroy(b);
    change_model(true);
    read_hashes(again);
    CU_ASSERT_EQUAL(memcmp(hashes, again, 2 * PROTO_HASH_BYTES), 0);
    remove_manifest();
}

/* Every byte of a manifest file is covered: a file with one changed, or cut short, or longer, is
 * not believed. */
static void test_bad_files_are_ignored(void)
{
    uint8_t hashes[N_HASHES][PROTO_HASH_BYTES], again[N_HASHES][PROTO_HASH_BYTES];
    uint8_t file[1024];
    char path[512];
    read_hashes(hashes);
    CU_ASSERT_FATAL(manifest_path(path));
    int fd = open(path, O_RDONLY);
    ssize_t len = read(fd, file, sizeof file);
    close(fd);
    CU_ASSERT_FATAL(len > 0 && (size_t)len < sizeof file);
    change_model(true); /* believed files would give the old hash */
    for (ssize_t i = -2; i <= len; i++) {
        uint8_t bad[sizeof file];
        memcpy(bad, file, sizeof file);
        ssize_t bad_len = i == -2 ? 0 : i == -1 ? len - 1 : i == len ? len + 1 : len;
        if (i >= 0)
            bad[i] ^= 0x10;
        fd = open(path, O_WRONLY | O_TRUNC);
        CU_ASSERT_EQUAL(write(fd, bad, (size_t)bad_len), bad_len);
        close(fd);
        read_hashes(again);
        CU_ASSERT_NOT_EQUAL(memcmp(hashes[0], again[0], PROTO_HASH_BYTES), 0);
        CU_ASSERT_EQUAL(memcmp(hashes[1], again[1], sizeof hashes - PROTO_HASH_BYTES), 0);
    }
    remove_manifest();
}

/* Entries that the hash over the file vouches for, but that do not fit this model. */
static void test_foreign_entries(void)
{
    uint8_t hashes[N_HASHES][PROTO_HASH_BYTES], file[1024];
    char path[512];
    read_hashes(hashes);
    CU_ASSERT_FATAL(manifest_path(path));
    int fd = open(path, O_RDWR);
    ssize_t len = read(fd, file, sizeof file);
    CU_ASSERT_FATAL(len > 100);
    static const struct {
        size_t at;
        uint8_t byte;
    } changes[] = {{12, 200}, {12, 2}, {48, 77}, {52, 2}, {59, 0xff}};
    for (size_t i = 0; i < sizeof changes / sizeof *changes; i++) {
        uint8_t bad[sizeof file];
        memcpy(bad, file, sizeof file);
        bad[changes[i].at] = changes[i].byte;
        size_t body = (size_t)len - PROTO_HASH_BYTES;
        shard_hash(bad + body, bad, body);
        CU_ASSERT_EQUAL(pwrite(fd, bad, (size_t)len, 0), len);
        uint8_t again[N_HASHES][PROTO_HASH_BYTES];
        read_hashes(again);
        CU_ASSERT_EQUAL(memcmp(hashes, again, sizeof hashes), 0);
    }
    close(fd);
    remove_manifest();
}

static void *ask_often(void *arg)
{
    for (int i = 0; i < 20; i++) {
        uint8_t hashes[N_HASHES][PROTO_HASH_BYTES];
        ask_all(arg, hashes);
    }
    return NULL;
}

static void test_threads(void)
{
    struct shard_manifest *manifest;
    CU_ASSERT_EQUAL_FATAL(shard_manifest_create(&manifest, store, gguf, &error), PROTO_OK);
    pthread_t threads[4];
    for (int i = 0; i < 4; i++)
        CU_ASSERT_EQUAL_FATAL(pthread_create(&threads[i], NULL, ask_often, manifest), 0);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    shard_manifest_destroy(manifest);
    remove_manifest();
}

static void test_no_such_tensor(void)
{
    struct shard_manifest *manifest;
    uint8_t hash[PROTO_HASH_BYTES];
    CU_ASSERT_EQUAL_FATAL(shard_manifest_create(&manifest, store, gguf, &error), PROTO_OK);
    CU_ASSERT_EQUAL(shard_manifest_hashes(manifest, N_TENSORS, hash, &error), PROTO_INVALID);
    shard_manifest_destroy(manifest);
    shard_manifest_destroy(NULL);
    char path[512];
    CU_ASSERT_FALSE(manifest_path(path));
}

int main(void)
{
    proto_log_set_level(PROTO_LOG_ERROR);
    CU_initialize_registry();
    CU_pSuite suite = CU_add_suite("manifest", open_all, close_all);
    CU_add_test(suite, "hashes are those of the pieces", test_hashes_are_those_of_the_pieces);
    CU_add_test(suite, "a file is hashed once", test_a_file_is_hashed_once);
    CU_add_test(suite, "a changed file is hashed again", test_a_changed_file_is_hashed_again);
    CU_add_test(suite, "two manifests share a file", test_two_manifests_share_a_file);
    CU_add_test(suite, "bad files are ignored", test_bad_files_are_ignored);
    CU_add_test(suite, "foreign entries", test_foreign_entries);
    CU_add_test(suite, "threads", test_threads);
    CU_add_test(suite, "no such tensor", test_no_such_tensor);
    CU_basic_run_tests();
    unsigned failures = CU_get_number_of_failures() + (CU_get_error() != CUE_SUCCESS);
    CU_cleanup_registry();
    return failures > 0;
}
