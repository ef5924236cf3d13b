/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What may happen to a store's files happens to them, ten thousand times: a process is killed at a
 * random call to the system, or in the middle of a write; files are cut, filled with zeros, changed
 * by a bit, exchanged, renamed as a power cut would leave them, and removed. After each of these
 * what the store gives is right, and it takes the file anew.
 *
 * The calls are wrapped by the linker (--wrap). A flush to the disk does nothing here: what one
 * that was lost leaves behind is made by hand.
 */
#include <CUnit/Basic.h>
#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "proto/log.h"
#include "shard/packed.h"

#define ROUNDS   10000
#define N_PIECES 12
#define N_ITEMS  (N_PIECES + 4) /* pieces, then packed weights */
#define MOST     9000

/* ---- calls that end the process ---- */

static int calls_left = -1; /* of a child: killed at the call after so many; -1: never */

static bool is_last(void)
{
    return calls_left >= 0 && calls_left-- == 0;
}

static void die(void)
{
    raise(SIGKILL);
}

static uint32_t seed = 12345;

static uint32_t any(uint32_t below)
{
    seed = seed * 1664525 + 1013904223;
    return (uint32_t)((uint64_t)(seed >> 4) * below >> 28);
}

ssize_t __real_pwrite(int fd, const void *data, size_t len, off_t at);
ssize_t __wrap_pwrite(int fd, const void *data, size_t len, off_t at);
int __real_rename(const char *from, const char *to);
int __wrap_rename(const char *from, const char *to);
int __real_ftruncate(int fd, off_t len);
int __wrap_ftruncate(int fd, off_t len);
int __real_fallocate(int fd, int mode, off_t at, off_t len);
int __wrap_fallocate(int fd, int mode, off_t at, off_t len);
int __real_unlink(const char *path);
int __wrap_unlink(const char *path);
int __wrap_fsync(int fd);

ssize_t __wrap_pwrite(int fd, const void *data, size_t len, off_t at)
{
    bool last = is_last();
    if (last)
        len = any((uint32_t)len + 1);
    ssize_t written = __real_pwrite(fd, data, len, at);
    if (last)
        die();
    return written;
}

int __wrap_rename(const char *from, const char *to)
{
    bool last = is_last();
    if (last && any(2))
        die();
    int rc = __real_rename(from, to);
    if (last)
        die();
    return rc;
}

int __wrap_ftruncate(int fd, off_t len)
{
    if (is_last())
        die();
    return __real_ftruncate(fd, len);
}

int __wrap_fallocate(int fd, int mode, off_t at, off_t len)
{
    if (is_last())
        die();
    return __real_fallocate(fd, mode, at, len);
}

int __wrap_unlink(const char *path)
{
    if (is_last())
        die();
    return __real_unlink(path);
}

int __wrap_fsync(int fd)
{
    (void)fd;
    if (is_last())
        die();
    return 0;
}

/* ---- the store ---- */

static char dir[] = "/tmp/caravan-test-damage-XXXXXX";
static struct shard_store *store;
static struct kern_pool *pool;
static struct proto_error error;

static struct item {
    bool packed;
    size_t len;
    uint8_t name[PROTO_HASH_BYTES], bytes[MOST];
    char whole[256], part[256]; /* paths */
} items[N_ITEMS];

static void make_item(struct item *item, unsigned number)
{
    char hex[2 * PROTO_HASH_BYTES + 1];
    item->packed = number >= N_PIECES;
    item->len = 1 + any(number % 3 ? MOST : 300);
    for (size_t i = 0; i < item->len; i++)
        item->bytes[i] = (uint8_t)any(256);
    shard_hash(item->name, item->bytes, item->len);
    for (size_t i = 0; i < PROTO_HASH_BYTES; i++)
        sprintf(hex + 2 * i, "%02x", item->name[i]);
    const char *kind = item->packed ? "packed" : "piece", *folder = item->packed ? kind : "pieces";
    snprintf(item->whole, sizeof item->whole, "%s/%s/%.2s/%s.%s", dir, folder, hex, hex, kind);
    snprintf(item->part, sizeof item->part, "%s/%s/%.2s/%s.part", dir, folder, hex, hex);
}

static int remove_entry(const char *path, const struct stat *info, int flag, struct FTW *ftw)
{
    (void)info, (void)flag, (void)ftw;
    return remove(path);
}

static int open_all(void)
{
    if (!mkdtemp(dir) || shard_store_open(&store, dir, &error) ||
        kern_pool_create(&pool, 1, &error))
        return 1;
    for (unsigned i = 0; i < N_ITEMS; i++)
        make_item(&items[i], i);
    return 0;
}

static int close_all(void)
{
    kern_pool_destroy(pool);
    shard_store_close(store);
    return nftw(dir, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

static enum proto_status keep_piece(const struct item *item)
{
    struct shard_store_part *part;
    uint64_t have;
    enum proto_status status =
        shard_store_begin(store, item->name, item->len, &part, &have, &error);
    if (status)
        return status;
    while (have < item->len && !status) {
        size_t n = 1 + any((uint32_t)(item->len - have));
        status = shard_store_append(part, item->bytes + have, n, &error);
        have += n;
    }
    if (!status)
        return shard_store_commit(part, NULL, &error);
    shard_store_abort(part);
    return status;
}

static enum proto_status keep_packed(const struct item *item)
{
    struct shard_packed_part *part;
    struct shard_mapped mapped;
    void *memory;
    enum proto_status status =
        shard_packed_begin(store, item->name, item->len, pool, &part, &memory, &error);
    if (status)
        return status;
    size_t half = any((uint32_t)item->len + 1);
    memcpy(memory, item->bytes, half);
    if (is_last())
        die();
    memcpy((uint8_t *)memory + half, item->bytes + half, item->len - half);
    status = shard_packed_commit(part, pool, true, &mapped, &error);
    shard_store_unmap(&mapped);
    return status;
}

static enum proto_status keep(const struct item *item)
{
    return item->packed ? keep_packed(item) : keep_piece(item);
}

/* Nothing, or what its name says. */
static bool is_right_or_absent(const struct item *item, enum proto_status *status)
{
    struct shard_mapped mapped;
    *status = item->packed ? shard_packed_map(store, item->name, item->len, pool, &mapped, &error)
                           : shard_store_map(store, item->name, item->len, &mapped, &error);
    bool right = *status == PROTO_NOTFOUND;
    if (*status == PROTO_OK)
        right = memcmp(mapped.data, item->bytes, item->len) == 0;
    shard_store_unmap(&mapped);
    return right;
}

/* ---- what happens ---- */

static void kill_somewhere(const struct item *item)
{
    uint32_t calls = any(12), rest = any(1u << 28);
    pid_t child = fork();
    if (child == 0) {
        calls_left = (int)calls;
        seed = rest;
        keep(item);
        for (int i = 0; i < 3; i++)
            keep(&items[any(N_ITEMS)]);
        _exit(0);
    }
    CU_ASSERT_FATAL(child > 0);
    int ended;
    CU_ASSERT_EQUAL(waitpid(child, &ended, 0), child);
    CU_ASSERT(WIFEXITED(ended) || (WIFSIGNALED(ended) && WTERMSIG(ended) == SIGKILL));
}

/* Cut, longer, zeros at the end, or another bit. */
static void damage(const char *path)
{
    struct stat info;
    int fd = open(path, O_RDWR);
    if (fd < 0 || fstat(fd, &info) < 0 || info.st_size == 0) {
        if (fd >= 0)
            close(fd);
        return;
    }
    off_t len = info.st_size, at = (off_t)any((uint32_t)len);
    uint8_t byte;
    switch (any(4)) {
    case 0:
        CU_ASSERT_EQUAL(__real_ftruncate(fd, at), 0);
        break;
    case 1:
        CU_ASSERT_EQUAL(__real_ftruncate(fd, len + 1 + any(5000)), 0);
        break;
    case 2:
        CU_ASSERT_EQUAL(__real_ftruncate(fd, at), 0);
        CU_ASSERT_EQUAL(__real_ftruncate(fd, len), 0);
        break;
    default:
        CU_ASSERT_EQUAL(pread(fd, &byte, 1, at), 1);
        byte ^= (uint8_t)(1u << any(8));
        CU_ASSERT_EQUAL(__real_pwrite(fd, &byte, 1, at), 1);
    }
    close(fd);
}

/* A name that was lost, one that came before its bytes, another's bytes, and none. */
static void rename_somehow(const struct item *item)
{
    switch (any(4)) {
    case 0:
        __real_rename(item->whole, item->part);
        break;
    case 1:
        __real_rename(item->part, item->whole);
        break;
    case 2:
        __real_rename(items[any(N_ITEMS)].whole, item->whole);
        break;
    default:
        __real_unlink(any(2) ? item->whole : item->part);
    }
}

/* Half a piece, as an interrupted transfer leaves it. */
static void leave_half(const struct item *item)
{
    struct shard_store_part *part;
    uint64_t have;
    if (item->packed || shard_store_begin(store, item->name, item->len, &part, &have, &error))
        return;
    shard_store_append(part, item->bytes + have, any((uint32_t)(item->len - have) + 1), &error);
    shard_store_abort(part);
}

static void one_round(void)
{
    const struct item *item = &items[any(N_ITEMS)];
    uint32_t what = any(10);
    if (what < 3)
        kill_somewhere(item);
    else if (what < 7)
        damage(any(3) ? item->whole : item->part);
    else if (what < 9)
        rename_somehow(item);
    else
        leave_half(item);
}

static void test_rounds(void)
{
    unsigned wrong = 0, unusable = 0, kept = 0;
    for (unsigned round = 0; round < ROUNDS; round++) {
        one_round();
        const struct item *item = &items[any(N_ITEMS)];
        enum proto_status status;
        wrong += !is_right_or_absent(item, &status);
        if (status == PROTO_OK || any(3))
            continue;
        /* What is left of an earlier transfer may be damaged: then it is removed, and the next one
         * starts over. */
        status = keep(item);
        if (status == PROTO_CORRUPT)
            status = keep(item);
        unusable += status != PROTO_OK;
        wrong += !is_right_or_absent(item, &status);
        unusable += status != PROTO_OK;
        kept++;
    }
    CU_ASSERT_EQUAL(wrong, 0);
    CU_ASSERT_EQUAL(unusable, 0);
    CU_ASSERT(kept > ROUNDS / 10);
}

int main(void)
{
    proto_log_set_level(PROTO_LOG_ERROR);
    CU_initialize_registry();
    CU_pSuite suite = CU_add_suite("damage", open_all, close_all);
    CU_add_test(suite, "ten thousand rounds", test_rounds);
    CU_basic_run_tests();
    unsigned failures = CU_get_number_of_failures() + (CU_get_error() != CUE_SUCCESS);
    CU_cleanup_registry();
    return failures > 0;
}
