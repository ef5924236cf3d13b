/* SPDX-License-Identifier: Apache-2.0 */
/* What two plans have in common on a worker. */
#include <CUnit/Basic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "coordinator/parts.h"
#include "shard/mkmodel.h"

#define WORKERS 3

static char path[] = "/tmp/caravan-beside-XXXXXX";
static struct shard_gguf *gguf;
static struct shard_model *model;
static struct plan_shape *shape;

/* What layers take adds up to a little more than their program does. */
#define CHECK_NEAR(a, b) CU_ASSERT_DOUBLE_EQUAL((double)(a), (double)(b), (double)(b) / 100)

static void open_model(const char *preset, const char *type)
{
    static const char *sets[] = {"layers=6", "ffe=1024"};
    const struct shard_mkmodel_options how = {.preset = preset,
                                              .type = type,
                                              .seed = 1,
                                              .sets = sets,
                                              .n_sets = strstr(preset, "moe") ? 2 : 1};
    const struct plan_shape_options sizes = {
        .kv = KERN_KV_F32, .ctx = 64, .max_seqs = 1, .max_rows = 16};
    struct proto_error error;
    char digest[65];
    CU_ASSERT_EQUAL_FATAL(shard_mkmodel(&how, path, digest, &error), PROTO_OK);
    CU_ASSERT_EQUAL_FATAL(shard_gguf_open(&gguf, path, &error), PROTO_OK);
    CU_ASSERT_EQUAL_FATAL(shard_model_create(&model, gguf, &error), PROTO_OK);
    CU_ASSERT_EQUAL_FATAL(plan_shape_create(&shape, model, &sizes, &error), PROTO_OK);
}

static void close_model(void)
{
    plan_shape_destroy(shape);
    shard_model_destroy(model);
    shard_gguf_close(gguf);
}

static struct shard_plan *plan(struct shard_plan_options options)
{
    struct shard_plan_worker workers[WORKERS];
    struct shard_plan *out = NULL;
    struct proto_error error = {0};
    for (uint32_t i = 0; i < WORKERS; i++)
        workers[i] = (struct shard_plan_worker){"w", (uint64_t)1 << 32, 1};
    options.kv = KERN_KV_F32;
    options.ctx = 64;
    options.max_seqs = 1;
    options.max_rows = 16;
    CU_ASSERT_EQUAL_FATAL(shard_plan_create(&out, model, workers, WORKERS, &options, &error),
                          PROTO_OK);
    return out;
}

static uint64_t layers_of(uint32_t first, uint32_t end)
{
    uint64_t bytes = 0;
    for (uint32_t il = first; il < end; il++)
        bytes += shape->layers[il].weight_bytes +
                 shape->layers[il].n_experts * shape->layers[il].expert_bytes;
    return bytes;
}

static void test_layers(void)
{
    open_model("llama3-tiny", "F32");
    struct shard_plan *a = plan((struct shard_plan_options){.layers = "0-1,2-3,4-5"});
    struct shard_plan *b = plan((struct shard_plan_options){.layers = "0-2,3-5"});
    for (uint32_t w = 0; w < WORKERS; w++)
        CHECK_NEAR(coord_plan_common_bytes(shape, a, w, a, w), a->stages[w].weight_bytes);
    CHECK_NEAR(coord_plan_common_bytes(shape, a, 0, b, 0), a->stages[0].weight_bytes);
    CU_ASSERT_EQUAL(coord_plan_common_bytes(shape, a, 1, b, 0), layers_of(2, 3));
    CU_ASSERT_EQUAL(coord_plan_common_bytes(shape, a, 1, b, 1), layers_of(3, 4));
    CU_ASSERT_EQUAL(coord_plan_common_bytes(shape, a, 2, b, 1),
                    layers_of(4, 6) + shape->head_bytes);
    CU_ASSERT_EQUAL(coord_plan_common_bytes(shape, a, 2, b, 0), 0);
    shard_plan_destroy(a);
    shard_plan_destroy(b);
    close_model();
}

static void test_experts(void)
{
    open_model("qwen3moe-k", "Q4_K");
    struct shard_plan *whole =
        plan((struct shard_plan_options){.split = SHARD_SPLIT_EXPERTS, .stages = 1});
    struct shard_plan *cut =
        plan((struct shard_plan_options){.split = SHARD_SPLIT_EXPERTS, .stages = 1, .slices = 2});
    struct shard_plan *layers = plan((struct shard_plan_options){.layers = "0-1,2-3,4-5"});
    const uint64_t experts = layers_of(2, 4) - 2 * shape->layers[2].weight_bytes;
    CU_ASSERT_EQUAL(coord_plan_common_bytes(shape, whole, 0, whole, 0),
                    whole->stages[0].weight_bytes);
    for (uint32_t w = 1; w < WORKERS; w++) {
        CU_ASSERT_EQUAL(coord_plan_common_bytes(shape, whole, w, whole, w),
                        whole->hosts[w - 1].weight_bytes);
        CU_ASSERT_EQUAL(coord_plan_common_bytes(shape, cut, w, cut, w),
                        cut->hosts[w - 1].weight_bytes);
        CU_ASSERT_EQUAL(coord_plan_common_bytes(shape, whole, w, cut, w), 0);
    }
    /* Half of the experts of two layers. */
    CU_ASSERT_EQUAL(coord_plan_common_bytes(shape, whole, 1, layers, 1), experts / 2);
    CU_ASSERT_EQUAL(coord_plan_common_bytes(shape, layers, 1, layers, 1),
                    layers->stages[1].weight_bytes);
    shard_plan_destroy(whole);
    shard_plan_destroy(cut);
    shard_plan_destroy(layers);
    close_model();
}

int main(void)
{
    int fd = mkstemp(path);
    CU_initialize_registry();
    CU_pSuite suite = CU_add_suite("beside", NULL, NULL);
    CU_add_test(suite, "layers", test_layers);
    CU_add_test(suite, "experts", test_experts);
    CU_basic_set_mode(CU_BRM_VERBOSE);
    CU_basic_run_tests();
    unsigned failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    close(fd);
    unlink(path);
    return failures > 0;
}
