/* SPDX-License-Identifier: Apache-2.0 */
#include "coordinator/commands.h"

#include <getopt.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "net/keys.h"

static const char usage[] =
    "usage: caravan keygen [--address HOST:PORT] [--out FILE] [--force]\n"
    "\n"
    "Makes a cluster's keys, writes them to a file that only you can read, and prints the join\n"
    "token: whoever has it may add workers.\n"
    "\n"
    "  --address HOST:PORT  where workers reach the coordinator; goes into the token\n"
    "  --out FILE           the key file (default: ~/.config/caravan/cluster.key)\n"
    "  --force              replace the file if it exists: old tokens become worthless\n";

struct keygen_options {
    const char *address, *out;
    bool force;
};

/* Returns the program's exit status, or -1 to go on. */
static int parse(int argc, char **argv, struct keygen_options *options)
{
    static const struct option longs[] = {{"address", required_argument, NULL, 'a'},
                                          {"out", required_argument, NULL, 'o'},
                                          {"force", no_argument, NULL, 'f'},
                                          {"help", no_argument, NULL, 'h'},
                                          {NULL, 0, NULL, 0}};
    int c;
    optind = 1;
    while ((c = getopt_long(argc, argv, "h", longs, NULL)) != -1) {
        switch (c) {
        case 'a':
            options->address = optarg;
            break;
        case 'o':
            options->out = optarg;
            break;
        case 'f':
            options->force = true;
            break;
        case 'h':
            fputs(usage, stdout);
            return 0;
        default:
            fputs(usage, stderr);
            return 2;
        }
    }
    if (optind < argc) {
        fprintf(stderr, "caravan keygen: unexpected argument '%s'\n%s", argv[optind], usage);
        return 2;
    }
    return -1;
}

static enum proto_status make(struct net_cluster_keys *keys, const struct keygen_options *options,
                              char *path, size_t bytes, struct proto_error *error)
{
    enum proto_status status = PROTO_OK;
    if (!options->out)
        status = net_config_path(path, bytes, "cluster.key", error);
    else if (snprintf(path, bytes, "%s", options->out) >= (int)bytes)
        status = proto_fail(error, PROTO_LIMIT, "--out: the path is longer than %zu bytes", bytes);
    if (status == PROTO_OK && !options->force && access(path, F_OK) == 0)
        status = proto_fail(error, PROTO_REFUSED,
                            "%s exists; its cluster would lose its workers if it were replaced "
                            "(--force does so)",
                            path);
    if (status == PROTO_OK)
        status = net_cluster_keys_generate(keys, options->address, error);
    if (status == PROTO_OK)
        status = net_cluster_keys_save(keys, path, error);
    return status;
}

static int show(const struct net_cluster_keys *keys, const char *path)
{
    char token[NET_TOKEN_TEXT_BYTES];
    net_token_format(keys, token);
    bool named = keys->address[0] != 0;
    fprintf(stderr,
            "The cluster's keys are in %s.\n"
            "Start a worker on each machine with this command%s:\n\n"
            "    caravan-worker --join %s --token %s\n\n",
            path, named ? "" : ", with the coordinator's address in it",
            named ? keys->address : "HOST:PORT", token);
    int bad = puts(token) < 0 || fflush(stdout) != 0;
    explicit_bzero(token, sizeof token);
    if (bad)
        perror("caravan keygen: cannot print the token");
    return bad;
}

int command_keygen(int argc, char **argv)
{
    struct keygen_options options = {.address = ""};
    int rc = parse(argc, argv, &options);
    if (rc >= 0)
        return rc;
    char path[PATH_MAX];
    struct net_cluster_keys keys = {0};
    struct proto_error error;
    if (make(&keys, &options, path, sizeof path, &error) == PROTO_OK) {
        rc = show(&keys, path);
    } else {
        fprintf(stderr, "caravan keygen: %s\n", error.text);
        rc = 1;
    }
    explicit_bzero(&keys, sizeof keys);
    return rc;
}
