/* SPDX-License-Identifier: Apache-2.0 */
/* Models without a file: the header is that of mkmodel's file, the weights are finite, of the right
 * size, and the same wherever they are made. */
#include <CUnit/Basic.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "shard/mkmodel.h"
#include "shard/synthetic.h"

static struct proto_error error;

static struct shard_synthetic *create(const char *shape)
{
    struct shard_synthetic *synthetic;
    enum proto_status status = shard_synthetic_create(&synthetic, shape, &error);
    if (status)
        printf("\n%s: %s\n", shape, error.text);
    CU_ASSERT_EQUAL_FATAL(status, PROTO_OK);
    return synthetic;
}

static void test_header_is_mkmodels(void)
{
    char path[] = "/tmp/caravan-test-synthetic-XXXXXX", digest[65];
    const struct shard_mkmodel_options options = {
        .preset = "qwen3moe-k", .type = "Q4_K", .seed = 1, .sparse = true};
    struct shard_gguf *file;
    close(mkstemp(path));
    CU_ASSERT_EQUAL_FATAL(shard_mkmodel(&options, path, digest, &error), PROTO_OK);
    CU_ASSERT_EQUAL_FATAL(shard_gguf_open(&file, path, &error), PROTO_OK);
    struct shard_synthetic *synthetic = create("qwen3moe-k:Q4_K");
    const struct shard_gguf *gguf = shard_synthetic_gguf(synthetic);
    CU_ASSERT_PTR_NULL(shard_synthetic_note(synthetic));
    CU_ASSERT_EQUAL_FATAL(shard_gguf_n_tensors(gguf), shard_gguf_n_tensors(file));
    for (size_t i = 0; i < shard_gguf_n_tensors(gguf); i++) {
        const struct shard_tensor *a = shard_gguf_tensor(gguf, i), *b = shard_gguf_tensor(file, i);
        CU_ASSERT_STRING_EQUAL(a->name, b->name);
        CU_ASSERT_EQUAL(a->offset, b->offset);
        CU_ASSERT_EQUAL(a->bytes, b->bytes);
    }
    shard_synthetic_destroy(synthetic);
    shard_gguf_close(file);
    unlink(path);
}

/* Mean and deviation of a piece's values; all of them finite. */
static double deviation(const struct shard_tensor *tensor, const uint8_t *bytes,
                        const struct shard_piece *piece, double *mean)
{
    uint64_t n = piece->bytes / tensor->type->block_bytes * tensor->type->block;
    float *values = malloc(n * sizeof *values);
    double sum = 0, squares = 0;
    bool finite = true;
    kern_dequantize(tensor->type, bytes, n, values);
    for (uint64_t i = 0; i < n; i++) {
        finite &= isfinite(values[i]) != 0;
        sum += values[i];
        squares += (double)values[i] * values[i];
    }
    CU_ASSERT_TRUE(finite);
    free(values);
    *mean = sum / (double)n;
    return sqrt(squares / (double)n - *mean * *mean);
}

static void check_tensor(const struct shard_synthetic *a, const struct shard_synthetic *b,
                         uint32_t number)
{
    const struct shard_tensor *tensor = shard_gguf_tensor(shard_synthetic_gguf(a), number);
    struct shard_synthetic_tensor x, y;
    CU_ASSERT_EQUAL_FATAL(shard_synthetic_tensor_init(&x, a, number, &error), PROTO_OK);
    CU_ASSERT_EQUAL_FATAL(shard_synthetic_tensor_init(&y, b, number, &error), PROTO_OK);
    for (uint64_t i = 0; i < shard_pieces_count(tensor); i++) {
        const struct shard_piece piece = shard_pieces_get(tensor, i);
        const uint8_t *bytes = shard_synthetic_piece(&x, i, &piece);
        double mean, std = deviation(tensor, bytes, &piece, &mean);
        CU_ASSERT_EQUAL(memcmp(bytes, shard_synthetic_piece(&y, i, &piece), piece.bytes), 0);
        if (tensor->dims[1] > 1 && tensor->bytes > 4096) {
            CU_ASSERT(std > 1e-3 && std < 10);
            CU_ASSERT(fabs(mean) < std);
        }
        /* Experts differ. */
        if (i > 0 && x.period)
            CU_ASSERT_NOT_EQUAL(memcmp(bytes, x.bytes, 64), 0);
    }
    shard_synthetic_tensor_finish(&x);
    shard_synthetic_tensor_finish(&y);
}

static void check_shape(const char *shape)
{
    struct shard_synthetic *a = create(shape), *b = create(shape);
    for (uint32_t i = 0; i < shard_gguf_n_tensors(shard_synthetic_gguf(a)); i++)
        check_tensor(a, b, i);
    shard_synthetic_destroy(a);
    shard_synthetic_destroy(b);
}

/* Every block type; recipes of all kinds. */
static void test_weights(void)
{
    static const char *const types[] = {"F32",     "F16",   "BF16",   "Q8_0",    "Q4_0",  "Q4_1",
                                        "Q5_0",    "Q5_1",  "Q2_K",   "Q3_K",    "Q4_K",  "Q5_K",
                                        "Q6_K",    "IQ1_S", "IQ1_M",  "IQ2_XXS", "IQ2_S", "IQ2_XS",
                                        "IQ3_XXS", "IQ3_S", "IQ4_NL", "IQ4_XS",  "MXFP4"};
    char shape[64];
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        snprintf(shape, sizeof shape, "llama4-k:%s", types[i]);
        check_shape(shape);
    }
    check_shape("llama4-scout-tiny:Q8_0");
    check_shape("gpt-oss-tiny:F16");
    check_shape("deepseek2-tiny:F32");
    check_shape("qwen35moe-tiny:BF16");
}

/* The full size takes little more memory than its largest piece. */
static void test_full_size(void)
{
    struct shard_synthetic *maverick = create("maverick:Q4_K");
    const struct shard_gguf *gguf = shard_synthetic_gguf(maverick);
    struct shard_synthetic_tensor made;
    for (uint32_t i = 0; i < shard_gguf_n_tensors(gguf); i++) {
        const struct shard_tensor *tensor = shard_gguf_tensor(gguf, i);
        if (!strstr(tensor->name, "blk.1.ffn_down_exps"))
            continue;
        CU_ASSERT(tensor->bytes > 3000000000);
        CU_ASSERT_EQUAL_FATAL(shard_synthetic_tensor_init(&made, maverick, i, &error), PROTO_OK);
        uint64_t last = shard_pieces_count(tensor) - 1;
        struct shard_piece piece = shard_pieces_get(tensor, last);
        double mean,
            std = deviation(tensor, shard_synthetic_piece(&made, last, &piece), &piece, &mean);
        CU_ASSERT(std > 1e-3 && std < 1);
        shard_synthetic_tensor_finish(&made);
    }
    shard_synthetic_destroy(maverick);
}

static void refuse(const char *shape, const char *word)
{
    struct shard_synthetic *synthetic;
    CU_ASSERT_EQUAL(shard_synthetic_create(&synthetic, shape, &error), PROTO_INVALID);
    CU_ASSERT_PTR_NULL(synthetic);
    CU_ASSERT_PTR_NOT_NULL(strstr(error.text, word));
}

static void test_refusals(void)
{
    refuse("maverick", "says no quantisation");
    refuse("", "says no quantisation");
    refuse("maverick:Q9", "no quantisation is named \"Q9\"");
    refuse("maverik:Q4_K", "maverik");
    refuse(":Q4_K", "\"\"");
}

int main(void)
{
    CU_initialize_registry();
    CU_pSuite suite = CU_add_suite("synthetic", NULL, NULL);
    CU_add_test(suite, "header is mkmodel's", test_header_is_mkmodels);
    CU_add_test(suite, "weights", test_weights);
    CU_add_test(suite, "full size", test_full_size);
    CU_add_test(suite, "refusals", test_refusals);
    CU_basic_run_tests();
    unsigned failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    return failures != 0;
}
