/* SPDX-License-Identifier: Apache-2.0 */
/*
 * SentencePiece's BPE: characters merge into the pair whose text is the token of the highest score.
 * Formulas: Kudo and Richardson, "SentencePiece" (2018); byte fallback as in Llama.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "coordinator/text/internal.h"

/* Numbers that fall as the score rises, so that the merge with the lowest goes first. */
static uint32_t rank_of_score(float score)
{
    uint32_t bits;
    score += 0.0f; /* makes one zero of both */
    memcpy(&bits, &score, sizeof bits);
    return bits & 0x80000000u ? bits : ~(bits | 0x80000000u);
}

static enum proto_status load_scores(struct text_vocab *v, const struct shard_gguf *gguf,
                                     const char *path, struct proto_error *error)
{
    const struct shard_gguf_value *scores = shard_gguf_find(gguf, "tokenizer.ggml.scores");
    if (!scores || scores->kind != SHARD_GGUF_ARRAY || scores->element_kind != SHARD_GGUF_F32 ||
        scores->count != v->n)
        return proto_fail(error, PROTO_FORMAT,
                          "%s: tokenizer.ggml.scores must be %u floats, one a token; found %s",
                          path, v->n, scores ? "another length or kind" : "none");
    v->ranks = malloc(v->n * sizeof *v->ranks);
    if (!v->ranks)
        return proto_fail_nomem(error, v->n * sizeof *v->ranks, "token scores");
    for (uint32_t i = 0; i < v->n; i++) {
        float score = shard_gguf_f32_element(scores, i);
        if (isnan(score))
            return proto_fail(error, PROTO_FORMAT,
                              "%s: tokenizer.ggml.scores: token %u has no number for a score", path,
                              i);
        v->ranks[i] = rank_of_score(score);
    }
    return PROTO_OK;
}

/* Whether a token's text goes on with a space after another character. */
static bool space_inside(struct shard_gguf_string s)
{
    bool other = false;
    for (size_t i = 0; i < s.len;) {
        bool space = s.len - i >= TEXT__SPACE_BYTES &&
                     memcmp(s.data + i, TEXT__SPACE, TEXT__SPACE_BYTES) == 0;
        if (space && other)
            return true;
        other = other || !space;
        i += space ? TEXT__SPACE_BYTES : 1;
    }
    return false;
}

enum proto_status text__spm_index(struct text_vocab *v, struct proto_error *error)
{
    enum proto_status status = text__map_init(&v->map, v->n, error);
    if (status != PROTO_OK)
        return status;
    v->cut_spaces = true;
    for (uint32_t i = 0; i < v->n; i++) {
        uint8_t type = v->types[i];
        struct shard_gguf_string s = text__blob_get(&v->stored, i);
        if (type == TEXT_TOKEN_BYTE && text__byte_of(s) >= 0)
            v->byte_ids[text__byte_of(s)] = (int32_t)i;
        /* The others never come from their spelling. */
        if (type == TEXT_TOKEN_NORMAL || type == TEXT_TOKEN_USER) {
            text__map_put(&v->map, &v->stored, (int32_t)i);
            v->cut_spaces = v->cut_spaces && !space_inside(s);
        }
    }
    return PROTO_OK;
}

enum proto_status text__spm_load(struct text_vocab *v, const struct shard_gguf *gguf,
                                 const char *path, struct proto_error *error)
{
    v->add_space = true;
    enum proto_status status =
        shard_gguf_bool(gguf, "tokenizer.ggml.add_space_prefix", &v->add_space, error);
    if (status != PROTO_OK && status != PROTO_NOTFOUND)
        return status;
    status = load_scores(v, gguf, path, error);
    return status == PROTO_OK ? text__spm_index(v, error) : status;
}

size_t text__spm_plain(struct shard_gguf_string stored, char *out)
{
    size_t n = 0;
    for (size_t i = 0; i < stored.len;) {
        bool space = stored.len - i >= TEXT__SPACE_BYTES &&
                     memcmp(stored.data + i, TEXT__SPACE, TEXT__SPACE_BYTES) == 0;
        out[n++] = space ? ' ' : stored.data[i];
        i += space ? TEXT__SPACE_BYTES : 1;
    }
    return n;
}

/* A pair's text is the text from the left symbol's first byte to the right one's last. */
static void find_pair(const struct text_vocab *v, const char *text, struct text__symbol *symbols,
                      uint32_t left)
{
    struct text__symbol *symbol = &symbols[left];
    uint32_t end = symbols[symbol->next].next;
    int32_t id = text__map_find(&v->map, &v->stored, text + left, end - left);
    if (id < 0)
        return;
    symbol->into = id;
    symbol->rank = v->ranks[id];
}

/* One symbol a character; a byte that begins none is a symbol too. */
static void fill_symbols(const struct text_vocab *v, const char *text, size_t len,
                         struct text__symbol *symbols)
{
    uint32_t prev = TEXT__NO_SYMBOL;
    for (uint32_t i = 0; i < len;) {
        int n = text__utf8(text + i, len - i);
        uint32_t next = i + (n > 0 ? (uint32_t)n : 1);
        symbols[i].id = text__map_find(&v->map, &v->stored, text + i, next - i);
        symbols[i].prev = prev;
        symbols[i].next = next;
        prev = i;
        i = next;
    }
}

static enum proto_status merge_piece(const struct text_vocab *v, text__pair_fn *pair,
                                     const char *text, size_t len, struct text__merger *merger,
                                     struct text__ids *out, struct proto_error *error)
{
    enum proto_status status = text__merger_reserve(merger, len, error);
    if (status != PROTO_OK)
        return status;
    fill_symbols(v, text, len, merger->symbols);
    status = text__merge(merger, v, pair, text, len, error);
    for (uint32_t i = 0; i < len && status == PROTO_OK; i = merger->symbols[i].next) {
        const struct text__symbol *symbol = &merger->symbols[i];
        if (symbol->id >= 0)
            status = text__ids_push(out, symbol->id, error);
        for (uint32_t b = i; symbol->id < 0 && b < symbol->next && status == PROTO_OK; b++)
            status = text__push_byte(v, (unsigned char)text[b], out, error);
    }
    return status;
}

/* Where no token has a space after another character, no merge crosses such a place: the pieces
 * between are merged one by one, each in the cache, with the same result. */
static size_t piece_len(const struct text_vocab *v, const char *text, size_t len)
{
    if (!v->cut_spaces)
        return len;
    size_t i = 0;
    while (len - i >= TEXT__SPACE_BYTES && memcmp(text + i, TEXT__SPACE, TEXT__SPACE_BYTES) == 0)
        i += TEXT__SPACE_BYTES;
    const char *space = memmem(text + i, len - i, TEXT__SPACE, TEXT__SPACE_BYTES);
    return space ? (size_t)(space - text) : len;
}

enum proto_status text__spm_escape(const char *text, size_t len, bool prefix, char **out,
                                   size_t *out_len, struct proto_error *error)
{
    size_t spaces = prefix;
    for (size_t i = 0; i < len; i++)
        spaces += text[i] == ' ';
    size_t cap = len + spaces * TEXT__SPACE_BYTES;
    char *escaped = malloc(cap);
    if (!escaped)
        return proto_fail_nomem(error, cap, "encoding a text");
    size_t n = 0;
    if (prefix) {
        memcpy(escaped, TEXT__SPACE, TEXT__SPACE_BYTES);
        n = TEXT__SPACE_BYTES;
    }
    for (size_t i = 0; i < len; i++) {
        if (text[i] != ' ') {
            escaped[n++] = text[i];
            continue;
        }
        memcpy(escaped + n, TEXT__SPACE, TEXT__SPACE_BYTES);
        n += TEXT__SPACE_BYTES;
    }
    *out = escaped;
    *out_len = n;
    return PROTO_OK;
}

enum proto_status text__spm_merge(const struct text_vocab *v, text__pair_fn *pair, const char *text,
                                  size_t len, struct text__merger *merger, struct text__ids *out,
                                  struct proto_error *error)
{
    enum proto_status status = PROTO_OK;
    for (size_t at = 0; at < len && status == PROTO_OK;) {
        size_t piece = piece_len(v, text + at, len - at);
        status = merge_piece(v, pair, text + at, piece, merger, out, error);
        at += piece;
    }
    return status;
}

enum proto_status text__spm_encode(const struct text_vocab *v, const char *text, size_t len,
                                   bool prefix, struct text__merger *merger, struct text__ids *out,
                                   struct proto_error *error)
{
    char *escaped = NULL;
    size_t n = 0;
    enum proto_status status = text__spm_escape(text, len, prefix, &escaped, &n, error);
    if (status == PROTO_OK)
        status = text__spm_merge(v, find_pair, escaped, n, merger, out, error);
    free(escaped);
    return status;
}
