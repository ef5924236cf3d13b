/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>

#include "coordinator/text/internal.h"

struct load {
    struct text_vocab *vocab;
    const struct shard_gguf *gguf;
    const char *path;
    struct proto_error *error;
};

static enum proto_status init_blob(struct text__blob *blob, uint32_t n, uint64_t bytes,
                                   struct proto_error *error)
{
    blob->at = malloc(((size_t)n + 1) * sizeof *blob->at);
    blob->bytes = malloc(bytes + 1);
    if (!blob->at || !blob->bytes)
        return proto_fail_nomem(error, bytes + ((size_t)n + 1) * sizeof *blob->at, "a vocabulary");
    blob->at[0] = 0;
    return PROTO_OK;
}

static void finish_blob(struct text__blob *blob)
{
    free(blob->bytes);
    free(blob->at);
}

static enum proto_status load_kind(struct load *l)
{
    static const char *const kinds[] = {
        [TEXT__SPM] = "llama", [TEXT__BPE] = "gpt2", [TEXT__GEMMA4] = "gemma4"};
    struct shard_gguf_string model;
    enum proto_status status = shard_gguf_str(l->gguf, "tokenizer.ggml.model", &model, l->error);
    if (status == PROTO_NOTFOUND)
        return proto_fail(l->error, PROTO_FORMAT,
                          "%s: tokenizer.ggml.model is missing: the file holds no vocabulary; give "
                          "a model file with its tokeniser",
                          l->path);
    if (status != PROTO_OK)
        return status;
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        if (strlen(kinds[i]) != model.len || memcmp(kinds[i], model.data, model.len) != 0)
            continue;
        l->vocab->kind = (enum text__kind)i;
        return PROTO_OK;
    }
    return proto_fail(l->error, PROTO_UNSUPPORTED,
                      "%s: tokeniser \"%.*s\" (tokenizer.ggml.model) is not supported; supported: "
                      "llama (SentencePiece), gpt2 (byte-level BPE), gemma4",
                      l->path, model.len < 60 ? (int)model.len : 60, model.data);
}

static enum proto_status load_tokens(struct load *l)
{
    struct text_vocab *v = l->vocab;
    const struct shard_gguf_value *tokens = shard_gguf_find(l->gguf, "tokenizer.ggml.tokens");
    if (!tokens || tokens->kind != SHARD_GGUF_ARRAY || tokens->element_kind != SHARD_GGUF_STRING)
        return proto_fail(l->error, PROTO_FORMAT,
                          "%s: tokenizer.ggml.tokens must be an array of strings; found %s",
                          l->path, tokens ? "another kind" : "none");
    if (tokens->count == 0 || tokens->count > PROTO_MAX_VOCAB)
        return proto_fail(l->error, PROTO_LIMIT,
                          "%s: tokenizer.ggml.tokens has %llu tokens; 1 to %u are allowed", l->path,
                          (unsigned long long)tokens->count, PROTO_MAX_VOCAB);
    uint64_t bytes = 0;
    for (uint64_t i = 0; i < tokens->count; i++)
        bytes += tokens->strings[i].len;
    if (bytes > UINT32_MAX)
        return proto_fail(l->error, PROTO_LIMIT,
                          "%s: tokenizer.ggml.tokens holds %llu bytes of text; at most %u are "
                          "allowed",
                          l->path, (unsigned long long)bytes, UINT32_MAX);
    v->n = (uint32_t)tokens->count;
    enum proto_status status = init_blob(&v->stored, v->n, bytes, l->error);
    for (uint32_t i = 0; i < v->n && status == PROTO_OK; i++) {
        struct shard_gguf_string s = tokens->strings[i];
        if (s.len > 0)
            memcpy(v->stored.bytes + v->stored.at[i], s.data, s.len);
        v->stored.at[i + 1] = v->stored.at[i] + (uint32_t)s.len;
    }
    return status;
}

static bool is_integer(enum shard_gguf_kind kind)
{
    return kind <= SHARD_GGUF_I32 || kind == SHARD_GGUF_U64 || kind == SHARD_GGUF_I64;
}

static enum proto_status load_types(struct load *l)
{
    struct text_vocab *v = l->vocab;
    const struct shard_gguf_value *types = shard_gguf_find(l->gguf, "tokenizer.ggml.token_type");
    v->types = malloc(v->n);
    if (!v->types)
        return proto_fail_nomem(l->error, v->n, "token types");
    memset(v->types, TEXT_TOKEN_NORMAL, v->n);
    if (!types)
        return PROTO_OK;
    if (types->kind != SHARD_GGUF_ARRAY || !is_integer(types->element_kind) || types->count != v->n)
        return proto_fail(l->error, PROTO_FORMAT,
                          "%s: tokenizer.ggml.token_type must be %u integers, one a token; found "
                          "%llu elements of kind %d",
                          l->path, v->n, (unsigned long long)types->count,
                          (int)types->element_kind);
    for (uint32_t i = 0; i < v->n; i++) {
        int64_t type = shard_gguf_int_element(types, i);
        if (type < TEXT_TOKEN_NORMAL || type > TEXT_TOKEN_BYTE)
            return proto_fail(l->error, PROTO_FORMAT,
                              "%s: tokenizer.ggml.token_type: token %u has type %lld; 1 to 6 are "
                              "known",
                              l->path, i, (long long)type);
        v->types[i] = (uint8_t)type;
    }
    return PROTO_OK;
}

int text__byte_of(struct shard_gguf_string s)
{
    static const char digits[] = "0123456789ABCDEF0123456789abcdef";
    if (s.len != 6 || memcmp(s.data, "<0x", 3) != 0 || s.data[5] != '>')
        return -1;
    const char *high = memchr(digits, s.data[3], 32), *low = memchr(digits, s.data[4], 32);
    return high && low ? (int)((high - digits) % 16 * 16 + (low - digits) % 16) : -1;
}

/* No plain text is longer than the stored one. */
static size_t write_plain(const struct text_vocab *v, uint32_t id, char *out)
{
    struct shard_gguf_string s = text__blob_get(&v->stored, id);
    switch (v->types[id]) {
    case TEXT_TOKEN_NORMAL:
        return v->kind == TEXT__BPE ? text__bpe_plain(s, out) : text__spm_plain(s, out);
    case TEXT_TOKEN_USER:
        memcpy(out, s.data, s.len);
        return s.len;
    case TEXT_TOKEN_BYTE:
        out[0] = (char)text__byte_of(s);
        return text__byte_of(s) >= 0;
    default:
        return 0;
    }
}

static enum proto_status make_plain(struct load *l)
{
    struct text_vocab *v = l->vocab;
    enum proto_status status = init_blob(&v->plain, v->n, v->stored.at[v->n], l->error);
    for (uint32_t i = 0; i < v->n && status == PROTO_OK; i++) {
        size_t len = write_plain(v, i, v->plain.bytes + v->plain.at[i]);
        size_t stored_len = text__blob_get(&v->stored, i).len;
        v->plain.at[i + 1] = v->plain.at[i] + (uint32_t)len;
        if (stored_len > v->max_piece)
            v->max_piece = stored_len;
    }
    return status;
}

/* *id stays as it is where the key is absent. */
static enum proto_status load_id(struct load *l, const char *key, int32_t *id)
{
    uint32_t value;
    enum proto_status status = shard_gguf_u32(l->gguf, key, &value, l->error);
    if (status == PROTO_NOTFOUND)
        return PROTO_OK;
    if (status != PROTO_OK)
        return status;
    if (value >= l->vocab->n)
        return proto_fail(l->error, PROTO_FORMAT, "%s: %s is %u, but there are only %u tokens",
                          l->path, key, value, l->vocab->n);
    *id = (int32_t)value;
    return PROTO_OK;
}

static void add_eog(struct text_vocab *v, int32_t id)
{
    if (id >= 0 && !text_vocab_is_eog(v, id) && v->n_eog < TEXT__MAX_EOG)
        v->eog[v->n_eog++] = id;
}

static void remove_eog(struct text_vocab *v, int32_t id)
{
    for (unsigned i = 0; i < v->n_eog; i++) {
        if (v->eog[i] == id)
            v->eog[i--] = v->eog[--v->n_eog];
    }
}

/* Tokens that end a turn or a text by their spelling, whatever the ids of the file say. */
static const char *const end_spellings[] = {
    "<|eot_id|>",    "<|eom_id|>",      "<|im_end|>",
    "<|end|>",       "<|return|>",      "<|call|>",
    "<end_of_turn>", "<turn|>",         "<|tool_response>",
    "<|endoftext|>", "<|end_of_text|>", "<EOT>",
    "[EOT]",         "[EOS]",           "<｜end▁of▁sentence｜>",
    "<|eot|>",       "<|eom|>",
};
#define N_END_SPELLINGS (sizeof end_spellings / sizeof *end_spellings)
enum { SPELLED_END = 3, SPELLED_RETURN = 4, SPELLED_CALL = 5 }; /* places in the list */

static void find_ends(struct text_vocab *v)
{
    int32_t found[N_END_SPELLINGS];
    for (size_t s = 0; s < N_END_SPELLINGS; s++)
        found[s] = -1;
    for (uint32_t i = 0; i < v->n; i++) {
        struct shard_gguf_string t = text__blob_get(&v->stored, i);
        if (t.len < 5 || (t.data[0] != '<' && t.data[0] != '['))
            continue;
        for (size_t s = 0; s < N_END_SPELLINGS; s++) {
            if (strlen(end_spellings[s]) == t.len && memcmp(end_spellings[s], t.data, t.len) == 0)
                found[s] = (int32_t)i;
        }
    }
    for (size_t s = 0; s < N_END_SPELLINGS; s++)
        add_eog(v, found[s]);
    /* In the harmony format <|end|> ends a message, and the turn goes on. */
    if (found[SPELLED_RETURN] >= 0 && found[SPELLED_CALL] >= 0)
        remove_eog(v, found[SPELLED_END]);
}

/* SentencePiece's usual numbers, for files without the keys. */
static void default_ids(struct text_vocab *v)
{
    if (v->n > 0 && v->types[0] == TEXT_TOKEN_UNKNOWN)
        v->unknown = 0;
    if (v->kind != TEXT__SPM)
        return;
    if (v->n > 1 && v->types[1] == TEXT_TOKEN_CONTROL)
        v->bos = 1;
    if (v->n > 2 && v->types[2] == TEXT_TOKEN_CONTROL)
        v->eos = 2;
}

static enum proto_status load_ids(struct load *l)
{
    struct text_vocab *v = l->vocab;
    int32_t eot = -1, eom = -1;
    default_ids(v);
    struct {
        const char *key;
        int32_t *id;
    } keys[] = {
        {"tokenizer.ggml.bos_token_id", &v->bos},
        {"tokenizer.ggml.eos_token_id", &v->eos},
        {"tokenizer.ggml.eot_token_id", &eot},
        {"tokenizer.ggml.eom_token_id", &eom},
        {"tokenizer.ggml.unknown_token_id", &v->unknown},
    };
    enum proto_status status = PROTO_OK;
    for (size_t i = 0; i < sizeof keys / sizeof *keys && status == PROTO_OK; i++)
        status = load_id(l, keys[i].key, keys[i].id);
    if (status != PROTO_OK)
        return status;
    add_eog(v, v->eos);
    add_eog(v, eot);
    add_eog(v, eom);
    find_ends(v);
    status = shard_gguf_bool(l->gguf, "tokenizer.ggml.add_bos_token", &v->add_bos, l->error);
    v->add_bos = v->add_bos || v->kind == TEXT__GEMMA4; /* whatever the file says */
    return status == PROTO_NOTFOUND ? PROTO_OK : status;
}

static enum proto_status load_tables(struct load *l)
{
    switch (l->vocab->kind) {
    case TEXT__SPM:
        return text__spm_load(l->vocab, l->gguf, l->path, l->error);
    case TEXT__BPE:
        return text__bpe_load(l->vocab, l->gguf, l->path, l->error);
    default:
        return text__gemma4_load(l->vocab, l->gguf, l->path, l->error);
    }
}

static enum proto_status load_all(struct load *l)
{
    struct text_vocab *v = l->vocab;
    enum proto_status status = load_kind(l);
    if (status == PROTO_OK)
        status = load_tokens(l);
    if (status == PROTO_OK)
        status = load_types(l);
    if (status == PROTO_OK)
        status = make_plain(l);
    if (status == PROTO_OK)
        status = load_tables(l);
    if (status == PROTO_OK)
        status = load_ids(l);
    if (status == PROTO_OK)
        status = text__load_suppressed(v, l->gguf, l->path, l->error);
    return status == PROTO_OK ? text__specials_init(v, l->error) : status;
}

enum proto_status text_vocab_create(struct text_vocab **out, const struct shard_gguf *gguf,
                                    struct proto_error *error)
{
    struct text_vocab *v = calloc(1, sizeof *v);
    if (!v)
        return proto_fail_nomem(error, sizeof *v, "a vocabulary");
    v->bos = v->eos = v->unknown = -1;
    v->add_bos = true; /* SPM's default; BPE's depends on the pre-tokeniser */
    for (unsigned i = 0; i < 256; i++)
        v->byte_ids[i] = -1;
    struct load load = {v, gguf, shard_gguf_path(gguf, 0), error};
    enum proto_status status = load_all(&load);
    if (status != PROTO_OK) {
        text_vocab_destroy(v);
        return status;
    }
    *out = v;
    return PROTO_OK;
}

void text_vocab_destroy(struct text_vocab *v)
{
    if (!v)
        return;
    finish_blob(&v->stored);
    finish_blob(&v->plain);
    text__map_finish(&v->map);
    text__bpe_finish(v);
    text__specials_finish(&v->specials);
    free(v->types);
    free(v->ranks);
    free(v->suppressed);
    free(v);
}

uint32_t text_vocab_size(const struct text_vocab *v)
{
    return v->n;
}

int32_t text_vocab_bos(const struct text_vocab *v)
{
    return v->bos;
}

int32_t text_vocab_eos(const struct text_vocab *v)
{
    return v->eos;
}

bool text_vocab_adds_bos(const struct text_vocab *v)
{
    return v->add_bos && v->bos >= 0;
}

bool text_vocab_is_eog(const struct text_vocab *v, int32_t id)
{
    for (unsigned i = 0; i < v->n_eog; i++) {
        if (v->eog[i] == id)
            return true;
    }
    return false;
}

struct shard_gguf_string text_vocab_piece(const struct text_vocab *v, int32_t id)
{
    if (id < 0 || (uint32_t)id >= v->n)
        return (struct shard_gguf_string){"", 0};
    return text__blob_get(&v->stored, (uint32_t)id);
}

size_t text_vocab_max_piece(const struct text_vocab *v)
{
    return v->max_piece;
}
