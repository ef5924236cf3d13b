/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Turns a stream of tokens into text that may be shown: bytes of an unfinished UTF-8 character are
 * held back, and so is text that may be the beginning of a stop string. One thread.
 */
#ifndef COORDINATOR_TEXT_STREAM_H
#define COORDINATOR_TEXT_STREAM_H

#include "coordinator/text/vocab.h"

struct text_stream;

/* stops: copied; strip_space: SPM's leading space is dropped (text at the start of a document). */
enum proto_status text_stream_create(struct text_stream **out, const struct text_vocab *vocab,
                                     const char *const *stops, size_t n_stops, bool strip_space,
                                     struct proto_error *error);
void text_stream_destroy(struct text_stream *stream);

/* Adds a token. *text gets what may be shown now (borrowed until the next call, *len may be 0).
 * *stopped is set when a stop string was completed: nothing of it or after it is ever shown. */
enum proto_status text_stream_push(struct text_stream *stream, int32_t id, const char **text,
                                   size_t *len, bool *stopped, struct proto_error *error);

/* At the end: what was held back. Bytes that never became a character are U+FFFD. */
enum proto_status text_stream_finish(struct text_stream *stream, const char **text, size_t *len,
                                     struct proto_error *error);

#endif
