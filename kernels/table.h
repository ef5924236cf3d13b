/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The arithmetic, as a table of functions for each instruction set. Constant after first use, any
 * thread; the functions keep no state.
 *
 * All sets give the same bits: the order of every float addition is part of a function's
 * definition below, each multiplication that feeds an addition is fused where it says fma, nothing
 * is contracted otherwise (-ffp-contract=off), and exp is our own (kernels/math.h). So a cluster
 * of different processors still computes one result, and the tests compare for equality. Order is
 * defined for one output value alone; it never depends on how many rows or panels a call covers.
 *
 * Row strides are in floats unless they end in _bytes. Widths may be any number; buffers of floats
 * are 64-byte aligned and every row has room up to the next multiple of 16 floats, which functions
 * may overwrite with anything.
 */
#ifndef KERNELS_TABLE_H
#define KERNELS_TABLE_H

#include <stdbool.h>

#include "kernels/act.h"
#include "kernels/type.h"

/* Those of one processor are in order: each runs wherever a later one does. */
enum kern_isa {
    KERN_ISA_PORTABLE,
    KERN_ISA_AVX2,
    KERN_ISA_AVX512,
    KERN_ISA_AMX,
    KERN_ISA_NEON,
    KERN_ISA_I8MM,
    KERN_N_ISAS
};

/*
 * y[r*ldy + 16p + lane] = sum_i W[16p + lane][i] * x[r][i] for r < n_rows, p < n_panels.
 * w: the first of n_panels packed panels; x: records of x_bytes each, of the type's operand kind.
 * Writes whole panels (16 values), so the last panel of a matrix may spill into a row's padding.
 *
 * Order, one output value:
 *   float types:  four accumulators, a_j = fma(w[i], x[i], a_j) for i = j mod 4, ascending; the
 *                 result is (a_0 + a_1) + (a_2 + a_3).
 *   Q8_0, Q4_0, Q5_0, IQ4_NL, MXFP4:
 *                 one accumulator over blocks of 32, ascending: a = fma(dw * dx, (float)s, a), s
 *                 the exact integer sum of q_w * q_x; dw is d, or MXFP4's 2^(e - 128), q_w the
 *                 value without it (of the codebook where the type has one).
 *   Q4_1, Q5_1:   the same, and after each a = fma(m * dx, (float)t, a), t = sum q_x of the block.
 *   Q4_K, Q5_K, Q2_K:
 *                 one accumulator over blocks of 256, ascending:
 *                 a = fma(d * dx, (float)s, a); a = fma(-(dmin * dx), (float)m, a), with the exact
 *                 integers s = sum S_j * sum q*qx and m = sum M_j * sum qx.
 *   Q6_K, Q3_K, IQ4_XS:
 *                 one accumulator over blocks of 256: a = fma(d * dx, (float)s, a), s exact.
 *   IQ1_S, IQ1_M, IQ2_XXS, IQ2_XS, IQ2_S, IQ3_XXS, IQ3_S:
 *                 one accumulator over blocks of 256: a = fma((d * c) * dx, (float)s, a), with the
 *                 exact integer s = sum (2S + 1) * w * qx; c and w as in kernels/iq.h.
 */
typedef void kern_matmul_fn(float *y, size_t ldy, const void *w, size_t n_panels, const void *x,
                            size_t x_bytes, size_t n_rows, size_t k);

/* Quantises n_rows rows of k floats into records of kern_act_bytes (see act.h). */
typedef void kern_quantize_fn(void *records, const float *x, size_t ldx, size_t n_rows, size_t k);

/*
 * y[g*width + i] = x[g*width + i] * s_g * w[i] for each group g of one row, with
 * s_g = 1 / sqrtf(sum / width + eps); w NULL means ones. sum: 16 lane accumulators,
 * a_l = fma(x, x, a_l) for i = l mod 16, then the fixed tree of kern_tree16 (math.h). y may be x.
 * Product order: (x * s) * w.
 */
typedef void kern_rms_norm_fn(float *y, const float *x, const float *w, size_t n_groups,
                              size_t width, float eps);

/* Rotation of n_heads heads of head_dim floats of one row, in place, by n_rot/2 pairs (cos, sin)
 * interleaved in cs: (a,b) -> (fma(a, c, -(b*s)), fma(a, s, b*c)). neox 0 pairs (2i, 2i+1);
 * neox 1 pairs (i, i + n_rot/2). Dimensions from n_rot on stay. */
typedef void kern_rope_fn(float *x, size_t n_heads, size_t head_dim, size_t n_rot, int neox,
                          const float *cs);

/* y[i] = silu(g[i] * scale) * (u[i] * scale), silu(v) = v / (1 + kern_expf(-v)). y may be g. */
typedef void kern_silu_mul_fn(float *y, const float *g, const float *u, float scale, size_t n);

/* The same with gelu(v) = 0 for v <= -10, v for v >= 10, and between them
 * half(h / (1 + kern_expf((h * -1) * fma(h * h, KERN_GELU_CUBE, KERN_GELU_LINE)))), h = half(v),
 * where half() rounds to the nearest binary16. It approximates
 * 0.5 v (1 + tanh(sqrt(2/pi) (v + 0.044715 v^3))), since 0.5 (1 + tanh(a)) = 1 / (1 + e^(-2a)).
 * Engines that look gelu up in a table of halves made the reference logits: without the rounding
 * nothing else that differs would be further from them. y may be g. */
typedef void kern_gelu_mul_fn(float *y, const float *g, const float *u, float scale, size_t n);

#define KERN_GELU_LINE 1.5957691216057308f   /* 2 sqrt(2/pi) */
#define KERN_GELU_CUBE 0.071354816272600248f /* times 0.044715 */

/* The clamped gate of gpt-oss: with v = min(g[i] * scale, 7) and w = u[i] * scale clamped to
 * [-7, 7], y[i] = (v / (1 + kern_expf(v * -1.702))) * (w + 1). NaN stays NaN. y may be g. */
typedef void kern_swiglu_oai_fn(float *y, const float *g, const float *u, float scale, size_t n);

/* y[i] = limit * tanh(y[i] / limit), tanh(v) = 1 - 2 / (1 + kern_expf(v + v)). */
typedef void kern_softcap_fn(float *y, float limit, size_t n);

/* y[i] = y[i] + x[i]. */
typedef void kern_add_fn(float *y, const float *x, size_t n);

/* y[i] = fma(s, x[i], y[i]). */
typedef void kern_axpy_fn(float *y, const float *x, float s, size_t n);

/* y[i] = x[i] * s. y may be x. */
typedef void kern_scale_fn(float *y, const float *x, float s, size_t n);

/*
 * What a KV cache stores. The last two are blocks of 32 values along a row, laid out as the weight
 * types of the same name; a value read back is (float)d * q, which is exact.
 *   Q8_0: half d, then int8 q[32]. d is max|x| / 127 rounded to half (at most 65504); q is
 *         x * (1 / d), rounded to nearest even, within +-127; zeros where d is.
 *   Q4_0: half d, then 16 bytes: value i is in the low half of byte i, value i + 16 in the high
 *         one, each 8 more than q. d is m / -8, m the value of largest magnitude (of two the
 *         positive one), rounded to half (within +-65504); q is as above, within -8..7.
 */
enum kern_kv { KERN_KV_F32, KERN_KV_F16, KERN_KV_Q8_0, KERN_KV_Q4_0 };
#define KERN_N_KV 4

/* Values that share a scale, of which rows must be multiples. */
static inline size_t kern_kv_block(enum kern_kv kv)
{
    return kv == KERN_KV_Q8_0 || kv == KERN_KV_Q4_0 ? 32 : 1;
}

/* Bytes of n values, n a multiple of the block. */
static inline size_t kern_kv_bytes(enum kern_kv kv, size_t n)
{
    return kv == KERN_KV_F16    ? n * 2
           : kv == KERN_KV_Q8_0 ? n / 32 * 34
           : kv == KERN_KV_Q4_0 ? n / 32 * 18
                                : n * 4;
}

/* "f32", "f16", "q8_0", "q4_0". */
const char *kern_kv_name(enum kern_kv kv);
/* The type of a name, or -1. */
int kern_kv_by_name(const char *name);

/* Positions first..last, counted from the first row of the first page. */
struct kern_span {
    size_t first, last;
};

/* Query rows that one call of attention takes at most. */
#define KERN_ATTENTION_ROWS 16u

/*
 * Attention of some query rows of one sequence over one KV head.
 *
 * q: of each row n_q query heads of dim_k floats (the heads that share this KV head, adjacent), rows
 * q_ld floats apart; out: n_q heads of dim_v floats, rows out_ld apart. Row r sees the keys of
 * positions spans[r]; from row to row neither first nor last ever falls. Keys are read from pages:
 * position j is row j % page_rows of pages[j / page_rows] (k_pages and v_pages point at this KV
 * head's rows: page_rows x dim values of kv's type; a V row may be the start of a longer one of
 * v_row values, such as a K row). scores: 64-byte aligned scratch of kern_attention_scratch floats.
 *
 * Order, one query head: score_j = dot16(q, k_j) * scale, dot16 being 16 lane accumulators
 * (fma, i = l mod 16) and kern_tree16; m = max; p_j = kern_expf(score_j - m); sum: 16 lane
 * accumulators by (j - first) mod 16, then kern_tree16; out[i] = (accumulated over ascending j by
 * fma(p_j, v_j[i], acc)) * (1 / sum).
 *
 * A head with a sink (sinks[h], not scaled) has it join the maximum and the denominator alone:
 * m = max(max, sink), and kern_expf(sink - m) is added to the sum last.
 */
struct kern_attention {
    float *out;
    const float *q;
    size_t out_ld, q_ld;
    const struct kern_span *spans;
    size_t n_rows; /* 1 to KERN_ATTENTION_ROWS */
    const void *const *k_pages;
    const void *const *v_pages;
    float *scores;
    size_t n_q, dim_k, dim_v, page_rows;
    float scale;
    enum kern_kv kv;
    const float *sinks; /* n_q floats, or NULL: none */
    size_t v_row;       /* values of a V row in a page; 0: dim_v */
};

/* Floats of scratch for n_rows rows that see `count` positions together: a score for each row, head
 * and position, and a tile of 16 keys. */
static inline size_t kern_attention_scratch(size_t n_rows, size_t n_q, size_t dim_k, size_t count)
{
    size_t tile = n_rows > 1 ? (dim_k + 15) / 16 * 256 : 0;
    return n_rows * n_q * ((count + 15) / 16 * 16) + tile;
}

typedef void kern_attention_fn(const struct kern_attention *a);

/* Stores n floats (a multiple of kv's block) as kv values; the inverse of what attention reads. */
typedef void kern_kv_store_fn(void *dst, const float *src, size_t n, enum kern_kv kv);

/* logits[0..n): *max gets the largest value, the result is log(sum exp(logit - max)) + max:
 * 16 lane accumulators (i = l mod 16) of kern_expf, kern_tree16, kern_logf. */
typedef float kern_lse_fn(const float *logits, size_t n, float *max);

/* One row of a causal depthwise convolution: y[c] = silu(a_c), a_c from 0 by
 * fma(w[c * n_taps + t], taps[t][c], a_c), t ascending; taps[t] are rows of n channels, the oldest
 * first. y may be none of the taps. */
typedef void kern_conv_silu_fn(float *y, const float *const *taps, size_t n_taps, const float *w,
                               size_t n);

/* y[i] = x[i] / (1 + kern_expf(-g[i])). y may be x or g. */
typedef void kern_sigmoid_mul_fn(float *y, const float *x, const float *g, size_t n);

/*
 * One token of a gated delta-net head. state: dim_k rows of dim_v floats, changed in place; q and
 * k: dim_k floats; v and out: dim_v floats, out none of the inputs.
 *
 * Order, one column j: s_i = state[i][j] * decay; m from 0 by fma(k[i], s_i, m), i ascending;
 * d = (v[j] - m) * beta; state[i][j] = fma(k[i], d, s_i); out[j] from 0 by
 * fma(q[i], state[i][j], out[j]), i ascending.
 */
struct kern_delta {
    float *out;
    float *state;
    const float *q, *k, *v;
    size_t dim_k, dim_v;
    float decay, beta;
};
typedef void kern_delta_fn(const struct kern_delta *a);

/* Matrix functions are indexed by kern_type number. */
#define KERN_TYPE_SLOTS 40

#define KERN_ALL_ROWS UINT32_MAX

struct kern_table {
    enum kern_isa isa;
    const char *name; /* "portable", "avx2", "avx512", "amx", "neon", "i8mm" */
    kern_matmul_fn *matmul[KERN_TYPE_SLOTS]; /* NULL: no kernel for this type */
    /* Rows that a call of matmul should have, where there are as many: fewer are dear, as it unpacks
     * the weights once a call. KERN_ALL_ROWS: it keeps what it reads in the cache itself. */
    uint32_t least_rows[KERN_TYPE_SLOTS];
    kern_quantize_fn *quantize[3]; /* by enum kern_act; [KERN_ACT_F32] copies */
    kern_rms_norm_fn *rms_norm;
    kern_rope_fn *rope;
    kern_silu_mul_fn *silu_mul;
    kern_gelu_mul_fn *gelu_mul;
    kern_swiglu_oai_fn *swiglu_oai;
    kern_softcap_fn *softcap;
    kern_add_fn *add;
    kern_axpy_fn *axpy;
    kern_scale_fn *scale;
    kern_attention_fn *attention;
    kern_kv_store_fn *kv_store;
    kern_lse_fn *lse;
    kern_conv_silu_fn *conv_silu;
    kern_sigmoid_mul_fn *sigmoid_mul;
    kern_delta_fn *delta;
};

/* The best set that this processor runs. AVX2 needs AVX2, FMA and F16C; AVX-512 needs F, BW, VL,
 * DQ and VNNI; AMX needs those, its tiles of int8 and bfloat16, and the system's permission, which
 * the first call asks for; NEON needs the dot products of Armv8.2, I8MM the matrix products of
 * 8-bit integers too. */
enum kern_isa kern_isa_best(void);

/* The set after `isa` of those that this processor runs, KERN_N_ISAS after the best. */
enum kern_isa kern_isa_next(enum kern_isa isa);

/* The set of a name, or -1. */
int kern_isa_by_name(const char *name);

/* The table of a set, or NULL where the processor cannot run it. */
const struct kern_table *kern_table_get(enum kern_isa isa);

/* How a set fills its entries over those below it; used by kernels/table.c only. */
void kern_init_matmul_portable(struct kern_table *t);
void kern_init_matmul_small_portable(struct kern_table *t);
void kern_init_matmul_k_portable(struct kern_table *t);
void kern_init_rows_portable(struct kern_table *t);
void kern_init_matmul_iq_portable(struct kern_table *t);
void kern_init_matmul_avx2(struct kern_table *t);
void kern_init_matmul_small_avx2(struct kern_table *t);
void kern_init_matmul_k_avx2(struct kern_table *t);
void kern_init_rows_avx2(struct kern_table *t);
void kern_init_matmul_iq_avx2(struct kern_table *t);
void kern_init_matmul_many_avx2(struct kern_table *t);
void kern_init_matmul_avx512(struct kern_table *t);
void kern_init_matmul_small_avx512(struct kern_table *t);
void kern_init_matmul_k_avx512(struct kern_table *t);
void kern_init_rows_avx512(struct kern_table *t);
void kern_init_matmul_iq_avx512(struct kern_table *t);
void kern_init_matmul_many_avx512(struct kern_table *t);
void kern_init_matmul_amx(struct kern_table *t);
void kern_init_matmul_k_amx(struct kern_table *t);
void kern_init_matmul_float_neon(struct kern_table *t);
void kern_init_matmul_neon(struct kern_table *t);
void kern_init_rows_neon(struct kern_table *t);
void kern_init_matmul_i8mm(struct kern_table *t);

#endif
