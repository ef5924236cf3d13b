/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/machine.h"
#include "kernels/pool.h"
#include "net/address.h"
#include "proto/log.h"
#include "shard/pieces.h"
#include "worker/profile.h"
#include "worker/session.h"

#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

static const char usage[] =
    "usage: caravan-worker --token TOKEN [options]\n"
    "       caravan-worker --profile [options]\n"
    "\n"
    "Offers this machine to a Caravan cluster: waits for its coordinator, loads the part of the\n"
    "model that it is given, and computes. Ctrl-C leaves the cluster.\n"
    "\n"
    "  --join HOST:PORT     the coordinator (default: the address in the token)\n"
    "  --token TOKEN        the join token that `caravan keygen` printed; @FILE reads it from a\n"
    "                       file, - from standard input\n"
    "  --name NAME          shown to people (default: the host's name)\n"
    "  -t, --threads N      computing threads (default: the processors of this machine)\n"
    "  --memory GB          what may be used for weights and KV (default: 90% of what is free)\n"
    "  --boundary-memory P  beside that, percent of it for what was sent on to the worker after "
    "this\n"
    "                       one, so that it is soon replaced when it is lost (default: 5)\n"
    "  --listen HOST:PORT   where the worker before this one connects (default: any free port)\n"
    "  --advertise HOST:PORT  the address that others reach --listen by (port 0: --listen's)\n"
    "  --expert-listen HOST:PORT  where stages ask for experts that this worker holds (default:\n"
    "                       any free port); others reach it by --advertise's host\n"
    "  --isa NAME           portable, avx2, avx512, amx, neon or i8mm (default: the best here)\n"
    "  --key-file FILE      this machine's own key (default: ~/.config/caravan/worker.key)\n"
    "  --cache-dir DIR      where weights are kept for the next start (default: "
    "~/.cache/caravan)\n"
    "  --keep-packed on|off  keep them as they are computed with, a second copy where this "
    "machine\n"
    "                       has the model file (default: on)\n"
    "  --cache-limit GB     what they may take there, the least used goes first (default: what "
    "the\n"
    "                       disk has)\n"
    "  --machine NAME       workers that say the same share one machine (default: found out)\n"
    "  --profile            measure this machine, print what it can do, and end\n"
    "  --log LEVEL          error, warn, info or debug (default: info)\n"
    "  --local              the coordinator is this program's parent: end with it\n"
    "  --help\n";

#define DEFAULT_BOUNDARY 5.0 /* percent of the memory */

struct arguments {
    const char *join, *token, *name, *listen, *advertise, *expert_listen, *isa, *key_file,
        *cache_dir, *machine;
    unsigned long threads;
    double memory_gb, cache_limit_gb, boundary_percent;
    bool discard_packed, local, profile;
};

enum {
    OPT_JOIN = 256,
    OPT_TOKEN,
    OPT_NAME,
    OPT_MEMORY,
    OPT_BOUNDARY,
    OPT_LISTEN,
    OPT_ADVERTISE,
    OPT_EXPERT_LISTEN,
    OPT_ISA,
    OPT_KEY,
    OPT_CACHE,
    OPT_KEEP_PACKED,
    OPT_CACHE_LIMIT,
    OPT_LOG,
    OPT_LOCAL,
    OPT_MACHINE,
    OPT_PROFILE,
    OPT_HELP
};

static const struct option long_options[] = {
    {"join", required_argument, NULL, OPT_JOIN},
    {"token", required_argument, NULL, OPT_TOKEN},
    {"name", required_argument, NULL, OPT_NAME},
    {"threads", required_argument, NULL, 't'},
    {"memory", required_argument, NULL, OPT_MEMORY},
    {"boundary-memory", required_argument, NULL, OPT_BOUNDARY},
    {"listen", required_argument, NULL, OPT_LISTEN},
    {"advertise", required_argument, NULL, OPT_ADVERTISE},
    {"expert-listen", required_argument, NULL, OPT_EXPERT_LISTEN},
    {"isa", required_argument, NULL, OPT_ISA},
    {"key-file", required_argument, NULL, OPT_KEY},
    {"cache-dir", required_argument, NULL, OPT_CACHE},
    {"keep-packed", required_argument, NULL, OPT_KEEP_PACKED},
    {"cache-limit", required_argument, NULL, OPT_CACHE_LIMIT},
    {"log", required_argument, NULL, OPT_LOG},
    {"local", no_argument, NULL, OPT_LOCAL},
    {"machine", required_argument, NULL, OPT_MACHINE},
    {"profile", no_argument, NULL, OPT_PROFILE},
    {"help", no_argument, NULL, OPT_HELP},
    {NULL, 0, NULL, 0},
};

static bool take_threads(struct arguments *args, const char *text)
{
    char *end;
    args->threads = strtoul(text, &end, 10);
    if (text[0] >= '0' && text[0] <= '9' && *end == 0 && args->threads >= 1 &&
        args->threads <= KERN_POOL_MAX_THREADS)
        return true;
    fprintf(stderr, "caravan-worker: --threads \"%s\": expected a number from 1 to %u\n", text,
            KERN_POOL_MAX_THREADS);
    return false;
}

static bool take_gigabytes(double *gb, const char *option, const char *text, bool none_allowed)
{
    char *end;
    *gb = strtod(text, &end);
    if (end != text && *end == 0 && (*gb > 0 || (none_allowed && *gb == 0)) && *gb < 1e6)
        return true;
    fprintf(stderr, "caravan-worker: %s \"%s\": expected gigabytes%s, such as 12.5\n", option, text,
            none_allowed ? ", 0 for no limit" : " above 0");
    return false;
}

static bool take_boundary(struct arguments *args, const char *text)
{
    char *end;
    args->boundary_percent = strtod(text, &end);
    if (end != text && *end == 0 && args->boundary_percent >= 0 && args->boundary_percent <= 100)
        return true;
    fprintf(stderr, "caravan-worker: --boundary-memory \"%s\": expected percent from 0 to 100\n",
            text);
    return false;
}

static bool take_log_level(const char *text)
{
    int level = proto_log_level_by_name(text);
    if (level < 0)
        fprintf(stderr, "caravan-worker: --log \"%s\": expected error, warn, info or debug\n",
                text);
    else
        proto_log_set_level((enum proto_log_level)level);
    return level >= 0;
}

static bool take_keep_packed(struct arguments *args, const char *text)
{
    args->discard_packed = strcmp(text, "off") == 0;
    if (args->discard_packed || strcmp(text, "on") == 0)
        return true;
    fprintf(stderr, "caravan-worker: --keep-packed \"%s\": expected on or off\n", text);
    return false;
}

static bool take_machine(struct arguments *args, const char *text)
{
    args->machine = text;
    if (*text)
        return true;
    fprintf(stderr, "caravan-worker: --machine \"\": expected a name that workers share\n");
    return false;
}

static bool take_option(struct arguments *args, int option)
{
    switch (option) {
    case OPT_JOIN:
        args->join = optarg;
        return true;
    case OPT_TOKEN:
        args->token = optarg;
        return true;
    case OPT_NAME:
        args->name = optarg;
        return true;
    case OPT_LISTEN:
        args->listen = optarg;
        return true;
    case OPT_ADVERTISE:
        args->advertise = optarg;
        return true;
    case OPT_EXPERT_LISTEN:
        args->expert_listen = optarg;
        return true;
    case OPT_ISA:
        args->isa = optarg;
        return true;
    case OPT_KEY:
        args->key_file = optarg;
        return true;
    case OPT_CACHE:
        args->cache_dir = optarg;
        return true;
    case OPT_KEEP_PACKED:
        return take_keep_packed(args, optarg);
    case OPT_LOCAL:
        args->local = true;
        return true;
    case OPT_MACHINE:
        return take_machine(args, optarg);
    case OPT_PROFILE:
        args->profile = true;
        return true;
    case 't':
        return take_threads(args, optarg);
    case OPT_MEMORY:
        return take_gigabytes(&args->memory_gb, "--memory", optarg, false);
    case OPT_CACHE_LIMIT:
        return take_gigabytes(&args->cache_limit_gb, "--cache-limit", optarg, true);
    case OPT_BOUNDARY:
        return take_boundary(args, optarg);
    case OPT_LOG:
        return take_log_level(optarg);
    default:
        return false;
    }
}

/* 0: go on; otherwise the exit status + 1. */
static int parse(struct arguments *args, int argc, char **argv)
{
    int option;
    argv[0] = (char *)"caravan-worker"; /* getopt's messages begin with it */
    while ((option = getopt_long(argc, argv, "t:", long_options, NULL)) != -1) {
        if (option == OPT_HELP) {
            fputs(usage, stdout);
            return 1;
        }
        if (!take_option(args, option)) {
            fprintf(stderr, "caravan-worker --help lists the options\n");
            return 3;
        }
    }
    if (optind < argc) {
        fprintf(stderr,
                "caravan-worker: unexpected argument \"%s\"; caravan-worker --help lists "
                "the options\n",
                argv[optind]);
        return 3;
    }
    if (!args->token && !args->profile) {
        fprintf(stderr, "caravan-worker: --token is missing; `caravan keygen` on the coordinator "
                        "prints one\n");
        return 3;
    }
    return 0;
}

/* The token's text, from the argument, a file or standard input. */
static enum proto_status read_token(const char *argument, char text[NET_TOKEN_TEXT_BYTES],
                                    struct proto_error *error)
{
    FILE *file = strcmp(argument, "-") == 0 ? stdin : NULL;
    if (argument[0] == '@' && !(file = fopen(argument + 1, "r")))
        return proto_fail(error, PROTO_NOTFOUND, "--token: the file %s cannot be read",
                          argument + 1);
    if (!file) {
        snprintf(text, NET_TOKEN_TEXT_BYTES, "%s", argument);
        return PROTO_OK;
    }
    bool ok = fgets(text, NET_TOKEN_TEXT_BYTES, file) != NULL;
    if (file != stdin)
        fclose(file);
    if (!ok)
        return proto_fail(error, PROTO_FORMAT, "--token: nothing to read");
    text[strcspn(text, "\r\n")] = 0;
    return PROTO_OK;
}

static enum proto_status find_address(const struct arguments *args, const struct net_token *token,
                                      char *endpoint, size_t bytes, struct proto_error *error)
{
    const char *address = args->join ? args->join : token->address;
    if (!*address)
        return proto_fail(error, PROTO_INVALID,
                          "--join is missing, and the token names no "
                          "address: say --join HOST:PORT");
    return net_address_endpoint(address, false, endpoint, bytes, error);
}

static enum proto_status choose_table(const struct arguments *args, const struct kern_table **table,
                                      struct proto_error *error)
{
    int isa = args->isa ? kern_isa_by_name(args->isa) : (int)kern_isa_best();
    *table = isa < 0 ? NULL : kern_table_get((enum kern_isa)isa);
    if (*table)
        return PROTO_OK;
    return proto_fail(error, PROTO_UNSUPPORTED,
                      "--isa %s: expected portable, avx2, avx512, amx, neon or i8mm, and a "
                      "processor that has it; the best here is %s",
                      args->isa, kern_table_get(kern_isa_best())->name);
}

static enum proto_status own_key(const struct arguments *args, struct net_keypair *own,
                                 struct proto_error *error)
{
    char path[4096];
    /* A child has no identity beyond its life. */
    if (args->local && !args->key_file)
        return net_keypair_generate(own, error);
    if (args->key_file)
        return net_keypair_load_or_create(own, args->key_file, error);
    enum proto_status status = net_config_path(path, sizeof path, "worker.key", error);
    return status == PROTO_OK ? net_keypair_load_or_create(own, path, error) : status;
}

static unsigned thread_count(const struct arguments *args)
{
    return args->threads ? (unsigned)args->threads : kern_machine_processors();
}

/* The first bytes of the name's hash, or what the kernel says. */
static uint64_t machine_id(const struct arguments *args)
{
    uint8_t hash[PROTO_HASH_BYTES];
    uint64_t id;
    if (!args->machine)
        return kern_machine_id();
    shard_hash(hash, args->machine, strlen(args->machine));
    memcpy(&id, hash, sizeof id);
    return id;
}

static enum proto_status make_options(const struct arguments *args,
                                      struct worker_session_options *options,
                                      struct proto_error *error)
{
    static char endpoint[NET_ADDRESS_BYTES], listen[NET_ADDRESS_BYTES],
        advertise[NET_ADDRESS_BYTES], expert_listen[NET_ADDRESS_BYTES], host[256];
    char token[NET_TOKEN_TEXT_BYTES];
    enum proto_status status;
    if (gethostname(host, sizeof host - 1) != 0)
        snprintf(host, sizeof host, "worker");
    *options = (struct worker_session_options){
        .endpoint = endpoint,
        .name = args->name ? args->name : host,
        .listen = args->listen ? listen : NULL,
        .advertise = args->advertise ? advertise : NULL,
        .expert_listen = args->expert_listen ? expert_listen : NULL,
        .cache_dir = args->cache_dir,
        .keep_packed = !args->discard_packed,
        .cache_limit_bytes = (uint64_t)(args->cache_limit_gb * 1e9),
        .threads = thread_count(args),
        .machine = machine_id(args),
        .memory_bytes = args->memory_gb > 0 ? (uint64_t)(args->memory_gb * 1e9)
                                            : kern_machine_free_memory() / 10 * 9,
        .local = args->local};
    if ((status = read_token(args->token, token, error)) ||
        (status = net_token_parse(&options->token, token, error)) ||
        (status = find_address(args, &options->token, endpoint, sizeof endpoint, error)) ||
        (status = choose_table(args, &options->table, error)) ||
        (args->listen &&
         (status = net_address_endpoint(args->listen, true, listen, sizeof listen, error))) ||
        (args->expert_listen &&
         (status = net_address_endpoint(args->expert_listen, true, expert_listen,
                                        sizeof expert_listen, error))) ||
        (args->advertise && (status = net_address_endpoint(args->advertise, true, advertise,
                                                           sizeof advertise, error))))
        return status;
    options->boundary_bytes =
        (uint64_t)((double)options->memory_bytes / 100 * args->boundary_percent);
    return own_key(args, &options->own, error);
}

/* Measures, whether or not a profile is kept, and keeps what it finds. */
static enum proto_status show_profile(const struct arguments *args, struct proto_error *error)
{
    struct worker_profile_options options = {
        .cache_dir = args->cache_dir, .machine = machine_id(args), .anew = true};
    struct proto_profile profile;
    struct kern_pool *pool = NULL;
    enum proto_status status = choose_table(args, &options.table, error);
    if (!status)
        status = kern_pool_create(&pool, thread_count(args), error);
    options.pool = pool;
    if (!status)
        status = worker_profile_get(&profile, &options, error);
    kern_pool_destroy(pool);
    if (status)
        return status;
    printf("%u threads, %s\n\n", thread_count(args), options.table->name);
    worker_profile_print(&profile, stdout);
    return PROTO_OK;
}

static enum proto_status join(const struct arguments *args, struct proto_error *error)
{
    struct worker_session_options options;
    enum proto_status status = make_options(args, &options, error);
    return status ? status : worker_session_run(&options, error);
}

int main(int argc, char **argv)
{
    struct arguments args = {.boundary_percent = DEFAULT_BOUNDARY};
    struct proto_error error;
    proto_log_set_level(PROTO_LOG_INFO);
    int stop = parse(&args, argc, argv);
    if (stop)
        return stop - 1;
    pid_t parent = getppid();
    if (args.local && (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0 || getppid() != parent))
        return 1;
    signal(SIGPIPE, SIG_IGN);
    if ((args.profile ? show_profile(&args, &error) : join(&args, &error)) != PROTO_OK) {
        fprintf(stderr, "caravan-worker: %s\n", error.text);
        return 1;
    }
    return 0;
}
