/* SPDX-License-Identifier: Apache-2.0 */
/* What the portable matrix kernels share; the including files only. */
#ifndef KERNELS_PORTABLE_MATMUL_H
#define KERNELS_PORTABLE_MATMUL_H

#include <math.h>
#include <string.h>

#include "kernels/pack.h"
#include "kernels/table.h"

#define LANES KERN_PANEL

/* A row of activations: the parts of its record. */
struct act {
    const int8_t *q;
    const float *d;
    const int16_t *sum;
};

static inline struct act act_parts(enum kern_act act, const void *record, size_t k)
{
    return (struct act){record, kern_act_scales(record, k), kern_act_sums(act, record, k)};
}

static inline void load_halves(float out[LANES], const uint8_t *from)
{
    uint16_t bits[LANES];
    memcpy(bits, from, sizeof bits);
    for (size_t l = 0; l < LANES; l++)
        out[l] = kern_f16_to_f32(bits[l]);
}

/* s[lane] += a vector's 4 weights of the lane by 4 activations. */
static inline void dot4(int32_t s[LANES], const int8_t w[64], const int8_t *q)
{
    for (size_t l = 0; l < LANES; l++)
        s[l] += w[4 * l] * q[0] + w[4 * l + 1] * q[1] + w[4 * l + 2] * q[2] + w[4 * l + 3] * q[3];
}

/* out[i] = the 4 bits of from[i] above bit `shift`. */
static inline void nibbles(int8_t out[64], const uint8_t from[64], int shift)
{
    for (size_t i = 0; i < 64; i++)
        out[i] = (int8_t)(from[i] >> shift & 15);
}

/* acc[lane] = fma(d * dx, s, acc[lane]). */
static inline void accumulate(float acc[LANES], const float d[LANES], float dx,
                              const int32_t s[LANES])
{
    for (size_t l = 0; l < LANES; l++)
        acc[l] = fmaf(d[l] * dx, (float)s[l], acc[l]);
}

/* Defines matmul_NAME: every panel by every row. */
#define MATMUL(name, block, packed_bytes)                                                          \
    static void matmul_##name(float *y, size_t ldy, const void *w, size_t n_panels, const void *x, \
                              size_t x_bytes, size_t n_rows, size_t k)                             \
    {                                                                                              \
        size_t panel_bytes = k / (block) * (packed_bytes);                                         \
        for (size_t p = 0; p < n_panels; p++)                                                      \
            for (size_t r = 0; r < n_rows; r++)                                                    \
                name##_panel(y + r * ldy + LANES * p, (const uint8_t *)w + p * panel_bytes,        \
                             (const char *)x + r * x_bytes, k);                                    \
    }

#endif
