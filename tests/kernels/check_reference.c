/* SPDX-License-Identifier: Apache-2.0 */
/* One value at a time, from the formulas of the file format; shares nothing with kernels/. */
#include "tests/kernels/check.h"

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/iq.h"

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

/* The scales lie as in Q4_K. */
static struct value value_q5_k(const uint8_t *block, size_t e)
{
    const uint8_t *qh = block + 16, *qs = block + 48;
    size_t s = e / 32;
    struct value v = value_q4_k(block, e);
    uint8_t byte = qs[32 * (s / 2) + e % 32];
    v.q = (s % 2 ? byte >> 4 : byte & 15) + 16 * (qh[e % 32] >> s & 1);
    return v;
}

static struct value value_q2_k(const uint8_t *block, size_t e)
{
    size_t n = e / 128, j = e % 128 / 32, l = e % 32;
    uint8_t c = block[8 * n + 2 * j + l / 16];
    return (struct value){c & 15, block[16 + 32 * n + l] >> 2 * j & 3, c >> 4};
}

static struct value value_q3_k(const uint8_t *block, size_t e)
{
    const uint8_t *hmask = block, *qs = block + 32, *sc = block + 96;
    size_t n = e / 128, j = e % 128 / 32, l = e % 32, s = 8 * n + 2 * j + l / 16;
    int low = s < 8 ? sc[s] & 15 : sc[s - 8] >> 4, high = sc[8 + s % 4] >> 2 * (s / 4) & 3;
    int q = (qs[32 * n + l] >> 2 * j & 3) - (hmask[l] >> (4 * n + j) & 1 ? 0 : 4);
    return (struct value){(low | high << 4) - 32, q, 0};
}

static struct value value_q6_k(const uint8_t *block, size_t e)
{
    const uint8_t *ql = block, *qh = block + 128;
    size_t n = e / 128, g = e % 128 / 32, l = e % 32;
    int low = ql[64 * n + 32 * (g & 1) + l] >> 4 * (g >> 1) & 15;
    int high = qh[32 * n + l] >> 2 * g & 3;
    return (struct value){(int8_t)block[192 + 8 * n + 2 * g + l / 16], (low | high << 4) - 32, 0};
}

static int nibble(const uint8_t qs[16], size_t e)
{
    return e < 16 ? qs[e] & 15 : qs[e - 16] >> 4;
}

static int fifth_bit(const uint8_t qh[4], size_t e)
{
    return (qh[e / 8] >> e % 8 & 1) << 4;
}

static int iq4_value(int index)
{
    static const int values[] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                 1,    13,   25,  38,  53,  69,  89,  113};
    return values[index];
}

static int mxfp4_value(int index)
{
    static const int values[] = {0, 1, 2, 3, 4, 6, 8, 12};
    return index < 8 ? values[index] : -values[index - 8];
}

static struct value value_iq4_xs(const uint8_t *block, size_t e)
{
    size_t s = e / 32;
    int low = block[4 + s / 2] >> 4 * (s % 2) & 15, high = u16_at(block + 2) >> 2 * s & 3;
    int q = iq4_value(nibble(block + 8 + 16 * s, e % 32));
    return (struct value){(low | high << 4) - 32, q, 0};
}

static struct value value_of(enum kern_type type, const uint8_t *block, size_t e)
{
    if (kern__iq_is(type)) {
        struct check_iq v = check_iq_value(type, block, e);
        return (struct value){2 * v.scale + 1, v.w, 0};
    }
    switch ((int)type) {
    case KERN_Q4_0:
        return (struct value){1, nibble(block + 2, e) - 8, 0};
    case KERN_Q4_1:
        return (struct value){1, nibble(block + 4, e), 1};
    case KERN_Q5_0:
        return (struct value){1, (nibble(block + 6, e) | fifth_bit(block + 2, e)) - 16, 0};
    case KERN_Q5_1:
        return (struct value){1, nibble(block + 8, e) | fifth_bit(block + 4, e), 1};
    case KERN_Q8_0:
        return (struct value){1, (int8_t)block[2 + e], 0};
    case KERN_Q2_K:
        return value_q2_k(block, e);
    case KERN_Q3_K:
        return value_q3_k(block, e);
    case KERN_Q4_K:
        return value_q4_k(block, e);
    case KERN_Q5_K:
        return value_q5_k(block, e);
    case KERN_Q6_K:
        return value_q6_k(block, e);
    case KERN_IQ4_NL:
        return (struct value){1, iq4_value(nibble(block + 2, e)), 0};
    case KERN_IQ4_XS:
        return value_iq4_xs(block, e);
    case KERN_MXFP4:
        return (struct value){1, mxfp4_value(nibble(block + 1, e)), 0};
    }
    printf("no reference for type %d\n", (int)type);
    exit(2);
}

static float scale_of(enum kern_type type, const uint8_t *block)
{
    if (kern__iq_is(type)) {
        uint16_t d = type == KERN_IQ1_M ? check_iq1_m_scale(block) : u16_at(block);
        return half(d) * check_iq_value(type, block, 0).factor;
    }
    switch ((int)type) {
    case KERN_Q2_K:
        return half(u16_at(block + 80));
    case KERN_Q3_K:
        return half(u16_at(block + 108));
    case KERN_Q6_K:
        return half(u16_at(block + 208));
    case KERN_MXFP4:
        return ldexpf(1, block[0] - 128);
    default:
        return half(u16_at(block));
    }
}

/* Whether values have a minimum, and the scale of it, as it is taken off. */
static bool has_min(enum kern_type type, const uint8_t *block, float *dmin)
{
    switch ((int)type) {
    case KERN_Q4_1:
    case KERN_Q5_1:
        *dmin = -half(u16_at(block + 2));
        return true;
    case KERN_Q2_K:
        *dmin = half(u16_at(block + 82));
        return true;
    case KERN_Q4_K:
    case KERN_Q5_K:
        *dmin = half(u16_at(block + 2));
        return true;
    default:
        return false;
    }
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
    float dmin;
    return has_min(type, block, &dmin) ? value - dmin * (float)v.min : value;
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
        float dx, dmin;
        memcpy(&dx, (const char *)record + k + 4 * b, 4);
        for (size_t e = 0; e < info->block; e++) {
            struct value v = value_of(type, row, e);
            s += (int64_t)v.scale * v.q * q[b * info->block + e];
            m += (int64_t)v.min * q[b * info->block + e];
        }
        a = fmaf(scale_of(type, row) * dx, (float)s, a);
        if (has_min(type, row, &dmin))
            a = fmaf(-(dmin * dx), (float)m, a);
    }
    return a;
}
