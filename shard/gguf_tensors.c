/* SPDX-License-Identifier: Apache-2.0 */
#include "shard/gguf_parse.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define MIN_TENSOR_BYTES 33u /* name length, one byte of name, count, one size, type, offset */

/* ik_llama.cpp gives its own types numbers that mean nothing elsewhere. */
static bool is_private_to_ik(uint32_t number)
{
    return (number >= 97 && number <= 99) || (number >= 133 && number <= 158) || number >= 200;
}

static enum proto_status find_type(struct shard__gguf_cursor *c, struct shard_tensor *tensor,
                                   uint32_t number)
{
    tensor->type = kern_type_find(number);
    if (tensor->type)
        return PROTO_OK;
    if (is_private_to_ik(number))
        return proto_fail(c->error, PROTO_UNSUPPORTED,
                          "%s: tensor \"%s\" has type %" PRIu32
                          ", written by ik_llama.cpp for itself alone; expected a type that all "
                          "programs know: take the model in another quantisation",
                          c->name, tensor->name, number);
    return proto_fail(c->error, PROTO_UNSUPPORTED,
                      "%s: tensor \"%s\" has type %" PRIu32
                      ", which is unknown; expected one like F16 (1), Q8_0 (8) or Q4_K (12): take "
                      "the model in another quantisation",
                      c->name, tensor->name, number);
}

static enum proto_status take_name(struct shard__gguf_cursor *c, struct shard_tensor *tensor)
{
    struct shard_gguf_string name;
    enum proto_status status = shard__gguf_take_string(c, "a tensor's name", &name);
    if (!status)
        status = shard__gguf_check_name(c, "tensor name", &name);
    if (status)
        return status;
    if (name.len > PROTO_MAX_NAME_BYTES) {
        char quoted[SHARD__GGUF_QUOTE_BYTES];
        return proto_fail(c->error, PROTO_LIMIT,
                          "%s: tensor \"%s\" has a name of %zu bytes, at most %u are allowed",
                          c->name, shard__gguf_quote(quoted, name.data, name.len), name.len,
                          PROTO_MAX_NAME_BYTES);
    }
    memcpy(tensor->name, name.data, name.len);
    return PROTO_OK;
}

static enum proto_status take_dims(struct shard__gguf_cursor *c, struct shard_tensor *tensor,
                                   uint64_t *n_elements)
{
    enum proto_status status =
        shard__gguf_take_u32(c, "a tensor's number of dimensions", &tensor->n_dims);
    if (status)
        return status;
    if (tensor->n_dims < 1 || tensor->n_dims > 4)
        return proto_fail(c->error, PROTO_FORMAT,
                          "%s: tensor \"%s\" has %" PRIu32
                          " dimensions, expected 1 to 4; " SHARD__GGUF_AGAIN,
                          c->name, tensor->name, tensor->n_dims);
    *n_elements = 1;
    for (uint32_t i = 0; i < 4; i++) {
        tensor->dims[i] = 1;
        if (i < tensor->n_dims)
            status = shard__gguf_take_u64(c, "a tensor's dimension", &tensor->dims[i]);
        if (status)
            return status;
        if (!tensor->dims[i])
            return proto_fail(c->error, PROTO_FORMAT,
                              "%s: tensor \"%s\" has 0 as dimension %" PRIu32
                              ", expected at least 1; " SHARD__GGUF_AGAIN,
                              c->name, tensor->name, i);
        if (__builtin_mul_overflow(*n_elements, tensor->dims[i], n_elements) ||
            *n_elements > (uint64_t)INT64_MAX)
            return proto_fail(c->error, PROTO_LIMIT,
                              "%s: tensor \"%s\" has more than 2^63 elements; " SHARD__GGUF_AGAIN,
                              c->name, tensor->name);
    }
    return PROTO_OK;
}

static enum proto_status take_tensor(struct shard__gguf_cursor *c, struct shard_tensor *tensor)
{
    uint64_t n_elements = 0;
    uint32_t number = 0;
    enum proto_status status = take_name(c, tensor);
    if (!status)
        status = take_dims(c, tensor, &n_elements);
    if (!status)
        status = shard__gguf_take_u32(c, "a tensor's type", &number);
    if (!status)
        status = shard__gguf_take_u64(c, "a tensor's offset", &tensor->offset);
    if (!status)
        status = find_type(c, tensor, number);
    if (status)
        return status;
    if (tensor->dims[0] % tensor->type->block)
        return proto_fail(
            c->error, PROTO_FORMAT,
            "%s: tensor \"%s\" has rows of %" PRIu64 " values, expected a multiple of %" PRIu32
            ", the block of %s; " SHARD__GGUF_AGAIN,
            c->name, tensor->name, tensor->dims[0], tensor->type->block, tensor->type->name);
    if (__builtin_mul_overflow(n_elements / tensor->type->block, tensor->type->block_bytes,
                               &tensor->bytes))
        return proto_fail(c->error, PROTO_LIMIT,
                          "%s: tensor \"%s\" is longer than 2^64 bytes; " SHARD__GGUF_AGAIN,
                          c->name, tensor->name);
    return PROTO_OK;
}

enum proto_status shard__gguf_take_tensors(struct shard__gguf_cursor *c,
                                           struct shard__gguf_header *header, uint64_t count)
{
    if (count > PROTO_MAX_TENSORS)
        return proto_fail(c->error, PROTO_LIMIT,
                          "%s: %" PRIu64 " tensors, at most %u are allowed; " SHARD__GGUF_AGAIN,
                          c->name, count, PROTO_MAX_TENSORS);
    enum proto_status status = shard__gguf_check_count(c, "tensors", count, MIN_TENSOR_BYTES);
    if (status)
        return status;
    header->tensors = calloc(count + 1, sizeof *header->tensors);
    if (!header->tensors)
        return proto_fail_nomem(c->error, (count + 1) * sizeof *header->tensors,
                                "the tensors of a model");
    for (; header->n_tensors < count && !status; header->n_tensors++)
        status = take_tensor(c, &header->tensors[header->n_tensors]);
    return status;
}

static enum proto_status check_offset(struct shard__gguf_cursor *c,
                                      const struct shard_tensor *tensor,
                                      const struct shard_tensor *before, uint64_t alignment,
                                      uint64_t expected)
{
    if (tensor->offset == expected)
        return PROTO_OK;
    if (tensor->offset % alignment)
        return proto_fail(c->error, PROTO_FORMAT,
                          "%s: tensor \"%s\" starts at offset %" PRIu64
                          ", expected a multiple of the alignment %" PRIu64 "; " SHARD__GGUF_AGAIN,
                          c->name, tensor->name, tensor->offset, alignment);
    if (tensor->offset < expected)
        return proto_fail(c->error, PROTO_FORMAT,
                          "%s: tensor \"%s\" starts at offset %" PRIu64
                          " and overlaps tensor \"%s\", expected %" PRIu64 "; " SHARD__GGUF_AGAIN,
                          c->name, tensor->name, tensor->offset, before->name, expected);
    return proto_fail(c->error, PROTO_FORMAT,
                      "%s: tensor \"%s\" starts at offset %" PRIu64 ", expected %" PRIu64
                      ", right after the tensor before it; " SHARD__GGUF_AGAIN,
                      c->name, tensor->name, tensor->offset, expected);
}

enum proto_status shard__gguf_lay_out(struct shard__gguf_cursor *c,
                                      struct shard__gguf_header *header, uint64_t alignment)
{
    uint64_t data = (c->pos + alignment - 1) & ~(alignment - 1);
    uint64_t expected = 0;
    for (size_t i = 0; i < header->n_tensors; i++) {
        struct shard_tensor *tensor = &header->tensors[i];
        enum proto_status status = check_offset(c, tensor, tensor - (i > 0), alignment, expected);
        if (status)
            return status;
        if (__builtin_add_overflow(expected, tensor->bytes, &expected) ||
            __builtin_add_overflow(expected, alignment - 1, &expected) ||
            expected > UINT64_MAX - data)
            return proto_fail(c->error, PROTO_LIMIT,
                              "%s: tensor \"%s\" ends beyond 2^64 bytes; " SHARD__GGUF_AGAIN,
                              c->name, tensor->name);
        expected &= ~(alignment - 1);
        tensor->offset += data;
        header->end = tensor->offset + tensor->bytes;
    }
    return PROTO_OK;
}
