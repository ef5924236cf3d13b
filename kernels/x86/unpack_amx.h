/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How a packed block of a type of 256 values becomes what tile products read: whole bytes, the
 * integer scales multiplied in, so that a block's sum is one sum. A product of scale and value
 * takes up to 14 bits and is cut into its low byte, unsigned, and its high byte, signed; those of
 * Q2_K and Q3_K fit a byte. For matmul_k_amx.c only.
 */
#ifndef KERNELS_X86_UNPACK_AMX_H
#define KERNELS_X86_UNPACK_AMX_H

#include "kernels/x86/lanes_avx512.h"
#include "kernels/x86/unpack_avx512.h"

/* A block of a panel. */
struct weights {
    _Alignas(64) int8_t low[64][64], high[64][64]; /* of each 4 values a vector */
    _Alignas(64) uint32_t mins[16][KERN_PANEL];    /* of each 16 values, twice as bfloat16 */
    __m512 d, dmin;
};

/* Whether a type's products of scale and value take two bytes. */
KERN__INLINE bool is_wide(enum kern_type type)
{
    return type != KERN_Q2_K && type != KERN_Q3_K;
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

/* Whole numbers up to 63 are exact in bfloat16. */
KERN__INLINE void put_minima(struct weights *to, const struct kern__block *b)
{
    for (size_t i = 0; i < 16; i++) {
        __m512i min = i % 2 ? _mm512_srli_epi32(b->words[i / 2], 16)
                            : _mm512_and_si512(b->words[i / 2], _mm512_set1_epi32(0xffff));
        __m512i bits = _mm512_castps_si512(_mm512_cvtepi32_ps(min));
        _mm512_store_si512(to->mins[i], _mm512_or_si512(bits, _mm512_srli_epi32(bits, 16)));
    }
    to->dmin = b->m[0];
}

/* Of Q3_K, whose product of the smallest scale and value is 128, minus the values, and minus d. */
KERN__INLINE void unpack(enum kern_type type, struct weights *to, const char *w)
{
    const size_t vectors = kern__scales_of_16(type) ? 4 : 8; /* that share a scale */
    const __m512i offset = _mm512_set1_epi8((char)kern__unpack_offset(type));
    struct kern__block b;
    kern__unpack[type](&b, w, 256);
    for (size_t v = 0; v < 64; v++) {
        __m512i bytes = _mm512_load_si512(b.w[v]);
        bytes = type == KERN_Q3_K ? _mm512_sub_epi8(offset, bytes) : _mm512_sub_epi8(bytes, offset);
        put(to, is_wide(type), v, bytes, twice(b.scale[v / vectors]));
    }
    to->d = type == KERN_Q3_K ? _mm512_sub_ps(_mm512_set1_ps(-0.0f), b.d[0]) : b.d[0];
    if (kern__has_minima(type))
        put_minima(to, &b);
}

#endif
