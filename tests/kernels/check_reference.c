/* SPDX-License-Identifier: Apache-2.0 */
/* One value at a time, from the formulas of the file format; shares nothing with kernels/. */
#include "tests/kernels/check.h"

#include <math.h>
#include <string.h>

/* Value e of a block is d * scale * q - dmin * min. */
struct value {
    int scale, q, min;
};

static uint16_t u16_at(const uint8_t *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}

static float half(uint16_t bits)
{
    int exponent = bits >> 10 & 31, mantissa = bits & 1023;
    float size =
        exponent ? ldexpf((float)(1024 + mantissa), exponent - 25) : ldexpf((float)mantissa, -24);
    return bits & 0x8000 ? -size : size;
}

static struct value value_q4_k(const uint8_t *block, size_t e)
{
    const uint8_t *sc = block + 4, *qs = block + 16;
    size_t s = e / 32;
    uint8_t byte = qs[32 * (s / 2) + e % 32];
    struct value v = {.q = s % 2 ? byte >> 4 : byte & 15};
    if (s < 4) {
        v.scale = sc[s] & 63;
        v.min = sc[s + 4] & 63;
    } else {
        v.scale = (sc[s + 4] & 15) | (sc[s - 4] >> 6) << 4;
        v.min = sc[s + 4] >> 4 | (sc[s] >> 6) << 4;
    }
    return v;
}

static struct value value_q6_k(const uint8_t *block, size_t e)
{
    const uint8_t *ql = block, *qh = block + 128;
    size_t n = e / 128, g = e % 128 / 32, l = e % 32;
    int low = ql[64 * n + 32 * (g & 1) + l] >> 4 * (g >> 1) & 15;
    int high = qh[32 * n + l] >> 2 * g & 3;
    return (struct value){(int8_t)block[192 + 8 * n + 2 * g + l / 16], (low | high << 4) - 32, 0};
}

static struct value value_of(enum kern_type type, const uint8_t *block, size_t e)
{
    if (type == KERN_Q4_K)
        return value_q4_k(block, e);
    if (type == KERN_Q6_K)
        return value_q6_k(block, e);
    if (type == KERN_Q8_0)
        return (struct value){1, (int8_t)block[2 + e], 0};
    return (struct value){1, (e < 16 ? block[2 + e] & 15 : block[2 + e - 16] >> 4) - 8, 0};
}

static float scale_of(enum kern_type type, const uint8_t *block)
{
    return half(u16_at(block + (type == KERN_Q6_K ? 208 : 0)));
}

static float float_at(enum kern_type type, const uint8_t *row, size_t e)
{
    uint32_t bits;
    float value;
    if (type == KERN_F16)
        return half(u16_at(row + 2 * e));
    if (type == KERN_BF16)
        bits = (uint32_t)u16_at(row + 2 * e) << 16;
    else
        memcpy(&bits, row + 4 * e, 4);
    memcpy(&value, &bits, 4);
    return value;
}

float check_value(enum kern_type type, const uint8_t *row, size_t e)
{
    const struct kern_type_info *info = kern_type_find(type);
    if (info->block == 1)
        return float_at(type, row, e);
    const uint8_t *block = row + e / info->block * info->block_bytes;
    struct value v = value_of(type, block, e % info->block);
    float value = scale_of(type, block) * (float)v.scale * (float)v.q;
    return type == KERN_Q4_K ? value - half(u16_at(block + 2)) * (float)v.min : value;
}

static float float_product(enum kern_type type, const uint8_t *row, const float *x, size_t k)
{
    float a[4] = {0};
    for (size_t i = 0; i < k; i++)
        a[i % 4] = fmaf(float_at(type, row, i), x[i], a[i % 4]);
    return (a[0] + a[1]) + (a[2] + a[3]);
}

float check_product(enum kern_type type, const uint8_t *row, const void *record, size_t k)
{
    const struct kern_type_info *info = kern_type_find(type);
    if (info->block == 1)
        return float_product(type, row, record, k);
    const int8_t *q = record;
    float a = 0;
    for (size_t b = 0; b < k / info->block; b++, row += info->block_bytes) {
        int64_t s = 0, m = 0;
        float dx;
        memcpy(&dx, (const char *)record + k + 4 * b, 4);
        for (size_t e = 0; e < info->block; e++) {
            struct value v = value_of(type, row, e);
            s += (int64_t)v.scale * v.q * q[b * info->block + e];
            m += (int64_t)v.min * q[b * info->block + e];
        }
        a = fmaf(scale_of(type, row) * dx, (float)s, a);
        if (type == KERN_Q4_K)
            a = fmaf(-(half(u16_at(row + 2)) * dx), (float)m, a);
    }
    return a;
}
