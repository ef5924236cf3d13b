/* SPDX-License-Identifier: Apache-2.0 */
/* The row functions with one 512-bit register a vector. */
#include <immintrin.h>
#include <string.h>

#include "kernels/table.h"

struct vec {
    __m512 v;
};

#define VALUE_SUMS 16u
#define TILE_HEADS 4u

static inline __mmask16 first_mask(size_t n)
{
    return (__mmask16)((1u << n) - 1);
}

static inline struct vec vec_set1(float s)
{
    return (struct vec){_mm512_set1_ps(s)};
}

static inline struct vec vec_load(const float *p)
{
    return (struct vec){_mm512_loadu_ps(p)};
}

static inline struct vec vec_load_n(const float *p, size_t n)
{
    return (struct vec){_mm512_maskz_loadu_ps(first_mask(n), p)};
}

static inline struct vec vec_load_f16(const uint16_t *p)
{
    return (struct vec){_mm512_cvtph_ps(_mm256_loadu_si256((const void *)p))};
}

static inline struct vec vec_load_f16_n(const uint16_t *p, size_t n)
{
    return (struct vec){_mm512_cvtph_ps(_mm256_maskz_loadu_epi16(first_mask(n), p))};
}

static inline struct vec vec_set1_f16(const void *p)
{
    int16_t half;
    memcpy(&half, p, sizeof half);
    return (struct vec){_mm512_cvtph_ps(_mm256_set1_epi16(half))};
}

static inline struct vec vec_load_i8(const void *p)
{
    __m128i q = _mm_loadu_si128(p);
    return (struct vec){_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(q))};
}

/* Nibbles less 8. */
static inline struct vec vec_of_nibbles(__m128i q)
{
    q = _mm_sub_epi8(_mm_and_si128(q, _mm_set1_epi8(15)), _mm_set1_epi8(8));
    return (struct vec){_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(q))};
}

static inline struct vec vec_load_low(const void *p)
{
    return vec_of_nibbles(_mm_loadu_si128(p));
}

static inline struct vec vec_load_high(const void *p)
{
    return vec_of_nibbles(_mm_srli_epi16(_mm_loadu_si128(p), 4));
}

static inline void vec_store(float *p, struct vec v)
{
    _mm512_storeu_ps(p, v.v);
}

static inline void vec_store_n(float *p, struct vec v, size_t n)
{
    _mm512_mask_storeu_ps(p, first_mask(n), v.v);
}

static inline void vec_store_f16(uint16_t *p, struct vec v)
{
    _mm256_storeu_si256((void *)p, _mm512_cvtps_ph(v.v, _MM_FROUND_TO_NEAREST_INT));
}

static inline int16_t vec_store_i8(int8_t *p, struct vec v)
{
    __m512 x = _mm512_max_ps(v.v, _mm512_set1_ps(-127.0f));
    x = _mm512_min_ps(x, _mm512_set1_ps(127.0f));
    __m128i q = _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(x));
    _mm_storeu_si128((void *)p, q);
    /* The sum of unsigned bytes is one instruction: add 128 to each, take it off the sum. */
    __m128i biased = _mm_xor_si128(q, _mm_set1_epi8(-128));
    __m128i sums = _mm_sad_epu8(biased, _mm_setzero_si128());
    int sum = _mm_cvtsi128_si32(sums) + _mm_extract_epi16(sums, 4);
    return (int16_t)(sum - 16 * 128);
}

static inline struct vec vec_add(struct vec a, struct vec b)
{
    return (struct vec){_mm512_add_ps(a.v, b.v)};
}

static inline struct vec vec_sub(struct vec a, struct vec b)
{
    return (struct vec){_mm512_sub_ps(a.v, b.v)};
}

static inline struct vec vec_mul(struct vec a, struct vec b)
{
    return (struct vec){_mm512_mul_ps(a.v, b.v)};
}

static inline struct vec vec_div(struct vec a, struct vec b)
{
    return (struct vec){_mm512_div_ps(a.v, b.v)};
}

static inline struct vec vec_max(struct vec a, struct vec b)
{
    return (struct vec){_mm512_max_ps(a.v, b.v)};
}

static inline struct vec vec_min(struct vec a, struct vec b)
{
    return (struct vec){_mm512_min_ps(a.v, b.v)};
}

static inline struct vec vec_abs(struct vec v)
{
    return (struct vec){_mm512_abs_ps(v.v)};
}

static inline struct vec vec_fma(struct vec a, struct vec b, struct vec c)
{
    return (struct vec){_mm512_fmadd_ps(a.v, b.v, c.v)};
}

static inline struct vec vec_if_ge(struct vec a, struct vec b, struct vec yes, struct vec no)
{
    __mmask16 mask = _mm512_cmp_ps_mask(a.v, b.v, _CMP_GE_OQ);
    return (struct vec){_mm512_mask_blend_ps(mask, no.v, yes.v)};
}

static inline struct vec vec_first(size_t n, struct vec v, struct vec other)
{
    return (struct vec){_mm512_mask_blend_ps(first_mask(n), other.v, v.v)};
}

static inline struct vec vec_scale2(struct vec v, struct vec n)
{
    return (struct vec){_mm512_scalef_ps(v.v, n.v)};
}

/* Lane l + lane l + 8, then + 4. */
static inline __m128 fold(__m512 v)
{
    __m256 b = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    return _mm_add_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
}

static inline float vec_tree(struct vec v)
{
    __m128 c = fold(v.v);
    c = _mm_add_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_add_ss(c, _mm_movehdup_ps(c)));
}

static inline void vec_tree4(float sums[4], struct vec a, struct vec b, struct vec c, struct vec d)
{
    __m128 fa = fold(a.v), fb = fold(b.v), fc = fold(c.v), fd = fold(d.v);
    __m128 ab = _mm_add_ps(_mm_movelh_ps(fa, fb), _mm_movehl_ps(fb, fa));
    __m128 cd = _mm_add_ps(_mm_movelh_ps(fc, fd), _mm_movehl_ps(fd, fc));
    _mm_storeu_ps(sums, _mm_add_ps(_mm_shuffle_ps(ab, cd, _MM_SHUFFLE(2, 0, 2, 0)),
                                   _mm_shuffle_ps(ab, cd, _MM_SHUFFLE(3, 1, 3, 1))));
}

static inline float vec_max_lanes(struct vec v)
{
    return _mm512_reduce_max_ps(v.v);
}

/* quads[i]: of each four lanes number i of the four vectors. */
static inline void vec_transpose4(struct vec quads[4], const struct vec v[4])
{
    __m512d ab = _mm512_castps_pd(_mm512_unpacklo_ps(v[0].v, v[1].v));
    __m512d cd = _mm512_castps_pd(_mm512_unpacklo_ps(v[2].v, v[3].v));
    quads[0].v = _mm512_castpd_ps(_mm512_unpacklo_pd(ab, cd));
    quads[1].v = _mm512_castpd_ps(_mm512_unpackhi_pd(ab, cd));
    ab = _mm512_castps_pd(_mm512_unpackhi_ps(v[0].v, v[1].v));
    cd = _mm512_castps_pd(_mm512_unpackhi_ps(v[2].v, v[3].v));
    quads[2].v = _mm512_castpd_ps(_mm512_unpacklo_pd(ab, cd));
    quads[3].v = _mm512_castpd_ps(_mm512_unpackhi_pd(ab, cd));
}

static inline void vec_store_quads(float *to, const struct vec quads[16])
{
    for (size_t i = 0; i < 4; i++) {
        __m512 x = _mm512_shuffle_f32x4(quads[i].v, quads[4 + i].v, 0x88);
        __m512 y = _mm512_shuffle_f32x4(quads[8 + i].v, quads[12 + i].v, 0x88);
        __m512 z = _mm512_shuffle_f32x4(quads[i].v, quads[4 + i].v, 0xdd);
        __m512 w = _mm512_shuffle_f32x4(quads[8 + i].v, quads[12 + i].v, 0xdd);
        _mm512_storeu_ps(to + 16 * i, _mm512_shuffle_f32x4(x, y, 0x88));
        _mm512_storeu_ps(to + 16 * (i + 4), _mm512_shuffle_f32x4(z, w, 0x88));
        _mm512_storeu_ps(to + 16 * (i + 8), _mm512_shuffle_f32x4(x, y, 0xdd));
        _mm512_storeu_ps(to + 16 * (i + 12), _mm512_shuffle_f32x4(z, w, 0xdd));
    }
}

#include "kernels/rows_tmpl.h"

void kern_init_rows_avx512(struct kern_table *t)
{
    fill_rows(t);
}
