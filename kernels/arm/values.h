/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the types of packed weights hold, as vectors. `type` is a constant wherever these are used,
 * and so are mostly the places in a block, so that of each function a few instructions are left.
 * A part is 4 of a panel's 16 rows; a sub is 16 values. Private to this folder.
 */
#ifndef KERNELS_ARM_VALUES_H
#define KERNELS_ARM_VALUES_H

#include "kernels/arm/matmul.h"
#include "kernels/iq_panel.h"
#include "kernels/pack.h"

/* A packed block; of the IQ types also what kern__iq_take_apart made of it. */
struct source {
    const uint8_t *w;
    const struct kern__iq_panel *panel;
};

/* Where the field that begins at bit `from` of each byte lies after a move to bit `to`; mask: its
 * width in ones. */
KERN__INLINE uint8x16_t bits(uint8x16_t v, size_t from, size_t to, unsigned mask)
{
    unsigned left = from > to ? 255u >> (from - to) : 255u << (to - from) & 255u;
    v = from > to ? v >> (uint8_t)(from - to) : v << (uint8_t)(to - from);
    return left == mask << to ? v : v & (uint8_t)(mask << to);
}

KERN__INLINE uint8x16_t nibbles(const uint8_t *from, size_t high)
{
    return bits(vld1q_u8(from), high ? 4 : 0, 0, 15);
}

/* What values_of gives too much. */
KERN__INLINE int offset_of(enum kern_type type)
{
    switch ((int)type) {
    case KERN_Q3_K:
        return 4;
    case KERN_Q4_0:
        return 8;
    case KERN_Q5_0:
        return 16;
    case KERN_Q6_K:
        return 32;
    default:
        return 0;
    }
}

/* Values that share a scale. */
KERN__INLINE size_t sub_of(enum kern_type type)
{
    return type == KERN_Q2_K || type == KERN_Q3_K || type == KERN_Q6_K || kern__iq_is(type) ? 16
                                                                                            : 32;
}

KERN__INLINE bool has_min(enum kern_type type)
{
    return type == KERN_Q4_1 || type == KERN_Q5_1 || type == KERN_Q2_K || type == KERN_Q4_K ||
           type == KERN_Q5_K;
}

/* Values 16 * sub + 4 * j.. of a block of 32, of one part. */
KERN__INLINE int8x16_t small_values(enum kern_type type, const uint8_t *w, size_t sub, size_t j,
                                    size_t part)
{
    size_t at = 64 * j + 16 * part;
    if (type == KERN_Q8_0)
        return vreinterpretq_s8_u8(vld1q_u8(w + KERN__Q8_0_QS + 256 * sub + at));
    if (type == KERN_IQ4_NL)
        return vqtbl1q_s8(vld1q_s8(kern__iq4_values), nibbles(w + KERN__IQ4_NL_QS + at, sub));
    if (type == KERN_MXFP4)
        return vqtbl1q_s8(vld1q_s8(kern__mxfp4_values), nibbles(w + KERN__MXFP4_QS + at, sub));
    size_t qs = type == KERN_Q4_0   ? KERN__Q4_0_QS
                : type == KERN_Q4_1 ? KERN__Q4_1_QS
                : type == KERN_Q5_0 ? KERN__Q5_0_QS
                                    : KERN__Q5_1_QS;
    uint8x16_t v = nibbles(w + qs + at, sub);
    if (type == KERN_Q5_0 || type == KERN_Q5_1) {
        size_t qh = type == KERN_Q5_0 ? KERN__Q5_0_QH : KERN__Q5_1_QH;
        v |= bits(vld1q_u8(w + qh + 16 * part), 4 * sub + j, 4, 1);
    }
    return vreinterpretq_s8_u8(v);
}

/* The same of a block of 256. */
KERN__INLINE int8x16_t k_values(enum kern_type type, const uint8_t *w, size_t sub, size_t j,
                                size_t part)
{
    size_t at = 64 * j + 16 * part;
    size_t of_64 = 64 * (8 * (sub / 4) + 4 * (sub % 2)) + at;  /* 64 values: two nibbles each */
    size_t of_128 = 64 * (8 * (sub / 8) + 4 * (sub % 2)) + at; /* 128 values: four times 2 bits */
    size_t of_256 = 64 * (4 * (sub % 2)) + at;                 /* all: a bit each */
    uint8x16_t v;
    switch ((int)type) {
    case KERN_Q2_K:
        v = bits(vld1q_u8(w + KERN__Q2_K_QS + of_128), sub % 8 / 2 * 2, 0, 3);
        break;
    case KERN_Q3_K:
        v = bits(vld1q_u8(w + KERN__Q3_K_QS + of_128), sub % 8 / 2 * 2, 0, 3) |
            bits(vld1q_u8(w + KERN__Q3_K_HMASK + of_256), sub / 2, 2, 1);
        break;
    case KERN_Q4_K:
        v = nibbles(w + KERN__Q4_K_QS + of_64, sub / 2 % 2);
        break;
    case KERN_Q5_K:
        v = nibbles(w + KERN__Q5_K_QS + of_64, sub / 2 % 2) |
            bits(vld1q_u8(w + KERN__Q5_K_QH + of_256), sub / 2, 4, 1);
        break;
    case KERN_Q6_K: {
        size_t ql = 64 * (16 * (sub / 8) + 8 * (sub / 2 % 2) + 4 * (sub % 2)) + at;
        v = nibbles(w + KERN__Q6_K_QL + ql, sub / 4 % 2) |
            bits(vld1q_u8(w + KERN__Q6_K_QH + of_128), sub % 8 / 2 * 2, 4, 3);
        break;
    }
    default: /* IQ4_XS */
        v = nibbles(w + KERN__IQ4_XS_QS + 256 * (sub / 2) + at, sub % 2);
        return vqtbl1q_s8(vld1q_s8(kern__iq4_values), v);
    }
    return vreinterpretq_s8_u8(v);
}

/* Group g of two rows, 8 values each; signs: the group's of all rows. */
KERN__INLINE int8x16_t iq_pair(enum kern_type type, const struct kern__iq_panel *panel,
                               uint8x16_t signs, size_t g, size_t row)
{
    static const uint8_t lanes[16] = {0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1};
    static const uint8_t bit[16] = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
    uint64x2_t grids = vcombine_u64(vcreate_u64(kern__iq_grid(type, panel, g, row)),
                                    vcreate_u64(kern__iq_grid(type, panel, g, row + 1)));
    int8x16_t v = vreinterpretq_s8_u64(grids);
    signs = vqtbl1q_u8(signs, vld1q_u8(lanes) + (uint8_t)row);
    if (kern__iq_is_iq1(type))
        return v - 7 - (vreinterpretq_s8_u8(signs) & 2);
    int8x16_t negative = vreinterpretq_s8_u8(vtstq_u8(signs, vld1q_u8(bit)));
    return (v ^ negative) - negative;
}

KERN__INLINE void iq_values(enum kern_type type, int8x16_t v[4], const struct kern__iq_panel *panel,
                            size_t sub, size_t part)
{
#pragma GCC unroll 2
    for (size_t i = 0; i < 2; i++) {
        size_t g = 2 * sub + i;
        uint8x16_t signs = vld1q_u8(panel->sign[g]);
        int8x16_t a = iq_pair(type, panel, signs, g, 4 * part);
        int8x16_t b = iq_pair(type, panel, signs, g, 4 * part + 2);
        int32x4_t low = vreinterpretq_s32_s8(a), high = vreinterpretq_s32_s8(b);
        v[2 * i] = vreinterpretq_s8_s32(vuzp1q_s32(low, high));
        v[2 * i + 1] = vreinterpretq_s8_s32(vuzp2q_s32(low, high));
    }
}

/* v[j] = the values 16 * sub + 4 * j.. of one part, with the type's offset. */
KERN__INLINE void values_of(enum kern_type type, int8x16_t v[4], const struct source *from,
                            size_t sub, size_t part)
{
    if (kern__iq_is(type)) {
        iq_values(type, v, from->panel, sub, part);
        return;
    }
#pragma GCC unroll 4
    for (size_t j = 0; j < 4; j++)
        v[j] = type == KERN_Q2_K || type == KERN_Q3_K || type == KERN_Q4_K || type == KERN_Q5_K ||
                       type == KERN_Q6_K || type == KERN_IQ4_XS
                   ? k_values(type, from->w, sub, j, part)
                   : small_values(type, from->w, sub, j, part);
}

/* The scale of sub-block `sub` of Q3_K, out of 12 bytes. */
KERN__INLINE int8x16_t q3_k_scales(const uint8_t *sc, size_t sub)
{
    uint8x16_t low = nibbles(sc + 16 * (sub % 8), sub / 8);
    uint8x16_t high = bits(vld1q_u8(sc + 16 * (8 + sub % 4)), sub / 4 * 2, 4, 3);
    return vreinterpretq_s8_u8(low | high) - 32;
}

/* The scales of the 16 rows in a sub of a block of 256. */
KERN__INLINE int8x16_t scales_of(enum kern_type type, const struct source *from, size_t sub)
{
    if (kern__iq_is(type))
        return vreinterpretq_s8_u8(vld1q_u8(from->panel->scale[sub]));
    switch ((int)type) {
    case KERN_Q2_K:
        return vreinterpretq_s8_u8(nibbles(from->w + KERN__Q2_K_SCALES + 16 * sub, 0));
    case KERN_Q3_K:
        return q3_k_scales(from->w + KERN__Q3_K_SCALES, sub);
    case KERN_Q4_K:
        return vreinterpretq_s8_u8(vld1q_u8(from->w + KERN__Q4_K_SCALES + 16 * (sub / 2)));
    case KERN_Q5_K:
        return vreinterpretq_s8_u8(vld1q_u8(from->w + KERN__Q5_K_SCALES + 16 * (sub / 2)));
    case KERN_Q6_K:
        return vreinterpretq_s8_u8(vld1q_u8(from->w + KERN__Q6_K_SCALES + 16 * sub));
    default: /* IQ4_XS */
        return vreinterpretq_s8_u8(vld1q_u8(from->w + KERN__IQ4_XS_SCALES + 16 * (sub / 2)));
    }
}

/* Minimum i of the 16 rows, i < 256 / sub_of(type). */
KERN__INLINE int8x16_t mins_of(enum kern_type type, const uint8_t *w, size_t i)
{
    if (type == KERN_Q2_K)
        return vreinterpretq_s8_u8(nibbles(w + KERN__Q2_K_SCALES + 16 * i, 1));
    size_t mins = type == KERN_Q4_K ? KERN__Q4_K_MINS : KERN__Q5_K_MINS;
    return vreinterpretq_s8_u8(vld1q_u8(w + mins + 16 * i));
}

KERN__INLINE float32x4_t halves(const uint8_t *from)
{
    return vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(from)));
}

/* 2^(e - 128) of 4 exponents; the two smallest are subnormal. */
KERN__INLINE float32x4_t exponents(const uint8_t *from)
{
    uint32_t bytes;
    memcpy(&bytes, from, 4);
    uint16x8_t words = vmovl_u8(vreinterpret_u8_u32(vdup_n_u32(bytes)));
    uint32x4_t e = vmovl_u16(vget_low_u16(words));
    uint32x4_t normal = (e - 1) << 23, subnormal = vshlq_u32(vdupq_n_u32(0x00200000), (int32x4_t)e);
    return vreinterpretq_f32_u32(vbslq_u32(vcltq_u32(e, vdupq_n_u32(2)), subnormal, normal));
}

/* The factor of a block's weights, of one part. */
KERN__INLINE float32x4_t d_of(enum kern_type type, const uint8_t *w, size_t part)
{
    if (type == KERN_MXFP4)
        return exponents(w + 4 * part);
    float32x4_t d = halves(w + 8 * part);
    return kern__iq_is(type) ? vmulq_n_f32(d, kern__iq_factor(type)) : d;
}

/* The factor of a block's sums of activations; all that have one have it behind d. Blocks of 256
 * take minima off. */
KERN__INLINE float32x4_t m_of(enum kern_type type, const uint8_t *w, size_t part)
{
    float32x4_t m = halves(w + KERN__Q4_1_M + 8 * part);
    return type == KERN_Q4_1 || type == KERN_Q5_1 ? m : vnegq_f32(m);
}

_Static_assert(KERN__Q4_1_M == 32 && KERN__Q5_1_M == 32 && KERN__Q2_K_DMIN == 32 &&
                   KERN__Q4_K_DMIN == 32 && KERN__Q5_K_DMIN == 32,
               "minima lie behind the scales");

#endif
