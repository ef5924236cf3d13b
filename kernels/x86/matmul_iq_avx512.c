/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Products of the IQ types with AVX-512. One row of activations by IQ2 and IQ3 is in
 * kernels/x86/iq_row_avx512.h; in all else a register is 8 rows of 8 weights, as a grid is 8 bytes,
 * multiplied by 8 activations in every lane of 64 bits, and a panel has two of them, its halves.
 * Words of pairs are multiplied by their scale and added up (vpdpwssd), so that a row's sum grows
 * in the two lanes of 32 bits of its place.
 *
 * maddubs multiplies unsigned by signed bytes and adds pairs into 16 bits, saturating. One row of
 * activations meets IQ1 with 9 added, unsigned: a pair is at most 2 * 18 * 127 < 2^15. With many,
 * weights get their signs once and the activations become unsigned, 128 more than they are, at most
 * 2 * 62 * 255 < 2^15; what this adds to a sum is the weights' product with a row of 128, which all
 * rows of activations share.
 */
#include "kernels/x86/iq_row_avx512.h"

/* Rows of activations at once, where 32 registers allow it. */
#define MAX_ROWS 8
#define HALVES   2

/* A block of 16 rows, ready for many rows of activations. */
struct weights {
    __m512i w[32][HALVES];     /* of each 8 values */
    __m512i scale[16][HALVES]; /* of each 16 values, four words a row */
    __m512i start[HALVES];     /* minus the product with a row of 128 */
    __m512 d;
};

KERN__INLINE __m512i broadcast8(const void *from)
{
    int64_t lane;
    memcpy(&lane, from, 8);
    return _mm512_set1_epi64(lane);
}

/* Bytes, one a row, as four words each. */
KERN__INLINE __m512i load_scale(const uint8_t *from)
{
    const __m512i words = _mm512_set4_epi32(0x80088008, 0x80088008, 0x80008000, 0x80008000);
    __m512i wide = _mm512_cvtepu8_epi64(_mm_loadl_epi64((const __m128i *)from));
    return _mm512_shuffle_epi8(wide, words);
}

KERN__INLINE __mmask64 load_signs(const uint8_t *from)
{
    uint64_t bits;
    memcpy(&bits, from, 8);
    return _cvtu64_mask64(bits);
}

/* The grids of group g of the rows of half h. */
KERN__INLINE __m512i load_grids(enum kern_type type, const struct kern__iq_panel *panel, size_t g,
                                size_t h)
{
    __m128i pairs[4];
    for (size_t i = 0; i < 4; i++) {
        size_t r = 8 * h + 2 * i;
        pairs[i] = _mm_set_epi64x((int64_t)kern__iq_grid(type, panel, g, r + 1),
                                  (int64_t)kern__iq_grid(type, panel, g, r));
    }
    __m256i low = _mm256_set_m128i(pairs[1], pairs[0]), high = _mm256_set_m128i(pairs[3], pairs[2]);
    return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
}

/* The sums of 16 rows out of the two lanes that each row has in its half. */
KERN__INLINE __m512i join(__m512i first, __m512i second)
{
    const __m512i even =
        _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
    const __m512i odd = _mm512_or_si512(even, _mm512_set1_epi32(1));
    return _mm512_add_epi32(_mm512_permutex2var_epi32(first, even, second),
                            _mm512_permutex2var_epi32(first, odd, second));
}

KERN__INLINE __m512 load_d(enum kern_type type, const uint8_t *packed)
{
    __m512 d = _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)packed));
    return _mm512_mul_ps(d, _mm512_set1_ps(kern__iq_factor(type)));
}

/* acc + (d * dx) * s. */
KERN__INLINE __m512 accumulate(__m512 acc, __m512 d, float dx, __m512i s)
{
    return _mm512_fmadd_ps(_mm512_mul_ps(d, _mm512_set1_ps(dx)), _mm512_cvtepi32_ps(s), acc);
}

/* w + 9 of IQ1: unsigned. */
KERN__INLINE __m512i iq1_unsigned(__m512i grids, __mmask64 down)
{
    return _mm512_mask_add_epi8(grids, _knot_mask64(down), grids, _mm512_set1_epi8(2));
}

/* s += (2S + 1) * (w . q) over 16 values of IQ1; q, sum: their activations and what these sum
 * to. */
KERN__INLINE void iq1_sub(enum kern_type type, __m512i s[HALVES],
                          const struct kern__iq_panel *panel, size_t sub, const char *q,
                          int16_t sum)
{
    const __m512i offset = _mm512_set1_epi64((uint16_t)(-9 * sum));
#pragma GCC unroll 4
    for (size_t h = 0; h < HALVES; h++) {
        __m512i scale = load_scale(panel->scale[sub] + 8 * h);
#pragma GCC unroll 2
        for (size_t g = 2 * sub; g < 2 * sub + 2; g++) {
            __mmask64 down = load_signs(panel->sign[g] + 8 * h);
            __m512i w = iq1_unsigned(load_grids(type, panel, g, h), down);
            __m512i pairs = _mm512_maddubs_epi16(w, broadcast8(q + 8 * (g % 2)));
            s[h] = _mm512_dpwssd_epi32(s[h], pairs, scale);
        }
        s[h] = _mm512_dpwssd_epi32(s[h], offset, scale);
    }
}

/* As block_row, for IQ1, whose codebook is too large for registers. */
KERN__INLINE __m512i iq1_block_row(enum kern_type type, const uint8_t *packed, const char *x,
                                   const int16_t *sums)
{
    struct kern__iq_panel panel;
    __m512i s[HALVES] = {_mm512_setzero_si512(), _mm512_setzero_si512()};
    kern__iq_take_apart(type, &panel, packed);
    for (size_t sub = 0; sub < 16; sub++)
        iq1_sub(type, s, &panel, sub, x + 16 * sub, sums[sub]);
    return join(s[0], s[1]);
}

/* One panel by one row. */
KERN__INLINE void one_row(enum kern_type type, size_t packed_bytes, float *y, const uint8_t *packed,
                          const char *x, size_t k)
{
    const int16_t *sums = kern_act_sums(KERN_ACT_Q8_256, x, k);
    __m512 acc = _mm512_setzero_ps();
    for (size_t b = 0; b < k / 256; b++, packed += packed_bytes) {
        kern__prefetch((const char *)packed, packed_bytes, 2);
        __m512i s = kern__iq_is_iq1(type) ? iq1_block_row(type, packed, x + 256 * b, sums + 16 * b)
                                          : block_row(type, packed, x + 256 * b, sums + 16 * b);
        acc = accumulate(acc, load_d(type, packed), kern_act_scales(x, k)[b], s);
    }
    _mm512_storeu_ps(y, acc);
}

KERN__INLINE void decode(enum kern_type type, struct weights *out, const uint8_t *packed)
{
    const __m512i zero = _mm512_setzero_si512(), ones = _mm512_set1_epi8(-128);
    struct kern__iq_panel panel;
    kern__iq_take_apart(type, &panel, packed);
    out->d = load_d(type, packed);
    for (size_t h = 0; h < HALVES; h++) {
        __m512i sum = zero;
        for (size_t g = 0; g < 32; g++) {
            __m512i w = load_grids(type, &panel, g, h),
                    scale = load_scale(panel.scale[g / 2] + 8 * h);
            __mmask64 signs = load_signs(panel.sign[g] + 8 * h);
            if (kern__iq_is_iq1(type))
                w = _mm512_sub_epi8(iq1_unsigned(w, signs), _mm512_set1_epi8(9));
            else
                w = _mm512_mask_sub_epi8(w, signs, zero, w);
            out->w[g][h] = w;
            out->scale[g / 2][h] = scale;
            sum = _mm512_dpwssd_epi32(sum, _mm512_maddubs_epi16(ones, w), scale);
        }
        out->start[h] = _mm512_sub_epi32(zero, sum);
    }
}

/* The activations of a block, 128 more than they are. */
KERN__INLINE void load_unsigned(__m512i to[4], const char *q)
{
    for (size_t i = 0; i < 4; i++)
        to[i] = _mm512_xor_si512(_mm512_loadu_si512(q + 64 * i), _mm512_set1_epi8(-128));
}

/* A block by n rows; y holds their sums so far. x: the block's activations of row 0, dx: their
 * scale. */
KERN__INLINE void block_rows(float *y, size_t ldy, const struct weights *weights, const char *x,
                             const char *dx, size_t x_bytes, int n)
{
    __m512i s[MAX_ROWS][HALVES], q[MAX_ROWS][4];
    for (int r = 0; r < n; r++) {
        load_unsigned(q[r], x + r * x_bytes);
        for (int h = 0; h < HALVES; h++)
            s[r][h] = weights->start[h];
    }
    for (size_t g = 0; g < 32; g++) {
        __m512i w0 = weights->w[g][0], w1 = weights->w[g][1];
        __m512i scale0 = weights->scale[g / 2][0], scale1 = weights->scale[g / 2][1];
        for (int r = 0; r < n; r++) {
            __m512i lane = broadcast8((const char *)q[r] + 8 * g);
            s[r][0] = _mm512_dpwssd_epi32(s[r][0], _mm512_maddubs_epi16(lane, w0), scale0);
            s[r][1] = _mm512_dpwssd_epi32(s[r][1], _mm512_maddubs_epi16(lane, w1), scale1);
        }
    }
    for (int r = 0; r < n; r++) {
        float scale;
        memcpy(&scale, dx + r * x_bytes, 4);
        _mm512_storeu_ps(y + r * ldy, accumulate(_mm512_loadu_ps(y + r * ldy), weights->d, scale,
                                                 join(s[r][0], s[r][1])));
    }
}

/* A block by all rows, the same for every type. */
static void block_all(float *y, size_t ldy, const struct weights *weights, const char *x,
                      const char *dx, size_t x_bytes, size_t n_rows)
{
    for (; n_rows >= 8; n_rows -= 8, y += 8 * ldy, x += 8 * x_bytes, dx += 8 * x_bytes)
        block_rows(y, ldy, weights, x, dx, x_bytes, 8);
    for (; n_rows >= 2; n_rows -= 2, y += 2 * ldy, x += 2 * x_bytes, dx += 2 * x_bytes)
        block_rows(y, ldy, weights, x, dx, x_bytes, 2);
    if (n_rows)
        block_rows(y, ldy, weights, x, dx, x_bytes, 1);
}

/* One panel by many rows. */
KERN__INLINE void many_rows(enum kern_type type, size_t packed_bytes, float *y, size_t ldy,
                            const uint8_t *packed, const char *x, size_t x_bytes, size_t n_rows,
                            size_t k)
{
    for (size_t r = 0; r < n_rows; r++)
        _mm512_storeu_ps(y + r * ldy, _mm512_setzero_ps());
    for (size_t b = 0; b < k / 256; b++, packed += packed_bytes) {
        struct weights weights;
        decode(type, &weights, packed);
        block_all(y, ldy, &weights, x + 256 * b, x + k + 4 * b, x_bytes, n_rows);
    }
}

/* How many rows are faster one by one than by weights made ready for many (measured on Zen 5). */
KERN__INLINE size_t few_rows(enum kern_type type)
{
    return kern__iq_is_xxs(type) ? 3 : type == KERN_IQ2_XS || type == KERN_IQ3_S ? 2 : 1;
}

#define MATMUL(name, type, block_bytes)                                                            \
    static void matmul_##name(float *y, size_t ldy, const void *w, size_t n_panels, const void *x, \
                              size_t x_bytes, size_t n_rows, size_t k)                             \
    {                                                                                              \
        const size_t packed_bytes = KERN_PANEL * (block_bytes);                                    \
        const uint8_t *panel = w;                                                                  \
        for (size_t p = 0; p < n_panels; p++, panel += k / 256 * packed_bytes) {                   \
            float *to = y + KERN_PANEL * p;                                                        \
            if (n_rows <= few_rows(type))                                                          \
                for (size_t r = 0; r < n_rows; r++)                                                \
                    one_row(type, packed_bytes, to + r * ldy, panel,                               \
                            (const char *)x + r * x_bytes, k);                                     \
            else                                                                                   \
                many_rows(type, packed_bytes, to, ldy, panel, x, x_bytes, n_rows, k);              \
        }                                                                                          \
    }

MATMUL(iq1_s, KERN_IQ1_S, 50)
MATMUL(iq1_m, KERN_IQ1_M, 56)
MATMUL(iq2_xxs, KERN_IQ2_XXS, 66)
MATMUL(iq2_xs, KERN_IQ2_XS, 74)
MATMUL(iq2_s, KERN_IQ2_S, 82)
MATMUL(iq3_xxs, KERN_IQ3_XXS, 98)
MATMUL(iq3_s, KERN_IQ3_S, 110)

void kern_init_matmul_iq_avx512(struct kern_table *t)
{
    init_codes();
    t->matmul[KERN_IQ1_S] = matmul_iq1_s;
    t->matmul[KERN_IQ1_M] = matmul_iq1_m;
    t->matmul[KERN_IQ2_XXS] = matmul_iq2_xxs;
    t->matmul[KERN_IQ2_XS] = matmul_iq2_xs;
    t->matmul[KERN_IQ2_S] = matmul_iq2_s;
    t->matmul[KERN_IQ3_XXS] = matmul_iq3_xxs;
    t->matmul[KERN_IQ3_S] = matmul_iq3_s;
}
