/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How the ARM matrix kernels walk a product. Private to this folder.
 *
 * One row of activations meets the packed weights as they are unpacked (one_row). Many rows meet
 * them in a form that is the same for every type (struct kern__arm_weights), of which as much is
 * made at once as stays in the first cache: so there is one product of it for an instruction set,
 * and a type is no more than the ways to its values (kernels/arm/values.h). The sums of many rows
 * grow in y from block to block.
 */
#ifndef KERNELS_ARM_MATMUL_H
#define KERNELS_ARM_MATMUL_H

#include <arm_neon.h>
#include <stdbool.h>
#include <string.h>

#include "kernels/table.h"

#define KERN__INLINE static inline __attribute__((always_inline))

/*
 * 256 values of 16 rows: one block, or up to 8 blocks of 32.
 *
 * Plain: w[v], as kernels/pack.c has a vector, is of row r at 4r the values 4v..4v+3; row r's word
 * of a list of 16 is number r. Paired: w[2v] and w[2v + 1] are, of row r at 8r, the values
 * 8v..8v+7; each two rows' words are there twice, in words 2r to 2r + 3 of an even row r.
 */
#define KERN__ARM_WORDS (2 * KERN_PANEL)
struct kern__arm_weights {
    _Alignas(64) int8_t w[64][4 * KERN_PANEL];
    int32_t scale[16][KERN__ARM_WORDS]; /* of each `sub` values of a block of 256 */
    int16_t min[16][KERN_PANEL];        /* the same; never paired */
    float d[8][KERN__ARM_WORDS];        /* of each block */
    float m[8][KERN__ARM_WORDS]; /* what a sum of activations is multiplied by, with its sign */
    size_t n_blocks;
    size_t sub; /* values that share a scale and a minimum, 16 or 32, of blocks of 256 */
    bool has_min;
};

struct kern__arm_type {
    size_t block, packed_bytes;
    void (*one_row)(float *y, const uint8_t *panel, const void *x, size_t k);
    /* Fills in what the type has of w->n_blocks blocks; of 256 values, that is one. */
    void (*decode)(struct kern__arm_weights *w, const uint8_t *packed, bool paired);
};

/* Rows of a chunk of a product: y their sums so far, of one panel; q, d and sums what the
 * chunk's blocks meet in row 0's record. */
struct kern__arm_rows {
    float *y;
    size_t ldy;
    const char *q, *d, *sums;
    size_t x_bytes, n;
};

/* Adds the products of a chunk to rows->y. */
typedef void kern__arm_products_fn(const struct kern__arm_type *type,
                                   const struct kern__arm_weights *w, struct kern__arm_rows rows);

/* A kern_matmul_fn of a type; products wants paired weights, or plain ones. */
void kern__arm_matmul(const struct kern__arm_type *type, kern__arm_products_fn *products,
                      bool paired, float *y, size_t ldy, const void *w, size_t n_panels,
                      const void *x, size_t x_bytes, size_t n_rows, size_t k);

#define KERN__ARM_TYPES(X)                                                                         \
    X(Q4_0, q4_0)                                                                                  \
    X(Q4_1, q4_1)                                                                                  \
    X(Q5_0, q5_0)                                                                                  \
    X(Q5_1, q5_1)                                                                                  \
    X(Q8_0, q8_0)                                                                                  \
    X(IQ4_NL, iq4_nl)                                                                              \
    X(MXFP4, mxfp4)                                                                                \
    X(Q2_K, q2_k)                                                                                  \
    X(Q3_K, q3_k)                                                                                  \
    X(Q4_K, q4_k)                                                                                  \
    X(Q5_K, q5_k)                                                                                  \
    X(Q6_K, q6_k)                                                                                  \
    X(IQ4_XS, iq4_xs)                                                                              \
    X(IQ1_S, iq1_s)                                                                                \
    X(IQ1_M, iq1_m)                                                                                \
    X(IQ2_XXS, iq2_xxs)                                                                            \
    X(IQ2_XS, iq2_xs)                                                                              \
    X(IQ2_S, iq2_s)                                                                                \
    X(IQ3_XXS, iq3_xxs)                                                                            \
    X(IQ3_S, iq3_s)

#define KERN__ARM_DECLARE(type, name) extern const struct kern__arm_type kern__arm_##name;
KERN__ARM_TYPES(KERN__ARM_DECLARE)

/* t += 16 values of 4 rows, w[j] the fours of each, by 16 activations. */
KERN__INLINE int32x4_t kern__arm_dot16(int32x4_t t, const int8x16_t w[4], int8x16_t q)
{
    t = vdotq_laneq_s32(t, w[0], q, 0);
    t = vdotq_laneq_s32(t, w[1], q, 1);
    t = vdotq_laneq_s32(t, w[2], q, 2);
    return vdotq_laneq_s32(t, w[3], q, 3);
}

/* Goes on to the rows behind the first n. */
KERN__INLINE void kern__arm_skip_rows(struct kern__arm_rows *rows, size_t n)
{
    rows->y += n * rows->ldy;
    rows->q += n * rows->x_bytes;
    rows->d += n * rows->x_bytes;
    rows->sums += n * rows->x_bytes;
    rows->n -= n;
}

#endif
