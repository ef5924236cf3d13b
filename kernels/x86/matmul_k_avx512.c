/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Products with AVX-512 of types of 256 values: Q2_K, Q3_K, Q5_K and IQ4_XS.
 *
 * A sub-block's sum of products of Q2_K (3 * 127 * 16 at most) or Q3_K (7 * 127 * 16) fits into 16
 * bits, so vpdpwssd multiplies it by its scale and adds; the upper half of the scale's lane is 0.
 * Their sub-blocks are unrolled so that shifts and bits become constants.
 */
#include "kernels/x86/lanes_avx512.h"

/* s += S * (q . x) over sub-block `sub`; hmask: the vectors with Q3_K's upper bits, or NULL; x: the
 * sub-block's activations of row 0. */
KERN__INLINE void two_bit_products(__m512i s[MAX_ROWS], const char *qs, const char *hmask,
                                   __m512i scale, const char *x, size_t x_bytes, int n, int sub)
{
    const __m512i shift = _mm512_set1_epi16((short)(2 * (sub % 8 / 2)));
    __m512i t[MAX_ROWS];
    for (int r = 0; r < n; r++)
        t[r] = _mm512_setzero_si512();
    qs += 64 * (8 * (sub / 8) + 4 * (sub % 2));
#pragma GCC unroll 4
    for (size_t j = 0; j < 4; j++) {
        __m512i v = _mm512_srlv_epi16(load(qs + 64 * j), shift);
        v = _mm512_and_si512(v, _mm512_set1_epi8(3));
        if (hmask)
            v = byte_if_bit(v, load(hmask + 64 * (4 * (sub % 2) + j)), sub / 2, 4);
        for (int r = 0; r < n; r++)
            t[r] = _mm512_dpbusd_epi32(t[r], v, broadcast(x + r * x_bytes + 4 * j));
    }
    for (int r = 0; r < n; r++)
        s[r] = _mm512_dpwssd_epi32(s[r], t[r], scale);
}

/* s = sum S * (q . x) over one block; x: the block's activations of row 0. */
KERN__INLINE void q2_k_products(__m512i s[MAX_ROWS], const char *w, const char *x, size_t x_bytes,
                                int n)
{
    for (int r = 0; r < n; r++)
        s[r] = _mm512_setzero_si512();
#pragma GCC unroll 16
    for (int sub = 0; sub < 16; sub++) {
        __m512i scale = load_u8(w + KERN__Q2_K_SCALES + 16 * sub);
        scale = _mm512_and_si512(scale, _mm512_set1_epi32(15));
        two_bit_products(s, w + KERN__Q2_K_QS, NULL, scale, x + 16 * sub, x_bytes, n, sub);
    }
}

/* m = sum M * (sum of x) over one block; sums: the block's 16 sums of row 0. */
KERN__INLINE void q2_k_minima(__m512i m[MAX_ROWS], const char *sc, const char *sums, size_t x_bytes,
                              int n)
{
    for (int r = 0; r < n; r++)
        m[r] = _mm512_setzero_si512();
    for (size_t pair = 0; pair < 8; pair++) {
        __m512i even = _mm512_srli_epi32(load_u8(sc + 32 * pair), 4);
        __m512i odd = _mm512_srli_epi32(load_u8(sc + 32 * pair + 16), 4);
        __m512i lanes = _mm512_or_si512(even, _mm512_slli_epi32(odd, 16));
        for (int r = 0; r < n; r++)
            m[r] = _mm512_dpwssd_epi32(m[r], lanes, broadcast(sums + r * x_bytes + 4 * pair));
    }
}

KERN__INLINE void q2_k_rows(float *y, size_t ldy, const char *w, const char *x, size_t x_bytes,
                            size_t k, int n)
{
    const char *dx = x + k, *sums = dx + k / 256 * 4;
    __m512 acc[MAX_ROWS];
    for (int r = 0; r < n; r++)
        acc[r] = _mm512_setzero_ps();
    for (size_t b = 0; b < k / 256; b++, w += KERN__Q2_K_BYTES) {
        kern__prefetch_for(n, w, KERN__Q2_K_BYTES, k / 256);
        __m512i s[MAX_ROWS], m[MAX_ROWS];
        q2_k_products(s, w, x + 256 * b, x_bytes, n);
        q2_k_minima(m, w + KERN__Q2_K_SCALES, sums + 32 * b, x_bytes, n);
        __m512 d = load_halves(w), dmin = load_halves(w + KERN__Q2_K_DMIN);
        for (int r = 0; r < n; r++) {
            const char *scale = dx + r * x_bytes + 4 * b;
            acc[r] = accumulate(acc[r], d, scale, s[r]);
            acc[r] = take_off(acc[r], dmin, scale, m[r]);
        }
    }
    for (int r = 0; r < n; r++)
        _mm512_storeu_ps(y + r * ldy, acc[r]);
}

/* s += sum S * (q . x) over one block, q being 4 too large; x: the block's activations of row 0. */
KERN__INLINE void q3_k_products(__m512i s[MAX_ROWS], const char *w, const char *scales,
                                const char *x, size_t x_bytes, int n)
{
#pragma GCC unroll 16
    for (int sub = 0; sub < 16; sub++) {
        __m512i scale = load_i8(scales + 16 * sub);
        scale = _mm512_and_si512(scale, _mm512_set1_epi32(0xffff));
        two_bit_products(s, w + KERN__Q3_K_QS, w + KERN__Q3_K_HMASK, scale, x + 16 * sub, x_bytes,
                         n, sub);
    }
}

KERN__INLINE void q3_k_rows(float *y, size_t ldy, const char *w, const char *x, size_t x_bytes,
                            size_t k, int n)
{
    const char *dx = x + k, *sums = dx + k / 256 * 4;
    __m512 acc[MAX_ROWS];
    for (int r = 0; r < n; r++)
        acc[r] = _mm512_setzero_ps();
    for (size_t b = 0; b < k / 256; b++, w += KERN__Q3_K_BYTES) {
        kern__prefetch_for(n, w, KERN__Q3_K_BYTES, k / 256);
        __m512i s[MAX_ROWS];
        char scales[256];
        q3_k_scales(scales, w + KERN__Q3_K_SCALES);
        offsets_of_16(s, scales, sums + 32 * b, x_bytes, n, 4);
        q3_k_products(s, w, scales, x + 256 * b, x_bytes, n);
        __m512 d = load_halves(w);
        for (int r = 0; r < n; r++)
            acc[r] = accumulate(acc[r], d, dx + r * x_bytes + 4 * b, s[r]);
    }
    for (int r = 0; r < n; r++)
        _mm512_storeu_ps(y + r * ldy, acc[r]);
}

/* s = sum S * (q . x) over one block; x: the block's activations of row 0. */
KERN__INLINE void q5_k_products(__m512i s[MAX_ROWS], const char *w, const char *x, size_t x_bytes,
                                int n)
{
    for (int r = 0; r < n; r++)
        s[r] = _mm512_setzero_si512();
    for (int pair = 0; pair < 4; pair++, x += 64) {
        const char *qs = w + KERN__Q5_K_QS + 512 * pair, *qh = w + KERN__Q5_K_QH;
        const char *scales = w + KERN__Q5_K_SCALES + 32 * pair;
        __m512i even[MAX_ROWS], odd[MAX_ROWS];
        for (int r = 0; r < n; r++)
            even[r] = odd[r] = _mm512_setzero_si512();
#pragma GCC unroll 8
        for (size_t j = 0; j < 8; j++) {
            __m512i v = load(qs + 64 * j), high = load(qh + 64 * j);
            __m512i first = byte_if_bit(low_nibbles(v), high, 2 * pair, 16);
            __m512i second = byte_if_bit(high_nibbles(v), high, 2 * pair + 1, 16);
            for (int r = 0; r < n; r++) {
                const char *q = x + r * x_bytes + 4 * j;
                even[r] = _mm512_dpbusd_epi32(even[r], first, broadcast(q));
                odd[r] = _mm512_dpbusd_epi32(odd[r], second, broadcast(q + 32));
            }
        }
        __m512i scale_even = load_u8(scales), scale_odd = load_u8(scales + 16);
        for (int r = 0; r < n; r++) {
            even[r] = _mm512_mullo_epi32(even[r], scale_even);
            odd[r] = _mm512_mullo_epi32(odd[r], scale_odd);
            s[r] = _mm512_add_epi32(s[r], _mm512_add_epi32(even[r], odd[r]));
        }
    }
}

KERN__INLINE void q5_k_rows(float *y, size_t ldy, const char *w, const char *x, size_t x_bytes,
                            size_t k, int n)
{
    const char *dx = x + k, *sums = dx + k / 256 * 4;
    __m512 acc[MAX_ROWS];
    for (int r = 0; r < n; r++)
        acc[r] = _mm512_setzero_ps();
    for (size_t b = 0; b < k / 256; b++, w += KERN__Q5_K_BYTES) {
        kern__prefetch_for(n, w, KERN__Q5_K_BYTES, k / 256);
        __m512i s[MAX_ROWS], m[MAX_ROWS];
        q5_k_products(s, w, x + 256 * b, x_bytes, n);
        minima_of_32(m, w + KERN__Q5_K_MINS, sums + 32 * b, x_bytes, n);
        __m512 d = load_halves(w), dmin = load_halves(w + KERN__Q5_K_DMIN);
        for (int r = 0; r < n; r++) {
            const char *scale = dx + r * x_bytes + 4 * b;
            acc[r] = accumulate(acc[r], d, scale, s[r]);
            acc[r] = take_off(acc[r], dmin, scale, m[r]);
        }
    }
    for (int r = 0; r < n; r++)
        _mm512_storeu_ps(y + r * ldy, acc[r]);
}

/* s = sum S * (value . x) over one block; book: the codebook with 128 added; x, sums: the block's
 * of row 0. */
KERN__INLINE void iq4_xs_products(__m512i s[MAX_ROWS], const char *w, __m512i book, const char *x,
                                  const char *sums, size_t x_bytes, int n)
{
    const __m512i offset = _mm512_set1_epi16(-128);
    for (int r = 0; r < n; r++)
        s[r] = _mm512_setzero_si512();
    for (size_t sub = 0; sub < 8; sub++, x += 32) {
        const char *qs = w + KERN__IQ4_XS_QS + 256 * sub;
        __m512i t[MAX_ROWS], scale = load_i8(w + KERN__IQ4_XS_SCALES + 16 * sub);
        for (int r = 0; r < n; r++)
            t[r] = _mm512_dpwssd_epi32(_mm512_setzero_si512(), offset,
                                       broadcast(sums + r * x_bytes + 4 * sub));
#pragma GCC unroll 4
        for (size_t j = 0; j < 4; j++) {
            __m512i v = load(qs + 64 * j);
            __m512i low = _mm512_shuffle_epi8(book, low_nibbles(v));
            __m512i high = _mm512_shuffle_epi8(book, high_nibbles(v));
            for (int r = 0; r < n; r++) {
                const char *q = x + r * x_bytes + 4 * j;
                t[r] = _mm512_dpbusd_epi32(t[r], low, broadcast(q));
                t[r] = _mm512_dpbusd_epi32(t[r], high, broadcast(q + 16));
            }
        }
        for (int r = 0; r < n; r++)
            s[r] = _mm512_add_epi32(s[r], _mm512_mullo_epi32(t[r], scale));
    }
}

KERN__INLINE void iq4_xs_rows(float *y, size_t ldy, const char *w, const char *x, size_t x_bytes,
                              size_t k, int n)
{
    const char *dx = x + k, *sums = dx + k / 256 * 4;
    const __m512i book = _mm512_xor_si512(load_codebook(kern__iq4_values), _mm512_set1_epi8(-128));
    __m512 acc[MAX_ROWS];
    for (int r = 0; r < n; r++)
        acc[r] = _mm512_setzero_ps();
    for (size_t b = 0; b < k / 256; b++, w += KERN__IQ4_XS_BYTES) {
        kern__prefetch_for(n, w, KERN__IQ4_XS_BYTES, k / 256);
        __m512i s[MAX_ROWS];
        iq4_xs_products(s, w, book, x + 256 * b, sums + 32 * b, x_bytes, n);
        __m512 d = load_halves(w);
        for (int r = 0; r < n; r++)
            acc[r] = accumulate(acc[r], d, dx + r * x_bytes + 4 * b, s[r]);
    }
    for (int r = 0; r < n; r++)
        _mm512_storeu_ps(y + r * ldy, acc[r]);
}

KERN__MATMUL(q2_k, 256, KERN__Q2_K_BYTES, 8, 2)
KERN__MATMUL(q3_k, 256, KERN__Q3_K_BYTES, 8, 2)
KERN__MATMUL(q5_k, 256, KERN__Q5_K_BYTES, 8, 2)
KERN__MATMUL(iq4_xs, 256, KERN__IQ4_XS_BYTES, 8, 2)

void kern_init_matmul_k_avx512(struct kern_table *t)
{
    t->matmul[KERN_Q2_K] = matmul_q2_k;
    t->matmul[KERN_Q3_K] = matmul_q3_k;
    t->matmul[KERN_Q5_K] = matmul_q5_k;
    t->matmul[KERN_IQ4_XS] = matmul_iq4_xs;
}
