/* SPDX-License-Identifier: Apache-2.0 */
#include "coordinator/report.h"

#include <string.h>

void coord_format_bytes(uint64_t bytes, char text[16])
{
    if (bytes >= 1000000000u)
        snprintf(text, 16, "%.2f GB", (double)bytes / 1e9);
    else if (bytes >= 1000000u)
        snprintf(text, 16, "%.1f MB", (double)bytes / 1e6);
    else
        snprintf(text, 16, "%.0f kB", (double)bytes / 1e3);
}

void coord_format_layers(const struct coord_worker_status *w, char text[32])
{
    if (w->layer_end == 0) {
        snprintf(text, 32, "-");
        return;
    }
    snprintf(text, 32, "%s%u-%u%s", w->embed ? "embed " : "", w->layer_first, w->layer_end - 1,
             w->head ? " head" : "");
}

/* Milliseconds a batch. */
static double per_batch(uint64_t ns, uint64_t batches)
{
    return batches ? (double)ns / (double)batches / 1e6 : 0;
}

void coord_report_workers(const struct coord_status *status, FILE *out)
{
    double compute = 0, wait = 0, wire = 0;
    uint64_t held = 0;
    char bytes[16], layers[32];
    fprintf(out, "%-14s %-16s %10s %12s %12s %12s\n", "worker", "layers", "held", "compute ms",
            "wait ms", "wire ms");
    for (uint32_t i = 0; i < status->n_workers; i++) {
        const struct coord_worker_status *w = &status->workers[i];
        double row[3] = {per_batch(w->compute_ns, w->batches), per_batch(w->queue_ns, w->batches),
                         per_batch(w->wire_ns + w->wire_back_ns, w->batches)};
        coord_format_bytes(w->weight_bytes, bytes);
        coord_format_layers(w, layers);
        fprintf(out, "%-14s %-16s %10s %12.3f %12.3f %12.3f\n", w->name, layers, bytes, row[0],
                row[1], row[2]);
        compute += row[0];
        wait += row[1];
        wire += row[2];
        held += w->weight_bytes;
    }
    coord_format_bytes(held, bytes);
    fprintf(out, "%-14s %-16s %10s %12.3f %12.3f %12.3f\n", "all", "", bytes, compute, wait,
            wire);
}
