/* SPDX-License-Identifier: Apache-2.0 */
/* Files that are cut short while they are mapped: whoever reads them goes on, and hears of it. */
#include <CUnit/Basic.h>
#include <ftw.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "proto/log.h"
#include "shard/mkmodel.h"
#include "shard/packed.h"

#define BYTES (64u << 10)

static char dir[] = "/tmp/caravan-test-guard-XXXXXX";
static struct shard_store *store;
static struct kern_pool *pool;
static struct proto_error error;
static uint8_t bytes[BYTES], name[PROTO_HASH_BYTES];

static int remove_entry(const char *path, const struct stat *info, int flag, struct FTW *ftw)
{
    (void)info, (void)flag, (void)ftw;
    return remove(path);
}

static int open_all(void)
{
    for (size_t i = 0; i < BYTES; i++)
        bytes[i] = (uint8_t)(i * 2654435761u >> 13);
    shard_hash(name, bytes, BYTES);
    return !mkdtemp(dir) || shard_store_open(&store, dir, &error) ||
           kern_pool_create(&pool, 1, &error);
}

static int close_all(void)
{
    kern_pool_destroy(pool);
    shard_store_close(store);
    return nftw(dir, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

static char found[300];

static int find_largest(const char *path, const struct stat *info, int flag, struct FTW *ftw)
{
    (void)ftw;
    if (flag == FTW_F && info->st_size >= BYTES)
        snprintf(found, sizeof found, "%s", path);
    return 0;
}

static void cut_short(off_t len)
{
    nftw(dir, find_largest, 16, FTW_PHYS);
    CU_ASSERT_EQUAL(truncate(found, len), 0);
}

static unsigned sum(const uint8_t *data, size_t n)
{
    unsigned total = 0;
    for (size_t i = 0; i < n; i++)
        total += data[i];
    return total;
}

static void check_lost(struct shard_mapped *mapped)
{
    CU_ASSERT_FALSE(shard_mapped_lost(mapped));
    cut_short(4096);
    CU_ASSERT_EQUAL(sum(mapped->data, 4096), sum(bytes, 4096));
    CU_ASSERT_FALSE(shard_mapped_lost(mapped));
    CU_ASSERT_EQUAL(sum((const uint8_t *)mapped->data + 8192, BYTES - 8192), 0);
    CU_ASSERT(shard_mapped_lost(mapped));
    shard_store_unmap(mapped);
}

static void test_a_piece(void)
{
    struct shard_store_part *part;
    struct shard_mapped mapped;
    uint64_t have;
    CU_ASSERT_EQUAL_FATAL(shard_store_begin(store, name, BYTES, &part, &have, &error), PROTO_OK);
    CU_ASSERT_EQUAL(shard_store_append(part, bytes, BYTES, &error), PROTO_OK);
    CU_ASSERT_EQUAL_FATAL(shard_store_commit(part, &mapped, &error), PROTO_OK);
    CU_ASSERT_EQUAL(memcmp(mapped.data, bytes, BYTES), 0);
    check_lost(&mapped);
    CU_ASSERT_EQUAL(shard_store_map(store, name, BYTES, &mapped, &error), PROTO_NOTFOUND);
}

static void test_a_packed_weight(void)
{
    struct shard_packed_part *part;
    struct shard_mapped mapped;
    void *memory;
    CU_ASSERT_EQUAL_FATAL(shard_packed_begin(store, name, BYTES, pool, &part, &memory, &error),
                          PROTO_OK);
    memcpy(memory, bytes, BYTES);
    CU_ASSERT_EQUAL_FATAL(shard_packed_commit(part, pool, false, &mapped, &error), PROTO_OK);
    check_lost(&mapped);
    /* While it is being written. */
    CU_ASSERT_EQUAL_FATAL(shard_packed_begin(store, name, BYTES, pool, &part, &memory, &error),
                          PROTO_OK);
    cut_short(0);
    memcpy(memory, bytes, BYTES);
    CU_ASSERT_NOT_EQUAL(shard_packed_commit(part, pool, false, &mapped, &error), PROTO_OK);
    CU_ASSERT_EQUAL(shard_packed_map(store, name, BYTES, pool, &mapped, &error), PROTO_NOTFOUND);
}

static void test_a_model_file(void)
{
    char path[64], digest[65];
    struct shard_mkmodel_options options = {.preset = "llama3-tiny", .type = "F32", .seed = 7};
    struct shard_gguf *gguf;
    struct shard_manifest *manifest;
    snprintf(path, sizeof path, "%s/model.gguf", dir);
    CU_ASSERT_EQUAL_FATAL(shard_mkmodel(&options, path, digest, &error), PROTO_OK);
    CU_ASSERT_EQUAL_FATAL(shard_gguf_open(&gguf, path, &error), PROTO_OK);
    CU_ASSERT_EQUAL_FATAL(shard_manifest_create(&manifest, store, gguf, &error), PROTO_OK);
    const uint32_t last = (uint32_t)shard_gguf_n_tensors(gguf) - 1;
    const struct shard_tensor *tensor = shard_gguf_tensor(gguf, last);
    CU_ASSERT_EQUAL(truncate(path, 4096), 0);
    CU_ASSERT_FALSE(shard_gguf_lost(gguf));
    CU_ASSERT_EQUAL(sum(tensor->data, tensor->bytes), 0);
    CU_ASSERT(shard_gguf_lost(gguf));
    /* Hashes of what is not there are not made. */
    uint8_t *hashes = malloc(shard_pieces_count(tensor) * PROTO_HASH_BYTES);
    CU_ASSERT_EQUAL(shard_manifest_hashes(manifest, last, hashes, &error), PROTO_IO);
    CU_ASSERT_PTR_NOT_NULL(strstr(error.text, "model.gguf"));
    free(hashes);
    shard_manifest_destroy(manifest);
    shard_gguf_close(gguf);
}

/* A bus error elsewhere ends the process as ever. */
static void test_elsewhere(void)
{
    pid_t child = fork();
    if (child == 0) {
        FILE *file = tmpfile();
        if (!file || ftruncate(fileno(file), 4096))
            _exit(1);
        volatile uint8_t *data = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fileno(file), 0);
        if (data == MAP_FAILED || ftruncate(fileno(file), 0))
            _exit(1);
        _exit(data[0]);
    }
    int ended;
    CU_ASSERT_EQUAL(waitpid(child, &ended, 0), child);
    CU_ASSERT_FALSE(WIFEXITED(ended) && WEXITSTATUS(ended) == 0);
}

int main(void)
{
    proto_log_set_level(PROTO_LOG_ERROR);
    CU_initialize_registry();
    CU_pSuite suite = CU_add_suite("guard", open_all, close_all);
    CU_add_test(suite, "a piece", test_a_piece);
    CU_add_test(suite, "a packed weight", test_a_packed_weight);
    CU_add_test(suite, "a model file", test_a_model_file);
    CU_add_test(suite, "elsewhere", test_elsewhere);
    CU_basic_run_tests();
    unsigned failures = CU_get_number_of_failures() + (CU_get_error() != CUE_SUCCESS);
    CU_cleanup_registry();
    return failures > 0;
}
