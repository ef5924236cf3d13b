/* SPDX-License-Identifier: Apache-2.0 */
/* What a placement takes in memory. */
#include <stdio.h>

#include "shard/kv.h"
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

static uint32_t threads_of(const struct plan_worker *w, const struct plan_cluster *cluster)
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
        w->scratch_bytes += shape->scratch_bytes + threads_of(w, cluster) * shape->thread_bytes;
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
        if (w->scratch_bytes == 0)
            w->scratch_bytes = shape->host_scratch_bytes;
    }
    for (uint32_t il = span->first; il < span->end; il++) {
        uint32_t owner = p->stages[plan_placement_stage(p, il)].worker;
        if (shape->layers[il].n_experts)
            p->workers[owner].weight_bytes -= span->named * shape->layers[il].expert_bytes;
    }
}

void plan_placement_measure(struct plan_placement *placement, const struct plan_shape *shape,
                            const struct plan_cluster *cluster)
{
    for (uint32_t i = 0; i < placement->n_workers; i++) {
        struct plan_worker *w = &placement->workers[i];
        w->weight_bytes = w->kv_bytes = w->scratch_bytes = 0;
    }
    measure_stages(placement, shape, cluster);
    struct plan__span span = {0};
    while (plan__span_next(&span, placement))
        measure_span(placement, shape, &span);
}

static enum proto_status refine_stage(struct plan_worker *w, const struct plan_stage *stage,
                                      const struct plan_shape *shape,
                                      const struct plan_cluster *cluster, struct proto_error *error)
{
    struct shard_program *program;
    const struct plan_shape_options *o = &shape->options;
    uint32_t first = stage->layer_first, end = stage->layer_end, threads = threads_of(w, cluster);
    enum proto_status status =
        shard_program_create(&program, shape->model, first, end, stage->embed, stage->head, error);
    if (status != PROTO_OK)
        return status;
    w->weight_bytes -= plan__stage_weights(shape, first, end, stage->embed, stage->head);
    w->weight_bytes += shard_program_weight_bytes(program);
    w->kv_bytes += shard_kv_limit(program, o->kv, o->ctx, o->max_seqs);
    w->kv_bytes -= plan__stage_kv(shape, first, end);
    w->scratch_bytes -= shape->scratch_bytes + threads * shape->thread_bytes;
    w->scratch_bytes += shard_program_buffer_bytes(program, o->max_rows) +
                        threads * shard_attention_scratch_bytes(program, o->ctx);
    shard_program_destroy(program);
    return PROTO_OK;
}

enum proto_status plan_placement_refine(struct plan_placement *placement,
                                        const struct plan_shape *shape,
                                        const struct plan_cluster *cluster,
                                        struct proto_error *error)
{
    enum proto_status status = PROTO_OK;
    for (uint32_t s = 0; s < placement->n_stages && shape->model && status == PROTO_OK; s++) {
        const struct plan_stage *stage = &placement->stages[s];
        status = refine_stage(&placement->workers[stage->worker], stage, shape, cluster, error);
    }
    return status;
}
