/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Command lines. A command says what it takes as a table of options; groups of options that many
 * commands share are tables here. Reading and the text of --help come from the same tables.
 *
 * "--name VALUE", "--name=VALUE", "-x VALUE" and "-xVALUE" are understood; "--" ends the options.
 * Numbers are read whole and must be in range. One thread.
 */
#ifndef COORDINATOR_OPTIONS_H
#define COORDINATOR_OPTIONS_H

#include "coordinator/engine.h"
#include "proto/log.h"

enum coord_option_kind {
    COORD_OPTION_FLAG,      /* bool: set to true; takes no value */
    COORD_OPTION_TEXT,      /* const char *: into argv */
    COORD_OPTION_U32,       /* uint32_t within min..max */
    COORD_OPTION_I32,       /* int32_t within min..max */
    COORD_OPTION_U64,       /* uint64_t, any */
    COORD_OPTION_FLOAT,     /* float within min..max */
    COORD_OPTION_SWITCH,    /* bool: "on" or "off" */
    COORD_OPTION_KV,        /* enum kern_kv, by its name */
    COORD_OPTION_SPLIT,     /* enum shard_split_kind: "auto", "layers" or "experts" */
    COORD_OPTION_AIM,       /* enum plan_aim: "latency", "throughput" or "balanced" */
    COORD_OPTION_REBALANCE, /* enum coord_rebalance: "auto", "ask" or "off" */
    COORD_OPTION_STEPS,     /* struct text_sampling: the order of samplers */
    COORD_OPTION_BIAS,      /* struct coord_option_biases: ID=BIAS; may be given often */
    COORD_OPTION_KEY,       /* struct coord_option_key: a file, whose first line is the key */
    COORD_OPTION_VERBOSE,   /* enum proto_log_level: one more with each use; takes no value */
    COORD_OPTION_LIST       /* struct coord_option_list: may be given often */
};

struct coord_option_list {
    const char **values; /* the caller's, cap of them */
    unsigned n, cap;
};

#define COORD_MAX_BIASES 64

struct coord_option_biases {
    struct text_bias values[COORD_MAX_BIASES];
    unsigned n;
};

#define COORD_KEY_BYTES 1024

struct coord_option_key {
    const char **key; /* set to the text below */
    char text[COORD_KEY_BYTES];
};

struct coord_option {
    char letter;       /* 0: none */
    const char *name;  /* without the dashes */
    const char *value; /* what the value is called in --help; NULL: takes none */
    const char *help;
    enum coord_option_kind kind;
    void *target; /* of the kind's type; keeps its value where the option is not given */
    double min, max;
    bool *given; /* set when the option is there; may be NULL */
};

/* Groups of shared options. */
enum coord_option_group {
    COORD_OPTIONS_MODEL = 1,    /* --model */
    COORD_OPTIONS_CLUSTER = 2,  /* how to compute: workers, threads, context ... */
    COORD_OPTIONS_SAMPLING = 4, /* --temp ... */
    COORD_OPTIONS_SERVER = 8    /* --server, --api-key ...: a coordinator that runs already */
};

#define COORD_MAX_POSITIONAL 8

/* What the shared options say. Fill with coord_cli_default first; not to be copied, since sampling
 * and the key point to what is beside them. */
struct coord_cli {
    const char *model;
    const char *synthetic; /* in place of a model's file; see struct coord_engine_options */
    bool profile;          /* as there; also where a plan is searched, unless it says off */
    bool profile_given;
    uint32_t local_workers, workers, threads, ctx, batch, parallel;
    bool local_workers_given;
    const char *isa, *layers, *worker_listen, *cluster_key, *cache_dir;
    enum kern_kv kv;
    enum shard_split_kind split;
    uint32_t stages, expert_slices, replicas; /* 0: not given */
    enum plan_aim aim;
    uint32_t rebalance_gain; /* percent */
    bool exact, keep_packed, map_experts;
    float deadline_s, cache_limit_gb, memory_gb; /* memory_gb 0: not given */
    uint32_t patience_s;
    enum coord_rebalance rebalance;
    struct text_sampling sampling;
    struct coord_option_biases biases;
    struct coord_option_list breakers;
    const char *breaker_texts[TEXT_MAX_BREAKERS];
    bool seed_given;
    const char *server, *api_key;
    struct coord_option_key key_file;
    enum proto_log_level log_level;
    const char *positional[COORD_MAX_POSITIONAL];
    unsigned n_positional;
};

struct coord_command {
    const char *name;                   /* "run" */
    const char *positional;             /* "MODEL [FILE]", or "" */
    const char *summary;                /* a line or more for --help */
    unsigned groups;                    /* of enum coord_option_group */
    const struct coord_option *options; /* the command's own; they win over shared ones */
    size_t n_options;
    unsigned min_positional, max_positional;
};

void coord_cli_default(struct coord_cli *cli);

/* Reads argv (argv[0] is the command's name). -1: go on; otherwise the exit status: 0 after --help,
 * 2 after a line on standard error that names the option, what was given and what is allowed. Sets
 * the log's level. */
int coord_cli_parse(struct coord_cli *cli, const struct coord_command *command, int argc,
                    char **argv);

/* Prints the error as "caravan NAME: text" and returns 1, an exit status. */
int coord_cli_fail(const struct coord_command *command, const struct proto_error *error);

/* The engine's options. *keys is loaded from --cluster-key where workers from elsewhere may join;
 * listen is room for their endpoint. *options borrows from cli, keys and listen. With --workers
 * there are no local workers unless asked for. */
enum proto_status coord_cli_engine(const struct coord_cli *cli,
                                   struct coord_engine_options *options,
                                   struct net_cluster_keys *keys, char listen[NET_ADDRESS_BYTES],
                                   struct proto_error *error);

#endif
