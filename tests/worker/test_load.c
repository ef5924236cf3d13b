/* SPDX-License-Identifier: Apache-2.0 */
#include <CUnit/Basic.h>
#include <ftw.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/worker/load_rig.h"
#include "proto/log.h"
#include "shard/mkmodel.h"

#define LARGE_BYTES (1024ull * 3000 * 4)

static void test_local_file(void)
{
    use_model(big);
    struct seen seen = load(&program, (struct worker_load_options){.file = big}, PROTO_OK);
    CU_ASSERT_EQUAL(seen.fetched, 0);
    use_model(gguf);
    load(&program, (struct worker_load_options){.file = gguf}, PROTO_OK);
}

static void test_fetch_then_store(void)
{
    struct shard_store *store = open_store();
    struct worker_load_options options = {.store = store, .fetch = &fetch};
    use_model(big);
    fake_reset(big);
    struct seen seen = load(&program, options, PROTO_OK);
    CU_ASSERT_EQUAL(seen.fetched, total_bytes(&program));
    CU_ASSERT_EQUAL(fake.received, total_bytes(&program));
    CU_ASSERT_EQUAL(fake.most, 32);
    fake_reset(big);
    seen = load(&program, options, PROTO_OK);
    CU_ASSERT_EQUAL(seen.fetched, 0);
    CU_ASSERT_EQUAL(fake.received, 0);
    drop_store(store);
}

/* The coordinator is lost again and again; no byte travels twice. */
static void test_interruptions(void)
{
    struct shard_store *store = open_store();
    struct worker_load_options options = {.store = store, .fetch = &fetch};
    use_model(gguf);
    fake_reset(gguf);
    uint64_t received = 0;
    for (int i = 0; i < 12; i++) {
        fake.first = fake.count = 0;
        fake.lose_after = i % 4;
        load(&program, options, PROTO_LOST);
        CU_ASSERT(i % 4 == 0 || fake.received > received);
        received = fake.received;
    }
    fake.first = fake.count = 0;
    fake.lose_after = -1;
    load(&program, options, PROTO_OK);
    CU_ASSERT_EQUAL(fake.received, total_bytes(&program));
    drop_store(store);
}

static void test_corrupt_chunk(void)
{
    struct shard_store *store = open_store();
    struct worker_load_options options = {.store = store, .fetch = &fetch};
    use_model(gguf);
    for (int into_memory = 0; into_memory < 2; into_memory++) {
        if (into_memory)
            options.store = NULL;
        fake_reset(gguf);
        fake.corrupt = 1;
        load(&program, options, PROTO_OK);
        CU_ASSERT_EQUAL(fake.received,
                        total_bytes(&program) + shard_gguf_tensor(gguf, LARGE)->bytes);
    }
    drop_store(store);
}

static void test_always_corrupt(void)
{
    struct shard_store *store = open_store();
    struct worker_load_options options = {.store = store, .fetch = &fetch};
    use_model(gguf);
    fake_reset(gguf);
    fake.corrupt = 1 << 20;
    load(&program, options, PROTO_CORRUPT);
    CU_ASSERT_PTR_NOT_NULL(strstr(error.text, "tensor large, piece 0 of 1"));
    CU_ASSERT_EQUAL(fake.received,
                    total_bytes(&program) + 2 * shard_gguf_tensor(gguf, LARGE)->bytes);
    drop_store(store);
}

static void test_damaged_store(void)
{
    struct shard_store *store = open_store();
    struct worker_load_options options = {.store = store, .fetch = &fetch};
    use_model(gguf);
    fake_reset(gguf);
    load(&program, options, PROTO_OK);
    const struct shard_tensor *large = shard_gguf_tensor(gguf, LARGE);
    uint8_t hash[PROTO_HASH_BYTES];
    shard_hash(hash, large->data, large->bytes);
    char path[512], hex[65];
    for (int i = 0; i < 32; i++)
        sprintf(hex + 2 * i, "%02x", hash[i]);
    snprintf(path, sizeof path, "%s/pieces/%.2s/%s.piece", shard_store_dir(store), hex, hex);
    FILE *file = fopen(path, "r+b");
    CU_ASSERT_PTR_NOT_NULL_FATAL(file);
    fputc(0xff, file);
    fclose(file);
    struct seen seen = load(&program, options, PROTO_OK);
    CU_ASSERT_EQUAL(seen.fetched, large->bytes);
    drop_store(store);
}

/* Another process is fetching the piece: it is fetched past the store. */
static void test_busy_piece(void)
{
    struct shard_store *store = open_store();
    struct worker_load_options options = {.store = store, .fetch = &fetch};
    use_model(gguf);
    fake_reset(gguf);
    const struct shard_tensor *large = shard_gguf_tensor(gguf, LARGE);
    uint8_t hash[PROTO_HASH_BYTES];
    shard_hash(hash, large->data, large->bytes);
    struct shard_store_part *part;
    uint64_t have;
    CU_ASSERT_EQUAL_FATAL(shard_store_begin(store, hash, large->bytes, &part, &have, &error),
                          PROTO_OK);
    load(&program, options, PROTO_OK);
    shard_store_abort(part);
    drop_store(store);
}

/* Another process puts the pieces behind the first into the store. */
static void bring_others(void)
{
    struct shard_store *store = open_store();
    const struct shard_tensor *experts = shard_gguf_tensor(gguf, EXPERTS);
    CU_ASSERT(shard_pieces_count(experts) > 1);
    for (uint64_t i = 1; i < shard_pieces_count(experts); i++) {
        struct shard_piece piece = shard_pieces_get(experts, i);
        struct shard_store_part *part;
        struct shard_mapped mapped;
        uint8_t hash[PROTO_HASH_BYTES];
        uint64_t have;
        shard_hash(hash, experts->data + piece.offset, piece.bytes);
        CU_ASSERT_EQUAL_FATAL(shard_store_begin(store, hash, piece.bytes, &part, &have, &error),
                              PROTO_OK);
        CU_ASSERT_EQUAL(shard_store_append(part, experts->data + piece.offset, piece.bytes, &error),
                        PROTO_OK);
        CU_ASSERT_EQUAL(shard_store_commit(part, &mapped, &error), PROTO_OK);
        shard_store_unmap(&mapped);
    }
    shard_store_close(store);
}

/* What was asked for ahead then is nobody's: not the next tensor's either. */
static void test_pieces_from_another_process(void)
{
    struct shard_store *store = open_store();
    struct worker_load_options options = {.store = store, .fetch = &fetch};
    use_model(gguf);
    fake_reset(gguf);
    fake.meanwhile = bring_others;
    struct seen seen = load(&program, options, PROTO_OK);
    CU_ASSERT(seen.fetched < total_bytes(&program));
    CU_ASSERT_EQUAL(fake.count, 0);
    drop_store(store);
}

static void test_short_answer(void)
{
    use_model(gguf);
    fake_reset(gguf);
    fake.cut = true;
    load(&program, (struct worker_load_options){.fetch = &fetch}, PROTO_FORMAT);
    CU_ASSERT_PTR_NOT_NULL(strstr(error.text, "tensor norm"));
}

static void test_cancel(void)
{
    atomic_bool cancel = true;
    use_model(gguf);
    load(&program, (struct worker_load_options){.file = gguf, .cancel = &cancel}, PROTO_CANCELLED);
    atomic_store(&cancel, false);
    fake_reset(gguf);
    fake.cancel = &cancel;
    load(&program, (struct worker_load_options){.fetch = &fetch, .cancel = &cancel},
         PROTO_CANCELLED);
    CU_ASSERT(fake.received < total_bytes(&program));
}

/* What the disk does not take goes into memory, and the load goes on. */
static void test_full_disk(void)
{
    struct shard_store *store = open_store();
    struct rlimit limit;
    use_model(gguf);
    fake_reset(gguf);
    uint64_t total = total_bytes(&program);
    void (*before)(int) = signal(SIGXFSZ, SIG_IGN);
    CU_ASSERT_EQUAL(getrlimit(RLIMIT_FSIZE, &limit), 0);
    limit.rlim_cur = 5 << 20;
    CU_ASSERT_EQUAL(setrlimit(RLIMIT_FSIZE, &limit), 0);
    struct worker_load_options options = {.store = store, .fetch = &fetch};
    load(&program, options, PROTO_OK);
    /* What was under way of `large` when the disk was full is fetched once more. */
    CU_ASSERT(fake.received > total && fake.received <= total + LARGE_BYTES);
    fake_reset(gguf);
    load(&program, options, PROTO_OK);
    CU_ASSERT(fake.received >= LARGE_BYTES && fake.received < total + LARGE_BYTES);
    limit.rlim_cur = limit.rlim_max;
    CU_ASSERT_EQUAL(setrlimit(RLIMIT_FSIZE, &limit), 0);
    signal(SIGXFSZ, before);
    drop_store(store);
}

static void test_another_local_file(void)
{
    struct shard_gguf *renamed = make_model("renamed", shapes[LARGE].dims[1], "other");
    CU_ASSERT_PTR_NOT_NULL_FATAL(renamed);
    use_model(gguf);
    load(&program, (struct worker_load_options){.file = renamed}, PROTO_FORMAT);
    CU_ASSERT_PTR_NOT_NULL(strstr(error.text, "renamed.gguf"));
    shard_gguf_close(renamed);
    load(&program, (struct worker_load_options){.file = big}, PROTO_FORMAT);
    load(&program, (struct worker_load_options){0}, PROTO_INVALID);
}

static void test_weight_of_another_shape(void)
{
    use_model(gguf);
    for (size_t i = 0; i < program.n_weights; i++) {
        struct shard_weight kept = weights[i];
        weights[i].n_out--;
        load(&program, (struct worker_load_options){.file = gguf}, PROTO_INVALID);
        weights[i] = kept;
    }
    weights[3].n_mats = 4;
    load(&program, (struct worker_load_options){.file = gguf}, PROTO_INVALID);
    set_weights();
    weights[4].n_mats = 2;
    load(&program, (struct worker_load_options){.file = gguf}, PROTO_INVALID);
    set_weights();
}

/* A whole model of the given preset, its program cut as a worker's is. */
static void check_preset(const char *preset, const char *type)
{
    char path[128], digest[65];
    snprintf(path, sizeof path, "%s/%s-%s.gguf", dir, preset, type);
    struct shard_mkmodel_options options = {.preset = preset, .type = type, .seed = 7};
    struct shard_gguf *made;
    struct shard_model *shape;
    struct shard_program *slice;
    CU_ASSERT_EQUAL_FATAL(shard_mkmodel(&options, path, digest, &error), PROTO_OK);
    CU_ASSERT_EQUAL_FATAL(shard_gguf_open(&made, path, &error), PROTO_OK);
    CU_ASSERT_EQUAL_FATAL(shard_model_create(&shape, made, &error), PROTO_OK);
    CU_ASSERT_EQUAL_FATAL(
        shard_program_create(&slice, shape, 0, shape->n_layers, true, true, &error), PROTO_OK);
    load(slice, (struct worker_load_options){.file = made}, PROTO_OK);
    fake_reset(made);
    struct shard_store *store = open_store();
    load(slice, (struct worker_load_options){.store = store, .fetch = &fetch}, PROTO_OK);
    for (int i = 0; i < 2; i++) {
        load(slice, (struct worker_load_options){.file = made, .packed = store}, PROTO_OK);
        CU_ASSERT_EQUAL(in_memory, 0);
    }
    drop_store(store);
    shard_program_destroy(slice);
    shard_model_destroy(shape);
    shard_gguf_close(made);
}

static void test_presets(void)
{
    check_preset("llama3-tiny", "F16");
    check_preset("mixtral-tiny", "Q8_0");
    check_preset("llama-k", "Q6_K");
    check_preset("llama4-k", "Q4_K");
}

int main(void)
{
    proto_log_set_level(PROTO_LOG_ERROR);
    CU_initialize_registry();
    CU_pSuite suite = CU_add_suite("load", open_all, close_all);
    CU_add_test(suite, "local file", test_local_file);
    CU_add_test(suite, "fetch, then store", test_fetch_then_store);
    CU_add_test(suite, "interruptions", test_interruptions);
    CU_add_test(suite, "corrupt chunk", test_corrupt_chunk);
    CU_add_test(suite, "always corrupt", test_always_corrupt);
    CU_add_test(suite, "damaged store", test_damaged_store);
    CU_add_test(suite, "busy piece", test_busy_piece);
    CU_add_test(suite, "pieces from another process", test_pieces_from_another_process);
    CU_add_test(suite, "short answer", test_short_answer);
    CU_add_test(suite, "cancel", test_cancel);
    CU_add_test(suite, "full disk", test_full_disk);
    CU_add_test(suite, "another local file", test_another_local_file);
    CU_add_test(suite, "weight of another shape", test_weight_of_another_shape);
    CU_add_test(suite, "presets", test_presets);
    CU_basic_run_tests();
    unsigned failures = CU_get_number_of_failures() + (CU_get_error() != CUE_SUCCESS);
    CU_cleanup_registry();
    return failures > 0;
}
