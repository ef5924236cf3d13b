/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The gated delta-net's row functions of each instruction set against their definitions in
 * kernels/table.h: equality of bits, over odd widths and extreme inputs.
 */
#include "kernels/math.h"
#include "rows_check.h"

static float silu(float v)
{
    return v / (1.0f + kern_expf(-v));
}

static void check_conv(size_t n, size_t n_taps, enum check_input input)
{
    float *taps[8], *w = check_row(n * n_taps, input), *expected = check_row(n, input);
    for (size_t t = 0; t < n_taps; t++)
        taps[t] = check_row(n, input);
    for (size_t c = 0; c < n; c++) {
        float sum = 0.0f;
        for (size_t t = 0; t < n_taps; t++)
            sum = fmaf(w[c * n_taps + t], taps[t][c], sum);
        expected[c] = silu(sum);
    }
    for (enum kern_isa isa = KERN_ISA_PORTABLE; isa < KERN_N_ISAS; isa = kern_isa_next(isa)) {
        const struct kern_table *table = kern_table_get(isa);
        float *y = check_row(n, INPUT_ORDINARY);
        table->conv_silu(y, (const float *const *)taps, n_taps, w, n);
        check_same(y, expected, n, "conv_silu", table->name);
        free(y);
    }
    for (size_t t = 0; t < n_taps; t++)
        free(taps[t]);
    free(w);
    free(expected);
}

static void test_conv(void)
{
    for (size_t i = 0; i < N_CHECK_WIDTHS; i++)
        for (enum check_input input = INPUT_ORDINARY; input < N_INPUTS; input++)
            check_conv(check_widths[i], 1 + i % 5, input);
}

static void test_sigmoid_mul(void)
{
    for (size_t w = 0; w < N_CHECK_WIDTHS; w++) {
        for (enum check_input input = INPUT_ORDINARY; input < N_INPUTS; input++) {
            size_t n = check_widths[w];
            float *x = check_row(n, input), *g = check_row(n, input);
            float *expected = check_row(n, input);
            for (size_t i = 0; i < n; i++)
                expected[i] = x[i] / (1.0f + kern_expf(-g[i]));
            for (enum kern_isa isa = KERN_ISA_PORTABLE; isa < KERN_N_ISAS;
                 isa = kern_isa_next(isa)) {
                const struct kern_table *t = kern_table_get(isa);
                float *y = check_copy(x, n);
                t->sigmoid_mul(y, y, g, n);
                check_same(y, expected, n, "sigmoid_mul", t->name);
                free(y);
            }
            free(x);
            free(g);
            free(expected);
        }
    }
}

static void delta_reference(const struct kern_delta *a)
{
    for (size_t j = 0; j < a->dim_v; j++) {
        float mem = 0.0f, out = 0.0f, *s = a->state + j;
        for (size_t i = 0; i < a->dim_k; i++)
            mem = fmaf(a->k[i], s[i * a->dim_v] * a->decay, mem);
        float d = (a->v[j] - mem) * a->beta;
        for (size_t i = 0; i < a->dim_k; i++) {
            s[i * a->dim_v] = fmaf(a->k[i], d, s[i * a->dim_v] * a->decay);
            out = fmaf(a->q[i], s[i * a->dim_v], out);
        }
        a->out[j] = out;
    }
}

static void check_delta(size_t dim_k, size_t dim_v, enum check_input input)
{
    size_t n = dim_k * dim_v;
    float *state = check_row(n, input), *wanted = check_copy(state, n);
    float *q = check_row(dim_k, input), *k = check_row(dim_k, input), *v = check_row(dim_v, input);
    float *expected = check_row(dim_v, input);
    struct kern_delta a = {.out = expected,
                           .state = wanted,
                           .q = q,
                           .k = k,
                           .v = v,
                           .dim_k = dim_k,
                           .dim_v = dim_v,
                           .decay = 0.75f,
                           .beta = 0.3f};
    delta_reference(&a);
    for (enum kern_isa isa = KERN_ISA_PORTABLE; isa < KERN_N_ISAS; isa = kern_isa_next(isa)) {
        const struct kern_table *t = kern_table_get(isa);
        a.out = check_row(dim_v, INPUT_ORDINARY);
        a.state = check_copy(state, n);
        t->delta(&a);
        check_same(a.out, expected, dim_v, "delta's output", t->name);
        check_same(a.state, wanted, n, "delta's state", t->name);
        free(a.out);
        free(a.state);
    }
    free(state);
    free(wanted);
    free(q);
    free(k);
    free(v);
    free(expected);
}

static void test_delta(void)
{
    static const size_t shapes[][2] = {{1, 1},   {3, 5},   {16, 16},  {32, 32},
                                       {24, 70}, {64, 88}, {128, 128}};
    for (size_t s = 0; s < sizeof(shapes) / sizeof(shapes[0]); s++)
        for (enum check_input input = INPUT_ORDINARY; input < N_INPUTS; input++)
            check_delta(shapes[s][0], shapes[s][1], input);
}

/* What was stored under a unit key comes back by a query for that key, and a second value under
 * it takes the first one's place. */
static void test_memory(void)
{
    for (enum kern_isa isa = KERN_ISA_PORTABLE; isa < KERN_N_ISAS; isa = kern_isa_next(isa)) {
        _Alignas(64) float state[4 * 16] = {0}, key[16] = {0.0f, 1.0f}, out[16];
        _Alignas(64) float first[16], second[16];
        for (size_t i = 0; i < 16; i++) {
            first[i] = (float)i;
            second[i] = 7.0f - (float)i;
        }
        struct kern_delta a = {.out = out,
                               .state = state,
                               .q = key,
                               .k = key,
                               .v = first,
                               .dim_k = 4,
                               .dim_v = 16,
                               .decay = 1.0f,
                               .beta = 1.0f};
        kern_table_get(isa)->delta(&a);
        CU_ASSERT(memcmp(out, first, sizeof out) == 0);
        a.v = second;
        kern_table_get(isa)->delta(&a);
        CU_ASSERT(memcmp(out, second, sizeof out) == 0);
    }
}

static void test_softplus(void)
{
    for (float x = -60.0f; x < 60.0f; x += 0.37f) {
        double exact = log1p(exp((double)x));
        CU_ASSERT(fabs((double)kern_softplusf(x) - exact) <= 1e-7 * exact);
    }
    CU_ASSERT_EQUAL(kern_softplusf(INFINITY), INFINITY);
    CU_ASSERT_EQUAL(kern_softplusf(-INFINITY), 0.0f);
    CU_ASSERT_EQUAL(kern_sigmoidf(0.0f), 0.5f);
}

int main(void)
{
    CU_initialize_registry();
    CU_pSuite suite = CU_add_suite("delta", NULL, NULL);
    CU_add_test(suite, "conv_silu", test_conv);
    CU_add_test(suite, "sigmoid_mul", test_sigmoid_mul);
    CU_add_test(suite, "delta", test_delta);
    CU_add_test(suite, "a state remembers", test_memory);
    CU_add_test(suite, "softplus", test_softplus);
    CU_basic_set_mode(CU_BRM_VERBOSE);
    CU_basic_run_tests();
    int failures = (int)CU_get_number_of_failures();
    CU_cleanup_registry();
    return failures != 0;
}
