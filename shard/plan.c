/* SPDX-License-Identifier: Apache-2.0 */
#include "shard/plan.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "shard/kv.h"
#include "shard/plan/search.h"

struct planner {
    const struct shard_model *model;
    const struct shard_plan_worker *workers;
    uint32_t n_workers;
    const struct shard_plan_options *options;
    struct proto_error *error;
};

static enum proto_status fail_layers(const struct planner *p, const char *why)
{
    uint32_t n = p->model->n_layers;
    return proto_fail(p->error, PROTO_INVALID,
                      "layers '%.200s': %s; expected ranges for workers in order that cover layers "
                      "0 to %u without gaps, such as \"0-%u\"",
                      p->options->layers, why, n - 1, n - 1);
}

static bool parse_number(const char **text, uint32_t *out)
{
    char *end;
    if (**text < '0' || **text > '9')
        return false;
    unsigned long value = strtoul(*text, &end, 10);
    *out = value > UINT32_MAX ? UINT32_MAX : (uint32_t)value;
    *text = end;
    return true;
}

/* Ranges of layers as the text says. */
struct ranges {
    uint32_t n;
    uint32_t ends[PROTO_MAX_WORKERS];
};

static enum proto_status parse_ranges(const struct planner *p, struct ranges *out)
{
    const char *text = p->options->layers;
    uint32_t next = 0, n = p->model->n_layers;
    out->n = 0;
    for (;;) {
        uint32_t first, last;
        if (!parse_number(&text, &first))
            return fail_layers(p, "a number is missing");
        last = first;
        if (*text == '-' && (text++, !parse_number(&text, &last)))
            return fail_layers(p, "a number is missing after '-'");
        if (out->n == p->n_workers)
            return fail_layers(p, "there are more ranges than workers");
        if (first != next || last < first || last >= n)
            return fail_layers(p, "a range is out of order, leaves a gap or ends too late");
        out->ends[out->n++] = next = last + 1;
        if (*text == '\0')
            break;
        if (*text++ != ',')
            return fail_layers(p, "a range is not followed by ','");
    }
    if (next != n)
        return fail_layers(p, "the last layers are missing");
    if (p->options->stages && p->options->stages != out->n)
        return fail_layers(p, "there are not as many ranges as stages");
    return PROTO_OK;
}

/* The workers as machines whose speeds nobody knows. */
static enum proto_status make_cluster(struct plan_cluster *cluster, const struct planner *p)
{
    *cluster = (struct plan_cluster){.n_machines = p->n_workers};
    if (p->n_workers == 0 || p->n_workers > PROTO_MAX_WORKERS)
        return proto_fail(p->error, PROTO_CAPACITY,
                          "%u workers have joined, expected 1 to %u; start caravan-worker on the "
                          "machines that are to help",
                          p->n_workers, PROTO_MAX_WORKERS);
    cluster->machines = calloc(p->n_workers, sizeof *cluster->machines);
    if (!cluster->machines)
        return proto_fail_nomem(p->error, p->n_workers * sizeof *cluster->machines, "the plan");
    for (uint32_t i = 0; i < p->n_workers; i++) {
        struct plan_machine *m = &cluster->machines[i];
        snprintf(m->name, sizeof m->name, "%s", p->workers[i].name);
        m->device[PLAN_CPU].memory_bytes = p->workers[i].memory_bytes;
        m->threads = p->workers[i].threads;
    }
    return PROTO_OK;
}

static struct shard_plan *new_plan(const struct plan_placement *placement, uint32_t n_parts)
{
    struct shard_plan *plan = calloc(1, sizeof *plan);
    if (!plan)
        return NULL;
    plan->stages = calloc(placement->n_stages, sizeof *plan->stages);
    plan->hosts = calloc((size_t)placement->n_workers, sizeof *plan->hosts);
    plan->parts = calloc((size_t)n_parts + 1, sizeof *plan->parts);
    if (plan->stages && plan->hosts && plan->parts)
        return plan;
    shard_plan_destroy(plan);
    return NULL;
}

/* The stage of a worker, or NULL. */
static const struct shard_stage *stage_of(const struct shard_plan *plan, uint32_t worker)
{
    for (uint32_t s = 0; s < plan->n_stages; s++) {
        if (plan->stages[s].worker == worker)
            return &plan->stages[s];
    }
    return NULL;
}

/* Workers that parts name, each once; what a stage's worker takes is the stage's. */
static void convert_parts(struct shard_plan *plan, const struct plan_placement *placement,
                          const struct plan_parts *parts)
{
    plan->n_parts = parts->n;
    for (uint32_t i = 0; i < parts->n; i++) {
        const struct plan_worker *w = &placement->workers[parts->at[i].worker];
        uint32_t h = 0;
        plan->parts[i] = parts->at[i];
        plan->parts[i].worker = w->machine;
        while (h < plan->n_hosts && plan->hosts[h].worker != w->machine)
            h++;
        if (h < plan->n_hosts)
            continue;
        struct shard_plan_host *host = &plan->hosts[plan->n_hosts++];
        *host = (struct shard_plan_host){.worker = w->machine};
        if (!stage_of(plan, w->machine)) {
            host->weight_bytes = w->weight_bytes;
            host->scratch_bytes = w->scratch_bytes;
        }
    }
}

enum proto_status shard_plan_from(struct shard_plan **out, const struct plan_placement *placement,
                                  const struct plan_shape *shape, struct proto_error *error)
{
    struct plan_parts parts;
    enum proto_status status = plan_parts_create(&parts, placement, shape, error);
    if (status != PROTO_OK)
        return status;
    struct shard_plan *plan = new_plan(placement, parts.n);
    if (!plan) {
        free(parts.at);
        return proto_fail_nomem(error, placement->n_stages * sizeof *plan->stages, "the plan");
    }
    plan->n_stages = placement->n_stages;
    for (uint32_t s = 0; s < plan->n_stages; s++) {
        const struct plan_stage *stage = &placement->stages[s];
        const struct plan_worker *w = &placement->workers[stage->worker];
        plan->stages[s] = (struct shard_stage){.worker = w->machine,
                                               .layer_first = stage->layer_first,
                                               .layer_end = stage->layer_end,
                                               .embed = stage->embed,
                                               .head = stage->head,
                                               .weight_bytes = w->weight_bytes,
                                               .kv_bytes = w->kv_bytes,
                                               .scratch_bytes = w->scratch_bytes};
    }
    convert_parts(plan, placement, &parts);
    free(parts.at);
    *out = plan;
    return PROTO_OK;
}

static enum proto_status place(struct plan_placement **out, const struct planner *p,
                               const struct plan_shape *shape, const struct plan_cluster *cluster)
{
    const struct shard_plan_options *o = p->options;
    struct ranges ranges;
    struct plan_options options = {.split = o->split == SHARD_SPLIT_EXPERTS ? PLAN_SPLIT_EXPERTS
                                                                            : PLAN_SPLIT_LAYERS,
                                   .slices = o->slices,
                                   .replicas = o->replicas,
                                   .stages = o->stages};
    if (o->layers) {
        enum proto_status status = parse_ranges(p, &ranges);
        if (status != PROTO_OK)
            return status;
        options.stages = ranges.n;
        options.stage_ends = ranges.ends;
    }
    return plan_by_rule(out, shape, cluster, &options, p->error);
}

/* Memory as if every worker held all experts, so that they are shared as all else is. */
static void add_experts(struct plan_cluster *cluster, const struct plan_shape *shape)
{
    uint64_t bytes = 0;
    for (uint32_t il = 0; il < shape->n_layers; il++)
        bytes += shape->layers[il].n_experts * shape->layers[il].expert_bytes;
    for (uint32_t i = 0; i < cluster->n_machines; i++)
        cluster->machines[i].device[PLAN_CPU].memory_bytes += bytes;
}

static enum proto_status try_plan(const struct planner *p, struct shard_plan **out)
{
    const struct shard_plan_options *o = p->options;
    struct plan_shape_options sizes = {o->kv, o->ctx, o->max_seqs, o->max_rows};
    struct plan_cluster cluster;
    struct plan_shape *shape = NULL;
    struct plan_placement *placement = NULL;
    enum proto_status status = make_cluster(&cluster, p);
    if (status == PROTO_OK)
        status = plan_shape_create(&shape, p->model, &sizes, p->error);
    if (status == PROTO_OK && o->map_experts)
        add_experts(&cluster, shape);
    if (status == PROTO_OK)
        status = place(&placement, p, shape, &cluster);
    if (status == PROTO_OK)
        status = shard_plan_from(out, placement, shape, p->error);
    plan_placement_destroy(placement);
    plan_shape_destroy(shape);
    free(cluster.machines);
    return status;
}

/* Whole pages of the largest context that fits; 0: none does. */
static uint64_t largest_pages(const struct planner *p)
{
    uint64_t fits = 0, beyond = p->options->ctx / SHARD_KV_PAGE_ROWS + 1;
    while (beyond - fits > 1) {
        struct shard_plan *plan;
        struct shard_plan_options options = *p->options;
        struct planner less = *p;
        uint64_t middle = fits + (beyond - fits) / 2;
        options.ctx = middle * SHARD_KV_PAGE_ROWS;
        less.options = &options;
        less.error = NULL;
        if (try_plan(&less, &plan) == PROTO_OK) {
            shard_plan_destroy(plan);
            fits = middle;
        } else {
            beyond = middle;
        }
    }
    return fits;
}

/* What can be done about it, behind the error's text. */
static void advise(const struct planner *p)
{
    uint64_t pages = largest_pages(p);
    char text[sizeof p->error->text];
    snprintf(text, sizeof text, "%s", p->error->text);
    if (pages)
        proto_fail(p->error, PROTO_CAPACITY,
                   "%s; lower the context (--ctx %llu would fit), or add workers or memory", text,
                   (unsigned long long)pages * SHARD_KV_PAGE_ROWS);
    else
        proto_fail(p->error, PROTO_CAPACITY,
                   "%s; add workers or memory, no context is small enough", text);
}

enum proto_status shard_plan_create(struct shard_plan **out, const struct shard_model *model,
                                    const struct shard_plan_worker *workers, uint32_t n_workers,
                                    const struct shard_plan_options *options,
                                    struct proto_error *error)
{
    const struct planner p = {.model = model,
                              .workers = workers,
                              .n_workers = n_workers,
                              .options = options,
                              .error = error};
    *out = NULL;
    enum proto_status status = try_plan(&p, out);
    if (status == PROTO_CAPACITY && n_workers > 0 && n_workers <= PROTO_MAX_WORKERS)
        advise(&p);
    return status;
}

void shard_plan_destroy(struct shard_plan *plan)
{
    if (!plan)
        return;
    free(plan->stages);
    free(plan->hosts);
    free(plan->parts);
    free(plan);
}
