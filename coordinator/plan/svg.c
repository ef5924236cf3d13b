/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Stages stand one under the other, the hosts of a stage's experts on its right, joined by a bus.
 * Widths are in pixels of a page 1040 wide, which the browser scales.
 */
#include <math.h>
#include <stdlib.h>

#include "coordinator/plan/markup.h"

#define PAGE_WIDTH   1040
#define CARD_WIDTH   400
#define CARD_HEIGHT  88
#define ROW          104 /* from card to card */
#define SMALL_HEIGHT 46
#define SMALL_ROW    62
#define TAP          24 /* where a line meets a card, from its top */
#define HOP          46 /* room for what is said of a hop */
#define PILL_HEIGHT  28
#define MARGIN       16
#define HOST_X       (PAGE_WIDTH - MARGIN - CARD_WIDTH)
#define BUS_X        (MARGIN + CARD_WIDTH + 24)
#define MAX_CARDS    40
#define BAR_HEIGHT   14

#define BUDGET_LABEL 190
#define BUDGET_ROW   26
#define MAX_BUDGETS  40

static const struct plan_worker *worker_of(const struct coord_plan_view *view, uint32_t worker)
{
    return &view->answer->placement->workers[worker];
}

static void draw_memory(FILE *out, const struct coord_plan_view *view, uint32_t worker, double x,
                        double y)
{
    static const char *const classes[] = {"weights", "kv", "scratch"};
    const struct plan_worker *w = worker_of(view, worker);
    const uint64_t parts[] = {w->weight_bytes, w->kv_bytes, w->scratch_bytes};
    double memory = (double)coord_plan_worker_memory(view, worker);
    double width = CARD_WIDTH - 2 * MARGIN, at = 0;
    coord__svg_rect(out, x, y, width, BAR_HEIGHT, "empty");
    for (int i = 0; i < 3; i++) {
        double part = fmin((double)parts[i] / memory * width, width - at);
        coord__svg_rect(out, x + at, y, part, BAR_HEIGHT, classes[i]);
        at += part;
    }
}

static void draw_card(FILE *out, const struct coord_plan_view *view, uint32_t worker, double x,
                      double y)
{
    char text[COORD_PLAN_TEXT];
    coord__svg_rect(out, x, y, CARD_WIDTH, CARD_HEIGHT, "card");
    coord__svg_text(out, x + MARGIN, y + 24, "name", 28, "%s",
                    coord_plan_worker_name(view, worker, text));
    coord__svg_text(out, x + CARD_WIDTH - MARGIN, y + 24, "end", 0, "%.1f of %.1f GB",
                    (double)coord_plan_worker_bytes(view, worker) / 1e9,
                    (double)coord_plan_worker_memory(view, worker) / 1e9);
    coord__svg_text(out, x + MARGIN, y + 46, "holds", 56, "%s",
                    coord_plan_worker_holds(view, worker, text));
    draw_memory(out, view, worker, x + MARGIN, y + 60);
}

static void draw_pill(FILE *out, double y, const char *text)
{
    coord__svg_rect(out, MARGIN, y, CARD_WIDTH, PILL_HEIGHT, "pill");
    coord__svg_text(out, MARGIN + CARD_WIDTH / 2.0, y + 19, "middle", 0, "%s", text);
}

static void draw_line(FILE *out, double x1, double y1, double x2, double y2, const char *class)
{
    fprintf(out, "<path d=\"M%.1f %.1fL%.1f %.1f\" class=\"%s\"/>\n", x1, y1, x2, y2, class);
}

/* An arrow down from y to y + HOP, and what goes along it. */
static void draw_hop(FILE *out, const struct coord_plan_view *view, double y, uint32_t from,
                     uint32_t to, const char *what)
{
    char link[COORD_PLAN_TEXT];
    draw_line(out, MARGIN + 40, y, MARGIN + 40, y + HOP - 3, "arrow");
    coord__svg_text(out, MARGIN + 56, y + 20, "wire", 0, "%s", what);
    coord__svg_text(out, MARGIN + 56, y + 36, "dim", 0, "%s",
                    coord_plan_link(view, from, to, link));
}

/* A host at y, joined with the bus of its stage; a small card where it is drawn elsewhere. The
 * height that it takes. */
static double draw_host(FILE *out, const struct coord_plan_view *view, uint32_t stage,
                        uint32_t host, double y)
{
    char text[COORD_PLAN_TEXT];
    const struct coord_plan_flow *flow = coord_plan_hosts(view, stage, host);
    uint32_t own = worker_of(view, view->answer->placement->stages[stage].worker)->machine;
    draw_line(out, BUS_X, y + TAP, HOST_X - 3, y + TAP, "arrow");
    coord__svg_text(out, BUS_X + 14, y + TAP - 6, "wire", 0, "%.1f kB out, %.1f back",
                    flow->there / 1e3, flow->back / 1e3);
    coord__svg_text(out, BUS_X + 14, y + TAP + 16, "dim", 0, "%s",
                    coord_plan_link(view, own, worker_of(view, host)->machine, text));
    if (coord_plan_drawn_here(view, stage, host)) {
        draw_card(out, view, host, HOST_X, y);
        return ROW;
    }
    coord__svg_rect(out, HOST_X, y, CARD_WIDTH, SMALL_HEIGHT, "card");
    coord__svg_text(out, HOST_X + MARGIN, y + TAP + 5, "name", 40, "%s",
                    coord_plan_worker_name(view, host, text));
    return SMALL_ROW;
}

/* The hosts of a stage at y; *cards: how many. The height that they take. */
static double draw_hosts(FILE *out, const struct coord_plan_view *view, uint32_t stage, double y,
                         uint32_t room, uint32_t *cards)
{
    double height = 0, last = 0;
    *cards = 0;
    for (uint32_t w = 0; w < view->answer->placement->n_workers && *cards < room; w++) {
        if (coord_plan_hosts(view, stage, w)->there <= 0)
            continue;
        last = height;
        height += draw_host(out, view, stage, w, y + height);
        ++*cards;
    }
    if (*cards > 0) {
        draw_line(out, BUS_X, y + TAP, MARGIN + CARD_WIDTH + 3, y + TAP, "arrow");
        draw_line(out, BUS_X, y + TAP, BUS_X, y + TAP + last, "line");
    }
    return height;
}

/* The y below all that was drawn. */
static double draw_stages(FILE *out, const struct coord_plan_view *view)
{
    const struct plan_placement *p = view->answer->placement;
    uint32_t cards = 0, before = plan_cluster_coordinator(view->cluster);
    double y = MARGIN + PILL_HEIGHT;
    for (uint32_t s = 0; s < p->n_stages && cards < MAX_CARDS; s++) {
        const struct plan_stage *stage = &p->stages[s];
        uint32_t machine = worker_of(view, stage->worker)->machine;
        char what[64] = "token ids";
        if (s > 0)
            snprintf(what, sizeof what, "%.1f kB a token",
                     (double)view->shape->layers[stage->layer_first].row_bytes / 1e3);
        draw_hop(out, view, y, before, machine, what);
        draw_card(out, view, stage->worker, MARGIN, y + HOP);
        uint32_t hosts;
        double height =
            fmax(CARD_HEIGHT, draw_hosts(out, view, s, y + HOP, MAX_CARDS - cards - 1, &hosts) -
                                  (ROW - CARD_HEIGHT));
        if (height > CARD_HEIGHT)
            draw_line(out, MARGIN + 40, y + HOP + CARD_HEIGHT, MARGIN + 40, y + HOP + height,
                      "line");
        cards += 1 + hosts;
        y += HOP + height;
        before = machine;
    }
    if (cards >= MAX_CARDS) {
        coord__svg_text(out, MARGIN + 56, y + 24, "wire", 0, "… and so on");
        y += HOP;
    }
    draw_hop(out, view, y, before, plan_cluster_coordinator(view->cluster), "likeliest tokens");
    return y + HOP;
}

/* The height is known when all is drawn, so the picture is made in memory. */
void coord__svg_machines(FILE *out, const struct coord_plan_view *view)
{
    char *picture = NULL;
    size_t len = 0;
    FILE *memory = open_memstream(&picture, &len);
    if (!memory)
        return;
    draw_pill(memory, MARGIN, "coordinator: tokeniser, scheduler, sampling");
    double y = draw_stages(memory, view);
    draw_pill(memory, y, "coordinator");
    fclose(memory);
    fprintf(out,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" role=\"img\" aria-label=\"Machines and "
            "what goes between them\" viewBox=\"0 0 %d %.0f\">\n"
            "<defs><marker id=\"head\" viewBox=\"0 0 8 8\" refX=\"6\" refY=\"4\" markerWidth=\"8\" "
            "markerHeight=\"8\" orient=\"auto-start-reverse\"><path d=\"M0 0L8 4L0 8z\" "
            "class=\"head\"/></marker></defs>\n",
            PAGE_WIDTH, y + PILL_HEIGHT + MARGIN);
    fwrite(picture, 1, len, out);
    fputs("</svg>\n", out);
    free(picture);
}

static void draw_budget(FILE *out, const char *name, const struct plan_budget *budget, double scale,
                        double y)
{
    static const char *const classes[] = {"compute", "memory", "wire-time", "wait"};
    const double parts[] = {budget->compute_s, budget->memory_s, budget->wire_s, budget->wait_s};
    double at = BUDGET_LABEL, sum = 0;
    coord__svg_text(out, BUDGET_LABEL - 12, y + 16, "end", 24, "%s", name);
    for (int i = 0; i < 4; i++) {
        coord__svg_rect(out, at, y + 3, parts[i] * scale, BUDGET_ROW - 8, classes[i]);
        at += fmax(parts[i], 0) * scale;
        sum += parts[i];
    }
    coord__svg_text(out, at + 8, y + 16, "dim", 0, "%.2f ms", sum * 1e3);
}

void coord__svg_budget(FILE *out, const struct coord_plan_view *view)
{
    const struct plan_placement *p = view->answer->placement;
    const struct plan_cost *cost = &view->answer->cost;
    uint32_t n = p->n_workers < MAX_BUDGETS ? p->n_workers : MAX_BUDGETS;
    double scale = (PAGE_WIDTH - BUDGET_LABEL - 110) / cost->decode_s, y = BUDGET_ROW;
    fprintf(out,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" role=\"img\" aria-label=\"Where the time of "
            "a token goes\" viewBox=\"0 0 %d %u\">\n",
            PAGE_WIDTH, BUDGET_ROW * (n + 1) + 8);
    draw_budget(out, "a token", &cost->token, scale, 0);
    for (uint32_t i = 0; i < n; i++, y += BUDGET_ROW) {
        char text[COORD_PLAN_TEXT];
        draw_budget(out, coord_plan_worker_name(view, i, text), &view->usage[i].token, scale, y);
    }
    fputs("</svg>\n", out);
}
