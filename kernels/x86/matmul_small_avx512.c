/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Products with AVX-512 of the types of 32 values that have a fifth bit, a minimum or a codebook.
 * Weights are made unsigned for vpdpbusd, codebooks too; what that adds is taken off through the
 * activations' sums.
 */
#include "kernels/x86/lanes_avx512.h"

/* What the unsigned weights of a type have too much. */
KERN__INLINE int offset_of(enum kern_type type)
{
    return type == KERN_Q5_0 ? 16 : type == KERN_IQ4_NL ? 128 : type == KERN_MXFP4 ? 12 : 0;
}

/* The codebook, unsigned, in every 16 bytes. */
KERN__INLINE __m512i unsigned_codebook(enum kern_type type)
{
    __m512i book = load_codebook(type == KERN_IQ4_NL ? kern__iq4_values : kern__mxfp4_values);
    return _mm512_add_epi8(book, _mm512_set1_epi8((char)offset_of(type)));
}

/* The unsigned weights of vectors j and j + 4. */
KERN__INLINE void small_values(enum kern_type type, __m512i out[2], const char *qs, __m512i qh,
                               __m512i book, int j)
{
    __m512i v = load(qs + 64 * j);
    out[0] = low_nibbles(v);
    out[1] = high_nibbles(v);
    if (type == KERN_Q5_0 || type == KERN_Q5_1) {
        out[0] = byte_if_bit(out[0], qh, j, 16);
        out[1] = byte_if_bit(out[1], qh, j + 4, 16);
    } else if (type == KERN_IQ4_NL || type == KERN_MXFP4) {
        out[0] = _mm512_shuffle_epi8(book, out[0]);
        out[1] = _mm512_shuffle_epi8(book, out[1]);
    }
}

/* s = q . x over one block; x, sums: the block's of row 0. */
KERN__INLINE void small_products(enum kern_type type, __m512i s[MAX_ROWS], const char *qs,
                                 __m512i qh, __m512i book, const char *x, const char *sums,
                                 size_t x_bytes, int n)
{
    const __m512i offset = _mm512_set1_epi16((short)-offset_of(type));
    for (int r = 0; r < n; r++)
        s[r] = offset_of(type) ? _mm512_dpwssd_epi32(_mm512_setzero_si512(), offset,
                                                     broadcast(sums + r * x_bytes))
                               : _mm512_setzero_si512();
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
        __m512i v[2];
        small_values(type, v, qs, qh, book, j);
        for (int r = 0; r < n; r++) {
            const char *q = x + r * x_bytes + 4 * j;
            s[r] = _mm512_dpbusd_epi32(s[r], v[0], broadcast(q));
            s[r] = _mm512_dpbusd_epi32(s[r], v[1], broadcast(q + 16));
        }
    }
}

/* acc += (m * dx) * (sum of x). */
KERN__INLINE __m512 add_minimum(__m512 acc, __m512 m, const char *dx, const char *sums)
{
    return accumulate(acc, m, dx, _mm512_madd_epi16(broadcast(sums), _mm512_set1_epi16(1)));
}

/* Blocks of w_bytes with qs and qh (0: none) at these places; a minimum, if any, lies at 32. */
KERN__INLINE void small_rows(enum kern_type type, size_t w_bytes, size_t qs, size_t qh, float *y,
                             size_t ldy, const char *w, const char *x, size_t x_bytes, size_t k,
                             int n)
{
    const bool has_minimum = type == KERN_Q4_1 || type == KERN_Q5_1;
    const char *dx = x + k, *sums = dx + k / 32 * 4;
    const __m512i book = unsigned_codebook(type);
    __m512 acc[MAX_ROWS];
    for (int r = 0; r < n; r++)
        acc[r] = _mm512_setzero_ps();
    for (size_t b = 0; b < k / 32; b++, w += w_bytes) {
        kern__prefetch_for(n, w, w_bytes, k / 32);
        __m512i s[MAX_ROWS], high = qh ? load(w + qh) : _mm512_setzero_si512();
        small_products(type, s, w + qs, high, book, x + 32 * b, sums + 4 * b, x_bytes, n);
        __m512 d = type == KERN_MXFP4 ? load_exponents(w) : load_halves(w);
        __m512 m = has_minimum ? load_halves(w + KERN__Q4_1_M) : _mm512_setzero_ps();
        for (int r = 0; r < n; r++) {
            const char *scale = dx + r * x_bytes + 4 * b;
            acc[r] = accumulate(acc[r], d, scale, s[r]);
            if (has_minimum)
                acc[r] = add_minimum(acc[r], m, scale, sums + r * x_bytes + 4 * b);
        }
    }
    for (int r = 0; r < n; r++)
        _mm512_storeu_ps(y + r * ldy, acc[r]);
}

#define q4_1_rows(...) small_rows(KERN_Q4_1, KERN__Q4_1_BYTES, KERN__Q4_1_QS, 0, __VA_ARGS__)
#define q5_0_rows(...)                                                                             \
    small_rows(KERN_Q5_0, KERN__Q5_0_BYTES, KERN__Q5_0_QS, KERN__Q5_0_QH, __VA_ARGS__)
#define q5_1_rows(...)                                                                             \
    small_rows(KERN_Q5_1, KERN__Q5_1_BYTES, KERN__Q5_1_QS, KERN__Q5_1_QH, __VA_ARGS__)
#define iq4_nl_rows(...)                                                                           \
    small_rows(KERN_IQ4_NL, KERN__IQ4_NL_BYTES, KERN__IQ4_NL_QS, 0, __VA_ARGS__)
#define mxfp4_rows(...) small_rows(KERN_MXFP4, KERN__MXFP4_BYTES, KERN__MXFP4_QS, 0, __VA_ARGS__)

KERN__MATMUL(q4_1, 32, KERN__Q4_1_BYTES, 8, 2)
KERN__MATMUL(q5_0, 32, KERN__Q5_0_BYTES, 8, 2)
KERN__MATMUL(q5_1, 32, KERN__Q5_1_BYTES, 8, 2)
KERN__MATMUL(iq4_nl, 32, KERN__IQ4_NL_BYTES, 8, 2)
KERN__MATMUL(mxfp4, 32, KERN__MXFP4_BYTES, 8, 2)

void kern_init_matmul_small_avx512(struct kern_table *t)
{
    t->matmul[KERN_Q4_1] = matmul_q4_1;
    t->matmul[KERN_Q5_0] = matmul_q5_0;
    t->matmul[KERN_Q5_1] = matmul_q5_1;
    t->matmul[KERN_IQ4_NL] = matmul_iq4_nl;
    t->matmul[KERN_MXFP4] = matmul_mxfp4;
}
