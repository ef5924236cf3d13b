/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The packed layout of the IQ types. A packed block is a list of units of 16 bytes, byte r of each
 * belonging to row r, so that each step of taking 16 rows apart is one on whole bytes. The bits of
 * a file's block are sorted into such bytes and take exactly as many:
 *
 *   all       16 f16 d; the low 8 bits of each index
 *   IQ2_XXS,  for each group of 8 values the 7 sign bits, and above them one bit of the scale of
 *   IQ3_XXS   the 32 values, lowest in the first group
 *   IQ2_XS    for each group 7 sign bits, above them bit 8 of the index; two scales a byte
 *   IQ2_S     8 sign bits a group; bits 8 and 9 of the index, four groups a byte; two scales a byte
 *   IQ3_S     8 sign bits a group; bit 8 of the index, eight a byte; two scales, each of 32, a byte
 *   IQ1_S     for each group a nibble: bits 8 to 10 of the index, and above them one bit of what
 *             belongs to the 32 values: three of the scale, lowest first, then shift -1
 *   IQ1_M     for each group a nibble: bits 8 to 10 of the index, shift -1; the lower two bits of
 *             the scale, four a byte; the upper bit, eight a byte
 */
#include "kernels/iq.h"

#include <string.h>

#include "kernels/iq_panel.h"

#define MAX_UNITS 110

/* value into `bits` bits of place i of a list of small fields, zeros until then. */
static inline void put(uint8_t *fields, unsigned bits, size_t i, unsigned value)
{
    size_t per_byte = 8 / bits;
    fields[i / per_byte] |= (uint8_t)(value << bits * (i % per_byte));
}

static void put_signs(enum kern_type type, uint8_t *to, const struct kern__iq_row *row)
{
    for (size_t g = 0; g < 32; g++) {
        unsigned above =
            type == KERN_IQ2_XS ? row->index[g] >> 8 : row->scale[g / 4 * 2] >> g % 4 & 1;
        to[g] = (uint8_t)((row->sign[g] & 127) | above << 7);
    }
}

/* The upper bits of n indices. */
static inline void put_high(uint8_t *to, const struct kern__iq_row *row, unsigned bits, size_t n)
{
    for (size_t i = 0; i < n; i++)
        put(to, bits, i, row->index[i] >> 8);
}

/* The scales of every step-th 16 values. */
static inline void put_scales(uint8_t *to, const struct kern__iq_row *row, size_t step)
{
    for (size_t s = 0; s < 16; s += step)
        put(to, 4, s / step, row->scale[s]);
}

static void put_iq2(enum kern_type type, uint8_t *units, const struct kern__iq_row *row)
{
    if (type == KERN_IQ2_S) {
        memcpy(units + KERN__IQ2_SIGN, row->sign, 32);
        put_high(units + KERN__IQ2_S_HIGH, row, 2, 32);
        put_scales(units + KERN__IQ2_S_SCALE, row, 1);
    } else {
        put_signs(type, units + KERN__IQ2_SIGN, row);
        if (type == KERN_IQ2_XS)
            put_scales(units + KERN__IQ2_XS_SCALE, row, 1);
    }
}

static void put_iq3(enum kern_type type, uint8_t *units, const struct kern__iq_row *row)
{
    if (type == KERN_IQ3_S) {
        memcpy(units + KERN__IQ3_SIGN, row->sign, 32);
        put_high(units + KERN__IQ3_S_HIGH, row, 1, 64);
        put_scales(units + KERN__IQ3_S_SCALE, row, 2);
    } else {
        put_signs(type, units + KERN__IQ3_SIGN, row);
    }
}

static void put_iq1(enum kern_type type, uint8_t *units, const struct kern__iq_row *row)
{
    for (size_t g = 0; g < 32; g++) {
        unsigned shift = row->sign[g] & 1, common = row->scale[g / 2] | shift << 3;
        unsigned bit = type == KERN_IQ1_S ? common >> g % 4 & 1 : shift;
        put(units + KERN__IQ1_HIGH, 4, g, row->index[g] >> 8 | bit << 3);
    }
    for (size_t s = 0; type == KERN_IQ1_M && s < 16; s++) {
        put(units + KERN__IQ1_M_SCALE, 2, s, row->scale[s] & 3);
        put(units + KERN__IQ1_M_SCALE + 4, 1, s, row->scale[s] >> 2);
    }
}

/* A row's byte of every unit from the third on. */
static void put_row(enum kern_type type, uint8_t units[MAX_UNITS], const struct kern__iq_row *row)
{
    memset(units, 0, MAX_UNITS);
    for (size_t i = 0; i < kern__iq_indices(type); i++)
        units[KERN__IQ_LOW + i] = (uint8_t)row->index[i];
    if (kern__iq_is_iq1(type))
        put_iq1(type, units, row);
    else if (kern__iq_is_iq3(type))
        put_iq3(type, units, row);
    else
        put_iq2(type, units, row);
}

void kern__iq_pack(const struct kern_type_info *info, uint8_t *packed,
                   const uint8_t *const blocks[KERN_PANEL])
{
    uint8_t units[KERN_PANEL][MAX_UNITS];
    for (size_t r = 0; r < KERN_PANEL; r++) {
        struct kern__iq_row row;
        kern__iq_parse(info->type, &row, blocks[r]);
        memcpy(packed + 2 * r, &row.d, 2);
        put_row(info->type, units[r], &row);
    }
    for (size_t i = KERN__IQ_LOW; i < info->packed_bytes / KERN_PANEL; i++)
        for (size_t r = 0; r < KERN_PANEL; r++)
            packed[KERN_PANEL * i + r] = units[r][i];
}

void kern__iq_unpack(enum kern_type type, struct kern__iq_row *row, const uint8_t *packed,
                     size_t lane)
{
    struct kern__iq_panel panel;
    kern__iq_take_apart(type, &panel, packed);
    memcpy(&row->d, packed + 2 * lane, 2);
    for (size_t i = 0; i < kern__iq_indices(type); i++)
        row->index[i] = (uint16_t)kern__iq_index(type, &panel, i, lane);
    for (size_t g = 0; g < 32; g++)
        row->sign[g] = panel.sign[g][lane];
    for (size_t s = 0; s < 16; s++)
        row->scale[s] = panel.scale[s][lane] / 2;
}
