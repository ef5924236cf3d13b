/* SPDX-License-Identifier: Apache-2.0 */
/* Turning 16 vectors for kernels/rows_tmpl.h, through memory: for the sets that have no better way.
 * Included after `struct vec` and vec_store. */
static inline void vec_transpose4(struct vec quads[4], const struct vec v[4])
{
    for (size_t j = 0; j < 4; j++)
        quads[j] = v[j];
}

static inline void vec_store_quads(float *to, const struct vec quads[16])
{
    float row[16];
    for (size_t j = 0; j < 16; j++) {
        vec_store(row, quads[j]);
        for (size_t i = 0; i < 16; i++)
            to[16 * i + j] = row[i];
    }
}
