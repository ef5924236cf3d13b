/* SPDX-License-Identifier: Apache-2.0 */
#include "coordinator/plan/measured.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define NOWHERE UINT32_MAX

/* Threads that wake one another for a batch: the one that computes, its pool, the loop's. */
#define WAKES 3.0

/* The round trip of a link that is none. */
#define NEVER_S 1e4

bool coord_worker_has_part(const struct coord_worker_status *w)
{
    return w->layer_end > 0 || w->n_slices > 0;
}

bool coord_worker_is_leaving(const struct coord_worker_status *w)
{
    return strcmp(w->state, "draining") == 0;
}

bool coord_worker_is_here(const struct coord_worker_status *w)
{
    return strcmp(w->state, "lost") != 0 && strcmp(w->state, "left") != 0 &&
           !(coord_worker_is_leaving(w) && !coord_worker_has_part(w));
}

/* A pool of one thread wakes nobody, so the time says nothing. */
static void take_profile(struct plan_machine *m, const struct coord_worker_status *w,
                         const double type_ops[KERN_TYPE_SLOTS])
{
    const struct proto_profile *p = &w->profile;
    struct plan_device *cpu = &m->device[PLAN_CPU];
    struct plan_type_rates rates = {0};
    for (uint32_t i = 0; i < p->n_types; i++) {
        if (p->types[i].type >= KERN_TYPE_SLOTS)
            continue;
        rates.row_s[p->types[i].type] = p->types[i].row_ops_s;
        rates.rows_s[p->types[i].type] = p->types[i].rows_ops_s;
    }
    cpu->read_bytes_s = p->read_bytes_s;
    cpu->ops_float_s = p->float_ops_s;
    plan_device_rate(cpu, &rates, type_ops);
    if (w->slowdown > 1) {
        cpu->read_bytes_s /= w->slowdown;
        cpu->ops_float_s /= w->slowdown;
        cpu->ops_row_s /= w->slowdown;
        cpu->ops_rows_s /= w->slowdown;
    }
    if (p->machine_ops_s > 0 && p->n_types)
        m->compute_share = fmin(p->types[0].rows_ops_s / p->machine_ops_s, 1);
    if (p->machine_read_bytes_s > 0)
        m->read_share = fmin(p->read_bytes_s / p->machine_read_bytes_s, 1);
    m->disk_bytes_s = p->disk_bytes_s;
    m->overhead_s = w->threads > 1 ? WAKES * p->wake_s : 0;
}

/* Children share the coordinator's. */
static bool same_computer(const struct coord_worker_status *a, const struct coord_worker_status *b)
{
    return (a->local && b->local) || (a->profiled && b->profiled && a->profile.machine &&
                                      a->profile.machine == b->profile.machine);
}

/* The computer of the first worker that shares it; one's own has the worker's number + 1. */
static uint32_t computer_of(const struct coord_status *status, uint32_t worker)
{
    uint32_t first = 0;
    while (first < worker && (!coord_worker_is_here(&status->workers[first]) ||
                              !same_computer(&status->workers[first], &status->workers[worker])))
        first++;
    return first + 1;
}

/* The coordinator's machine is that of the first of its children, if there are no others: these
 * cannot reach children, but the coordinator. */
static bool is_coordinator(const struct coord_status *status, uint32_t worker)
{
    for (uint32_t i = 0; i < status->n_workers; i++) {
        const struct coord_worker_status *w = &status->workers[i];
        if (coord_worker_is_here(w) && (!w->local || i < worker))
            return false;
    }
    return true;
}

static void add_machines(struct plan_cluster *cluster, uint32_t *machines,
                         const struct coord_status *status, const double *type_ops)
{
    for (uint32_t i = 0; i < status->n_workers; i++) {
        const struct coord_worker_status *w = &status->workers[i];
        machines[i] = NOWHERE;
        if (!coord_worker_is_here(w))
            continue;
        struct plan_machine *m = &cluster->machines[cluster->n_machines];
        machines[i] = cluster->n_machines++;
        snprintf(m->name, sizeof m->name, "%s", w->name);
        m->device[PLAN_CPU].memory_bytes = w->memory_bytes;
        m->threads = w->threads;
        m->coordinator = is_coordinator(status, i);
        m->computer = computer_of(status, i);
        if (w->profiled)
            take_profile(m, w, type_ops);
    }
}

/* ---- links ---- */

static const struct coord_link_status *find_link(const struct coord_status *status, uint32_t from,
                                                 uint32_t to)
{
    for (uint32_t i = 0; i < status->n_links; i++)
        if (status->links[i].from == from && status->links[i].to == to)
            return &status->links[i];
    return NULL;
}

/* A child that listens at an address of its own machine only. */
static bool reaches(const struct coord_worker_status *from, const struct coord_worker_status *to)
{
    return from->local || strncmp(to->endpoint, "ipc://", 6) != 0;
}

/* Whether the pair is named: it was measured both ways, or one of the ways is none. */
static bool is_named(const struct coord_status *status, uint32_t from, uint32_t to)
{
    const struct coord_worker_status *a = &status->workers[from], *b = &status->workers[to];
    return !reaches(a, b) || !reaches(b, a) ||
           (find_link(status, from, to) && find_link(status, to, from));
}

/* One direction; zero: not measured. */
static struct plan_link link_of(const struct coord_status *status, uint32_t from, uint32_t to)
{
    const struct coord_link_status *link = find_link(status, from, to);
    if (!reaches(&status->workers[from], &status->workers[to]))
        return (struct plan_link){.rtt_s = NEVER_S};
    return link ? (struct plan_link){link->rtt_s, link->bytes_s} : (struct plan_link){0};
}

/* The mean of the links that end at the coordinator, which stands for links that have no name. */
static struct plan_link mean_link(const struct coord_status *status)
{
    struct plan_link sum = {0};
    double n = 0;
    for (uint32_t i = 0; i < status->n_links; i++) {
        const struct coord_link_status *link = &status->links[i];
        if (link->from != COORD_HERE && link->to != COORD_HERE)
            continue;
        sum.rtt_s += link->rtt_s;
        sum.bytes_s += link->bytes_s;
        n++;
    }
    return n > 0 ? (struct plan_link){sum.rtt_s / n, sum.bytes_s / n} : sum;
}

static int by_ends(const void *a, const void *b)
{
    const struct plan_named_link *x = a, *y = b;
    uint64_t u = (uint64_t)x->from << 32 | x->to, v = (uint64_t)y->from << 32 | y->to;
    return u < v ? -1 : u > v;
}

static void add_links(struct plan_cluster *cluster, const uint32_t *machines,
                      const struct coord_status *status)
{
    for (uint32_t i = 0; i < status->n_workers; i++) {
        for (uint32_t k = 0; k < status->n_workers; k++) {
            if (i == k || machines[i] == NOWHERE || machines[k] == NOWHERE ||
                !is_named(status, i, k))
                continue;
            cluster->links[cluster->n_links++] = (struct plan_named_link){
                .from = machines[i], .to = machines[k], .link = link_of(status, i, k)};
        }
    }
    for (uint32_t i = 0; i < status->n_links; i++) {
        const struct coord_link_status *link = &status->links[i];
        bool there = link->from == COORD_HERE;
        uint32_t end = machines[there ? link->to : link->from];
        if ((!there && link->to != COORD_HERE) || end == NOWHERE)
            continue;
        cluster->links[cluster->n_links++] =
            (struct plan_named_link){.from = there ? PLAN_ELSEWHERE : end,
                                     .to = there ? end : PLAN_ELSEWHERE,
                                     .link = {link->rtt_s, link->bytes_s}};
    }
    qsort(cluster->links, cluster->n_links, sizeof *cluster->links, by_ends);
    cluster->any = mean_link(status);
}

static struct plan_cluster *create(const struct coord_status *status)
{
    struct plan_cluster *cluster = calloc(1, sizeof *cluster);
    if (!cluster)
        return NULL;
    cluster->machines = calloc(status->n_workers + 1, sizeof *cluster->machines);
    cluster->links = calloc((size_t)status->n_workers * status->n_workers + status->n_links + 1,
                            sizeof *cluster->links);
    if (cluster->machines && cluster->links)
        return cluster;
    plan_cluster_destroy(cluster);
    return NULL;
}

enum proto_status coord_cluster_measured(struct plan_cluster **out, uint32_t **machines,
                                         const struct coord_status *status,
                                         const double type_ops[KERN_TYPE_SLOTS],
                                         struct proto_error *error)
{
    struct plan_cluster *cluster = create(status);
    uint32_t *numbers = calloc(status->n_workers + 1, sizeof *numbers);
    enum proto_status result = PROTO_OK;
    *out = NULL;
    if (!cluster || !numbers) {
        result = proto_fail_nomem(error, status->n_workers * sizeof *numbers, "the cluster");
    } else {
        add_machines(cluster, numbers, status, type_ops);
        add_links(cluster, numbers, status);
        result = cluster->n_machines ? plan_cluster_complete(cluster, error)
                                     : proto_fail(error, PROTO_LOST, "no worker is here");
    }
    if (result || !machines)
        free(numbers);
    else
        *machines = numbers;
    if (result)
        plan_cluster_destroy(cluster);
    else
        *out = cluster;
    return result;
}
