/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Seeds (seeds.c), then random moves from the best of them (moves.c): a change is kept if it is no
 * worse, or a little worse at first, as in simulated annealing. Effort is counted in work, not in
 * time, so that every machine finds the same plan.
 */
#include "shard/plan/search.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "shard/plan/draft.h"

#define SEEDS      5u
#define SEED_WORK  200e6 /* see plan__problem.work */
#define ALL_WORK   200e6
#define MOVE_WORK  300e6
#define MOST_MOVES 4000u /* in all, where each is cheap */
#define HEAT       0.1   /* of the objective: how much worse is kept at first */
#define IDLE_WORK  100e6
#define TIDY_WORK  100e6
#define TIDY_PRICE 1.003 /* what fewer parts may cost */
#define FIT_EFFORT 0.1

struct search {
    struct plan__problem problem;
    struct plan__draft *drafts; /* SEEDS, best first; then the best, the current, the tried */
    struct plan__draft *best, *now, *next;
    bool any; /* whatever fits will do */
};

static enum proto_status check_options(const struct plan_shape *shape,
                                       const struct plan_cluster *cluster,
                                       const struct plan_options *o, struct proto_error *error)
{
    uint32_t machines = cluster->n_machines;
    if (o->stages > shape->n_layers || o->stages > machines * PLAN_N_DEVICES)
        return proto_fail(error, PROTO_INVALID,
                          "%u stages asked for, but there are %u layers and %u machines", o->stages,
                          shape->n_layers, machines);
    if (o->slices > SHARD_EXPERT_SEGMENTS)
        return proto_fail(error, PROTO_INVALID, "%u slices of each expert, expected 1 to %u",
                          o->slices, SHARD_EXPERT_SEGMENTS);
    if (o->split == PLAN_SPLIT_EXPERTS && plan_shape_moe_layers(shape) == 0)
        return proto_fail(error, PROTO_INVALID,
                          "%s has no routed experts to split; split it by layers", shape->name);
    if (o->replicas > machines)
        return proto_fail(error, PROTO_INVALID,
                          "%u copies of each expert asked for, but there are %u machines",
                          o->replicas, machines);
    return PROTO_OK;
}

/* ---- climbing ---- */

static bool accept(struct search *s, double heat)
{
    if (plan__draft_better(s->next, s->now))
        return true;
    if (s->next->overflow > 0 || s->now->overflow > 0)
        return s->next->overflow <= s->now->overflow;
    double worse = s->next->objective / s->now->objective - 1;
    return worse <= heat * plan__chance(&s->problem, 1000) / 1000.0;
}

static void climb(struct search *s, double work, uint32_t moves)
{
    double start = s->problem.work;
    for (uint32_t i = 0; i < moves && s->problem.work < start + work; i++) {
        double done = fmax((s->problem.work - start) / work, (double)i / moves);
        plan__draft_copy(s->next, s->now);
        uint32_t steps =
            1 + (plan__chance(&s->problem, 3) == 0) + (plan__chance(&s->problem, 9) == 0);
        bool changed = false;
        while (steps-- > 0)
            changed |= plan__move(&s->problem, s->next);
        if (!changed)
            continue;
        plan__draft_try(&s->problem, s->next);
        if (!accept(s, HEAT * (1 - done) * (1 - done)))
            continue;
        plan__draft_copy(s->now, s->next);
        if (plan__draft_better(s->now, s->best))
            plan__draft_copy(s->best, s->now);
    }
}

/* ---- tidying ---- */

/* Whether what s->next became is about as good as s->best, which it then replaces. */
static bool take_simpler(struct search *s, double most)
{
    plan__draft_try(&s->problem, s->next);
    if (s->next->overflow > 0 || s->next->objective > most)
        return false;
    plan__draft_copy(s->best, s->next);
    return true;
}

/* Without group g of team t, whose experts group `to` takes, or the stage. */
static bool merge_groups(struct search *s, uint32_t t, uint32_t g, uint32_t to, double most)
{
    plan__draft_copy(s->next, s->best);
    struct plan__team *team = &s->next->teams[t];
    uint32_t width = plan__width(team), n = team->n_groups;
    if (to < n)
        team->experts[to] = (uint16_t)(team->experts[to] + team->experts[g]);
    memmove(&team->experts[g], &team->experts[g + 1], (n - g - 1) * sizeof team->experts[0]);
    memmove(&team->seats[g * width], &team->seats[(g + 1) * width],
            (n - g - 1) * width * sizeof team->seats[0]);
    team->n_groups--;
    return take_simpler(s, most);
}

static bool merge_teams(struct search *s, uint32_t from, uint32_t to, double most)
{
    plan__draft_copy(s->next, s->best);
    for (uint32_t il = 0; il < s->problem.shape->n_layers; il++) {
        if (s->next->team_of[il] == from)
            s->next->team_of[il] = (uint8_t)to;
    }
    return take_simpler(s, most);
}

static bool uses_team(const struct search *s, uint32_t team)
{
    for (uint32_t il = 0; il < s->problem.shape->n_layers; il++) {
        if (s->best->team_of[il] == team)
            return true;
    }
    return false;
}

/* Random moves leave more teams and groups than are of use. */
static void tidy(struct search *s, double work)
{
    double most = s->best->objective * TIDY_PRICE, end = s->problem.work + work;
    for (uint32_t a = 1; a <= s->best->n_teams; a++) {
        for (uint32_t b = 0; b <= s->best->n_teams && uses_team(s, a); b++) {
            if (a != b && (b == 0 || uses_team(s, b)) && s->problem.work < end)
                merge_teams(s, a, b, most);
        }
    }
    for (uint32_t t = 0; t < s->best->n_teams; t++) {
        for (uint32_t g = 0; g < s->best->teams[t].n_groups && uses_team(s, t + 1); g++) {
            bool merged = false;
            for (uint32_t to = 0; to <= s->best->teams[t].n_groups && !merged; to++) {
                if (to != g && s->best->teams[t].n_groups > 1 && s->problem.work < end)
                    merged = merge_groups(s, t, g, to, most);
            }
            g -= merged;
        }
    }
}

static bool will_do(const struct search *s)
{
    return s->any && s->best->overflow <= 0;
}

/* s->best, from all seeds. */
static enum proto_status run(struct search *s, double effort, struct proto_error *error)
{
    if (s->problem.n_seats == 0)
        return proto_fail(error, PROTO_CAPACITY, "no machine offers memory");
    struct plan__shelf shelf = {.drafts = s->drafts, .room = SEEDS};
    enum proto_status status = plan__seed(&shelf, &s->problem, SEED_WORK * effort, error);
    if (status == PROTO_OK)
        status = plan__try_all(&shelf, &s->problem, ALL_WORK * effort, error);
    if (status != PROTO_OK)
        return status;
    uint32_t n = shelf.n;
    s->best->overflow = s->best->objective = INFINITY;
    s->best->n_stages = s->best->n_teams = 0;
    if (n > 0)
        plan__draft_copy(s->best, &s->drafts[0]);
    for (uint32_t i = 0; i < n && !will_do(s); i++) {
        plan__draft_copy(s->now, &s->drafts[i]);
        climb(s, MOVE_WORK * effort / (n + 1), (uint32_t)(MOST_MOVES * effort) / (n + 1));
    }
    if (n > 0 && !will_do(s)) {
        plan__draft_copy(s->now, s->best);
        climb(s, MOVE_WORK * effort / (n + 1), (uint32_t)(MOST_MOVES * effort) / (n + 1));
    }
    if (!s->any && s->best->overflow <= 0)
        tidy(s, TIDY_WORK * effort);
    return PROTO_OK;
}

static enum proto_status start(struct search *s, const struct plan_shape *shape,
                               const struct plan_cluster *cluster,
                               const struct plan_options *options, struct proto_error *error)
{
    s->drafts = calloc(SEEDS + 3, sizeof *s->drafts);
    enum proto_status status = plan__problem_init(&s->problem, shape, cluster, options, error);
    if (!s->drafts)
        return proto_fail_nomem(error, (SEEDS + 3) * sizeof *s->drafts, "the plan");
    s->best = &s->drafts[SEEDS];
    s->now = &s->drafts[SEEDS + 1];
    s->next = &s->drafts[SEEDS + 2];
    return status;
}

static void finish(struct search *s)
{
    plan__problem_finish(&s->problem);
    free(s->drafts);
}

/* ---- machines without work ---- */

static bool is_used(const struct plan_placement *p, uint32_t machine)
{
    for (uint32_t w = 0; w < p->n_workers; w++) {
        if (p->workers[w].machine == machine)
            return true;
    }
    return false;
}

static int seat_of(const struct plan__problem *p, uint32_t machine)
{
    for (uint32_t i = 0; i < p->n_seats; i++) {
        if (p->seats[i].machine == machine)
            return (int)i;
    }
    return -1;
}

/* The best of the ways to bring a machine into s->best; leaves s->best as it is. */
static void explain_idle(struct search *s, struct plan_idle *idle, double work)
{
    int seat = seat_of(&s->problem, idle->machine);
    double least = INFINITY, start = s->problem.work;
    for (uint32_t way = 0; seat >= 0 && s->problem.work < start + work; way++) {
        plan__draft_copy(s->next, s->best);
        if (!plan__bring_in(&s->problem, s->next, (uint32_t)seat, way))
            break;
        plan__draft_try(&s->problem, s->next);
        if (s->next->overflow <= 0 && is_used(s->problem.placement, idle->machine))
            least = fmin(least, s->next->objective);
    }
    const char *name = s->problem.cluster->machines[idle->machine].name;
    if (isinf(least)) {
        snprintf(idle->why, sizeof idle->why, "no part of the plan fits %s", name);
        return;
    }
    idle->loss = least / s->best->objective - 1;
    if (idle->loss < 0.005)
        snprintf(idle->why, sizeof idle->why, "%s would make no difference", name);
    else
        snprintf(idle->why, sizeof idle->why, "with %s it would be %.0f%% slower", name,
                 idle->loss * 100);
}

static enum proto_status list_idle(struct search *s, struct plan_answer *answer,
                                   struct proto_error *error)
{
    const struct plan_cluster *cluster = s->problem.cluster;
    uint32_t n = 0;
    for (uint32_t i = 0; i < cluster->n_machines; i++)
        n += !is_used(answer->placement, i);
    answer->idle = calloc((size_t)n + 1, sizeof *answer->idle);
    if (!answer->idle)
        return proto_fail_nomem(error, n * sizeof *answer->idle, "the machines left out");
    for (uint32_t i = 0; i < cluster->n_machines; i++) {
        if (is_used(answer->placement, i))
            continue;
        struct plan_idle *idle = &answer->idle[answer->n_idle++];
        idle->machine = i;
        explain_idle(s, idle, IDLE_WORK / n);
    }
    return PROTO_OK;
}

/* ---- the answer ---- */

static enum proto_status answer_with(struct plan_answer **out, struct search *s, bool explain,
                                     struct proto_error *error)
{
    const struct plan__problem *p = &s->problem;
    struct plan_answer *answer = calloc(1, sizeof *answer);
    if (!answer)
        return proto_fail_nomem(error, sizeof *answer, "the plan");
    plan__draft_build(&s->problem, s->best);
    enum proto_status status = plan_placement_refine(p->placement, p->shape, p->cluster, error);
    if (status == PROTO_OK)
        status = plan_placement_check(p->placement, p->shape, p->cluster, error);
    if (status == PROTO_OK)
        status = plan_placement_copy(&answer->placement, p->placement, error);
    if (status == PROTO_OK)
        status = plan_cost_estimate(&answer->cost, NULL, answer->placement, p->shape, p->cluster,
                                    &p->load, error);
    if (status == PROTO_OK && explain)
        status = list_idle(s, answer, error);
    if (status == PROTO_OK)
        *out = answer;
    else
        plan_answer_destroy(answer);
    return status;
}

/* Why the best does not fit. */
static enum proto_status fail_best(struct search *s, struct proto_error *error)
{
    const struct plan__problem *p = &s->problem;
    const struct plan_options *o = p->options;
    if (s->best->n_stages == 0 || !plan__draft_build(&s->problem, s->best))
        return proto_fail(error, PROTO_INVALID,
                          "no split of %s over %u machines is as asked for: %u stages, %u slices, "
                          "%u copies (0: as is best)",
                          p->shape->name, p->cluster->n_machines, o->stages, o->slices,
                          o->replicas);
    return plan_placement_check(p->placement, p->shape, p->cluster, error);
}

enum proto_status plan__search_with(struct plan_answer **out, const struct plan_shape *shape,
                                    const struct plan_cluster *cluster,
                                    const struct plan_options *options, double effort,
                                    struct proto_error *error)
{
    struct search s = {0};
    *out = NULL;
    enum proto_status status = start(&s, shape, cluster, options, error);
    if (status == PROTO_OK)
        status = run(&s, effort, error);
    if (status == PROTO_OK)
        status =
            s.best->overflow > 0 ? fail_best(&s, error) : answer_with(out, &s, effort >= 1, error);
    finish(&s);
    return status;
}

bool plan__fits(const struct plan_shape *shape, const struct plan_cluster *cluster,
                const struct plan_options *options)
{
    struct search s = {.any = true};
    enum proto_status status = start(&s, shape, cluster, options, NULL);
    if (status == PROTO_OK)
        status = run(&s, FIT_EFFORT, NULL);
    bool fits = status == PROTO_OK && s.best->overflow <= 0;
    finish(&s);
    return fits;
}

/* The shape as if its experts were used alike. */
static enum proto_status forget_popularity(struct plan_shape *out, const struct plan_shape *shape,
                                           struct proto_error *error)
{
    size_t bytes = shape->n_layers * sizeof *out->layers;
    *out = *shape;
    out->popularity = NULL;
    out->layers = malloc(bytes);
    if (!out->layers)
        return proto_fail_nomem(error, bytes, "a model's shape");
    memcpy(out->layers, shape->layers, bytes);
    for (uint32_t il = 0; il < shape->n_layers; il++)
        out->layers[il].popular = NULL;
    return PROTO_OK;
}

static enum proto_status search_alike(struct plan_answer **out, const struct plan_shape *shape,
                                      const struct plan_cluster *cluster,
                                      const struct plan_options *options, double effort,
                                      struct proto_error *error)
{
    struct plan_shape alike;
    if (!shape->popularity)
        return plan__search_with(out, shape, cluster, options, effort, error);
    enum proto_status status = forget_popularity(&alike, shape, error);
    if (status == PROTO_OK)
        status = plan__search_with(out, &alike, cluster, options, effort, error);
    free(alike.layers);
    if (status == PROTO_OK && !options->replicas)
        status = plan__replicate(*out, shape, cluster, options, error);
    if (status == PROTO_OK)
        return status;
    plan_answer_destroy(*out);
    *out = NULL;
    return status;
}

enum proto_status plan_search(struct plan_answer **out, const struct plan_shape *shape,
                              const struct plan_cluster *cluster,
                              const struct plan_options *options, struct proto_error *error)
{
    double effort = options->effort > 0 ? options->effort : 1;
    *out = NULL;
    enum proto_status status = check_options(shape, cluster, options, error);
    if (status == PROTO_OK)
        status = search_alike(out, shape, cluster, options, effort, error);
    if (status == PROTO_CAPACITY)
        plan__recommend(shape, cluster, options, error);
    return status;
}

void plan_answer_destroy(struct plan_answer *answer)
{
    if (!answer)
        return;
    plan_placement_destroy(answer->placement);
    free(answer->idle);
    free(answer);
}
