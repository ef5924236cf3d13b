/* SPDX-License-Identifier: Apache-2.0 */
/* The registers of the AVX-512 matrix kernels: loads, and what becomes of sums. The including files
 * only. */
#ifndef KERNELS_X86_LANES_AVX512_H
#define KERNELS_X86_LANES_AVX512_H

#include <stdbool.h>

#include "kernels/x86/matmul.h"

/* Rows of activations at once, where 32 registers allow it. */
#define MAX_ROWS 8

KERN__INLINE __m512i load(const char *from)
{
    return _mm512_loadu_si512(from);
}

KERN__INLINE __m512i broadcast(const char *from)
{
    return _mm512_set1_epi32(kern__load_lane(from));
}

KERN__INLINE __m512 broadcast_float(const char *from)
{
    float value;
    memcpy(&value, from, 4);
    return _mm512_set1_ps(value);
}

KERN__INLINE __m512 load_halves(const char *from)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)from));
}

/* 16 unsigned bytes, one a lane. */
KERN__INLINE __m512i load_u8(const char *from)
{
    return _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)from));
}

KERN__INLINE __m512i load_i8(const char *from)
{
    return _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)from));
}

KERN__INLINE __m512i low_nibbles(__m512i v)
{
    return _mm512_and_si512(v, _mm512_set1_epi8(15));
}

KERN__INLINE __m512i high_nibbles(__m512i v)
{
    return low_nibbles(_mm512_srli_epi16(v, 4));
}

/* v, `byte` added to those bytes whose bit is set in bits. */
KERN__INLINE __m512i byte_if_bit(__m512i v, __m512i bits, int bit, int byte)
{
    __mmask64 set = _mm512_test_epi8_mask(bits, _mm512_set1_epi8((char)(1 << bit)));
    return _mm512_mask_add_epi8(v, set, v, _mm512_set1_epi8((char)byte));
}

/* A codebook in every 16 bytes. */
KERN__INLINE __m512i load_codebook(const int8_t values[16])
{
    return _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)values));
}

/* 2^(e - 128) of 16 exponents; the two smallest are subnormal. */
KERN__INLINE __m512 load_exponents(const char *from)
{
    __m512i e = load_u8(from);
    __m512i normal = _mm512_slli_epi32(_mm512_sub_epi32(e, _mm512_set1_epi32(1)), 23);
    __m512i subnormal = _mm512_sllv_epi32(_mm512_set1_epi32(0x00200000), e);
    __mmask16 small = _mm512_cmplt_epi32_mask(e, _mm512_set1_epi32(2));
    return _mm512_castsi512_ps(_mm512_mask_mov_epi32(normal, small, subnormal));
}

/* scales[s][row] from Q3_K's 12 times 16 bytes. */
KERN__INLINE void q3_k_scales(char scales[256], const char *sc)
{
    const __m512i bits = _mm512_set1_epi8(48), offset = _mm512_set1_epi8(32);
    __m512i a = load(sc), b = load(sc + 64), high = load(sc + 128), v[4];
    v[0] = _mm512_or_si512(low_nibbles(a), _mm512_and_si512(_mm512_slli_epi16(high, 4), bits));
    v[1] = _mm512_or_si512(low_nibbles(b), _mm512_and_si512(_mm512_slli_epi16(high, 2), bits));
    v[2] = _mm512_or_si512(high_nibbles(a), _mm512_and_si512(high, bits));
    v[3] = _mm512_or_si512(high_nibbles(b), _mm512_and_si512(_mm512_srli_epi16(high, 2), bits));
    for (size_t i = 0; i < 4; i++)
        _mm512_storeu_si512(scales + 64 * i, _mm512_sub_epi8(v[i], offset));
}

/* acc + (d * dx) * s. */
KERN__INLINE __m512 accumulate(__m512 acc, __m512 d, const char *dx, __m512i s)
{
    return _mm512_fmadd_ps(_mm512_mul_ps(d, broadcast_float(dx)), _mm512_cvtepi32_ps(s), acc);
}

/* acc - (dmin * dx) * m. */
KERN__INLINE __m512 take_off(__m512 acc, __m512 dmin, const char *dx, __m512i m)
{
    return _mm512_fnmadd_ps(_mm512_mul_ps(dmin, broadcast_float(dx)), _mm512_cvtepi32_ps(m), acc);
}

/* m = sum M * (sum of x) over the 8 minima of one block; sums: the block's 16 sums of row 0, two a
 * minimum. */
KERN__INLINE void minima_of_32(__m512i m[MAX_ROWS], const char *mins, const char *sums,
                               size_t x_bytes, int n)
{
    for (int r = 0; r < n; r++)
        m[r] = _mm512_setzero_si512();
    for (size_t sub = 0; sub < 8; sub++) {
        __m512i min = load_u8(mins + 16 * sub);
        min = _mm512_or_si512(min, _mm512_slli_epi32(min, 16));
        for (int r = 0; r < n; r++)
            m[r] = _mm512_dpwssd_epi32(m[r], min, broadcast(sums + r * x_bytes + 4 * sub));
    }
}

/* s = -offset * sum S * (sum of x) over the 16 signed scales of one block; sums: the block's 16
 * sums of row 0. */
KERN__INLINE void offsets_of_16(__m512i s[MAX_ROWS], const char *scales, const char *sums,
                                size_t x_bytes, int n, int offset)
{
    for (int r = 0; r < n; r++)
        s[r] = _mm512_setzero_si512();
    for (size_t pair = 0; pair < 8; pair++) {
        __m512i lanes =
            _mm512_mask_blend_epi16(0xaaaaaaaa, load_i8(scales + 32 * pair),
                                    _mm512_slli_epi32(load_i8(scales + 32 * pair + 16), 16));
        for (int r = 0; r < n; r++)
            s[r] = _mm512_dpwssd_epi32(s[r], lanes, broadcast(sums + r * x_bytes + 4 * pair));
    }
    for (int r = 0; r < n; r++)
        s[r] = _mm512_mullo_epi32(s[r], _mm512_set1_epi32(-offset));
}

#endif
