/* SPDX-License-Identifier: Apache-2.0 */
/* HTTP calls over a plain socket, so that tests can send what no library would. */
#ifndef TESTS_API_CALL_H
#define TESTS_API_CALL_H

#include <jansson.h>
#include <stddef.h>

struct answer {
    int status; /* 0: the connection ended without an answer */
    char *head; /* status line and headers */
    char *body; /* chunks joined, NUL-terminated */
    size_t len;
};

/* A connection to the server of that URL ("http://127.0.0.1:PORT"). -1: none. */
int call_connect(const char *url);
/* Sends all bytes. */
void call_send(int fd, const char *bytes, size_t len);
/* Reads to the end of the connection and closes it. */
struct answer call_receive(int fd);

/* A whole exchange. headers: lines with "\r\n", or "". body NULL: none is sent; otherwise as
 * application/json. */
struct answer call(const char *url, const char *method, const char *path, const char *headers,
                   const char *body);
void answer_finish(struct answer *answer);

/* The body as JSON, NULL if it is none. The caller's reference. */
json_t *answer_json(const struct answer *answer);

#endif
