/* SPDX-License-Identifier: Apache-2.0 */
#include "shard/plan/cluster.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/*
 * What is assumed of what nobody measured: a desktop of eight cores with two channels of memory, a
 * mid-range graphics card, gigabit Ethernet. Rates of a processor follow from its rate at many
 * rows: an int8 product of one row is far from its peak, and attention is computed in floats.
 */
#define CPU_READ       40e9
#define CPU_OPS_ROWS   2e12
#define CPU_ROW_SHARE  0.25
#define GPU_READ       300e9
#define GPU_OPS_ROWS   30e12
#define GPU_ROW_SHARE  0.2
#define FLOAT_SHARE    0.125
#define DISK           1e9
#define STAGE_OVERHEAD 150e-6
#define REQUEST        50e-6
#define THREADS        8
#define LINK_RTT       300e-6
#define LINK_BYTES     117e6
#define LOCAL_RTT      60e-6
#define LOCAL_BYTES    4e9

static bool assume(double *value, double estimate)
{
    if (*value > 0)
        return false;
    *value = estimate;
    return true;
}

static bool is_amount(double value)
{
    return isfinite(value) && value >= 0;
}

static void complete_device(struct plan_machine *m, enum plan_device_kind kind)
{
    struct plan_device *d = &m->device[kind];
    bool gpu = kind == PLAN_GPU;
    double share = gpu ? GPU_ROW_SHARE : CPU_ROW_SHARE;
    uint32_t field = 1u << ((unsigned)kind * PLAN_ESTIMATED_DEVICE_FIELDS + 1);
    if (d->memory_bytes == 0)
        return;
    if (assume(&d->read_bytes_s, gpu ? GPU_READ : CPU_READ))
        m->estimated |= field;
    if (d->ops_rows_s <= 0 && d->ops_row_s > 0) {
        d->ops_rows_s = d->ops_row_s / share;
        m->estimated |= field << 2;
    }
    if (assume(&d->ops_rows_s, gpu ? GPU_OPS_ROWS : CPU_OPS_ROWS))
        m->estimated |= field << 2;
    if (assume(&d->ops_row_s, d->ops_rows_s * share))
        m->estimated |= field << 1;
    if (assume(&d->ops_float_s, d->ops_rows_s * FLOAT_SHARE))
        m->estimated |= field << 3;
}

static enum proto_status complete_machine(struct plan_machine *m, struct proto_error *error)
{
    for (int kind = 0; kind < PLAN_N_DEVICES; kind++) {
        const struct plan_device *d = &m->device[kind];
        if (!is_amount(d->read_bytes_s) || !is_amount(d->ops_row_s) || !is_amount(d->ops_rows_s) ||
            !is_amount(d->ops_float_s))
            return proto_fail(error, PROTO_INVALID,
                              "machine %s: a rate of its %s is negative or not a number", m->name,
                              kind == PLAN_GPU ? "GPU" : "CPU");
        complete_device(m, (enum plan_device_kind)kind);
    }
    if (m->device[PLAN_CPU].memory_bytes == 0)
        return proto_fail(error, PROTO_INVALID,
                          "machine %s has no memory, expected the bytes that it offers", m->name);
    if (!is_amount(m->compute_share) || !is_amount(m->read_share) || m->compute_share > 1 ||
        m->read_share > 1)
        return proto_fail(error, PROTO_INVALID,
                          "machine %s: its share of a computer is not from 0 to 1", m->name);
    assume(&m->compute_share, 1);
    assume(&m->read_share, 1);
    if (!is_amount(m->disk_bytes_s) || !is_amount(m->overhead_s) || !is_amount(m->request_s))
        return proto_fail(error, PROTO_INVALID,
                          "machine %s: its disk's rate or an overhead is negative or not a number",
                          m->name);
    m->estimated |= assume(&m->disk_bytes_s, DISK) ? PLAN_ESTIMATED_DISK : 0;
    m->estimated |= assume(&m->overhead_s, STAGE_OVERHEAD) ? PLAN_ESTIMATED_OVERHEAD : 0;
    m->estimated |= assume(&m->request_s, REQUEST) ? PLAN_ESTIMATED_REQUEST : 0;
    if (m->threads == 0) {
        m->threads = THREADS;
        m->estimated |= PLAN_ESTIMATED_THREADS;
    }
    return PROTO_OK;
}

static int compare_links(const struct plan_named_link *a, uint32_t from, uint32_t to)
{
    if (a->from != from)
        return a->from < from ? -1 : 1;
    return a->to == to ? 0 : a->to < to ? -1 : 1;
}

static bool is_end(const struct plan_cluster *c, uint32_t end)
{
    return end < c->n_machines || end == PLAN_ELSEWHERE;
}

static const char *end_name(const struct plan_cluster *c, uint32_t end)
{
    return end == PLAN_ELSEWHERE ? "the coordinator" : c->machines[end].name;
}

static enum proto_status complete_link(struct plan_cluster *c, uint32_t i,
                                       struct proto_error *error)
{
    struct plan_named_link *l = &c->links[i];
    if (!is_end(c, l->from) || !is_end(c, l->to) || l->from == l->to)
        return proto_fail(error, PROTO_INVALID,
                          "link %u is from machine %u to %u, expected below %u", i, l->from, l->to,
                          c->n_machines);
    if (i > 0 && compare_links(&c->links[i - 1], l->from, l->to) >= 0)
        return proto_fail(error, PROTO_INVALID,
                          "link %u, from %s to %s, is named twice or is not in order", i,
                          end_name(c, l->from), end_name(c, l->to));
    if (!is_amount(l->link.rtt_s) || !is_amount(l->link.bytes_s))
        return proto_fail(error, PROTO_INVALID,
                          "the link from %s to %s: a number is negative or none",
                          end_name(c, l->from), end_name(c, l->to));
    assume(&l->link.rtt_s, c->any.rtt_s);
    assume(&l->link.bytes_s, c->any.bytes_s);
    return PROTO_OK;
}

static enum proto_status complete_links(struct plan_cluster *c, struct proto_error *error)
{
    if (!is_amount(c->any.rtt_s) || !is_amount(c->any.bytes_s) || !is_amount(c->local.rtt_s) ||
        !is_amount(c->local.bytes_s))
        return proto_fail(error, PROTO_INVALID,
                          "the link between any two machines: a number is "
                          "negative or none");
    c->link_estimated |= assume(&c->any.rtt_s, LINK_RTT);
    c->link_estimated |= assume(&c->any.bytes_s, LINK_BYTES);
    assume(&c->local.rtt_s, LOCAL_RTT);
    assume(&c->local.bytes_s, LOCAL_BYTES);
    enum proto_status status = PROTO_OK;
    for (uint32_t i = 0; i < c->n_links && status == PROTO_OK; i++)
        status = complete_link(c, i, error);
    return status;
}

static bool is_shared(const struct plan_cluster *c)
{
    for (uint32_t i = 0; i < c->n_machines; i++) {
        for (uint32_t k = 0; k < i && c->machines[i].computer; k++) {
            if (c->machines[k].computer == c->machines[i].computer)
                return true;
        }
    }
    return false;
}

enum proto_status plan_cluster_complete(struct plan_cluster *cluster, struct proto_error *error)
{
    uint32_t coordinator = UINT32_MAX;
    if (cluster->n_machines == 0 || cluster->n_machines > PLAN_MAX_MACHINES)
        return proto_fail(error, PROTO_LIMIT, "a cluster of %u machines, expected 1 to %u",
                          cluster->n_machines, PLAN_MAX_MACHINES);
    for (uint32_t i = 0; i < cluster->n_machines; i++) {
        struct plan_machine *m = &cluster->machines[i];
        enum proto_status status = complete_machine(m, error);
        if (status != PROTO_OK)
            return status;
        if (m->coordinator && coordinator != UINT32_MAX)
            return proto_fail(error, PROTO_INVALID,
                              "machines %s and %s both have the coordinator, expected one at most",
                              cluster->machines[coordinator].name, m->name);
        coordinator = m->coordinator ? i : coordinator;
    }
    cluster->shared = is_shared(cluster);
    return complete_links(cluster, error);
}

static bool same_computer(const struct plan_cluster *cluster, uint32_t a, uint32_t b)
{
    return a != PLAN_ELSEWHERE && b != PLAN_ELSEWHERE && cluster->machines[a].computer &&
           cluster->machines[a].computer == cluster->machines[b].computer;
}

struct plan_link plan_cluster_link(const struct plan_cluster *cluster, uint32_t from, uint32_t to)
{
    if (from == to)
        return cluster->local;
    uint32_t first = 0, end = cluster->n_links;
    while (first < end) {
        uint32_t middle = first + (end - first) / 2;
        int order = compare_links(&cluster->links[middle], from, to);
        if (order == 0)
            return cluster->links[middle].link;
        if (order < 0)
            first = middle + 1;
        else
            end = middle;
    }
    return same_computer(cluster, from, to) ? cluster->local : cluster->any;
}

uint32_t plan_cluster_coordinator(const struct plan_cluster *cluster)
{
    for (uint32_t i = 0; i < cluster->n_machines; i++) {
        if (cluster->machines[i].coordinator)
            return i;
    }
    return UINT32_MAX;
}

enum proto_status plan_cluster_copy(struct plan_cluster **out, const struct plan_cluster *cluster,
                                    uint32_t more, struct proto_error *error)
{
    struct plan_cluster *copy = calloc(1, sizeof *copy);
    size_t n = (size_t)cluster->n_machines + more;
    *out = NULL;
    if (copy) {
        *copy = *cluster;
        copy->machines = calloc(n, sizeof *copy->machines);
        copy->links = calloc((size_t)cluster->n_links + 1, sizeof *copy->links);
    }
    if (!copy || !copy->machines || !copy->links) {
        plan_cluster_destroy(copy);
        return proto_fail_nomem(error, n * sizeof *copy->machines, "a copy of the cluster");
    }
    memcpy(copy->machines, cluster->machines, cluster->n_machines * sizeof *copy->machines);
    if (cluster->n_links)
        memcpy(copy->links, cluster->links, cluster->n_links * sizeof *copy->links);
    *out = copy;
    return PROTO_OK;
}

void plan_cluster_destroy(struct plan_cluster *cluster)
{
    if (!cluster)
        return;
    free(cluster->machines);
    free(cluster->links);
    free(cluster);
}

/* The slowest of the types that were measured and are kept in blocks, or not; 0: none. */
static double slowest_rate(const double rates[KERN_TYPE_SLOTS], bool blocks)
{
    double slowest = 0;
    for (uint32_t t = 0; t < KERN_TYPE_SLOTS; t++) {
        const struct kern_type_info *type = kern_type_find(t);
        if (rates[t] > 0 && type && (type->block > 1) == blocks)
            slowest = slowest > 0 ? fmin(slowest, rates[t]) : rates[t];
    }
    return slowest;
}

/* Operations over the time that they take by type; 0: nothing was measured. */
static double mean_rate(const double rates[KERN_TYPE_SLOTS], const double ops[KERN_TYPE_SLOTS])
{
    double slowest[] = {slowest_rate(rates, false), slowest_rate(rates, true)};
    double sum = 0, seconds = 0;
    if (slowest[0] <= 0 && slowest[1] <= 0)
        return 0;
    for (int kind = 0; kind < 2; kind++)
        slowest[kind] = slowest[kind] > 0 ? slowest[kind] : slowest[1 - kind];
    for (uint32_t t = 0; t < KERN_TYPE_SLOTS; t++) {
        const struct kern_type_info *type = kern_type_find(t);
        sum += ops[t];
        seconds += ops[t] / (rates[t] > 0 ? rates[t] : slowest[type && type->block > 1]);
    }
    return sum > 0 ? sum / seconds : fmin(slowest[0], slowest[1]);
}

void plan_device_rate(struct plan_device *device, const struct plan_type_rates *rates,
                      const double type_ops[KERN_TYPE_SLOTS])
{
    double row = mean_rate(rates->row_s, type_ops), rows = mean_rate(rates->rows_s, type_ops);
    device->ops_row_s = row > 0 ? row : device->ops_row_s;
    device->ops_rows_s = rows > 0 ? rows : device->ops_rows_s;
}
