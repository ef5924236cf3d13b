/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/kernels/check.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

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
};

/* Best time of a call over a third of a second, at least three calls. */
static double best_time(const struct bench *b)
{
    double best = 1e9, end = now() + 0.3;
    for (int calls = 0; calls < 3 || now() < end; calls++) {
        double start = now();
        b->matmul(b->y, b->n_panels * 16, b->packed, b->n_panels, b->x, b->x_bytes, b->n_rows, K);
        double time = now() - start;
        best = time < best ? time : best;
    }
    return best;
}

/* Seconds of a product of a matrix of about `bytes` with n_rows rows; *n_out gets its rows. */
static double measure(const struct kern_table *table, const struct kern_type_info *info,
                      size_t bytes, size_t n_rows, size_t *n_out, double *pack_time)
{
    size_t panel = kern_panel_bytes(info, K);
    struct bench b = {.info = info,
                      .matmul = table->matmul[info->type],
                      .n_panels = bytes / panel,
                      .x_bytes = kern_act_bytes(info->act, K),
                      .n_rows = n_rows};
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
    double time = measure(table, info, cached, 1, &n_out, &pack);
    printf("%-8s %-5s", table->name, info->name);
    printf("  one row: %6.1f GB/s cached", (double)kern_packed_bytes(info, n_out, K) / time / 1e9);
    time = measure(table, info, large, 1, &n_out, &pack);
    printf(", %5.1f GB/s memory", (double)kern_packed_bytes(info, n_out, K) / time / 1e9);
    double packed_rate = (double)kern_type_bytes(info, n_out * K) / pack / 1e9;
    time = measure(table, info, cached, 256, &n_out, &pack);
    printf("  256 rows: %7.1f Gop/s", 2.0 * 256 * (double)n_out * K / time / 1e9);
    if (table->isa == KERN_ISA_PORTABLE)
        printf("  pack: %5.2f GB/s", packed_rate);
    printf("\n");
}
