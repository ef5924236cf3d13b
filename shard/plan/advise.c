/* SPDX-License-Identifier: Apache-2.0 */
/* What would help: the search again with something changed. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "shard/plan/draft.h"

#define EFFORT 0.15
#define MOST_KINDS                                                                                 \
    4u /* of machines of which one more is tried; of machines that are taken away                  \
        */

struct adviser {
    struct plan_change *changes;
    uint32_t n, room;
    const struct plan_answer *answer;
    const struct plan_shape *shape;
    const struct plan_cluster *cluster;
    const struct plan_options *options;
    double now; /* objective; infinite: nothing fits */
};

/* What the plan in hand would be worth, as machine numbers mean the same in the changed cluster. */
static double keep_plan(const struct adviser *a, const struct plan_shape *shape,
                        const struct plan_cluster *cluster)
{
    struct plan_cost cost;
    struct plan_placement *same;
    double objective = INFINITY;
    if (!a->answer || plan_placement_copy(&same, a->answer->placement, NULL) != PROTO_OK)
        return INFINITY;
    plan_placement_measure(same, shape, cluster);
    if (plan_placement_check(same, shape, cluster, NULL) == PROTO_OK &&
        plan_cost_estimate(&cost, NULL, same, shape, cluster, &a->options->load, NULL) == PROTO_OK)
        objective = plan_objective(&cost, a->options->aim);
    plan_placement_destroy(same);
    return objective;
}

static int by_gain(const void *x, const void *y)
{
    const struct plan_change *a = x, *b = y;
    if (a->fits != b->fits)
        return a->fits ? -1 : 1;
    return (a->gain < b->gain) - (a->gain > b->gain);
}

/* The changed question's answer; the list keeps the best. Without a machine, what was asked for may
 * be impossible: that is no plan either. */
static enum proto_status consider(struct adviser *a, struct plan_change *change,
                                  const struct plan_shape *shape,
                                  const struct plan_cluster *cluster, struct proto_error *error)
{
    struct plan_answer *answer;
    double objective = keep_plan(a, shape, cluster);
    enum proto_status status =
        plan__search_with(&answer, shape, cluster, a->options, EFFORT, error);
    if (status == PROTO_OK) {
        objective = fmin(objective, plan_objective(&answer->cost, a->options->aim));
        plan_answer_destroy(answer);
    } else if (status != PROTO_CAPACITY && status != PROTO_INVALID) {
        return status;
    }
    change->fits = isfinite(objective);
    change->gain = change->fits && isfinite(a->now) ? a->now / objective - 1 : 0;
    if (a->n < a->room) {
        a->changes[a->n++] = *change;
    } else if (by_gain(change, &a->changes[a->n - 1]) < 0) {
        a->changes[a->n - 1] = *change;
    }
    qsort(a->changes, a->n, sizeof *a->changes, by_gain);
    return PROTO_OK;
}

static bool same_device(const struct plan_device *a, const struct plan_device *b)
{
    return a->memory_bytes == b->memory_bytes && a->read_bytes_s >= b->read_bytes_s &&
           a->read_bytes_s <= b->read_bytes_s && a->ops_rows_s >= b->ops_rows_s &&
           a->ops_rows_s <= b->ops_rows_s;
}

/* Whether an earlier machine is like it. */
static bool is_known(const struct plan_cluster *c, uint32_t machine)
{
    const struct plan_machine *m = &c->machines[machine];
    for (uint32_t i = 0; i < machine; i++) {
        if (same_device(&m->device[PLAN_CPU], &c->machines[i].device[PLAN_CPU]) &&
            same_device(&m->device[PLAN_GPU], &c->machines[i].device[PLAN_GPU]))
            return true;
    }
    return false;
}

static enum proto_status more_machines(struct adviser *a, struct proto_error *error)
{
    enum proto_status status = PROTO_OK;
    uint32_t tried = 0, n = a->cluster->n_machines;
    for (uint32_t i = 0; i < n && n < PLAN_MAX_MACHINES && status == PROTO_OK; i++) {
        struct plan_cluster *more;
        struct plan_change change = {.kind = PLAN_MORE_MACHINES, .machine = i, .type = -1};
        if (is_known(a->cluster, i) || tried++ == MOST_KINDS)
            continue;
        status = plan_cluster_copy(&more, a->cluster, 1, error);
        if (status != PROTO_OK)
            break;
        more->machines[n] = more->machines[i];
        more->machines[n].coordinator = false;
        more->n_machines++;
        snprintf(change.text, sizeof change.text, "another machine like %s",
                 a->cluster->machines[i].name);
        status = consider(a, &change, a->shape, more, error);
        plan_cluster_destroy(more);
    }
    return status;
}

/* The next faster Ethernet. */
static double next_link(double bytes_s)
{
    static const double mbit_s[] = {1000, 2500, 10000, 25000, 100000};
    for (size_t i = 0; i < sizeof mbit_s / sizeof mbit_s[0]; i++) {
        if (mbit_s[i] * 1e6 / 8 > bytes_s * 1.2)
            return mbit_s[i] * 1e6 / 8;
    }
    return bytes_s * 2;
}

static enum proto_status change_links(struct adviser *a, bool shorter, struct proto_error *error)
{
    struct plan_cluster *c;
    struct plan_change change = {.kind = shorter ? PLAN_SHORTER_LINKS : PLAN_FASTER_LINKS,
                                 .type = -1};
    enum proto_status status = plan_cluster_copy(&c, a->cluster, 0, error);
    if (status != PROTO_OK)
        return status;
    if (shorter)
        c->any.rtt_s /= 2;
    else
        c->any.bytes_s = next_link(c->any.bytes_s);
    for (uint32_t i = 0; i < c->n_links; i++) {
        struct plan_link *l = &c->links[i].link;
        if (shorter)
            l->rtt_s /= 2;
        else
            l->bytes_s = fmax(l->bytes_s, c->any.bytes_s);
    }
    change.link = c->any;
    if (shorter)
        snprintf(change.text, sizeof change.text, "round trips of half the time (%.2g ms)",
                 c->any.rtt_s * 1e3);
    else
        snprintf(change.text, sizeof change.text, "links of %.3g Gbit/s", c->any.bytes_s * 8e-9);
    status = consider(a, &change, a->shape, c, error);
    plan_cluster_destroy(c);
    return status;
}

static enum proto_status other_types(struct adviser *a, struct proto_error *error)
{
    enum proto_status status = PROTO_OK;
    for (uint32_t t = 0; t < a->options->n_types && status == PROTO_OK; t++) {
        struct plan_shape *shape;
        struct plan_change change = {.kind = PLAN_OTHER_TYPE, .type = (int)t};
        if (fabs(a->options->types[t].bits / a->shape->weight_bits - 1) < 0.03)
            continue;
        status = plan_shape_scaled(&shape, a->shape, a->options->types[t].bits, error);
        if (status != PROTO_OK)
            break;
        snprintf(change.text, sizeof change.text, "the model as %s", a->options->types[t].name);
        status = consider(a, &change, shape, a->cluster, error);
        plan_shape_destroy(shape);
    }
    return status;
}

static uint64_t held(const struct plan_placement *p, uint32_t machine)
{
    uint64_t sum = 0;
    for (uint32_t w = 0; w < p->n_workers; w++)
        sum += p->workers[w].machine == machine ? p->workers[w].weight_bytes : 0;
    return sum;
}

/* The machine that holds least of more than `most`, or UINT32_MAX. */
static uint32_t next_least(const struct adviser *a, uint64_t more_than)
{
    uint32_t least = UINT32_MAX;
    for (uint32_t i = 0; i < a->cluster->n_machines; i++) {
        uint64_t bytes = held(a->answer->placement, i);
        if (bytes > more_than && (least == UINT32_MAX || bytes < held(a->answer->placement, least)))
            least = i;
    }
    return least;
}

static enum proto_status fewer_machines(struct adviser *a, struct proto_error *error)
{
    enum proto_status status = PROTO_OK;
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < MOST_KINDS && status == PROTO_OK && a->answer; i++) {
        struct plan_cluster *c;
        uint32_t machine = next_least(a, bytes);
        struct plan_change change = {.kind = PLAN_WITHOUT_MACHINE, .machine = machine, .type = -1};
        if (machine == UINT32_MAX || a->cluster->n_machines == 1)
            break;
        bytes = held(a->answer->placement, machine);
        status = plan_cluster_copy(&c, a->cluster, 0, error);
        if (status != PROTO_OK)
            break;
        for (int kind = 0; kind < PLAN_N_DEVICES; kind++)
            c->machines[machine].device[kind].memory_bytes = 0;
        snprintf(change.text, sizeof change.text, "without %s", c->machines[machine].name);
        status = consider(a, &change, a->shape, c, error);
        plan_cluster_destroy(c);
    }
    return status;
}

enum proto_status plan_advise(struct plan_change *changes, uint32_t *n,
                              const struct plan_answer *answer, const struct plan_shape *shape,
                              const struct plan_cluster *cluster,
                              const struct plan_options *options, struct proto_error *error)
{
    struct adviser a = {.changes = changes,
                        .room = *n,
                        .answer = answer,
                        .shape = shape,
                        .cluster = cluster,
                        .options = options,
                        .now = answer ? plan_objective(&answer->cost, options->aim) : INFINITY};
    *n = 0;
    if (a.room == 0)
        return PROTO_OK;
    enum proto_status status = more_machines(&a, error);
    if (status == PROTO_OK)
        status = other_types(&a, error);
    if (status == PROTO_OK && answer && cluster->n_machines > 1) {
        status = change_links(&a, false, error);
        if (status == PROTO_OK)
            status = change_links(&a, true, error);
        if (status == PROTO_OK)
            status = fewer_machines(&a, error);
    }
    *n = a.n;
    return status;
}
