/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where the parts of a packed block lie, for the matrix kernels; kernels/pack.c describes them.
 * Private to this folder.
 */
#ifndef KERNELS_PACK_H
#define KERNELS_PACK_H

#include <stddef.h>
#include <stdint.h>

/* Byte offsets in a packed block. The 16 scales lie at 0 in all of them: d as f16, or MXFP4's
 * exponents, a byte each. */
enum {
    KERN__Q8_0_QS = 32,
    KERN__Q8_0_BYTES = 544,

    KERN__Q4_0_QS = 32,
    KERN__Q4_0_BYTES = 288,

    KERN__Q4_1_M = 32,
    KERN__Q4_1_QS = 64,
    KERN__Q4_1_BYTES = 320,

    KERN__Q5_0_QH = 32,
    KERN__Q5_0_QS = 96,
    KERN__Q5_0_BYTES = 352,

    KERN__Q5_1_M = 32,
    KERN__Q5_1_QH = 64,
    KERN__Q5_1_QS = 128,
    KERN__Q5_1_BYTES = 384,

    KERN__IQ4_NL_QS = 32,
    KERN__IQ4_NL_BYTES = 288,

    KERN__MXFP4_QS = 16,
    KERN__MXFP4_BYTES = 272,

    KERN__Q2_K_DMIN = 32,
    KERN__Q2_K_SCALES = 64,
    KERN__Q2_K_QS = 320,
    KERN__Q2_K_BYTES = 1344,

    KERN__Q3_K_SCALES = 32,
    KERN__Q3_K_HMASK = 224,
    KERN__Q3_K_QS = 736,
    KERN__Q3_K_BYTES = 1760,

    KERN__Q4_K_DMIN = 32,
    KERN__Q4_K_SCALES = 64,
    KERN__Q4_K_MINS = 192,
    KERN__Q4_K_QS = 320,
    KERN__Q4_K_BYTES = 2368,

    KERN__Q5_K_DMIN = 32,
    KERN__Q5_K_SCALES = 64,
    KERN__Q5_K_MINS = 192,
    KERN__Q5_K_QH = 320,
    KERN__Q5_K_QS = 832,
    KERN__Q5_K_BYTES = 2880,

    KERN__Q6_K_SCALES = 32,
    KERN__Q6_K_QL = 288,
    KERN__Q6_K_QH = 2336,
    KERN__Q6_K_BYTES = 3360,

    KERN__IQ4_XS_SCALES = 32,
    KERN__IQ4_XS_QS = 160,
    KERN__IQ4_XS_BYTES = 2208
};

/* What the 4-bit indices of IQ4_NL and IQ4_XS, and of MXFP4 (doubled E2M1), stand for. */
extern const int8_t kern__iq4_values[16];
extern const int8_t kern__mxfp4_values[16];

/* The scale of an MXFP4 block, 2^(e - 128); halves of the doubled values are in it. */
float kern__mxfp4_scale(uint8_t e);

/* The scale of sub-block s of a file's IQ4_XS block, -32 to 31. */
int kern__iq4_xs_scale(const uint8_t *block, size_t s);

/* The 16 scales, -32 to 31, of Q3_K blocks side by side: scales[s][row] from the 12 bytes
 * sc[i][row], n_rows of them. */
void kern__q3_k_scales(const uint8_t *sc, size_t n_rows, int8_t *scales);

/* The 6-bit scales and minima of a file's Q4_K or Q5_K block. */
void kern__q4_k_scales(const uint8_t sc[12], uint8_t scales[8], uint8_t mins[8]);

#endif
