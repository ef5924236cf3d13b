/* SPDX-License-Identifier: Apache-2.0 */
#include "coordinator/commands.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "shard/mkmodel.h"

static const char usage_text[] =
    "usage: caravan mkmodel PRESET OUT [--type T] [--seed S] [--set KEY=VALUE]... [--sparse]\n"
    "       caravan mkmodel --list\n"
    "\n"
    "Writes a synthetic model in GGUF format: real tensor names and shapes, weights made from\n"
    "the seed. Prints the SHA-256 of all tensors.\n"
    "\n"
    "  --type T         type of the matrices: F32, F16, BF16, Q8_0, Q4_0, Q4_K, ... or a\n"
    "                   mixture as files have it: Q4_K_M, Q3_K_M, ... (F16)\n"
    "  --seed S         a number from 0 to 2^64 - 1 (1)\n"
    "  --set KEY=VALUE  changes a dimension of the preset, as in --set layers=8\n"
    "  --sparse         header and holes only: a full-size file that takes no disk\n"
    "  --list           names the presets\n"
    "  --help           shows this text\n";

enum option_id { OPTION_TYPE = 1000, OPTION_SEED, OPTION_SET, OPTION_SPARSE, OPTION_LIST };

static const struct option options_table[] = {
    {"type", required_argument, NULL, OPTION_TYPE},
    {"seed", required_argument, NULL, OPTION_SEED},
    {"set", required_argument, NULL, OPTION_SET},
    {"sparse", no_argument, NULL, OPTION_SPARSE},
    {"list", no_argument, NULL, OPTION_LIST},
    {"help", no_argument, NULL, 'h'},
    {0},
};

struct arguments {
    struct shard_mkmodel_options options;
    const char **sets;
    const char *out;
    bool list, help;
};

/* A progress line appears only where somebody watches and waits. */
struct progress {
    const char *preset;
    struct timespec started, shown;
    bool visible;
};

static double seconds_since(const struct timespec *then)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)(now.tv_sec - then->tv_sec) + (double)(now.tv_nsec - then->tv_nsec) * 1e-9;
}

static void show_progress(void *arg, uint64_t done, uint64_t total)
{
    struct progress *progress = arg;
    if (seconds_since(&progress->started) < 1 || seconds_since(&progress->shown) < 0.2)
        return;
    clock_gettime(CLOCK_MONOTONIC, &progress->shown);
    progress->visible = true;
    fprintf(stderr, "\r%s: %.1f of %.1f GB written ", progress->preset, (double)done / 1e9,
            (double)total / 1e9);
}

static int usage_error(const char *text, const char *found)
{
    fprintf(stderr, "caravan mkmodel: %s%s\n%s", text, found, usage_text);
    return 2;
}

static bool parse_seed(const char *text, uint64_t *out)
{
    char *end;
    errno = 0;
    unsigned long long seed = strtoull(text, &end, 10);
    if (errno || *end || end == text || strchr(text, '-'))
        return false;
    *out = seed;
    return true;
}

/* 0, or the exit status after an explanation. */
static int parse(struct arguments *a, int argc, char **argv)
{
    int id;
    optind = 1;
    while ((id = getopt_long(argc, argv, "h", options_table, NULL)) != -1) {
        switch (id) {
        case OPTION_TYPE:
            a->options.type = optarg;
            break;
        case OPTION_SEED:
            if (!parse_seed(optarg, &a->options.seed))
                return usage_error("--seed takes a number from 0 to 2^64 - 1, found ", optarg);
            break;
        case OPTION_SET:
            a->sets[a->options.n_sets++] = optarg;
            break;
        case OPTION_SPARSE:
            a->options.sparse = true;
            break;
        case OPTION_LIST:
            a->list = true;
            break;
        case 'h':
            a->help = true;
            break;
        default:
            fputs(usage_text, stderr);
            return 2;
        }
    }
    if (a->list || a->help)
        return 0;
    if (argc - optind != 2)
        return usage_error("expected PRESET and OUT", "");
    a->options.preset = argv[optind];
    a->out = argv[optind + 1];
    return 0;
}

static int make(struct arguments *a)
{
    char digest[65];
    struct proto_error error;
    struct progress progress = {.preset = a->options.preset};
    clock_gettime(CLOCK_MONOTONIC, &progress.started);
    if (isatty(STDERR_FILENO)) {
        a->options.progress = show_progress;
        a->options.progress_arg = &progress;
    }
    enum proto_status status = shard_mkmodel(&a->options, a->out, digest, &error);
    if (progress.visible)
        fputs("\r\033[K", stderr);
    if (status) {
        fprintf(stderr, "caravan mkmodel: %s\n", error.text);
        return 1;
    }
    struct stat info;
    if (!a->options.sparse)
        printf("tensors sha256 %s\n", digest);
    else if (!stat(a->out, &info))
        printf("%s: %.1f GB, sparse\n", a->out, (double)info.st_size / 1e9);
    return 0;
}

int command_mkmodel(int argc, char **argv)
{
    struct arguments a = {.options = {.type = "F16", .seed = 1}};
    a.sets = calloc((size_t)argc + 1, sizeof *a.sets);
    if (!a.sets) {
        fprintf(stderr, "caravan mkmodel: out of memory\n");
        return 1;
    }
    a.options.sets = a.sets;
    int status = parse(&a, argc, argv);
    if (!status && a.help)
        fputs(usage_text, stdout);
    else if (!status && a.list)
        shard_mkmodel_list(stdout);
    else if (!status)
        status = make(&a);
    free(a.sets);
    return status;
}
