/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Products with AVX2 of the types of 32 values that have a fifth bit, a minimum or a codebook.
 *
 * maddubs multiplies unsigned by signed bytes and saturates its sums of two. Of weights up to 31
 * (Q4_1, Q5_0, Q5_1; MXFP4's codebook with 12 added goes up to 24) four such sums stay within
 * 4 * 2 * 31 * 127 < 2^15. The codebook of IQ4_NL, to -127, gives its sign to the activation: one
 * sum is at most 2 * 127 * 127 < 2^15, and is widened at once.
 */
#include "kernels/x86/lanes_avx2.h"

/* What the unsigned weights of a type have too much. */
KERN__INLINE int offset_of(enum kern_type type)
{
    return type == KERN_Q5_0 ? 16 : type == KERN_MXFP4 ? 12 : 0;
}

/* Half a vector each of j and j + 4. qh: the fifth bits, that of vector j lowest. */
KERN__INLINE void small_values(enum kern_type type, __m256i out[2], const char *qs, __m256i qh,
                               __m256i book)
{
    const __m256i fifth = _mm256_set1_epi8(16);
    __m256i v = load(qs);
    out[0] = low_nibbles(v);
    out[1] = high_nibbles(v);
    if (type == KERN_Q5_0 || type == KERN_Q5_1) {
        out[0] = _mm256_or_si256(out[0], _mm256_and_si256(_mm256_slli_epi16(qh, 4), fifth));
        out[1] = _mm256_or_si256(out[1], _mm256_and_si256(qh, fifth));
    } else if (type == KERN_MXFP4) {
        out[0] = _mm256_shuffle_epi8(book, out[0]);
        out[1] = _mm256_shuffle_epi8(book, out[1]);
    }
}

/* Half a block of each row: s += q . x; qh NULL: there is none. */
KERN__INLINE void small_half(enum kern_type type, __m256i (*s)[HALVES], int h, const char *qs,
                             const char *qh, __m256i book, const char *x, size_t x_bytes, int n)
{
    __m256i high = qh ? load(qh) : _mm256_setzero_si256();
#pragma GCC unroll 2
    for (size_t j = 0; j < 4; j += 2) {
        __m256i a[2], b[2];
        small_values(type, a, qs + 64 * j, high, book);
        small_values(type, b, qs + 64 * j + 64, _mm256_srli_epi16(high, 1), book);
        high = _mm256_srli_epi16(high, 2);
        for (int r = 0; r < n; r++) {
            const char *q = x + r * x_bytes + 4 * j;
            __m256i t = _mm256_maddubs_epi16(a[0], broadcast(q));
            t = _mm256_add_epi16(t, _mm256_maddubs_epi16(a[1], broadcast(q + 16)));
            t = _mm256_add_epi16(t, _mm256_maddubs_epi16(b[0], broadcast(q + 4)));
            t = _mm256_add_epi16(t, _mm256_maddubs_epi16(b[1], broadcast(q + 20)));
            s[r][h] = _mm256_add_epi32(s[r][h], widen(t));
        }
    }
}

/* The same of IQ4_NL. */
KERN__INLINE void iq4_nl_half(__m256i (*s)[HALVES], int h, const char *qs, __m256i book,
                              const char *x, size_t x_bytes, int n)
{
#pragma GCC unroll 2
    for (size_t j = 0; j < 4; j++) {
        __m256i v = load(qs + 64 * j);
        __m256i low = _mm256_shuffle_epi8(book, low_nibbles(v));
        __m256i high = _mm256_shuffle_epi8(book, high_nibbles(v));
        __m256i low_size = _mm256_abs_epi8(low), high_size = _mm256_abs_epi8(high);
        for (int r = 0; r < n; r++) {
            const char *q = x + r * x_bytes + 4 * j;
            __m256i a = _mm256_sign_epi8(broadcast(q), low);
            __m256i b = _mm256_sign_epi8(broadcast(q + 16), high);
            a = widen(_mm256_maddubs_epi16(low_size, a));
            b = widen(_mm256_maddubs_epi16(high_size, b));
            s[r][h] = _mm256_add_epi32(s[r][h], _mm256_add_epi32(a, b));
        }
    }
}

/* s = factor * (sum of x) of one block; sums: its two of row 0. */
KERN__INLINE void spread_sums(__m256i (*s)[HALVES], int factor, const char *sums, size_t x_bytes,
                              int n)
{
    const __m256i factors = _mm256_set1_epi16((short)factor);
    for (int r = 0; r < n; r++)
        s[r][0] = s[r][1] = _mm256_madd_epi16(broadcast(sums + r * x_bytes), factors);
}

KERN__INLINE void accumulate_exponents(__m256 (*acc)[HALVES], const char *w, const char *dx,
                                       size_t x_bytes, __m256i (*s)[HALVES], int n)
{
    for (int h = 0; h < HALVES; h++) {
        __m256 d = load_exponents(w + 8 * h);
        for (int r = 0; r < n; r++) {
            __m256 scale = _mm256_mul_ps(d, broadcast_float(dx + r * x_bytes));
            acc[r][h] = _mm256_fmadd_ps(scale, _mm256_cvtepi32_ps(s[r][h]), acc[r][h]);
        }
    }
}

/* The codebook in both 16 bytes; MXFP4's unsigned. */
KERN__INLINE __m256i load_codebook(enum kern_type type)
{
    const int8_t *values = type == KERN_IQ4_NL ? kern__iq4_values : kern__mxfp4_values;
    __m256i book = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)values));
    return _mm256_add_epi8(book, _mm256_set1_epi8((char)offset_of(type)));
}

/* Blocks of w_bytes with qs and qh (0: none) at these places; a minimum, if any, lies at 32. */
KERN__INLINE void small_rows(enum kern_type type, size_t w_bytes, size_t qs, size_t qh, float *y,
                             size_t ldy, const char *w, const char *x, size_t x_bytes, size_t k,
                             int n)
{
    const char *dx = x + k, *sums = dx + k / 32 * 4;
    const __m256i book = load_codebook(type);
    __m256 acc[MAX_ROWS][HALVES];
    clear(acc, n);
    for (size_t b = 0; b < k / 32; b++, w += w_bytes) {
        kern__prefetch_for(n, w, w_bytes, k / 32);
        __m256i s[MAX_ROWS][HALVES];
        spread_sums(s, -offset_of(type), sums + 4 * b, x_bytes, n);
        for (int h = 0; h < HALVES; h++)
            if (type == KERN_IQ4_NL)
                iq4_nl_half(s, h, w + qs + 32 * h, book, x + 32 * b, x_bytes, n);
            else
                small_half(type, s, h, w + qs + 32 * h, qh ? w + qh + 32 * h : NULL, book,
                           x + 32 * b, x_bytes, n);
        if (type == KERN_MXFP4)
            accumulate_exponents(acc, w, dx + 4 * b, x_bytes, s, n);
        else
            accumulate(acc, w, dx + 4 * b, x_bytes, s, n);
        if (type == KERN_Q4_1 || type == KERN_Q5_1) {
            spread_sums(s, 1, sums + 4 * b, x_bytes, n);
            accumulate(acc, w + KERN__Q4_1_M, dx + 4 * b, x_bytes, s, n);
        }
    }
    store(y, ldy, acc, n);
}

#define q4_1_rows(...) small_rows(KERN_Q4_1, KERN__Q4_1_BYTES, KERN__Q4_1_QS, 0, __VA_ARGS__)
#define q5_0_rows(...)                                                                             \
    small_rows(KERN_Q5_0, KERN__Q5_0_BYTES, KERN__Q5_0_QS, KERN__Q5_0_QH, __VA_ARGS__)
#define q5_1_rows(...)                                                                             \
    small_rows(KERN_Q5_1, KERN__Q5_1_BYTES, KERN__Q5_1_QS, KERN__Q5_1_QH, __VA_ARGS__)
#define iq4_nl_rows(...)                                                                           \
    small_rows(KERN_IQ4_NL, KERN__IQ4_NL_BYTES, KERN__IQ4_NL_QS, 0, __VA_ARGS__)
#define mxfp4_rows(...) small_rows(KERN_MXFP4, KERN__MXFP4_BYTES, KERN__MXFP4_QS, 0, __VA_ARGS__)

KERN__MATMUL(q4_1, 32, KERN__Q4_1_BYTES, 4, 2)
KERN__MATMUL(q5_0, 32, KERN__Q5_0_BYTES, 4, 2)
KERN__MATMUL(q5_1, 32, KERN__Q5_1_BYTES, 4, 2)
KERN__MATMUL(iq4_nl, 32, KERN__IQ4_NL_BYTES, 4, 2)
KERN__MATMUL(mxfp4, 32, KERN__MXFP4_BYTES, 4, 2)

void kern_init_matmul_small_avx2(struct kern_table *t)
{
    t->matmul[KERN_Q4_1] = matmul_q4_1;
    t->matmul[KERN_Q5_0] = matmul_q5_0;
    t->matmul[KERN_Q5_1] = matmul_q5_1;
    t->matmul[KERN_IQ4_NL] = matmul_iq4_nl;
    t->matmul[KERN_MXFP4] = matmul_mxfp4;
}
