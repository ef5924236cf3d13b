/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Copies of the experts that rows choose most, where statistics know them: each on the host of its
 * layer that has least to do and memory left. Which expert is hot differs from layer to layer, so
 * this is no part of the search, which takes experts to be alike: it tries how hot an expert must
 * be, and keeps what is predicted to be fastest.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "shard/plan/draft.h"

#define LEAST_GAIN 0.01 /* for which copies are made: they are loaded, and take memory */

/* A placement with copies of experts at least so popular, in the making. */
struct copier {
    const struct plan_placement *from;
    struct plan_placement *to;
    const struct plan_shape *shape;
    const struct plan_cluster *cluster;
    double hot;     /* popularity, 1: the mean */
    uint64_t *left; /* memory, by worker */
    double *load;   /* by worker: seconds that it is needed for the layer at hand, a row and use */
    uint32_t *copies; /* by expert of the layer: the worker of its copy; NOBODY: none */
    bool *seen;       /* by expert of the layer: was looked at */
    bool *hosts;      /* by worker: has experts */
    uint32_t n_copies;
};

#define NOBODY UINT32_MAX

static const struct plan_device *device_of(const struct copier *c, uint32_t worker)
{
    const struct plan_worker *w = &c->from->workers[worker];
    return &c->cluster->machines[w->machine].device[w->device];
}

static double one_row(const struct copier *c, uint32_t worker, const struct plan_layer *l)
{
    return plan__sum(plan__experts(device_of(c, worker), l, 1, 1, l->n_segments));
}

static void fill_load(struct copier *c, const struct plan__span *span, const struct plan_layer *l)
{
    memset(c->load, 0, c->from->n_workers * sizeof *c->load);
    for (uint32_t i = 0; i < span->n_parts; i++) {
        const struct shard_expert_part *part = &span->parts[i];
        c->load[part->worker] += plan_layer_popularity(l, part->expert_first, part->expert_end) *
                                 plan__segments(part, l) / l->n_segments *
                                 one_row(c, part->worker, l);
    }
}

/* The host that a copy helps most, or NOBODY: all have more to do, or too little memory. */
static uint32_t choose_host(const struct copier *c, const struct plan_layer *l, uint32_t owner,
                            uint32_t stage, double popularity)
{
    uint32_t best = NOBODY;
    double most = c->load[owner], least = INFINITY;
    for (uint32_t w = 0; w < c->from->n_workers; w++) {
        double load = c->load[w] + popularity / 2 * one_row(c, w, l);
        if (w == owner || w == stage || !c->hosts[w] || c->left[w] < l->expert_bytes ||
            load >= most || load >= least)
            continue;
        least = load;
        best = w;
    }
    return best;
}

static void copy_expert(struct copier *c, const struct plan_layer *l, uint32_t expert,
                        uint32_t owner, uint32_t stage)
{
    double popularity = plan_layer_popularity(l, expert, expert + 1);
    uint32_t host = choose_host(c, l, owner, stage, popularity);
    if (host == NOBODY)
        return;
    c->copies[expert] = host;
    c->left[host] -= l->expert_bytes;
    c->load[host] += popularity / 2 * one_row(c, host, l);
    c->load[owner] -= popularity / 2 * one_row(c, owner, l);
    c->n_copies++;
}

/* An expert that may have a copy: the hottest of those that were not looked at. */
struct hot {
    const struct shard_expert_part *part; /* NULL: there is none */
    uint32_t expert;
    double popularity;
};

/* Experts of which one host alone has all. */
static void look_at_part(struct hot *hot, const struct copier *c, const struct plan_layer *l,
                         const struct shard_expert_part *part)
{
    for (uint32_t e = part->expert_first; e < part->expert_end; e++) {
        double popularity = plan_layer_popularity(l, e, e + 1);
        if (!c->seen[e] && popularity >= c->hot && popularity > hot->popularity)
            *hot = (struct hot){part, e, popularity};
    }
}

static struct hot next_hot(const struct copier *c, const struct plan__span *span,
                           const struct plan_layer *l, uint32_t stage)
{
    struct hot hot = {0};
    struct plan__group group = {0};
    while (plan__group_next(&group, span))
        if (group.n_parts == 1 && group.parts->worker != stage)
            look_at_part(&hot, c, l, group.parts);
    return hot;
}

/* Chooses the copies of a layer's experts, of the most popular ones first; how many. */
static uint32_t choose_copies(struct copier *c, const struct plan__span *span, uint32_t il)
{
    const struct plan_layer *l = &c->shape->layers[il];
    uint32_t stage = c->from->stages[plan_placement_stage(c->from, il)].worker;
    uint32_t before = c->n_copies;
    for (uint32_t i = 0; i < l->n_experts; i++) {
        c->copies[i] = NOBODY;
        c->seen[i] = false;
    }
    if (!l->popular)
        return 0;
    fill_load(c, span, l);
    for (struct hot hot; (hot = next_hot(c, span, l, stage)).part;) {
        c->seen[hot.expert] = true;
        copy_expert(c, l, hot.expert, hot.part->worker, stage);
    }
    return c->n_copies - before;
}

/* ---- writing it down ---- */

static bool add_part(struct copier *c, struct shard_expert_part part)
{
    if (c->to->n_parts == PLAN__MAX_PARTS)
        return false;
    c->to->parts[c->to->n_parts++] = part;
    return true;
}

static bool add_span(struct copier *c, const struct plan__span *span, uint32_t first, uint32_t end)
{
    bool room = true;
    for (uint32_t i = 0; i < span->n_parts && first < end; i++) {
        struct shard_expert_part part = span->parts[i];
        part.layer_first = first;
        part.layer_end = end;
        room = room && add_part(c, part);
    }
    return room;
}

/* A part of one layer, cut where experts have copies. */
static bool add_cut(struct copier *c, struct shard_expert_part part, uint32_t il)
{
    uint32_t end = part.expert_end;
    bool room = true;
    part.layer_first = il;
    part.layer_end = il + 1;
    for (uint32_t e = part.expert_first; e < end; e = part.expert_end) {
        uint32_t copy = c->copies[e];
        part.expert_first = e;
        part.expert_end = e + 1;
        while (copy == NOBODY && part.expert_end < end && c->copies[part.expert_end] == NOBODY)
            part.expert_end++;
        room = room && add_part(c, part);
        if (copy == NOBODY)
            continue;
        struct shard_expert_part other = part;
        other.worker = copy;
        room = room && add_part(c, other);
    }
    return room;
}

static bool copy_span(struct copier *c, const struct plan__span *span)
{
    uint32_t alike = span->first;
    for (uint32_t il = span->first; il < span->end; il++) {
        if (!c->shape->layers[il].n_experts || !choose_copies(c, span, il))
            continue;
        if (!add_span(c, span, alike, il))
            return false;
        for (uint32_t i = 0; i < span->n_parts; i++) {
            if (!add_cut(c, span->parts[i], il))
                return false;
        }
        alike = il + 1;
    }
    return add_span(c, span, alike, span->end);
}

/* False: there is nothing to copy, or no room for so many parts. */
static bool copy_all(struct copier *c)
{
    struct plan__span span = {0};
    c->to->n_workers = c->from->n_workers;
    c->to->n_stages = c->from->n_stages;
    c->to->n_parts = c->n_copies = 0;
    memcpy(c->to->workers, c->from->workers, c->from->n_workers * sizeof *c->to->workers);
    memcpy(c->to->stages, c->from->stages, c->from->n_stages * sizeof *c->to->stages);
    memset(c->hosts, 0, c->from->n_workers * sizeof *c->hosts);
    for (uint32_t i = 0; i < c->from->n_parts; i++)
        c->hosts[c->from->parts[i].worker] = true;
    for (uint32_t w = 0; w < c->from->n_workers; w++) {
        const struct plan_worker *at = &c->from->workers[w];
        uint64_t held = at->weight_bytes + at->kv_bytes + at->scratch_bytes;
        uint64_t memory = device_of(c, w)->memory_bytes;
        c->left[w] = memory > held ? memory - held : 0;
    }
    while (plan__span_next(&span, c->from)) {
        if (!copy_span(c, &span))
            return false;
    }
    return c->n_copies > 0;
}

/* ---- the best of several ---- */

/* Takes c->to if it fits and is better than *best. */
static enum proto_status try_copies(const struct copier *c, struct plan_answer *best,
                                    const struct plan_options *options,
                                    const struct plan_load *load, struct proto_error *error)
{
    struct plan_cost cost;
    struct plan_placement *copy;
    plan_placement_measure(c->to, c->shape, c->cluster);
    enum proto_status status = plan_placement_refine(c->to, c->shape, c->cluster, error);
    if (status || plan_placement_check(c->to, c->shape, c->cluster, NULL) != PROTO_OK)
        return status;
    status = plan_cost_estimate(&cost, NULL, c->to, c->shape, c->cluster, load, error);
    double gain =
        plan_objective(&best->cost, options->aim) / plan_objective(&cost, options->aim) - 1;
    if (status || gain < LEAST_GAIN)
        return status;
    status = plan_placement_copy(&copy, c->to, error);
    if (status)
        return status;
    plan_placement_destroy(best->placement);
    best->placement = copy;
    best->cost = cost;
    return PROTO_OK;
}

static enum proto_status try_all(struct copier *c, struct plan_answer *answer,
                                 const struct plan_options *options, struct proto_error *error)
{
    static const double hot[] = {16, 8, 4, 2, 1.5};
    struct plan_load load = plan_load_complete(&options->load, c->shape);
    struct plan_placement *plain;
    enum proto_status status = plan_placement_copy(&plain, answer->placement, error);
    if (!status)
        status = plan_cost_estimate(&answer->cost, NULL, answer->placement, c->shape, c->cluster,
                                    &load, error);
    c->from = plain;
    for (size_t i = 0; i < sizeof hot / sizeof hot[0] && !status; i++) {
        c->hot = hot[i];
        if (copy_all(c))
            status = try_copies(c, answer, options, &load, error);
    }
    plan_placement_destroy(plain);
    return status;
}

enum proto_status plan__replicate(struct plan_answer *answer, const struct plan_shape *shape,
                                  const struct plan_cluster *cluster,
                                  const struct plan_options *options, struct proto_error *error)
{
    struct copier c = {.shape = shape, .cluster = cluster};
    size_t n = (size_t)answer->placement->n_workers + 1;
    if (!shape->popularity)
        return PROTO_OK;
    c.left = calloc(n, sizeof *c.left);
    c.load = calloc(n, sizeof *c.load);
    c.hosts = calloc(n, sizeof *c.hosts);
    c.copies = calloc(PROTO_MAX_EXPERTS, sizeof *c.copies);
    c.seen = calloc(PROTO_MAX_EXPERTS, sizeof *c.seen);
    enum proto_status status = plan_placement_create(
        &c.to, answer->placement->n_workers, answer->placement->n_stages, PLAN__MAX_PARTS, error);
    if (!c.left || !c.load || !c.hosts || !c.copies || !c.seen)
        status = proto_fail_nomem(error, n * sizeof *c.load, "copies of experts");
    if (!status)
        status = try_all(&c, answer, options, error);
    free(c.left);
    free(c.load);
    free(c.hosts);
    free(c.copies);
    free(c.seen);
    plan_placement_destroy(c.to);
    return status;
}
