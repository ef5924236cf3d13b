/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Products of packed matrices in plain C: what every other instruction set is compared with. One
 * panel and one row at a time, the 16 lanes innermost, so that a compiler can vectorise.
 */
#include "kernels/portable/matmul.h"

static void q8_0_panel(float *y, const uint8_t *w, const void *x, size_t k)
{
    struct act act = act_parts(KERN_ACT_Q8_32, x, k);
    float acc[LANES] = {0}, d[LANES];
    for (size_t b = 0; b < k / 32; b++, w += KERN__Q8_0_BYTES) {
        int32_t s[LANES] = {0};
        for (size_t j = 0; j < 8; j++)
            dot4(s, (const int8_t *)w + KERN__Q8_0_QS + 64 * j, act.q + 32 * b + 4 * j);
        load_halves(d, w);
        accumulate(acc, d, act.d[b], s);
    }
    memcpy(y, acc, sizeof acc);
}

static void q4_0_panel(float *y, const uint8_t *w, const void *x, size_t k)
{
    struct act act = act_parts(KERN_ACT_Q8_32, x, k);
    float acc[LANES] = {0}, d[LANES];
    for (size_t b = 0; b < k / 32; b++, w += KERN__Q4_0_BYTES) {
        int32_t s[LANES], offset = 8 * (act.sum[2 * b] + act.sum[2 * b + 1]);
        for (size_t l = 0; l < LANES; l++)
            s[l] = -offset;
        for (size_t j = 0; j < 8; j++) {
            int8_t q[64];
            nibbles(q, w + KERN__Q4_0_QS + 64 * (j % 4), j < 4 ? 0 : 4);
            dot4(s, q, act.q + 32 * b + 4 * j);
        }
        load_halves(d, w);
        accumulate(acc, d, act.d[b], s);
    }
    memcpy(y, acc, sizeof acc);
}

/* s = sum S * (q . qx), m = sum M * (sum of qx) of one block. */
static void q4_k_block(int32_t s[LANES], int32_t m[LANES], const uint8_t *w, const int8_t *q,
                       const int16_t *sum)
{
    for (size_t sub = 0; sub < 8; sub++) {
        const uint8_t *scales = w + KERN__Q4_K_SCALES + LANES * sub;
        const uint8_t *mins = w + KERN__Q4_K_MINS + LANES * sub;
        int32_t t[LANES] = {0}, sum_x = sum[2 * sub] + sum[2 * sub + 1];
        for (size_t j = 0; j < 8; j++) {
            int8_t v[64];
            nibbles(v, w + KERN__Q4_K_QS + 64 * (8 * (sub / 2) + j), sub % 2 ? 4 : 0);
            dot4(t, v, q + 32 * sub + 4 * j);
        }
        for (size_t l = 0; l < LANES; l++) {
            s[l] += scales[l] * t[l];
            m[l] += mins[l] * sum_x;
        }
    }
}

static void q4_k_panel(float *y, const uint8_t *w, const void *x, size_t k)
{
    struct act act = act_parts(KERN_ACT_Q8_256, x, k);
    float acc[LANES] = {0}, d[LANES], dmin[LANES];
    for (size_t b = 0; b < k / 256; b++, w += KERN__Q4_K_BYTES) {
        int32_t s[LANES] = {0}, m[LANES] = {0};
        q4_k_block(s, m, w, act.q + 256 * b, act.sum + 16 * b);
        load_halves(d, w);
        load_halves(dmin, w + KERN__Q4_K_DMIN);
        accumulate(acc, d, act.d[b], s);
        accumulate(acc, dmin, -act.d[b], m);
    }
    memcpy(y, acc, sizeof acc);
}

/* out = the 6-bit values of vector j of group g (32 values) of half n of the block. */
static void q6_k_vector(int8_t out[64], const uint8_t *w, size_t n, size_t g, size_t j)
{
    const uint8_t *low = w + KERN__Q6_K_QL + 64 * (16 * n + 8 * (g & 1) + j);
    const uint8_t *high = w + KERN__Q6_K_QH + 64 * (8 * n + j);
    nibbles(out, low, g < 2 ? 0 : 4);
    for (size_t i = 0; i < 64; i++)
        out[i] = (int8_t)(out[i] | (high[i] >> 2 * g & 3) << 4);
}

/* s = sum S * ((q - 32) . qx) of one block. */
static void q6_k_block(int32_t s[LANES], const uint8_t *w, const int8_t *q, const int16_t *sum)
{
    for (size_t sub = 0; sub < 16; sub++) {
        const int8_t *scales = (const int8_t *)w + KERN__Q6_K_SCALES + LANES * sub;
        int32_t t[LANES] = {0};
        for (size_t j = 0; j < 4; j++) {
            int8_t v[64];
            q6_k_vector(v, w, sub / 8, sub % 8 / 2, sub % 2 * 4 + j);
            dot4(t, v, q + 16 * sub + 4 * j);
        }
        for (size_t l = 0; l < LANES; l++)
            s[l] += scales[l] * (t[l] - 32 * sum[sub]);
    }
}

static void q6_k_panel(float *y, const uint8_t *w, const void *x, size_t k)
{
    struct act act = act_parts(KERN_ACT_Q8_256, x, k);
    float acc[LANES] = {0}, d[LANES];
    for (size_t b = 0; b < k / 256; b++, w += KERN__Q6_K_BYTES) {
        int32_t s[LANES] = {0};
        q6_k_block(s, w, act.q + 256 * b, act.sum + 16 * b);
        load_halves(d, w);
        accumulate(acc, d, act.d[b], s);
    }
    memcpy(y, acc, sizeof acc);
}

static void load_f32(float out[LANES], const uint8_t *w)
{
    memcpy(out, w, LANES * 4);
}

static void load_bf16(float out[LANES], const uint8_t *w)
{
    uint16_t bits[LANES];
    memcpy(bits, w, sizeof bits);
    for (size_t l = 0; l < LANES; l++)
        out[l] = kern_bf16_to_f32(bits[l]);
}

static inline void float_panel(float *y, const uint8_t *w, size_t w_bytes,
                               void (*load)(float *, const uint8_t *), const float *x, size_t k)
{
    float a[4][LANES] = {0}, v[LANES];
    for (size_t i = 0; i < k; i++, w += w_bytes) {
        load(v, w);
        for (size_t l = 0; l < LANES; l++)
            a[i % 4][l] = fmaf(v[l], x[i], a[i % 4][l]);
    }
    for (size_t l = 0; l < LANES; l++)
        y[l] = (a[0][l] + a[1][l]) + (a[2][l] + a[3][l]);
}

static void f32_panel(float *y, const uint8_t *w, const void *x, size_t k)
{
    float_panel(y, w, 4 * LANES, load_f32, x, k);
}

static void f16_panel(float *y, const uint8_t *w, const void *x, size_t k)
{
    float_panel(y, w, 2 * LANES, load_halves, x, k);
}

static void bf16_panel(float *y, const uint8_t *w, const void *x, size_t k)
{
    float_panel(y, w, 2 * LANES, load_bf16, x, k);
}

MATMUL(f32, 1, 4 * LANES)
MATMUL(f16, 1, 2 * LANES)
MATMUL(bf16, 1, 2 * LANES)
MATMUL(q8_0, 32, KERN__Q8_0_BYTES)
MATMUL(q4_0, 32, KERN__Q4_0_BYTES)
MATMUL(q4_k, 256, KERN__Q4_K_BYTES)
MATMUL(q6_k, 256, KERN__Q6_K_BYTES)

void kern_init_matmul_portable(struct kern_table *t)
{
    t->matmul[KERN_F32] = matmul_f32;
    t->matmul[KERN_F16] = matmul_f16;
    t->matmul[KERN_BF16] = matmul_bf16;
    t->matmul[KERN_Q8_0] = matmul_q8_0;
    t->matmul[KERN_Q4_0] = matmul_q4_0;
    t->matmul[KERN_Q4_K] = matmul_q4_k;
    t->matmul[KERN_Q6_K] = matmul_q6_k;
}
