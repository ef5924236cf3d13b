/* SPDX-License-Identifier: Apache-2.0 */
#include "coordinator/plan/text.h"

#include <math.h>
#include <string.h>

#include "coordinator/plan/table.h"
#include "coordinator/report.h"

#define MAX_ROWS  64 /* of a table: more do not help anybody */
#define MAX_BOXES 24 /* of the drawing */
#define BAR_CELLS 24

static const char *const aims[] = {"latency", "throughput", "balanced"};

void coord_plan_print_question(const struct coord_plan_view *view, FILE *out)
{
    char file[16], memory[16], token[16], offered[16];
    const struct shard_model *model = view->source->model;
    const struct plan_cluster *cluster = view->cluster;
    uint64_t total = 0;
    for (uint32_t i = 0; i < cluster->n_machines; i++)
        for (int d = 0; d < PLAN_N_DEVICES; d++)
            total += cluster->machines[i].device[d].memory_bytes;
    coord_format_bytes(view->source->file_bytes, file);
    coord_format_bytes(plan_shape_weight_bytes(view->shape), memory);
    coord_format_bytes(plan_shape_token_bytes(view->shape), token);
    coord_format_bytes(total, offered);
    fprintf(out,
            "%s: %.1f billion parameters, a file of %s, %s in memory, of which a token reads "
            "%s\n",
            view->source->name, (double)shard_model_parameters(model) / 1e9, file, memory, token);
    if (view->source->note)
        fprintf(out, "sizes only: this architecture cannot be run yet; it is %s\n",
                view->source->note);
    fprintf(out, "%u machine%s with %s; for %s; context %llu, %u sequence%s, KV %s\n",
            cluster->n_machines, cluster->n_machines == 1 ? "" : "s", offered,
            aims[view->options.aim], (unsigned long long)view->shape->options.ctx,
            view->shape->options.max_seqs, view->shape->options.max_seqs == 1 ? "" : "s",
            kern_kv_name(view->shape->options.kv));
}

static enum proto_status finish_table(struct coord_table *table, unsigned indent, FILE *out,
                                      struct proto_error *error)
{
    bool printed = coord_table_print(table, indent, out);
    coord_table_finish(table);
    return printed ? PROTO_OK : proto_fail_nomem(error, 4096, "a table");
}

static bool has_slices(const struct plan_placement *p)
{
    for (uint32_t i = 0; i < p->n_parts; i++)
        if (p->parts[i].n_slices > 1)
            return true;
    return false;
}

static enum proto_status print_placement(const struct coord_plan_view *view, FILE *out,
                                         struct proto_error *error)
{
    static const char *const titles[] = {"<machine", "weights GB", "KV GB", "scratch GB",
                                         "of GB",    "full",       "<holds"};
    const struct plan_placement *p = view->answer->placement;
    struct coord_table table;
    char text[COORD_PLAN_TEXT];
    coord_table_init(&table, titles, sizeof titles / sizeof titles[0]);
    for (uint32_t i = 0; i < p->n_workers && i < MAX_ROWS; i++) {
        const struct plan_worker *w = &p->workers[i];
        coord_table_cell(&table, "%s", coord_plan_worker_name(view, i, text));
        coord_table_cell(&table, "%.2f", (double)w->weight_bytes / 1e9);
        coord_table_cell(&table, "%.2f", (double)w->kv_bytes / 1e9);
        coord_table_cell(&table, "%.2f", (double)w->scratch_bytes / 1e9);
        coord_table_cell(&table, "%.2f", (double)coord_plan_worker_memory(view, i) / 1e9);
        coord_table_cell(&table, "%.0f%%",
                         100.0 * (double)coord_plan_worker_bytes(view, i) /
                             (double)coord_plan_worker_memory(view, i));
        coord_table_cell(&table, "%s", coord_plan_worker_holds(view, i, text));
    }
    fputc('\n', out);
    enum proto_status status = finish_table(&table, 0, out, error);
    if (p->n_workers > MAX_ROWS)
        fprintf(out, "... and %u more\n", p->n_workers - MAX_ROWS);
    if (has_slices(p))
        fputs("\n(1/2): the first of two slices of each of these experts\n", out);
    return status;
}

static void print_idle(const struct coord_plan_view *view, FILE *out)
{
    const struct plan_answer *answer = view->answer;
    for (uint32_t i = 0; i < answer->n_idle && i < MAX_ROWS; i++)
        fprintf(out, "%sleft out: %s\n", i ? "" : "\n", answer->idle[i].why);
    if (answer->n_idle > MAX_ROWS)
        fprintf(out, "... and %u more\n", answer->n_idle - MAX_ROWS);
}

/* ---- the drawing ---- */

static void draw_bar(const struct coord_plan_view *view, uint32_t worker, FILE *out)
{
    char text[COORD_PLAN_TEXT];
    double used = (double)coord_plan_worker_bytes(view, worker) / 1e9;
    double memory = (double)coord_plan_worker_memory(view, worker) / 1e9;
    int cells = (int)ceil(fmin(used / memory, 1) * BAR_CELLS);
    fprintf(out, "[");
    for (int i = 0; i < BAR_CELLS; i++)
        fputc(i < cells ? '#' : '.', out);
    fprintf(out, "] %s, %.1f of %.1f GB\n", coord_plan_worker_name(view, worker, text), used,
            memory);
}

static uint32_t machine_of(const struct coord_plan_view *view, uint32_t worker)
{
    return view->answer->placement->workers[worker].machine;
}

/* A host of a stage's experts, and what a token sends to it and gets back. */
static void draw_host(const struct coord_plan_view *view, uint32_t stage, uint32_t host, FILE *out)
{
    char text[COORD_PLAN_TEXT], link[COORD_PLAN_TEXT];
    const struct coord_plan_flow *flow = coord_plan_hosts(view, stage, host);
    uint32_t own = view->answer->placement->stages[stage].worker;
    coord_plan_link(view, machine_of(view, own), machine_of(view, host), link);
    fputs("    |     +--> ", out);
    if (coord_plan_drawn_here(view, stage, host)) {
        draw_bar(view, host, out);
        fprintf(out, "    |     |    %s\n    |     |    ",
                coord_plan_worker_holds(view, host, text));
    } else {
        fprintf(out, "%s: ", coord_plan_worker_name(view, host, text));
    }
    fprintf(out, "%.1f kB out and %.1f kB back a token (%s)\n", flow->there / 1e3, flow->back / 1e3,
            link);
}

/* How many there are. */
static uint32_t draw_hosts(const struct coord_plan_view *view, uint32_t stage, uint32_t room,
                           FILE *out)
{
    uint32_t drawn = 0;
    for (uint32_t w = 0; w < view->answer->placement->n_workers && drawn < room; w++) {
        if (coord_plan_hosts(view, stage, w)->there <= 0)
            continue;
        draw_host(view, stage, w, out);
        drawn++;
    }
    return drawn;
}

/* From the machine of the stage before, or the coordinator's, to that of the next. */
static void draw_hop(const struct coord_plan_view *view, uint32_t from, uint32_t to,
                     const char *what, FILE *out)
{
    char link[COORD_PLAN_TEXT];
    fprintf(out, "    |  %s (%s)\n    v\n", what, coord_plan_link(view, from, to, link));
}

static void print_drawing(const struct coord_plan_view *view, FILE *out)
{
    const struct plan_placement *p = view->answer->placement;
    uint32_t boxes = 0, before = plan_cluster_coordinator(view->cluster);
    char text[COORD_PLAN_TEXT];
    fputs("\ncoordinator\n", out);
    for (uint32_t s = 0; s < p->n_stages && boxes < MAX_BOXES; s++) {
        const struct plan_stage *stage = &p->stages[s];
        uint32_t machine = machine_of(view, stage->worker);
        char what[64] = "token ids";
        if (s > 0)
            snprintf(what, sizeof what, "%.1f kB a token",
                     (double)view->shape->layers[stage->layer_first].row_bytes / 1e3);
        draw_hop(view, before, machine, what, out);
        draw_bar(view, stage->worker, out);
        fprintf(out, "    |  %s\n", coord_plan_worker_holds(view, stage->worker, text));
        boxes += 1 + draw_hosts(view, s, MAX_BOXES - boxes - 1, out);
        before = machine;
    }
    if (boxes >= MAX_BOXES)
        fputs("    |  ... and so on\n", out);
    draw_hop(view, before, plan_cluster_coordinator(view->cluster), "the likeliest tokens", out);
    fputs("coordinator\n", out);
}

/* ---- time ---- */

static void add_budget(struct coord_table *table, const char *name,
                       const struct plan_budget *budget)
{
    const double parts[] = {budget->compute_s, budget->memory_s, budget->wire_s, budget->wait_s};
    double sum = 0;
    coord_table_cell(table, "%s", name);
    for (int i = 0; i < 4; i++) {
        coord_table_cell(table, "%.3f", parts[i] * 1e3);
        sum += parts[i];
    }
    coord_table_cell(table, "%.3f", sum * 1e3);
}

static enum proto_status print_budget(const struct coord_plan_view *view, FILE *out,
                                      struct proto_error *error)
{
    static const char *const titles[] = {"<",       "compute ms", "memory ms", "wire ms",
                                         "wait ms", "all ms",     "busy"};
    const struct plan_placement *p = view->answer->placement;
    const struct plan_cost *cost = &view->answer->cost;
    struct coord_table table;
    double rest_s = cost->decode_s;
    coord_table_init(&table, titles, sizeof titles / sizeof titles[0]);
    for (uint32_t i = 0; i < p->n_workers; i++) {
        char text[COORD_PLAN_TEXT];
        const struct plan_budget *part = &view->usage[i].token;
        rest_s -= part->compute_s + part->memory_s + part->wire_s + part->wait_s;
        if (i >= MAX_ROWS)
            continue;
        add_budget(&table, coord_plan_worker_name(view, i, text), part);
        coord_table_cell(&table, "%.0f%%", view->usage[i].busy * 100);
    }
    /* What is left of a sum of many may be a trace below zero. */
    add_budget(&table, "coordinator's hops", &(struct plan_budget){.wire_s = fmax(rest_s, 0)});
    coord_table_cell(&table, "-");
    add_budget(&table, "a token", &cost->token);
    coord_table_cell(&table, "-");
    fprintf(out, "\nwhere the time of a token goes, at position %llu of its sequence:\n",
            (unsigned long long)view->load.depth);
    return finish_table(&table, 2, out, error);
}

static void print_speeds(const struct coord_plan_view *view, FILE *out)
{
    const struct plan_cost *cost = &view->answer->cost;
    char a[32], b[32], bound[PLAN_BOTTLENECK_TEXT];
    fprintf(out,
            "\none request: %s tokens/s of a prompt of %u in chunks of %u, %s tokens/s "
            "generated\n",
            coord_plan_number(view->load.prompt / cost->prompt_s, a), view->load.prompt,
            cost->chunk_rows, coord_plan_number(1 / cost->decode_s, b));
    fprintf(out, "  a prompt is bound by %s\n",
            plan_bottleneck_text(&cost->prefill_bound, view->cluster, bound));
    fprintf(out, "  a token is bound by %s\n",
            plan_bottleneck_text(&cost->decode_bound, view->cluster, bound));
    fprintf(out, "%u at once: %s tokens/s of prompts, or %s tokens/s generated by all\n",
            view->load.sequences, coord_plan_number(1 / cost->row_s, a),
            coord_plan_number(view->load.sequences / cost->step_s, b));
    fprintf(out, "  bound by %s\n", plan_bottleneck_text(&cost->many_bound, view->cluster, bound));
    fprintf(out, "on the wire: %.1f frames and %.1f kB a token\n", cost->frames,
            cost->wire_bytes / 1e3);
    if (plan_placement_uses_gpu(view->answer->placement))
        fputs("this plan uses a GPU, which nothing runs on yet: --cpu-only plans what can be "
              "deployed today\n",
              out);
}

void coord_plan_print_changes(const struct coord_plan_view *view, FILE *out)
{
    if (!view->n_changes && !view->answer)
        fputs("\nneither one machine more nor another quantisation would make the model fit\n",
              out);
    if (view->n_changes)
        fprintf(out, "\n%s:\n",
                view->answer ? "what would help most" : "what would make the model fit");
    for (uint32_t i = 0; i < view->n_changes; i++) {
        if (view->answer)
            fprintf(out, "  %+4.0f%%", view->changes[i].gain * 100);
        fprintf(out, "  %s\n", view->changes[i].text);
    }
}

enum proto_status coord_plan_print_plan(const struct coord_plan_view *view, FILE *out,
                                        struct proto_error *error)
{
    enum proto_status status = print_placement(view, out, error);
    if (status)
        return status;
    print_idle(view, out);
    print_drawing(view, out);
    status = print_budget(view, out, error);
    if (!status)
        print_speeds(view, out);
    return status;
}

enum proto_status coord_plan_print_answer(const struct coord_plan_view *view, FILE *out,
                                          struct proto_error *error)
{
    enum proto_status status = coord_plan_print_plan(view, out, error);
    if (status)
        return status;
    coord_plan_print_changes(view, out);
    return coord_plan_print_estimates(view->cluster, "the cluster file does not say it", out,
                                      error);
}
