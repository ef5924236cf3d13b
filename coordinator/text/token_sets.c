/* SPDX-License-Identifier: Apache-2.0 */
/* Sets of tokens that sampling asks for. */
#include <stdlib.h>
#include <string.h>

#include "coordinator/text/internal.h"

enum proto_status text__load_suppressed(struct text_vocab *v, const struct shard_gguf *gguf,
                                        const char *path, struct proto_error *error)
{
    const struct shard_gguf_value *list = shard_gguf_find(gguf, "tokenizer.ggml.suppress_tokens");
    if (!list)
        return PROTO_OK;
    bool integers = list->kind == SHARD_GGUF_ARRAY &&
                    (list->element_kind <= SHARD_GGUF_I32 || list->element_kind == SHARD_GGUF_U64 ||
                     list->element_kind == SHARD_GGUF_I64);
    if (!integers || list->count > v->n)
        return proto_fail(error, PROTO_FORMAT,
                          "%s: tokenizer.ggml.suppress_tokens must be at most %u token ids; found "
                          "another kind or more",
                          path, v->n);
    v->suppressed = malloc((size_t)list->count * sizeof *v->suppressed + 1);
    if (!v->suppressed)
        return proto_fail_nomem(error, (size_t)list->count * sizeof *v->suppressed,
                                "suppressed tokens");
    for (uint64_t i = 0; i < list->count; i++) {
        int64_t id = shard_gguf_int_element(list, i);
        if (id < 0 || id >= v->n)
            return proto_fail(error, PROTO_FORMAT,
                              "%s: tokenizer.ggml.suppress_tokens holds %lld, but there are only "
                              "%u tokens",
                              path, (long long)id, v->n);
        v->suppressed[v->n_suppressed++] = (int32_t)id;
    }
    return PROTO_OK;
}

const int32_t *text_vocab_suppressed(const struct text_vocab *v, size_t *n)
{
    *n = v->n_suppressed;
    return v->suppressed;
}

static bool contains_any(struct shard_gguf_string s, const char *const *texts, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (memmem(s.data, s.len, texts[i], strlen(texts[i])))
            return true;
    }
    return false;
}

enum proto_status text_vocab_tokens_with(const struct text_vocab *v, const char *const *texts,
                                         size_t n_texts, int32_t **ids, size_t *n,
                                         struct proto_error *error)
{
    struct text__ids out = {0};
    enum proto_status status = text__ids_grow(&out, error);
    for (uint32_t i = 0; i < v->n && status == PROTO_OK; i++) {
        if (contains_any(text__blob_get(&v->plain, i), texts, n_texts))
            status = text__ids_push(&out, (int32_t)i, error);
    }
    if (status != PROTO_OK) {
        free(out.ids);
        return status;
    }
    *ids = out.ids;
    *n = out.n;
    return PROTO_OK;
}
