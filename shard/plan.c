/* SPDX-License-Identifier: Apache-2.0 */
#include "shard/plan.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "shard/kv.h"

/* What a slice would take, from sums over layers: bytes of layers [a, b) = sums[b] - sums[a]. */
struct costs {
    uint64_t *sums;             /* n_layers + 1 */
    uint64_t *shared;           /* n_layers + 1: KV of layers before that later ones see */
    uint64_t embed, head, tied; /* tied: counted in both, held once by a slice that has both */
    uint64_t scratch, thread_scratch; /* of each worker, and of each of its threads besides */
};

struct planner {
    const struct shard_model *model;
    const struct shard_plan_worker *workers;
    uint32_t n_workers, n_hosts; /* that may be stages; after them, that hold experts */
    const struct shard_plan_options *options;
    struct proto_error *error;
    struct costs costs;
    uint32_t *chosen; /* workers that get layers, in order */
    uint32_t n_stages;
};

#define BYTES_TEXT 32

static const char *bytes_text(uint64_t bytes, char text[BYTES_TEXT])
{
    if (bytes >= 1u << 30)
        snprintf(text, BYTES_TEXT, "%.2f GiB", (double)bytes / (1u << 30));
    else
        snprintf(text, BYTES_TEXT, "%.2f MiB", (double)bytes / (1u << 20));
    return text;
}

/* The split that a worker's program is cut by. Before the plan has parts, experts that are to be
 * elsewhere are on the last worker. */
static struct shard_split split_of(const struct planner *p, const struct shard_plan *plan,
                                   struct shard_expert_part *elsewhere)
{
    *elsewhere = (struct shard_expert_part){.worker = p->n_workers + p->n_hosts - 1,
                                            .layer_end = p->model->n_layers,
                                            .expert_end = p->model->n_experts,
                                            .n_slices = 1};
    struct shard_split split = {0};
    if (plan && plan->n_parts) {
        split.parts = plan->parts;
        split.n_parts = plan->n_parts;
    } else if (p->n_hosts && p->model->n_experts) {
        split.parts = elsewhere;
        split.n_parts = 1;
    }
    return split;
}

/* Fills the three sizes of a stage from the program it would run with that many threads. plan is
 * NULL, or has the parts. */
static enum proto_status measure(const struct planner *p, uint32_t threads,
                                 const struct shard_plan *plan, struct shard_stage *stage)
{
    struct shard_program *program;
    struct shard_expert_part elsewhere;
    struct shard_split split = split_of(p, plan, &elsewhere);
    split.layer_first = stage->layer_first;
    split.layer_end = stage->layer_end;
    split.embed = stage->embed;
    split.head = stage->head;
    split.worker = stage->worker;
    enum proto_status status = shard_program_create_split(&program, p->model, &split, p->error);
    if (status != PROTO_OK)
        return status;
    stage->weight_bytes = shard_program_weight_bytes(program);
    stage->kv_bytes =
        shard_kv_limit(program, p->options->kv, p->options->ctx, p->options->max_seqs);
    stage->scratch_bytes = shard_program_buffer_bytes(program, p->options->max_rows) +
                           threads * shard_attention_scratch_bytes(program, p->options->ctx);
    shard_program_destroy(program);
    return PROTO_OK;
}

static enum proto_status measure_host(const struct planner *p, const struct shard_plan *plan,
                                      struct shard_plan_host *host)
{
    struct shard_program *program;
    struct shard_split split = {
        .worker = host->worker, .parts = plan->parts, .n_parts = plan->n_parts};
    enum proto_status status = shard_program_create_host(&program, p->model, &split, p->error);
    if (status != PROTO_OK)
        return status;
    host->weight_bytes = shard_program_weight_bytes(program);
    host->scratch_bytes = shard_program_buffer_bytes(program, p->options->max_rows);
    shard_program_destroy(program);
    return PROTO_OK;
}

static uint64_t stage_bytes(const struct shard_stage *stage)
{
    return stage->weight_bytes + stage->kv_bytes + stage->scratch_bytes;
}

static enum proto_status fill_costs(struct planner *p)
{
    struct costs *c = &p->costs;
    uint32_t n = p->model->n_layers;
    struct shard_stage embed = {.embed = true}, head = {.head = true};
    struct shard_stage both = {.embed = true, .head = true};
    struct shard_stage all = {.layer_end = n, .embed = true, .head = true}, thread = all;
    enum proto_status status = measure(p, 0, NULL, &embed);
    if (status == PROTO_OK)
        status = measure(p, 0, NULL, &head);
    if (status == PROTO_OK)
        status = measure(p, 0, NULL, &both);
    if (status == PROTO_OK)
        status = measure(p, 0, NULL, &all);
    if (status == PROTO_OK)
        status = measure(p, 1, NULL, &thread);
    c->embed = embed.weight_bytes;
    c->head = head.weight_bytes;
    c->tied = embed.weight_bytes + head.weight_bytes - both.weight_bytes;
    c->scratch = all.scratch_bytes;
    c->thread_scratch = thread.scratch_bytes - all.scratch_bytes;
    for (uint32_t il = 0; il < n && status == PROTO_OK; il++) {
        const struct shard_layer *layer = &p->model->layers[il];
        struct shard_stage one = {.layer_first = il, .layer_end = il + 1};
        status = measure(p, 0, NULL, &one);
        uint64_t own_kv = layer->kv_layer == il ? one.kv_bytes : 0;
        c->sums[il + 1] = c->sums[il] + one.weight_bytes + own_kv;
        c->shared[il + 1] = c->shared[il] + (layer->kv_shared ? own_kv : 0);
    }
    return status;
}

/* Share of worker w's memory that layers [a, b) take. */
static double load(const struct planner *p, uint32_t w, uint32_t a, uint32_t b)
{
    const struct costs *c = &p->costs;
    bool embed = a == 0, head = b == p->model->n_layers;
    bool sees_earlier = p->model->layers[b - 1].kv_layer < a;
    uint64_t scratch = c->scratch + p->workers[w].threads * c->thread_scratch;
    uint64_t bytes = c->sums[b] - c->sums[a] + scratch + (embed ? c->embed : 0) +
                     (head ? c->head : 0) - (embed && head ? c->tied : 0) +
                     (sees_earlier ? c->shared[a] : 0);
    uint64_t memory = p->workers[w].memory_bytes;
    return (double)bytes / (double)(memory ? memory : 1);
}

/* With more workers than layers those with most memory serve, in their order. */
static void choose_workers(struct planner *p)
{
    p->n_stages = p->n_workers < p->model->n_layers ? p->n_workers : p->model->n_layers;
    uint32_t n = 0;
    for (uint32_t w = 0; w < p->n_workers; w++) {
        uint32_t better = 0;
        for (uint32_t v = 0; v < p->n_workers; v++) {
            uint64_t mine = p->workers[w].memory_bytes, other = p->workers[v].memory_bytes;
            better += other > mine || (other == mine && v < w);
        }
        if (better < p->n_stages)
            p->chosen[n++] = w;
    }
}

/*
 * The split whose fullest worker is least full, by dynamic programming over (stages, layers):
 * best[s][i] is the least share with which s stages hold layers [0, i), each at least one;
 * from[s][i] is where the last of them starts. Of equal shares the earliest start is kept.
 */
static enum proto_status solve(const struct planner *p, uint32_t *ends)
{
    uint32_t n = p->model->n_layers, width = n + 1;
    double *best = malloc(2 * (size_t)width * sizeof *best);
    uint32_t *from = calloc((size_t)(p->n_stages + 1) * width, sizeof *from);
    if (!best || !from) {
        free(best);
        free(from);
        return proto_fail_nomem(p->error, (uint64_t)width * p->n_stages * 4, "the plan");
    }
    double *old = best, *new = best + width;
    for (uint32_t i = 0; i <= n; i++)
        old[i] = i == 0 ? 0.0 : INFINITY;
    for (uint32_t s = 1; s <= p->n_stages; s++) {
        for (uint32_t i = 0; i <= n; i++) {
            new[i] = INFINITY;
            for (uint32_t k = s - 1; k < i; k++) {
                double share = fmax(old[k], load(p, p->chosen[s - 1], k, i));
                if (share < new[i]) {
                    new[i] = share;
                    from[s * width + i] = k;
                }
            }
        }
        double *swap = old;
        old = new;
        new = swap;
    }
    uint32_t end = n;
    for (uint32_t s = p->n_stages; s > 0; s--) {
        ends[s - 1] = end;
        end = from[s * width + end];
    }
    free(best);
    free(from);
    return PROTO_OK;
}

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

static enum proto_status parse_ranges(struct planner *p, uint32_t *ends)
{
    const char *text = p->options->layers;
    uint32_t next = 0, n = p->model->n_layers;
    p->n_stages = 0;
    for (;;) {
        uint32_t first, last;
        if (!parse_number(&text, &first))
            return fail_layers(p, "a number is missing");
        last = first;
        if (*text == '-' && (text++, !parse_number(&text, &last)))
            return fail_layers(p, "a number is missing after '-'");
        if (p->n_stages == p->n_workers)
            return fail_layers(p, "there are more ranges than workers");
        if (first != next || last < first || last >= n)
            return fail_layers(p, "a range is out of order, leaves a gap or ends too late");
        p->chosen[p->n_stages] = p->n_stages;
        ends[p->n_stages++] = next = last + 1;
        if (*text == '\0')
            break;
        if (*text++ != ',')
            return fail_layers(p, "a range is not followed by ','");
    }
    return next == n ? PROTO_OK : fail_layers(p, "the last layers are missing");
}

static enum proto_status fail_total(const struct planner *p, const struct shard_stage *sum,
                                    uint64_t offered)
{
    char a[BYTES_TEXT], b[BYTES_TEXT], c[BYTES_TEXT], d[BYTES_TEXT], e[BYTES_TEXT], f[BYTES_TEXT];
    uint64_t needed = stage_bytes(sum);
    return proto_fail(p->error, PROTO_CAPACITY,
                      "the model does not fit: it needs %s (weights %s, KV %s for %u sequences of "
                      "%llu, scratch %s), the workers offer %s: %s are missing",
                      bytes_text(needed, a), bytes_text(sum->weight_bytes, b),
                      bytes_text(sum->kv_bytes, c), p->options->max_seqs,
                      (unsigned long long)p->options->ctx, bytes_text(sum->scratch_bytes, d),
                      bytes_text(offered, e), bytes_text(needed - offered, f));
}

static enum proto_status fail_worker(const struct planner *p, const struct shard_stage *stage)
{
    char a[BYTES_TEXT], b[BYTES_TEXT], c[BYTES_TEXT];
    const struct shard_plan_worker *w = &p->workers[stage->worker];
    uint64_t needed = stage_bytes(stage);
    return proto_fail(p->error, PROTO_CAPACITY,
                      "worker %s offers %s, but layers %u-%u need %s: %s are missing", w->name,
                      bytes_text(w->memory_bytes, a), stage->layer_first, stage->layer_end - 1,
                      bytes_text(needed, b), bytes_text(needed - w->memory_bytes, c));
}

static enum proto_status fail_host(const struct planner *p, const struct shard_plan *plan,
                                   const struct shard_plan_host *host)
{
    char a[BYTES_TEXT], b[BYTES_TEXT], c[BYTES_TEXT];
    const struct shard_plan_worker *w = &p->workers[host->worker];
    const struct shard_expert_part *part = plan->parts;
    uint64_t needed = host->weight_bytes + host->scratch_bytes;
    while (part->worker != host->worker)
        part++;
    return proto_fail(p->error, PROTO_CAPACITY,
                      "worker %s offers %s, but experts %u-%u of layers %u-%u need %s: %s are "
                      "missing",
                      w->name, bytes_text(w->memory_bytes, a), part->expert_first,
                      part->expert_end - 1, part->layer_first, part->layer_end - 1,
                      bytes_text(needed, b), bytes_text(needed - w->memory_bytes, c));
}

static enum proto_status check_fit(const struct planner *p, const struct shard_plan *plan)
{
    struct shard_stage sum = {0};
    const struct shard_stage *over = NULL;
    const struct shard_plan_host *host_over = NULL;
    uint64_t offered = 0;
    for (uint32_t i = 0; i < plan->n_hosts; i++) {
        const struct shard_plan_host *host = &plan->hosts[i];
        uint64_t memory = p->workers[host->worker].memory_bytes;
        sum.weight_bytes += host->weight_bytes;
        sum.scratch_bytes += host->scratch_bytes;
        offered += memory;
        if (host->weight_bytes + host->scratch_bytes > memory && !host_over)
            host_over = host;
    }
    for (uint32_t s = 0; s < plan->n_stages; s++) {
        const struct shard_stage *stage = &plan->stages[s];
        uint64_t memory = p->workers[stage->worker].memory_bytes;
        sum.weight_bytes += stage->weight_bytes;
        sum.kv_bytes += stage->kv_bytes;
        sum.scratch_bytes += stage->scratch_bytes;
        offered += memory;
        if (stage_bytes(stage) > memory && !over)
            over = stage;
    }
    if (!over && !host_over)
        return PROTO_OK;
    if (stage_bytes(&sum) > offered)
        return fail_total(p, &sum, offered);
    return over ? fail_worker(p, over) : fail_host(p, plan, host_over);
}

static enum proto_status fill_stages(const struct planner *p, const uint32_t *ends,
                                     struct shard_plan *plan)
{
    uint32_t first = 0;
    enum proto_status status = PROTO_OK;
    plan->n_stages = p->n_stages;
    for (uint32_t s = 0; s < p->n_stages; s++) {
        plan->stages[s] = (struct shard_stage){.worker = p->chosen[s],
                                               .layer_first = first,
                                               .layer_end = ends[s],
                                               .embed = s == 0,
                                               .head = s + 1 == p->n_stages};
        first = ends[s];
    }
    if (p->n_hosts)
        status = shard_plan_lay_experts(plan, p->model, p->n_workers, p->n_workers + p->n_hosts,
                                        p->options, p->error);
    for (uint32_t s = 0; s < p->n_stages && status == PROTO_OK; s++)
        status = measure(p, p->workers[p->chosen[s]].threads, plan, &plan->stages[s]);
    for (uint32_t i = 0; i < plan->n_hosts && status == PROTO_OK; i++)
        status = measure_host(p, plan, &plan->hosts[i]);
    return status == PROTO_OK ? check_fit(p, plan) : status;
}

static enum proto_status split(struct planner *p, uint32_t *ends)
{
    if (p->options->layers)
        return parse_ranges(p, ends);
    enum proto_status status = fill_costs(p);
    if (status != PROTO_OK)
        return status;
    choose_workers(p);
    return solve(p, ends);
}

static enum proto_status check_request(const struct planner *p)
{
    const struct shard_plan_options *o = p->options;
    if (p->n_workers == 0 || p->n_workers > PROTO_MAX_WORKERS)
        return proto_fail(p->error, PROTO_CAPACITY,
                          "%u workers have joined, expected 1 to %u; start caravan-worker on the "
                          "machines that are to help",
                          p->n_workers, PROTO_MAX_WORKERS);
    if (o->ctx == 0 || o->ctx > PROTO_MAX_CONTEXT || o->max_seqs == 0 ||
        o->max_seqs > PROTO_MAX_SEQUENCES || o->max_rows == 0 || o->max_rows > PROTO_MAX_BATCH_ROWS)
        return proto_fail(p->error, PROTO_LIMIT,
                          "context %llu, sequences %u, batch rows %u: expected 1 to %u, %u, %u",
                          (unsigned long long)o->ctx, o->max_seqs, o->max_rows, PROTO_MAX_CONTEXT,
                          PROTO_MAX_SEQUENCES, PROTO_MAX_BATCH_ROWS);
    return shard_kv_check(p->model, o->kv, p->error);
}

/* Sets workers apart that hold experts. */
static enum proto_status part_workers(struct planner *p)
{
    const struct shard_plan_options *o = p->options;
    uint32_t stages = o->stages ? o->stages : 1;
    for (const char *at = o->stages || !o->layers ? "" : o->layers; *at; at++)
        stages += *at == ',';
    if (o->split != SHARD_SPLIT_EXPERTS)
        return PROTO_OK;
    if (p->n_workers <= stages)
        return proto_fail(p->error, PROTO_INVALID,
                          "--split experts: %u worker%s, of which %u %s: nobody is left to hold "
                          "experts; add workers",
                          p->n_workers, p->n_workers == 1 ? "" : "s", stages,
                          stages == 1 ? "is the stage" : "are stages");
    p->n_hosts = p->n_workers - stages;
    p->n_workers = stages;
    return PROTO_OK;
}

static enum proto_status try_plan(struct planner *p, struct shard_plan **out)
{
    uint32_t n_workers = p->n_workers, n_layers = p->model->n_layers;
    uint32_t *ends = calloc(n_workers, sizeof *ends);
    struct shard_plan *plan = calloc(1, sizeof *plan);
    enum proto_status status = PROTO_OK;
    p->chosen = calloc(n_workers, sizeof *p->chosen);
    p->costs.sums = calloc((size_t)n_layers + 1, sizeof *p->costs.sums);
    p->costs.shared = calloc((size_t)n_layers + 1, sizeof *p->costs.shared);
    if (plan)
        plan->stages = calloc(n_workers, sizeof *plan->stages);
    if (!ends || !plan || !plan->stages || !p->chosen || !p->costs.sums || !p->costs.shared)
        status = proto_fail_nomem(p->error, n_workers * sizeof *plan->stages, "the plan");
    if (status == PROTO_OK)
        status = split(p, ends);
    if (status == PROTO_OK)
        status = fill_stages(p, ends, plan);
    free(ends);
    free(p->chosen);
    free(p->costs.sums);
    free(p->costs.shared);
    if (status != PROTO_OK) {
        shard_plan_destroy(plan);
        return status;
    }
    *out = plan;
    return PROTO_OK;
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
    *out = NULL;
    struct planner p = {.model = model,
                        .workers = workers,
                        .n_workers = n_workers,
                        .options = options,
                        .error = error};
    enum proto_status status = check_request(&p);
    if (status != PROTO_OK)
        return status;
    status = part_workers(&p);
    if (status == PROTO_OK)
        status = try_plan(&p, out);
    if (status == PROTO_CAPACITY)
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
