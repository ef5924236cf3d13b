/* SPDX-License-Identifier: Apache-2.0 */
/* Products of the IQ types in plain C: a block of 16 rows becomes integers, then meets every row
 * of activations; the sums over blocks grow in y. */
#include <math.h>
#include <string.h>

#include "kernels/iq_panel.h"
#include "kernels/table.h"

/* A block of 16 rows. */
struct weights {
    float d[KERN_PANEL]; /* with the type's factor */
    int8_t w[32][KERN_PANEL][8];
    struct kern__iq_panel panel;
};

static void decode(enum kern_type type, struct weights *out, const uint8_t *packed)
{
    uint16_t d[KERN_PANEL];
    memcpy(d, packed, sizeof d);
    kern__iq_take_apart(type, &out->panel, packed);
    for (size_t r = 0; r < KERN_PANEL; r++)
        out->d[r] = kern_f16_to_f32(d[r]) * kern__iq_factor(type);
    for (size_t g = 0; g < 32; g++)
        for (size_t r = 0; r < KERN_PANEL; r++) {
            uint64_t grid = kern__iq_grid(type, &out->panel, g, r);
            uint8_t sign = out->panel.sign[g][r];
            for (size_t i = 0; i < 8; i++) {
                int w = (int)(grid >> 8 * i & 255), negative = sign >> i & 1;
                if (kern__iq_is_iq1(type))
                    w = negative ? w - 9 : w - 7;
                else
                    w = negative ? -w : w;
                out->w[g][r][i] = (int8_t)w;
            }
        }
}

/* s = sum (2s + 1) * w * q over the block. */
static void products(int32_t s[KERN_PANEL], const struct weights *weights, const int8_t *q)
{
    for (size_t r = 0; r < KERN_PANEL; r++)
        s[r] = 0;
    for (size_t g = 0; g < 32; g++)
        for (size_t r = 0; r < KERN_PANEL; r++) {
            int32_t t = 0;
            for (size_t i = 0; i < 8; i++)
                t += weights->w[g][r][i] * q[8 * g + i];
            s[r] += weights->panel.scale[g / 2][r] * t;
        }
}

KERN__IQ_INLINE void matmul(enum kern_type type, size_t packed_bytes, float *y, size_t ldy,
                            const void *w, size_t n_panels, const void *x, size_t x_bytes,
                            size_t n_rows, size_t k)
{
    const uint8_t *packed = w;
    for (size_t p = 0; p < n_panels; p++) {
        for (size_t r = 0; r < n_rows; r++)
            memset(y + r * ldy + KERN_PANEL * p, 0, KERN_PANEL * sizeof *y);
        for (size_t b = 0; b < k / 256; b++, packed += packed_bytes) {
            struct weights weights;
            decode(type, &weights, packed);
            for (size_t r = 0; r < n_rows; r++) {
                const char *record = (const char *)x + r * x_bytes;
                float *to = y + r * ldy + KERN_PANEL * p, dx = kern_act_scales(record, k)[b];
                int32_t s[KERN_PANEL];
                products(s, &weights, (const int8_t *)record + 256 * b);
                for (size_t l = 0; l < KERN_PANEL; l++)
                    to[l] = fmaf(weights.d[l] * dx, (float)s[l], to[l]);
            }
        }
    }
}

#define MATMUL(name, type, block_bytes)                                                            \
    static void matmul_##name(float *y, size_t ldy, const void *w, size_t n_panels, const void *x, \
                              size_t x_bytes, size_t n_rows, size_t k)                             \
    {                                                                                              \
        matmul(type, KERN_PANEL *(block_bytes), y, ldy, w, n_panels, x, x_bytes, n_rows, k);       \
    }

MATMUL(iq1_s, KERN_IQ1_S, 50)
MATMUL(iq1_m, KERN_IQ1_M, 56)
MATMUL(iq2_xxs, KERN_IQ2_XXS, 66)
MATMUL(iq2_xs, KERN_IQ2_XS, 74)
MATMUL(iq2_s, KERN_IQ2_S, 82)
MATMUL(iq3_xxs, KERN_IQ3_XXS, 98)
MATMUL(iq3_s, KERN_IQ3_S, 110)

void kern_init_matmul_iq_portable(struct kern_table *t)
{
    kern__iq_init();
    t->matmul[KERN_IQ1_S] = matmul_iq1_s;
    t->matmul[KERN_IQ1_M] = matmul_iq1_m;
    t->matmul[KERN_IQ2_XXS] = matmul_iq2_xxs;
    t->matmul[KERN_IQ2_XS] = matmul_iq2_xs;
    t->matmul[KERN_IQ2_S] = matmul_iq2_s;
    t->matmul[KERN_IQ3_XXS] = matmul_iq3_xxs;
    t->matmul[KERN_IQ3_S] = matmul_iq3_s;
}
