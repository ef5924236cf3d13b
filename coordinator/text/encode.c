/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>

#include "coordinator/text/internal.h"
#include "coordinator/text/template.h"

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
    switch (v->kind) {
    case TEXT__SPM: /* a fragment begins the text or follows a special token */
        return text__spm_encode(v, text, len, v->add_space, merger, out, error);
    case TEXT__BPE:
        return text__bpe_encode(v, text, len, merger, out, error);
    default:
        return text__gemma4_encode(v, text, len, merger, out, error);
    }
}

static enum proto_status encode_spans(const struct text_vocab *v, const char *text, size_t len,
                                      const struct text__span *spans, size_t n,
                                      struct text__ids *out, struct proto_error *error)
{
    struct text__merger merger = {0};
    enum proto_status status = PROTO_OK;
    size_t at = 0;
    for (size_t i = 0; i < n && status == PROTO_OK; i++) {
        status = encode_fragment(v, text + at, spans[i].at - at, &merger, out, error);
        if (status == PROTO_OK)
            status = text__ids_push(out, spans[i].id, error);
        at = (size_t)spans[i].at + spans[i].len;
    }
    if (status == PROTO_OK)
        status = encode_fragment(v, text + at, len - at, &merger, out, error);
    text__merger_finish(&merger);
    return status;
}

/* first: a token that goes in front unless the text begins with it; -1: none. */
static enum proto_status encode(const struct text_vocab *v, int32_t first, const char *text,
                                size_t len, const struct text__trust *trust, struct text__ids *out,
                                struct proto_error *error)
{
    struct text__span *spans = NULL;
    size_t n = 0;
    enum proto_status status = text__partition(v, text, len, trust, &spans, &n, error);
    bool spelled = n > 0 && spans[0].at == 0 && spans[0].id == first;
    if (status == PROTO_OK && first >= 0 && !spelled)
        status = text__ids_push(out, first, error);
    if (status == PROTO_OK)
        status = encode_spans(v, text, len, spans, n, out, error);
    free(spans);
    return status;
}

static enum proto_status encode_with(const struct text_vocab *v, int32_t first, const char *text,
                                     size_t len, const struct text__trust *trust, int32_t **ids,
                                     size_t *n, struct proto_error *error)
{
    if (len > TEXT__MAX_BYTES)
        return proto_fail(error, PROTO_LIMIT, "a text of %zu bytes; at most %u can be encoded", len,
                          TEXT__MAX_BYTES);
    struct text__ids out = {0};
    enum proto_status status = text__ids_grow(&out, error);
    if (status == PROTO_OK)
        status = encode(v, first, text, len, trust, &out, error);
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
    struct text__trust trust = {.any = parse_special};
    return encode_with(v, -1, text, len, &trust, ids, n, error);
}

static int32_t first_of_prompt(const struct text_vocab *v)
{
    return text_vocab_adds_bos(v) ? v->bos : -1;
}

enum proto_status text_encode_prompt(const struct text_vocab *v, const char *text, size_t len,
                                     bool parse_special, int32_t **ids, size_t *n,
                                     struct proto_error *error)
{
    struct text__trust trust = {.any = parse_special};
    return encode_with(v, first_of_prompt(v), text, len, &trust, ids, n, error);
}

/* Copies the spans that are not empty. */
static enum proto_status check_spans(const struct text_span *spans, size_t n, size_t len,
                                     struct text_span *out, size_t *n_out,
                                     struct proto_error *error)
{
    size_t at = 0;
    *n_out = 0;
    for (size_t i = 0; i < n; i++) {
        if (spans[i].first < at || spans[i].end < spans[i].first || spans[i].end > len)
            return proto_fail(error, PROTO_INVALID,
                              "untrusted span %zu is bytes %zu to %zu; spans in order and without "
                              "overlap, within the text's %zu bytes, are expected",
                              i + 1, spans[i].first, spans[i].end, len);
        at = spans[i].end;
        if (spans[i].end > spans[i].first)
            out[(*n_out)++] = spans[i];
    }
    return PROTO_OK;
}

enum proto_status text_encode_trusted(const struct text_vocab *v, const char *text, size_t len,
                                      const struct text_span *untrusted, size_t n_untrusted,
                                      int32_t **ids, size_t *n, struct proto_error *error)
{
    struct text_span *spans = calloc(n_untrusted + 1, sizeof *spans);
    if (!spans)
        return proto_fail_nomem(error, (n_untrusted + 1) * sizeof *spans, "encoding a text");
    struct text__trust trust = {.any = true, .untrusted = spans};
    enum proto_status status =
        check_spans(untrusted, n_untrusted, len, spans, &trust.n_untrusted, error);
    if (status == PROTO_OK)
        status = encode_with(v, first_of_prompt(v), text, len, &trust, ids, n, error);
    free(spans);
    return status;
}
