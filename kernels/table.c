/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/table.h"

#include <pthread.h>
#include <string.h>

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#elif defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

static const char *const names[KERN_N_ISAS] = {"portable", "avx2", "avx512", "amx", "neon", "i8mm"};

static pthread_once_t once = PTHREAD_ONCE_INIT;
static struct kern_table tables[KERN_N_ISAS]; /* without a name: this processor lacks the set */

static void init_portable(struct kern_table *t)
{
    kern_init_matmul_portable(t);
    kern_init_matmul_small_portable(t);
    kern_init_matmul_k_portable(t);
    kern_init_rows_portable(t);
    kern_init_matmul_iq_portable(t);
}

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

static int has_avx2(void)
{
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
}

static int has_avx512(void)
{
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vnni");
}

static void init_avx2(struct kern_table *t)
{
    kern_init_matmul_avx2(t);
    kern_init_matmul_small_avx2(t);
    kern_init_matmul_k_avx2(t);
    kern_init_rows_avx2(t);
    kern_init_matmul_iq_avx2(t);
    kern_init_matmul_many_avx2(t);
}

static void init_avx512(struct kern_table *t)
{
    kern_init_matmul_avx512(t);
    kern_init_matmul_small_avx512(t);
    kern_init_matmul_k_avx512(t);
    kern_init_rows_avx512(t);
    kern_init_matmul_iq_avx512(t);
    kern_init_matmul_many_avx512(t);
}

static void init_amx(struct kern_table *t)
{
    kern_init_matmul_amx(t);
    kern_init_matmul_k_amx(t);
}
#elif defined(__aarch64__)
static int has_neon(void)
{
    return (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
}

static int has_i8mm(void)
{
    return (getauxval(AT_HWCAP2) & HWCAP2_I8MM) != 0;
}

static void init_neon(struct kern_table *t)
{
    kern_init_matmul_float_neon(t);
    kern_init_matmul_neon(t);
    kern_init_rows_neon(t);
}
#endif

/* The sets of this architecture, each better than those before. */
static const struct {
    enum kern_isa isa;
    int (*has)(void); /* NULL: every processor has it */
    void (*init)(struct kern_table *t);
} sets[] = {
    {KERN_ISA_PORTABLE, NULL, init_portable},
#if defined(__x86_64__)
    {KERN_ISA_AVX2, has_avx2, init_avx2},
    {KERN_ISA_AVX512, has_avx512, init_avx512},
    {KERN_ISA_AMX, has_amx, init_amx},
#elif defined(__aarch64__)
    {KERN_ISA_NEON, has_neon, init_neon},
    {KERN_ISA_I8MM, has_i8mm, kern_init_matmul_i8mm},
#endif
};

/* Each set starts from the one below it and replaces what it does better. */
static void build(void)
{
    struct kern_table t;
    memset(&t, 0, sizeof t);
    for (size_t i = 0; i < sizeof sets / sizeof sets[0]; i++) {
        if (sets[i].has && !sets[i].has())
            return;
        sets[i].init(&t);
        t.isa = sets[i].isa;
        t.name = names[t.isa];
        tables[t.isa] = t;
    }
}

enum kern_isa kern_isa_best(void)
{
    enum kern_isa best = KERN_ISA_PORTABLE, next;
    while ((next = kern_isa_next(best)) != KERN_N_ISAS)
        best = next;
    return best;
}

enum kern_isa kern_isa_next(enum kern_isa isa)
{
    do
        isa++;
    while (isa < KERN_N_ISAS && !kern_table_get(isa));
    return isa;
}

int kern_isa_by_name(const char *name)
{
    for (int isa = 0; isa < KERN_N_ISAS; isa++)
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
    pthread_once(&once, build);
    return (unsigned)isa < KERN_N_ISAS && tables[isa].name ? &tables[isa] : NULL;
}
