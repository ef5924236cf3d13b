/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Rows in other types than floats, as a KV cache keeps them and as products take them: each
 * instruction set against the definition in kernels/table.h, byte for byte.
 */
#include "kv_check.h"
#include "rows_check.h"

static void check_kv_store(size_t n, enum check_input input)
{
    float *x = check_row(n, input), *expected = check_row(n, input), *found = check_row(n, input);
    for (size_t i = 0; i < n; i++)
        expected[i] = kern_f16_to_f32(kern_f32_to_f16(x[i]));
    for (enum kern_isa isa = KERN_ISA_PORTABLE; isa < KERN_N_ISAS; isa = kern_isa_next(isa)) {
        const struct kern_table *t = kern_table_get(isa);
        uint16_t *half = malloc((n + 1) * sizeof(uint16_t));
        half[n] = 0x1234;
        t->kv_store(half, x, n, KERN_KV_F16);
        CU_ASSERT_EQUAL(half[n], 0x1234);
        for (size_t i = 0; i < n; i++)
            found[i] = kern_f16_to_f32(half[i]);
        check_same(found, expected, n, "kv_store f16", t->name);
        t->kv_store(found, x, n, KERN_KV_F32);
        check_same(found, x, n, "kv_store f32", t->name);
        free(half);
    }
    free(x);
    free(expected);
    free(found);
}

/* Quantised types, byte for byte, with something behind that must stay. */
static void check_kv_blocks(size_t n, enum check_input input, enum kern_kv kv)
{
    size_t bytes = kern_kv_bytes(kv, n);
    float *x = check_row(n, input), *values = check_copy(x, n);
    uint8_t *expected = malloc(bytes + 1), *found = malloc(bytes + 1);
    kv_check_store(expected, values, n, kv);
    expected[bytes] = 0x5a;
    for (enum kern_isa isa = KERN_ISA_PORTABLE; isa < KERN_N_ISAS; isa = kern_isa_next(isa)) {
        memset(found, 0x5a, bytes + 1);
        kern_table_get(isa)->kv_store(found, x, n, kv);
        CU_ASSERT_EQUAL(memcmp(found, expected, bytes + 1), 0);
    }
    double most = 0, worst = 0;
    for (size_t i = 0; i < n; i++) {
        most = fmax(most, fabs((double)x[i]));
        worst = fmax(worst, fabs((double)x[i] - (double)values[i]));
    }
    if (input == INPUT_ORDINARY)
        CU_ASSERT(worst <= most / (kv == KERN_KV_Q8_0 ? 200 : 7));
    free(x);
    free(values);
    free(expected);
    free(found);
}

static void test_kv_store(void)
{
    check_each_case(check_kv_store);
    for (enum kern_kv kv = KERN_KV_Q8_0; kv <= KERN_KV_Q4_0; kv++)
        for (size_t n = 32; n <= 256; n += 32)
            for (int round = 0; round < 200; round++) {
                check_kv_blocks(n, INPUT_ORDINARY, kv);
                check_kv_blocks(n, INPUT_EXTREME, kv);
            }
}

/* Infinities and NaN give an unspecified block, and no fault. */
static void test_kv_not_finite(void)
{
    uint8_t block[34];
    for (int round = 0; round < 200; round++) {
        float *x = check_row(32, INPUT_NOT_FINITE);
        for (enum kern_isa isa = KERN_ISA_PORTABLE; isa < KERN_N_ISAS; isa = kern_isa_next(isa)) {
            kern_table_get(isa)->kv_store(block, x, 32, KERN_KV_Q8_0);
            kern_table_get(isa)->kv_store(block, x, 32, KERN_KV_Q4_0);
        }
        free(x);
    }
}

static void test_kv_names(void)
{
    for (int kv = 0; kv < KERN_N_KV; kv++)
        CU_ASSERT_EQUAL(kern_kv_by_name(kern_kv_name((enum kern_kv)kv)), kv);
    CU_ASSERT_EQUAL(kern_kv_by_name("q8"), -1);
    CU_ASSERT_EQUAL(kern_kv_bytes(KERN_KV_Q8_0, 64), 68);
    CU_ASSERT_EQUAL(kern_kv_bytes(KERN_KV_Q4_0, 64), 36);
}

static float eleven_bits(float value)
{
    int exponent;
    double fraction = frexp(value, &exponent);
    return (float)ldexp(nearbyint(ldexp(fraction, 11)), exponent - 11);
}

static void quantize_reference(void *record, const float *x, enum kern_act act, size_t k)
{
    size_t block = kern_act_block(act);
    memset(record, 0, kern_act_bytes(act, k));
    int8_t *q = record;
    float *d = (float *)(void *)(q + k);
    int16_t *sums = (int16_t *)(void *)(d + k / block);
    for (size_t i = 0; i < k; i += block) {
        float most = 0;
        for (size_t j = i; j < i + block; j++)
            most = fmaxf(most, fabsf(x[j]));
        int zero = most < KERN_ACT_TINY;
        float inverse = zero ? 0.0f : 127.0f / most;
        d[i / block] = zero ? 0.0f : most / 127.0f;
        if (block == 32)
            d[i / block] = eleven_bits(d[i / block]);
        for (size_t j = i; j < i + block; j++) {
            long rounded = lrintf(x[j] * inverse);
            q[j] = (int8_t)(rounded > 127 ? 127 : rounded < -127 ? -127 : rounded);
            sums[j / 16] = (int16_t)(sums[j / 16] + q[j]);
        }
    }
}

static void check_record(const struct kern_table *t, const void *found, const void *expected,
                         enum kern_act act, size_t bytes)
{
    if (memcmp(found, expected, bytes) != 0) {
        printf("%s quantize %d: a record of %zu bytes differs\n", t->name, (int)act, bytes);
        CU_FAIL("records differ");
    }
}

static void check_quantize(enum kern_act act, size_t k, float factor, enum check_input input)
{
    enum { ROWS = 3 };
    size_t bytes = kern_act_bytes(act, k), ldx = (k + 15) / 16 * 16 + 16;
    float *x = check_row(ROWS * ldx, input);
    char *expected = aligned_alloc(64, ROWS * bytes), *found = aligned_alloc(64, ROWS * bytes);
    for (size_t i = 0; i < ROWS * ldx; i++)
        x[i] *= factor;
    for (size_t r = 0; r < ROWS; r++)
        if (act == KERN_ACT_F32) {
            memset(expected + r * bytes, 0, bytes);
            memcpy(expected + r * bytes, x + r * ldx, k * sizeof(float));
        } else {
            quantize_reference(expected + r * bytes, x + r * ldx, act, k);
        }
    for (enum kern_isa isa = KERN_ISA_PORTABLE; isa < KERN_N_ISAS; isa = kern_isa_next(isa)) {
        const struct kern_table *t = kern_table_get(isa);
        memset(found, 0x55, ROWS * bytes);
        t->quantize[act](found, x, ldx, ROWS, k);
        check_record(t, found, expected, act, ROWS * bytes);
    }
    free(x);
    free(expected);
    free(found);
}

static void test_quantize(void)
{
    static const float factors[] = {1.0f, 0.0f, 1e-30f, 1e-37f, 1e-40f, 1e30f};
    for (size_t f = 0; f < sizeof(factors) / sizeof(factors[0]); f++)
        for (size_t blocks = 1; blocks < 9; blocks++) {
            check_quantize(KERN_ACT_Q8_32, 32 * blocks, factors[f], INPUT_ORDINARY);
            check_quantize(KERN_ACT_Q8_256, 256 * blocks, factors[f], INPUT_ORDINARY);
        }
    for (size_t round = 0; round < 50; round++) {
        check_quantize(KERN_ACT_Q8_32, 2048, 1.0f, INPUT_EXTREME);
        check_quantize(KERN_ACT_Q8_256, 2048, 1.0f, INPUT_EXTREME);
    }
    for (size_t w = 0; w < N_CHECK_WIDTHS; w++)
        check_quantize(KERN_ACT_F32, check_widths[w], 1.0f, INPUT_ORDINARY);
}

/* Half steps round to even, and the ends of the range are +-127. */
static void test_quantize_rounding(void)
{
    static const float values[] = {127.0f, 0.5f, 1.5f, 2.5f, -0.5f, -1.5f, -127.0f, 126.5f};
    static const int8_t rounded[] = {127, 0, 2, 2, 0, -2, -127, 126};
    for (enum kern_isa isa = KERN_ISA_PORTABLE; isa < KERN_N_ISAS; isa = kern_isa_next(isa)) {
        const struct kern_table *t = kern_table_get(isa);
        _Alignas(64) float x[32] = {0};
        _Alignas(64) int8_t record[64];
        memcpy(x, values, sizeof(values));
        t->quantize[KERN_ACT_Q8_32](record, x, 32, 1, 32);
        CU_ASSERT_EQUAL(memcmp(record, rounded, sizeof(rounded)), 0);
        CU_ASSERT_EQUAL(kern_act_scales(record, 32)[0], 1.0f);
        CU_ASSERT_EQUAL(kern_act_sums(KERN_ACT_Q8_32, record, 32)[0], 128);
        CU_ASSERT_EQUAL(kern_act_sums(KERN_ACT_Q8_32, record, 32)[1], 0);
    }
}

/* What they become is left open; that nothing faults and the sums fit the values is not. */
static void test_quantize_not_finite(void)
{
    enum { K = 512 };
    float *x = check_row(K, INPUT_NOT_FINITE);
    int8_t *record = aligned_alloc(64, kern_act_bytes(KERN_ACT_Q8_256, K));
    enum kern_isa isa = KERN_ISA_PORTABLE;
    for (size_t round = 0; round < 50; round++) {
        const struct kern_table *t = kern_table_get(isa);
        isa = kern_isa_next(isa) < KERN_N_ISAS ? kern_isa_next(isa) : KERN_ISA_PORTABLE;
        for (size_t i = 0; i < K; i++)
            x[i] = check_value(INPUT_NOT_FINITE);
        t->quantize[KERN_ACT_Q8_256](record, x, K, 1, K);
        for (size_t i = 0; i < K; i += 16) {
            int sum = 0;
            for (size_t j = i; j < i + 16; j++)
                sum += record[j];
            CU_ASSERT_EQUAL(sum, kern_act_sums(KERN_ACT_Q8_256, record, K)[i / 16]);
        }
    }
    free(x);
    free(record);
}

int main(void)
{
    CU_initialize_registry();
    CU_pSuite suite = CU_add_suite("types of rows", NULL, NULL);
    CU_add_test(suite, "kv_store", test_kv_store);
    CU_add_test(suite, "kv_store of what is not finite", test_kv_not_finite);
    CU_add_test(suite, "kv types", test_kv_names);
    CU_add_test(suite, "quantize", test_quantize);
    CU_add_test(suite, "quantize: rounding", test_quantize_rounding);
    CU_add_test(suite, "quantize: not finite", test_quantize_not_finite);
    CU_basic_set_mode(CU_BRM_NORMAL);
    CU_basic_run_tests();
    unsigned failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    return failures != 0;
}
