/* SPDX-License-Identifier: Apache-2.0 */
/* How matrix products are cut so that their pieces stay in the cache and the threads end together.
 */
#ifndef WORKER_CUT_H
#define WORKER_CUT_H

#include "kernels/table.h"

/* Panels of a thread's next piece of a product of n_rows rows by n_panels panels; at least 1. */
size_t worker_cut_panels(const struct kern_table *table, enum kern_type type, size_t panel_bytes,
                         size_t n_panels, size_t n_rows, size_t threads);

/* Rows of x_bytes that pass over a piece at a time; at least 1. */
size_t worker_cut_rows(const struct kern_table *table, enum kern_type type, size_t x_bytes,
                       size_t n_rows);

#endif
