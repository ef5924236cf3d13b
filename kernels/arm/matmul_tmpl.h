/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Products of many rows, written once over tiles of sums and compiled once for each instruction
 * set. A tile is up to GROUPS groups of rows of activations by half of a panel's rows, in COLUMNS
 * registers a group; the sums of a sub-block, those of the block and the activations fill the
 * registers. The including file first defines
 *
 *   GROUPS, GROUP_ROWS, COLUMNS       and PAIRED, whether it wants weights in pairs
 *   add_products(t, w, x, x_bytes, n) t += 16 values of the tile's weights, the first at w, by 16
 *                                     activations a row, those of row 0 at x; n groups
 *   of_rows(from, x_bytes)            a word of each of a group's rows in the lanes of its row
 *   gather(to, from)                  sums of a group out of those of each of its rows, by the 8
 *   scatter(to, from)                 weights in order, and back
 *
 * where t is COLUMNS registers a group, and n is a constant everywhere.
 */
#include "kernels/pack.h"

#define TILE_ROWS  (GROUPS * GROUP_ROWS)
#define TILE_WIDTH (KERN_PANEL / 2)

/* The 16 values of vectors v.., and a list of words, of the panel's rows from `first` on. */
KERN__INLINE const int8_t *values_at(const struct kern__arm_weights *w, size_t v, size_t first)
{
    return w->w[v] + (PAIRED ? 8 : 4) * first;
}

KERN__INLINE int32x4_t words_at(const void *list, size_t first, size_t c)
{
    size_t word = (PAIRED ? 2 : 1) * first + 4 * c;
    return vreinterpretq_s32_u8(vld1q_u8((const uint8_t *)list + 4 * word));
}

KERN__INLINE void clear(int32x4_t (*t)[COLUMNS], int n)
{
    for (int g = 0; g < n; g++)
        for (size_t c = 0; c < COLUMNS; c++)
            t[g][c] = vdupq_n_s32(0);
}

/* acc += (factor * dx) * s; dx: the scale of row 0. */
KERN__INLINE void add_scaled(float32x4_t (*acc)[COLUMNS], const float *factor, size_t first,
                             const char *dx, size_t x_bytes, int32x4_t (*s)[COLUMNS], int n)
{
    float32x4_t d[GROUPS];
    for (int g = 0; g < n; g++)
        d[g] = vreinterpretq_f32_s32(of_rows(dx + g * GROUP_ROWS * x_bytes, x_bytes));
    for (size_t c = 0; c < COLUMNS; c++) {
        float32x4_t f = vreinterpretq_f32_s32(words_at(factor, first, c));
        for (int g = 0; g < n; g++)
            acc[g][c] = vfmaq_f32(acc[g][c], vmulq_f32(f, d[g]), vcvtq_f32_s32(s[g][c]));
    }
}

KERN__INLINE void load_sums(float32x4_t (*acc)[COLUMNS], const struct kern__arm_rows *rows, int n)
{
#pragma GCC unroll 4
    for (int g = 0; g < n; g++) {
        int32x4_t y[GROUP_ROWS][2], s[COLUMNS];
        for (size_t r = 0; r < GROUP_ROWS; r++)
            for (size_t h = 0; h < 2; h++)
                y[r][h] = vreinterpretq_s32_f32(
                    vld1q_f32(rows->y + (g * GROUP_ROWS + r) * rows->ldy + 4 * h));
        gather(s, y);
        for (size_t c = 0; c < COLUMNS; c++)
            acc[g][c] = vreinterpretq_f32_s32(s[c]);
    }
}

KERN__INLINE void store_sums(const struct kern__arm_rows *rows, float32x4_t (*acc)[COLUMNS], int n)
{
#pragma GCC unroll 4
    for (int g = 0; g < n; g++) {
        int32x4_t y[GROUP_ROWS][2], s[COLUMNS];
        for (size_t c = 0; c < COLUMNS; c++)
            s[c] = vreinterpretq_s32_f32(acc[g][c]);
        scatter(y, s);
        for (size_t r = 0; r < GROUP_ROWS; r++)
            for (size_t h = 0; h < 2; h++)
                vst1q_f32(rows->y + (g * GROUP_ROWS + r) * rows->ldy + 4 * h,
                          vreinterpretq_f32_s32(y[r][h]));
    }
}

/* s = the sum of a block's 32 activations; sums: its two halves of row 0. */
KERN__INLINE void spread_sums(int32x4_t (*s)[COLUMNS], const char *sums, size_t x_bytes, int n)
{
    for (int g = 0; g < n; g++) {
        int32x4_t two = of_rows(sums + g * GROUP_ROWS * x_bytes, x_bytes);
        for (size_t c = 0; c < COLUMNS; c++)
            s[g][c] = vpaddlq_s16(vreinterpretq_s16_s32(two));
    }
}

/* Blocks of 32 by the panel's rows from `first` on. */
KERN__INLINE void tile_32(const struct kern__arm_weights *w, size_t first,
                          const struct kern__arm_rows *rows, int n, bool has_min)
{
    float32x4_t acc[GROUPS][COLUMNS];
    load_sums(acc, rows, n);
    for (size_t b = 0; b < w->n_blocks; b++) {
        const char *dx = rows->d + 4 * b;
        int32x4_t s[GROUPS][COLUMNS];
        clear(s, n);
        for (size_t i = 0; i < 2; i++)
            add_products(s, values_at(w, 8 * b + 4 * i, first), rows->q + 32 * b + 16 * i,
                         rows->x_bytes, n);
        add_scaled(acc, w->d[b], first, dx, rows->x_bytes, s, n);
        if (has_min) {
            spread_sums(s, rows->sums + 4 * b, rows->x_bytes, n);
            add_scaled(acc, w->m[b], first, dx, rows->x_bytes, s, n);
        }
    }
    store_sums(rows, acc, n);
}

/* s = sum S * (q . x) over a block. */
KERN__INLINE void block_products(int32x4_t (*s)[COLUMNS], const struct kern__arm_weights *w,
                                 size_t first, const struct kern__arm_rows *rows, int n, size_t sub)
{
    clear(s, n);
    for (size_t i = 0; i < 256 / sub; i++) {
        int32x4_t t[GROUPS][COLUMNS];
        clear(t, n);
#pragma GCC unroll 2
        for (size_t half = 0; half < sub / 16; half++) {
            size_t v = i * sub / 4 + 4 * half;
            add_products(t, values_at(w, v, first), rows->q + 4 * v, rows->x_bytes, n);
        }
        for (size_t c = 0; c < COLUMNS; c++) {
            int32x4_t scale = words_at(w->scale[i], first, c);
            for (int g = 0; g < n; g++)
                s[g][c] = vmlaq_s32(s[g][c], t[g][c], scale);
        }
    }
}

/* s += the sum of M * sum over 8 minima of 8 rows. */
KERN__INLINE void add_minima(int32x4_t s[2], const int16_t (*min)[KERN_PANEL], int16x8_t sums)
{
#define ADD_MINIMUM(i)                                                                             \
    s[0] = vmlal_laneq_s16(s[0], vld1_s16(min[i]), sums, i);                                       \
    s[1] = vmlal_laneq_s16(s[1], vld1_s16(min[i] + 4), sums, i);
    ADD_MINIMUM(0)
    ADD_MINIMUM(1)
    ADD_MINIMUM(2)
    ADD_MINIMUM(3)
    ADD_MINIMUM(4)
    ADD_MINIMUM(5)
    ADD_MINIMUM(6)
    ADD_MINIMUM(7)
}

/* s = sum M * (sum of x) over a block. */
KERN__INLINE void block_minima(int32x4_t (*s)[COLUMNS], const struct kern__arm_weights *w,
                               size_t first, const struct kern__arm_rows *rows, int n, size_t sub)
{
    const int16_t(*min)[KERN_PANEL] = (const int16_t(*)[KERN_PANEL])(w->min[0] + first);
    int32x4_t m[TILE_ROWS][2];
    for (int r = 0; r < n * GROUP_ROWS; r++) {
        const uint8_t *sums = (const uint8_t *)rows->sums + r * rows->x_bytes;
        int16x8_t low = vreinterpretq_s16_u8(vld1q_u8(sums));
        int16x8_t high = vreinterpretq_s16_u8(vld1q_u8(sums + 16));
        m[r][0] = m[r][1] = vdupq_n_s32(0);
        add_minima(m[r], min, sub == 32 ? vpaddq_s16(low, high) : low);
        if (sub == 16)
            add_minima(m[r], min + 8, high);
    }
    for (int g = 0; g < n; g++)
        gather(s[g], m + g * GROUP_ROWS);
}

/* A block of 256, in sub-blocks of `sub`, by the panel's rows from `first` on. */
KERN__INLINE void tile_256(const struct kern__arm_weights *w, size_t first,
                           const struct kern__arm_rows *rows, int n, size_t sub, bool has_min)
{
    float32x4_t acc[GROUPS][COLUMNS];
    int32x4_t s[GROUPS][COLUMNS];
    block_products(s, w, first, rows, n, sub);
    load_sums(acc, rows, n);
    add_scaled(acc, w->d[0], first, rows->d, rows->x_bytes, s, n);
    if (has_min) {
        block_minima(s, w, first, rows, n, sub);
        add_scaled(acc, w->m[0], first, rows->d, rows->x_bytes, s, n);
    }
    store_sums(rows, acc, n);
}

/* A tile of n groups; what depends on the type becomes constant. */
KERN__INLINE void tile(const struct kern__arm_type *type, const struct kern__arm_weights *w,
                       size_t first, const struct kern__arm_rows *rows, int n)
{
    if (type->block == 32 && w->has_min)
        tile_32(w, first, rows, n, true);
    else if (type->block == 32)
        tile_32(w, first, rows, n, false);
    else if (w->sub == 32 && w->has_min)
        tile_256(w, first, rows, n, 32, true);
    else if (w->sub == 32)
        tile_256(w, first, rows, n, 32, false);
    else if (w->has_min)
        tile_256(w, first, rows, n, 16, true);
    else
        tile_256(w, first, rows, n, 16, false);
}

static void products(const struct kern__arm_type *type, const struct kern__arm_weights *w,
                     struct kern__arm_rows rows)
{
    while (rows.n) {
        bool whole = rows.n >= GROUPS * GROUP_ROWS;
        size_t n = whole ? GROUPS * GROUP_ROWS : rows.n < GROUP_ROWS ? rows.n : GROUP_ROWS;
        struct kern__arm_rows some = rows;
        if (n < GROUP_ROWS) /* the last row is all of its group's, which write the same twice */
            some.ldy = some.x_bytes = 0;
        for (size_t first = 0; first < KERN_PANEL; first += TILE_WIDTH, some.y += TILE_WIDTH)
            if (whole)
                tile(type, w, first, &some, GROUPS);
            else
                tile(type, w, first, &some, 1);
        kern__arm_skip_rows(&rows, n);
    }
}

#define DEFINE(type, name)                                                                         \
    static void matmul_##name(float *y, size_t ldy, const void *w, size_t n_panels, const void *x, \
                              size_t x_bytes, size_t n_rows, size_t k)                             \
    {                                                                                              \
        kern__arm_matmul(&kern__arm_##name, products, PAIRED, y, ldy, w, n_panels, x, x_bytes,     \
                         n_rows, k);                                                               \
    }
KERN__ARM_TYPES(DEFINE)

static void fill_matmul(struct kern_table *t)
{
#define FILL(type, name) t->matmul[KERN_##type] = matmul_##name;
    KERN__ARM_TYPES(FILL)
}
