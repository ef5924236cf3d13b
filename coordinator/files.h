/* SPDX-License-Identifier: Apache-2.0 */
/* Whole files for commands. */
#ifndef COORDINATOR_FILES_H
#define COORDINATOR_FILES_H

#include <stddef.h>
#include <stdio.h>

#include "proto/status.h"

/* All of an open file; *bytes is malloc'ed, with a NUL after the last byte. `name` is for errors.
 * PROTO_LIMIT: it is longer than 1 GiB. */
enum proto_status coord_read_stream(FILE *file, const char *name, char **bytes, size_t *len,
                                    struct proto_error *error);

/* All of the file at path, or of standard input for "-". */
enum proto_status coord_read_file(const char *path, char **bytes, size_t *len,
                                  struct proto_error *error);

#endif
