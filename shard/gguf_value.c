/* SPDX-License-Identifier: Apache-2.0 */
/* Typed reads of metadata values. */
#include "shard/gguf_parse.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static const char *kind_name(enum shard_gguf_kind kind)
{
    static const char *const names[] = {
        [SHARD_GGUF_U8] = "u8",       [SHARD_GGUF_I8] = "i8",     [SHARD_GGUF_U16] = "u16",
        [SHARD_GGUF_I16] = "i16",     [SHARD_GGUF_U32] = "u32",   [SHARD_GGUF_I32] = "i32",
        [SHARD_GGUF_F32] = "f32",     [SHARD_GGUF_BOOL] = "bool", [SHARD_GGUF_STRING] = "string",
        [SHARD_GGUF_ARRAY] = "array", [SHARD_GGUF_U64] = "u64",   [SHARD_GGUF_I64] = "i64",
        [SHARD_GGUF_F64] = "f64",
    };
    return names[kind];
}

static enum proto_status fail_kind(const struct shard_gguf *gguf,
                                   const struct shard_gguf_value *value, const char *expected,
                                   struct proto_error *error)
{
    char key[SHARD__GGUF_QUOTE_BYTES];
    return proto_fail(
        error, PROTO_FORMAT, "%s: key \"%s\" is of type %s, expected %s; convert the model again",
        shard_gguf_path(gguf, 0), shard__gguf_quote(key, value->key.data, value->key.len),
        kind_name(value->kind), expected);
}

/* An integer with its sign apart, so that u64 and i64 both fit. */
struct integer {
    bool negative;
    uint64_t bits; /* two's complement where negative */
};

static struct integer signed_integer(int64_t value)
{
    return (struct integer){.negative = value < 0, .bits = (uint64_t)value};
}

static bool read_integer(const struct shard_gguf_value *value, uint64_t i, struct integer *out)
{
    union {
        uint16_t u16;
        int16_t i16;
        uint32_t u32;
        int32_t i32;
        uint64_t u64;
        int64_t i64;
    } v;
    size_t bytes = shard__gguf_kind_bytes(value->element_kind);
    if (i >= value->count || !bytes)
        return false;
    const uint8_t *p = value->data + i * bytes;
    memcpy(&v, p, bytes);
    switch (value->element_kind) {
    case SHARD_GGUF_U8:
        *out = (struct integer){.bits = *p};
        return true;
    case SHARD_GGUF_I8:
        *out = signed_integer((int8_t)*p);
        return true;
    case SHARD_GGUF_BOOL:
        *out = (struct integer){.bits = *p != 0};
        return true;
    case SHARD_GGUF_U16:
        *out = (struct integer){.bits = v.u16};
        return true;
    case SHARD_GGUF_I16:
        *out = signed_integer(v.i16);
        return true;
    case SHARD_GGUF_U32:
        *out = (struct integer){.bits = v.u32};
        return true;
    case SHARD_GGUF_I32:
        *out = signed_integer(v.i32);
        return true;
    case SHARD_GGUF_U64:
        *out = (struct integer){.bits = v.u64};
        return true;
    case SHARD_GGUF_I64:
        *out = signed_integer(v.i64);
        return true;
    case SHARD_GGUF_F32:
    case SHARD_GGUF_F64:
    case SHARD_GGUF_STRING:
    case SHARD_GGUF_ARRAY:
        return false;
    }
    return false;
}

bool shard__gguf_int(const struct shard_gguf_value *value, uint64_t i, int64_t *out)
{
    struct integer integer;
    if (!read_integer(value, i, &integer))
        return false;
    bool fits = integer.negative || integer.bits <= (uint64_t)INT64_MAX;
    *out = fits ? (int64_t)integer.bits : INT64_MAX;
    return true;
}

int64_t shard_gguf_int_element(const struct shard_gguf_value *value, size_t i)
{
    int64_t out = 0;
    shard__gguf_int(value, i, &out);
    return out;
}

float shard_gguf_f32_element(const struct shard_gguf_value *value, size_t i)
{
    float out;
    memcpy(&out, value->data + i * sizeof out, sizeof out);
    return out;
}

static enum proto_status read_unsigned(const struct shard_gguf *gguf,
                                       const struct shard_gguf_value *value, uint64_t i,
                                       uint64_t max, uint64_t *out, struct proto_error *error)
{
    struct integer integer;
    if (!read_integer(value, i, &integer))
        return fail_kind(gguf, value, "an integer", error);
    if (integer.negative || integer.bits > max) {
        char key[SHARD__GGUF_QUOTE_BYTES], found[24];
        snprintf(found, sizeof found, integer.negative ? "%" PRId64 : "%" PRIu64, integer.bits);
        return proto_fail(error, PROTO_FORMAT,
                          "%s: key \"%s\" holds %s, expected 0 to %" PRIu64
                          "; convert the model again",
                          shard_gguf_path(gguf, 0),
                          shard__gguf_quote(key, value->key.data, value->key.len), found, max);
    }
    *out = integer.bits;
    return PROTO_OK;
}

static enum proto_status scalar_unsigned(const struct shard_gguf *gguf, const char *key,
                                         uint64_t max, uint64_t *out, struct proto_error *error)
{
    const struct shard_gguf_value *value = shard_gguf_find(gguf, key);
    if (!value)
        return PROTO_NOTFOUND;
    if (value->kind == SHARD_GGUF_ARRAY || value->kind == SHARD_GGUF_BOOL)
        return fail_kind(gguf, value, "an integer", error);
    return read_unsigned(gguf, value, 0, max, out, error);
}

enum proto_status shard_gguf_u64(const struct shard_gguf *gguf, const char *key, uint64_t *out,
                                 struct proto_error *error)
{
    return scalar_unsigned(gguf, key, UINT64_MAX, out, error);
}

enum proto_status shard_gguf_u32(const struct shard_gguf *gguf, const char *key, uint32_t *out,
                                 struct proto_error *error)
{
    uint64_t wide = 0;
    enum proto_status status = scalar_unsigned(gguf, key, UINT32_MAX, &wide, error);
    if (!status)
        *out = (uint32_t)wide;
    return status;
}

enum proto_status shard_gguf_u32_at(const struct shard_gguf *gguf, const char *key, size_t i,
                                    uint32_t *out, struct proto_error *error)
{
    const struct shard_gguf_value *value = shard_gguf_find(gguf, key);
    if (!value)
        return PROTO_NOTFOUND;
    if (value->kind == SHARD_GGUF_ARRAY && i >= value->count)
        return proto_fail(error, PROTO_FORMAT,
                          "%s: key \"%s\" has %" PRIu64
                          " elements, expected at least %zu; convert the model again",
                          shard_gguf_path(gguf, 0), key, value->count, i + 1);
    uint64_t wide = 0;
    enum proto_status status = read_unsigned(gguf, value, value->kind == SHARD_GGUF_ARRAY ? i : 0,
                                             UINT32_MAX, &wide, error);
    if (!status)
        *out = (uint32_t)wide;
    return status;
}

enum proto_status shard_gguf_f32(const struct shard_gguf *gguf, const char *key, float *out,
                                 struct proto_error *error)
{
    const struct shard_gguf_value *value = shard_gguf_find(gguf, key);
    if (!value)
        return PROTO_NOTFOUND;
    if (value->kind == SHARD_GGUF_F32) {
        *out = shard_gguf_f32_element(value, 0);
        return PROTO_OK;
    }
    if (value->kind != SHARD_GGUF_F64)
        return fail_kind(gguf, value, "a float", error);
    double wide;
    memcpy(&wide, value->data, sizeof wide);
    *out = (float)wide;
    return PROTO_OK;
}

enum proto_status shard_gguf_bool(const struct shard_gguf *gguf, const char *key, bool *out,
                                  struct proto_error *error)
{
    const struct shard_gguf_value *value = shard_gguf_find(gguf, key);
    if (!value)
        return PROTO_NOTFOUND;
    if (value->kind != SHARD_GGUF_BOOL)
        return fail_kind(gguf, value, "a bool", error);
    *out = *value->data != 0;
    return PROTO_OK;
}

enum proto_status shard_gguf_str(const struct shard_gguf *gguf, const char *key,
                                 struct shard_gguf_string *out, struct proto_error *error)
{
    const struct shard_gguf_value *value = shard_gguf_find(gguf, key);
    if (!value)
        return PROTO_NOTFOUND;
    if (value->kind != SHARD_GGUF_STRING)
        return fail_kind(gguf, value, "a string", error);
    uint64_t len;
    memcpy(&len, value->data, sizeof len);
    *out = (struct shard_gguf_string){.data = (const char *)value->data + sizeof len, .len = len};
    return PROTO_OK;
}
