/* SPDX-License-Identifier: Apache-2.0 */
/* Weights that are made equal those of a file with the same bytes in it. */
#include <CUnit/Basic.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "proto/log.h"
#include "worker/load.h"

static struct proto_error error;

/* The card, and each tensor's pieces at their places. */
static void write_file(const char *path, const struct shard_synthetic *synthetic)
{
    const struct shard_gguf *gguf = shard_synthetic_gguf(synthetic);
    struct shard_gguf *layout;
    void *card;
    size_t len;
    int fd = open(path, O_WRONLY);
    CU_ASSERT_EQUAL_FATAL(shard_gguf_card(gguf, &card, &len, &error), PROTO_OK);
    CU_ASSERT_EQUAL_FATAL(shard_gguf_parse(&layout, card, len, "card", &error), PROTO_OK);
    CU_ASSERT_EQUAL_FATAL(pwrite(fd, card, len, 0), (ssize_t)len);
    for (uint32_t i = 0; i < shard_gguf_n_tensors(layout); i++) {
        const struct shard_tensor *tensor = shard_gguf_tensor(layout, i);
        struct shard_synthetic_tensor made;
        CU_ASSERT_EQUAL_FATAL(shard_synthetic_tensor_init(&made, synthetic, i, &error), PROTO_OK);
        for (uint64_t p = 0; p < shard_pieces_count(tensor); p++) {
            struct shard_piece piece = shard_pieces_get(tensor, p);
            off_t at = (off_t)(tensor->offset + piece.offset);
            ssize_t n = pwrite(fd, shard_synthetic_piece(&made, p, &piece), piece.bytes, at);
            CU_ASSERT_EQUAL_FATAL(n, (ssize_t)piece.bytes);
        }
        shard_synthetic_tensor_finish(&made);
    }
    close(fd);
    shard_gguf_close(layout);
    free(card);
}

static struct shard_program *program_of(const struct shard_gguf *gguf, struct shard_model **model)
{
    struct shard_program *program;
    CU_ASSERT_EQUAL_FATAL(shard_model_create(model, gguf, &error), PROTO_OK);
    CU_ASSERT_EQUAL_FATAL(
        shard_program_create(&program, *model, 0, (*model)->n_layers, true, true, &error),
        PROTO_OK);
    return program;
}

static void check_shape(const char *shape)
{
    char path[] = "/tmp/caravan-test-synthetic-XXXXXX";
    struct shard_synthetic *synthetic;
    struct shard_model *model;
    struct shard_gguf *file;
    struct kern_pool *pool;
    struct worker_weights made, read;
    close(mkstemp(path));
    CU_ASSERT_EQUAL_FATAL(kern_pool_create(&pool, 2, &error), PROTO_OK);
    CU_ASSERT_EQUAL_FATAL(shard_synthetic_create(&synthetic, shape, &error), PROTO_OK);
    write_file(path, synthetic);
    CU_ASSERT_EQUAL_FATAL(shard_gguf_open(&file, path, &error), PROTO_OK);
    struct shard_program *program = program_of(shard_synthetic_gguf(synthetic), &model);
    struct worker_load_options options = {.pool = pool, .synthetic = synthetic};
    CU_ASSERT_EQUAL_FATAL(worker_load(&made, program, &options, &error), PROTO_OK);
    options = (struct worker_load_options){.pool = pool, .file = file};
    CU_ASSERT_EQUAL_FATAL(worker_load(&read, program, &options, &error), PROTO_OK);
    CU_ASSERT_EQUAL_FATAL(made.n, program->n_weights);
    for (size_t i = 0; i < made.n; i++) {
        uint64_t bytes = shard_weight_bytes(&program->weights[i]);
        CU_ASSERT_EQUAL(memcmp(made.data[i], read.data[i], bytes), 0);
    }
    worker_weights_finish(&made);
    worker_weights_finish(&read);
    shard_program_destroy(program);
    shard_model_destroy(model);
    shard_gguf_close(file);
    shard_synthetic_destroy(synthetic);
    kern_pool_destroy(pool);
    unlink(path);
}

static void test_shapes(void)
{
    check_shape("llama4-k:Q4_K");
    check_shape("qwen3moe-k:IQ2_XXS");
    check_shape("deepseek2-tiny:Q8_0");
    check_shape("gpt-oss-tiny:MXFP4");
    check_shape("llama3-tiny:F16");
}

static void test_cancel(void)
{
    const atomic_bool cancel = true;
    struct shard_synthetic *synthetic;
    struct shard_model *model;
    struct kern_pool *pool;
    struct worker_weights weights;
    CU_ASSERT_EQUAL_FATAL(kern_pool_create(&pool, 1, &error), PROTO_OK);
    CU_ASSERT_EQUAL_FATAL(shard_synthetic_create(&synthetic, "llama-k:Q4_K", &error), PROTO_OK);
    struct shard_program *program = program_of(shard_synthetic_gguf(synthetic), &model);
    const struct worker_load_options options = {
        .pool = pool, .synthetic = synthetic, .cancel = &cancel};
    CU_ASSERT_EQUAL(worker_load(&weights, program, &options, &error), PROTO_CANCELLED);
    CU_ASSERT_PTR_NULL(weights.data);
    shard_program_destroy(program);
    shard_model_destroy(model);
    shard_synthetic_destroy(synthetic);
    kern_pool_destroy(pool);
}

int main(void)
{
    proto_log_set_level(PROTO_LOG_ERROR);
    CU_initialize_registry();
    CU_pSuite suite = CU_add_suite("synthetic", NULL, NULL);
    CU_add_test(suite, "shapes", test_shapes);
    CU_add_test(suite, "cancel", test_cancel);
    CU_basic_run_tests();
    unsigned failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    return failures != 0;
}
