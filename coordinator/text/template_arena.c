/* SPDX-License-Identifier: Apache-2.0 */
#include "coordinator/text/template_arena.h"

#include <stdalign.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define CHUNK_BYTES ((size_t)1 << 15)
#define ALIGN       alignof(max_align_t)

struct text__chunk {
    struct text__chunk *next;
    size_t used, cap;
    alignas(max_align_t) unsigned char bytes[];
};

void text__arena_init(struct text__arena *arena, size_t limit_bytes)
{
    *arena = (struct text__arena){.limit_bytes = limit_bytes};
}

void text__arena_finish(struct text__arena *arena)
{
    while (arena->chunks) {
        struct text__chunk *next = arena->chunks->next;
        free(arena->chunks);
        arena->chunks = next;
    }
}

static bool within_limit(struct text__arena *arena, size_t bytes)
{
    arena->exhausted = bytes > arena->limit_bytes - arena->taken_bytes;
    return !arena->exhausted;
}

static size_t align_up(size_t bytes)
{
    return (bytes + ALIGN - 1) / ALIGN * ALIGN;
}

static struct text__chunk *add_chunk(struct text__arena *arena, size_t bytes)
{
    size_t cap = bytes > CHUNK_BYTES ? bytes : CHUNK_BYTES;
    struct text__chunk *chunk = calloc(1, sizeof *chunk + cap);
    if (!chunk)
        return NULL;
    chunk->cap = cap;
    chunk->next = arena->chunks;
    arena->chunks = chunk;
    return chunk;
}

void *text__arena_take(struct text__arena *arena, size_t bytes)
{
    if (bytes > SIZE_MAX / 2)
        bytes = SIZE_MAX / 2;
    bytes = align_up(bytes ? bytes : 1);
    if (!within_limit(arena, bytes))
        return NULL;
    struct text__chunk *chunk = arena->chunks;
    if (!chunk || bytes > chunk->cap - chunk->used)
        chunk = add_chunk(arena, bytes);
    if (!chunk)
        return NULL;
    void *piece = chunk->bytes + chunk->used;
    chunk->used += bytes;
    arena->taken_bytes += bytes;
    return piece;
}

void *text__arena_grow(struct text__arena *arena, void *piece, size_t old_bytes, size_t bytes)
{
    struct text__chunk *chunk = arena->chunks;
    size_t old = align_up(old_bytes);
    if (piece && bytes <= SIZE_MAX / 2 &&
        (unsigned char *)piece + old == chunk->bytes + chunk->used) {
        size_t more = align_up(bytes) - old;
        if (more <= chunk->cap - chunk->used && within_limit(arena, more)) {
            chunk->used += more;
            arena->taken_bytes += more;
            return piece;
        }
    }
    void *larger = text__arena_take(arena, bytes);
    if (larger && old_bytes)
        memcpy(larger, piece, old_bytes);
    return larger;
}
