/* SPDX-License-Identifier: Apache-2.0 */
#include "coordinator/plan/simulated.h"

#include "coordinator/plan/table.h"

static void add_row(struct coord_table *table, const char *name, double unit,
                    const struct plan_percentiles *p)
{
    const double values[] = {p->mean, p->p50, p->p90, p->p99, p->max};
    char number[32];
    coord_table_cell(table, "%s", name);
    for (int i = 0; i < 5; i++)
        coord_table_cell(table, "%s", coord_plan_number(values[i] / unit, number));
}

static enum proto_status print_times(const struct plan_simulated *s, FILE *out,
                                     struct proto_error *error)
{
    static const char *const titles[] = {"<", "mean", "p50", "p90", "p99", "longest"};
    struct coord_table table;
    coord_table_init(&table, titles, sizeof titles / sizeof titles[0]);
    add_row(&table, "first token s", 1, &s->first_s);
    add_row(&table, "between tokens ms", 1e-3, &s->token_s);
    add_row(&table, "request s", 1, &s->request_s);
    bool printed = coord_table_print(&table, 2, out);
    coord_table_finish(&table);
    return printed ? PROTO_OK : proto_fail_nomem(error, 4096, "a table");
}

static void print_busy(const char *what, const struct plan_bottleneck *busy,
                       const struct coord_plan_view *view, FILE *out)
{
    char text[PLAN_BOTTLENECK_TEXT];
    fprintf(out, "  %s %s\n", what, plan_bottleneck_text(busy, view->cluster, text));
}

static void print_question(const struct plan_simulation *s, FILE *out)
{
    char number[32];
    fprintf(out, "\nsimulated: %u requests of %u and %u tokens%s, ", s->requests, s->prompt,
            s->answer, s->spread ? " on average" : "");
    if (s->arrivals_s > 0)
        fprintf(out, "%s a second\n", coord_plan_number(s->arrivals_s, number));
    else
        fprintf(out, "%u always under way\n", s->clients);
}

enum proto_status coord_plan_print_simulated(const struct coord_plan_view *view,
                                             const struct plan_simulation *simulation, FILE *out,
                                             struct proto_error *error)
{
    struct plan_simulation s = *simulation;
    struct plan_simulated found, most = {0};
    char a[32], b[32], c[32], bound[PLAN_BOTTLENECK_TEXT];
    s.prompt = s.prompt ? s.prompt : view->load.prompt;
    s.answer = s.answer ? s.answer : view->load.answer;
    s.clients = s.clients ? s.clients : view->load.sequences;
    enum proto_status status =
        plan_simulate(&found, view->answer->placement, view->shape, view->cluster, &s, error);
    if (!status)
        status =
            plan_saturation(&most, view->answer->placement, view->shape, view->cluster, &s, error);
    if (status)
        return status;
    print_question(&s, out);
    fprintf(out, "  %s tokens/s of prompts, %s tokens/s generated, %s requests/s, %.1f waiting\n",
            coord_plan_number(found.prompt_tokens_s, a),
            coord_plan_number(found.answer_tokens_s, b), coord_plan_number(found.requests_s, c),
            found.queue_mean);
    print_busy("busiest:", &found.busiest, view, out);
    print_busy("busiest link:", &found.busiest_link, view, out);
    if (found.saturated)
        fputs("  saturated: requests arrive faster than they are answered\n", out);
    fprintf(out, "  at most %s requests/s (%s tokens/s generated), then bound by %s\n",
            coord_plan_number(most.requests_s, a), coord_plan_number(most.answer_tokens_s, b),
            plan_bottleneck_text(&most.busiest, view->cluster, bound));
    return print_times(&found, out, error);
}
