/* SPDX-License-Identifier: Apache-2.0 */
/* What the shared options say to the engine. */
#include "coordinator/options.h"

#include <limits.h>
#include <math.h>
#include <string.h>

/* The key's address is the one that workers know: another machine's name for this one, perhaps. So
 * only its port is taken, unless it is a loopback address. */
static const char *listen_address(const char *address)
{
    bool loopback = strncmp(address, "127.", 4) == 0 || strncmp(address, "[::1]", 5) == 0;
    const char *port = strrchr(address, ':');
    return loopback || !port ? address : port;
}

/* "HOST:PORT" as an endpoint; a whole endpoint stays, ":PORT" is every address. */
static enum proto_status make_endpoint(const char *address, char listen[NET_ADDRESS_BYTES],
                                       struct proto_error *error)
{
    const char *scheme = strstr(address, "://") ? "" : address[0] == ':' ? "tcp://*" : "tcp://";
    int n = snprintf(listen, NET_ADDRESS_BYTES, "%s%s", scheme, address);
    if (!strrchr(address, ':') || n >= NET_ADDRESS_BYTES)
        return proto_fail(error, PROTO_INVALID, "--worker-listen %.100s: expected HOST:PORT",
                          address);
    return PROTO_OK;
}

/* Keys and the address for workers from elsewhere. */
static enum proto_status open_door(const struct coord_cli *cli,
                                   struct coord_engine_options *options,
                                   struct net_cluster_keys *keys, char listen[NET_ADDRESS_BYTES],
                                   struct proto_error *error)
{
    char path[PATH_MAX];
    enum proto_status status = PROTO_OK;
    if (!cli->cluster_key)
        status = net_config_path(path, sizeof path, "cluster.key", error);
    else
        snprintf(path, sizeof path, "%s", cli->cluster_key);
    if (!status)
        status = net_cluster_keys_load(keys, path, error);
    if (status == PROTO_NOTFOUND)
        return proto_fail(error, status,
                          "the cluster's key %.300s is missing; make it with caravan keygen", path);
    if (status)
        return status;
    options->keys = keys;
    if (!cli->worker_listen && !keys->address[0])
        return proto_fail(error, PROTO_INVALID,
                          "the cluster's key names no address: say with --worker-listen HOST:PORT "
                          "where workers join");
    options->listen = listen;
    return make_endpoint(cli->worker_listen ? cli->worker_listen : listen_address(keys->address),
                         listen, error);
}

/* The shape of a split by experts means nothing to others. */
static enum proto_status check_split(const struct coord_cli *cli, struct proto_error *error)
{
    const char *name = cli->stages          ? "stages"
                       : cli->expert_slices ? "expert-slices"
                       : cli->replicas      ? "replicas"
                                            : NULL;
    if (!name || cli->split == SHARD_SPLIT_EXPERTS)
        return PROTO_OK;
    return proto_fail(error, PROTO_INVALID, "--%s is for --split experts", name);
}

/* Whether a plan is to be searched for machines that nobody has measured. */
static bool needs_profile(const struct coord_cli *cli)
{
    return cli->workers > 0 && !cli->profile_given && cli->split == SHARD_SPLIT_AUTO &&
           !cli->layers;
}

enum proto_status coord_cli_engine(const struct coord_cli *cli,
                                   struct coord_engine_options *options,
                                   struct net_cluster_keys *keys, char listen[NET_ADDRESS_BYTES],
                                   struct proto_error *error)
{
    enum proto_status status = check_split(cli, error);
    if (status != PROTO_OK)
        return status;
    if (!cli->model && !cli->synthetic)
        return proto_fail(error, PROTO_INVALID, "no model is given: name one with -m FILE");
    if (cli->map_experts && (cli->workers || cli->synthetic))
        return proto_fail(error, PROTO_INVALID,
                          "--map-experts is for local workers and a model's file: leave out %s",
                          cli->workers ? "--workers" : "--synthetic");
    *options = (struct coord_engine_options){
        .model_path = cli->model,
        .synthetic = cli->synthetic,
        .profile = cli->profile || needs_profile(cli),
        .aim = cli->aim,
        .rebalance_percent = cli->rebalance_gain,
        .local_workers = cli->workers > 0 && !cli->local_workers_given ? 0 : cli->local_workers,
        .workers = cli->workers,
        .threads = cli->threads,
        .isa = cli->isa,
        .layers = cli->layers,
        .split = cli->split,
        .stages = cli->stages,
        .slices = cli->expert_slices,
        .replicas = cli->replicas,
        .kv = cli->kv,
        .inexact = !cli->exact,
        .keep_packed = cli->keep_packed,
        .map_experts = cli->map_experts,
        .memory_bytes = (uint64_t)((double)cli->memory_gb * 1e9),
        .ctx = cli->ctx,
        .parallel = cli->parallel,
        .batch = cli->batch,
        .deadline_ms = (uint32_t)lroundf(cli->deadline_s * 1000.0f),
        .patience_s = cli->patience_s,
        .rebalance = cli->rebalance,
        .cache_dir = cli->cache_dir,
        .cache_limit_gb = cli->cache_limit_gb,
    };
    if (options->local_workers + options->workers == 0 && !cli->worker_listen)
        return proto_fail(error, PROTO_INVALID,
                          "there is no worker: give --local-workers or --workers at least 1");
    if (cli->workers > 0 || cli->worker_listen)
        return open_door(cli, options, keys, listen, error);
    return PROTO_OK;
}
