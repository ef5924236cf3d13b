/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Products with AVX-512 of many rows of activations. 256 values of two panels are unpacked once, to
 * where the nearest cache keeps them, and all rows go past them, each with its sums in y. Rows are
 * taken six at a time by both panels: an activation is loaded once for two products, and twelve
 * sums grow side by side, more than enough to hide a product's latency of four cycles at two a
 * cycle. The last panel of an odd number is taken as both.
 *
 * What limits it on Zen 5 are the two ports that multiply: a block of 32 values takes 8 products by
 * vpdpbusd and 2 multiplications of floats for each row and panel, so 0.8 of 1.0 Tops at most.
 */
#include "kernels/x86/lanes_avx512.h"
#include "kernels/x86/unpack_avx512.h"

/* Rows at once, panels at once. */
#define ROWS   6
#define PANELS 2

/* What the types differ in, once unpacked; a constant wherever it is used. */
struct kind {
    bool small, of_16, minima;
};

/* Rows of activations at 256 values, and where their sums go. */
struct rows {
    float *y;
    size_t ldy;
    const char *x, *dx, *sums;
    size_t x_bytes, n_rows;
    size_t n_values;   /* 256 or, of types of 32 values, fewer */
    bool first;        /* whether there are no sums yet */
    const char *ahead; /* weights that come next, to_second bytes apart in the two panels: */
    size_t to_second, ahead_step; /* bytes of each to ask for beside each group of rows */
    size_t second;                /* floats from the first panel's column of y to the second's */
};

/* s += sum of words * (sum of x). */
KERN__INLINE void add_words(__m512i (*s)[PANELS], const struct kern__block *b,
                            const struct rows *at, int n)
{
    for (size_t i = 0; i < 8; i++) {
        __m512i first = b[0].words[i], second = b[1].words[i];
        for (int r = 0; r < n; r++) {
            __m512i sum = broadcast(at->sums + r * at->x_bytes + 4 * i);
            s[r][0] = _mm512_dpwssd_epi32(s[r][0], first, sum);
            s[r][1] = _mm512_dpwssd_epi32(s[r][1], second, sum);
        }
    }
}

/* t += w . x over the four vectors from v on. */
KERN__INLINE void add_products(__m512i (*t)[PANELS], const struct kern__block *b,
                               const struct rows *at, int n, size_t v)
{
    const char *x = at->x + 4 * v;
#pragma GCC unroll 4
    for (size_t j = 0; j < 4; j++) {
        __m512i first = _mm512_load_si512(b[0].w[v + j]);
        __m512i second = _mm512_load_si512(b[1].w[v + j]);
        for (int r = 0; r < n; r++) {
            __m512i q = broadcast(x + r * at->x_bytes + 4 * j);
            t[r][0] = _mm512_dpbusd_epi32(t[r][0], first, q);
            t[r][1] = _mm512_dpbusd_epi32(t[r][1], second, q);
        }
    }
}

KERN__INLINE void clear(__m512i (*s)[PANELS], int n)
{
    for (int r = 0; r < n; r++)
        s[r][0] = s[r][1] = _mm512_setzero_si512();
}

/* The sums so far. Both panels' are loaded before any is stored, as they may be the same. */
KERN__INLINE void load_sums(__m512 (*acc)[PANELS], const struct rows *at, int n)
{
    for (int r = 0; r < n; r++)
        for (size_t p = 0; p < PANELS; p++)
            acc[r][p] = at->first ? _mm512_setzero_ps()
                                  : _mm512_loadu_ps(at->y + r * at->ldy + p * at->second);
}

KERN__INLINE void store_sums(const struct rows *at, __m512 (*acc)[PANELS], int n)
{
    for (int r = 0; r < n; r++)
        for (size_t p = 0; p < PANELS; p++)
            _mm512_storeu_ps(at->y + r * at->ldy + p * at->second, acc[r][p]);
}

/* y += of n rows what a block of 256 values gives. */
KERN__INLINE void k_rows(struct kind kind, const struct kern__block *b, const struct rows *at,
                         int n)
{
    const size_t vectors = kind.of_16 ? 4 : 8;
    __m512 acc[ROWS][PANELS];
    __m512i s[ROWS][PANELS];
    clear(s, n);
    if (!kind.minima)
        add_words(s, b, at, n);
    for (size_t i = 0; i < 64 / vectors; i++) {
        __m512i t[ROWS][PANELS];
        clear(t, n);
        add_products(t, b, at, n, vectors * i);
        if (!kind.of_16)
            add_products(t, b, at, n, vectors * i + 4);
        for (int r = 0; r < n; r++)
            for (size_t p = 0; p < PANELS; p++)
                s[r][p] = _mm512_add_epi32(s[r][p], _mm512_mullo_epi32(t[r][p], b[p].scale[i]));
    }
    load_sums(acc, at, n);
    for (int r = 0; r < n; r++)
        for (size_t p = 0; p < PANELS; p++)
            acc[r][p] = accumulate(acc[r][p], b[p].d[0], at->dx + r * at->x_bytes, s[r][p]);
    if (kind.minima) {
        clear(s, n);
        add_words(s, b, at, n);
        for (int r = 0; r < n; r++)
            for (size_t p = 0; p < PANELS; p++)
                acc[r][p] = take_off(acc[r][p], b[p].m[0], at->dx + r * at->x_bytes, s[r][p]);
    }
    store_sums(at, acc, n);
}

/* y += of n rows what up to 8 blocks of 32 values give. */
KERN__INLINE void small_rows(struct kind kind, const struct kern__block *b, const struct rows *at,
                             int n)
{
    __m512 acc[ROWS][PANELS];
    int32_t sums[ROWS][8]; /* of the activations of each block, times the weights' offset */
    const __mmask8 there = (__mmask8)((1u << at->n_values / 32) - 1);
    for (int r = 0; r < n; r++) {
        __m256i pairs = _mm256_maskz_loadu_epi32(there, at->sums + r * at->x_bytes);
        _mm256_storeu_si256((__m256i *)sums[r],
                            _mm256_madd_epi16(pairs, _mm512_castsi512_si256(b[0].words[0])));
    }
    load_sums(acc, at, n);
    for (size_t i = 0; i < at->n_values / 32; i++) {
        __m512i t[ROWS][PANELS];
        for (int r = 0; r < n; r++)
            t[r][0] = t[r][1] =
                kind.minima ? _mm512_setzero_si512() : _mm512_set1_epi32(sums[r][i]);
        add_products(t, b, at, n, 8 * i);
        add_products(t, b, at, n, 8 * i + 4);
        for (int r = 0; r < n; r++)
            for (size_t p = 0; p < PANELS; p++) {
                const char *dx = at->dx + r * at->x_bytes + 4 * i;
                acc[r][p] = accumulate(acc[r][p], b[p].d[i], dx, t[r][p]);
                if (kind.minima)
                    acc[r][p] = accumulate(acc[r][p], b[p].m[i], dx, _mm512_set1_epi32(sums[r][i]));
            }
    }
    store_sums(at, acc, n);
}

KERN__INLINE void some_rows(struct kind kind, const struct kern__block *b, struct rows *at, int n)
{
    for (size_t i = 0; i < at->ahead_step; i += 64) {
        _mm_prefetch(at->ahead + i, _MM_HINT_T0);
        _mm_prefetch(at->ahead + at->to_second + i, _MM_HINT_T0);
    }
    at->ahead += at->ahead_step;
    (kind.small ? small_rows : k_rows)(kind, b, at, n);
    at->y += n * at->ldy;
    at->x += n * at->x_bytes;
    at->dx += n * at->x_bytes;
    at->sums += n * at->x_bytes;
    at->n_rows -= n;
}

/* Groups of fewer rows are slower; 8 rows are 4 and 4. */
KERN__INLINE void all_rows(struct kind kind, const struct kern__block *b, struct rows at)
{
    while (at.n_rows >= ROWS && at.n_rows != 8)
        some_rows(kind, b, &at, ROWS);
    while (at.n_rows >= 4)
        some_rows(kind, b, &at, 4);
    if (at.n_rows >= 2)
        some_rows(kind, b, &at, 2);
    if (at.n_rows)
        some_rows(kind, b, &at, 1);
}

/* Of each kind of type one function. */
static void add_small(const struct kern__block *b, struct rows at)
{
    all_rows((struct kind){.small = true}, b, at);
}

static void add_small_with_minima(const struct kern__block *b, struct rows at)
{
    all_rows((struct kind){.small = true, .minima = true}, b, at);
}

static void add_of_16(const struct kern__block *b, struct rows at)
{
    all_rows((struct kind){.of_16 = true}, b, at);
}

static void add_of_16_with_minima(const struct kern__block *b, struct rows at)
{
    all_rows((struct kind){.of_16 = true, .minima = true}, b, at);
}

static void add_of_32(const struct kern__block *b, struct rows at)
{
    all_rows((struct kind){0}, b, at);
}

static void add_of_32_with_minima(const struct kern__block *b, struct rows at)
{
    all_rows((struct kind){.minima = true}, b, at);
}

/* What a type's kernel was before this one took the products of many rows from it. */
static kern_matmul_fn *few[KERN_TYPE_SLOTS];

/* What a type has of its own. */
struct kernel {
    enum kern_type type;
    size_t packed_256, scales_256; /* bytes of 256 values: of a packed panel, of a row's scales */
    void (*add)(const struct kern__block *b, struct rows at);
};

/* A panel of k values, at w, and the one after it, second floats away in y, if it is not last. */
static void run_panels(const struct kernel *kernel, struct rows at, const char *w, size_t k)
{
    struct kern__block b[PANELS];
    at.to_second = at.second ? k * kernel->packed_256 / 256 : 0;
    at.ahead_step = (kernel->packed_256 * ROWS / at.n_rows + 63) / 64 * 64;
    for (size_t i = 0; i < k; i += 256, w += kernel->packed_256) {
        at.n_values = k - i < 256 ? k - i : 256;
        const bool last = i + 256 >= k;
        at.first = i == 0;
        at.ahead = w + kernel->packed_256 + (last ? at.to_second : 0);
        kern__unpack[kernel->type](&b[0], w, at.n_values);
        kern__unpack[kernel->type](&b[1], w + at.to_second, at.n_values);
        kernel->add(b, at);
        at.x += 256;
        at.dx += kernel->scales_256;
        at.sums += 32;
    }
}

static void run(const struct kernel *kernel, float *y, size_t ldy, const char *w, size_t n_panels,
                const char *x, size_t x_bytes, size_t n_rows, size_t k)
{
    const size_t panel_bytes = k * kernel->packed_256 / 256;
    const char *dx = x + k, *sums = dx + k * kernel->scales_256 / 256;
    struct rows at = {
        .ldy = ldy, .x = x, .dx = dx, .sums = sums, .x_bytes = x_bytes, .n_rows = n_rows};
    for (size_t p = 0; p < n_panels; p += PANELS) {
        at.y = y + KERN_PANEL * p;
        at.second = p + 1 < n_panels ? KERN_PANEL : 0;
        run_panels(kernel, at, w + p * panel_bytes, k);
    }
}

/* With fewer rows, unpacking costs more than it brings. */
#define LEAST_ROWS 24

/* With more in a call, a product takes up to a tenth less time; sums of so many stay in the first
 * cache. */
#define CALL_ROWS 224

/* LEAST_ROWS of the IQ types, whose fewer rows go one by one. */
#define LEAST_IQ  3
#define LEAST_IQ1 2

#define MATMUL(name, NAME, least, packed_256, scales_256, add)                                     \
    static void matmul_##name(float *y, size_t ldy, const void *w, size_t n_panels, const void *x, \
                              size_t x_bytes, size_t n_rows, size_t k)                             \
    {                                                                                              \
        static const struct kernel kernel = {KERN_##NAME, packed_256, scales_256, add};            \
        if (n_rows < (least))                                                                      \
            few[KERN_##NAME](y, ldy, w, n_panels, x, x_bytes, n_rows, k);                          \
        else                                                                                       \
            run(&kernel, y, ldy, w, n_panels, x, x_bytes, n_rows, k);                              \
    }

#define SMALL(name, NAME, add)            MATMUL(name, NAME, LEAST_ROWS, 8 * KERN__##NAME##_BYTES, 32, add)
#define K(name, NAME, add)                MATMUL(name, NAME, LEAST_ROWS, KERN__##NAME##_BYTES, 4, add)
#define IQ(name, NAME, least, bytes, add) MATMUL(name, NAME, least, KERN_PANEL *(bytes), 4, add)

SMALL(q8_0, Q8_0, add_small)
SMALL(q4_0, Q4_0, add_small)
SMALL(q4_1, Q4_1, add_small_with_minima)
SMALL(q5_0, Q5_0, add_small)
SMALL(q5_1, Q5_1, add_small_with_minima)
SMALL(iq4_nl, IQ4_NL, add_small)
SMALL(mxfp4, MXFP4, add_small)
K(q2_k, Q2_K, add_of_16_with_minima)
K(q3_k, Q3_K, add_of_16)
K(q4_k, Q4_K, add_of_32_with_minima)
K(q5_k, Q5_K, add_of_32_with_minima)
K(q6_k, Q6_K, add_of_16)
K(iq4_xs, IQ4_XS, add_of_32)
IQ(iq1_s, IQ1_S, LEAST_IQ1, 50, add_of_32)
IQ(iq1_m, IQ1_M, LEAST_IQ1, 56, add_of_16)
IQ(iq2_xxs, IQ2_XXS, LEAST_IQ, 66, add_of_32)
IQ(iq2_xs, IQ2_XS, LEAST_IQ, 74, add_of_16)
IQ(iq2_s, IQ2_S, LEAST_IQ, 82, add_of_16)
IQ(iq3_xxs, IQ3_XXS, LEAST_IQ, 98, add_of_32)
IQ(iq3_s, IQ3_S, LEAST_IQ, 110, add_of_32)

static void replace(struct kern_table *t, enum kern_type type, kern_matmul_fn *matmul)
{
    few[type] = t->matmul[type];
    t->matmul[type] = matmul;
    t->least_rows[type] = CALL_ROWS;
}

void kern_init_matmul_many_avx512(struct kern_table *t)
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
    replace(t, KERN_IQ1_S, matmul_iq1_s);
    replace(t, KERN_IQ1_M, matmul_iq1_m);
    replace(t, KERN_IQ2_XXS, matmul_iq2_xxs);
    replace(t, KERN_IQ2_XS, matmul_iq2_xs);
    replace(t, KERN_IQ2_S, matmul_iq2_s);
    replace(t, KERN_IQ3_XXS, matmul_iq3_xxs);
    replace(t, KERN_IQ3_S, matmul_iq3_s);
}
