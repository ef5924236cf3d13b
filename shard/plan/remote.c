/* SPDX-License-Identifier: Apache-2.0 */
#include <math.h>

#include "shard/plan/slowest.h"
#include "shard/plan/work.h"

/* A layer's experts while the times of their hosts are gathered. */
struct race {
    const struct plan__remote *at;
    const struct plan_layer *layer;
    double rows;
    uint32_t draws; /* different experts that all rows use */
    double entries; /* rows of an expert that is used */
    double beside_s;
    struct plan__time local; /* the shared expert and what the stage has of the others */
    uint32_t n;
    struct plan__racer *racers;
    double *spread;       /* standard deviation of a racer's time */
    double out_s, back_s; /* rows on the stage's links */
    double latency_s;     /* mean round trip, where one is made */
    double wake_s;
    double remote; /* chance that one is made */
    double frames, bytes;
};

static const struct plan_machine *machine_of(const struct race *r, uint32_t worker)
{
    return &r->at->cluster->machines[r->at->placement->workers[worker].machine];
}

static const struct plan_device *device_of(const struct race *r, uint32_t worker)
{
    return &machine_of(r, worker)->device[r->at->placement->workers[worker].device];
}

static uint32_t stage_worker(const struct race *r)
{
    return r->at->placement->stages[r->at->stage].worker;
}

/* Time for what is read of `experts` experts of which the rows choose, on average. */
static struct plan__time expert_time(const struct race *r, uint32_t worker, double experts,
                                     uint32_t segments)
{
    return plan__experts(device_of(r, worker), r->layer,
                         plan_layer_touched(r->layer, experts, r->rows),
                         r->rows * r->layer->n_used * experts / r->layer->n_experts, segments);
}

/* And for one that is used. */
static double one_expert(const struct race *r, uint32_t worker, uint32_t segments)
{
    return plan__sum(plan__experts(device_of(r, worker), r->layer, 1, r->entries, segments));
}

/* What a part's host does and sends, whether or not anybody waits for it. */
static void count_part(struct race *r, struct plan__tally *tallies, double times,
                       const struct shard_expert_part *part, double experts)
{
    const struct plan_layer *l = r->layer;
    uint32_t stage = stage_worker(r), segments = plan__segments(part, l);
    const struct plan_placement *p = r->at->placement;
    double use = plan__use_chance(l, experts), wake = machine_of(r, part->worker)->request_s;
    struct plan__time t = expert_time(r, part->worker, experts, segments);
    struct plan_link out = plan_cluster_link(r->at->cluster, p->workers[stage].machine,
                                             p->workers[part->worker].machine);
    struct plan_link back = plan_cluster_link(r->at->cluster, p->workers[part->worker].machine,
                                              p->workers[stage].machine);
    double used = 1 - pow(1 - use, r->rows);
    uint32_t end = part->expert_first + (uint32_t)(experts + 0.5);
    double answers = plan_range_answers(l, part->expert_first, end, segments);
    double out_bytes = r->rows * use * (double)l->request_bytes;
    double back_bytes = r->rows * answers * (double)l->answer_bytes;
    double wire = out_bytes / out.bytes_s + back_bytes / back.bytes_s;
    r->out_s += out_bytes / out.bytes_s;
    r->back_s += back_bytes / back.bytes_s;
    r->frames += 2 * used;
    r->bytes += out_bytes + back_bytes;
    r->wake_s = fmax(r->wake_s, wake);
    tallies[part->worker].busy_s += times * (plan__sum(t) + used * wake);
    tallies[part->worker].transfer_s += times * wire;
    tallies[stage].transfer_s += times * wire;
}

/* Copy `copy` of a group as a racer: its slowest slice. A slice that the stage itself has starts
 * after the shared expert. */
static void add_racer(struct race *r, struct plan__tally *tallies, double times,
                      const struct plan__group *group, uint32_t copy)
{
    const struct plan_layer *l = r->layer;
    const struct plan_placement *p = r->at->placement;
    double experts = (double)group->experts / group->copies, most = -1;
    double typical = fmax(plan_layer_touched(l, experts, r->rows), 1), latency = 0;
    struct plan__racer *racer = &r->racers[r->n];
    struct plan__time slowest = {0};
    *racer = (struct plan__racer){.experts = experts};
    for (uint32_t i = 0; i < group->n_slices; i++) {
        const struct shard_expert_part *part = &group->parts[i * group->copies + copy];
        uint32_t segments = plan__segments(part, l);
        double each = one_expert(r, part->worker, segments), base = r->beside_s;
        if (part->worker == stage_worker(r)) {
            plan__add(&r->local, expert_time(r, part->worker, experts, segments));
        } else {
            struct plan_link link =
                plan_cluster_link(r->at->cluster, p->workers[stage_worker(r)].machine,
                                  p->workers[part->worker].machine);
            base = link.rtt_s + machine_of(r, part->worker)->request_s;
            latency = fmax(latency, link.rtt_s);
            count_part(r, tallies, times, part, experts);
        }
        if (base + typical * each > most) {
            most = base + typical * each;
            racer->base_s = base;
            racer->each_s = each;
            slowest = expert_time(r, part->worker, experts, segments);
        }
    }
    double entries = r->rows * l->n_used * experts / l->n_experts;
    double touched = plan_layer_touched(l, experts, r->rows);
    double share = slowest.memory_s > 0 ? (1 - touched / experts) / touched
                                        : (1 - experts / l->n_experts) / entries;
    r->spread[r->n++] = plan__sum(slowest) * sqrt(fmax(share, 0));
    r->latency_s += latency * experts;
}

/* With many draws: each racer's mean and spread, and that the slowest of n equal ones is some
 * deviations above. */
static double slowest_of_many(const struct race *r)
{
    double longest = 0, sum = 0;
    for (uint32_t j = 0; j < r->n; j++) {
        const struct plan__racer *racer = &r->racers[j];
        double t =
            racer->base_s + plan_layer_touched(r->layer, racer->experts, r->rows) * racer->each_s;
        longest = fmax(longest, t);
        sum += t;
    }
    double deviations = plan__largest_normal(sum / longest), slowest = 0;
    for (uint32_t j = 0; j < r->n; j++) {
        const struct plan__racer *racer = &r->racers[j];
        double t =
            racer->base_s + plan_layer_touched(r->layer, racer->experts, r->rows) * racer->each_s;
        slowest = fmax(slowest, t + deviations * r->spread[j]);
    }
    return slowest;
}

/* Requests leave one after another, and answers come so; a host's answer may come while the request
 * to another still leaves, but not before its own has left. */
static double wire_seconds(const struct race *r)
{
    double hosts = fmax(r->frames / 2, 1);
    return fmax(r->out_s, r->back_s) + fmin(r->out_s, r->back_s) / hosts;
}

static void gather(struct race *r, struct plan__tally *tallies, double times)
{
    const struct plan_layer *l = r->layer;
    struct plan__group group = {0};
    uint32_t stage = stage_worker(r);
    double left = l->n_experts;
    r->local = plan__beside(device_of(r, stage), l, r->rows);
    r->beside_s = plan__sum(r->local);
    while (plan__group_next(&group, r->at->span)) {
        left -= group.experts;
        for (uint32_t copy = 0; copy < group.copies; copy++)
            add_racer(r, tallies, times, &group, copy);
    }
    for (uint32_t j = 0; j < r->n; j++)
        r->racers[j].base_s += wire_seconds(r);
    r->remote = plan__use_chance(l, l->n_experts - left);
    r->latency_s /= fmax(l->n_experts - left, 1);
    r->racers[r->n] = (struct plan__racer){.experts = left,
                                           .base_s = r->beside_s,
                                           .each_s = one_expert(r, stage, l->n_segments),
                                           .always = 1};
    r->spread[r->n++] = 0;
    if (left > 0)
        plan__add(&r->local, expert_time(r, stage, left, l->n_segments));
}

/* What is waited for beyond the stage's own work: the wire first, then hosts' threads and work. */
static void share_wait(const struct race *r, struct plan__pass *pass, struct plan__tally *tallies,
                       double times, double excess)
{
    struct plan__tally *stage = &tallies[stage_worker(r)];
    double wire = fmin(excess, wire_seconds(r));
    double latency = fmin(excess - wire, r->remote * r->latency_s);
    double wake = fmin(excess - wire - latency, r->remote * r->wake_s);
    double work = excess - wire - latency - wake, sum = 0;
    pass->budget.wire_s += times * (wire + latency);
    pass->budget.wait_s += times * (wake + work);
    stage->link_s += times * wire;
    stage->latency_s += times * latency;
    stage->wake_s += times * wake;
    for (uint32_t i = 0; i < r->at->span->n_parts && work > 0; i++) {
        const struct shard_expert_part *part = &r->at->span->parts[i];
        sum += plan__sum(expert_time(r, part->worker, part->expert_end - part->expert_first,
                                     plan__segments(part, r->layer)));
    }
    for (uint32_t i = 0; i < r->at->span->n_parts && sum > 0; i++) {
        const struct shard_expert_part *part = &r->at->span->parts[i];
        struct plan__time t = expert_time(r, part->worker, part->expert_end - part->expert_first,
                                          plan__segments(part, r->layer));
        tallies[part->worker].own.compute_s += times * work * t.compute_s / sum;
        tallies[part->worker].own.memory_s += times * work * t.memory_s / sum;
    }
}

void plan__remote_experts(struct plan__pass *pass, struct plan__tally *tallies,
                          const struct plan__remote *at, double rows, double times)
{
    const struct plan_layer *l = &at->shape->layers[at->layer];
    struct plan__racer racers[PLAN_MAX_RACERS + 1];
    double spread[PLAN_MAX_RACERS + 1];
    struct race r = {.at = at, .layer = l, .rows = rows, .racers = racers, .spread = spread};
    double touched = plan_layer_touched(l, l->n_experts, rows);
    struct plan__tally *stage = &tallies[at->placement->stages[at->stage].worker];
    r.draws = touched < 1 ? 1 : (uint32_t)fmin(touched + 0.5, PLAN__MAX_DRAWS + 1);
    r.entries = rows * l->n_used / touched;
    gather(&r, tallies, times);
    double slowest = r.draws <= PLAN__MAX_DRAWS ? plan__slowest_drawn(r.racers, r.n, r.draws)
                                                : slowest_of_many(&r);
    double own = plan__sum(r.local), excess = fmax(slowest - own, 0);
    plan__add(&stage->own,
              (struct plan__time){times * r.local.compute_s, times * r.local.memory_s});
    stage->busy_s += times * (own + excess);
    pass->budget.compute_s += times * r.local.compute_s;
    pass->budget.memory_s += times * r.local.memory_s;
    pass->frames += times * r.frames;
    pass->bytes += times * r.bytes;
    share_wait(&r, pass, tallies, times, excess);
}
