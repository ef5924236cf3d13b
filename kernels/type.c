/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/type.h"

#include <assert.h>
#include <string.h>
#include <strings.h>

#include "kernels/dequantize.h"
#include "kernels/iq.h"
#include "kernels/math.h"
#include "kernels/pack.h"
#include "kernels/table.h"

static const struct kern_type_info types[] = {
    {KERN_F32, "F32", 1, 4, 64, KERN_ACT_F32},
    {KERN_F16, "F16", 1, 2, 32, KERN_ACT_F32},
    {KERN_Q4_0, "Q4_0", 32, 18, 288, KERN_ACT_Q8_32},
    {KERN_Q4_1, "Q4_1", 32, 20, 320, KERN_ACT_Q8_32},
    {KERN_Q5_0, "Q5_0", 32, 22, 352, KERN_ACT_Q8_32},
    {KERN_Q5_1, "Q5_1", 32, 24, 384, KERN_ACT_Q8_32},
    {KERN_Q8_0, "Q8_0", 32, 34, 544, KERN_ACT_Q8_32},
    {KERN_Q2_K, "Q2_K", 256, 84, 1344, KERN_ACT_Q8_256},
    {KERN_Q3_K, "Q3_K", 256, 110, 1760, KERN_ACT_Q8_256},
    {KERN_Q4_K, "Q4_K", 256, 144, 2368, KERN_ACT_Q8_256},
    {KERN_Q5_K, "Q5_K", 256, 176, 2880, KERN_ACT_Q8_256},
    {KERN_Q6_K, "Q6_K", 256, 210, 3360, KERN_ACT_Q8_256},
    {KERN_IQ2_XXS, "IQ2_XXS", 256, 66, 1056, KERN_ACT_Q8_256},
    {KERN_IQ2_XS, "IQ2_XS", 256, 74, 1184, KERN_ACT_Q8_256},
    {KERN_IQ3_XXS, "IQ3_XXS", 256, 98, 1568, KERN_ACT_Q8_256},
    {KERN_IQ1_S, "IQ1_S", 256, 50, 800, KERN_ACT_Q8_256},
    {KERN_IQ4_NL, "IQ4_NL", 32, 18, 288, KERN_ACT_Q8_32},
    {KERN_IQ3_S, "IQ3_S", 256, 110, 1760, KERN_ACT_Q8_256},
    {KERN_IQ2_S, "IQ2_S", 256, 82, 1312, KERN_ACT_Q8_256},
    {KERN_IQ4_XS, "IQ4_XS", 256, 136, 2208, KERN_ACT_Q8_256},
    {KERN_IQ1_M, "IQ1_M", 256, 56, 896, KERN_ACT_Q8_256},
    {KERN_BF16, "BF16", 1, 2, 32, KERN_ACT_F32},
    {KERN_MXFP4, "MXFP4", 32, 17, 272, KERN_ACT_Q8_32},
};

#define N_TYPES (sizeof types / sizeof types[0])

const struct kern_type_info *kern_type_find(uint32_t number)
{
    for (size_t i = 0; i < N_TYPES; i++)
        if ((uint32_t)types[i].type == number)
            return &types[i];
    return NULL;
}

const struct kern_type_info *kern_type_by_name(const char *name)
{
    for (size_t i = 0; i < N_TYPES; i++)
        if (strcasecmp(types[i].name, name) == 0)
            return &types[i];
    return NULL;
}

const struct kern_type_info *kern_type_all(size_t *count)
{
    *count = N_TYPES;
    return types;
}

size_t kern_type_bytes(const struct kern_type_info *info, size_t n)
{
    return n / info->block * info->block_bytes;
}

size_t kern_panel_bytes(const struct kern_type_info *info, size_t k)
{
    return k / info->block * info->packed_bytes;
}

size_t kern_packed_bytes(const struct kern_type_info *info, size_t n_out, size_t k)
{
    return (n_out + KERN_PANEL - 1) / KERN_PANEL * kern_panel_bytes(info, k);
}

static uint32_t to_bits(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return bits;
}

float kern_f16_to_f32(uint16_t bits)
{
    return kern__half(bits);
}

uint16_t kern_f32_to_f16(float value)
{
    uint32_t bits = to_bits(value), sign = bits >> 16 & 0x8000, rest = bits & 0x7fffffff;
    if (rest > 0x7f800000)
        return (uint16_t)(sign | 0x7e00 | (rest >> 13 & 0x3ff));
    if (rest >= 0x47800000)
        return (uint16_t)(sign | 0x7c00);
    if (rest < 0x38800000) {
        /* The last place of 0.5f is 2^-24, that of a subnormal half: the sum rounds as wanted. */
        float shifted = kern__from_bits(rest) + 0.5f;
        return (uint16_t)(sign | (to_bits(shifted) - to_bits(0.5f)));
    }
    rest -= 112u << 23;
    return (uint16_t)(sign | (rest + 0xfff + (rest >> 13 & 1)) >> 13);
}

float kern_bf16_to_f32(uint16_t bits)
{
    return kern__from_bits((uint32_t)bits << 16);
}

uint16_t kern_f32_to_bf16(float value)
{
    uint32_t bits = to_bits(value);
    if ((bits & 0x7fffffff) > 0x7f800000)
        return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static uint16_t load_u16(const uint8_t *p)
{
    uint16_t value;
    memcpy(&value, p, 2);
    return value;
}

static void dequantize_q4_0(const uint8_t *block, float *out)
{
    float d = kern_f16_to_f32(load_u16(block));
    const uint8_t *qs = block + 2;
    for (int i = 0; i < 16; i++) {
        out[i] = d * (float)((qs[i] & 15) - 8);
        out[i + 16] = d * (float)((qs[i] >> 4) - 8);
    }
}

static void dequantize_q8_0(const uint8_t *block, float *out)
{
    float d = kern_f16_to_f32(load_u16(block));
    for (int i = 0; i < 32; i++)
        out[i] = d * (float)(int8_t)block[2 + i];
}

/* (d * S) * q - dmin * M. */
static void dequantize_q4_k(const uint8_t *block, float *out)
{
    float d = kern_f16_to_f32(load_u16(block)), dmin = kern_f16_to_f32(load_u16(block + 2));
    uint8_t scales[8], mins[8];
    kern__q4_k_scales(block + 4, scales, mins);
    for (int s = 0; s < 8; s++) {
        const uint8_t *qs = block + 16 + 32 * (s / 2);
        float scale = d * (float)scales[s], min = dmin * (float)mins[s];
        for (int i = 0; i < 32; i++)
            out[32 * s + i] = scale * (float)(qs[i] >> 4 * (s & 1) & 15) - min;
    }
}

/* (d * scale) * q. */
static void dequantize_q6_k(const uint8_t *block, float *out)
{
    const int8_t *scales = (const int8_t *)block + 192;
    float d = kern_f16_to_f32(load_u16(block + 208));
    for (int s = 0; s < 16; s++) {
        int n = s / 8, g = s % 8 / 2, l = s % 2 * 16;
        const uint8_t *low = block + 64 * n + 32 * (g & 1) + l, *high = block + 128 + 32 * n + l;
        float scale = d * (float)scales[s];
        for (int i = 0; i < 16; i++) {
            int q = (low[i] >> 4 * (g >> 1) & 15) | (high[i] >> 2 * g & 3) << 4;
            out[16 * s + i] = scale * (float)(q - 32);
        }
    }
}

void kern__q4_k_scales(const uint8_t sc[12], uint8_t scales[8], uint8_t mins[8])
{
    for (int s = 0; s < 4; s++) {
        scales[s] = sc[s] & 63;
        mins[s] = sc[s + 4] & 63;
        scales[s + 4] = (uint8_t)((sc[s + 8] & 15) | sc[s] >> 6 << 4);
        mins[s + 4] = (uint8_t)(sc[s + 8] >> 4 | sc[s + 4] >> 6 << 4);
    }
}

static void dequantize_floats(enum kern_type type, const uint8_t *src, size_t n, float *out)
{
    if (type == KERN_F32)
        memcpy(out, src, n * 4);
    else if (type == KERN_F16)
        for (size_t i = 0; i < n; i++)
            out[i] = kern_f16_to_f32(load_u16(src + 2 * i));
    else
        for (size_t i = 0; i < n; i++)
            out[i] = kern_bf16_to_f32(load_u16(src + 2 * i));
}

static void dequantize_iq(const struct kern_type_info *info, const uint8_t *src, size_t n,
                          float *out)
{
    for (size_t i = 0; i < n; i += info->block, src += info->block_bytes) {
        struct kern__iq_row row;
        kern__iq_parse(info->type, &row, src);
        kern__iq_values(info->type, &row, out + i);
    }
}

static void (*const blocks[KERN_TYPE_SLOTS])(const uint8_t *block, float *out) = {
    [KERN_Q4_0] = dequantize_q4_0,           [KERN_Q4_1] = kern__dequantize_q4_1,
    [KERN_Q5_0] = kern__dequantize_q5_0,     [KERN_Q5_1] = kern__dequantize_q5_1,
    [KERN_Q8_0] = dequantize_q8_0,           [KERN_Q2_K] = kern__dequantize_q2_k,
    [KERN_Q3_K] = kern__dequantize_q3_k,     [KERN_Q4_K] = dequantize_q4_k,
    [KERN_Q5_K] = kern__dequantize_q5_k,     [KERN_Q6_K] = dequantize_q6_k,
    [KERN_IQ4_NL] = kern__dequantize_iq4_nl, [KERN_IQ4_XS] = kern__dequantize_iq4_xs,
    [KERN_MXFP4] = kern__dequantize_mxfp4,
};

void kern_dequantize(const struct kern_type_info *info, const void *src, size_t n, float *out)
{
    assert(info->packed_bytes);
    if (info->block == 1) {
        dequantize_floats(info->type, src, n, out);
        return;
    }
    if (kern__iq_is(info->type)) {
        dequantize_iq(info, src, n, out);
        return;
    }
    const uint8_t *from = src;
    for (size_t i = 0; i < n; i += info->block, from += info->block_bytes)
        blocks[info->type](from, out + i);
}
