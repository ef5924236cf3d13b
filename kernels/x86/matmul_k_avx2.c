/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Products with AVX2 of types of 256 values: Q2_K, Q3_K, Q5_K and IQ4_XS. Four of maddubs' sums of
 * two stay in 16 bits, up to 4 * 2 * 31 * 127 < 2^15 of Q5_K, and madd multiplies them by the
 * scale; of IQ4_XS, whose codebook gives its sign to the activation, one does, 2 * 127 * 127.
 */
#include "kernels/x86/lanes_avx2.h"

/* A scale in both halves of its lane. */
KERN__INLINE __m256i both(__m256i lanes)
{
    return pair_lanes(lanes, lanes);
}

/* s += S * (v . x) over 4 vectors of 16 activations; x: those of row 0. */
KERN__INLINE void add_scaled(__m256i (*s)[HALVES], int h, const __m256i v[4], __m256i scale,
                             const char *x, size_t x_bytes, int n)
{
    for (int r = 0; r < n; r++) {
        const char *q = x + r * x_bytes;
        __m256i t = _mm256_maddubs_epi16(v[0], broadcast(q));
        t = _mm256_add_epi16(t, _mm256_maddubs_epi16(v[1], broadcast(q + 4)));
        t = _mm256_add_epi16(t, _mm256_maddubs_epi16(v[2], broadcast(q + 8)));
        t = _mm256_add_epi16(t, _mm256_maddubs_epi16(v[3], broadcast(q + 12)));
        s[r][h] = _mm256_add_epi32(s[r][h], _mm256_madd_epi16(t, scale));
    }
}

/* The 2-bit values of half of each of the 4 vectors of sub-block `sub`. */
KERN__INLINE void two_bits(__m256i v[4], const char *qs, int h, int sub)
{
    const __m128i shift = _mm_cvtsi32_si128(2 * (sub % 8 / 2));
    qs += 64 * (8 * (sub / 8) + 4 * (sub % 2)) + 32 * h;
    for (int j = 0; j < 4; j++)
        v[j] = _mm256_and_si256(_mm256_srl_epi16(load(qs + 64 * j), shift), _mm256_set1_epi8(3));
}

/* v |= 1 << to where bit `bit` of half of 4 vectors is set. */
KERN__INLINE void add_bits(__m256i v[4], const char *bits, int h, int bit, int to)
{
    const __m128i shift = _mm_cvtsi32_si128(bit);
    for (int j = 0; j < 4; j++) {
        __m256i b = _mm256_srl_epi16(load(bits + 64 * j + 32 * h), shift);
        b = _mm256_and_si256(_mm256_slli_epi16(b, to), _mm256_set1_epi8((char)(1 << to)));
        v[j] = _mm256_or_si256(v[j], b);
    }
}

/* s = sum S * (q . x) over one block; x: the block's activations of row 0. */
KERN__INLINE void q2_k_products(__m256i (*s)[HALVES], const char *w, const char *x, size_t x_bytes,
                                int n)
{
    clear_sums(s, n);
    for (int sub = 0; sub < 16; sub++)
        for (int h = 0; h < HALVES; h++) {
            __m256i v[4], scale = load_u8(w + KERN__Q2_K_SCALES + 16 * sub + 8 * h);
            two_bits(v, w + KERN__Q2_K_QS, h, sub);
            scale = both(_mm256_and_si256(scale, _mm256_set1_epi32(15)));
            add_scaled(s, h, v, scale, x + 16 * sub, x_bytes, n);
        }
}

/* m = sum M * (sum of x) over one block; sums: the block's 16 sums of row 0. */
KERN__INLINE void q2_k_minima(__m256i (*m)[HALVES], const char *sc, const char *sums,
                              size_t x_bytes, int n)
{
    clear_sums(m, n);
#pragma GCC unroll 2
    for (size_t pair = 0; pair < 8; pair++)
        for (int h = 0; h < HALVES; h++) {
            const char *from = sc + 32 * pair + 8 * h;
            __m256i lanes = pair_lanes(_mm256_srli_epi32(load_u8(from), 4),
                                       _mm256_srli_epi32(load_u8(from + 16), 4));
            for (int r = 0; r < n; r++) {
                __m256i sum = broadcast(sums + r * x_bytes + 4 * pair);
                m[r][h] = _mm256_add_epi32(m[r][h], _mm256_madd_epi16(lanes, sum));
            }
        }
}

KERN__INLINE void q2_k_rows(float *y, size_t ldy, const char *w, const char *x, size_t x_bytes,
                            size_t k, int n)
{
    const char *dx = x + k, *sums = dx + k / 256 * 4;
    __m256 acc[MAX_ROWS][HALVES];
    clear(acc, n);
    for (size_t b = 0; b < k / 256; b++, w += KERN__Q2_K_BYTES) {
        kern__prefetch_for(n, w, KERN__Q2_K_BYTES, k / 256);
        __m256i s[MAX_ROWS][HALVES], m[MAX_ROWS][HALVES];
        q2_k_products(s, w, x + 256 * b, x_bytes, n);
        accumulate(acc, w, dx + 4 * b, x_bytes, s, n);
        q2_k_minima(m, w + KERN__Q2_K_SCALES, sums + 32 * b, x_bytes, n);
        take_off(acc, w + KERN__Q2_K_DMIN, dx + 4 * b, x_bytes, m, n);
    }
    store(y, ldy, acc, n);
}

/* s += sum S * (q . x) over one block, q being 4 too large; x: the block's activations of row 0. */
KERN__INLINE void q3_k_products(__m256i (*s)[HALVES], const char *w, const char *scales,
                                const char *x, size_t x_bytes, int n)
{
    for (int sub = 0; sub < 16; sub++)
        for (int h = 0; h < HALVES; h++) {
            __m256i v[4], scale = both(load_i8(scales + 16 * sub + 8 * h));
            two_bits(v, w + KERN__Q3_K_QS, h, sub);
            add_bits(v, w + KERN__Q3_K_HMASK + 256 * (sub % 2), h, sub / 2, 2);
            add_scaled(s, h, v, scale, x + 16 * sub, x_bytes, n);
        }
}

KERN__INLINE void q3_k_rows(float *y, size_t ldy, const char *w, const char *x, size_t x_bytes,
                            size_t k, int n)
{
    const char *dx = x + k, *sums = dx + k / 256 * 4;
    __m256 acc[MAX_ROWS][HALVES];
    clear(acc, n);
    for (size_t b = 0; b < k / 256; b++, w += KERN__Q3_K_BYTES) {
        kern__prefetch_for(n, w, KERN__Q3_K_BYTES, k / 256);
        __m256i s[MAX_ROWS][HALVES];
        char scales[256];
        q3_k_scales(scales, w + KERN__Q3_K_SCALES);
        offsets_of_16(s, scales, sums + 32 * b, x_bytes, n, 4);
        q3_k_products(s, w, scales, x + 256 * b, x_bytes, n);
        accumulate(acc, w, dx + 4 * b, x_bytes, s, n);
    }
    store(y, ldy, acc, n);
}

/* s = sum S * (q . x) over one block; x: the block's activations of row 0. */
KERN__INLINE void q5_k_products(__m256i (*s)[HALVES], const char *w, const char *x, size_t x_bytes,
                                int n)
{
    clear_sums(s, n);
    for (int i = 0; i < 16; i++) {
        int sub = i / 2, j = i % 2 * 4;
        const char *qs = w + KERN__Q5_K_QS + 64 * (8 * (sub / 2) + j);
        const __m128i shift = _mm_cvtsi32_si128(sub % 2 * 4);
        for (int h = 0; h < HALVES; h++) {
            __m256i v[4], scale = both(load_u8(w + KERN__Q5_K_SCALES + 16 * sub + 8 * h));
            for (int q = 0; q < 4; q++)
                v[q] = low_nibbles(_mm256_srl_epi16(load(qs + 64 * q + 32 * h), shift));
            add_bits(v, w + KERN__Q5_K_QH + 64 * j, h, sub, 4);
            add_scaled(s, h, v, scale, x + 16 * i, x_bytes, n);
        }
    }
}

KERN__INLINE void q5_k_rows(float *y, size_t ldy, const char *w, const char *x, size_t x_bytes,
                            size_t k, int n)
{
    const char *dx = x + k, *sums = dx + k / 256 * 4;
    __m256 acc[MAX_ROWS][HALVES];
    clear(acc, n);
    for (size_t b = 0; b < k / 256; b++, w += KERN__Q5_K_BYTES) {
        kern__prefetch_for(n, w, KERN__Q5_K_BYTES, k / 256);
        __m256i s[MAX_ROWS][HALVES], m[MAX_ROWS][HALVES];
        q5_k_products(s, w, x + 256 * b, x_bytes, n);
        accumulate(acc, w, dx + 4 * b, x_bytes, s, n);
        minima_of_32(m, w + KERN__Q5_K_MINS, sums + 32 * b, x_bytes, n);
        take_off(acc, w + KERN__Q5_K_DMIN, dx + 4 * b, x_bytes, m, n);
    }
    store(y, ldy, acc, n);
}

/* s += S * (value . x) over half of each vector of one sub-block; x: its activations of row 0. */
KERN__INLINE void iq4_xs_half(__m256i (*s)[HALVES], int h, const char *qs, __m256i book,
                              __m256i scale, const char *x, size_t x_bytes, int n)
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
            a = _mm256_madd_epi16(_mm256_maddubs_epi16(low_size, a), scale);
            b = _mm256_madd_epi16(_mm256_maddubs_epi16(high_size, b), scale);
            s[r][h] = _mm256_add_epi32(s[r][h], _mm256_add_epi32(a, b));
        }
    }
}

KERN__INLINE void iq4_xs_rows(float *y, size_t ldy, const char *w, const char *x, size_t x_bytes,
                              size_t k, int n)
{
    const char *dx = x + k;
    const __m256i book =
        _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)kern__iq4_values));
    __m256 acc[MAX_ROWS][HALVES];
    clear(acc, n);
    for (size_t b = 0; b < k / 256; b++, w += KERN__IQ4_XS_BYTES) {
        kern__prefetch_for(n, w, KERN__IQ4_XS_BYTES, k / 256);
        __m256i s[MAX_ROWS][HALVES];
        clear_sums(s, n);
        for (size_t sub = 0; sub < 8; sub++)
            for (int h = 0; h < HALVES; h++) {
                __m256i scale = both(load_i8(w + KERN__IQ4_XS_SCALES + 16 * sub + 8 * h));
                iq4_xs_half(s, h, w + KERN__IQ4_XS_QS + 256 * sub + 32 * h, book, scale,
                            x + 256 * b + 32 * sub, x_bytes, n);
            }
        accumulate(acc, w, dx + 4 * b, x_bytes, s, n);
    }
    store(y, ldy, acc, n);
}

KERN__MATMUL(q2_k, 256, KERN__Q2_K_BYTES, 4, 2)
KERN__MATMUL(q3_k, 256, KERN__Q3_K_BYTES, 4, 2)
KERN__MATMUL(q5_k, 256, KERN__Q5_K_BYTES, 4, 2)
KERN__MATMUL(iq4_xs, 256, KERN__IQ4_XS_BYTES, 4, 2)

void kern_init_matmul_k_avx2(struct kern_table *t)
{
    t->matmul[KERN_Q2_K] = matmul_q2_k;
    t->matmul[KERN_Q3_K] = matmul_q3_k;
    t->matmul[KERN_Q5_K] = matmul_q5_k;
    t->matmul[KERN_IQ4_XS] = matmul_iq4_xs;
}
