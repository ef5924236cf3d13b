/* SPDX-License-Identifier: Apache-2.0 */
#include "shard/gguf_parse.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_ARRAY_COUNT   (1u << 30)
#define DEFAULT_ALIGNMENT 32u
#define MIN_VALUE_BYTES   14u /* key length, one byte of key, type, one byte */
#define MIN_STRING_BYTES  8u

static enum proto_status fail_key(struct shard__gguf_cursor *c, enum proto_status status,
                                  const struct shard_gguf_value *value, const char *what)
{
    char quoted[SHARD__GGUF_QUOTE_BYTES];
    return proto_fail(c->error, status, "%s: key \"%s\" %s", c->name,
                      shard__gguf_quote(quoted, value->key.data, value->key.len), what);
}

size_t shard__gguf_kind_bytes(enum shard_gguf_kind kind)
{
    static const uint8_t bytes[] = {
        [SHARD_GGUF_U8] = 1,    [SHARD_GGUF_I8] = 1,   [SHARD_GGUF_U16] = 2,
        [SHARD_GGUF_I16] = 2,   [SHARD_GGUF_U32] = 4,  [SHARD_GGUF_I32] = 4,
        [SHARD_GGUF_F32] = 4,   [SHARD_GGUF_BOOL] = 1, [SHARD_GGUF_STRING] = 0,
        [SHARD_GGUF_ARRAY] = 0, [SHARD_GGUF_U64] = 8,  [SHARD_GGUF_I64] = 8,
        [SHARD_GGUF_F64] = 8,
    };
    return bytes[kind];
}

static enum proto_status take_kind(struct shard__gguf_cursor *c,
                                   const struct shard_gguf_value *value, enum shard_gguf_kind *out)
{
    uint32_t kind = 0;
    enum proto_status status = shard__gguf_take_u32(c, "a value's type", &kind);
    if (status)
        return status;
    if (kind > SHARD_GGUF_F64) {
        char text[160];
        snprintf(text, sizeof text,
                 "has the value type %" PRIu32 ", expected 0 to 12; " SHARD__GGUF_AGAIN, kind);
        return fail_key(c, PROTO_FORMAT, value, text);
    }
    *out = (enum shard_gguf_kind)kind;
    return PROTO_OK;
}

static enum proto_status take_strings(struct shard__gguf_cursor *c, struct shard_gguf_value *value)
{
    enum proto_status status =
        shard__gguf_check_count(c, "strings of an array", value->count, MIN_STRING_BYTES);
    if (status || !value->count)
        return status;
    value->strings = calloc(value->count, sizeof *value->strings);
    if (!value->strings)
        return proto_fail_nomem(c->error, value->count * sizeof *value->strings,
                                "an array of strings");
    for (uint64_t i = 0; i < value->count && !status; i++)
        status = shard__gguf_take_string(c, "a string of an array", &value->strings[i]);
    return status;
}

static enum proto_status take_array(struct shard__gguf_cursor *c, struct shard_gguf_value *value)
{
    enum proto_status status = take_kind(c, value, &value->element_kind);
    if (!status)
        status = shard__gguf_take_u64(c, "an array's length", &value->count);
    if (status)
        return status;
    if (value->element_kind == SHARD_GGUF_ARRAY)
        return fail_key(c, PROTO_UNSUPPORTED, value,
                        "is an array of arrays, expected an array of plain values");
    if (value->count > MAX_ARRAY_COUNT) {
        char text[160];
        snprintf(text, sizeof text,
                 "is an array of %" PRIu64 " elements, at most %u are allowed; " SHARD__GGUF_AGAIN,
                 value->count, MAX_ARRAY_COUNT);
        return fail_key(c, PROTO_LIMIT, value, text);
    }
    value->data = c->bytes + c->pos;
    if (value->element_kind == SHARD_GGUF_STRING)
        return take_strings(c, value);
    return shard__gguf_take(c, value->count * shard__gguf_kind_bytes(value->element_kind),
                            "an array", &value->data);
}

static enum proto_status take_value(struct shard__gguf_cursor *c, struct shard_gguf_value *value)
{
    enum proto_status status = shard__gguf_take_string(c, "a key", &value->key);
    if (!status)
        status = shard__gguf_check_name(c, "key", &value->key);
    if (!status)
        status = take_kind(c, value, &value->kind);
    if (status)
        return status;
    if (value->kind == SHARD_GGUF_ARRAY)
        return take_array(c, value);
    value->element_kind = value->kind;
    value->count = 1;
    value->data = c->bytes + c->pos;
    if (value->kind == SHARD_GGUF_STRING) {
        struct shard_gguf_string text;
        return shard__gguf_take_string(c, "a string", &text);
    }
    return shard__gguf_take(c, shard__gguf_kind_bytes(value->kind), "a value", &value->data);
}

static int compare_keys(const struct shard_gguf_string *a, const struct shard_gguf_string *b)
{
    size_t n = a->len < b->len ? a->len : b->len;
    int order = memcmp(a->data, b->data, n);
    return order ? order : (a->len > b->len) - (a->len < b->len);
}

static int compare_values(const void *a, const void *b, void *values)
{
    const struct shard_gguf_value *v = values;
    return compare_keys(&v[*(const uint32_t *)a].key, &v[*(const uint32_t *)b].key);
}

/* Sorted rather than hashed: no file can make it slow, and equal keys become neighbours. */
static enum proto_status index_values(struct shard__gguf_cursor *c,
                                      struct shard__gguf_header *header)
{
    size_t n = header->n_values;
    header->by_key = malloc((n + 1) * sizeof *header->by_key);
    if (!header->by_key)
        return proto_fail_nomem(c->error, (n + 1) * sizeof *header->by_key, "the index of keys");
    for (size_t i = 0; i < n; i++)
        header->by_key[i] = (uint32_t)i;
    qsort_r(header->by_key, n, sizeof *header->by_key, compare_values, header->values);
    for (size_t i = 1; i < n; i++) {
        const struct shard_gguf_value *value = &header->values[header->by_key[i]];
        if (!compare_keys(&value->key, &header->values[header->by_key[i - 1]].key))
            return fail_key(c, PROTO_FORMAT, value,
                            "occurs twice, expected once; convert the model again");
    }
    return PROTO_OK;
}

static enum proto_status take_values(struct shard__gguf_cursor *c,
                                     struct shard__gguf_header *header, uint64_t count)
{
    enum proto_status status =
        shard__gguf_check_count(c, "metadata values", count, MIN_VALUE_BYTES);
    if (status)
        return status;
    if (count > UINT32_MAX)
        return proto_fail(c->error, PROTO_LIMIT,
                          "%s: %" PRIu64 " metadata values, at most %" PRIu32 " are allowed",
                          c->name, count, UINT32_MAX);
    header->values = calloc(count + 1, sizeof *header->values);
    if (!header->values)
        return proto_fail_nomem(c->error, (count + 1) * sizeof *header->values,
                                "the metadata of a model");
    for (; header->n_values < count && !status; header->n_values++)
        status = take_value(c, &header->values[header->n_values]);
    return status ? status : index_values(c, header);
}

static enum proto_status find_alignment(struct shard__gguf_cursor *c,
                                        const struct shard__gguf_header *header, uint64_t *out)
{
    const struct shard_gguf_value *value = shard__gguf_find(header, "general.alignment");
    int64_t alignment = DEFAULT_ALIGNMENT;
    if (value && (value->kind != SHARD_GGUF_U32 || !shard__gguf_int(value, 0, &alignment)))
        return fail_key(c, PROTO_FORMAT, value,
                        "is of another type, expected u32; convert the model again");
    if (alignment <= 0 || (alignment & (alignment - 1))) {
        char text[160];
        snprintf(text, sizeof text, "is %" PRId64 ", expected a power of two; " SHARD__GGUF_AGAIN,
                 alignment);
        return fail_key(c, PROTO_FORMAT, value, text);
    }
    *out = (uint64_t)alignment;
    return PROTO_OK;
}

static enum proto_status take_version(struct shard__gguf_cursor *c, unsigned *version)
{
    const uint8_t *magic = NULL;
    enum proto_status status = shard__gguf_take(c, 4, "the file's mark \"GGUF\"", &magic);
    if (status)
        return status;
    if (memcmp(magic, "GGUF", 4))
        return proto_fail(c->error, PROTO_FORMAT,
                          "%s: starts with the bytes %02x %02x %02x %02x, expected 47 47 55 46 "
                          "(\"GGUF\"); give a model in GGUF format",
                          c->name, magic[0], magic[1], magic[2], magic[3]);
    uint32_t found = 0;
    status = shard__gguf_take_u32(c, "the version", &found);
    if (status)
        return status;
    if (found && !(found & 0xffff))
        return proto_fail(c->error, PROTO_UNSUPPORTED,
                          "%s: was written for big-endian machines, expected little-endian; "
                          "convert the model again",
                          c->name);
    if (found != 2 && found != 3)
        return proto_fail(c->error, PROTO_UNSUPPORTED,
                          "%s: GGUF version %" PRIu32 ", expected 2 or 3; convert the model again",
                          c->name, found);
    *version = found;
    return PROTO_OK;
}

static enum proto_status parse(struct shard__gguf_cursor *c, struct shard__gguf_header *header)
{
    uint64_t n_tensors = 0, n_values = 0, alignment = 0;
    enum proto_status status = take_version(c, &header->version);
    if (!status)
        status = shard__gguf_take_u64(c, "the number of tensors", &n_tensors);
    if (!status)
        status = shard__gguf_take_u64(c, "the number of metadata values", &n_values);
    if (!status)
        status = take_values(c, header, n_values);
    if (!status)
        status = find_alignment(c, header, &alignment);
    if (!status)
        status = shard__gguf_take_tensors(c, header, n_tensors);
    return status ? status : shard__gguf_lay_out(c, header, alignment);
}

enum proto_status shard__gguf_parse_header(struct shard__gguf_header *header, const uint8_t *bytes,
                                           uint64_t len, const char *name,
                                           struct proto_error *error)
{
    struct shard__gguf_cursor c = {.bytes = bytes, .len = len, .name = name, .error = error};
    *header = (struct shard__gguf_header){0};
    enum proto_status status = parse(&c, header);
    if (status)
        shard__gguf_header_finish(header);
    return status;
}

void shard__gguf_header_finish(struct shard__gguf_header *header)
{
    for (size_t i = 0; i < header->n_values; i++)
        free(header->values[i].strings);
    free(header->values);
    free(header->by_key);
    free(header->tensors);
    *header = (struct shard__gguf_header){0};
}

const struct shard_gguf_value *shard__gguf_find(const struct shard__gguf_header *header,
                                                const char *key)
{
    struct shard_gguf_string wanted = {.data = key, .len = strlen(key)};
    size_t first = 0, end = header->n_values;
    while (first < end) {
        size_t middle = first + (end - first) / 2;
        const struct shard_gguf_value *value = &header->values[header->by_key[middle]];
        int order = compare_keys(&wanted, &value->key);
        if (!order)
            return value;
        if (order < 0)
            end = middle;
        else
            first = middle + 1;
    }
    return NULL;
}
