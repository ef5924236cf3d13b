/* SPDX-License-Identifier: Apache-2.0 */
#include "coordinator/plan/html.h"

#include <errno.h>
#include <unistd.h>

#include "coordinator/plan/markup.h"
#include "coordinator/report.h"

#define MAX_ROWS 200

static const char style[] =
    ":root{color-scheme:light dark;--page:#fcfcfb;--ink:#1d1d1b;--dim:#5f5e5a;--card:#ffffff;"
    "--line:#b9b7b0;--empty:#e9e7e1;--blue:#2a6fc9;--orange:#d97a1f;--green:#1f9466;"
    "--purple:#8657b3;--grey:#8b8a84}\n"
    "@media(prefers-color-scheme:dark){:root{--page:#171716;--ink:#ecebe6;--dim:#a3a199;"
    "--card:#222220;--line:#55534d;--empty:#35342f;--blue:#5a9bea;--orange:#e8984a;"
    "--green:#43b98a;--purple:#ad85d6;--grey:#8f8d86}}\n"
    "body{margin:0 auto;max-width:1080px;padding:24px 20px 48px;background:var(--page);"
    "color:var(--ink);font:15px/1.5 system-ui,sans-serif}\n"
    "h1{font-size:24px;margin:0 0 4px}h2{font-size:17px;margin:36px 0 8px}p{margin:4px 0}\n"
    ".dim,svg .dim,svg .end{color:var(--dim);fill:var(--dim)}\n"
    ".speeds{display:flex;flex-wrap:wrap;gap:12px 40px;margin:20px 0}\n"
    ".speeds b{display:block;font-size:30px;line-height:40px}.speeds .long{font-size:19px}\n"
    ".scroll{overflow-x:auto}\n"
    "table{border-collapse:collapse;font-variant-numeric:tabular-nums}\n"
    "th,td{text-align:right;padding:3px 14px 3px 0;white-space:nowrap}\n"
    "th{color:var(--dim);font-weight:500;border-bottom:1px solid var(--line)}\n"
    ".word{text-align:left}\n"
    "svg{display:block;width:100%;height:auto;font:13px system-ui,sans-serif}\n"
    "svg text{fill:var(--ink)}svg .name{font-size:15px;font-weight:600}\n"
    "svg .end{text-anchor:end}svg .middle{text-anchor:middle}\n"
    "svg .card,svg .pill{fill:var(--card);stroke:var(--line);rx:8px}svg .pill{rx:14px}\n"
    "svg .empty{fill:var(--empty)}\n"
    "svg .weights,svg .compute,.key.weights,.key.compute{fill:var(--blue);"
    "background:var(--blue)}\n"
    "svg .memory,.key.memory{fill:var(--orange);background:var(--orange)}\n"
    "svg .kv,svg .wire-time,.key.kv,.key.wire-time{fill:var(--green);background:var(--green)}\n"
    "svg .wait,.key.wait{fill:var(--purple);background:var(--purple)}\n"
    "svg .scratch,.key.scratch{fill:var(--grey);background:var(--grey)}\n"
    "svg .line,svg .arrow{stroke:var(--dim);stroke-width:1.5;fill:none}\n"
    "svg .arrow{marker-end:url(#head)}svg .head{fill:var(--dim)}\n"
    ".key{display:inline-block;width:11px;height:11px;border-radius:2px;margin:0 6px 0 18px}\n"
    ".key:first-child{margin-left:0}\n";

static void put_key(FILE *out, const char *const keys[][2], size_t n)
{
    fputs("<p class=\"dim\">", out);
    for (size_t i = 0; i < n; i++)
        fprintf(out, "<span class=\"key %s\"></span>%s", keys[i][0], keys[i][1]);
    fputs("</p>\n", out);
}

void coord_plan_print_html_head(const struct coord_plan_view *view, FILE *out)
{
    char file[16], memory[16], token[16];
    coord_format_bytes(view->source->file_bytes, file);
    coord_format_bytes(plan_shape_weight_bytes(view->shape), memory);
    coord_format_bytes(plan_shape_token_bytes(view->shape), token);
    fputs("<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n"
          "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n<title>",
          out);
    coord__markup_text(out, view->source->name);
    fprintf(out, " on %u machines</title>\n<style>\n%s</style>\n</head>\n<body>\n<h1>",
            view->cluster->n_machines, style);
    coord__markup_text(out, view->source->name);
    fprintf(out,
            "</h1>\n<p class=\"dim\">%.1f billion parameters, a file of %s, %s in memory, of which "
            "a token reads %s. Context %llu, %u sequence%s, KV %s.</p>\n",
            (double)shard_model_parameters(view->source->model) / 1e9, file, memory, token,
            (unsigned long long)view->shape->options.ctx, view->shape->options.max_seqs,
            view->shape->options.max_seqs == 1 ? "" : "s", kern_kv_name(view->shape->options.kv));
    if (view->source->note)
        fprintf(out,
                "<p><strong>Sizes only: this architecture cannot be run yet.</strong> It is %s.</p>"
                "\n",
                view->source->note);
}

static void put_speeds(FILE *out, const struct coord_plan_view *view)
{
    char prefill[32], decode[32], bound[PLAN_BOTTLENECK_TEXT];
    fprintf(out,
            "<div class=\"speeds\">\n<div><b>%s</b>tokens/s prefill</div>\n"
            "<div><b>%s</b>tokens/s decode</div>\n<div><b class=\"long\">",
            coord_plan_number(coord_plan_prefill(view), prefill),
            coord_plan_number(coord_plan_decode(view), decode));
    coord__markup_text(out,
                       plan_bottleneck_text(coord_plan_bottleneck(view), view->cluster, bound));
    fputs("</b>bottleneck</div>\n</div>\n", out);
}

static void put_cell(FILE *out, const char *text)
{
    fputs("<td class=\"word\">", out);
    coord__markup_text(out, text);
    fputs("</td>", out);
}

static void put_placement(FILE *out, const struct coord_plan_view *view)
{
    const struct plan_placement *p = view->answer->placement;
    char text[COORD_PLAN_TEXT];
    fputs("<h2>What each machine holds</h2>\n<div class=\"scroll\"><table>\n<tr>"
          "<th class=\"word\">machine</th><th>weights GB</th><th>KV GB</th><th>scratch GB</th>"
          "<th>of GB</th><th>busy</th><th class=\"word\">holds</th></tr>\n",
          out);
    for (uint32_t i = 0; i < p->n_workers && i < MAX_ROWS; i++) {
        const struct plan_worker *w = &p->workers[i];
        fputs("<tr>", out);
        put_cell(out, coord_plan_worker_name(view, i, text));
        fprintf(out, "<td>%.1f</td><td>%.1f</td><td>%.1f</td><td>%.1f</td><td>%.0f%%</td>",
                (double)w->weight_bytes / 1e9, (double)w->kv_bytes / 1e9,
                (double)w->scratch_bytes / 1e9, (double)coord_plan_worker_memory(view, i) / 1e9,
                view->usage[i].busy * 100);
        put_cell(out, coord_plan_worker_holds(view, i, text));
        fputs("</tr>\n", out);
    }
    fputs("</table></div>\n", out);
    if (p->n_workers > MAX_ROWS)
        fprintf(out, "<p class=\"dim\">… and %u more</p>\n", p->n_workers - MAX_ROWS);
}

static void put_idle(FILE *out, const struct coord_plan_view *view)
{
    const struct plan_answer *answer = view->answer;
    if (!answer->n_idle)
        return;
    fputs("<h2>Left out</h2>\n<ul>\n", out);
    for (uint32_t i = 0; i < answer->n_idle && i < MAX_ROWS; i++) {
        fputs("<li>", out);
        coord__markup_text(out, answer->idle[i].why);
        fputs("</li>\n", out);
    }
    fputs("</ul>\n", out);
}

static void put_changes(FILE *out, const struct coord_plan_view *view)
{
    if (!view->n_changes)
        return;
    fputs("<h2>What would help most</h2>\n<div class=\"scroll\"><table>\n", out);
    for (uint32_t i = 0; i < view->n_changes; i++) {
        fprintf(out, "<tr><td>%+.0f%%</td>", view->changes[i].gain * 100);
        put_cell(out, view->changes[i].text);
        fputs("</tr>\n", out);
    }
    fputs("</table></div>\n", out);
}

void coord_plan_print_html_plan(const struct coord_plan_view *view, FILE *out)
{
    static const char *const memory[][2] = {
        {"weights", "weights"}, {"kv", "KV"}, {"scratch", "scratch"}};
    static const char *const time[][2] = {{"compute", "arithmetic"},
                                          {"memory", "reading memory"},
                                          {"wire-time", "links"},
                                          {"wait", "waiting"}};
    put_speeds(out, view);
    put_key(out, memory, sizeof memory / sizeof memory[0]);
    coord__svg_machines(out, view);
    fprintf(out, "<h2>Where the time of a token goes, at position %llu</h2>\n",
            (unsigned long long)view->load.depth);
    put_key(out, time, sizeof time / sizeof time[0]);
    coord__svg_budget(out, view);
    put_placement(out, view);
    put_idle(out, view);
    put_changes(out, view);
}

void coord_plan_print_html_end(FILE *out)
{
    fputs("</body>\n</html>\n", out);
}

enum proto_status coord_plan_write_html(const struct coord_plan_view *view, const char *path,
                                        struct proto_error *error)
{
    FILE *out = fopen(path, "w");
    if (!out)
        return proto_fail_errno(error, errno, "cannot create", path);
    coord_plan_print_html_head(view, out);
    coord_plan_print_html_plan(view, out);
    coord_plan_print_html_end(out);
    bool failed = ferror(out);
    failed |= fclose(out) != 0;
    if (!failed)
        return PROTO_OK;
    int cause = errno;
    unlink(path);
    return proto_fail_errno(error, cause, "cannot write", path);
}
