/* SPDX-License-Identifier: Apache-2.0 */
/* The row functions with two 256-bit registers a vector. */
#include <immintrin.h>
#include <string.h>

#include "kernels/table.h"

struct vec {
    __m256 lo, hi;
};

#define VALUE_SUMS 4u
#define TILE_HEADS 1u

/* All bits of the lanes below n in one half of a vector whose first lane is `from`. */
static inline __m256i first_mask(size_t n, int from)
{
    __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n - from), lane);
}

static inline struct vec vec_set1(float s)
{
    return (struct vec){_mm256_set1_ps(s), _mm256_set1_ps(s)};
}

static inline struct vec vec_load(const float *p)
{
    return (struct vec){_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)};
}

static inline struct vec vec_load_n(const float *p, size_t n)
{
    return (struct vec){_mm256_maskload_ps(p, first_mask(n, 0)),
                        _mm256_maskload_ps(p + 8, first_mask(n, 8))};
}

static inline struct vec vec_load_f16(const uint16_t *p)
{
    return (struct vec){_mm256_cvtph_ps(_mm_loadu_si128((const void *)p)),
                        _mm256_cvtph_ps(_mm_loadu_si128((const void *)(p + 8)))};
}

static inline struct vec vec_load_f16_n(const uint16_t *p, size_t n)
{
    uint16_t whole[16] = {0};
    memcpy(whole, p, n * sizeof(uint16_t));
    return vec_load_f16(whole);
}

static inline struct vec vec_set1_f16(const void *p)
{
    int16_t half;
    memcpy(&half, p, sizeof half);
    __m256 v = _mm256_cvtph_ps(_mm_set1_epi16(half));
    return (struct vec){v, v};
}

static inline struct vec vec_of_i8(__m128i q)
{
    return (struct vec){_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(q)),
                        _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(q, 8)))};
}

static inline struct vec vec_load_i8(const void *p)
{
    return vec_of_i8(_mm_loadu_si128(p));
}

/* Nibbles less 8. */
static inline struct vec vec_of_nibbles(__m128i q)
{
    return vec_of_i8(_mm_sub_epi8(_mm_and_si128(q, _mm_set1_epi8(15)), _mm_set1_epi8(8)));
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
    _mm256_storeu_ps(p, v.lo);
    _mm256_storeu_ps(p + 8, v.hi);
}

static inline void vec_store_n(float *p, struct vec v, size_t n)
{
    _mm256_maskstore_ps(p, first_mask(n, 0), v.lo);
    _mm256_maskstore_ps(p + 8, first_mask(n, 8), v.hi);
}

static inline void vec_store_f16(uint16_t *p, struct vec v)
{
    _mm_storeu_si128((void *)p, _mm256_cvtps_ph(v.lo, _MM_FROUND_TO_NEAREST_INT));
    _mm_storeu_si128((void *)(p + 8), _mm256_cvtps_ph(v.hi, _MM_FROUND_TO_NEAREST_INT));
}

/* Nearest even, clamped to +-127, as int16. */
static inline __m128i round_i16(__m256 x)
{
    x = _mm256_min_ps(_mm256_max_ps(x, _mm256_set1_ps(-127.0f)), _mm256_set1_ps(127.0f));
    __m256i q = _mm256_cvtps_epi32(x);
    return _mm_packs_epi32(_mm256_castsi256_si128(q), _mm256_extracti128_si256(q, 1));
}

static inline int16_t vec_store_i8(int8_t *p, struct vec v)
{
    __m128i q = _mm_packs_epi16(round_i16(v.lo), round_i16(v.hi));
    _mm_storeu_si128((void *)p, q);
    /* The sum of unsigned bytes is one instruction: add 128 to each, take it off the sum. */
    __m128i biased = _mm_xor_si128(q, _mm_set1_epi8(-128));
    __m128i sums = _mm_sad_epu8(biased, _mm_setzero_si128());
    int sum = _mm_cvtsi128_si32(sums) + _mm_extract_epi16(sums, 4);
    return (int16_t)(sum - 16 * 128);
}

static inline struct vec vec_add(struct vec a, struct vec b)
{
    return (struct vec){_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)};
}

static inline struct vec vec_sub(struct vec a, struct vec b)
{
    return (struct vec){_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)};
}

static inline struct vec vec_mul(struct vec a, struct vec b)
{
    return (struct vec){_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)};
}

static inline struct vec vec_div(struct vec a, struct vec b)
{
    return (struct vec){_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)};
}

static inline struct vec vec_max(struct vec a, struct vec b)
{
    return (struct vec){_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)};
}

static inline struct vec vec_min(struct vec a, struct vec b)
{
    return (struct vec){_mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi)};
}

static inline struct vec vec_abs(struct vec v)
{
    __m256 sign = _mm256_set1_ps(-0.0f);
    return (struct vec){_mm256_andnot_ps(sign, v.lo), _mm256_andnot_ps(sign, v.hi)};
}

static inline struct vec vec_fma(struct vec a, struct vec b, struct vec c)
{
    return (struct vec){_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
}

static inline struct vec vec_if_ge(struct vec a, struct vec b, struct vec yes, struct vec no)
{
    __m256 lo = _mm256_cmp_ps(a.lo, b.lo, _CMP_GE_OQ), hi = _mm256_cmp_ps(a.hi, b.hi, _CMP_GE_OQ);
    return (struct vec){_mm256_blendv_ps(no.lo, yes.lo, lo), _mm256_blendv_ps(no.hi, yes.hi, hi)};
}

static inline struct vec vec_first(size_t n, struct vec v, struct vec other)
{
    __m256 lo = _mm256_castsi256_ps(first_mask(n, 0)), hi = _mm256_castsi256_ps(first_mask(n, 8));
    return (struct vec){_mm256_blendv_ps(other.lo, v.lo, lo), _mm256_blendv_ps(other.hi, v.hi, hi)};
}

/* In two halves, so that n = 128 stays in range. */
static inline __m256 scale2(__m256 x, __m256 n)
{
    __m256i bias = _mm256_set1_epi32(127), whole = _mm256_cvtps_epi32(n);
    __m256i half = _mm256_srai_epi32(whole, 1), other = _mm256_sub_epi32(whole, half);
    half = _mm256_slli_epi32(_mm256_add_epi32(half, bias), 23);
    other = _mm256_slli_epi32(_mm256_add_epi32(other, bias), 23);
    return _mm256_mul_ps(_mm256_mul_ps(x, _mm256_castsi256_ps(half)), _mm256_castsi256_ps(other));
}

static inline struct vec vec_scale2(struct vec v, struct vec n)
{
    return (struct vec){scale2(v.lo, n.lo), scale2(v.hi, n.hi)};
}

/* Lane l + lane l + 8, then + 4. */
static inline __m128 fold(struct vec v)
{
    __m256 b = _mm256_add_ps(v.lo, v.hi);
    return _mm_add_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
}

static inline float vec_tree(struct vec v)
{
    __m128 c = fold(v);
    c = _mm_add_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_add_ss(c, _mm_movehdup_ps(c)));
}

static inline void vec_tree4(float sums[4], struct vec a, struct vec b, struct vec c, struct vec d)
{
    __m128 fa = fold(a), fb = fold(b), fc = fold(c), fd = fold(d);
    __m128 ab = _mm_add_ps(_mm_movelh_ps(fa, fb), _mm_movehl_ps(fb, fa));
    __m128 cd = _mm_add_ps(_mm_movelh_ps(fc, fd), _mm_movehl_ps(fd, fc));
    _mm_storeu_ps(sums, _mm_add_ps(_mm_shuffle_ps(ab, cd, _MM_SHUFFLE(2, 0, 2, 0)),
                                   _mm_shuffle_ps(ab, cd, _MM_SHUFFLE(3, 1, 3, 1))));
}

static inline float vec_max_lanes(struct vec v)
{
    __m256 b = _mm256_max_ps(v.lo, v.hi);
    __m128 c = _mm_max_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    c = _mm_max_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_max_ss(c, _mm_movehdup_ps(c)));
}

#include "kernels/quads.h"
#include "kernels/rows_tmpl.h"

void kern_init_rows_avx2(struct kern_table *t)
{
    fill_rows(t);
}
