/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/kernels/check.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "kernels/blas.h"

#define K 2048u

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

struct bench {
    const struct kern_type_info *info;
    kern_matmul_fn *matmul;
    void *packed, *x;
    float *y;
    size_t n_panels, x_bytes, n_rows;
    size_t block; /* rows of a call */
};

/* All rows once, in calls of a block. */
static void multiply(const struct bench *b)
{
    size_t ldy = b->n_panels * 16;
    for (size_t r = 0; r < b->n_rows; r += b->block) {
        size_t n = b->n_rows - r < b->block ? b->n_rows - r : b->block;
        const char *x = (const char *)b->x + r * b->x_bytes;
        if (b->matmul)
            b->matmul(b->y + r * ldy, ldy, b->packed, b->n_panels, x, b->x_bytes, n, K);
        else
            kern_blas_matmul(b->info, b->y + r * ldy, ldy, b->packed, b->n_panels, x, b->x_bytes, n,
                             K);
    }
}

/* Best time of a call over a third of a second, at least three calls. */
static double best_time(const struct bench *b)
{
    double best = 1e9, end = now() + 0.3;
    for (int calls = 0; calls < 3 || now() < end; calls++) {
        double start = now();
        multiply(b);
        double time = now() - start;
        best = time < best ? time : best;
    }
    return best;
}

/* Seconds of a product of a matrix of about `bytes` with n_rows rows, `block` in a call, by the
 * table or else (NULL) by OpenBLAS; *n_out gets the matrix's rows. */
static double measure(const struct kern_table *table, const struct kern_type_info *info,
                      size_t bytes, size_t n_rows, size_t block, size_t *n_out, double *pack_time)
{
    size_t panel = kern_panel_bytes(info, K);
    struct bench b = {.info = info,
                      .matmul = table ? table->matmul[info->type] : NULL,
                      .n_panels = bytes / panel,
                      .x_bytes = kern_act_bytes(info->act, K),
                      .n_rows = n_rows,
                      .block = block};
    *n_out = b.n_panels * 16;
    uint8_t *file = check_alloc(kern_type_bytes(info, *n_out * K));
    b.packed = check_alloc(b.n_panels * panel);
    b.x = check_alloc(n_rows * b.x_bytes);
    b.y = check_alloc(n_rows * *n_out * 4);
    size_t some = kern_type_bytes(info, 16 * K), all = kern_type_bytes(info, *n_out * K);
    check_fill_weights(info, file, 16 * K / info->block, CHECK_RANDOM);
    for (size_t i = some; i < all; i++)
        file[i] = file[i - some];
    for (size_t r = 0; r < n_rows; r++)
        check_fill_record(info->act, (char *)b.x + r * b.x_bytes, K, CHECK_RANDOM);
    kern_pack(info, b.packed, file, *n_out, K);
    double start = now();
    kern_pack(info, b.packed, file, *n_out, K);
    *pack_time = now() - start;
    double time = best_time(&b);
    free(file);
    free(b.packed);
    free(b.x);
    free(b.y);
    return time;
}

void check_bench(const struct kern_table *table, const struct kern_type_info *info)
{
    size_t cached = 384u << 10, large = 256u << 20, n_out;
    double pack;
    double time = measure(table, info, cached, 1, 1, &n_out, &pack);
    printf("%-8s %-5s", table->name, info->name);
    printf("  one row: %6.1f GB/s cached", (double)kern_packed_bytes(info, n_out, K) / time / 1e9);
    time = measure(table, info, large, 1, 1, &n_out, &pack);
    printf(", %5.1f GB/s memory", (double)kern_packed_bytes(info, n_out, K) / time / 1e9);
    double packed_rate = (double)kern_type_bytes(info, n_out * K) / pack / 1e9;
    time = measure(table, info, cached, 256, 256, &n_out, &pack);
    printf("  256 rows: %7.1f Gop/s", 2.0 * 256 * (double)n_out * K / time / 1e9);
    if (table->isa == KERN_ISA_PORTABLE)
        printf("  pack: %5.2f GB/s", packed_rate);
    printf("\n");
}

/* Of a product that runs at the speed of arithmetic: a matrix of 1024 rows; the table's kernels get
 * as many rows at a time as the executor gives them. */
static double float_rate(const struct kern_table *table, const struct kern_type_info *info,
                         size_t n_rows)
{
    size_t n_out, bytes = kern_packed_bytes(info, 1024, K), block = table ? 32 : n_rows;
    double pack, time = measure(table, info, bytes, n_rows, block, &n_out, &pack);
    return 2.0 * (double)n_rows * (double)n_out * K / time / 1e9;
}

void check_bench_blas(const struct kern_table *table, const struct kern_type_info *info)
{
    static const size_t rows[] = {2, 8, 32, 64, 128, 256, 512};
    size_t least = kern_blas_min_rows(table, info->type);
    if (!*kern_blas_name())
        return;
    printf("%-8s %-5s  Gop/s of its own / of OpenBLAS (%s):", table->name, info->name,
           kern_blas_name());
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        printf("%s %zu rows %.1f / %.1f", i ? "," : "", rows[i], float_rate(table, info, rows[i]),
               float_rate(NULL, info, rows[i]));
    if (least == SIZE_MAX)
        printf("; never used\n");
    else
        printf("; used from %zu rows on\n", least);
}
