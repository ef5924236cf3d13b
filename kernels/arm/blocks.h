/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is made of a type's values (kernels/arm/values.h): products with one row of activations, and
 * weights for many. KERN__ARM_TYPE defines both of a type. Private to this folder.
 */
#ifndef KERNELS_ARM_BLOCKS_H
#define KERNELS_ARM_BLOCKS_H

#include "kernels/arm/values.h"

#define PARTS 4

/* After how many subs the places of their bits come again; so many are unrolled. */
KERN__INLINE size_t period_of(enum kern_type type)
{
    switch ((int)type) {
    case KERN_Q3_K:
    case KERN_Q5_K:
        return 16;
    case KERN_Q2_K:
    case KERN_Q6_K:
        return 8;
    case KERN_Q4_K:
        return 4;
    case KERN_IQ4_XS:
        return 2;
    default:
        return 1;
    }
}

/* 16 bytes as four vectors of lanes. */
KERN__INLINE void widen(int32x4_t to[PARTS], int8x16_t v)
{
    int16x8_t low = vmovl_s8(vget_low_s8(v)), high = vmovl_high_s8(v);
    to[0] = vmovl_s16(vget_low_s16(low));
    to[1] = vmovl_high_s16(low);
    to[2] = vmovl_s16(vget_low_s16(high));
    to[3] = vmovl_high_s16(high);
}

KERN__INLINE void fill(int32x4_t to[PARTS], int value)
{
    for (size_t p = 0; p < PARTS; p++)
        to[p] = vdupq_n_s32(value);
}

/* t += the values of a sub by 16 activations. */
KERN__INLINE void add_products(enum kern_type type, int32x4_t t[PARTS], const struct source *from,
                               size_t sub, const int8_t *x)
{
    int8x16_t q = vld1q_s8(x);
#pragma GCC unroll 4
    for (size_t p = 0; p < PARTS; p++) {
        int8x16_t v[4];
        values_of(type, v, from, sub, p);
        t[p] = kern__arm_dot16(t[p], v, q);
    }
}

/* acc += (d * dx) * s. */
KERN__INLINE void add_block(enum kern_type type, float32x4_t acc[PARTS], const uint8_t *w, float dx,
                            const int32x4_t s[PARTS])
{
    for (size_t p = 0; p < PARTS; p++)
        acc[p] = vfmaq_f32(acc[p], vmulq_n_f32(d_of(type, w, p), dx), vcvtq_f32_s32(s[p]));
}

/* acc += (m * dx) * s. */
KERN__INLINE void add_minima(enum kern_type type, float32x4_t acc[PARTS], const uint8_t *w,
                             float dx, const int32x4_t s[PARTS])
{
    for (size_t p = 0; p < PARTS; p++)
        acc[p] = vfmaq_f32(acc[p], vmulq_n_f32(m_of(type, w, p), dx), vcvtq_f32_s32(s[p]));
}

KERN__INLINE void one_row_32(enum kern_type type, size_t packed_bytes, float *y, const uint8_t *w,
                             const void *x, size_t k)
{
    const float *dx = kern_act_scales(x, k);
    const int16_t *sums = kern_act_sums(KERN_ACT_Q8_32, x, k);
    float32x4_t acc[PARTS] = {vdupq_n_f32(0), vdupq_n_f32(0), vdupq_n_f32(0), vdupq_n_f32(0)};
    for (size_t b = 0; b < k / 32; b++, w += packed_bytes) {
        const int8_t *q = (const int8_t *)x + 32 * b;
        int32x4_t s[PARTS];
        int sum = sums[2 * b] + sums[2 * b + 1];
        fill(s, -offset_of(type) * sum);
        add_products(type, s, &(struct source){w, NULL}, 0, q);
        add_products(type, s, &(struct source){w, NULL}, 1, q + 16);
        add_block(type, acc, w, dx[b], s);
        if (has_min(type)) {
            fill(s, sum);
            add_minima(type, acc, w, dx[b], s);
        }
    }
    for (size_t p = 0; p < PARTS; p++)
        vst1q_f32(y + 4 * p, acc[p]);
}

/* s = sum S * (q . x) over a block; q, sums: its of the row. */
KERN__INLINE void block_products(enum kern_type type, int32x4_t s[PARTS], const struct source *from,
                                 const int8_t *q, const int16_t *sums)
{
    const size_t period = period_of(type), subs = sub_of(type) / 16;
    int32x4_t t[PARTS], scale[PARTS];
    fill(s, 0);
    for (size_t first = 0; first < 16; first += period)
#pragma GCC unroll 16
        for (size_t i = 0; i < period; i++) {
            size_t sub = first + i;
            if (i % subs == 0)
                fill(t, offset_of(type) ? -offset_of(type) * sums[sub] : 0);
            add_products(type, t, from, sub, q + 16 * sub);
            if (i % subs != subs - 1)
                continue;
            widen(scale, scales_of(type, from, sub));
            for (size_t p = 0; p < PARTS; p++)
                s[p] = vmlaq_s32(s[p], t[p], scale[p]);
            /* Else what later subs take from the same bytes is kept, beyond the registers. */
            __asm__ volatile("" : : : "memory");
        }
}

/* s = sum M * (sum of x) over a block. */
KERN__INLINE void block_minima(enum kern_type type, int32x4_t s[PARTS], const uint8_t *w,
                               const int16_t *sums)
{
    fill(s, 0);
    for (size_t i = 0; i < 256 / sub_of(type); i++) {
        int8x16_t min = mins_of(type, w, i);
        int16x8_t low = vmovl_s8(vget_low_s8(min)), high = vmovl_high_s8(min);
        int16_t sum = sub_of(type) == 16 ? sums[i] : (int16_t)(sums[2 * i] + sums[2 * i + 1]);
        s[0] = vmlal_n_s16(s[0], vget_low_s16(low), sum);
        s[1] = vmlal_high_n_s16(s[1], low, sum);
        s[2] = vmlal_n_s16(s[2], vget_low_s16(high), sum);
        s[3] = vmlal_high_n_s16(s[3], high, sum);
    }
}

KERN__INLINE void one_row_256(enum kern_type type, size_t packed_bytes, float *y, const uint8_t *w,
                              const void *x, size_t k)
{
    const float *dx = kern_act_scales(x, k);
    const int16_t *sums = kern_act_sums(KERN_ACT_Q8_256, x, k);
    float32x4_t acc[PARTS] = {vdupq_n_f32(0), vdupq_n_f32(0), vdupq_n_f32(0), vdupq_n_f32(0)};
    for (size_t b = 0; b < k / 256; b++, w += packed_bytes, sums += 16) {
        struct kern__iq_panel panel;
        int32x4_t s[PARTS];
        if (kern__iq_is(type))
            kern__iq_take_apart(type, &panel, w);
        block_products(type, s, &(struct source){w, &panel}, (const int8_t *)x + 256 * b, sums);
        add_block(type, acc, w, dx[b], s);
        if (has_min(type)) {
            block_minima(type, s, w, sums);
            add_minima(type, acc, w, dx[b], s);
        }
    }
    for (size_t p = 0; p < PARTS; p++)
        vst1q_f32(y + 4 * p, acc[p]);
}

/* Values 8 * i.. of 4 rows, out of two vectors. */
KERN__INLINE void put(struct kern__arm_weights *to, int8x16_t first, int8x16_t second, size_t i,
                      size_t part, bool paired)
{
    int8_t *at = to->w[2 * i];
    if (paired) {
        int32x4_t a = vreinterpretq_s32_s8(first), b = vreinterpretq_s32_s8(second);
        vst1q_s8(at + 32 * part, vreinterpretq_s8_s32(vzip1q_s32(a, b)));
        vst1q_s8(at + 32 * part + 16, vreinterpretq_s8_s32(vzip2q_s32(a, b)));
    } else {
        vst1q_s8(at + 16 * part, first);
        vst1q_s8(at + 64 + 16 * part, second);
    }
}

/* The values of a sub, which is number i of the chunk. */
KERN__INLINE void decode_sub(enum kern_type type, struct kern__arm_weights *to, size_t i,
                             const struct source *from, size_t sub, bool paired)
{
#pragma GCC unroll 4
    for (size_t p = 0; p < PARTS; p++) {
        int8x16_t v[4];
        values_of(type, v, from, sub, p);
        for (size_t j = 0; j < 4; j++)
            v[j] -= (int8_t)offset_of(type);
        put(to, v[0], v[1], 2 * i, p, paired);
        put(to, v[2], v[3], 2 * i + 1, p, paired);
    }
}

/* The words of one part. */
KERN__INLINE void put_words(void *to, int32x4_t words, size_t part, bool paired)
{
    int64x2_t pairs = vreinterpretq_s64_s32(words);
    uint8_t *at = (uint8_t *)to + (paired ? 32 : 16) * part;
    if (paired) {
        vst1q_u8(at, vreinterpretq_u8_s64(vzip1q_s64(pairs, pairs)));
        vst1q_u8(at + 16, vreinterpretq_u8_s64(vzip2q_s64(pairs, pairs)));
    } else {
        vst1q_u8(at, vreinterpretq_u8_s64(pairs));
    }
}

KERN__INLINE void decode_factors(enum kern_type type, struct kern__arm_weights *to, size_t b,
                                 const uint8_t *w, bool paired)
{
    to->has_min = has_min(type);
    for (size_t p = 0; p < PARTS; p++) {
        put_words(to->d[b], vreinterpretq_s32_f32(d_of(type, w, p)), p, paired);
        if (has_min(type))
            put_words(to->m[b], vreinterpretq_s32_f32(m_of(type, w, p)), p, paired);
    }
}

KERN__INLINE void decode_32(enum kern_type type, size_t packed_bytes, struct kern__arm_weights *to,
                            const uint8_t *w, bool paired)
{
    for (size_t b = 0; b < to->n_blocks; b++, w += packed_bytes) {
        decode_sub(type, to, 2 * b, &(struct source){w, NULL}, 0, paired);
        decode_sub(type, to, 2 * b + 1, &(struct source){w, NULL}, 1, paired);
        decode_factors(type, to, b, w, paired);
    }
}

KERN__INLINE void decode_256(enum kern_type type, size_t packed_bytes, struct kern__arm_weights *to,
                             const uint8_t *w, bool paired)
{
    const size_t period = period_of(type), sub = sub_of(type);
    struct kern__iq_panel panel;
    struct source from = {w, &panel};
    (void)packed_bytes;
    to->sub = sub;
    if (kern__iq_is(type))
        kern__iq_take_apart(type, &panel, w);
    for (size_t first = 0; first < 16; first += period)
#pragma GCC unroll 16
        for (size_t i = 0; i < period; i++)
            decode_sub(type, to, first + i, &from, first + i, paired);
    for (size_t i = 0; i < 256 / sub; i++) {
        int32x4_t scale[PARTS];
        widen(scale, scales_of(type, &from, i * sub / 16));
        for (size_t p = 0; p < PARTS; p++)
            put_words(to->scale[i], scale[p], p, paired);
        if (has_min(type)) {
            int8x16_t min = mins_of(type, w, i);
            vst1q_s16(to->min[i], vmovl_s8(vget_low_s8(min)));
            vst1q_s16(to->min[i] + 8, vmovl_high_s8(min));
        }
    }
    decode_factors(type, to, 0, w, paired);
}

/* Defines kern__arm_NAME: a type of blocks of 32 or 256 values. */
#define KERN__ARM_TYPE(type, name, block_values, bytes)                                            \
    static void one_row_##name(float *y, const uint8_t *panel, const void *x, size_t k)            \
    {                                                                                              \
        one_row_##block_values(KERN_##type, bytes, y, panel, x, k);                                \
    }                                                                                              \
    static void decode_##name(struct kern__arm_weights *w, const uint8_t *packed, bool paired)     \
    {                                                                                              \
        decode_##block_values(KERN_##type, bytes, w, packed, paired);                              \
    }                                                                                              \
    const struct kern__arm_type kern__arm_##name = {block_values, bytes, one_row_##name,           \
                                                    decode_##name};

#endif
