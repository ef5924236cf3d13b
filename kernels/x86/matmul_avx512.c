/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Products of packed matrices with AVX-512 and VNNI. A register is a packed vector: 16 rows of 4
 * bytes, multiplied by 4 activations in every lane (vpdpbusd, unsigned weights by signed
 * activations, no saturation). What makes the weights unsigned is taken off again through the sums
 * that the activations bring along: a lane of two sums multiplies the offset in vpdpwssd.
 */
#include "kernels/x86/lanes_avx512.h"

KERN__INLINE void q8_0_rows(float *y, size_t ldy, const char *w, const char *x, size_t x_bytes,
                            size_t k, int n)
{
    const __m512i flip = _mm512_set1_epi8(-128), offset = _mm512_set1_epi16(-128);
    const char *dx = x + k, *sums = dx + k / 32 * 4;
    __m512 acc[MAX_ROWS];
    for (int r = 0; r < n; r++)
        acc[r] = _mm512_setzero_ps();
    for (size_t b = 0; b < k / 32; b++, w += KERN__Q8_0_BYTES) {
        kern__prefetch_for(n, w, KERN__Q8_0_BYTES, k / 32);
        __m512i s[MAX_ROWS];
        for (int r = 0; r < n; r++)
            s[r] = _mm512_dpwssd_epi32(_mm512_setzero_si512(), offset,
                                       broadcast(sums + r * x_bytes + 4 * b));
        for (size_t j = 0; j < 8; j++) {
            __m512i q = _mm512_xor_si512(load(w + KERN__Q8_0_QS + 64 * j), flip);
            for (int r = 0; r < n; r++)
                s[r] = _mm512_dpbusd_epi32(s[r], q, broadcast(x + r * x_bytes + 32 * b + 4 * j));
        }
        __m512 d = load_halves(w);
        for (int r = 0; r < n; r++)
            acc[r] = accumulate(acc[r], d, dx + r * x_bytes + 4 * b, s[r]);
    }
    for (int r = 0; r < n; r++)
        _mm512_storeu_ps(y + r * ldy, acc[r]);
}

KERN__INLINE void q4_0_rows(float *y, size_t ldy, const char *w, const char *x, size_t x_bytes,
                            size_t k, int n)
{
    const __m512i offset = _mm512_set1_epi16(-8);
    const char *dx = x + k, *sums = dx + k / 32 * 4;
    __m512 acc[MAX_ROWS];
    for (int r = 0; r < n; r++)
        acc[r] = _mm512_setzero_ps();
    for (size_t b = 0; b < k / 32; b++, w += KERN__Q4_0_BYTES) {
        kern__prefetch_for(n, w, KERN__Q4_0_BYTES, k / 32);
        __m512i s[MAX_ROWS];
        for (int r = 0; r < n; r++)
            s[r] = _mm512_dpwssd_epi32(_mm512_setzero_si512(), offset,
                                       broadcast(sums + r * x_bytes + 4 * b));
        for (size_t j = 0; j < 4; j++) {
            __m512i v = load(w + KERN__Q4_0_QS + 64 * j);
            __m512i low = low_nibbles(v), high = high_nibbles(v);
            for (int r = 0; r < n; r++) {
                const char *q = x + r * x_bytes + 32 * b + 4 * j;
                s[r] = _mm512_dpbusd_epi32(s[r], low, broadcast(q));
                s[r] = _mm512_dpbusd_epi32(s[r], high, broadcast(q + 16));
            }
        }
        __m512 d = load_halves(w);
        for (int r = 0; r < n; r++)
            acc[r] = accumulate(acc[r], d, dx + r * x_bytes + 4 * b, s[r]);
    }
    for (int r = 0; r < n; r++)
        _mm512_storeu_ps(y + r * ldy, acc[r]);
}

/* s = sum S * (q . x) over one block; x: the block's activations of row 0. The sums stay in
 * registers only where the loop over vectors is unrolled, which not every compiler does unasked. */
KERN__INLINE void q4_k_products(__m512i s[MAX_ROWS], const char *w, const char *x, size_t x_bytes,
                                int n)
{
    for (int r = 0; r < n; r++)
        s[r] = _mm512_setzero_si512();
    for (size_t pair = 0; pair < 4; pair++, x += 64) {
        const char *qs = w + KERN__Q4_K_QS + 512 * pair;
        const char *scales = w + KERN__Q4_K_SCALES + 32 * pair;
        __m512i even[MAX_ROWS], odd[MAX_ROWS];
        for (int r = 0; r < n; r++)
            even[r] = odd[r] = _mm512_setzero_si512();
#pragma GCC unroll 8
        for (size_t j = 0; j < 8; j++) {
            __m512i v = load(qs + 64 * j), low = low_nibbles(v), high = high_nibbles(v);
            for (int r = 0; r < n; r++) {
                const char *q = x + r * x_bytes + 4 * j;
                even[r] = _mm512_dpbusd_epi32(even[r], low, broadcast(q));
                odd[r] = _mm512_dpbusd_epi32(odd[r], high, broadcast(q + 32));
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

KERN__INLINE void q4_k_rows(float *y, size_t ldy, const char *w, const char *x, size_t x_bytes,
                            size_t k, int n)
{
    const char *dx = x + k, *sums = dx + k / 256 * 4;
    __m512 acc[MAX_ROWS];
    for (int r = 0; r < n; r++)
        acc[r] = _mm512_setzero_ps();
    for (size_t b = 0; b < k / 256; b++, w += KERN__Q4_K_BYTES) {
        kern__prefetch_for(n, w, KERN__Q4_K_BYTES, k / 256);
        __m512i s[MAX_ROWS], m[MAX_ROWS];
        q4_k_products(s, w, x + 256 * b, x_bytes, n);
        minima_of_32(m, w + KERN__Q4_K_MINS, sums + 32 * b, x_bytes, n);
        __m512 d = load_halves(w), dmin = load_halves(w + KERN__Q4_K_DMIN);
        for (int r = 0; r < n; r++) {
            const char *scale = dx + r * x_bytes + 4 * b;
            acc[r] = accumulate(acc[r], d, scale, s[r]);
            acc[r] = take_off(acc[r], dmin, scale, m[r]);
        }
    }
    for (int r = 0; r < n; r++)
        _mm512_storeu_ps(y + r * ldy, acc[r]);
}

/* The values, 0 to 63, of one vector of groups g and g + 2 (g = 0 or 1). */
KERN__INLINE void q6_k_values(__m512i out[2], const char *ql, const char *qh, int g)
{
    __m512i low = load(ql), high = load(qh), bits = _mm512_set1_epi8(48);
    __m512i first = g ? _mm512_slli_epi16(high, 2) : _mm512_slli_epi16(high, 4);
    __m512i second = g ? _mm512_srli_epi16(high, 2) : high;
    out[0] = _mm512_or_si512(low_nibbles(low), _mm512_and_si512(first, bits));
    out[1] = _mm512_or_si512(high_nibbles(low), _mm512_and_si512(second, bits));
}

/* s += S * (q . x) over the sub-blocks of groups g and g + 2, 16 values at 16 * l, of a half
 * block; x: the half's activations of row 0. */
KERN__INLINE void q6_k_groups(__m512i s[MAX_ROWS], const char *ql, const char *qh,
                              const char *scales, const char *x, size_t x_bytes, int n, int g,
                              int l)
{
    __m512i first[MAX_ROWS], second[MAX_ROWS];
    for (int r = 0; r < n; r++)
        first[r] = second[r] = _mm512_setzero_si512();
    for (int j = 0; j < 4; j++) {
        __m512i v[2];
        q6_k_values(v, ql + 64 * (8 * g + 4 * l + j), qh + 64 * (4 * l + j), g);
        for (int r = 0; r < n; r++) {
            const char *q = x + r * x_bytes + 32 * g + 16 * l + 4 * j;
            first[r] = _mm512_dpbusd_epi32(first[r], v[0], broadcast(q));
            second[r] = _mm512_dpbusd_epi32(second[r], v[1], broadcast(q + 64));
        }
    }
    __m512i scale_first = load_i8(scales + 16 * (2 * g + l));
    __m512i scale_second = load_i8(scales + 16 * (2 * g + l + 4));
    for (int r = 0; r < n; r++) {
        first[r] = _mm512_mullo_epi32(first[r], scale_first);
        second[r] = _mm512_mullo_epi32(second[r], scale_second);
        s[r] = _mm512_add_epi32(s[r], _mm512_add_epi32(first[r], second[r]));
    }
}

KERN__INLINE void q6_k_rows(float *y, size_t ldy, const char *w, const char *x, size_t x_bytes,
                            size_t k, int n)
{
    const char *dx = x + k, *sums = dx + k / 256 * 4;
    __m512 acc[MAX_ROWS];
    for (int r = 0; r < n; r++)
        acc[r] = _mm512_setzero_ps();
    for (size_t b = 0; b < k / 256; b++, w += KERN__Q6_K_BYTES) {
        kern__prefetch_for(n, w, KERN__Q6_K_BYTES, k / 256);
        __m512i s[MAX_ROWS];
        offsets_of_16(s, w + KERN__Q6_K_SCALES, sums + 32 * b, x_bytes, n, 32);
        for (size_t half = 0; half < 2; half++) {
            const char *ql = w + KERN__Q6_K_QL + 1024 * half, *qh = w + KERN__Q6_K_QH + 512 * half;
            const char *scales = w + KERN__Q6_K_SCALES + 128 * half;
            const char *q = x + 256 * b + 128 * half;
            q6_k_groups(s, ql, qh, scales, q, x_bytes, n, 0, 0);
            q6_k_groups(s, ql, qh, scales, q, x_bytes, n, 1, 0);
            q6_k_groups(s, ql, qh, scales, q, x_bytes, n, 0, 1);
            q6_k_groups(s, ql, qh, scales, q, x_bytes, n, 1, 1);
        }
        __m512 d = load_halves(w);
        for (int r = 0; r < n; r++)
            acc[r] = accumulate(acc[r], d, dx + r * x_bytes + 4 * b, s[r]);
    }
    for (int r = 0; r < n; r++)
        _mm512_storeu_ps(y + r * ldy, acc[r]);
}

KERN__INLINE __m512 load_weights(enum kern_type type, const char *w)
{
    if (type == KERN_F32)
        return _mm512_loadu_ps(w);
    if (type == KERN_F16)
        return load_halves(w);
    __m512i bits = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)w));
    return _mm512_castsi512_ps(_mm512_slli_epi32(bits, 16));
}

/* Value i of the panel, added to accumulator j of each row. */
KERN__INLINE void float_step(__m512 (*a)[4], enum kern_type type, const char *w, const char *x,
                             size_t x_bytes, size_t i, int j, int n)
{
    __m512 v = load_weights(type, w + i * (type == KERN_F32 ? 64 : 32));
    for (int r = 0; r < n; r++)
        a[r][j] = _mm512_fmadd_ps(v, broadcast_float(x + r * x_bytes + 4 * i), a[r][j]);
}

KERN__INLINE void float_rows(enum kern_type type, float *y, size_t ldy, const char *w,
                             const char *x, size_t x_bytes, size_t k, int n)
{
    __m512 a[MAX_ROWS][4];
    size_t i = 0;
    for (int r = 0; r < n; r++)
        a[r][0] = a[r][1] = a[r][2] = a[r][3] = _mm512_setzero_ps();
    for (; i + 4 <= k; i += 4)
        for (int j = 0; j < 4; j++)
            float_step(a, type, w, x, x_bytes, i + (size_t)j, j, n);
    for (int j = 0; j < 3; j++)
        if (i + (size_t)j < k)
            float_step(a, type, w, x, x_bytes, i + (size_t)j, j, n);
    for (int r = 0; r < n; r++)
        _mm512_storeu_ps(y + r * ldy, _mm512_add_ps(_mm512_add_ps(a[r][0], a[r][1]),
                                                    _mm512_add_ps(a[r][2], a[r][3])));
}

#define f32_rows(...)  float_rows(KERN_F32, __VA_ARGS__)
#define f16_rows(...)  float_rows(KERN_F16, __VA_ARGS__)
#define bf16_rows(...) float_rows(KERN_BF16, __VA_ARGS__)

KERN__MATMUL(f32, 1, 64, 6, 2)
KERN__MATMUL(f16, 1, 32, 6, 2)
KERN__MATMUL(bf16, 1, 32, 6, 2)
KERN__MATMUL(q8_0, 32, KERN__Q8_0_BYTES, 8, 2)
KERN__MATMUL(q4_0, 32, KERN__Q4_0_BYTES, 8, 2)
KERN__MATMUL(q4_k, 256, KERN__Q4_K_BYTES, 8, 2)
KERN__MATMUL(q6_k, 256, KERN__Q6_K_BYTES, 8, 2)

void kern_init_matmul_avx512(struct kern_table *t)
{
    t->matmul[KERN_F32] = matmul_f32;
    t->matmul[KERN_F16] = matmul_f16;
    t->matmul[KERN_BF16] = matmul_bf16;
    t->matmul[KERN_Q8_0] = matmul_q8_0;
    t->matmul[KERN_Q4_0] = matmul_q4_0;
    t->matmul[KERN_Q4_K] = matmul_q4_k;
    t->matmul[KERN_Q6_K] = matmul_q6_k;
}
