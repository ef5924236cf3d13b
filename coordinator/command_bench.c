/* SPDX-License-Identifier: Apache-2.0 */
#include "coordinator/backend.h"
#include "coordinator/bench.h"
#include "coordinator/bench_load.h"
#include "coordinator/commands.h"

#include <stdio.h>
#include <stdlib.h>

#define SURVEY_S          60u /* that measuring machines and links may take */
#define REQUESTS_A_CLIENT 8u

/* What the command line asks for. */
struct question {
    struct coord_bench_params params;
    struct coord_load_params load; /* clients 0: none */
    bool as_json;
};

/* Prints the text, which it frees. */
static enum proto_status print_text(char *text, struct proto_error *error)
{
    if (!text)
        return proto_fail(error, PROTO_NOMEM, "out of memory for the result");
    puts(text);
    free(text);
    return PROTO_OK;
}

static enum proto_status run_bench(struct coord_engine *engine, const struct question *q,
                                   struct proto_error *error)
{
    struct coord_bench result;
    enum proto_status status = coord_bench_run(engine, &q->params, &result, error);
    if (status != PROTO_OK)
        return status;
    if (q->as_json)
        status = print_text(coord_bench_json(&result), error);
    else
        coord_bench_print(&result, stdout);
    coord_bench_finish(&result);
    return status;
}

static enum proto_status run_load(struct coord_engine *engine, const struct question *q,
                                  struct proto_error *error)
{
    struct coord_load result;
    enum proto_status status = coord_load_run(engine, &q->load, &result, error);
    if (status == PROTO_OK && q->as_json)
        return print_text(coord_load_json(&result), error);
    if (status == PROTO_OK)
        coord_load_print(&result, stdout);
    return status;
}

static enum proto_status bench_here(struct coord_backend *backend, const struct question *q,
                                    struct proto_error *error)
{
    /* Without what machines and links can do there is no prediction, or a worse one. */
    enum proto_status status = coord_engine_wait_survey(backend->engine, SURVEY_S, error);
    if (status == PROTO_CANCELLED)
        return status;
    return q->load.clients ? run_load(backend->engine, q, error)
                           : run_bench(backend->engine, q, error);
}

static enum proto_status bench_there(struct coord_backend *backend, const struct question *q,
                                     struct proto_error *error)
{
    char *text = NULL;
    enum proto_status status =
        api_client_bench(backend->client, &q->params, q->as_json, &text, error);
    if (status == PROTO_OK)
        fputs(text, stdout);
    free(text);
    return status;
}

static enum proto_status check(const struct coord_cli *cli, const struct question *q,
                               struct proto_error *error)
{
    if (cli->synthetic && (cli->model || cli->server))
        return proto_fail(error, PROTO_INVALID,
                          "--synthetic %s is a model of its own: leave out %s", cli->synthetic,
                          cli->model ? "--model" : "--server");
    if (q->load.clients && cli->server)
        return proto_fail(error, PROTO_INVALID,
                          "--clients is for a cluster that this command starts itself, not for the "
                          "one at %.200s: leave out --server, name the model with -m FILE, and say "
                          "--workers N where workers are elsewhere",
                          cli->server);
    if (q->load.requests && !q->load.clients)
        return proto_fail(error, PROTO_INVALID, "--requests is for --clients");
    if (q->load.requests && q->load.requests < q->load.clients)
        return proto_fail(error, PROTO_INVALID,
                          "%u clients with %u requests together: expected one each at least",
                          q->load.clients, q->load.requests);
    return PROTO_OK;
}

static enum proto_status bench(const struct coord_cli *cli, struct question *q,
                               struct proto_error *error)
{
    struct coord_backend backend;
    struct coord_load_params *load = &q->load;
    enum proto_status status = check(cli, q, error);
    if (status != PROTO_OK)
        return status;
    load->n_prompt = q->params.n_prompt;
    load->n_generate = q->params.n_generate;
    load->requests = load->requests ? load->requests : REQUESTS_A_CLIENT * load->clients;
    uint64_t ctx =
        load->clients ? (uint64_t)load->n_prompt + load->n_generate : coord_bench_ctx(&q->params);
    status = coord_backend_open(&backend, cli, ctx, error);
    if (status != PROTO_OK)
        return status;
    status = backend.engine ? bench_here(&backend, q, error) : bench_there(&backend, q, error);
    coord_backend_close(&backend);
    return status;
}

int command_bench(int argc, char **argv)
{
    struct question q = {.params = COORD_BENCH_DEFAULT};
    struct coord_cli cli;
    struct proto_error error;
    coord_cli_default(&cli);
    cli.profile = true;
    const struct coord_option options[] = {
        {'p', "prompt", "N", "tokens of the prompt (default 512)", COORD_OPTION_U32,
         &q.params.n_prompt, 1, PROTO_MAX_CONTEXT, NULL},
        {'n', "tokens", "N", "tokens to generate (default 64)", COORD_OPTION_U32,
         &q.params.n_generate, 1, PROTO_MAX_CONTEXT, NULL},
        {'d', "depth", "N", "positions before the tokens that are generated (default 1)",
         COORD_OPTION_U32, &q.params.n_depth, 1, PROTO_MAX_CONTEXT, NULL},
        {0, "sequences", "N", "sequences that generate together (default 1)", COORD_OPTION_U32,
         &q.params.n_sequences, 1, PROTO_MAX_SEQUENCES, NULL},
        {'r', "rounds", "N", "rounds that are counted (default 3)", COORD_OPTION_U32,
         &q.params.n_rounds, 1, 64, NULL},
        {0, "clients", "N",
         "many requests instead: clients that send one when the last is answered (not with "
         "--server)",
         COORD_OPTION_U32, &q.load.clients, 1, COORD_LOAD_MAX_CLIENTS, NULL},
        {0, "requests", "N", "with --clients: requests of all together (8 each)", COORD_OPTION_U32,
         &q.load.requests, 1, COORD_LOAD_MAX_REQUESTS, NULL},
        {0, "synthetic", "SHAPE",
         "a model without a file, as maverick:Q4_K: workers make its weights themselves",
         COORD_OPTION_TEXT, &cli.synthetic, 0, 0, NULL},
        {0, "json", NULL, "print one JSON object", COORD_OPTION_FLAG, &q.as_json, 0, 0, NULL},
    };
    const struct coord_command command = {
        .name = "bench",
        .positional = "",
        .summary = "Measures prefill and decode, the memory's read bandwidth, and for each worker\n"
                   "what a token costs: computing, waiting, the wire.",
        .groups = COORD_OPTIONS_MODEL | COORD_OPTIONS_CLUSTER | COORD_OPTIONS_SERVER,
        .options = options,
        .n_options = sizeof options / sizeof *options};
    int stop = coord_cli_parse(&cli, &command, argc, argv);
    if (stop >= 0)
        return stop;
    uint32_t together = q.load.clients ? q.load.clients : q.params.n_sequences;
    if (cli.parallel < together)
        cli.parallel = together;
    return bench(&cli, &q, &error) == PROTO_OK ? 0 : coord_cli_fail(&command, &error);
}
