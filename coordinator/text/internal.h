/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files of this folder share: the vocabulary's tables, and the steps of encoding. A text
 * is cut at special tokens (partition.c); a fragment between them is cut into pieces (pretoken.c
 * for byte-level BPE, at word boundaries for SPM) and the pieces are merged (merge.c).
 *
 * Offsets into a text are 32 bits: text_encode refuses texts longer than TEXT__MAX_BYTES.
 */
#ifndef COORDINATOR_TEXT_INTERNAL_H
#define COORDINATOR_TEXT_INTERNAL_H

#include "coordinator/text/vocab.h"

#define TEXT__MAX_BYTES (1u << 30)
#define TEXT__MAX_EOG   32u

/* How SPM writes a space: U+2581. */
#define TEXT__SPACE       "\xe2\x96\x81"
#define TEXT__SPACE_BYTES 3u

/* Strings one after the other; string i is bytes[at[i]] to bytes[at[i + 1]]. */
struct text__blob {
    char *bytes;
    uint32_t *at;
};

static inline struct shard_gguf_string text__blob_get(const struct text__blob *blob, uint32_t i)
{
    return (struct shard_gguf_string){blob->bytes + blob->at[i], blob->at[i + 1] - blob->at[i]};
}

/* Hash table from a blob's strings to their numbers; open addressing, at most half full. */
struct text__map {
    struct text__map_entry {
        uint32_t hash;
        int32_t id; /* -1: empty */
    } * entries;
    uint32_t mask;
};

enum proto_status text__map_init(struct text__map *map, uint32_t capacity,
                                 struct proto_error *error);
void text__map_finish(struct text__map *map);
/* Adds string id of the blob; a string that is there already keeps its lower number. */
void text__map_put(struct text__map *map, const struct text__blob *blob, int32_t id);
/* The number of a string, or -1. */
int32_t text__map_find(const struct text__map *map, const struct text__blob *blob, const char *text,
                       size_t len);

/* Hash table from a pair of adjacent tokens to what BPE merges them into. */
struct text__pairs {
    struct text__pair {
        int32_t left, right; /* left -1: empty */
        uint32_t rank;
        int32_t into;
    } * entries;
    uint32_t mask;
};

/* A min-heap of numbers that grows as needed. */
struct text__heap {
    uint64_t *items;
    size_t n, cap;
};

enum proto_status text__heap_push(struct text__heap *heap, uint64_t item,
                                  struct proto_error *error);
uint64_t text__heap_pop(struct text__heap *heap); /* n > 0 */

struct text__ids {
    int32_t *ids;
    size_t n, cap;
};

enum proto_status text__ids_grow(struct text__ids *out, struct proto_error *error);

static inline enum proto_status text__ids_push(struct text__ids *out, int32_t id,
                                               struct proto_error *error)
{
    if (out->n == out->cap && text__ids_grow(out, error) != PROTO_OK)
        return PROTO_NOMEM;
    out->ids[out->n++] = id;
    return PROTO_OK;
}

/*
 * Merging. A symbol is a run of bytes of the text and sits in the array at the offset where it
 * begins; it ends where the next one begins. rank and into say what it and its right neighbour
 * become (the lowest rank merges first, the leftmost on a tie); TEXT__NO_RANK: nothing.
 */
#define TEXT__NO_RANK   UINT32_MAX
#define TEXT__NO_SYMBOL UINT32_MAX

struct text__symbol {
    int32_t id; /* -1: no token */
    int32_t into;
    uint32_t rank;
    uint32_t prev, next; /* offsets; next of the last is the text's length */
};

/* Looks up the merge of the symbol at `left` and its right neighbour: sets rank and into. */
typedef void text__pair_fn(const struct text_vocab *vocab, const char *text,
                           struct text__symbol *symbols, uint32_t left);

/* Scratch memory of one call, reused from piece to piece. */
struct text__merger {
    struct text__symbol *symbols;
    size_t cap;
    struct text__heap heap;
};

/* Makes room for a text of len bytes. */
enum proto_status text__merger_reserve(struct text__merger *merger, size_t len,
                                       struct proto_error *error);
void text__merger_finish(struct text__merger *merger);
/* Merges until nothing is left to merge. The caller has filled id, prev and next of the symbols of
 * text (len bytes, at least one symbol, the first at 0). */
enum proto_status text__merge(struct text__merger *merger, const struct text_vocab *vocab,
                              text__pair_fn *pair, const char *text, size_t len,
                              struct proto_error *error);

/* Pre-tokenisers. */
struct text__pretoken_rule {
    const char *name;          /* tokenizer.ggml.pre */
    const char *const *stages; /* patterns; NULL after the last */
    bool ignore_merges;        /* a piece that is a token needs no merging */
    bool add_bos;              /* where the file does not say */
};

struct text__pretoken;
typedef enum proto_status text__piece_fn(void *context, const char *piece, size_t len,
                                         struct proto_error *error);

const struct text__pretoken_rule *text__pretoken_rule_find(struct shard_gguf_string name);
/* "a, b, c": what can be found. */
void text__pretoken_rule_names(char *out, size_t cap);
enum proto_status text__pretoken_create(struct text__pretoken **out,
                                        const struct text__pretoken_rule *rule,
                                        struct proto_error *error);
void text__pretoken_destroy(struct text__pretoken *pretoken);
/* Calls emit for each piece in order; together they are the text. Bytes that are not UTF-8 are
 * pieces of their own. */
enum proto_status text__pretoken_split(const struct text__pretoken *pretoken, const char *text,
                                       size_t len, text__piece_fn *emit, void *context,
                                       struct proto_error *error);

/* Special tokens. Their rank is the order in which they are looked for: the longest first, then by
 * id. */
struct text__specials {
    uint32_t n;
    int32_t *by_rank;     /* ids */
    uint32_t *by_text;    /* ranks, in the order of the tokens' text */
    bool first_user[256]; /* which bytes begin a user-defined token */
    bool first_any[256];
};

struct text__span {
    uint32_t at, len;
    int32_t id;
};

void text__specials_finish(struct text__specials *specials);
enum proto_status text__specials_init(struct text_vocab *vocab, struct proto_error *error);
/* Where control and unknown tokens are looked for: nowhere, or outside the untrusted bytes (in
 * order, disjoint, none of them empty). */
struct text__trust {
    bool any;
    const struct text_span *untrusted;
    size_t n_untrusted;
};

/* The special tokens found in a text, in order and without overlap; malloc'ed, the caller's. */
enum proto_status text__partition(const struct text_vocab *vocab, const char *text, size_t len,
                                  const struct text__trust *trust, struct text__span **spans,
                                  size_t *n, struct proto_error *error);

enum text__kind {
    TEXT__SPM,
    TEXT__BPE,   /* over bytes */
    TEXT__GEMMA4 /* BPE over characters, with SPM's spaces and byte tokens */
};

struct text_vocab {
    enum text__kind kind;
    uint32_t n;
    struct text__blob stored; /* as in the file */
    struct text__blob plain;  /* as in a text; control, unknown and unused tokens: empty */
    uint8_t *types;           /* enum text_token_type */
    size_t max_piece;
    struct text__map map;  /* stored text of tokens that merges make; BPE: plain text */
    int32_t byte_ids[256]; /* -1: none */
    int32_t bos, eos, unknown;
    int32_t eog[TEXT__MAX_EOG];
    unsigned n_eog;
    bool add_bos;
    int32_t *suppressed;
    size_t n_suppressed;
    struct text__specials specials;

    uint32_t *ranks; /* SPM: order of scores, the highest score is the lowest rank */
    bool add_space;  /* SPM: a space goes before a text */
    bool cut_spaces; /* SPM, Gemma 4: no token has a space after another character */

    struct text__pairs pairs; /* BPE, Gemma 4 */
    struct text__pretoken *pretoken;
    bool ignore_merges;
};

/* SPM. load fills the tables of its kind from the file, named `path` in errors. */
enum proto_status text__spm_load(struct text_vocab *vocab, const struct shard_gguf *gguf,
                                 const char *path, struct proto_error *error);
/* prefix: a space goes before the text. */
enum proto_status text__spm_encode(const struct text_vocab *vocab, const char *text, size_t len,
                                   bool prefix, struct text__merger *merger, struct text__ids *out,
                                   struct proto_error *error);
/* Writes the plain text of a normal token, at most as long as the stored one; returns its length.
 */
size_t text__spm_plain(struct shard_gguf_string stored, char *out);
/* The text with its spaces as U+2581 and one before it if asked for; malloc'ed, the caller's. */
enum proto_status text__spm_escape(const char *text, size_t len, bool prefix, char **out,
                                   size_t *out_len, struct proto_error *error);
/* Encodes an escaped text by merging its characters as `pair` says. */
enum proto_status text__spm_merge(const struct text_vocab *vocab, text__pair_fn *pair,
                                  const char *text, size_t len, struct text__merger *merger,
                                  struct text__ids *out, struct proto_error *error);
/* Fills the map of tokens, the byte tokens and cut_spaces. */
enum proto_status text__spm_index(struct text_vocab *vocab, struct proto_error *error);

/* Byte-level BPE. */
enum proto_status text__bpe_load(struct text_vocab *vocab, const struct shard_gguf *gguf,
                                 const char *path, struct proto_error *error);
void text__bpe_finish(struct text_vocab *vocab);
enum proto_status text__bpe_encode(const struct text_vocab *vocab, const char *text, size_t len,
                                   struct text__merger *merger, struct text__ids *out,
                                   struct proto_error *error);
size_t text__bpe_plain(struct shard_gguf_string stored, char *out);
enum proto_status text__bpe_load_merges(struct text_vocab *vocab, const struct shard_gguf *gguf,
                                        const char *path, struct proto_error *error);
text__pair_fn text__bpe_pair;

/* Gemma 4. */
enum proto_status text__gemma4_load(struct text_vocab *vocab, const struct shard_gguf *gguf,
                                    const char *path, struct proto_error *error);
enum proto_status text__gemma4_encode(const struct text_vocab *vocab, const char *text, size_t len,
                                      struct text__merger *merger, struct text__ids *out,
                                      struct proto_error *error);

/* Reads the tokens that are never to be generated. */
enum proto_status text__load_suppressed(struct text_vocab *vocab, const struct shard_gguf *gguf,
                                        const char *path, struct proto_error *error);

/* Decoding: a token's text (empty for an id that is none), and whether the space that was put
 * before a text is dropped again. */
struct shard_gguf_string text__token_text(const struct text_vocab *vocab, int32_t id, bool special);
bool text__drops_space(const struct text_vocab *vocab);

/* The token of a byte that nothing else covers; PROTO_INVALID where the vocabulary has none. */
enum proto_status text__push_byte(const struct text_vocab *vocab, unsigned char byte,
                                  struct text__ids *out, struct proto_error *error);

/* The byte that a byte token's text ("<0x0A>") stands for, or -1. */
int text__byte_of(struct shard_gguf_string stored);

/* What the bytes at s (n > 0 of them) begin: the length of a whole UTF-8 character; 0: a character
 * that is cut off at the end; negative: that many bytes which can never become one. */
int text__utf8(const char *s, size_t n);

#endif
