/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/arm/matmul.h"

/* One panel by many rows. */
static void many_rows(const struct kern__arm_type *type, kern__arm_products_fn *products,
                      bool paired, const uint8_t *w, struct kern__arm_rows rows, size_t k)
{
    struct kern__arm_weights weights;
    size_t n_blocks = k / type->block, most = sizeof weights.w / KERN_PANEL / type->block;
    for (size_t r = 0; r < rows.n; r++)
        memset(rows.y + r * rows.ldy, 0, KERN_PANEL * sizeof *rows.y);
    while (n_blocks) {
        size_t n = n_blocks < most ? n_blocks : most;
        weights.n_blocks = n;
        type->decode(&weights, w, paired);
        products(type, &weights, rows);
        n_blocks -= n;
        w += n * type->packed_bytes;
        rows.q += n * type->block;
        rows.d += n * sizeof(float);
        rows.sums += n * type->block / 16 * sizeof(int16_t);
    }
}

void kern__arm_matmul(const struct kern__arm_type *type, kern__arm_products_fn *products,
                      bool paired, float *y, size_t ldy, const void *w, size_t n_panels,
                      const void *x, size_t x_bytes, size_t n_rows, size_t k)
{
    const uint8_t *panel = w;
    const char *d = (const char *)x + k, *sums = d + k / type->block * sizeof(float);
    for (size_t p = 0; p < n_panels; p++, panel += k / type->block * type->packed_bytes) {
        struct kern__arm_rows rows = {y + KERN_PANEL * p, ldy, x, d, sums, x_bytes, n_rows};
        if (n_rows == 1)
            type->one_row(rows.y, panel, x, k);
        else
            many_rows(type, products, paired, panel, rows, k);
    }
}
