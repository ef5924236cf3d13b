/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Products with AMX of the types of 32 values. A tile product over one block gives the sums of 16
 * rows by 16 outputs, each of which is scaled and added on its own: that, not the product, is what
 * takes the time. So a tile's 16 accumulators stay in registers over a whole chunk, and products
 * run four blocks ahead of the scaling, which hides their latency.
 */
#include "kernels/x86/matmul_amx.h"

#define CHUNK_BLOCKS (CHUNK / 32)

/* Blocks that are multiplied at once. */
#define GROUP 4

struct weights {
    _Alignas(64) int8_t q[CHUNK_BLOCKS][8][64]; /* of each 4 values a vector */
    __m512 d[CHUNK_BLOCKS], m[CHUNK_BLOCKS];
};

/* Of a pass and a chunk: the activations' scales, 0 for rows that are not there, and their sums,
 * only where the type has minima. Of a panel: the weights, and what tiles leave. */
struct state {
    _Alignas(64) float dx[PASS_TILES][CHUNK_BLOCKS][TILE_ROWS];
    _Alignas(64) float x_sum[PASS_TILES][CHUNK_BLOCKS][TILE_ROWS];
    struct weights w;
    _Alignas(64) int32_t products[GROUP][TILE_ROWS][KERN_PANEL];
};

/* Products with rows that are not there are read too. */
static void state_init(struct state *state)
{
    memset(state->products, 0, sizeof state->products);
}

/* What differs between the types: where the parts of a packed block lie (qh 0: none). */
struct layout {
    enum kern_type type;
    size_t bytes, qs, qh;
    bool minima;
};

/* The lanes at `from` in each row of a tile. */
static inline __m512i gather(const struct row_tile *tile, size_t x_bytes, size_t from)
{
    const __m512i rows = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    __m512i at = _mm512_mullo_epi32(rows, _mm512_set1_epi32((int)x_bytes));
    __mmask16 there = (__mmask16)((1u << tile->rows) - 1);
    return _mm512_mask_i32gather_epi32(_mm512_setzero_si512(), there, at, tile->x + from, 1);
}

static void prepare(void *of, const struct chunk *chunk)
{
    struct state *state = of;
    const struct pass *pass = chunk->pass;
    const size_t scales = pass->p.k + 4 * chunk->first;
    for (size_t t = 0; t < pass->n_tiles; t++)
        for (size_t b = 0; b < chunk->n_blocks; b++)
            _mm512_store_si512(state->dx[t][b],
                               gather(&pass->tiles[t], pass->p.x_bytes, scales + 4 * b));
}

static void prepare_with_sums(void *of, const struct chunk *chunk)
{
    struct state *state = of;
    const struct pass *pass = chunk->pass;
    const size_t sums = pass->p.k + pass->p.k / 32 * 4 + 4 * chunk->first;
    prepare(state, chunk);
    for (size_t t = 0; t < pass->n_tiles; t++)
        for (size_t b = 0; b < chunk->n_blocks; b++) {
            __m512i pairs = gather(&pass->tiles[t], pass->p.x_bytes, sums + 4 * b);
            __m512i sum = _mm512_madd_epi16(pairs, _mm512_set1_epi16(1));
            _mm512_store_ps(state->x_sum[t][b], _mm512_cvtepi32_ps(sum));
        }
}

/* Vector v of a block's weights, signed. */
KERN__INLINE __m512i values(const struct layout *at, const char *w, size_t v)
{
    if (at->type == KERN_Q8_0)
        return load(w + at->qs + 64 * v);
    __m512i byte = load(w + at->qs + 64 * (v % 4));
    __m512i q = v < 4 ? low_nibbles(byte) : high_nibbles(byte);
    if (at->qh)
        q = byte_if_bit(q, load(w + at->qh), (int)v, 16);
    if (at->type == KERN_Q4_0 || at->type == KERN_Q5_0)
        return _mm512_sub_epi8(q, _mm512_set1_epi8(at->type == KERN_Q4_0 ? 8 : 16));
    if (at->type == KERN_IQ4_NL)
        return _mm512_shuffle_epi8(load_codebook(kern__iq4_values), q);
    if (at->type == KERN_MXFP4)
        return _mm512_shuffle_epi8(load_codebook(kern__mxfp4_values), q);
    return q;
}

/* Tile i becomes the products over a block. */
KERN__INLINE void multiply(int i, const char *x, size_t x_bytes, const int8_t w[8][64])
{
    switch (i) {
    case 0:
        tile_zero(0);
        tile_load(4, x, x_bytes);
        tile_load(6, w, 64);
        tile_dot_ss(0, 4, 6);
        break;
    case 1:
        tile_zero(1);
        tile_load(5, x, x_bytes);
        tile_load(7, w, 64);
        tile_dot_ss(1, 5, 7);
        break;
    case 2:
        tile_zero(2);
        tile_load(4, x, x_bytes);
        tile_load(6, w, 64);
        tile_dot_ss(2, 4, 6);
        break;
    default:
        tile_zero(3);
        tile_load(5, x, x_bytes);
        tile_load(7, w, 64);
        tile_dot_ss(3, 5, 7);
        break;
    }
}

KERN__INLINE void store_products(int32_t to[GROUP][TILE_ROWS][KERN_PANEL], size_t n)
{
    tile_store(0, to[0], 64);
    if (n > 1)
        tile_store(1, to[1], 64);
    if (n > 2)
        tile_store(2, to[2], 64);
    if (n > 3)
        tile_store(3, to[3], 64);
}

/* Adds product i, of block b of the chunk, to the sums of tile t of the rows. */
KERN__INLINE void scale(__m512 acc[TILE_ROWS], const struct state *state, size_t i, size_t t,
                        size_t b, bool minima)
{
    const float *dx = state->dx[t][b], *x_sum = state->x_sum[t][b];
    const __m512 d = state->w.d[b], m = state->w.m[b];
#pragma GCC unroll 16
    for (size_t r = 0; r < TILE_ROWS; r++) {
        __m512i s = _mm512_load_si512(state->products[i][r]);
        acc[r] = accumulate(acc[r], d, (const char *)&dx[r], s);
        if (minima)
            acc[r] = _mm512_fmadd_ps(_mm512_mul_ps(m, _mm512_set1_ps(dx[r])),
                                     _mm512_set1_ps(x_sum[r]), acc[r]);
    }
}

/* The chunk of a panel by tile t of the rows; x: the first row's activations of the chunk. */
KERN__INLINE void add_tile(__m512 acc[TILE_ROWS], struct state *state, const char *x,
                           size_t x_bytes, size_t t, size_t n_blocks, bool minima)
{
    size_t ready = 0;
    for (size_t first = 0; first < n_blocks + GROUP; first += GROUP) {
        size_t left = first < n_blocks ? n_blocks - first : 0, n = left < GROUP ? left : GROUP;
#pragma GCC unroll 4
        for (size_t i = 0; i < GROUP; i++) {
            if (i < n)
                multiply((int)i, x + 32 * (first + i), x_bytes, state->w.q[first + i]);
            if (i < ready)
                scale(acc, state, i, t, first - GROUP + i, minima);
        }
        if (n)
            store_products(state->products, n);
        ready = n;
    }
}

/* The chunk of a panel by every row. */
KERN__INLINE void add_rows(struct state *state, const struct chunk *chunk, panel_sums sums,
                           bool minima)
{
    const struct pass *pass = chunk->pass;
    for (size_t t = 0; t < pass->n_tiles; t++) {
        __m512 acc[TILE_ROWS];
#pragma GCC unroll 16
        for (size_t r = 0; r < TILE_ROWS; r++)
            acc[r] = _mm512_load_ps(sums[t][r]);
        add_tile(acc, state, pass->tiles[t].x + 32 * chunk->first, pass->p.x_bytes, t,
                 chunk->n_blocks, minima);
#pragma GCC unroll 16
        for (size_t r = 0; r < TILE_ROWS; r++)
            _mm512_store_ps(sums[t][r], acc[r]);
    }
}

static void add_plain(struct state *state, const struct chunk *chunk, panel_sums sums)
{
    add_rows(state, chunk, sums, false);
}

static void add_with_minima(struct state *state, const struct chunk *chunk, panel_sums sums)
{
    add_rows(state, chunk, sums, true);
}

KERN__INLINE void unpack(const struct layout *at, struct weights *to, const char *w,
                         size_t n_blocks)
{
    for (size_t b = 0; b < n_blocks; b++, w += at->bytes) {
        to->d[b] = at->type == KERN_MXFP4 ? load_exponents(w) : load_halves(w);
        if (at->minima)
            to->m[b] = load_halves(w + KERN__Q4_1_M); /* Q5_1's too */
#pragma GCC unroll 8
        for (size_t v = 0; v < 8; v++)
            _mm512_store_si512(to->q[b][v], values(at, w, v));
    }
}

/* With fewer rows, a panel costs more than in the set below. */
#define LEAST_ROWS 8

#define MATMUL(name, NAME, qh, minima)                                                             \
    static void add_##name(void *of, const struct chunk *chunk, const char *packed,                \
                           panel_sums sums)                                                        \
    {                                                                                              \
        const struct layout at = {KERN_##NAME, KERN__##NAME##_BYTES, KERN__##NAME##_QS, qh,        \
                                  minima};                                                         \
        struct state *state = of;                                                                  \
        unpack(&at, &state->w, packed, chunk->n_blocks);                                           \
        (minima ? add_with_minima : add_plain)(state, chunk, sums);                                \
    }                                                                                              \
    KERN__AMX_MATMUL(name, KERN_##NAME, LEAST_ROWS, 32, KERN__##NAME##_BYTES, 32,                  \
                     minima ? prepare_with_sums : prepare)

MATMUL(q8_0, Q8_0, 0, false)
MATMUL(q4_0, Q4_0, 0, false)
MATMUL(q4_1, Q4_1, 0, true)
MATMUL(q5_0, Q5_0, KERN__Q5_0_QH, false)
MATMUL(q5_1, Q5_1, KERN__Q5_1_QH, true)
MATMUL(iq4_nl, IQ4_NL, 0, false)
MATMUL(mxfp4, MXFP4, 0, false)

void kern_init_matmul_amx(struct kern_table *t)
{
    replace(t, KERN_Q8_0, matmul_q8_0);
    replace(t, KERN_Q4_0, matmul_q4_0);
    replace(t, KERN_Q4_1, matmul_q4_1);
    replace(t, KERN_Q5_0, matmul_q5_0);
    replace(t, KERN_Q5_1, matmul_q5_1);
    replace(t, KERN_IQ4_NL, matmul_iq4_nl);
    replace(t, KERN_MXFP4, matmul_mxfp4);
}
