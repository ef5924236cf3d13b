/* SPDX-License-Identifier: Apache-2.0 */
/* Products in plain C of the types of 32 values that have a fifth bit, a minimum or a codebook. */
#include "kernels/portable/matmul.h"

/* The values of vector j, j < 8: nibbles, with their fifth bits where qh is not NULL. */
static void bit_values(int8_t out[64], const uint8_t *qs, const uint8_t *qh, size_t j)
{
    nibbles(out, qs + 64 * (j % 4), j < 4 ? 0 : 4);
    for (size_t i = 0; qh && i < 64; i++)
        out[i] = (int8_t)(out[i] | (qh[i] >> j & 1) << 4);
}

/* s = q . x of one block. */
static void bit_products(int32_t s[LANES], const uint8_t *qs, const uint8_t *qh, const int8_t *x)
{
    memset(s, 0, LANES * sizeof *s);
    for (size_t j = 0; j < 8; j++) {
        int8_t q[64];
        bit_values(q, qs, qh, j);
        dot4(s, q, x + 4 * j);
    }
}

static void codebook_products(int32_t s[LANES], const uint8_t *qs, const int8_t values[16],
                              const int8_t *x)
{
    memset(s, 0, LANES * sizeof *s);
    for (size_t j = 0; j < 8; j++) {
        int8_t q[64];
        nibbles(q, qs + 64 * (j % 4), j < 4 ? 0 : 4);
        for (size_t i = 0; i < 64; i++)
            q[i] = values[q[i]];
        dot4(s, q, x + 4 * j);
    }
}

/* The types with a minimum; it, as f16, lies at w + 32 in both. */
static void minimum_panel(float *y, const uint8_t *w, size_t w_bytes, size_t qs, size_t qh,
                          const void *x, size_t k)
{
    struct act act = act_parts(KERN_ACT_Q8_32, x, k);
    float acc[LANES] = {0}, d[LANES], m[LANES];
    for (size_t b = 0; b < k / 32; b++, w += w_bytes) {
        int32_t s[LANES], t[LANES];
        bit_products(s, w + qs, qh ? w + qh : NULL, act.q + 32 * b);
        for (size_t l = 0; l < LANES; l++)
            t[l] = act.sum[2 * b] + act.sum[2 * b + 1];
        load_halves(d, w);
        load_halves(m, w + KERN__Q4_1_M);
        accumulate(acc, d, act.d[b], s);
        accumulate(acc, m, act.d[b], t);
    }
    memcpy(y, acc, sizeof acc);
}

static void q4_1_panel(float *y, const uint8_t *w, const void *x, size_t k)
{
    minimum_panel(y, w, KERN__Q4_1_BYTES, KERN__Q4_1_QS, 0, x, k);
}

static void q5_1_panel(float *y, const uint8_t *w, const void *x, size_t k)
{
    minimum_panel(y, w, KERN__Q5_1_BYTES, KERN__Q5_1_QS, KERN__Q5_1_QH, x, k);
}

static void q5_0_panel(float *y, const uint8_t *w, const void *x, size_t k)
{
    struct act act = act_parts(KERN_ACT_Q8_32, x, k);
    float acc[LANES] = {0}, d[LANES];
    for (size_t b = 0; b < k / 32; b++, w += KERN__Q5_0_BYTES) {
        int32_t s[LANES], offset = 16 * (act.sum[2 * b] + act.sum[2 * b + 1]);
        bit_products(s, w + KERN__Q5_0_QS, w + KERN__Q5_0_QH, act.q + 32 * b);
        for (size_t l = 0; l < LANES; l++)
            s[l] -= offset;
        load_halves(d, w);
        accumulate(acc, d, act.d[b], s);
    }
    memcpy(y, acc, sizeof acc);
}

static void iq4_nl_panel(float *y, const uint8_t *w, const void *x, size_t k)
{
    struct act act = act_parts(KERN_ACT_Q8_32, x, k);
    float acc[LANES] = {0}, d[LANES];
    for (size_t b = 0; b < k / 32; b++, w += KERN__IQ4_NL_BYTES) {
        int32_t s[LANES];
        codebook_products(s, w + KERN__IQ4_NL_QS, kern__iq4_values, act.q + 32 * b);
        load_halves(d, w);
        accumulate(acc, d, act.d[b], s);
    }
    memcpy(y, acc, sizeof acc);
}

static void mxfp4_panel(float *y, const uint8_t *w, const void *x, size_t k)
{
    struct act act = act_parts(KERN_ACT_Q8_32, x, k);
    float acc[LANES] = {0}, d[LANES];
    for (size_t b = 0; b < k / 32; b++, w += KERN__MXFP4_BYTES) {
        int32_t s[LANES];
        codebook_products(s, w + KERN__MXFP4_QS, kern__mxfp4_values, act.q + 32 * b);
        for (size_t l = 0; l < LANES; l++)
            d[l] = kern__mxfp4_scale(w[l]);
        accumulate(acc, d, act.d[b], s);
    }
    memcpy(y, acc, sizeof acc);
}

MATMUL(q4_1, 32, KERN__Q4_1_BYTES)
MATMUL(q5_0, 32, KERN__Q5_0_BYTES)
MATMUL(q5_1, 32, KERN__Q5_1_BYTES)
MATMUL(iq4_nl, 32, KERN__IQ4_NL_BYTES)
MATMUL(mxfp4, 32, KERN__MXFP4_BYTES)

void kern_init_matmul_small_portable(struct kern_table *t)
{
    t->matmul[KERN_Q4_1] = matmul_q4_1;
    t->matmul[KERN_Q5_0] = matmul_q5_0;
    t->matmul[KERN_Q5_1] = matmul_q5_1;
    t->matmul[KERN_IQ4_NL] = matmul_iq4_nl;
    t->matmul[KERN_MXFP4] = matmul_mxfp4;
}
