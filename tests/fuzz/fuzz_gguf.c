/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as a GGUF header: parsed or refused with a text. What is parsed is read in every way,
 * and its card must parse again to the same tensors. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fuzz.h"
#include "shard/gguf.h"

static void check_refusal(enum proto_status status, const struct proto_error *error)
{
    FUZZ_CHECK(status == error->status);
    FUZZ_CHECK(error->text[0] && !strchr(error->text, '\n'));
}

/* Every byte is used, so that a sanitizer sees reads beyond the input. */
static uint64_t sum_bytes(const void *data, size_t len)
{
    const uint8_t *bytes = data;
    uint64_t sum = 0;
    for (size_t i = 0; i < len; i++)
        sum += bytes[i];
    return sum;
}

static uint64_t read_elements(const struct shard_gguf_value *value)
{
    uint64_t sum = 0;
    for (uint64_t i = 0; i < value->count; i++) {
        if (value->strings)
            sum += sum_bytes(value->strings[i].data, value->strings[i].len);
        else if (value->element_kind == SHARD_GGUF_F32)
            sum += shard_gguf_f32_element(value, i) > 0;
        else
            sum += (uint64_t)shard_gguf_int_element(value, i);
    }
    return sum;
}

static void read_typed(const struct shard_gguf *gguf, const char *key)
{
    struct proto_error error;
    uint32_t narrow;
    uint64_t wide;
    float real;
    bool flag;
    struct shard_gguf_string text;
    FUZZ_CHECK(shard_gguf_u32(gguf, key, &narrow, &error) != PROTO_NOTFOUND);
    FUZZ_CHECK(shard_gguf_u64(gguf, key, &wide, &error) != PROTO_NOTFOUND);
    FUZZ_CHECK(shard_gguf_f32(gguf, key, &real, &error) != PROTO_NOTFOUND);
    FUZZ_CHECK(shard_gguf_bool(gguf, key, &flag, &error) != PROTO_NOTFOUND);
    FUZZ_CHECK(shard_gguf_u32_at(gguf, key, 1, &narrow, &error) != PROTO_NOTFOUND);
    enum proto_status status = shard_gguf_str(gguf, key, &text, &error);
    FUZZ_CHECK(status != PROTO_NOTFOUND);
    if (!status)
        sum_bytes(text.data, text.len);
}

static void read_values(const struct shard_gguf *gguf)
{
    for (size_t i = 0; i < shard_gguf_n_values(gguf); i++) {
        const struct shard_gguf_value *value = shard_gguf_value(gguf, i);
        char *key = strndup(value->key.data, value->key.len);
        if (!key)
            return;
        FUZZ_CHECK(shard_gguf_find(gguf, key) == value);
        read_elements(value);
        read_typed(gguf, key);
        free(key);
    }
}

static void read_tensors(const struct shard_gguf *gguf)
{
    for (size_t i = 0; i < shard_gguf_n_tensors(gguf); i++) {
        const struct shard_tensor *tensor = shard_gguf_tensor(gguf, i);
        FUZZ_CHECK(shard_gguf_find_tensor(gguf, tensor->name) == (long)i);
        FUZZ_CHECK(tensor->n_dims >= 1 && tensor->n_dims <= 4 && tensor->bytes > 0);
        FUZZ_CHECK(tensor->offset + tensor->bytes > tensor->offset);
        FUZZ_CHECK(tensor->dims[0] % tensor->type->block == 0);
    }
}

static void read_card(const struct shard_gguf *gguf)
{
    void *bytes;
    size_t len;
    struct proto_error error;
    struct shard_gguf *card;
    enum proto_status status = shard_gguf_card(gguf, &bytes, &len, &error);
    if (status) {
        check_refusal(status, &error);
        return;
    }
    status = shard_gguf_parse(&card, bytes, len, "card", &error);
    free(bytes);
    /* Where tensors end near 2^64, other padding may carry them over it. */
    if (status == PROTO_LIMIT)
        return;
    FUZZ_CHECK(!status);
    FUZZ_CHECK(shard_gguf_n_tensors(card) == shard_gguf_n_tensors(gguf));
    for (size_t i = 0; i < shard_gguf_n_tensors(card); i++) {
        const struct shard_tensor *a = shard_gguf_tensor(gguf, i);
        const struct shard_tensor *b = shard_gguf_tensor(card, i);
        FUZZ_CHECK(!strcmp(a->name, b->name) && a->bytes == b->bytes && a->type == b->type);
    }
    shard_gguf_close(card);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct shard_gguf *gguf;
    struct proto_error error = {0};
    enum proto_status status = shard_gguf_parse(&gguf, data, len, "fuzz", &error);
    if (status) {
        check_refusal(status, &error);
        FUZZ_CHECK(!gguf);
        return 0;
    }
    read_values(gguf);
    read_tensors(gguf);
    read_card(gguf);
    shard_gguf_close(gguf);
    return 0;
}
