/* SPDX-License-Identifier: Apache-2.0 */
#include "coordinator/backend.h"
#include "coordinator/bench.h"
#include "coordinator/commands.h"

#include <stdio.h>
#include <stdlib.h>

#define SURVEY_S 60u /* that measuring machines and links may take */

static enum proto_status bench_here(struct coord_backend *backend,
                                    const struct coord_bench_params *params, bool as_json,
                                    struct proto_error *error)
{
    struct coord_bench result;
    /* Without what machines and links can do there is no prediction, or a worse one. */
    enum proto_status status = coord_engine_wait_survey(backend->engine, SURVEY_S, error);
    if (status == PROTO_CANCELLED)
        return status;
    status = coord_bench_run(backend->engine, params, &result, error);
    if (status != PROTO_OK)
        return status;
    if (as_json) {
        char *text = coord_bench_json(&result);
        if (text)
            puts(text);
        else
            status = proto_fail(error, PROTO_NOMEM, "out of memory for the result");
        free(text);
    } else {
        coord_bench_print(&result, stdout);
    }
    coord_bench_finish(&result);
    return status;
}

static enum proto_status bench_there(struct coord_backend *backend,
                                     const struct coord_bench_params *params, bool as_json,
                                     struct proto_error *error)
{
    char *text = NULL;
    enum proto_status status = api_client_bench(backend->client, params, as_json, &text, error);
    if (status == PROTO_OK)
        fputs(text, stdout);
    free(text);
    return status;
}

static enum proto_status bench(const struct coord_cli *cli, const struct coord_bench_params *params,
                               bool as_json, struct proto_error *error)
{
    struct coord_backend backend;
    if (cli->synthetic && (cli->model || cli->server))
        return proto_fail(error, PROTO_INVALID,
                          "--synthetic %s is a model of its own: leave out %s", cli->synthetic,
                          cli->model ? "--model" : "--server");
    enum proto_status status = coord_backend_open(&backend, cli, coord_bench_ctx(params), error);
    if (status != PROTO_OK)
        return status;
    status = backend.engine ? bench_here(&backend, params, as_json, error)
                            : bench_there(&backend, params, as_json, error);
    coord_backend_close(&backend);
    return status;
}

int command_bench(int argc, char **argv)
{
    struct coord_bench_params params = COORD_BENCH_DEFAULT;
    bool as_json = false;
    struct coord_cli cli;
    struct proto_error error;
    coord_cli_default(&cli);
    cli.profile = true;
    const struct coord_option options[] = {
        {'p', "prompt", "N", "tokens of the prompt (default 512)", COORD_OPTION_U32,
         &params.n_prompt, 1, PROTO_MAX_CONTEXT, NULL},
        {'n', "tokens", "N", "tokens to generate (default 64)", COORD_OPTION_U32,
         &params.n_generate, 1, PROTO_MAX_CONTEXT, NULL},
        {'d', "depth", "N", "positions before the tokens that are generated (default 1)",
         COORD_OPTION_U32, &params.n_depth, 1, PROTO_MAX_CONTEXT, NULL},
        {0, "sequences", "N", "sequences that generate together (default 1)", COORD_OPTION_U32,
         &params.n_sequences, 1, PROTO_MAX_SEQUENCES, NULL},
        {'r', "rounds", "N", "rounds that are counted (default 3)", COORD_OPTION_U32,
         &params.n_rounds, 1, 64, NULL},
        {0, "synthetic", "SHAPE",
         "a model without a file, as maverick:Q4_K: workers make its weights themselves",
         COORD_OPTION_TEXT, &cli.synthetic, 0, 0, NULL},
        {0, "json", NULL, "print one JSON object", COORD_OPTION_FLAG, &as_json, 0, 0, NULL},
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
    if (cli.parallel < params.n_sequences)
        cli.parallel = params.n_sequences;
    return bench(&cli, &params, as_json, &error) == PROTO_OK ? 0 : coord_cli_fail(&command, &error);
}
