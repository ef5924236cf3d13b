/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The elementary functions whose bits must not depend on the C library or the instruction set:
 * plain operations and fmaf in a fixed order, written so that a compiler can vectorise loops of
 * them. Any thread.
 */
#ifndef KERNELS_MATH_H
#define KERNELS_MATH_H

#include <math.h>
#include <stdint.h>
#include <string.h>

/* Sum of 16 lanes in the one order used everywhere: halves are folded, lane l with l + 8, then
 * + 4, + 2, + 1. */
static inline float kern_tree16(const float a[16])
{
    float b[8], c[4];
    for (int i = 0; i < 8; i++)
        b[i] = a[i] + a[i + 8];
    for (int i = 0; i < 4; i++)
        c[i] = b[i] + b[i + 4];
    return (c[0] + c[2]) + (c[1] + c[3]);
}

static inline float kern__from_bits(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

static inline uint32_t kern__to_bits(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return bits;
}

/* The value of an IEEE half, without branches as below. */
static inline float kern__half(uint16_t half)
{
    uint32_t sign = (uint32_t)(half & 0x8000) << 16, rest = half & 0x7fff;
    uint32_t infinite = -(uint32_t)(rest >= 0x7c00), nan = -(uint32_t)(rest > 0x7c00);
    /* The exponents' biases differ by 112; the product is exact, also of subnormals. */
    uint32_t finite = kern__to_bits(kern__from_bits(rest << 13) * 0x1p112f);
    return kern__from_bits(sign | finite | (infinite & 0x7f800000) | (nan & 0x00400000));
}

/* value with a significand of 11 bits, as many as a half has, ties to even; the exponent is kept,
 * so nothing overflows or becomes subnormal as it would in a half. */
static inline float kern_round11(float value)
{
    uint32_t bits = kern__to_bits(value);
    return kern__from_bits((bits + 0xfff + (bits >> 13 & 1)) & ~(uint32_t)0x1fff);
}

/* yes where condition is 1, no where it is 0: by masks, because gcc makes a branch of the operator
 * and then does not vectorise the loop around it. */
static inline float kern__select(int condition, float yes, float no)
{
    uint32_t mask = -(uint32_t)condition;
    return kern__from_bits((kern__to_bits(yes) & mask) | (kern__to_bits(no) & ~mask));
}

/* x * 2^n for a whole n in [-126, 128]; in two halves, so that n = 128 stays in range. */
static inline float kern__scale2(float x, float n)
{
    int32_t whole = (int32_t)n, half = whole >> 1;
    return x * kern__from_bits((uint32_t)(half + 127) << 23) *
           kern__from_bits((uint32_t)(whole - half + 127) << 23);
}

/* Below the first e^x counts as 0 (it would be subnormal), above the second as +inf. */
#define KERN__EXP_MIN -87.33654f
#define KERN__EXP_MAX 88.72283f

/* Adding and subtracting 1.5 * 2^23 rounds a float of less than 2^22 to the nearest integer, ties
 * to even. */
#define KERN__ROUND 12582912.0f

/* e^x within 2 ulp; 0 below -87.3, +inf above 88.7, NaN for NaN. Cody-Waite reduction by ln 2 and
 * the degree-7 minimax polynomial on [-ln2/2, ln2/2] (Cephes expf coefficients). */
static inline float kern_expf(float x)
{
    /* The comparisons are false for NaN, which must not reach the conversion to int. */
    float low = kern__select(x > KERN__EXP_MIN, x, KERN__EXP_MIN);
    float clamped = kern__select(low < KERN__EXP_MAX, low, KERN__EXP_MAX);
    float n = (clamped * 1.44269504088896341f + KERN__ROUND) - KERN__ROUND;
    float r = fmaf(n, -0.693359375f, clamped);
    r = fmaf(n, 2.12194440e-4f, r);
    float p = 1.9875691500e-4f;
    p = fmaf(p, r, 1.3981999507e-3f);
    p = fmaf(p, r, 8.3334519073e-3f);
    p = fmaf(p, r, 4.1665795894e-2f);
    p = fmaf(p, r, 1.6666665459e-1f);
    p = fmaf(p, r, 5.0000001201e-1f);
    p = fmaf(p, r * r, r) + 1.0f;
    float y = kern__select(x >= KERN__EXP_MIN, kern__scale2(p, n), 0.0f);
    return kern__select(x <= KERN__EXP_MAX, y, x + INFINITY); /* +inf, or the NaN */
}

/* Natural logarithm, through double so that the rounding to float hides the library's last bit. */
static inline float kern_logf(float x)
{
    return (float)log((double)x);
}

static inline float kern_sigmoidf(float x)
{
    return 1.0f / (1.0f + kern_expf(-x));
}

/* ln(1 + e^x), through double likewise; beyond 20 it is x to the last bit. */
static inline float kern_softplusf(float x)
{
    return x > 20.0f ? x : (float)log1p(exp((double)x));
}

#endif
