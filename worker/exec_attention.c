/* SPDX-License-Identifier: Apache-2.0 */
/* Attention: a task is some rows of a sequence, side by side, and some query heads of one KV head.
 */
#include "worker/exec_state.h"

#include <stdlib.h>

/* Below this many products of a key or value element the calling thread does it alone. */
#define INLINE_PRODUCTS 32768u

struct attention_job {
    struct worker_exec *e;
    const struct shard_op *op;
};

static uint64_t first_seen(const struct shard_op *op, uint64_t pos)
{
    return shard_mask_first(op->mask, op->window, pos);
}

/* Tasks of a KV head, for the same rows. */
static size_t parts_of(const struct shard_op *op)
{
    uint32_t each = shard_attention_heads(op);
    return (op->n_heads / op->n_head_kv + each - 1) / each;
}

/* Addresses of one head's rows in the pages that hold positions first..last. */
static size_t gather_pages(const struct worker_exec *e, const struct shard_op *op, uint32_t seq,
                           uint64_t first, uint64_t last, size_t head,
                           struct worker__scratch *scratch)
{
    struct shard_kv_view view = shard_kv_view(e->kv, seq, op->layer);
    size_t k_offset = shard_kv_k_offset(e->kv, op->layer, (uint32_t)head);
    size_t v_offset = shard_kv_v_offset(e->kv, op->layer, (uint32_t)head);
    size_t base = first / SHARD_KV_PAGE_ROWS;
    size_t n = last / SHARD_KV_PAGE_ROWS - base + 1;
    for (size_t i = 0; i < n; i++) {
        const char *page = view.pages[base + i];
        scratch->pages[i] = page + k_offset;
        scratch->pages[n + i] = page + v_offset;
    }
    return n;
}

/* Rows r to r + n_rows - 1, of one sequence. */
static void attend(struct worker_exec *e, const struct shard_op *op, size_t r, size_t n_rows,
                   size_t task, struct worker__scratch *scratch)
{
    const float *sinks = op->w < 0 ? NULL : e->weights->data[op->w];
    const struct worker__row *row = &e->rows[r];
    size_t n_group = op->n_heads / op->n_head_kv, head = task / parts_of(op);
    size_t part = task % parts_of(op) * shard_attention_heads(op);
    size_t n_q =
        n_group - part < shard_attention_heads(op) ? n_group - part : shard_attention_heads(op);
    size_t first_q = head * n_group + part;
    uint64_t first = first_seen(op, row->pos), base = first - first % SHARD_KV_PAGE_ROWS;
    size_t n_pages = gather_pages(e, op, row->seq, first, row->pos + n_rows - 1, head, scratch);
    struct kern_span spans[KERN_ATTENTION_ROWS];
    for (size_t i = 0; i < n_rows; i++)
        spans[i] = (struct kern_span){.first = first_seen(op, row->pos + i) - base,
                                      .last = row->pos + i - base};
    struct kern_attention a = {
        .out = (float *)worker__at(e, op->dst, r) + first_q * op->dim_v,
        .out_ld = worker__ld(e, op->dst),
        .q = (const float *)worker__at(e, op->a, r) + first_q * op->dim_k,
        .q_ld = worker__ld(e, op->a),
        .spans = spans,
        .n_rows = n_rows,
        .k_pages = scratch->pages,
        .v_pages = scratch->pages + n_pages,
        .scores = scratch->scores,
        .n_q = n_q,
        .dim_k = op->dim_k,
        .dim_v = op->dim_v,
        .page_rows = SHARD_KV_PAGE_ROWS,
        .scale = op->scale,
        .kv = shard_kv_type(e->kv),
        .sinks = sinks ? sinks + first_q : NULL,
        .v_row = e->program->model->mla.kv_rank ? op->dim_k : 0,
    };
    e->table->attention(&a);
}

static void attention_tasks(void *arg, size_t first, size_t last, unsigned thread)
{
    const struct attention_job *job = arg;
    const struct worker_exec *e = job->e;
    size_t each = job->op->n_head_kv * parts_of(job->op);
    for (size_t task = first; task < last; task++) {
        const struct worker__group *group = &e->groups[task / each];
        attend(job->e, job->op, group->first, group->n, task % each, &job->e->scratch[thread]);
    }
}

/* Puts the batch's rows into groups of one sequence each. */
static size_t group_rows(struct worker_exec *e, uint32_t rows)
{
    size_t n = 0;
    for (size_t i = 0; i < e->n_ranges; i++)
        for (uint32_t r = e->starts[i]; r < e->starts[i + 1]; r += rows) {
            uint32_t left = e->starts[i + 1] - r;
            e->groups[n++] = (struct worker__group){r, left < rows ? left : rows};
        }
    return n;
}

static enum proto_status grow(struct worker__scratch *s, size_t n_scores, size_t n_pages,
                              struct proto_error *error)
{
    if (n_scores > s->n_scores) {
        size_t n = n_scores + n_scores / 2, bytes = (n * sizeof(float) + 63) / 64 * 64;
        float *scores = aligned_alloc(64, bytes);
        if (!scores)
            return proto_fail_nomem(error, bytes, "attention scores");
        free(s->scores);
        s->scores = scores;
        s->n_scores = n;
    }
    if (n_pages > s->n_pages) {
        size_t n = n_pages + n_pages / 2;
        const void **pages = malloc(2 * n * sizeof *pages);
        if (!pages)
            return proto_fail_nomem(error, 2 * n * sizeof *pages, "attention's page list");
        free(s->pages);
        s->pages = pages;
        s->n_pages = n;
    }
    return PROTO_OK;
}

enum proto_status worker__attention_run(struct worker_exec *e, const struct shard_op *op,
                                        size_t n_rows, struct proto_error *error)
{
    uint64_t longest = 0, sum = 0;
    for (size_t r = 0; r < n_rows; r++) {
        uint64_t span = e->rows[r].pos - first_seen(op, e->rows[r].pos) + 1;
        longest = span > longest ? span : longest;
        sum += span;
    }
    uint32_t rows = n_rows > 1 ? shard_attention_rows(op, longest) : 1;
    size_t n_scores =
        kern_attention_scratch(rows, shard_attention_heads(op), op->dim_k, longest + rows - 1);
    size_t n_pages = (longest + rows) / SHARD_KV_PAGE_ROWS + 2;
    for (unsigned t = 0; t < e->n_threads; t++) {
        enum proto_status status = grow(&e->scratch[t], n_scores, n_pages, error);
        if (status != PROTO_OK)
            return status;
    }
    struct attention_job job = {.e = e, .op = op};
    size_t n_tasks = group_rows(e, rows) * op->n_head_kv * parts_of(op);
    if (sum * op->n_heads * (op->dim_k + op->dim_v) < INLINE_PRODUCTS)
        attention_tasks(&job, 0, n_tasks, 0);
    else
        kern_pool_run(e->pool, n_tasks, n_rows == 1 ? 1 : 0, attention_tasks, &job);
    return PROTO_OK;
}
