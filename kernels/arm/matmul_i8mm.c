/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Products of many rows with the matrix products of integers, an extension of Armv8.6: smmla takes
 * 8 values each of two rows of activations and two rows of weights and adds to four sums, twice as
 * many products as sdot has in an instruction. So rows of both come in pairs, and the lanes of a
 * sum are activations 0 by weights 0, 0 by 1, 1 by 0, 1 by 1. One row has nothing to pair with and
 * is left to NEON.
 */
#include "kernels/arm/matmul.h"

#define GROUPS     2
#define GROUP_ROWS 2
#define COLUMNS    4
#define PAIRED     true

KERN__INLINE void add_products(int32x4_t (*t)[COLUMNS], const int8_t *w, const char *x,
                               size_t x_bytes, int n)
{
    int8x16_t q[2][GROUPS];
    for (int g = 0; g < n; g++, x += 2 * x_bytes) {
        int64x2_t a = vreinterpretq_s64_s8(vld1q_s8((const int8_t *)x));
        int64x2_t b = vreinterpretq_s64_s8(vld1q_s8((const int8_t *)x + x_bytes));
        q[0][g] = vreinterpretq_s8_s64(vzip1q_s64(a, b));
        q[1][g] = vreinterpretq_s8_s64(vzip2q_s64(a, b));
    }
    for (size_t i = 0; i < 2; i++)
        for (size_t c = 0; c < COLUMNS; c++) {
            int8x16_t v = vld1q_s8(w + 8 * KERN_PANEL * i + 16 * c);
            for (int g = 0; g < n; g++)
                t[g][c] = vmmlaq_s32(t[g][c], q[i][g], v);
        }
}

KERN__INLINE int32x4_t of_rows(const char *from, size_t x_bytes)
{
    int32_t first, second;
    memcpy(&first, from, sizeof first);
    memcpy(&second, from + x_bytes, sizeof second);
    return vcombine_s32(vdup_n_s32(first), vdup_n_s32(second));
}

/* The lower, then the upper halves of two. */
KERN__INLINE void zip_halves(int32x4_t *lower, int32x4_t *upper, int32x4_t a, int32x4_t b)
{
    int64x2_t first = vreinterpretq_s64_s32(a), second = vreinterpretq_s64_s32(b);
    *lower = vreinterpretq_s32_s64(vzip1q_s64(first, second));
    *upper = vreinterpretq_s32_s64(vzip2q_s64(first, second));
}

KERN__INLINE void gather(int32x4_t to[COLUMNS], int32x4_t (*from)[2])
{
    zip_halves(&to[0], &to[1], from[0][0], from[1][0]);
    zip_halves(&to[2], &to[3], from[0][1], from[1][1]);
}

KERN__INLINE void scatter(int32x4_t (*to)[2], const int32x4_t from[COLUMNS])
{
    zip_halves(&to[0][0], &to[1][0], from[0], from[1]);
    zip_halves(&to[0][1], &to[1][1], from[2], from[3]);
}

#include "kernels/arm/matmul_tmpl.h"

void kern_init_matmul_i8mm(struct kern_table *t)
{
    fill_matmul(t);
}
