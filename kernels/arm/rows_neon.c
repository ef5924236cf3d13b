/* SPDX-License-Identifier: Apache-2.0 */
/* The row functions with four 128-bit registers a vector. */
#include <arm_neon.h>
#include <string.h>

#include "kernels/table.h"

struct vec {
    float32x4_t a, b, c, d;
};

/* Of 32 registers, 16 hold the sums of attention's value loop. */
#define VALUE_SUMS 4u
#define TILE_HEADS 1u

/* All bits of the lanes below n in register i of a vector. */
static inline uint32x4_t first_mask(size_t n, int i)
{
    static const uint32_t lanes[4] = {0, 1, 2, 3};
    uint32x4_t lane = vaddq_u32(vld1q_u32(lanes), vdupq_n_u32(4 * (uint32_t)i));
    return vcltq_u32(lane, vdupq_n_u32((uint32_t)n));
}

static inline struct vec vec_set1(float s)
{
    float32x4_t q = vdupq_n_f32(s);
    return (struct vec){q, q, q, q};
}

static inline struct vec vec_load(const float *p)
{
    return (struct vec){vld1q_f32(p), vld1q_f32(p + 4), vld1q_f32(p + 8), vld1q_f32(p + 12)};
}

static inline struct vec vec_load_n(const float *p, size_t n)
{
    float whole[16] = {0};
    memcpy(whole, p, n * sizeof(float));
    return vec_load(whole);
}

static inline float32x4_t of_halves(uint16x4_t halves)
{
    return vcvt_f32_f16(vreinterpret_f16_u16(halves));
}

static inline struct vec vec_load_f16(const uint16_t *p)
{
    return (struct vec){of_halves(vld1_u16(p)), of_halves(vld1_u16(p + 4)),
                        of_halves(vld1_u16(p + 8)), of_halves(vld1_u16(p + 12))};
}

static inline struct vec vec_load_f16_n(const uint16_t *p, size_t n)
{
    uint16_t whole[16] = {0};
    memcpy(whole, p, n * sizeof(uint16_t));
    return vec_load_f16(whole);
}

static inline struct vec vec_set1_f16(const void *p)
{
    uint16_t half;
    memcpy(&half, p, sizeof half);
    float32x4_t q = of_halves(vdup_n_u16(half));
    return (struct vec){q, q, q, q};
}

static inline struct vec vec_of_i8(int8x16_t v)
{
    int16x8_t low = vmovl_s8(vget_low_s8(v)), high = vmovl_high_s8(v);
    return (struct vec){
        vcvtq_f32_s32(vmovl_s16(vget_low_s16(low))), vcvtq_f32_s32(vmovl_high_s16(low)),
        vcvtq_f32_s32(vmovl_s16(vget_low_s16(high))), vcvtq_f32_s32(vmovl_high_s16(high))};
}

static inline struct vec vec_load_i8(const void *p)
{
    return vec_of_i8(vld1q_s8(p));
}

/* Nibbles less 8. */
static inline struct vec vec_of_nibbles(uint8x16_t nibbles)
{
    return vec_of_i8(vsubq_s8(vreinterpretq_s8_u8(nibbles), vdupq_n_s8(8)));
}

static inline struct vec vec_load_low(const void *p)
{
    return vec_of_nibbles(vandq_u8(vld1q_u8(p), vdupq_n_u8(15)));
}

static inline struct vec vec_load_high(const void *p)
{
    return vec_of_nibbles(vshrq_n_u8(vld1q_u8(p), 4));
}

static inline void vec_store(float *p, struct vec v)
{
    vst1q_f32(p, v.a);
    vst1q_f32(p + 4, v.b);
    vst1q_f32(p + 8, v.c);
    vst1q_f32(p + 12, v.d);
}

static inline void vec_store_n(float *p, struct vec v, size_t n)
{
    float whole[16];
    vec_store(whole, v);
    memcpy(p, whole, n * sizeof(float));
}

static inline void vec_store_f16(uint16_t *p, struct vec v)
{
    vst1q_u16(p, vreinterpretq_u16_f16(vcvt_high_f16_f32(vcvt_f16_f32(v.a), v.b)));
    vst1q_u16(p + 8, vreinterpretq_u16_f16(vcvt_high_f16_f32(vcvt_f16_f32(v.c), v.d)));
}

static inline float32x4_t max(float32x4_t a, float32x4_t b)
{
    return vbslq_f32(vcgtq_f32(a, b), a, b);
}

static inline float32x4_t min(float32x4_t a, float32x4_t b)
{
    return vbslq_f32(vcltq_f32(a, b), a, b);
}

/* Nearest even, clamped to +-127. */
static inline int16x4_t round_i16(float32x4_t x)
{
    return vmovn_s32(vcvtnq_s32_f32(min(max(x, vdupq_n_f32(-127.0f)), vdupq_n_f32(127.0f))));
}

static inline int16_t vec_store_i8(int8_t *p, struct vec v)
{
    int16x8_t low = vcombine_s16(round_i16(v.a), round_i16(v.b));
    int16x8_t high = vcombine_s16(round_i16(v.c), round_i16(v.d));
    vst1q_s8(p, vcombine_s8(vmovn_s16(low), vmovn_s16(high)));
    return vaddvq_s16(vaddq_s16(low, high));
}

#define LANEWISE(name, operation)                                                                  \
    static inline struct vec name(struct vec x, struct vec y)                                      \
    {                                                                                              \
        return (struct vec){operation(x.a, y.a), operation(x.b, y.b), operation(x.c, y.c),         \
                            operation(x.d, y.d)};                                                  \
    }
LANEWISE(vec_add, vaddq_f32)
LANEWISE(vec_sub, vsubq_f32)
LANEWISE(vec_mul, vmulq_f32)
LANEWISE(vec_div, vdivq_f32)
LANEWISE(vec_max, max)
LANEWISE(vec_min, min)
#undef LANEWISE

static inline struct vec vec_abs(struct vec v)
{
    return (struct vec){vabsq_f32(v.a), vabsq_f32(v.b), vabsq_f32(v.c), vabsq_f32(v.d)};
}

static inline struct vec vec_fma(struct vec a, struct vec b, struct vec c)
{
    return (struct vec){vfmaq_f32(c.a, a.a, b.a), vfmaq_f32(c.b, a.b, b.b),
                        vfmaq_f32(c.c, a.c, b.c), vfmaq_f32(c.d, a.d, b.d)};
}

static inline struct vec vec_if_ge(struct vec a, struct vec b, struct vec yes, struct vec no)
{
    return (struct vec){
        vbslq_f32(vcgeq_f32(a.a, b.a), yes.a, no.a), vbslq_f32(vcgeq_f32(a.b, b.b), yes.b, no.b),
        vbslq_f32(vcgeq_f32(a.c, b.c), yes.c, no.c), vbslq_f32(vcgeq_f32(a.d, b.d), yes.d, no.d)};
}

static inline struct vec vec_first(size_t n, struct vec v, struct vec other)
{
    return (struct vec){
        vbslq_f32(first_mask(n, 0), v.a, other.a), vbslq_f32(first_mask(n, 1), v.b, other.b),
        vbslq_f32(first_mask(n, 2), v.c, other.c), vbslq_f32(first_mask(n, 3), v.d, other.d)};
}

/* In two halves, so that n = 128 stays in range. */
static inline float32x4_t scale2(float32x4_t x, float32x4_t n)
{
    int32x4_t bias = vdupq_n_s32(127), whole = vcvtnq_s32_f32(n), half = vshrq_n_s32(whole, 1);
    int32x4_t other = vshlq_n_s32(vaddq_s32(vsubq_s32(whole, half), bias), 23);
    half = vshlq_n_s32(vaddq_s32(half, bias), 23);
    return vmulq_f32(vmulq_f32(x, vreinterpretq_f32_s32(half)), vreinterpretq_f32_s32(other));
}

static inline struct vec vec_scale2(struct vec v, struct vec n)
{
    return (struct vec){scale2(v.a, n.a), scale2(v.b, n.b), scale2(v.c, n.c), scale2(v.d, n.d)};
}

/* Lane l + lane l + 8, then + 4. */
static inline float32x4_t fold(struct vec v)
{
    return vaddq_f32(vaddq_f32(v.a, v.c), vaddq_f32(v.b, v.d));
}

static inline float vec_tree(struct vec v)
{
    float32x4_t c = fold(v);
    float32x2_t d = vadd_f32(vget_low_f32(c), vget_high_f32(c));
    return vget_lane_f32(d, 0) + vget_lane_f32(d, 1);
}

/* (c0 + c2, c1 + c3) of two. */
static inline float32x4_t fold_pair(struct vec a, struct vec b)
{
    float64x2_t fa = vreinterpretq_f64_f32(fold(a)), fb = vreinterpretq_f64_f32(fold(b));
    return vaddq_f32(vreinterpretq_f32_f64(vzip1q_f64(fa, fb)),
                     vreinterpretq_f32_f64(vzip2q_f64(fa, fb)));
}

static inline void vec_tree4(float sums[4], struct vec a, struct vec b, struct vec c, struct vec d)
{
    vst1q_f32(sums, vpaddq_f32(fold_pair(a, b), fold_pair(c, d)));
}

static inline float vec_max_lanes(struct vec v)
{
    float32x4_t c = max(max(v.a, v.b), max(v.c, v.d));
    float32x2_t d = vget_low_f32(max(c, vextq_f32(c, c, 2)));
    float x = vget_lane_f32(d, 0), y = vget_lane_f32(d, 1);
    return x > y ? x : y;
}

#include "kernels/quads.h"
#include "kernels/rows_tmpl.h"

void kern_init_rows_neon(struct kern_table *t)
{
    fill_rows(t);
}
