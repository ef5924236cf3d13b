/* SPDX-License-Identifier: Apache-2.0 */
#include "coordinator/commands.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "coordinator/options.h"
#include "coordinator/report.h"
#include "shard/store.h"

#define EVERYTHING UINT64_MAX

static void format_day(int64_t when, char text[32])
{
    const time_t seconds = (time_t)when;
    struct tm tm;
    if (!when || !localtime_r(&seconds, &tm) || !strftime(text, 32, "%Y-%m-%d %H:%M", &tm))
        snprintf(text, 32, "-");
}

static void print_row(const char *name, const struct shard_store_use *use)
{
    char bytes[16], leased[16], latest[32], oldest[32];
    coord_format_bytes(use->bytes, bytes);
    coord_format_bytes(use->leased_bytes, leased);
    format_day(use->latest, latest);
    format_day(use->oldest, oldest);
    printf("%-15s %8llu %10s %10s  %-16s  %s\n", name, (unsigned long long)use->files, bytes,
           leased, latest, oldest);
}

static enum proto_status list(const struct shard_store *store, struct proto_error *error)
{
    static const char *const names[SHARD_N_KEPT] = {[SHARD_KEPT_PIECE] = "pieces",
                                                    [SHARD_KEPT_PACKED] = "packed weights",
                                                    [SHARD_KEPT_PART] = "unfinished"};
    struct shard_store_use use[SHARD_N_KEPT];
    enum proto_status status = shard_store_look(store, use, error);
    if (status)
        return status;
    printf("%s\n\n%-15s %8s %10s %10s  %-16s  %s\n", shard_store_dir(store), "", "files", "bytes",
           "in use", "last used", "longest unused since");
    for (int i = 0; i < SHARD_N_KEPT; i++)
        print_row(names[i], &use[i]);
    return PROTO_OK;
}

/* Gigabytes, or "all". */
static enum proto_status read_amount(const char *text, uint64_t *bytes, struct proto_error *error)
{
    char *end;
    double gb = strtod(text, &end);
    *bytes = EVERYTHING;
    if (strcmp(text, "all") == 0)
        return PROTO_OK;
    if (text[0] < '0' || text[0] > '9' || *end || !(gb > 0 && gb <= 1e6))
        return proto_fail(error, PROTO_INVALID,
                          "--evict %.64s: expected gigabytes above 0, such as 12.5, or all", text);
    *bytes = (uint64_t)(gb * 1e9);
    return PROTO_OK;
}

static enum proto_status evict(const struct shard_store *store, const char *amount,
                               struct proto_error *error)
{
    uint64_t wanted, freed = 0;
    char text[16];
    enum proto_status status = read_amount(amount, &wanted, error);
    if (!status)
        status = shard_store_evict(store, wanted, &freed, error);
    if (status)
        return status;
    coord_format_bytes(freed, text);
    printf("%s freed%s\n", text,
           freed < wanted && wanted != EVERYTHING ? ": nothing else may go" : "");
    return PROTO_OK;
}

/* A folder is not made by looking at it. */
static enum proto_status check_folder(const char *dir, struct proto_error *error)
{
    struct stat info;
    if (!dir || (stat(dir, &info) == 0 && S_ISDIR(info.st_mode)))
        return PROTO_OK;
    return proto_fail(error, PROTO_NOTFOUND, "--cache-dir %.300s: there is no such folder", dir);
}

int command_cache(int argc, char **argv)
{
    const char *dir = NULL, *amount = NULL;
    const struct coord_option options[] = {
        {0, "cache-dir", "FOLDER", "the cache (~/.cache/caravan)", COORD_OPTION_TEXT, &dir, 0, 0,
         NULL},
        {0, "evict", "GB|all", "free so much, what was used least recently first",
         COORD_OPTION_TEXT, &amount, 0, 0, NULL},
    };
    const struct coord_command command = {
        .name = "cache",
        .positional = "",
        .summary =
            "Shows what workers of this machine keep on its disk for their next start: pieces of\n"
            "models as they were fetched, and weights as they are computed with. Files are named "
            "by\n"
            "what is in them, so models may share them. What a running worker needs stays.",
        .options = options,
        .n_options = sizeof options / sizeof options[0],
    };
    struct coord_cli cli;
    struct proto_error error;
    struct shard_store *store = NULL;
    coord_cli_default(&cli);
    int stop = coord_cli_parse(&cli, &command, argc, argv);
    if (stop >= 0)
        return stop;
    enum proto_status status = check_folder(dir, &error);
    if (!status)
        status = shard_store_open(&store, dir, &error);
    if (!status)
        status = amount ? evict(store, amount, &error) : list(store, &error);
    shard_store_close(store);
    return status ? coord_cli_fail(&command, &error) : 0;
}
