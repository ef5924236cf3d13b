/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where a search starts: layers split over all machines, or the trunk split over the fastest and
 * the experts over the others, in teams of several sizes. Teams take whole layers, the fastest
 * first until its memory is full or each in proportion to its speed; in a team, groups take experts
 * likewise.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "shard/plan/draft.h"

#define N_CAPS 6u /* of a stage's time, see split_all */

struct seeder {
    struct plan__shelf *shelf;
    struct plan__draft *now; /* the one that is being made */
    struct plan__problem *problem;
    double work_end; /* of problem->work */
};

/* How experts are given out. */
struct spread {
    uint32_t hosts; /* the fastest, most at first */
    uint32_t slices, copies;
    uint32_t team;      /* hosts in a team, a multiple of slices x copies */
    bool stages_too;    /* stages are hosts as well */
    bool local_first;   /* stages keep whole layers while there is memory */
    bool fastest_first; /* else in proportion to speed */
};

static void try_now(struct seeder *s)
{
    plan__draft_try(s->problem, s->now);
    plan__shelve(s->shelf, s->now);
}

/* ---- experts over hosts ---- */

struct room {
    double bytes[PLAN__MAX_SEATS]; /* left on each seat */
    bool stage[PLAN__MAX_SEATS];
};

static void measure_room(struct room *room, const struct plan__problem *p,
                         const struct plan__draft *draft)
{
    const struct plan_shape *shape = p->shape;
    for (uint32_t i = 0; i < p->n_seats; i++) {
        room->bytes[i] =
            (double)p->seats[i].device->memory_bytes - (double)shape->host_scratch_bytes;
        room->stage[i] = false;
    }
    for (uint32_t s = 0, first = 0; s < draft->n_stages; first = draft->stage_end[s++]) {
        uint32_t seat = draft->stage_seat[s], end = draft->stage_end[s];
        uint32_t threads = p->cluster->machines[p->seats[seat].machine].threads;
        uint64_t bytes = shape->scratch_bytes + shape->asker_scratch_bytes +
                         threads * shape->thread_bytes + plan__stage_kv(shape, first, end) +
                         plan__stage_weights(shape, first, end, first == 0, end == shape->n_layers);
        for (uint32_t il = first; il < end; il++)
            bytes -= shape->layers[il].n_experts * shape->layers[il].expert_bytes;
        room->stage[seat] = true;
        room->bytes[seat] = (double)p->seats[seat].device->memory_bytes - (double)bytes;
    }
}

static double layer_bytes(const struct plan_layer *l)
{
    return (double)l->n_experts * (double)l->expert_bytes;
}

/* Marks the layers that stages keep; returns how many are left. team_of: 1 for those. */
static uint32_t keep_layers(struct room *room, const struct plan__problem *p,
                            struct plan__draft *draft, bool local_first)
{
    uint32_t left = 0;
    for (uint32_t il = 0; il < p->shape->n_layers; il++) {
        const struct plan_layer *l = &p->shape->layers[il];
        uint32_t owner = plan__draft_owner(draft, il);
        draft->team_of[il] = l->n_experts > 0;
        if (l->n_experts && local_first && room->bytes[owner] >= layer_bytes(l)) {
            room->bytes[owner] -= layer_bytes(l);
            draft->team_of[il] = 0;
        }
        left += draft->team_of[il];
    }
    return left;
}

/* Gives `total` things to n takers of which none takes more than its cap: in proportion to speed,
 * or in order. Returns how many are left. */
static uint32_t give_out(uint32_t *counts, const double *speeds, const double *caps, uint32_t n,
                         uint32_t total, bool in_order)
{
    memset(counts, 0, n * sizeof *counts);
    for (uint32_t i = 0; i < n && in_order; i++) {
        counts[i] = caps[i] < total ? (uint32_t)fmax(caps[i], 0) : total;
        total -= counts[i];
    }
    while (total > 0) {
        uint32_t best = n;
        for (uint32_t i = 0; i < n; i++) {
            if (counts[i] + 1 <= caps[i] &&
                (best == n || (counts[i] + 1) / speeds[i] < (counts[best] + 1) / speeds[best]))
                best = i;
        }
        if (best == n)
            break;
        counts[best]++;
        total--;
    }
    return total;
}

struct team_room {
    double caps[PLAN__MAX_SEATS], speeds[PLAN__MAX_SEATS]; /* of its groups, in experts' bytes */
    double bytes, speed;
};

static void measure_team(struct team_room *t, const struct plan__problem *p,
                         const struct plan__team *team, const struct room *room)
{
    uint32_t width = plan__width(team);
    t->bytes = t->speed = 0;
    for (uint32_t g = 0; g < team->n_groups; g++) {
        double least = INFINITY, slowest = 0;
        for (uint32_t i = 0; i < width; i++) {
            uint32_t seat = team->seats[g * width + i];
            least = fmin(least, room->bytes[seat]);
            slowest = fmax(slowest, p->seats[seat].expert_s);
        }
        t->caps[g] = fmax(least, 0) * team->slices;
        t->speeds[g] = 1 / slowest;
        t->bytes += t->caps[g];
        t->speed += t->speeds[g];
    }
}

/* Cuts the hosts into teams; returns how many. The last may be smaller. */
static uint32_t form_teams(struct plan__draft *draft, const struct spread *spread,
                           const uint16_t *hosts, uint32_t n_hosts)
{
    uint32_t width = spread->slices * spread->copies, n = 0, next = 0;
    while (next + width <= n_hosts && n < PLAN__MAX_TEAMS) {
        struct plan__team *team = &draft->teams[n++];
        uint32_t size =
            n_hosts - next < spread->team ? (n_hosts - next) / width * width : spread->team;
        team->slices = (uint16_t)spread->slices;
        team->copies = (uint16_t)spread->copies;
        team->n_groups = (uint16_t)(size / width);
        memcpy(team->seats, hosts + next, size * sizeof *hosts);
        next += size;
    }
    return n;
}

static void fill_team(struct plan__problem *p, struct plan__team *team, struct team_room *t,
                      uint32_t layers, double expert_bytes, bool in_order)
{
    uint32_t counts[PLAN__MAX_SEATS];
    for (uint32_t g = 0; g < team->n_groups; g++)
        t->caps[g] = layers ? floor(t->caps[g] / (layers * expert_bytes)) : 0;
    give_out(counts, t->speeds, t->caps, team->n_groups, p->n_experts, in_order);
    for (uint32_t g = 0; g < team->n_groups; g++)
        team->experts[g] = (uint16_t)counts[g];
}

/* Layers marked 1 get their teams in order, as many for each as it takes. */
static void assign_layers(struct plan__draft *draft, uint32_t n_layers, const uint32_t *counts,
                          uint32_t n_teams)
{
    uint32_t team = 0, given = 0;
    for (uint32_t il = 0; il < n_layers; il++) {
        if (!draft->team_of[il])
            continue;
        while (team < n_teams && given == counts[team]) {
            team++;
            given = 0;
        }
        draft->team_of[il] = (uint8_t)(team < n_teams ? team + 1 : 0);
        given++;
    }
}

/* Largest experts count, so that every layer fits. */
static double largest_expert(const struct plan_shape *shape)
{
    uint64_t most = 1;
    for (uint32_t il = 0; il < shape->n_layers; il++)
        most = shape->layers[il].expert_bytes > most ? shape->layers[il].expert_bytes : most;
    return (double)most;
}

/* Experts of the draft's layers over hosts, as *spread says. */
static bool spread_experts(struct plan__problem *p, struct plan__draft *draft,
                           const struct spread *spread, const uint16_t *hosts, uint32_t n_hosts)
{
    struct room room;
    double caps[PLAN__MAX_TEAMS], speeds[PLAN__MAX_TEAMS];
    double expert_bytes = largest_expert(p->shape);
    uint32_t counts[PLAN__MAX_TEAMS];
    struct team_room team;
    measure_room(&room, p, draft);
    uint32_t left = keep_layers(&room, p, draft, spread->local_first);
    draft->n_teams = form_teams(draft, spread, hosts, n_hosts);
    if (left == 0 || draft->n_teams == 0)
        return false;
    for (uint32_t t = 0; t < draft->n_teams; t++) {
        measure_team(&team, p, &draft->teams[t], &room);
        /* Groups take whole experts: a group loses up to one. */
        caps[t] = team.bytes / ((p->n_experts + draft->teams[t].n_groups) * expert_bytes);
        speeds[t] = team.speed;
        if (draft->n_teams == 1)
            caps[t] = left;
    }
    uint32_t over = give_out(counts, speeds, caps, draft->n_teams, left, spread->fastest_first);
    /* What fits nowhere goes to the last, and shows as overflow. */
    counts[draft->n_teams - 1] += over;
    for (uint32_t t = 0; t < draft->n_teams; t++) {
        measure_team(&team, p, &draft->teams[t], &room);
        fill_team(p, &draft->teams[t], &team, counts[t], expert_bytes, spread->fastest_first);
    }
    assign_layers(draft, p->shape->n_layers, counts, draft->n_teams);
    return true;
}

/* The seats that may be hosts, the fastest first. */
static uint32_t list_hosts(uint16_t *hosts, const struct plan__problem *p,
                           const struct plan__draft *draft, bool stages_too)
{
    bool stage[PLAN__MAX_SEATS] = {false};
    uint32_t n = 0;
    for (uint32_t s = 0; s < draft->n_stages; s++)
        stage[draft->stage_seat[s]] = true;
    for (uint32_t i = 0; i < p->n_seats; i++) {
        uint32_t at = n;
        if (stage[i] && !stages_too)
            continue;
        for (; at > 0 && p->seats[hosts[at - 1]].expert_s > p->seats[i].expert_s; at--)
            hosts[at] = hosts[at - 1];
        hosts[at] = (uint16_t)i;
        n++;
    }
    return n;
}

static void try_teams(struct seeder *s, const struct plan__draft *trunk, struct spread *spread,
                      const uint16_t *hosts)
{
    uint32_t width = spread->slices * spread->copies, last = 0;
    const uint32_t sizes[] = {width, 2 * width, 4 * width, spread->hosts / width * width};
    for (uint32_t i = 0; i < 4 * sizeof sizes / sizeof sizes[0]; i++) {
        spread->team = sizes[i / 4];
        spread->local_first = i & 1;
        spread->fastest_first = (i & 2) != 0;
        if (spread->team > spread->hosts || (i % 4 == 0 && spread->team == last) ||
            s->problem->work > s->work_end)
            continue;
        last = spread->team;
        plan__draft_copy(s->now, trunk);
        if (spread_experts(s->problem, s->now, spread, hosts, spread->hosts))
            try_now(s);
    }
}

/* All ways to spread the experts of a trunk's layers. */
static void try_spreads(struct seeder *s, const struct plan__draft *trunk)
{
    const struct plan_options *o = s->problem->options;
    uint16_t hosts[PLAN__MAX_SEATS];
    struct spread spread = {.copies = o->replicas ? o->replicas : 1};
    for (uint32_t stages_too = 0; stages_too < 2; stages_too++) {
        uint32_t n = list_hosts(hosts, s->problem, trunk, stages_too != 0);
        for (uint32_t slices = 1; slices <= SHARD_EXPERT_SEGMENTS; slices *= 2) {
            if (o->slices && o->slices != slices)
                continue;
            spread.slices = slices;
            const uint32_t counts[] = {n, n / 2, n / 4, 1, 2, 3, 4};
            for (uint32_t i = 0; i < sizeof counts / sizeof counts[0]; i++) {
                spread.hosts = counts[i];
                if (counts[i] > 0 && counts[i] <= n)
                    try_teams(s, trunk, &spread, hosts);
            }
        }
    }
}

/* ---- layers over stages ---- */

/* A trunk alone is no plan where experts must be elsewhere or somewhere. */
static void try_trunk(struct seeder *s, struct plan__draft *trunk)
{
    plan__draft_copy(s->now, trunk);
    try_now(s);
    if (s->problem->moe_layers && s->problem->options->split != PLAN_SPLIT_LAYERS)
        try_spreads(s, trunk);
}

/* Splits with a cap on the slowest stage from the least possible upwards. */
static enum proto_status split_all(struct seeder *s, struct plan__draft *trunk,
                                   const uint16_t *seats, uint32_t n, bool experts,
                                   struct proto_error *error)
{
    static const double caps[N_CAPS] = {1, 1.05, 1.2, 1.5, 2, 0};
    struct plan__split split = {
        .experts = experts, .skip = true, .least_max = true, .n_seats = n, .seats = seats};
    double least, most;
    enum proto_status status = plan__split_layers(trunk, &least, s->problem, &split, error);
    if (status != PROTO_OK)
        return status == PROTO_CAPACITY ? PROTO_OK : status;
    split.least_max = false;
    for (uint32_t i = 0; i < N_CAPS && status == PROTO_OK; i++) {
        split.cap = caps[i] * least * (1 + 1e-9);
        status = plan__split_layers(trunk, &most, s->problem, &split, error);
        if (status == PROTO_OK)
            try_trunk(s, trunk);
    }
    return status;
}

/* As many stages as asked for: the first n seats in the order of worth, in even shares. */
static enum proto_status split_even(struct seeder *s, struct plan__draft *trunk,
                                    const uint16_t *seats, uint32_t n, struct proto_error *error)
{
    double most;
    enum proto_status status = PROTO_OK;
    for (int experts = 0; experts < 2 && status == PROTO_OK; experts++) {
        struct plan__split split = {
            .experts = experts != 0, .even = true, .n_seats = n, .seats = seats};
        status = plan__split_layers(trunk, &most, s->problem, &split, error);
        if (status == PROTO_OK)
            try_trunk(s, trunk);
    }
    return status;
}

/* Before another in a pipeline or list: by what is read, or by memory; the coordinator's last. */
static bool comes_before(const struct plan__problem *p, uint32_t a, uint32_t b, bool by_memory)
{
    const struct plan__seat *x = &p->seats[a], *y = &p->seats[b];
    bool x_home = p->cluster->machines[x->machine].coordinator;
    bool y_home = p->cluster->machines[y->machine].coordinator;
    if (by_memory)
        return x->device->memory_bytes > y->device->memory_bytes;
    if (x_home != y_home)
        return y_home;
    return x->device->read_bytes_s > y->device->read_bytes_s;
}

static void order_seats(uint16_t *seats, const struct plan__problem *p, bool by_memory)
{
    for (uint32_t i = 0; i < p->n_seats; i++) {
        uint32_t at = i;
        for (; at > 0 && comes_before(p, i, seats[at - 1], by_memory); at--)
            seats[at] = seats[at - 1];
        seats[at] = (uint16_t)i;
    }
}

static enum proto_status try_orders(struct seeder *s, struct plan__draft *trunk,
                                    struct proto_error *error)
{
    const struct plan__problem *p = s->problem;
    uint16_t seats[PLAN__MAX_SEATS];
    enum proto_status status = PROTO_OK;
    uint32_t stages = p->options->stages;
    for (int by_memory = 0; by_memory < 2 && status == PROTO_OK; by_memory++) {
        order_seats(seats, p, by_memory != 0);
        for (int experts = 0; experts < 2 && status == PROTO_OK; experts++)
            status = split_all(s, trunk, seats, p->n_seats, experts != 0, error);
        uint32_t most = p->n_seats < p->shape->n_layers ? p->n_seats : p->shape->n_layers;
        const uint32_t counts[] = {stages ? stages : most, stages ? 0 : most / 2, !stages};
        for (uint32_t i = 0; i < 3 && status == PROTO_OK; i++) {
            if (counts[i] > 0 && counts[i] <= most)
                status = split_even(s, trunk, seats, counts[i], error);
        }
    }
    return status;
}

/* The whole trunk on one of the fastest. */
static enum proto_status try_singles(struct seeder *s, struct plan__draft *trunk,
                                     struct proto_error *error)
{
    uint16_t seats[PLAN__MAX_SEATS];
    enum proto_status status = PROTO_OK;
    order_seats(seats, s->problem, false);
    for (uint32_t i = 0; i < s->problem->n_seats && i < 8 && status == PROTO_OK; i++) {
        double most;
        struct plan__split split = {.n_seats = 1, .seats = &seats[i]};
        status = plan__split_layers(trunk, &most, s->problem, &split, error);
        if (status == PROTO_OK)
            try_trunk(s, trunk);
        status = status == PROTO_CAPACITY ? PROTO_OK : status;
    }
    return status;
}

enum proto_status plan__seed(struct plan__shelf *shelf, struct plan__problem *problem, double work,
                             struct proto_error *error)
{
    struct plan__draft *drafts = calloc(2, sizeof *drafts);
    struct seeder s = {.shelf = shelf, .problem = problem, .work_end = problem->work + work};
    if (!drafts)
        return proto_fail_nomem(error, 2 * sizeof *drafts, "the plan");
    s.now = &drafts[1];
    enum proto_status status = try_singles(&s, &drafts[0], error);
    if (status == PROTO_OK)
        status = try_orders(&s, &drafts[0], error);
    free(drafts);
    return status;
}
