/* SPDX-License-Identifier: Apache-2.0 */
/* Packing of types of 256 values; kernels/pack.c describes the layouts. */
#include "kernels/pack_rows.h"

void kern__pack_q2_k(uint8_t *dst, const struct kern__rows *rows)
{
    kern__interleave(dst, rows, 80, 2, 1);
    kern__interleave(dst + KERN__Q2_K_DMIN, rows, 82, 2, 1);
    kern__interleave(dst + KERN__Q2_K_SCALES, rows, 0, 1, 16);
    kern__interleave(dst + KERN__Q2_K_QS, rows, 16, 4, 16);
}

void kern__unpack_q2_k(uint8_t *block, const uint8_t *packed, size_t row)
{
    kern__collect(block + 80, packed, row, 2, 1);
    kern__collect(block + 82, packed + KERN__Q2_K_DMIN, row, 2, 1);
    kern__collect(block, packed + KERN__Q2_K_SCALES, row, 1, 16);
    kern__collect(block + 16, packed + KERN__Q2_K_QS, row, 4, 16);
}

void kern__pack_q3_k(uint8_t *dst, const struct kern__rows *rows)
{
    kern__interleave(dst, rows, 108, 2, 1);
    kern__interleave(dst + KERN__Q3_K_SCALES, rows, 96, 1, 12);
    kern__interleave(dst + KERN__Q3_K_HMASK, rows, 0, 4, 8);
    kern__interleave(dst + KERN__Q3_K_QS, rows, 32, 4, 16);
}

void kern__unpack_q3_k(uint8_t *block, const uint8_t *packed, size_t row)
{
    kern__collect(block + 108, packed, row, 2, 1);
    kern__collect(block + 96, packed + KERN__Q3_K_SCALES, row, 1, 12);
    kern__collect(block, packed + KERN__Q3_K_HMASK, row, 4, 8);
    kern__collect(block + 32, packed + KERN__Q3_K_QS, row, 4, 16);
}

void kern__pack_q5_k(uint8_t *dst, const struct kern__rows *rows)
{
    kern__pack_k_head(dst, rows);
    kern__interleave(dst + KERN__Q5_K_QH, rows, 16, 4, 8);
    kern__interleave(dst + KERN__Q5_K_QS, rows, 48, 4, 32);
}

void kern__unpack_q5_k(uint8_t *block, const uint8_t *packed, size_t row)
{
    kern__unpack_k_head(block, packed, row);
    kern__collect(block + 16, packed + KERN__Q5_K_QH, row, 4, 8);
    kern__collect(block + 48, packed + KERN__Q5_K_QS, row, 4, 32);
}

/* d; 16 bits of sh, two a scale, upper; 4 bytes of sl, a nibble a scale, lower. A row past the end
 * gets scales of -32, which d = 0 silences. */
void kern__pack_iq4_xs(uint8_t *dst, const struct kern__rows *rows)
{
    kern__interleave(dst, rows, 0, 2, 1);
    for (size_t r = 0; r < KERN_PANEL; r++)
        for (size_t s = 0; s < 8; s++)
            dst[KERN__IQ4_XS_SCALES + s * KERN_PANEL + r] =
                (uint8_t)kern__iq4_xs_scale(rows->row[r], s);
    kern__interleave(dst + KERN__IQ4_XS_QS, rows, 8, 4, 32);
}

void kern__unpack_iq4_xs(uint8_t *block, const uint8_t *packed, size_t row)
{
    uint8_t scales[8];
    kern__collect(block, packed, row, 2, 1);
    kern__collect(scales, packed + KERN__IQ4_XS_SCALES, row, 1, 8);
    memset(block + 2, 0, 6);
    for (size_t s = 0; s < 8; s++) {
        uint8_t scale = (uint8_t)(scales[s] + 32);
        block[2 + s / 4] |= (uint8_t)(scale >> 4 << 2 * (s % 4));
        block[4 + s / 2] |= (uint8_t)((scale & 15) << 4 * (s % 2));
    }
    kern__collect(block + 8, packed + KERN__IQ4_XS_QS, row, 4, 32);
}
