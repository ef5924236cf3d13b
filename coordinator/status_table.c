/* SPDX-License-Identifier: Apache-2.0 */
#include "coordinator/status_table.h"

#include <string.h>

#include "coordinator/report.h"

#define N_COLUMNS  10
#define CELL_BYTES 72

static const char *const titles[N_COLUMNS] = {
    "worker", "state",  "layers",           "memory",         "threads",
    "isa",    "rtt ms", "compute ms/token", "queue ms/token", "wire ms/token"};

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

static void fill(struct row *row, const struct coord_worker_status *w)
{
    snprintf(row->cell[0], CELL_BYTES, "%s", w->name);
    snprintf(row->cell[1], CELL_BYTES, "%s", w->state);
    if (strcmp(w->state, "loading") == 0 && w->total_bytes > 0)
        snprintf(row->cell[1], CELL_BYTES, "loading %.0f%%",
                 100.0 * (double)w->done_bytes / (double)w->total_bytes);
    coord_format_layers(w, row->cell[2]);
    coord_format_bytes(w->rss_bytes > 0 ? w->rss_bytes : w->weight_bytes, row->cell[3]);
    snprintf(row->cell[4], CELL_BYTES, "%u", w->threads);
    snprintf(row->cell[5], CELL_BYTES, "%s", w->isa);
    snprintf(row->cell[6], CELL_BYTES, "%.3f", w->rtt_ms);
    per_token(row->cell[7], w->compute_ns, w->rows);
    per_token(row->cell[8], w->queue_ns, w->rows);
    per_token(row->cell[9], w->wire_ns + w->wire_back_ns, w->rows);
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
