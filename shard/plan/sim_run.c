/* SPDX-License-Identifier: Apache-2.0 */
/* Batches through stages and hosts of experts. A server that serves in the order of arrival is the
 * time from which it is free, since events come in the order of time. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "shard/plan/sim.h"

#define NONE UINT32_MAX

/* ---- events: a binary heap ---- */

static bool before(const struct plan__sim_event *a, const struct plan__sim_event *b)
{
    return a->at < b->at || (a->at <= b->at && a->number < b->number);
}

void plan__sim_push(struct plan__sim *sim, struct plan__sim_event event)
{
    if (sim->n_events == sim->room) {
        size_t room = sim->room * 2 + 1024;
        struct plan__sim_event *heap = realloc(sim->heap, room * sizeof *heap);
        if (!heap) {
            sim->nomem = true;
            return;
        }
        sim->heap = heap;
        sim->room = room;
    }
    event.number = sim->n_pushed++;
    size_t i = sim->n_events++;
    for (; i > 0 && before(&event, &sim->heap[(i - 1) / 2]); i = (i - 1) / 2)
        sim->heap[i] = sim->heap[(i - 1) / 2];
    sim->heap[i] = event;
}

bool plan__sim_pop(struct plan__sim *sim, struct plan__sim_event *event)
{
    if (sim->n_events == 0)
        return false;
    *event = sim->heap[0];
    struct plan__sim_event last = sim->heap[--sim->n_events];
    size_t i = 0;
    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= sim->n_events)
            break;
        if (child + 1 < sim->n_events && before(&sim->heap[child + 1], &sim->heap[child]))
            child++;
        if (!before(&sim->heap[child], &last))
            break;
        sim->heap[i] = sim->heap[child];
        i = child;
    }
    sim->heap[i] = last;
    sim->now = event->at;
    return true;
}

/* ---- servers ---- */

/* So much longer a worker takes since others of its computer compute now. */
static double crowd(const struct plan__sim *sim, uint32_t worker)
{
    const struct plan_worker *workers = sim->placement->workers;
    const struct plan_machine *own = &sim->cluster->machines[workers[worker].machine];
    double sum = fmax(own->compute_share, own->read_share);
    if (!sim->cluster->shared || !own->computer || workers[worker].device != PLAN_CPU)
        return 1;
    for (uint32_t i = 0; i < sim->placement->n_workers; i++) {
        const struct plan_machine *m = &sim->cluster->machines[workers[i].machine];
        if (i != worker && m->computer == own->computer && sim->free_at[i] > sim->now)
            sum += fmax(m->compute_share, m->read_share);
    }
    return fmax(sum, 1);
}

/* A processor does something from now on, or as soon as it is free; returns when it is done. */
static double compute(struct plan__sim *sim, uint32_t worker, double seconds)
{
    double start = fmax(sim->now, sim->free_at[worker]);
    seconds *= crowd(sim, worker);
    sim->busy[worker] += seconds;
    return sim->free_at[worker] = start + seconds;
}

/* Bytes go from a machine to another; returns when they are there. Both sides are taken while they
 * pass. */
static double transfer(struct plan__sim *sim, uint32_t from, uint32_t to, double bytes)
{
    struct plan_link link = plan_cluster_link(sim->cluster, from, to);
    double seconds = bytes / link.bytes_s;
    if (from == to || from == NONE || to == NONE || bytes <= 0)
        return sim->now + link.rtt_s / 2 + seconds;
    double start = fmax(sim->now, fmax(sim->out_at[from], sim->in_at[to]));
    sim->out_at[from] = sim->in_at[to] = start + seconds;
    sim->link_busy[from] += seconds;
    sim->link_busy[to] += seconds;
    return start + seconds + link.rtt_s / 2;
}

static uint32_t machine_of(const struct plan__sim *sim, uint32_t worker)
{
    return sim->placement->workers[worker].machine;
}

static const struct plan_device *device_of(const struct plan__sim *sim, uint32_t worker)
{
    const struct plan_worker *w = &sim->placement->workers[worker];
    return &sim->cluster->machines[w->machine].device[w->device];
}

/* ---- a stage ---- */

static bool is_remote(const struct plan__sim *sim, uint32_t layer)
{
    return sim->shape->layers[layer].n_experts && sim->span_of[layer].n_parts > 0;
}

static double local_layer(const struct plan__sim *sim, const struct plan_device *device,
                          uint32_t il, const struct plan__batch *batch)
{
    const struct plan_layer *l = &sim->shape->layers[il];
    double rows = batch->rows;
    struct plan__time t = plan__beside(device, l, rows);
    if (l->n_experts)
        plan__add(&t, plan__experts(device, l, plan_layer_touched(l, l->n_experts, rows),
                                    rows * l->n_used, l->n_segments));
    return plan__sum(t);
}

/* Computes up to the next layer with experts elsewhere, or to the stage's end. */
static void advance(struct plan__sim *sim, uint32_t batch, double more)
{
    struct plan__sim_batch *b = &sim->batches[batch];
    const struct plan_stage *stage = &sim->placement->stages[b->stage];
    const struct plan_device *device = device_of(sim, stage->worker);
    const struct plan__batch load = {b->rows, b->seqs, b->depth, b->wanted, false};
    double seconds = more;
    while (b->layer < stage->layer_end) {
        seconds += plan__sum(plan__trunk(device, &sim->shape->layers[b->layer], &load));
        if (is_remote(sim, b->layer))
            break;
        seconds += local_layer(sim, device, b->layer++, &load);
    }
    bool routed = b->layer < stage->layer_end;
    if (!routed && stage->head)
        seconds += plan__sum(plan__head(device, sim->shape, b->wanted));
    plan__sim_push(sim, (struct plan__sim_event){.at = compute(sim, stage->worker, seconds),
                                                 .kind = routed ? PLAN__SIM_ROUTED : PLAN__SIM_LEFT,
                                                 .batch = batch});
}

static void enter_stage(struct plan__sim *sim, uint32_t batch)
{
    struct plan__sim_batch *b = &sim->batches[batch];
    const struct plan_stage *stage = &sim->placement->stages[b->stage];
    sim->stages[b->stage].busy = true;
    b->layer = stage->layer_first;
    advance(sim, batch, sim->cluster->machines[machine_of(sim, stage->worker)].overhead_s);
}

static void arrive(struct plan__sim *sim, uint32_t batch)
{
    struct plan__sim_stage *stage = &sim->stages[sim->batches[batch].stage];
    if (!stage->busy) {
        enter_stage(sim, batch);
        return;
    }
    sim->batches[batch].next = NONE;
    if (stage->first == NONE)
        stage->first = batch;
    else
        sim->batches[stage->last].next = batch;
    stage->last = batch;
}

static void leave(struct plan__sim *sim, uint32_t batch)
{
    struct plan__sim_batch *b = &sim->batches[batch];
    struct plan__sim_stage *stage = &sim->stages[b->stage];
    uint32_t from = machine_of(sim, sim->placement->stages[b->stage].worker), next = stage->first;
    stage->busy = false;
    if (++b->stage == sim->placement->n_stages) {
        plan__sim_push(sim, (struct plan__sim_event){.at = transfer(sim, from, sim->home, 0),
                                                     .kind = PLAN__SIM_DONE,
                                                     .batch = batch});
    } else {
        const struct plan_stage *to = &sim->placement->stages[b->stage];
        double bytes = b->rows * (double)sim->shape->layers[to->layer_first].row_bytes;
        plan__sim_push(sim, (struct plan__sim_event){
                                .at = transfer(sim, from, machine_of(sim, to->worker), bytes),
                                .kind = PLAN__SIM_STAGE,
                                .batch = batch});
    }
    if (next != NONE) {
        stage->first = sim->batches[next].next;
        enter_stage(sim, next);
    }
}

void plan__sim_send_batch(struct plan__sim *sim, uint32_t batch)
{
    sim->batches[batch].stage = 0;
    uint32_t to = machine_of(sim, sim->placement->stages[0].worker);
    plan__sim_push(sim, (struct plan__sim_event){.at = transfer(sim, sim->home, to, 0),
                                                 .kind = PLAN__SIM_STAGE,
                                                 .batch = batch});
}

/* ---- experts elsewhere ---- */

static void send_request(struct plan__sim *sim, uint32_t batch,
                         const struct shard_expert_part *part, const struct plan__sim_want *want,
                         double groups)
{
    struct plan__sim_batch *b = &sim->batches[batch];
    const struct plan_layer *l = &sim->shape->layers[b->layer];
    uint32_t stage = sim->placement->stages[b->stage].worker, segments = plan__segments(part, l);
    double sums = want->all + (want->rows - want->all) * groups * segments;
    double seconds = plan__sum(
        plan__experts(device_of(sim, part->worker), l, want->touched, want->entries, segments));
    double there = transfer(sim, machine_of(sim, stage), machine_of(sim, part->worker),
                            want->rows * (double)l->request_bytes);
    b->pending++;
    plan__sim_push(
        sim,
        (struct plan__sim_event){
            .at = there,
            .kind = PLAN__SIM_REQUEST,
            .batch = batch,
            .worker = part->worker,
            .seconds = seconds + sim->cluster->machines[machine_of(sim, part->worker)].request_s,
            .bytes = sums * (double)l->answer_bytes});
}

/* One of a group's copies: all of a single row, an even share of many. */
static struct plan__sim_want share_of(const struct plan__sim_want *want, uint32_t copies,
                                      uint32_t copy, uint32_t chosen)
{
    struct plan__sim_want w = *want;
    if (copies == 1)
        return w;
    if (want->rows <= 1)
        return copy == chosen ? w : (struct plan__sim_want){0};
    w.entries /= copies;
    w.rows /= copies;
    w.all /= copies;
    w.touched = fmin(w.touched, w.entries);
    return w;
}

static void route(struct plan__sim *sim, uint32_t batch)
{
    struct plan__sim_batch *b = &sim->batches[batch];
    const struct plan_layer *l = &sim->shape->layers[b->layer];
    const struct plan__span *span = &sim->span_of[b->layer];
    uint32_t stage = sim->placement->stages[b->stage].worker;
    const struct plan_device *device = device_of(sim, stage);
    double own = plan__sum(plan__beside(device, l, b->rows)), entries = b->rows * l->n_used;
    struct plan__group group = {0};
    b->pending = 1;
    plan__sim_choose(sim->wants, &sim->choices, &sim->chance, l, b->layer, span, b->rows);
    for (uint32_t g = 0; plan__group_next(&group, span); g++) {
        uint32_t chosen = (uint32_t)((1 - plan__sim_uniform(&sim->chance)) * group.copies);
        entries -= sim->wants[g].entries;
        for (uint32_t i = 0; i < group.n_parts; i++) {
            const struct shard_expert_part *part = &group.parts[i];
            struct plan__sim_want want =
                share_of(&sim->wants[g], group.copies, i % group.copies, chosen);
            if (want.entries <= 0)
                continue;
            if (part->worker == stage)
                own += plan__sum(
                    plan__experts(device, l, want.touched, want.entries, plan__segments(part, l)));
            else
                send_request(sim, batch, part, &want,
                             sim->groups[group.parts - sim->placement->parts]);
        }
    }
    double left = l->n_experts - span->named;
    double touched = fmin(plan_layer_touched(l, left, b->rows), entries);
    if (entries > 0.5)
        own += plan__sum(plan__experts(device, l, fmax(touched, 1), entries, l->n_segments));
    plan__sim_push(sim, (struct plan__sim_event){.at = compute(sim, stage, own),
                                                 .kind = PLAN__SIM_ANSWER,
                                                 .batch = batch});
}

static void answer(struct plan__sim *sim, uint32_t batch)
{
    struct plan__sim_batch *b = &sim->batches[batch];
    if (--b->pending > 0)
        return;
    b->layer++;
    advance(sim, batch, 0);
}

void plan__sim_step(struct plan__sim *sim, const struct plan__sim_event *event)
{
    const struct plan_placement *p = sim->placement;
    switch (event->kind) {
    case PLAN__SIM_STAGE:
        arrive(sim, event->batch);
        break;
    case PLAN__SIM_ROUTED:
        route(sim, event->batch);
        break;
    case PLAN__SIM_REQUEST:
        plan__sim_push(sim,
                       (struct plan__sim_event){.at = compute(sim, event->worker, event->seconds),
                                                .kind = PLAN__SIM_COMPUTED,
                                                .batch = event->batch,
                                                .worker = event->worker,
                                                .bytes = event->bytes});
        break;
    case PLAN__SIM_COMPUTED: {
        uint32_t stage = p->stages[sim->batches[event->batch].stage].worker;
        double there =
            transfer(sim, machine_of(sim, event->worker), machine_of(sim, stage), event->bytes);
        plan__sim_push(sim, (struct plan__sim_event){
                                .at = there, .kind = PLAN__SIM_ANSWER, .batch = event->batch});
        break;
    }
    case PLAN__SIM_ANSWER:
        answer(sim, event->batch);
        break;
    case PLAN__SIM_LEFT:
        leave(sim, event->batch);
        break;
    case PLAN__SIM_ARRIVAL:
    case PLAN__SIM_DONE:
        break;
    }
}

/* ---- lifetime ---- */

static void find_spans(struct plan__sim *sim)
{
    struct plan__span span = {0};
    while (plan__span_next(&span, sim->placement)) {
        for (uint32_t il = span.first; il < span.end; il++)
            sim->span_of[il] = span;
    }
}

static void fill_groups(struct plan__sim *sim)
{
    struct plan__span span = {0};
    while (plan__span_next(&span, sim->placement)) {
        struct plan__group group = {0};
        uint32_t il = span.first;
        while (!sim->shape->layers[il].n_experts && il + 1 < span.end)
            il++;
        const struct plan_layer *l = &sim->shape->layers[il];
        while (plan__group_next(&group, &span)) {
            double all = plan__all_chance(l, group.experts);
            double some = plan__use_chance(l, group.experts);
            uint32_t first = group.parts->expert_first;
            double groups = plan__groups(l, first, first + group.experts);
            sim->groups[group.parts - sim->placement->parts] =
                some > all ? (groups - all) / (some - all) : 1;
        }
    }
}

static bool allocate(struct plan__sim *sim, uint32_t max_seqs)
{
    size_t workers = sim->placement->n_workers, machines = sim->cluster->n_machines;
    sim->n_batches = sim->placement->n_stages + 1;
    sim->span_of = calloc(sim->shape->n_layers, sizeof *sim->span_of);
    sim->groups = calloc((size_t)sim->placement->n_parts + 1, sizeof *sim->groups);
    sim->wants = calloc(PLAN_MAX_RACERS, sizeof *sim->wants);
    sim->free_at = calloc(workers, sizeof *sim->free_at);
    sim->busy = calloc(workers, sizeof *sim->busy);
    sim->out_at = calloc(machines, sizeof *sim->out_at);
    sim->in_at = calloc(machines, sizeof *sim->in_at);
    sim->link_busy = calloc(machines, sizeof *sim->link_busy);
    sim->stages = calloc(sim->placement->n_stages, sizeof *sim->stages);
    sim->batches = calloc(sim->n_batches, sizeof *sim->batches);
    if (!sim->span_of || !sim->groups || !sim->wants || !sim->free_at || !sim->busy ||
        !sim->out_at || !sim->in_at || !sim->link_busy || !sim->stages || !sim->batches)
        return false;
    for (uint32_t i = 0; i < sim->n_batches; i++) {
        sim->batches[i].members = calloc(max_seqs, sizeof *sim->batches[i].members);
        sim->batches[i].member_rows = calloc(max_seqs, sizeof *sim->batches[i].member_rows);
        if (!sim->batches[i].members || !sim->batches[i].member_rows)
            return false;
    }
    for (uint32_t s = 0; s < sim->placement->n_stages; s++)
        sim->stages[s].first = NONE;
    return true;
}

enum proto_status plan__sim_init(struct plan__sim *sim, const struct plan_placement *placement,
                                 const struct plan_shape *shape, const struct plan_cluster *cluster,
                                 const struct plan_simulation *options, uint32_t max_seqs,
                                 struct proto_error *error)
{
    *sim = (struct plan__sim){.placement = placement,
                              .shape = shape,
                              .cluster = cluster,
                              .home = plan_cluster_coordinator(cluster),
                              .chance = {options->seed * 0x9e3779b97f4a7c15u + 1}};
    if (!allocate(sim, max_seqs))
        return proto_fail_nomem(error, (uint64_t)max_seqs * sim->n_batches * 8, "the simulation");
    find_spans(sim);
    fill_groups(sim);
    for (int i = 0; i < 16; i++)
        plan__sim_uniform(&sim->chance);
    return plan__sim_choices_init(&sim->choices, shape, options->zipf, &sim->chance, error);
}

void plan__sim_finish(struct plan__sim *sim)
{
    for (uint32_t i = 0; sim->batches && i < sim->n_batches; i++) {
        free(sim->batches[i].members);
        free(sim->batches[i].member_rows);
    }
    plan__sim_choices_finish(&sim->choices);
    free(sim->batches);
    free(sim->stages);
    free(sim->link_busy);
    free(sim->in_at);
    free(sim->out_at);
    free(sim->busy);
    free(sim->free_at);
    free(sim->wants);
    free(sim->groups);
    free(sim->span_of);
    free(sim->heap);
}
