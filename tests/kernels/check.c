/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Checks the matrix kernels of every instruction set that this machine runs, bit for bit, against
 * a slow reference, and packing against the file's own values.
 *
 *   check_kernels [--isa NAME] [--type NAME] [--bench]
 *
 * The AMX kernels run twice where the processor has AMX: with its tiles, and with a model of them,
 * which every machine with AVX-512 runs.
 */
#include "tests/kernels/check.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/unpack.h"

#define GUARD_BITS 0x7f8badf0u /* a NaN that no kernel makes */

static unsigned n_checks, n_failures;

/* What a case multiplies; printed when it fails. */
struct shape {
    const struct kern_type_info *info;
    enum check_pattern pattern;
    uint32_t seed;
    size_t n_out, k;
};

struct product {
    const struct kern_table *table;
    size_t n_rows, ldy, x_bytes;
};

static const char *pattern_name(enum check_pattern pattern)
{
    return pattern == CHECK_RANDOM ? "random" : pattern == CHECK_EXTREME ? "extreme" : "zero";
}

static bool failed(const struct shape *s, const char *what, size_t row, size_t i, float found,
                   float expected)
{
    n_failures++;
    printf("FAIL %s %s n_out=%zu k=%zu pattern=%s seed=%u: [%zu][%zu] is %a, expected %a\n", what,
           s->info->name, s->n_out, s->k, pattern_name(s->pattern), s->seed, row, i, (double)found,
           (double)expected);
    return false;
}

static bool same(float a, float b)
{
    return memcmp(&a, &b, 4) == 0;
}

/* Guards around and between the rows are whole, the rows are the expected ones. */
static bool output_right(const struct shape *s, const struct product *p, const float *y,
                         const float *expected)
{
    size_t width = (s->n_out + 15) / 16 * 16;
    char what[64];
    snprintf(what, sizeof what, "%s rows=%zu", p->table->name, p->n_rows);
    for (size_t r = 0; r < p->n_rows; r++) {
        for (size_t i = 0; i < width; i++)
            if (!same(y[r * p->ldy + i], expected[r * width + i]))
                return failed(s, what, r, i, y[r * p->ldy + i], expected[r * width + i]);
        for (size_t i = width; i < p->ldy; i++) {
            uint32_t bits;
            memcpy(&bits, y + r * p->ldy + i, 4);
            if (bits != GUARD_BITS)
                return failed(s, "guard", r, i, y[r * p->ldy + i], 0);
        }
    }
    return true;
}

static void check_product_of(const struct shape *s, const struct product *p, const void *packed,
                             const void *x, const float *expected)
{
    size_t n = (p->n_rows + 2) * p->ldy;
    uint32_t *guarded = check_alloc(n * 4);
    for (size_t i = 0; i < n; i++)
        guarded[i] = GUARD_BITS;
    float *y = (float *)guarded + p->ldy;
    p->table->matmul[s->info->type](y, p->ldy, packed, (s->n_out + 15) / 16, x, p->x_bytes,
                                    p->n_rows, s->k);
    n_checks++;
    if (output_right(s, p, y, expected))
        for (size_t i = 0; i < p->ldy; i++)
            if (guarded[i] != GUARD_BITS || guarded[n - 1 - i] != GUARD_BITS) {
                failed(s, "outer guard", p->n_rows, i, 0, 0);
                break;
            }
    free(guarded);
}

/* Unpacked and dequantised rows are the file's values, and unpacked bytes the file's. */
static void check_packing(const struct shape *s, const uint8_t *file, const void *packed)
{
    size_t row_bytes = kern_type_bytes(s->info, s->k);
    float *unpacked = check_alloc(s->k * 4), *plain = check_alloc(s->k * 4);
    uint8_t *bytes = check_alloc(row_bytes);
    bool right = true;
    for (size_t r = 0; r < s->n_out && right; r++) {
        const uint8_t *row = file + r * row_bytes;
        kern_unpack_row(s->info, packed, r, s->k, unpacked);
        kern_dequantize(s->info, row, s->k, plain);
        kern_unpack_bytes(s->info, packed, r, s->k, bytes);
        n_checks++;
        for (size_t i = 0; i < row_bytes && right; i++)
            if (bytes[i] != row[i])
                right = failed(s, "unpack bytes", r, i, bytes[i], row[i]);
        for (size_t i = 0; i < s->k && right; i++) {
            float expected = check_value(s->info->type, row, i);
            if (!same(unpacked[i], expected))
                right = failed(s, "unpack", r, i, unpacked[i], expected);
            else if (!same(plain[i], expected))
                right = failed(s, "dequantize", r, i, plain[i], expected);
        }
    }
    free(unpacked);
    free(plain);
    free(bytes);
}

/* expected: n_rows rows of whole panels, what lies past n_out being 0. */
static void fill_expected(const struct shape *s, float *expected, const uint8_t *file,
                          const char *x, size_t x_bytes, size_t n_rows)
{
    size_t width = (s->n_out + 15) / 16 * 16, row_bytes = kern_type_bytes(s->info, s->k);
    for (size_t r = 0; r < n_rows; r++)
        for (size_t i = 0; i < width; i++)
            expected[r * width + i] =
                i < s->n_out
                    ? check_product(s->info->type, file + i * row_bytes, x + r * x_bytes, s->k)
                    : 0;
}

/* Ends with 0; the last is the largest. */
static const size_t some_rows[] = {1,  2,  3,  4,  5,  6,  7,  8,  9, 10,
                                   11, 12, 13, 14, 15, 16, 17, 33, 0};
/* What kernels that take 16 to 64 rows at once, and 512 in a pass, do with the rest. */
static const size_t many_rows[] = {24, 38, 56, 64, 85, 0};
static const size_t most_rows[] = {513, 519, 534, 0};

static size_t largest(const size_t *row_counts)
{
    size_t n = 0;
    for (; *row_counts; row_counts++)
        n = *row_counts;
    return n;
}

static void check_shape(const struct shape *s, const struct kern_table *const *tables,
                        const size_t *row_counts)
{
    size_t max_rows = largest(row_counts);
    size_t width = (s->n_out + 15) / 16 * 16;
    size_t x_bytes = kern_act_bytes(s->info->act, s->k) + s->seed % 2 * 64;
    /* One byte in, as a file gives no alignment. */
    uint8_t *memory = check_alloc(kern_type_bytes(s->info, s->n_out * s->k) + 1),
            *file = memory + 1;
    char *x = check_alloc(max_rows * x_bytes);
    void *packed = check_alloc(kern_packed_bytes(s->info, s->n_out, s->k));
    float *expected = check_alloc(max_rows * width * 4);

    check_seed(s->seed);
    check_fill_weights(s->info, file, s->n_out * s->k / s->info->block, s->pattern);
    for (size_t r = 0; r < max_rows; r++)
        check_fill_record(s->info->act, x + r * x_bytes, s->k, s->pattern);
    fill_expected(s, expected, file, x, x_bytes, max_rows);
    kern_pack(s->info, packed, file, s->n_out, s->k);

    check_packing(s, file, packed);
    for (; *tables; tables++)
        for (size_t i = 0; row_counts[i]; i++) {
            struct product p = {*tables, row_counts[i], width + s->seed % 3 * 8, x_bytes};
            /* The last of the rows, so that reading past them is reading past the memory. */
            size_t first = max_rows - p.n_rows;
            check_product_of(s, &p, packed, x + first * x_bytes, expected + first * width);
        }
    free(memory);
    free(x);
    free(packed);
    free(expected);
}

static void check_type(const struct kern_type_info *info, const struct kern_table *const *tables)
{
    static const size_t n_outs[] = {1, 16, 17, 40}, floats[] = {1, 2, 3, 4, 5, 7, 33, 64, 250};
    size_t n_k = info->block == 1 ? sizeof floats / sizeof floats[0] : 3;
    uint32_t seed = 0;
    for (size_t o = 0; o < sizeof n_outs / sizeof n_outs[0]; o++)
        for (size_t k = 0; k < n_k; k++)
            for (int pattern = 0; pattern < CHECK_PATTERNS; pattern++) {
                struct shape s = {info, (enum check_pattern)pattern, ++seed, n_outs[o],
                                  info->block == 1 ? floats[k] : (2 * k + 1) * info->block};
                check_shape(&s, tables, some_rows);
            }
    if (info->block == 1)
        return;
    /* More values, and then more rows, than a kernel that unpacks weights does at a time. */
    struct shape deep = {info, CHECK_RANDOM, ++seed, 40, info->block == 32 ? 37 * 32 : 5 * 256};
    struct shape tall = {info, CHECK_RANDOM, ++seed, 17, info->block};
    check_shape(&deep, tables, many_rows);
    check_shape(&tall, tables, most_rows);
}

/* Every instruction set, the model of the last, and a NULL. */
#define N_TABLES (KERN_N_ISAS + 2)

struct options {
    int isa; /* -1: all */
    const struct kern_type_info *type;
    bool bench;
};

static bool parse(struct options *o, int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--bench") == 0) {
            o->bench = true;
        } else if (strcmp(argv[i], "--isa") == 0 && i + 1 < argc) {
            o->isa = kern_isa_by_name(argv[++i]);
            if (o->isa < 0)
                return false;
        } else if (strcmp(argv[i], "--type") == 0 && i + 1 < argc) {
            o->type = kern_type_by_name(argv[++i]);
            if (!o->type || !o->type->packed_bytes)
                return false;
        } else {
            return false;
        }
    }
    return true;
}

/* The tables that o asks for, of those that this machine runs. */
static size_t find_tables(const struct kern_table *tables[N_TABLES], const struct options *o)
{
    size_t n = 0;
    for (int isa = 0; isa < KERN_N_ISAS; isa++)
        if ((o->isa < 0 || o->isa == isa) && kern_table_get((enum kern_isa)isa))
            tables[n++] = kern_table_get((enum kern_isa)isa);
#ifdef AMX_MODEL
    static struct kern_table model;
    if ((o->isa < 0 || o->isa == KERN_ISA_AMX) && kern_table_get(KERN_ISA_AVX512) && !o->bench) {
        model = *kern_table_get(KERN_ISA_AVX512);
        model.name = "amx model";
        check_init_matmul_amx(&model);
        check_init_matmul_k_amx(&model);
        tables[n++] = &model;
    }
#endif
    return n;
}

int main(int argc, char **argv)
{
    struct options o = {.isa = -1};
    const struct kern_table *tables[N_TABLES] = {NULL};
    size_t n_types;
    if (!parse(&o, argc, argv)) {
        fprintf(stderr, "usage: check_kernels [--isa portable|avx2|avx512|amx|neon|i8mm] "
                        "[--type NAME] [--bench]\n");
        return 2;
    }
    size_t n_tables = find_tables(tables, &o);
    if (!n_tables) {
        printf("skipped: this processor lacks the instruction set\n");
        return 77;
    }
    const struct kern_type_info *types = kern_type_all(&n_types);
    for (size_t i = 0; i < n_types; i++) {
        if (!types[i].packed_bytes || (o.type && o.type != &types[i]))
            continue;
        if (!o.bench)
            check_type(&types[i], tables);
        for (size_t t = 0; o.bench && t < n_tables; t++) {
            check_bench(tables[t], &types[i]);
            if (types[i].block == 1)
                check_bench_blas(tables[t], &types[i]);
        }
    }
    if (!o.bench)
        printf("%u checks, %u failures\n", n_checks, n_failures);
    return n_failures ? 1 : 0;
}
