/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How the x86 matrix kernels walk a product. Private to this folder.
 *
 * A kernel NAME_rows(y, ldy, w, x, x_bytes, k, n) multiplies one panel by n rows, where n is a
 * constant at every call: it is inlined once for each row count, its small arrays become registers
 * and its loops over rows vanish. Many rows share the loads and the unpacking of the panel. A row's
 * additions are the same in each of them.
 */
#ifndef KERNELS_X86_MATMUL_H
#define KERNELS_X86_MATMUL_H

#include <immintrin.h>
#include <string.h>

#include "kernels/pack.h"
#include "kernels/table.h"

#define KERN__INLINE static inline __attribute__((always_inline))

/* Asks for the block that lies `blocks` further on, in the next panel maybe. One row waits for
 * memory alone; the processor's own prefetching loses its way in blocks that are not read in
 * order. */
KERN__INLINE void kern__prefetch(const char *w, size_t block_bytes, size_t blocks)
{
    for (size_t i = 0; i < block_bytes; i += 64)
        _mm_prefetch(w + block_bytes * blocks + i, _MM_HINT_T0);
}

/* Asks for one of `parts` parts of the panel after this one: while many rows are multiplied by a
 * panel, memory has nothing else to do. */
KERN__INLINE void kern__prefetch_part(const char *panel, size_t panel_bytes, size_t part,
                                      size_t parts)
{
    const char *next = panel + panel_bytes;
    for (size_t i = panel_bytes * part / parts; i < panel_bytes * (part + 1) / parts; i += 64)
        _mm_prefetch(next + i, _MM_HINT_T1);
}

/* Four activations, or two sums, as one lane. */
KERN__INLINE int32_t kern__load_lane(const void *from)
{
    int32_t lane;
    memcpy(&lane, from, 4);
    return lane;
}

/* Defines matmul_NAME: each panel by rows in groups of g1, then g2, then 1. */
#define KERN__MATMUL(name, block, packed_bytes, g1, g2)                                            \
    static void matmul_##name(float *y, size_t ldy, const void *w, size_t n_panels, const void *x, \
                              size_t x_bytes, size_t n_rows, size_t k)                             \
    {                                                                                              \
        const size_t panel_bytes = k / (block) * (packed_bytes), groups = n_rows / (g1);           \
        const char *panel = w;                                                                     \
        for (size_t p = 0; p < n_panels; p++, panel += panel_bytes) {                              \
            float *to = y + KERN_PANEL * p;                                                        \
            const char *from = x;                                                                  \
            size_t left = n_rows % (g1);                                                           \
            for (size_t g = 0; g < groups; g++, to += (g1)*ldy, from += (g1)*x_bytes) {            \
                kern__prefetch_part(panel, panel_bytes, g, groups);                                \
                name##_rows(to, ldy, panel, from, x_bytes, k, g1);                                 \
            }                                                                                      \
            for (; left >= (g2); left -= (g2), to += (g2)*ldy, from += (g2)*x_bytes)               \
                name##_rows(to, ldy, panel, from, x_bytes, k, g2);                                 \
            for (; left; left--, to += ldy, from += x_bytes)                                       \
                name##_rows(to, ldy, panel, from, x_bytes, k, 1);                                  \
        }                                                                                          \
    }

#endif
