/* SPDX-License-Identifier: Apache-2.0 */
/* Float products through OpenBLAS: near the sum in double, within their rows, of one result. */
#include <CUnit/Basic.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/blas.h"
#include "tests/kernels/check.h"

#define GUARD   0x7f8badf0u /* a NaN that no product makes */
#define THREADS 4u
#define ROUNDS  40u

static const enum kern_type types[] = {KERN_F32, KERN_F16, KERN_BF16};

struct product {
    const struct kern_type_info *info;
    size_t n_out, k, n_rows, n_panels, ldy, x_bytes;
    uint8_t *file;
    char *x;
    void *packed;
};

static void make(struct product *p, enum kern_type type, size_t n_out, size_t k, size_t n_rows)
{
    *p = (struct product){.info = kern_type_find(type), .n_out = n_out, .k = k, .n_rows = n_rows};
    p->n_panels = (n_out + 15) / 16;
    p->ldy = p->n_panels * 16 + 8;
    p->x_bytes = kern_act_bytes(KERN_ACT_F32, k) + 64;
    p->file = check_alloc(kern_type_bytes(p->info, n_out * k));
    p->x = check_alloc(n_rows * p->x_bytes);
    p->packed = check_alloc(kern_packed_bytes(p->info, n_out, k));
    check_seed((uint32_t)(n_out * 31 + k * 7 + n_rows));
    check_fill_weights(p->info, p->file, n_out * k, CHECK_RANDOM);
    for (size_t r = 0; r < n_rows; r++)
        check_fill_record(KERN_ACT_F32, p->x + r * p->x_bytes, k, CHECK_RANDOM);
    kern_pack(p->info, p->packed, p->file, n_out, k);
}

static void finish(struct product *p)
{
    free(p->file);
    free(p->x);
    free(p->packed);
}

/* Panels [first, end) into y, which has the first row's first value. */
static void multiply(const struct product *p, float *y, size_t first, size_t end)
{
    const char *panels = (const char *)p->packed + first * kern_panel_bytes(p->info, p->k);
    kern_blas_matmul(p->info, y + first * 16, p->ldy, panels, end - first, p->x, p->x_bytes,
                     p->n_rows, p->k);
}

/* Rows with a guard before, between and after. */
static uint32_t *make_output(const struct product *p)
{
    size_t n = (p->n_rows + 2) * p->ldy;
    uint32_t *y = check_alloc(n * 4);
    for (size_t i = 0; i < n; i++)
        y[i] = GUARD;
    return y;
}

static bool guards_whole(const struct product *p, const uint32_t *y)
{
    for (size_t r = 0; r < p->n_rows + 2; r++)
        for (size_t i = 0; i < p->ldy; i++) {
            bool outside = r == 0 || r == p->n_rows + 1 || i >= p->n_panels * 16;
            if (outside && y[r * p->ldy + i] != GUARD)
                return false;
        }
    return true;
}

/* Whatever their order, k products and as many additions in floats are off by at most about
 * k 2^-24 of the sum of magnitudes; what lies past the matrix is 0. */
static bool value_right(const struct product *p, size_t row, size_t i, float found)
{
    const float *x = (const float *)(p->x + row * p->x_bytes);
    const uint8_t *w = p->file + i * kern_type_bytes(p->info, p->k);
    double sum = 0, size = 0;
    if (i >= p->n_out)
        return found == 0;
    for (size_t e = 0; e < p->k; e++) {
        double part = (double)check_value(p->info->type, w, e) * (double)x[e];
        sum += part;
        size += fabs(part);
    }
    return fabs((double)found - sum) <= (double)(p->k + 2) * 0x1p-24 * size;
}

static void check_shape(enum kern_type type, size_t n_out, size_t k, size_t n_rows)
{
    struct product p;
    make(&p, type, n_out, k, n_rows);
    uint32_t *words = make_output(&p);
    float *y = (float *)words + p.ldy;
    multiply(&p, y, 0, p.n_panels);
    bool right = guards_whole(&p, words);
    for (size_t r = 0; r < n_rows; r++)
        for (size_t i = 0; i < p.n_panels * 16; i++)
            right = right && value_right(&p, r, i, y[r * p.ldy + i]);
    if (!right)
        printf("\n    %s n_out=%zu k=%zu rows=%zu", p.info->name, n_out, k, n_rows);
    CU_ASSERT(right);
    free(words);
    finish(&p);
}

static void test_values(void)
{
    static const size_t n_outs[] = {1, 16, 17, 128, 129, 300}, ks[] = {1, 3, 255, 256, 257, 530},
                        rows[] = {1, 2, 3, 33};
    for (size_t t = 0; t < 3; t++)
        for (size_t o = 0; o < sizeof n_outs / sizeof n_outs[0]; o++)
            for (size_t k = 0; k < sizeof ks / sizeof ks[0]; k++)
                for (size_t r = 0; r < sizeof rows / sizeof rows[0]; r++)
                    check_shape(types[t], n_outs[o], ks[k], rows[r]);
}

/* The same bits however the groups of panels are shared out. */
static void test_cuts(void)
{
    for (size_t t = 0; t < 3; t++) {
        struct product p;
        make(&p, types[t], 16 * 27 - 3, 600, 70);
        uint32_t *whole = make_output(&p), *parts = make_output(&p);
        multiply(&p, (float *)whole + p.ldy, 0, p.n_panels);
        static const size_t ends[] = {0, 8, 24, 27};
        for (size_t i = 3; i > 0; i--)
            multiply(&p, (float *)parts + p.ldy, ends[i - 1], ends[i]);
        CU_ASSERT(memcmp(whole, parts, (p.n_rows + 2) * p.ldy * 4) == 0);
        free(whole);
        free(parts);
        finish(&p);
    }
}

struct repeat {
    const struct product *p;
    const uint32_t *expected;
    unsigned n_wrong;
};

static void *repeat(void *arg)
{
    struct repeat *job = arg;
    const struct product *p = job->p;
    for (unsigned i = 0; i < ROUNDS; i++) {
        uint32_t *y = make_output(p);
        multiply(p, (float *)y + p->ldy, 0, p->n_panels);
        job->n_wrong += memcmp(y, job->expected, (p->n_rows + 2) * p->ldy * 4) != 0;
        free(y);
    }
    return NULL;
}

static void test_threads(void)
{
    struct product p;
    make(&p, KERN_F32, 128, 50, 16);
    uint32_t *expected = make_output(&p);
    multiply(&p, (float *)expected + p.ldy, 0, p.n_panels);
    struct repeat jobs[THREADS];
    pthread_t threads[THREADS];
    for (unsigned i = 0; i < THREADS; i++) {
        jobs[i] = (struct repeat){.p = &p, .expected = expected};
        CU_ASSERT_EQUAL_FATAL(pthread_create(&threads[i], NULL, repeat, &jobs[i]), 0);
    }
    for (unsigned i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        CU_ASSERT_EQUAL(jobs[i].n_wrong, 0);
    }
    free(expected);
    finish(&p);
}

/* Only floats, and only where the table's own kernels are slower. */
static void test_rule(void)
{
    for (int isa = KERN_ISA_PORTABLE; isa <= KERN_ISA_AMX; isa++) {
        const struct kern_table *table = kern_table_get((enum kern_isa)isa);
        if (!table)
            continue;
        bool used = isa <= KERN_ISA_AVX2;
        CU_ASSERT_EQUAL(kern_blas_min_rows(table, KERN_Q8_0), SIZE_MAX);
        for (size_t t = 0; t < 3; t++)
            CU_ASSERT_EQUAL(kern_blas_min_rows(table, types[t]) != SIZE_MAX, used);
        if (used)
            CU_ASSERT(kern_blas_min_rows(table, KERN_F32) > 1);
    }
}

int main(void)
{
    if (kern_blas_min_rows(kern_table_get(KERN_ISA_PORTABLE), KERN_F32) == SIZE_MAX) {
        printf("skipped: this OpenBLAS is not made for callers with threads\n");
        return 77;
    }
    CU_initialize_registry();
    CU_pSuite suite = CU_add_suite("blas", NULL, NULL);
    CU_add_test(suite, "values", test_values);
    CU_add_test(suite, "cuts", test_cuts);
    CU_add_test(suite, "threads", test_threads);
    CU_add_test(suite, "rule", test_rule);
    CU_basic_set_mode(CU_BRM_NORMAL);
    CU_basic_run_tests();
    unsigned bad = CU_get_number_of_failures();
    CU_cleanup_registry();
    return bad > 0;
}
