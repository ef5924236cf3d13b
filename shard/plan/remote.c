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
    double beside_s;
    struct plan__time local; /* the shared expert and what the stage has of the others */
    struct plan__time alone; /* and if nobody else of its computer computed */
    uint32_t n;
    struct plan__racer *racers;
    double *touched; /* experts that are read of a racer's, on average */
    double *spread;  /* standard deviation of a racer's time */
    struct plan__tally *tallies;
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

/* Experts of the layer's, and how popular they are in all: struct plan_layer. */
struct range {
    double experts, popularity;
};

static struct range range_of(const struct race *r, const struct shard_expert_part *part,
                             uint32_t copies)
{
    return (struct range){(double)(part->expert_end - part->expert_first) / copies,
                          plan_layer_popularity(r->layer, part->expert_first, part->expert_end) /
                              copies};
}

static double touched_of(const struct race *r, struct range range)
{
    return plan_layer_touched_of(r->layer, range.experts, range.popularity, r->rows);
}

/* Rows of all experts of a range. */
static double entries_of(const struct race *r, struct range range)
{
    return r->rows * r->layer->n_used * range.popularity / r->layer->n_experts;
}

/* A worker's device as it is while others of its computer compute: memory that several read may
 * bound what arithmetic bounds for one. */
static struct plan_device crowded(const struct race *r, uint32_t worker)
{
    const struct plan__tally *tally = &r->tallies[worker];
    struct plan_device device = *device_of(r, worker);
    if (!r->at->cluster->shared)
        return device;
    device.read_bytes_s /= tally->read_crowd;
    device.ops_row_s /= tally->compute_crowd;
    device.ops_rows_s /= tally->compute_crowd;
    return device;
}

static void count_work(const struct race *r, uint32_t worker, double times, struct plan__time t)
{
    struct plan__tally *tally = &r->tallies[worker];
    tally->work.compute_s += times * t.compute_s;
    tally->work.memory_s += times * t.memory_s;
}

/* Time for what is read of a range of which the rows choose, on average. */
static struct plan__time expert_time(const struct race *r, const struct plan_device *device,
                                     struct range range, uint32_t segments)
{
    return plan__experts(device, r->layer, touched_of(r, range), entries_of(r, range), segments);
}

static struct plan__time crowded_time(const struct race *r, uint32_t worker, struct range range,
                                      uint32_t segments)
{
    const struct plan_device device = crowded(r, worker);
    return expert_time(r, &device, range, segments);
}

/* What a part's host does and sends, whether or not anybody waits for it. */
static void count_part(struct race *r, struct plan__tally *tallies, double times,
                       const struct shard_expert_part *part, struct range range)
{
    const struct plan_layer *l = r->layer;
    uint32_t stage = stage_worker(r), segments = plan__segments(part, l);
    const struct plan_placement *p = r->at->placement;
    double use = plan__use_chance(l, range.popularity);
    double wake = machine_of(r, part->worker)->request_s;
    struct plan__time t = crowded_time(r, part->worker, range, segments);
    struct plan_link out = plan_cluster_link(r->at->cluster, p->workers[stage].machine,
                                             p->workers[part->worker].machine);
    struct plan_link back = plan_cluster_link(r->at->cluster, p->workers[part->worker].machine,
                                              p->workers[stage].machine);
    double used = 1 - pow(1 - use, r->rows);
    uint32_t end = part->expert_first + (uint32_t)fmax(range.experts + 0.5, 1);
    double answers = plan_range_answers(l, part->expert_first, end, segments);
    if (l->popular) /* as many more as rows use it more than one of experts alike */
        answers *= use / plan__use_chance(l, end - part->expert_first);
    double out_bytes = r->rows * use * (double)l->request_bytes;
    double back_bytes = r->rows * answers * (double)l->answer_bytes;
    double wire = out_bytes / out.bytes_s + back_bytes / back.bytes_s;
    r->out_s += out_bytes / out.bytes_s;
    r->back_s += back_bytes / back.bytes_s;
    r->frames += 2 * used;
    r->bytes += out_bytes + back_bytes;
    r->wake_s = fmax(r->wake_s, wake);
    count_work(r, part->worker, times,
               expert_time(r, device_of(r, part->worker), range, segments));
    tallies[part->worker].busy_s += times * (plan__sum(t) + used * wake);
    tallies[part->worker].transfer_s += times * wire;
    tallies[stage].transfer_s += times * wire;
}

/* What the stage has of a range. */
static void add_local(struct race *r, struct range range, uint32_t segments)
{
    uint32_t stage = stage_worker(r);
    plan__add(&r->local, crowded_time(r, stage, range, segments));
    plan__add(&r->alone, expert_time(r, device_of(r, stage), range, segments));
}

/* Copy `copy` of a group as a racer: its slowest slice. A slice that the stage itself has starts
 * after the shared expert. */
static void add_racer(struct race *r, struct plan__tally *tallies, double times,
                      const struct plan__group *group, uint32_t copy)
{
    const struct plan_layer *l = r->layer;
    const struct plan_placement *p = r->at->placement;
    const struct range range = range_of(r, group->parts, group->copies);
    double touched = touched_of(r, range), typical = fmax(touched, 1), most = -1, latency = 0;
    struct plan__racer *racer = &r->racers[r->n];
    struct plan__time slowest = {0};
    *racer = (struct plan__racer){.experts = range.popularity};
    for (uint32_t i = 0; i < group->n_slices; i++) {
        const struct shard_expert_part *part = &group->parts[i * group->copies + copy];
        uint32_t segments = plan__segments(part, l);
        struct plan__time t = crowded_time(r, part->worker, range, segments);
        double each = plan__sum(t) / touched, base = r->beside_s;
        if (part->worker == stage_worker(r)) {
            add_local(r, range, segments);
        } else {
            struct plan_link link =
                plan_cluster_link(r->at->cluster, p->workers[stage_worker(r)].machine,
                                  p->workers[part->worker].machine);
            base = link.rtt_s + machine_of(r, part->worker)->request_s;
            latency = fmax(latency, link.rtt_s);
            count_part(r, tallies, times, part, range);
        }
        if (base + typical * each > most) {
            most = base + typical * each;
            racer->base_s = base;
            racer->each_s = each;
            slowest = t;
        }
    }
    double share = slowest.memory_s > 0
                       ? (1 - touched / range.experts) / touched
                       : (1 - range.popularity / l->n_experts) / entries_of(r, range);
    r->touched[r->n] = touched;
    r->spread[r->n++] = plan__sum(slowest) * sqrt(fmax(share, 0));
    r->latency_s += latency * range.popularity;
}

/* With many draws: each racer's mean and spread, and that the slowest of n equal ones is some
 * deviations above. */
static double slowest_of_many(const struct race *r)
{
    double longest = 0, sum = 0;
    for (uint32_t j = 0; j < r->n; j++) {
        double t = r->racers[j].base_s + r->touched[j] * r->racers[j].each_s;
        longest = fmax(longest, t);
        sum += t;
    }
    double deviations = plan__largest_normal(sum / longest), slowest = 0;
    for (uint32_t j = 0; j < r->n; j++) {
        double t = r->racers[j].base_s + r->touched[j] * r->racers[j].each_s;
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
    struct range left = {l->n_experts, l->n_experts};
    const struct plan_device device = crowded(r, stage);
    r->local = plan__beside(&device, l, r->rows);
    r->alone = plan__beside(device_of(r, stage), l, r->rows);
    r->beside_s = plan__sum(r->local);
    while (plan__group_next(&group, r->at->span)) {
        const struct range range = range_of(r, group.parts, 1);
        left.experts -= range.experts;
        left.popularity -= range.popularity;
        for (uint32_t copy = 0; copy < group.copies; copy++)
            add_racer(r, tallies, times, &group, copy);
    }
    for (uint32_t j = 0; j < r->n; j++)
        r->racers[j].base_s += wire_seconds(r);
    r->remote = plan__use_chance(l, l->n_experts - left.popularity);
    r->latency_s /= fmax(l->n_experts - left.popularity, 1);
    r->racers[r->n] = (struct plan__racer){.base_s = r->beside_s, .always = 1};
    r->touched[r->n] = r->spread[r->n] = 0;
    if (left.experts > 0) {
        struct plan__time t = crowded_time(r, stage, left, l->n_segments);
        r->touched[r->n] = touched_of(r, left);
        r->racers[r->n].experts = fmax(left.popularity, 0);
        r->racers[r->n].each_s = plan__sum(t) / r->touched[r->n];
        add_local(r, left, l->n_segments);
    }
    r->n++;
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
        sum += plan__sum(
            crowded_time(r, part->worker, range_of(r, part, 1), plan__segments(part, r->layer)));
    }
    for (uint32_t i = 0; i < r->at->span->n_parts && sum > 0; i++) {
        const struct shard_expert_part *part = &r->at->span->parts[i];
        struct plan__time t =
            crowded_time(r, part->worker, range_of(r, part, 1), plan__segments(part, r->layer));
        tallies[part->worker].own.compute_s += times * work * t.compute_s / sum;
        tallies[part->worker].own.memory_s += times * work * t.memory_s / sum;
    }
}

/* ---- one computer's workers ---- */

/* Fills the chances that workers compute some of the layer's experts. */
static void find_active(const struct race *r)
{
    const struct plan__span *span = r->at->span;
    for (uint32_t i = 0; i < r->at->placement->n_workers; i++)
        r->tallies[i].active = 0;
    r->tallies[stage_worker(r)].active =
        span->named < r->layer->n_experts || r->layer->beside_bytes > 0;
    for (uint32_t i = 0; i < span->n_parts; i++) {
        struct plan__tally *tally = &r->tallies[span->parts[i].worker];
        double use = plan__use_chance(r->layer, range_of(r, &span->parts[i], 1).popularity);
        tally->active = fmax(tally->active, 1 - pow(1 - use, r->rows));
    }
}

/* How much slower a worker is: as much as all together would take more than the computer has. */
static void crowd_worker(const struct race *r, uint32_t worker)
{
    const struct plan_machine *own = machine_of(r, worker);
    double compute = own->compute_share, read = own->read_share;
    for (uint32_t i = 0; i < r->at->placement->n_workers; i++) {
        const struct plan_machine *m = machine_of(r, i);
        if (i == worker || !own->computer || m->computer != own->computer)
            continue;
        compute += r->tallies[i].active * m->compute_share;
        read += r->tallies[i].active * m->read_share;
    }
    r->tallies[worker].compute_crowd = fmax(compute, 1);
    r->tallies[worker].read_crowd = fmax(read, 1);
}

static void find_crowds(const struct race *r)
{
    find_active(r);
    for (uint32_t i = 0; i < r->at->placement->n_workers; i++)
        crowd_worker(r, i);
}

/* Different experts that all rows use. */
static double all_touched(const struct race *r)
{
    struct plan__group group = {0};
    struct range left = {r->layer->n_experts, r->layer->n_experts};
    double sum = 0;
    if (!r->layer->popular)
        return plan_layer_touched(r->layer, r->layer->n_experts, r->rows);
    while (plan__group_next(&group, r->at->span)) {
        const struct range range = range_of(r, group.parts, 1);
        sum += touched_of(r, range);
        left.experts -= range.experts;
        left.popularity -= range.popularity;
    }
    return sum + touched_of(r, left);
}

void plan__remote_experts(struct plan__pass *pass, struct plan__tally *tallies,
                          const struct plan__remote *at, double rows, double times)
{
    const struct plan_layer *l = &at->shape->layers[at->layer];
    struct plan__racer racers[PLAN_MAX_RACERS + 1];
    double spread[PLAN_MAX_RACERS + 1], counts[PLAN_MAX_RACERS + 1];
    struct race r = {.at = at,
                     .layer = l,
                     .rows = rows,
                     .racers = racers,
                     .touched = counts,
                     .spread = spread,
                     .tallies = tallies};
    double touched = all_touched(&r);
    struct plan__tally *stage = &tallies[at->placement->stages[at->stage].worker];
    r.draws = touched < 1 ? 1 : (uint32_t)fmin(touched + 0.5, PLAN__MAX_DRAWS + 1);
    if (at->cluster->shared)
        find_crowds(&r);
    gather(&r, tallies, times);
    double slowest = r.draws <= PLAN__MAX_DRAWS ? plan__slowest_drawn(r.racers, r.n, r.draws)
                                                : slowest_of_many(&r);
    double own = plan__sum(r.local), excess = fmax(slowest - own, 0);
    plan__add(&stage->own,
              (struct plan__time){times * r.local.compute_s, times * r.local.memory_s});
    count_work(&r, at->placement->stages[at->stage].worker, times, r.alone);
    stage->busy_s += times * (own + excess);
    pass->budget.compute_s += times * r.local.compute_s;
    pass->budget.memory_s += times * r.local.memory_s;
    pass->frames += times * r.frames;
    pass->bytes += times * r.bytes;
    share_wait(&r, pass, tallies, times, excess);
}
