/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A mapped file whose pages cannot be had any more (somebody cut it short, its disk fails) raises
 * SIGBUS where it is read. Within a guarded mapping the signal's handler puts zeros in the place of
 * the page and of what follows it, and notes that the mapping is lost; the reader goes on, and asks
 * for the note before it uses what came of it. As compositors do with buffers that clients share
 * with them. A SIGBUS elsewhere is what it was before. Private to this folder.
 *
 * Any thread; begin and end of one mapping are ordered by its owner.
 */
#ifndef SHARD_GUARD_H
#define SHARD_GUARD_H

#include <stdbool.h>
#include <stddef.h>

struct shard__guard;

/* NULL without memory. */
struct shard__guard *shard__guard_begin(const void *mapping, size_t len);
bool shard__guard_lost(const struct shard__guard *guard);
/* Before the mapping is taken away. NULL is allowed. */
void shard__guard_end(struct shard__guard *guard);

#endif
