/* SPDX-License-Identifier: Apache-2.0 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "shard/plan/sim.h"

/* Draws of a layer beyond which means are taken. */
#define MOST_DRAWS 2048.0
/* Experts that were drawn again, after which the most popular one that is left is taken. */
#define MOST_REFUSED 1000u

double plan__sim_uniform(struct plan__sim_chance *chance)
{
    uint64_t x = chance->state;
    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    chance->state = x;
    return ((double)(x * 0x2545f4914f6cdd1dull >> 11) + 1) * 0x1p-53;
}

double plan__sim_exponential(struct plan__sim_chance *chance, double mean)
{
    return -mean * log(plan__sim_uniform(chance));
}

static void shuffle(uint16_t *experts, uint32_t n, struct plan__sim_chance *chance)
{
    for (uint32_t i = 0; i < n; i++)
        experts[i] = (uint16_t)i;
    for (uint32_t i = n; i > 1; i--) {
        uint32_t j = (uint32_t)((1 - plan__sim_uniform(chance)) * i);
        uint16_t swap = experts[i - 1];
        experts[i - 1] = experts[j];
        experts[j] = swap;
    }
}

/* Popularities of n ranks, which become parts of 1, and their sums. */
static void fill_ranks(double *popularity, double *cumulative, uint32_t n)
{
    double sum = 0, so_far = 0;
    for (uint32_t r = 0; r < n; r++)
        sum += popularity[r];
    for (uint32_t r = 0; r < n; r++) {
        popularity[r] /= sum;
        cumulative[r] = so_far += popularity[r];
    }
}

/* Ranks in random order, another for each layer, of popularities that fall as a power. */
static void fill_zipf(struct plan__sim_choices *choices, uint32_t n_layers, double zipf,
                      struct plan__sim_chance *chance)
{
    uint32_t n = choices->n_experts;
    for (uint32_t r = 0; r < n; r++)
        choices->popularity[r] = pow(r + 1, -zipf);
    fill_ranks(choices->popularity, choices->cumulative, n);
    for (uint32_t il = 0; il < n_layers; il++)
        shuffle(choices->expert_of + (size_t)il * n, n, chance);
}

/* Ranks are experts, as popular as was counted; layers without experts are not asked. */
static void fill_counted(struct plan__sim_choices *choices, const struct plan_shape *shape)
{
    uint32_t n = choices->stride = choices->n_experts;
    for (uint32_t il = 0; il < shape->n_layers; il++) {
        const struct plan_layer *layer = &shape->layers[il];
        double *popularity = choices->popularity + (size_t)il * n;
        for (uint32_t i = 0; i < n; i++) {
            popularity[i] = layer->n_experts == n ? plan_layer_popularity(layer, i, i + 1) : 1;
            choices->expert_of[(size_t)il * n + i] = (uint16_t)i;
        }
        fill_ranks(popularity, choices->cumulative + (size_t)il * n, n);
    }
}

enum proto_status plan__sim_choices_init(struct plan__sim_choices *choices,
                                         const struct plan_shape *shape, double zipf,
                                         struct plan__sim_chance *chance, struct proto_error *error)
{
    bool counted = shape->popularity && zipf <= 0;
    uint32_t n = 0;
    for (uint32_t il = 0; il < shape->n_layers; il++)
        n = shape->layers[il].n_experts > n ? shape->layers[il].n_experts : n;
    choices->n_experts = n;
    size_t room = (size_t)n + 1, all = room * shape->n_layers;
    choices->popularity = calloc(counted ? all : room, sizeof *choices->popularity);
    choices->cumulative = calloc(counted ? all : room, sizeof *choices->cumulative);
    choices->expert_of = calloc(all, sizeof *choices->expert_of);
    choices->entries = calloc(room, sizeof *choices->entries);
    choices->last_row = calloc(room, sizeof *choices->last_row);
    if (!choices->popularity || !choices->cumulative || !choices->expert_of || !choices->entries ||
        !choices->last_row)
        return proto_fail_nomem(error, all * 2, "the simulation");
    if (counted)
        fill_counted(choices, shape);
    else
        fill_zipf(choices, shape->n_layers, zipf, chance);
    return PROTO_OK;
}

void plan__sim_choices_finish(struct plan__sim_choices *choices)
{
    free(choices->popularity);
    free(choices->cumulative);
    free(choices->expert_of);
    free(choices->entries);
    free(choices->last_row);
}

static uint32_t draw_rank(const struct plan__sim_choices *c, struct plan__sim_chance *chance,
                          uint32_t il)
{
    const double *cumulative = c->cumulative + (size_t)il * c->stride;
    double x = plan__sim_uniform(chance) * cumulative[c->n_experts - 1];
    uint32_t first = 0, end = c->n_experts - 1;
    while (first < end) {
        uint32_t middle = first + (end - first) / 2;
        if (cumulative[middle] < x)
            first = middle + 1;
        else
            end = middle;
    }
    return first;
}

/* The group that has an expert, or NULL: the stage. */
static struct plan__sim_want *want_of(struct plan__sim_want *wants, const struct plan__span *span,
                                      uint32_t expert)
{
    struct plan__group group = {0};
    for (uint32_t g = 0; plan__group_next(&group, span); g++) {
        if (expert >= group.parts->expert_first && expert < group.parts->expert_end)
            return &wants[g];
    }
    return NULL;
}

/* One row: n_used different experts. */
static void draw_row(struct plan__sim_want *wants, struct plan__sim_choices *c,
                     struct plan__sim_chance *chance, const struct plan_layer *layer, uint32_t il,
                     const struct plan__span *span, uint32_t row)
{
    struct plan__sim_want *used[64];
    uint32_t n_used = layer->n_used < 64 ? layer->n_used : 64;
    for (uint32_t i = 0, refused = 0; i < n_used;) {
        uint32_t rank = refused < MOST_REFUSED ? draw_rank(c, chance, il) : refused - MOST_REFUSED;
        uint32_t expert = c->expert_of[(size_t)il * c->n_experts + rank];
        if (c->last_row[expert] == row) {
            refused++;
            continue;
        }
        c->last_row[expert] = row;
        struct plan__sim_want *want = want_of(wants, span, expert);
        used[i++] = want;
        if (!want)
            continue;
        want->touched += c->entries[expert]++ == 0;
        want->entries++;
    }
    for (uint32_t i = 0; i < n_used; i++) {
        bool first = used[i] != NULL, alone = true;
        for (uint32_t j = 0; j < n_used && first; j++) {
            first = !(j < i && used[j] == used[i]);
            alone = alone && used[j] == used[i];
        }
        if (!first)
            continue;
        used[i]->rows++;
        used[i]->all += alone;
    }
}

/* The mean over many rows. */
static void mean_rows(struct plan__sim_want *wants, const struct plan__sim_choices *c,
                      const struct plan_layer *layer, uint32_t il, const struct plan__span *span,
                      double rows)
{
    const double *popularity = c->popularity + (size_t)il * c->stride;
    struct plan__group group = {0};
    for (uint32_t r = 0; r < c->n_experts; r++) {
        uint32_t expert = c->expert_of[(size_t)il * c->n_experts + r];
        struct plan__sim_want *want = want_of(wants, span, expert);
        double chosen = fmin(popularity[r] * layer->n_used, 1);
        if (!want)
            continue;
        want->touched += 1 - pow(1 - chosen, rows);
        want->entries += rows * chosen;
    }
    for (uint32_t g = 0; plan__group_next(&group, span); g++) {
        double share = wants[g].entries / (rows * layer->n_used) * layer->n_experts;
        wants[g].rows = rows * plan__use_chance(layer, share);
        wants[g].all = rows * plan__all_chance(layer, share);
    }
}

void plan__sim_choose(struct plan__sim_want *wants, struct plan__sim_choices *choices,
                      struct plan__sim_chance *chance, const struct plan_layer *layer, uint32_t il,
                      const struct plan__span *span, double rows)
{
    struct plan__group group = {0};
    for (uint32_t g = 0; plan__group_next(&group, span); g++)
        wants[g] = (struct plan__sim_want){0};
    if (rows * layer->n_used > MOST_DRAWS) {
        mean_rows(wants, choices, layer, il, span, rows);
        return;
    }
    memset(choices->entries, 0, choices->n_experts * sizeof *choices->entries);
    memset(choices->last_row, 0, choices->n_experts * sizeof *choices->last_row);
    for (uint32_t row = 1; row <= rows; row++)
        draw_row(wants, choices, chance, layer, il, span, row);
}
