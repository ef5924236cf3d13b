/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Attention of each instruction set against the definition in kernels/table.h, written out value
 * by value (equality of bits), and that definition against softmax attention in double.
 */
#include "kernels/math.h"
#include "kv_check.h"
#include "rows_check.h"

struct shape {
    size_t n_q, dim_k, dim_v, page_rows, first, last; /* of all rows */
    size_t n_rows;                                    /* 0: 1 */
    size_t window; /* positions that a row sees; 0: all from the first */
    enum kern_kv kv;
    enum check_input input;
    int has_sinks;
};

/* A KV head's pages, each allocated to the byte, and the same values as floats by position. */
struct pages {
    void **pages;
    float *values;
    size_t n_pages;
};

static struct pages make_pages(const struct shape *s, size_t dim)
{
    size_t n_pages = s->last / s->page_rows + 1, n = n_pages * s->page_rows * dim;
    struct pages p = {calloc(n_pages, sizeof(void *)), check_row(n, s->input), n_pages};
    for (size_t i = 0; i < n && s->kv == KERN_KV_F16; i++)
        p.values[i] = kern_f16_to_f32(kern_f32_to_f16(p.values[i]));
    for (size_t page = s->first / s->page_rows; page < n_pages; page++) {
        size_t page_values = s->page_rows * dim;
        p.pages[page] = malloc(kern_kv_bytes(s->kv, page_values));
        float *from = p.values + page * page_values;
        if (s->kv == KERN_KV_Q8_0 || s->kv == KERN_KV_Q4_0)
            kv_check_store(p.pages[page], from, page_values, s->kv);
        else if (s->kv == KERN_KV_F32)
            memcpy(p.pages[page], from, page_values * sizeof(float));
        for (size_t i = 0; i < page_values && s->kv == KERN_KV_F16; i++)
            ((uint16_t *)p.pages[page])[i] = kern_f32_to_f16(from[i]);
    }
    return p;
}

static void free_pages(struct pages *p)
{
    for (size_t i = 0; i < p->n_pages; i++)
        free(p->pages[i]);
    free(p->pages);
    free(p->values);
}

static float dot16(const float *a, const float *b, size_t n)
{
    float lanes[16] = {0};
    for (size_t i = 0; i < n; i++)
        lanes[i % 16] = fmaf(a[i], b[i], lanes[i % 16]);
    return kern_tree16(lanes);
}

static size_t rows_of(const struct shape *s)
{
    return s->n_rows ? s->n_rows : 1;
}

/* Each row sees one position more than the row before, the last all up to the last. */
static struct kern_span span_of(const struct shape *s, size_t row)
{
    size_t last = s->last + 1 + row - rows_of(s), first = s->first;
    if (s->window && last + 1 > s->window + first)
        first = last + 1 - s->window;
    return (struct kern_span){first, last};
}

/* One query head of a row that sees `span`. */
static void reference(float *out, const struct shape *s, struct kern_span span, const float *q,
                      const float *k, const float *v, float scale, const float *sink)
{
    size_t count = span.last - span.first + 1;
    float *p = malloc(count * sizeof(float)), most = -INFINITY, lanes[16] = {0};
    for (size_t j = 0; j < count; j++) {
        p[j] = dot16(q, k + (span.first + j) * s->dim_k, s->dim_k) * scale;
        most = p[j] > most ? p[j] : most;
    }
    most = sink && *sink > most ? *sink : most;
    for (size_t j = 0; j < count; j++) {
        p[j] = kern_expf(p[j] - most);
        lanes[j % 16] += p[j];
    }
    float sum = kern_tree16(lanes), inverse = 1.0f / (sink ? sum + kern_expf(*sink - most) : sum);
    for (size_t i = 0; i < s->dim_v; i++) {
        float acc = 0;
        for (size_t j = 0; j < count; j++)
            acc = fmaf(p[j], v[(span.first + j) * s->dim_v + i], acc);
        out[i] = acc * inverse;
    }
    free(p);
}

/* How far one head's output is from softmax attention in double, against the largest value. */
static double distance(const float *out, const struct shape *s, struct kern_span span,
                       const float *q, const float *k, const float *v, float scale,
                       const float *sink)
{
    double *sums = calloc(s->dim_v, sizeof(double)), total = sink ? exp((double)*sink) : 0;
    double worst = 0;
    for (size_t j = span.first; j <= span.last; j++) {
        double dot = 0;
        for (size_t i = 0; i < s->dim_k; i++)
            dot += (double)q[i] * (double)k[j * s->dim_k + i];
        double p = exp(dot * (double)scale);
        total += p;
        for (size_t i = 0; i < s->dim_v; i++)
            sums[i] += p * (double)v[j * s->dim_v + i];
    }
    for (size_t i = 0; i < s->dim_v; i++)
        worst = fmax(worst, fabs((double)out[i] - sums[i] / total));
    free(sums);
    return worst / 4.0;
}

/* What the rows should get; rows lie out_ld and q_ld apart. */
static void expect(float *expected, size_t out_ld, const struct shape *s, const float *q,
                   size_t q_ld, const float *k, const float *v, float scale, const float *sinks)
{
    for (size_t i = 0; i < rows_of(s) * s->n_q; i++) {
        size_t row = i / s->n_q, h = i % s->n_q;
        struct kern_span span = span_of(s, row);
        float *head = expected + row * out_ld + h * s->dim_v;
        const float *from = q + row * q_ld + h * s->dim_k, *sink = s->has_sinks ? sinks + h : NULL;
        reference(head, s, span, from, k, v, scale, sink);
        if (s->input == INPUT_ORDINARY)
            CU_ASSERT_TRUE(distance(head, s, span, from, k, v, scale, sink) < 1e-5);
    }
}

static void check(const struct shape *s)
{
    struct pages k = make_pages(s, s->dim_k), v = make_pages(s, s->dim_v);
    size_t n_rows = rows_of(s), first = span_of(s, 0).first;
    size_t out_ld = s->n_q * s->dim_v + 3, q_ld = s->n_q * s->dim_k + 5, n = n_rows * out_ld;
    size_t room = kern_attention_scratch(n_rows, s->n_q, s->dim_k, s->last - first + 1);
    float *q = check_row(n_rows * q_ld, s->input), *out = check_row(n, INPUT_ORDINARY);
    float *scores = check_row(room, INPUT_NOT_FINITE), *expected = calloc(n, sizeof(float));
    float scale = 1.0f / sqrtf((float)s->dim_k), *sinks = check_row(s->n_q, s->input);
    struct kern_span spans[KERN_ATTENTION_ROWS];
    for (size_t row = 0; row < n_rows; row++)
        spans[row] = span_of(s, row);
    expect(expected, out_ld, s, q, q_ld, k.values, v.values, scale, sinks);
    for (enum kern_isa isa = KERN_ISA_PORTABLE; isa < KERN_N_ISAS; isa = kern_isa_next(isa)) {
        const struct kern_table *t = kern_table_get(isa);
        char what[160];
        snprintf(what, sizeof(what),
                 "attention rows %zu n_q %zu dims %zu %zu pages %zu of %zu..%zu kv %d", n_rows,
                 s->n_q, s->dim_k, s->dim_v, s->page_rows, s->first, s->last, (int)s->kv);
        struct kern_attention a = {.out = out,
                                   .out_ld = out_ld,
                                   .q = q,
                                   .q_ld = q_ld,
                                   .spans = spans,
                                   .n_rows = n_rows,
                                   .scores = scores,
                                   .k_pages = (const void *const *)k.pages,
                                   .v_pages = (const void *const *)v.pages,
                                   .n_q = s->n_q,
                                   .dim_k = s->dim_k,
                                   .dim_v = s->dim_v,
                                   .page_rows = s->page_rows,
                                   .scale = scale,
                                   .kv = s->kv,
                                   .sinks = s->has_sinks ? sinks : NULL};
        memset(out, 0, n * sizeof(float));
        t->attention(&a);
        check_same(out, expected, n, what, t->name);
    }
    free_pages(&k);
    free_pages(&v);
    free(q);
    free(out);
    free(scores);
    free(expected);
    free(sinks);
}

static void check_kinds(struct shape s)
{
    for (s.kv = KERN_KV_F32; s.kv < KERN_N_KV; s.kv++)
        for (s.input = INPUT_ORDINARY; s.input <= INPUT_EXTREME; s.input++)
            if (s.dim_k % kern_kv_block(s.kv) == 0 && s.dim_v % kern_kv_block(s.kv) == 0)
                check(&s);
}

static void test_sinks(void)
{
    for (size_t n_q = 1; n_q <= 20; n_q++)
        check_kinds((struct shape){.n_q = n_q,
                                   .dim_k = 24,
                                   .dim_v = 40,
                                   .page_rows = 32,
                                   .first = n_q,
                                   .last = 3 * n_q,
                                   .has_sinks = 1});
}

static void test_dims(void)
{
    for (size_t dim = 1; dim <= 70; dim++)
        check_kinds((struct shape){.n_q = 1 + dim % 6,
                                   .dim_k = dim,
                                   .dim_v = 71 - dim,
                                   .page_rows = 32,
                                   .first = 3,
                                   .last = 68});
    static const size_t dims[] = {32, 64, 80, 88, 96, 112, 128, 160, 192, 256};
    for (size_t i = 0; i < sizeof(dims) / sizeof(dims[0]); i++)
        for (size_t n_q = 1; n_q <= 5; n_q += 4)
            check_kinds((struct shape){.n_q = n_q,
                                       .dim_k = dims[i],
                                       .dim_v = dims[i],
                                       .page_rows = 32,
                                       .first = 0,
                                       .last = 99});
}

static void test_heads(void)
{
    for (size_t n_q = 1; n_q <= 20; n_q++)
        check_kinds((struct shape){
            .n_q = n_q, .dim_k = 24, .dim_v = 40, .page_rows = 32, .first = 0, .last = 40});
    for (size_t n_q = 1; n_q <= 20; n_q++)
        check_kinds((struct shape){
            .n_q = n_q, .dim_k = 96, .dim_v = 32, .page_rows = 32, .first = 0, .last = 40});
    check_kinds((struct shape){
        .n_q = 33, .dim_k = 16, .dim_v = 16, .page_rows = 32, .first = 5, .last = 77});
}

/* Ranges that begin and end anywhere in a page; pages before the first are absent. */
static void test_ranges(void)
{
    for (size_t first = 0; first < 70; first += 7)
        for (size_t last = first; last < first + 70; last += 3)
            check_kinds((struct shape){
                .n_q = 5, .dim_k = 16, .dim_v = 24, .page_rows = 32, .first = first, .last = last});
    for (size_t first = 0; first < 70; first += 9)
        for (size_t last = first; last < first + 70; last += 5)
            check_kinds((struct shape){
                .n_q = 5, .dim_k = 32, .dim_v = 96, .page_rows = 32, .first = first, .last = last});
    check_kinds(
        (struct shape){.n_q = 2, .dim_k = 8, .dim_v = 8, .page_rows = 1, .first = 2, .last = 20});
    check_kinds((struct shape){
        .n_q = 4, .dim_k = 128, .dim_v = 128, .page_rows = 32, .first = 17, .last = 1100});
}

/* Rows that share their keys, with and without a window. */
static void test_rows(void)
{
    for (size_t n_rows = 2; n_rows <= KERN_ATTENTION_ROWS; n_rows += 1 + n_rows / 4)
        for (size_t window = 0; window <= 40; window += 20)
            check_kinds((struct shape){.n_q = 1 + n_rows % 5,
                                       .dim_k = 32,
                                       .dim_v = 64,
                                       .page_rows = 32,
                                       .first = n_rows,
                                       .last = 70 + n_rows,
                                       .n_rows = n_rows,
                                       .window = window});
    for (size_t dim = 1; dim <= 70; dim++)
        check_kinds((struct shape){.n_q = 1 + dim % 6,
                                   .dim_k = dim,
                                   .dim_v = 71 - dim,
                                   .page_rows = 1 + dim,
                                   .first = 3,
                                   .last = 60,
                                   .n_rows = 1 + dim % 7,
                                   .has_sinks = dim % 2});
    check_kinds((struct shape){.n_q = 20,
                               .dim_k = 576,
                               .dim_v = 512,
                               .page_rows = 32,
                               .last = 50,
                               .n_rows = KERN_ATTENTION_ROWS});
}

/* With one position the output is its value, whatever the query. */
static void test_one_position(void)
{
    struct shape s = {.n_q = 1, .dim_k = 8, .dim_v = 8, .page_rows = 32, .kv = KERN_KV_F32};
    struct pages k = make_pages(&s, 8), v = make_pages(&s, 8);
    float *q = check_row(8, INPUT_ORDINARY), *out = check_row(8, INPUT_ORDINARY);
    float *scores = check_row(16, INPUT_ORDINARY);
    for (enum kern_isa isa = KERN_ISA_PORTABLE; isa < KERN_N_ISAS; isa = kern_isa_next(isa)) {
        const struct kern_table *t = kern_table_get(isa);
        struct kern_attention a = {.out = out,
                                   .q = q,
                                   .spans = &(struct kern_span){0, 0},
                                   .n_rows = 1,
                                   .scores = scores,
                                   .k_pages = (const void *const *)k.pages,
                                   .v_pages = (const void *const *)v.pages,
                                   .n_q = 1,
                                   .dim_k = 8,
                                   .dim_v = 8,
                                   .page_rows = 32,
                                   .scale = 0.5f,
                                   .kv = KERN_KV_F32};
        t->attention(&a);
        check_same(out, v.values, 8, "attention to one position", t->name);
    }
    free_pages(&k);
    free_pages(&v);
    free(q);
    free(out);
    free(scores);
}

int main(void)
{
    CU_initialize_registry();
    CU_pSuite suite = CU_add_suite("attention", NULL, NULL);
    CU_add_test(suite, "dims", test_dims);
    CU_add_test(suite, "heads", test_heads);
    CU_add_test(suite, "sinks", test_sinks);
    CU_add_test(suite, "ranges", test_ranges);
    CU_add_test(suite, "rows", test_rows);
    CU_add_test(suite, "one position", test_one_position);
    CU_basic_set_mode(CU_BRM_NORMAL);
    CU_basic_run_tests();
    unsigned failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    return failures != 0;
}
