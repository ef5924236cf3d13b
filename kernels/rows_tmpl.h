/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The row functions of kernels/table.h, written once over vectors of 16 floats and compiled once
 * for each instruction set. The including file first defines `struct vec` and its operations, so
 * that what may differ between sets is only how 16 lanes are held; what decides the bits (which
 * lane a value goes to, the order of operations) is here.
 *
 *   vec_load, vec_load_n(p, n)       16 floats; the first n, other lanes 0 (nothing more is read)
 *   vec_load_f16, vec_load_f16_n     the same from halves
 *   vec_store, vec_store_n(p, v, n)  16 floats; the first n
 *   vec_store_f16(p, v)              16 halves, nearest even
 *   vec_store_i8(p, v)               16 int8, nearest even, clamped to +-127; their sum
 *   vec_set1(s)                      all lanes s
 *   vec_add, vec_sub, vec_mul, vec_div, vec_abs, vec_fma(a, b, c) = a * b + c
 *   vec_max(a, b)                    a > b ? a : b
 *   vec_min(a, b)                    a < b ? a : b
 *   vec_if_ge(a, b, yes, no)         a >= b ? yes : no
 *   vec_first(n, v, other)           lanes below n from v, the rest from other
 *   vec_scale2(v, n)                 v * 2^n, n whole in [-126, 128], one rounding
 *   vec_tree(v)                      kern_tree16
 *   vec_tree4(sums, a, b, c, d)      kern_tree16 of four
 *   vec_max_lanes(v)                 the largest lane; any order
 *   vec_transpose4(quads, v)         prepares 4 of 16 vectors v for
 *   vec_store_quads(to, quads)       to[16 * i + j] = lane i of v[j], 16 vectors
 *
 * and VALUE_SUMS and TILE_HEADS, how many sums of attention's values and query heads fit its
 * registers.
 */
#include <string.h>

#include "kernels/math.h"
#include "kernels/table.h"

#define LANES 16u

/* The same result as kern_expf in every lane. */
static inline struct vec vec_exp(struct vec x)
{
    struct vec min = vec_set1(KERN__EXP_MIN), max = vec_set1(KERN__EXP_MAX);
    struct vec round = vec_set1(KERN__ROUND);
    struct vec clamped = vec_min(vec_max(x, min), max);
    struct vec n = vec_mul(clamped, vec_set1(1.44269504088896341f));
    n = vec_sub(vec_add(n, round), round);
    struct vec r = vec_fma(n, vec_set1(-0.693359375f), clamped);
    r = vec_fma(n, vec_set1(2.12194440e-4f), r);
    struct vec p = vec_set1(1.9875691500e-4f);
    p = vec_fma(p, r, vec_set1(1.3981999507e-3f));
    p = vec_fma(p, r, vec_set1(8.3334519073e-3f));
    p = vec_fma(p, r, vec_set1(4.1665795894e-2f));
    p = vec_fma(p, r, vec_set1(1.6666665459e-1f));
    p = vec_fma(p, r, vec_set1(5.0000001201e-1f));
    p = vec_add(vec_fma(p, vec_mul(r, r), r), vec_set1(1.0f));
    struct vec y = vec_if_ge(x, min, vec_scale2(p, n), vec_set1(0.0f));
    return vec_if_ge(max, x, y, vec_add(x, vec_set1(INFINITY)));
}

static void rms_norm_group(float *y, const float *x, const float *w, size_t width, float eps)
{
    size_t whole = width - width % LANES, rest = width % LANES;
    struct vec acc = vec_set1(0.0f);
    for (size_t i = 0; i < whole; i += LANES) {
        struct vec v = vec_load(x + i);
        acc = vec_fma(v, v, acc);
    }
    if (rest) {
        struct vec v = vec_load_n(x + whole, rest);
        acc = vec_first(rest, vec_fma(v, v, acc), acc);
    }
    struct vec s = vec_set1(1.0f / sqrtf(vec_tree(acc) / (float)width + eps));
    struct vec one = vec_set1(1.0f);
    for (size_t i = 0; i < whole; i += LANES)
        vec_store(y + i, vec_mul(vec_mul(vec_load(x + i), s), w ? vec_load(w + i) : one));
    if (rest) {
        struct vec v = vec_mul(vec_load_n(x + whole, rest), s);
        vec_store_n(y + whole, vec_mul(v, w ? vec_load_n(w + whole, rest) : one), rest);
    }
}

static void rms_norm(float *y, const float *x, const float *w, size_t n_groups, size_t width,
                     float eps)
{
    for (size_t g = 0; g < n_groups; g++)
        rms_norm_group(y + g * width, x + g * width, w, width, eps);
}

static void rope_adjacent(float *restrict x, size_t n_pairs, const float *restrict cs)
{
    for (size_t i = 0; i < n_pairs; i++) {
        float a = x[2 * i], b = x[2 * i + 1], c = cs[2 * i], s = cs[2 * i + 1];
        x[2 * i] = fmaf(a, c, -(b * s));
        x[2 * i + 1] = fmaf(a, s, b * c);
    }
}

/* The pairs are (x[i], x[n_pairs + i]). */
static void rope_halves(float *restrict x, float *restrict upper, size_t n_pairs,
                        const float *restrict cs)
{
    for (size_t i = 0; i < n_pairs; i++) {
        float a = x[i], b = upper[i], c = cs[2 * i], s = cs[2 * i + 1];
        x[i] = fmaf(a, c, -(b * s));
        upper[i] = fmaf(a, s, b * c);
    }
}

static void rope(float *x, size_t n_heads, size_t head_dim, size_t n_rot, int neox, const float *cs)
{
    size_t n_pairs = n_rot / 2;
    for (size_t h = 0; h < n_heads; h++) {
        float *head = x + h * head_dim;
        if (neox)
            rope_halves(head, head + n_pairs, n_pairs, cs);
        else
            rope_adjacent(head, n_pairs, cs);
    }
}

static inline struct vec silu_mul_vec(struct vec g, struct vec u, struct vec scale)
{
    struct vec v = vec_mul(g, scale);
    struct vec negative = vec_mul(v, vec_set1(-1.0f));
    struct vec silu = vec_div(v, vec_add(vec_set1(1.0f), vec_exp(negative)));
    return vec_mul(silu, vec_mul(u, scale));
}

static void silu_mul(float *y, const float *g, const float *u, float scale, size_t n)
{
    size_t whole = n - n % LANES, rest = n % LANES;
    struct vec s = vec_set1(scale);
    for (size_t i = 0; i < whole; i += LANES)
        vec_store(y + i, silu_mul_vec(vec_load(g + i), vec_load(u + i), s));
    if (rest) {
        struct vec v = silu_mul_vec(vec_load_n(g + whole, rest), vec_load_n(u + whole, rest), s);
        vec_store_n(y + whole, v, rest);
    }
}

static inline struct vec to_half(struct vec v)
{
    uint16_t half[LANES];
    vec_store_f16(half, v);
    return vec_load_f16(half);
}

static inline struct vec gelu_mul_vec(struct vec g, struct vec u, struct vec scale)
{
    struct vec v = vec_mul(g, scale), h = to_half(v);
    struct vec inner = vec_fma(vec_mul(h, h), vec_set1(KERN_GELU_CUBE), vec_set1(KERN_GELU_LINE));
    struct vec negative = vec_mul(vec_mul(h, vec_set1(-1.0f)), inner);
    struct vec gelu = to_half(vec_div(h, vec_add(vec_set1(1.0f), vec_exp(negative))));
    gelu = vec_if_ge(v, vec_set1(10.0f), v, gelu);
    gelu = vec_if_ge(vec_set1(-10.0f), v, vec_set1(0.0f), gelu);
    return vec_mul(gelu, vec_mul(u, scale));
}

static void gelu_mul(float *y, const float *g, const float *u, float scale, size_t n)
{
    size_t whole = n - n % LANES, rest = n % LANES;
    struct vec s = vec_set1(scale);
    for (size_t i = 0; i < whole; i += LANES)
        vec_store(y + i, gelu_mul_vec(vec_load(g + i), vec_load(u + i), s));
    if (rest) {
        struct vec v = gelu_mul_vec(vec_load_n(g + whole, rest), vec_load_n(u + whole, rest), s);
        vec_store_n(y + whole, v, rest);
    }
}

/* The limits come first in min and max, so that NaN is not taken for one of them. */
static inline struct vec swiglu_oai_vec(struct vec g, struct vec u, struct vec scale)
{
    struct vec one = vec_set1(1.0f), seven = vec_set1(7.0f);
    struct vec v = vec_min(seven, vec_mul(g, scale));
    struct vec w = vec_max(vec_set1(-7.0f), vec_min(seven, vec_mul(u, scale)));
    struct vec gate = vec_div(v, vec_add(one, vec_exp(vec_mul(v, vec_set1(-1.702f)))));
    return vec_mul(gate, vec_add(w, one));
}

static void swiglu_oai(float *y, const float *g, const float *u, float scale, size_t n)
{
    size_t whole = n - n % LANES, rest = n % LANES;
    struct vec s = vec_set1(scale);
    for (size_t i = 0; i < whole; i += LANES)
        vec_store(y + i, swiglu_oai_vec(vec_load(g + i), vec_load(u + i), s));
    if (rest) {
        struct vec v = swiglu_oai_vec(vec_load_n(g + whole, rest), vec_load_n(u + whole, rest), s);
        vec_store_n(y + whole, v, rest);
    }
}

static inline struct vec softcap_vec(struct vec x, struct vec limit)
{
    struct vec v = vec_div(x, limit), one = vec_set1(1.0f);
    struct vec tanh = vec_sub(one, vec_div(vec_set1(2.0f), vec_add(one, vec_exp(vec_add(v, v)))));
    return vec_mul(limit, tanh);
}

static void softcap(float *y, float limit, size_t n)
{
    size_t whole = n - n % LANES, rest = n % LANES;
    struct vec l = vec_set1(limit);
    for (size_t i = 0; i < whole; i += LANES)
        vec_store(y + i, softcap_vec(vec_load(y + i), l));
    if (rest)
        vec_store_n(y + whole, softcap_vec(vec_load_n(y + whole, rest), l), rest);
}

static void add(float *y, const float *x, size_t n)
{
    size_t whole = n - n % LANES, rest = n % LANES;
    for (size_t i = 0; i < whole; i += LANES)
        vec_store(y + i, vec_add(vec_load(y + i), vec_load(x + i)));
    if (rest) {
        struct vec v = vec_add(vec_load_n(y + whole, rest), vec_load_n(x + whole, rest));
        vec_store_n(y + whole, v, rest);
    }
}

static void axpy(float *y, const float *x, float s, size_t n)
{
    size_t whole = n - n % LANES, rest = n % LANES;
    struct vec factor = vec_set1(s);
    for (size_t i = 0; i < whole; i += LANES)
        vec_store(y + i, vec_fma(factor, vec_load(x + i), vec_load(y + i)));
    if (rest) {
        struct vec v = vec_fma(factor, vec_load_n(x + whole, rest), vec_load_n(y + whole, rest));
        vec_store_n(y + whole, v, rest);
    }
}

static void scale(float *y, const float *x, float s, size_t n)
{
    size_t whole = n - n % LANES, rest = n % LANES;
    struct vec factor = vec_set1(s);
    for (size_t i = 0; i < whole; i += LANES)
        vec_store(y + i, vec_mul(vec_load(x + i), factor));
    if (rest)
        vec_store_n(y + whole, vec_mul(vec_load_n(x + whole, rest), factor), rest);
}

static float row_max(const float *x, size_t n)
{
    size_t whole = n - n % LANES, rest = n % LANES;
    struct vec most = vec_set1(-INFINITY);
    for (size_t i = 0; i < whole; i += LANES)
        most = vec_max(vec_load(x + i), most);
    if (rest)
        most = vec_first(rest, vec_max(vec_load_n(x + whole, rest), most), most);
    return vec_max_lanes(most);
}

static float lse(const float *logits, size_t n, float *max)
{
    size_t whole = n - n % LANES, rest = n % LANES;
    *max = row_max(logits, n);
    struct vec m = vec_set1(*max), acc = vec_set1(0.0f);
    for (size_t i = 0; i < whole; i += LANES)
        acc = vec_add(acc, vec_exp(vec_sub(vec_load(logits + i), m)));
    if (rest) {
        struct vec e = vec_exp(vec_sub(vec_load_n(logits + whole, rest), m));
        acc = vec_first(rest, vec_add(acc, e), acc);
    }
    return kern_logf(vec_tree(acc)) + *max;
}

/* The scale of a block in half precision, written to it, and its inverse. */
static float store_scale(void *block, float d)
{
    d = d < -65504.0f ? -65504.0f : d > 65504.0f ? 65504.0f : d;
    uint16_t half = kern_f32_to_f16(d);
    memcpy(block, &half, sizeof half);
    d = kern_f16_to_f32(half);
    return d != 0.0f ? 1.0f / d : 0.0f;
}

static void store_q8_0(char *block, const float *x)
{
    struct vec a = vec_load(x), b = vec_load(x + LANES);
    float most = vec_max_lanes(vec_max(vec_abs(a), vec_abs(b)));
    struct vec inverse = vec_set1(store_scale(block, most / 127.0f));
    int8_t *q = (int8_t *)block + sizeof(uint16_t);
    vec_store_i8(q, vec_mul(a, inverse));
    vec_store_i8(q + LANES, vec_mul(b, inverse));
}

static uint8_t nibble(int8_t q)
{
    return (uint8_t)((q < -8 ? -8 : q > 7 ? 7 : q) + 8);
}

static void store_q4_0(char *block, const float *x)
{
    struct vec a = vec_load(x), b = vec_load(x + LANES), zero = vec_set1(0.0f);
    float high = vec_max_lanes(vec_max(a, b));
    float low = vec_max_lanes(vec_max(vec_sub(zero, a), vec_sub(zero, b)));
    struct vec inverse = vec_set1(store_scale(block, (high >= low ? high : -low) / -8.0f));
    int8_t q[2 * LANES];
    vec_store_i8(q, vec_mul(a, inverse));
    vec_store_i8(q + LANES, vec_mul(b, inverse));
    for (size_t i = 0; i < LANES; i++)
        block[sizeof(uint16_t) + i] = (char)(nibble(q[i]) | nibble(q[LANES + i]) << 4);
}

static void store_blocks(char *dst, const float *src, size_t n, enum kern_kv kv)
{
    size_t bytes = kern_kv_bytes(kv, 32);
    for (size_t i = 0; i < n; i += 32, dst += bytes) {
        if (kv == KERN_KV_Q8_0)
            store_q8_0(dst, src + i);
        else
            store_q4_0(dst, src + i);
    }
}

static void kv_store(void *dst, const float *src, size_t n, enum kern_kv kv)
{
    if (kv == KERN_KV_F32) {
        memcpy(dst, src, n * sizeof(float));
        return;
    }
    if (kv != KERN_KV_F16) {
        store_blocks(dst, src, n, kv);
        return;
    }
    uint16_t *half = dst, last[LANES];
    size_t whole = n - n % LANES, rest = n % LANES;
    for (size_t i = 0; i < whole; i += LANES)
        vec_store_f16(half + i, vec_load(src + i));
    if (rest) {
        vec_store_f16(last, vec_load_n(src + whole, rest));
        memcpy(half + whole, last, rest * sizeof(uint16_t));
    }
}

static void quantize_block(int8_t *q, float *d, int16_t *sums, const float *x, size_t block)
{
    struct vec most = vec_set1(0.0f);
    for (size_t i = 0; i < block; i += LANES)
        most = vec_max(vec_abs(vec_load(x + i)), most);
    float amax = vec_max_lanes(most);
    int zero = amax < KERN_ACT_TINY;
    *d = zero ? 0.0f : amax / 127.0f;
    if (block == 32)
        *d = kern_round11(*d);
    struct vec inverse = vec_set1(zero ? 0.0f : 127.0f / amax);
    for (size_t i = 0; i < block; i += LANES)
        sums[i / LANES] = vec_store_i8(q + i, vec_mul(vec_load(x + i), inverse));
}

static inline void quantize_rows(enum kern_act act, void *records, const float *x, size_t ldx,
                                 size_t n_rows, size_t k)
{
    size_t block = kern_act_block(act), bytes = kern_act_bytes(act, k);
    size_t used = k + k / block * sizeof(float) + k / LANES * sizeof(int16_t);
    for (size_t r = 0; r < n_rows; r++) {
        char *record = (char *)records + r * bytes;
        float *d = (float *)(record + k);
        int16_t *sums = (int16_t *)(d + k / block);
        for (size_t i = 0; i < k; i += block)
            quantize_block((int8_t *)record + i, d + i / block, sums + i / LANES, x + r * ldx + i,
                           block);
        memset(record + used, 0, bytes - used);
    }
}

static void quantize_f32(void *records, const float *x, size_t ldx, size_t n_rows, size_t k)
{
    size_t bytes = kern_act_bytes(KERN_ACT_F32, k), used = k * sizeof(float);
    for (size_t r = 0; r < n_rows; r++) {
        char *record = (char *)records + r * bytes;
        memcpy(record, x + r * ldx, used);
        memset(record + used, 0, bytes - used);
    }
}

static void quantize_q8_32(void *records, const float *x, size_t ldx, size_t n_rows, size_t k)
{
    quantize_rows(KERN_ACT_Q8_32, records, x, ldx, n_rows, k);
}

static void quantize_q8_256(void *records, const float *x, size_t ldx, size_t n_rows, size_t k)
{
    quantize_rows(KERN_ACT_Q8_256, records, x, ldx, n_rows, k);
}

#include "kernels/attention_tmpl.h"
#include "kernels/delta_tmpl.h"

static void fill_rows(struct kern_table *t)
{
    t->quantize[KERN_ACT_F32] = quantize_f32;
    t->quantize[KERN_ACT_Q8_32] = quantize_q8_32;
    t->quantize[KERN_ACT_Q8_256] = quantize_q8_256;
    t->rms_norm = rms_norm;
    t->rope = rope;
    t->silu_mul = silu_mul;
    t->gelu_mul = gelu_mul;
    t->swiglu_oai = swiglu_oai;
    t->softcap = softcap;
    t->add = add;
    t->axpy = axpy;
    t->scale = scale;
    t->attention = attention;
    t->kv_store = kv_store;
    t->lse = lse;
    t->conv_silu = conv_silu;
    t->sigmoid_mul = sigmoid_mul;
    t->delta = delta;
}
