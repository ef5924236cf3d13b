/* SPDX-License-Identifier: Apache-2.0 */
#include "coordinator/bench_load.h"

#include "coordinator/bench.h"
#include "coordinator/plan/prediction.h"
#include "net/loop.h"
#include "proto/log.h"

#include <jansson.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

/* All requests; each is written by the client that took it. */
struct work {
    struct coord_engine *engine;
    const struct coord_load_params *params;
    int32_t *ids;
    atomic_uint next; /* request */
    atomic_bool failed;
    double *first_s, *request_s;
    double *token_s; /* n_generate - 1 of each request */
};

struct client {
    struct work *work;
    pthread_t thread;
    enum proto_status status;
    struct proto_error error;
};

static double seconds_between(uint64_t from_ns, uint64_t to_ns)
{
    return (double)(to_ns - from_ns) * 1e-9;
}

/* Notes when tokens come; r: the request. */
static enum proto_status read_tokens(const struct work *w, uint32_t r, struct coord_stream *stream,
                                     uint64_t start_ns, struct proto_error *error)
{
    uint32_t most = w->params->n_generate, n = 0;
    uint64_t last_ns = start_ns;
    struct coord_event event;
    while (coord_stream_next(stream, &event, -1)) {
        uint64_t now_ns = net_now_ns();
        if (event.kind == COORD_EVENT_FAILED)
            return proto_fail(error, event.error.status, "%s", event.error.text);
        if (event.kind == COORD_EVENT_DONE)
            break;
        if (n == 0)
            w->first_s[r] = seconds_between(start_ns, now_ns);
        else if (n < most)
            w->token_s[(size_t)r * (most - 1) + n - 1] = seconds_between(last_ns, now_ns);
        last_ns = now_ns;
        n++;
    }
    w->request_s[r] = seconds_between(start_ns, last_ns);
    return PROTO_OK;
}

static enum proto_status run_request(const struct work *w, uint32_t r, struct proto_error *error)
{
    struct coord_stream *stream;
    uint64_t start_ns = net_now_ns();
    enum proto_status status = coord_bench_submit(w->engine, w->ids, w->params->n_prompt,
                                                  w->params->n_generate, &stream, error);
    if (status != PROTO_OK)
        return status;
    status = read_tokens(w, r, stream, start_ns, error);
    coord_stream_destroy(stream);
    return status;
}

static void *client_main(void *arg)
{
    struct client *client = arg;
    struct work *w = client->work;
    while (client->status == PROTO_OK && !atomic_load(&w->failed)) {
        uint32_t r = atomic_fetch_add(&w->next, 1);
        if (r >= w->params->requests)
            break;
        client->status = run_request(w, r, &client->error);
        if (client->status != PROTO_OK)
            atomic_store(&w->failed, true);
    }
    return NULL;
}

/* All clients to their end; the first error of any. */
static enum proto_status run_clients(struct work *w, struct proto_error *error)
{
    uint32_t n = w->params->clients, started = 0;
    struct client *clients = calloc(n, sizeof *clients);
    enum proto_status status = PROTO_OK;
    if (!clients)
        return proto_fail_nomem(error, n * sizeof *clients, "clients");
    for (; started < n && status == PROTO_OK; started++) {
        clients[started].work = w;
        int rc = pthread_create(&clients[started].thread, NULL, client_main, &clients[started]);
        if (rc) {
            status = proto_fail_errno(error, rc, "start", "a client");
            atomic_store(&w->failed, true);
            break;
        }
    }
    for (uint32_t i = 0; i < started; i++) {
        pthread_join(clients[i].thread, NULL);
        if (clients[i].status != PROTO_OK && status == PROTO_OK)
            status = proto_fail(error, clients[i].error.status, "%s", clients[i].error.text);
    }
    free(clients);
    return status;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static double median(double *values, size_t n)
{
    if (n == 0)
        return 0;
    qsort(values, n, sizeof *values, by_value);
    return values[n / 2];
}

static void fill(struct coord_load_rates *out, const struct work *w, double seconds)
{
    const struct coord_load_params *p = w->params;
    *out = (struct coord_load_rates){
        .prompt_tokens_s = (double)p->requests * p->n_prompt / seconds,
        .answer_tokens_s = (double)p->requests * p->n_generate / seconds,
        .first_s = median(w->first_s, p->requests),
        .token_s = median(w->token_s, (size_t)p->requests * (p->n_generate - 1)),
        .request_s = median(w->request_s, p->requests)};
}

/* What the simulator expects; a measurement without it is one all the same. */
static enum proto_status simulate(struct coord_load *load, struct coord_engine *engine,
                                  struct proto_error *error)
{
    const struct coord_load_params *p = &load->params;
    struct coord_status now;
    struct plan_simulated s;
    struct proto_error why;
    enum proto_status status = coord_engine_status(engine, &now, error);
    if (status != PROTO_OK)
        return status;
    const struct plan_simulation question = {.seed = 1,
                                             .requests = p->requests,
                                             .clients = p->clients,
                                             .max_seqs = now.max_active,
                                             .max_rows = now.max_rows,
                                             .prompt = p->n_prompt,
                                             .answer = p->n_generate};
    if (coord_simulate(&s, &now, coord_engine_model(engine), &question, &why) == PROTO_OK)
        load->simulated = (struct coord_load_rates){.prompt_tokens_s = s.prompt_tokens_s,
                                                    .answer_tokens_s = s.answer_tokens_s,
                                                    .first_s = s.first_s.p50,
                                                    .token_s = s.token_s.p50,
                                                    .request_s = s.request_s.p50};
    else
        proto_log(PROTO_LOG_INFO, "COORD-NO-PREDICTION", "reason=\"%s\"", why.text);
    coord_status_finish(&now);
    return PROTO_OK;
}

static enum proto_status check(const struct coord_load_params *p, uint32_t ctx,
                               struct proto_error *error)
{
    if (p->n_prompt < 1 || p->n_generate < 1 || p->n_prompt + (uint64_t)p->n_generate > ctx)
        return proto_fail(error, PROTO_INVALID,
                          "requests of a prompt of %u tokens and %u generated: each must be at "
                          "least 1 and both fit the context of %u",
                          p->n_prompt, p->n_generate, ctx);
    if (p->clients < 1 || p->clients > COORD_LOAD_MAX_CLIENTS || p->requests < p->clients ||
        p->requests > COORD_LOAD_MAX_REQUESTS)
        return proto_fail(error, PROTO_INVALID,
                          "%u clients with %u requests together: expected 1 to %u clients, and as "
                          "many requests at least, at most %u",
                          p->clients, p->requests, COORD_LOAD_MAX_CLIENTS, COORD_LOAD_MAX_REQUESTS);
    return PROTO_OK;
}

static enum proto_status run_work(struct work *w, struct coord_load *out, struct proto_error *error)
{
    enum proto_status status = run_request(w, 0, error);
    uint64_t start_ns = net_now_ns();
    if (status == PROTO_OK)
        status = run_clients(w, error);
    if (status != PROTO_OK)
        return status;
    fill(&out->measured, w, seconds_between(start_ns, net_now_ns()));
    return simulate(out, w->engine, error);
}

enum proto_status coord_load_run(struct coord_engine *engine,
                                 const struct coord_load_params *params, struct coord_load *out,
                                 struct proto_error *error)
{
    struct work w = {.engine = engine, .params = params};
    enum proto_status status = check(params, coord_engine_ctx(engine), error);
    *out = (struct coord_load){.params = *params};
    if (status != PROTO_OK)
        return status;
    size_t tokens = (size_t)params->requests * params->n_generate;
    w.ids = coord_bench_ids(params->n_prompt, coord_engine_model(engine)->n_vocab);
    w.first_s = calloc(params->requests, sizeof *w.first_s);
    w.request_s = calloc(params->requests, sizeof *w.request_s);
    w.token_s = calloc(tokens, sizeof *w.token_s);
    if (!w.ids || !w.first_s || !w.request_s || !w.token_s)
        status = proto_fail_nomem(error, tokens * sizeof *w.token_s, "the times of tokens");
    else
        status = run_work(&w, out, error);
    free(w.ids);
    free(w.first_s);
    free(w.request_s);
    free(w.token_s);
    return status;
}

/* ---- output ---- */

static json_t *rates_json(const struct coord_load_rates *r)
{
    if (r->answer_tokens_s <= 0)
        return json_null();
    return json_pack("{s:f s:f s:f s:f s:f}", "prompt_tokens_s", r->prompt_tokens_s,
                     "answer_tokens_s", r->answer_tokens_s, "first_s", r->first_s, "token_s",
                     r->token_s, "request_s", r->request_s);
}

char *coord_load_json(const struct coord_load *load)
{
    const struct coord_load_params *p = &load->params;
    json_t *root = json_pack("{s:i s:i s:i s:i s:o s:o}", "clients", (int)p->clients, "requests",
                             (int)p->requests, "n_prompt", (int)p->n_prompt, "n_generate",
                             (int)p->n_generate, "measured", rates_json(&load->measured),
                             "simulated", rates_json(&load->simulated));
    char *text = root ? json_dumps(root, JSON_INDENT(2) | JSON_REAL_PRECISION(6)) : NULL;
    json_decref(root);
    return text;
}

void coord_load_print(const struct coord_load *load, FILE *out)
{
    const struct coord_load_params *p = &load->params;
    const struct coord_load_rates *m = &load->measured, *s = &load->simulated;
    const struct {
        const char *what;
        double measured, simulated;
    } rows[] = {
        {"prompts, tokens/s", m->prompt_tokens_s, s->prompt_tokens_s},
        {"generated, tokens/s", m->answer_tokens_s, s->answer_tokens_s},
        {"to the first token, ms", m->first_s * 1e3, s->first_s * 1e3},
        {"between tokens, ms", m->token_s * 1e3, s->token_s * 1e3},
        {"request, ms", m->request_s * 1e3, s->request_s * 1e3},
    };
    fprintf(out, "%u requests of %u and %u tokens, %u always under way; times are medians\n\n",
            p->requests, p->n_prompt, p->n_generate, p->clients);
    fprintf(out, "%-24s %12s %12s\n", "", "measured", "simulated");
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        fprintf(out, "%-24s %12.2f", rows[i].what, rows[i].measured);
        if (s->answer_tokens_s > 0)
            fprintf(out, " %12.2f", rows[i].simulated);
        fputc('\n', out);
    }
}
