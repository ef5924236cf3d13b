/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Status codes and the error that a person reads. Every call that can fail for a reason outside
 * the program returns an enum proto_status and, where a person may see it, fills a struct
 * proto_error: one line that names the thing, what was expected, what was found, what to do.
 * The number is also the value on the wire, so numbers are never reused. Any thread.
 */
#ifndef PROTO_STATUS_H
#define PROTO_STATUS_H

#define PROTO_STATUS_MAP(X)                                                                        \
    X(0, OK, "ok")                                                                                 \
    X(1, NOMEM, "out of memory")                                                                   \
    X(2, INVALID, "invalid argument")                                                              \
    X(3, FORMAT, "malformed data")                                                                 \
    X(4, UNSUPPORTED, "not supported")                                                             \
    X(5, IO, "input or output failed")                                                             \
    X(6, NOSPACE, "no space left")                                                                 \
    X(7, LIMIT, "limit exceeded")                                                                  \
    X(8, TIMEOUT, "deadline passed")                                                               \
    X(9, LOST, "worker lost")                                                                      \
    X(10, REFUSED, "refused")                                                                      \
    X(11, VERSION, "protocol version differs")                                                     \
    X(12, CANCELLED, "cancelled")                                                                  \
    X(13, CORRUPT, "verification failed")                                                          \
    X(14, NOTFOUND, "not found")                                                                   \
    X(15, BUSY, "busy")                                                                            \
    X(16, CAPACITY, "does not fit")

enum proto_status {
#define X(value, name, text) PROTO_##name = value,
    PROTO_STATUS_MAP(X)
#undef X
};

/* Room for one line; longer texts are cut. */
#define PROTO_ERROR_TEXT_BYTES 512

struct proto_error {
    enum proto_status status;
    char text[PROTO_ERROR_TEXT_BYTES];
};

/* The status's short English text; "unknown status" for a number that is none. */
const char *proto_status_text(enum proto_status status);

/* The status's name as in the enum without its prefix ("CAPACITY"). */
const char *proto_status_name(enum proto_status status);

/* The status of a wire value; PROTO_FORMAT for a number that is none. */
enum proto_status proto_status_from_wire(unsigned value);

/* Fills *error (which may be NULL) and returns status, so that a caller can
 * `return proto_fail(error, PROTO_FORMAT, "...")`. */
enum proto_status proto_fail(struct proto_error *error, enum proto_status status,
                             const char *format, ...) __attribute__((format(printf, 3, 4)));

/* PROTO_NOMEM with a text that says how much was asked for and for what. */
enum proto_status proto_fail_nomem(struct proto_error *error, unsigned long long bytes,
                                   const char *what);

/* Fails with the status that fits errno_value (ENOSPC: NOSPACE, ENOENT: NOTFOUND, ENOMEM: NOMEM,
 * else IO); the text is "ACTION PATH: strerror". */
enum proto_status proto_fail_errno(struct proto_error *error, int errno_value, const char *action,
                                   const char *path);

#endif
