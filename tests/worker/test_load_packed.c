/* SPDX-License-Identifier: Apache-2.0 */
#include <CUnit/Basic.h>
#include <ftw.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/worker/load_rig.h"
#include "proto/log.h"

/* The store's files of packed weights: how many, a sum that any new one changes, and the largest.
 */
static struct {
    unsigned count, parts;
    uint64_t sum;
    off_t largest;
    char path[512];
} packed;

static int see_packed(const char *path, const struct stat *info, int flag, struct FTW *ftw)
{
    (void)ftw;
    if (flag != FTW_F || !strstr(path, "/packed/"))
        return 0;
    packed.parts += strstr(path, ".part") != NULL;
    packed.count++;
    packed.sum += (uint64_t)info->st_ino * (uint64_t)info->st_mtim.tv_nsec;
    if (info->st_size > packed.largest) {
        packed.largest = info->st_size;
        snprintf(packed.path, sizeof packed.path, "%s", path);
    }
    return 0;
}

static void look_at_packed(struct shard_store *store)
{
    memset(&packed, 0, sizeof packed);
    nftw(shard_store_dir(store), see_packed, 16, FTW_PHYS);
    CU_ASSERT_EQUAL(packed.parts, 0);
}

static unsigned n_pieces;

static int see_piece(const char *path, const struct stat *info, int flag, struct FTW *ftw)
{
    (void)info, (void)ftw;
    n_pieces += flag == FTW_F && strstr(path, "/pieces/");
    return 0;
}

static void damage_largest(void)
{
    FILE *file = fopen(packed.path, "r+b");
    CU_ASSERT_PTR_NOT_NULL_FATAL(file);
    int byte = fgetc(file);
    rewind(file);
    fputc(byte ^ 1, file);
    fclose(file);
}

static void test_packed_of_a_local_file(void)
{
    struct shard_store *store = open_store();
    use_model(gguf);
    struct worker_load_options options = {.file = gguf, .packed = store};
    load(&program, options, PROTO_OK);
    CU_ASSERT_EQUAL(in_memory, 0);
    look_at_packed(store);
    CU_ASSERT_EQUAL(packed.count, 5);
    uint64_t sum = packed.sum;
    load(&program, options, PROTO_OK);
    CU_ASSERT_EQUAL(in_memory, 0);
    look_at_packed(store);
    CU_ASSERT_EQUAL(packed.sum, sum);
    damage_largest();
    load(&program, options, PROTO_OK);
    CU_ASSERT_EQUAL(in_memory, 0);
    look_at_packed(store);
    CU_ASSERT_EQUAL(packed.count, 5);
    CU_ASSERT_NOT_EQUAL(packed.sum, sum);
    options.packed = NULL;
    load(&program, options, PROTO_OK);
    CU_ASSERT_EQUAL(in_memory, 5);
    drop_store(store);
}

/* What was packed from a file is not taken for what is in it now, even if its time was set back. */
static void test_packed_of_a_changed_file(void)
{
    struct shard_store *store = open_store();
    struct shard_gguf *before = make_model("changing", shapes[LARGE].dims[1], "norm"), *after;
    CU_ASSERT_PTR_NOT_NULL_FATAL(before);
    char path[128];
    snprintf(path, sizeof path, "%s", shard_gguf_path(before, 0));
    struct stat info;
    CU_ASSERT_EQUAL(stat(path, &info), 0);
    use_model(before);
    load(&program, (struct worker_load_options){.file = before, .packed = store}, PROTO_OK);
    shard_gguf_close(before);
    FILE *file = fopen(path, "r+b");
    CU_ASSERT_PTR_NOT_NULL_FATAL(file);
    fseek(file, -5000, SEEK_END);
    for (int i = 0; i < 100; i++)
        fputc('x', file);
    fflush(file);
    CU_ASSERT_EQUAL(futimens(fileno(file), (struct timespec[]){info.st_atim, info.st_mtim}), 0);
    fclose(file);
    CU_ASSERT_EQUAL_FATAL(shard_gguf_open(&after, path, &error), PROTO_OK);
    use_model(after);
    load(&program, (struct worker_load_options){.file = after, .packed = store}, PROTO_OK);
    look_at_packed(store);
    CU_ASSERT_EQUAL(packed.count, 10);
    shard_gguf_close(after);
    drop_store(store);
}

/* Packed weights take the place of the pieces that they were made from. */
static void test_packed_of_fetched_pieces(void)
{
    struct shard_store *store = open_store();
    struct worker_load_options options = {.store = store, .packed = store, .fetch = &fetch};
    use_model(big);
    fake_reset(big);
    struct seen seen = load(&program, options, PROTO_OK);
    CU_ASSERT_EQUAL(seen.fetched, total_bytes(&program));
    CU_ASSERT_EQUAL(in_memory, 0);
    look_at_packed(store);
    CU_ASSERT_EQUAL(packed.count, 5);
    n_pieces = 0;
    nftw(shard_store_dir(store), see_piece, 16, FTW_PHYS);
    CU_ASSERT_EQUAL(n_pieces, 2);
    uint64_t sum = packed.sum;
    seen = load(&program, options, PROTO_OK);
    CU_ASSERT_EQUAL(seen.fetched, 0);
    CU_ASSERT_EQUAL(in_memory, 0);
    look_at_packed(store);
    CU_ASSERT_EQUAL(packed.sum, sum);
    damage_largest();
    seen = load(&program, options, PROTO_OK);
    CU_ASSERT_EQUAL(seen.fetched, shard_gguf_tensor(big, LARGE)->bytes);
    CU_ASSERT_EQUAL(in_memory, 0);
    drop_store(store);
}

static char files[16][300];
static unsigned n_files;

static int see_file(const char *path, const struct stat *info, int flag, struct FTW *ftw)
{
    (void)info, (void)ftw;
    if (flag == FTW_F && (strstr(path, ".piece") || strstr(path, ".packed")) && n_files < 16)
        snprintf(files[n_files++], sizeof *files, "%s", path);
    return 0;
}

/* A bit of each file in turn: that one is fetched and packed again, and no other. */
static void test_a_bit_of_each_file(void)
{
    struct shard_store *store = open_store();
    struct worker_load_options options = {.store = store, .packed = store, .fetch = &fetch};
    use_model(gguf);
    fake_reset(gguf);
    load(&program, options, PROTO_OK);
    n_files = 0;
    nftw(shard_store_dir(store), see_file, 16, FTW_PHYS);
    CU_ASSERT_EQUAL(n_files, 7); /* five matrices, and the pieces of two vectors */
    for (unsigned i = 0; i < n_files; i++) {
        struct stat info;
        FILE *file = fopen(files[i], "r+b");
        CU_ASSERT_PTR_NOT_NULL_FATAL(file);
        CU_ASSERT_EQUAL(fstat(fileno(file), &info), 0);
        long at = (long)((uint64_t)info.st_size * (2 * i + 1) / 15);
        fseek(file, at, SEEK_SET);
        int byte = fgetc(file);
        fseek(file, at, SEEK_SET);
        fputc(byte ^ 1 << i, file);
        fclose(file);
        fake_reset(gguf);
        struct seen seen = load(&program, options, PROTO_OK);
        CU_ASSERT(seen.fetched > 0 && seen.fetched <= (uint64_t)info.st_size + 4096);
        CU_ASSERT_EQUAL(in_memory, 0);
        fake_reset(gguf);
        seen = load(&program, options, PROTO_OK);
        CU_ASSERT_EQUAL(seen.fetched, 0);
    }
    drop_store(store);
}

/* Two weights from one tensor, one of them a vector: its pieces stay, whichever comes first. */
static void check_packed_and_a_vector(size_t vector)
{
    struct shard_store *store = open_store();
    struct worker_load_options options = {
        .store = store, .packed = store, .fetch = &fetch, .pool = pool};
    uint32_t large_parts[] = {LARGE, LARGE};
    use_model(gguf);
    struct shard_weight both[] = {weights[6], weights[6]};
    struct shard_program twice = {
        .model = &model, .weights = both, .n_weights = 2, .parts = large_parts, .n_parts = 2};
    both[0].first_part = 0;
    both[1].first_part = 1;
    both[vector].form = SHARD_WEIGHT_VECTOR;
    both[vector].n_out *= both[vector].k;
    fake_reset(gguf);
    for (int i = 0; i < 2; i++) {
        struct worker_weights loaded;
        CU_ASSERT_EQUAL_FATAL(worker_load(&loaded, &twice, &options, &error), PROTO_OK);
        CU_ASSERT_EQUAL(count_in_memory(&loaded, &twice), 0);
        worker_weights_finish(&loaded);
    }
    CU_ASSERT_EQUAL(fake.received, shard_gguf_tensor(gguf, LARGE)->bytes);
    drop_store(store);
}

static void test_packed_and_a_vector_of_one_tensor(void)
{
    check_packed_and_a_vector(0);
    check_packed_and_a_vector(1);
}

/* No room for a packed weight: it is packed into memory, and the load goes on. */
static void test_full_disk_for_packed(void)
{
    struct shard_store *store = open_store();
    struct rlimit limit;
    use_model(gguf);
    void (*before)(int) = signal(SIGXFSZ, SIG_IGN);
    CU_ASSERT_EQUAL(getrlimit(RLIMIT_FSIZE, &limit), 0);
    limit.rlim_cur = 5 << 20;
    CU_ASSERT_EQUAL(setrlimit(RLIMIT_FSIZE, &limit), 0);
    load(&program, (struct worker_load_options){.file = gguf, .packed = store}, PROTO_OK);
    CU_ASSERT_EQUAL(in_memory, 1);
    look_at_packed(store);
    CU_ASSERT_EQUAL(packed.count, 4);
    limit.rlim_cur = limit.rlim_max;
    CU_ASSERT_EQUAL(setrlimit(RLIMIT_FSIZE, &limit), 0);
    signal(SIGXFSZ, before);
    drop_store(store);
}

/* Another process is packing the same weight: it is packed into memory. */
static void test_busy_packed(void)
{
    struct shard_store *store = open_store();
    struct worker_load_options options = {.file = gguf, .packed = store};
    use_model(gguf);
    load(&program, options, PROTO_OK);
    look_at_packed(store);
    char part[512];
    snprintf(part, sizeof part, "%s", packed.path);
    strcpy(strstr(part, ".packed"), ".part");
    CU_ASSERT_EQUAL(rename(packed.path, part), 0);
    FILE *held = fopen(part, "r+b");
    CU_ASSERT_PTR_NOT_NULL_FATAL(held);
    CU_ASSERT_EQUAL(flock(fileno(held), LOCK_EX), 0);
    load(&program, options, PROTO_OK);
    CU_ASSERT_EQUAL(in_memory, 1);
    fclose(held);
    load(&program, options, PROTO_OK);
    CU_ASSERT_EQUAL(in_memory, 0);
    drop_store(store);
}

int main(void)
{
    proto_log_set_level(PROTO_LOG_ERROR);
    CU_initialize_registry();
    CU_pSuite suite = CU_add_suite("packed weights", open_all, close_all);
    CU_add_test(suite, "of a local file", test_packed_of_a_local_file);
    CU_add_test(suite, "of a changed file", test_packed_of_a_changed_file);
    CU_add_test(suite, "of fetched pieces", test_packed_of_fetched_pieces);
    CU_add_test(suite, "and a vector of one tensor", test_packed_and_a_vector_of_one_tensor);
    CU_add_test(suite, "a bit of each file", test_a_bit_of_each_file);
    CU_add_test(suite, "full disk", test_full_disk_for_packed);
    CU_add_test(suite, "busy", test_busy_packed);
    CU_basic_run_tests();
    unsigned failures = CU_get_number_of_failures() + (CU_get_error() != CUE_SUCCESS);
    CU_cleanup_registry();
    return failures > 0;
}
