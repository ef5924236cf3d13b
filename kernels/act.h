/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Activation rows as the matrix kernels read them. A row is one record, so that rows can be
 * gathered by expert or sent to another machine by copying bytes:
 *
 *   KERN_ACT_F32     float x[k], padded
 *   KERN_ACT_Q8_32   int8 q[k]; float d[k/32];  int16 sum[k/16], padded   (k a multiple of 32)
 *   KERN_ACT_Q8_256  int8 q[k]; float d[k/256]; int16 sum[k/16], padded   (k a multiple of 256)
 *
 * with x[i] ~ d[i/block] * q[i], d = max|x| / 127 over the block, q rounded to nearest even, in
 * [-127, 127], and sum[j] = q[16j] + ... + q[16j+15]; the division is a product with the float
 * 127 / max|x|. Blocks of 32 have their d rounded to 11 bits (kern_round11): its product with a
 * weight's half is then exact, two bytes hold it, and the values are those of engines that keep
 * d as a half, so that a router whose experts are nearly tied chooses as theirs does. A block whose max|x| is below KERN_ACT_TINY (that factor would overflow) counts as
 * zeros: d = 0 and q = 0. Values that are not finite give an unspecified row, never a fault.
 * Records are padded with zeros to 64 bytes.
 */
#ifndef KERNELS_ACT_H
#define KERNELS_ACT_H

#include "kernels/type.h"

#define KERN_ACT_TINY 0x1p-120f

/* Values that share a scale: 32, 256, or 0 for floats. */
static inline size_t kern_act_block(enum kern_act act)
{
    return act == KERN_ACT_Q8_32 ? 32 : act == KERN_ACT_Q8_256 ? 256 : 0;
}

/* Bytes of a record of k values, a multiple of 64. */
static inline size_t kern_act_bytes(enum kern_act act, size_t k)
{
    size_t block = kern_act_block(act);
    size_t bytes = block ? k + k / block * 4 + k / 16 * 2 : k * 4;
    return (bytes + 63) & ~(size_t)63;
}

static inline const float *kern_act_scales(const void *record, size_t k)
{
    return (const float *)((const char *)record + k);
}

static inline const int16_t *kern_act_sums(enum kern_act act, const void *record, size_t k)
{
    return (const int16_t *)((const char *)record + k + k / kern_act_block(act) * 4);
}

#endif
