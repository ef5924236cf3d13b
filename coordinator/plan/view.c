/* SPDX-License-Identifier: Apache-2.0 */
#include "coordinator/plan/flows.h"

#include <limits.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DEFAULT_CTX  8192
#define MAX_CHANGES  64 /* that are tried */
#define MOST_OF_KIND 2u
#define MOST_RANGES  3u    /* of experts, that are named */
#define LEAST_GAIN   0.005 /* that is worth a line */

/* Quantisations that may be recommended, from the best to the smallest. */
static const char *const types[] = {"F16",    "Q8_0",   "Q6_K", "Q5_K_M",  "Q4_K_M",
                                    "IQ4_XS", "Q3_K_M", "Q2_K", "IQ2_XXS", "IQ1_S"};

#define N_TYPES (sizeof types / sizeof types[0])

/* How wide the model's weights would be in each quantisation. */
enum proto_status coord_plan_types(struct plan_type *out, uint32_t *n,
                                   const struct coord_source *source,
                                   const struct plan_shape_options *options,
                                   struct proto_error *error)
{
    for (size_t i = 0; i < N_TYPES; i++) {
        struct shard_mixture mixture;
        struct coord_source other;
        struct plan_shape *shape;
        enum proto_status status = shard_mixture_read(&mixture, types[i], error);
        if (!status)
            status = coord_source_as(&other, source, &mixture, error);
        if (status)
            return status;
        status = plan_shape_create(&shape, other.model, options, error);
        if (!status) {
            struct plan_type *type = &out[(*n)++];
            snprintf(type->name, sizeof type->name, "%s", types[i]);
            type->bits = shape->weight_bits;
        }
        plan_shape_destroy(status ? NULL : shape);
        coord_source_close(&other);
        if (status)
            return status;
    }
    return PROTO_OK;
}

static bool helps(const struct coord_plan_view *view, const struct plan_change *change)
{
    return change->fits && (!view->answer || change->gain >= LEAST_GAIN);
}

/* The largest type among changes that help: smaller ones always help more, and cost more. */
static int largest_type(const struct coord_plan_view *view, const struct plan_change *changes,
                        uint32_t n)
{
    int largest = INT_MAX;
    for (uint32_t i = 0; i < n; i++)
        if (changes[i].kind == PLAN_OTHER_TYPE && helps(view, &changes[i]) &&
            changes[i].type < largest)
            largest = changes[i].type;
    return largest;
}

/* Keeps the best of each kind that help. */
static void keep_changes(struct coord_plan_view *view, const struct plan_change *changes,
                         uint32_t n)
{
    uint32_t of_kind[PLAN_WITHOUT_MACHINE + 1] = {0};
    int type = largest_type(view, changes, n);
    for (uint32_t i = 0; i < n && view->n_changes < COORD_PLAN_MAX_CHANGES; i++) {
        const struct plan_change *change = &changes[i];
        bool other = change->kind == PLAN_OTHER_TYPE && change->type != type;
        if (helps(view, change) && !other && of_kind[change->kind]++ < MOST_OF_KIND)
            view->changes[view->n_changes++] = *change;
    }
}

enum proto_status coord_plan_view_advise(struct coord_plan_view *view, struct proto_error *error)
{
    struct plan_change changes[MAX_CHANGES];
    uint32_t n = MAX_CHANGES;
    enum proto_status status =
        plan_advise(changes, &n, view->answer, view->shape, view->cluster, &view->options, error);
    if (!status)
        keep_changes(view, changes, n);
    return status;
}

static enum proto_status estimate_usage(struct coord_plan_view *view, struct proto_error *error)
{
    const struct plan_placement *placement = view->answer->placement;
    view->usage = calloc(placement->n_workers + 1, sizeof *view->usage);
    if (!view->usage)
        return proto_fail_nomem(error, placement->n_workers * sizeof *view->usage, "a plan");
    return plan_cost_estimate(&view->answer->cost, view->usage, placement, view->shape,
                              view->cluster, &view->load, error);
}

enum proto_status coord_plan_view_begin(struct coord_plan_view *view,
                                        const struct coord_source *source,
                                        const struct plan_cluster *cluster,
                                        const struct coord_plan_request *request,
                                        struct proto_error *error)
{
    struct plan_shape_options options = request->shape;
    *view =
        (struct coord_plan_view){.source = source, .cluster = cluster, .options = request->search};
    if (!options.ctx)
        options.ctx = source->model->n_ctx < DEFAULT_CTX ? source->model->n_ctx : DEFAULT_CTX;
    enum proto_status status = plan_shape_create(&view->shape, source->model, &options, error);
    if (!status)
        view->load = plan_load_complete(&view->options.load, view->shape);
    return status;
}

/* What is said of view->answer. */
static enum proto_status describe(struct coord_plan_view *view, struct proto_error *error)
{
    enum proto_status status = estimate_usage(view, error);
    return status ? status : coord__plan_flows(view, error);
}

enum proto_status coord_plan_view_find(struct coord_plan_view *view, struct proto_error *error)
{
    enum proto_status status =
        plan_search(&view->answer, view->shape, view->cluster, &view->options, error);
    return status ? status : describe(view, error);
}

enum proto_status coord_plan_view_given(struct coord_plan_view *view,
                                        const struct plan_placement *placement,
                                        struct proto_error *error)
{
    struct plan_answer *answer = calloc(1, sizeof *answer);
    if (!answer)
        return proto_fail_nomem(error, sizeof *answer, "a plan");
    enum proto_status status = plan_placement_copy(&answer->placement, placement, error);
    if (!status) {
        plan_placement_measure(answer->placement, view->shape, view->cluster);
        status = plan_placement_refine(answer->placement, view->shape, view->cluster, error);
    }
    if (status) {
        plan_answer_destroy(answer);
        return status;
    }
    plan_answer_destroy(view->answer);
    free(view->usage);
    free(view->flows);
    view->answer = answer;
    view->usage = NULL;
    view->flows = NULL;
    return describe(view, error);
}

enum proto_status coord_plan_view_search(struct coord_plan_view *view,
                                         const struct coord_source *source,
                                         const struct plan_cluster *cluster,
                                         const struct coord_plan_request *request,
                                         struct proto_error *error)
{
    enum proto_status status = coord_plan_view_begin(view, source, cluster, request, error);
    return status ? status : coord_plan_view_find(view, error);
}

enum proto_status coord_plan_view_init(struct coord_plan_view *view,
                                       const struct coord_source *source,
                                       const struct plan_cluster *cluster,
                                       const struct coord_plan_request *request,
                                       struct proto_error *error)
{
    enum proto_status status = coord_plan_view_begin(view, source, cluster, request, error);
    if (!status)
        status = coord_plan_types(view->types, &view->options.n_types, view->source,
                                  &view->shape->options, error);
    if (status)
        return status;
    view->options.types = view->types;
    status = coord_plan_view_find(view, error);
    if (status == PROTO_CAPACITY)
        coord_plan_view_advise(view, NULL);
    return status ? status : coord_plan_view_advise(view, error);
}

void coord_plan_view_finish(struct coord_plan_view *view)
{
    free(view->usage);
    free(view->flows);
    plan_answer_destroy(view->answer);
    plan_shape_destroy(view->shape);
    *view = (struct coord_plan_view){0};
}

double coord_plan_prefill(const struct coord_plan_view *view)
{
    const struct plan_cost *cost = &view->answer->cost;
    return view->options.aim == PLAN_THROUGHPUT ? 1 / cost->row_s
                                                : view->load.prompt / cost->prompt_s;
}

double coord_plan_decode(const struct coord_plan_view *view)
{
    const struct plan_cost *cost = &view->answer->cost;
    return view->options.aim == PLAN_THROUGHPUT ? view->load.sequences / cost->step_s
                                                : 1 / cost->decode_s;
}

const struct plan_bottleneck *coord_plan_bottleneck(const struct coord_plan_view *view)
{
    const struct plan_cost *cost = &view->answer->cost;
    return view->options.aim == PLAN_THROUGHPUT ? &cost->many_bound : &cost->decode_bound;
}

const char *coord_plan_number(double value, char text[32])
{
    int digits = value > 0 ? (int)floor(log10(value) + 1e-9) : 0;
    snprintf(text, 32, "%.*f", digits > 1 ? 0 : digits < -4 ? 6 : 2 - digits, value);
    return text;
}

const char *coord_plan_last_line(const struct coord_plan_view *view, char text[COORD_PLAN_TEXT * 2])
{
    char prefill[32], decode[32], bound[PLAN_BOTTLENECK_TEXT];
    snprintf(text, COORD_PLAN_TEXT * 2,
             "predicted: %s tokens/s prefill, %s tokens/s decode; bottleneck: %s",
             coord_plan_number(coord_plan_prefill(view), prefill),
             coord_plan_number(coord_plan_decode(view), decode),
             plan_bottleneck_text(coord_plan_bottleneck(view), view->cluster, bound));
    return text;
}

const char *coord_plan_link(const struct coord_plan_view *view, uint32_t from, uint32_t to,
                            char text[COORD_PLAN_TEXT])
{
    char rate[32];
    struct plan_link link = plan_cluster_link(view->cluster, from, to);
    if (from == to && from != UINT32_MAX)
        snprintf(text, COORD_PLAN_TEXT, "on the same machine");
    else
        snprintf(text, COORD_PLAN_TEXT, "%.3g ms, %s Mbit/s", link.rtt_s * 1e3,
                 coord_plan_number(link.bytes_s * 8e-6, rate));
    return text;
}

static const struct plan_worker *worker_of(const struct coord_plan_view *view, uint32_t worker)
{
    return &view->answer->placement->workers[worker];
}

const char *coord_plan_worker_name(const struct coord_plan_view *view, uint32_t worker,
                                   char text[COORD_PLAN_TEXT])
{
    const struct plan_worker *w = worker_of(view, worker);
    snprintf(text, COORD_PLAN_TEXT, "%s%s", view->cluster->machines[w->machine].name,
             w->device == PLAN_GPU ? " GPU" : "");
    return text;
}

uint64_t coord_plan_worker_bytes(const struct coord_plan_view *view, uint32_t worker)
{
    const struct plan_worker *w = worker_of(view, worker);
    return w->weight_bytes + w->kv_bytes + w->scratch_bytes;
}

uint64_t coord_plan_worker_memory(const struct coord_plan_view *view, uint32_t worker)
{
    const struct plan_worker *w = worker_of(view, worker);
    return view->cluster->machines[w->machine].device[w->device].memory_bytes;
}

/* Appends to a text that is cut where it is full. */
static void append(char text[COORD_PLAN_TEXT], const char *format, ...)
    __attribute__((format(printf, 2, 3)));

static void append(char text[COORD_PLAN_TEXT], const char *format, ...)
{
    size_t len = strlen(text);
    va_list args;
    va_start(args, format);
    vsnprintf(text + len, COORD_PLAN_TEXT - len, format, args);
    va_end(args);
}

static void append_range(char text[COORD_PLAN_TEXT], const char *what, uint32_t first, uint32_t end)
{
    append(text, end - first == 1 ? "%s%u" : "%s%u-%u", what, first, end - 1);
}

static void append_stages(const struct coord_plan_view *view, uint32_t worker,
                          char text[COORD_PLAN_TEXT])
{
    const struct plan_placement *p = view->answer->placement;
    for (uint32_t s = 0; s < p->n_stages; s++) {
        const struct plan_stage *stage = &p->stages[s];
        if (stage->worker != worker)
            continue;
        append(text, "%s", text[0] ? "; " : "");
        append_range(text, "layers ", stage->layer_first, stage->layer_end);
        append(text, "%s%s", stage->embed ? ", embedding" : "", stage->head ? ", head" : "");
    }
}

static bool same_experts(const struct shard_expert_part *a, const struct shard_expert_part *b)
{
    return a->expert_first == b->expert_first && a->expert_end == b->expert_end &&
           a->slice == b->slice && a->n_slices == b->n_slices;
}

/* Whether part i of the worker is the first with its experts: others differ in their layers. */
static bool is_new(const struct plan_placement *p, uint32_t i)
{
    for (uint32_t k = 0; k < i; k++)
        if (p->parts[k].worker == p->parts[i].worker && same_experts(&p->parts[k], &p->parts[i]))
            return false;
    return true;
}

/* Marks the expert layers of a part; how many were not marked before. */
static uint32_t mark_layers(const struct plan_shape *shape, const struct shard_expert_part *part,
                            bool marks[PROTO_MAX_LAYERS])
{
    uint32_t n = 0;
    for (uint32_t il = part->layer_first; il < part->layer_end; il++) {
        n += shape->layers[il].n_experts > 0 && !marks[il];
        marks[il] = true;
    }
    return n;
}

/* "experts 0-21 (1/2), 54-72 (2/2) of 24 layers": the first and the second of two slices. */
static void append_parts(const struct coord_plan_view *view, uint32_t worker,
                         char text[COORD_PLAN_TEXT])
{
    const struct plan_placement *p = view->answer->placement;
    bool marks[PROTO_MAX_LAYERS] = {false};
    uint32_t layers = 0, ranges = 0;
    for (uint32_t i = 0; i < p->n_parts; i++) {
        const struct shard_expert_part *part = &p->parts[i];
        if (part->worker != worker)
            continue;
        layers += mark_layers(view->shape, part, marks);
        if (!is_new(p, i) || ++ranges > MOST_RANGES)
            continue;
        append(text, "%s", ranges > 1 ? ", " : text[0] ? "; experts " : "experts ");
        append_range(text, "", part->expert_first, part->expert_end);
        if (part->n_slices > 1)
            append(text, " (%u/%u)", part->slice + 1, part->n_slices);
    }
    if (ranges > MOST_RANGES)
        append(text, " and %u more", ranges - MOST_RANGES);
    if (ranges)
        append(text, " of %u layer%s", layers, layers == 1 ? "" : "s");
}

const char *coord_plan_worker_holds(const struct coord_plan_view *view, uint32_t worker,
                                    char text[COORD_PLAN_TEXT])
{
    text[0] = '\0';
    append_stages(view, worker, text);
    append_parts(view, worker, text);
    return text;
}
