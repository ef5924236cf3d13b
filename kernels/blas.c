/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A packed panel of floats is a matrix of k rows of 16 columns, so OpenBLAS could multiply by it as
 * it lies. But it copies the other operand anew in each call, so some panels' columns are put side
 * by side first, in a tile that stays in the cache; halves become floats on the way.
 *
 * OpenBLAS is called by many threads at once. Debian builds it in three ways: "serial" hands the
 * same buffer to two callers at times (it has no lock: on two cores one product in sixty was
 * wrong), "pthread" starts a thread for each processor as soon as the program starts, "openmp" does
 * neither. So the build asks for the last; with the first this file is never used.
 */
#include "kernels/blas.h"

#include <assert.h>
#include <cblas.h>
#include <pthread.h>
#include <string.h>

#include "kernels/math.h"

/* Columns of the weights, values of a row of x, that are multiplied at a time. */
#define COLUMNS (KERN_BLAS_PANELS * KERN_PANEL)
#define DEPTH   256u

static void widen_f32(float *out, const char *values)
{
    memcpy(out, values, KERN_PANEL * sizeof *out);
}

static void widen_f16(float *out, const char *values)
{
    uint16_t half[KERN_PANEL];
    memcpy(half, values, sizeof half);
    for (size_t i = 0; i < KERN_PANEL; i++)
        out[i] = kern__half(half[i]);
}

static void widen_bf16(float *out, const char *values)
{
    uint16_t half[KERN_PANEL];
    memcpy(half, values, sizeof half);
    for (size_t i = 0; i < KERN_PANEL; i++)
        out[i] = kern__from_bits((uint32_t)half[i] << 16);
}

/* tile[i * width + 16p + lane] = value i of that lane of panel p, width being 16 * n_panels. */
static void fill_tile(float *tile, const struct kern_type_info *info, const char *w,
                      size_t n_panels, size_t panel_bytes, size_t depth)
{
    size_t width = n_panels * KERN_PANEL, bytes = info->packed_bytes;
    for (size_t p = 0; p < n_panels; p++)
        for (size_t i = 0; i < depth; i++) {
            float *out = tile + i * width + p * KERN_PANEL;
            const char *values = w + p * panel_bytes + i * bytes;
            if (info->type == KERN_F16)
                widen_f16(out, values);
            else if (info->type == KERN_BF16)
                widen_bf16(out, values);
            else
                widen_f32(out, values);
        }
}

/* With OpenMP the number of threads is a property of the calling thread; setting it is not safe in
 * two threads at once. */
static void use_one_thread(void)
{
    static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
    static _Thread_local bool done;
    if (done)
        return;
    pthread_mutex_lock(&mutex);
    openblas_set_num_threads(1);
    pthread_mutex_unlock(&mutex);
    done = true;
}

/* By the set alone, not measured at load, so that a cluster computes the same tomorrow. Measured
 * with check_kernels --bench on Zen 5, where OpenBLAS 0.3.21 takes its AVX2 kernels; Gop/s of a
 * core with 2048 values a row, ours / OpenBLAS's:
 *
 *   rows              2         32         64        256        512
 *   portable  1.4 /  12  1.4 /  66  1.4 /  82  1.4 / 100  1.4 / 100   (halves 0.7 /  8 to  99)
 *   avx2       55 /   7   78 /  66   77 /  84   76 / 102   73 /  94   (halves  77 /  7 to  99)
 *   avx512    100 /  10  188 /  67  185 /  83  173 /  99  173 /  96
 *
 * Told to take its AVX-512 kernels, it reaches 200 at best, as ours do. */
size_t kern_blas_min_rows(const struct kern_table *table, enum kern_type type)
{
    bool is_float = type == KERN_F32 || type == KERN_F16 || type == KERN_BF16;
    if (!is_float || openblas_get_parallel() == OPENBLAS_SEQUENTIAL)
        return SIZE_MAX;
    switch (table->isa) {
    case KERN_ISA_PORTABLE:
        return 2;
    case KERN_ISA_AVX2:
        return 64;
    default:
        return SIZE_MAX;
    }
}

void kern_blas_matmul(const struct kern_type_info *info, float *y, size_t ldy, const void *w,
                      size_t n_panels, const void *x, size_t x_bytes, size_t n_rows, size_t k)
{
    size_t panel_bytes = kern_panel_bytes(info, k);
    float tile[COLUMNS * DEPTH];
    assert(info->block == 1);
    use_one_thread();
    for (size_t p = 0; p < n_panels; p += KERN_BLAS_PANELS) {
        size_t panels = n_panels - p < KERN_BLAS_PANELS ? n_panels - p : KERN_BLAS_PANELS;
        int width = (int)(panels * KERN_PANEL);
        const char *from = (const char *)w + p * panel_bytes;
        for (size_t i = 0; i < k; i += DEPTH) {
            size_t depth = k - i < DEPTH ? k - i : DEPTH;
            fill_tile(tile, info, from + i * info->packed_bytes, panels, panel_bytes, depth);
            cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)n_rows, width, (int)depth,
                        1, (const float *)x + i, (int)(x_bytes / sizeof(float)), tile, width,
                        i ? 1.0f : 0.0f, y + p * KERN_PANEL, (int)ldy);
        }
    }
}

const char *kern_blas_name(void)
{
    return openblas_get_corename();
}
