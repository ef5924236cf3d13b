/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What packing a type is made of. pack writes one packed block of 16 rows, unpack gives one row's
 * block back as it is in the file. Private to this folder.
 */
#ifndef KERNELS_PACK_ROWS_H
#define KERNELS_PACK_ROWS_H

#include <stddef.h>
#include <string.h>

#include "kernels/pack.h"
#include "kernels/type.h"

/* The 16 rows of a panel in the file. */
struct kern__rows {
    const uint8_t *row[KERN_PANEL];
    size_t step[KERN_PANEL]; /* 1, or 0 for a row past the end */
};

/* dst gets n times 16 units of `unit` bytes; unit v of row r lies `offset` + v * unit bytes into
 * the row. */
static inline void kern__interleave(uint8_t *restrict dst, const struct kern__rows *rows,
                                    size_t offset, size_t unit, size_t n)
{
    for (size_t v = 0; v < n; v++)
        for (size_t r = 0; r < KERN_PANEL; r++)
            memcpy(dst + (v * KERN_PANEL + r) * unit, rows->row[r] + offset + v * unit, unit);
}

/* One row's units back out of what kern__interleave made. */
static inline void kern__collect(uint8_t *dst, const uint8_t *packed, size_t row, size_t unit,
                                 size_t n)
{
    for (size_t v = 0; v < n; v++)
        memcpy(dst + v * unit, packed + (v * KERN_PANEL + row) * unit, unit);
}

/* What Q4_K and Q5_K begin with, d to M packed (KERN__Q4_K_QS bytes), 16 bytes in the file. */
void kern__pack_k_head(uint8_t *dst, const struct kern__rows *rows);
void kern__unpack_k_head(uint8_t *block, const uint8_t *packed, size_t row);

/* kernels/pack_small.c */
void kern__pack_q4_1(uint8_t *dst, const struct kern__rows *rows);
void kern__unpack_q4_1(uint8_t *block, const uint8_t *packed, size_t row);
void kern__pack_q5_0(uint8_t *dst, const struct kern__rows *rows);
void kern__unpack_q5_0(uint8_t *block, const uint8_t *packed, size_t row);
void kern__pack_q5_1(uint8_t *dst, const struct kern__rows *rows);
void kern__unpack_q5_1(uint8_t *block, const uint8_t *packed, size_t row);
void kern__pack_mxfp4(uint8_t *dst, const struct kern__rows *rows);
void kern__unpack_mxfp4(uint8_t *block, const uint8_t *packed, size_t row);

/* kernels/pack_k.c */
void kern__pack_q2_k(uint8_t *dst, const struct kern__rows *rows);
void kern__unpack_q2_k(uint8_t *block, const uint8_t *packed, size_t row);
void kern__pack_q3_k(uint8_t *dst, const struct kern__rows *rows);
void kern__unpack_q3_k(uint8_t *block, const uint8_t *packed, size_t row);
void kern__pack_q5_k(uint8_t *dst, const struct kern__rows *rows);
void kern__unpack_q5_k(uint8_t *block, const uint8_t *packed, size_t row);
void kern__pack_iq4_xs(uint8_t *dst, const struct kern__rows *rows);
void kern__unpack_iq4_xs(uint8_t *block, const uint8_t *packed, size_t row);

/* kernels/pack_iq.c */
void kern__unpack_iq(const struct kern_type_info *info, uint8_t *block, const uint8_t *packed,
                     size_t row);

#endif
