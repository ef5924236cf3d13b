/* SPDX-License-Identifier: Apache-2.0 */
/* Memory that is taken piece by piece and given back at once, up to a limit. One thread. */
#ifndef COORDINATOR_TEXT_TEMPLATE_ARENA_H
#define COORDINATOR_TEXT_TEMPLATE_ARENA_H

#include <stdbool.h>
#include <stddef.h>

struct text__arena {
    struct text__chunk *chunks; /* the newest first */
    size_t taken_bytes, limit_bytes;
    bool exhausted; /* the last failure was the limit's, not malloc's */
};

void text__arena_init(struct text__arena *arena, size_t limit_bytes);
void text__arena_finish(struct text__arena *arena);

/* Zeroed memory for any type; NULL beyond the limit or where malloc fails. */
void *text__arena_take(struct text__arena *arena, size_t bytes);

/* Makes an earlier piece of old_bytes larger: where it stands if it is the newest and there is
 * room, else as a copy (the old piece stays as it was). The new bytes are zero. */
void *text__arena_grow(struct text__arena *arena, void *piece, size_t old_bytes, size_t bytes);

#endif
