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

/* Asks for the block that lies `blocks` further on, in the next panel maybe. */
KERN__INLINE void kern__prefetch(const char *w, size_t block_bytes, size_t blocks)
{
    for (size_t i = 0; i < block_bytes; i += 64)
        _mm_prefetch(w + block_bytes * blocks + i, _MM_HINT_T0);
}

/* Asks for weights that n rows will want after the block at w. One row waits for memory alone, and
 * the processor's own prefetching loses its way in blocks that are not read in order: what lies 4
 * KiB further on. Many rows go over a panel several times, while memory has nothing to do: the same
 * block of the next panel. */
KERN__INLINE void kern__prefetch_for(int n, const char *w, size_t block_bytes, size_t panel_blocks)
{
    const size_t a_little = (4608 + block_bytes - 1) / block_bytes;
    kern__prefetch(w, block_bytes, n == 1 ? a_little : panel_blocks);
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
        const char *panel = w;                                                                     \
        for (size_t p = 0; p < n_panels; p++, panel += k / (block) * (packed_bytes)) {             \
            float *to = y + KERN_PANEL * p;                                                        \
            const char *from = x;                                                                  \
            size_t left = n_rows;                                                                  \
            for (; left >= (g1); left -= (g1), to += (g1)*ldy, from += (g1)*x_bytes)               \
                name##_rows(to, ldy, panel, from, x_bytes, k, g1);                                 \
            for (; left >= (g2); left -= (g2), to += (g2)*ldy, from += (g2)*x_bytes)               \
                name##_rows(to, ldy, panel, from, x_bytes, k, g2);                                 \
            for (; left; left--, to += ldy, from += x_bytes)                                       \
                name##_rows(to, ldy, panel, from, x_bytes, k, 1);                                  \
        }                                                                                          \
    }

#endif
