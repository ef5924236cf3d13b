/* SPDX-License-Identifier: Apache-2.0 */
#include "shard/kv.h"

#include <stdlib.h>
#include <string.h>

#include "shard/kv_parts.h"

enum proto_status shard_kv_check(const struct shard_model *m, enum kern_kv type,
                                 struct proto_error *error)
{
    if ((unsigned)type >= KERN_N_KV)
        return proto_fail(error, PROTO_INVALID, "KV type %u, expected one below %u", (unsigned)type,
                          KERN_N_KV);
    size_t block = kern_kv_block(type);
    for (uint32_t il = 0; il < m->n_layers; il++) {
        const struct shard_layer *l = &m->layers[il];
        if (l->head_dim_k % block || l->head_dim_v % block)
            return proto_fail(
                error, PROTO_UNSUPPORTED,
                "KV as %s is kept in blocks of %zu, but heads of layer %u have %u (K) "
                "and %u (V) values; use f16 or f32",
                kern_kv_name(type), block, il, l->head_dim_k, l->head_dim_v);
    }
    return PROTO_OK;
}

static struct shard__kv_layer layer_of(const struct shard_program *program, uint32_t il,
                                       enum kern_kv type)
{
    const struct shard_model *m = program->model;
    const struct shard_layer *l = &m->layers[il];
    struct shard__kv_layer layer = {
        .n_head_kv = l->n_head_kv, .mask = l->mask, .window = l->window};
    layer.k_bytes = SHARD_KV_PAGE_ROWS * kern_kv_bytes(type, l->head_dim_k);
    if (!m->mla.kv_rank)
        layer.v_bytes = SHARD_KV_PAGE_ROWS * kern_kv_bytes(type, l->head_dim_v);
    if (l->delta || !shard_keeps_kv(m, program->layer_first, program->layer_end, il))
        return layer;
    size_t bytes = l->n_head_kv * (layer.k_bytes + layer.v_bytes);
    layer.page_bytes =
        (bytes + SHARD__KV_PAGE_ALIGN - 1) / SHARD__KV_PAGE_ALIGN * SHARD__KV_PAGE_ALIGN;
    return layer;
}

uint64_t shard_kv_bytes(const struct shard_program *program, enum kern_kv type, uint64_t n)
{
    uint64_t sum = shard__states_bytes(program, n);
    for (uint32_t il = shard_program_cache_first(program); il < program->layer_end; il++) {
        struct shard__kv_layer layer = layer_of(program, il, type);
        uint64_t rows = n;
        if (layer.mask != SHARD_MASK_CAUSAL && rows > layer.window + PROTO_MAX_BATCH_ROWS)
            rows = layer.window + PROTO_MAX_BATCH_ROWS;
        sum += (rows + SHARD_KV_PAGE_ROWS - 1) / SHARD_KV_PAGE_ROWS * layer.page_bytes;
    }
    return sum;
}

uint64_t shard_kv_limit(const struct shard_program *program, enum kern_kv type, uint64_t n,
                        uint32_t max_seqs)
{
    uint64_t most = 1ull << 52, bytes = shard_kv_bytes(program, type, n);
    return bytes > most / max_seqs ? most : bytes * max_seqs;
}

enum proto_status shard_kv_create(struct shard_kv **out, const struct shard_program *program,
                                  const struct shard_kv_options *options, struct proto_error *error)
{
    *out = NULL;
    uint32_t layer_first = shard_program_cache_first(program);
    uint32_t n_layers = program->layer_end - layer_first;
    if (options->max_seqs == 0 || options->max_seqs > PROTO_MAX_SEQUENCES)
        return proto_fail(error, PROTO_LIMIT, "%u sequences asked for, expected 1 to %u",
                          options->max_seqs, PROTO_MAX_SEQUENCES);
    if (options->ctx > PROTO_MAX_CONTEXT)
        return proto_fail(error, PROTO_LIMIT, "context of %llu asked for, expected at most %u",
                          (unsigned long long)options->ctx, PROTO_MAX_CONTEXT);
    enum proto_status status = shard_kv_check(program->model, options->type, error);
    if (status != PROTO_OK)
        return status;
    struct shard_kv *kv = calloc(1, sizeof *kv);
    if (!kv)
        return proto_fail_nomem(error, sizeof *kv, "the KV cache");
    kv->type = options->type;
    kv->layer_first = layer_first;
    kv->n_layers = n_layers;
    kv->max_seqs = options->max_seqs;
    kv->ctx = options->ctx ? options->ctx : PROTO_MAX_CONTEXT;
    kv->max_bytes = options->max_bytes;
    size_t n_tables = (size_t)n_layers * options->max_seqs;
    kv->layers = calloc(n_layers + 1, sizeof kv->layers[0]);
    kv->tables = calloc(n_tables + 1, sizeof kv->tables[0]);
    kv->ends = calloc(options->max_seqs, sizeof kv->ends[0]);
    kv->versions = calloc(options->max_seqs, sizeof kv->versions[0]);
    if (!kv->layers || !kv->tables || !kv->ends || !kv->versions) {
        shard_kv_destroy(kv);
        return proto_fail_nomem(error, n_tables * sizeof kv->tables[0], "the KV page tables");
    }
    for (uint32_t i = 0; i < n_layers; i++)
        kv->layers[i] = layer_of(program, kv->layer_first + i, options->type);
    status = shard__states_create(&kv->states, program, options->max_seqs, error);
    if (status != PROTO_OK) {
        shard_kv_destroy(kv);
        return status;
    }
    *out = kv;
    return PROTO_OK;
}

void shard_kv_destroy(struct shard_kv *kv)
{
    if (!kv)
        return;
    for (uint32_t seq = 0; kv->tables && kv->ends && kv->versions && seq < kv->max_seqs; seq++)
        shard_kv_drop(kv, seq);
    shard__states_destroy(kv->states);
    free(kv->layers);
    free(kv->tables);
    free(kv->ends);
    free(kv->versions);
    free(kv);
}

struct shard__kv_table *shard__kv_table(const struct shard_kv *kv, uint32_t seq, uint32_t i)
{
    return &kv->tables[(size_t)seq * kv->n_layers + i];
}

void shard__kv_release(struct shard_kv *kv, uint32_t i, struct shard__kv_table *t, size_t first,
                       size_t end)
{
    for (size_t page = first; page < end && page < t->n_pages; page++) {
        if (t->pages[page])
            kv->used_bytes -= kv->layers[i].page_bytes;
        free(t->pages[page]);
        t->pages[page] = NULL;
    }
}

/* Whether rows from pos on can be computed: what their layer's mask lets them see is still there,
 * or is about to be computed. */
static bool can_continue(const struct shard_kv *kv, uint32_t seq, uint64_t pos)
{
    for (uint32_t i = 0; i < kv->n_layers; i++) {
        const struct shard__kv_layer *layer = &kv->layers[i];
        uint64_t first = shard_mask_first(layer->mask, layer->window, pos);
        if (first < pos && first / SHARD_KV_PAGE_ROWS < shard__kv_table(kv, seq, i)->first_kept)
            return false;
    }
    return shard__states_can(kv->states, seq, kv->ends[seq], pos);
}

uint64_t shard_kv_resume(const struct shard_kv *kv, uint32_t seq, uint64_t pos)
{
    uint64_t every = SHARD_KV_SNAPSHOT_EVERY;
    pos = pos < kv->ends[seq] ? pos : kv->ends[seq];
    if (can_continue(kv, seq, pos))
        return pos;
    pos = pos / every * every;
    for (uint32_t i = 0; i < SHARD_KV_SNAPSHOTS && pos > 0; i++, pos -= every) {
        if (can_continue(kv, seq, pos))
            return pos;
    }
    return 0;
}

static enum proto_status check_range(const struct shard_kv *kv, uint32_t seq, uint64_t pos,
                                     uint32_t n, struct proto_error *error)
{
    if (seq >= kv->max_seqs)
        return proto_fail(error, PROTO_INVALID, "sequence %u, expected one below %u", seq,
                          kv->max_seqs);
    if (pos > kv->ends[seq])
        return proto_fail(error, PROTO_INVALID,
                          "sequence %u goes on at position %llu, expected at most %llu", seq,
                          (unsigned long long)pos, (unsigned long long)kv->ends[seq]);
    if (n > kv->ctx || pos > kv->ctx - n)
        return proto_fail(error, PROTO_INVALID,
                          "sequence %u would end at position %llu, expected at most the context "
                          "of %llu",
                          seq, (unsigned long long)(pos + n), (unsigned long long)kv->ctx);
    if (!can_continue(kv, seq, pos))
        return proto_fail(error, PROTO_INVALID,
                          "sequence %u cannot go back to position %llu: what is before it was "
                          "given back; start it again from position %llu",
                          seq, (unsigned long long)pos,
                          (unsigned long long)shard_kv_resume(kv, seq, pos));
    return PROTO_OK;
}

enum proto_status shard__kv_grow(struct shard__kv_table *t, size_t n_pages,
                                 struct proto_error *error)
{
    if (n_pages > t->capacity) {
        size_t capacity = t->capacity * 2 > n_pages ? t->capacity * 2 : n_pages;
        void **pages = realloc(t->pages, capacity * sizeof *pages);
        if (!pages)
            return proto_fail_nomem(error, capacity * sizeof *pages, "a KV page table");
        memset(pages + t->capacity, 0, (capacity - t->capacity) * sizeof *pages);
        t->pages = pages;
        t->capacity = capacity;
    }
    t->n_pages = n_pages > t->n_pages ? n_pages : t->n_pages;
    return PROTO_OK;
}

/* Of the pages [first, end), and of the states of a sequence of `next` positions. */
static uint64_t missing_bytes(const struct shard_kv *kv, uint32_t seq, size_t first, size_t end,
                              uint64_t next)
{
    uint32_t held = shard__states_held(kv->states, seq);
    uint32_t blocks = shard__states_needed(kv->states, next);
    uint64_t bytes = blocks > held ? (blocks - held) * shard__states_block(kv->states) : 0;
    for (uint32_t i = 0; i < kv->n_layers; i++) {
        const struct shard__kv_table *t = shard__kv_table(kv, seq, i);
        for (size_t page = first; page < end; page++)
            bytes += page >= t->n_pages || !t->pages[page] ? kv->layers[i].page_bytes : 0;
    }
    return bytes;
}

/* taken: for each page of [first, end), whether it is new, for an undo. */
static enum proto_status take_pages(struct shard_kv *kv, uint32_t i, struct shard__kv_table *t,
                                    size_t first, size_t end, bool *taken,
                                    struct proto_error *error)
{
    for (size_t page = first; page < end; page++) {
        if (t->pages[page])
            continue;
        t->pages[page] = aligned_alloc(SHARD__KV_PAGE_ALIGN, kv->layers[i].page_bytes);
        if (!t->pages[page])
            return proto_fail_nomem(error, kv->layers[i].page_bytes, "a KV page");
        taken[page - first] = true;
        kv->used_bytes += kv->layers[i].page_bytes;
    }
    return PROTO_OK;
}

static enum proto_status take_all(struct shard_kv *kv, uint32_t seq, size_t first, size_t end,
                                  struct proto_error *error)
{
    size_t span = end - first;
    bool *taken = calloc(kv->n_layers * span + 1, sizeof *taken);
    if (!taken)
        return proto_fail_nomem(error, kv->n_layers * span, "KV pages");
    enum proto_status status = PROTO_OK;
    for (uint32_t i = 0; i < kv->n_layers && status == PROTO_OK; i++) {
        struct shard__kv_table *t = shard__kv_table(kv, seq, i);
        if (kv->layers[i].page_bytes == 0)
            continue;
        status = shard__kv_grow(t, end, error);
        if (status == PROTO_OK)
            status = take_pages(kv, i, t, first, end, taken + i * span, error);
    }
    for (size_t j = 0; status != PROTO_OK && j < kv->n_layers * span; j++) {
        uint32_t i = (uint32_t)(j / span);
        size_t page = first + j % span;
        if (taken[j])
            shard__kv_release(kv, i, shard__kv_table(kv, seq, i), page, page + 1);
    }
    free(taken);
    return status;
}

void shard__kv_give_back_states(struct shard_kv *kv, uint32_t seq, uint32_t n)
{
    uint32_t held = shard__states_held(kv->states, seq);
    shard__states_give_back(kv->states, seq, n);
    if (held > n)
        kv->used_bytes -= (held - n) * shard__states_block(kv->states);
}

enum proto_status shard__kv_take_states(struct shard_kv *kv, uint32_t seq, uint32_t n,
                                        struct proto_error *error)
{
    uint32_t held = shard__states_held(kv->states, seq);
    if (n <= held)
        return PROTO_OK;
    enum proto_status status = shard__states_take(kv->states, seq, n, error);
    kv->used_bytes +=
        (shard__states_held(kv->states, seq) - held) * shard__states_block(kv->states);
    return status;
}

enum proto_status shard_kv_reserve(struct shard_kv *kv, uint32_t seq, uint64_t pos, uint32_t n,
                                   struct proto_error *error)
{
    enum proto_status status = check_range(kv, seq, pos, n, error);
    if (status != PROTO_OK)
        return status;
    size_t first = pos / SHARD_KV_PAGE_ROWS;
    size_t end = (pos + n + SHARD_KV_PAGE_ROWS - 1) / SHARD_KV_PAGE_ROWS;
    uint64_t need = missing_bytes(kv, seq, first, end, pos + n);
    if (kv->max_bytes && need > kv->max_bytes - kv->used_bytes)
        return proto_fail(error, PROTO_CAPACITY,
                          "the KV cache has %llu of %llu bytes free and %u rows of sequence %u "
                          "need %llu: %llu are missing; run fewer or shorter sequences",
                          (unsigned long long)(kv->max_bytes - kv->used_bytes),
                          (unsigned long long)kv->max_bytes, n, seq, (unsigned long long)need,
                          (unsigned long long)(need - (kv->max_bytes - kv->used_bytes)));
    uint32_t held = shard__states_held(kv->states, seq);
    status = shard__kv_take_states(kv, seq, shard__states_needed(kv->states, pos + n), error);
    if (status == PROTO_OK)
        status = take_all(kv, seq, first, end, error);
    if (status != PROTO_OK) {
        shard__kv_give_back_states(kv, seq, held);
        return status;
    }
    shard__states_move(kv->states, seq, kv->ends[seq], pos, pos + n);
    for (uint32_t i = 0; i < kv->n_layers; i++) {
        struct shard__kv_table *t = shard__kv_table(kv, seq, i);
        shard__kv_release(kv, i, t, end, t->n_pages);
        t->n_pages = end < t->n_pages ? end : t->n_pages;
        t->first_kept = first < t->first_kept ? first : t->first_kept;
    }
    kv->versions[seq] += pos < kv->ends[seq];
    kv->ends[seq] = pos + n;
    return PROTO_OK;
}

void shard_kv_trim(struct shard_kv *kv, uint32_t seq, uint64_t next)
{
    if (seq >= kv->max_seqs)
        return;
    for (uint32_t i = 0; i < kv->n_layers; i++) {
        const struct shard__kv_layer *layer = &kv->layers[i];
        struct shard__kv_table *t = shard__kv_table(kv, seq, i);
        uint64_t first = shard_mask_first(layer->mask, layer->window, next);
        size_t keep = first / SHARD_KV_PAGE_ROWS;
        shard__kv_release(kv, i, t, t->first_kept, keep);
        t->first_kept = keep > t->first_kept ? keep : t->first_kept;
    }
}

void shard_kv_drop(struct shard_kv *kv, uint32_t seq)
{
    if (seq >= kv->max_seqs)
        return;
    for (uint32_t i = 0; i < kv->n_layers; i++) {
        struct shard__kv_table *t = shard__kv_table(kv, seq, i);
        shard__kv_release(kv, i, t, 0, t->n_pages);
        free(t->pages);
        *t = (struct shard__kv_table){0};
    }
    shard__kv_give_back_states(kv, seq, 0);
    kv->ends[seq] = 0;
    kv->versions[seq]++;
}

const struct shard__states *shard__kv_states(const struct shard_kv *kv)
{
    return kv->states;
}

uint32_t shard_kv_max_seqs(const struct shard_kv *kv)
{
    return kv->max_seqs;
}

enum kern_kv shard_kv_type(const struct shard_kv *kv)
{
    return kv->type;
}

struct shard_kv_view shard_kv_view(const struct shard_kv *kv, uint32_t seq, uint32_t layer)
{
    const struct shard__kv_table *t = shard__kv_table(kv, seq, layer - kv->layer_first);
    return (struct shard_kv_view){.pages = t->pages, .n_pages = t->n_pages};
}

size_t shard_kv_k_offset(const struct shard_kv *kv, uint32_t layer, uint32_t head)
{
    const struct shard__kv_layer *l = &kv->layers[layer - kv->layer_first];
    return head * (l->k_bytes + l->v_bytes);
}

size_t shard_kv_v_offset(const struct shard_kv *kv, uint32_t layer, uint32_t head)
{
    const struct shard__kv_layer *l = &kv->layers[layer - kv->layer_first];
    return shard_kv_k_offset(kv, layer, head) + (l->v_bytes ? l->k_bytes : 0);
}

uint64_t shard_kv_used(const struct shard_kv *kv)
{
    return kv->used_bytes;
}
