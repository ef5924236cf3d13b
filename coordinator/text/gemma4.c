/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Gemma 4's tokeniser: the merges of BPE over characters as they are, with SentencePiece's spaces
 * (U+2581) and byte tokens for characters that are no token. A line is merged as a whole, and so is
 * a run of line feeds, unless the run is a token.
 */
#include <stdlib.h>
#include <string.h>

#include "coordinator/text/internal.h"

enum proto_status text__gemma4_load(struct text_vocab *v, const struct shard_gguf *gguf,
                                    const char *path, struct proto_error *error)
{
    enum proto_status status = text__bpe_load_merges(v, gguf, path, error);
    return status == PROTO_OK ? text__spm_index(v, error) : status;
}

static size_t newlines(const char *text, size_t len)
{
    size_t n = 0;
    while (n < len && text[n] == '\n')
        n++;
    return n;
}

static enum proto_status encode_escaped(const struct text_vocab *v, const char *text, size_t len,
                                        struct text__merger *merger, struct text__ids *out,
                                        struct proto_error *error)
{
    enum proto_status status = PROTO_OK;
    for (size_t at = 0, n; at < len && status == PROTO_OK; at += n) {
        n = newlines(text + at, len - at);
        int32_t id = n > 0 ? text__map_find(&v->map, &v->stored, text + at, n) : -1;
        if (id >= 0) {
            status = text__ids_push(out, id, error);
            continue;
        }
        if (n == 0) {
            const char *end = memchr(text + at, '\n', len - at);
            n = end ? (size_t)(end - text) - at : len - at;
        }
        status = text__spm_merge(v, text__bpe_pair, text + at, n, merger, out, error);
    }
    return status;
}

enum proto_status text__gemma4_encode(const struct text_vocab *v, const char *text, size_t len,
                                      struct text__merger *merger, struct text__ids *out,
                                      struct proto_error *error)
{
    char *escaped = NULL;
    size_t n = 0;
    enum proto_status status = text__spm_escape(text, len, false, &escaped, &n, error);
    if (status == PROTO_OK)
        status = encode_escaped(v, escaped, n, merger, out, error);
    free(escaped);
    return status;
}
