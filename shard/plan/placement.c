/* SPDX-License-Identifier: Apache-2.0 */
#include "shard/plan/placement.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "shard/plan/span.h"

enum proto_status plan_placement_create(struct plan_placement **out, uint32_t workers,
                                        uint32_t stages, uint32_t parts, struct proto_error *error)
{
    struct plan_placement *p = calloc(1, sizeof *p);
    *out = NULL;
    if (p) {
        p->workers = calloc((size_t)workers + 1, sizeof *p->workers);
        p->stages = calloc((size_t)stages + 1, sizeof *p->stages);
        p->parts = calloc((size_t)parts + 1, sizeof *p->parts);
    }
    if (!p || !p->workers || !p->stages || !p->parts) {
        plan_placement_destroy(p);
        return proto_fail_nomem(error, parts * sizeof *p->parts, "a placement");
    }
    *out = p;
    return PROTO_OK;
}

enum proto_status plan_placement_copy(struct plan_placement **out,
                                      const struct plan_placement *from, struct proto_error *error)
{
    enum proto_status status =
        plan_placement_create(out, from->n_workers, from->n_stages, from->n_parts, error);
    if (status != PROTO_OK)
        return status;
    (*out)->n_workers = from->n_workers;
    (*out)->n_stages = from->n_stages;
    (*out)->n_parts = from->n_parts;
    memcpy((*out)->workers, from->workers, from->n_workers * sizeof *from->workers);
    memcpy((*out)->stages, from->stages, from->n_stages * sizeof *from->stages);
    memcpy((*out)->parts, from->parts, from->n_parts * sizeof *from->parts);
    return PROTO_OK;
}

void plan_placement_destroy(struct plan_placement *placement)
{
    if (!placement)
        return;
    free(placement->workers);
    free(placement->stages);
    free(placement->parts);
    free(placement);
}

uint32_t plan_placement_worker(struct plan_placement *placement, uint32_t machine,
                               enum plan_device_kind device)
{
    for (uint32_t w = 0; w < placement->n_workers; w++) {
        if (placement->workers[w].machine == machine && placement->workers[w].device == device)
            return w;
    }
    placement->workers[placement->n_workers] =
        (struct plan_worker){.machine = machine, .device = device};
    return placement->n_workers++;
}

/* By layer, expert, slice. */
static int by_place(const void *a, const void *b)
{
    const struct shard_expert_part *x = a, *y = b;
    if (x->layer_first != y->layer_first)
        return x->layer_first < y->layer_first ? -1 : 1;
    if (x->expert_first != y->expert_first)
        return x->expert_first < y->expert_first ? -1 : 1;
    return x->slice < y->slice ? -1 : x->slice > y->slice;
}

static bool is_stage_own(const struct plan_placement *p, const struct shard_expert_part *part)
{
    const struct plan_stage *stage = &p->stages[plan_placement_stage(p, part->layer_first)];
    return part->worker == stage->worker && part->layer_end <= stage->layer_end &&
           part->n_slices == 1;
}

void plan_placement_trim(struct plan_placement *placement)
{
    struct shard_expert_part *parts = placement->parts;
    uint32_t n = 0, room = placement->n_parts;
    qsort(parts, room, sizeof *parts, by_place);
    for (uint32_t i = 0, end; i < room; i = end) {
        for (end = i + 1; end < room && by_place(&parts[i], &parts[end]) == 0;)
            end++;
        if (end - i == 1 && is_stage_own(placement, &parts[i]))
            continue;
        memmove(&parts[n], &parts[i], (end - i) * sizeof *parts);
        n += end - i;
    }
    placement->n_parts = n;
}

bool plan_placement_uses_gpu(const struct plan_placement *placement)
{
    for (uint32_t w = 0; w < placement->n_workers; w++) {
        if (placement->workers[w].device == PLAN_GPU)
            return true;
    }
    return false;
}

uint32_t plan_placement_stage(const struct plan_placement *placement, uint32_t layer)
{
    uint32_t s = 0;
    while (s + 1 < placement->n_stages && placement->stages[s].layer_end <= layer)
        s++;
    return s;
}

/* ---- walking ---- */

bool plan__span_next(struct plan__span *span, const struct plan_placement *placement)
{
    const struct shard_expert_part *end = placement->parts + placement->n_parts;
    const struct shard_expert_part *at =
        span->parts ? span->parts + span->n_parts : placement->parts;
    if (at >= end)
        return false;
    *span = (struct plan__span){.parts = at, .first = at->layer_first, .end = at->layer_end};
    uint32_t counted = 0;
    for (; at < end && at->layer_first == span->first; at++) {
        if (at->expert_end > counted)
            span->named += at->expert_end - at->expert_first;
        counted = at->expert_end > counted ? at->expert_end : counted;
        span->n_parts++;
    }
    return true;
}

bool plan__group_next(struct plan__group *group, const struct plan__span *span)
{
    const struct shard_expert_part *end = span->parts + span->n_parts;
    const struct shard_expert_part *at = group->parts ? group->parts + group->n_parts : span->parts;
    if (at >= end)
        return false;
    *group = (struct plan__group){
        .parts = at, .experts = at->expert_end - at->expert_first, .n_slices = at->n_slices};
    while (at < end && at->expert_first == group->parts->expert_first) {
        group->n_parts++;
        at++;
    }
    group->copies = group->n_parts / group->n_slices;
    return true;
}

/* ---- checks ---- */

static enum proto_status check_stages(const struct plan_placement *p, const struct plan_shape *s,
                                      struct proto_error *error)
{
    uint32_t next = 0;
    for (uint32_t i = 0; i < p->n_stages; i++) {
        const struct plan_stage *stage = &p->stages[i];
        bool last = i + 1 == p->n_stages;
        if (stage->layer_first != next || stage->layer_end <= next ||
            stage->layer_end > s->n_layers || stage->embed != (i == 0) || stage->head != last ||
            stage->worker >= p->n_workers)
            return proto_fail(error, PROTO_INVALID,
                              "stage %u holds layers %u to %u of worker %u, expected stages that "
                              "cover %u layers in order",
                              i, stage->layer_first, stage->layer_end, stage->worker, s->n_layers);
        for (uint32_t j = 0; j < i; j++) {
            if (p->stages[j].worker == stage->worker)
                return proto_fail(error, PROTO_INVALID,
                                  "stages %u and %u are both worker %u's, expected one of each", j,
                                  i, stage->worker);
        }
        next = stage->layer_end;
    }
    if (next != s->n_layers)
        return proto_fail(error, PROTO_INVALID, "the stages hold %u layers of %u", next,
                          s->n_layers);
    return PROTO_OK;
}

static bool is_whole_group(const struct plan__group *g, const struct plan__span *span)
{
    if (g->n_slices == 0 || g->copies * g->n_slices != g->n_parts)
        return false;
    for (uint32_t i = 0; i < g->n_parts; i++) {
        const struct shard_expert_part *part = &g->parts[i];
        if (part->n_slices != g->n_slices || part->slice != i / g->copies ||
            part->expert_end != g->parts->expert_end || part->layer_end != span->end)
            return false;
        for (uint32_t j = 0; j < i; j++) {
            if (g->parts[j].worker == part->worker)
                return false;
        }
    }
    return true;
}

static bool is_whole_span(const struct plan_placement *p, const struct plan_shape *shape,
                          const struct plan__span *span)
{
    struct plan__group group = {0};
    uint32_t next = 0, most = UINT32_MAX, slices = 1, racers = 0, segments = SHARD_EXPERT_SEGMENTS;
    if (span->end <= span->first || span->end > shape->n_layers)
        return false;
    for (uint32_t i = 0; i < span->n_parts; i++) {
        if (span->parts[i].worker >= p->n_workers)
            return false;
    }
    for (uint32_t il = span->first; il < span->end; il++) {
        const struct plan_layer *l = &shape->layers[il];
        most = l->n_experts && l->n_experts < most ? l->n_experts : most;
        segments = l->n_experts && l->n_segments < segments ? l->n_segments : segments;
    }
    while (plan__group_next(&group, span)) {
        if (group.parts->expert_first < next || group.parts->expert_end <= next ||
            group.parts->expert_end <= group.parts->expert_first || !is_whole_group(&group, span))
            return false;
        next = group.parts->expert_end;
        racers += group.copies;
        slices = group.n_slices > slices ? group.n_slices : slices;
    }
    return next <= most && slices <= segments && racers <= PLAN_MAX_RACERS;
}

static enum proto_status check_parts(const struct plan_placement *p, const struct plan_shape *s,
                                     struct proto_error *error)
{
    struct plan__span span = {0};
    uint32_t next = 0;
    while (plan__span_next(&span, p)) {
        if (span.first < next || !is_whole_span(p, s, &span))
            return proto_fail(error, PROTO_INVALID,
                              "the parts of layers %u to %u are not whole: expected groups of the "
                              "same experts in order, with all their slices, and spans that do not "
                              "overlap",
                              span.first, span.end);
        next = span.end;
    }
    return PROTO_OK;
}

static uint64_t worker_bytes(const struct plan_worker *w)
{
    return w->weight_bytes + w->kv_bytes + w->scratch_bytes;
}

/* What a worker holds, in words: the layers of a stage's, else its first experts. */
static void describe(char *text, size_t bytes, const struct plan_placement *p, uint32_t worker)
{
    const struct shard_expert_part *first = NULL;
    uint32_t n = 0;
    for (uint32_t s = 0; s < p->n_stages; s++) {
        const struct plan_stage *stage = &p->stages[s];
        if (stage->worker == worker) {
            snprintf(text, bytes, "layers %u-%u", stage->layer_first, stage->layer_end - 1);
            return;
        }
    }
    for (uint32_t i = 0; i < p->n_parts; i++) {
        if (p->parts[i].worker == worker && n++ == 0)
            first = &p->parts[i];
    }
    if (first)
        snprintf(text, bytes, "experts %u-%u of layers %u-%u%s", first->expert_first,
                 first->expert_end - 1, first->layer_first, first->layer_end - 1,
                 n > 1 ? " and others" : "");
}

static enum proto_status fail_worker(const struct plan_placement *p, uint32_t worker,
                                     const struct plan_cluster *cluster, struct proto_error *error)
{
    const struct plan_worker *w = &p->workers[worker];
    const struct plan_machine *m = &cluster->machines[w->machine];
    char a[PLAN__BYTES_TEXT], b[PLAN__BYTES_TEXT], c[PLAN__BYTES_TEXT], what[96] = "its experts";
    uint64_t offered = m->device[w->device].memory_bytes, needed = worker_bytes(w);
    describe(what, sizeof what, p, worker);
    return proto_fail(error, PROTO_CAPACITY,
                      "worker %s%s offers %s, but %s need %s: %s are missing", m->name,
                      w->device == PLAN_GPU ? " (GPU)" : "", plan__bytes_text(offered, a), what,
                      plan__bytes_text(needed, b), plan__bytes_text(needed - offered, c));
}

static enum proto_status fail_total(const struct plan_worker *sum, uint64_t offered,
                                    const struct plan_shape *shape, struct proto_error *error)
{
    char a[PLAN__BYTES_TEXT], b[PLAN__BYTES_TEXT], c[PLAN__BYTES_TEXT], d[PLAN__BYTES_TEXT];
    char e[PLAN__BYTES_TEXT], f[PLAN__BYTES_TEXT];
    uint64_t needed = worker_bytes(sum);
    return proto_fail(error, PROTO_CAPACITY,
                      "the model does not fit: it needs %s (weights %s, KV %s for %u sequences of "
                      "%llu, scratch %s), the workers offer %s: %s are missing",
                      plan__bytes_text(needed, a), plan__bytes_text(sum->weight_bytes, b),
                      plan__bytes_text(sum->kv_bytes, c), shape->options.max_seqs,
                      (unsigned long long)shape->options.ctx,
                      plan__bytes_text(sum->scratch_bytes, d), plan__bytes_text(offered, e),
                      plan__bytes_text(needed - offered, f));
}

static enum proto_status check_memory(const struct plan_placement *p,
                                      const struct plan_shape *shape,
                                      const struct plan_cluster *cluster, struct proto_error *error)
{
    struct plan_worker sum = {0};
    uint64_t offered = 0;
    uint32_t over = p->n_workers;
    for (uint32_t i = 0; i < p->n_workers; i++) {
        const struct plan_worker *w = &p->workers[i];
        uint64_t memory = cluster->machines[w->machine].device[w->device].memory_bytes;
        sum.weight_bytes += w->weight_bytes;
        sum.kv_bytes += w->kv_bytes;
        sum.scratch_bytes += w->scratch_bytes;
        offered += memory;
        if (worker_bytes(w) > memory && over == p->n_workers)
            over = i;
    }
    if (over == p->n_workers)
        return PROTO_OK;
    return worker_bytes(&sum) > offered ? fail_total(&sum, offered, shape, error)
                                        : fail_worker(p, over, cluster, error);
}

enum proto_status plan_placement_check(const struct plan_placement *placement,
                                       const struct plan_shape *shape,
                                       const struct plan_cluster *cluster,
                                       struct proto_error *error)
{
    enum proto_status status = check_stages(placement, shape, error);
    if (status == PROTO_OK)
        status = check_parts(placement, shape, error);
    return status == PROTO_OK ? check_memory(placement, shape, cluster, error) : status;
}
