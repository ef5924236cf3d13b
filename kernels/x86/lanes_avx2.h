/* SPDX-License-Identifier: Apache-2.0 */
/* The registers of the AVX2 matrix kernels: loads, and what becomes of sums. The including files
 * only. */
#ifndef KERNELS_X86_LANES_AVX2_H
#define KERNELS_X86_LANES_AVX2_H

#include "kernels/x86/matmul.h"

/* Rows of activations at once, and halves. */
#define MAX_ROWS 4
#define HALVES   2

KERN__INLINE __m256i load(const char *from)
{
    return _mm256_loadu_si256((const __m256i *)from);
}

KERN__INLINE __m256i broadcast(const char *from)
{
    return _mm256_set1_epi32(kern__load_lane(from));
}

KERN__INLINE __m256 broadcast_float(const char *from)
{
    float value;
    memcpy(&value, from, 4);
    return _mm256_set1_ps(value);
}

KERN__INLINE __m256 load_halves(const char *from)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)from));
}

/* 8 bytes, one a lane. */
KERN__INLINE __m256i load_u8(const char *from)
{
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)from));
}

KERN__INLINE __m256i load_i8(const char *from)
{
    return _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)from));
}

/* Lanes whose lower 16 bits are a's and whose upper 16 bits are b's lower. */
KERN__INLINE __m256i pair_lanes(__m256i a, __m256i b)
{
    return _mm256_blend_epi16(a, _mm256_slli_epi32(b, 16), 0xaa);
}

KERN__INLINE __m256i low_nibbles(__m256i v)
{
    return _mm256_and_si256(v, _mm256_set1_epi8(15));
}

KERN__INLINE __m256i high_nibbles(__m256i v)
{
    return low_nibbles(_mm256_srli_epi16(v, 4));
}

/* 2^(e - 128) of 8 exponents; the two smallest are subnormal. */
KERN__INLINE __m256 load_exponents(const char *from)
{
    __m256i e = load_u8(from);
    __m256i normal = _mm256_slli_epi32(_mm256_sub_epi32(e, _mm256_set1_epi32(1)), 23);
    __m256i subnormal = _mm256_sllv_epi32(_mm256_set1_epi32(0x00200000), e);
    __m256i small = _mm256_cmpgt_epi32(_mm256_set1_epi32(2), e);
    return _mm256_castsi256_ps(_mm256_blendv_epi8(normal, subnormal, small));
}

/* scales[s][row] from Q3_K's 12 times 16 bytes. */
KERN__INLINE void q3_k_scales(char scales[256], const char *sc)
{
    const __m256i bits = _mm256_set1_epi8(48);
    for (size_t i = 0; i < 4; i++) {
        __m256i low = load(sc + 32 * i), high = load(sc + 128 + 32 * (i % 2)), a, b;
        if (i < 2) {
            a = _mm256_slli_epi16(high, 4);
            b = high;
        } else {
            a = _mm256_slli_epi16(high, 2);
            b = _mm256_srli_epi16(high, 2);
        }
        a = _mm256_or_si256(low_nibbles(low), _mm256_and_si256(a, bits));
        b = _mm256_or_si256(high_nibbles(low), _mm256_and_si256(b, bits));
        a = _mm256_sub_epi8(a, _mm256_set1_epi8(32));
        b = _mm256_sub_epi8(b, _mm256_set1_epi8(32));
        _mm256_storeu_si256((__m256i *)(scales + 32 * i), a);
        _mm256_storeu_si256((__m256i *)(scales + 128 + 32 * i), b);
    }
}

/* Pairs of 16 bits added into 32. */
KERN__INLINE __m256i widen(__m256i v)
{
    return _mm256_madd_epi16(v, _mm256_set1_epi16(1));
}

KERN__INLINE void clear(__m256 (*acc)[HALVES], int n)
{
    for (int r = 0; r < n; r++)
        acc[r][0] = acc[r][1] = _mm256_setzero_ps();
}

KERN__INLINE void clear_sums(__m256i (*s)[HALVES], int n)
{
    for (int r = 0; r < n; r++)
        s[r][0] = s[r][1] = _mm256_setzero_si256();
}

/* acc += (d * dx) * s; w: a packed block, dx: its scale of row 0. */
KERN__INLINE void accumulate(__m256 (*acc)[HALVES], const char *w, const char *dx, size_t x_bytes,
                             __m256i (*s)[HALVES], int n)
{
    for (int h = 0; h < HALVES; h++) {
        __m256 d = load_halves(w + 16 * h);
        for (int r = 0; r < n; r++) {
            __m256 scale = _mm256_mul_ps(d, broadcast_float(dx + r * x_bytes));
            acc[r][h] = _mm256_fmadd_ps(scale, _mm256_cvtepi32_ps(s[r][h]), acc[r][h]);
        }
    }
}

KERN__INLINE void store(float *y, size_t ldy, __m256 (*acc)[HALVES], int n)
{
    for (int r = 0; r < n; r++)
        for (int h = 0; h < HALVES; h++)
            _mm256_storeu_ps(y + r * ldy + 8 * h, acc[r][h]);
}

/* acc -= (dmin * dx) * m; dmin: 16 halves. */
KERN__INLINE void take_off(__m256 (*acc)[HALVES], const char *dmin, const char *dx, size_t x_bytes,
                           __m256i (*m)[HALVES], int n)
{
    for (int h = 0; h < HALVES; h++) {
        __m256 d = load_halves(dmin + 16 * h);
        for (int r = 0; r < n; r++) {
            __m256 scale = _mm256_mul_ps(d, broadcast_float(dx + r * x_bytes));
            acc[r][h] = _mm256_fnmadd_ps(scale, _mm256_cvtepi32_ps(m[r][h]), acc[r][h]);
        }
    }
}

/* m = sum M * (sum of x) over the 8 minima of one block; sums: the block's 16 sums of row 0, two a
 * minimum. */
KERN__INLINE void minima_of_32(__m256i (*m)[HALVES], const char *mins, const char *sums,
                               size_t x_bytes, int n)
{
    clear_sums(m, n);
#pragma GCC unroll 2
    for (size_t sub = 0; sub < 8; sub++) {
        for (int h = 0; h < HALVES; h++) {
            __m256i min = load_u8(mins + 16 * sub + 8 * h);
            min = pair_lanes(min, min);
            for (int r = 0; r < n; r++) {
                __m256i sum = broadcast(sums + r * x_bytes + 4 * sub);
                m[r][h] = _mm256_add_epi32(m[r][h], _mm256_madd_epi16(min, sum));
            }
        }
    }
}

/* s = -offset * sum S * (sum of x) over the 16 signed scales of one block; sums: the block's 16
 * sums of row 0. */
KERN__INLINE void offsets_of_16(__m256i (*s)[HALVES], const char *scales, const char *sums,
                                size_t x_bytes, int n, int offset)
{
    clear_sums(s, n);
#pragma GCC unroll 2
    for (size_t pair = 0; pair < 8; pair++) {
        for (int h = 0; h < HALVES; h++) {
            const char *from = scales + 32 * pair + 8 * h;
            __m256i lanes = pair_lanes(load_i8(from), load_i8(from + 16));
            for (int r = 0; r < n; r++) {
                __m256i sum = broadcast(sums + r * x_bytes + 4 * pair);
                s[r][h] = _mm256_add_epi32(s[r][h], _mm256_madd_epi16(lanes, sum));
            }
        }
    }
    for (int r = 0; r < n; r++)
        for (int h = 0; h < HALVES; h++)
            s[r][h] = _mm256_mullo_epi32(s[r][h], _mm256_set1_epi32(-offset));
}

#endif
