/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/boundary.h"

#include <stdlib.h>
#include <string.h>

struct kept {
    char *rows;
    uint64_t n, capacity; /* rows */
};

struct worker_boundary {
    uint32_t max_seqs;
    size_t row_bytes;
    uint64_t budget_bytes, used_bytes;
    struct kept *seqs;
};

enum proto_status worker_boundary_create(struct worker_boundary **out, uint32_t max_seqs,
                                         size_t row_bytes, uint64_t budget_bytes,
                                         struct proto_error *error)
{
    struct worker_boundary *b = calloc(1, sizeof *b);
    if (b)
        b->seqs = calloc(max_seqs, sizeof *b->seqs);
    if (!b || !b->seqs) {
        free(b);
        return proto_fail_nomem(error, max_seqs * sizeof *b->seqs, "rows sent on");
    }
    b->max_seqs = max_seqs;
    b->row_bytes = row_bytes;
    b->budget_bytes = budget_bytes;
    *out = b;
    return PROTO_OK;
}

void worker_boundary_drop(struct worker_boundary *b, uint32_t seq)
{
    if (!b || seq >= b->max_seqs)
        return;
    b->used_bytes -= b->seqs[seq].capacity * b->row_bytes;
    free(b->seqs[seq].rows);
    b->seqs[seq] = (struct kept){0};
}

void worker_boundary_destroy(struct worker_boundary *b)
{
    if (!b)
        return;
    for (uint32_t seq = 0; seq < b->max_seqs; seq++)
        worker_boundary_drop(b, seq);
    free(b->seqs);
    free(b);
}

/* Room for n rows, with some to spare; false where the budget or the memory has none. */
static bool grow(struct worker_boundary *b, struct kept *kept, uint64_t n)
{
    if (n <= kept->capacity)
        return true;
    uint64_t room = (b->budget_bytes - b->used_bytes) / b->row_bytes + kept->capacity;
    uint64_t wish = n + n / 2, capacity = wish < room ? wish : room;
    if (n > room)
        return false;
    char *rows = realloc(kept->rows, capacity * b->row_bytes);
    if (!rows)
        return false;
    b->used_bytes += (capacity - kept->capacity) * b->row_bytes;
    kept->rows = rows;
    kept->capacity = capacity;
    return true;
}

void worker_boundary_keep(struct worker_boundary *b, const struct proto_range *ranges,
                          uint32_t n_ranges, const void *rows)
{
    const char *from = rows;
    for (uint32_t i = 0; b && i < n_ranges; i++) {
        const struct proto_range *r = &ranges[i];
        struct kept *kept = r->seq < b->max_seqs ? &b->seqs[r->seq] : NULL;
        if (kept && r->pos <= kept->n) {
            kept->n = r->pos;
            if (grow(b, kept, r->pos + r->n)) {
                memcpy(kept->rows + r->pos * b->row_bytes, from, r->n * b->row_bytes);
                kept->n += r->n;
            }
        }
        from += r->n * b->row_bytes;
    }
}

uint64_t worker_boundary_kept(const struct worker_boundary *b, uint32_t seq)
{
    return b && seq < b->max_seqs ? b->seqs[seq].n : 0;
}

const void *worker_boundary_rows(const struct worker_boundary *b, uint32_t seq, uint64_t pos,
                                 uint32_t n)
{
    uint64_t kept = worker_boundary_kept(b, seq);
    return pos <= kept && n <= kept - pos && kept ? b->seqs[seq].rows + pos * b->row_bytes : NULL;
}

size_t worker_boundary_row_bytes(const struct worker_boundary *b)
{
    return b ? b->row_bytes : 0;
}

void worker_boundary_take(struct worker_boundary *b, struct worker_boundary *from)
{
    if (!b || !from || b->row_bytes != from->row_bytes)
        return;
    for (uint32_t seq = 0; seq < b->max_seqs && seq < from->max_seqs; seq++) {
        worker_boundary_drop(b, seq);
        b->seqs[seq] = from->seqs[seq];
        from->seqs[seq] = (struct kept){0};
        b->used_bytes += b->seqs[seq].capacity * b->row_bytes;
        from->used_bytes -= b->seqs[seq].capacity * b->row_bytes;
    }
}
