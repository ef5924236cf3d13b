/* SPDX-License-Identifier: Apache-2.0 */
#include "shard/gguf_writer.h"

#include <stdlib.h>
#include <string.h>

#include "shard/gguf_parse.h"

#define ALIGNMENT 32u

struct buffer {
    uint8_t *bytes;
    size_t len, capacity;
};

struct shard_gguf_writer {
    struct buffer values, tensors;
    uint64_t n_values, n_tensors;
    uint64_t end; /* of the data section so far, aligned */
    enum proto_status status;
};

struct shard_gguf_writer *shard_gguf_writer_create(void)
{
    return calloc(1, sizeof(struct shard_gguf_writer));
}

void shard_gguf_writer_destroy(struct shard_gguf_writer *w)
{
    if (!w)
        return;
    free(w->values.bytes);
    free(w->tensors.bytes);
    free(w);
}

static void put(struct shard_gguf_writer *w, struct buffer *buffer, const void *bytes, size_t len)
{
    if (w->status || !len)
        return;
    if (len > buffer->capacity - buffer->len) {
        size_t capacity = 2 * (buffer->capacity + len);
        uint8_t *grown = realloc(buffer->bytes, capacity);
        if (!grown) {
            w->status = PROTO_NOMEM;
            return;
        }
        buffer->bytes = grown;
        buffer->capacity = capacity;
    }
    memcpy(buffer->bytes + buffer->len, bytes, len);
    buffer->len += len;
}

static void put_u32(struct shard_gguf_writer *w, struct buffer *buffer, uint32_t value)
{
    put(w, buffer, &value, sizeof value);
}

static void put_u64(struct shard_gguf_writer *w, struct buffer *buffer, uint64_t value)
{
    put(w, buffer, &value, sizeof value);
}

static void put_string(struct shard_gguf_writer *w, struct buffer *buffer, const char *data,
                       size_t len)
{
    put_u64(w, buffer, len);
    put(w, buffer, data, len);
}

/* Key and type of a value; false where there is no writer to write it. */
static bool begin_value(struct shard_gguf_writer *w, const char *key, enum shard_gguf_kind kind)
{
    if (!w)
        return false;
    w->n_values++;
    put_string(w, &w->values, key, strlen(key));
    put_u32(w, &w->values, kind);
    return true;
}

static bool begin_array(struct shard_gguf_writer *w, const char *key, enum shard_gguf_kind kind,
                        uint64_t count)
{
    if (!begin_value(w, key, SHARD_GGUF_ARRAY))
        return false;
    put_u32(w, &w->values, kind);
    put_u64(w, &w->values, count);
    return true;
}

void shard_gguf_writer_u32(struct shard_gguf_writer *w, const char *key, uint32_t value)
{
    if (begin_value(w, key, SHARD_GGUF_U32))
        put_u32(w, &w->values, value);
}

void shard_gguf_writer_f32(struct shard_gguf_writer *w, const char *key, float value)
{
    if (begin_value(w, key, SHARD_GGUF_F32))
        put(w, &w->values, &value, sizeof value);
}

void shard_gguf_writer_bool(struct shard_gguf_writer *w, const char *key, bool value)
{
    if (begin_value(w, key, SHARD_GGUF_BOOL))
        put(w, &w->values, &(uint8_t){value}, 1);
}

void shard_gguf_writer_str(struct shard_gguf_writer *w, const char *key, const char *value)
{
    if (begin_value(w, key, SHARD_GGUF_STRING))
        put_string(w, &w->values, value, strlen(value));
}

void shard_gguf_writer_strs(struct shard_gguf_writer *w, const char *key, const char *const *values,
                            size_t n)
{
    if (!begin_array(w, key, SHARD_GGUF_STRING, n))
        return;
    for (size_t i = 0; i < n; i++)
        put_string(w, &w->values, values[i], strlen(values[i]));
}

void shard_gguf_writer_f32s(struct shard_gguf_writer *w, const char *key, const float *values,
                            size_t n)
{
    if (begin_array(w, key, SHARD_GGUF_F32, n))
        put(w, &w->values, values, n * sizeof *values);
}

void shard_gguf_writer_i32s(struct shard_gguf_writer *w, const char *key, const int32_t *values,
                            size_t n)
{
    if (begin_array(w, key, SHARD_GGUF_I32, n))
        put(w, &w->values, values, n * sizeof *values);
}

void shard_gguf_writer_bools(struct shard_gguf_writer *w, const char *key, const bool *values,
                             size_t n)
{
    if (!begin_array(w, key, SHARD_GGUF_BOOL, n))
        return;
    for (size_t i = 0; i < n; i++)
        put(w, &w->values, &(uint8_t){values[i]}, 1);
}

/* Bytes of a value behind its type (and, for an array, behind its element type and count). */
static size_t value_bytes(const struct shard_gguf_value *value)
{
    size_t bytes = 0;
    if (value->element_kind != SHARD_GGUF_STRING)
        return value->count * shard__gguf_kind_bytes(value->element_kind);
    for (uint64_t i = 0; i < value->count; i++) {
        uint64_t len;
        memcpy(&len, value->data + bytes, sizeof len);
        bytes += sizeof len + len;
    }
    return bytes;
}

void shard_gguf_writer_value(struct shard_gguf_writer *w, const struct shard_gguf_value *value)
{
    if (!w)
        return;
    w->n_values++;
    put_string(w, &w->values, value->key.data, value->key.len);
    put_u32(w, &w->values, value->kind);
    if (value->kind == SHARD_GGUF_ARRAY) {
        put_u32(w, &w->values, value->element_kind);
        put_u64(w, &w->values, value->count);
    }
    put(w, &w->values, value->data, value_bytes(value));
}

/* Bytes of a tensor up to where the next may start; false beyond 2^64. */
static bool padded_bytes(const struct kern_type_info *type, uint32_t n_dims, const uint64_t *dims,
                         uint64_t *out)
{
    uint64_t bytes = dims[0] / type->block;
    if (__builtin_mul_overflow(bytes, type->block_bytes, &bytes))
        return false;
    for (uint32_t i = 1; i < n_dims; i++)
        if (__builtin_mul_overflow(bytes, dims[i], &bytes))
            return false;
    if (__builtin_add_overflow(bytes, ALIGNMENT - 1, &bytes))
        return false;
    *out = bytes & ~(uint64_t)(ALIGNMENT - 1);
    return true;
}

void shard_gguf_writer_tensor(struct shard_gguf_writer *w, const char *name,
                              const struct kern_type_info *type, uint32_t n_dims,
                              const uint64_t *dims)
{
    uint64_t bytes;
    if (!w)
        return;
    w->n_tensors++;
    put_string(w, &w->tensors, name, strlen(name));
    put_u32(w, &w->tensors, n_dims);
    put(w, &w->tensors, dims, n_dims * sizeof *dims);
    put_u32(w, &w->tensors, type->type);
    put_u64(w, &w->tensors, w->end);
    if (!w->status && (!padded_bytes(type, n_dims, dims, &bytes) ||
                       __builtin_add_overflow(w->end, bytes, &w->end)))
        w->status = PROTO_LIMIT;
}

enum proto_status shard_gguf_writer_header(struct shard_gguf_writer *w, void **bytes, size_t *len,
                                           struct proto_error *error)
{
    *bytes = NULL;
    *len = 0;
    if (!w || w->status == PROTO_NOMEM)
        return proto_fail_nomem(error, w ? w->values.len + w->tensors.len : sizeof *w,
                                "a model's header");
    if (w->status)
        return proto_fail(error, w->status, "the model's tensors take more than 2^64 bytes");
    struct buffer header = {0};
    put(w, &header, "GGUF", 4);
    put_u32(w, &header, 3);
    put_u64(w, &header, w->n_tensors);
    put_u64(w, &header, w->n_values);
    put(w, &header, w->values.bytes, w->values.len);
    put(w, &header, w->tensors.bytes, w->tensors.len);
    put(w, &header, (uint8_t[ALIGNMENT]){0}, -header.len % ALIGNMENT);
    if (w->status) {
        free(header.bytes);
        return proto_fail_nomem(error, w->values.len + w->tensors.len, "a model's header");
    }
    *bytes = header.bytes;
    *len = header.len;
    return PROTO_OK;
}

/* The card's offsets are aligned by the default, whatever the model's own alignment was. */
static bool in_card(const struct shard_gguf_string *key)
{
    static const char *const left_out[] = {"tokenizer.", "split.", "general.alignment"};
    for (size_t i = 0; i < sizeof left_out / sizeof left_out[0]; i++) {
        size_t len = strlen(left_out[i]);
        if (key->len >= len && !memcmp(key->data, left_out[i], len))
            return false;
    }
    return true;
}

enum proto_status shard_gguf_card_as(const struct shard_gguf *gguf, shard_gguf_type_fn *type_of,
                                     const void *arg, void **bytes, size_t *len,
                                     struct proto_error *error)
{
    struct shard_gguf_writer *w = shard_gguf_writer_create();
    for (size_t i = 0; i < shard_gguf_n_values(gguf); i++) {
        const struct shard_gguf_value *value = shard_gguf_value(gguf, i);
        if (in_card(&value->key))
            shard_gguf_writer_value(w, value);
    }
    for (size_t i = 0; i < shard_gguf_n_tensors(gguf); i++) {
        const struct shard_tensor *tensor = shard_gguf_tensor(gguf, i);
        shard_gguf_writer_tensor(w, tensor->name, type_of(arg, tensor), tensor->n_dims,
                                 tensor->dims);
    }
    enum proto_status status = shard_gguf_writer_header(w, bytes, len, error);
    shard_gguf_writer_destroy(w);
    return status;
}

static const struct kern_type_info *own_type(const void *unused, const struct shard_tensor *tensor)
{
    (void)unused;
    return tensor->type;
}

enum proto_status shard_gguf_card(const struct shard_gguf *gguf, void **bytes, size_t *len,
                                  struct proto_error *error)
{
    return shard_gguf_card_as(gguf, own_type, NULL, bytes, len, error);
}
