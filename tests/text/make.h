/* SPDX-License-Identifier: Apache-2.0 */
/* Small vocabularies for tests: made as a GGUF header in memory and read like a file. */
#ifndef TESTS_TEXT_MAKE_H
#define TESTS_TEXT_MAKE_H

#include "coordinator/text/vocab.h"
#include "shard/gguf_writer.h"

#define MAKE_MAX_TOKENS 1024
#define MAKE_MAX_MERGES 64

struct make {
    struct shard_gguf_writer
        *writer; /* for further keys; tokens and merges are written at the end */
    bool spm;
    char *tokens[MAKE_MAX_TOKENS];
    float scores[MAKE_MAX_TOKENS];
    int32_t types[MAKE_MAX_TOKENS];
    size_t n;
    const char *merges[MAKE_MAX_MERGES];
    size_t n_merges;
};

/* pre NULL: SPM, with <unk>, <s>, </s> and the byte tokens (ids 3 to 258); else byte-level BPE with
 * the 256 bytes (id = byte); "": without the key. */
void make_begin(struct make *make, const char *pre);
/* Gemma 4: the tokens of SPM, and merges as for BPE. */
void make_begin_gemma4(struct make *make);
/* Returns the token's id. The text is copied. */
int32_t make_token(struct make *make, const char *text, enum text_token_type type, float score);
/* "left right": both and what they make are added as tokens where they are missing. */
void make_merge(struct make *make, const char *line);
/* NULL where the file is refused: see *error. */
struct text_vocab *make_end(struct make *make, struct proto_error *error);

/* SPM with a handful of pieces of a, b and c, and the user-defined tokens <u> and <u>a. */
struct text_vocab *make_small_spm(void);
/* llama-bpe with merges of a and b, the control tokens <|begin|> and <|end|>, and "xyz" without a
 * merge. */
struct text_vocab *make_small_bpe(void);

#endif
