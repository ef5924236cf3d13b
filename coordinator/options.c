/* SPDX-License-Identifier: Apache-2.0 */
#include "coordinator/options.h"

#include <errno.h>
#include <limits.h>
#include <stdarg.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MAX_OPTIONS 64

/* All options of one command: its own first. */
struct table {
    const struct coord_command *command;
    struct coord_option options[MAX_OPTIONS];
    size_t n, n_own;
};

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
}

static void add(struct table *t, const struct coord_option *options, size_t n)
{
    for (size_t i = 0; i < n && t->n < MAX_OPTIONS; i++)
        t->options[t->n++] = options[i];
}

static void add_model(struct table *t, struct coord_cli *cli)
{
    const struct coord_option options[] = {
        {'m', "model", "FILE", "the model (GGUF; of a split one the first file)", COORD_OPTION_TEXT,
         &cli->model, 0, 0, NULL},
    };
    add(t, options, sizeof options / sizeof options[0]);
}

static void add_cluster(struct table *t, struct coord_cli *cli)
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

static void add_sampling(struct table *t, struct coord_cli *cli)
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

static void add_server(struct table *t, struct coord_cli *cli)
{
    const struct coord_option options[] = {
        {0, "server", "URL", "a coordinator that runs already, as http://HOST:PORT",
         COORD_OPTION_TEXT, &cli->server, 0, 0, NULL},
        {0, "api-key", "KEY", "the key that it asks for", COORD_OPTION_TEXT, &cli->api_key, 0, 0,
         NULL},
    };
    add(t, options, sizeof options / sizeof options[0]);
}

static void make_table(struct table *t, struct coord_cli *cli, const struct coord_command *command)
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

static bool hidden_by_own(const struct table *t, size_t i)
{
    for (size_t k = 0; i >= t->n_own && k < t->n_own; k++)
        if (strcmp(t->options[k].name, t->options[i].name) == 0)
            return true;
    return false;
}

/* A shared option keeps its letter only where the command has no use of its own for it. */
static char letter_of(const struct table *t, size_t i)
{
    for (size_t k = 0; i >= t->n_own && k < t->n_own; k++)
        if (t->options[k].letter == t->options[i].letter)
            return 0;
    return t->options[i].letter;
}

static void print_help(const struct table *t)
{
    const struct coord_command *c = t->command;
    printf("usage: caravan %s [options]%s%s\n\n%s\n\noptions:\n", c->name,
           *c->positional ? " " : "", c->positional, c->summary);
    for (size_t i = 0; i < t->n; i++) {
        if (hidden_by_own(t, i))
            continue;
        const struct coord_option *o = &t->options[i];
        char letter = letter_of(t, i), left[64];
        snprintf(left, sizeof left, "%s%c%s--%s%s%s", letter ? "-" : " ", letter ? letter : ' ',
                 letter ? ", " : "  ", o->name, o->value ? " " : "", o->value ? o->value : "");
        printf("  %-30s %s\n", left, o->help);
    }
    printf("  %-30s %s\n", "-h, --help", "this text");
}

static int usage(const struct table *t, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

static int usage(const struct table *t, const char *format, ...)
{
    char text[512];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    fprintf(stderr, "caravan %s: %s\nsee: caravan %s --help\n", t->command->name, text,
            t->command->name);
    return 2;
}

static bool read_integer(const char *text, double min, double max, long long *out)
{
    char *end;
    errno = 0;
    *out = strtoll(text, &end, 10);
    bool digits = (text[0] >= '0' && text[0] <= '9') || (text[0] == '-' && text[1] >= '0');
    return digits && !*end && !errno && (double)*out >= min && (double)*out <= max;
}

static bool read_u64(const char *text, uint64_t *out)
{
    char *end;
    errno = 0;
    *out = strtoull(text, &end, 10);
    return text[0] >= '0' && text[0] <= '9' && !*end && !errno;
}

static bool read_float(const char *text, double min, double max, float *out)
{
    char *end;
    double value = strtod(text, &end);
    bool number = (text[0] >= '0' && text[0] <= '9') || text[0] == '-' || text[0] == '.';
    if (!number || *end || !(value >= min && value <= max))
        return false;
    *out = (float)value;
    return true;
}

/* "ID=BIAS"; the bias may be -inf. */
static bool read_bias(const char *text, struct text_bias *out)
{
    char id[16];
    long long number;
    const char *value = strchr(text, '=');
    if (!value || (size_t)(value - text) >= sizeof id)
        return false;
    snprintf(id, sizeof id, "%.*s", (int)(value - text), text);
    value += 1 + (value[1] == '+');
    *out = (struct text_bias){.bias = -INFINITY};
    if (!read_integer(id, 0, INT32_MAX, &number) ||
        (strcmp(value, "-inf") != 0 && !read_float(value, -1e6, 1e6, &out->bias)))
        return false;
    out->id = (int32_t)number;
    return true;
}

static int store_bias(const struct table *t, struct coord_option_biases *biases, const char *shown,
                      const char *value)
{
    if (biases->n == COORD_MAX_BIASES)
        return usage(t, "%s is given more than %u times", shown, COORD_MAX_BIASES);
    if (!read_bias(value, &biases->values[biases->n]))
        return usage(t, "%s %.100s: expected a token's id, = and a number, as 15=-2.5 or 15=-inf",
                     shown, value);
    for (size_t i = 0; i < biases->n; i++)
        if (biases->values[i].id == biases->values[biases->n].id)
            return usage(t, "%s is given twice for token %d", shown, biases->values[i].id);
    biases->n++;
    return -1;
}

/* A word's place among n; -1: it is none of them. */
static int find_word(const char *text, const char *const *words, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (strcmp(text, words[i]) == 0)
            return (int)i;
    return -1;
}

static bool read_split(const char *text, enum shard_split_kind *out)
{
    static const char *const names[] = {[SHARD_SPLIT_AUTO] = "auto",
                                        [SHARD_SPLIT_LAYERS] = "layers",
                                        [SHARD_SPLIT_EXPERTS] = "experts"};
    int found = find_word(text, names, sizeof names / sizeof *names);
    if (found >= 0)
        *out = (enum shard_split_kind)found;
    return found >= 0;
}

static bool read_aim(const char *text, enum plan_aim *out)
{
    static const char *const names[] = {
        [PLAN_LATENCY] = "latency", [PLAN_THROUGHPUT] = "throughput", [PLAN_BALANCED] = "balanced"};
    int found = find_word(text, names, sizeof names / sizeof *names);
    if (found >= 0)
        *out = (enum plan_aim)found;
    return found >= 0;
}

static bool read_rebalance(const char *text, enum coord_rebalance *out)
{
    static const char *const names[] = {[COORD_REBALANCE_AUTO] = "auto",
                                        [COORD_REBALANCE_ASK] = "ask",
                                        [COORD_REBALANCE_OFF] = "off"};
    int found = find_word(text, names, sizeof names / sizeof *names);
    if (found >= 0)
        *out = (enum coord_rebalance)found;
    return found >= 0;
}

/* Stores a value; -1, or the exit status. `shown` is the option as it was written. */
static int store(const struct table *t, const struct coord_option *o, const char *shown,
                 const char *value)
{
    long long number;
    struct coord_option_list *list;
    struct proto_error error;
    switch (o->kind) {
    case COORD_OPTION_FLAG:
        *(bool *)o->target = true;
        break;
    case COORD_OPTION_VERBOSE:
        if (*(enum proto_log_level *)o->target < PROTO_LOG_DEBUG)
            ++*(enum proto_log_level *)o->target;
        break;
    case COORD_OPTION_TEXT:
        *(const char **)o->target = value;
        break;
    case COORD_OPTION_LIST:
        list = o->target;
        if (list->n == list->cap)
            return usage(t, "%s is given more than %u times", shown, list->cap);
        list->values[list->n++] = value;
        break;
    case COORD_OPTION_U32:
    case COORD_OPTION_I32:
        if (!read_integer(value, o->min, o->max, &number))
            return usage(t, "%s %.100s: expected a whole number from %.0f to %.0f", shown, value,
                         o->min, o->max);
        if (o->kind == COORD_OPTION_U32)
            *(uint32_t *)o->target = (uint32_t)number;
        else
            *(int32_t *)o->target = (int32_t)number;
        break;
    case COORD_OPTION_U64:
        if (!read_u64(value, o->target))
            return usage(t, "%s %.100s: expected a whole number from 0 to %llu", shown, value,
                         ULLONG_MAX);
        break;
    case COORD_OPTION_FLOAT:
        if (!read_float(value, o->min, o->max, o->target))
            return usage(t, "%s %.100s: expected a number from %g to %g", shown, value, o->min,
                         o->max);
        break;
    case COORD_OPTION_STEPS:
        if (text_steps_parse(o->target, value, &error) != PROTO_OK)
            return usage(t, "%s %.100s: %s", shown, value, error.text);
        break;
    case COORD_OPTION_BIAS:
        if (store_bias(t, o->target, shown, value) >= 0)
            return 2;
        break;
    case COORD_OPTION_SWITCH:
        if (strcmp(value, "on") != 0 && strcmp(value, "off") != 0)
            return usage(t, "%s %.100s: expected on or off", shown, value);
        *(bool *)o->target = value[1] == 'n';
        break;
    case COORD_OPTION_SPLIT:
        if (!read_split(value, o->target))
            return usage(t, "%s %.100s: expected auto, layers or experts", shown, value);
        break;
    case COORD_OPTION_AIM:
        if (!read_aim(value, o->target))
            return usage(t, "%s %.100s: expected latency, throughput or balanced", shown, value);
        break;
    case COORD_OPTION_REBALANCE:
        if (!read_rebalance(value, o->target))
            return usage(t, "%s %.100s: expected auto, ask or off", shown, value);
        break;
    case COORD_OPTION_KV:
        if (kern_kv_by_name(value) < 0)
            return usage(t, "%s %.100s: expected f32, f16, q8_0 or q4_0", shown, value);
        *(enum kern_kv *)o->target = (enum kern_kv)kern_kv_by_name(value);
        break;
    }
    if (o->given)
        *o->given = true;
    return -1;
}

/* The option that an argument names; *inline_value gets what follows in the same argument. */
static const struct coord_option *find(const struct table *t, const char *arg, char shown[64],
                                       const char **inline_value)
{
    bool is_long = arg[1] == '-';
    const char *name = arg + 1 + is_long;
    size_t len = is_long ? strcspn(name, "=") : 1;
    snprintf(shown, 64, "%.*s", (int)(len + 1 + is_long), arg);
    *inline_value = NULL;
    if (name[len])
        *inline_value = name + len + is_long;
    for (size_t i = 0; i < t->n; i++) {
        const struct coord_option *o = &t->options[i];
        if (is_long ? strlen(o->name) == len && strncmp(o->name, name, len) == 0
                    : o->letter && o->letter == *name)
            return o;
    }
    return NULL;
}

/* Reads the option at argv[*i]; -1, or the exit status. */
static int take_option(const struct table *t, int argc, char **argv, int *i)
{
    char shown[64];
    const char *value;
    const struct coord_option *o = find(t, argv[*i], shown, &value);
    if (!o)
        return usage(t, "unknown option %.100s", argv[*i]);
    if (!o->value && value)
        return usage(t, "%s takes no value, found '%.100s'", shown, value);
    if (o->value && !value) {
        if (*i + 1 >= argc)
            return usage(t, "%s needs a value: %s %s", shown, shown, o->value);
        value = argv[++*i];
    }
    return store(t, o, shown, value);
}

/* The lists, and whether all fits together. */
static enum proto_status set_sampling(struct coord_cli *cli, struct proto_error *error)
{
    cli->sampling.biases = cli->biases.values;
    cli->sampling.n_biases = cli->biases.n;
    cli->sampling.dry_breakers = cli->breakers.n > 0 ? cli->breakers.values : NULL;
    cli->sampling.n_dry_breakers = cli->breakers.n;
    return text_sampling_check(&cli->sampling, error);
}

int coord_cli_parse(struct coord_cli *cli, const struct coord_command *command, int argc,
                    char **argv)
{
    struct table t = {0};
    make_table(&t, cli, command);
    bool options_over = false;
    for (int i = 1; i < argc; i++) {
        const char *arg = argv[i];
        if (!options_over && strcmp(arg, "--") == 0) {
            options_over = true;
        } else if (!options_over && (strcmp(arg, "--help") == 0 || strcmp(arg, "-h") == 0)) {
            print_help(&t);
            return 0;
        } else if (!options_over && arg[0] == '-' && arg[1]) {
            int rc = take_option(&t, argc, argv, &i);
            if (rc >= 0)
                return rc;
        } else if (cli->n_positional == command->max_positional ||
                   cli->n_positional == COORD_MAX_POSITIONAL) {
            return usage(&t, "unexpected argument '%.100s'", arg);
        } else {
            cli->positional[cli->n_positional++] = arg;
        }
    }
    if (cli->n_positional < command->min_positional)
        return usage(&t, "expected %s", command->positional);
    struct proto_error error;
    if (set_sampling(cli, &error) != PROTO_OK)
        return usage(&t, "%s", error.text);
    proto_log_set_level(cli->log_level);
    return -1;
}

int coord_cli_fail(const struct coord_command *command, const struct proto_error *error)
{
    fprintf(stderr, "caravan %s: %s\n", command->name, error->text);
    return 1;
}

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
