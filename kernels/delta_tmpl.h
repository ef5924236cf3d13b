/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The gated delta-net and sigmoid gates, part of kernels/rows_tmpl.h. Every value of a state's
 * column, of a channel or of a row is computed apart from its neighbours, in the order that
 * kernels/table.h gives, so how many of them share a vector changes nothing.
 */

/* Columns of a state that are taken through both passes together, so that the second pass finds
 * them in the first cache. */
#define STATE_VECS 4u

static void conv_silu(float *y, const float *const *taps, size_t n_taps, const float *w, size_t n)
{
    float acc[LANES];
    for (size_t i = 0; i < n; i += LANES) {
        size_t lanes = n - i < LANES ? n - i : LANES;
        for (size_t l = 0; l < lanes; l++) {
            acc[l] = 0.0f;
            for (size_t t = 0; t < n_taps; t++)
                acc[l] = fmaf(w[(i + l) * n_taps + t], taps[t][i + l], acc[l]);
        }
        struct vec v = vec_load_n(acc, lanes);
        struct vec negative = vec_mul(v, vec_set1(-1.0f));
        v = vec_div(v, vec_add(vec_set1(1.0f), vec_exp(negative)));
        vec_store_n(y + i, v, lanes);
    }
}

static inline struct vec sigmoid_mul_vec(struct vec x, struct vec g)
{
    struct vec negative = vec_mul(g, vec_set1(-1.0f));
    return vec_div(x, vec_add(vec_set1(1.0f), vec_exp(negative)));
}

static void sigmoid_mul(float *y, const float *x, const float *g, size_t n)
{
    size_t whole = n - n % LANES, rest = n % LANES;
    for (size_t i = 0; i < whole; i += LANES)
        vec_store(y + i, sigmoid_mul_vec(vec_load(x + i), vec_load(g + i)));
    if (rest) {
        struct vec v = sigmoid_mul_vec(vec_load_n(x + whole, rest), vec_load_n(g + whole, rest));
        vec_store_n(y + whole, v, rest);
    }
}

/* Columns [j, j + 16 * vecs) of a state. */
static inline __attribute__((always_inline)) void delta_block(const struct kern_delta *a, size_t j,
                                                              size_t vecs)
{
    struct vec mem[STATE_VECS], out[STATE_VECS], decay = vec_set1(a->decay);
    float *s = a->state + j;
#pragma GCC unroll 4
    for (size_t v = 0; v < vecs; v++)
        mem[v] = out[v] = vec_set1(0.0f);
    for (size_t i = 0; i < a->dim_k; i++) {
        struct vec k = vec_set1(a->k[i]);
#pragma GCC unroll 4
        for (size_t v = 0; v < vecs; v++) {
            float *at = s + i * a->dim_v + v * LANES;
            struct vec kept = vec_mul(vec_load(at), decay);
            vec_store(at, kept);
            mem[v] = vec_fma(k, kept, mem[v]);
        }
    }
#pragma GCC unroll 4
    for (size_t v = 0; v < vecs; v++)
        mem[v] = vec_mul(vec_sub(vec_load(a->v + j + v * LANES), mem[v]), vec_set1(a->beta));
    for (size_t i = 0; i < a->dim_k; i++) {
        struct vec k = vec_set1(a->k[i]), q = vec_set1(a->q[i]);
#pragma GCC unroll 4
        for (size_t v = 0; v < vecs; v++) {
            float *at = s + i * a->dim_v + v * LANES;
            struct vec next = vec_fma(k, mem[v], vec_load(at));
            vec_store(at, next);
            out[v] = vec_fma(q, next, out[v]);
        }
    }
#pragma GCC unroll 4
    for (size_t v = 0; v < vecs; v++)
        vec_store(a->out + j + v * LANES, out[v]);
}

/* One column, of those that do not fill a vector. */
static void delta_column(const struct kern_delta *a, size_t j)
{
    float mem = 0.0f, out = 0.0f, *s = a->state + j;
    for (size_t i = 0; i < a->dim_k; i++) {
        float kept = s[i * a->dim_v] * a->decay;
        s[i * a->dim_v] = kept;
        mem = fmaf(a->k[i], kept, mem);
    }
    mem = (a->v[j] - mem) * a->beta;
    for (size_t i = 0; i < a->dim_k; i++) {
        float next = fmaf(a->k[i], mem, s[i * a->dim_v]);
        s[i * a->dim_v] = next;
        out = fmaf(a->q[i], next, out);
    }
    a->out[j] = out;
}

static void delta(const struct kern_delta *a)
{
    size_t j = 0;
    for (; j + STATE_VECS * LANES <= a->dim_v; j += STATE_VECS * LANES)
        delta_block(a, j, STATE_VECS);
    for (; j + LANES <= a->dim_v; j += LANES)
        delta_block(a, j, 1);
    for (; j < a->dim_v; j++)
        delta_column(a, j);
}
