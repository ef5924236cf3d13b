/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Products of the IQ types with one row of activations, with AVX-512; many rows are in
 * matmul_many_avx512.c.
 *
 * Of IQ2 and IQ3 a lane is a row of the panel. Each register of four weights a lane is multiplied
 * by four activations (vpdpbusd), which lie in the order of the weights; a sum starts from what the
 * offset adds to it, taken off. A sum of 32 values, times a scale of at most 31, is below 2^23;
 * that of a block below 2^26.
 *
 * Of IQ1 a register is 8 rows of 8 weights, multiplied by 8 activations in every lane of 64 bits,
 * and a panel has two of them, its halves. Words of pairs are multiplied by their scale and added
 * up (vpdpwssd), so that a row's sum grows in the two lanes of 32 bits of its place. maddubs
 * multiplies unsigned by signed bytes and adds pairs into 16 bits, saturating: with 9 added, a pair
 * is at most 2 * 18 * 127 < 2^15.
 */
#include "kernels/x86/iq_avx512.h"
#include "kernels/x86/unpack_avx512.h"

#define HALVES 2

/* A block's activations for one row. */
struct row_block {
    _Alignas(64) int8_t q[256];
    _Alignas(64) int32_t start[16]; /* of each 16 values (IQ2_XS, IQ2_S) or each 32 */
};

/* A block's activations in the order of iq_part's vectors, and what each sum starts from. */
KERN__INLINE void load_row(enum kern_type type, struct row_block *row, const char *x,
                           const int16_t *sums)
{
    const __m512i order = kern__iq_is_iq3(type) ? table16(0x0705030106040200, 0x0f0d0b090e0c0a08)
                                                : table16(0x090b0103080a0002, 0x0d0f05070c0e0406);
    const short offset = (short)kern__unpack_offset(type);
    __m256i all = _mm256_loadu_si256((const __m256i *)sums);
    for (size_t i = 0; i < 256; i += 64)
        _mm512_store_si512(row->q + i, _mm512_shuffle_epi8(_mm512_loadu_si512(x + i), order));
    if (kern__scales_of_16(type))
        _mm512_store_si512(
            row->start, _mm512_mullo_epi32(_mm512_cvtepi16_epi32(all), _mm512_set1_epi32(-offset)));
    else
        _mm256_store_si256((__m256i *)row->start,
                           _mm256_madd_epi16(all, _mm256_set1_epi16(-offset)));
}

/* sum + w . q over four vectors. */
KERN__INLINE __m512i add_products(__m512i sum, const __m512i v[4], const int8_t *q)
{
#pragma GCC unroll 4
    for (size_t j = 0; j < 4; j++)
        sum = _mm512_dpbusd_epi32(sum, v[j], _mm512_set1_epi32(kern__load_lane(q + 4 * j)));
    return sum;
}

/* total + scale * sum. */
KERN__INLINE __m512i add_scaled(__m512i total, __m512i scale, __m512i sum)
{
    return _mm512_add_epi32(total, _mm512_mullo_epi32(scale, sum));
}

/* The integer sums of a block's 16 rows; sums: those of each 16 activations. */
KERN__INLINE __m512i block_row(enum kern_type type, const uint8_t *packed, const char *x,
                               const int16_t *sums)
{
    struct row_block row;
    __m512i total = _mm512_setzero_si512();
    load_row(type, &row, x, sums);
    for (size_t first = 0; first < 8; first += 4) {
        __m512i high = iq_high(type, packed, first / 4);
#pragma GCC unroll 4
        for (size_t sub = first; sub < first + 4; sub++) {
            const bool of_16 = kern__scales_of_16(type);
            const int8_t *q = row.q + 32 * sub;
            struct iq_part part;
            iq_part(type, &part, packed, sub, high);
            __m512i sum = _mm512_set1_epi32(row.start[of_16 ? 2 * sub : sub]);
            sum = add_products(sum, part.v, q);
            if (of_16) {
                total = add_scaled(total, part.scale[0], sum);
                sum = _mm512_set1_epi32(row.start[2 * sub + 1]);
            }
            total = add_scaled(total, part.scale[1], add_products(sum, part.v + 4, q + 16));
        }
    }
    return total;
}

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
            __m512i w = iq1_values(type, panel, g, h);
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

#define MATMUL(name, type, block_bytes)                                                            \
    static void matmul_##name(float *y, size_t ldy, const void *w, size_t n_panels, const void *x, \
                              size_t x_bytes, size_t n_rows, size_t k)                             \
    {                                                                                              \
        const size_t packed_bytes = KERN_PANEL * (block_bytes);                                    \
        const uint8_t *panel = w;                                                                  \
        for (size_t p = 0; p < n_panels; p++, panel += k / 256 * packed_bytes) {                   \
            float *to = y + KERN_PANEL * p;                                                        \
            for (size_t r = 0; r < n_rows; r++)                                                    \
                one_row(type, packed_bytes, to + r * ldy, panel, (const char *)x + r * x_bytes,    \
                        k);                                                                        \
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
    kern__init_iq_codes();
    t->matmul[KERN_IQ1_S] = matmul_iq1_s;
    t->matmul[KERN_IQ1_M] = matmul_iq1_m;
    t->matmul[KERN_IQ2_XXS] = matmul_iq2_xxs;
    t->matmul[KERN_IQ2_XS] = matmul_iq2_xs;
    t->matmul[KERN_IQ2_S] = matmul_iq2_s;
    t->matmul[KERN_IQ3_XXS] = matmul_iq3_xxs;
    t->matmul[KERN_IQ3_S] = matmul_iq3_s;
}
