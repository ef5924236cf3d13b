/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The IQ1, IQ2 and IQ3 types. Private to this folder (and its tests).
 *
 * All of them hold 256 values a block: the values are small integers out of a codebook, 8 (IQ1,
 * IQ2) or 4 (IQ3) at an index, with a sign for each value (IQ2, IQ3) or a shift for each 8 (IQ1),
 * and a scale s for each 16 or 32. As integers, with c a power of two of the type and w whole:
 *
 *   value = (d * c) * (2s + 1) * w
 *
 *   IQ2_XXS, IQ2_XS, IQ2_S   c = 1/8   w = grid * sign, grid 8, 25 or 43
 *   IQ3_XXS                  c = 1/4   w = grid * sign, grid 4, 12 .. 52 or 62
 *   IQ3_S                    c = 1     w = grid * sign, grid 1, 3 .. 15
 *   IQ1_S, IQ1_M             c = 1/8   w = 8 * grid + shift, grid -1, 0 or 1, shift 1 or -1
 *
 * The formats differ in where the bits lie. So a block of one row is first taken apart into a
 * kern__iq_row, and a packed block of 16 rows into a kern__iq_panel (kernels/iq_panel.h).
 */
#ifndef KERNELS_IQ_H
#define KERNELS_IQ_H

#include "kernels/type.h"

/* Codebooks: kernels/iq_tables.c. */
extern const uint16_t kern__iq2_xxs_codes[256];
extern const uint16_t kern__iq2_xs_codes[512];
extern const uint16_t kern__iq2_s_codes[1024];
extern const uint16_t kern__iq3_xxs_codes[256];
extern const uint16_t kern__iq3_s_codes[512];
extern const uint16_t kern__iq1_codes[2048];

/* A block of one row, taken apart. */
struct kern__iq_row {
    uint16_t d;
    uint16_t index[64]; /* of each 4 values (IQ3) or each 8 (32 of them) */
    uint8_t sign[32];   /* of each 8 values, a bit each that negates; IQ1: 0xff where shift is -1 */
    uint8_t scale[16];  /* of each 16 values, 0 to 15 */
};

/* Units of 16 bytes, one a row, in a packed block; kernels/pack_iq.c describes them. d, the 16
 * scales as f16, lies in the first two of all types, the low index bytes follow. */
enum {
    KERN__IQ_LOW = 2,
    KERN__IQ2_SIGN = 34,
    KERN__IQ2_XS_SCALE = 66,
    KERN__IQ2_S_HIGH = 66,
    KERN__IQ2_S_SCALE = 74,
    KERN__IQ3_SIGN = 66,
    KERN__IQ3_S_HIGH = 98,
    KERN__IQ3_S_SCALE = 106,
    KERN__IQ1_HIGH = 34,
    KERN__IQ1_M_SCALE =
        50, /* the lower two bits, four to a byte, then the upper, eight to a byte */
};

/*
 * Codebook rows as 8 bytes, the first value lowest. IQ2: grid. IQ3: grid of 4 values, twice: in
 * the lower half of first, in the upper half of second. IQ1: 8 * (grid + 1), which is w + 9 where
 * shift is -1 and w + 7 where it is 1.
 */
struct kern__iq_grids {
    uint64_t iq2_xxs[256], iq2_xs[512], iq2_s[1024], iq1[2048];
    uint64_t iq3_xxs_first[256], iq3_xxs_second[256];
    uint64_t iq3_s_first[512], iq3_s_second[512];
};

/* Filled by kern__iq_init, constant afterwards. */
extern struct kern__iq_grids kern__iq_grids;

/* Called before a table of kernels is given out. */
void kern__iq_init(void);

static inline int kern__iq_is(enum kern_type type)
{
    return type == KERN_IQ1_S || type == KERN_IQ1_M || type == KERN_IQ2_XXS ||
           type == KERN_IQ2_XS || type == KERN_IQ2_S || type == KERN_IQ3_XXS || type == KERN_IQ3_S;
}

/* c above. */
static inline float kern__iq_factor(enum kern_type type)
{
    return type == KERN_IQ3_S ? 1.0f : type == KERN_IQ3_XXS ? 0.25f : 0.125f;
}

/* Takes a file's block apart. */
void kern__iq_parse(enum kern_type type, struct kern__iq_row *row, const uint8_t *block);

/* The 256 values of a block. */
void kern__iq_values(enum kern_type type, const struct kern__iq_row *row, float *out);

/* Blocks of 16 rows as a packed block, and one row of it back. */
void kern__iq_pack(const struct kern_type_info *info, uint8_t *packed,
                   const uint8_t *const blocks[KERN_PANEL]);
void kern__iq_unpack(enum kern_type type, struct kern__iq_row *row, const uint8_t *packed,
                     size_t lane);

#endif
