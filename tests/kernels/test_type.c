/* SPDX-License-Identifier: Apache-2.0 */
#include <CUnit/Basic.h>
#include <math.h>
#include <string.h>

#include "kernels/iq.h"
#include "kernels/table.h"

static double half_value(uint32_t bits)
{
    int exponent = (int)(bits >> 10 & 31), mantissa = (int)(bits & 1023);
    return exponent ? ldexp(1024 + mantissa, exponent - 25) : ldexp(mantissa, -24);
}

static void test_f16_to_f32(void)
{
    unsigned wrong = 0;
    for (uint32_t bits = 0; bits < 0x7c00; bits++) {
        wrong += (double)kern_f16_to_f32((uint16_t)bits) != half_value(bits);
        wrong += (double)kern_f16_to_f32((uint16_t)(bits | 0x8000)) != -half_value(bits);
    }
    CU_ASSERT_EQUAL(wrong, 0);
    CU_ASSERT(signbit(kern_f16_to_f32(0x8000)));
    CU_ASSERT_EQUAL(kern_f16_to_f32(0x7c00), INFINITY);
    CU_ASSERT_EQUAL(kern_f16_to_f32(0xfc00), -INFINITY);
    CU_ASSERT(isnan(kern_f16_to_f32(0x7c01)));
    CU_ASSERT(isnan(kern_f16_to_f32(0xfe00)));
}

/* Halves come back as they are; a value between two goes to the nearer, a tie to the even one. */
static void test_f32_to_f16(void)
{
    unsigned wrong = 0;
    for (uint32_t bits = 0; bits < 0x7bff; bits++) {
        float low = (float)half_value(bits), high = (float)half_value(bits + 1);
        float middle = (low + high) / 2;
        wrong += kern_f32_to_f16(low) != bits;
        wrong += kern_f32_to_f16(-low) != (bits | 0x8000);
        wrong += kern_f32_to_f16(middle) != bits + (bits & 1);
        wrong += kern_f32_to_f16(nextafterf(middle, low)) != bits;
        wrong += kern_f32_to_f16(nextafterf(middle, high)) != bits + 1;
    }
    CU_ASSERT_EQUAL(wrong, 0);
    CU_ASSERT_EQUAL(kern_f32_to_f16(65504), 0x7bff);
    CU_ASSERT_EQUAL(kern_f32_to_f16(65519.996f), 0x7bff);
    CU_ASSERT_EQUAL(kern_f32_to_f16(65520), 0x7c00);
    CU_ASSERT_EQUAL(kern_f32_to_f16(-1e30f), 0xfc00);
    CU_ASSERT_EQUAL(kern_f32_to_f16(INFINITY), 0x7c00);
    CU_ASSERT_EQUAL(kern_f32_to_f16(1e-45f), 0);
    CU_ASSERT((kern_f32_to_f16(NAN) & 0x7fff) > 0x7c00);
}

static void test_bf16(void)
{
    unsigned wrong = 0;
    for (uint32_t bits = 0; bits < 0x7f80; bits++) {
        wrong += kern_f32_to_bf16(kern_bf16_to_f32((uint16_t)bits)) != bits;
        for (uint32_t rest = 0x7fff; rest <= 0x8001; rest++) {
            uint32_t between = bits << 16 | rest;
            float value;
            memcpy(&value, &between, 4);
            uint32_t up = rest > 0x8000 || (rest == 0x8000 && bits % 2);
            wrong += kern_f32_to_bf16(value) != bits + up;
        }
    }
    CU_ASSERT_EQUAL(wrong, 0);
    CU_ASSERT_EQUAL(kern_bf16_to_f32(0x3fc0), 1.5f);
    CU_ASSERT_EQUAL(kern_f32_to_bf16(-INFINITY), 0xff80);
    CU_ASSERT((kern_f32_to_bf16(NAN) & 0x7fff) > 0x7f80);
}

static void test_find(void)
{
    size_t count, with_kernels = 0;
    const struct kern_type_info *all = kern_type_all(&count);
    CU_ASSERT_EQUAL(count, 23);
    for (size_t i = 0; i < count; i++) {
        CU_ASSERT_PTR_EQUAL(kern_type_find(all[i].type), &all[i]);
        CU_ASSERT_PTR_EQUAL(kern_type_by_name(all[i].name), &all[i]);
        CU_ASSERT(i == 0 || all[i].type > all[i - 1].type);
        with_kernels += all[i].packed_bytes != 0;
    }
    CU_ASSERT_EQUAL(with_kernels, 23);
    CU_ASSERT_PTR_EQUAL(kern_type_by_name("q4_k"), kern_type_find(12));
    CU_ASSERT_PTR_NULL(kern_type_by_name("Q4"));
    CU_ASSERT_PTR_NULL(kern_type_find(4));
    CU_ASSERT_PTR_NULL(kern_type_find(UINT32_MAX));
}

static void test_sizes(void)
{
    size_t count;
    const struct kern_type_info *all = kern_type_all(&count);
    CU_ASSERT_EQUAL(kern_type_bytes(kern_type_find(KERN_Q6_K), 512), 420);
    CU_ASSERT_EQUAL(kern_type_bytes(kern_type_find(KERN_MXFP4), 2880), 1530);
    CU_ASSERT_EQUAL(kern_packed_bytes(kern_type_find(KERN_Q8_0), 17, 64), 2 * 2 * 544);
    CU_ASSERT_EQUAL(kern_panel_bytes(kern_type_find(KERN_F32), 5), 320);
    /* A packed matrix takes at most 3% more than the file's. */
    for (size_t i = 0; i < count; i++)
        CU_ASSERT(all[i].packed_bytes * 100 <= 16 * all[i].block_bytes * 103);
}

/* 2^(e - 128): the two smallest exponents are subnormal, the largest is finite. */
static void test_mxfp4_scales(void)
{
    const struct kern_type_info *type = kern_type_find(KERN_MXFP4);
    uint8_t block[17] = {0};
    float values[32];
    block[1] = 0x91; /* the first value is the codebook's 1, the 17th its -1 */
    for (int e = 0; e < 256; e++) {
        block[0] = (uint8_t)e;
        kern_dequantize(type, block, 32, values);
        CU_ASSERT_EQUAL(values[0], ldexpf(1, e - 128));
        CU_ASSERT_EQUAL(values[16], -ldexpf(1, e - 128));
        CU_ASSERT_EQUAL(values[1], 0);
    }
}

/* FNV-1a of a codebook's values as bytes, in the order of the format's definition. */
static uint64_t codebook_hash(const uint16_t *codes, size_t n_rows, const int8_t *levels,
                              unsigned bits, unsigned n)
{
    uint64_t hash = 0xcbf29ce484222325;
    for (size_t i = 0; i < n_rows; i++)
        for (unsigned j = 0; j < n; j++)
            hash =
                (hash ^ (uint8_t)levels[codes[i] >> bits * j & ((1u << bits) - 1)]) * 0x100000001b3;
    return hash;
}

static void test_codebooks(void)
{
    static const int8_t iq1[4] = {-1, 0, 1}, iq2[4] = {8, 25, 43};
    static const int8_t iq3_xxs[8] = {4, 12, 20, 28, 36, 44, 52, 62};
    static const int8_t iq3_s[8] = {1, 3, 5, 7, 9, 11, 13, 15};
    CU_ASSERT_EQUAL(codebook_hash(kern__iq2_xxs_codes, 256, iq2, 2, 8), 0xbb4ee025b5ac6e8e);
    CU_ASSERT_EQUAL(codebook_hash(kern__iq2_xs_codes, 512, iq2, 2, 8), 0xc9b1ee61e79909bd);
    CU_ASSERT_EQUAL(codebook_hash(kern__iq2_s_codes, 1024, iq2, 2, 8), 0x123edd38a3b62b90);
    CU_ASSERT_EQUAL(codebook_hash(kern__iq3_xxs_codes, 256, iq3_xxs, 3, 4), 0xdfa5dc83d6a155d5);
    CU_ASSERT_EQUAL(codebook_hash(kern__iq3_s_codes, 512, iq3_s, 3, 4), 0xfa37020c25b44829);
    CU_ASSERT_EQUAL(codebook_hash(kern__iq1_codes, 2048, iq1, 2, 8), 0x6703ed863501ae2e);
}

/* Every table has every kernel of the types that say so, and the sets below the best exist. */
static void test_tables(void)
{
    size_t count;
    const struct kern_type_info *all = kern_type_all(&count);
    enum kern_isa next = KERN_ISA_PORTABLE, best = KERN_ISA_PORTABLE;
    for (int isa = 0; isa < KERN_N_ISAS; isa++) {
        const struct kern_table *table = kern_table_get((enum kern_isa)isa);
        CU_ASSERT_EQUAL(table != NULL, isa == (int)next);
        if (!table)
            continue;
        best = next;
        next = kern_isa_next(next);
        CU_ASSERT_EQUAL((int)table->isa, isa);
        CU_ASSERT_EQUAL(kern_isa_by_name(table->name), isa);
        for (size_t i = 0; i < count; i++)
            CU_ASSERT_EQUAL(table->matmul[all[i].type] != NULL, all[i].packed_bytes != 0);
    }
    CU_ASSERT_EQUAL(next, KERN_N_ISAS);
    CU_ASSERT_EQUAL(kern_isa_best(), best);
    CU_ASSERT_PTR_NULL(kern_table_get(KERN_N_ISAS));
    CU_ASSERT_EQUAL(kern_isa_by_name("sse9"), -1);
}

/* A matrix packed column by column is what packing its rows makes. */
static void test_columns(void)
{
    enum { ROWS = 37, K = 21 };
    const struct kern_type_info *f32 = kern_type_find(KERN_F32);
    static float rows[ROWS][K], columns[K][ROWS];
    static _Alignas(64) float by_rows[48 * K], by_columns[48 * K];
    CU_ASSERT_EQUAL_FATAL(kern_packed_bytes(f32, ROWS, K), sizeof by_rows);
    memset(by_columns, 0xff, sizeof by_columns);
    for (size_t r = 0; r < ROWS; r++)
        for (size_t i = 0; i < K; i++)
            rows[r][i] = columns[i][r] = (float)(r * K + i) - 300.0f;
    kern_pack(f32, by_rows, rows, ROWS, K);
    for (size_t i = 0; i < K; i++)
        kern_pack_column(by_columns, ROWS, K, i, columns[i]);
    CU_ASSERT(memcmp(by_rows, by_columns, sizeof by_rows) == 0);
}

int main(void)
{
    if (CU_initialize_registry() != CUE_SUCCESS)
        return CU_get_error();
    CU_pSuite suite = CU_add_suite("type", NULL, NULL);
    CU_add_test(suite, "f16 to f32, all", test_f16_to_f32);
    CU_add_test(suite, "f32 to f16 rounds to nearest even", test_f32_to_f16);
    CU_add_test(suite, "bf16 both ways", test_bf16);
    CU_add_test(suite, "types by number and name", test_find);
    CU_add_test(suite, "sizes", test_sizes);
    CU_add_test(suite, "scales of MXFP4", test_mxfp4_scales);
    CU_add_test(suite, "codebooks", test_codebooks);
    CU_add_test(suite, "tables", test_tables);
    CU_add_test(suite, "columns", test_columns);
    CU_basic_run_tests();
    unsigned failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    return failures ? 1 : 0;
}
