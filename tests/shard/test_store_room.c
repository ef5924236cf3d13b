/* SPDX-License-Identifier: Apache-2.0 */
/* A store's limit: what goes to make room, and what does not. */
#include <CUnit/Basic.h>
#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "proto/log.h"
#include "shard/packed.h"

#define BYTES 1000u

static char dir[] = "/tmp/caravan-test-room-XXXXXX";
static struct kern_pool *pool;
static struct proto_error error;

static int open_all(void)
{
    return !mkdtemp(dir) || kern_pool_create(&pool, 1, &error);
}

static int remove_entry(const char *path, const struct stat *info, int flag, struct FTW *ftw)
{
    (void)info, (void)flag, (void)ftw;
    return remove(path);
}

static int close_all(void)
{
    kern_pool_destroy(pool);
    return nftw(dir, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

static struct shard_store *open_store(uint64_t limit)
{
    struct shard_store *store;
    CU_ASSERT_EQUAL_FATAL(shard_store_open(&store, dir, &error), PROTO_OK);
    shard_store_limit(store, limit);
    return store;
}

static void close_store(struct shard_store *store)
{
    shard_store_close(store);
    nftw(dir, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
    CU_ASSERT_EQUAL(mkdir(dir, 0700), 0);
}

static const uint8_t *bytes_of(unsigned number)
{
    static uint8_t bytes[BYTES];
    for (size_t i = 0; i < BYTES; i++)
        bytes[i] = (uint8_t)(i * 2654435761u >> 13) + (uint8_t)number;
    return bytes;
}

static const uint8_t *name_of(unsigned number)
{
    static uint8_t name[PROTO_HASH_BYTES];
    shard_hash(name, bytes_of(number), BYTES);
    return name;
}

static enum proto_status keep(struct shard_store *store, unsigned number)
{
    struct shard_store_part *part;
    uint64_t have;
    enum proto_status status =
        shard_store_begin(store, name_of(number), BYTES, &part, &have, &error);
    if (status)
        return status;
    CU_ASSERT_EQUAL(shard_store_append(part, bytes_of(number) + have, BYTES - have, &error),
                    PROTO_OK);
    return shard_store_commit(part, NULL, &error);
}

static enum proto_status keep_packed(struct shard_store *store, unsigned number)
{
    struct shard_packed_part *part;
    struct shard_mapped mapped;
    void *memory;
    enum proto_status status =
        shard_packed_begin(store, name_of(number), BYTES, pool, &part, &memory, &error);
    if (status)
        return status;
    memcpy(memory, bytes_of(number), BYTES);
    status = shard_packed_commit(part, pool, false, &mapped, &error);
    shard_store_unmap(&mapped);
    return status;
}

/* Maps it, which is a use. */
static bool has(struct shard_store *store, unsigned number)
{
    struct shard_mapped mapped;
    bool found = shard_store_map(store, name_of(number), BYTES, &mapped, &error) == PROTO_OK;
    if (!found)
        found = shard_packed_map(store, name_of(number), BYTES, pool, &mapped, &error) == PROTO_OK;
    shard_store_unmap(&mapped);
    return found;
}

/* Notes a use at a time of our own, long ago; `has` notes one now. */
static void set_use(unsigned number, time_t at)
{
    const struct timespec times[2] = {{.tv_sec = at}, {.tv_nsec = UTIME_OMIT}};
    char hex[2 * PROTO_HASH_BYTES + 1], path[256];
    const uint8_t *name = name_of(number);
    for (size_t i = 0; i < PROTO_HASH_BYTES; i++)
        sprintf(hex + 2 * i, "%02x", name[i]);
    snprintf(path, sizeof path, "%s/pieces/%.2s/%s.piece", dir, hex, hex);
    if (utimensat(AT_FDCWD, path, times, 0) == 0)
        return;
    snprintf(path, sizeof path, "%s/packed/%.2s/%s.packed", dir, hex, hex);
    CU_ASSERT_EQUAL(utimensat(AT_FDCWD, path, times, 0), 0);
}

static void fill(struct shard_store *store, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        CU_ASSERT_EQUAL(keep(store, i), PROTO_OK);
        set_use(i, 1000 + i);
    }
}

static void test_least_recently_used_goes(void)
{
    struct shard_store *store = open_store(10 * BYTES);
    fill(store, 10);
    CU_ASSERT(has(store, 0));
    CU_ASSERT(has(store, 2));
    CU_ASSERT_EQUAL(keep(store, 10), PROTO_OK);
    CU_ASSERT_FALSE(has(store, 1));
    CU_ASSERT(has(store, 0));
    CU_ASSERT(has(store, 2));
    CU_ASSERT(has(store, 10));
    close_store(store);
}

static void test_packed_weights_count(void)
{
    struct shard_store *store = open_store(4 * BYTES);
    for (unsigned i = 0; i < 6; i++) {
        CU_ASSERT_EQUAL(keep_packed(store, i), PROTO_OK);
        set_use(i, 1000 + i);
    }
    CU_ASSERT_FALSE(has(store, 0));
    CU_ASSERT(has(store, 5));
    close_store(store);
}

static void test_what_is_leased_stays(void)
{
    struct shard_store *store = open_store(5 * BYTES);
    struct shard_lease *lease;
    CU_ASSERT_EQUAL_FATAL(shard_lease_create(&lease, store, &error), PROTO_OK);
    for (unsigned i = 0; i < 5; i++)
        shard_lease_add(lease, name_of(i));
    fill(store, 5);
    CU_ASSERT_EQUAL(keep(store, 5), PROTO_NOSPACE);
    CU_ASSERT_PTR_NOT_NULL(strstr(error.text, "--cache-limit"));
    for (unsigned i = 0; i < 5; i++)
        CU_ASSERT(has(store, i));
    for (unsigned i = 0; i < 5; i++)
        set_use(i, 1000 + i);
    shard_lease_destroy(lease);
    CU_ASSERT_EQUAL(keep(store, 5), PROTO_OK);
    CU_ASSERT_FALSE(has(store, 0));
    CU_ASSERT_EQUAL(keep(store, 6), PROTO_OK);
    close_store(store);
}

static void test_more_than_the_limit(void)
{
    struct shard_store *store = open_store(BYTES - 1);
    CU_ASSERT_EQUAL(keep(store, 0), PROTO_NOSPACE);
    CU_ASSERT_EQUAL(keep_packed(store, 0), PROTO_NOSPACE);
    close_store(store);
}

/* A lease of another process holds as long as that lives, and not longer. */
static void test_leases_of_other_processes(void)
{
    struct shard_store *store = open_store(3 * BYTES);
    int ready[2];
    char byte;
    fill(store, 3);
    CU_ASSERT_EQUAL_FATAL(pipe(ready), 0);
    pid_t child = fork();
    if (child == 0) {
        struct shard_lease *lease;
        if (shard_lease_create(&lease, store, &error))
            _exit(1);
        for (unsigned i = 0; i < 2; i++)
            shard_lease_add(lease, name_of(i));
        if (write(ready[1], "", 1) != 1)
            _exit(1);
        for (;;)
            pause();
    }
    CU_ASSERT_EQUAL(read(ready[0], &byte, 1), 1);
    CU_ASSERT_EQUAL(keep(store, 3), PROTO_OK);
    CU_ASSERT_FALSE(has(store, 2));
    CU_ASSERT(has(store, 0) && has(store, 1) && has(store, 3));
    set_use(0, 1000);
    set_use(1, 1001);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    close(ready[0]);
    close(ready[1]);
    CU_ASSERT_EQUAL(keep(store, 4), PROTO_OK);
    CU_ASSERT_FALSE(has(store, 0));
    CU_ASSERT(has(store, 3) && has(store, 4));
    close_store(store);
}

/* Several processes fill one folder: none of them sees the limit passed by more than what the
 * others took since it looked, and what remains is right. */
static void test_processes_share_a_limit(void)
{
    enum { CHILDREN = 4, EACH = 40 };
    struct shard_store *store = open_store(20 * BYTES);
    pid_t children[CHILDREN];
    for (unsigned c = 0; c < CHILDREN; c++) {
        children[c] = fork();
        if (children[c] == 0) {
            struct shard_store *own = NULL;
            int failed = shard_store_open(&own, dir, &error) != PROTO_OK;
            if (!failed)
                shard_store_limit(own, 20 * BYTES);
            for (unsigned i = 0; i < EACH && !failed; i++)
                failed = keep(own, 10 + c * EACH + i) != PROTO_OK;
            _exit(failed);
        }
    }
    for (unsigned c = 0; c < CHILDREN; c++) {
        int ended;
        CU_ASSERT_EQUAL(waitpid(children[c], &ended, 0), children[c]);
        CU_ASSERT(WIFEXITED(ended) && WEXITSTATUS(ended) == 0);
    }
    unsigned left = 0;
    for (unsigned i = 0; i < CHILDREN * EACH; i++)
        left += has(store, 10 + i);
    CU_ASSERT(left >= 10 && left <= 20 + CHILDREN * 3);
    CU_ASSERT_EQUAL(keep(store, 0), PROTO_OK);
    close_store(store);
}

/* What people see of a store, and what they may free. */
static void test_people(void)
{
    struct shard_store *store = open_store(0);
    struct shard_store_use use[SHARD_N_KEPT];
    struct shard_lease *lease;
    uint64_t freed;
    fill(store, 4);
    CU_ASSERT_EQUAL(keep_packed(store, 4), PROTO_OK);
    CU_ASSERT_EQUAL_FATAL(shard_lease_create(&lease, store, &error), PROTO_OK);
    shard_lease_add(lease, name_of(0));
    CU_ASSERT_EQUAL_FATAL(shard_store_look(store, use, &error), PROTO_OK);
    const struct shard_store_use *pieces = &use[SHARD_KEPT_PIECE];
    CU_ASSERT(pieces->files == 4 && pieces->bytes == 4 * BYTES && pieces->leased_bytes == BYTES);
    CU_ASSERT(pieces->oldest == 1000 && pieces->latest == 1003);
    CU_ASSERT(use[SHARD_KEPT_PACKED].files == 1 && use[SHARD_KEPT_PACKED].bytes >= BYTES);
    CU_ASSERT(use[SHARD_KEPT_PART].files == 0 && use[SHARD_KEPT_PART].latest == 0);
    CU_ASSERT_EQUAL(shard_store_evict(store, 1, &freed, &error), PROTO_OK);
    CU_ASSERT_EQUAL(freed, BYTES);
    CU_ASSERT(!has(store, 1) && has(store, 0) && has(store, 2));
    CU_ASSERT_EQUAL(shard_store_evict(store, UINT64_MAX, &freed, &error), PROTO_OK);
    CU_ASSERT(freed >= 3 * BYTES);
    CU_ASSERT(has(store, 0) && !has(store, 2) && !has(store, 3) && !has(store, 4));
    shard_lease_destroy(lease);
    close_store(store);
}

int main(void)
{
    proto_log_set_level(PROTO_LOG_ERROR);
    CU_initialize_registry();
    CU_pSuite suite = CU_add_suite("room", open_all, close_all);
    CU_add_test(suite, "the least recently used goes", test_least_recently_used_goes);
    CU_add_test(suite, "packed weights count", test_packed_weights_count);
    CU_add_test(suite, "what is leased stays", test_what_is_leased_stays);
    CU_add_test(suite, "more than the limit", test_more_than_the_limit);
    CU_add_test(suite, "leases of other processes", test_leases_of_other_processes);
    CU_add_test(suite, "processes share a limit", test_processes_share_a_limit);
    CU_add_test(suite, "for people", test_people);
    CU_basic_run_tests();
    unsigned failures = CU_get_number_of_failures() + (CU_get_error() != CUE_SUCCESS);
    CU_cleanup_registry();
    return failures > 0;
}
