/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Byte-level BPE. Files store a token's bytes as printable characters: 0x21-7E, A1-AC and AE-FF
 * as themselves, the other 68 bytes in ascending order as U+0100 and up (GPT-2's table). Here
 * tokens are bytes, and the table is used at loading only.
 */
#include <stdlib.h>
#include <string.h>

#include "coordinator/text/internal.h"
#include "proto/log.h"

/* The byte of a character, or -1 for one that is not of the table. */
static int byte_of_char(unsigned c)
{
    if (c < 0x100)
        return (c >= 0x21 && c <= 0x7e) || (c >= 0xa1 && c != 0xad) ? (int)c : -1;
    unsigned nth = c - 0x100;
    if (nth < 0x21)
        return (int)nth;
    if (nth == 0x21)
        return 0x7f;
    if (nth < 0x43)
        return (int)(0x80 + nth - 0x22);
    return nth == 0x43 ? 0xad : -1;
}

size_t text__bpe_plain(struct shard_gguf_string stored, char *out)
{
    size_t n = 0;
    for (size_t i = 0; i < stored.len;) {
        const unsigned char *s = (const unsigned char *)stored.data + i;
        int len = text__utf8(stored.data + i, stored.len - i);
        int byte = len == 1   ? byte_of_char(s[0])
                   : len == 2 ? byte_of_char((s[0] & 0x1fu) << 6 | (s[1] & 0x3fu))
                              : -1;
        size_t step = len > 0 ? (size_t)len : 1;
        if (byte >= 0) {
            out[n++] = (char)byte;
        } else { /* not of the table: stands for itself */
            memcpy(out + n, s, step);
            n += step;
        }
        i += step;
    }
    return n;
}

static uint32_t hash_pair(int32_t left, int32_t right)
{
    uint64_t h = ((uint64_t)(uint32_t)left << 32 | (uint32_t)right) * 0x9e3779b97f4a7c15u;
    return (uint32_t)((h ^ h >> 32) * 0xff51afd7ed558ccdu >> 32);
}

static struct text__pair *probe_pair(const struct text__pairs *pairs, int32_t left, int32_t right)
{
    for (uint32_t i = hash_pair(left, right) & pairs->mask;; i = (i + 1) & pairs->mask) {
        struct text__pair *pair = &pairs->entries[i];
        if (pair->left < 0 || (pair->left == left && pair->right == right))
            return pair;
    }
}

struct merges {
    struct text_vocab *vocab;
    const struct shard_gguf_value *lines;
    struct text__map all; /* every token by its stored text */
    const char *path;
};

/* Line i: two tokens with a space between; the first may itself begin with one. */
static enum proto_status add_merge(struct merges *m, uint32_t i, struct proto_error *error)
{
    struct text_vocab *v = m->vocab;
    struct shard_gguf_string line = m->lines->strings[i];
    const char *space = line.len > 1 ? memchr(line.data + 1, ' ', line.len - 1) : NULL;
    if (!space)
        return proto_fail(error, PROTO_FORMAT,
                          "%s: tokenizer.ggml.merges: line %u is not two tokens with a space "
                          "between",
                          m->path, i);
    size_t left_len = (size_t)(space - line.data), right_len = line.len - left_len - 1;
    char small[256];
    char *joined = line.len <= sizeof small ? small : malloc(line.len);
    if (!joined)
        return proto_fail_nomem(error, line.len, "merges");
    memcpy(joined, line.data, left_len);
    memcpy(joined + left_len, space + 1, right_len);
    int32_t left = text__map_find(&m->all, &v->stored, joined, left_len);
    int32_t right = text__map_find(&m->all, &v->stored, joined + left_len, right_len);
    int32_t into = text__map_find(&m->all, &v->stored, joined, left_len + right_len);
    if (joined != small)
        free(joined);
    if (left < 0 || right < 0 || into < 0)
        return proto_fail(error, PROTO_FORMAT,
                          "%s: tokenizer.ggml.merges: line %u %s is not among the tokens", m->path,
                          i,
                          left < 0    ? "begins with what"
                          : right < 0 ? "ends with what"
                                      : "makes what");
    struct text__pair *pair = probe_pair(&v->pairs, left, right);
    if (pair->left < 0)
        *pair = (struct text__pair){left, right, i, into};
    return PROTO_OK;
}

static enum proto_status init_pairs(struct text__pairs *pairs, uint32_t n,
                                    struct proto_error *error)
{
    size_t size = 16;
    while (size < 2 * (size_t)n)
        size *= 2;
    pairs->entries = malloc(size * sizeof *pairs->entries);
    if (!pairs->entries)
        return proto_fail_nomem(error, size * sizeof *pairs->entries, "merges");
    for (size_t i = 0; i < size; i++)
        pairs->entries[i].left = -1;
    pairs->mask = (uint32_t)(size - 1);
    return PROTO_OK;
}

/* A vocabulary has a few merges a token at most (every way to cut it in two, in some files). */
#define MAX_MERGES (PROTO_MAX_VOCAB * 4u)

enum proto_status text__bpe_load_merges(struct text_vocab *v, const struct shard_gguf *gguf,
                                        const char *path, struct proto_error *error)
{
    struct merges m = {.vocab = v, .path = path};
    m.lines = shard_gguf_find(gguf, "tokenizer.ggml.merges");
    if (!m.lines || m.lines->kind != SHARD_GGUF_ARRAY ||
        m.lines->element_kind != SHARD_GGUF_STRING || m.lines->count > MAX_MERGES)
        return proto_fail(error, PROTO_FORMAT,
                          "%s: tokenizer.ggml.merges must be at most %u strings; found %s", path,
                          MAX_MERGES, m.lines ? "another kind or more" : "none");
    uint32_t n = (uint32_t)m.lines->count;
    enum proto_status status = init_pairs(&v->pairs, n, error);
    if (status == PROTO_OK)
        status = text__map_init(&m.all, v->n, error);
    for (uint32_t i = 0; i < v->n && status == PROTO_OK; i++)
        text__map_put(&m.all, &v->stored, (int32_t)i);
    for (uint32_t i = 0; i < n && status == PROTO_OK; i++)
        status = add_merge(&m, i, error);
    text__map_finish(&m.all);
    return status;
}

static enum proto_status load_pretoken(struct text_vocab *v, const struct shard_gguf *gguf,
                                       const char *path, struct proto_error *error)
{
    struct shard_gguf_string name = {"default", 7};
    enum proto_status status = shard_gguf_str(gguf, "tokenizer.ggml.pre", &name, error);
    if (status == PROTO_NOTFOUND)
        proto_log(PROTO_LOG_WARN, "TEXT-PRETOKENISER",
                  "file=\"%s\" reason=\"tokenizer.ggml.pre is missing, as in old files; text is "
                  "split as 'default', which may not be how the model was trained\"",
                  path);
    else if (status != PROTO_OK)
        return status;
    const struct text__pretoken_rule *rule = text__pretoken_rule_find(name);
    if (!rule) {
        char known[512];
        text__pretoken_rule_names(known, sizeof known);
        int shown = name.len < 60 ? (int)name.len : 60;
        return proto_fail(error, PROTO_UNSUPPORTED,
                          "%s: pre-tokeniser \"%.*s\" (tokenizer.ggml.pre) is not supported; "
                          "supported: %s",
                          path, shown, name.data, known);
    }
    v->ignore_merges = rule->ignore_merges;
    v->add_bos = rule->add_bos;
    return text__pretoken_create(&v->pretoken, rule, error);
}

enum proto_status text__bpe_load(struct text_vocab *v, const struct shard_gguf *gguf,
                                 const char *path, struct proto_error *error)
{
    enum proto_status status = load_pretoken(v, gguf, path, error);
    if (status == PROTO_OK)
        status = text__bpe_load_merges(v, gguf, path, error);
    if (status == PROTO_OK)
        status = text__map_init(&v->map, v->n, error);
    for (uint32_t i = 0; i < v->n && status == PROTO_OK; i++) {
        if (v->types[i] != TEXT_TOKEN_NORMAL)
            continue;
        struct shard_gguf_string s = text__blob_get(&v->plain, i);
        text__map_put(&v->map, &v->plain, (int32_t)i);
        if (s.len == 1 && v->byte_ids[(unsigned char)s.data[0]] < 0)
            v->byte_ids[(unsigned char)s.data[0]] = (int32_t)i;
    }
    return status;
}

void text__bpe_finish(struct text_vocab *v)
{
    free(v->pairs.entries);
    text__pretoken_destroy(v->pretoken);
}

void text__bpe_pair(const struct text_vocab *v, const char *text, struct text__symbol *symbols,
                    uint32_t left)
{
    (void)text;
    struct text__symbol *symbol = &symbols[left];
    int32_t right_id = symbols[symbol->next].id;
    if (symbol->id < 0 || right_id < 0)
        return;
    const struct text__pair *pair = probe_pair(&v->pairs, symbol->id, right_id);
    if (pair->left < 0)
        return;
    symbol->into = pair->into;
    symbol->rank = pair->rank;
}

struct encode {
    const struct text_vocab *vocab;
    struct text__merger *merger;
    struct text__ids *out;
};

static enum proto_status merge_piece(const struct encode *e, const char *piece, size_t len,
                                     struct proto_error *error)
{
    enum proto_status status = text__merger_reserve(e->merger, len, error);
    if (status != PROTO_OK)
        return status;
    struct text__symbol *symbols = e->merger->symbols;
    for (uint32_t i = 0; i < len; i++)
        symbols[i] = (struct text__symbol){.id = e->vocab->byte_ids[(unsigned char)piece[i]],
                                           .prev = i > 0 ? i - 1 : TEXT__NO_SYMBOL,
                                           .next = i + 1};
    status = text__merge(e->merger, e->vocab, text__bpe_pair, piece, len, error);
    for (uint32_t i = 0; i < len && status == PROTO_OK; i = symbols[i].next)
        status = symbols[i].id >= 0
                     ? text__ids_push(e->out, symbols[i].id, error)
                     : text__push_byte(e->vocab, (unsigned char)piece[i], e->out, error);
    return status;
}

static enum proto_status encode_piece(void *context, const char *piece, size_t len,
                                      struct proto_error *error)
{
    const struct encode *e = context;
    const struct text_vocab *v = e->vocab;
    if (v->ignore_merges) {
        int32_t id = text__map_find(&v->map, &v->plain, piece, len);
        if (id >= 0)
            return text__ids_push(e->out, id, error);
    }
    return merge_piece(e, piece, len, error);
}

enum proto_status text__bpe_encode(const struct text_vocab *vocab, const char *text, size_t len,
                                   struct text__merger *merger, struct text__ids *out,
                                   struct proto_error *error)
{
    struct encode encode = {vocab, merger, out};
    return text__pretoken_split(vocab->pretoken, text, len, encode_piece, &encode, error);
}
