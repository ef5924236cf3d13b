/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/table.h"

#include <pthread.h>
#include <string.h>

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#define N_ISAS 4

static const char *const names[N_ISAS] = {"portable", "avx2", "avx512", "amx"};

static pthread_once_t once = PTHREAD_ONCE_INIT;
static struct kern_table tables[N_ISAS];
static enum kern_isa best;

#if defined(__x86_64__)
/* Asked of the processor itself, as not every compiler's builtin knows the name. The builtins
 * have seen to it that the system saves the vector registers. */
static int has_f16c(void)
{
    unsigned eax, ebx, ecx, edx;
    return __get_cpuid(1, &eax, &ebx, &ecx, &edx) && (ecx & bit_F16C);
}

/* Tiles of int8 and of bfloat16. Linux saves their registers only for processes that have asked,
 * and refuses where the kernel or a signal's stack is not made for them. */
static int has_amx(void)
{
    const unsigned amx = 1u << 22 | 1u << 24 | 1u << 25;
    const long request_permission = 0x1023, tile_data = 18; /* arch_prctl: ARCH_REQ_XCOMP_PERM */
    unsigned eax, ebx, ecx, edx;
    return __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) && (edx & amx) == amx &&
           syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
}

static enum kern_isa detect(void)
{
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") || !has_f16c())
        return KERN_ISA_PORTABLE;
    if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
        !__builtin_cpu_supports("avx512vl") || !__builtin_cpu_supports("avx512dq") ||
        !__builtin_cpu_supports("avx512vnni"))
        return KERN_ISA_AVX2;
    return has_amx() ? KERN_ISA_AMX : KERN_ISA_AVX512;
}
#else
static enum kern_isa detect(void)
{
    return KERN_ISA_PORTABLE;
}
#endif

/* Each set starts from the one below it and replaces what it does better. */
static void build(void)
{
    best = detect();
    for (int isa = 0; isa <= (int)best; isa++) {
        struct kern_table *t = &tables[isa];
        kern_init_matmul_portable(t);
        kern_init_matmul_small_portable(t);
        kern_init_matmul_k_portable(t);
        kern_init_rows_portable(t);
        kern_init_matmul_iq_portable(t);
#if defined(__x86_64__)
        if (isa >= KERN_ISA_AVX2) {
            kern_init_matmul_avx2(t);
            kern_init_matmul_small_avx2(t);
            kern_init_matmul_k_avx2(t);
            kern_init_rows_avx2(t);
            kern_init_matmul_iq_avx2(t);
        }
        if (isa >= KERN_ISA_AVX512) {
            kern_init_matmul_avx512(t);
            kern_init_matmul_small_avx512(t);
            kern_init_matmul_k_avx512(t);
            kern_init_rows_avx512(t);
            kern_init_matmul_iq_avx512(t);
        }
        if (isa >= KERN_ISA_AMX) {
            kern_init_matmul_amx(t);
            kern_init_matmul_k_amx(t);
        }
#endif
        t->isa = (enum kern_isa)isa;
        t->name = names[isa];
    }
}

enum kern_isa kern_isa_best(void)
{
    pthread_once(&once, build);
    return best;
}

int kern_isa_by_name(const char *name)
{
    for (int isa = 0; isa < N_ISAS; isa++)
        if (strcmp(names[isa], name) == 0)
            return isa;
    return -1;
}

static const char *const kv_names[KERN_N_KV] = {"f32", "f16", "q8_0", "q4_0"};

const char *kern_kv_name(enum kern_kv kv)
{
    return (unsigned)kv < KERN_N_KV ? kv_names[kv] : "?";
}

int kern_kv_by_name(const char *name)
{
    for (int kv = 0; kv < KERN_N_KV; kv++)
        if (strcmp(kv_names[kv], name) == 0)
            return kv;
    return -1;
}

const struct kern_table *kern_table_get(enum kern_isa isa)
{
    return isa <= kern_isa_best() ? &tables[isa] : NULL;
}
