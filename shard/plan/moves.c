/* SPDX-License-Identifier: Apache-2.0 */
/* Small changes of a draft, of which a search keeps those that help. */
#include <string.h>

#include "shard/plan/draft.h"

/* ---- stages ---- */

static uint32_t stage_first(const struct plan__draft *d, uint32_t s)
{
    return s ? d->stage_end[s - 1] : 0;
}

static int stage_of_seat(const struct plan__draft *d, uint32_t seat)
{
    for (uint32_t s = 0; s < d->n_stages; s++) {
        if (d->stage_seat[s] == seat)
            return (int)s;
    }
    return -1;
}

static void remove_stage(struct plan__draft *d, uint32_t s)
{
    size_t behind = d->n_stages - s - 1;
    memmove(&d->stage_seat[s], &d->stage_seat[s + 1], behind * sizeof d->stage_seat[0]);
    memmove(&d->stage_end[s], &d->stage_end[s + 1], behind * sizeof d->stage_end[0]);
    d->n_stages--;
}

/* Before stage s, layers up to `end`. */
static void insert_stage(struct plan__draft *d, uint32_t s, uint32_t seat, uint32_t end)
{
    size_t behind = d->n_stages - s;
    memmove(&d->stage_seat[s + 1], &d->stage_seat[s], behind * sizeof d->stage_seat[0]);
    memmove(&d->stage_end[s + 1], &d->stage_end[s], behind * sizeof d->stage_end[0]);
    d->stage_seat[s] = (uint16_t)seat;
    d->stage_end[s] = (uint16_t)end;
    d->n_stages++;
}

/* The boundary between two stages, by up to all layers of one: then that one is gone. */
static bool move_boundary(struct plan__problem *p, struct plan__draft *d)
{
    if (d->n_stages < 2)
        return false;
    uint32_t s = plan__chance(p, d->n_stages - 1), first = stage_first(d, s);
    uint32_t end = d->stage_end[s + 1], now = d->stage_end[s];
    uint32_t most = plan__chance(p, 2) ? 2 : end - first;
    uint32_t by = 1 + plan__chance(p, most);
    bool up = plan__chance(p, 2);
    uint32_t to = up ? (now + by < end ? now + by : end) : (now >= first + by ? now - by : first);
    if (to == end) {
        d->stage_end[s] = (uint16_t)end;
        remove_stage(d, s + 1);
    } else if (to == first) {
        remove_stage(d, s);
    } else {
        d->stage_end[s] = (uint16_t)to;
    }
    return true;
}

/* A stage goes to another processor, which gives up its own if it is a stage. */
static bool move_stage(struct plan__problem *p, struct plan__draft *d)
{
    uint32_t s = plan__chance(p, d->n_stages), seat = plan__chance(p, p->n_seats);
    int other = stage_of_seat(d, seat);
    if (d->stage_seat[s] == seat)
        return false;
    if (other >= 0)
        d->stage_seat[other] = d->stage_seat[s];
    d->stage_seat[s] = (uint16_t)seat;
    return true;
}

/* A processor without a stage takes a part of one's layers. */
static bool split_stage(struct plan__problem *p, struct plan__draft *d)
{
    uint32_t s = plan__chance(p, d->n_stages), seat = plan__chance(p, p->n_seats);
    uint32_t first = stage_first(d, s), end = d->stage_end[s];
    if (end - first < 2 || stage_of_seat(d, seat) >= 0 || d->n_stages == PLAN__MAX_SEATS)
        return false;
    uint32_t at = first + 1 + plan__chance(p, end - first - 1);
    insert_stage(d, s, seat, at);
    if (plan__chance(p, 2)) {
        d->stage_seat[s] = d->stage_seat[s + 1];
        d->stage_seat[s + 1] = (uint16_t)seat;
    }
    return true;
}

/* ---- teams ---- */

static uint32_t copies_of(const struct plan__problem *p)
{
    return p->options->replicas ? p->options->replicas : 1;
}

/* Teams without layers are forgotten. */
static void drop_idle_teams(const struct plan__problem *p, struct plan__draft *d)
{
    uint8_t number[PLAN__MAX_TEAMS + 1] = {0};
    uint32_t n = 0;
    for (uint32_t il = 0; il < p->shape->n_layers; il++) {
        if (p->shape->layers[il].n_experts)
            number[d->team_of[il]] = 1;
        else
            d->team_of[il] = 0;
    }
    number[0] = 0;
    for (uint32_t t = 0; t < d->n_teams; t++) {
        if (!number[t + 1])
            continue;
        if (n != t)
            d->teams[n] = d->teams[t];
        number[t + 1] = (uint8_t)++n;
    }
    for (uint32_t il = 0; il < p->shape->n_layers; il++)
        d->team_of[il] = number[d->team_of[il]];
    d->n_teams = n;
}

/* A range of layers, often all of one stage or of one team's kind, goes to another team. */
static void give_layers(struct plan__problem *p, struct plan__draft *d, uint32_t team)
{
    uint32_t n = p->shape->n_layers, kind = plan__chance(p, 4);
    uint32_t first = plan__chance(p, n), end = first + 1 + plan__chance(p, n - first);
    uint32_t from = d->team_of[first];
    if (kind == 0) {
        first = 0;
        end = n;
    } else if (kind == 1) {
        end = first + 1;
    }
    for (uint32_t il = first; il < end; il++) {
        if (kind != 2 || d->team_of[il] == from)
            d->team_of[il] = (uint8_t)team;
    }
}

static bool move_layers(struct plan__problem *p, struct plan__draft *d)
{
    give_layers(p, d, plan__chance(p, d->n_teams + 1));
    drop_idle_teams(p, d);
    return true;
}

/* Different seats at random; false: there are too few. */
static bool pick_seats(struct plan__problem *p, uint16_t *seats, uint32_t n)
{
    if (n > p->n_seats)
        return false;
    for (uint32_t i = 0; i < n; i++) {
        bool taken = true;
        while (taken) {
            seats[i] = (uint16_t)plan__chance(p, p->n_seats);
            taken = false;
            for (uint32_t j = 0; j < i; j++)
                taken |= seats[j] == seats[i];
        }
    }
    return true;
}

static uint32_t pick_slices(struct plan__problem *p)
{
    return p->options->slices ? p->options->slices : 1u << plan__chance(p, 3);
}

/* A team of one group for some layers. */
static bool add_team(struct plan__problem *p, struct plan__draft *d)
{
    if (d->n_teams == PLAN__MAX_TEAMS)
        return false;
    struct plan__team *team = &d->teams[d->n_teams];
    team->slices = (uint16_t)pick_slices(p);
    team->copies = (uint16_t)copies_of(p);
    team->n_groups = 1;
    team->experts[0] = (uint16_t)p->n_experts;
    if (!pick_seats(p, team->seats, plan__width(team)))
        return false;
    give_layers(p, d, ++d->n_teams);
    drop_idle_teams(p, d);
    return true;
}

/* A team of all layers that it has is made two, which may then differ. */
static bool double_team(struct plan__problem *p, struct plan__draft *d)
{
    if (d->n_teams == 0 || d->n_teams == PLAN__MAX_TEAMS)
        return false;
    uint32_t t = plan__chance(p, d->n_teams), first = plan__chance(p, p->shape->n_layers);
    d->teams[d->n_teams++] = d->teams[t];
    for (uint32_t il = first; il < p->shape->n_layers; il++) {
        if (d->team_of[il] == t + 1)
            d->team_of[il] = (uint8_t)d->n_teams;
    }
    drop_idle_teams(p, d);
    return true;
}

/* A group more, which takes a share of another's experts or of what is left at the stage. */
static bool grow_team(struct plan__problem *p, struct plan__draft *d)
{
    if (d->n_teams == 0)
        return false;
    struct plan__team *team = &d->teams[plan__chance(p, d->n_teams)];
    uint32_t width = plan__width(team), g = team->n_groups, sum = 0;
    if ((g + 1) * width > PLAN__MAX_SEATS || !pick_seats(p, &team->seats[g * width], width))
        return false;
    for (uint32_t i = 0; i < g; i++)
        sum += team->experts[i];
    uint32_t left = p->n_experts - sum, from = plan__chance(p, g + 1);
    uint32_t most = from < g ? team->experts[from] : left;
    if (most == 0)
        return false;
    uint32_t share = plan__chance(p, 2) ? (most + 1) / 2 : 1 + plan__chance(p, most);
    team->experts[g] = (uint16_t)share;
    if (from < g)
        team->experts[from] = (uint16_t)(team->experts[from] - share);
    team->n_groups++;
    return true;
}

/* A group less, whose experts another takes, or the stage. */
static bool shrink_team(struct plan__problem *p, struct plan__draft *d)
{
    if (d->n_teams == 0)
        return false;
    struct plan__team *team = &d->teams[plan__chance(p, d->n_teams)];
    uint32_t width = plan__width(team), g = plan__chance(p, team->n_groups);
    uint32_t last = team->n_groups - 1u, experts = team->experts[g];
    if (last == 0)
        return false;
    team->experts[g] = team->experts[last];
    memmove(&team->seats[g * width], &team->seats[last * width], width * sizeof team->seats[0]);
    team->n_groups--;
    uint32_t to = plan__chance(p, last + 1);
    if (to < last)
        team->experts[to] = (uint16_t)(team->experts[to] + experts);
    return true;
}

static bool replace_member(struct plan__problem *p, struct plan__draft *d)
{
    if (d->n_teams == 0)
        return false;
    struct plan__team *team = &d->teams[plan__chance(p, d->n_teams)];
    uint32_t n = team->n_groups * plan__width(team), at = plan__chance(p, n);
    uint16_t seat = (uint16_t)plan__chance(p, p->n_seats);
    for (uint32_t i = 0; i < n; i++) {
        if (team->seats[i] == seat)
            team->seats[i] = team->seats[at];
    }
    team->seats[at] = seat;
    return true;
}

/* Some experts of one group go to another, to the stage, or from it. */
static bool shift_experts(struct plan__problem *p, struct plan__draft *d)
{
    if (d->n_teams == 0)
        return false;
    struct plan__team *team = &d->teams[plan__chance(p, d->n_teams)];
    uint32_t n = team->n_groups, from = plan__chance(p, n + 1), to = plan__chance(p, n + 1);
    uint32_t left = p->n_experts;
    for (uint32_t i = 0; i < n; i++)
        left -= team->experts[i];
    uint32_t most = from < n ? team->experts[from] : left;
    if (from == to || most == 0)
        return false;
    uint32_t some = most / (1u << plan__chance(p, 6));
    some = some ? some : 1;
    if (from < n)
        team->experts[from] = (uint16_t)(team->experts[from] - some);
    if (to < n)
        team->experts[to] = (uint16_t)(team->experts[to] + some);
    return true;
}

/* The same members in groups of more or fewer slices; members that are left over go. */
static bool change_slices(struct plan__problem *p, struct plan__draft *d)
{
    if (d->n_teams == 0 || p->options->slices)
        return false;
    struct plan__team *team = &d->teams[plan__chance(p, d->n_teams)];
    uint32_t members = team->n_groups * plan__width(team), slices = pick_slices(p);
    uint32_t groups = members / (slices * team->copies);
    uint32_t sum = 0;
    if (groups == 0 || slices == team->slices)
        return false;
    for (uint32_t g = 0; g < team->n_groups; g++)
        sum += team->experts[g];
    team->slices = (uint16_t)slices;
    team->n_groups = (uint16_t)groups;
    for (uint32_t g = 0; g < groups; g++)
        team->experts[g] = (uint16_t)((g + 1) * sum / groups - g * sum / groups);
    return true;
}

bool plan__move(struct plan__problem *problem, struct plan__draft *draft)
{
    static bool (*const stages[])(struct plan__problem *,
                                  struct plan__draft *) = {move_boundary, move_stage, split_stage};
    static bool (*const experts[])(struct plan__problem *, struct plan__draft *) = {
        move_layers, add_team,       double_team,   grow_team,
        shrink_team, replace_member, shift_experts, change_slices};
    bool moe = problem->moe_layers > 0 && problem->options->split != PLAN_SPLIT_LAYERS;
    uint32_t n = sizeof stages / sizeof stages[0];
    uint32_t which = plan__chance(problem, moe ? n + sizeof experts / sizeof experts[0] : n);
    return which < n ? stages[which](problem, draft) : experts[which - n](problem, draft);
}

/* ---- a machine that was left out ---- */

/* As another group of a team, with an even share of the experts. */
static bool join_team(const struct plan__problem *p, struct plan__draft *d, uint32_t seat,
                      uint32_t t)
{
    struct plan__team *team = &d->teams[t];
    uint32_t g = team->n_groups, given = 0;
    if (plan__width(team) != 1 || g + 1 > PLAN__MAX_SEATS)
        return false;
    for (uint32_t i = 0; i < g; i++) {
        uint32_t less = team->experts[i] / (g + 1);
        team->experts[i] = (uint16_t)(team->experts[i] - less);
        given += less;
    }
    team->seats[g] = (uint16_t)seat;
    team->experts[g] = (uint16_t)(given ? given : 1);
    team->n_groups++;
    return given > 0 && p->n_experts > 0;
}

/* As a member in place of another. */
static void take_place(struct plan__draft *d, uint32_t seat, uint32_t t)
{
    struct plan__team *team = &d->teams[t];
    team->seats[team->n_groups * plan__width(team) - 1] = (uint16_t)seat;
}

bool plan__bring_in(const struct plan__problem *problem, struct plan__draft *draft, uint32_t seat,
                    uint32_t way)
{
    uint32_t n_teams = draft->n_teams, n_stages = draft->n_stages;
    if (way < n_teams) {
        join_team(problem, draft, seat, way);
        return true;
    }
    way -= n_teams;
    if (way < n_teams) {
        take_place(draft, seat, way);
        return true;
    }
    way -= n_teams;
    if (way >= 3 * n_stages)
        return false;
    uint32_t s = way / 3, first = stage_first(draft, s), end = draft->stage_end[s];
    if (way % 3 == 0 && end - first > 1) {
        insert_stage(draft, s, seat, first + 1);
    } else if (way % 3 == 1 && end - first > 1) {
        insert_stage(draft, s + 1, seat, end);
        draft->stage_end[s] = (uint16_t)(end - 1);
    } else {
        draft->stage_seat[s] = (uint16_t)seat;
    }
    return true;
}
