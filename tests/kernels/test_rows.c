/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Each row function of each instruction set against the definition in kernels/table.h, written
 * out value by value: equality of bits, over odd widths and extreme inputs.
 */
#include "kernels/math.h"
#include "rows_check.h"

static void test_expf(void)
{
    double worst = 0;
    for (uint64_t bits = 0; bits < 0x100000000u; bits += 1009) {
        float x = kern__from_bits((uint32_t)bits), y = kern_expf(x);
        if (x != x || x < -87.33f || x > 88.72f) {
            if (!(x != x ? y != y : x < -87.4f ? y == 0 : x > 88.73f ? y == INFINITY : 1))
                CU_FAIL("expf beyond its range");
            continue;
        }
        double exact = exp((double)x);
        double ulp = ldexp(1.0, ilogb(exact) - 23);
        worst = fmax(worst, fabs((double)y - exact) / ulp);
    }
    CU_ASSERT_TRUE(worst < 2.0);
    CU_ASSERT_EQUAL(kern_expf(0.0f), 1.0f);
    CU_ASSERT_EQUAL(kern_expf(-INFINITY), 0.0f);
    CU_ASSERT_EQUAL(kern_expf(INFINITY), INFINITY);
    CU_ASSERT_EQUAL(kern_expf(88.72283f) < INFINITY, 1);
    CU_ASSERT_TRUE(kern_expf(-87.33654f) > 0.0f);
}

static void test_tree(void)
{
    float lanes[16];
    for (int i = 0; i < 16; i++)
        lanes[i] = (float)(1 << i);
    CU_ASSERT_EQUAL(kern_tree16(lanes), 65535.0f);
}

static float dot16(const float *a, const float *b, size_t n)
{
    float lanes[16] = {0};
    for (size_t i = 0; i < n; i++)
        lanes[i % 16] = fmaf(a[i], b[i], lanes[i % 16]);
    return kern_tree16(lanes);
}

static void rms_norm_reference(float *y, const float *x, const float *w, size_t width, float eps)
{
    float s = 1.0f / sqrtf(dot16(x, x, width) / (float)width + eps);
    for (size_t i = 0; i < width; i++)
        y[i] = (x[i] * s) * (w ? w[i] : 1.0f);
}

static void check_rms_norm(size_t width, enum check_input input)
{
    size_t n_groups = 1 + width % 3, n = width * n_groups;
    float *x = check_row(n, input), *w = check_row(width, input);
    float *expected = check_row(n, input), *plain = check_row(n, input);
    for (size_t g = 0; g < n_groups; g++) {
        rms_norm_reference(expected + g * width, x + g * width, w, width, 1e-5f);
        rms_norm_reference(plain + g * width, x + g * width, NULL, width, 1e-5f);
    }
    for (enum kern_isa isa = KERN_ISA_PORTABLE; isa < KERN_N_ISAS; isa = kern_isa_next(isa)) {
        const struct kern_table *t = kern_table_get(isa);
        float *y = check_copy(x, n);
        t->rms_norm(y, y, w, n_groups, width, 1e-5f);
        check_same(y, expected, n, "rms_norm in place", t->name);
        t->rms_norm(y, x, NULL, n_groups, width, 1e-5f);
        check_same(y, plain, n, "rms_norm without weights", t->name);
        free(y);
    }
    free(x);
    free(w);
    free(expected);
    free(plain);
}

static void test_rms_norm(void)
{
    check_each_case(check_rms_norm);
}

static void rope_reference(float *x, size_t n_rot, int neox, const float *cs)
{
    for (size_t i = 0; i < n_rot / 2; i++) {
        float *first = neox ? x + i : x + 2 * i, *second = neox ? first + n_rot / 2 : first + 1;
        float a = *first, b = *second, c = cs[2 * i], s = cs[2 * i + 1];
        *first = fmaf(a, c, -(b * s));
        *second = fmaf(a, s, b * c);
    }
}

static void check_rope(size_t head_dim, size_t n_rot, int neox, enum check_input input)
{
    size_t n_heads = 3, n = n_heads * head_dim;
    float *x = check_row(n, input), *cs = check_row(n_rot, INPUT_ORDINARY);
    float *expected = check_copy(x, n);
    for (size_t h = 0; h < n_heads; h++)
        rope_reference(expected + h * head_dim, n_rot, neox, cs);
    for (enum kern_isa isa = KERN_ISA_PORTABLE; isa < KERN_N_ISAS; isa = kern_isa_next(isa)) {
        const struct kern_table *t = kern_table_get(isa);
        float *y = check_copy(x, n);
        t->rope(y, n_heads, head_dim, n_rot, neox, cs);
        check_same(y, expected, n, neox ? "rope of halves" : "rope of neighbours", t->name);
        free(y);
    }
    free(x);
    free(cs);
    free(expected);
}

static void test_rope(void)
{
    static const size_t shapes[][2] = {{2, 2},   {8, 8},     {8, 4},   {80, 32},
                                       {88, 88}, {128, 128}, {64, 62}, {24, 0}};
    for (size_t s = 0; s < sizeof(shapes) / sizeof(shapes[0]); s++)
        for (enum check_input input = INPUT_ORDINARY; input < N_INPUTS; input++) {
            check_rope(shapes[s][0], shapes[s][1], 0, input);
            check_rope(shapes[s][0], shapes[s][1], 1, input);
        }
}

/* A quarter turn takes (1, 0) to (0, 1), whichever way the pairs lie. */
static void test_rope_turns(void)
{
    float cs[4] = {0.0f, 1.0f, 0.0f, 1.0f};
    for (enum kern_isa isa = KERN_ISA_PORTABLE; isa < KERN_N_ISAS; isa = kern_isa_next(isa)) {
        const struct kern_table *t = kern_table_get(isa);
        _Alignas(64) float adjacent[16] = {1.0f, 0.0f, 0.0f, 1.0f, 7.0f};
        _Alignas(64) float halves[16] = {1.0f, 0.0f, 0.0f, 1.0f, 7.0f};
        static const float turned[5] = {0.0f, 1.0f, -1.0f, 0.0f, 7.0f};
        static const float turned_halves[5] = {0.0f, -1.0f, 1.0f, 0.0f, 7.0f};
        t->rope(adjacent, 1, 5, 4, 0, cs);
        t->rope(halves, 1, 5, 4, 1, cs);
        for (int i = 0; i < 5; i++) {
            CU_ASSERT_EQUAL(adjacent[i], turned[i]);
            CU_ASSERT_EQUAL(halves[i], turned_halves[i]);
        }
    }
}

static void check_silu_mul(size_t n, enum check_input input)
{
    float *g = check_row(n, input), *u = check_row(n, input), *expected = check_row(n, input);
    float factor = input == INPUT_ORDINARY ? 1.0f : 0.75f;
    for (size_t i = 0; i < n; i++) {
        float v = g[i] * factor;
        expected[i] = v / (1.0f + kern_expf(-v)) * (u[i] * factor);
        double exact = (double)v / (1.0 + exp(-(double)v)) * (double)u[i] * (double)factor;
        if (input == INPUT_ORDINARY)
            CU_ASSERT_TRUE(fabs((double)expected[i] - exact) <= 1e-6 * fabs(exact));
    }
    for (enum kern_isa isa = KERN_ISA_PORTABLE; isa < KERN_N_ISAS; isa = kern_isa_next(isa)) {
        const struct kern_table *t = kern_table_get(isa);
        float *y = check_copy(g, n);
        t->silu_mul(y, y, u, factor, n);
        check_same(y, expected, n, "silu_mul", t->name);
        free(y);
    }
    free(g);
    free(u);
    free(expected);
}

static void test_silu_mul(void)
{
    check_each_case(check_silu_mul);
}

static float gelu_mul_value(float g, float u, float factor)
{
    float v = g * factor, h = kern_f16_to_f32(kern_f32_to_f16(v));
    float inner = fmaf(h * h, KERN_GELU_CUBE, KERN_GELU_LINE);
    float gelu = h / (1.0f + kern_expf(h * -1.0f * inner));
    gelu = v >= 10.0f ? v : kern_f16_to_f32(kern_f32_to_f16(gelu));
    return (v <= -10.0f ? 0.0f : gelu) * (u * factor);
}

static double gelu_mul_exact(double g, double u)
{
    return 0.5 * g * (1.0 + tanh(sqrt(2.0 / acos(-1.0)) * (g + 0.044715 * g * g * g))) * u;
}

static float swiglu_oai_value(float g, float u, float factor)
{
    float v = g * factor, w = u * factor;
    v = 7.0f < v ? 7.0f : v;
    w = 7.0f < w ? 7.0f : w;
    w = -7.0f > w ? -7.0f : w;
    return v / (1.0f + kern_expf(v * -1.702f)) * (w + 1.0f);
}

static double swiglu_oai_exact(double g, double u)
{
    double v = fmin(g, 7.0), w = fmax(fmin(u, 7.0), -7.0);
    return v / (1.0 + exp(-1.702 * v)) * (w + 1.0);
}

/* A gated unit: its definition, and the exact function that this is near. */
struct gate {
    const char *name;
    float (*value)(float g, float u, float factor);
    double (*exact)(double g, double u);
    double near;
};

static void check_gate(const struct gate *gate, size_t n, enum check_input input)
{
    float *g = check_row(n, input), *u = check_row(n, input), *expected = check_row(n, input);
    float factor = input == INPUT_ORDINARY ? 1.0f : 0.75f;
    for (size_t i = 0; i < n; i++) {
        g[i] *= 3.0f;
        u[i] *= 3.0f;
        expected[i] = gate->value(g[i], u[i], factor);
        double exact = gate->exact((double)g[i], (double)u[i]);
        if (input == INPUT_ORDINARY)
            CU_ASSERT_TRUE(fabs((double)expected[i] - exact) <= gate->near * (1 + fabs(exact)));
    }
    for (enum kern_isa isa = KERN_ISA_PORTABLE; isa < KERN_N_ISAS; isa = kern_isa_next(isa)) {
        const struct kern_table *t = kern_table_get(isa);
        float *y = check_copy(g, n);
        kern_silu_mul_fn *run = gate->exact == gelu_mul_exact ? t->gelu_mul : t->swiglu_oai;
        run(y, y, u, factor, n);
        check_same(y, expected, n, gate->name, t->name);
        free(y);
    }
    free(g);
    free(u);
    free(expected);
}

static void test_gates(void)
{
    static const struct gate gates[] = {{"gelu_mul", gelu_mul_value, gelu_mul_exact, 4e-3},
                                        {"swiglu_oai", swiglu_oai_value, swiglu_oai_exact, 1e-6}};
    for (size_t w = 0; w < N_CHECK_WIDTHS; w++)
        for (enum check_input input = INPUT_ORDINARY; input < N_INPUTS; input++) {
            check_gate(&gates[0], check_widths[w], input);
            check_gate(&gates[1], check_widths[w], input);
        }
}

static void check_softcap(size_t n, enum check_input input)
{
    float *x = check_row(n, input), *expected = check_row(n, input);
    for (size_t i = 0; i < n; i++) {
        x[i] *= 20.0f;
        float v = x[i] / 30.0f;
        expected[i] = 30.0f * (1.0f - 2.0f / (1.0f + kern_expf(v + v)));
        if (input == INPUT_ORDINARY)
            CU_ASSERT_DOUBLE_EQUAL(expected[i], 30.0 * tanh((double)x[i] / 30.0), 1e-5);
    }
    for (enum kern_isa isa = KERN_ISA_PORTABLE; isa < KERN_N_ISAS; isa = kern_isa_next(isa)) {
        const struct kern_table *t = kern_table_get(isa);
        float *y = check_copy(x, n);
        t->softcap(y, 30.0f, n);
        check_same(y, expected, n, "softcap", t->name);
        free(y);
    }
    free(x);
    free(expected);
}

static void test_softcap(void)
{
    check_each_case(check_softcap);
}

/* Every kind of float through the vector exp: silu(-x) * 1 shows all of it. */
static void test_exp_vectors(void)
{
    enum { N = 4096 };
    float *x = check_row(N, INPUT_ORDINARY), *ones = check_row(N, INPUT_ORDINARY);
    float *expected = check_row(N, INPUT_ORDINARY), *y = check_row(N, INPUT_ORDINARY);
    for (uint32_t round = 0; round < 512; round++) {
        for (uint32_t i = 0; i < N; i++) {
            x[i] = kern__from_bits(round << 23 | check_random() >> 9);
            ones[i] = 1.0f;
            expected[i] = x[i] / (1.0f + kern_expf(-x[i])) * 1.0f;
        }
        for (enum kern_isa isa = KERN_ISA_PORTABLE; isa < KERN_N_ISAS; isa = kern_isa_next(isa)) {
            const struct kern_table *t = kern_table_get(isa);
            t->silu_mul(y, x, ones, 1.0f, N);
            check_same(y, expected, N, "exp of one exponent", t->name);
        }
    }
    free(x);
    free(ones);
    free(expected);
    free(y);
}

static void check_add_axpy_scale(size_t n, enum check_input input)
{
    float *x = check_row(n, input), *y = check_row(n, input), s = check_value(input);
    float *sum = check_row(n, input), *fused = check_row(n, input), *scaled = check_row(n, input);
    for (size_t i = 0; i < n; i++) {
        sum[i] = y[i] + x[i];
        fused[i] = fmaf(s, x[i], y[i]);
        scaled[i] = x[i] * s;
    }
    for (enum kern_isa isa = KERN_ISA_PORTABLE; isa < KERN_N_ISAS; isa = kern_isa_next(isa)) {
        const struct kern_table *t = kern_table_get(isa);
        float *a = check_copy(y, n), *b = check_copy(y, n), *c = check_copy(x, n);
        t->add(a, x, n);
        t->axpy(b, x, s, n);
        t->scale(c, c, s, n);
        check_same(a, sum, n, "add", t->name);
        check_same(b, fused, n, "axpy", t->name);
        check_same(c, scaled, n, "scale", t->name);
        free(a);
        free(b);
        free(c);
    }
    free(x);
    free(y);
    free(sum);
    free(fused);
    free(scaled);
}

static void test_add_axpy_scale(void)
{
    check_each_case(check_add_axpy_scale);
}

static void check_lse(size_t n, enum check_input input)
{
    float *x = check_row(n, input), most = -INFINITY, lanes[16] = {0};
    double exact = 0;
    for (size_t i = 0; i < n; i++)
        most = x[i] > most ? x[i] : most;
    for (size_t i = 0; i < n; i++) {
        lanes[i % 16] += kern_expf(x[i] - most);
        exact += exp((double)x[i] - (double)most);
    }
    float expected = kern_logf(kern_tree16(lanes)) + most;
    if (input == INPUT_ORDINARY)
        CU_ASSERT_DOUBLE_EQUAL(expected, log(exact) + (double)most, 1e-5);
    for (enum kern_isa isa = KERN_ISA_PORTABLE; isa < KERN_N_ISAS; isa = kern_isa_next(isa)) {
        const struct kern_table *t = kern_table_get(isa);
        float max, found = t->lse(x, n, &max);
        CU_ASSERT_TRUE(max == most);
        check_same(&found, &expected, 1, "lse", t->name);
    }
    free(x);
}

static void test_lse(void)
{
    for (size_t w = 0; w < N_CHECK_WIDTHS; w++) {
        check_lse(check_widths[w], INPUT_ORDINARY);
        check_lse(check_widths[w], INPUT_EXTREME);
    }
}

int main(void)
{
    CU_initialize_registry();
    CU_pSuite suite = CU_add_suite("rows", NULL, NULL);
    CU_add_test(suite, "expf", test_expf);
    CU_add_test(suite, "tree", test_tree);
    CU_add_test(suite, "rms_norm", test_rms_norm);
    CU_add_test(suite, "rope", test_rope);
    CU_add_test(suite, "rope turns", test_rope_turns);
    CU_add_test(suite, "silu_mul", test_silu_mul);
    CU_add_test(suite, "gelu_mul, swiglu_oai", test_gates);
    CU_add_test(suite, "softcap", test_softcap);
    CU_add_test(suite, "exp of every exponent", test_exp_vectors);
    CU_add_test(suite, "add, axpy, scale", test_add_axpy_scale);
    CU_add_test(suite, "lse", test_lse);
    CU_basic_set_mode(CU_BRM_NORMAL);
    CU_basic_run_tests();
    unsigned failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    return failures != 0;
}
