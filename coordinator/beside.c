/* SPDX-License-Identifier: Apache-2.0 */
/*
 * While a plan is prepared beside the one in force its workers hold their parts of both: weights
 * that both have once, others twice over; caches are handed from one to the other, and buffers are
 * so small beside them that the larger of both counts.
 */
#include "coordinator/parts.h"

#include "coordinator/report.h"

#include "proto/log.h"

#define SLACK 100 /* of the memory: sizes of layers are not quite those of programs */

static uint64_t larger(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

/* ---- what two plans have in common ---- */

struct range {
    uint32_t first, end;
};

static struct range common(uint32_t a_first, uint32_t a_end, uint32_t b_first, uint32_t b_end)
{
    struct range r = {a_first > b_first ? a_first : b_first, a_end < b_end ? a_end : b_end};
    r.end = larger(r.end, r.first);
    return r;
}

static const struct shard_stage *stage_of(const struct shard_plan *plan, uint32_t worker)
{
    for (uint32_t i = 0; i < plan->n_stages; i++)
        if (plan->stages[i].worker == worker)
            return &plan->stages[i];
    return NULL;
}

/* The i-th list of experts that a worker holds; without parts a stage has those of its layers. */
static bool experts_of(struct shard_expert_part *out, const struct shard_plan *plan,
                       uint32_t worker, uint32_t *i)
{
    const struct shard_stage *stage = stage_of(plan, worker);
    if (plan->n_parts == 0 && stage && *i == 0) {
        *out = (struct shard_expert_part){.worker = worker,
                                          .layer_first = stage->layer_first,
                                          .layer_end = stage->layer_end,
                                          .expert_end = UINT32_MAX,
                                          .n_slices = 1};
        ++*i;
        return true;
    }
    while (*i < plan->n_parts && plan->parts[*i].worker != worker)
        ++*i;
    if (*i >= plan->n_parts)
        return false;
    *out = plan->parts[(*i)++];
    return true;
}

static uint64_t common_experts(const struct plan_shape *shape, const struct shard_expert_part *a,
                               const struct shard_expert_part *b)
{
    struct range layers = common(a->layer_first, a->layer_end, b->layer_first, b->layer_end);
    struct range experts = common(a->expert_first, a->expert_end, b->expert_first, b->expert_end);
    uint64_t bytes = 0;
    if (a->slice != b->slice || a->n_slices != b->n_slices)
        return 0;
    for (uint32_t il = layers.first; il < layers.end; il++) {
        const struct plan_layer *l = &shape->layers[il];
        struct range held = common(experts.first, experts.end, 0, l->n_experts);
        bytes += (held.end - held.first) * l->expert_bytes / a->n_slices;
    }
    return bytes;
}

static uint64_t common_layers(const struct plan_shape *shape, const struct shard_stage *a,
                              const struct shard_stage *b)
{
    struct range layers = common(a->layer_first, a->layer_end, b->layer_first, b->layer_end);
    bool embed = a->embed && b->embed, head = a->head && b->head;
    uint64_t bytes = (embed ? shape->embed_bytes : 0) + (head ? shape->head_bytes : 0) -
                     (embed && head ? shape->tied_bytes : 0);
    for (uint32_t il = layers.first; il < layers.end; il++)
        bytes += shape->layers[il].weight_bytes;
    return bytes;
}

uint64_t coord_plan_common_bytes(const struct plan_shape *shape, const struct shard_plan *a,
                                 uint32_t worker_a, const struct shard_plan *b, uint32_t worker_b)
{
    const struct shard_stage *x = stage_of(a, worker_a), *y = stage_of(b, worker_b);
    struct shard_expert_part p, q;
    uint64_t bytes = x && y ? common_layers(shape, x, y) : 0;
    for (uint32_t i = 0; experts_of(&p, a, worker_a, &i);)
        for (uint32_t k = 0; experts_of(&q, b, worker_b, &k);)
            bytes += common_experts(shape, &p, &q);
    return bytes;
}

/* ---- whether there is room ---- */

struct needs {
    uint64_t weights, kv, scratch;
};

static struct needs needs_of(const struct shard_plan *plan, uint32_t worker)
{
    const struct shard_stage *stage = stage_of(plan, worker);
    if (stage)
        return (struct needs){stage->weight_bytes, stage->kv_bytes, stage->scratch_bytes};
    for (uint32_t i = 0; i < plan->n_hosts; i++)
        if (plan->hosts[i].worker == worker)
            return (struct needs){plan->hosts[i].weight_bytes, 0, plan->hosts[i].scratch_bytes};
    return (struct needs){0};
}

/* A worker's number in the plan in force. */
static uint32_t number_in(const struct coord_deployment *d, const struct coord_worker *w)
{
    uint32_t i = 0;
    while (d->workers[i] != w)
        i++;
    return i;
}

static enum proto_status check(const struct coord_deployment *d, const struct plan_shape *shape,
                               const struct shard_plan *plan, uint32_t worker,
                               const struct coord_worker *w, struct proto_error *error)
{
    uint32_t before = number_in(d, w);
    struct needs now = needs_of(d->plan, before), then = needs_of(plan, worker);
    uint64_t both = coord_plan_common_bytes(shape, d->plan, before, plan, worker);
    uint64_t weights = now.weights + then.weights;
    weights -= both < weights ? both : weights;
    uint64_t needed = weights + larger(now.kv, then.kv) + larger(now.scratch, then.scratch);
    if (needed <= w->memory_bytes + w->memory_bytes / SLACK)
        return PROTO_OK;
    char offers[16], needs[16];
    coord_format_bytes(w->memory_bytes, offers);
    coord_format_bytes(needed, needs);
    return proto_fail(error, PROTO_CAPACITY,
                      "worker \"%s\" offers %s, but needs %s to prepare its new part beside the "
                      "one that it computes with; give it more memory, or end the worker that is "
                      "to leave: after a pause the others go on",
                      w->name, offers, needs);
}

struct member {
    uint32_t number; /* in the plan */
    struct coord_worker *worker;
};

/* Workers that have a part of the plan in force, and are to have one of the next. */
static uint32_t list_both(const struct coord_engine *e, const struct shard_plan *plan,
                          struct coord_worker *const *workers, struct member *out)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < plan->n_stages + plan->n_hosts; i++) {
        uint32_t number =
            i < plan->n_stages ? plan->stages[i].worker : plan->hosts[i - plan->n_stages].worker;
        const struct coord_member *m = engine__member(e->current, workers[number]);
        if (m && !m->released && (i < plan->n_stages || !stage_of(plan, number)))
            out[n++] = (struct member){number, workers[number]};
    }
    return n;
}

static void let_go(struct coord_engine *e, struct coord_worker *w)
{
    struct proto_msg msg = {.kind = PROTO_MSG_RELEASE, .release = {.epoch = e->current->epoch}};
    engine__member(e->current, w)->released = true;
    proto_log(PROTO_LOG_WARN, "COORD-NO-ROOM",
              "name=%s its old part goes before the new one is loaded", w->name);
    engine__tell(w, &msg, NULL, NULL);
}

static enum proto_status know_shape(struct coord_engine *e, struct proto_error *error)
{
    const struct coord_engine_options *o = &e->options;
    const struct plan_shape_options sizes = {o->kv, o->ctx, o->parallel, o->batch};
    return e->shape ? PROTO_OK : plan_shape_create(&e->shape, e->model, &sizes, error);
}

enum proto_status engine__make_room(struct coord_engine *e, const struct shard_plan *plan,
                                    struct coord_worker *const *workers, struct proto_error *error)
{
    struct member members[PROTO_MAX_WORKERS];
    uint32_t n = list_both(e, plan, workers, members);
    /* Experts that stay in a file take what is left, whatever that is. */
    if (n == 0 || e->options.map_experts)
        return PROTO_OK;
    enum proto_status status = know_shape(e, error);
    for (uint32_t i = 0; i < n && !status; i++) {
        status = check(e->current, e->shape, plan, members[i].number, members[i].worker, error);
        if (status == PROTO_CAPACITY && !engine__serving(e)) {
            let_go(e, members[i].worker);
            status = PROTO_OK;
        }
    }
    return status;
}
