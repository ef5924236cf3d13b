/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Tensor types: their numbers in a GGUF file, the size of their blocks, how a block becomes
 * floats, and the packed layout that the matrix kernels read. Constant data, any thread.
 *
 * A matrix W of n_out rows of k values is packed into panels of KERN_PANEL rows. A panel is k/block
 * packed blocks in order; a packed block holds one block of each of the panel's 16 rows,
 * interleaved so that a vector register reads 16 rows at once (the exact layout of each type is
 * described in kernels/pack.c). The last panel is filled up with zero rows. Every instruction set
 * reads the same layout, and panels are independent, so a matrix can be packed, stored and cut in
 * steps of 16 rows.
 */
#ifndef KERNELS_TYPE_H
#define KERNELS_TYPE_H

#include <stddef.h>
#include <stdint.h>

#define KERN_PANEL 16u

/* Of the packed layouts; whoever changes one changes the number, so that no weights packed before
 * are taken for weights packed now. */
#define KERN_PACK_VERSION 1u

/* Numbers as stored in a file. */
enum kern_type {
    KERN_F32 = 0,
    KERN_F16 = 1,
    KERN_Q4_0 = 2,
    KERN_Q4_1 = 3,
    KERN_Q5_0 = 6,
    KERN_Q5_1 = 7,
    KERN_Q8_0 = 8,
    KERN_Q2_K = 10,
    KERN_Q3_K = 11,
    KERN_Q4_K = 12,
    KERN_Q5_K = 13,
    KERN_Q6_K = 14,
    KERN_IQ2_XXS = 16,
    KERN_IQ2_XS = 17,
    KERN_IQ3_XXS = 18,
    KERN_IQ1_S = 19,
    KERN_IQ4_NL = 20,
    KERN_IQ3_S = 21,
    KERN_IQ2_S = 22,
    KERN_IQ4_XS = 23,
    KERN_IQ1_M = 29,
    KERN_BF16 = 30,
    KERN_MXFP4 = 39
};

/* What a product with a weight type reads as its other operand. */
enum kern_act {
    KERN_ACT_F32,   /* k floats a row */
    KERN_ACT_Q8_32, /* int8 with one float scale each 32 values */
    KERN_ACT_Q8_256 /* int8 with one float scale each 256 values */
};

struct kern_type_info {
    enum kern_type type;
    const char *name;       /* "Q4_K" */
    uint32_t block;         /* values a block */
    uint32_t block_bytes;   /* bytes a block in a file */
    uint32_t packed_bytes;  /* bytes of a packed block (16 rows); 0: no kernels for this type */
    enum kern_act act;      /* operand of a product; meaningless where packed_bytes is 0 */
};

/* The type of a file's number, or NULL. Types without kernels are known too: their sizes are. */
const struct kern_type_info *kern_type_find(uint32_t number);

/* The type of a name, case ignored, or NULL. */
const struct kern_type_info *kern_type_by_name(const char *name);

/* All known types in order of number; *count gets how many. */
const struct kern_type_info *kern_type_all(size_t *count);

/* Bytes of n values in a file; n is a multiple of the block. */
size_t kern_type_bytes(const struct kern_type_info *info, size_t n);

/* Bytes of a packed matrix of n_out rows of k values (k a multiple of the block). */
size_t kern_packed_bytes(const struct kern_type_info *info, size_t n_out, size_t k);

/* Bytes of one panel of rows of k values. */
size_t kern_panel_bytes(const struct kern_type_info *info, size_t k);

/* Packs rows [0, n_out) of a file's matrix into panels at dst (64-byte aligned,
 * kern_packed_bytes). src may be unaligned. The type has kernels. */
void kern_pack(const struct kern_type_info *info, void *dst, const void *src, size_t n_out,
               size_t k);

/* The same where row r starts at src + r * row_bytes: k of a longer row's values, whole blocks. */
void kern_pack_columns(const struct kern_type_info *info, void *dst, const void *src,
                       size_t row_bytes, size_t n_out, size_t k);

/* Writes column `column` of a packed F32 matrix of n_out rows of k: n_out values, one a row. Rows
 * that fill up the last panel become 0. */
void kern_pack_column(float *packed, size_t n_out, size_t k, size_t column, const float *values);

/* Row `row` of a packed matrix as k floats. */
void kern_unpack_row(const struct kern_type_info *info, const void *packed, size_t row, size_t k,
                     float *out);

/* n values of a file's tensor as floats (n a multiple of the block); src may be unaligned. */
void kern_dequantize(const struct kern_type_info *info, const void *src, size_t n, float *out);

/* IEEE half and bfloat16, round to nearest even. */
float kern_f16_to_f32(uint16_t bits);
uint16_t kern_f32_to_f16(float value);
float kern_bf16_to_f32(uint16_t bits);
uint16_t kern_f32_to_bf16(float value);

#endif
