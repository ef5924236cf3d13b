/* SPDX-License-Identifier: Apache-2.0 */
/* Synthetic models: real tensor names and shapes, seeded weights, for tests and measurements. */
#ifndef SHARD_MKMODEL_H
#define SHARD_MKMODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "proto/status.h"

struct shard_mkmodel_options {
    const char *preset; /* "llama3-tiny", ... */
    const char *type;   /* "F16", "Q4_K", ... */
    uint64_t seed;
    const char *const *sets; /* "key=value" changes of the preset's dimensions */
    size_t n_sets;
    bool sparse; /* header and holes only: full size, takes no disk */
    void (*progress)(void *arg, uint64_t done, uint64_t total); /* bytes; on the caller's thread;
                                                                   may be NULL */
    void *progress_arg;
};

/* Writes the model to path; the file appears whole or not at all (written beside it, renamed).
 * digest gets the lower-case hex SHA-256 over the sorted lines "NAME HEX-SHA256-OF-BYTES\n" of all
 * tensors, or "" for a sparse file. */
enum proto_status shard_mkmodel(const struct shard_mkmodel_options *options, const char *path,
                                char digest[65], struct proto_error *error);

/* Names of the presets, one a line. */
void shard_mkmodel_list(FILE *out);

#endif
