/* SPDX-License-Identifier: Apache-2.0 */
/* Headers of synthetic models with a few things changed, for tests of what reads them. */
#ifndef TESTS_SHARD_EDITED_H
#define TESTS_SHARD_EDITED_H

#include "shard/model.h"

/* What is changed; members left out change nothing. */
struct edit {
    const char *drop_key;
    const char *u32_key; /* set, or added */
    uint32_t u32;
    const char *str_key;
    const char *str;
    const char *f32_key;
    float f32;
    const char *drop_tensor;
    const char *tensor; /* changed, or added: given dims (fastest first, to the first 0) and type */
    uint64_t dims[4];
    enum kern_type type;
};

/* Makes a preset in a temporary file and opens it. Exits the program on failure. */
struct shard_gguf *preset_open(const char *preset, const char *type, bool sparse);

/* The header of base with edits, without data. */
struct shard_gguf *edited(const struct shard_gguf *base, const struct edit *edits, size_t n);

#endif
