/* SPDX-License-Identifier: Apache-2.0 */
#include <CUnit/Basic.h>
#include <fcntl.h>
#include <ftw.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "proto/log.h"
#include "shard/store.h"

#define SMALL 97
#define LARGE (300 << 10)

static char dir[] = "/tmp/caravan-test-store-XXXXXX";
static uint8_t bytes[LARGE];
static struct shard_store *store;
static struct proto_error error;

struct named {
    uint8_t hash[PROTO_HASH_BYTES];
    size_t len;
    char piece[256], part[256]; /* paths */
};

/* A piece of the first len bytes, and where the store in `root` keeps it. */
static struct named name_piece(const char *root, size_t len)
{
    struct named named = {.len = len};
    shard_hash(named.hash, bytes, len);
    char hex[2 * PROTO_HASH_BYTES + 1];
    for (size_t i = 0; i < PROTO_HASH_BYTES; i++)
        sprintf(hex + 2 * i, "%02x", named.hash[i]);
    snprintf(named.piece, sizeof named.piece, "%s/pieces/%.2s/%s.piece", root, hex, hex);
    snprintf(named.part, sizeof named.part, "%s/pieces/%.2s/%s.part", root, hex, hex);
    return named;
}

static int remove_entry(const char *path, const struct stat *info, int flag, struct FTW *ftw)
{
    (void)info, (void)flag, (void)ftw;
    return remove(path);
}

static int open_store(void)
{
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (uint8_t)(i * 2654435761u >> 13);
    return !mkdtemp(dir) || shard_store_open(&store, dir, &error);
}

static int close_store(void)
{
    shard_store_close(store);
    return nftw(dir, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

/* Begins, checks how much is there, appends bytes [have, upto). */
static struct shard_store_part *transfer(const struct named *named, uint64_t have, size_t upto)
{
    struct shard_store_part *part;
    uint64_t found;
    CU_ASSERT_EQUAL_FATAL(shard_store_begin(store, named->hash, named->len, &part, &found, &error),
                          PROTO_OK);
    CU_ASSERT_EQUAL(found, have);
    CU_ASSERT_EQUAL(shard_store_append(part, bytes + have, upto - have, &error), PROTO_OK);
    return part;
}

static void keep(const struct named *named)
{
    struct shard_store_part *part = transfer(named, 0, named->len);
    CU_ASSERT_EQUAL(shard_store_commit(part, NULL, &error), PROTO_OK);
}

static void check_there(const struct named *named)
{
    struct shard_mapped mapped;
    CU_ASSERT_EQUAL_FATAL(shard_store_map(store, named->hash, named->len, &mapped, &error),
                          PROTO_OK);
    CU_ASSERT_EQUAL(mapped.len, named->len);
    CU_ASSERT_EQUAL(memcmp(mapped.data, bytes, named->len), 0);
    shard_store_unmap(&mapped);
    CU_ASSERT_PTR_NULL(mapped.data);
    CU_ASSERT_NOT_EQUAL(access(named->part, F_OK), 0);
}

static void check_absent(const struct named *named)
{
    struct shard_mapped mapped;
    CU_ASSERT_EQUAL(shard_store_map(store, named->hash, named->len, &mapped, &error),
                    PROTO_NOTFOUND);
    CU_ASSERT_PTR_NULL(mapped.data);
    CU_ASSERT_NOT_EQUAL(access(named->piece, F_OK), 0);
}

static void flip_bit(const char *path, off_t at)
{
    uint8_t byte = 0;
    int fd = open(path, O_RDWR);
    CU_ASSERT_FATAL(fd >= 0);
    CU_ASSERT_EQUAL(pread(fd, &byte, 1, at), 1);
    byte ^= 4;
    CU_ASSERT_EQUAL(pwrite(fd, &byte, 1, at), 1);
    close(fd);
}

static void test_keep_and_map(void)
{
    struct named named = name_piece(dir, LARGE);
    check_absent(&named);
    keep(&named);
    check_there(&named);
    unlink(named.piece);
}

static void test_resume_at_any_byte(void)
{
    struct named named = name_piece(dir, SMALL);
    for (size_t cut = 0; cut <= SMALL; cut++) {
        shard_store_abort(transfer(&named, 0, cut));
        check_absent(&named);
        shard_store_close(store);
        CU_ASSERT_EQUAL_FATAL(shard_store_open(&store, dir, &error), PROTO_OK);
        CU_ASSERT_EQUAL(shard_store_commit(transfer(&named, cut, SMALL), NULL, &error), PROTO_OK);
        check_there(&named);
        unlink(named.piece);
    }
}

static void test_half_a_piece_is_not_committed(void)
{
    struct named named = name_piece(dir, SMALL);
    CU_ASSERT_EQUAL(shard_store_commit(transfer(&named, 0, 50), NULL, &error), PROTO_INVALID);
    check_absent(&named);
    CU_ASSERT_EQUAL(shard_store_commit(transfer(&named, 50, SMALL), NULL, &error), PROTO_OK);
    unlink(named.piece);
}

static void test_wrong_bytes_are_refused(void)
{
    struct named named = name_piece(dir, SMALL);
    struct shard_store_part *part = transfer(&named, 0, SMALL - 1);
    uint8_t wrong = bytes[SMALL - 1] ^ 1;
    CU_ASSERT_EQUAL(shard_store_append(part, &wrong, 1, &error), PROTO_OK);
    CU_ASSERT_EQUAL(shard_store_commit(part, NULL, &error), PROTO_CORRUPT);
    check_absent(&named);
    CU_ASSERT_NOT_EQUAL(access(named.part, F_OK), 0);

    shard_store_abort(transfer(&named, 0, 60));
    flip_bit(named.part, 30);
    CU_ASSERT_EQUAL(shard_store_commit(transfer(&named, 60, SMALL), NULL, &error), PROTO_CORRUPT);
    check_absent(&named);
    keep(&named);
    check_there(&named);
    unlink(named.piece);
}

static void test_too_many_bytes(void)
{
    struct named named = name_piece(dir, SMALL);
    struct shard_store_part *part = transfer(&named, 0, 90);
    CU_ASSERT_EQUAL(shard_store_append(part, bytes, 8, &error), PROTO_INVALID);
    CU_ASSERT_EQUAL(shard_store_append(part, bytes + 90, 7, &error), PROTO_OK);
    CU_ASSERT_EQUAL(shard_store_append(part, bytes, 1, &error), PROTO_INVALID);
    shard_store_abort(part);

    /* A part longer than its piece is no part of it. */
    CU_ASSERT_EQUAL(truncate(named.part, SMALL + 1), 0);
    keep(&named);
    check_there(&named);
    unlink(named.piece);
}

static void test_damage_on_disk(void)
{
    struct named named = name_piece(dir, LARGE);
    keep(&named);
    flip_bit(named.piece, LARGE - 1);
    check_absent(&named);
    keep(&named);
    CU_ASSERT_EQUAL(truncate(named.piece, 1), 0);
    check_absent(&named);
    keep(&named);
    CU_ASSERT_EQUAL(truncate(named.piece, LARGE + 1), 0);
    check_absent(&named);
    keep(&named);
    check_there(&named);
    unlink(named.piece);
}

/* Whichever bit it is. */
static void test_any_bit(void)
{
    struct named named = name_piece(dir, SMALL);
    for (off_t bit = 0; bit < SMALL * 8; bit++) {
        uint8_t byte;
        keep(&named);
        int fd = open(named.piece, O_RDWR);
        CU_ASSERT_EQUAL(pread(fd, &byte, 1, bit / 8), 1);
        byte ^= (uint8_t)(1u << bit % 8);
        CU_ASSERT_EQUAL(pwrite(fd, &byte, 1, bit / 8), 1);
        close(fd);
        check_absent(&named);
    }
}

static void test_two_stores(void)
{
    struct named named = name_piece(dir, SMALL);
    struct shard_store *other;
    CU_ASSERT_EQUAL_FATAL(shard_store_open(&other, dir, &error), PROTO_OK);
    struct shard_store_part *part = transfer(&named, 0, 10), *second;
    uint64_t have;
    CU_ASSERT_EQUAL(shard_store_begin(other, named.hash, SMALL, &second, &have, &error),
                    PROTO_BUSY);
    CU_ASSERT_PTR_NULL(second);
    shard_store_abort(part);
    CU_ASSERT_EQUAL_FATAL(shard_store_begin(other, named.hash, SMALL, &second, &have, &error),
                          PROTO_OK);
    CU_ASSERT_EQUAL(have, 10);
    CU_ASSERT_EQUAL(shard_store_append(second, bytes + 10, SMALL - 10, &error), PROTO_OK);
    CU_ASSERT_EQUAL(shard_store_commit(second, NULL, &error), PROTO_OK);
    check_there(&named);
    shard_store_close(other);
    unlink(named.piece);
}

/* A process is killed in the middle of a transfer: its lock goes, its bytes stay. */
static void test_killed_process(void)
{
    struct named named = name_piece(dir, SMALL);
    int ready[2];
    CU_ASSERT_EQUAL_FATAL(pipe(ready), 0);
    pid_t child = fork();
    CU_ASSERT_FATAL(child >= 0);
    if (child == 0) {
        struct shard_store_part *part;
        uint64_t have;
        if (shard_store_begin(store, named.hash, SMALL, &part, &have, &error) ||
            shard_store_append(part, bytes, 40, &error) || write(ready[1], "", 1) != 1)
            _exit(1);
        for (;;)
            pause();
    }
    char byte;
    close(ready[1]);
    CU_ASSERT_EQUAL(read(ready[0], &byte, 1), 1);
    close(ready[0]);
    struct shard_store_part *part;
    uint64_t have;
    CU_ASSERT_EQUAL(shard_store_begin(store, named.hash, SMALL, &part, &have, &error), PROTO_BUSY);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    check_absent(&named);
    CU_ASSERT_EQUAL(shard_store_commit(transfer(&named, 40, SMALL), NULL, &error), PROTO_OK);
    check_there(&named);
    unlink(named.piece);
}

/* Fills up what room there is, gets the error, and goes on when there is more. */
static void check_no_space(struct shard_store *full, const char *root, void (*free_room)(void))
{
    struct named named = name_piece(root, LARGE);
    struct shard_store_part *part;
    uint64_t have;
    CU_ASSERT_EQUAL_FATAL(shard_store_begin(full, named.hash, LARGE, &part, &have, &error),
                          PROTO_OK);
    CU_ASSERT_EQUAL(shard_store_append(part, bytes, LARGE, &error), PROTO_NOSPACE);
    CU_ASSERT_PTR_NOT_NULL(strstr(error.text, root));
    CU_ASSERT_PTR_NOT_NULL(strstr(error.text, "307200 bytes"));
    CU_ASSERT_PTR_NOT_NULL(strstr(error.text, "--cache-dir"));
    shard_store_abort(part);
    CU_ASSERT_NOT_EQUAL(access(named.piece, F_OK), 0);
    free_room();
    CU_ASSERT_EQUAL_FATAL(shard_store_begin(full, named.hash, LARGE, &part, &have, &error),
                          PROTO_OK);
    CU_ASSERT(have > 0 && have < LARGE);
    CU_ASSERT_EQUAL(shard_store_append(part, bytes + have, LARGE - have, &error), PROTO_OK);
    CU_ASSERT_EQUAL(shard_store_commit(part, NULL, &error), PROTO_OK);
    CU_ASSERT_EQUAL(access(named.piece, F_OK), 0);
    unlink(named.piece);
}

static void lift_file_limit(void)
{
    struct rlimit limit;
    CU_ASSERT_EQUAL(getrlimit(RLIMIT_FSIZE, &limit), 0);
    limit.rlim_cur = limit.rlim_max;
    CU_ASSERT_EQUAL(setrlimit(RLIMIT_FSIZE, &limit), 0);
}

static void test_file_size_limit(void)
{
    struct rlimit limit;
    CU_ASSERT_EQUAL(getrlimit(RLIMIT_FSIZE, &limit), 0);
    limit.rlim_cur = LARGE / 2;
    void (*before)(int) = signal(SIGXFSZ, SIG_IGN);
    CU_ASSERT_EQUAL(setrlimit(RLIMIT_FSIZE, &limit), 0);
    check_no_space(store, dir, lift_file_limit);
    signal(SIGXFSZ, before);
}

static char small_disk[300];

static void grow_small_disk(void)
{
    CU_ASSERT_EQUAL(mount("caravan-test", small_disk, "tmpfs", MS_REMOUNT, "size=2m"), 0);
}

static void test_full_disk(void)
{
    snprintf(small_disk, sizeof small_disk, "%s/small", dir);
    CU_ASSERT_EQUAL(mkdir(small_disk, 0700), 0);
    /* In a mount namespace of our own, so that nothing stays mounted. */
    if (unshare(CLONE_NEWNS) < 0 || mount("none", "/", "none", MS_REC | MS_PRIVATE, NULL) < 0 ||
        mount("caravan-test", small_disk, "tmpfs", 0, "size=200k") < 0) {
        printf("skipped: may not mount a small disk ");
        return;
    }
    struct shard_store *full;
    CU_ASSERT_EQUAL_FATAL(shard_store_open(&full, small_disk, &error), PROTO_OK);
    check_no_space(full, small_disk, grow_small_disk);
    shard_store_close(full);
    CU_ASSERT_EQUAL(umount(small_disk), 0);
}

static void check_private_dir(const char *path)
{
    struct stat info;
    CU_ASSERT_EQUAL_FATAL(stat(path, &info), 0);
    CU_ASSERT(S_ISDIR(info.st_mode));
    CU_ASSERT_EQUAL(info.st_mode & 0777, 0700);
}

static void test_default_dirs(void)
{
    struct shard_store *opened;
    char cache[300], expected[320];
    snprintf(cache, sizeof cache, "%s/xdg", dir);
    snprintf(expected, sizeof expected, "%s/caravan", cache);
    setenv("XDG_CACHE_HOME", cache, 1);
    CU_ASSERT_EQUAL_FATAL(shard_store_open(&opened, NULL, &error), PROTO_OK);
    CU_ASSERT_STRING_EQUAL(shard_store_dir(opened), expected);
    check_private_dir(expected);
    shard_store_close(opened);

    setenv("XDG_CACHE_HOME", "relative", 1);
    setenv("HOME", cache, 1);
    snprintf(expected, sizeof expected, "%s/.cache/caravan", cache);
    CU_ASSERT_EQUAL_FATAL(shard_store_open(&opened, NULL, &error), PROTO_OK);
    CU_ASSERT_STRING_EQUAL(shard_store_dir(opened), expected);
    check_private_dir(expected);
    shard_store_close(opened);

    unsetenv("HOME");
    CU_ASSERT_EQUAL(shard_store_open(&opened, NULL, &error), PROTO_INVALID);
    CU_ASSERT_PTR_NULL(opened);
    CU_ASSERT_PTR_NOT_NULL(strstr(error.text, "--cache-dir"));
}

static void test_unusable_dir(void)
{
    struct shard_store *opened;
    char path[300];
    snprintf(path, sizeof path, "%s/file", dir);
    FILE *file = fopen(path, "w");
    CU_ASSERT_PTR_NOT_NULL_FATAL(file);
    fclose(file);
    CU_ASSERT_NOT_EQUAL(shard_store_open(&opened, path, &error), PROTO_OK);
    CU_ASSERT_PTR_NULL(opened);
    CU_ASSERT_PTR_NOT_NULL(strstr(error.text, path));
    strcat(path, "/below");
    CU_ASSERT_NOT_EQUAL(shard_store_open(&opened, path, &error), PROTO_OK);
    CU_ASSERT_PTR_NOT_NULL(strstr(error.text, "--cache-dir"));
    CU_ASSERT_EQUAL(shard_store_open(&opened, "", &error), PROTO_INVALID);
}

int main(void)
{
    proto_log_set_level(PROTO_LOG_ERROR);
    CU_initialize_registry();
    CU_pSuite suite = CU_add_suite("store", open_store, close_store);
    CU_add_test(suite, "keep and map", test_keep_and_map);
    CU_add_test(suite, "resume at any byte", test_resume_at_any_byte);
    CU_add_test(suite, "half a piece is not committed", test_half_a_piece_is_not_committed);
    CU_add_test(suite, "wrong bytes are refused", test_wrong_bytes_are_refused);
    CU_add_test(suite, "too many bytes", test_too_many_bytes);
    CU_add_test(suite, "damage on disk", test_damage_on_disk);
    CU_add_test(suite, "any bit", test_any_bit);
    CU_add_test(suite, "two stores on one directory", test_two_stores);
    CU_add_test(suite, "a killed process", test_killed_process);
    CU_add_test(suite, "file size limit", test_file_size_limit);
    CU_add_test(suite, "full disk", test_full_disk);
    CU_add_test(suite, "default directories", test_default_dirs);
    CU_add_test(suite, "unusable directory", test_unusable_dir);
    CU_basic_run_tests();
    unsigned failures = CU_get_number_of_failures() + (CU_get_error() != CUE_SUCCESS);
    CU_cleanup_registry();
    return failures > 0;
}
