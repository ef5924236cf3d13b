/* SPDX-License-Identifier: Apache-2.0 */
#include "coordinator/files.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define FIRST_BYTES 65536u
/* An endless file, /dev/zero say, is refused before it takes all memory. */
#define MAX_BYTES ((size_t)1 << 30)

enum proto_status coord_read_stream(FILE *file, const char *name, char **bytes, size_t *len,
                                    struct proto_error *error)
{
    char *text = NULL;
    size_t used = 0, cap = 0, n;
    do {
        /* A byte is kept for the NUL. */
        if (used + 1 >= cap) {
            if (cap >= MAX_BYTES) {
                free(text);
                return proto_fail(error, PROTO_LIMIT,
                                  "%s: longer than %zu bytes, the most that "
                                  "is read as text",
                                  name, MAX_BYTES);
            }
            cap = cap ? cap * 2 : FIRST_BYTES;
            char *grown = realloc(text, cap);
            if (!grown) {
                free(text);
                return proto_fail_nomem(error, cap, name);
            }
            text = grown;
        }
        n = fread(text + used, 1, cap - used - 1, file);
        used += n;
    } while (n > 0);
    if (ferror(file)) {
        free(text);
        return proto_fail_errno(error, errno, "read", name);
    }
    text[used] = 0;
    *bytes = text;
    *len = used;
    return PROTO_OK;
}

enum proto_status coord_read_file(const char *path, char **bytes, size_t *len,
                                  struct proto_error *error)
{
    if (strcmp(path, "-") == 0)
        return coord_read_stream(stdin, "standard input", bytes, len, error);
    FILE *file = fopen(path, "rb");
    if (!file)
        return proto_fail_errno(error, errno, "read", path);
    enum proto_status status = coord_read_stream(file, path, bytes, len, error);
    fclose(file);
    return status;
}
