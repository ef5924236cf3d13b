/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/lazy.h"

#include <inttypes.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "proto/log.h"
#include "worker/load.h"

#define NONE UINT32_MAX
#define PAGE ((uint64_t)2 << 20) /* huge ones, where the system has them */

/* Room for a packed matrix. */
struct slot {
    uint32_t weight, mat; /* NONE: free */
    uint64_t used;        /* round */
};

struct worker_lazy {
    const struct shard_program *program;
    const struct shard_gguf *file;
    uint32_t **slot_of; /* by weight, by matrix; NULL: not one of these */
    struct slot *slots;
    uint32_t n_slots;
    uint64_t slot_bytes, round;
    char *memory;
};

static uint64_t matrix_bytes(const struct shard_weight *w)
{
    return kern_packed_bytes(w->type, w->n_out, w->k);
}

/* Calls for the weights of all routed experts' matrices; a weight may come more than once. */
static void for_each(const struct shard_program *p, void (*call)(void *arg, size_t weight),
                     void *arg)
{
    for (size_t i = 0; i < p->n_ops; i++) {
        const struct shard_op *op = &p->ops[i];
        for (uint32_t h = 0; op->kind == SHARD_OP_EXPERTS && h < op->n_holdings; h++) {
            const struct shard_holding *holding = &p->holdings[op->first_holding + h];
            const int32_t weights[] = {holding->gate, holding->up, holding->down};
            for (size_t k = 0; k < sizeof weights / sizeof weights[0]; k++)
                if (weights[k] >= 0)
                    call(arg, (size_t)weights[k]);
        }
    }
}

/* ---- sizes ---- */

struct sizes {
    const struct shard_program *program;
    uint64_t all, largest;
    uint64_t mats;
};

static void add_size(void *arg, size_t weight)
{
    struct sizes *s = arg;
    const struct shard_weight *w = &s->program->weights[weight];
    uint64_t bytes = (matrix_bytes(w) + PAGE - 1) / PAGE * PAGE;
    s->all += shard_weight_bytes(w);
    s->mats += w->n_mats;
    s->largest = bytes > s->largest ? bytes : s->largest;
}

static struct sizes sizes_of(const struct shard_program *program)
{
    struct sizes s = {.program = program};
    for_each(program, add_size, &s);
    return s;
}

uint64_t worker_lazy_weight_bytes(const struct shard_program *program)
{
    return sizes_of(program).all;
}

uint64_t worker_lazy_least_bytes(const struct shard_program *program)
{
    return WORKER_LAZY_TOGETHER * sizes_of(program).largest;
}

/* ---- lifetime ---- */

struct listing {
    struct worker_lazy *lazy;
    enum proto_status status;
    struct proto_error *error;
};

static void list_weight(void *arg, size_t weight)
{
    struct listing *l = arg;
    const struct shard_weight *w = &l->lazy->program->weights[weight];
    if (l->status || l->lazy->slot_of[weight])
        return;
    uint32_t *slots = malloc(w->n_mats * sizeof *slots);
    l->lazy->slot_of[weight] = slots;
    if (!slots) {
        l->status = proto_fail_nomem(l->error, w->n_mats * sizeof *slots, "experts");
        return;
    }
    for (uint32_t i = 0; i < w->n_mats; i++)
        slots[i] = NONE;
    l->status = worker_load_matrix_check(l->lazy->program, weight, l->lazy->file, l->error);
}

static enum proto_status take_slots(struct worker_lazy *lazy, uint64_t bytes,
                                    struct proto_error *error)
{
    struct sizes s = sizes_of(lazy->program);
    uint64_t n = s.largest ? bytes / s.largest : 0;
    n = n < WORKER_LAZY_TOGETHER ? WORKER_LAZY_TOGETHER : n;
    n = n > s.mats ? s.mats : n;
    n = n < NONE ? n : NONE - 1;
    lazy->n_slots = (uint32_t)n;
    lazy->slot_bytes = s.largest;
    lazy->slots = malloc((n + 1) * sizeof *lazy->slots);
    if (!lazy->slots)
        return proto_fail_nomem(error, n * sizeof *lazy->slots, "experts");
    for (uint32_t i = 0; i < lazy->n_slots; i++)
        lazy->slots[i] = (struct slot){.weight = NONE};
    lazy->memory = n == 0 ? NULL
                          : mmap(NULL, n * s.largest, PROT_READ | PROT_WRITE,
                                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (lazy->memory == MAP_FAILED) {
        lazy->memory = NULL;
        return proto_fail_nomem(error, n * s.largest, "experts");
    }
    return PROTO_OK;
}

enum proto_status worker_lazy_create(struct worker_lazy **out, const struct shard_program *program,
                                     const struct shard_gguf *file, uint64_t bytes,
                                     struct proto_error *error)
{
    struct worker_lazy *lazy = calloc(1, sizeof *lazy);
    *out = NULL;
    if (!lazy)
        return proto_fail_nomem(error, sizeof *lazy, "experts");
    lazy->program = program;
    lazy->file = file;
    lazy->slot_of = calloc(program->n_weights + 1, sizeof *lazy->slot_of);
    struct listing l = {.lazy = lazy, .error = error};
    if (!lazy->slot_of)
        l.status = proto_fail_nomem(error, program->n_weights * sizeof *lazy->slot_of, "experts");
    else
        for_each(program, list_weight, &l);
    if (!l.status)
        l.status = take_slots(lazy, bytes, error);
    if (l.status) {
        worker_lazy_destroy(lazy);
        return l.status;
    }
    proto_log(PROTO_LOG_INFO, "WORKER-LAZY", "bytes=%" PRIu64 " slots=%" PRIu32,
              worker_lazy_weight_bytes(program), lazy->n_slots);
    *out = lazy;
    return PROTO_OK;
}

void worker_lazy_destroy(struct worker_lazy *lazy)
{
    if (!lazy)
        return;
    for (size_t i = 0; lazy->slot_of && i < lazy->program->n_weights; i++)
        free(lazy->slot_of[i]);
    if (lazy->memory)
        munmap(lazy->memory, lazy->n_slots * lazy->slot_bytes);
    free(lazy->slot_of);
    free(lazy->slots);
    free(lazy);
}

/* ---- use ---- */

bool worker_lazy_lost(const struct worker_lazy *lazy)
{
    return shard_gguf_lost(lazy->file);
}

bool worker_lazy_has(const struct worker_lazy *lazy, size_t weight)
{
    return lazy && lazy->slot_of[weight];
}

void worker_lazy_begin(struct worker_lazy *lazy)
{
    lazy->round++;
}

static char *slot_memory(const struct worker_lazy *lazy, uint32_t slot)
{
    return lazy->memory + slot * lazy->slot_bytes;
}

const void *worker_lazy_panels(const struct worker_lazy *lazy, size_t weight, uint32_t mat)
{
    return slot_memory(lazy, lazy->slot_of[weight][mat]);
}

/* The slot used longest ago, emptied; NONE: all are of this round. */
static uint32_t free_slot(struct worker_lazy *lazy)
{
    uint32_t oldest = 0;
    for (uint32_t i = 1; i < lazy->n_slots; i++)
        if (lazy->slots[i].used < lazy->slots[oldest].used)
            oldest = i;
    struct slot *slot = &lazy->slots[oldest];
    if (slot->used == lazy->round)
        return NONE;
    if (slot->weight != NONE)
        lazy->slot_of[slot->weight][slot->mat] = NONE;
    slot->weight = NONE;
    return oldest;
}

bool worker_lazy_bring(struct worker_lazy *lazy, struct kern_pool *pool, size_t weight,
                       uint32_t mat)
{
    uint32_t *slot = &lazy->slot_of[weight][mat];
    if (*slot == NONE) {
        uint32_t at = free_slot(lazy);
        if (at == NONE)
            return false;
        worker_load_matrix(slot_memory(lazy, at), lazy->program, weight, mat, lazy->file, pool);
        lazy->slots[at] = (struct slot){.weight = (uint32_t)weight, .mat = mat};
        *slot = at;
    }
    lazy->slots[*slot].used = lazy->round;
    return true;
}
