/* SPDX-License-Identifier: Apache-2.0 */
#include "coordinator/backend.h"
#include "coordinator/chat.h"
#include "coordinator/commands.h"
#include "coordinator/files.h"
#include "coordinator/report.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct run_options {
    const char *prompt, *file, *system;
    uint32_t n;
    bool n_given;
    bool special, ignore_eog, stats;
};

static bool write_text(void *user, const char *text, size_t len)
{
    (void)user;
    return fwrite(text, 1, len, stdout) == len && fflush(stdout) == 0;
}

static void print_stats(struct coord_backend *backend, const struct coord_event *done)
{
    struct coord_status status;
    struct proto_error error;
    fprintf(stderr, "\n\nprompt: %u tokens, %.1f tokens/s; generated: %u tokens, %.1f tokens/s\n\n",
            done->n_prompt, done->prompt_ns ? done->n_prompt * 1e9 / (double)done->prompt_ns : 0.0,
            done->n_generated,
            done->decode_ns && done->n_generated > 1
                ? (done->n_generated - 1) * 1e9 / (double)done->decode_ns
                : 0.0);
    fprintf(stderr, "a token (a batch of the prompt counts as one):\n");
    if (coord_engine_status(backend->engine, &status, &error) == PROTO_OK)
        coord_report_workers(&status, stderr);
    coord_status_finish(&status);
}

static enum proto_status run(const struct coord_cli *cli, const struct run_options *o,
                             struct proto_error *error)
{
    char *text = NULL;
    size_t len = o->prompt ? strlen(o->prompt) : 0;
    struct coord_backend backend;
    struct coord_event done;
    enum proto_status status = PROTO_OK;
    if (o->system)
        return proto_fail(error, PROTO_INVALID,
                          "--system is for a chat: leave out --prompt and --file, or --system");
    if (o->file)
        status = coord_read_file(o->file, &text, &len, error);
    if (status == PROTO_OK) {
        /* A token covers at least a byte, so this many positions are enough. */
        status = coord_backend_open(&backend, cli, (uint64_t)len + o->n + 1, error);
        if (status == PROTO_OK) {
            struct api_client_completion request = {.prompt = o->prompt ? o->prompt : text,
                                                    .prompt_len = len,
                                                    .max_tokens = o->n,
                                                    .ignore_eog = o->ignore_eog,
                                                    .sampling = cli->sampling};
            status = coord_backend_complete(&backend, &request, o->special, write_text, NULL, &done,
                                            error);
            if (status == PROTO_OK && o->stats && backend.engine)
                print_stats(&backend, &done);
            coord_backend_close(&backend);
        }
    }
    free(text);
    return status;
}

static enum proto_status chat(const struct coord_cli *cli, const struct run_options *o,
                              struct proto_error *error)
{
    if (o->special || o->stats)
        return proto_fail(error, PROTO_INVALID,
                          "--%s is not for a chat: say --prompt TEXT, or --file FILE (- for "
                          "standard input)",
                          o->special ? "special" : "stats");
    struct coord_backend backend;
    enum proto_status status = coord_backend_open(&backend, cli, 0, error);
    if (status)
        return status;
    const struct coord_chat_options options = {.system = o->system,
                                               .max_tokens = o->n_given ? o->n : PROTO_MAX_CONTEXT,
                                               .ignore_eog = o->ignore_eog,
                                               .sampling = cli->sampling};
    status = coord_chat(&backend, &options, error);
    coord_backend_close(&backend);
    return status;
}

int command_run(int argc, char **argv)
{
    struct run_options o = {.n = 128};
    const struct coord_option options[] = {
        {'p', "prompt", "TEXT", "the prompt", COORD_OPTION_TEXT, &o.prompt, 0, 0, NULL},
        {'f', "file", "FILE", "read the prompt from a file (- for standard input)",
         COORD_OPTION_TEXT, &o.file, 0, 0, NULL},
        {0, "system", "TEXT", "the system's message of a chat", COORD_OPTION_TEXT, &o.system, 0, 0,
         NULL},
        {'n', "tokens", "N",
         "generate at most N tokens (128; each answer of a chat: what the context leaves)",
         COORD_OPTION_U32, &o.n, 1, PROTO_MAX_CONTEXT, &o.n_given},
        {0, "special", NULL, "control tokens spelled in the prompt become their ids",
         COORD_OPTION_FLAG, &o.special, 0, 0, NULL},
        {0, "ignore-eos", NULL, "go on after an end-of-generation token", COORD_OPTION_FLAG,
         &o.ignore_eog, 0, 0, NULL},
        {0, "stats", NULL, "afterwards, say on standard error where the time went",
         COORD_OPTION_FLAG, &o.stats, 0, 0, NULL},
    };
    const struct coord_command command = {
        .name = "run",
        .positional = "",
        .summary = "Generates text from a prompt; only the text goes to standard output. Without a "
                   "prompt, a chat:\nlines are messages (/help says more).",
        .groups = COORD_OPTIONS_MODEL | COORD_OPTIONS_CLUSTER | COORD_OPTIONS_SAMPLING |
                  COORD_OPTIONS_SERVER,
        .options = options,
        .n_options = sizeof options / sizeof *options};
    struct coord_cli cli;
    struct proto_error error;
    coord_cli_default(&cli);
    int stop = coord_cli_parse(&cli, &command, argc, argv);
    if (stop >= 0)
        return stop;
    enum proto_status status = o.prompt || o.file ? run(&cli, &o, &error) : chat(&cli, &o, &error);
    return status == PROTO_OK ? 0 : coord_cli_fail(&command, &error);
}
