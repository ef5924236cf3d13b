/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The arithmetic of routed experts, for whoever asked: the worker's own stage, or another's.
 *
 * Rows ask in groups: a group's experts are added up, in the order of shard/experts.h. An entry is
 * a row's expert in one holding. Entries are sorted by expert, so that an expert's weights are read
 * once for all its rows, and each has places of its own for what is computed, so no row's bits
 * depend on what else is in the batch, where the executor is exact.
 *
 * The products with `down` are made for a block of columns at a time, all experts and segments, and
 * added up while they are in the cache; for a few rows a block is everything, so that it is one
 * loop over the pool.
 */
#include "worker/exec_experts.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/blas.h"
#include "worker/exec_sum.h"
#include "worker/lazy.h"

_Static_assert(SHARD_EXPERT_PANELS % KERN_BLAS_PANELS == 0,
               "a block of columns must not cut a product of OpenBLAS's");

/* How a matrix is cut: panels a chunk, and chunks, at most, of any holding's. */
struct chunking {
    size_t panels, n;
};

struct job {
    struct worker_exec *e;
    const struct shard_op *op;
    const struct worker__expert_rows *rows;
    struct worker__entries *s;
    const struct shard_holding *holdings;
    struct shard_experts_scratch at;
    struct shard_segments segments;
    enum kern_act down_act;
    bool lone, fused;
    struct chunking gate, up, down;
    size_t run_first, run_n;       /* active units whose weights are there: all, or a run of them */
    size_t block_first, block_end; /* panels whose products with down are made now */
    size_t ld;                     /* floats from one of those products to the next */
};

/* An expert in a holding. */
struct unit {
    const struct shard_holding *h;
    uint32_t expert, mat;
    uint32_t first, n; /* its entries */
};

static struct unit unit_of(const struct job *job, uint32_t number)
{
    const struct worker__entries *s = job->s;
    uint32_t holding = s->holding[number], mat = number - s->unit[holding];
    const struct shard_holding *h = &job->holdings[holding];
    return (struct unit){.h = h,
                         .expert = h->expert_first + mat,
                         .mat = mat,
                         .first = s->start[number],
                         .n = s->start[number + 1] - s->start[number]};
}

/* Numbers the holdings' experts one after another: units. */
static void number_units(struct job *job)
{
    struct worker__entries *s = job->s;
    s->n_units = 0;
    for (uint32_t i = 0; i < job->op->n_holdings; i++) {
        s->unit[i] = s->n_units;
        for (uint32_t x = job->holdings[i].expert_first; x < job->holdings[i].expert_end; x++)
            s->holding[s->n_units++] = (uint16_t)i;
    }
}

/* The holding with a segment of an expert; n_holdings: none. */
static uint32_t find_holding(const struct job *job, uint32_t expert, uint32_t segment)
{
    uint32_t i = 0;
    for (; i < job->op->n_holdings; i++) {
        const struct shard_holding *h = &job->holdings[i];
        if (expert >= h->expert_first && expert < h->expert_end && segment >= h->segment_first &&
            segment < h->segment_end)
            break;
    }
    return i;
}

/* The entry of an expert for a row, whose entries start at `from`. */
static uint32_t find_entry(struct worker__entries *s, uint32_t from, uint32_t row, uint32_t unit,
                           float weight)
{
    uint32_t i = from;
    while (i < s->n && s->found[i].unit != unit)
        i++;
    if (i == s->n)
        s->found[s->n++] = (struct worker__entry){.row = row, .unit = unit, .weight = weight};
    return i;
}

static bool list_member(const struct job *job, uint32_t from, const struct worker_expert_group *g,
                        uint32_t m)
{
    const struct worker_expert_member *member = &job->rows->members[m];
    uint32_t end = 0, entry = 0;
    for (uint32_t segment = g->segment_first; segment < g->segment_end; segment++) {
        if (segment >= end) {
            uint32_t i = find_holding(job, member->expert, segment);
            if (i == job->op->n_holdings)
                return false;
            uint32_t unit = job->s->unit[i] + member->expert - job->holdings[i].expert_first;
            entry = find_entry(job->s, from, g->row, unit, member->weight);
            end = job->holdings[i].segment_end;
        }
        job->s->slot[m * SHARD_EXPERT_SEGMENTS + segment] = entry;
    }
    return true;
}

/* Entries in order of row, and which is whose. False: an expert is not held. */
static bool list_entries(const struct job *job)
{
    uint32_t from = 0;
    job->s->n = 0;
    for (uint32_t i = 0; i < job->rows->n_groups; i++) {
        const struct worker_expert_group *g = &job->rows->groups[i];
        if (i > 0 && g->row != g[-1].row)
            from = job->s->n;
        for (uint32_t m = g->first_member; m < g->first_member + g->n_members; m++) {
            if (!list_member(job, from, g, m))
                return false;
        }
    }
    return true;
}

/* Counting sort by unit; within a unit entries keep their order. */
static void sort_entries(struct worker__entries *s)
{
    memset(s->start, 0, (s->n_units + 1) * sizeof *s->start);
    for (uint32_t i = 0; i < s->n; i++)
        s->start[s->found[i].unit + 1]++;
    s->n_active = 0;
    for (uint32_t u = 0; u < s->n_units; u++) {
        if (s->start[u + 1])
            s->active[s->n_active++] = u;
        s->start[u + 1] += s->start[u];
    }
    for (uint32_t i = 0; i < s->n; i++) {
        uint32_t at = s->start[s->found[i].unit]++;
        s->place[i] = at;
        s->sorted[at] = s->found[i];
    }
    memmove(s->start + 1, s->start, s->n_units * sizeof *s->start);
    s->start[0] = 0;
}

static char *scratch(const struct job *job, uint64_t offset)
{
    return job->e->experts + offset;
}

static bool second_operand(const struct job *job)
{
    return job->rows->up.rows != job->rows->gate.rows;
}

static void gather(void *arg, size_t first, size_t last, unsigned thread)
{
    const struct job *job = arg;
    const struct worker__operand *gate = &job->rows->gate, *up = &job->rows->up;
    (void)thread;
    for (size_t i = first; i < last; i++) {
        size_t row = job->s->sorted[i].row;
        memcpy(scratch(job, job->at.x_gate) + i * gate->bytes, gate->rows + row * gate->stride,
               gate->bytes);
        if (second_operand(job))
            memcpy(scratch(job, job->at.x_up) + i * up->bytes, up->rows + row * up->stride,
                   up->bytes);
    }
}

/* A chunk's panels of a matrix of weight w; none past its end. */
static bool chunk_panels(const struct job *job, int32_t w, const struct chunking *chunks,
                         size_t chunk, size_t *first, size_t *end)
{
    size_t all = worker__panels(&job->e->program->weights[w]);
    *first = chunk * chunks->panels;
    *end = *first + chunks->panels < all ? *first + chunks->panels : all;
    return *first < all;
}

/* Gate's product, or up's, for a chunk; a lone row is read where it is. */
static void multiply_in(const struct job *job, const struct unit *u, bool up, size_t chunk)
{
    const struct worker__operand *x = up ? &job->rows->up : &job->rows->gate;
    int32_t w = up ? u->h->up : u->h->gate;
    const char *gathered = scratch(job, up && second_operand(job) ? job->at.x_up : job->at.x_gate);
    float *y = (float *)scratch(job, up ? job->at.up : job->at.gate);
    size_t first, end;
    if (!chunk_panels(job, w, up ? &job->up : &job->gate, chunk, &first, &end))
        return;
    worker__multiply(job->e, w, u->mat, first, end, y + u->first * job->at.ff_stride,
                     job->at.ff_stride, job->lone ? x->rows : gathered + u->first * x->bytes,
                     x->bytes, u->n);
}

static void gate_up_tasks(void *arg, size_t first, size_t last, unsigned thread)
{
    const struct job *job = arg;
    size_t each = job->gate.n + job->up.n;
    (void)thread;
    for (size_t i = first; i < last; i++) {
        struct unit u = unit_of(job, job->s->active[job->run_first + i / each]);
        size_t chunk = i % each;
        bool up = chunk >= job->gate.n;
        multiply_in(job, &u, up, up ? chunk - job->gate.n : chunk);
    }
}

/* y += values [first, first + n) of an expert's `width` of bias 0 (gate), 1 (up) or 2 (down), where
 * there are biases. */
static void add_bias(const struct job *job, int which, uint32_t expert, size_t width, size_t first,
                     float *y, size_t n)
{
    int32_t w = job->op->bias[which];
    if (w < 0)
        return;
    const float *rows = job->e->weights->data[w];
    job->e->table->add(y, rows + expert * width + first, n);
}

/* Down's operand of an entry: a record for each segment. */
static void quantize_entry(const struct job *job, size_t entry, const struct shard_holding *h,
                           const float *x)
{
    const uint32_t *at = job->segments.at;
    char *to = scratch(job, job->at.x_down) + entry * job->at.down_bytes;
    for (uint32_t i = h->segment_first; i < h->segment_end; i++) {
        size_t k = at[i + 1] - at[i];
        job->e->table->quantize[job->down_act](to, x + at[i] - at[h->segment_first],
                                               job->at.ff_stride, 1, k);
        to += kern_act_bytes(job->down_act, k);
    }
}

static void activate(void *arg, size_t first, size_t last, unsigned thread)
{
    const struct job *job = arg;
    const struct shard_op *op = job->op;
    (void)thread;
    for (size_t i = first; i < last; i++) {
        struct unit u = unit_of(job, job->s->sorted[i].unit);
        size_t at = job->segments.at[u.h->segment_first];
        size_t n = job->segments.at[u.h->segment_end] - at;
        float *gate = (float *)scratch(job, job->at.gate) + i * job->at.ff_stride;
        float *up = (float *)scratch(job, job->at.up) + i * job->at.ff_stride;
        if (job->fused)
            up = gate + n;
        add_bias(job, 0, u.expert, op->width, at, gate, n);
        add_bias(job, 1, u.expert, op->width, at, up, n);
        worker__glu(job->e, op->glu, gate, up, op->gate_on_input ? job->s->sorted[i].weight : 1.0f,
                    n);
        if (job->down_act != KERN_ACT_F32)
            quantize_entry(job, i, u.h, gate);
    }
}

/* Down's operand for the entries of a unit: where a segment of its holding starts. */
static const char *down_operand(const struct job *job, const struct unit *u, uint32_t segment,
                                size_t *bytes)
{
    const uint32_t *at = job->segments.at;
    if (job->down_act == KERN_ACT_F32) {
        *bytes = job->at.ff_stride * sizeof(float);
        return scratch(job, job->at.gate) + u->first * *bytes +
               (at[segment] - at[u->h->segment_first]) * sizeof(float);
    }
    const char *x = scratch(job, job->at.x_down) + u->first * job->at.down_bytes;
    for (uint32_t i = u->h->segment_first; i < segment; i++)
        x += kern_act_bytes(job->down_act, at[i + 1] - at[i]);
    *bytes = job->at.down_bytes;
    return x;
}

/* An entry's product with a segment of down, of which the block is there. */
static float *product_of(const struct job *job, size_t entry, uint32_t segment)
{
    return (float *)scratch(job, job->at.down) + (segment * (size_t)job->s->n + entry) * job->ld;
}

/* Columns of the block, and the first. */
static size_t block_width(const struct job *job, size_t *first)
{
    size_t end = job->block_end * KERN_PANEL, all = job->e->program->model->n_embd;
    *first = job->block_first * KERN_PANEL;
    return (end < all ? end : all) - *first;
}

/* What is left to do to a chunk of a unit's products, while they are near: columns [first, end). */
static void finish_products(const struct job *job, const struct unit *u, uint32_t segment,
                            size_t first, size_t end)
{
    size_t all = job->e->program->model->n_embd, at = first - job->block_first * KERN_PANEL;
    size_t n = (end < all ? end : all) - first;
    for (size_t i = u->first; i < u->first + u->n; i++) {
        float *y = product_of(job, i, segment) + at;
        if (segment == 0)
            add_bias(job, 2, u->expert, all, first, y, n);
        if (!job->op->gate_on_input)
            job->e->table->scale(y, y, job->s->sorted[i].weight, n);
    }
}

static void down_task(const struct job *job, size_t item)
{
    size_t number = job->run_first + item / job->down.n / job->segments.n;
    struct unit u = unit_of(job, job->s->active[number]);
    uint32_t segment = (uint32_t)(item / job->down.n % job->segments.n);
    size_t first = job->block_first + item % job->down.n * job->down.panels;
    size_t end = first + job->down.panels, bytes;
    end = end < job->block_end ? end : job->block_end;
    if (segment < u.h->segment_first || segment >= u.h->segment_end || first >= end)
        return;
    const char *x = down_operand(job, &u, segment, &bytes);
    float *y = product_of(job, u.first, segment) + (first - job->block_first) * KERN_PANEL;
    worker__multiply_segment(job->e, u.h->down, u.mat, segment - u.h->segment_first, first, end, y,
                             job->ld, x, bytes, u.n);
    finish_products(job, &u, segment, first * KERN_PANEL, end * KERN_PANEL);
}

static void down_tasks(void *arg, size_t first, size_t last, unsigned thread)
{
    (void)thread;
    for (size_t i = first; i < last; i++)
        down_task(arg, i);
}

/* The sum of a group's products with a segment. */
static float *sum_experts(const struct job *job, const struct worker_expert_group *g,
                          uint32_t segment, size_t width)
{
    const struct worker__entries *s = job->s;
    struct worker__term terms[PROTO_MAX_EXPERTS];
    for (uint32_t i = 0; i < g->n_members; i++) {
        uint32_t member = g->first_member + i;
        uint32_t entry = s->place[s->slot[member * SHARD_EXPERT_SEGMENTS + segment]];
        terms[i] = (struct worker__term){.number = job->rows->members[member].expert,
                                         .values = product_of(job, entry, segment)};
    }
    return worker__sum_terms(job->e->table, terms, g->n_members, 0,
                             job->e->program->model->n_experts, width);
}

/* The block of a group's vectors: one for each segment, or each node of segments. */
static void sum_group(const struct job *job, const struct worker_expert_group *g)
{
    struct worker__term terms[SHARD_EXPERT_SEGMENTS];
    size_t at, width = block_width(job, &at);
    float *to = job->rows->vectors + g->first_vector * job->rows->ld + at;
    for (uint32_t s = g->segment_first, end; s < g->segment_end; s = end) {
        end = g->joined ? worker__segment_node(job->segments.n, s, g->segment_end) : s + 1;
        for (uint32_t i = s; i < end; i++)
            terms[i - s] = (struct worker__term){i, sum_experts(job, g, i, width)};
        memcpy(to, worker__sum_terms(job->e->table, terms, end - s, s, end, width),
               width * sizeof *to);
        to += job->rows->ld;
    }
}

static void combine(void *arg, size_t first, size_t last, unsigned thread)
{
    const struct job *job = arg;
    (void)thread;
    for (size_t i = first; i < last; i++)
        sum_group(job, &job->rows->groups[i]);
}

static void run(const struct job *job, size_t n, kern_pool_fn *fn)
{
    if (n <= 2)
        fn((void *)job, 0, n, 0);
    else
        kern_pool_run(job->e->pool, n, 0, fn, (void *)job);
}

static struct chunking cut(const struct job *job, const struct shard_weight *widest)
{
    size_t rows_each = (job->s->n + job->s->n_active - 1) / job->s->n_active;
    uint64_t k;
    shard_weight_segment(widest, 0, &k);
    struct chunking c = {.panels = worker__panels_a_chunk(job->e, widest, k, rows_each)};
    c.n = (worker__panels(widest) + c.panels - 1) / c.panels;
    return c;
}

static void cut_matrices(struct job *job)
{
    const struct shard_weight *weights = job->e->program->weights;
    const struct shard_holding *widest = job->holdings;
    for (uint32_t i = 1; i < job->op->n_holdings; i++) {
        const struct shard_holding *h = &job->holdings[i];
        if (weights[h->gate].n_out > weights[widest->gate].n_out)
            widest = h;
    }
    job->fused = widest->up < 0;
    job->gate = cut(job, &weights[widest->gate]);
    job->up = job->fused ? (struct chunking){0} : cut(job, &weights[widest->up]);
    job->down = cut(job, &weights[widest->down]);
}

/* Panels of columns whose products with all segments there is room for. */
static size_t panels_at_once(const struct job *job)
{
    size_t all = (job->e->program->model->n_embd + KERN_PANEL - 1) / KERN_PANEL;
    size_t panels = job->at.products / ((size_t)job->s->n * job->segments.n) / KERN_PANEL;
    size_t whole = panels / SHARD_EXPERT_PANELS * SHARD_EXPERT_PANELS;
    return panels < all ? whole : all;
}

/* Whether a unit's weights are there, for the products with down or for those before. */
static bool bring_unit(const struct job *job, size_t number, bool down)
{
    struct worker_lazy *lazy = job->e->weights->lazy;
    struct unit u = unit_of(job, job->s->active[number]);
    const int32_t weights[] = {down ? u.h->down : u.h->gate, down ? -1 : u.h->up};
    for (size_t i = 0; i < 2; i++) {
        if (weights[i] >= 0 && !worker_lazy_bring(lazy, job->e->pool, (size_t)weights[i], u.mat))
            return false;
    }
    return true;
}

/* The run after this one; false: there is none. Weights that are packed as they are used come as
 * many as there is room for. */
static bool next_run(struct job *job, bool down)
{
    struct worker_lazy *lazy = job->e->weights->lazy;
    job->run_first += job->run_n;
    job->run_n = job->s->n_active - job->run_first;
    if (!lazy || job->run_n == 0)
        return job->run_n > 0;
    worker_lazy_begin(lazy);
    for (size_t i = 0; i < job->run_n; i++)
        if (!bring_unit(job, job->run_first + i, down))
            job->run_n = i;
    return job->run_n > 0;
}

static void compute_gate_up(struct job *job)
{
    job->run_first = job->run_n = 0;
    while (next_run(job, false))
        kern_pool_run(job->e->pool, job->run_n * (job->gate.n + job->up.n), 1, gate_up_tasks, job);
}

static void compute_down(struct job *job)
{
    size_t all = (job->e->program->model->n_embd + KERN_PANEL - 1) / KERN_PANEL;
    size_t at_once = panels_at_once(job);
    job->ld = at_once * KERN_PANEL;
    job->down.panels = job->down.panels < at_once ? job->down.panels : at_once;
    job->down.n = (at_once + job->down.panels - 1) / job->down.panels;
    for (size_t first = 0; first < all; first += at_once) {
        job->block_first = first;
        job->block_end = first + at_once < all ? first + at_once : all;
        job->run_first = job->run_n = 0;
        while (next_run(job, true))
            kern_pool_run(job->e->pool, job->run_n * job->segments.n * job->down.n, 1, down_tasks,
                          job);
        run(job, job->rows->n_groups, combine);
    }
}

/* Whether all groups are row 0's, whose records a kernel can read where they are. */
static bool is_lone(const struct worker__expert_rows *rows)
{
    uintptr_t at = (uintptr_t)rows->gate.rows | (uintptr_t)rows->up.rows;
    return rows->groups[rows->n_groups - 1].row == 0 && at % 64 == 0;
}

bool worker__experts_compute(struct worker_exec *e, const struct shard_op *op,
                             const struct worker__expert_rows *rows)
{
    const struct shard_model *m = e->program->model;
    if (rows->n_groups == 0)
        return true;
    struct job job = {.e = e,
                      .op = op,
                      .rows = rows,
                      .s = &e->entries,
                      .holdings = &e->program->holdings[op->first_holding],
                      .at = shard_experts_scratch(e->program, op, e->max_rows),
                      .segments = shard_expert_segments(m->ff_expert),
                      .down_act = shard_expert_types(m, op->layer).down->act,
                      .lone = is_lone(rows)};
    number_units(&job);
    if (!list_entries(&job))
        return false;
    sort_entries(job.s);
    cut_matrices(&job);
    if (!job.lone)
        run(&job, job.s->n, gather);
    compute_gate_up(&job);
    run(&job, job.s->n, activate);
    compute_down(&job);
    return true;
}

struct worker_expert_shape worker__expert_shape(const struct worker_exec *e,
                                                const struct shard_op *op)
{
    const struct shard_model *m = e->program->model;
    struct shard_expert_types types = shard_expert_types(m, op->layer);
    size_t up = kern_act_bytes(types.up->act, m->n_embd);
    return (struct worker_expert_shape){.n_embd = m->n_embd,
                                        .n_experts = m->n_experts,
                                        .n_used = m->n_experts_used,
                                        .n_segments = shard_expert_segments(m->ff_expert).n,
                                        .gate_bytes = kern_act_bytes(types.gate->act, m->n_embd),
                                        .up_bytes = types.up->act == types.gate->act ? 0 : up,
                                        .max_rows = e->max_rows};
}

/* Of units, entries and members, at most. */
struct most {
    size_t units, holdings, entries, members;
};

static struct most most_of(const struct shard_program *program, uint32_t max_rows)
{
    const struct shard_model *m = program->model;
    uint32_t segments = program->placement ? shard_expert_segments(m->ff_expert).n : 1;
    struct most most = {.members = (size_t)max_rows * m->n_experts_used * segments};
    for (size_t i = 0; i < program->n_ops; i++) {
        const struct shard_op *op = &program->ops[i];
        if (op->kind != SHARD_OP_EXPERTS)
            continue;
        size_t entries = shard_experts_scratch(program, op, max_rows).entries, units = 0;
        for (uint32_t h = 0; h < op->n_holdings; h++)
            units += program->holdings[op->first_holding + h].expert_end -
                     program->holdings[op->first_holding + h].expert_first;
        most.units = units > most.units ? units : most.units;
        most.holdings = op->n_holdings > most.holdings ? op->n_holdings : most.holdings;
        most.entries = entries > most.entries ? entries : most.entries;
    }
    return most;
}

uint64_t worker__entries_bytes(const struct shard_program *program, uint32_t max_rows)
{
    struct most n = most_of(program, max_rows);
    return n.entries * (2 * sizeof(struct worker__entry) + sizeof(uint32_t)) +
           n.members * SHARD_EXPERT_SEGMENTS * sizeof(uint32_t);
}

enum proto_status worker__entries_init(struct worker__entries *s,
                                       const struct shard_program *program, uint32_t max_rows,
                                       struct proto_error *error)
{
    struct most n = most_of(program, max_rows);
    s->found = calloc(n.entries + 1, sizeof *s->found);
    s->sorted = calloc(n.entries + 1, sizeof *s->sorted);
    s->place = calloc(n.entries + 1, sizeof *s->place);
    s->slot = calloc(n.members + 1, SHARD_EXPERT_SEGMENTS * sizeof *s->slot);
    s->start = calloc(n.units + 1, sizeof *s->start);
    s->active = calloc(n.units + 1, sizeof *s->active);
    s->holding = calloc(n.units + 1, sizeof *s->holding);
    s->unit = calloc(n.holdings + 1, sizeof *s->unit);
    if (!s->found || !s->sorted || !s->place || !s->slot || !s->start || !s->active ||
        !s->holding || !s->unit)
        return proto_fail_nomem(error, worker__entries_bytes(program, max_rows), "expert choices");
    return PROTO_OK;
}

void worker__entries_finish(struct worker__entries *s)
{
    free(s->found);
    free(s->sorted);
    free(s->place);
    free(s->slot);
    free(s->start);
    free(s->active);
    free(s->holding);
    free(s->unit);
}
