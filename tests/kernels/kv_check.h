/* SPDX-License-Identifier: Apache-2.0 */
/* The quantised types of the KV cache as kernels/table.h defines them, value by value. */
#ifndef TESTS_KERNELS_KV_CHECK_H
#define TESTS_KERNELS_KV_CHECK_H

#include <math.h>
#include <string.h>

#include "kernels/table.h"

static inline float kv_check_clamp(float v, float low, float high)
{
    return v < low ? low : v > high ? high : v;
}

/* The scale of a block of 32 values, in half precision. */
static inline uint16_t kv_check_scale(const float *x, enum kern_kv kv)
{
    float most = 0;
    for (int i = 0; i < 32; i++)
        if (fabsf(x[i]) > fabsf(most) || (fabsf(x[i]) == fabsf(most) && x[i] > 0))
            most = x[i];
    float d = kv == KERN_KV_Q8_0 ? fabsf(most) / 127.0f : most / -8.0f;
    return kern_f32_to_f16(kv_check_clamp(d, -65504.0f, 65504.0f));
}

/* Stores a row and leaves in `values` what is read back. */
static inline void kv_check_store(void *row, float *values, size_t n, enum kern_kv kv)
{
    uint8_t *to = row;
    for (size_t b = 0; b < n; b += 32, to += kv == KERN_KV_Q8_0 ? 34 : 18) {
        uint16_t half = kv_check_scale(values + b, kv);
        float d = kern_f16_to_f32(half), inverse = d != 0.0f ? 1.0f / d : 0.0f;
        memcpy(to, &half, 2);
        memset(to + 2, 0, kv == KERN_KV_Q8_0 ? 32 : 16);
        for (int i = 0; i < 32; i++) {
            float *x = &values[b + (size_t)i];
            int low = kv == KERN_KV_Q8_0 ? -127 : -8, high = kv == KERN_KV_Q8_0 ? 127 : 7;
            int q = (int)nearbyintf(kv_check_clamp(*x * inverse, (float)low, (float)high));
            *x = (float)q * d;
            if (kv == KERN_KV_Q8_0)
                to[2 + i] = (uint8_t)q;
            else
                to[2 + i % 16] |= (uint8_t)((q + 8) << (i < 16 ? 0 : 4));
        }
    }
}

#endif
