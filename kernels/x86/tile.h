/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The tile registers of AMX: eight, tmm0 to tmm7, each up to 16 rows of 64 bytes. Numbers of tiles
 * are literals. Private to this folder.
 *
 *   tile_load(t, from, stride)  row r of tile t from the bytes at from + r * stride
 *   tile_store(t, to, stride)   and back
 *   tile_zero(t)
 *   tile_dot_ss(c, a, b)        c[m][n] += sum over i of a[m][i] * b[i / 4][4n + i % 4], int32 and
 *                               signed bytes
 *   tile_dot_su(c, a, b)        the same, the bytes of b unsigned
 *   tile_dot_bf16(c, a, b)      c[m][n] += sum over i of a[m][i] * b[i / 2][2n + i % 2], floats and
 *                               bfloat16
 *
 * They are written as assembly because compilers' own intrinsics do not say which memory they read:
 * what was stored there shortly before may come too late, or never.
 *
 * The state is a thread's own. tile_configure at the start of a product and tile_release at its end
 * leave nothing behind that the system would have to save. With KERN_TILE_MODEL defined it names a
 * header that stands in for the instructions, so that the kernels above them can be tested
 * anywhere.
 */
#ifndef KERNELS_X86_TILE_H
#define KERNELS_X86_TILE_H

#include <stddef.h>
#include <stdint.h>

/* What LDTILECFG reads: palette 1, and of each tile the bytes of a row and the rows. */
struct tile_config {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
};
_Static_assert(sizeof(struct tile_config) == 64, "LDTILECFG reads 64 bytes");

#ifdef KERN_TILE_MODEL
#include KERN_TILE_MODEL
#else

static inline void tile_configure(const struct tile_config *config)
{
    __asm__ volatile("ldtilecfg %0" ::"m"(*config));
}

static inline void tile_release(void)
{
    __asm__ volatile("tilerelease");
}

#define tile_load(t, from, stride)                                                                 \
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #t ::"r"((const void *)(from)),                  \
                     "r"((size_t)(stride))                                                         \
                     : "memory")
#define tile_store(t, to, stride)                                                                  \
    __asm__ volatile("tilestored %%tmm" #t ", (%0,%1,1)" ::"r"((void *)(to)),                      \
                     "r"((size_t)(stride))                                                         \
                     : "memory")
#define tile_zero(t)           __asm__ volatile("tilezero %%tmm" #t ::)
#define tile_dot_ss(c, a, b)   __asm__ volatile("tdpbssd %%tmm" #b ", %%tmm" #a ", %%tmm" #c ::)
#define tile_dot_su(c, a, b)   __asm__ volatile("tdpbsud %%tmm" #b ", %%tmm" #a ", %%tmm" #c ::)
#define tile_dot_bf16(c, a, b) __asm__ volatile("tdpbf16ps %%tmm" #b ", %%tmm" #a ", %%tmm" #c ::)

#endif
#endif
