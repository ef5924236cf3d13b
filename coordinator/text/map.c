/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>

#include "coordinator/text/internal.h"

/* Eight bytes a step, each folded in by a multiplication whose high bits come back down. */
static uint32_t hash_bytes(const char *text, size_t len)
{
    uint64_t h = len * 0x9e3779b97f4a7c15u;
    for (; len >= 8; text += 8, len -= 8) {
        uint64_t word;
        memcpy(&word, text, 8);
        h = (h ^ word) * 0xff51afd7ed558ccdu;
        h ^= h >> 32;
    }
    uint64_t word = 0;
    for (size_t i = 0; i < len; i++)
        word |= (uint64_t)(unsigned char)text[i] << 8 * i;
    h = (h ^ word) * 0xff51afd7ed558ccdu;
    h ^= h >> 32;
    h *= 0xc4ceb9fe1a85ec53u;
    return (uint32_t)(h >> 32);
}

enum proto_status text__map_init(struct text__map *map, uint32_t capacity,
                                 struct proto_error *error)
{
    size_t size = 16;
    while (size < 2 * (size_t)capacity)
        size *= 2;
    map->entries = malloc(size * sizeof *map->entries);
    if (!map->entries)
        return proto_fail_nomem(error, size * sizeof *map->entries, "a vocabulary");
    for (size_t i = 0; i < size; i++)
        map->entries[i].id = -1;
    map->mask = (uint32_t)(size - 1);
    return PROTO_OK;
}

void text__map_finish(struct text__map *map)
{
    free(map->entries);
    map->entries = NULL;
}

/* The string's entry, or the empty one where it would go. */
static struct text__map_entry *probe(const struct text__map *map, const struct text__blob *blob,
                                     const char *text, size_t len, uint32_t hash)
{
    for (uint32_t i = hash & map->mask;; i = (i + 1) & map->mask) {
        struct text__map_entry *entry = &map->entries[i];
        if (entry->id < 0)
            return entry;
        if (entry->hash != hash)
            continue;
        struct shard_gguf_string s = text__blob_get(blob, (uint32_t)entry->id);
        if (s.len == len && memcmp(s.data, text, len) == 0)
            return entry;
    }
}

void text__map_put(struct text__map *map, const struct text__blob *blob, int32_t id)
{
    struct shard_gguf_string s = text__blob_get(blob, (uint32_t)id);
    uint32_t hash = hash_bytes(s.data, s.len);
    struct text__map_entry *entry = probe(map, blob, s.data, s.len, hash);
    if (entry->id < 0)
        *entry = (struct text__map_entry){hash, id};
}

int32_t text__map_find(const struct text__map *map, const struct text__blob *blob, const char *text,
                       size_t len)
{
    return probe(map, blob, text, len, hash_bytes(text, len))->id;
}
