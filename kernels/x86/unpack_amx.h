/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How a packed block of a type of 256 values becomes what tile products read: whole bytes, the
 * integer scales multiplied in, so that a block's sum is one sum. A product of scale and value
 * takes up to 14 bits and is cut into its low byte, unsigned, and its high byte, signed; those of
 * Q2_K and Q3_K fit a byte. For matmul_k_amx.c only.
 */
#ifndef KERNELS_X86_UNPACK_AMX_H
#define KERNELS_X86_UNPACK_AMX_H

#include "kernels/iq_panel.h"
#include "kernels/x86/lanes_avx512.h"

/* A block of a panel. */
struct weights {
    _Alignas(64) int8_t low[64][64], high[64][64]; /* of each 4 values a vector */
    _Alignas(64) uint32_t mins[16][KERN_PANEL];    /* of each 16 values, twice as bfloat16 */
    __m512 d, dmin;
};

/* Whether a type's products of scale and value take two bytes, and whether it has minima. */
KERN__INLINE bool is_wide(enum kern_type type)
{
    return type != KERN_Q2_K && type != KERN_Q3_K;
}

KERN__INLINE bool has_minima(enum kern_type type)
{
    return type == KERN_Q2_K || type == KERN_Q4_K || type == KERN_Q5_K;
}

/* The 16 lanes, words, each in both halves of its lane. */
KERN__INLINE __m512i twice(__m512i lanes)
{
    return _mm512_mask_blend_epi16(0xaaaaaaaa, lanes, _mm512_slli_epi32(lanes, 16));
}

/* Vector v: signed bytes times their row's scale, a word that each lane has twice. */
KERN__INLINE void put(struct weights *to, bool wide, size_t v, __m512i bytes, __m512i scales)
{
    const __mmask64 odd_bytes = 0xaaaaaaaaaaaaaaaa;
    __m512i even = _mm512_srai_epi16(_mm512_slli_epi16(bytes, 8), 8);
    __m512i odd = _mm512_srai_epi16(bytes, 8);
    even = _mm512_mullo_epi16(even, scales);
    odd = _mm512_mullo_epi16(odd, scales);
    _mm512_store_si512(to->low[v],
                       _mm512_mask_blend_epi8(odd_bytes, even, _mm512_slli_epi16(odd, 8)));
    if (wide)
        _mm512_store_si512(to->high[v],
                           _mm512_mask_blend_epi8(odd_bytes, _mm512_srli_epi16(even, 8), odd));
}

/* The bits of a vector of packed bytes above bit `shift`, under a mask. */
KERN__INLINE __m512i field(const char *from, size_t shift, char mask)
{
    __m512i bits = _mm512_srlv_epi16(load(from), _mm512_set1_epi16((short)shift));
    return _mm512_and_si512(bits, _mm512_set1_epi8(mask));
}

/* Vector j of the 32 values from 32 * s, signed. Of Q3_K, whose product of the smallest scale and
 * value is 128, minus the values. */
KERN__INLINE __m512i k_values(enum kern_type type, const char *w, size_t s, size_t j)
{
    const size_t half = s / 4, g = s % 4;
    if (type == KERN_Q2_K)
        return field(w + KERN__Q2_K_QS + 64 * (8 * half + j), 2 * g, 3);
    if (type == KERN_Q3_K) {
        __m512i q = field(w + KERN__Q3_K_QS + 64 * (8 * half + j), 2 * g, 3);
        q = byte_if_bit(q, load(w + KERN__Q3_K_HMASK + 64 * j), (int)s, 4);
        return _mm512_sub_epi8(_mm512_set1_epi8(4), q);
    }
    if (type == KERN_Q4_K)
        return field(w + KERN__Q4_K_QS + 64 * (8 * (s / 2) + j), 4 * (s % 2), 15);
    if (type == KERN_Q5_K) {
        __m512i q = field(w + KERN__Q5_K_QS + 64 * (8 * (s / 2) + j), 4 * (s % 2), 15);
        return byte_if_bit(q, load(w + KERN__Q5_K_QH + 64 * j), (int)s, 16);
    }
    if (type == KERN_IQ4_XS) {
        __m512i q = field(w + KERN__IQ4_XS_QS + 64 * (4 * s + j % 4), 4 * (j / 4), 15);
        return _mm512_shuffle_epi8(load_codebook(kern__iq4_values), q);
    }
    __m512i low = field(w + KERN__Q6_K_QL + 64 * (16 * half + 8 * (g % 2) + j), 4 * (g / 2), 15);
    __m512i high = field(w + KERN__Q6_K_QH + 64 * (8 * half + j), 2 * g, 3);
    __m512i q = _mm512_or_si512(low, _mm512_slli_epi16(high, 4));
    return _mm512_sub_epi8(q, _mm512_set1_epi8(32));
}

/* Where a type's scales lie, 16 bytes for each 16 or 32 values; Q3_K's are put together in room. */
KERN__INLINE const char *k_scales(enum kern_type type, const char *w, char room[256])
{
    switch ((int)type) {
    case KERN_Q2_K:
        return w + KERN__Q2_K_SCALES;
    case KERN_Q3_K:
        q3_k_scales(room, w + KERN__Q3_K_SCALES);
        return room;
    case KERN_Q6_K:
        return w + KERN__Q6_K_SCALES;
    case KERN_IQ4_XS:
        return w + KERN__IQ4_XS_SCALES;
    default:
        return w + KERN__Q4_K_SCALES; /* Q5_K's too */
    }
}

/* The scales of vectors 4i to 4i + 3. */
KERN__INLINE __m512i k_scale(enum kern_type type, const char *scales, size_t i)
{
    const bool of_16 = type == KERN_Q2_K || type == KERN_Q3_K || type == KERN_Q6_K;
    __m512i lanes = load_i8(scales + 16 * (of_16 ? i : i / 2));
    if (type == KERN_Q2_K)
        lanes = low_nibbles(lanes);
    return twice(type == KERN_Q2_K ? _mm512_and_si512(lanes, _mm512_set1_epi32(255)) : lanes);
}

/* Whole numbers up to 63 are exact in bfloat16. */
KERN__INLINE void k_minima(enum kern_type type, struct weights *to, const char *w)
{
    for (size_t i = 0; i < 16; i++) {
        __m512i min = type == KERN_Q2_K
                          ? _mm512_srli_epi32(load_u8(w + KERN__Q2_K_SCALES + 16 * i), 4)
                          : load_u8(w + KERN__Q4_K_MINS + 16 * (i / 2));
        __m512i bits = _mm512_castps_si512(_mm512_cvtepi32_ps(min));
        _mm512_store_si512(to->mins[i], _mm512_or_si512(bits, _mm512_srli_epi32(bits, 16)));
    }
    to->dmin = load_halves(w + (type == KERN_Q2_K ? KERN__Q2_K_DMIN : KERN__Q4_K_DMIN));
}

KERN__INLINE void k_unpack(enum kern_type type, struct weights *to, const char *w)
{
    char room[256];
    const char *scales = k_scales(type, w, room);
    __m512 d = load_halves(w);
    to->d = type == KERN_Q3_K ? _mm512_sub_ps(_mm512_set1_ps(-0.0f), d) : d;
    for (size_t s = 0; s < 8; s++) {
        __m512i first = k_scale(type, scales, 2 * s), second = k_scale(type, scales, 2 * s + 1);
#pragma GCC unroll 8
        for (size_t j = 0; j < 8; j++)
            put(to, is_wide(type), 8 * s + j, k_values(type, w, s, j), j < 4 ? first : second);
    }
    if (has_minima(type))
        k_minima(type, to, w);
}

/* Of 16 rows, the 4 values at half h of group g, without signs or shift. */
KERN__INLINE __m512i iq_grids(enum kern_type type, const struct kern__iq_panel *panel, size_t g,
                              size_t h)
{
    const struct kern__iq_grids *grids = &kern__iq_grids;
    const uint64_t *from = type == KERN_IQ2_XXS   ? grids->iq2_xxs
                           : type == KERN_IQ2_XS  ? grids->iq2_xs
                           : type == KERN_IQ2_S   ? grids->iq2_s
                           : type == KERN_IQ3_XXS ? grids->iq3_xxs_first
                           : type == KERN_IQ3_S   ? grids->iq3_s_first
                                                  : grids->iq1;
    size_t i = kern__iq_is_iq3(type) ? 2 * g + h : g;
    __m512i index = kern__iq_is_xxs(type)
                        ? load_u8((const char *)panel->low[i])
                        : _mm512_cvtepu16_epi32(_mm256_load_si256((const void *)panel->index[i]));
    return _mm512_i32gather_epi32(index, (const char *)from + (kern__iq_is_iq3(type) ? 0 : 4 * h),
                                  8);
}

/* The same with their signs; sign: that of the group's 8 values, in each byte of a row's lane. */
KERN__INLINE __m512i iq_values(enum kern_type type, const struct kern__iq_panel *panel, size_t g,
                               size_t h, __m512i sign)
{
    __m512i w = iq_grids(type, panel, g, h);
    if (kern__iq_is_iq1(type)) /* 7 taken off, or 9 */
        return _mm512_add_epi8(_mm512_sub_epi8(w, _mm512_set1_epi8(7)),
                               _mm512_add_epi8(sign, sign));
    __m512i bits = _mm512_set1_epi32(h ? (int)0x80402010 : 0x08040201);
    return _mm512_mask_sub_epi8(w, _mm512_test_epi8_mask(sign, bits), _mm512_setzero_si512(), w);
}

KERN__INLINE void iq_unpack(enum kern_type type, struct weights *to, const char *packed)
{
    const __m512i fours = _mm512_set4_epi32(0x0c0c0c0c, 0x08080808, 0x04040404, 0);
    struct kern__iq_panel panel;
    kern__iq_take_apart(type, &panel, (const uint8_t *)packed);
    to->d = _mm512_mul_ps(load_halves(packed), _mm512_set1_ps(kern__iq_factor(type)));
    for (size_t g = 0; g < 32; g++) {
        __m512i sign = _mm512_shuffle_epi8(load_u8((const char *)panel.sign[g]), fours);
        __m512i scale = twice(load_u8((const char *)panel.scale[g / 2]));
        put(to, true, 2 * g, iq_values(type, &panel, g, 0, sign), scale);
        put(to, true, 2 * g + 1, iq_values(type, &panel, g, 1, sign), scale);
    }
}

#endif
