/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How the AMX matrix kernels walk a product. Private to this folder.
 *
 * A packed vector, 16 rows of 4 bytes, is one row of the tile that a tile product takes as its
 * second operand, and activations are rows of the first as they lie in their records. So tiles only
 * change how the exact integer sums are found; scales are applied by AVX-512 in the order of
 * kernels/table.h.
 *
 * Weights must be unpacked to whole bytes first, which costs about as much as the product with 16
 * to 32 rows. So the walk is: up to PASS_ROWS rows; GROUP_PANELS panels; CHUNK values of k, of
 * which the activations' scales are prepared; each panel, whose CHUNK values are unpacked to where
 * the nearest cache keeps them; all rows past it. Between two chunks the sums so far wait in an
 * array of their own: rows of y often lie a power of two apart, in a few places of a cache.
 *
 * The rows after the last full 16 are the end of a tile that begins with rows already counted:
 * those are computed again and not stored.
 */
#ifndef KERNELS_X86_MATMUL_AMX_H
#define KERNELS_X86_MATMUL_AMX_H

#include "kernels/x86/lanes_avx512.h"
#include "kernels/x86/tile.h"

#define TILE_ROWS    16
#define PASS_TILES   32
#define PASS_ROWS    (PASS_TILES * TILE_ROWS)
#define GROUP_PANELS 8
#define CHUNK        512

/* After full tiles, fewer rows than this are left to the set below. */
#define TAIL_ROWS 6

/* The arguments of a kern_matmul_fn. */
struct product {
    float *y;
    size_t ldy;
    const char *w;
    size_t n_panels;
    const char *x;
    size_t x_bytes, n_rows, k;
};

/* Rows of activations from x on; of all `rows`, those from `first` on are new. */
struct row_tile {
    const char *x;
    size_t first, rows;
};

/* Up to PASS_ROWS rows, of which p is the product. */
struct pass {
    struct product p;
    struct row_tile tiles[PASS_TILES];
    size_t n_tiles;
};

/* Blocks [first, first + n_blocks) of k, CHUNK values at most. */
struct chunk {
    const struct pass *pass;
    size_t first, n_blocks;
};

/* Sums of a panel. Rows that a tile lacks have some too, which are not stored. */
typedef float panel_sums[PASS_TILES][TILE_ROWS][KERN_PANEL];

/* What a type has of its own. state is its scratch: prepare fills it from the activations of a
 * chunk, add adds that chunk of the panel at `packed` to the sums. */
struct kernel {
    size_t block, packed_bytes, a_bytes; /* a_bytes: of a row of the first operand */
    void (*prepare)(void *state, const struct chunk *chunk);
    void (*add)(void *state, const struct chunk *chunk, const char *packed, panel_sums sums);
};

/* Rows of the next pass of `left`: never so many that fewer than a tile remain. */
static inline size_t pass_rows(size_t left)
{
    if (left <= PASS_ROWS)
        return left;
    return left - PASS_ROWS < TILE_ROWS ? PASS_ROWS - TILE_ROWS : PASS_ROWS;
}

static inline void pass_init(struct pass *pass, const struct product *p, size_t first, size_t n)
{
    pass->p = *p;
    pass->p.x += first * p->x_bytes;
    pass->p.y += first * p->ldy;
    pass->p.n_rows = n;
    pass->n_tiles = (n + TILE_ROWS - 1) / TILE_ROWS;
    for (size_t i = 0; i < pass->n_tiles; i++) {
        size_t row = TILE_ROWS * i, start = row + TILE_ROWS > n && i ? n - TILE_ROWS : row;
        pass->tiles[i] = (struct row_tile){.x = pass->p.x + start * p->x_bytes,
                                           .first = row - start,
                                           .rows = n < TILE_ROWS ? n : TILE_ROWS};
    }
}

/* The sums of a panel to their columns of y. */
static inline void store_panel(const struct pass *pass, size_t panel, panel_sums sums)
{
    float *y = pass->p.y + KERN_PANEL * panel;
    for (size_t t = 0; t < pass->n_tiles; t++)
        for (size_t r = pass->tiles[t].first; r < pass->tiles[t].rows; r++, y += pass->p.ldy)
            _mm512_storeu_ps(y, _mm512_load_ps(sums[t][r]));
}

/* Panels [first, end), GROUP_PANELS at most. */
static inline void run_group(const struct kernel *kernel, void *state, const struct pass *pass,
                             size_t first, size_t end)
{
    _Alignas(64) panel_sums sums[GROUP_PANELS];
    const size_t n_blocks = pass->p.k / kernel->block, step = CHUNK / kernel->block;
    const size_t panel_bytes = n_blocks * kernel->packed_bytes;
    for (size_t panel = first; panel < end; panel++)
        memset(sums[panel - first], 0, pass->n_tiles * sizeof sums[0][0]);
    struct chunk chunk = {.pass = pass};
    for (; chunk.first < n_blocks; chunk.first += step) {
        size_t left = n_blocks - chunk.first;
        chunk.n_blocks = left < step ? left : step;
        kernel->prepare(state, &chunk);
        const char *packed = pass->p.w + first * panel_bytes + chunk.first * kernel->packed_bytes;
        for (size_t panel = first; panel < end; panel++, packed += panel_bytes) {
            if (panel + 1 < end)
                kern__prefetch(packed + panel_bytes, chunk.n_blocks * kernel->packed_bytes, 0);
            kernel->add(state, &chunk, packed, sums[panel - first]);
        }
    }
    for (size_t panel = first; panel < end; panel++)
        store_panel(pass, panel, sums[panel - first]);
}

/* Tiles 0 to 3 are sums, 4 and 5 activations of a_bytes a row, 6 and 7 weights. */
static inline void configure(size_t rows, size_t a_bytes)
{
    struct tile_config config = {.palette = 1};
    for (size_t t = 0; t < 8; t++) {
        config.rows[t] = (uint8_t)(t < 6 ? rows : a_bytes / 4);
        config.row_bytes[t] = (uint16_t)(t == 4 || t == 5 ? a_bytes : 64);
    }
    tile_configure(&config);
}

/* below: the kernel that takes the rows not worth a tile. */
static inline void run(const struct product *p, const struct kernel *kernel, void *state,
                       kern_matmul_fn *below)
{
    size_t tail = p->n_rows > TILE_ROWS ? p->n_rows % TILE_ROWS : 0;
    size_t n_rows = tail < TAIL_ROWS ? p->n_rows - tail : p->n_rows;
    struct pass pass;
    configure(n_rows < TILE_ROWS ? n_rows : TILE_ROWS, kernel->a_bytes);
    for (size_t done = 0; done < n_rows; done += pass.p.n_rows) {
        pass_init(&pass, p, done, pass_rows(n_rows - done));
        for (size_t panel = 0; panel < p->n_panels; panel += GROUP_PANELS) {
            size_t end = panel + GROUP_PANELS;
            run_group(kernel, state, &pass, panel, end < p->n_panels ? end : p->n_panels);
        }
    }
    tile_release();
    if (n_rows < p->n_rows)
        below(p->y + n_rows * p->ldy, p->ldy, p->w, p->n_panels, p->x + n_rows * p->x_bytes,
              p->x_bytes, tail, p->k);
}

/* What a type's kernel was before this set replaced it. */
static kern_matmul_fn *below[KERN_TYPE_SLOTS];

static inline void replace(struct kern_table *t, enum kern_type type, kern_matmul_fn *matmul)
{
    below[type] = t->matmul[type];
    t->matmul[type] = matmul;
    t->least_rows[type] = KERN_ALL_ROWS;
}

/* Defines matmul_NAME of a type: prepare, add_NAME and a struct state over `least` rows or more. */
#define KERN__AMX_MATMUL(name, type, least, block, packed_bytes, a_bytes, prepare)                 \
    static void matmul_##name(float *y, size_t ldy, const void *w, size_t n_panels, const void *x, \
                              size_t x_bytes, size_t n_rows, size_t k)                             \
    {                                                                                              \
        static const struct kernel kernel = {block, packed_bytes, a_bytes, prepare, add_##name};   \
        const struct product p = {y, ldy, w, n_panels, x, x_bytes, n_rows, k};                     \
        struct state state;                                                                        \
        if (n_rows < (least)) {                                                                    \
            below[type](y, ldy, w, n_panels, x, x_bytes, n_rows, k);                               \
            return;                                                                                \
        }                                                                                          \
        state_init(&state);                                                                        \
        run(&p, &kernel, &state, below[type]);                                                     \
    }

#endif
