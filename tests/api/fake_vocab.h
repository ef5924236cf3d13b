/* SPDX-License-Identifier: Apache-2.0 */
/* A small vocabulary, made in memory: SentencePiece with <unk>, <s>, </s>, the 256 bytes, some
 * words and the control tokens of harmony's format and of a thinking model. */
#ifndef TESTS_API_FAKE_VOCAB_H
#define TESTS_API_FAKE_VOCAB_H

#include "coordinator/text/chat.h"

#define FAKE_EOS     2
#define FAKE_HELLO   259 /* the first word */
#define FAKE_N_WORDS 16
#define FAKE_N_MARKS 6
#define FAKE_N_VOCAB (FAKE_HELLO + FAKE_N_WORDS + FAKE_N_MARKS)

/* source: the chat template, NULL for none. */
enum proto_status fake_vocab_create(struct text_vocab **vocab, struct text_chat **chat,
                                    const char *source, struct proto_error *error);

/* The token that the text begins with: a control token that is spelled there, else a byte. */
int32_t fake_vocab_next(const char *text, size_t *len);

#endif
