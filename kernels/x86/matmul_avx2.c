/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Products of packed matrices with AVX2. A packed vector is two registers, the halves of a panel:
 * rows 0-7 and rows 8-15.
 *
 * maddubs multiplies unsigned by signed bytes and adds pairs into 16 bits, saturating, so every
 * use says why it cannot: activations are within 127. Where room is left, sums stay in 16 bits and
 * the multiplication by the sub-block's scale (madd) widens them for nothing.
 *
 * Loops over vectors are unrolled no more than twice: a compiler that sees all the additions to a
 * sum gathers the products first and runs out of registers.
 */
#include "kernels/x86/lanes_avx2.h"

/* s = 8 vectors by 32 activations a row. The weight's sign goes over to the activation; a pair is
 * at most 2 * 128 * 127 < 2^15. */
KERN__INLINE void q8_0_products(__m256i (*s)[HALVES], const char *qs, const char *x, size_t x_bytes,
                                int n)
{
    clear_sums(s, n);
#pragma GCC unroll 2
    for (size_t j = 0; j < 8; j++) {
        __m256i w[HALVES], size[HALVES];
        for (int h = 0; h < HALVES; h++) {
            w[h] = load(qs + 64 * j + 32 * h);
            size[h] = _mm256_abs_epi8(w[h]);
        }
        for (int r = 0; r < n; r++) {
            __m256i q = broadcast(x + r * x_bytes + 4 * j);
            for (int h = 0; h < HALVES; h++) {
                __m256i t = _mm256_maddubs_epi16(size[h], _mm256_sign_epi8(q, w[h]));
                s[r][h] = _mm256_add_epi32(s[r][h], widen(t));
            }
        }
    }
}

KERN__INLINE void q8_0_rows(float *y, size_t ldy, const char *w, const char *x, size_t x_bytes,
                            size_t k, int n)
{
    const char *dx = x + k;
    __m256 acc[MAX_ROWS][HALVES];
    clear(acc, n);
    for (size_t b = 0; b < k / 32; b++, w += KERN__Q8_0_BYTES) {
        kern__prefetch_for(n, w, KERN__Q8_0_BYTES, k / 32);
        __m256i s[MAX_ROWS][HALVES];
        q8_0_products(s, w + KERN__Q8_0_QS, x + 32 * b, x_bytes, n);
        accumulate(acc, w, dx + 4 * b, x_bytes, s, n);
    }
    store(y, ldy, acc, n);
}

/* s = 4 vectors by 32 activations a row, the offset of 8 taken off. 8 pairs of at most
 * 2 * 15 * 127 stay below 2^15. */
KERN__INLINE void q4_0_products(__m256i (*s)[HALVES], const char *qs, const char *x,
                                const char *sums, size_t x_bytes, int n)
{
    clear_sums(s, n);
#pragma GCC unroll 2
    for (size_t j = 0; j < 4; j++) {
        __m256i low[HALVES], high[HALVES];
        for (int h = 0; h < HALVES; h++) {
            __m256i v = load(qs + 64 * j + 32 * h);
            low[h] = low_nibbles(v);
            high[h] = high_nibbles(v);
        }
        for (int r = 0; r < n; r++) {
            const char *q = x + r * x_bytes + 4 * j;
            __m256i q_low = broadcast(q), q_high = broadcast(q + 16);
            for (int h = 0; h < HALVES; h++) {
                s[r][h] = _mm256_add_epi16(s[r][h], _mm256_maddubs_epi16(low[h], q_low));
                s[r][h] = _mm256_add_epi16(s[r][h], _mm256_maddubs_epi16(high[h], q_high));
            }
        }
    }
    for (int r = 0; r < n; r++) {
        __m256i offset = _mm256_madd_epi16(broadcast(sums + r * x_bytes), _mm256_set1_epi16(-8));
        for (int h = 0; h < HALVES; h++)
            s[r][h] = _mm256_add_epi32(widen(s[r][h]), offset);
    }
}

KERN__INLINE void q4_0_rows(float *y, size_t ldy, const char *w, const char *x, size_t x_bytes,
                            size_t k, int n)
{
    const char *dx = x + k, *sums = dx + k / 32 * 4;
    __m256 acc[MAX_ROWS][HALVES];
    clear(acc, n);
    for (size_t b = 0; b < k / 32; b++, w += KERN__Q4_0_BYTES) {
        kern__prefetch_for(n, w, KERN__Q4_0_BYTES, k / 32);
        __m256i s[MAX_ROWS][HALVES];
        q4_0_products(s, w + KERN__Q4_0_QS, x + 32 * b, sums + 4 * b, x_bytes, n);
        accumulate(acc, w, dx + 4 * b, x_bytes, s, n);
    }
    store(y, ldy, acc, n);
}

/* s = sum S * (q . x) over one block. 8 pairs of at most 2 * 15 * 127 stay below 2^15. */
KERN__INLINE void q4_k_products(__m256i (*s)[HALVES], const char *w, const char *x, size_t x_bytes,
                                int n)
{
    clear_sums(s, n);
    for (int sub = 0; sub < 8; sub++, x += 32) {
        const char *qs = w + KERN__Q4_K_QS + 512 * (sub / 2);
        const char *scales = w + KERN__Q4_K_SCALES + 16 * sub;
        const __m128i shift = _mm_cvtsi32_si128(sub % 2 * 4);
        __m256i t[MAX_ROWS][HALVES];
        clear_sums(t, n);
#pragma GCC unroll 2
        for (size_t j = 0; j < 8; j++) {
            __m256i v[HALVES];
            for (int h = 0; h < HALVES; h++)
                v[h] = low_nibbles(_mm256_srl_epi16(load(qs + 64 * j + 32 * h), shift));
            for (int r = 0; r < n; r++) {
                __m256i q = broadcast(x + r * x_bytes + 4 * j);
                for (int h = 0; h < HALVES; h++)
                    t[r][h] = _mm256_add_epi16(t[r][h], _mm256_maddubs_epi16(v[h], q));
            }
        }
        for (int h = 0; h < HALVES; h++) {
            __m256i scale = load_u8(scales + 8 * h);
            scale = pair_lanes(scale, scale);
            for (int r = 0; r < n; r++)
                s[r][h] = _mm256_add_epi32(s[r][h], _mm256_madd_epi16(t[r][h], scale));
        }
    }
}

KERN__INLINE void q4_k_rows(float *y, size_t ldy, const char *w, const char *x, size_t x_bytes,
                            size_t k, int n)
{
    const char *dx = x + k, *sums = dx + k / 256 * 4;
    __m256 acc[MAX_ROWS][HALVES];
    clear(acc, n);
    for (size_t b = 0; b < k / 256; b++, w += KERN__Q4_K_BYTES) {
        kern__prefetch_for(n, w, KERN__Q4_K_BYTES, k / 256);
        __m256i s[MAX_ROWS][HALVES], m[MAX_ROWS][HALVES];
        q4_k_products(s, w, x + 256 * b, x_bytes, n);
        accumulate(acc, w, dx + 4 * b, x_bytes, s, n);
        minima_of_32(m, w + KERN__Q4_K_MINS, sums + 32 * b, x_bytes, n);
        take_off(acc, w + KERN__Q4_K_DMIN, dx + 4 * b, x_bytes, m, n);
    }
    store(y, ldy, acc, n);
}

/* The values, 0 to 63, of half a vector of group g. */
KERN__INLINE __m256i q6_k_values(const char *ql, const char *qh, int g)
{
    __m256i low = load(ql), high = load(qh);
    low = g < 2 ? low_nibbles(low) : high_nibbles(low);
    high = g == 0   ? _mm256_slli_epi16(high, 4)
           : g == 1 ? _mm256_slli_epi16(high, 2)
           : g == 2 ? high
                    : _mm256_srli_epi16(high, 2);
    return _mm256_or_si256(low, _mm256_and_si256(high, _mm256_set1_epi8(48)));
}

/* s += S * (q . x) over 16 values, at 16 * l of group g, of half a block; x: the half block's
 * activations of row 0. 2 pairs of at most 2 * 63 * 127 stay below 2^15. */
KERN__INLINE void q6_k_group(__m256i (*s)[HALVES], const char *ql, const char *qh,
                             const char *scales, const char *x, size_t x_bytes, int n, int g, int l)
{
    __m256i scale[HALVES];
    ql += 64 * (8 * (g & 1) + 4 * l);
    qh += 64 * 4 * l;
    for (int h = 0; h < HALVES; h++) {
        scale[h] = load_i8(scales + 16 * (2 * g + l) + 8 * h);
        scale[h] = pair_lanes(scale[h], scale[h]);
    }
#pragma GCC unroll 2
    for (int j = 0; j < 4; j += 2) {
        for (int h = 0; h < HALVES; h++) {
            __m256i a = q6_k_values(ql + 64 * j + 32 * h, qh + 64 * j + 32 * h, g);
            __m256i b = q6_k_values(ql + 64 * j + 64 + 32 * h, qh + 64 * j + 64 + 32 * h, g);
            for (int r = 0; r < n; r++) {
                const char *q = x + r * x_bytes + 32 * g + 16 * l + 4 * j;
                __m256i t = _mm256_add_epi16(_mm256_maddubs_epi16(a, broadcast(q)),
                                             _mm256_maddubs_epi16(b, broadcast(q + 4)));
                s[r][h] = _mm256_add_epi32(s[r][h], _mm256_madd_epi16(t, scale[h]));
            }
        }
    }
}

KERN__INLINE void q6_k_rows(float *y, size_t ldy, const char *w, const char *x, size_t x_bytes,
                            size_t k, int n)
{
    const char *dx = x + k, *sums = dx + k / 256 * 4;
    __m256 acc[MAX_ROWS][HALVES];
    clear(acc, n);
    for (size_t b = 0; b < k / 256; b++, w += KERN__Q6_K_BYTES) {
        kern__prefetch_for(n, w, KERN__Q6_K_BYTES, k / 256);
        __m256i s[MAX_ROWS][HALVES];
        offsets_of_16(s, w + KERN__Q6_K_SCALES, sums + 32 * b, x_bytes, n, 32);
        for (size_t half = 0; half < 2; half++) {
            const char *ql = w + KERN__Q6_K_QL + 1024 * half, *qh = w + KERN__Q6_K_QH + 512 * half;
            const char *scales = w + KERN__Q6_K_SCALES + 128 * half;
            const char *q = x + 256 * b + 128 * half;
            for (int l = 0; l < 2; l++) {
                q6_k_group(s, ql, qh, scales, q, x_bytes, n, 0, l);
                q6_k_group(s, ql, qh, scales, q, x_bytes, n, 1, l);
                q6_k_group(s, ql, qh, scales, q, x_bytes, n, 2, l);
                q6_k_group(s, ql, qh, scales, q, x_bytes, n, 3, l);
            }
        }
        accumulate(acc, w, dx + 4 * b, x_bytes, s, n);
    }
    store(y, ldy, acc, n);
}

/* Half h of value i of a panel. */
KERN__INLINE __m256 load_weights(enum kern_type type, const char *w, size_t i, int h)
{
    if (type == KERN_F32)
        return _mm256_loadu_ps((const float *)(w + 64 * i) + 8 * h);
    w += 32 * i + 16 * h;
    if (type == KERN_F16)
        return load_halves(w);
    __m256i bits = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)w));
    return _mm256_castsi256_ps(_mm256_slli_epi32(bits, 16));
}

/* Value i of the panel, added to accumulator j of each row. */
KERN__INLINE void float_step(__m256 (*a)[HALVES][4], enum kern_type type, const char *w,
                             const char *x, size_t x_bytes, size_t i, int j, int n, int h0, int h1)
{
    for (int h = h0; h < h1; h++) {
        __m256 v = load_weights(type, w, i, h);
        for (int r = 0; r < n; r++) {
            __m256 value = broadcast_float(x + r * x_bytes + 4 * i);
            a[r][h][j] = _mm256_fmadd_ps(v, value, a[r][h][j]);
        }
    }
}

KERN__INLINE void float_halves(enum kern_type type, float *y, size_t ldy, const char *w,
                               const char *x, size_t x_bytes, size_t k, int n, int h0, int h1)
{
    __m256 a[MAX_ROWS][HALVES][4];
    size_t i = 0;
    for (int r = 0; r < n; r++)
        for (int h = h0; h < h1; h++)
            a[r][h][0] = a[r][h][1] = a[r][h][2] = a[r][h][3] = _mm256_setzero_ps();
    for (; i + 4 <= k; i += 4)
        for (int j = 0; j < 4; j++)
            float_step(a, type, w, x, x_bytes, i + (size_t)j, j, n, h0, h1);
    for (int j = 0; j < 3; j++)
        if (i + (size_t)j < k)
            float_step(a, type, w, x, x_bytes, i + (size_t)j, j, n, h0, h1);
    for (int r = 0; r < n; r++)
        for (int h = h0; h < h1; h++)
            _mm256_storeu_ps(y + r * ldy + 8 * h,
                             _mm256_add_ps(_mm256_add_ps(a[r][h][0], a[r][h][1]),
                                           _mm256_add_ps(a[r][h][2], a[r][h][3])));
}

/* Sixteen registers hold four accumulators of one row's two halves, or of three rows' one half. */
KERN__INLINE void float_rows(enum kern_type type, float *y, size_t ldy, const char *w,
                             const char *x, size_t x_bytes, size_t k, int n)
{
    if (n == 1) {
        float_halves(type, y, ldy, w, x, x_bytes, k, 1, 0, 2);
        return;
    }
    float_halves(type, y, ldy, w, x, x_bytes, k, n, 0, 1);
    float_halves(type, y, ldy, w, x, x_bytes, k, n, 1, 2);
}

#define f32_rows(...)  float_rows(KERN_F32, __VA_ARGS__)
#define f16_rows(...)  float_rows(KERN_F16, __VA_ARGS__)
#define bf16_rows(...) float_rows(KERN_BF16, __VA_ARGS__)

KERN__MATMUL(f32, 1, 64, 3, 2)
KERN__MATMUL(f16, 1, 32, 3, 2)
KERN__MATMUL(bf16, 1, 32, 3, 2)
KERN__MATMUL(q8_0, 32, KERN__Q8_0_BYTES, 4, 2)
KERN__MATMUL(q4_0, 32, KERN__Q4_0_BYTES, 4, 2)
KERN__MATMUL(q4_k, 256, KERN__Q4_K_BYTES, 4, 2)
KERN__MATMUL(q6_k, 256, KERN__Q6_K_BYTES, 4, 2)

void kern_init_matmul_avx2(struct kern_table *t)
{
    t->matmul[KERN_F32] = matmul_f32;
    t->matmul[KERN_F16] = matmul_f16;
    t->matmul[KERN_BF16] = matmul_bf16;
    t->matmul[KERN_Q8_0] = matmul_q8_0;
    t->matmul[KERN_Q4_0] = matmul_q4_0;
    t->matmul[KERN_Q4_K] = matmul_q4_k;
    t->matmul[KERN_Q6_K] = matmul_q6_k;
}
