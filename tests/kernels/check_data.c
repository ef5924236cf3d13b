/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/kernels/check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint64_t state;

void check_seed(uint32_t seed)
{
    state = seed * 0x9E3779B97F4A7C15u + 1;
}

uint32_t check_random(void)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 32);
}

void *check_alloc(size_t bytes)
{
    void *memory = NULL;
    if (posix_memalign(&memory, 64, bytes ? bytes : 1)) {
        fprintf(stderr, "no memory for %zu bytes\n", bytes);
        exit(2);
    }
    return memory;
}

static uint16_t random_f16(enum check_pattern pattern)
{
    static const uint16_t extremes[] = {0x7bff, 0xfbff, 0x0001, 0x8001, 0x03ff, 0, 0x8000, 0x3c00};
    if (pattern == CHECK_EXTREME)
        return extremes[check_random() % 8];
    if (pattern == CHECK_ZERO)
        return 0;
    return (uint16_t)((check_random() & 0x83ff) | (8 + check_random() % 10) << 10);
}

/* Within 2^-32..2^32, or far out, or subnormal. */
static float random_float(enum check_pattern pattern)
{
    static const float extremes[] = {1e18f, -1e18f, 1e-40f, -1e-45f, 0, -0.0f, 1, 3e-38f};
    if (pattern == CHECK_EXTREME)
        return extremes[check_random() % 8];
    if (pattern == CHECK_ZERO)
        return 0;
    uint32_t bits = (check_random() & 0x807fffff) | (95 + check_random() % 64) << 23;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

static void fill_float_weight(enum kern_type type, uint8_t *to, enum check_pattern pattern)
{
    float value = random_float(pattern);
    uint16_t half = random_f16(pattern);
    if (type == KERN_F32)
        memcpy(to, &value, 4);
    else if (type == KERN_F16)
        memcpy(to, &half, 2);
    else
        memcpy(to, (const uint8_t *)&value + 2, 2);
}

static void fill_bytes(uint8_t *to, size_t n, enum check_pattern pattern)
{
    static const uint8_t extremes[] = {0x00, 0xff, 0x80, 0x7f, 0x81, 0xf0, 0x0f};
    uint8_t one = pattern == CHECK_EXTREME ? extremes[check_random() % 7] : 0;
    for (size_t i = 0; i < n; i++)
        to[i] = pattern == CHECK_RANDOM ? (uint8_t)check_random() : one;
}

/* The half of IQ1_M lies in the top nibbles of four words. */
static void put_f16_nibbles(uint8_t *words, enum check_pattern pattern)
{
    uint16_t bits = random_f16(pattern);
    for (size_t i = 0; i < 4; i++)
        words[2 * i + 1] = (uint8_t)((words[2 * i + 1] & 15) | (bits >> 4 * i & 15) << 4);
}

static void put_f16(uint8_t *to, enum check_pattern pattern)
{
    uint16_t bits = random_f16(pattern);
    memcpy(to, &bits, 2);
}

/* Where the f16 scales of a block lie; UINT32_MAX: there is none. */
static const struct {
    enum kern_type type;
    uint32_t at[2];
} halves[] = {
    {KERN_Q4_0, {0, UINT32_MAX}},
    {KERN_Q4_1, {0, 2}},
    {KERN_Q5_0, {0, UINT32_MAX}},
    {KERN_Q5_1, {0, 2}},
    {KERN_Q8_0, {0, UINT32_MAX}},
    {KERN_Q2_K, {80, 82}},
    {KERN_Q3_K, {108, UINT32_MAX}},
    {KERN_Q4_K, {0, 2}},
    {KERN_Q5_K, {0, 2}},
    {KERN_Q6_K, {208, UINT32_MAX}},
    {KERN_IQ4_NL, {0, UINT32_MAX}},
    {KERN_IQ4_XS, {0, UINT32_MAX}},
    {KERN_IQ1_S, {0, UINT32_MAX}},
    {KERN_IQ2_XXS, {0, UINT32_MAX}},
    {KERN_IQ2_XS, {0, UINT32_MAX}},
    {KERN_IQ2_S, {0, UINT32_MAX}},
    {KERN_IQ3_XXS, {0, UINT32_MAX}},
    {KERN_IQ3_S, {0, UINT32_MAX}},
};

static void put_halves(enum kern_type type, uint8_t *block, enum check_pattern pattern)
{
    for (size_t i = 0; i < sizeof halves / sizeof halves[0]; i++)
        for (size_t j = 0; j < 2; j++)
            if (halves[i].type == type && halves[i].at[j] != UINT32_MAX)
                put_f16(block + halves[i].at[j], pattern);
}

/* Exponent of an MXFP4 block. */
static uint8_t random_exponent(enum check_pattern pattern)
{
    static const uint8_t extremes[] = {0, 1, 2, 3, 127, 128, 172, 255};
    if (pattern == CHECK_ZERO)
        return 0;
    return pattern == CHECK_EXTREME ? extremes[check_random() % 8]
                                    : (uint8_t)(108 + check_random() % 20);
}

/* Integer scales, which an extreme block has of another byte than its values. */
static void fill_scales(enum kern_type type, uint8_t *block, enum check_pattern pattern)
{
    if (type == KERN_Q2_K)
        fill_bytes(block, 16, pattern);
    else if (type == KERN_Q3_K)
        fill_bytes(block + 96, 12, pattern);
    else if (type == KERN_Q5_K)
        fill_bytes(block + 4, 12, pattern);
    else if (type == KERN_Q6_K)
        fill_bytes(block + 192, 16, pattern);
    else if (type == KERN_IQ4_XS)
        fill_bytes(block + 2, 6, pattern);
    else if (type == KERN_MXFP4)
        block[0] = random_exponent(pattern);
    else if (type == KERN_IQ1_M)
        put_f16_nibbles(block + 48, pattern);
}

void check_fill_weights(const struct kern_type_info *info, uint8_t *blocks, size_t n_blocks,
                        enum check_pattern pattern)
{
    for (size_t b = 0; b < n_blocks; b++, blocks += info->block_bytes) {
        if (info->block == 1) {
            fill_float_weight(info->type, blocks, pattern);
            continue;
        }
        fill_bytes(blocks, info->block_bytes, pattern);
        fill_scales(info->type, blocks, pattern);
        put_halves(info->type, blocks, pattern);
    }
}

static void fill_block(int8_t *q, size_t n, enum check_pattern pattern)
{
    uint32_t kind = check_random() % 4;
    for (size_t i = 0; i < n; i++) {
        if (pattern == CHECK_RANDOM)
            q[i] = (int8_t)((int)(check_random() % 255) - 127);
        else if (pattern == CHECK_EXTREME && kind)
            q[i] = kind == 1 || (kind == 3 && i % 2) ? 127 : -127;
        else
            q[i] = 0;
    }
}

static float random_scale(enum check_pattern pattern)
{
    static const float extremes[] = {1e20f, 1e-38f, 1e-42f, 0, 1, 0.007f};
    if (pattern == CHECK_EXTREME)
        return extremes[check_random() % 6];
    return pattern == CHECK_ZERO ? 0 : 0x1p-30f * (float)(check_random() >> 8);
}

void check_fill_record(enum kern_act act, void *record, size_t k, enum check_pattern pattern)
{
    size_t block = kern_act_block(act);
    memset(record, 0xa5, kern_act_bytes(act, k));
    if (!block) {
        for (size_t i = 0; i < k; i++)
            ((float *)record)[i] = random_float(pattern);
        return;
    }
    int8_t *q = record;
    float *d = (float *)(q + k);
    int16_t *sum = (int16_t *)(d + k / block);
    for (size_t b = 0; b < k / block; b++) {
        fill_block(q + b * block, block, pattern);
        d[b] = random_scale(pattern);
    }
    for (size_t j = 0; j < k / 16; j++) {
        sum[j] = 0;
        for (size_t i = 0; i < 16; i++)
            sum[j] = (int16_t)(sum[j] + q[16 * j + i]);
    }
}
