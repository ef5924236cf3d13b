/* SPDX-License-Identifier: Apache-2.0 */
/* Products of packed matrices of floats with NEON. */
#include "kernels/arm/matmul.h"

/* Rows of activations at once. Their four accumulators by one part of the panel's rows fill 16
 * registers, as do those of one row by all four parts. */
#define MAX_ROWS 4
#define PARTS    4

/* Value i of a panel, of one part. */
KERN__INLINE float32x4_t load_weights(enum kern_type type, const char *w, size_t i, size_t part)
{
    if (type == KERN_F32)
        return vld1q_f32((const float *)w + KERN_PANEL * i + 4 * part);
    uint16x4_t bits = vld1_u16((const uint16_t *)w + KERN_PANEL * i + 4 * part);
    if (type == KERN_F16)
        return vcvt_f32_f16(vreinterpret_f16_u16(bits));
    return vreinterpretq_f32_u32(vshll_n_u16(bits, 16));
}

/* Values i to i + 3 of the panel, each added to its accumulator of each row. */
KERN__INLINE void add_four(float32x4_t (*a)[PARTS][4], enum kern_type type, const char *w,
                           const char *x, size_t x_bytes, size_t i, int n, size_t first, size_t end)
{
    float32x4_t q[MAX_ROWS];
    for (int r = 0; r < n; r++)
        q[r] = vld1q_f32((const float *)(x + r * x_bytes) + i);
    for (size_t p = first; p < end; p++) {
        float32x4_t v0 = load_weights(type, w, i, p), v1 = load_weights(type, w, i + 1, p);
        float32x4_t v2 = load_weights(type, w, i + 2, p), v3 = load_weights(type, w, i + 3, p);
        for (int r = 0; r < n; r++) {
            a[r][p][0] = vfmaq_laneq_f32(a[r][p][0], v0, q[r], 0);
            a[r][p][1] = vfmaq_laneq_f32(a[r][p][1], v1, q[r], 1);
            a[r][p][2] = vfmaq_laneq_f32(a[r][p][2], v2, q[r], 2);
            a[r][p][3] = vfmaq_laneq_f32(a[r][p][3], v3, q[r], 3);
        }
    }
}

/* Value i, the last but less than 4, added to accumulator j. */
KERN__INLINE void add_value(float32x4_t (*a)[PARTS][4], enum kern_type type, const char *w,
                            const char *x, size_t x_bytes, size_t i, size_t j, int n, size_t first,
                            size_t end)
{
    for (size_t p = first; p < end; p++) {
        float32x4_t v = load_weights(type, w, i, p);
        for (int r = 0; r < n; r++)
            a[r][p][j] = vfmaq_n_f32(a[r][p][j], v, *((const float *)(x + r * x_bytes) + i));
    }
}

/* Parts [first, end) of the panel by n rows. */
KERN__INLINE void add_parts(enum kern_type type, float *y, size_t ldy, const char *w, const char *x,
                            size_t x_bytes, size_t k, int n, size_t first, size_t end)
{
    float32x4_t a[MAX_ROWS][PARTS][4];
    size_t i = 0;
    for (int r = 0; r < n; r++)
        for (size_t p = first; p < end; p++)
            a[r][p][0] = a[r][p][1] = a[r][p][2] = a[r][p][3] = vdupq_n_f32(0);
    for (; i + 4 <= k; i += 4)
        add_four(a, type, w, x, x_bytes, i, n, first, end);
    for (size_t j = 0; j < 3; j++)
        if (i + j < k)
            add_value(a, type, w, x, x_bytes, i + j, j, n, first, end);
    for (int r = 0; r < n; r++)
        for (size_t p = first; p < end; p++)
            vst1q_f32(y + r * ldy + 4 * p, vaddq_f32(vaddq_f32(a[r][p][0], a[r][p][1]),
                                                     vaddq_f32(a[r][p][2], a[r][p][3])));
}

KERN__INLINE void matmul(enum kern_type type, size_t value_bytes, float *y, size_t ldy,
                         const void *w, size_t n_panels, const void *x, size_t x_bytes,
                         size_t n_rows, size_t k)
{
    const char *panel = w;
    for (size_t p = 0; p < n_panels; p++, panel += k * KERN_PANEL * value_bytes) {
        const char *from = x;
        float *to = y + KERN_PANEL * p;
        size_t left = n_rows;
        for (; left >= MAX_ROWS; left -= MAX_ROWS, from += MAX_ROWS * x_bytes, to += MAX_ROWS * ldy)
#pragma GCC unroll 4
            for (size_t part = 0; part < PARTS; part++)
                add_parts(type, to, ldy, panel, from, x_bytes, k, MAX_ROWS, part, part + 1);
        for (; left; left--, from += x_bytes, to += ldy)
            add_parts(type, to, ldy, panel, from, x_bytes, k, 1, 0, PARTS);
    }
}

#define MATMUL(name, type, value_bytes)                                                            \
    static void matmul_##name(float *y, size_t ldy, const void *w, size_t n_panels, const void *x, \
                              size_t x_bytes, size_t n_rows, size_t k)                             \
    {                                                                                              \
        matmul(type, value_bytes, y, ldy, w, n_panels, x, x_bytes, n_rows, k);                     \
    }

MATMUL(f32, KERN_F32, 4)
MATMUL(f16, KERN_F16, 2)
MATMUL(bf16, KERN_BF16, 2)

void kern_init_matmul_float_neon(struct kern_table *t)
{
    t->matmul[KERN_F32] = matmul_f32;
    t->matmul[KERN_F16] = matmul_f16;
    t->matmul[KERN_BF16] = matmul_bf16;
}
