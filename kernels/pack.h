/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where the parts of a packed block lie, for the matrix kernels; kernels/pack.c describes them.
 * Private to this folder.
 */
#ifndef KERNELS_PACK_H
#define KERNELS_PACK_H

#include <stdint.h>

/* Byte offsets in a packed block. d, the 16 scales as f16, lies at 0 in all of them. */
enum {
    KERN__Q8_0_QS = 32,
    KERN__Q8_0_BYTES = 544,

    KERN__Q4_0_QS = 32,
    KERN__Q4_0_BYTES = 288,

    KERN__Q4_K_DMIN = 32,
    KERN__Q4_K_SCALES = 64,
    KERN__Q4_K_MINS = 192,
    KERN__Q4_K_QS = 320,
    KERN__Q4_K_BYTES = 2368,

    KERN__Q6_K_SCALES = 32,
    KERN__Q6_K_QL = 288,
    KERN__Q6_K_QH = 2336,
    KERN__Q6_K_BYTES = 3360
};

/* The 6-bit scales and minima of a file's Q4_K block. */
void kern__q4_k_scales(const uint8_t sc[12], uint8_t scales[8], uint8_t mins[8]);

#endif
