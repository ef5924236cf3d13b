/* SPDX-License-Identifier: Apache-2.0 */
/* What a placement takes in memory. */
#include <stdio.h>

#include "shard/plan/span.h"

const char *plan__bytes_text(uint64_t bytes, char text[PLAN__BYTES_TEXT])
{
    if (bytes >= 1u << 30)
        snprintf(text, PLAN__BYTES_TEXT, "%.2f GiB", (double)bytes / (1u << 30));
    else
        snprintf(text, PLAN__BYTES_TEXT, "%.2f MiB", (double)bytes / (1u << 20));
    return text;
}

uint64_t plan__stage_weights(const struct plan_shape *shape, uint32_t first, uint32_t end,
                             bool embed, bool head)
{
    uint64_t sum = (embed ? shape->embed_bytes : 0) + (head ? shape->head_bytes : 0) -
                   (embed && head ? shape->tied_bytes : 0);
    for (uint32_t il = first; il < end; il++) {
        const struct plan_layer *l = &shape->layers[il];
        sum += l->weight_bytes + l->n_experts * l->expert_bytes;
    }
    return sum;
}

/* Layers that see keys and values of earlier layers see the last of those, so a stage with such a
 * layer is taken to keep all that come before it. */
uint64_t plan__stage_kv(const struct plan_shape *shape, uint32_t first, uint32_t end)
{
    uint64_t sum = 0;
    for (uint32_t il = first; il < end; il++)
        sum += shape->layers[il].kv_bytes;
    if (end == first || shape->layers[end - 1].kv_layer >= first)
        return sum;
    for (uint32_t il = 0; il < first; il++)
        sum += shape->layers[il].kv_seen_bytes;
    return sum;
}

uint32_t plan__threads(const struct plan_worker *w, const struct plan_cluster *cluster)
{
    return w->device == PLAN_CPU ? cluster->machines[w->machine].threads : 1;
}

static void measure_stages(struct plan_placement *p, const struct plan_shape *shape,
                           const struct plan_cluster *cluster)
{
    for (uint32_t s = 0; s < p->n_stages; s++) {
        const struct plan_stage *stage = &p->stages[s];
        struct plan_worker *w = &p->workers[stage->worker];
        w->weight_bytes += plan__stage_weights(shape, stage->layer_first, stage->layer_end,
                                               stage->embed, stage->head);
        w->kv_bytes += plan__stage_kv(shape, stage->layer_first, stage->layer_end);
        w->scratch_bytes += shape->scratch_bytes + plan__threads(w, cluster) * shape->thread_bytes;
    }
}

/* Bytes that an expert of each of a span's layers takes in all, by the segments that it has. */
static void sum_experts(uint64_t bytes[SHARD_EXPERT_SEGMENTS + 1], const struct plan_shape *shape,
                        const struct plan__span *span)
{
    for (uint32_t il = span->first; il < span->end; il++) {
        const struct plan_layer *l = &shape->layers[il];
        if (l->n_experts)
            bytes[l->n_segments] += l->expert_bytes;
    }
}

static void measure_span(struct plan_placement *p, const struct plan_shape *shape,
                         const struct plan__span *span)
{
    uint64_t bytes[SHARD_EXPERT_SEGMENTS + 1] = {0};
    sum_experts(bytes, shape, span);
    for (uint32_t i = 0; i < span->n_parts; i++) {
        const struct shard_expert_part *part = &span->parts[i];
        struct plan_worker *w = &p->workers[part->worker];
        for (uint32_t n = 1; n <= SHARD_EXPERT_SEGMENTS; n++) {
            const struct plan_layer like = {.expert_bytes = bytes[n], .n_segments = n};
            w->weight_bytes += plan__part_bytes(part, &like);
        }
    }
    for (uint32_t il = span->first; il < span->end; il++) {
        uint32_t owner = p->stages[plan_placement_stage(p, il)].worker;
        if (shape->layers[il].n_experts)
            p->workers[owner].weight_bytes -= span->named * shape->layers[il].expert_bytes;
    }
}

static const struct plan_layer *expert_layer(const struct plan_shape *shape,
                                             const struct plan__span *span)
{
    uint32_t il = span->first;
    while (il + 1 < span->end && !shape->layers[il].n_experts)
        il++;
    return &shape->layers[il];
}

/* Sums that a part's host answers a row with at most: see shard_expert_vectors_most. */
static uint32_t part_answers(const struct shard_expert_part *part, uint32_t copies,
                             const struct plan_layer *l)
{
    uint32_t most = copies > 1
                        ? part->expert_end - part->expert_first
                        : shard_expert_nodes(l->n_experts, part->expert_first, part->expert_end);
    return (most < l->n_used ? most : l->n_used) * plan__segments(part, l);
}

/* Scratch of hosts, before stages add theirs: the most that any part needs. */
static void measure_hosting(struct plan_placement *p, const struct plan_shape *shape,
                            const struct plan__span *span)
{
    const struct plan_layer *l = expert_layer(shape, span);
    uint32_t first = plan_placement_stage(p, span->first);
    bool one_stage = p->stages[first].layer_end >= span->end;
    struct plan__group group = {0};
    while (plan__group_next(&group, span)) {
        for (uint32_t i = 0; i < group.n_parts; i++) {
            struct plan_worker *w = &p->workers[group.parts[i].worker];
            uint32_t answers = part_answers(&group.parts[i], group.copies, l);
            uint32_t more = answers > l->n_segments ? answers - l->n_segments : 0;
            uint64_t bytes =
                shape->host_scratch_bytes + shape->options.max_rows * more * l->answer_bytes;
            if (one_stage && p->stages[first].worker == group.parts[i].worker)
                continue;
            w->scratch_bytes = bytes > w->scratch_bytes ? bytes : w->scratch_bytes;
        }
    }
}

/* Scratch of stages from *next on that ask hosts of the span. */
static void measure_asking(struct plan_placement *p, const struct plan_shape *shape,
                           const struct plan__span *span, uint32_t *next)
{
    uint32_t s = plan_placement_stage(p, span->first);
    for (s = s > *next ? s : *next; s < p->n_stages && p->stages[s].layer_first < span->end; s++) {
        p->workers[p->stages[s].worker].scratch_bytes += shape->asker_scratch_bytes;
        *next = s + 1;
    }
}

void plan_placement_measure(struct plan_placement *placement, const struct plan_shape *shape,
                            const struct plan_cluster *cluster)
{
    for (uint32_t i = 0; i < placement->n_workers; i++) {
        struct plan_worker *w = &placement->workers[i];
        w->weight_bytes = w->kv_bytes = w->scratch_bytes = 0;
    }
    struct plan__span span = {0}, hosted = {0};
    uint32_t next_asker = 0;
    while (plan__span_next(&hosted, placement))
        measure_hosting(placement, shape, &hosted);
    measure_stages(placement, shape, cluster);
    while (plan__span_next(&span, placement)) {
        measure_span(placement, shape, &span);
        measure_asking(placement, shape, &span, &next_asker);
    }
}
