/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>

#include "shard/kv_parts.h"

uint64_t shard_kv_end(const struct shard_kv *kv, uint32_t seq)
{
    return seq < kv->max_seqs ? kv->ends[seq] : 0;
}

uint64_t shard_kv_version(const struct shard_kv *kv, uint32_t seq)
{
    return seq < kv->max_seqs ? kv->versions[seq] : 0;
}

/* ---- forms ---- */

void shard_kv_layers(const struct shard_kv *kv, uint32_t *first, uint32_t *n)
{
    *first = kv->layer_first;
    *n = kv->n_layers;
}

/* NULL: the slice keeps no keys and values of the layer. */
static const struct shard__kv_layer *find_layer(const struct shard_kv *kv, uint32_t layer)
{
    if (layer < kv->layer_first || layer - kv->layer_first >= kv->n_layers)
        return NULL;
    const struct shard__kv_layer *l = &kv->layers[layer - kv->layer_first];
    return l->page_bytes ? l : NULL;
}

size_t shard_kv_page_bytes(const struct shard_kv *kv, uint32_t layer)
{
    const struct shard__kv_layer *l = find_layer(kv, layer);
    return l ? l->page_bytes : 0;
}

size_t shard_kv_state_bytes(const struct shard_kv *kv, uint32_t layer)
{
    return shard__states_layer(kv->states, layer);
}

bool shard_kv_alike(const struct shard_kv *kv, const struct shard_kv *other, uint32_t layer)
{
    const struct shard__kv_layer *a = find_layer(kv, layer), *b = find_layer(other, layer);
    bool same = kv->type == other->type && (a != NULL) == (b != NULL);
    if (a && b)
        same &= a->page_bytes == b->page_bytes && a->k_bytes == b->k_bytes;
    return same && shard_kv_state_bytes(kv, layer) == shard_kv_state_bytes(other, layer);
}

uint64_t shard_kv_first_page(const struct shard_kv *kv, uint32_t layer, uint64_t pos)
{
    const struct shard__kv_layer *l = find_layer(kv, layer);
    return l ? shard_mask_first(l->mask, l->window, pos) / SHARD_KV_PAGE_ROWS : 0;
}

/* ---- out ---- */

bool shard_kv_read_pages(const struct shard_kv *kv, uint32_t seq, uint32_t layer, uint64_t page,
                         uint32_t n, void *out)
{
    const struct shard__kv_layer *l = find_layer(kv, layer);
    if (!l || seq >= kv->max_seqs)
        return false;
    const struct shard__kv_table *t = shard__kv_table(kv, seq, layer - kv->layer_first);
    if (page > t->n_pages || n > t->n_pages - page)
        return false;
    for (uint64_t i = page; i < page + n; i++)
        if (!t->pages[i])
            return false;
    for (uint32_t i = 0; i < n; i++)
        memcpy((char *)out + i * l->page_bytes, t->pages[page + i], l->page_bytes);
    return true;
}

bool shard_kv_read_state(const struct shard_kv *kv, uint32_t seq, uint32_t layer, void *out)
{
    size_t bytes = shard_kv_state_bytes(kv, layer);
    const float *state = bytes && seq < kv->max_seqs ? shard_kv_state(kv, seq, layer) : NULL;
    if (state)
        memcpy(out, state, bytes);
    return state != NULL;
}

/* ---- in ---- */

static enum proto_status check_room(const struct shard_kv *kv, uint64_t bytes,
                                    struct proto_error *error)
{
    uint64_t room = kv->max_bytes - kv->used_bytes;
    if (kv->max_bytes && bytes > room)
        return proto_fail(
            error, PROTO_CAPACITY,
            "the KV cache has %llu of %llu bytes free, and %llu are to be moved to it",
            (unsigned long long)room, (unsigned long long)kv->max_bytes, (unsigned long long)bytes);
    return PROTO_OK;
}

/* The page, which is made where it is not there; NULL where there is no room or memory. */
static void *make_page(struct shard_kv *kv, const struct shard__kv_layer *l,
                       struct shard__kv_table *t, uint64_t page, struct proto_error *error)
{
    if (t->pages[page])
        return t->pages[page];
    if (check_room(kv, l->page_bytes, error) != PROTO_OK)
        return NULL;
    t->pages[page] = aligned_alloc(SHARD__KV_PAGE_ALIGN, l->page_bytes);
    if (t->pages[page])
        kv->used_bytes += l->page_bytes;
    else
        proto_fail_nomem(error, l->page_bytes, "a KV page");
    return t->pages[page];
}

enum proto_status shard_kv_write_pages(struct shard_kv *kv, uint32_t seq, uint32_t layer,
                                       uint64_t page, uint32_t n, const void *bytes,
                                       struct proto_error *error)
{
    const struct shard__kv_layer *l = find_layer(kv, layer);
    uint64_t most = (kv->ctx + SHARD_KV_PAGE_ROWS - 1) / SHARD_KV_PAGE_ROWS;
    if (!l || seq >= kv->max_seqs || kv->ends[seq] || page > most || n > most - page)
        return proto_fail(error, PROTO_INVALID,
                          "pages %llu to %llu of layer %u of sequence %u are moved to where they "
                          "have no place",
                          (unsigned long long)page, (unsigned long long)(page + n), layer, seq);
    struct shard__kv_table *t = shard__kv_table(kv, seq, layer - kv->layer_first);
    enum proto_status status = shard__kv_grow(t, page + n, error);
    if (status != PROTO_OK)
        return status;
    /* The sequence is at least that long, and what its queries see no more is not needed. */
    shard__kv_release(kv, layer - kv->layer_first, t, 0,
                      shard_kv_first_page(kv, layer, page * SHARD_KV_PAGE_ROWS));
    for (uint32_t i = 0; i < n; i++) {
        void *to = make_page(kv, l, t, page + i, error);
        if (!to)
            return error ? error->status : PROTO_NOMEM;
        memcpy(to, (const char *)bytes + i * l->page_bytes, l->page_bytes);
    }
    return PROTO_OK;
}

enum proto_status shard_kv_write_state(struct shard_kv *kv, uint32_t seq, uint32_t layer,
                                       const void *bytes, struct proto_error *error)
{
    size_t len = shard_kv_state_bytes(kv, layer);
    if (!len || seq >= kv->max_seqs || kv->ends[seq])
        return proto_fail(error, PROTO_INVALID,
                          "the state of layer %u of sequence %u is moved to where it has no place",
                          layer, seq);
    enum proto_status status = PROTO_OK;
    if (!shard__states_held(kv->states, seq))
        status = check_room(kv, shard__states_block(kv->states), error);
    if (status == PROTO_OK)
        status = shard__kv_take_states(kv, seq, 1, error);
    if (status == PROTO_OK)
        memcpy(shard_kv_state(kv, seq, layer), bytes, len);
    return status;
}

/* ---- over ---- */

static void take_table(struct shard_kv *kv, uint32_t i, struct shard_kv *from, uint32_t seq)
{
    struct shard__kv_table *to = shard__kv_table(kv, seq, i);
    struct shard__kv_table *t = shard__kv_table(from, seq, kv->layer_first + i - from->layer_first);
    uint64_t bytes = 0;
    for (size_t page = 0; page < t->n_pages; page++)
        bytes += t->pages[page] ? kv->layers[i].page_bytes : 0;
    shard__kv_release(kv, i, to, 0, to->n_pages);
    free(to->pages);
    *to = *t;
    *t = (struct shard__kv_table){0};
    kv->used_bytes += bytes;
    from->used_bytes -= bytes;
}

/* States are those of the positions of `from`, and cannot be cut back unless all are from there. */
static bool take_states(struct shard_kv *kv, struct shard_kv *from, uint32_t seq, uint64_t end)
{
    if (!kv->states)
        return true;
    if (from && shard__states_cover(from->states, kv->states)) {
        uint64_t block = shard__states_block(from->states);
        uint32_t held = shard__states_held(from->states, seq);
        shard__kv_give_back_states(kv, seq, 0);
        bool taken = shard__states_inherit(kv->states, from->states, seq);
        kv->used_bytes += shard__states_held(kv->states, seq) * shard__states_block(kv->states);
        from->used_bytes -= (held - shard__states_held(from->states, seq)) * block;
        return taken;
    }
    if (shard__kv_take_states(kv, seq, shard__states_needed(kv->states, end), NULL) != PROTO_OK)
        return false;
    shard__states_join(kv->states, from ? from->states : NULL, seq);
    return !from || !from->states || from->ends[seq] == end;
}

/* Whether all pages are there that a query at `end` sees. */
static bool is_whole(const struct shard_kv *kv, uint32_t seq, uint64_t end)
{
    uint64_t n_pages = (end + SHARD_KV_PAGE_ROWS - 1) / SHARD_KV_PAGE_ROWS;
    for (uint32_t i = 0; i < kv->n_layers; i++) {
        const struct shard__kv_table *t = shard__kv_table(kv, seq, i);
        if (!kv->layers[i].page_bytes)
            continue;
        for (uint64_t page = shard_kv_first_page(kv, kv->layer_first + i, end); page < n_pages;
             page++)
            if (page >= t->n_pages || !t->pages[page])
                return false;
    }
    return true;
}

bool shard_kv_take(struct shard_kv *kv, struct shard_kv *from, uint32_t seq, uint64_t end)
{
    if (seq >= kv->max_seqs)
        return false;
    if (from && seq >= from->max_seqs)
        from = NULL;
    bool whole = end > 0 && end <= kv->ctx && (!from || from->ends[seq] >= end);
    for (uint32_t i = 0; i < kv->n_layers && whole && from; i++) {
        uint32_t layer = kv->layer_first + i;
        if (shard_kv_page_bytes(kv, layer) && shard_kv_alike(kv, from, layer))
            take_table(kv, i, from, seq);
    }
    whole = whole && take_states(kv, from, seq, end) && is_whole(kv, seq, end);
    if (!whole) {
        shard_kv_drop(kv, seq);
        return false;
    }
    kv->ends[seq] = end;
    if (from)
        kv->versions[seq] = from->versions[seq];
    shard_kv_trim(kv, seq, end);
    return true;
}
