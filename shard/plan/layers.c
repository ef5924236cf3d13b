/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The best split of layers over processors in a given order, by dynamic programming over
 * (processors, layers): best[j][i] is the least objective with which the first j hold layers
 * [0, i), from[j][i] where the last of them starts (i: it holds nothing). Hops count with the
 * cluster's usual link. Of equal objectives the earliest start is kept.
 */
#include <math.h>
#include <stdlib.h>

#include "shard/plan/draft.h"

struct solver {
    const struct plan__problem *problem;
    const struct plan__split *split;
    uint32_t n;      /* layers */
    uint64_t *bytes; /* n + 1: of layers before i, weights and KV */
    uint64_t *seen;  /* n + 1: KV of layers before i that later ones see */
    double *seconds; /* n + 1: of layers before i on the current seat */
    double *old, *new;
    uint16_t *from;         /* (n_seats + 1) x (n + 1) */
    double head_s, stage_s; /* on the current seat: the head; what a stage takes besides */
};

/* A request's time in one layer and in the rest of a stage; for THROUGHPUT its share. */
static double request_seconds(const struct solver *s, double token_s, double chunk_s)
{
    const struct plan_load *load = &s->problem->load;
    double rows = fmin(load->prompt, s->problem->shape->options.max_rows);
    return load->answer * token_s + load->prompt / rows * chunk_s;
}

static double layer_seconds(const struct solver *s, const struct plan_device *device,
                            const struct plan_layer *l)
{
    const struct plan_load *load = &s->problem->load;
    bool many = s->problem->options->aim == PLAN_THROUGHPUT;
    double rows = fmin(load->prompt, s->problem->shape->options.max_rows);
    double seqs = many ? fmax((double)load->sequences / s->split->n_seats, 1) : 1;
    struct plan__batch token = {seqs, seqs, (double)load->depth, seqs, false};
    struct plan__batch chunk = {rows, 1, load->prompt / 2.0, 0, true};
    struct plan__time t = plan__trunk(device, l, &token), c = plan__trunk(device, l, &chunk);
    plan__add(&t, plan__beside(device, l, seqs));
    plan__add(&c, plan__beside(device, l, rows));
    if (s->split->experts && l->n_experts) {
        plan__add(&t, plan__experts(device, l, plan_layer_touched(l, l->n_experts, seqs),
                                    seqs * l->n_used, l->n_segments));
        plan__add(&c, plan__experts(device, l, plan_layer_touched(l, l->n_experts, rows),
                                    rows * l->n_used, l->n_segments));
    }
    return request_seconds(s, plan__sum(t) / seqs, plan__sum(c));
}

static void fill_seat(struct solver *s, const struct plan__seat *seat)
{
    const struct plan__problem *p = s->problem;
    const struct plan_machine *m = &p->cluster->machines[seat->machine];
    double stage = m->overhead_s + p->cluster->any.rtt_s / 2;
    for (uint32_t il = 0; il < s->n && !s->split->even; il++)
        s->seconds[il + 1] = s->seconds[il] + layer_seconds(s, seat->device, &p->shape->layers[il]);
    s->head_s = p->load.answer * plan__sum(plan__head(seat->device, p->shape, 1));
    s->stage_s = request_seconds(s, stage, stage);
}

static void fill_bytes(struct solver *s)
{
    for (uint32_t il = 0; il < s->n; il++) {
        const struct plan_layer *l = &s->problem->shape->layers[il];
        uint64_t experts = s->split->experts ? l->n_experts * l->expert_bytes : 0;
        s->bytes[il + 1] = s->bytes[il] + l->weight_bytes + experts + l->kv_bytes;
        s->seen[il + 1] = s->seen[il] + l->kv_seen_bytes;
    }
}

static double memory_share(const struct solver *s, const struct plan__seat *seat, uint32_t a,
                           uint32_t b)
{
    const struct plan_shape *shape = s->problem->shape;
    bool embed = a == 0, head = b == s->n;
    uint32_t threads =
        seat->kind == PLAN_CPU ? s->problem->cluster->machines[seat->machine].threads : 1;
    uint64_t bytes = s->bytes[b] - s->bytes[a] + shape->scratch_bytes +
                     threads * shape->thread_bytes + (embed ? shape->embed_bytes : 0) +
                     (head ? shape->head_bytes : 0) - (embed && head ? shape->tied_bytes : 0) +
                     (shape->layers[b - 1].kv_layer < a ? s->seen[a] : 0);
    return (double)bytes / (double)(seat->device->memory_bytes ? seat->device->memory_bytes : 1);
}

/* The objective of a seat that holds layers [a, b); infinite: it cannot. */
static double price(const struct solver *s, const struct plan__seat *seat, uint32_t a, uint32_t b)
{
    double share = memory_share(s, seat, a, b);
    if (s->split->even)
        return share;
    double t = s->seconds[b] - s->seconds[a] + s->stage_s + (b == s->n ? s->head_s : 0);
    return share > 1 || (s->split->cap > 0 && t > s->split->cap) ? INFINITY : t;
}

static void solve_seat(struct solver *s, uint32_t j)
{
    const struct plan__split *split = s->split;
    const struct plan__seat *seat = &s->problem->seats[split->seats[j]];
    uint16_t *from = s->from + (size_t)(j + 1) * (s->n + 1);
    bool largest = split->even || split->least_max;
    for (uint32_t i = 0; i <= s->n; i++) {
        s->new[i] = split->skip ? s->old[i] : INFINITY;
        from[i] = (uint16_t)i;
        for (uint32_t k = 0; k < i; k++) {
            if (isinf(s->old[k]))
                continue;
            double own = price(s, seat, k, i);
            double all = largest ? fmax(s->old[k], own) : s->old[k] + own;
            if (all < s->new[i]) {
                s->new[i] = all;
                from[i] = (uint16_t)k;
            }
        }
    }
    double *swap = s->old;
    s->old = s->new;
    s->new = swap;
}

static void read_back(struct solver *s, struct plan__draft *draft, double *most)
{
    uint32_t end = s->n, n = 0;
    for (uint32_t j = s->split->n_seats; j > 0; j--) {
        uint32_t first = s->from[(size_t)j * (s->n + 1) + end];
        if (first == end)
            continue;
        draft->stage_seat[n] = s->split->seats[j - 1];
        draft->stage_end[n++] = (uint16_t)end;
        end = first;
    }
    for (uint32_t i = 0; i < n / 2; i++) {
        uint16_t seat = draft->stage_seat[i], at = draft->stage_end[i];
        draft->stage_seat[i] = draft->stage_seat[n - 1 - i];
        draft->stage_end[i] = draft->stage_end[n - 1 - i];
        draft->stage_seat[n - 1 - i] = seat;
        draft->stage_end[n - 1 - i] = at;
    }
    draft->n_stages = n;
    *most = 0;
    for (uint32_t i = 0, first = 0; i < n; first = draft->stage_end[i++]) {
        const struct plan__seat *seat = &s->problem->seats[draft->stage_seat[i]];
        fill_seat(s, seat);
        *most = fmax(*most, price(s, seat, first, draft->stage_end[i]));
    }
}

static enum proto_status solve(struct solver *s, struct plan__draft *draft, double *most)
{
    fill_bytes(s);
    for (uint32_t i = 0; i <= s->n; i++)
        s->old[i] = i == 0 ? 0 : INFINITY;
    for (uint32_t j = 0; j < s->split->n_seats; j++) {
        fill_seat(s, &s->problem->seats[s->split->seats[j]]);
        solve_seat(s, j);
    }
    if (isinf(s->old[s->n]))
        return PROTO_CAPACITY;
    read_back(s, draft, most);
    return PROTO_OK;
}

enum proto_status plan__split_layers(struct plan__draft *draft, double *most,
                                     const struct plan__problem *problem,
                                     const struct plan__split *split, struct proto_error *error)
{
    size_t width = (size_t)problem->shape->n_layers + 1;
    struct solver s = {.problem = problem, .split = split, .n = problem->shape->n_layers};
    double *doubles = calloc(3 * width, sizeof *doubles);
    s.bytes = calloc(2 * width, sizeof *s.bytes);
    s.from = malloc(((size_t)split->n_seats + 1) * width * sizeof *s.from);
    enum proto_status status = PROTO_CAPACITY;
    draft->n_teams = 0;
    for (uint32_t il = 0; il < s.n; il++)
        draft->team_of[il] = 0;
    if (!doubles || !s.bytes || !s.from) {
        status = proto_fail_nomem(error, split->n_seats * width * 2, "the plan");
    } else {
        s.seen = s.bytes + width;
        s.seconds = doubles;
        s.old = doubles + width;
        s.new = doubles + 2 * width;
        status = solve(&s, draft, most);
    }
    free(doubles);
    free(s.bytes);
    free(s.from);
    return status;
}
