/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/dequantize.h"

#include <stddef.h>
#include <string.h>

#include "kernels/math.h"
#include "kernels/pack.h"
#include "kernels/type.h"

const int8_t kern__iq4_values[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                     1,    13,   25,  38,  53,  69,  89,  113};

const int8_t kern__mxfp4_values[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

float kern__mxfp4_scale(uint8_t e)
{
    /* The two smallest are subnormal. */
    return kern__from_bits(e < 2 ? 0x00200000u << e : (uint32_t)(e - 1) << 23);
}

int kern__iq4_xs_scale(const uint8_t *block, size_t s)
{
    int low = block[4 + s / 2] >> 4 * (s % 2) & 15, high = block[2 + s / 4] >> 2 * (s % 4) & 3;
    return (low | high << 4) - 32;
}

void kern__q3_k_scales(const uint8_t *sc, size_t n_rows, int8_t *scales)
{
    for (size_t s = 0; s < 16; s++)
        for (size_t r = 0; r < n_rows; r++) {
            int low = sc[s % 8 * n_rows + r] >> 4 * (s / 8) & 15;
            int high = sc[(8 + s % 4) * n_rows + r] >> 2 * (s / 4) & 3;
            scales[s * n_rows + r] = (int8_t)((low | high << 4) - 32);
        }
}

static float half_at(const uint8_t *p)
{
    uint16_t bits;
    memcpy(&bits, p, 2);
    return kern_f16_to_f32(bits);
}

/* d * q + m, the lower 4 bits of q in qs, the fifth in qh. */
static void five_bits(float *out, const uint8_t *qs, uint32_t qh, float d, int offset, float m)
{
    for (int i = 0; i < 32; i++) {
        int low = i < 16 ? qs[i] & 15 : qs[i - 16] >> 4;
        int q = low | (int)(qh >> i & 1) << 4;
        out[i] = d * (float)(q - offset) + m;
    }
}

void kern__dequantize_q4_1(const uint8_t *block, float *out)
{
    five_bits(out, block + 4, 0, half_at(block), 0, half_at(block + 2));
}

void kern__dequantize_q5_0(const uint8_t *block, float *out)
{
    uint32_t qh;
    memcpy(&qh, block + 2, 4);
    /* Adding -0 changes nothing, not even a zero's sign. */
    five_bits(out, block + 6, qh, half_at(block), 16, -0.0f);
}

void kern__dequantize_q5_1(const uint8_t *block, float *out)
{
    uint32_t qh;
    memcpy(&qh, block + 4, 4);
    five_bits(out, block + 8, qh, half_at(block), 0, half_at(block + 2));
}

/* (d * S) * q - dmin * M; S and M are the nibbles of a byte. */
void kern__dequantize_q2_k(const uint8_t *block, float *out)
{
    float d = half_at(block + 80), dmin = half_at(block + 82);
    for (int s = 0; s < 16; s++) {
        const uint8_t *qs = block + 16 + 32 * (s / 8) + 16 * (s % 2);
        float scale = d * (float)(block[s] & 15), min = dmin * (float)(block[s] >> 4);
        for (int i = 0; i < 16; i++)
            out[16 * s + i] = scale * (float)(qs[i] >> 2 * (s % 8 / 2) & 3) - min;
    }
}

/* (d * S) * q. */
void kern__dequantize_q3_k(const uint8_t *block, float *out)
{
    int8_t scales[16];
    float d = half_at(block + 108);
    kern__q3_k_scales(block + 96, 1, scales);
    for (int s = 0; s < 16; s++) {
        const uint8_t *hmask = block + 16 * (s % 2), *qs = block + 32 + 32 * (s / 8) + 16 * (s % 2);
        float scale = d * (float)scales[s];
        for (int i = 0; i < 16; i++) {
            int q = (qs[i] >> 2 * (s % 8 / 2) & 3) | (hmask[i] >> s / 2 & 1) << 2;
            out[16 * s + i] = scale * (float)(q - 4);
        }
    }
}

/* (d * S) * q - dmin * M. */
void kern__dequantize_q5_k(const uint8_t *block, float *out)
{
    float d = half_at(block), dmin = half_at(block + 2);
    uint8_t scales[8], mins[8];
    kern__q4_k_scales(block + 4, scales, mins);
    for (int s = 0; s < 8; s++) {
        const uint8_t *qh = block + 16, *qs = block + 48 + 32 * (s / 2);
        float scale = d * (float)scales[s], min = dmin * (float)mins[s];
        for (int i = 0; i < 32; i++) {
            int q = (qs[i] >> 4 * (s % 2) & 15) | (qh[i] >> s & 1) << 4;
            out[32 * s + i] = scale * (float)q - min;
        }
    }
}

static void look_up(float *out, const uint8_t qs[16], float d, const int8_t values[16])
{
    for (int i = 0; i < 16; i++) {
        out[i] = d * (float)values[qs[i] & 15];
        out[i + 16] = d * (float)values[qs[i] >> 4];
    }
}

void kern__dequantize_iq4_nl(const uint8_t *block, float *out)
{
    look_up(out, block + 2, half_at(block), kern__iq4_values);
}

/* (d * S) * value. */
void kern__dequantize_iq4_xs(const uint8_t *block, float *out)
{
    float d = half_at(block);
    for (size_t s = 0; s < 8; s++)
        look_up(out + 32 * s, block + 8 + 16 * s, d * (float)kern__iq4_xs_scale(block, s),
                kern__iq4_values);
}

void kern__dequantize_mxfp4(const uint8_t *block, float *out)
{
    look_up(out, block + 1, kern__mxfp4_scale(block[0]), kern__mxfp4_values);
}
