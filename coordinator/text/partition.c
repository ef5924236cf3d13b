/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Special tokens in raw text. The rule: the longest special token first (by id among equals), each
 * cuts its literal matches, left to right, out of what those before it left.
 *
 * Scanning the text once a token would cost thousands of scans. Instead one scan finds the longest
 * special token at each offset, and a heap gives these candidates in the rule's order: by rank,
 * then by offset. One that meets a taken place is replaced by the longest special token that fits
 * before it; that is shorter, so the order holds. Which tokens may stand at an offset (trust)
 * depends on the offset and their length alone, so the same goes with it. Whatever is taken is at
 * least as long as the candidate, so a candidate overlaps it only if one of the candidate's ends is
 * taken.
 */
#include <stdlib.h>
#include <string.h>

#include "coordinator/text/internal.h"
#include "coordinator/text/template.h"

static struct shard_gguf_string text_of(const struct text_vocab *v, uint32_t rank)
{
    return text__blob_get(&v->stored, (uint32_t)v->specials.by_rank[rank]);
}

static int compare_ranks(const void *a, const void *b, void *context)
{
    const struct text_vocab *v = context;
    int32_t ia = *(const int32_t *)a, ib = *(const int32_t *)b;
    size_t la = text__blob_get(&v->stored, (uint32_t)ia).len;
    size_t lb = text__blob_get(&v->stored, (uint32_t)ib).len;
    return la != lb ? (la < lb) - (la > lb) : (ia > ib) - (ia < ib);
}

static int compare_text(const void *a, const void *b, void *context)
{
    uint32_t ra = *(const uint32_t *)a, rb = *(const uint32_t *)b;
    struct shard_gguf_string sa = text_of(context, ra), sb = text_of(context, rb);
    int order = memcmp(sa.data, sb.data, sa.len < sb.len ? sa.len : sb.len);
    if (order == 0)
        order = (sa.len > sb.len) - (sa.len < sb.len);
    return order ? order : (ra > rb) - (ra < rb);
}

static bool is_special(const struct text_vocab *v, uint32_t id)
{
    uint8_t type = v->types[id];
    bool special =
        type == TEXT_TOKEN_USER || type == TEXT_TOKEN_CONTROL || type == TEXT_TOKEN_UNKNOWN;
    return special && text__blob_get(&v->stored, id).len > 0;
}

enum proto_status text__specials_init(struct text_vocab *v, struct proto_error *error)
{
    struct text__specials *s = &v->specials;
    for (uint32_t i = 0; i < v->n; i++)
        s->n += is_special(v, i);
    if (s->n == 0)
        return PROTO_OK;
    s->by_rank = malloc(s->n * sizeof *s->by_rank);
    s->by_text = malloc(s->n * sizeof *s->by_text);
    if (!s->by_rank || !s->by_text)
        return proto_fail_nomem(error, 2 * s->n * sizeof *s->by_rank, "special tokens");
    uint32_t n = 0;
    for (uint32_t i = 0; i < v->n; i++) {
        if (!is_special(v, i))
            continue;
        unsigned char first = (unsigned char)text__blob_get(&v->stored, i).data[0];
        s->by_text[n] = n;
        s->by_rank[n++] = (int32_t)i;
        s->first_any[first] = true;
        if (v->types[i] == TEXT_TOKEN_USER)
            s->first_user[first] = true;
    }
    qsort_r(s->by_rank, n, sizeof *s->by_rank, compare_ranks, v);
    qsort_r(s->by_text, n, sizeof *s->by_text, compare_text, v);
    return PROTO_OK;
}

void text__specials_finish(struct text__specials *s)
{
    free(s->by_rank);
    free(s->by_text);
}

struct scan {
    const struct text_vocab *vocab;
    const char *text;
    size_t len;
    const struct text__trust *trust;
    uint8_t *taken; /* a bit an offset */
    struct text__heap heap;
    struct text__span *spans;
    size_t n_spans, cap_spans;
};

/* Of the places lo to hi in by_text, whose tokens agree in their first `depth` bytes and are
 * longer: the first whose next byte is at least c. */
static uint32_t lower(const struct text_vocab *v, uint32_t lo, uint32_t hi, size_t depth,
                      unsigned c)
{
    while (lo < hi) {
        uint32_t middle = lo + (hi - lo) / 2;
        if ((unsigned char)text_of(v, v->specials.by_text[middle]).data[depth] < c)
            lo = middle + 1;
        else
            hi = middle;
    }
    return lo;
}

#define NO_RANK UINT32_MAX

/* How many bytes from `at` on lie before untrusted ones, of `room`. */
static size_t trusted_room(const struct scan *scan, size_t at, size_t room)
{
    const struct text__trust *trust = scan->trust;
    size_t lo = 0, hi = trust->any ? trust->n_untrusted : 0;
    while (lo < hi) { /* the first span that ends after `at` */
        size_t middle = lo + (hi - lo) / 2;
        if (trust->untrusted[middle].end <= at)
            lo = middle + 1;
        else
            hi = middle;
    }
    if (!trust->any || lo == trust->n_untrusted)
        return trust->any ? room : 0;
    size_t first = trust->untrusted[lo].first;
    return first <= at ? 0 : first - at < room ? first - at : room;
}

/* The rank of the longest special token that the text has at `at`, of at most `room` bytes. */
static uint32_t longest_at(const struct scan *scan, size_t at, size_t room)
{
    const struct text_vocab *v = scan->vocab;
    const struct text__specials *s = &v->specials;
    uint32_t best = NO_RANK, lo = 0, hi = s->n;
    size_t trusted = trusted_room(scan, at, room);
    for (size_t depth = 0; depth < room && lo < hi; depth++) {
        unsigned c = (unsigned char)scan->text[at + depth];
        lo = lower(v, lo, hi, depth, c);
        hi = lower(v, lo, hi, depth, c + 1);
        /* Those that end here come first; of several with one text, the lowest id counts. */
        bool found = false;
        for (; lo < hi && text_of(v, s->by_text[lo]).len == depth + 1; lo++) {
            uint32_t rank = s->by_text[lo];
            bool eligible = depth < trusted || v->types[s->by_rank[rank]] == TEXT_TOKEN_USER;
            if (eligible && !found)
                best = rank;
            found = found || eligible;
        }
    }
    return best;
}

static bool is_taken(const struct scan *scan, size_t at)
{
    return scan->taken[at / 8] >> at % 8 & 1;
}

static enum proto_status push_candidate(struct scan *scan, size_t at, size_t room,
                                        struct proto_error *error)
{
    uint32_t rank = longest_at(scan, at, room);
    if (rank == NO_RANK)
        return PROTO_OK;
    return text__heap_push(&scan->heap, (uint64_t)rank << 32 | at, error);
}

static enum proto_status find_candidates(struct scan *scan, struct proto_error *error)
{
    const struct text__specials *s = &scan->vocab->specials;
    const bool *first = scan->trust->any ? s->first_any : s->first_user;
    enum proto_status status = PROTO_OK;
    for (size_t at = 0; at < scan->len && status == PROTO_OK; at++) {
        if (first[(unsigned char)scan->text[at]])
            status = push_candidate(scan, at, scan->len - at, error);
    }
    return status;
}

static enum proto_status take(struct scan *scan, struct text__span span, struct proto_error *error)
{
    if (scan->n_spans == scan->cap_spans) {
        size_t cap = scan->cap_spans ? 2 * scan->cap_spans : 16;
        struct text__span *spans = realloc(scan->spans, cap * sizeof *spans);
        if (!spans)
            return proto_fail_nomem(error, cap * sizeof *spans, "special tokens of a text");
        scan->spans = spans;
        scan->cap_spans = cap;
    }
    scan->spans[scan->n_spans++] = span;
    for (size_t i = span.at; i < (size_t)span.at + span.len; i++)
        scan->taken[i / 8] |= (uint8_t)(1u << i % 8);
    return PROTO_OK;
}

static enum proto_status take_candidates(struct scan *scan, struct proto_error *error)
{
    scan->taken = calloc(scan->len / 8 + 1, 1);
    if (!scan->taken)
        return proto_fail_nomem(error, scan->len / 8 + 1, "special tokens of a text");
    enum proto_status status = PROTO_OK;
    while (scan->heap.n > 0 && status == PROTO_OK) {
        uint64_t key = text__heap_pop(&scan->heap);
        uint32_t at = (uint32_t)key, rank = (uint32_t)(key >> 32);
        uint32_t len = (uint32_t)text_of(scan->vocab, rank).len;
        if (!is_taken(scan, at) && !is_taken(scan, (size_t)at + len - 1)) {
            int32_t id = scan->vocab->specials.by_rank[rank];
            status = take(scan, (struct text__span){at, len, id}, error);
            continue;
        }
        size_t room = 0;
        while (!is_taken(scan, at + room))
            room++;
        status = push_candidate(scan, at, room, error);
    }
    return status;
}

static int compare_spans(const void *a, const void *b)
{
    const struct text__span *sa = a, *sb = b;
    return (sa->at > sb->at) - (sa->at < sb->at);
}

enum proto_status text__partition(const struct text_vocab *vocab, const char *text, size_t len,
                                  const struct text__trust *trust, struct text__span **spans,
                                  size_t *n, struct proto_error *error)
{
    struct scan scan = {.vocab = vocab, .text = text, .len = len, .trust = trust};
    enum proto_status status = find_candidates(&scan, error);
    if (status == PROTO_OK && scan.heap.n > 0)
        status = take_candidates(&scan, error);
    free(scan.taken);
    free(scan.heap.items);
    if (status != PROTO_OK) {
        free(scan.spans);
        return status;
    }
    if (scan.n_spans > 1)
        qsort(scan.spans, scan.n_spans, sizeof *scan.spans, compare_spans);
    *spans = scan.spans;
    *n = scan.n_spans;
    return PROTO_OK;
}
