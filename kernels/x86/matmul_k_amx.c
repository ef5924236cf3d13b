/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Products with AMX of the types of 256 values. A block is one sum, scaled once: the tile products
 * take most of the time. They come in steps of 64 values, four products by four sum tiles, whose
 * order hides their latency: two tiles of rows by the low and the high bytes of the weights, or
 * four tiles of rows where the weights are single bytes. Between the steps, the sums of the block
 * before are scaled.
 *
 * Minima are a product of their own: of bfloat16, since whole numbers up to 63 (minima), and sums
 * of 16 activations cut after their sixth bit, are exact in it, and what they add up to is exact in
 * a float.
 */
#include "kernels/x86/matmul_amx.h"
#include "kernels/x86/unpack_amx.h"

#define CHUNK_BLOCKS (CHUNK / 256)

/* Sum tiles. */
#define SUMS 4

/* Of a pass and a chunk: the activations' scales, 0 for rows that are not there, and the sums of 16
 * activations, each as two bfloat16, which add up to it, only where the type has minima. Of a
 * panel: the weights, and what tiles leave. */
struct state {
    _Alignas(64) uint32_t x_sums[PASS_TILES][CHUNK_BLOCKS][TILE_ROWS][16];
    float dx[PASS_TILES][CHUNK_BLOCKS][TILE_ROWS];
    struct weights w[CHUNK_BLOCKS];
    _Alignas(64) int32_t products[SUMS][TILE_ROWS][KERN_PANEL];
    _Alignas(64) float minima[SUMS][TILE_ROWS][KERN_PANEL];
};

/* Products with rows that are not there are read too. */
static void state_init(struct state *state)
{
    memset(state->products, 0, sizeof state->products);
    memset(state->minima, 0, sizeof state->minima);
}

/* One block by up to SUMS tiles of rows. */
struct unit {
    size_t tile, n_tiles, block;
};

/* 16 sums, each as the bits above its sixth, and the rest. */
KERN__INLINE __m512i split_sums(const int16_t *sums)
{
    __m512i sum = _mm512_cvtepi16_epi32(_mm256_loadu_si256((const __m256i *)sums));
    __m512i low = _mm512_and_si512(sum, _mm512_set1_epi32(63));
    __m512 high = _mm512_cvtepi32_ps(_mm512_sub_epi32(sum, low));
    __m512i low_bits = _mm512_castps_si512(_mm512_cvtepi32_ps(low));
    return _mm512_or_si512(_mm512_castps_si512(high), _mm512_srli_epi32(low_bits, 16));
}

static void prepare(void *of, const struct chunk *chunk)
{
    struct state *state = of;
    const struct pass *pass = chunk->pass;
    for (size_t t = 0; t < pass->n_tiles; t++) {
        memset(state->dx[t], 0, sizeof state->dx[t]);
        for (size_t r = 0; r < pass->tiles[t].rows; r++) {
            const float *scales =
                kern_act_scales(pass->tiles[t].x + r * pass->p.x_bytes, pass->p.k);
            for (size_t b = 0; b < chunk->n_blocks; b++)
                state->dx[t][b][r] = scales[chunk->first + b];
        }
    }
}

static void prepare_with_sums(void *of, const struct chunk *chunk)
{
    struct state *state = of;
    const struct pass *pass = chunk->pass;
    prepare(state, chunk);
    for (size_t t = 0; t < pass->n_tiles; t++)
        for (size_t r = 0; r < pass->tiles[t].rows; r++) {
            const int16_t *sums =
                kern_act_sums(KERN_ACT_Q8_256, pass->tiles[t].x + r * pass->p.x_bytes, pass->p.k);
            for (size_t b = 0; b < chunk->n_blocks; b++)
                _mm512_store_si512(state->x_sums[t][b][r],
                                   split_sums(sums + 16 * (chunk->first + b)));
        }
}

/* Adds the products of 64 values to the sum tiles; low, high: those of the weights. */
KERN__INLINE void multiply(const struct row_tile *tiles, size_t n_tiles, size_t from,
                           size_t x_bytes, const void *low, const void *high, bool wide)
{
    tile_load(6, low, 64);
    tile_load(4, tiles[0].x + from, x_bytes);
    if (wide) {
        tile_load(7, high, 64);
        tile_dot_su(0, 4, 6);
        tile_dot_ss(1, 4, 7);
    } else {
        tile_dot_ss(0, 4, 6);
    }
    if (n_tiles < 2)
        return;
    tile_load(5, tiles[1].x + from, x_bytes);
    if (wide) {
        tile_dot_su(2, 5, 6);
        tile_dot_ss(3, 5, 7);
        return;
    }
    tile_dot_ss(1, 5, 6);
    if (n_tiles > 2) {
        tile_load(4, tiles[2].x + from, x_bytes);
        tile_dot_ss(2, 4, 6);
    }
    if (n_tiles > 3) {
        tile_load(5, tiles[3].x + from, x_bytes);
        tile_dot_ss(3, 5, 6);
    }
}

KERN__INLINE void zero_tiles(void)
{
    tile_zero(0);
    tile_zero(1);
    tile_zero(2);
    tile_zero(3);
}

KERN__INLINE void store_tiles(void *to, size_t n)
{
    char *sums = to;
    tile_store(0, sums, 64);
    if (n > 1)
        tile_store(1, sums + 1024, 64);
    if (n > 2)
        tile_store(2, sums + 2048, 64);
    if (n > 3)
        tile_store(3, sums + 3072, 64);
}

/* Sums of minima times sums of activations, of every tile of the unit. */
KERN__INLINE void multiply_minima(struct state *state, const struct unit *u)
{
    zero_tiles();
    tile_load(6, state->w[u->block].mins, 64);
    tile_load(4, state->x_sums[u->tile][u->block], 64);
    tile_dot_bf16(0, 4, 6);
    if (u->n_tiles > 1) {
        tile_load(5, state->x_sums[u->tile + 1][u->block], 64);
        tile_dot_bf16(1, 5, 6);
    }
    if (u->n_tiles > 2) {
        tile_load(4, state->x_sums[u->tile + 2][u->block], 64);
        tile_dot_bf16(2, 4, 6);
    }
    if (u->n_tiles > 3) {
        tile_load(5, state->x_sums[u->tile + 3][u->block], 64);
        tile_dot_bf16(3, 5, 6);
    }
    store_tiles(state->minima, u->n_tiles);
}

/* The integer sum of row r of the unit's tile i. */
KERN__INLINE __m512i sum_of(const struct state *state, size_t i, size_t r, bool wide)
{
    if (!wide)
        return _mm512_load_si512(state->products[i][r]);
    __m512i low = _mm512_load_si512(state->products[2 * i][r]);
    __m512i high = _mm512_load_si512(state->products[2 * i + 1][r]);
    return _mm512_add_epi32(_mm512_slli_epi32(high, 8), low);
}

/* Adds a quarter of what a unit gives, once its tiles are stored. */
KERN__INLINE void scale(const struct state *state, const struct unit *u, size_t quarter,
                        panel_sums sums, bool wide, bool minima)
{
    const size_t n = wide ? TILE_ROWS / 2 : TILE_ROWS; /* rows of a quarter */
    const size_t i = wide ? quarter / 2 : quarter, first = wide ? quarter % 2 * n : 0;
    if (i >= u->n_tiles)
        return;
    const float *dx = state->dx[u->tile + i][u->block];
    const __m512 d = state->w[u->block].d, dmin = state->w[u->block].dmin;
#pragma GCC unroll 8
    for (size_t r = first; r < first + n; r++) {
        float *sum = sums[u->tile + i][r];
        __m512 acc =
            accumulate(_mm512_load_ps(sum), d, (const char *)&dx[r], sum_of(state, i, r, wide));
        if (minima)
            acc = _mm512_fnmadd_ps(_mm512_mul_ps(dmin, _mm512_set1_ps(dx[r])),
                                   _mm512_load_ps(state->minima[i][r]), acc);
        _mm512_store_ps(sum, acc);
    }
}

/* All blocks of the chunk for some tiles of rows, then for the next. */
KERN__INLINE struct unit unit_at(const struct chunk *chunk, size_t i, bool wide)
{
    size_t group = wide ? SUMS / 2 : SUMS, tile = i / chunk->n_blocks * group;
    size_t left = chunk->pass->n_tiles - tile;
    return (struct unit){tile, left < group ? left : group, i % chunk->n_blocks};
}

KERN__INLINE size_t count_units(const struct chunk *chunk, bool wide)
{
    size_t group = wide ? SUMS / 2 : SUMS;
    return (chunk->pass->n_tiles + group - 1) / group * chunk->n_blocks;
}

/* The chunk of a panel by every row. */
KERN__INLINE void add_rows(struct state *state, const struct chunk *chunk, panel_sums sums,
                           bool wide, bool minima)
{
    const struct pass *pass = chunk->pass;
    struct unit u, before;
    for (size_t i = 0, n = count_units(chunk, wide); i <= n; i++, before = u) {
        if (i < n) {
            u = unit_at(chunk, i, wide);
            zero_tiles();
        }
#pragma GCC unroll 4
        for (size_t step = 0; step < 4; step++) {
            const struct weights *w = &state->w[u.block];
            if (i < n)
                multiply(pass->tiles + u.tile, u.n_tiles,
                         256 * (chunk->first + u.block) + 64 * step, pass->p.x_bytes,
                         w->low[16 * step], w->high[16 * step], wide);
            if (i)
                scale(state, &before, step, sums, wide, minima);
        }
        if (i < n)
            store_tiles(state->products, wide ? 2 * u.n_tiles : u.n_tiles);
        if (i < n && minima)
            multiply_minima(state, &u);
    }
}

/* Of each kind of type one function. */
static void add_wide_with_minima(struct state *state, const struct chunk *chunk, panel_sums sums)
{
    add_rows(state, chunk, sums, true, true);
}

static void add_wide(struct state *state, const struct chunk *chunk, panel_sums sums)
{
    add_rows(state, chunk, sums, true, false);
}

static void add_with_minima(struct state *state, const struct chunk *chunk, panel_sums sums)
{
    add_rows(state, chunk, sums, false, true);
}

static void add_plain(struct state *state, const struct chunk *chunk, panel_sums sums)
{
    add_rows(state, chunk, sums, false, false);
}

KERN__INLINE void add(enum kern_type type, size_t bytes, struct state *state,
                      const struct chunk *chunk, const char *packed, panel_sums sums)
{
    for (size_t b = 0; b < chunk->n_blocks; b++, packed += bytes)
        unpack(type, &state->w[b], packed);
    if (is_wide(type))
        (kern__has_minima(type) ? add_wide_with_minima : add_wide)(state, chunk, sums);
    else
        (kern__has_minima(type) ? add_with_minima : add_plain)(state, chunk, sums);
}

/* With fewer rows, unpacking a panel costs more than its product in the set below. */
#define LEAST_ROWS 12

#define MATMUL(name, number, bytes, prepare)                                                       \
    static void add_##name(void *state, const struct chunk *chunk, const char *packed,             \
                           panel_sums sums)                                                        \
    {                                                                                              \
        add(number, bytes, state, chunk, packed, sums);                                            \
    }                                                                                              \
    KERN__AMX_MATMUL(name, number, LEAST_ROWS, 256, bytes, 64, prepare)

MATMUL(q2_k, KERN_Q2_K, KERN__Q2_K_BYTES, prepare_with_sums)
MATMUL(q3_k, KERN_Q3_K, KERN__Q3_K_BYTES, prepare)
MATMUL(q4_k, KERN_Q4_K, KERN__Q4_K_BYTES, prepare_with_sums)
MATMUL(q5_k, KERN_Q5_K, KERN__Q5_K_BYTES, prepare_with_sums)
MATMUL(q6_k, KERN_Q6_K, KERN__Q6_K_BYTES, prepare)
MATMUL(iq4_xs, KERN_IQ4_XS, KERN__IQ4_XS_BYTES, prepare)
MATMUL(iq1_s, KERN_IQ1_S, KERN_PANEL * 50, prepare)
MATMUL(iq1_m, KERN_IQ1_M, KERN_PANEL * 56, prepare)
MATMUL(iq2_xxs, KERN_IQ2_XXS, KERN_PANEL * 66, prepare)
MATMUL(iq2_xs, KERN_IQ2_XS, KERN_PANEL * 74, prepare)
MATMUL(iq2_s, KERN_IQ2_S, KERN_PANEL * 82, prepare)
MATMUL(iq3_xxs, KERN_IQ3_XXS, KERN_PANEL * 98, prepare)
MATMUL(iq3_s, KERN_IQ3_S, KERN_PANEL * 110, prepare)

void kern_init_matmul_k_amx(struct kern_table *t)
{
    replace(t, KERN_Q2_K, matmul_q2_k);
    replace(t, KERN_Q3_K, matmul_q3_k);
    replace(t, KERN_Q4_K, matmul_q4_k);
    replace(t, KERN_Q5_K, matmul_q5_k);
    replace(t, KERN_Q6_K, matmul_q6_k);
    replace(t, KERN_IQ4_XS, matmul_iq4_xs);
    replace(t, KERN_IQ1_S, matmul_iq1_s);
    replace(t, KERN_IQ1_M, matmul_iq1_m);
    replace(t, KERN_IQ2_XXS, matmul_iq2_xxs);
    replace(t, KERN_IQ2_XS, matmul_iq2_xs);
    replace(t, KERN_IQ2_S, matmul_iq2_s);
    replace(t, KERN_IQ3_XXS, matmul_iq3_xxs);
    replace(t, KERN_IQ3_S, matmul_iq3_s);
}
