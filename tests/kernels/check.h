/* SPDX-License-Identifier: Apache-2.0 */
/* The parts of the kernel check: inputs, the slow reference, the benchmark. */
#ifndef TESTS_KERNELS_CHECK_H
#define TESTS_KERNELS_CHECK_H

#include "kernels/table.h"

/* What the inputs are made of. EXTREME: whole blocks of one byte (-128, 127, all nibbles 15, ...),
 * activations all 127 or -127, scales the largest, zero or subnormal. */
enum check_pattern { CHECK_RANDOM, CHECK_EXTREME, CHECK_ZERO, CHECK_PATTERNS };

/* A 32-bit word of a fixed sequence that starts anew with each seed. */
uint32_t check_random(void);
void check_seed(uint32_t seed);

/* Blocks of a type as in a file. */
void check_fill_weights(const struct kern_type_info *info, uint8_t *blocks, size_t n_blocks,
                        enum check_pattern pattern);

/* One record of k values, its padding filled with rubbish. */
void check_fill_record(enum kern_act act, void *record, size_t k, enum check_pattern pattern);

/* Memory of exactly this many bytes, 64-byte aligned; ends the program where there is none. */
void *check_alloc(size_t bytes);

/* Value e of a file's row, and the product of a row and a record in the order that
 * kernels/table.h defines; from the formulas of the file format alone. */
float check_value(enum kern_type type, const uint8_t *row, size_t e);
float check_product(enum kern_type type, const uint8_t *row, const void *record, size_t k);

/* Value e of a block of an IQ type is d * factor * (2 * scale + 1) * w; the half d of IQ1_M. */
struct check_iq {
    int scale, w;
    float factor;
};
struct check_iq check_iq_value(enum kern_type type, const uint8_t *block, size_t e);
uint16_t check_iq1_m_scale(const uint8_t *block);

/* kern_init_matmul_amx and kern_init_matmul_k_amx over a model of the tile instructions. */
void check_init_matmul_amx(struct kern_table *t);
void check_init_matmul_k_amx(struct kern_table *t);

/* Prints speeds of a table's kernel for a type, in one thread. */
void check_bench(const struct kern_table *table, const struct kern_type_info *info);

/* The same for a float type and many rows, OpenBLAS beside it. */
void check_bench_blas(const struct kern_table *table, const struct kern_type_info *info);

#endif
