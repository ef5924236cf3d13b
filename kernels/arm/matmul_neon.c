/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Products of packed matrices with NEON's dot products: sdot takes 4 weights of 4 rows and the 4
 * activations of one lane, so that 16 activations are loaded at once and no lane is ever repeated.
 * A tile's sums of one row of activations are 2 registers.
 */
#include "kernels/arm/matmul.h"

#define GROUPS     4
#define GROUP_ROWS 1
#define COLUMNS    2
#define PAIRED     false

KERN__INLINE void add_products(int32x4_t (*t)[COLUMNS], const int8_t *w, const char *x,
                               size_t x_bytes, int n)
{
    int8x16_t q[GROUPS];
    for (int g = 0; g < n; g++)
        q[g] = vld1q_s8((const int8_t *)x + g * x_bytes);
    for (size_t c = 0; c < COLUMNS; c++) {
        int8x16_t v[4];
        for (size_t j = 0; j < 4; j++)
            v[j] = vld1q_s8(w + 4 * KERN_PANEL * j + 16 * c);
        for (int g = 0; g < n; g++)
            t[g][c] = kern__arm_dot16(t[g][c], v, q[g]);
    }
}

KERN__INLINE int32x4_t of_rows(const char *from, size_t x_bytes)
{
    int32_t word;
    (void)x_bytes;
    memcpy(&word, from, sizeof word);
    return vdupq_n_s32(word);
}

KERN__INLINE void gather(int32x4_t to[COLUMNS], int32x4_t (*from)[2])
{
    to[0] = from[0][0];
    to[1] = from[0][1];
}

KERN__INLINE void scatter(int32x4_t (*to)[2], const int32x4_t from[COLUMNS])
{
    to[0][0] = from[0];
    to[0][1] = from[1];
}

#include "kernels/arm/matmul_tmpl.h"

void kern_init_matmul_neon(struct kern_table *t)
{
    fill_matmul(t);
}
