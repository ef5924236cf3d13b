/* SPDX-License-Identifier: Apache-2.0 */
/* /metrics in Prometheus' text format 0.0.4. */
#include "coordinator/api/http.h"

#include <stdlib.h>
#include <string.h>

static void print_head(FILE *out, const char *name, const char *type, const char *help)
{
    fprintf(out, "# HELP caravan_%s %s\n# TYPE caravan_%s %s\n", name, help, name, type);
}

static void print_one(FILE *out, const char *name, const char *type, const char *help,
                      uint64_t value)
{
    print_head(out, name, type, help);
    fprintf(out, "caravan_%s %llu\n", name, (unsigned long long)value);
}

static void print_label(FILE *out, const char *text)
{
    for (; *text; text++) {
        if (*text == '\\' || *text == '"')
            fputc('\\', out);
        if (*text == '\n')
            fputs("\\n", out);
        else
            fputc(*text, out);
    }
}

static void print_cluster(FILE *out, const struct coord_status *s)
{
    print_one(out, "ready", "gauge", "1 while the model is loaded and requests are served.",
              s->ready);
    print_one(out, "epoch", "gauge", "Number of the plan in force.", s->epoch);
    print_one(out, "requests_total", "counter", "Requests taken.", s->requests);
    print_one(out, "requests_failed_total", "counter", "Requests that ended in an error.",
              s->requests_failed);
    print_one(out, "prompt_tokens_total", "counter", "Tokens of prompts computed.",
              s->prompt_tokens);
    print_one(out, "generated_tokens_total", "counter", "Tokens generated.", s->generated_tokens);
    print_one(out, "stale_frames_total", "counter",
              "Answers of plans that were over, which were dropped.", s->stale_frames);
    print_one(out, "requests_active", "gauge", "Requests being computed.", s->active);
    print_one(out, "requests_waiting", "gauge", "Requests in the queue.", s->waiting);
    print_one(out, "requests_active_limit", "gauge", "Requests computed at once, at most.",
              s->max_active);
    print_one(out, "cache_moved_positions_total", "counter",
              "Cached positions that workers took up from others when the plan changed.",
              s->caches.moved);
    print_one(out, "cache_moved_bytes_total", "counter", "Bytes of caches that they took up.",
              s->caches.moved_bytes);
    print_one(out, "cache_replayed_positions_total", "counter",
              "Cached positions that were lost, and computed again by all stages.",
              s->caches.replayed);
    print_one(out, "cache_refilled_positions_total", "counter",
              "Cached positions that were lost, and computed again by one stage.",
              s->caches.refilled);
}

enum unit { COUNT, SECONDS, MILLISECONDS, REAL, TIMES, UP, LAYERS, EXPERTS };

struct series {
    const char *name, *type, *help;
    enum unit unit;
    size_t offset; /* in struct coord_worker_status */
};

#define FIELD(field) offsetof(struct coord_worker_status, field)
static const struct series worker_series[] = {
    {"worker_up", "gauge", "1 while the worker has its layers loaded.", UP, 0},
    {"worker_layers", "gauge", "Layers that the worker holds.", LAYERS, 0},
    {"worker_memory_bytes", "gauge", "Memory that the worker offers.", COUNT, FIELD(memory_bytes)},
    {"worker_weight_bytes", "gauge", "Weights that the worker holds.", COUNT, FIELD(weight_bytes)},
    {"worker_rss_bytes", "gauge", "Resident memory of the worker.", COUNT, FIELD(rss_bytes)},
    {"worker_stale_frames_total", "counter", "Batches of plans that were over, which it dropped.",
     COUNT, FIELD(stale_frames)},
    {"worker_rtt_seconds", "gauge", "Round trip from the coordinator.", MILLISECONDS,
     FIELD(rtt_ms)},
    {"worker_read_bytes_per_second", "gauge",
     "Read bandwidth of the worker's memory as it measured it, 0 before.", REAL,
     FIELD(profile.read_bytes_s)},
    {"worker_disk_bytes_per_second", "gauge",
     "Read speed of the worker's cache directory as it measured it, 0 where it is unknown.", REAL,
     FIELD(profile.disk_bytes_s)},
    {"worker_slowdown_ratio", "gauge",
     "How many times slower than it could the worker computes, 1 where it is not slow.", TIMES,
     FIELD(slowdown)},
    {"worker_batches_total", "counter", "Batches computed.", COUNT, FIELD(batches)},
    {"worker_rows_total", "counter", "Rows (positions) computed.", COUNT, FIELD(rows)},
    {"worker_compute_seconds_total", "counter", "Time computing.", SECONDS, FIELD(compute_ns)},
    {"worker_queue_seconds_total", "counter", "Time that batches waited at the worker.", SECONDS,
     FIELD(queue_ns)},
    {"worker_wire_seconds_total", "counter", "Time that batches travelled to the worker.", SECONDS,
     FIELD(wire_ns)},
    {"worker_wire_back_seconds_total", "counter",
     "Time that results travelled back, of the last stage.", SECONDS, FIELD(wire_back_ns)},
    {"worker_received_bytes_total", "counter", "Bytes of batches received.", COUNT,
     FIELD(bytes_in)},
    {"worker_expert_wait_seconds_total", "counter",
     "Time of a stage's computing that it waited for experts of other workers.", SECONDS,
     FIELD(expert_wait_ns)},
    {"worker_experts", "gauge", "Experts of each layer that the worker holds for stages.", EXPERTS,
     0},
    {"worker_expert_requests_total", "counter", "Requests of stages for the worker's experts.",
     COUNT, FIELD(experts.requests)},
    {"worker_expert_received_bytes_total", "counter", "Bytes of those requests.", COUNT,
     FIELD(experts.bytes_in)},
    {"worker_expert_sent_bytes_total", "counter", "Bytes of the answers.", COUNT,
     FIELD(experts.bytes_out)},
    {"worker_expert_compute_seconds_total", "counter", "Time computing them.", SECONDS,
     FIELD(experts.compute_ns)},
    {"worker_expert_wire_seconds_total", "counter",
     "Time from request to answer less that, on the way and in queues.", SECONDS,
     FIELD(experts.wire_ns)},
};

static double series_value(const struct series *series, const struct coord_worker_status *w)
{
    const void *field = (const char *)w + series->offset;
    switch (series->unit) {
    case UP:
        return strcmp(w->state, "ready") == 0;
    case LAYERS:
        return w->layer_end > w->layer_first ? w->layer_end - w->layer_first : 0;
    case REAL:
        return *(const double *)field;
    case TIMES:
        return *(const double *)field > 1 ? *(const double *)field : 1;
    case EXPERTS:
        return w->expert_end - w->expert_first;
    case MILLISECONDS:
        return *(const double *)field * 1e-3;
    case SECONDS:
        return (double)*(const uint64_t *)field * 1e-9;
    case COUNT:
        break;
    }
    return (double)*(const uint64_t *)field;
}

static void print_workers(FILE *out, const struct coord_status *s)
{
    for (size_t i = 0; i < sizeof worker_series / sizeof worker_series[0]; i++) {
        const struct series *series = &worker_series[i];
        print_head(out, series->name, series->type, series->help);
        for (uint32_t w = 0; w < s->n_workers; w++) {
            fprintf(out, "caravan_%s{worker=\"", series->name);
            print_label(out, s->workers[w].name);
            fprintf(out, "\"} %.17g\n", series_value(series, &s->workers[w]));
        }
    }
}

static void print_end(FILE *out, const struct coord_status *s, uint32_t end)
{
    print_label(out, end == COORD_HERE ? "" : s->workers[end].name);
}

static void print_link_series(FILE *out, const struct coord_status *s, const char *name,
                              const char *help, size_t offset)
{
    print_head(out, name, "gauge", help);
    for (uint32_t i = 0; i < s->n_links; i++) {
        const struct coord_link_status *link = &s->links[i];
        fprintf(out, "caravan_%s{from=\"", name);
        print_end(out, s, link->from);
        fputs("\",to=\"", out);
        print_end(out, s, link->to);
        fprintf(out, "\"} %.17g\n", *(const double *)((const char *)link + offset));
    }
}

/* The coordinator's name is empty. */
static void print_links(FILE *out, const struct coord_status *s)
{
    print_link_series(out, s, "link_rtt_seconds", "Round trip of a small frame.",
                      offsetof(struct coord_link_status, rtt_s));
    print_link_series(out, s, "link_bytes_per_second", "Bandwidth in one direction.",
                      offsetof(struct coord_link_status, bytes_s));
}

static void print_usage(FILE *out, const struct coord_status *s)
{
    if (!s->usage)
        return;
    print_head(out, "expert_rows_total", "counter", "Rows that chose an expert.");
    for (size_t i = 0; i < (size_t)s->n_layers * s->n_experts; i++)
        if (s->usage[i])
            fprintf(out, "caravan_expert_rows_total{layer=\"%zu\",expert=\"%zu\"} %llu\n",
                    i / s->n_experts, i % s->n_experts, (unsigned long long)s->usage[i]);
}

enum MHD_Result api__metrics(struct api__request *r)
{
    struct coord_status status;
    struct api__fault fault = {0};
    struct proto_error error;
    if (coord_engine_status(r->server->engine, &status, &error)) {
        api__fault_from(&fault, &error);
        return api__reply_fault(r, &fault);
    }
    char *text = NULL;
    size_t len = 0;
    FILE *out = open_memstream(&text, &len);
    if (out) {
        print_cluster(out, &status);
        print_workers(out, &status);
        print_links(out, &status);
        print_usage(out, &status);
        fclose(out);
    }
    coord_status_finish(&status);
    return api__reply_text(r, 200, "text/plain; version=0.0.4; charset=utf-8", text, len);
}
