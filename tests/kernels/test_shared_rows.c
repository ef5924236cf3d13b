/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Attention whose values are the starts of its keys' rows gives the bits of attention over a copy
 * of those values.
 */
#include "rows_check.h"

#define PAGE_ROWS 8u
#define POSITIONS 29u
#define PAGES     4u
#define N_Q       5u

static void store(const struct kern_table *t, void *page, size_t slot, const float *x, size_t n,
                  enum kern_kv kv)
{
    t->kv_store((char *)page + slot * kern_kv_bytes(kv, n), x, n, kv);
}

static void check(const struct kern_table *t, size_t dim_k, size_t dim_v, enum kern_kv kv)
{
    void *k[PAGES], *v[PAGES];
    float *q = check_row(N_Q * dim_k, INPUT_ORDINARY), *row = check_row(dim_k, INPUT_ORDINARY);
    float *shared = check_row(N_Q * dim_v, INPUT_ORDINARY);
    float *apart = check_row(N_Q * dim_v, INPUT_ORDINARY), *scores = check_row(N_Q * 32, 0);
    for (size_t p = 0; p < PAGES; p++) {
        k[p] = malloc(PAGE_ROWS * kern_kv_bytes(kv, dim_k));
        v[p] = malloc(PAGE_ROWS * kern_kv_bytes(kv, dim_v));
    }
    for (size_t j = 0; j < POSITIONS; j++) {
        for (size_t i = 0; i < dim_k; i++)
            row[i] = check_value(INPUT_ORDINARY);
        store(t, k[j / PAGE_ROWS], j % PAGE_ROWS, row, dim_k, kv);
        store(t, v[j / PAGE_ROWS], j % PAGE_ROWS, row, dim_v, kv);
    }
    struct kern_attention a = {.out = apart,
                               .q = q,
                               .spans = &(struct kern_span){3, POSITIONS - 1},
                               .n_rows = 1,
                               .k_pages = (const void *const *)k,
                               .v_pages = (const void *const *)v,
                               .scores = scores,
                               .n_q = N_Q,
                               .dim_k = dim_k,
                               .dim_v = dim_v,
                               .page_rows = PAGE_ROWS,
                               .scale = 0.2f,
                               .kv = kv};
    t->attention(&a);
    a.out = shared;
    a.v_pages = a.k_pages;
    a.v_row = dim_k;
    t->attention(&a);
    check_same(shared, apart, N_Q * dim_v, "attention over shared rows", t->name);
    for (size_t p = 0; p < PAGES; p++) {
        free(k[p]);
        free(v[p]);
    }
    free(q);
    free(row);
    free(shared);
    free(apart);
    free(scores);
}

static void test_shared(void)
{
    static const size_t dims[][2] = {{48, 32}, {64, 32}, {40, 33}, {576, 512}, {90, 70}, {5, 3}};
    for (enum kern_isa isa = KERN_ISA_PORTABLE; isa < KERN_N_ISAS; isa = kern_isa_next(isa)) {
        for (size_t i = 0; i < sizeof(dims) / sizeof(dims[0]); i++) {
            for (enum kern_kv kv = KERN_KV_F32; kv < KERN_N_KV; kv++) {
                if (dims[i][0] % kern_kv_block(kv) == 0 && dims[i][1] % kern_kv_block(kv) == 0)
                    check(kern_table_get(isa), dims[i][0], dims[i][1], kv);
            }
        }
    }
}

int main(void)
{
    CU_initialize_registry();
    CU_pSuite suite = CU_add_suite("shared rows", NULL, NULL);
    CU_add_test(suite, "values at the start of keys", test_shared);
    CU_basic_set_mode(CU_BRM_VERBOSE);
    CU_basic_run_tests();
    int failures = (int)CU_get_number_of_failures();
    CU_cleanup_registry();
    return failures != 0;
}
