/* SPDX-License-Identifier: Apache-2.0 */
/* How packed blocks become whole bytes or words, once for many rows of activations. For
 * matmul_many_avx2.c only. */
#ifndef KERNELS_X86_UNPACK_AVX2_H
#define KERNELS_X86_UNPACK_AVX2_H

#include <stdbool.h>

#include "kernels/x86/lanes_avx2.h"

/* 256 values of a panel, or the blocks of 32 that are left of them. */
struct block {
    union {
        _Alignas(64) uint8_t bytes[64][64]; /* unsigned, of each 4 values a vector */
        int16_t words[128][32];             /* of each 2 values */
    };
    __m256i scale[16][HALVES];         /* of each 16 or 32 values, in both words of a lane */
    __m256i offsets[8][HALVES];        /* of each 32 values two words, which multiply the sums
                                          of 16 activations: minima, or what makes the weights
                                          unsigned */
    __m256 d[8][HALVES], m[8][HALVES]; /* types of 32 values: each block's; others: the first */
};

/* How many products of maddubs may be added; 0: the weights become words, signed. */
KERN__INLINE size_t adds_of(enum kern_type type)
{
    switch ((int)type) {
    case KERN_Q4_0:
    case KERN_Q4_1:
    case KERN_Q4_K:
        return 8;
    case KERN_Q8_0:
    case KERN_IQ4_NL:
    case KERN_IQ4_XS:
        return 0;
    case KERN_Q6_K:
        return 2;
    default:
        return 4;
    }
}

/* What makes the weights of a type unsigned. */
KERN__INLINE int offset_of(enum kern_type type)
{
    return type == KERN_Q6_K    ? 32
           : type == KERN_Q5_0  ? 16
           : type == KERN_MXFP4 ? 12
           : type == KERN_Q4_0  ? 8
           : type == KERN_Q3_K  ? 4
                                : 0;
}

KERN__INLINE bool has_minima(enum kern_type type)
{
    return type == KERN_Q4_1 || type == KERN_Q5_1 || type == KERN_Q2_K || type == KERN_Q4_K ||
           type == KERN_Q5_K;
}

KERN__INLINE bool scales_of_16(enum kern_type type)
{
    return type == KERN_Q2_K || type == KERN_Q3_K || type == KERN_Q6_K;
}

/* Half h of vector v. */
KERN__INLINE void put(struct block *to, bool words, size_t v, int h, __m256i values)
{
    const __m256i pairs = _mm256_set_epi8(13, -1, 12, -1, 9, -1, 8, -1, 5, -1, 4, -1, 1, -1, 0, -1,
                                          13, -1, 12, -1, 9, -1, 8, -1, 5, -1, 4, -1, 1, -1, 0, -1);
    if (!words) {
        _mm256_store_si256((__m256i *)(to->bytes[v] + 32 * h), values);
        return;
    }
    __m256i first = _mm256_shuffle_epi8(values, pairs);
    __m256i second = _mm256_shuffle_epi8(_mm256_srli_epi32(values, 16), pairs);
    _mm256_store_si256((__m256i *)(to->words[2 * v] + 16 * h), _mm256_srai_epi16(first, 8));
    _mm256_store_si256((__m256i *)(to->words[2 * v + 1] + 16 * h), _mm256_srai_epi16(second, 8));
}

KERN__INLINE __m256i field(const char *from, size_t shift, char mask)
{
    __m256i bits = _mm256_srl_epi16(load(from), _mm_cvtsi32_si128((int)shift));
    return _mm256_and_si256(bits, _mm256_set1_epi8(mask));
}

/* v, `byte` added to those bytes whose bit is set in bits. */
KERN__INLINE __m256i byte_if_bit(__m256i v, __m256i bits, size_t bit, char byte)
{
    __m256i one = _mm256_set1_epi8((char)(1 << bit));
    __m256i set = _mm256_cmpeq_epi8(_mm256_and_si256(bits, one), one);
    return _mm256_or_si256(v, _mm256_and_si256(set, _mm256_set1_epi8(byte)));
}

KERN__INLINE __m256i codebook(enum kern_type type)
{
    const int8_t *values = type == KERN_MXFP4 ? kern__mxfp4_values : kern__iq4_values;
    __m256i book = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)values));
    return _mm256_add_epi8(book, _mm256_set1_epi8((char)offset_of(type)));
}

/* Where the parts of a packed block of 32 values lie (qh 0: none). */
struct layout {
    enum kern_type type;
    size_t bytes, qs, qh;
};

/* Vector v of the 8 of a block of 32 values; w, of its half. */
KERN__INLINE __m256i small_values(const struct layout *at, const char *w, size_t v)
{
    if (at->type == KERN_Q8_0)
        return load(w + at->qs + 64 * v);
    __m256i q = field(w + at->qs + 64 * (v % 4), v < 4 ? 0 : 4, 15);
    if (at->qh)
        return byte_if_bit(q, load(w + at->qh), v, 16);
    if (at->type == KERN_IQ4_NL || at->type == KERN_MXFP4)
        return _mm256_shuffle_epi8(codebook(at->type), q);
    return q;
}

/* Vector j of the 8 of the 32 values from 32 * s of a K type's block; w, of its half. */
KERN__INLINE __m256i k_values(enum kern_type type, const char *w, size_t s, size_t j)
{
    const size_t half = s / 4, g = s % 4;
    if (type == KERN_Q2_K)
        return field(w + KERN__Q2_K_QS + 64 * (8 * half + j), 2 * g, 3);
    if (type == KERN_Q3_K) {
        __m256i q = field(w + KERN__Q3_K_QS + 64 * (8 * half + j), 2 * g, 3);
        return byte_if_bit(q, load(w + KERN__Q3_K_HMASK + 64 * j), s, 4);
    }
    if (type == KERN_Q4_K)
        return field(w + KERN__Q4_K_QS + 64 * (8 * (s / 2) + j), 4 * (s % 2), 15);
    if (type == KERN_Q5_K) {
        __m256i q = field(w + KERN__Q5_K_QS + 64 * (8 * (s / 2) + j), 4 * (s % 2), 15);
        return byte_if_bit(q, load(w + KERN__Q5_K_QH + 64 * j), s, 16);
    }
    if (type == KERN_IQ4_XS) {
        __m256i q = field(w + KERN__IQ4_XS_QS + 64 * (4 * s + j % 4), 4 * (j / 4), 15);
        return _mm256_shuffle_epi8(codebook(type), q);
    }
    __m256i low = field(w + KERN__Q6_K_QL + 64 * (16 * half + 8 * (g % 2) + j), 4 * (g / 2), 15);
    __m256i high = field(w + KERN__Q6_K_QH + 64 * (8 * half + j), 2 * g, 3);
    return _mm256_or_si256(low, _mm256_slli_epi16(high, 4));
}

KERN__INLINE void small_unpack(enum kern_type type, size_t bytes, size_t qs, size_t qh,
                               struct block *to, const char *w, size_t n_values)
{
    const struct layout at = {type, bytes, qs, qh};
    for (int h = 0; h < HALVES; h++) {
        for (size_t i = 0; i < n_values / 32; i++) {
            const char *from = w + bytes * i;
#pragma GCC unroll 8
            for (size_t v = 0; v < 8; v++)
                put(to, !adds_of(type), 8 * i + v, h, small_values(&at, from + 32 * h, v));
            to->d[i][h] =
                type == KERN_MXFP4 ? load_exponents(from + 8 * h) : load_halves(from + 16 * h);
            if (has_minima(type))
                to->m[i][h] = load_halves(from + KERN__Q4_1_M + 16 * h); /* Q5_1's too */
        }
        to->scale[0][h] = _mm256_set1_epi16(1);
        to->offsets[0][h] = _mm256_set1_epi16((short)(has_minima(type) ? 1 : -offset_of(type)));
    }
}

/* Where a type's scales lie, 16 bytes for each 16 or 32 values; Q3_K's are put together in room. */
KERN__INLINE const char *k_scales(enum kern_type type, const char *w, char room[256])
{
    if (type == KERN_Q3_K)
        q3_k_scales(room, w + KERN__Q3_K_SCALES);
    return type == KERN_Q3_K     ? room
           : type == KERN_Q2_K   ? w + KERN__Q2_K_SCALES
           : type == KERN_Q6_K   ? w + KERN__Q6_K_SCALES
           : type == KERN_IQ4_XS ? w + KERN__IQ4_XS_SCALES
                                 : w + KERN__Q4_K_SCALES; /* Q5_K's too */
}

/* Scale i of half h's rows. */
KERN__INLINE __m256i k_scale(enum kern_type type, const char *scales, size_t i, int h)
{
    __m256i lanes = load_i8(scales + 16 * i + 8 * h);
    return type == KERN_Q2_K ? _mm256_and_si256(lanes, _mm256_set1_epi32(15)) : lanes;
}

/* The minimum of values 16i to 16i + 15 of half h's rows. */
KERN__INLINE __m256i k_minimum(enum kern_type type, const char *w, size_t i, int h)
{
    return type == KERN_Q2_K ? _mm256_srli_epi32(load_u8(w + KERN__Q2_K_SCALES + 16 * i + 8 * h), 4)
                             : load_u8(w + KERN__Q4_K_MINS + 16 * (i / 2) + 8 * h); /* Q5_K's too */
}

KERN__INLINE void k_unpack(enum kern_type type, struct block *to, const char *w)
{
    char room[256];
    const char *scales = k_scales(type, w, room);
    const size_t dmin = type == KERN_Q2_K ? KERN__Q2_K_DMIN : KERN__Q4_K_DMIN;
    for (int h = 0; h < HALVES; h++) {
        for (size_t s = 0; s < 8; s++)
#pragma GCC unroll 8
            for (size_t j = 0; j < 8; j++)
                put(to, !adds_of(type), 8 * s + j, h, k_values(type, w + 32 * h, s, j));
        for (size_t i = 0; i < (scales_of_16(type) ? 16 : 8); i++) {
            __m256i lanes = k_scale(type, scales, i, h);
            to->scale[i][h] = adds_of(type) ? pair_lanes(lanes, lanes) : lanes;
        }
        for (size_t i = 0; i < 8; i++) {
            __m256i first, second;
            if (has_minima(type)) {
                first = k_minimum(type, w, 2 * i, h);
                second = k_minimum(type, w, 2 * i + 1, h);
            } else {
                const __m256i offset = _mm256_set1_epi32(-offset_of(type));
                first = _mm256_mullo_epi32(offset, k_scale(type, scales, 2 * i, h));
                second = _mm256_mullo_epi32(offset, k_scale(type, scales, 2 * i + 1, h));
            }
            to->offsets[i][h] =
                pair_lanes(_mm256_and_si256(first, _mm256_set1_epi32(0xffff)), second);
        }
        to->d[0][h] = load_halves(w + 16 * h);
        if (has_minima(type))
            to->m[0][h] = load_halves(w + dmin + 16 * h);
    }
}

#endif
