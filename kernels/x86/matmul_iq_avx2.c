/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Products of the IQ types with AVX2. A register is 4 rows of 8 weights, as a grid is 8 bytes,
 * multiplied by 8 activations in every lane of 64 bits; a panel has four of them, its quarters.
 * Words of pairs are multiplied by their scale and added (madd), so that a row's sum grows in the
 * two lanes of 32 bits of its place.
 *
 * maddubs multiplies unsigned by signed bytes and adds pairs into 16 bits, saturating. With one row
 * of activations the grid is the unsigned side and the activations take the signs: a pair is at
 * most 2 * 62 * 127 < 2^15. With many, weights get their signs once and the activations become
 * unsigned, 128 more than they are, at most 2 * 62 * 255 < 2^15; what this adds to a sum is the
 * weights' product with a row of 128, which all rows of activations share.
 */
#include "kernels/iq_panel.h"
#include "kernels/x86/matmul.h"

/* Rows of activations at once; two quarters of each fill the registers. */
#define MAX_ROWS 4
#define QUARTERS 4

/* A block of 16 rows, ready for many rows of activations. */
struct weights {
    __m256i w[32][QUARTERS];     /* of each 8 values */
    __m256i scale[16][QUARTERS]; /* of each 16 values, four words a row */
    __m256i start[QUARTERS];     /* minus the product with a row of 128 */
    __m256 d[2];
};

KERN__INLINE __m256i broadcast8(const void *from)
{
    int64_t lane;
    memcpy(&lane, from, 8);
    return _mm256_set1_epi64x(lane);
}

/* Bytes, one a row, as four words each. */
KERN__INLINE __m256i load_scale(const uint8_t *from)
{
    const __m256i words =
        _mm256_set_epi32((int)0x80088008, (int)0x80088008, (int)0x80008000, (int)0x80008000,
                         (int)0x80088008, (int)0x80088008, (int)0x80008000, (int)0x80008000);
    __m256i wide = _mm256_cvtepu8_epi64(_mm_cvtsi32_si128(kern__load_lane(from)));
    return _mm256_shuffle_epi8(wide, words);
}

/* A bit of each of 4 bytes as a byte of ones. */
KERN__INLINE __m256i load_signs(const uint8_t *from)
{
    const __m256i repeat = _mm256_set_epi64x(0x0303030303030303, 0x0202020202020202,
                                             0x0101010101010101, 0x0000000000000000);
    const __m256i bits = _mm256_set1_epi64x((int64_t)0x8040201008040201);
    __m256i bytes = _mm256_shuffle_epi8(_mm256_set1_epi32(kern__load_lane(from)), repeat);
    return _mm256_cmpeq_epi8(_mm256_and_si256(bytes, bits), bits);
}

/* v, negated where signs are ones. */
KERN__INLINE __m256i apply(__m256i v, __m256i signs)
{
    return _mm256_sign_epi8(v, _mm256_or_si256(signs, _mm256_set1_epi8(1)));
}

/* The grids of group g of the rows of quarter h. */
KERN__INLINE __m256i load_grids(enum kern_type type, const struct kern__iq_panel *panel, size_t g,
                                size_t h)
{
    size_t r = 4 * h;
    return _mm256_set_epi64x((int64_t)kern__iq_grid(type, panel, g, r + 3),
                             (int64_t)kern__iq_grid(type, panel, g, r + 2),
                             (int64_t)kern__iq_grid(type, panel, g, r + 1),
                             (int64_t)kern__iq_grid(type, panel, g, r));
}

/* The sums of 8 rows out of the two lanes that each row has in its quarter. */
KERN__INLINE __m256i join(__m256i first, __m256i second)
{
    return _mm256_permute4x64_epi64(_mm256_hadd_epi32(first, second), 0xd8);
}

KERN__INLINE __m256 load_d(enum kern_type type, const uint8_t *from)
{
    __m256 d = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)from));
    return _mm256_mul_ps(d, _mm256_set1_ps(kern__iq_factor(type)));
}

/* acc + (d * dx) * s. */
KERN__INLINE __m256 accumulate(__m256 acc, __m256 d, float dx, __m256i s)
{
    return _mm256_fmadd_ps(_mm256_mul_ps(d, _mm256_set1_ps(dx)), _mm256_cvtepi32_ps(s), acc);
}

/* s + scale * (w . x), w unsigned. */
KERN__INLINE __m256i add_product(__m256i s, __m256i w, __m256i x, __m256i scale)
{
    return _mm256_add_epi32(s, _mm256_madd_epi16(_mm256_maddubs_epi16(w, x), scale));
}

/* w + 9 of IQ1: unsigned. */
KERN__INLINE __m256i iq1_unsigned(__m256i grids, __m256i down)
{
    return _mm256_add_epi8(grids, _mm256_andnot_si256(down, _mm256_set1_epi8(2)));
}

/* s += (2S + 1) * (w . q) over 16 values; q, sum: their activations and what these sum to. */
KERN__INLINE void one_row_sub(enum kern_type type, __m256i s[QUARTERS],
                              const struct kern__iq_panel *panel, size_t sub, const char *q,
                              int16_t sum)
{
#pragma GCC unroll 4
    for (size_t h = 0; h < QUARTERS; h++) {
        __m256i scale = load_scale(panel->scale[sub] + 4 * h);
#pragma GCC unroll 2
        for (size_t g = 2 * sub; g < 2 * sub + 2; g++) {
            __m256i w = load_grids(type, panel, g, h), x = broadcast8(q + 8 * (g % 2));
            __m256i signs = load_signs(panel->sign[g] + 4 * h);
            if (kern__iq_is_iq1(type))
                w = iq1_unsigned(w, signs);
            else
                x = apply(x, signs);
            s[h] = add_product(s[h], w, x, scale);
        }
        if (kern__iq_is_iq1(type)) {
            __m256i offset = _mm256_set1_epi64x((uint16_t)(-9 * sum));
            s[h] = _mm256_add_epi32(s[h], _mm256_madd_epi16(offset, scale));
        }
    }
}

/* One panel by one row. */
KERN__INLINE void one_row(enum kern_type type, size_t packed_bytes, float *y, const uint8_t *packed,
                          const char *x, size_t k)
{
    const int16_t *sums = kern_act_sums(KERN_ACT_Q8_256, x, k);
    const float *dx = kern_act_scales(x, k);
    __m256 acc[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
    for (size_t b = 0; b < k / 256; b++, packed += packed_bytes) {
        struct kern__iq_panel panel;
        __m256i s[QUARTERS];
        for (size_t h = 0; h < QUARTERS; h++)
            s[h] = _mm256_setzero_si256();
        kern__prefetch((const char *)packed, packed_bytes, 2);
        kern__iq_take_apart(type, &panel, packed);
        for (size_t sub = 0; sub < 16; sub++)
            one_row_sub(type, s, &panel, sub, x + 256 * b + 16 * sub, sums[16 * b + sub]);
        for (size_t h = 0; h < 2; h++)
            acc[h] = accumulate(acc[h], load_d(type, packed + 16 * h), dx[b],
                                join(s[2 * h], s[2 * h + 1]));
    }
    _mm256_storeu_ps(y, acc[0]);
    _mm256_storeu_ps(y + 8, acc[1]);
}

KERN__INLINE void decode(enum kern_type type, struct weights *out, const uint8_t *packed)
{
    const __m256i row = _mm256_set1_epi8(-128); /* of unsigned bytes: 128 */
    struct kern__iq_panel panel;
    kern__iq_take_apart(type, &panel, packed);
    for (size_t h = 0; h < 2; h++)
        out->d[h] = load_d(type, packed + 16 * h);
    for (size_t h = 0; h < QUARTERS; h++) {
        __m256i sum = _mm256_setzero_si256();
        for (size_t g = 0; g < 32; g++) {
            __m256i w = load_grids(type, &panel, g, h);
            __m256i scale = load_scale(panel.scale[g / 2] + 4 * h);
            __m256i signs = load_signs(panel.sign[g] + 4 * h);
            if (kern__iq_is_iq1(type))
                w = _mm256_sub_epi8(iq1_unsigned(w, signs), _mm256_set1_epi8(9));
            else
                w = apply(w, signs);
            out->w[g][h] = w;
            out->scale[g / 2][h] = scale;
            sum = add_product(sum, row, w, scale);
        }
        out->start[h] = _mm256_sub_epi32(_mm256_setzero_si256(), sum);
    }
}

/* The activations of a block, 128 more than they are. */
KERN__INLINE void load_unsigned(__m256i to[8], const char *q)
{
    for (size_t i = 0; i < 8; i++)
        to[i] = _mm256_xor_si256(_mm256_loadu_si256((const __m256i *)(q + 32 * i)),
                                 _mm256_set1_epi8(-128));
}

/* Half of a block, rows 8h to 8h + 7, by n rows of unsigned activations; y holds the sums so far,
 * dx the activations' scales. */
KERN__INLINE void half_rows(float *y, size_t ldy, const struct weights *weights, size_t h,
                            __m256i q[MAX_ROWS][8], const float dx[MAX_ROWS], int n)
{
    __m256i s[MAX_ROWS][2];
    for (int r = 0; r < n; r++) {
        s[r][0] = weights->start[2 * h];
        s[r][1] = weights->start[2 * h + 1];
    }
    for (size_t g = 0; g < 32; g++) {
        const __m256i *w = weights->w[g] + 2 * h, *scale = weights->scale[g / 2] + 2 * h;
        for (int r = 0; r < n; r++) {
            __m256i lane = broadcast8((const char *)q[r] + 8 * g);
            s[r][0] = add_product(s[r][0], lane, w[0], scale[0]);
            s[r][1] = add_product(s[r][1], lane, w[1], scale[1]);
        }
    }
    for (int r = 0; r < n; r++) {
        float *to = y + r * ldy + 8 * h;
        _mm256_storeu_ps(
            to, accumulate(_mm256_loadu_ps(to), weights->d[h], dx[r], join(s[r][0], s[r][1])));
    }
}

/* A block by n rows. x: the block's activations of row 0, dx: their scale. */
KERN__INLINE void block_rows(float *y, size_t ldy, const struct weights *weights, const char *x,
                             const char *dx, size_t x_bytes, int n)
{
    __m256i q[MAX_ROWS][8];
    float scale[MAX_ROWS];
    for (int r = 0; r < n; r++) {
        load_unsigned(q[r], x + r * x_bytes);
        memcpy(&scale[r], dx + r * x_bytes, 4);
    }
    half_rows(y, ldy, weights, 0, q, scale, n);
    half_rows(y, ldy, weights, 1, q, scale, n);
}

/* A block by all rows, the same for every type. */
static void block_all(float *y, size_t ldy, const struct weights *weights, const char *x,
                      const char *dx, size_t x_bytes, size_t n_rows)
{
    for (; n_rows >= 4; n_rows -= 4, y += 4 * ldy, x += 4 * x_bytes, dx += 4 * x_bytes)
        block_rows(y, ldy, weights, x, dx, x_bytes, 4);
    for (; n_rows; n_rows--, y += ldy, x += x_bytes, dx += x_bytes)
        block_rows(y, ldy, weights, x, dx, x_bytes, 1);
}

/* One panel by many rows. */
KERN__INLINE void many_rows(enum kern_type type, size_t packed_bytes, float *y, size_t ldy,
                            const uint8_t *packed, const char *x, size_t x_bytes, size_t n_rows,
                            size_t k)
{
    for (size_t r = 0; r < n_rows; r++)
        memset(y + r * ldy, 0, KERN_PANEL * sizeof *y);
    for (size_t b = 0; b < k / 256; b++, packed += packed_bytes) {
        struct weights weights;
        decode(type, &weights, packed);
        block_all(y, ldy, &weights, x + 256 * b, x + k + 4 * b, x_bytes, n_rows);
    }
}

#define MATMUL(name, type, block_bytes)                                                            \
    static void matmul_##name(float *y, size_t ldy, const void *w, size_t n_panels, const void *x, \
                              size_t x_bytes, size_t n_rows, size_t k)                             \
    {                                                                                              \
        const size_t packed_bytes = KERN_PANEL * (block_bytes);                                    \
        const uint8_t *panel = w;                                                                  \
        for (size_t p = 0; p < n_panels; p++, panel += k / 256 * packed_bytes) {                   \
            float *to = y + KERN_PANEL * p;                                                        \
            if (n_rows == 1)                                                                       \
                one_row(type, packed_bytes, to, panel, x, k);                                      \
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

void kern_init_matmul_iq_avx2(struct kern_table *t)
{
    t->matmul[KERN_IQ1_S] = matmul_iq1_s;
    t->matmul[KERN_IQ1_M] = matmul_iq1_m;
    t->matmul[KERN_IQ2_XXS] = matmul_iq2_xxs;
    t->matmul[KERN_IQ2_XS] = matmul_iq2_xs;
    t->matmul[KERN_IQ2_S] = matmul_iq2_s;
    t->matmul[KERN_IQ3_XXS] = matmul_iq3_xxs;
    t->matmul[KERN_IQ3_S] = matmul_iq3_s;
}
