/* SPDX-License-Identifier: Apache-2.0 */
#include "coordinator/options_parts.h"

#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

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

static int store_bias(const struct options__table *t, struct coord_option_biases *biases,
                      const char *shown, const char *value)
{
    if (biases->n == COORD_MAX_BIASES)
        return options__usage(t, "%s is given more than %u times", shown, COORD_MAX_BIASES);
    if (!read_bias(value, &biases->values[biases->n]))
        return options__usage(
            t, "%s %.100s: expected a token's id, = and a number, as 15=-2.5 or 15=-inf", shown,
            value);
    for (size_t i = 0; i < biases->n; i++)
        if (biases->values[i].id == biases->values[biases->n].id)
            return options__usage(t, "%s is given twice for token %d", shown, biases->values[i].id);
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

/* The first line of the file. */
static int store_key(const struct options__table *t, struct coord_option_key *key,
                     const char *shown, const char *path)
{
    FILE *file = fopen(path, "r");
    if (!file)
        return options__usage(t, "%s %.200s cannot be read: %s", shown, path, strerror(errno));
    size_t len = fgets(key->text, sizeof key->text, file) ? strcspn(key->text, "\r\n") : 0;
    fclose(file);
    if (len == 0 || len + 1 == sizeof key->text)
        return options__usage(t,
                              "%s %.200s: expected a key of 1 to %zu characters in the first line",
                              shown, path, sizeof key->text - 2);
    key->text[len] = 0;
    *key->key = key->text;
    return -1;
}

int options__store(const struct options__table *t, const struct coord_option *o, const char *shown,
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
            return options__usage(t, "%s is given more than %u times", shown, list->cap);
        list->values[list->n++] = value;
        break;
    case COORD_OPTION_U32:
    case COORD_OPTION_I32:
        if (!read_integer(value, o->min, o->max, &number))
            return options__usage(t, "%s %.100s: expected a whole number from %.0f to %.0f", shown,
                                  value, o->min, o->max);
        if (o->kind == COORD_OPTION_U32)
            *(uint32_t *)o->target = (uint32_t)number;
        else
            *(int32_t *)o->target = (int32_t)number;
        break;
    case COORD_OPTION_U64:
        if (!read_u64(value, o->target))
            return options__usage(t, "%s %.100s: expected a whole number from 0 to %llu", shown,
                                  value, ULLONG_MAX);
        break;
    case COORD_OPTION_FLOAT:
        if (!read_float(value, o->min, o->max, o->target))
            return options__usage(t, "%s %.100s: expected a number from %g to %g", shown, value,
                                  o->min, o->max);
        break;
    case COORD_OPTION_STEPS:
        if (text_steps_parse(o->target, value, &error) != PROTO_OK)
            return options__usage(t, "%s %.100s: %s", shown, value, error.text);
        break;
    case COORD_OPTION_BIAS:
        if (store_bias(t, o->target, shown, value) >= 0)
            return 2;
        break;
    case COORD_OPTION_KEY:
        if (store_key(t, o->target, shown, value) >= 0)
            return 2;
        break;
    case COORD_OPTION_SWITCH:
        if (strcmp(value, "on") != 0 && strcmp(value, "off") != 0)
            return options__usage(t, "%s %.100s: expected on or off", shown, value);
        *(bool *)o->target = value[1] == 'n';
        break;
    case COORD_OPTION_SPLIT:
        if (!read_split(value, o->target))
            return options__usage(t, "%s %.100s: expected auto, layers or experts", shown, value);
        break;
    case COORD_OPTION_AIM:
        if (!read_aim(value, o->target))
            return options__usage(t, "%s %.100s: expected latency, throughput or balanced", shown,
                                  value);
        break;
    case COORD_OPTION_REBALANCE:
        if (!read_rebalance(value, o->target))
            return options__usage(t, "%s %.100s: expected auto, ask or off", shown, value);
        break;
    case COORD_OPTION_KV:
        if (kern_kv_by_name(value) < 0)
            return options__usage(t, "%s %.100s: expected f32, f16, q8_0 or q4_0", shown, value);
        *(enum kern_kv *)o->target = (enum kern_kv)kern_kv_by_name(value);
        break;
    }
    if (o->given)
        *o->given = true;
    return -1;
}
