/* SPDX-License-Identifier: Apache-2.0 */
#include "shard/plan/work.h"

#include <math.h>

/* coordinator/scheduler.c */
#define CHUNKS_A_STAGE 4
#define MIN_CHUNK      32
#define CHUNK_STEP     16

double plan__chunk_rows(double prompt, uint32_t stages, uint32_t max_rows)
{
    double chunk = max_rows;
    if (stages > 1) {
        chunk = floor(prompt / (CHUNKS_A_STAGE * stages)) + 1;
        chunk = fmax(ceil(chunk / CHUNK_STEP) * CHUNK_STEP, MIN_CHUNK);
    }
    return fmin(fmin(chunk, prompt), max_rows);
}

static struct plan__time bound(double memory_s, double compute_s)
{
    return memory_s >= compute_s ? (struct plan__time){.memory_s = memory_s}
                                 : (struct plan__time){.compute_s = compute_s};
}

struct plan__time plan__products(const struct plan_device *device, double bytes, double ops,
                                 double rows)
{
    double more = fmax(device->ops_rows_s / device->ops_row_s - 1, 0);
    double rate = device->ops_rows_s * rows / (rows + more);
    return bound(bytes / device->read_bytes_s, ops > 0 ? ops / rate : 0);
}

struct plan__time plan__trunk(const struct plan_device *device, const struct plan_layer *layer,
                              const struct plan__batch *batch)
{
    double keys = plan_layer_keys(layer, batch->depth);
    double bytes = (double)(layer->weight_bytes - layer->beside_bytes);
    double kv = batch->seqs * (keys * (double)layer->key_bytes + (double)layer->state_bytes);
    double floats = batch->rows * (keys * layer->key_ops + layer->row_ops);
    struct plan__time t =
        plan__products(device, bytes, batch->rows * (layer->ops - layer->beside_ops), batch->rows);
    plan__add(&t, bound(kv / device->read_bytes_s, floats / device->ops_float_s));
    return t;
}

struct plan__time plan__beside(const struct plan_device *device, const struct plan_layer *layer,
                               double rows)
{
    return plan__products(device, (double)layer->beside_bytes, rows * layer->beside_ops, rows);
}

struct plan__time plan__experts(const struct plan_device *device, const struct plan_layer *layer,
                                double touched, double entries, uint32_t segments)
{
    double part = layer->n_segments ? (double)segments / layer->n_segments : 0;
    if (touched <= 0)
        return (struct plan__time){0};
    return plan__products(device, touched * (double)layer->expert_bytes * part,
                          entries * layer->expert_ops * part, entries / touched);
}

struct plan__time plan__head(const struct plan_device *device, const struct plan_shape *shape,
                             double rows)
{
    if (rows <= 0)
        return (struct plan__time){0};
    return plan__products(device, (double)shape->head_bytes, rows * shape->head_ops, rows);
}

double plan__use_chance(const struct plan_layer *layer, double experts)
{
    double none = 1;
    for (uint32_t i = 0; i < layer->n_used; i++)
        none *= fmax(layer->n_experts - experts - i, 0) / (layer->n_experts - i);
    return 1 - none;
}

/* A node of the tree of experts, and how many of them the host has. */
struct node {
    uint32_t lo, hi, held;
};

static struct node node_of(uint32_t lo, uint32_t hi, uint32_t first, uint32_t end)
{
    uint32_t from = lo > first ? lo : first, to = hi < end ? hi : end;
    return (struct node){lo, hi, to > from ? to - from : 0};
}

/*
 * Nodes whose experts that a row uses are all the host's, and are some, and whose parent's are not:
 * with u(m) the chance that a row uses one of m experts, a node with `out` experts of others and
 * `in` of the host's is such with the chance u(out + in) - u(out); both it, not being empty, and
 * its parent are with u(parent's out + in) - u(parent's out). Below a node that is all the host's
 * the two are the same.
 */
static double count_groups(const double *u, struct node node, const struct node *parent,
                           uint32_t first, uint32_t end)
{
    uint32_t out = node.hi - node.lo - node.held, middle = (node.lo + node.hi) / 2;
    double sum = u[out + node.held] - u[out];
    if (node.held == 0)
        return 0;
    if (parent) {
        uint32_t parent_out = parent->hi - parent->lo - parent->held;
        sum -= u[parent_out + node.held] - u[parent_out];
    }
    if (out == 0)
        return sum;
    return sum + count_groups(u, node_of(node.lo, middle, first, end), &node, first, end) +
           count_groups(u, node_of(middle, node.hi, first, end), &node, first, end);
}

double plan__groups(const struct plan_layer *layer, uint32_t first, uint32_t end)
{
    double u[PROTO_MAX_EXPERTS + 1], none = 1;
    uint32_t n = layer->n_experts;
    if (layer->n_used == 1 || n > PROTO_MAX_EXPERTS)
        return plan__use_chance(layer, end - first);
    for (uint32_t m = 0; m <= n; m++) {
        u[m] = 1 - none;
        none *= m + layer->n_used < n ? (double)(n - m - layer->n_used) / (n - m) : 0;
    }
    return count_groups(u, node_of(0, n, first, end), NULL, first, end);
}

double plan__all_chance(const struct plan_layer *layer, double experts)
{
    return 1 - plan__use_chance(layer, layer->n_experts - experts);
}

double plan_range_answers(const struct plan_layer *layer, uint32_t first, uint32_t end,
                          uint32_t segments)
{
    double all = plan__all_chance(layer, end - first);
    return layer->n_used == 0 ? 0 : all + (plan__groups(layer, first, end) - all) * segments;
}

bool plan__same_experts(const struct plan_layer *a, const struct plan_layer *b)
{
    return a->n_experts == b->n_experts && a->n_used == b->n_used &&
           a->n_segments == b->n_segments && a->expert_bytes == b->expert_bytes &&
           a->expert_ops >= b->expert_ops && a->expert_ops <= b->expert_ops &&
           a->beside_bytes == b->beside_bytes && a->beside_ops >= b->beside_ops &&
           a->beside_ops <= b->beside_ops && a->request_bytes == b->request_bytes &&
           a->answer_bytes == b->answer_bytes && !a->popular && !b->popular;
}
