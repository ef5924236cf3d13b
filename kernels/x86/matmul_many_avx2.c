/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Products with AVX2 of many rows of activations. 256 values of a panel are unpacked once, to where
 * the nearest cache keeps them, and all rows go past them, three at a time by both halves of the
 * panel, each with its sums in y.
 *
 * maddubs multiplies unsigned by signed bytes and adds pairs into 16 bits, saturating: `adds` of a
 * type is how many of them stay within 2^15 together (2 * 127 * the largest weight each). One
 * product of words (madd) then scales and widens them. Weights of 8 bits would allow one: those
 * become words, and so do the activations.
 */
#include "kernels/x86/unpack_avx2.h"

#define ROWS 3
/* Panels that share activations as words. */
#define PANELS 2

/* What the types differ in, once unpacked; constant wherever it is used. adds 0: words. */
struct kind {
    bool small, of_16, minima;
    size_t adds;
};

/* Rows of activations at 256 values, and where their sums go. */
struct rows {
    float *y;
    size_t ldy;
    const char *x, *dx, *sums;
    size_t x_bytes, n_rows;
    size_t n_values;   /* 256 or, of types of 32 values, fewer */
    bool first;        /* whether there are no sums yet */
    const char *ahead; /* weights that come next, and how many bytes to ask for beside each group
                          of rows */
    size_t ahead_step;
    size_t n_panels, panel_bytes; /* from one panel to the next; y's is beside it */
};

/* v, made here and now: a compiler that sees many products and their sums makes all the products
 * first and runs out of registers. */
KERN__INLINE __m256i in_order(__m256i v)
{
    __asm__("" : "+x"(v));
    return v;
}

/* s += scale * (w . x) over `adds` vectors of bytes. */
KERN__INLINE void add_bytes(__m256i (*s)[HALVES], const uint8_t (*w)[64], const __m256i *scale,
                            const char *x, size_t x_bytes, int n, size_t adds)
{
    __m256i t[ROWS][HALVES];
#pragma GCC unroll 8
    for (size_t j = 0; j < adds; j++) {
        __m256i low = load((const char *)w[j]), high = load((const char *)w[j] + 32);
        for (int r = 0; r < n; r++) {
            __m256i q = broadcast(x + r * x_bytes + 4 * j);
            __m256i first = _mm256_maddubs_epi16(low, q), second = _mm256_maddubs_epi16(high, q);
            t[r][0] = in_order(j ? _mm256_add_epi16(t[r][0], first) : first);
            t[r][1] = in_order(j ? _mm256_add_epi16(t[r][1], second) : second);
        }
    }
    for (int r = 0; r < n; r++)
        for (int h = 0; h < HALVES; h++)
            s[r][h] = in_order(_mm256_add_epi32(s[r][h], _mm256_madd_epi16(t[r][h], scale[h])));
}

/* s += w . x over 16 vectors of words; x: activations as words. */
KERN__INLINE void add_words(__m256i (*s)[HALVES], const int16_t (*w)[32], const int16_t (*x)[256],
                            int n)
{
#pragma GCC unroll 16
    for (size_t j = 0; j < 16; j++) {
        __m256i low = load((const char *)w[j]), high = load((const char *)(w[j] + 16));
        for (int r = 0; r < n; r++) {
            __m256i q = broadcast((const char *)(x[r] + 2 * j));
            s[r][0] = in_order(_mm256_add_epi32(s[r][0], _mm256_madd_epi16(low, q)));
            s[r][1] = in_order(_mm256_add_epi32(s[r][1], _mm256_madd_epi16(high, q)));
        }
    }
}

/* s += sum of offsets * (sum of x). */
KERN__INLINE void add_offsets(__m256i (*s)[HALVES], const struct block *b, const struct rows *at,
                              int n)
{
    for (size_t i = 0; i < 8; i++)
        for (int r = 0; r < n; r++) {
            __m256i sum = broadcast(at->sums + r * at->x_bytes + 4 * i);
            for (int h = 0; h < HALVES; h++)
                s[r][h] =
                    in_order(_mm256_add_epi32(s[r][h], _mm256_madd_epi16(b->offsets[i][h], sum)));
        }
}

/* The activations of a block as words. */
KERN__INLINE void widen_rows(int16_t (*to)[256], const struct rows *at, int n)
{
    for (int r = 0; r < n; r++)
        for (size_t i = 0; i < at->n_values; i += 16) {
            const char *from = at->x + r * at->x_bytes + i;
            _mm256_store_si256((__m256i *)(to[r] + i),
                               _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)from)));
        }
}

/* s += S * (w . x) over the 32 values from 32 * i on. */
KERN__INLINE void add_32(struct kind kind, __m256i (*s)[HALVES], const struct block *b,
                         const struct rows *at, const int16_t (*wide)[256], int n, size_t i)
{
    if (!kind.adds) {
        __m256i t[ROWS][HALVES];
        const int16_t(*x)[256] = (const int16_t(*)[256])(wide[0] + 32 * i);
        if (kind.small) {
            add_words(s, b->words + 16 * i, x, n);
            return;
        }
        clear_sums(t, n);
        add_words(t, b->words + 16 * i, x, n);
        for (int r = 0; r < n; r++)
            for (int h = 0; h < HALVES; h++)
                s[r][h] = _mm256_add_epi32(s[r][h], _mm256_mullo_epi32(t[r][h], b->scale[i][h]));
        return;
    }
#pragma GCC unroll 8
    for (size_t v = 8 * i; v < 8 * i + 8; v += kind.adds)
        add_bytes(s, b->bytes + v,
                  b->scale[kind.small   ? 0
                           : kind.of_16 ? v / 4
                                        : i],
                  at->x + 4 * v, at->x_bytes, n, kind.adds);
}

KERN__INLINE __m256 add_float(__m256 acc, __m256 d, const char *dx, __m256i s)
{
    return _mm256_fmadd_ps(_mm256_mul_ps(d, broadcast_float(dx)), _mm256_cvtepi32_ps(s), acc);
}

KERN__INLINE void load_sums(__m256 (*acc)[HALVES], const struct rows *at, int n)
{
    for (int r = 0; r < n; r++)
        for (int h = 0; h < HALVES; h++)
            acc[r][h] =
                at->first ? _mm256_setzero_ps() : _mm256_loadu_ps(at->y + r * at->ldy + 8 * h);
}

/* y += of n rows what a block of 256 values gives. */
KERN__INLINE void k_rows(struct kind kind, const struct block *b, const struct rows *at,
                         const int16_t (*wide)[256], int n)
{
    __m256 acc[ROWS][HALVES];
    __m256i s[ROWS][HALVES];
    clear_sums(s, n);
    if (!kind.minima && kind.adds)
        add_offsets(s, b, at, n);
    for (size_t i = 0; i < 8; i++)
        add_32(kind, s, b, at, wide, n, i);
    load_sums(acc, at, n);
    for (int r = 0; r < n; r++)
        for (int h = 0; h < HALVES; h++)
            acc[r][h] = add_float(acc[r][h], b->d[0][h], at->dx + r * at->x_bytes, s[r][h]);
    if (kind.minima) {
        clear_sums(s, n);
        add_offsets(s, b, at, n);
        for (int r = 0; r < n; r++)
            for (int h = 0; h < HALVES; h++) {
                __m256 scale = broadcast_float(at->dx + r * at->x_bytes);
                acc[r][h] = _mm256_fnmadd_ps(_mm256_mul_ps(b->m[0][h], scale),
                                             _mm256_cvtepi32_ps(s[r][h]), acc[r][h]);
            }
    }
    store(at->y, at->ldy, acc, n);
}

/* y += of n rows what up to 8 blocks of 32 values give. */
KERN__INLINE void small_rows(struct kind kind, const struct block *b, const struct rows *at,
                             const int16_t (*wide)[256], int n)
{
    __m256 acc[ROWS][HALVES];
    int32_t sums[ROWS][8]; /* of the activations of each block, times the weights' offset */
    const __m256i there = _mm256_cmpgt_epi32(_mm256_set1_epi32((int)at->n_values / 32),
                                             _mm256_set_epi32(7, 6, 5, 4, 3, 2, 1, 0));
    for (int r = 0; r < n; r++) {
        __m256i pairs =
            _mm256_maskload_epi32((const int *)(const void *)(at->sums + r * at->x_bytes), there);
        _mm256_storeu_si256((__m256i *)sums[r], _mm256_madd_epi16(pairs, b->offsets[0][0]));
    }
    load_sums(acc, at, n);
    for (size_t i = 0; i < at->n_values / 32; i++) {
        __m256i s[ROWS][HALVES];
        for (int r = 0; r < n; r++)
            s[r][0] = s[r][1] =
                kind.minima || !kind.adds ? _mm256_setzero_si256() : _mm256_set1_epi32(sums[r][i]);
        add_32(kind, s, b, at, wide, n, i);
        for (int r = 0; r < n; r++)
            for (int h = 0; h < HALVES; h++) {
                const char *dx = at->dx + r * at->x_bytes + 4 * i;
                acc[r][h] = add_float(acc[r][h], b->d[i][h], dx, s[r][h]);
                if (kind.minima)
                    acc[r][h] = add_float(acc[r][h], b->m[i][h], dx, _mm256_set1_epi32(sums[r][i]));
            }
    }
    store(at->y, at->ldy, acc, n);
}

KERN__INLINE void some_rows(struct kind kind, const struct block *b, struct rows *at, int n)
{
    _Alignas(32) int16_t wide[ROWS][256];
    if (!kind.adds)
        widen_rows(wide, at, n);
    for (size_t p = 0; p < (kind.adds ? 1 : at->n_panels); p++) {
        struct rows panel = *at;
        panel.y += p * KERN_PANEL;
        for (size_t i = 0; i < at->ahead_step; i += 64)
            _mm_prefetch(at->ahead + p * at->panel_bytes + i, _MM_HINT_T0);
        (kind.small ? small_rows : k_rows)(kind, &b[p], &panel, (const int16_t(*)[256])wide, n);
    }
    at->ahead += at->ahead_step;
    at->y += n * at->ldy;
    at->x += n * at->x_bytes;
    at->dx += n * at->x_bytes;
    at->sums += n * at->x_bytes;
    at->n_rows -= (size_t)n;
}

KERN__INLINE void all_rows(struct kind kind, const struct block *b, struct rows at)
{
    while (at.n_rows >= ROWS && at.n_rows != 4)
        some_rows(kind, b, &at, ROWS);
    while (at.n_rows >= 2)
        some_rows(kind, b, &at, 2);
    if (at.n_rows)
        some_rows(kind, b, &at, 1);
}

/* What a type has of its own. */
struct kernel {
    size_t packed_256, scales_256; /* bytes of 256 values: of a packed panel, of a row's scales */
    size_t n_panels;               /* at once */
    void (*unpack)(struct block *to, const char *w, size_t n_values);
    void (*add)(const struct block *b, struct rows at);
};

static void run(const struct kernel *kernel, float *y, size_t ldy, const char *w, size_t n_panels,
                const char *x, size_t x_bytes, size_t n_rows, size_t k)
{
    const size_t step = (kernel->packed_256 * ROWS / n_rows + 63) / 64 * 64;
    const size_t panel_bytes = k * kernel->packed_256 / 256;
    for (size_t p = 0, n; p < n_panels; p += n, w += n * panel_bytes) {
        n = kernel->n_panels < n_panels - p ? kernel->n_panels : n_panels - p;
        for (size_t i = 0; i < k; i += 256) {
            const char *from = w + i * kernel->packed_256 / 256;
            const char *dx = x + k, *sums = dx + k * kernel->scales_256 / 256;
            struct block b[PANELS];
            struct rows at = {.y = y + KERN_PANEL * p,
                              .ldy = ldy,
                              .x = x + i,
                              .dx = dx + i * kernel->scales_256 / 256,
                              .sums = sums + i / 8,
                              .x_bytes = x_bytes,
                              .n_rows = n_rows,
                              .n_values = k - i < 256 ? k - i : 256,
                              .first = i == 0,
                              .ahead = from + kernel->packed_256,
                              .ahead_step = step,
                              .n_panels = n,
                              .panel_bytes = panel_bytes};
            for (size_t j = 0; j < n; j++)
                kernel->unpack(&b[j], from + j * panel_bytes, at.n_values);
            kernel->add(b, at);
        }
    }
}

/* What a type's kernel was before this one took the products of many rows from it. */
static kern_matmul_fn *few[KERN_TYPE_SLOTS];

/* With fewer rows, unpacking costs more than it brings. */
#define LEAST_ROWS  8
#define LEAST_WORDS 64 /* of types whose weights become words */

#define MATMUL(name, NAME, packed_256, scales_256, is_small)                                       \
    static void add_##name(const struct block *b, struct rows at)                                  \
    {                                                                                              \
        const struct kind kind = {is_small, scales_of_16(KERN_##NAME), has_minima(KERN_##NAME),    \
                                  adds_of(KERN_##NAME)};                                           \
        all_rows(kind, b, at);                                                                     \
    }                                                                                              \
    static void matmul_##name(float *y, size_t ldy, const void *w, size_t n_panels, const void *x, \
                              size_t x_bytes, size_t n_rows, size_t k)                             \
    {                                                                                              \
        const struct kernel kernel = {packed_256, scales_256, adds_of(KERN_##NAME) ? 1 : PANELS,   \
                                      unpack_##name, add_##name};                                  \
        if (n_rows < (adds_of(KERN_##NAME) ? LEAST_ROWS : LEAST_WORDS))                            \
            few[KERN_##NAME](y, ldy, w, n_panels, x, x_bytes, n_rows, k);                          \
        else                                                                                       \
            run(&kernel, y, ldy, w, n_panels, x, x_bytes, n_rows, k);                              \
    }

#define SMALL(name, NAME, qh)                                                                      \
    static void unpack_##name(struct block *to, const char *w, size_t n_values)                    \
    {                                                                                              \
        small_unpack(KERN_##NAME, KERN__##NAME##_BYTES, KERN__##NAME##_QS, qh, to, w, n_values);   \
    }                                                                                              \
    MATMUL(name, NAME, 8 * KERN__##NAME##_BYTES, 32, true)

#define K(name, NAME)                                                                              \
    static void unpack_##name(struct block *to, const char *w, size_t n_values)                    \
    {                                                                                              \
        (void)n_values;                                                                            \
        k_unpack(KERN_##NAME, to, w);                                                              \
    }                                                                                              \
    MATMUL(name, NAME, KERN__##NAME##_BYTES, 4, false)

SMALL(q8_0, Q8_0, 0)
SMALL(q4_0, Q4_0, 0)
SMALL(q4_1, Q4_1, 0)
SMALL(q5_0, Q5_0, KERN__Q5_0_QH)
SMALL(q5_1, Q5_1, KERN__Q5_1_QH)
SMALL(iq4_nl, IQ4_NL, 0)
SMALL(mxfp4, MXFP4, 0)
K(q2_k, Q2_K)
K(q3_k, Q3_K)
K(q4_k, Q4_K)
K(q5_k, Q5_K)
K(q6_k, Q6_K)
K(iq4_xs, IQ4_XS)

static void replace(struct kern_table *t, enum kern_type type, kern_matmul_fn *matmul)
{
    few[type] = t->matmul[type];
    t->matmul[type] = matmul;
}

void kern_init_matmul_many_avx2(struct kern_table *t)
{
    replace(t, KERN_Q8_0, matmul_q8_0);
    replace(t, KERN_Q4_0, matmul_q4_0);
    replace(t, KERN_Q4_1, matmul_q4_1);
    replace(t, KERN_Q5_0, matmul_q5_0);
    replace(t, KERN_Q5_1, matmul_q5_1);
    replace(t, KERN_IQ4_NL, matmul_iq4_nl);
    replace(t, KERN_MXFP4, matmul_mxfp4);
    replace(t, KERN_Q2_K, matmul_q2_k);
    replace(t, KERN_Q3_K, matmul_q3_k);
    replace(t, KERN_Q4_K, matmul_q4_k);
    replace(t, KERN_Q5_K, matmul_q5_k);
    replace(t, KERN_Q6_K, matmul_q6_k);
    replace(t, KERN_IQ4_XS, matmul_iq4_xs);
    /* Of large K, 1.13 times as fast as with half of that. */
    t->least_rows[KERN_Q8_0] = t->least_rows[KERN_IQ4_NL] = t->least_rows[KERN_IQ4_XS] = 112;
}
