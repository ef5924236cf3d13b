/* SPDX-License-Identifier: Apache-2.0 */
/*
 * 256 values of a panel as whole bytes, for kernels that unpack a block once for many rows of
 * activations. Private to this folder.
 */
#ifndef KERNELS_X86_UNPACK_AVX512_H
#define KERNELS_X86_UNPACK_AVX512_H

#include <immintrin.h>
#include <stdbool.h>

#include "kernels/table.h"

/* A block of 256 values, or the blocks of 32 that are left of them. */
struct kern__block {
    _Alignas(64) uint8_t w[64][64]; /* of each 4 values a vector, 16 rows: the value and the type's
                                       offset, unsigned */
    __m512i scale[16];              /* types of 256 values: of each 16 or 32 */
    __m512i words[8];               /* of each 32 values two words, which multiply the sums of 16
                                       activations: minima, or minus the scale times the offset */
    __m512 d[8], m[8]; /* types of 32 values: each block's; others: the first, m dmin */
};

/* What the weights of a type are made unsigned with. */
static inline int kern__unpack_offset(enum kern_type type)
{
    switch ((int)type) {
    case KERN_Q8_0:
    case KERN_IQ4_NL:
    case KERN_IQ4_XS:
        return 128;
    case KERN_IQ3_XXS:
        return 62;
    case KERN_IQ2_XXS:
    case KERN_IQ2_XS:
    case KERN_IQ2_S:
        return 43;
    case KERN_Q6_K:
        return 32;
    case KERN_Q5_0:
        return 16;
    case KERN_IQ3_S:
        return 15;
    case KERN_MXFP4:
        return 12;
    case KERN_IQ1_S:
    case KERN_IQ1_M:
        return 9;
    case KERN_Q4_0:
        return 8;
    case KERN_Q3_K:
        return 4;
    default:
        return 0;
    }
}

/* Whether a type of 256 values has a scale for each 16 of them, not each 32. */
static inline bool kern__scales_of_16(enum kern_type type)
{
    return type == KERN_Q2_K || type == KERN_Q3_K || type == KERN_Q6_K || type == KERN_IQ2_XS ||
           type == KERN_IQ2_S || type == KERN_IQ1_M;
}

static inline bool kern__has_minima(enum kern_type type)
{
    return type == KERN_Q4_1 || type == KERN_Q5_1 || type == KERN_Q2_K || type == KERN_Q4_K ||
           type == KERN_Q5_K;
}

/* Unpacks n_values, 256 or, of types of 32 values, fewer. */
typedef void kern__unpack_fn(struct kern__block *to, const char *w, size_t n_values);

/* By type; NULL: floats. */
extern kern__unpack_fn *const kern__unpack[KERN_TYPE_SLOTS];

#endif
