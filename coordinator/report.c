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

void coord_format_experts(const struct coord_worker_status *w, char text[64])
{
    char slice[24] = "";
    if (w->n_slices == 0) {
        snprintf(text, 64, "-");
        return;
    }
    if (w->n_slices > 1)
        snprintf(slice, sizeof slice, "%u/%u of ", w->expert_slice + 1, w->n_slices);
    snprintf(text, 64, "%sexperts %u-%u of layers %u-%u", slice, w->expert_first, w->expert_end - 1,
             w->expert_layer_first, w->expert_layer_end - 1);
}

static void report_stages(const struct coord_status *status, FILE *out)
{
    double compute = 0, wait = 0, wire = 0;
    uint64_t held = 0;
    char bytes[16], layers[32];
    fprintf(out, "%-14s %-16s %10s %12s %12s %12s\n", "worker", "layers", "held", "compute ms",
            "wait ms", "wire ms");
    for (uint32_t i = 0; i < status->n_workers; i++) {
        const struct coord_worker_status *w = &status->workers[i];
        if (w->layer_end == 0 && w->n_slices)
            continue;
        double row[3] = {per_batch(w->compute_ns - w->expert_wait_ns, w->batches),
                         per_batch(w->queue_ns + w->expert_wait_ns, w->batches),
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
    fprintf(out, "%-14s %-16s %10s %12.3f %12.3f %12.3f\n", "all", "", bytes, compute, wait, wire);
}

static void report_hosts(const struct coord_status *status, FILE *out)
{
    char bytes[16], experts[64];
    fprintf(out, "\n%-14s %-36s %10s %9s %12s %12s\n", "worker", "experts", "held", "requests",
            "compute ms", "wire ms");
    for (uint32_t i = 0; i < status->n_workers; i++) {
        const struct coord_worker_status *w = &status->workers[i];
        if (w->n_slices == 0)
            continue;
        coord_format_bytes(w->weight_bytes, bytes);
        coord_format_experts(w, experts);
        fprintf(out, "%-14s %-36s %10s %9.2f %12.3f %12.3f\n", w->name, experts, bytes,
                w->batches ? (double)w->experts.requests / (double)w->batches : 0.0,
                per_batch(w->experts.compute_ns, w->batches),
                per_batch(w->experts.wire_ns, w->batches));
    }
}

/* A batch is a frame to each stage and one back, and two for each request to a host. */
static void report_wire(const struct coord_status *status, FILE *out)
{
    uint64_t frames = 0, bytes = 0, batches = status->workers[0].batches;
    char text[16];
    for (uint32_t i = 0; i < status->n_workers; i++) {
        const struct coord_worker_status *w = &status->workers[i];
        frames += 2 * w->experts.requests + (w->layer_end ? w->batches : 0);
        bytes += w->experts.bytes_in + w->experts.bytes_out + w->bytes_in;
    }
    coord_format_bytes(batches ? bytes / batches : 0, text);
    fprintf(out, "on the wire: %.2f frames, %s\n",
            batches ? 1.0 + (double)frames / (double)batches : 0.0, text);
}

void coord_report_workers(const struct coord_status *status, FILE *out)
{
    bool any = false;
    for (uint32_t i = 0; i < status->n_workers; i++)
        any |= status->workers[i].n_slices > 0;
    report_stages(status, out);
    if (!any)
        return;
    report_hosts(status, out);
    report_wire(status, out);
}
