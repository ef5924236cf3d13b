/* SPDX-License-Identifier: Apache-2.0 */
#include "proto/status.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

const char *proto_status_text(enum proto_status status)
{
    switch (status) {
#define X(value, name, text)                                                                       \
    case PROTO_##name:                                                                             \
        return text;
        PROTO_STATUS_MAP(X)
#undef X
    }
    return "unknown status";
}

const char *proto_status_name(enum proto_status status)
{
    switch (status) {
#define X(value, name, text)                                                                       \
    case PROTO_##name:                                                                             \
        return #name;
        PROTO_STATUS_MAP(X)
#undef X
    }
    return "UNKNOWN";
}

enum proto_status proto_status_from_wire(unsigned value)
{
    switch (value) {
#define X(number, name, text) case number:
        PROTO_STATUS_MAP(X)
#undef X
        return (enum proto_status)value;
    }
    return PROTO_FORMAT;
}

enum proto_status proto_fail(struct proto_error *error, enum proto_status status,
                             const char *format, ...)
{
    if (error) {
        va_list args;
        va_start(args, format);
        error->status = status;
        vsnprintf(error->text, sizeof error->text, format, args);
        va_end(args);
    }
    return status;
}

enum proto_status proto_fail_nomem(struct proto_error *error, unsigned long long bytes,
                                   const char *what)
{
    return proto_fail(error, PROTO_NOMEM, "out of memory: %llu bytes for %s", bytes, what);
}

enum proto_status proto_fail_errno(struct proto_error *error, int errno_value, const char *action,
                                   const char *path)
{
    enum proto_status status = PROTO_IO;
    if (errno_value == ENOSPC || errno_value == EDQUOT)
        status = PROTO_NOSPACE;
    else if (errno_value == ENOENT)
        status = PROTO_NOTFOUND;
    else if (errno_value == ENOMEM)
        status = PROTO_NOMEM;
    return proto_fail(error, status, "%s %s: %s", action, path, strerror(errno_value));
}
