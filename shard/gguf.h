/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reading GGUF v2 and v3: one file, a split set, or a header alone. Nothing in the file is
 * trusted: every length is checked against the bytes that are left before memory is taken, and a
 * file that breaks a rule gives one line that says which. The object is constant after opening;
 * any thread may read it.
 */
#ifndef SHARD_GGUF_H
#define SHARD_GGUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/type.h"
#include "proto/limits.h"
#include "proto/status.h"

enum shard_gguf_kind {
    SHARD_GGUF_U8 = 0,
    SHARD_GGUF_I8 = 1,
    SHARD_GGUF_U16 = 2,
    SHARD_GGUF_I16 = 3,
    SHARD_GGUF_U32 = 4,
    SHARD_GGUF_I32 = 5,
    SHARD_GGUF_F32 = 6,
    SHARD_GGUF_BOOL = 7,
    SHARD_GGUF_STRING = 8,
    SHARD_GGUF_ARRAY = 9,
    SHARD_GGUF_U64 = 10,
    SHARD_GGUF_I64 = 11,
    SHARD_GGUF_F64 = 12
};

/* A string in the file: not terminated, may hold any bytes. */
struct shard_gguf_string {
    const char *data;
    size_t len;
};

struct shard_gguf_value {
    struct shard_gguf_string key;
    enum shard_gguf_kind kind;         /* of the value; ARRAY for arrays */
    enum shard_gguf_kind element_kind; /* of an array's elements */
    uint64_t count;                    /* elements of an array, 1 otherwise */
    const uint8_t *data;               /* the value or the elements as in the file, unaligned;
                                          a string with its length in front */
    struct shard_gguf_string *strings; /* for arrays of strings: count of them */
};

struct shard_tensor {
    char name[PROTO_MAX_NAME_BYTES + 1];
    const struct kern_type_info *type;
    uint32_t n_dims;
    uint64_t dims[4]; /* fastest first; 1 beyond n_dims */
    uint64_t bytes;
    unsigned file;       /* which file of a split set */
    uint64_t offset;     /* from the start of that file */
    const uint8_t *data; /* mapped bytes, or NULL where only the header is at hand */
};

struct shard_gguf;

/* Opens and maps `path`; if it is the first file of a split set (-00001-of-0000N), all of them. */
enum proto_status shard_gguf_open(struct shard_gguf **out, const char *path,
                                  struct proto_error *error);

/* Parses a header in memory, without tensor data: shard_tensor.data is NULL. `name` is used in
 * error texts. The bytes are copied. */
enum proto_status shard_gguf_parse(struct shard_gguf **out, const void *bytes, size_t len,
                                   const char *name, struct proto_error *error);

/* NULL is allowed. Unmaps; strings and tensors of the object are gone. */
void shard_gguf_close(struct shard_gguf *gguf);

unsigned shard_gguf_version(const struct shard_gguf *gguf);
size_t shard_gguf_n_files(const struct shard_gguf *gguf);
const char *shard_gguf_path(const struct shard_gguf *gguf, size_t file);

/* Tells this state of the file from any other that it or another file was or will be in: its inode,
 * length, and the times of the last change of its bytes and of its inode, which nobody can set
 * back. Not the device, whose number may be another after a restart, nor the path. As it was when
 * opened; zeros for parsed bytes. */
struct shard_gguf_stamp {
    uint64_t inode, len, changed_ns, inode_changed_ns;
};
struct shard_gguf_stamp shard_gguf_stamp(const struct shard_gguf *gguf, size_t file);

/* Whether bytes of the mapped files turned out not to be there: a file was cut short, or its disk
 * does not give it back. They read as zeros (shard/guard.h); so what was read is worth nothing
 * until this has been asked. */
bool shard_gguf_lost(const struct shard_gguf *gguf);

size_t shard_gguf_n_values(const struct shard_gguf *gguf);
const struct shard_gguf_value *shard_gguf_value(const struct shard_gguf *gguf, size_t i);
const struct shard_gguf_value *shard_gguf_find(const struct shard_gguf *gguf, const char *key);

size_t shard_gguf_n_tensors(const struct shard_gguf *gguf);
const struct shard_tensor *shard_gguf_tensor(const struct shard_gguf *gguf, size_t i);

/* Index of the tensor of that name, or -1. Constant time. */
long shard_gguf_find_tensor(const struct shard_gguf *gguf, const char *name);

/* Typed reads. They return PROTO_NOTFOUND (no error text) where the key is absent and PROTO_FORMAT
 * (with a text) where it has another kind; any integer kind whose value fits serves for u32/u64,
 * F32 and F64 for f32. */
enum proto_status shard_gguf_u32(const struct shard_gguf *gguf, const char *key, uint32_t *out,
                                 struct proto_error *error);
enum proto_status shard_gguf_u64(const struct shard_gguf *gguf, const char *key, uint64_t *out,
                                 struct proto_error *error);
enum proto_status shard_gguf_f32(const struct shard_gguf *gguf, const char *key, float *out,
                                 struct proto_error *error);
enum proto_status shard_gguf_bool(const struct shard_gguf *gguf, const char *key, bool *out,
                                  struct proto_error *error);
enum proto_status shard_gguf_str(const struct shard_gguf *gguf, const char *key,
                                 struct shard_gguf_string *out, struct proto_error *error);

/* Element i of an integer or bool array, or the value itself if it is a scalar (per-layer keys
 * are either). PROTO_FORMAT beyond the end. */
enum proto_status shard_gguf_u32_at(const struct shard_gguf *gguf, const char *key, size_t i,
                                    uint32_t *out, struct proto_error *error);

/* Element i of a float array value (kind F32 elements, i < count: the caller checked). */
float shard_gguf_f32_element(const struct shard_gguf_value *value, size_t i);

/* Element i of an integer array of any integer kind as int64. */
int64_t shard_gguf_int_element(const struct shard_gguf_value *value, size_t i);

/* The header again as one GGUF v3 header without the vocabulary (keys under "tokenizer." and
 * "split." and general.alignment left out), with tensor offsets as of one file aligned to 32: what
 * a worker needs to know of a model. *bytes is malloc'ed and the caller's. */
enum proto_status shard_gguf_card(const struct shard_gguf *gguf, void **bytes, size_t *len,
                                  struct proto_error *error);

/* The card of a model that has other types: type_of says each tensor's. */
typedef const struct kern_type_info *shard_gguf_type_fn(const void *arg,
                                                        const struct shard_tensor *tensor);
enum proto_status shard_gguf_card_as(const struct shard_gguf *gguf, shard_gguf_type_fn *type_of,
                                     const void *arg, void **bytes, size_t *len,
                                     struct proto_error *error);

#endif
