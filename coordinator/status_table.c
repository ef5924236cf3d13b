/* SPDX-License-Identifier: Apache-2.0 */
#include "coordinator/status_table.h"

#include <string.h>

#include "coordinator/report.h"

#define N_COLUMNS  10
#define CELL_BYTES 104
#define LEAST_MS   0.001 /* that is shown as a number */

static const char *const titles[N_COLUMNS] = {
    "worker",           "state",          "holds",        "memory", "threads", "isa", "rtt ms",
    "compute ms/token", "queue ms/token", "wire ms/token"};

struct row {
    char cell[N_COLUMNS][CELL_BYTES];
};

static void per_token(char cell[CELL_BYTES], uint64_t ns, uint64_t rows)
{
    if (rows > 0)
        snprintf(cell, CELL_BYTES, "%.3f", (double)ns * 1e-6 / (double)rows);
    else
        snprintf(cell, CELL_BYTES, "-");
}

/* What it holds as a stage, and for stages. */
static void fill_part(char cell[CELL_BYTES], const struct coord_worker_status *w)
{
    char layers[32], experts[64];
    coord_format_layers(w, layers);
    coord_format_experts(w, experts);
    if (w->n_slices == 0)
        snprintf(cell, CELL_BYTES, "%s", layers);
    else
        snprintf(cell, CELL_BYTES, "%s%s%.*s", w->layer_end ? layers : "", w->layer_end ? ", " : "",
                 CELL_BYTES - 40, experts);
}

/* Of a worker that was here before this coordinator started only the name is known. */
static void fill_machine(struct row *row, const struct coord_worker_status *w)
{
    for (int i = 3; i < 7; i++)
        snprintf(row->cell[i], CELL_BYTES, "-");
    if (w->threads == 0)
        return;
    coord_format_bytes(w->rss_bytes > 0 ? w->rss_bytes : w->weight_bytes, row->cell[3]);
    snprintf(row->cell[4], CELL_BYTES, "%u", w->threads);
    snprintf(row->cell[5], CELL_BYTES, "%s", w->isa);
    if (w->rtt_ms >= LEAST_MS)
        snprintf(row->cell[6], CELL_BYTES, "%.3f", w->rtt_ms);
    else if (w->rtt_ms > 0)
        snprintf(row->cell[6], CELL_BYTES, "<%.3f", LEAST_MS);
}

static void fill(struct row *row, const struct coord_worker_status *w)
{
    snprintf(row->cell[0], CELL_BYTES, "%s", w->name);
    snprintf(row->cell[1], CELL_BYTES, "%s", w->state);
    if (strcmp(w->state, "loading") == 0 && w->total_bytes > 0)
        snprintf(row->cell[1], CELL_BYTES, "loading %.0f%%",
                 100.0 * (double)w->done_bytes / (double)w->total_bytes);
    if (w->slowdown > 1)
        snprintf(row->cell[1], CELL_BYTES, "%s, %.1fx slower", w->state, w->slowdown);
    fill_part(row->cell[2], w);
    fill_machine(row, w);
    per_token(row->cell[7], w->compute_ns - w->expert_wait_ns + w->experts.compute_ns, w->rows);
    per_token(row->cell[8], w->queue_ns + w->expert_wait_ns, w->rows);
    per_token(row->cell[9], w->wire_ns + w->wire_back_ns + w->experts.wire_ns, w->rows);
}

static void widen(int width[N_COLUMNS], const struct row *row)
{
    for (int i = 0; i < N_COLUMNS; i++)
        if ((int)strlen(row->cell[i]) > width[i])
            width[i] = (int)strlen(row->cell[i]);
}

/* Words are on the left of their column, numbers on the right. */
static void print(FILE *out, const int width[N_COLUMNS], const struct row *row)
{
    for (int i = 0; i < N_COLUMNS; i++) {
        bool word = i < 3 || i == 5;
        fprintf(out, "%s%*s", i > 0 ? "  " : "", word && i + 1 < N_COLUMNS ? -width[i] : width[i],
                row->cell[i]);
    }
    fputc('\n', out);
}

void coord_status_table(FILE *out, const struct coord_status *status)
{
    struct row row;
    int width[N_COLUMNS] = {0};
    for (int i = 0; i < N_COLUMNS; i++)
        snprintf(row.cell[i], CELL_BYTES, "%s", titles[i]);
    struct row head = row;
    widen(width, &head);
    for (uint32_t i = 0; i < status->n_workers; i++) {
        fill(&row, &status->workers[i]);
        widen(width, &row);
    }
    print(out, width, &head);
    for (uint32_t i = 0; i < status->n_workers; i++) {
        fill(&row, &status->workers[i]);
        print(out, width, &row);
    }
}

void coord_status_caches(FILE *out, const struct coord_caches *caches)
{
    char bytes[16];
    if (!caches->moved && !caches->replayed && !caches->refilled)
        return;
    coord_format_bytes(caches->moved_bytes, bytes);
    fprintf(out,
            "caches: %llu positions moved between workers, %s; %llu computed again by all stages, "
            "%llu by one\n",
            (unsigned long long)caches->moved, bytes, (unsigned long long)caches->replayed,
            (unsigned long long)caches->refilled);
}

/* An expert and its share of its layer's choices. */
struct choice {
    uint32_t layer, expert;
    double share;
};

static void print_choice(FILE *out, const char *what, const struct choice *choice)
{
    fprintf(out, "%s: expert %u of layer %u, %.2f%% of its layer's choices\n", what, choice->expert,
            choice->layer, 100 * choice->share);
}

void coord_status_usage(FILE *out, const struct coord_status *status)
{
    struct choice most = {.share = -1}, least = {.share = 2};
    for (uint32_t il = 0; il < status->n_layers && status->usage; il++) {
        const uint64_t *counts = status->usage + (size_t)il * status->n_experts;
        uint64_t sum = 0;
        for (uint32_t i = 0; i < status->n_experts; i++)
            sum += counts[i];
        for (uint32_t i = 0; i < status->n_experts && sum; i++) {
            struct choice choice = {il, i, (double)counts[i] / (double)sum};
            most = choice.share > most.share ? choice : most;
            least = choice.share < least.share ? choice : least;
        }
    }
    if (most.share < 0)
        return;
    print_choice(out, "most used", &most);
    print_choice(out, "least used", &least);
}
