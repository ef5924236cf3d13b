/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Private to the GGUF reader: one header parsed from bytes. gguf_cursor.c reads numbers and
 * strings, gguf_tensors.c the tensors, gguf_parse.c the metadata and the whole.
 */
#ifndef SHARD_GGUF_PARSE_H
#define SHARD_GGUF_PARSE_H

#include "shard/gguf.h"

/* Room for a key or name in an error text. */
#define SHARD__GGUF_QUOTE_BYTES 80

/* What every error about a damaged header ends with. */
#define SHARD__GGUF_AGAIN "the file is truncated or damaged: download it again"

/* Reads forward through the bytes; every read is checked against what is left. */
struct shard__gguf_cursor {
    const uint8_t *bytes;
    uint64_t len, pos;
    const char *name; /* of the file, for error texts */
    struct proto_error *error;
};

/* Each take_ moves on and fills *out; `what` names the thing in the error text. */
enum proto_status shard__gguf_take(struct shard__gguf_cursor *c, uint64_t n, const char *what,
                                   const uint8_t **out);
enum proto_status shard__gguf_take_u32(struct shard__gguf_cursor *c, const char *what,
                                       uint32_t *out);
enum proto_status shard__gguf_take_u64(struct shard__gguf_cursor *c, const char *what,
                                       uint64_t *out);
enum proto_status shard__gguf_take_string(struct shard__gguf_cursor *c, const char *what,
                                          struct shard_gguf_string *out);

/* Whether `count` records of at least record_bytes each can follow: before memory is taken. */
enum proto_status shard__gguf_check_count(struct shard__gguf_cursor *c, const char *what,
                                          uint64_t count, uint64_t record_bytes);

/* Keys and tensor names end up in C strings, logs and terminals: not empty, no control bytes. */
enum proto_status shard__gguf_check_name(struct shard__gguf_cursor *c, const char *what,
                                         const struct shard_gguf_string *name);

struct shard__gguf_header {
    unsigned version;
    struct shard_gguf_value *values; /* point into the parsed bytes */
    size_t n_values;
    uint32_t *by_key;             /* numbers of the values in order of their keys */
    struct shard_tensor *tensors; /* file 0, data NULL, offset from the start of the bytes */
    size_t n_tensors;
    uint64_t end; /* where the last tensor ends; 0 without tensors */
};

/* Parses and checks everything but whether the tensors' bytes are there. The bytes stay the
 * caller's and outlive the header. On failure the header is empty; finish is allowed. */
enum proto_status shard__gguf_parse_header(struct shard__gguf_header *header, const uint8_t *bytes,
                                           uint64_t len, const char *name,
                                           struct proto_error *error);
void shard__gguf_header_finish(struct shard__gguf_header *header);

/* The two steps after the metadata: the tensors' names, shapes and types; then their places. Every
 * tensor starts where the one before it ends, aligned, in the order of the header; offsets in the
 * data section become offsets in the file. */
enum proto_status shard__gguf_take_tensors(struct shard__gguf_cursor *c,
                                           struct shard__gguf_header *header, uint64_t count);
enum proto_status shard__gguf_lay_out(struct shard__gguf_cursor *c,
                                      struct shard__gguf_header *header, uint64_t alignment);

const struct shard_gguf_value *shard__gguf_find(const struct shard__gguf_header *header,
                                                const char *key);

/* Element i of an integer or bool value or array; false where it is of another kind. Values above
 * INT64_MAX are given as INT64_MAX. */
bool shard__gguf_int(const struct shard_gguf_value *value, uint64_t i, int64_t *out);

/* Bytes of a value of a kind of fixed size; 0 for strings and arrays. */
size_t shard__gguf_kind_bytes(enum shard_gguf_kind kind);

/* A key or name as it may be shown: bytes that do not print become '?', what is too long is cut. */
const char *shard__gguf_quote(char out[SHARD__GGUF_QUOTE_BYTES], const char *data, size_t len);

#endif
