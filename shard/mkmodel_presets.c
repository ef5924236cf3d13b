/* SPDX-License-Identifier: Apache-2.0 */
#include "shard/mkmodel.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "shard/mkmodel_spec.h"

/* Shapes shared by many presets; what follows them in an initialiser overrides single fields. */
#define TINY                                                                                       \
    .layers = 3, .embd = 64, .heads = 4, .kv = 2, .hd = 16, .ff = 128, .vocab = 512, .ctx = 4096,  \
    .theta = 10000, .eps = 1e-5
/* Rows that fit every block type. */
#define K256                                                                                       \
    .layers = 2, .embd = 256, .heads = 8, .kv = 2, .hd = 32, .ff = 512, .vocab = 512, .ctx = 4096, \
    .theta = 10000, .eps = 1e-5

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Woverride-init"
static const struct shard_dims presets[] = {
    {"llama2-tiny", "llama", TINY, .kv = 4},
    {"llama3-tiny", "llama", TINY, .theta = 500000, .rope_freqs = 1},
    {"mixtral-tiny", "llama", TINY, .experts = 8, .used = 2},
    {"llama4-scout-tiny", "llama4", TINY, .layers = 5, .theta = 500000, .ctx = 16384, .experts = 16,
     .used = 1, .ffe = 64, .step = 1, .rope_freqs = 1},
    {"llama4-maverick-tiny", "llama4", TINY, .layers = 6, .theta = 500000, .ctx = 16384,
     .experts = 128, .used = 1, .ffe = 32, .step = 2},
    {"qwen2-tiny", "qwen2", TINY, .theta = 1000000},
    {"qwen3-tiny", "qwen3", TINY, .theta = 1000000, .hd = 32},
    {"qwen3moe-tiny", "qwen3moe", TINY, .theta = 1000000, .hd = 32, .experts = 16, .used = 4,
     .ffe = 64},
    {"deepseek2-tiny", "deepseek2", TINY, .experts = 16, .used = 4, .ffe = 64, .dense = 1,
     .shared = 1, .qlora = 64, .kvlora = 32, .nope = 32, .rope = 16, .vhd = 32, .groups = 4,
     .groups_used = 2},
    {"gpt-oss-tiny", "gpt-oss", TINY, .theta = 150000, .hd = 32, .experts = 8, .used = 4, .ffe = 64,
     .swa = 32},
    {"qwen35moe-tiny", "qwen35moe", TINY, .layers = 5, .theta = 10000000, .hd = 32, .experts = 16,
     .used = 4, .ffe = 64, .ffs = 64, .every = 4, .dkeys = 4, .dvalues = 8, .dhead = 32},
    {"gemma4-tiny", "gemma4", TINY, .layers = 6, .theta = 1000000, .hd = 32, .swa = 32, .every = 3},
    {"gemma4-e-tiny", "gemma4", TINY, .layers = 6, .theta = 1000000, .hd = 32, .swa = 32,
     .layer_input = 32, .shared_kv = 3, .every = 3},
    {"glm4moe-tiny", "glm4moe", TINY, .theta = 1000000, .experts = 16, .used = 4, .ffe = 64,
     .dense = 1, .shared = 1},
    {"llama-k", "llama", K256},
    {"llama4-k", "llama4", K256, .theta = 500000, .layers = 4, .ctx = 16384, .experts = 8,
     .used = 1, .ffe = 256, .step = 2},
    {"qwen3moe-k", "qwen3moe", K256, .theta = 1000000, .hd = 64, .experts = 8, .used = 2,
     .ffe = 256},
    /* For measuring. */
    {"llama-1b", "llama", .layers = 16, .embd = 2048, .heads = 32, .kv = 8, .hd = 64, .ff = 8192,
     .vocab = 32768, .ctx = 8192, .theta = 500000, .eps = 1e-5},
    {"llama-3b", "llama", .layers = 28, .embd = 3072, .heads = 24, .kv = 8, .hd = 128, .ff = 8192,
     .vocab = 32768, .ctx = 8192, .theta = 500000, .eps = 1e-5},
    {"llama4-5b", "llama4", .layers = 12, .embd = 2048, .heads = 16, .kv = 8, .hd = 128, .ff = 4096,
     .vocab = 32768, .ctx = 16384, .theta = 500000, .eps = 1e-5, .experts = 32, .used = 1,
     .ffe = 4096, .step = 2},
    {"qwen3moe-3b", "qwen3moe", .layers = 16, .embd = 2048, .heads = 32, .kv = 4, .hd = 64,
     .ff = 4096, .vocab = 32768, .ctx = 8192, .theta = 1000000, .eps = 1e-6, .experts = 64,
     .used = 8, .ffe = 512},
};
#pragma GCC diagnostic pop

#define N_PRESETS (sizeof presets / sizeof presets[0])

/* What --set may change, and the bounds of each. */
struct setting {
    const char *key;
    size_t offset;
    uint32_t min, max;
    bool real; /* a double above zero; min and max do not count */
};

#define INTEGER(field, min, max)                                                                   \
    {                                                                                              \
#field, offsetof(struct shard_dims, field), min, max, false                                \
    }
#define REAL(field)                                                                                \
    {                                                                                              \
#field, offsetof(struct shard_dims, field), 0, 0, true                                     \
    }

static const struct setting settings[] = {
    INTEGER(layers, 1, PROTO_MAX_LAYERS),
    INTEGER(embd, 1, PROTO_MAX_EMBD),
    INTEGER(heads, 1, PROTO_MAX_HEADS),
    INTEGER(kv, 1, PROTO_MAX_HEADS),
    INTEGER(hd, 1, PROTO_MAX_HEAD_DIM),
    INTEGER(ff, 1, PROTO_MAX_FF),
    INTEGER(vocab, 1, PROTO_MAX_VOCAB),
    INTEGER(ctx, 1, PROTO_MAX_CONTEXT),
    REAL(theta),
    REAL(eps),
    INTEGER(experts, 0, PROTO_MAX_EXPERTS),
    INTEGER(used, 0, PROTO_MAX_EXPERTS),
    INTEGER(ffe, 0, PROTO_MAX_FF),
    INTEGER(step, 0, PROTO_MAX_LAYERS),
    INTEGER(dense, 0, PROTO_MAX_LAYERS),
    INTEGER(shared, 0, PROTO_MAX_EXPERTS),
    INTEGER(ffs, 0, PROTO_MAX_FF),
    INTEGER(groups, 0, PROTO_MAX_EXPERTS),
    INTEGER(groups_used, 0, PROTO_MAX_EXPERTS),
    INTEGER(qlora, 0, PROTO_MAX_EMBD),
    INTEGER(kvlora, 0, PROTO_MAX_EMBD),
    INTEGER(nope, 0, PROTO_MAX_HEAD_DIM),
    INTEGER(rope, 0, PROTO_MAX_HEAD_DIM),
    INTEGER(vhd, 0, PROTO_MAX_HEAD_DIM),
    INTEGER(swa, 0, PROTO_MAX_CONTEXT),
    INTEGER(rope_freqs, 0, 1),
    INTEGER(layer_input, 0, PROTO_MAX_EMBD),
    INTEGER(shared_kv, 0, PROTO_MAX_LAYERS),
    INTEGER(every, 0, PROTO_MAX_LAYERS),
    INTEGER(kv_full, 0, PROTO_MAX_HEADS),
    INTEGER(dkeys, 0, PROTO_MAX_HEADS),
    INTEGER(dvalues, 0, PROTO_MAX_HEADS),
    INTEGER(dhead, 0, PROTO_MAX_HEAD_DIM),
    INTEGER(tied, 0, 1),
};

#define N_SETTINGS (sizeof settings / sizeof settings[0])

void shard_mkmodel_list(FILE *out)
{
    size_t n;
    const struct shard_dims *known = shard_dims_known(&n);
    for (size_t i = 0; i < N_PRESETS; i++)
        fprintf(out, "%s\n", presets[i].preset);
    for (size_t i = 0; i < n; i++)
        fprintf(out, "%s\n", known[i].preset);
}

/* Appends a word to a list that is cut where it does not fit. */
static void add_word(char *list, size_t size, const char *word)
{
    size_t len = strlen(list);
    snprintf(list + len, size - len, "%s%s", len ? " " : "", word);
}

static bool find_row(struct shard_dims *dims, const struct shard_dims *rows, size_t n,
                     const char *name, char *list, size_t size)
{
    for (size_t i = 0; i < n; i++) {
        if (!strcasecmp(rows[i].preset, name)) {
            *dims = rows[i];
            return true;
        }
        add_word(list, size, rows[i].preset);
    }
    return false;
}

static enum proto_status find_preset(struct shard_dims *dims, const char *name,
                                     struct proto_error *error)
{
    char list[PROTO_ERROR_TEXT_BYTES] = "";
    size_t n;
    const struct shard_dims *known = shard_dims_known(&n);
    if (find_row(dims, presets, N_PRESETS, name, list, sizeof list) ||
        find_row(dims, known, n, name, list, sizeof list))
        return PROTO_OK;
    return proto_fail(error, PROTO_INVALID, "no preset is named \"%.64s\", expected one of: %s",
                      name, list);
}

static enum proto_status find_setting(const char *set, const char **value,
                                      const struct setting **out, struct proto_error *error)
{
    char list[PROTO_ERROR_TEXT_BYTES] = "";
    const char *equals = strchr(set, '=');
    if (!equals)
        return proto_fail(error, PROTO_INVALID,
                          "--set \"%.64s\" has no \"=\", expected KEY=VALUE as in layers=8", set);
    size_t len = (size_t)(equals - set);
    for (size_t i = 0; i < N_SETTINGS; i++) {
        if (strlen(settings[i].key) == len && !memcmp(settings[i].key, set, len)) {
            *value = equals + 1;
            *out = &settings[i];
            return PROTO_OK;
        }
        add_word(list, sizeof list, settings[i].key);
    }
    return proto_fail(error, PROTO_INVALID, "--set knows no key \"%.*s\", expected one of: %s",
                      (int)(len < 64 ? len : 64), set, list);
}

static enum proto_status set_real(double *field, const char *set, const char *value,
                                  struct proto_error *error)
{
    char *end;
    double number = strtod(value, &end);
    if (end == value || *end || !isfinite((float)number) || !((float)number > 0))
        return proto_fail(error, PROTO_INVALID, "--set \"%.64s\": expected a number above 0", set);
    *field = number;
    return PROTO_OK;
}

static enum proto_status set_integer(uint32_t *field, const struct setting *setting,
                                     const char *set, const char *value, struct proto_error *error)
{
    char *end;
    errno = 0;
    long long number = strtoll(value, &end, 10);
    if (end == value || *end || errno || number < setting->min || number > setting->max)
        return proto_fail(error, PROTO_INVALID,
                          "--set \"%.64s\": expected an integer from %" PRIu32 " to %" PRIu32, set,
                          setting->min, setting->max);
    *field = (uint32_t)number;
    return PROTO_OK;
}

static enum proto_status apply(struct shard_dims *dims, const char *set, struct proto_error *error)
{
    const struct setting *setting = NULL;
    const char *value = NULL;
    enum proto_status status = find_setting(set, &value, &setting, error);
    if (status)
        return status;
    void *field = (char *)dims + setting->offset;
    return setting->real ? set_real(field, set, value, error)
                         : set_integer(field, setting, set, value, error);
}

/* Numbers that others are divided by. */
static enum proto_status check_periods(const struct shard_dims *dims, struct proto_error *error)
{
    if (!strcmp(dims->arch, "llama4") && !dims->step)
        return proto_fail(error, PROTO_INVALID,
                          "preset %s has experts in every 0-th layer, expected at least 1: leave "
                          "out --set step=0",
                          dims->preset);
    if ((!strcmp(dims->arch, "gemma4") || !strcmp(dims->arch, "qwen35moe")) && !dims->every)
        return proto_fail(error, PROTO_INVALID,
                          "preset %s has full attention in every 0-th layer, expected at least 1: "
                          "leave out --set every=0",
                          dims->preset);
    return PROTO_OK;
}

enum proto_status shard_dims_read(struct shard_dims *dims, const char *preset,
                                  const char *const *sets, size_t n_sets, struct proto_error *error)
{
    enum proto_status status = find_preset(dims, preset, error);
    for (size_t i = 0; i < n_sets && !status; i++)
        status = apply(dims, sets[i], error);
    if (status)
        return status;
    if (dims->experts && !dims->used)
        return proto_fail(error, PROTO_INVALID,
                          "preset %s with %" PRIu32 " experts uses 0 of them, expected at least 1: "
                          "add --set used=1",
                          preset, dims->experts);
    return check_periods(dims, error);
}
