/* SPDX-License-Identifier: Apache-2.0 */
/* Packing of the types of 32 values; kernels/pack.c describes the layouts. */
#include "kernels/pack_rows.h"

/* Bits 0, 4, 8 ... 28 side by side. */
static uint8_t every_fourth(uint32_t bits)
{
    bits &= 0x11111111;
    bits = (bits | bits >> 3) & 0x03030303;
    bits = (bits | bits >> 6) & 0x000f000f;
    return (uint8_t)(bits | bits >> 12);
}

/* The inverse of every_fourth. */
static uint32_t four_apart(uint8_t byte)
{
    uint32_t bits = (byte | (uint32_t)byte << 12) & 0x000f000f;
    bits = (bits | bits << 6) & 0x03030303;
    return (bits | bits << 3) & 0x11111111;
}

/* The 32 fifth bits of each row, at `offset` in its block, as a vector. */
static void pack_fifth_bits(uint8_t dst[64], const struct kern__rows *rows, size_t offset)
{
    for (size_t r = 0; r < KERN_PANEL; r++) {
        uint32_t bits;
        memcpy(&bits, rows->row[r] + offset, 4);
        for (size_t b = 0; b < 4; b++)
            dst[4 * r + b] = every_fourth(bits >> b);
    }
}

static void unpack_fifth_bits(uint8_t *to, const uint8_t *packed, size_t row)
{
    uint32_t bits = 0;
    for (size_t b = 0; b < 4; b++)
        bits |= four_apart(packed[4 * row + b]) << b;
    memcpy(to, &bits, 4);
}

void kern__pack_q4_1(uint8_t *dst, const struct kern__rows *rows)
{
    kern__interleave(dst, rows, 0, 2, 1);
    kern__interleave(dst + KERN__Q4_1_M, rows, 2, 2, 1);
    kern__interleave(dst + KERN__Q4_1_QS, rows, 4, 4, 4);
}

void kern__unpack_q4_1(uint8_t *block, const uint8_t *packed, size_t row)
{
    kern__collect(block, packed, row, 2, 1);
    kern__collect(block + 2, packed + KERN__Q4_1_M, row, 2, 1);
    kern__collect(block + 4, packed + KERN__Q4_1_QS, row, 4, 4);
}

void kern__pack_q5_0(uint8_t *dst, const struct kern__rows *rows)
{
    kern__interleave(dst, rows, 0, 2, 1);
    pack_fifth_bits(dst + KERN__Q5_0_QH, rows, 2);
    kern__interleave(dst + KERN__Q5_0_QS, rows, 6, 4, 4);
}

void kern__unpack_q5_0(uint8_t *block, const uint8_t *packed, size_t row)
{
    kern__collect(block, packed, row, 2, 1);
    unpack_fifth_bits(block + 2, packed + KERN__Q5_0_QH, row);
    kern__collect(block + 6, packed + KERN__Q5_0_QS, row, 4, 4);
}

void kern__pack_q5_1(uint8_t *dst, const struct kern__rows *rows)
{
    kern__interleave(dst, rows, 0, 2, 1);
    kern__interleave(dst + KERN__Q5_1_M, rows, 2, 2, 1);
    pack_fifth_bits(dst + KERN__Q5_1_QH, rows, 4);
    kern__interleave(dst + KERN__Q5_1_QS, rows, 8, 4, 4);
}

void kern__unpack_q5_1(uint8_t *block, const uint8_t *packed, size_t row)
{
    kern__collect(block, packed, row, 2, 1);
    kern__collect(block + 2, packed + KERN__Q5_1_M, row, 2, 1);
    unpack_fifth_bits(block + 4, packed + KERN__Q5_1_QH, row);
    kern__collect(block + 8, packed + KERN__Q5_1_QS, row, 4, 4);
}

void kern__pack_mxfp4(uint8_t *dst, const struct kern__rows *rows)
{
    kern__interleave(dst, rows, 0, 1, 1);
    kern__interleave(dst + KERN__MXFP4_QS, rows, 1, 4, 4);
}

void kern__unpack_mxfp4(uint8_t *block, const uint8_t *packed, size_t row)
{
    kern__collect(block, packed, row, 1, 1);
    kern__collect(block + 1, packed + KERN__MXFP4_QS, row, 4, 4);
}
