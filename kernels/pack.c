/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The packed layout of a matrix.
 *
 * A kernel wants one vector load to bring something of each of a panel's 16 rows, so that the sums
 * of 16 outputs grow side by side and nothing is ever added across a register. Processors multiply
 * bytes by fours: a lane of 32 bits takes 4 weights and 4 activations and adds the 4 products
 * (vpdpbusd; AVX2, NEON and matrix units have the like). So for the integer types the unit is a
 * vector of 64 bytes: row r's bytes 4r..4r+3 are 4 bytes that follow one another in row r of the
 * file, and the kernel multiplies the whole vector by 4 activations repeated 16 times. An
 * instruction set with shorter registers reads a vector in parts, rows 0-7 and rows 8-15.
 *
 * Vector v of a list of file bytes b[] is thus b[4v..4v+3] of 16 rows, and packing is the same
 * transposition of 4-byte words for every type. In a packed block (values e of the block in
 * brackets; s, the sub-block, is what has a scale of its own):
 *
 *   Q8_0   16 f16 d;  8 vectors of q, signed                [4v..4v+3]
 *   Q4_0   16 f16 d;  4 vectors of qs, value + 8            [low 4v.., high 16 + 4v..]
 *   Q4_1   16 f16 d;  16 f16 m;  4 vectors of qs as Q4_0
 *   Q5_0   16 f16 d;  1 vector of qh: bit v of byte b is the upper bit of
 *                                                           [4v + b]
 *          4 vectors of qs as Q4_0, value + 16
 *   Q5_1   16 f16 d;  16 f16 m;  qh and qs as Q5_0
 *   IQ4_NL as Q4_0, codebook indices
 *   MXFP4  16 u8 e;  4 vectors of qs as Q4_0, codebook indices
 *   Q2_K   16 f16 d;  16 f16 dmin;  u8 sc[s][row], s < 16, the scale in the low nibble;
 *          16 vectors of qs, v = 8n + j: bits 2g, 2g + 1 are [128n + 32g + 4j..]
 *   Q3_K   16 f16 d;  12 times 16 bytes of sc as in the file;
 *          8 vectors of hmask, v = j: bit 4n + g is the upper bit of
 *                                                           [128n + 32g + 4j..]
 *          16 vectors of qs as Q2_K, value + 4
 *   Q4_K   16 f16 d;  16 f16 dmin;  u8 S[s][row];  u8 M[s][row], s < 8;
 *          32 vectors of qs, v = 8p + j                     [low 64p + 4j.., high 64p + 32 + 4j..]
 *   Q5_K   16 f16 d;  16 f16 dmin;  S and M as Q4_K;
 *          8 vectors of qh, v = j: bit s is the upper bit of [32s + 4j..]
 *          32 vectors of qs as Q4_K
 *   Q6_K   16 f16 d;  i8 S[s][row], s < 16;
 *          32 vectors of ql, v = 16n + 8h + j               [low 128n + 32h + 4j.., high + 64]
 *          16 vectors of qh, v = 8n + j: bits 2g, 2g + 1 are the upper bits of
 *                                                           [128n + 32g + 4j..]
 *   IQ4_XS 16 f16 d;  i8 S[s][row], s < 8, 32 taken off;
 *          32 vectors of qs, v = 4s + j, codebook indices   [low 32s + 4j.., high 32s + 16 + 4j..]
 *   IQ1, IQ2, IQ3: see kernels/pack_iq.c.
 *   F32, F16, BF16: blocks of one value: the 16 rows' values as in the file.
 *
 * Only those whose 6-bit scales become bytes grow: Q4_K and Q5_K by 64 bytes in 2304 and 2816,
 * IQ4_XS by 32 in 2176. Q3_K would grow by 64 in 1760, so there the kernels put the scales
 * together. Rows that fill up the last panel are zero bytes: d = 0, or MXFP4's value 0, makes every
 * product 0.
 */
#include "kernels/type.h"

#include <assert.h>
#include <string.h>

#include "kernels/iq.h"
#include "kernels/pack_rows.h"
#include "kernels/table.h"
#include "kernels/unpack.h"

/* Of the types with kernels (Q6_K). */
#define MAX_BLOCK_BYTES 210

/* What a row past the end of the matrix is read from, a block at a time. */
static const uint8_t zeros[MAX_BLOCK_BYTES];

static void rows_advance(struct kern__rows *rows, size_t bytes)
{
    for (size_t r = 0; r < KERN_PANEL; r++)
        rows->row[r] += bytes * rows->step[r];
}

static void pack_q4_0(uint8_t *dst, const struct kern__rows *rows)
{
    kern__interleave(dst, rows, 0, 2, 1);
    kern__interleave(dst + KERN__Q4_0_QS, rows, 2, 4, 4);
}

static void unpack_q4_0(uint8_t *block, const uint8_t *packed, size_t row)
{
    kern__collect(block, packed, row, 2, 1);
    kern__collect(block + 2, packed + KERN__Q4_0_QS, row, 4, 4);
}

static void pack_q8_0(uint8_t *dst, const struct kern__rows *rows)
{
    kern__interleave(dst, rows, 0, 2, 1);
    kern__interleave(dst + KERN__Q8_0_QS, rows, 2, 4, 8);
}

static void unpack_q8_0(uint8_t *block, const uint8_t *packed, size_t row)
{
    kern__collect(block, packed, row, 2, 1);
    kern__collect(block + 2, packed + KERN__Q8_0_QS, row, 4, 8);
}

void kern__pack_k_head(uint8_t *dst, const struct kern__rows *rows)
{
    kern__interleave(dst, rows, 0, 2, 1);
    kern__interleave(dst + KERN__Q4_K_DMIN, rows, 2, 2, 1);
    for (size_t r = 0; r < KERN_PANEL; r++) {
        uint8_t scales[8], mins[8];
        kern__q4_k_scales(rows->row[r] + 4, scales, mins);
        for (size_t s = 0; s < 8; s++) {
            dst[KERN__Q4_K_SCALES + s * KERN_PANEL + r] = scales[s];
            dst[KERN__Q4_K_MINS + s * KERN_PANEL + r] = mins[s];
        }
    }
}

void kern__unpack_k_head(uint8_t *block, const uint8_t *packed, size_t row)
{
    uint8_t scales[8], mins[8];
    kern__collect(block, packed, row, 2, 1);
    kern__collect(block + 2, packed + KERN__Q4_K_DMIN, row, 2, 1);
    kern__collect(scales, packed + KERN__Q4_K_SCALES, row, 1, 8);
    kern__collect(mins, packed + KERN__Q4_K_MINS, row, 1, 8);
    for (size_t s = 0; s < 4; s++) {
        block[4 + s] = (uint8_t)(scales[s] | scales[s + 4] >> 4 << 6);
        block[8 + s] = (uint8_t)(mins[s] | mins[s + 4] >> 4 << 6);
        block[12 + s] = (uint8_t)((scales[s + 4] & 15) | (mins[s + 4] & 15) << 4);
    }
}

static void pack_q4_k(uint8_t *dst, const struct kern__rows *rows)
{
    kern__pack_k_head(dst, rows);
    kern__interleave(dst + KERN__Q4_K_QS, rows, 16, 4, 32);
}

static void unpack_q4_k(uint8_t *block, const uint8_t *packed, size_t row)
{
    kern__unpack_k_head(block, packed, row);
    kern__collect(block + 16, packed + KERN__Q4_K_QS, row, 4, 32);
}

static void pack_q6_k(uint8_t *dst, const struct kern__rows *rows)
{
    kern__interleave(dst, rows, 208, 2, 1);
    kern__interleave(dst + KERN__Q6_K_SCALES, rows, 192, 1, 16);
    kern__interleave(dst + KERN__Q6_K_QL, rows, 0, 4, 32);
    kern__interleave(dst + KERN__Q6_K_QH, rows, 128, 4, 16);
}

static void unpack_q6_k(uint8_t *block, const uint8_t *packed, size_t row)
{
    kern__collect(block + 208, packed, row, 2, 1);
    kern__collect(block + 192, packed + KERN__Q6_K_SCALES, row, 1, 16);
    kern__collect(block, packed + KERN__Q6_K_QL, row, 4, 32);
    kern__collect(block + 128, packed + KERN__Q6_K_QH, row, 4, 16);
}

static const struct {
    void (*pack)(uint8_t *dst, const struct kern__rows *rows);
    void (*unpack)(uint8_t *block, const uint8_t *packed, size_t row);
} layouts[KERN_TYPE_SLOTS] = {
    [KERN_Q4_0] = {pack_q4_0, unpack_q4_0},
    [KERN_Q4_1] = {kern__pack_q4_1, kern__unpack_q4_1},
    [KERN_Q5_0] = {kern__pack_q5_0, kern__unpack_q5_0},
    [KERN_Q5_1] = {kern__pack_q5_1, kern__unpack_q5_1},
    [KERN_Q8_0] = {pack_q8_0, unpack_q8_0},
    [KERN_Q2_K] = {kern__pack_q2_k, kern__unpack_q2_k},
    [KERN_Q3_K] = {kern__pack_q3_k, kern__unpack_q3_k},
    [KERN_Q4_K] = {pack_q4_k, unpack_q4_k},
    [KERN_Q5_K] = {kern__pack_q5_k, kern__unpack_q5_k},
    [KERN_Q6_K] = {pack_q6_k, unpack_q6_k},
    [KERN_IQ4_NL] = {pack_q4_0, unpack_q4_0},
    [KERN_IQ4_XS] = {kern__pack_iq4_xs, kern__unpack_iq4_xs},
    [KERN_MXFP4] = {kern__pack_mxfp4, kern__unpack_mxfp4},
};

static void pack_blocks(const struct kern_type_info *info, uint8_t *dst, struct kern__rows *rows,
                        size_t k)
{
    for (size_t i = 0; i < k; i += info->block) {
        layouts[info->type].pack(dst, rows);
        dst += info->packed_bytes;
        rows_advance(rows, info->block_bytes);
    }
}

static void pack_iq_blocks(const struct kern_type_info *info, uint8_t *dst,
                           struct kern__rows *rows, size_t k)
{
    for (size_t i = 0; i < k; i += info->block, dst += info->packed_bytes) {
        kern__iq_pack(info, dst, rows->row);
        rows_advance(rows, info->block_bytes);
    }
}

/* In chunks of a cache line of each row, so that rows a power of two apart, which fall into the
 * same few places of the cache, are read once. */
static void pack_floats(const struct kern_type_info *info, uint8_t *dst, struct kern__rows *rows,
                        size_t k)
{
    size_t unit = info->block_bytes, chunk = 64 / unit;
    for (size_t i = 0; i < k; i += chunk) {
        size_t n = k - i < chunk ? k - i : chunk;
        if (unit == 4)
            kern__interleave(dst, rows, 0, 4, n);
        else
            kern__interleave(dst, rows, 0, 2, n);
        dst += n * info->packed_bytes;
        rows_advance(rows, n * unit);
    }
}

void kern_pack(const struct kern_type_info *info, void *dst, const void *src, size_t n_out,
               size_t k)
{
    kern_pack_columns(info, dst, src, kern_type_bytes(info, k), n_out, k);
}

void kern_pack_columns(const struct kern_type_info *info, void *dst, const void *src,
                       size_t row_bytes, size_t n_out, size_t k)
{
    assert(info->packed_bytes);
    size_t panel_bytes = kern_panel_bytes(info, k);
    uint8_t *panel = dst;
    for (size_t first = 0; first < n_out; first += KERN_PANEL, panel += panel_bytes) {
        struct kern__rows rows;
        for (size_t r = 0; r < KERN_PANEL; r++) {
            rows.step[r] = first + r < n_out;
            rows.row[r] = rows.step[r] ? (const uint8_t *)src + (first + r) * row_bytes : zeros;
        }
        (info->block == 1          ? pack_floats
         : kern__iq_is(info->type) ? pack_iq_blocks
                                   : pack_blocks)(info, panel, &rows, k);
    }
}

void kern_pack_column(float *packed, size_t n_out, size_t k, size_t column, const float *values)
{
    for (size_t first = 0; first < n_out; first += KERN_PANEL) {
        float *to = packed + first * k + column * KERN_PANEL;
        for (size_t r = 0; r < KERN_PANEL; r++)
            to[r] = first + r < n_out ? values[first + r] : 0.0f;
    }
}

static void unpack_blocks(const struct kern_type_info *info, const uint8_t *from, size_t row,
                          size_t k, float *out)
{
    for (size_t i = 0; i < k; i += info->block, from += info->packed_bytes) {
        uint8_t block[MAX_BLOCK_BYTES];
        layouts[info->type].unpack(block, from, row);
        kern_dequantize(info, block, info->block, out + i);
    }
}

static void unpack_iq_blocks(const struct kern_type_info *info, const uint8_t *from, size_t lane,
                             size_t k, float *out)
{
    for (size_t i = 0; i < k; i += info->block, from += info->packed_bytes) {
        struct kern__iq_row row;
        kern__iq_unpack(info->type, &row, from, lane);
        kern__iq_values(info->type, &row, out + i);
    }
}

static void unpack_floats(const struct kern_type_info *info, const uint8_t *from, size_t row,
                          size_t k, float *out)
{
    for (size_t i = 0; i < k; i += 64) {
        uint8_t values[64 * 4];
        size_t n = k - i < 64 ? k - i : 64;
        kern__collect(values, from + i * info->packed_bytes, row, info->block_bytes, n);
        kern_dequantize(info, values, n, out + i);
    }
}

void kern_unpack_row(const struct kern_type_info *info, const void *packed, size_t row, size_t k,
                     float *out)
{
    assert(info->packed_bytes);
    const uint8_t *panel = (const uint8_t *)packed + row / KERN_PANEL * kern_panel_bytes(info, k);
    (info->block == 1          ? unpack_floats
     : kern__iq_is(info->type) ? unpack_iq_blocks
                               : unpack_blocks)(info, panel, row % KERN_PANEL, k, out);
}

void kern_unpack_bytes(const struct kern_type_info *info, const void *packed, size_t row, size_t k,
                       void *out)
{
    assert(info->packed_bytes);
    const uint8_t *from = (const uint8_t *)packed + row / KERN_PANEL * kern_panel_bytes(info, k);
    uint8_t *to = out;
    row %= KERN_PANEL;
    if (info->block == 1) {
        kern__collect(to, from, row, info->block_bytes, k);
        return;
    }
    for (size_t i = 0; i < k; i += info->block) {
        if (kern__iq_is(info->type))
            kern__unpack_iq(info, to, from, row);
        else
            layouts[info->type].unpack(to, from, row);
        from += info->packed_bytes;
        to += info->block_bytes;
    }
}
