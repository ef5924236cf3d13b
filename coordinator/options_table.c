/* SPDX-License-Identifier: Apache-2.0 */
/* The options that commands share, by group. */
#include "coordinator/options_parts.h"

void coord_cli_default(struct coord_cli *cli)
{
    *cli = (struct coord_cli){
        .local_workers = 1,
        .kv = KERN_KV_F32,
        .exact = true,
        .deadline_s = 2.0f,
        .patience_s = 600,
        .rebalance_gain = 10,
        .sampling = TEXT_SAMPLING_DEFAULT,
        .log_level = PROTO_LOG_WARN,
    };
    cli->breakers.values = cli->breaker_texts;
    cli->breakers.cap = TEXT_MAX_BREAKERS;
    cli->key_file.key = &cli->api_key;
}

static void add(struct options__table *t, const struct coord_option *options, size_t n)
{
    for (size_t i = 0; i < n && t->n < OPTIONS__MOST; i++)
        t->options[t->n++] = options[i];
}

static void add_model(struct options__table *t, struct coord_cli *cli)
{
    const struct coord_option options[] = {
        {'m', "model", "FILE", "the model (GGUF; of a split one the first file)", COORD_OPTION_TEXT,
         &cli->model, 0, 0, NULL},
    };
    add(t, options, sizeof options / sizeof options[0]);
}

static void add_cluster(struct options__table *t, struct coord_cli *cli)
{
    const struct coord_option options[] = {
        {0, "local-workers", "N",
         "workers on this machine, as child processes (1; 0 with --workers)", COORD_OPTION_U32,
         &cli->local_workers, 0, PROTO_MAX_WORKERS, &cli->local_workers_given},
        {'t', "threads", "N", "threads of each local worker (all processors, shared)",
         COORD_OPTION_U32, &cli->threads, 1, 1024, NULL},
        {0, "layers", "RANGES", "layers of each worker in order, as 0-11,12-23 (by memory)",
         COORD_OPTION_TEXT, &cli->layers, 0, 0, NULL},
        {0, "split", "HOW",
         "auto, layers, or experts: the first workers are stages, others hold experts (auto)",
         COORD_OPTION_SPLIT, &cli->split, 0, 0, NULL},
        {0, "for", "AIM", "with --split auto: latency, throughput or balanced (latency)",
         COORD_OPTION_AIM, &cli->aim, 0, 0, NULL},
        {0, "profile", "on|off",
         "measure machines and links, and plan by what they can do (on where that decides a plan)",
         COORD_OPTION_SWITCH, &cli->profile, 0, 0, &cli->profile_given},
        {0, "rebalance-gain", "PERCENT",
         "by which another plan must be faster to take the place of one in force (10)",
         COORD_OPTION_U32, &cli->rebalance_gain, 0, 10000, NULL},
        {0, "stages", "N", "with --split experts: workers that are stages (1)", COORD_OPTION_U32,
         &cli->stages, 1, PROTO_MAX_WORKERS, NULL},
        {0, "expert-slices", "N", "with --split experts: workers that share each expert (1)",
         COORD_OPTION_U32, &cli->expert_slices, 1, PROTO_MAX_SLICES, NULL},
        {0, "replicas", "N", "with --split experts: workers that hold the same experts (1)",
         COORD_OPTION_U32, &cli->replicas, 1, PROTO_MAX_WORKERS, NULL},
        {'c', "ctx", "N", "positions of a sequence (the model's, at most 8192)", COORD_OPTION_U32,
         &cli->ctx, 1, PROTO_MAX_CONTEXT, NULL},
        {0, "batch", "N", "rows of a batch at most (512)", COORD_OPTION_U32, &cli->batch, 1,
         PROTO_MAX_BATCH_ROWS, NULL},
        {0, "kv", "TYPE", "how KV is kept: f32, f16, q8_0 or q4_0 (f32)", COORD_OPTION_KV, &cli->kv,
         0, 0, NULL},
        {0, "exact", "on|off",
         "the same bits whatever the batch (on); off: OpenBLAS where float weights gain",
         COORD_OPTION_SWITCH, &cli->exact, 0, 0, NULL},
        {0, "isa", "NAME",
         "instruction set of local workers: portable, avx2, avx512, amx, neon, i8mm (the best)",
         COORD_OPTION_TEXT, &cli->isa, 0, 0, NULL},
        {0, "parallel", "N", "sequences computed at once (4, at least one a stage)",
         COORD_OPTION_U32, &cli->parallel, 1, PROTO_MAX_SEQUENCES, NULL},
        {0, "workers", "N", "workers from elsewhere to wait for (0)", COORD_OPTION_U32,
         &cli->workers, 0, PROTO_MAX_WORKERS, NULL},
        {0, "worker-listen", "HOST:PORT", "where workers join (the port in the cluster's key)",
         COORD_OPTION_TEXT, &cli->worker_listen, 0, 0, NULL},
        {0, "cluster-key", "FILE", "the cluster's key, see caravan keygen", COORD_OPTION_TEXT,
         &cli->cluster_key, 0, 0, NULL},
        {0, "deadline", "SECONDS", "silence after which a worker is lost (2)", COORD_OPTION_FLOAT,
         &cli->deadline_s, 0.1, 3600, NULL},
        {0, "patience", "SECONDS",
         "for which requests wait when the workers that are left cannot hold the model (600)",
         COORD_OPTION_U32, &cli->patience_s, 0, 1u << 30, NULL},
        {0, "rebalance", "auto|ask|off",
         "whether workers that join get a part while the model is served (auto)",
         COORD_OPTION_REBALANCE, &cli->rebalance, 0, 0, NULL},
        {0, "cache-dir", "FOLDER", "where weights are kept for the next start (~/.cache/caravan)",
         COORD_OPTION_TEXT, &cli->cache_dir, 0, 0, NULL},
        {0, "cache-limit", "GB",
         "what local workers may keep there; the least used goes first (0: what the disk has)",
         COORD_OPTION_FLOAT, &cli->cache_limit_gb, 0, 1e6, NULL},
        {0, "keep-packed", "on|off",
         "local workers keep weights there as they compute with them: the next start is faster, "
         "and the "
         "model file is on the disk twice (off)",
         COORD_OPTION_SWITCH, &cli->keep_packed, 0, 0, NULL},
        {0, "memory", "GB", "what all local workers may use (nine tenths of what is free)",
         COORD_OPTION_FLOAT, &cli->memory_gb, 1e-3, 1e6, NULL},
        {0, "map-experts", NULL,
         "experts may be more than memory: local workers read what does not fit from the model's "
         "file, when it is used",
         COORD_OPTION_FLAG, &cli->map_experts, 0, 0, NULL},
    };
    add(t, options, sizeof options / sizeof options[0]);
}

static void add_sampling(struct options__table *t, struct coord_cli *cli)
{
    struct text_sampling *s = &cli->sampling;
    const struct coord_option options[] = {
        {0, "temp", "T", "temperature, 0 for the likeliest token (0.8)", COORD_OPTION_FLOAT,
         &s->temperature, 0, 100, NULL},
        {0, "top-k", "N", "choose among the N likeliest, 0 for all (40)", COORD_OPTION_I32,
         &s->top_k, 0, INT32_MAX, NULL},
        {0, "top-p", "P", "choose among the likeliest that make up P (0.95)", COORD_OPTION_FLOAT,
         &s->top_p, 1e-6, 1, NULL},
        {0, "min-p", "P", "drop what is less likely than P times the likeliest (0.05)",
         COORD_OPTION_FLOAT, &s->min_p, 0, 1, NULL},
        {0, "typical", "P", "choose among the most typical that make up P (1: all)",
         COORD_OPTION_FLOAT, &s->typical, 1e-6, 1, NULL},
        {0, "top-n-sigma", "N", "drop what is N standard deviations below the likeliest (-1: off)",
         COORD_OPTION_FLOAT, &s->top_n_sigma, -1, 100, NULL},
        {0, "xtc-probability", "P", "how often the likeliest but one are left out (0: never)",
         COORD_OPTION_FLOAT, &s->xtc_probability, 0, 1, NULL},
        {0, "xtc-threshold", "P", "how likely those are at least (0.1; above 0.5: off)",
         COORD_OPTION_FLOAT, &s->xtc_threshold, 0, 1, NULL},
        {0, "dynatemp-range", "R", "let the temperature go up and down by R (0: off)",
         COORD_OPTION_FLOAT, &s->dynatemp_range, 0, 100, NULL},
        {0, "dynatemp-exponent", "E", "how it follows the entropy (1)", COORD_OPTION_FLOAT,
         &s->dynatemp_exponent, 1e-6, 100, NULL},
        {0, "repeat-penalty", "F", "penalty of tokens that were there before (1: none)",
         COORD_OPTION_FLOAT, &s->repeat_penalty, 0.01, 100, NULL},
        {0, "frequency-penalty", "F", "penalty for each time that they were there (0: none)",
         COORD_OPTION_FLOAT, &s->frequency_penalty, -2, 2, NULL},
        {0, "presence-penalty", "F", "penalty for having been there at all (0: none)",
         COORD_OPTION_FLOAT, &s->presence_penalty, -2, 2, NULL},
        {0, "repeat-last-n", "N", "tokens that these penalties look back on (64)", COORD_OPTION_U32,
         &s->repeat_last_n, 0, 1 << 20, NULL},
        {0, "dry-multiplier", "F", "penalty of repeated sequences (0: none)", COORD_OPTION_FLOAT,
         &s->dry_multiplier, 0, 100, NULL},
        {0, "dry-base", "F", "how it grows with each token repeated (1.75)", COORD_OPTION_FLOAT,
         &s->dry_base, 1, 100, NULL},
        {0, "dry-allowed-length", "N", "tokens that may be repeated freely (2)", COORD_OPTION_U32,
         &s->dry_allowed_length, 1, 1 << 20, NULL},
        {0, "dry-penalty-last-n", "N", "tokens that it looks back on (-1: all)", COORD_OPTION_I32,
         &s->dry_last_n, -1, 1 << 20, NULL},
        {0, "dry-sequence-breaker", "TEXT",
         "no sequence goes across it; may be given often (newline, colon, quote, asterisk)",
         COORD_OPTION_LIST, &cli->breakers, 0, 0, NULL},
        {0, "mirostat", "N", "2: mirostat v2 instead of all that cuts and penalises (0: off)",
         COORD_OPTION_U32, &s->mirostat, 0, 2, NULL},
        {0, "mirostat-tau", "T", "surprise that it aims at, in bits (5)", COORD_OPTION_FLOAT,
         &s->mirostat_tau, 1e-6, 100, NULL},
        {0, "mirostat-eta", "E", "how fast it learns (0.1)", COORD_OPTION_FLOAT, &s->mirostat_eta,
         1e-6, 1, NULL},
        {0, "samplers", "ORDER",
         "the steps of sampling, others are off (penalties;dry;top_n_sigma;top_k;typical;top_p;"
         "min_p;xtc;temperature)",
         COORD_OPTION_STEPS, s, 0, 0, NULL},
        {0, "logit-bias", "ID=BIAS", "add to a token's logit, -inf to ban it; may be given often",
         COORD_OPTION_BIAS, &cli->biases, 0, 0, NULL},
        {0, "seed", "S", "start of the random numbers (0)", COORD_OPTION_U64, &s->seed, 0, 0,
         &cli->seed_given},
    };
    add(t, options, sizeof options / sizeof options[0]);
}

static void add_server(struct options__table *t, struct coord_cli *cli)
{
    const struct coord_option options[] = {
        {0, "server", "URL", "a coordinator that runs already, as http://HOST:PORT",
         COORD_OPTION_TEXT, &cli->server, 0, 0, NULL},
        {0, "api-key", "KEY", "the key that it asks for", COORD_OPTION_TEXT, &cli->api_key, 0, 0,
         NULL},
        {0, "api-key-file", "FILE",
         "a file with that key in its first line: what stands on a command line others may see",
         COORD_OPTION_KEY, &cli->key_file, 0, 0, NULL},
    };
    add(t, options, sizeof options / sizeof options[0]);
}

void options__make_table(struct options__table *t, struct coord_cli *cli,
                         const struct coord_command *command)
{
    t->command = command;
    add(t, command->options, command->n_options);
    t->n_own = t->n;
    if (command->groups & COORD_OPTIONS_MODEL)
        add_model(t, cli);
    if (command->groups & COORD_OPTIONS_CLUSTER)
        add_cluster(t, cli);
    if (command->groups & COORD_OPTIONS_SAMPLING)
        add_sampling(t, cli);
    if (command->groups & COORD_OPTIONS_SERVER)
        add_server(t, cli);
    const struct coord_option verbose = {'v',
                                         "verbose",
                                         NULL,
                                         "say more on standard error; twice for everything",
                                         COORD_OPTION_VERBOSE,
                                         &cli->log_level,
                                         0,
                                         0,
                                         NULL};
    add(t, &verbose, 1);
}
