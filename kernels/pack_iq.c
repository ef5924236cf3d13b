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
#include "kernels/pack_rows.h"

/* Units after d, in whole squares of 16. */
#define MAX_BYTES 112

static inline uint32_t load_u16(const uint8_t *p)
{
    return p[0] | (uint32_t)p[1] << 8;
}

static inline uint32_t load_u32(const uint8_t *p)
{
    return load_u16(p) | load_u16(p + 2) << 16;
}

/* 32 values: 28 bits of signs, then 4 of scale, into 4 bytes of 7 signs and a bit of the scale. */
static inline void put_signs(uint8_t to[4], uint32_t word)
{
    for (size_t j = 0; j < 4; j++)
        to[j] = (uint8_t)((word >> 7 * j & 127) | (word >> (28 + j) & 1) << 7);
}

static void put_iq2_xxs(uint8_t *to, const uint8_t *block)
{
    for (size_t sub = 0; sub < 8; sub++) {
        memcpy(to + 4 * sub, block + 2 + 8 * sub, 4);
        put_signs(to + 32 + 4 * sub, load_u32(block + 2 + 8 * sub + 4));
    }
}

static void put_iq2_xs(uint8_t *to, const uint8_t *block)
{
    for (size_t g = 0; g < 32; g++) { /* its upper byte: 7 signs, below them bit 8 */
        uint8_t upper = block[2 + 2 * g + 1];
        to[g] = block[2 + 2 * g];
        to[32 + g] = (uint8_t)(upper >> 1 | upper << 7);
    }
    memcpy(to + 64, block + 66, 8);
}

static void put_iq3_xxs(uint8_t *to, const uint8_t *block)
{
    memcpy(to, block + 2, 64);
    for (size_t sub = 0; sub < 8; sub++)
        put_signs(to + 64 + 4 * sub, load_u32(block + 66 + 4 * sub));
}

/* The file has the upper index bits before the signs. */
static void put_iq3_s(uint8_t *to, const uint8_t *block)
{
    memcpy(to, block + 2, 64);
    memcpy(to + 64, block + 74, 32);
    memcpy(to + 96, block + 66, 8);
    memcpy(to + 104, block + 106, 4);
}

/* 32 values: four times 3 bits of an index, then 4 that go above one of those each. */
static void put_iq1_s(uint8_t *to, const uint8_t *block)
{
    memcpy(to, block + 2, 32);
    for (size_t sub = 0; sub < 8; sub++) {
        uint32_t word = load_u16(block + 34 + 2 * sub), nibbles = 0;
        for (size_t j = 0; j < 4; j++)
            nibbles |= ((word >> 3 * j & 7) | (word >> (12 + j) & 1) << 3) << 4 * j;
        to[32 + 2 * sub] = (uint8_t)nibbles;
        to[32 + 2 * sub + 1] = (uint8_t)(nibbles >> 8);
    }
}

/* 64 values: four scales of 3 bits, and 4 bits of d. */
static void put_iq1_m(uint8_t *to, const uint8_t *block)
{
    uint32_t upper = 0;
    memcpy(to, block, 48);
    for (size_t i = 0; i < 4; i++) {
        uint32_t word = load_u16(block + 48 + 2 * i), lower = 0;
        for (size_t j = 0; j < 4; j++) {
            lower |= (word >> 3 * j & 3) << 2 * j;
            upper |= (word >> (3 * j + 2) & 1) << (4 * i + j);
        }
        to[48 + i] = (uint8_t)lower;
    }
    to[52] = (uint8_t)upper;
    to[53] = (uint8_t)(upper >> 8);
}

/* A row's byte of every unit from the third on. */
static inline void put_row(enum kern_type type, uint8_t to[MAX_BYTES], const uint8_t *block)
{
    switch (type) {
    case KERN_IQ1_S:
        put_iq1_s(to, block);
        break;
    case KERN_IQ1_M:
        put_iq1_m(to, block);
        break;
    case KERN_IQ2_XXS:
        put_iq2_xxs(to, block);
        break;
    case KERN_IQ2_XS:
        put_iq2_xs(to, block);
        break;
    case KERN_IQ2_S:
        memcpy(to, block + 2, 80);
        break;
    case KERN_IQ3_XXS:
        put_iq3_xxs(to, block);
        break;
    default:
        put_iq3_s(to, block);
        break;
    }
}

/* Turns a square of 16 by 16 bytes. Interleaving its halves moves each bit of a byte's place up by
 * one; four times exchange row and column. */
static void turn(kern__iq_unit square[16])
{
    for (int round = 0; round < 4; round++) {
        kern__iq_unit to[16];
        for (size_t i = 0; i < 8; i++) {
            to[2 * i] = kern__iq_interleave_low(square[i], square[i + 8]);
            to[2 * i + 1] = kern__iq_interleave_high(square[i], square[i + 8]);
        }
        memcpy(square, to, sizeof to);
    }
}

static void put_d(enum kern_type type, uint8_t to[2], const uint8_t *block)
{
    if (type != KERN_IQ1_M) {
        memcpy(to, block, 2);
        return;
    }
    to[0] = (uint8_t)(block[49] >> 4 | (block[51] & 0xf0));
    to[1] = (uint8_t)(block[53] >> 4 | (block[55] & 0xf0));
}

void kern__iq_pack(const struct kern_type_info *info, uint8_t *packed,
                   const uint8_t *const blocks[KERN_PANEL])
{
    const size_t n = info->packed_bytes / KERN_PANEL - KERN__IQ_LOW;
    uint8_t rows[KERN_PANEL][MAX_BYTES] = {{0}};
    for (size_t r = 0; r < KERN_PANEL; r++) {
        put_d(info->type, packed + 2 * r, blocks[r]);
        put_row(info->type, rows[r], blocks[r]);
    }
    packed += KERN_PANEL * KERN__IQ_LOW;
    for (size_t i = 0; i < n; i += 16) {
        kern__iq_unit square[16];
        for (size_t r = 0; r < KERN_PANEL; r++)
            memcpy(&square[r], rows[r] + i, sizeof square[r]);
        turn(square);
        memcpy(packed + KERN_PANEL * i, square, KERN_PANEL * (n - i < 16 ? n - i : 16));
    }
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

/* The inverse of put_signs. */
static void restore_signs(uint8_t *to, const uint8_t from[4])
{
    uint32_t word = 0;
    for (size_t j = 0; j < 4; j++)
        word |= (uint32_t)(from[j] & 127) << 7 * j | (uint32_t)(from[j] >> 7) << (28 + j);
    memcpy(to, &word, 4);
}

static void restore_iq2_xs(uint8_t *block, const uint8_t *from)
{
    for (size_t g = 0; g < 32; g++) {
        block[2 + 2 * g] = from[g];
        block[2 + 2 * g + 1] = (uint8_t)(from[32 + g] << 1 | from[32 + g] >> 7);
    }
    memcpy(block + 66, from + 64, 8);
}

static void restore_iq3_s(uint8_t *block, const uint8_t *from)
{
    memcpy(block + 2, from, 64);
    memcpy(block + 74, from + 64, 32);
    memcpy(block + 66, from + 96, 8);
    memcpy(block + 106, from + 104, 4);
}

static void restore_iq1_s(uint8_t *block, const uint8_t *from)
{
    memcpy(block + 2, from, 32);
    for (size_t sub = 0; sub < 8; sub++) {
        uint32_t nibbles = load_u16(from + 32 + 2 * sub), word = 0;
        for (size_t j = 0; j < 4; j++)
            word |= (nibbles >> 4 * j & 7) << 3 * j | (nibbles >> (4 * j + 3) & 1) << (12 + j);
        block[34 + 2 * sub] = (uint8_t)word;
        block[34 + 2 * sub + 1] = (uint8_t)(word >> 8);
    }
}

static void restore_iq1_m(uint8_t *block, const uint8_t *from, const uint8_t d[2])
{
    const uint32_t upper = load_u16(from + 52), half = load_u16(d);
    memcpy(block, from, 48);
    for (size_t i = 0; i < 4; i++) {
        uint32_t word = (half >> 4 * i & 15) << 12;
        for (size_t j = 0; j < 4; j++)
            word |= ((uint32_t)(from[48 + i] >> 2 * j & 3) | (upper >> (4 * i + j) & 1) << 2)
                    << 3 * j;
        block[48 + 2 * i] = (uint8_t)word;
        block[48 + 2 * i + 1] = (uint8_t)(word >> 8);
    }
}

void kern__unpack_iq(const struct kern_type_info *info, uint8_t *block, const uint8_t *packed,
                     size_t lane)
{
    const size_t n = info->packed_bytes / KERN_PANEL - KERN__IQ_LOW;
    const uint8_t *d = packed + 2 * lane;
    uint8_t row[MAX_BYTES] = {0};
    for (size_t i = 0; i < n; i++)
        row[i] = packed[KERN_PANEL * (KERN__IQ_LOW + i) + lane];
    memcpy(block, d, 2);
    switch (info->type) {
    case KERN_IQ1_S:
        restore_iq1_s(block, row);
        break;
    case KERN_IQ1_M:
        restore_iq1_m(block, row, d);
        break;
    case KERN_IQ2_XXS:
        for (size_t sub = 0; sub < 8; sub++) {
            memcpy(block + 2 + 8 * sub, row + 4 * sub, 4);
            restore_signs(block + 2 + 8 * sub + 4, row + 32 + 4 * sub);
        }
        break;
    case KERN_IQ2_XS:
        restore_iq2_xs(block, row);
        break;
    case KERN_IQ2_S:
        memcpy(block + 2, row, 80);
        break;
    case KERN_IQ3_XXS:
        memcpy(block + 2, row, 64);
        for (size_t sub = 0; sub < 8; sub++)
            restore_signs(block + 66 + 4 * sub, row + 64 + 4 * sub);
        break;
    default:
        restore_iq3_s(block, row);
        break;
    }
}
