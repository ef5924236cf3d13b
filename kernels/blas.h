/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Products of float weights (F32, F16, BF16) with many rows through OpenBLAS, for clusters that
 * need not be exact. A value's additions are in whatever order OpenBLAS chooses for a product of
 * n_rows by KERN_BLAS_PANELS panels: it may differ from the table's kernels in the last bits and
 * change with n_rows, but never with the panels that a call covers, nor with the thread.
 *
 * Any threads at once. Each needs about 1.5 MB of OpenBLAS's and 128 kB of its own stack.
 */
#ifndef KERNELS_BLAS_H
#define KERNELS_BLAS_H

#include "kernels/table.h"

/* Panels that are one product of OpenBLAS's; a matrix's last ones may be fewer. */
#define KERN_BLAS_PANELS 8u

/* The least number of rows, 2 or more, with which OpenBLAS multiplies weights of this type faster
 * than the table does; SIZE_MAX: never. The same for all who have the table and a fit OpenBLAS. */
size_t kern_blas_min_rows(const struct kern_table *table, enum kern_type type);

/* As kern_matmul_fn, for weights of a float type. The first panel's number is a multiple of
 * KERN_BLAS_PANELS, and so is n_panels unless the matrix ends there. */
void kern_blas_matmul(const struct kern_type_info *info, float *y, size_t ldy, const void *w,
                      size_t n_panels, const void *x, size_t x_bytes, size_t n_rows, size_t k);

/* The kernels that OpenBLAS has chosen for this processor: "Haswell"; "" without OpenBLAS. */
const char *kern_blas_name(void);

#endif
