/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Takes a packed block of an IQ type apart, 16 rows side by side in every step; the compiler of
 * each instruction set makes its own of the vectors. type is a constant wherever speed matters, and
 * loops are unrolled so that shifts are by constants. Private to this folder.
 */
#ifndef KERNELS_IQ_PANEL_H
#define KERNELS_IQ_PANEL_H

#include <string.h>

#include "kernels/iq.h"

#define KERN__IQ_INLINE static inline __attribute__((always_inline))

/* A byte of each of 16 rows. */
typedef uint8_t kern__iq_unit __attribute__((vector_size(16)));

/* As kern__iq_row, of 16 rows; scale is 2s + 1. Indices of 8 bits are read where they lie. */
struct kern__iq_panel {
    const uint8_t (*low)[KERN_PANEL];
    _Alignas(64) uint16_t index[64][KERN_PANEL];
    _Alignas(64) uint8_t sign[32][KERN_PANEL];
    _Alignas(64) uint8_t scale[16][KERN_PANEL];
};

KERN__IQ_INLINE int kern__iq_is_iq1(enum kern_type type)
{
    return type == KERN_IQ1_S || type == KERN_IQ1_M;
}

KERN__IQ_INLINE int kern__iq_is_iq3(enum kern_type type)
{
    return type == KERN_IQ3_XXS || type == KERN_IQ3_S;
}

/* Types whose indices have 8 bits. */
KERN__IQ_INLINE int kern__iq_is_xxs(enum kern_type type)
{
    return type == KERN_IQ2_XXS || type == KERN_IQ3_XXS;
}

KERN__IQ_INLINE size_t kern__iq_indices(enum kern_type type)
{
    return kern__iq_is_iq3(type) ? 64 : 32;
}

KERN__IQ_INLINE kern__iq_unit kern__iq_load(const uint8_t *packed, size_t unit)
{
    kern__iq_unit out;
    memcpy(&out, packed + KERN_PANEL * unit, sizeof out);
    return out;
}

KERN__IQ_INLINE void kern__iq_store(uint8_t to[KERN_PANEL], kern__iq_unit unit)
{
    memcpy(to, &unit, sizeof unit);
}

/* Place i of the list of fields of `bits` bits that starts at a unit. */
KERN__IQ_INLINE kern__iq_unit kern__iq_field(const uint8_t *packed, size_t unit, size_t bits,
                                             size_t i)
{
    size_t per_byte = 8 / bits;
    kern__iq_unit from = kern__iq_load(packed, unit + i / per_byte);
    return from >> (uint8_t)(bits * (i % per_byte)) & (uint8_t)((1u << bits) - 1);
}

/* The upper bits of index i. */
KERN__IQ_INLINE kern__iq_unit kern__iq_high(enum kern_type type, const uint8_t *packed, size_t i)
{
    if (type == KERN_IQ2_XS)
        return kern__iq_load(packed, KERN__IQ2_SIGN + i) >> 7;
    if (type == KERN_IQ2_S)
        return kern__iq_field(packed, KERN__IQ2_S_HIGH, 2, i);
    if (type == KERN_IQ3_S)
        return kern__iq_field(packed, KERN__IQ3_S_HIGH, 1, i);
    if (kern__iq_is_iq1(type))
        return kern__iq_field(packed, KERN__IQ1_HIGH, 4, i) & 7;
    return (kern__iq_unit){0};
}

/* The 7 signs in the lower bits of the bytes of four units get an eighth that makes the number of
 * those set even: the others' parity, folded upwards. */
KERN__IQ_INLINE void kern__iq_even_signs(uint8_t (*to)[KERN_PANEL], const uint8_t *packed)
{
    typedef uint8_t units __attribute__((vector_size(4 * KERN_PANEL)));
    units signs, parity;
    memcpy(&signs, packed, sizeof signs);
    parity = signs << 1;
    parity ^= parity << 4;
    parity ^= parity << 2;
    parity ^= parity << 1;
    signs = (signs & 127) | (parity & 128);
    memcpy(to, &signs, sizeof signs);
}

/* Where the signs of IQ2 and IQ3 begin. */
KERN__IQ_INLINE size_t kern__iq_sign_unit(enum kern_type type)
{
    return kern__iq_is_iq3(type) ? KERN__IQ3_SIGN : KERN__IQ2_SIGN;
}

/* The 8 signs of each group, a bit each; IQ1: 0xff where the shift is -1. */
KERN__IQ_INLINE void kern__iq_signs(enum kern_type type, uint8_t (*to)[KERN_PANEL],
                                    const uint8_t *packed)
{
    const uint8_t *signs = packed + KERN_PANEL * kern__iq_sign_unit(type);
    if (type == KERN_IQ2_S || type == KERN_IQ3_S) {
        memcpy(to, signs, 32 * KERN_PANEL);
        return;
    }
    for (size_t first = 0; first < 32; first += 4) {
        if (!kern__iq_is_iq1(type)) {
            kern__iq_even_signs(to + first, signs + KERN_PANEL * first);
            continue;
        }
#pragma GCC unroll 4
        for (size_t g = first; g < first + 4; g++) {
            /* In IQ1_S the last group of 32 values has the shift of all. */
            size_t i = type == KERN_IQ1_S ? first + 3 : g;
            kern__iq_store(to[g], -(kern__iq_field(packed, KERN__IQ1_HIGH, 4, i) >> 3));
        }
    }
}

/* s of the 16 values from 16 * sub. */
KERN__IQ_INLINE kern__iq_unit kern__iq_scale(enum kern_type type, const uint8_t *packed, size_t sub)
{
    size_t g = sub / 2 * 4; /* the first group of the 32 values */
    if (kern__iq_is_xxs(type)) {
        size_t unit = kern__iq_sign_unit(type) + g;
        return kern__iq_load(packed, unit) >> 7 | kern__iq_load(packed, unit + 1) >> 7 << 1 |
               kern__iq_load(packed, unit + 2) >> 7 << 2 |
               kern__iq_load(packed, unit + 3) >> 7 << 3;
    }
    if (type == KERN_IQ2_XS)
        return kern__iq_field(packed, KERN__IQ2_XS_SCALE, 4, sub);
    if (type == KERN_IQ2_S)
        return kern__iq_field(packed, KERN__IQ2_S_SCALE, 4, sub);
    if (type == KERN_IQ3_S)
        return kern__iq_field(packed, KERN__IQ3_S_SCALE, 4, sub / 2);
    if (type == KERN_IQ1_S)
        return kern__iq_field(packed, KERN__IQ1_HIGH, 4, g) >> 3 |
               kern__iq_field(packed, KERN__IQ1_HIGH, 4, g + 1) >> 3 << 1 |
               kern__iq_field(packed, KERN__IQ1_HIGH, 4, g + 2) >> 3 << 2;
    return kern__iq_field(packed, KERN__IQ1_M_SCALE, 2, sub) |
           kern__iq_field(packed, KERN__IQ1_M_SCALE + 4, 1, sub) << 2;
}

/* The bytes of the first and of the last 8 rows, one of low and one of high in turn. */
KERN__IQ_INLINE kern__iq_unit kern__iq_interleave_low(kern__iq_unit low, kern__iq_unit high)
{
    return __builtin_shufflevector(low, high, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7,
                                   23);
}

KERN__IQ_INLINE kern__iq_unit kern__iq_interleave_high(kern__iq_unit low, kern__iq_unit high)
{
    return __builtin_shufflevector(low, high, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30,
                                   15, 31);
}

/* Bytes as words: low + 256 * high. */
KERN__IQ_INLINE void kern__iq_store_words(uint16_t to[KERN_PANEL], kern__iq_unit low,
                                          kern__iq_unit high)
{
    kern__iq_unit first = kern__iq_interleave_low(low, high);
    kern__iq_unit second = kern__iq_interleave_high(low, high);
    memcpy(to, &first, sizeof first);
    memcpy(to + KERN_PANEL / 2, &second, sizeof second);
}

KERN__IQ_INLINE void kern__iq_take_apart(enum kern_type type, struct kern__iq_panel *restrict panel,
                                         const uint8_t *restrict packed)
{
    panel->low = (const uint8_t(*)[KERN_PANEL])(packed + KERN_PANEL * KERN__IQ_LOW);
    for (size_t first = 0; !kern__iq_is_xxs(type) && first < kern__iq_indices(type); first += 8)
#pragma GCC unroll 8
        for (size_t i = first; i < first + 8; i++)
            kern__iq_store_words(panel->index[i], kern__iq_load(packed, KERN__IQ_LOW + i),
                                 kern__iq_high(type, packed, i));
    kern__iq_signs(type, panel->sign, packed);
    for (size_t first = 0; first < 16; first += 8)
#pragma GCC unroll 4
        for (size_t sub = first; sub < first + 8; sub += 2) {
            kern__iq_unit even = kern__iq_scale(type, packed, sub), odd = even;
            if (type == KERN_IQ2_XS || type == KERN_IQ2_S || type == KERN_IQ1_M)
                odd = kern__iq_scale(type, packed, sub + 1);
            kern__iq_store(panel->scale[sub], even * 2 + 1);
            kern__iq_store(panel->scale[sub + 1], odd * 2 + 1);
        }
}

KERN__IQ_INLINE size_t kern__iq_index(enum kern_type type, const struct kern__iq_panel *panel,
                                      size_t i, size_t lane)
{
    return kern__iq_is_xxs(type) ? panel->low[i][lane] : panel->index[i][lane];
}

/* The grid of group g of a row: 8 bytes as kern__iq_grids has them. */
KERN__IQ_INLINE uint64_t kern__iq_grid(enum kern_type type, const struct kern__iq_panel *panel,
                                       size_t g, size_t lane)
{
    const struct kern__iq_grids *grids = &kern__iq_grids;
    if (type == KERN_IQ3_XXS)
        return grids->iq3_xxs_first[kern__iq_index(type, panel, 2 * g, lane)] |
               grids->iq3_xxs_second[kern__iq_index(type, panel, 2 * g + 1, lane)];
    if (type == KERN_IQ3_S)
        return grids->iq3_s_first[kern__iq_index(type, panel, 2 * g, lane)] |
               grids->iq3_s_second[kern__iq_index(type, panel, 2 * g + 1, lane)];
    size_t index = kern__iq_index(type, panel, g, lane);
    return type == KERN_IQ2_XXS  ? grids->iq2_xxs[index]
           : type == KERN_IQ2_XS ? grids->iq2_xs[index]
           : type == KERN_IQ2_S  ? grids->iq2_s[index]
                                 : grids->iq1[index];
}

#endif
