/* SPDX-License-Identifier: Apache-2.0 */
/* What a placement takes in memory, exactly: the programs that its workers would run. */
#include <stdlib.h>
#include <string.h>

#include "shard/kv.h"
#include "shard/plan/span.h"

/* The placement's span that has a layer, or one without parts up to the next that has some. */
static struct plan__span span_at(const struct plan_placement *p, const struct plan_shape *shape,
                                 uint32_t layer)
{
    struct plan__span span = {0};
    while (plan__span_next(&span, p)) {
        if (layer < span.first)
            return (struct plan__span){.first = layer, .end = span.first};
        if (layer < span.end)
            return span;
    }
    return (struct plan__span){.first = layer, .end = shape->n_layers};
}

/* Adds what no part of a span names of the experts of layers [first, end), which are a stage's. */
static void add_rest(struct plan_parts *parts, const struct plan__span *span,
                     struct shard_expert_part rest, uint32_t n_experts)
{
    uint32_t next = 0;
    for (uint32_t i = 0; i <= span->n_parts; i++) {
        uint32_t from = i < span->n_parts ? span->parts[i].expert_first : n_experts;
        if (from > next) {
            rest.expert_first = next;
            rest.expert_end = from;
            if (parts->at)
                parts->at[parts->n] = rest;
            parts->n++;
        }
        next = i < span->n_parts ? span->parts[i].expert_end : next;
    }
}

static uint32_t experts_between(const struct plan_shape *shape, uint32_t first, uint32_t end)
{
    for (uint32_t il = first; il < end; il++) {
        if (shape->layers[il].n_experts)
            return shape->layers[il].n_experts;
    }
    return 0;
}

/* Counts them where there is no room yet. */
static void add_rests(struct plan_parts *parts, const struct plan_placement *placement,
                      const struct plan_shape *shape)
{
    for (uint32_t s = 0; s < placement->n_stages && placement->n_parts; s++) {
        const struct plan_stage *stage = &placement->stages[s];
        for (uint32_t il = stage->layer_first, end; il < stage->layer_end; il = end) {
            struct plan__span span = span_at(placement, shape, il);
            end = span.end < stage->layer_end ? span.end : stage->layer_end;
            uint32_t n_experts = experts_between(shape, il, end);
            struct shard_expert_part rest = {
                .worker = stage->worker, .layer_first = il, .layer_end = end, .n_slices = 1};
            if (n_experts)
                add_rest(parts, &span, rest, n_experts);
        }
    }
}

enum proto_status plan_parts_create(struct plan_parts *parts,
                                    const struct plan_placement *placement,
                                    const struct plan_shape *shape, struct proto_error *error)
{
    size_t bytes = placement->n_parts * sizeof *parts->at;
    *parts = (struct plan_parts){.n = placement->n_parts};
    add_rests(parts, placement, shape);
    parts->at = calloc((size_t)parts->n + 1, sizeof *parts->at);
    if (!parts->at)
        return proto_fail_nomem(error, parts->n * sizeof *parts->at, "parts of experts");
    memcpy(parts->at, placement->parts, bytes);
    parts->n = placement->n_parts;
    add_rests(parts, placement, shape);
    return PROTO_OK;
}

struct refiner {
    struct plan_placement *placement;
    const struct plan_shape *shape;
    const struct plan_cluster *cluster;
    struct plan_parts parts;
    struct shard_expert_part *near; /* parts with a layer of the current worker's */
    struct proto_error *error;
};

/* Parts that a worker's programs have to do with: of the others they know nothing. */
static void gather_near(struct refiner *r, struct shard_split *split)
{
    bool layers[PROTO_MAX_LAYERS] = {false};
    for (uint32_t il = split->layer_first; il < split->layer_end; il++)
        layers[il] = true;
    for (uint32_t i = 0; i < r->parts.n; i++) {
        const struct shard_expert_part *part = &r->parts.at[i];
        for (uint32_t il = part->layer_first; il < part->layer_end; il++)
            layers[il] |= part->worker == split->worker;
    }
    split->n_parts = 0;
    for (uint32_t i = 0; i < r->parts.n; i++) {
        uint32_t il = r->parts.at[i].layer_first;
        while (il < r->parts.at[i].layer_end && !layers[il])
            il++;
        if (il < r->parts.at[i].layer_end)
            r->near[split->n_parts++] = r->parts.at[i];
    }
    split->parts = r->parts.n ? r->near : NULL;
}

static enum proto_status add_stage(const struct refiner *r, const struct shard_split *split,
                                   struct plan_worker *w)
{
    const struct plan_shape_options *o = &r->shape->options;
    uint32_t threads = plan__threads(w, r->cluster);
    struct shard_program *program;
    enum proto_status status =
        shard_program_create_split(&program, r->shape->model, split, r->error);
    if (status != PROTO_OK)
        return status;
    w->weight_bytes += shard_program_weight_bytes(program);
    w->kv_bytes += shard_kv_limit(program, o->kv, o->ctx, o->max_seqs);
    w->scratch_bytes += shard_program_buffer_bytes(program, o->max_rows) +
                        shard_program_asked_bytes(program, o->max_rows) +
                        threads * shard_attention_scratch_bytes(program, o->ctx);
    shard_program_destroy(program);
    return PROTO_OK;
}

static enum proto_status add_host(const struct refiner *r, const struct shard_split *split,
                                  struct plan_worker *w)
{
    uint32_t max_rows = r->shape->options.max_rows;
    struct shard_program *program;
    enum proto_status status =
        shard_program_create_host(&program, r->shape->model, split, r->error);
    if (status != PROTO_OK)
        return status;
    w->weight_bytes += shard_program_weight_bytes(program);
    w->scratch_bytes += shard_program_buffer_bytes(program, max_rows) +
                        shard_program_answer_bytes(program, max_rows);
    shard_program_destroy(program);
    return PROTO_OK;
}

/* Whether a worker has experts of layers outside of its own stage. */
static bool is_host(const struct refiner *r, const struct shard_split *split)
{
    for (uint32_t i = 0; i < split->n_parts; i++) {
        const struct shard_expert_part *part = &split->parts[i];
        uint32_t before =
            part->layer_end < split->layer_first ? part->layer_end : split->layer_first;
        uint32_t behind =
            part->layer_first > split->layer_end ? part->layer_first : split->layer_end;
        if (part->worker == split->worker &&
            (experts_between(r->shape, part->layer_first, before) ||
             experts_between(r->shape, behind, part->layer_end)))
            return true;
    }
    return false;
}

static enum proto_status refine_worker(struct refiner *r, uint32_t worker)
{
    struct plan_worker *w = &r->placement->workers[worker];
    struct shard_split split = {.worker = worker};
    enum proto_status status = PROTO_OK;
    for (uint32_t s = 0; s < r->placement->n_stages; s++) {
        const struct plan_stage *stage = &r->placement->stages[s];
        if (stage->worker != worker)
            continue;
        split.layer_first = stage->layer_first;
        split.layer_end = stage->layer_end;
        split.embed = stage->embed;
        split.head = stage->head;
    }
    gather_near(r, &split);
    w->weight_bytes = w->kv_bytes = w->scratch_bytes = 0;
    if (split.layer_end > split.layer_first)
        status = add_stage(r, &split, w);
    if (status == PROTO_OK && is_host(r, &split))
        status = add_host(r, &split, w);
    return status;
}

enum proto_status plan_placement_refine(struct plan_placement *placement,
                                        const struct plan_shape *shape,
                                        const struct plan_cluster *cluster,
                                        struct proto_error *error)
{
    struct refiner r = {.placement = placement, .shape = shape, .cluster = cluster, .error = error};
    if (!shape->model)
        return PROTO_OK;
    enum proto_status status = plan_parts_create(&r.parts, placement, shape, error);
    if (status != PROTO_OK)
        return status;
    r.near = calloc((size_t)r.parts.n + 1, sizeof *r.near);
    if (!r.near)
        status = proto_fail_nomem(error, r.parts.n * sizeof *r.near, "parts of experts");
    for (uint32_t i = 0; i < placement->n_workers && status == PROTO_OK; i++)
        status = refine_worker(&r, i);
    free(r.near);
    free(r.parts.at);
    return status;
}
