/* SPDX-License-Identifier: Apache-2.0 */
#include "shard/plan/draft.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define SEED 0x9e3779b97f4a7c15u

/* Of two placements about as fast the one with fewer parts is better: each counts as much more of
 * the objective. */
#define PART_PRICE 2e-4

/* What a prediction takes on one core, about, in nanoseconds. */
#define LAYER_WORK 100.0
#define PART_WORK  900.0

double plan_objective(const struct plan_cost *cost, enum plan_aim aim)
{
    switch (aim) {
    case PLAN_LATENCY:
        return cost->request_alone_s;
    case PLAN_THROUGHPUT:
        return cost->request_many_s;
    case PLAN_BALANCED:
        return sqrt(cost->request_alone_s * cost->request_many_s);
    }
    return INFINITY;
}

/* ---- the problem ---- */

static double expert_seconds(const struct plan__problem *p, const struct plan__seat *seat)
{
    if (seat->device->read_bytes_s <= 0)
        return 0;
    for (uint32_t il = 0; il < p->shape->n_layers; il++) {
        const struct plan_layer *l = &p->shape->layers[il];
        if (l->n_experts)
            return p->cluster->any.rtt_s + p->cluster->machines[seat->machine].request_s +
                   plan__sum(plan__experts(seat->device, l, 1, 1, l->n_segments));
    }
    return 1 / seat->device->read_bytes_s;
}

static int by_worth(const void *a, const void *b)
{
    const struct plan__seat *x = a, *y = b;
    double x_worth = (double)x->device->memory_bytes * x->device->read_bytes_s;
    double y_worth = (double)y->device->memory_bytes * y->device->read_bytes_s;
    if (x_worth < y_worth || x_worth > y_worth)
        return x_worth < y_worth ? 1 : -1;
    if (x->machine != y->machine)
        return x->machine < y->machine ? -1 : 1;
    return (int)x->kind - (int)y->kind;
}

static enum proto_status gather_seats(struct plan__problem *p, struct proto_error *error)
{
    const struct plan_cluster *c = p->cluster;
    size_t room = (size_t)c->n_machines * PLAN_N_DEVICES;
    struct plan__seat *all = calloc(room + 1, sizeof *all);
    uint32_t n = 0;
    if (!all)
        return proto_fail_nomem(error, room * sizeof *all, "the machines");
    for (uint32_t i = 0; i < c->n_machines; i++) {
        for (int kind = 0; kind < PLAN_N_DEVICES; kind++) {
            const struct plan_device *device = &c->machines[i].device[kind];
            if (device->memory_bytes == 0 || (kind == PLAN_GPU && p->options->cpu_only))
                continue;
            all[n] = (struct plan__seat){i, (enum plan_device_kind)kind, device, 0};
            all[n].expert_s = expert_seconds(p, &all[n]);
            n++;
        }
    }
    if (n > PLAN__MAX_SEATS) {
        qsort(all, n, sizeof *all, by_worth);
        n = PLAN__MAX_SEATS;
    }
    memcpy(p->seats, all, n * sizeof *all);
    p->n_seats = n;
    free(all);
    return PROTO_OK;
}

enum proto_status plan__problem_init(struct plan__problem *problem, const struct plan_shape *shape,
                                     const struct plan_cluster *cluster,
                                     const struct plan_options *options, struct proto_error *error)
{
    *problem = (struct plan__problem){.shape = shape,
                                      .cluster = cluster,
                                      .options = options,
                                      .load = plan_load_complete(&options->load, shape),
                                      .moe_layers = plan_shape_moe_layers(shape),
                                      .chance = SEED};
    if (shape->n_layers == 0 || shape->n_layers > PROTO_MAX_LAYERS)
        return proto_fail(error, PROTO_LIMIT, "%s has %u layers, expected 1 to %u", shape->name,
                          shape->n_layers, PROTO_MAX_LAYERS);
    for (uint32_t il = 0; il < shape->n_layers; il++) {
        uint32_t n = shape->layers[il].n_experts;
        problem->n_experts = n > problem->n_experts ? n : problem->n_experts;
    }
    enum proto_status status = gather_seats(problem, error);
    if (status != PROTO_OK)
        return status;
    size_t bytes = (PLAN__MAX_SEATS + 1) * sizeof *problem->tallies;
    problem->tallies = malloc(bytes);
    if (!problem->tallies)
        return proto_fail_nomem(error, bytes, "predictions");
    return plan_placement_create(&problem->placement, PLAN__MAX_SEATS, PLAN__MAX_SEATS,
                                 PLAN__MAX_PARTS, error);
}

void plan__problem_finish(struct plan__problem *problem)
{
    plan_placement_destroy(problem->placement);
    free(problem->tallies);
}

/* xorshift64* (Vigna, "An experimental exploration of Marsaglia's xorshift generators"). */
uint32_t plan__chance(struct plan__problem *problem, uint32_t n)
{
    uint64_t x = problem->chance;
    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    problem->chance = x;
    return (uint32_t)(((x * 0x2545f4914f6cdd1dull >> 32) * n) >> 32);
}

/* ---- drafts ---- */

void plan__draft_copy(struct plan__draft *to, const struct plan__draft *from)
{
    size_t head = offsetof(struct plan__draft, teams);
    memcpy(to, from, head + from->n_teams * sizeof from->teams[0]);
}

bool plan__draft_better(const struct plan__draft *a, const struct plan__draft *b)
{
    if (a->overflow < b->overflow || a->overflow > b->overflow)
        return a->overflow < b->overflow;
    return a->objective < b->objective;
}

void plan__shelve(struct plan__shelf *shelf, const struct plan__draft *draft)
{
    if (isinf(draft->overflow))
        return;
    for (uint32_t i = 0; i < shelf->n; i++) {
        const struct plan__draft *old = &shelf->drafts[i];
        bool same = old->overflow > 0
                        ? fabs(old->overflow - draft->overflow) < 1
                        : draft->overflow <= 0 &&
                              fabs(old->objective - draft->objective) <= 1e-6 * old->objective;
        if (same)
            return;
    }
    if (shelf->n == shelf->room && !plan__draft_better(draft, &shelf->drafts[shelf->n - 1]))
        return;
    uint32_t at = shelf->n < shelf->room ? shelf->n++ : shelf->n - 1;
    for (; at > 0 && plan__draft_better(draft, &shelf->drafts[at - 1]); at--)
        plan__draft_copy(&shelf->drafts[at], &shelf->drafts[at - 1]);
    plan__draft_copy(&shelf->drafts[at], draft);
}

uint32_t plan__draft_owner(const struct plan__draft *draft, uint32_t layer)
{
    uint32_t s = 0;
    while (s + 1 < draft->n_stages && draft->stage_end[s] <= layer)
        s++;
    return draft->stage_seat[s];
}

/* Workers of the placement by seat. */
struct builder {
    const struct plan__problem *problem;
    struct plan_placement *placement;
    uint16_t worker[PLAN__MAX_SEATS]; /* + 1; 0: none yet */
};

static uint32_t worker_of(struct builder *b, uint32_t seat)
{
    struct plan_placement *p = b->placement;
    if (!b->worker[seat]) {
        const struct plan__seat *s = &b->problem->seats[seat];
        p->workers[p->n_workers++] = (struct plan_worker){.machine = s->machine, .device = s->kind};
        b->worker[seat] = (uint16_t)p->n_workers;
    }
    return b->worker[seat] - 1u;
}

static bool build_stages(struct builder *b, const struct plan__draft *draft)
{
    struct plan_placement *p = b->placement;
    uint32_t first = 0, n = b->problem->shape->n_layers;
    for (uint32_t s = 0; s < draft->n_stages; s++) {
        uint32_t end = draft->stage_end[s], known = p->n_workers;
        if (end <= first || end > n)
            return false;
        p->stages[s] = (struct plan_stage){.worker = worker_of(b, draft->stage_seat[s]),
                                           .layer_first = first,
                                           .layer_end = end,
                                           .embed = first == 0,
                                           .head = end == n};
        if (p->n_workers == known)
            return false;
        first = end;
    }
    p->n_stages = draft->n_stages;
    return first == n;
}

/* Whether slices are on different processors, and copies on different machines. */
static bool are_apart(const struct plan__problem *problem, const uint16_t *seats, uint32_t width,
                      uint32_t copies)
{
    for (uint32_t i = 0; i < width; i++) {
        for (uint32_t j = 0; j < i; j++) {
            bool same_slice = i / copies == j / copies;
            if (seats[i] == seats[j] || (same_slice && problem->seats[seats[i]].machine ==
                                                           problem->seats[seats[j]].machine))
                return false;
        }
    }
    return true;
}

/* Parts of a team in layers [first, end) of a stage. A group that is the stage's alone is left out:
 * what nobody has is the stage's. */
static bool build_run(struct builder *b, const struct plan__team *team, uint32_t owner,
                      uint32_t first, uint32_t end)
{
    struct plan_placement *p = b->placement;
    uint32_t width = plan__width(team), next = 0;
    if (team->slices > b->problem->shape->layers[first].n_segments)
        return false;
    for (uint32_t g = 0; g < team->n_groups; g++) {
        const uint16_t *seats = &team->seats[g * width];
        uint32_t from = next;
        next += team->experts[g];
        if (team->experts[g] == 0 || (width == 1 && seats[0] == owner))
            continue;
        if (!are_apart(b->problem, seats, width, team->copies))
            return false;
        for (uint32_t i = 0; i < width; i++) {
            if (p->n_parts == PLAN__MAX_PARTS)
                return false;
            p->parts[p->n_parts++] = (struct shard_expert_part){.worker = worker_of(b, seats[i]),
                                                                .layer_first = first,
                                                                .layer_end = end,
                                                                .expert_first = from,
                                                                .expert_end = next,
                                                                .slice = i / team->copies,
                                                                .n_slices = team->slices};
        }
    }
    return next <= b->problem->n_experts;
}

/* A run ends where the stage does, so that a team may leave out its own stage. */
static bool build_parts(struct builder *b, const struct plan__draft *draft)
{
    const struct plan_shape *shape = b->problem->shape;
    for (uint32_t il = 0; il < shape->n_layers; il++) {
        uint32_t team = draft->team_of[il], owner = plan__draft_owner(draft, il), end = il + 1;
        if (!team || !shape->layers[il].n_experts)
            continue;
        for (uint32_t i = end; i < shape->n_layers; i++) {
            if (!shape->layers[i].n_experts)
                continue;
            if (draft->team_of[i] != team || plan__draft_owner(draft, i) != owner ||
                shape->layers[i].n_segments != shape->layers[il].n_segments)
                break;
            end = i + 1;
        }
        if (!build_run(b, &draft->teams[team - 1], owner, il, end))
            return false;
        il = end - 1;
    }
    return true;
}

/* All experts elsewhere than on their stage. */
static bool is_all_remote(const struct plan__problem *problem)
{
    const struct plan_shape *shape = problem->shape;
    struct plan__span span = {0};
    uint32_t layers = 0;
    while (plan__span_next(&span, problem->placement)) {
        for (uint32_t il = span.first; il < span.end; il++) {
            if (shape->layers[il].n_experts > span.named)
                return false;
            layers += shape->layers[il].n_experts > 0;
        }
        for (uint32_t i = 0; i < span.n_parts; i++) {
            uint32_t stage = plan_placement_stage(problem->placement, span.first);
            if (span.parts[i].worker == problem->placement->stages[stage].worker)
                return false;
        }
    }
    return layers == problem->moe_layers;
}

static bool obeys(const struct plan__problem *problem, const struct plan__draft *draft)
{
    const struct plan_options *o = problem->options;
    if (o->stages && draft->n_stages != o->stages)
        return false;
    for (uint32_t t = 0; t < draft->n_teams; t++) {
        const struct plan__team *team = &draft->teams[t];
        if ((o->slices && team->slices != o->slices) ||
            team->copies != (o->replicas ? o->replicas : 1))
            return false;
    }
    if (o->split == PLAN_SPLIT_LAYERS)
        return problem->placement->n_parts == 0;
    return o->split != PLAN_SPLIT_EXPERTS || problem->n_seats == 1 || is_all_remote(problem);
}

bool plan__draft_build(struct plan__problem *problem, const struct plan__draft *draft)
{
    struct builder b = {.problem = problem, .placement = problem->placement};
    b.placement->n_workers = b.placement->n_stages = b.placement->n_parts = 0;
    if (!build_stages(&b, draft) || !build_parts(&b, draft) || !obeys(problem, draft))
        return false;
    plan_placement_measure(b.placement, problem->shape, problem->cluster);
    return true;
}

static double overflow_of(const struct plan__problem *problem)
{
    double sum = 0;
    for (uint32_t i = 0; i < problem->placement->n_workers; i++) {
        const struct plan_worker *w = &problem->placement->workers[i];
        uint64_t bytes = w->weight_bytes + w->kv_bytes + w->scratch_bytes;
        uint64_t memory = problem->cluster->machines[w->machine].device[w->device].memory_bytes;
        sum += bytes > memory ? (double)(bytes - memory) : 0;
    }
    return sum;
}

double plan__work(const struct plan__problem *problem, uint32_t parts)
{
    return LAYER_WORK * problem->shape->n_layers + PART_WORK * parts;
}

void plan__draft_try(struct plan__problem *problem, struct plan__draft *draft)
{
    struct plan_cost cost;
    enum plan_aim aim = problem->options->aim;
    draft->overflow = draft->objective = INFINITY;
    problem->work += plan__work(problem, 0);
    if (!plan__draft_build(problem, draft))
        return;
    draft->overflow = overflow_of(problem);
    if (draft->overflow > 0)
        return;
    problem->work += plan__work(problem, problem->placement->n_parts);
    plan__cost(&cost, problem->tallies, problem->placement, problem->shape, problem->cluster,
               &problem->load, aim != PLAN_THROUGHPUT, aim != PLAN_LATENCY);
    draft->objective = plan_objective(&cost, aim) * (1 + PART_PRICE * problem->placement->n_parts);
}
