/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A model's vocabulary: text to token ids and back. SentencePiece (tokenizer.ggml.model "llama")
 * byte-level BPE ("gpt2", with the pre-tokenisers of pretoken_rules.c) and Gemma 4's BPE over
 * characters ("gemma4"). Constant after creation; any thread (scratch memory is taken per call).
 */
#ifndef COORDINATOR_TEXT_VOCAB_H
#define COORDINATOR_TEXT_VOCAB_H

#include <stdbool.h>

#include "shard/gguf.h"

struct text_vocab;
struct text_span; /* template.h */

enum text_token_type {
    TEXT_TOKEN_NORMAL = 1,
    TEXT_TOKEN_UNKNOWN = 2,
    TEXT_TOKEN_CONTROL = 3,
    TEXT_TOKEN_USER = 4,
    TEXT_TOKEN_UNUSED = 5,
    TEXT_TOKEN_BYTE = 6
};

/* Copies what it needs from the file: gguf may be closed afterwards. */
enum proto_status text_vocab_create(struct text_vocab **out, const struct shard_gguf *gguf,
                                    struct proto_error *error);
void text_vocab_destroy(struct text_vocab *vocab);

uint32_t text_vocab_size(const struct text_vocab *vocab);
/* Ids of special tokens, or -1. */
int32_t text_vocab_bos(const struct text_vocab *vocab);
int32_t text_vocab_eos(const struct text_vocab *vocab);
/* Whether encoding a prompt puts BOS in front. */
bool text_vocab_adds_bos(const struct text_vocab *vocab);
/* End of generation (reference, section 4). */
bool text_vocab_is_eog(const struct text_vocab *vocab, int32_t id);
/* Tokens that the file says are never to be generated (tokenizer.ggml.suppress_tokens). */
const int32_t *text_vocab_suppressed(const struct text_vocab *vocab, size_t *n);
/* The tokens whose text holds one of n_texts texts. *ids is malloc'ed, the caller's. */
enum proto_status text_vocab_tokens_with(const struct text_vocab *vocab, const char *const *texts,
                                         size_t n_texts, int32_t **ids, size_t *n,
                                         struct proto_error *error);
/* The token's text as stored ("\xe2\x96\x81the"), for printing. */
struct shard_gguf_string text_vocab_piece(const struct text_vocab *vocab, int32_t id);

/* Ids of a text. parse_special: control tokens spelled in the text become their ids (trusted text
 * only). No BOS or EOS is added. *ids is malloc'ed, the caller's. */
enum proto_status text_encode(const struct text_vocab *vocab, const char *text, size_t len,
                              bool parse_special, int32_t **ids, size_t *n,
                              struct proto_error *error);

/* As above for a prompt: with BOS in front where the vocabulary asks for it and the text does not
 * begin with it already (spelled, and parsed as a special token). */
enum proto_status text_encode_prompt(const struct text_vocab *vocab, const char *text, size_t len,
                                     bool parse_special, int32_t **ids, size_t *n,
                                     struct proto_error *error);

/* As for a prompt, with control tokens parsed only where their whole spelling lies outside the
 * untrusted spans: bytes of text, in order and disjoint (else PROTO_INVALID). Otherwise the text is
 * encoded as if the spans were not there: a word may begin before one and end in it. */
enum proto_status text_encode_trusted(const struct text_vocab *vocab, const char *text, size_t len,
                                      const struct text_span *untrusted, size_t n_untrusted,
                                      int32_t **ids, size_t *n, struct proto_error *error);

/* Text of one token as bytes (may be part of a character), written to out (cap bytes); returns the
 * full length. special: control tokens as their text, else as nothing. SPM: U+2581 as space, also
 * at the start. */
size_t text_decode_token(const struct text_vocab *vocab, int32_t id, bool special, char *out,
                         size_t cap);

/* Whole-text decoding: as the concatenation of tokens, and for SPM one leading space dropped at
 * the start of the text (after a leading BOS too). *text is malloc'ed and NUL-terminated. Unknown
 * ids: PROTO_INVALID, named. */
enum proto_status text_decode(const struct text_vocab *vocab, const int32_t *ids, size_t n,
                              bool special, char **text, size_t *len, struct proto_error *error);

/* Longest text of a token in bytes. */
size_t text_vocab_max_piece(const struct text_vocab *vocab);

#endif
