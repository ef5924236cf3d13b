/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>

#include "coordinator/text/internal.h"

enum proto_status text__ids_grow(struct text__ids *out, struct proto_error *error)
{
    size_t cap = out->cap ? 2 * out->cap : 64;
    int32_t *ids = realloc(out->ids, cap * sizeof *ids);
    if (!ids)
        return proto_fail_nomem(error, cap * sizeof *ids, "token ids");
    out->ids = ids;
    out->cap = cap;
    return PROTO_OK;
}

enum proto_status text__push_byte(const struct text_vocab *v, unsigned char byte,
                                  struct text__ids *out, struct proto_error *error)
{
    int32_t id = v->byte_ids[byte] >= 0 ? v->byte_ids[byte] : v->unknown;
    if (id < 0)
        return proto_fail(error, PROTO_INVALID,
                          "the text has the byte 0x%02X, for which the vocabulary has neither a "
                          "token nor an unknown token; leave it out",
                          byte);
    return text__ids_push(out, id, error);
}

static enum proto_status encode_fragment(const struct text_vocab *v, const char *text, size_t len,
                                         struct text__merger *merger, struct text__ids *out,
                                         struct proto_error *error)
{
    if (len == 0)
        return PROTO_OK;
    /* A fragment begins the text or follows a special token. */
    return v->spm ? text__spm_encode(v, text, len, v->add_space, merger, out, error)
                  : text__bpe_encode(v, text, len, merger, out, error);
}

static enum proto_status encode(const struct text_vocab *v, const char *text, size_t len,
                                bool parse_special, struct text__ids *out,
                                struct proto_error *error)
{
    struct text__span *spans = NULL;
    struct text__merger merger = {0};
    size_t n = 0, at = 0;
    enum proto_status status = text__partition(v, text, len, parse_special, &spans, &n, error);
    for (size_t i = 0; i < n && status == PROTO_OK; i++) {
        status = encode_fragment(v, text + at, spans[i].at - at, &merger, out, error);
        if (status == PROTO_OK)
            status = text__ids_push(out, spans[i].id, error);
        at = (size_t)spans[i].at + spans[i].len;
    }
    if (status == PROTO_OK)
        status = encode_fragment(v, text + at, len - at, &merger, out, error);
    text__merger_finish(&merger);
    free(spans);
    return status;
}

static enum proto_status encode_with(const struct text_vocab *v, int32_t first, const char *text,
                                     size_t len, bool parse_special, int32_t **ids, size_t *n,
                                     struct proto_error *error)
{
    if (len > TEXT__MAX_BYTES)
        return proto_fail(error, PROTO_LIMIT, "a text of %zu bytes; at most %u can be encoded", len,
                          TEXT__MAX_BYTES);
    struct text__ids out = {0};
    enum proto_status status = text__ids_grow(&out, error);
    if (status == PROTO_OK && first >= 0)
        status = text__ids_push(&out, first, error);
    if (status == PROTO_OK)
        status = encode(v, text, len, parse_special, &out, error);
    if (status != PROTO_OK) {
        free(out.ids);
        return status;
    }
    *ids = out.ids;
    *n = out.n;
    return PROTO_OK;
}

enum proto_status text_encode(const struct text_vocab *v, const char *text, size_t len,
                              bool parse_special, int32_t **ids, size_t *n,
                              struct proto_error *error)
{
    return encode_with(v, -1, text, len, parse_special, ids, n, error);
}

enum proto_status text_encode_prompt(const struct text_vocab *v, const char *text, size_t len,
                                     bool parse_special, int32_t **ids, size_t *n,
                                     struct proto_error *error)
{
    int32_t first = text_vocab_adds_bos(v) ? v->bos : -1;
    return encode_with(v, first, text, len, parse_special, ids, n, error);
}
