/* SPDX-License-Identifier: Apache-2.0 */
/* A batch through all stages. */
#include <math.h>

#include "shard/plan/work.h"

#define KINDS 4 /* of layers with experts elsewhere that are counted together */

struct walk {
    struct plan__pass *pass;
    struct plan__tally *tallies;
    const struct plan_placement *placement;
    const struct plan_shape *shape;
    const struct plan_cluster *cluster;
    const struct plan__batch *batch;
    struct plan__span span;
    bool more;     /* span is one */
    uint32_t from; /* machine that the rows are on */
    /* Layers with experts elsewhere, alike to `layer` each, of the current stage and span. */
    uint32_t n_kinds;
    struct {
        uint32_t layer, count;
    } kinds[KINDS];
};

static void add_own(const struct walk *w, struct plan__tally *tally, struct plan__time t)
{
    plan__add(&tally->own, t);
    plan__add(&tally->work, t);
    tally->busy_s += plan__sum(t);
    w->pass->budget.compute_s += t.compute_s;
    w->pass->budget.memory_s += t.memory_s;
}

static void wake(const struct walk *w, struct plan__tally *tally, double seconds)
{
    tally->wake_s += seconds;
    tally->busy_s += seconds;
    w->pass->budget.wait_s += seconds;
}

/* To a machine; other: the side that nobody waits for, or NULL. */
static void hop(struct walk *w, struct plan__tally *tally, struct plan__tally *other, uint32_t to,
                double bytes)
{
    struct plan_link link = plan_cluster_link(w->cluster, w->from, to);
    double wire = bytes / link.bytes_s;
    tally->latency_s += link.rtt_s / 2;
    tally->link_s += wire;
    tally->transfer_s += wire;
    if (other)
        other->transfer_s += wire;
    w->pass->budget.wire_s += link.rtt_s / 2 + wire;
    w->pass->frames++;
    w->pass->bytes += bytes;
    w->from = to;
}

static void flush_kinds(struct walk *w, uint32_t stage)
{
    for (uint32_t i = 0; i < w->n_kinds; i++) {
        struct plan__remote at = {w->placement, w->shape, w->cluster,
                                  &w->span,     stage,    w->kinds[i].layer};
        plan__remote_experts(w->pass, w->tallies, &at, w->batch->rows, w->kinds[i].count);
    }
    w->n_kinds = 0;
}

static void count_remote(struct walk *w, uint32_t stage, uint32_t il)
{
    const struct plan_layer *layers = w->shape->layers;
    for (uint32_t i = 0; i < w->n_kinds; i++) {
        if (plan__same_experts(&layers[w->kinds[i].layer], &layers[il])) {
            w->kinds[i].count++;
            return;
        }
    }
    if (w->n_kinds == KINDS)
        flush_kinds(w, stage);
    w->kinds[w->n_kinds].layer = il;
    w->kinds[w->n_kinds++].count = 1;
}

/* Moves on to the span that has the layer or comes after it; whether it has the layer. */
static bool in_span(struct walk *w, uint32_t stage, uint32_t il)
{
    if (w->more && w->span.end <= il)
        flush_kinds(w, stage);
    while (w->more && w->span.end <= il)
        w->more = plan__span_next(&w->span, w->placement);
    return w->more && w->span.first <= il;
}

static void run_experts_here(const struct walk *w, struct plan__tally *tally,
                             const struct plan_device *device, const struct plan_layer *layer)
{
    double rows = w->batch->rows;
    add_own(w, tally, plan__beside(device, layer, rows));
    if (layer->n_experts)
        add_own(w, tally,
                plan__experts(device, layer, plan_layer_touched(layer, layer->n_experts, rows),
                              rows * layer->n_used, layer->n_segments));
}

static void run_stage(struct walk *w, uint32_t s)
{
    const struct plan_stage *stage = &w->placement->stages[s];
    const struct plan_worker *worker = &w->placement->workers[stage->worker];
    const struct plan_machine *machine = &w->cluster->machines[worker->machine];
    const struct plan_device *device = &machine->device[worker->device];
    struct plan__tally *tally = &w->tallies[stage->worker];
    struct plan__tally *sender = s ? &w->tallies[w->placement->stages[s - 1].worker] : NULL;
    double row_bytes = s ? (double)w->shape->layers[stage->layer_first].row_bytes : 0;
    hop(w, tally, sender, worker->machine, w->batch->rows * row_bytes);
    wake(w, tally, machine->overhead_s);
    for (uint32_t il = stage->layer_first; il < stage->layer_end; il++) {
        const struct plan_layer *layer = &w->shape->layers[il];
        add_own(w, tally, plan__trunk(device, layer, w->batch));
        if (layer->n_experts && in_span(w, s, il))
            count_remote(w, s, il);
        else
            run_experts_here(w, tally, device, layer);
    }
    flush_kinds(w, s);
    if (stage->head)
        add_own(w, tally, plan__head(device, w->shape, w->batch->wanted));
}

/* What all workers of a worker's computer make it do for a batch. */
static double computer_seconds(const struct walk *w, uint32_t worker)
{
    const struct plan_worker *workers = w->placement->workers;
    const struct plan_machine *machines = w->cluster->machines;
    uint32_t computer = machines[workers[worker].machine].computer;
    double sum = 0;
    for (uint32_t i = 0; i < w->placement->n_workers; i++) {
        const struct plan_machine *m = &machines[workers[i].machine];
        if (workers[i].device == PLAN_CPU && m->computer == computer)
            sum += w->tallies[i].work.compute_s * m->compute_share +
                   w->tallies[i].work.memory_s * m->read_share;
    }
    return sum;
}

static double busy_seconds(const struct walk *w, uint32_t worker)
{
    const struct plan_worker *at = &w->placement->workers[worker];
    double own = w->tallies[worker].busy_s;
    if (!w->cluster->shared || at->device != PLAN_CPU ||
        !w->cluster->machines[at->machine].computer)
        return own;
    return fmax(own, computer_seconds(w, worker));
}

/* Batches follow one another as the slowest allows, or as those in flight come back. */
static void find_slowest(const struct walk *w, uint32_t in_flight)
{
    struct plan__pass *pass = w->pass;
    pass->slowest = w->placement->n_workers;
    pass->interval = pass->seconds / in_flight;
    for (uint32_t i = 0; i < w->placement->n_workers; i++) {
        double busy = busy_seconds(w, i), most = fmax(busy, w->tallies[i].transfer_s);
        if (most < pass->interval)
            continue;
        pass->interval = most;
        pass->slowest = i;
        pass->slowest_is_link = w->tallies[i].transfer_s > busy;
    }
}

void plan__pass(struct plan__pass *pass, struct plan__tally *tallies,
                const struct plan_placement *placement, const struct plan_shape *shape,
                const struct plan_cluster *cluster, const struct plan__batch *batch)
{
    uint32_t home = plan_cluster_coordinator(cluster);
    struct walk w = {.pass = pass,
                     .tallies = tallies,
                     .placement = placement,
                     .shape = shape,
                     .cluster = cluster,
                     .batch = batch,
                     .from = home};
    *pass = (struct plan__pass){0};
    w.more = plan__span_next(&w.span, placement);
    for (uint32_t i = 0; i < placement->n_workers; i++)
        tallies[i] = (struct plan__tally){0};
    for (uint32_t s = 0; s < placement->n_stages; s++)
        run_stage(&w, s);
    hop(&w, &tallies[placement->stages[placement->n_stages - 1].worker], NULL, home, 0);
    pass->seconds =
        pass->budget.compute_s + pass->budget.memory_s + pass->budget.wire_s + pass->budget.wait_s;
    find_slowest(&w, placement->n_stages + (batch->prompt ? 1 : 0));
}
