/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/cut.h"

/* Weight bytes that a piece of a product of one row streams, and that a piece of a product of many
 * rows keeps in the cache; the operand bytes of the rows that pass over it at a time. */
#define STREAM_BYTES  65536u
#define CACHED_BYTES  262144u
#define OPERAND_BYTES 524288u

size_t worker_cut_panels(const struct kern_table *table, enum kern_type type, size_t panel_bytes,
                         size_t n_panels, size_t n_rows, size_t threads)
{
    size_t most = (n_rows == 1 ? STREAM_BYTES : CACHED_BYTES) / panel_bytes;
    if (n_rows == 1)
        return most ? most : 1;
    if (table->least_rows[type] == KERN_ALL_ROWS)
        most = n_panels;
    /* Enough pieces that no thread waits long for the last. */
    size_t fair = n_panels / (8 * threads);
    most = fair < most ? fair : most;
    /* Kernels take two panels at a time; one alone costs as much as two. */
    if (most < 2)
        return n_panels < 4 * threads ? 1 : 2;
    return most - most % 2;
}

size_t worker_cut_rows(const struct kern_table *table, enum kern_type type, size_t x_bytes,
                       size_t n_rows)
{
    size_t most = OPERAND_BYTES / x_bytes, least = table->least_rows[type];
    most = most < least ? least : most;
    most = most < 4 ? 4 : most;
    if (n_rows <= most)
        return n_rows;
    /* Alike, so that none is too small for the kernels of many rows; by fours, as they take them.
     */
    size_t times = (n_rows + most - 1) / most;
    return ((n_rows + times - 1) / times + 3) / 4 * 4;
}
