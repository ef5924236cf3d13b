/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Attention over one KV head, part of kernels/rows_tmpl.h. Scores of several rows at once are in
 * attention_tile_tmpl.h.
 *
 * Keys and values lie in pages, so positions are taken in runs that are contiguous in memory. A
 * run is small enough to stay in the first cache: the query heads that share the KV head are taken
 * four at a time over the same run, and memory is read once for all of them. One query head's
 * additions keep the order of kernels/table.h however the heads, keys and dimensions are grouped,
 * since a group only puts independent sums side by side.
 */

/* Query heads that are finished together; bounds what is kept on the stack. */
#define HEADS 16u

/* Functions with constant arguments, of which the compiler makes one each. */
#define SPECIALISED static inline __attribute__((always_inline))

struct run {
    const char *rows;
    const char *ahead; /* rows of the run after this one, for prefetching; NULL: nothing */
    size_t n, row_bytes;
};

/* The row of a position. */
static const char *row_at(const struct kern_attention *a, const void *const *pages,
                          size_t row_bytes, size_t position)
{
    return (const char *)pages[position / a->page_rows] + position % a->page_rows * row_bytes;
}

/* The last position that a row of the call sees. */
static size_t last_of(const struct kern_attention *a)
{
    return a->spans[a->n_rows - 1].last;
}

/* The contiguous rows from a position on. */
static struct run run_at(const struct kern_attention *a, const void *const *pages, size_t row_bytes,
                         size_t position)
{
    size_t left = last_of(a) + 1 - position, in_page = a->page_rows - position % a->page_rows;
    size_t n = left < in_page ? left : in_page;
    const char *rows = row_at(a, pages, row_bytes, position);
    const char *ahead = n < left ? row_at(a, pages, row_bytes, position + n) : rows;
    return (struct run){rows, ahead, n, row_bytes};
}

/* Pages lie anywhere in memory, and the processor's own prefetching begins anew in each; asking
 * for a row of the next page with each row computed makes up for it. */
SPECIALISED void prefetch(const char *p, size_t bytes)
{
    for (size_t i = 0; i < bytes; i += 64)
        __builtin_prefetch(p + i);
}

/* How many bytes n values take on average, be it half a block. */
SPECIALISED size_t span_bytes(enum kern_kv kv, size_t n)
{
    return n * kern_kv_bytes(kv, 32) / 32;
}

/* 16 values of a row from i on, a multiple of 16. */
SPECIALISED struct vec load_kv(const char *row, size_t i, enum kern_kv kv)
{
    if (kv == KERN_KV_F32)
        return vec_load((const float *)(const void *)row + i);
    if (kv == KERN_KV_F16)
        return vec_load_f16((const uint16_t *)(const void *)row + i);
    const char *block = row + kern_kv_bytes(kv, i), *q = block + sizeof(uint16_t);
    struct vec d = vec_set1_f16(block);
    int second = i % 32 != 0;
    if (kv == KERN_KV_Q8_0)
        return vec_mul(vec_load_i8(second ? q + LANES : q), d);
    return vec_mul(second ? vec_load_high(q) : vec_load_low(q), d);
}

/* The last n values of a row, less than 16. Quantised rows are whole blocks and have no such rest.
 */
SPECIALISED struct vec load_kv_n(const char *row, size_t i, size_t n, enum kern_kv kv)
{
    if (kv == KERN_KV_F32)
        return vec_load_n((const float *)(const void *)row + i, n);
    if (kv == KERN_KV_F16)
        return vec_load_f16_n((const uint16_t *)(const void *)row + i, n);
    return load_kv(row, i, kv);
}

/* Four dot products; q_step and k_step are 0 where all four share the operand. */
SPECIALISED void dot4(float sums[4], const float *q, size_t q_step, const char *k, size_t k_step,
                      size_t dim, enum kern_kv kv)
{
    const float *q1 = q + q_step, *q2 = q1 + q_step, *q3 = q2 + q_step;
    const char *k1 = k + k_step, *k2 = k1 + k_step, *k3 = k2 + k_step;
    struct vec a0 = vec_set1(0.0f), a1 = a0, a2 = a0, a3 = a0;
    size_t rest = dim % LANES, i = 0;
    for (; i < dim - rest; i += LANES) {
        a0 = vec_fma(vec_load(q + i), load_kv(k, i, kv), a0);
        a1 = vec_fma(vec_load(q1 + i), load_kv(k1, i, kv), a1);
        a2 = vec_fma(vec_load(q2 + i), load_kv(k2, i, kv), a2);
        a3 = vec_fma(vec_load(q3 + i), load_kv(k3, i, kv), a3);
    }
    if (rest) {
        struct vec x0 = load_kv_n(k, i, rest, kv), x1 = load_kv_n(k1, i, rest, kv);
        struct vec x2 = load_kv_n(k2, i, rest, kv), x3 = load_kv_n(k3, i, rest, kv);
        a0 = vec_first(rest, vec_fma(vec_load_n(q + i, rest), x0, a0), a0);
        a1 = vec_first(rest, vec_fma(vec_load_n(q1 + i, rest), x1, a1), a1);
        a2 = vec_first(rest, vec_fma(vec_load_n(q2 + i, rest), x2, a2), a2);
        a3 = vec_first(rest, vec_fma(vec_load_n(q3 + i, rest), x3, a3), a3);
    }
    vec_tree4(sums, a0, a1, a2, a3);
}

/* scores of 4 query heads with the keys of a run. */
SPECIALISED void score_heads4(float *scores, size_t stride, const float *q, struct run run,
                              size_t dim, float factor, enum kern_kv kv)
{
    size_t row_bytes = kern_kv_bytes(kv, dim);
    for (size_t j = 0; j < run.n; j++) {
        float sums[4];
        prefetch(run.ahead + j * row_bytes, row_bytes);
        dot4(sums, q, dim, run.rows + j * row_bytes, 0, dim, kv);
        for (size_t h = 0; h < 4; h++)
            scores[h * stride + j] = sums[h] * factor;
    }
}

/* scores of one query head, keys four at a time. */
SPECIALISED void score_head(float *scores, const float *q, struct run run, size_t dim, float factor,
                            enum kern_kv kv)
{
    size_t row_bytes = kern_kv_bytes(kv, dim), j = 0;
    float sums[4];
    for (; j + 4 <= run.n; j += 4) {
        prefetch(run.ahead + j * row_bytes, 4 * row_bytes);
        dot4(sums, q, 0, run.rows + j * row_bytes, row_bytes, dim, kv);
        for (size_t r = 0; r < 4; r++)
            scores[j + r] = sums[r] * factor;
    }
    for (; j < run.n; j++) {
        dot4(sums, q, 0, run.rows + j * row_bytes, 0, dim, kv);
        scores[j] = sums[0] * factor;
    }
}

/* Scores of one row. */
SPECIALISED void score(const struct kern_attention *a, float *scores, size_t stride, const float *q,
                       size_t n_q, enum kern_kv kv)
{
    size_t first = a->spans[0].first, last = a->spans[0].last, dim = a->dim_k;
    for (size_t position = first; position <= last;) {
        struct run run = run_at(a, a->k_pages, kern_kv_bytes(kv, dim), position);
        size_t h = 0, at = position - first;
        for (; h + 4 <= n_q; h += 4)
            score_heads4(scores + h * stride + at, stride, q + h * dim, run, dim, a->scale, kv);
        for (; h < n_q; h++)
            score_head(scores + h * stride + at, q + h * dim, run, dim, a->scale, kv);
        position += run.n;
    }
}

#include "kernels/attention_tile_tmpl.h"

/* scores become exp(score - max); returns 1 / their sum. sink: a score without a value, or NULL. */
static float softmax(float *scores, size_t count, const float *sink)
{
    size_t whole = count - count % LANES, rest = count % LANES;
    float most = row_max(scores, count);
    most = sink && *sink > most ? *sink : most;
    struct vec m = vec_set1(most), acc = vec_set1(0.0f);
    for (size_t i = 0; i < whole; i += LANES) {
        struct vec p = vec_exp(vec_sub(vec_load(scores + i), m));
        vec_store(scores + i, p);
        acc = vec_add(acc, p);
    }
    if (rest) {
        struct vec p = vec_exp(vec_sub(vec_load_n(scores + whole, rest), m));
        vec_store_n(scores + whole, p, rest);
        acc = vec_first(rest, vec_add(acc, p), acc);
    }
    float sum = vec_tree(acc);
    return 1.0f / (sink ? sum + kern_expf(*sink - most) : sum);
}

/* out[h][0..16*vecs) += sum over the run of p[h][j] * row j from dimension i on. heads * vecs is at
 * most VALUE_SUMS. */
SPECIALISED void value_block(float *out, size_t dim, size_t i, const float *p, size_t stride,
                             struct run run, enum kern_kv kv, size_t heads, size_t vecs, bool ahead)
{
    size_t row_bytes = run.row_bytes, from = span_bytes(kv, i);
    struct vec acc[VALUE_SUMS];
    out += i;
#pragma GCC unroll 16
    for (size_t a = 0; a < heads * vecs; a++)
        acc[a] = vec_load(out + a / vecs * dim + a % vecs * LANES);
    for (size_t j = 0; j < run.n; j++) {
        const char *row = run.rows + j * row_bytes;
        if (ahead)
            prefetch(run.ahead + j * row_bytes + from, span_bytes(kv, vecs * LANES));
#pragma GCC unroll 16
        for (size_t a = 0; a < heads * vecs; a++)
            acc[a] = vec_fma(vec_set1(p[a / vecs * stride + j]),
                             load_kv(row, i + a % vecs * LANES, kv), acc[a]);
    }
#pragma GCC unroll 16
    for (size_t a = 0; a < heads * vecs; a++)
        vec_store(out + a / vecs * dim + a % vecs * LANES, acc[a]);
}

/* The last, less than 16 dimensions of one head. */
SPECIALISED void value_rest(float *out, size_t dim, const float *p, struct run run, enum kern_kv kv)
{
    size_t rest = dim % LANES, whole = dim - rest;
    struct vec acc = vec_load_n(out + whole, rest);
    for (size_t j = 0; j < run.n; j++)
        acc =
            vec_fma(vec_set1(p[j]), load_kv_n(run.rows + j * run.row_bytes, whole, rest, kv), acc);
    vec_store_n(out + whole, acc, rest);
}

/* Blocks of `vecs` vectors from dimension i on, as many as there are whole ones; where they end. */
SPECIALISED size_t value_blocks(float *out, size_t dim, size_t i, const float *p, size_t stride,
                                struct run run, enum kern_kv kv, size_t heads, size_t vecs)
{
    if (heads * vecs > VALUE_SUMS)
        return i;
    for (; i + vecs * LANES <= dim; i += vecs * LANES) {
        if (run.ahead)
            value_block(out, dim, i, p, stride, run, kv, heads, vecs, true);
        else
            value_block(out, dim, i, p, stride, run, kv, heads, vecs, false);
    }
    return i;
}

/* All dimensions of `heads` heads (4 or 1), for one run. */
SPECIALISED void value_heads(float *out, size_t dim, const float *p, size_t stride, struct run run,
                             enum kern_kv kv, size_t heads)
{
    size_t i = value_blocks(out, dim, 0, p, stride, run, kv, heads, 4);
    i = value_blocks(out, dim, i, p, stride, run, kv, heads, 2);
    i = value_blocks(out, dim, i, p, stride, run, kv, heads, 1);
    for (size_t h = 0; i < dim && h < heads; h++)
        value_rest(out + h * dim, dim, p + h * stride, run, kv);
}

/* What one row adds up over the part of a run, from `position` on, that it sees. */
SPECIALISED void value_row(const struct kern_attention *a, size_t r, float *out, const float *p,
                           size_t stride, size_t n_q, struct run run, size_t position,
                           enum kern_kv kv)
{
    const struct kern_span *span = &a->spans[r];
    size_t dim = a->dim_v, end = position + run.n, h = 0;
    size_t from = position > span->first ? position : span->first;
    end = end < span->last + 1 ? end : span->last + 1;
    if (from >= end)
        return;
    run.n = end - from;
    run.rows += (from - position) * run.row_bytes;
    /* The first row has brought what the others read. */
    run.ahead = r == 0 ? run.ahead : NULL;
    p += from - a->spans[0].first;
    for (; h + 4 <= n_q; h += 4)
        value_heads(out + h * dim, dim, p + h * stride, stride, run, kv, 4);
    for (; h < n_q; h++)
        value_heads(out + h * dim, dim, p + h * stride, stride, run, kv, 1);
}

SPECIALISED void value(const struct kern_attention *a, float *out, const float *p, size_t stride,
                       size_t n_q, enum kern_kv kv)
{
    size_t row_bytes = kern_kv_bytes(kv, a->v_row ? a->v_row : a->dim_v), last = last_of(a);
    for (size_t r = 0; r < a->n_rows; r++)
        memset(out + r * a->out_ld, 0, n_q * a->dim_v * sizeof(float));
    for (size_t position = a->spans[0].first; position <= last;) {
        struct run run = run_at(a, a->v_pages, row_bytes, position);
        for (size_t r = 0; r < a->n_rows; r++)
            value_row(a, r, out + r * a->out_ld, p + r * n_q * stride, stride, n_q, run, position,
                      kv);
        position += run.n;
    }
}

SPECIALISED void attention_heads(const struct kern_attention *a, size_t h, size_t n_q,
                                 enum kern_kv kv)
{
    size_t first = a->spans[0].first, stride = (last_of(a) - first + LANES) / LANES * LANES;
    const float *q = a->q + h * a->dim_k;
    float *out = a->out + h * a->dim_v, inverse[KERN_ATTENTION_ROWS * HEADS];
    if (a->n_rows == 1)
        score(a, a->scores, stride, q, n_q, kv);
    else
        score_rows(a, a->scores, stride, q, n_q, kv);
    for (size_t i = 0; i < a->n_rows * n_q; i++) {
        const struct kern_span *span = &a->spans[i / n_q];
        inverse[i] =
            softmax(a->scores + i * stride + (span->first - first), span->last - span->first + 1,
                    a->sinks ? a->sinks + h + i % n_q : NULL);
    }
    value(a, out, a->scores, stride, n_q, kv);
    for (size_t i = 0; i < a->n_rows * n_q; i++) {
        float *head = out + i / n_q * a->out_ld + i % n_q * a->dim_v;
        scale(head, head, inverse[i], a->dim_v);
    }
}

static void attention(const struct kern_attention *a)
{
    for (size_t h = 0; h < a->n_q; h += HEADS) {
        size_t n = a->n_q - h < HEADS ? a->n_q - h : HEADS;
        switch (a->kv) {
        case KERN_KV_F32:
            attention_heads(a, h, n, KERN_KV_F32);
            break;
        case KERN_KV_F16:
            attention_heads(a, h, n, KERN_KV_F16);
            break;
        case KERN_KV_Q8_0:
            attention_heads(a, h, n, KERN_KV_Q8_0);
            break;
        case KERN_KV_Q4_0:
            attention_heads(a, h, n, KERN_KV_Q4_0);
            break;
        }
    }
}
