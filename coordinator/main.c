/* SPDX-License-Identifier: Apache-2.0 */
#include "coordinator/commands.h"

#include <stdio.h>
#include <string.h>

struct command {
    const char *name, *summary;
    int (*main)(int argc, char **argv);
};

static const struct command commands[] = {
    {"run", "generate text from a prompt, or chat", command_run},
    {"serve", "serve a model over HTTP, on this machine or a cluster", command_serve},
    {"status", "show the workers of a running coordinator", command_status},
    {"drain", "take a worker out of a running cluster", command_drain},
    {"bench", "measure prefill, decode and where the time goes", command_bench},
    {"eval", "write logits of token ids, or measure perplexity", command_eval},
    {"plan", "show how machines would share a model, and how fast it would be", command_plan},
    {"cache", "show, or free, what workers keep on this machine's disk", command_cache},
    {"inspect", "show what a model file holds and how it is computed", command_inspect},
    {"tokenize", "turn text into token ids", command_tokenize},
    {"detokenize", "turn token ids into text", command_detokenize},
    {"template", "render a chat template", command_template},
    {"mkmodel", "write a synthetic model for tests and measurements", command_mkmodel},
    {"keygen", "make the cluster's keys and print the join token", command_keygen},
};

#define N_COMMANDS (sizeof commands / sizeof *commands)

static void usage(FILE *out)
{
    fputs("usage: caravan COMMAND [options]\n"
          "\n"
          "Runs a language model split over several machines.\n"
          "\n",
          out);
    for (size_t i = 0; i < N_COMMANDS; i++)
        fprintf(out, "  %-11s %s\n", commands[i].name, commands[i].summary);
    fputs("\ncaravan COMMAND --help says more.\n", out);
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        usage(stderr);
        return 2;
    }
    for (size_t i = 0; i < N_COMMANDS; i++)
        if (strcmp(argv[1], commands[i].name) == 0)
            return commands[i].main(argc - 1, argv + 1);
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 ||
        strcmp(argv[1], "help") == 0) {
        usage(stdout);
        return 0;
    }
    if (strcmp(argv[1], "--version") == 0) {
        puts("caravan " CARAVAN_VERSION);
        return 0;
    }
    fprintf(stderr, "caravan: unknown command \"%s\"\n", argv[1]);
    usage(stderr);
    return 2;
}
