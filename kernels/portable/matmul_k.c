/* SPDX-License-Identifier: Apache-2.0 */
/* Products in plain C of types of 256 values: Q2_K, Q3_K, Q5_K and IQ4_XS. */
#include "kernels/portable/matmul.h"

/* out = the 2-bit values of vector j of sub-block `sub` (16 values): its bits lie where Q2_K and
 * Q3_K have them. */
static void two_bits(int8_t out[64], const uint8_t *qs, size_t sub, size_t j)
{
    const uint8_t *from = qs + 64 * (8 * (sub / 8) + 4 * (sub % 2) + j);
    for (size_t i = 0; i < 64; i++)
        out[i] = (int8_t)(from[i] >> 2 * (sub % 8 / 2) & 3);
}

/* s = sum S * (q . qx), m = sum M * (sum of qx) of one block. */
static void q2_k_block(int32_t s[LANES], int32_t m[LANES], const uint8_t *w, const int8_t *q,
                       const int16_t *sum)
{
    for (size_t sub = 0; sub < 16; sub++) {
        const uint8_t *scales = w + KERN__Q2_K_SCALES + LANES * sub;
        int32_t t[LANES] = {0};
        for (size_t j = 0; j < 4; j++) {
            int8_t v[64];
            two_bits(v, w + KERN__Q2_K_QS, sub, j);
            dot4(t, v, q + 16 * sub + 4 * j);
        }
        for (size_t l = 0; l < LANES; l++) {
            s[l] += (scales[l] & 15) * t[l];
            m[l] += (scales[l] >> 4) * sum[sub];
        }
    }
}

static void q2_k_panel(float *y, const uint8_t *w, const void *x, size_t k)
{
    struct act act = act_parts(KERN_ACT_Q8_256, x, k);
    float acc[LANES] = {0}, d[LANES], dmin[LANES];
    for (size_t b = 0; b < k / 256; b++, w += KERN__Q2_K_BYTES) {
        int32_t s[LANES] = {0}, m[LANES] = {0};
        q2_k_block(s, m, w, act.q + 256 * b, act.sum + 16 * b);
        load_halves(d, w);
        load_halves(dmin, w + KERN__Q2_K_DMIN);
        accumulate(acc, d, act.d[b], s);
        accumulate(acc, dmin, -act.d[b], m);
    }
    memcpy(y, acc, sizeof acc);
}

/* s = sum S * ((q - 4) . qx) of one block. */
static void q3_k_block(int32_t s[LANES], const uint8_t *w, const int8_t *q, const int16_t *sum)
{
    int8_t scales[16 * LANES];
    kern__q3_k_scales(w + KERN__Q3_K_SCALES, LANES, scales);
    for (size_t sub = 0; sub < 16; sub++) {
        int32_t t[LANES] = {0};
        for (size_t j = 0; j < 4; j++) {
            const uint8_t *high = w + KERN__Q3_K_HMASK + 64 * (4 * (sub % 2) + j);
            int8_t v[64];
            two_bits(v, w + KERN__Q3_K_QS, sub, j);
            for (size_t i = 0; i < 64; i++)
                v[i] = (int8_t)(v[i] | (high[i] >> sub / 2 & 1) << 2);
            dot4(t, v, q + 16 * sub + 4 * j);
        }
        for (size_t l = 0; l < LANES; l++)
            s[l] += scales[LANES * sub + l] * (t[l] - 4 * sum[sub]);
    }
}

static void q3_k_panel(float *y, const uint8_t *w, const void *x, size_t k)
{
    struct act act = act_parts(KERN_ACT_Q8_256, x, k);
    float acc[LANES] = {0}, d[LANES];
    for (size_t b = 0; b < k / 256; b++, w += KERN__Q3_K_BYTES) {
        int32_t s[LANES] = {0};
        q3_k_block(s, w, act.q + 256 * b, act.sum + 16 * b);
        load_halves(d, w);
        accumulate(acc, d, act.d[b], s);
    }
    memcpy(y, acc, sizeof acc);
}

/* s = sum S * (q . qx), m = sum M * (sum of qx) of one block. */
static void q5_k_block(int32_t s[LANES], int32_t m[LANES], const uint8_t *w, const int8_t *q,
                       const int16_t *sum)
{
    for (size_t sub = 0; sub < 8; sub++) {
        const uint8_t *scales = w + KERN__Q5_K_SCALES + LANES * sub;
        const uint8_t *mins = w + KERN__Q5_K_MINS + LANES * sub;
        int32_t t[LANES] = {0}, sum_x = sum[2 * sub] + sum[2 * sub + 1];
        for (size_t j = 0; j < 8; j++) {
            const uint8_t *high = w + KERN__Q5_K_QH + 64 * j;
            int8_t v[64];
            nibbles(v, w + KERN__Q5_K_QS + 64 * (8 * (sub / 2) + j), sub % 2 ? 4 : 0);
            for (size_t i = 0; i < 64; i++)
                v[i] = (int8_t)(v[i] | (high[i] >> sub & 1) << 4);
            dot4(t, v, q + 32 * sub + 4 * j);
        }
        for (size_t l = 0; l < LANES; l++) {
            s[l] += scales[l] * t[l];
            m[l] += mins[l] * sum_x;
        }
    }
}

static void q5_k_panel(float *y, const uint8_t *w, const void *x, size_t k)
{
    struct act act = act_parts(KERN_ACT_Q8_256, x, k);
    float acc[LANES] = {0}, d[LANES], dmin[LANES];
    for (size_t b = 0; b < k / 256; b++, w += KERN__Q5_K_BYTES) {
        int32_t s[LANES] = {0}, m[LANES] = {0};
        q5_k_block(s, m, w, act.q + 256 * b, act.sum + 16 * b);
        load_halves(d, w);
        load_halves(dmin, w + KERN__Q5_K_DMIN);
        accumulate(acc, d, act.d[b], s);
        accumulate(acc, dmin, -act.d[b], m);
    }
    memcpy(y, acc, sizeof acc);
}

/* s = sum S * (value . qx) of one block. */
static void iq4_xs_block(int32_t s[LANES], const uint8_t *w, const int8_t *q)
{
    for (size_t sub = 0; sub < 8; sub++) {
        const int8_t *scales = (const int8_t *)w + KERN__IQ4_XS_SCALES + LANES * sub;
        int32_t t[LANES] = {0};
        for (size_t j = 0; j < 8; j++) {
            int8_t v[64];
            nibbles(v, w + KERN__IQ4_XS_QS + 64 * (4 * sub + j % 4), j < 4 ? 0 : 4);
            for (size_t i = 0; i < 64; i++)
                v[i] = kern__iq4_values[v[i]];
            dot4(t, v, q + 32 * sub + 4 * j);
        }
        for (size_t l = 0; l < LANES; l++)
            s[l] += scales[l] * t[l];
    }
}

static void iq4_xs_panel(float *y, const uint8_t *w, const void *x, size_t k)
{
    struct act act = act_parts(KERN_ACT_Q8_256, x, k);
    float acc[LANES] = {0}, d[LANES];
    for (size_t b = 0; b < k / 256; b++, w += KERN__IQ4_XS_BYTES) {
        int32_t s[LANES] = {0};
        iq4_xs_block(s, w, act.q + 256 * b);
        load_halves(d, w);
        accumulate(acc, d, act.d[b], s);
    }
    memcpy(y, acc, sizeof acc);
}

MATMUL(q2_k, 256, KERN__Q2_K_BYTES)
MATMUL(q3_k, 256, KERN__Q3_K_BYTES)
MATMUL(q5_k, 256, KERN__Q5_K_BYTES)
MATMUL(iq4_xs, 256, KERN__IQ4_XS_BYTES)

void kern_init_matmul_k_portable(struct kern_table *t)
{
    t->matmul[KERN_Q2_K] = matmul_q2_k;
    t->matmul[KERN_Q3_K] = matmul_q3_k;
    t->matmul[KERN_Q5_K] = matmul_q5_k;
    t->matmul[KERN_IQ4_XS] = matmul_iq4_xs;
}
