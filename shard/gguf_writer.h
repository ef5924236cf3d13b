/* SPDX-License-Identifier: Apache-2.0 */
/* Builds a GGUF v3 header in memory and lays tensors out. One thread. */
#ifndef SHARD_GGUF_WRITER_H
#define SHARD_GGUF_WRITER_H

#include <stdbool.h>

#include "shard/gguf.h"

struct shard_gguf_writer;

/* Writers never fail before finishing: running out of memory is remembered and reported there. */
struct shard_gguf_writer *shard_gguf_writer_create(void);
void shard_gguf_writer_destroy(struct shard_gguf_writer *w);

void shard_gguf_writer_u32(struct shard_gguf_writer *w, const char *key, uint32_t value);
void shard_gguf_writer_f32(struct shard_gguf_writer *w, const char *key, float value);
void shard_gguf_writer_bool(struct shard_gguf_writer *w, const char *key, bool value);
void shard_gguf_writer_str(struct shard_gguf_writer *w, const char *key, const char *value);
void shard_gguf_writer_strs(struct shard_gguf_writer *w, const char *key, const char *const *values,
                            size_t n);
void shard_gguf_writer_f32s(struct shard_gguf_writer *w, const char *key, const float *values,
                            size_t n);
void shard_gguf_writer_i32s(struct shard_gguf_writer *w, const char *key, const int32_t *values,
                            size_t n);
void shard_gguf_writer_bools(struct shard_gguf_writer *w, const char *key, const bool *values,
                             size_t n);
/* Copies a value of another file as it is. */
void shard_gguf_writer_value(struct shard_gguf_writer *w, const struct shard_gguf_value *value);

/* Appends a tensor (dims fastest first); its offset follows the one before, aligned to 32. */
void shard_gguf_writer_tensor(struct shard_gguf_writer *w, const char *name,
                              const struct kern_type_info *type, uint32_t n_dims,
                              const uint64_t *dims);

/* The header, padded to where the data starts; malloc'ed, the caller's. */
enum proto_status shard_gguf_writer_header(struct shard_gguf_writer *w, void **bytes, size_t *len,
                                           struct proto_error *error);

#endif
