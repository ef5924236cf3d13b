/* SPDX-License-Identifier: Apache-2.0 */
#include <CUnit/Basic.h>
#include <ftw.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "proto/log.h"
#include "shard/packed.h"

#define BYTES ((3u << 20) + 100) /* four leaves, the last one short */
#define TAGS  (4 * 16)

static char dir[] = "/tmp/caravan-test-packed-XXXXXX";
static struct shard_store *store;
static struct kern_pool *pool;
static uint8_t name[PROTO_HASH_BYTES], other[PROTO_HASH_BYTES];
static struct proto_error error;

static int remove_entry(const char *path, const struct stat *info, int flag, struct FTW *ftw)
{
    (void)info, (void)flag, (void)ftw;
    return remove(path);
}

static int open_all(void)
{
    shard_hash(name, "name", 4);
    shard_hash(other, "other", 5);
    return !mkdtemp(dir) || shard_store_open(&store, dir, &error) ||
           kern_pool_create(&pool, 3, &error);
}

static int close_all(void)
{
    kern_pool_destroy(pool);
    shard_store_close(store);
    return nftw(dir, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

static const char *path_of(const uint8_t hash[PROTO_HASH_BYTES], const char *suffix)
{
    static char path[256];
    int used = snprintf(path, sizeof path, "%s/packed/%02x/", dir, hash[0]);
    for (size_t i = 0; i < PROTO_HASH_BYTES; i++)
        used += snprintf(path + used, sizeof path - (size_t)used, "%02x", hash[i]);
    snprintf(path + used, sizeof path - (size_t)used, "%s", suffix);
    return path;
}

static uint8_t byte_at(size_t i)
{
    return (uint8_t)(i * 2654435761u >> 15);
}

static struct shard_packed_part *begin(uint8_t **memory)
{
    struct shard_packed_part *part;
    void *taken;
    CU_ASSERT_EQUAL_FATAL(shard_packed_begin(store, name, BYTES, pool, &part, &taken, &error),
                          PROTO_OK);
    CU_ASSERT_EQUAL((uintptr_t)taken % 4096, 0);
    *memory = taken;
    return part;
}

static void check_bytes(const struct shard_mapped *mapped)
{
    CU_ASSERT_EQUAL_FATAL(mapped->len, BYTES + TAGS);
    size_t wrong = 0;
    for (size_t i = 0; i < BYTES; i++)
        wrong += ((const uint8_t *)mapped->data)[i] != byte_at(i);
    CU_ASSERT_EQUAL(wrong, 0);
}

static void make(bool durable)
{
    uint8_t *memory;
    struct shard_mapped mapped;
    struct shard_packed_part *part = begin(&memory);
    for (size_t i = 0; i < BYTES; i++)
        memory[i] = byte_at(i);
    CU_ASSERT_EQUAL_FATAL(shard_packed_commit(part, pool, durable, &mapped, &error), PROTO_OK);
    CU_ASSERT_PTR_EQUAL(mapped.data, memory);
    check_bytes(&mapped);
    shard_store_unmap(&mapped);
}

static enum proto_status map(const uint8_t hash[PROTO_HASH_BYTES], uint64_t bytes)
{
    struct shard_mapped mapped;
    enum proto_status status = shard_packed_map(store, hash, bytes, pool, &mapped, &error);
    CU_ASSERT_EQUAL(mapped.data == NULL, status != PROTO_OK);
    if (!status)
        check_bytes(&mapped);
    shard_store_unmap(&mapped);
    return status;
}

static void test_made_then_mapped(void)
{
    CU_ASSERT_EQUAL(map(name, BYTES), PROTO_NOTFOUND);
    for (int durable = 0; durable < 2; durable++) {
        make(durable);
        CU_ASSERT_EQUAL(access(path_of(name, ".part"), F_OK), -1);
        CU_ASSERT_EQUAL(map(name, BYTES), PROTO_OK);
        CU_ASSERT_EQUAL(map(other, BYTES), PROTO_NOTFOUND);
        CU_ASSERT_EQUAL(remove(path_of(name, ".packed")), 0);
    }
}

static void check_removed(void)
{
    CU_ASSERT_EQUAL(map(name, BYTES), PROTO_NOTFOUND);
    CU_ASSERT_EQUAL(access(path_of(name, ".packed"), F_OK), -1);
    make(false);
    CU_ASSERT_EQUAL(map(name, BYTES), PROTO_OK);
}

static void test_a_flipped_bit(void)
{
    static const long places[] = {0, 1 << 20, BYTES - 1, BYTES, BYTES + TAGS - 1};
    make(false);
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        FILE *file = fopen(path_of(name, ".packed"), "r+b");
        CU_ASSERT_PTR_NOT_NULL_FATAL(file);
        fseek(file, places[i], SEEK_SET);
        int byte = fgetc(file);
        fseek(file, places[i], SEEK_SET);
        fputc(byte ^ 16, file);
        fclose(file);
        check_removed();
    }
    remove(path_of(name, ".packed"));
}

/* Whichever bit it is, of the weight or of its tag. */
static void test_any_bit(void)
{
    enum { LEN = 40 };
    struct shard_packed_part *part;
    struct shard_mapped mapped;
    void *memory;
    for (int bit = 0; bit < (LEN + 16) * 8; bit++) {
        CU_ASSERT_EQUAL_FATAL(shard_packed_begin(store, other, LEN, pool, &part, &memory, &error),
                              PROTO_OK);
        for (size_t i = 0; i < LEN; i++)
            ((uint8_t *)memory)[i] = byte_at(i);
        CU_ASSERT_EQUAL_FATAL(shard_packed_commit(part, pool, false, &mapped, &error), PROTO_OK);
        shard_store_unmap(&mapped);
        CU_ASSERT_EQUAL(shard_packed_map(store, other, LEN, pool, &mapped, &error), PROTO_OK);
        shard_store_unmap(&mapped);
        FILE *file = fopen(path_of(other, ".packed"), "r+b");
        CU_ASSERT_PTR_NOT_NULL_FATAL(file);
        fseek(file, bit / 8, SEEK_SET);
        int byte = fgetc(file);
        fseek(file, bit / 8, SEEK_SET);
        fputc(byte ^ 1 << bit % 8, file);
        fclose(file);
        CU_ASSERT_EQUAL(shard_packed_map(store, other, LEN, pool, &mapped, &error), PROTO_NOTFOUND);
        CU_ASSERT_EQUAL(access(path_of(other, ".packed"), F_OK), -1);
    }
}

static void test_another_length(void)
{
    static const off_t lengths[] = {0, 1, BYTES, BYTES + TAGS - 1, BYTES + TAGS + 1};
    make(false);
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        CU_ASSERT_EQUAL(truncate(path_of(name, ".packed"), lengths[i]), 0);
        check_removed();
    }
    CU_ASSERT_EQUAL(map(name, BYTES - 1), PROTO_NOTFOUND);
    remove(path_of(name, ".packed"));
}

/* A file is worth nothing under another name: of another layout, or of another weight. */
static void test_another_name(void)
{
    make(false);
    char from[256], *to;
    snprintf(from, sizeof from, "%s", path_of(name, ".packed"));
    CU_ASSERT_EQUAL(asprintf(&to, "%s", path_of(other, ".packed")) > 0, 1);
    *strrchr(to, '/') = 0;
    CU_ASSERT_EQUAL(mkdir(to, 0700), 0);
    CU_ASSERT_EQUAL(rename(from, path_of(other, ".packed")), 0);
    CU_ASSERT_EQUAL(map(other, BYTES), PROTO_NOTFOUND);
    CU_ASSERT_EQUAL(access(path_of(other, ".packed"), F_OK), -1);
    free(to);
}

/* All zeros, as a power cut leaves a file whose blocks were reserved and never written. */
static void test_zeros(void)
{
    make(false);
    CU_ASSERT_EQUAL(truncate(path_of(name, ".packed"), 0), 0);
    CU_ASSERT_EQUAL(truncate(path_of(name, ".packed"), BYTES + TAGS), 0);
    check_removed();
    remove(path_of(name, ".packed"));
}

/* A process that dies in the middle leaves a part, which nobody takes for whole and the next one
 * makes anew. */
static void test_killed_in_the_middle(void)
{
    pid_t child = fork();
    if (child == 0) {
        struct kern_pool *own;
        struct shard_packed_part *part;
        void *memory;
        if (kern_pool_create(&own, 1, &error) ||
            shard_packed_begin(store, name, BYTES, own, &part, &memory, &error))
            _exit(1);
        memset(memory, 7, BYTES / 2);
        raise(SIGKILL);
    }
    int ended;
    CU_ASSERT_EQUAL(waitpid(child, &ended, 0), child);
    CU_ASSERT(WIFSIGNALED(ended));
    CU_ASSERT_EQUAL(access(path_of(name, ".part"), F_OK), 0);
    CU_ASSERT_EQUAL(map(name, BYTES), PROTO_NOTFOUND);
    make(false);
    CU_ASSERT_EQUAL(map(name, BYTES), PROTO_OK);
    CU_ASSERT_EQUAL(access(path_of(name, ".part"), F_OK), -1);
    remove(path_of(name, ".packed"));
}

static void test_two_make_the_same(void)
{
    uint8_t *memory;
    struct shard_packed_part *part = begin(&memory), *second;
    void *taken;
    CU_ASSERT_EQUAL(shard_packed_begin(store, name, BYTES, pool, &second, &taken, &error),
                    PROTO_BUSY);
    CU_ASSERT_PTR_NULL(second);
    shard_packed_abort(part);
    CU_ASSERT_EQUAL(access(path_of(name, ".part"), F_OK), -1);
    make(false);
    remove(path_of(name, ".packed"));
    shard_packed_abort(NULL);
}

static void test_full_disk(void)
{
    struct shard_packed_part *part;
    void *memory;
    struct rlimit limit;
    CU_ASSERT_EQUAL(getrlimit(RLIMIT_FSIZE, &limit), 0);
    void (*before)(int) = signal(SIGXFSZ, SIG_IGN);
    limit.rlim_cur = BYTES;
    CU_ASSERT_EQUAL(setrlimit(RLIMIT_FSIZE, &limit), 0);
    CU_ASSERT_EQUAL(shard_packed_begin(store, name, BYTES, pool, &part, &memory, &error),
                    PROTO_NOSPACE);
    CU_ASSERT_PTR_NOT_NULL(strstr(error.text, dir));
    limit.rlim_cur = limit.rlim_max;
    CU_ASSERT_EQUAL(setrlimit(RLIMIT_FSIZE, &limit), 0);
    signal(SIGXFSZ, before);
    CU_ASSERT_EQUAL(shard_packed_begin(store, name, 1ull << 60, pool, &part, &memory, &error),
                    PROTO_NOSPACE);
    CU_ASSERT_PTR_NOT_NULL(strstr(error.text, "stays free"));
    CU_ASSERT_EQUAL(shard_packed_begin(store, name, UINT64_MAX, pool, &part, &memory, &error),
                    PROTO_LIMIT);
    CU_ASSERT_EQUAL(access(path_of(name, ".part"), F_OK), -1);
}

int main(void)
{
    proto_log_set_level(PROTO_LOG_ERROR);
    CU_initialize_registry();
    CU_pSuite suite = CU_add_suite("packed", open_all, close_all);
    CU_add_test(suite, "made, then mapped", test_made_then_mapped);
    CU_add_test(suite, "a flipped bit", test_a_flipped_bit);
    CU_add_test(suite, "another length", test_another_length);
    CU_add_test(suite, "another name", test_another_name);
    CU_add_test(suite, "any bit", test_any_bit);
    CU_add_test(suite, "zeros", test_zeros);
    CU_add_test(suite, "killed in the middle", test_killed_in_the_middle);
    CU_add_test(suite, "two make the same", test_two_make_the_same);
    CU_add_test(suite, "full disk", test_full_disk);
    CU_basic_run_tests();
    unsigned failures = CU_get_number_of_failures() + (CU_get_error() != CUE_SUCCESS);
    CU_cleanup_registry();
    return failures > 0;
}
