/* SPDX-License-Identifier: Apache-2.0 */
#include "coordinator/plan/compare.h"

#include <stdlib.h>
#include <string.h>

#include "coordinator/plan/html.h"
#include "coordinator/plan/json.h"
#include "coordinator/plan/measured.h"
#include "coordinator/plan/prediction.h"
#include "coordinator/plan/table.h"
#include "coordinator/plan/text.h"

#define LEAST_GAIN 0.005 /* a change that is worth a line */

/* ---- both plans ---- */

static enum proto_status check_workers(const struct coord_status *status, struct proto_error *error)
{
    for (uint32_t i = 0; i < status->n_workers; i++) {
        const struct coord_worker_status *w = &status->workers[i];
        if (coord_worker_is_leaving(w) && coord_worker_has_part(w))
            return proto_fail(error, PROTO_NOTFOUND,
                              "worker \"%s\" is leaving, and others are about to get its part; "
                              "ask again when it has left",
                              w->name);
        if (coord_worker_is_here(w) && !w->profiled)
            return proto_fail(error, PROTO_NOTFOUND,
                              "worker \"%s\" has not measured its machine, so nothing can be "
                              "predicted; wait, or start the coordinator with --profile on",
                              w->name);
    }
    return PROTO_OK;
}

static enum proto_status tell_popularity(struct coord_plan_view *view,
                                         const struct coord_status *status,
                                         struct proto_error *error)
{
    return status->usage ? plan_shape_popularity(view->shape, status->usage, status->n_layers,
                                                 status->n_experts, error)
                         : PROTO_OK;
}

static enum proto_status view_now(struct coord_comparison *c, const struct coord_status *status,
                                  const uint32_t *machines,
                                  const struct coord_plan_request *request,
                                  struct proto_error *error)
{
    struct plan_placement *placement = NULL;
    enum proto_status result =
        coord_plan_view_begin(&c->now, &c->source, c->cluster, request, error);
    if (!result)
        result = tell_popularity(&c->now, status, error);
    if (!result && status->ready)
        result = coord_placement_of(&placement, status, machines, error);
    if (!result && placement)
        result = coord_plan_view_given(&c->now, placement, error);
    plan_placement_destroy(placement);
    return result;
}

static enum proto_status view_best(struct coord_comparison *c, const struct coord_status *status,
                                   const struct coord_plan_request *request,
                                   struct proto_error *error)
{
    enum proto_status result =
        coord_plan_view_begin(&c->best, &c->source, c->cluster, request, error);
    if (!result)
        result = tell_popularity(&c->best, status, error);
    if (!result)
        result = coord_plan_types(c->best.types, &c->best.options.n_types, &c->source,
                                  &c->best.shape->options, error);
    c->best.options.types = c->best.types;
    if (!result)
        result = coord_plan_view_find(&c->best, error);
    return result;
}

/* Where nothing better was found the plan in force is the best. */
static enum proto_status judge(struct coord_comparison *c, struct proto_error *error)
{
    enum plan_aim aim = c->best.options.aim;
    if (!c->now.answer)
        return PROTO_OK;
    c->gain =
        plan_objective(&c->now.answer->cost, aim) / plan_objective(&c->best.answer->cost, aim) - 1;
    c->same = c->gain < LEAST_GAIN;
    if (!c->same)
        return PROTO_OK;
    c->gain = 0;
    return coord_plan_view_given(&c->best, c->now.answer->placement, error);
}

static void describe_source(struct coord_source *source, const struct shard_model *model)
{
    *source = (struct coord_source){.model = (struct shard_model *)model};
    snprintf(source->name, sizeof source->name, "%.150s", model->name);
    for (size_t i = 0; i < shard_gguf_n_tensors(model->gguf); i++)
        source->file_bytes += shard_gguf_tensor(model->gguf, i)->bytes;
}

enum proto_status coord_compare(struct coord_comparison *out, const struct coord_status *status,
                                const struct shard_model *model, enum plan_aim aim,
                                struct proto_error *error)
{
    const struct coord_plan_request request = {
        .shape = {status->kv, status->ctx, status->max_active, status->max_rows},
        .search = {.aim = aim, .cpu_only = true}};
    uint32_t *machines = NULL;
    struct plan_shape *shape = NULL;
    *out = (struct coord_comparison){.measured = status->speed, .epoch = status->epoch};
    enum proto_status result = check_workers(status, error);
    if (result)
        return result;
    describe_source(&out->source, model);
    result = plan_shape_create(&shape, model, &request.shape, error);
    if (!result)
        result = coord_cluster_measured(&out->cluster, &machines, status, shape->type_ops, error);
    if (!result)
        result = view_now(out, status, machines, &request, error);
    if (!result)
        result = view_best(out, status, &request, error);
    if (!result)
        result = judge(out, error);
    if (!result)
        result = coord_plan_view_advise(&out->best, error);
    plan_shape_destroy(shape);
    free(machines);
    return result;
}

void coord_comparison_finish(struct coord_comparison *c)
{
    coord_plan_view_finish(&c->now);
    coord_plan_view_finish(&c->best);
    plan_cluster_destroy(c->cluster);
    *c = (struct coord_comparison){0};
}

/* ---- in words ---- */

/* What a machine holds by a plan; "nothing". */
static const char *holds(const struct coord_plan_view *view, uint32_t machine,
                         char text[COORD_PLAN_TEXT])
{
    const struct plan_placement *p = view->answer->placement;
    for (uint32_t w = 0; w < p->n_workers; w++)
        if (p->workers[w].machine == machine)
            return coord_plan_worker_holds(view, w, text);
    snprintf(text, COORD_PLAN_TEXT, "nothing");
    return text;
}

static enum proto_status print_changes(const struct coord_comparison *c, FILE *out,
                                       struct proto_error *error)
{
    static const char *const titles[] = {"<machine", "<holds", "<would hold"};
    struct coord_table table;
    char now[COORD_PLAN_TEXT], then[COORD_PLAN_TEXT];
    coord_table_init(&table, titles, sizeof titles / sizeof titles[0]);
    for (uint32_t i = 0; i < c->cluster->n_machines; i++) {
        if (strcmp(holds(&c->now, i, now), holds(&c->best, i, then)) == 0)
            continue;
        coord_table_cell(&table, "%s", c->cluster->machines[i].name);
        coord_table_cell(&table, "%s", now);
        coord_table_cell(&table, "%s", then);
    }
    fputs("\nwhat would change:\n", out);
    bool printed = coord_table_print(&table, 2, out);
    coord_table_finish(&table);
    return printed ? PROTO_OK : proto_fail_nomem(error, 4096, "a table");
}

static double rate(uint64_t tokens, uint64_t ns)
{
    return ns ? (double)tokens * 1e9 / (double)ns : 0;
}

/* Speeds that requests had so far, each by itself. */
static void print_measured(const struct coord_comparison *c, FILE *out)
{
    const struct coord_speed *m = &c->measured;
    char prefill[32], decode[32];
    if (!m->prompt_ns || !m->decode_ns)
        return;
    fprintf(out, "measured so far, a request: %s tokens/s prefill, %s tokens/s decode\n",
            coord_plan_number(rate(m->prompt_tokens, m->prompt_ns), prefill),
            coord_plan_number(rate(m->tokens, m->decode_ns), decode));
}

static enum proto_status print_now(const struct coord_comparison *c, FILE *out,
                                   struct proto_error *error)
{
    char line[COORD_PLAN_TEXT * 2];
    if (!c->now.answer) {
        fputs("\nno plan is in force\n", out);
        return PROTO_OK;
    }
    fprintf(out, "\n== plan %llu, in force ==\n", (unsigned long long)c->epoch);
    enum proto_status status = coord_plan_print_plan(&c->now, out, error);
    if (status)
        return status;
    fprintf(out, "\n%s\n", coord_plan_last_line(&c->now, line));
    print_measured(c, out);
    return PROTO_OK;
}

enum proto_status coord_comparison_print(const struct coord_comparison *c, FILE *out,
                                         struct proto_error *error)
{
    char line[COORD_PLAN_TEXT * 2];
    coord_plan_print_question(&c->best, out);
    enum proto_status status = print_now(c, out, error);
    if (!status && c->same)
        fputs("\nno better plan was found\n", out);
    if (!status && !c->same) {
        fputs("\n== the best plan that was found ==\n", out);
        status = coord_plan_print_plan(&c->best, out, error);
    }
    if (!status && !c->same && c->now.answer)
        status = print_changes(c, out, error);
    if (status)
        return status;
    if (c->gain > 0)
        fprintf(out,
                "\nthe best plan is predicted to be %.0f%% faster; caravan plan --apply puts it "
                "in force\n",
                c->gain * 100);
    coord_plan_print_changes(&c->best, out);
    status = coord_plan_print_estimates(c->cluster, "nobody measured it", out, error);
    if (!status)
        fprintf(out, "\n%s\n", coord_plan_last_line(&c->best, line));
    return status;
}

/* ---- for programs ---- */

json_t *coord_comparison_json(const struct coord_comparison *c)
{
    const struct coord_speed *m = &c->measured;
    json_t *measured =
        json_pack("{s:f, s:f}", "prefill_tokens_s", rate(m->prompt_tokens, m->prompt_ns),
                  "decode_tokens_s", rate(m->tokens, m->decode_ns));
    return json_pack("{s:I, s:o, s:o, s:o, s:b, s:f}", "epoch", (json_int_t)c->epoch, "in_force",
                     c->now.answer ? coord_plan_json(&c->now) : json_null(), "measured", measured,
                     "best", coord_plan_json(&c->best), "same", c->same, "gain", c->gain);
}

void coord_comparison_print_html(const struct coord_comparison *c, FILE *out)
{
    coord_plan_print_html_head(&c->best, out);
    if (c->now.answer) {
        fputs("<h2>The plan in force</h2>\n", out);
        coord_plan_print_html_plan(&c->now, out);
    }
    if (!c->same) {
        fprintf(out, "<h2>The best plan that was found: %+.0f%%</h2>\n", c->gain * 100);
        coord_plan_print_html_plan(&c->best, out);
    }
    coord_plan_print_html_end(out);
}
