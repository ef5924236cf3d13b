/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Merging by priority in O(n log n): a heap holds (rank, offset) of every pair that may merge.
 * Entries are never removed early; one is out of date when the symbol at its offset no longer has
 * that rank. Since the offset is the low half of the key, ties go to the left.
 */
#include <stdlib.h>

#include "coordinator/text/internal.h"

enum proto_status text__heap_push(struct text__heap *heap, uint64_t item, struct proto_error *error)
{
    if (heap->n == heap->cap) {
        size_t cap = heap->cap ? 2 * heap->cap : 64;
        uint64_t *items = realloc(heap->items, cap * sizeof *items);
        if (!items)
            return proto_fail_nomem(error, cap * sizeof *items, "encoding a text");
        heap->items = items;
        heap->cap = cap;
    }
    size_t i = heap->n++;
    while (i > 0 && heap->items[(i - 1) / 2] > item) {
        heap->items[i] = heap->items[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    heap->items[i] = item;
    return PROTO_OK;
}

uint64_t text__heap_pop(struct text__heap *heap)
{
    uint64_t top = heap->items[0];
    uint64_t last = heap->items[--heap->n];
    size_t i = 0;
    for (size_t child = 1; child < heap->n; child = 2 * i + 1) {
        if (child + 1 < heap->n && heap->items[child + 1] < heap->items[child])
            child++;
        if (heap->items[child] >= last)
            break;
        heap->items[i] = heap->items[child];
        i = child;
    }
    heap->items[i] = last;
    return top;
}

enum proto_status text__merger_reserve(struct text__merger *merger, size_t len,
                                       struct proto_error *error)
{
    if (len <= merger->cap)
        return PROTO_OK;
    size_t cap = len < 256 ? 256 : len + len / 2;
    struct text__symbol *symbols = malloc(cap * sizeof *symbols);
    if (!symbols)
        return proto_fail_nomem(error, cap * sizeof *symbols, "encoding a text");
    free(merger->symbols);
    merger->symbols = symbols;
    merger->cap = cap;
    return PROTO_OK;
}

void text__merger_finish(struct text__merger *merger)
{
    free(merger->symbols);
    free(merger->heap.items);
}

struct merge {
    struct text__merger *merger;
    const struct text_vocab *vocab;
    text__pair_fn *pair;
    const char *text;
    size_t len;
};

static enum proto_status consider(const struct merge *m, uint32_t left, struct proto_error *error)
{
    struct text__symbol *symbol = &m->merger->symbols[left];
    symbol->rank = TEXT__NO_RANK;
    if (symbol->next >= m->len)
        return PROTO_OK;
    m->pair(m->vocab, m->text, m->merger->symbols, left);
    if (symbol->rank == TEXT__NO_RANK)
        return PROTO_OK;
    return text__heap_push(&m->merger->heap, (uint64_t)symbol->rank << 32 | left, error);
}

/* Joins the symbol with its right neighbour. */
static enum proto_status join(const struct merge *m, uint32_t left, struct proto_error *error)
{
    struct text__symbol *symbols = m->merger->symbols;
    struct text__symbol *symbol = &symbols[left];
    uint32_t right = symbol->next;
    symbol->id = symbol->into;
    symbol->next = symbols[right].next;
    symbols[right].rank = TEXT__NO_RANK;
    if (symbol->next < m->len)
        symbols[symbol->next].prev = left;
    enum proto_status status = consider(m, left, error);
    if (status == PROTO_OK && symbol->prev != TEXT__NO_SYMBOL)
        status = consider(m, symbol->prev, error);
    return status;
}

enum proto_status text__merge(struct text__merger *merger, const struct text_vocab *vocab,
                              text__pair_fn *pair, const char *text, size_t len,
                              struct proto_error *error)
{
    struct merge m = {merger, vocab, pair, text, len};
    enum proto_status status = PROTO_OK;
    merger->heap.n = 0;
    for (uint32_t i = 0; i < len && status == PROTO_OK; i = merger->symbols[i].next)
        status = consider(&m, i, error);
    while (merger->heap.n > 0 && status == PROTO_OK) {
        uint64_t top = text__heap_pop(&merger->heap);
        uint32_t left = (uint32_t)top;
        if (merger->symbols[left].rank == (uint32_t)(top >> 32))
            status = join(&m, left, error);
    }
    return status;
}
