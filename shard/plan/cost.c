/* SPDX-License-Identifier: Apache-2.0 */
#include "shard/plan/cost.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "shard/plan/work.h"

#define TYPICAL_DEPTH 4096u
#define PROMPT        512u
#define ANSWER        256u

struct plan_load plan_load_complete(const struct plan_load *load, const struct plan_shape *shape)
{
    struct plan_load l = *load;
    uint64_t half = shape->options.ctx / 2;
    if (l.depth == 0)
        l.depth = half < TYPICAL_DEPTH ? half : TYPICAL_DEPTH;
    l.prompt = l.prompt ? l.prompt : PROMPT;
    l.answer = l.answer ? l.answer : ANSWER;
    l.sequences = l.sequences ? l.sequences : shape->options.max_seqs;
    return l;
}

/* What takes most of a time that all workers spend one after another, and who most of that. */
static struct plan_bottleneck bound_of(const struct plan__tally *tallies,
                                       const struct plan_placement *p, double seconds)
{
    double sums[5] = {0}, most[5] = {0};
    uint32_t who[5] = {0}, kind = 0;
    for (uint32_t w = 0; w < p->n_workers; w++) {
        const struct plan__tally *t = &tallies[w];
        const double parts[5] = {t->own.compute_s, t->own.memory_s, t->link_s, t->latency_s,
                                 t->wake_s};
        for (uint32_t k = 0; k < 5; k++) {
            sums[k] += parts[k];
            who[k] = parts[k] > most[k] ? w : who[k];
            most[k] = fmax(most[k], parts[k]);
        }
    }
    for (uint32_t k = 1; k < 5; k++)
        kind = sums[k] > sums[kind] ? k : kind;
    const struct plan_worker *w = &p->workers[who[kind]];
    return (struct plan_bottleneck){.kind = (enum plan_bottleneck_kind)kind,
                                    .machine = w->machine,
                                    .device = w->device,
                                    .share = seconds > 0 ? sums[kind] / seconds : 0};
}

/* What takes most of the slowest worker's time. */
static struct plan_bottleneck slowest_of(const struct plan__pass *pass,
                                         const struct plan__tally *tallies,
                                         const struct plan_placement *p)
{
    if (pass->slowest == p->n_workers)
        return bound_of(tallies, p, pass->seconds);
    const struct plan__tally *t = &tallies[pass->slowest];
    const struct plan_worker *w = &p->workers[pass->slowest];
    const double parts[5] = {t->own.compute_s, t->own.memory_s, t->link_s, t->latency_s, t->wake_s};
    double sum = parts[0];
    uint32_t kind = 0;
    for (uint32_t k = 1; k < 5; k++) {
        kind = parts[k] > parts[kind] ? k : kind;
        sum += parts[k];
    }
    struct plan_bottleneck b = {.kind = (enum plan_bottleneck_kind)kind,
                                .machine = w->machine,
                                .device = w->device,
                                .share = sum > 0 ? parts[kind] / sum : 0};
    if (pass->slowest_is_link) {
        b.kind = PLAN_BOUND_LINK;
        b.share = 1;
    }
    return b;
}

static const struct plan_device *last_device(const struct plan_placement *p,
                                             const struct plan_cluster *cluster)
{
    const struct plan_worker *w = &p->workers[p->stages[p->n_stages - 1].worker];
    return &cluster->machines[w->machine].device[w->device];
}

/* A prompt alone: the first chunk fills the pipeline, the others follow; the head once. */
static void estimate_prompt(struct plan_cost *out, struct plan__tally *tallies,
                            const struct plan_placement *p, const struct plan_shape *shape,
                            const struct plan_cluster *cluster, const struct plan_load *load)
{
    struct plan__pass pass;
    double rows = plan__chunk_rows(load->prompt, p->n_stages, shape->options.max_rows);
    struct plan__batch batch = {
        .rows = rows, .seqs = 1, .depth = (load->prompt - 1) / 2.0, .prompt = true};
    plan__pass(&pass, tallies, p, shape, cluster, &batch);
    out->chunk_rows = (uint32_t)rows;
    out->prompt_s = pass.seconds + (load->prompt / rows - 1) * pass.interval +
                    plan__sum(plan__head(last_device(p, cluster), shape, 1));
    out->prefill_bound = slowest_of(&pass, tallies, p);
}

/* As many batches as stages, the sequences spread over them; prompts in the largest chunks. */
static void estimate_many(struct plan_cost *out, struct plan__tally *tallies,
                          const struct plan_placement *p, const struct plan_shape *shape,
                          const struct plan_cluster *cluster, const struct plan_load *load)
{
    struct plan__pass pass;
    double rows = fmax((double)load->sequences / p->n_stages, 1);
    struct plan__batch decode = {rows, rows, (double)load->depth, rows, false};
    struct plan__batch prefill = {.rows = shape->options.max_rows,
                                  .seqs = 1,
                                  .depth = (load->prompt - 1) / 2.0,
                                  .prompt = true};
    plan__pass(&pass, tallies, p, shape, cluster, &prefill);
    out->row_s = pass.interval / prefill.rows;
    plan__pass(&pass, tallies, p, shape, cluster, &decode);
    out->step_s = fmax(load->sequences / rows * pass.interval, pass.seconds);
    out->many_bound = slowest_of(&pass, tallies, p);
    out->request_many_s = load->prompt * out->row_s + load->answer * out->step_s / load->sequences;
}

static void estimate_decode(struct plan_cost *out, struct plan__tally *tallies,
                            const struct plan_placement *p, const struct plan_shape *shape,
                            const struct plan_cluster *cluster, const struct plan_load *load)
{
    struct plan__batch one = {.rows = 1, .seqs = 1, .depth = (double)load->depth, .wanted = 1};
    struct plan__pass pass;
    plan__pass(&pass, tallies, p, shape, cluster, &one);
    out->decode_s = pass.seconds;
    out->token = pass.budget;
    out->frames = pass.frames;
    out->wire_bytes = pass.bytes;
    out->decode_bound = bound_of(tallies, p, pass.seconds);
}

void plan__cost(struct plan_cost *out, struct plan__tally *tallies,
                const struct plan_placement *placement, const struct plan_shape *shape,
                const struct plan_cluster *cluster, const struct plan_load *load, bool one,
                bool many)
{
    struct plan_load l = plan_load_complete(load, shape);
    *out = (struct plan_cost){0};
    if (many)
        estimate_many(out, tallies, placement, shape, cluster, &l);
    if (!one)
        return;
    estimate_prompt(out, tallies, placement, shape, cluster, &l);
    estimate_decode(out, tallies, placement, shape, cluster, &l);
    out->request_alone_s = out->prompt_s + l.answer * out->decode_s;
}

/* The tallies are those of a token of one sequence. */
static void fill_usage(struct plan_usage *usage, const struct plan__tally *tallies, uint32_t n,
                       double decode_s)
{
    for (uint32_t w = 0; w < n; w++) {
        const struct plan__tally *t = &tallies[w];
        usage[w].token = (struct plan_budget){.compute_s = t->own.compute_s,
                                              .memory_s = t->own.memory_s,
                                              .wire_s = t->link_s + t->latency_s,
                                              .wait_s = t->wake_s};
        usage[w].busy = decode_s > 0 ? t->busy_s / decode_s : 0;
    }
}

enum proto_status plan_cost_estimate(struct plan_cost *out, struct plan_usage *usage,
                                     const struct plan_placement *placement,
                                     const struct plan_shape *shape,
                                     const struct plan_cluster *cluster,
                                     const struct plan_load *load, struct proto_error *error)
{
    struct plan_load l = plan_load_complete(load, shape);
    struct plan__pass pass;
    struct plan__batch chunk = {
        .rows = plan__chunk_rows(l.prompt, placement->n_stages, shape->options.max_rows),
        .seqs = 1,
        .depth = (l.prompt - 1) / 2.0};
    size_t bytes = ((size_t)placement->n_workers + 1) * sizeof(struct plan__tally);
    struct plan__tally *tallies = malloc(bytes);
    if (!tallies)
        return proto_fail_nomem(error, bytes, "a prediction");
    if (usage)
        plan__pass(&pass, tallies, placement, shape, cluster, &chunk);
    for (uint32_t w = 0; usage && w < placement->n_workers; w++)
        usage[w].prefill_s = tallies[w].busy_s / chunk.rows;
    plan__cost(out, tallies, placement, shape, cluster, load, true, true);
    if (usage)
        fill_usage(usage, tallies, placement->n_workers, out->decode_s);
    free(tallies);
    return PROTO_OK;
}

const char *plan_bottleneck_text(const struct plan_bottleneck *bottleneck,
                                 const struct plan_cluster *cluster,
                                 char text[PLAN_BOTTLENECK_TEXT])
{
    static const char *const kinds[] = {"arithmetic", "memory bandwidth", "bandwidth of the link",
                                        "round trips", "waking threads"};
    snprintf(text, PLAN_BOTTLENECK_TEXT, "%s of %s%s (%.0f%% of the time)", kinds[bottleneck->kind],
             cluster->machines[bottleneck->machine].name,
             bottleneck->device == PLAN_GPU && bottleneck->kind <= PLAN_BOUND_MEMORY ? "'s GPU"
                                                                                     : "",
             bottleneck->share * 100);
    return text;
}
