/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Small problems: every order of every set of stages with every split of the layers, and for each
 * the experts layer by layer, each layer's on the one processor, slices on the pair or four, or
 * ranges on several, that are best while the other layers stay, until nothing changes.
 */
#include <math.h>
#include <stdlib.h>

#include "shard/plan/draft.h"

#define MOST_SEATS 6u
#define QUARTERS   4u
#define ROUNDS     2.5 /* over the layers, about, until nothing changes */

struct walk {
    struct plan__problem *problem;
    struct plan__shelf *shelf;
    struct plan__draft *now, *tried;
    uint32_t sets; /* the first teams, of one group each */
};

static void add_team(struct walk *w, uint32_t slices, const uint16_t *seats)
{
    const struct plan_options *o = w->problem->options;
    if ((o->slices && o->slices != slices) || w->now->n_teams == PLAN__MAX_TEAMS)
        return;
    struct plan__team *team = &w->now->teams[w->now->n_teams++];
    *team = (struct plan__team){.slices = (uint16_t)slices,
                                .copies = 1,
                                .n_groups = 1,
                                .experts = {(uint16_t)w->problem->n_experts}};
    for (uint32_t i = 0; i < slices; i++)
        team->seats[i] = seats[i];
}

/* All sets of 1, 2 and 4 seats. */
static void add_teams(struct walk *w)
{
    uint32_t n = w->problem->n_seats;
    for (uint32_t set = 1; set < 1u << n; set++) {
        uint16_t seats[MOST_SEATS];
        uint32_t size = 0;
        for (uint32_t i = 0; i < n; i++) {
            if (set & 1u << i)
                seats[size++] = (uint16_t)i;
        }
        if (size == 1 || size == 2 || size == 4)
            add_team(w, size, seats);
    }
}

/* All ways to give the seats quarters of the experts, the rest staying with the stage. */
static void add_ranges(struct walk *w, struct plan__team *team, uint32_t seat, uint32_t given)
{
    uint32_t n = w->problem->n_experts;
    if (seat == w->problem->n_seats) {
        if (w->now->n_teams < PLAN__MAX_TEAMS && team->n_groups > 0 &&
            (team->n_groups > 1 || given < QUARTERS))
            w->now->teams[w->now->n_teams++] = *team;
        return;
    }
    for (uint32_t some = 0; given + some <= QUARTERS; some++) {
        if (some == 0) {
            add_ranges(w, team, seat + 1, given);
            continue;
        }
        team->seats[team->n_groups] = (uint16_t)seat;
        team->experts[team->n_groups++] =
            (uint16_t)((given + some) * n / QUARTERS - given * n / QUARTERS);
        add_ranges(w, team, seat + 1, given + some);
        team->n_groups--;
    }
}

/* Whether w->tried, with some layers given to other teams, is better than w->now, which it then
 * becomes. */
static bool take_better(struct walk *w)
{
    plan__draft_try(w->problem, w->tried);
    if (!plan__draft_better(w->tried, w->now))
        return false;
    plan__draft_copy(w->now, w->tried);
    return true;
}

static void give_all(struct walk *w)
{
    for (uint32_t t = 1; t <= w->now->n_teams; t++) {
        plan__draft_copy(w->tried, w->now);
        for (uint32_t il = 0; il < w->problem->shape->n_layers; il++)
            w->tried->team_of[il] = w->problem->shape->layers[il].n_experts ? (uint8_t)t : 0;
        take_better(w);
    }
}

static bool give_each(struct walk *w, uint32_t n_teams)
{
    bool changed = false;
    for (uint32_t il = 0; il < w->problem->shape->n_layers; il++) {
        if (!w->problem->shape->layers[il].n_experts)
            continue;
        for (uint32_t t = 0; t <= n_teams; t++) {
            plan__draft_copy(w->tried, w->now);
            w->tried->team_of[il] = (uint8_t)t;
            changed |= take_better(w);
        }
    }
    return changed;
}

static void descend(struct walk *w, uint32_t n_teams)
{
    while (n_teams && give_each(w, n_teams))
        continue;
    plan__shelve(w->shelf, w->now);
}

static void start_with(struct walk *w, uint32_t team)
{
    for (uint32_t il = 0; il < w->problem->shape->n_layers; il++)
        w->now->team_of[il] = w->problem->shape->layers[il].n_experts ? (uint8_t)team : 0;
    plan__draft_try(w->problem, w->now);
}

/* From what is best for all layers alike, and from each single seat's, whether it fits or not:
 * where memory is scarce one start is too few. */
static void try_experts(struct walk *w)
{
    start_with(w, 0);
    give_all(w);
    descend(w, w->now->n_teams);
    for (uint32_t t = 0; t < w->sets; t++) {
        if (w->now->teams[t].slices > 1)
            continue;
        start_with(w, t + 1);
        descend(w, w->sets);
    }
}

static void try_stages(struct walk *w, uint32_t used)
{
    uint32_t n = w->now->n_stages, layers = w->problem->shape->n_layers;
    uint32_t first = n ? w->now->stage_end[n - 1] : 0;
    uint32_t most = w->problem->options->stages;
    if (first == layers) {
        try_experts(w);
        return;
    }
    if (most && n == most)
        return;
    for (uint32_t seat = 0; seat < w->problem->n_seats; seat++) {
        for (uint32_t end = first + 1; end <= layers && !(used & 1u << seat); end++) {
            w->now->stage_seat[n] = (uint16_t)seat;
            w->now->stage_end[n] = (uint16_t)end;
            w->now->n_stages = n + 1;
            try_stages(w, used | 1u << seat);
        }
    }
    w->now->n_stages = n;
}

/* Orders of sets of seats times splits of the layers. */
static double count_layouts(uint32_t seats, uint32_t layers)
{
    double sum = 0, layouts = 1;
    for (uint32_t n = 1; n <= seats && n <= layers; n++) {
        layouts *= seats - n + 1;
        if (n > 1)
            layouts *= (double)(layers - n + 1) / (n - 1);
        sum += layouts;
    }
    return sum;
}

enum proto_status plan__try_all(struct plan__shelf *shelf, struct plan__problem *problem,
                                double work, struct proto_error *error)
{
    bool moe = problem->moe_layers && problem->options->split != PLAN_SPLIT_LAYERS;
    uint32_t layers = problem->shape->n_layers;
    if (problem->n_seats > MOST_SEATS || problem->options->replicas > 1)
        return PROTO_OK;
    struct plan__draft *drafts = calloc(2, sizeof *drafts);
    if (!drafts)
        return proto_fail_nomem(error, 2 * sizeof *drafts, "the plan");
    struct walk w = {problem, shelf, &drafts[0], &drafts[1], 0};
    double each = count_layouts(problem->n_seats, layers) * plan__work(problem, layers);
    double rounds = ROUNDS * layers;
    if (moe)
        add_teams(&w);
    w.sets = w.now->n_teams;
    if (moe && problem->options->slices < 2)
        add_ranges(&w, &(struct plan__team){.slices = 1, .copies = 1}, 0, 0);
    double more = each * w.sets * rounds * problem->n_seats;
    if (each * (1 + w.now->n_teams * rounds) + more > work)
        w.now->n_teams = w.sets;
    if (each * (1 + w.now->n_teams * rounds) + more <= work)
        try_stages(&w, 0);
    free(drafts);
    return PROTO_OK;
}
