/* SPDX-License-Identifier: Apache-2.0 */
#include "coordinator/bench.h"

#include "coordinator/report.h"
#include "proto/log.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#define MAX_ROUNDS 64u

/* Ids that are spread over the vocabulary (the multiplier is Knuth's); what they mean changes no
 * time. */
int32_t *coord_bench_ids(uint32_t n, uint32_t n_vocab)
{
    int32_t *ids = malloc(n * sizeof *ids);
    for (uint32_t i = 0; ids && i < n; i++)
        ids[i] = (int32_t)((i * 2654435761u >> 4) % n_vocab);
    return ids;
}

enum proto_status coord_bench_submit(struct coord_engine *engine, const int32_t *ids,
                                     uint32_t n_ids, uint32_t n_generate,
                                     struct coord_stream **stream, struct proto_error *error)
{
    struct coord_request request = {.want = COORD_WANT_TOKENS,
                                    .ids = ids,
                                    .n_ids = n_ids,
                                    .max_tokens = n_generate,
                                    .ignore_eog = true,
                                    .sampling = TEXT_SAMPLING_DEFAULT};
    request.sampling.temperature = 0;
    return coord_engine_submit(engine, &request, stream, error);
}

/* Reads a stream to its end; *end gets its DONE event. */
static enum proto_status finish(struct coord_stream *stream, struct coord_event *end,
                                struct proto_error *error)
{
    while (coord_stream_next(stream, end, -1))
        if (end->kind == COORD_EVENT_DONE || end->kind == COORD_EVENT_FAILED)
            break;
    coord_stream_destroy(stream);
    return end->kind == COORD_EVENT_DONE
               ? PROTO_OK
               : proto_fail(error, end->error.status, "%s", end->error.text);
}

/* The same request n times at once; *end gets the DONE event of the one that decoded longest. */
static enum proto_status run_together(struct coord_engine *engine, const int32_t *ids,
                                      uint32_t n_ids, uint32_t n_generate, uint32_t n,
                                      struct coord_event *end, struct proto_error *error)
{
    struct coord_stream **streams = calloc(n, sizeof(struct coord_stream *));
    enum proto_status status =
        streams ? PROTO_OK : proto_fail_nomem(error, n * sizeof *streams, "the requests");
    uint32_t started = 0;
    *end = (struct coord_event){0};
    while (status == PROTO_OK && started < n) {
        status = coord_bench_submit(engine, ids, n_ids, n_generate, &streams[started], error);
        started += status == PROTO_OK;
    }
    for (uint32_t i = 0; i < started; i++) {
        struct coord_event event;
        if (status != PROTO_OK) {
            coord_stream_destroy(streams[i]);
            continue;
        }
        status = finish(streams[i], &event, error);
        if (status == PROTO_OK && event.decode_ns >= end->decode_ns)
            *end = event;
    }
    free(streams);
    return status;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

/* Rounds of one kind, sorted each for itself. Memory shared with other machines' guests is as fast
 * as they leave it from one second to the next, so the bus is measured beside every round. */
struct rounds {
    double rates[MAX_ROUNDS];  /* tokens a second */
    double buses[MAX_ROUNDS];  /* bytes a second that memory can be read */
    double shares[MAX_ROUNDS]; /* rate / bus */
};

static enum proto_status run_rounds(struct coord_engine *engine, const int32_t *ids, bool decode,
                                    const struct coord_bench_params *p, struct rounds *rounds,
                                    struct coord_status *status_out, struct proto_error *error)
{
    struct coord_event end;
    uint32_t n_ids = decode ? p->n_depth : p->n_prompt, n = decode ? p->n_sequences : 1;
    uint32_t n_generate = decode ? p->n_generate + 1 : 1;
    enum proto_status status = run_together(engine, ids, n_ids, n_generate, n, &end, error);
    coord_engine_reset_times(engine);
    for (uint32_t i = 0; i < p->n_rounds && status == PROTO_OK; i++) {
        status = run_together(engine, ids, n_ids, n_generate, n, &end, error);
        if (status == PROTO_OK)
            status = coord_engine_read_bandwidth(engine, &rounds->buses[i], error);
        if (status != PROTO_OK)
            return status;
        uint64_t ns = decode ? end.decode_ns : end.prompt_ns;
        double tokens = decode ? (double)p->n_generate * n : p->n_prompt;
        rounds->rates[i] = ns ? tokens * 1e9 / (double)ns : 0;
        rounds->shares[i] = rounds->buses[i] > 0 ? rounds->rates[i] / rounds->buses[i] : 0;
    }
    if (status != PROTO_OK)
        return status;
    qsort(rounds->rates, p->n_rounds, sizeof(double), by_value);
    qsort(rounds->buses, p->n_rounds, sizeof(double), by_value);
    qsort(rounds->shares, p->n_rounds, sizeof(double), by_value);
    return coord_engine_status(engine, status_out, error);
}

uint64_t coord_bench_ctx(const struct coord_bench_params *p)
{
    uint64_t prefill = (uint64_t)p->n_prompt + 1;
    uint64_t decode = (uint64_t)p->n_depth + p->n_generate + 1;
    return prefill > decode ? prefill : decode;
}

static enum proto_status check_params(const struct coord_bench_params *p, uint32_t ctx,
                                      struct proto_error *error)
{
    if (p->n_prompt < 1 || p->n_generate < 1 || p->n_depth < 1 || coord_bench_ctx(p) > ctx)
        return proto_fail(error, PROTO_INVALID,
                          "bench of a prompt of %u tokens, and %u generated at depth %u: each must "
                          "be at least 1 and fit the context of %u",
                          p->n_prompt, p->n_generate, p->n_depth, ctx);
    if (p->n_sequences < 1 || p->n_sequences > PROTO_MAX_SEQUENCES)
        return proto_fail(error, PROTO_INVALID, "%u sequences together: expected 1 to %u",
                          p->n_sequences, PROTO_MAX_SEQUENCES);
    if (p->n_rounds < 1 || p->n_rounds > MAX_ROUNDS)
        return proto_fail(error, PROTO_INVALID, "%u rounds: expected 1 to %u", p->n_rounds,
                          MAX_ROUNDS);
    return PROTO_OK;
}

/* What the planner expects; a measurement without it is one all the same. */
static void predict(struct coord_bench *bench, const struct shard_model *model)
{
    const struct coord_bench_params *p = &bench->params;
    const struct plan_load load = {.depth = p->n_depth + p->n_generate / 2,
                                   .prompt = p->n_prompt,
                                   .answer = p->n_generate,
                                   .sequences = p->n_sequences};
    struct proto_error error;
    if (coord_predict(&bench->predicted, &bench->decode_status, model, &load, &error) != PROTO_OK)
        proto_log(PROTO_LOG_INFO, "COORD-NO-PREDICTION", "reason=\"%s\"", error.text);
}

enum proto_status coord_bench_run(struct coord_engine *engine,
                                  const struct coord_bench_params *params, struct coord_bench *out,
                                  struct proto_error *error)
{
    struct rounds prefill, decode;
    uint32_t n = params->n_rounds;
    memset(out, 0, sizeof *out);
    out->params = *params;
    enum proto_status status = check_params(params, coord_engine_ctx(engine), error);
    if (status != PROTO_OK)
        return status;
    uint32_t longest = params->n_prompt > params->n_depth ? params->n_prompt : params->n_depth;
    int32_t *ids = coord_bench_ids(longest, coord_engine_model(engine)->n_vocab);
    if (!ids)
        return proto_fail_nomem(error, longest * sizeof *ids, "a prompt");
    status = run_rounds(engine, ids, false, params, &prefill, &out->prefill_status, error);
    if (status == PROTO_OK)
        status = run_rounds(engine, ids, true, params, &decode, &out->decode_status, error);
    free(ids);
    if (status != PROTO_OK) {
        coord_bench_finish(out);
        return status;
    }
    out->prefill = prefill.rates[n / 2];
    out->prefill_min = prefill.rates[0];
    out->prefill_max = prefill.rates[n - 1];
    out->decode = decode.rates[n / 2];
    out->decode_min = decode.rates[0];
    out->decode_max = decode.rates[n - 1];
    out->bus_bytes_s = decode.buses[n / 2];
    out->bytes_per_token = shard_model_bytes_per_token(coord_engine_model(engine));
    out->bus_share = decode.shares[n / 2] * (double)out->bytes_per_token;
    predict(out, coord_engine_model(engine));
    return PROTO_OK;
}

void coord_bench_finish(struct coord_bench *bench)
{
    coord_status_finish(&bench->prefill_status);
    coord_status_finish(&bench->decode_status);
}

/* ---- output ---- */

static double per_batch_ms(uint64_t ns, uint64_t batches)
{
    return batches ? (double)ns / (double)batches / 1e6 : 0;
}

static json_t *stage_json(const struct coord_worker_status *w)
{
    return json_pack("{s:s s:i s:i s:I s:f s:f s:f s:f s:f}", "worker", w->name, "layer_first",
                     (int)w->layer_first, "layer_end", (int)w->layer_end, "weight_bytes",
                     (json_int_t)w->weight_bytes, "compute_ms",
                     per_batch_ms(w->compute_ns, w->batches), "queue_ms",
                     per_batch_ms(w->queue_ns, w->batches), "wire_ms",
                     per_batch_ms(w->wire_ns, w->batches), "wire_back_ms",
                     per_batch_ms(w->wire_back_ns, w->batches), "expert_wait_ms",
                     per_batch_ms(w->expert_wait_ns, w->batches));
}

static json_t *host_json(const struct coord_worker_status *w)
{
    const struct coord_expert_times *t = &w->experts;
    double batches = w->batches ? (double)w->batches : 1;
    return json_pack(
        "{s:s s:i s:i s:I s:f s:f s:f s:f s:f s:f}", "worker", w->name, "expert_first",
        (int)w->expert_first, "expert_end", (int)w->expert_end, "weight_bytes",
        (json_int_t)w->weight_bytes, "requests", (double)t->requests / batches, "bytes_in",
        (double)t->bytes_in / batches, "bytes_out", (double)t->bytes_out / batches, "compute_ms",
        per_batch_ms(t->compute_ns, w->batches), "wire_ms", per_batch_ms(t->wire_ns, w->batches),
        "wait_ms", per_batch_ms(t->wait_ns, w->batches));
}

/* Workers that hold experts for stages; numbers are of a batch. */
static json_t *hosts_json(const struct coord_status *status)
{
    json_t *list = json_array();
    for (uint32_t i = 0; i < status->n_workers; i++)
        if (status->workers[i].n_slices)
            json_array_append_new(list, host_json(&status->workers[i]));
    return list;
}

static json_t *stages_json(const struct coord_status *status)
{
    json_t *list = json_array();
    for (uint32_t i = 0; i < status->n_workers; i++)
        if (status->workers[i].layer_end)
            json_array_append_new(list, stage_json(&status->workers[i]));
    return list;
}

/* null: not known. */
static json_t *predicted_json(const struct coord_prediction *p)
{
    if (p->decode <= 0)
        return json_null();
    return json_pack("{s:f s:f s:s}", "prefill", p->prefill, "decode", p->decode, "bottleneck",
                     p->bottleneck);
}

char *coord_bench_json(const struct coord_bench *b)
{
    json_t *root = json_pack(
        "{s:s s:i s:i s:i s:i s:i s:b s:f s:f s:[f,f] s:[f,f] s:f s:f s:I s:o s:o s:o s:o s:o}",
        "model", b->decode_status.model, "n_prompt", (int)b->params.n_prompt, "n_generate",
        (int)b->params.n_generate, "rounds", (int)b->params.n_rounds, "depth",
        (int)b->params.n_depth, "sequences", (int)b->params.n_sequences, "exact",
        !b->decode_status.inexact, "prefill", b->prefill, "decode", b->decode, "prefill_range",
        b->prefill_min, b->prefill_max, "decode_range", b->decode_min, b->decode_max, "bus_gb_s",
        b->bus_bytes_s / 1e9, "bus_share", b->bus_share, "bytes_per_token",
        (json_int_t)b->bytes_per_token, "stages", stages_json(&b->decode_status), "prefill_stages",
        stages_json(&b->prefill_status), "hosts", hosts_json(&b->decode_status), "prefill_hosts",
        hosts_json(&b->prefill_status), "predicted", predicted_json(&b->predicted));
    char *text = root ? json_dumps(root, JSON_INDENT(2) | JSON_REAL_PRECISION(6)) : NULL;
    json_decref(root);
    return text;
}

/* Median, least, most, and what was predicted, if anything was. */
static void print_rates(const char *what, uint32_t n, const double rates[4], FILE *out)
{
    fprintf(out, "%-7s %4u, tokens/s  %10.2f %10.2f %10.2f", what, n, rates[0], rates[1], rates[2]);
    if (rates[3] > 0)
        fprintf(out, " %10.2f", rates[3]);
    fputc('\n', out);
}

void coord_bench_print(const struct coord_bench *b, FILE *out)
{
    double used = (double)b->bytes_per_token * b->decode;
    uint32_t together = b->params.n_sequences;
    fprintf(out, "%s, %s\n\n", b->decode_status.model,
            b->decode_status.inexact ? "not exact" : "exact");
    fprintf(out, "%-22s %10s %10s %10s%s\n", "", "median", "least", "most",
            b->predicted.decode > 0 ? "  predicted" : "");
    const double prefill[] = {b->prefill, b->prefill_min, b->prefill_max, b->predicted.prefill};
    const double decode[] = {b->decode, b->decode_min, b->decode_max, b->predicted.decode};
    print_rates("prefill", b->params.n_prompt, prefill, out);
    print_rates("decode", b->params.n_generate, decode, out);
    if (b->predicted.decode > 0)
        fprintf(out, "predicted bottleneck of decoding: %s\n", b->predicted.bottleneck);
    if (b->params.n_depth > 1 || together > 1)
        fprintf(out, "decoding %u sequences together, from position %u on\n", together,
                b->params.n_depth);
    fprintf(out, "\nmemory reads %.1f GB/s; a token reads %.2f GB of weights", b->bus_bytes_s / 1e9,
            (double)b->bytes_per_token / 1e9);
    /* Sequences that decode together share what is read, but not always all of it. */
    if (together == 1)
        fprintf(out, ", decoding %.1f GB/s: %.0f%%", used / 1e9, 100 * b->bus_share);
    fputc('\n', out);
    fprintf(out, "\na token of decode:\n");
    coord_report_workers(&b->decode_status, out);
    fprintf(out, "\na batch of prefill:\n");
    coord_report_workers(&b->prefill_status, out);
}
