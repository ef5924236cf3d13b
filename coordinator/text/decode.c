/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>

#include "coordinator/text/internal.h"

struct shard_gguf_string text__token_text(const struct text_vocab *v, int32_t id, bool special)
{
    if (id < 0 || (uint32_t)id >= v->n)
        return (struct shard_gguf_string){"", 0};
    uint8_t type = v->types[id];
    bool shown =
        type == TEXT_TOKEN_CONTROL || type == TEXT_TOKEN_UNKNOWN || type == TEXT_TOKEN_UNUSED;
    return text__blob_get(special && shown ? &v->stored : &v->plain, (uint32_t)id);
}

bool text__drops_space(const struct text_vocab *v)
{
    return v->kind == TEXT__SPM && v->add_space;
}

size_t text_decode_token(const struct text_vocab *v, int32_t id, bool special, char *out,
                         size_t cap)
{
    struct shard_gguf_string s = text__token_text(v, id, special);
    if (cap > 0)
        memcpy(out, s.data, s.len < cap ? s.len : cap);
    return s.len;
}

static enum proto_status total_len(const struct text_vocab *v, const int32_t *ids, size_t n,
                                   bool special, size_t *total, struct proto_error *error)
{
    *total = 0;
    for (size_t i = 0; i < n; i++) {
        if (ids[i] < 0 || (uint32_t)ids[i] >= v->n)
            return proto_fail(error, PROTO_INVALID,
                              "token id %d (number %zu of %zu) is not in the vocabulary; ids are 0 "
                              "to %u",
                              ids[i], i + 1, n, v->n - 1);
        *total += text__token_text(v, ids[i], special).len;
    }
    return PROTO_OK;
}

enum proto_status text_decode(const struct text_vocab *v, const int32_t *ids, size_t n,
                              bool special, char **text, size_t *len, struct proto_error *error)
{
    size_t total;
    enum proto_status status = total_len(v, ids, n, special, &total, error);
    if (status != PROTO_OK)
        return status;
    char *out = malloc(total + 1);
    if (!out)
        return proto_fail_nomem(error, total + 1, "decoding tokens");
    size_t at = 0;
    bool start = text__drops_space(v);
    for (size_t i = 0; i < n; i++) {
        struct shard_gguf_string s = text__token_text(v, ids[i], special);
        size_t skip = start && s.len > 0 && s.data[0] == ' ';
        memcpy(out + at, s.data + skip, s.len - skip);
        at += s.len - skip;
        start = start && (s.len == 0 || (i == 0 && ids[0] == v->bos));
    }
    out[at] = '\0';
    *text = out;
    *len = at;
    return PROTO_OK;
}
