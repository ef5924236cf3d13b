/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Scores of many query heads with the same keys, part of kernels/attention_tmpl.h.
 *
 * 16 keys are turned into a tile with a key in each lane, which stays in the first cache while all
 * query heads of all rows are multiplied with it. So keys are read from memory once for all rows,
 * and the tree over the 16 partial sums of a score is 15 additions for 16 scores.
 */

/* Values i to i + 15 of keys from..from + n - 1 of a run into their places in a tile, as many of
 * them as there are, `width`; the rest is 0. */
SPECIALISED void fill_block(float *block, struct run run, size_t from, size_t n, size_t i,
                            size_t width, enum kern_kv kv)
{
    struct vec quads[LANES];
#pragma GCC unroll 4
    for (size_t j = 0; j < LANES; j += 4) {
        struct vec keys[4];
#pragma GCC unroll 4
        for (size_t k = 0; k < 4; k++) {
            const char *row = run.rows + (from + j + k) * run.row_bytes;
            if (j + k >= n)
                keys[k] = vec_set1(0.0f);
            else
                keys[k] = width == LANES ? load_kv(row, i, kv) : load_kv_n(row, i, width, kv);
        }
        vec_transpose4(quads + j, keys);
    }
    vec_store_quads(block, quads);
}

/* tile[i * LANES + j] = value i of key from + j of the run, j < n; 0 where there is none. */
SPECIALISED void fill_tile(float *tile, struct run run, size_t from, size_t n, size_t dim,
                           enum kern_kv kv)
{
    size_t i = 0;
    for (; n == LANES && i + LANES <= dim; i += LANES)
        fill_block(tile + i * LANES, run, from, LANES, i, LANES, kv);
    for (; i < dim; i += LANES)
        fill_block(tile + i * LANES, run, from, n, i, dim - i < LANES ? dim - i : LANES, kv);
}

/* Of `n` query heads: the sums of lanes l, l + 8, l + 4 and l + 12, added as kern_tree16 does. */
SPECIALISED void tile_quarter(struct vec *sums, const float *const *q, const float *tile,
                              size_t dim, size_t l, size_t n)
{
    const size_t lanes[4] = {l, l + 8, l + 4, l + 12};
    size_t whole = dim - dim % LANES;
    struct vec acc[4][TILE_HEADS];
    for (size_t s = 0; s < 4; s++)
        for (size_t x = 0; x < n; x++)
            acc[s][x] = vec_set1(0.0f);
    for (size_t i = 0; i < whole; i += LANES)
        for (size_t s = 0; s < 4; s++) {
            struct vec keys = vec_load(tile + (i + lanes[s]) * LANES);
            for (size_t x = 0; x < n; x++)
                acc[s][x] = vec_fma(vec_set1(q[x][i + lanes[s]]), keys, acc[s][x]);
        }
    for (size_t s = 0; s < 4; s++)
        for (size_t x = 0; x < n && whole + lanes[s] < dim; x++)
            acc[s][x] = vec_fma(vec_set1(q[x][whole + lanes[s]]),
                                vec_load(tile + (whole + lanes[s]) * LANES), acc[s][x]);
    for (size_t x = 0; x < n; x++)
        sums[x] = vec_add(vec_add(acc[0][x], acc[1][x]), vec_add(acc[2][x], acc[3][x]));
}

/* Scores of `n` query heads with `keys` keys, `stride` floats from a head's to the next one's. */
SPECIALISED void tile_scores(float *scores, size_t stride, const float *const *q, const float *tile,
                             size_t dim, float factor, size_t keys, size_t n)
{
    struct vec c0[TILE_HEADS], c1[TILE_HEADS], c2[TILE_HEADS], c3[TILE_HEADS];
    tile_quarter(c0, q, tile, dim, 0, n);
    tile_quarter(c2, q, tile, dim, 2, n);
    tile_quarter(c1, q, tile, dim, 1, n);
    tile_quarter(c3, q, tile, dim, 3, n);
    for (size_t x = 0; x < n; x++) {
        struct vec sum = vec_add(vec_add(c0[x], c2[x]), vec_add(c1[x], c3[x]));
        sum = vec_mul(sum, vec_set1(factor));
        if (keys == LANES)
            vec_store(scores + x * stride, sum);
        else
            vec_store_n(scores + x * stride, sum, keys);
    }
}

/* Scores of all rows' heads; a row may get some with keys that it does not see, which nobody
 * reads. */
SPECIALISED void score_rows(const struct kern_attention *a, float *scores, size_t stride,
                            const float *q, size_t n_q, enum kern_kv kv)
{
    size_t first = a->spans[0].first, last = last_of(a), n = a->n_rows * n_q, dim = a->dim_k;
    const float *heads[KERN_ATTENTION_ROWS * HEADS];
    float *tile = scores + n * stride;
    for (size_t x = 0; x < n; x++)
        heads[x] = q + x / n_q * a->q_ld + x % n_q * dim;
    for (size_t position = first; position <= last;) {
        struct run run = run_at(a, a->k_pages, kern_kv_bytes(kv, dim), position);
        for (size_t from = 0; from < run.n; from += LANES) {
            size_t keys = run.n - from < LANES ? run.n - from : LANES, x = 0;
            float *at = scores + (position + from - first);
            fill_tile(tile, run, from, keys, dim, kv);
            for (; x + TILE_HEADS <= n; x += TILE_HEADS)
                tile_scores(at + x * stride, stride, heads + x, tile, dim, a->scale, keys,
                            TILE_HEADS);
            for (; x < n; x++)
                tile_scores(at + x * stride, stride, heads + x, tile, dim, a->scale, keys, 1);
        }
        position += run.n;
    }
}
