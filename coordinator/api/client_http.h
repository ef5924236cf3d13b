/* SPDX-License-Identifier: Apache-2.0 */
/* One HTTP exchange of the client, with libcurl. Only files of this folder include it. */
#ifndef COORDINATOR_API_CLIENT_HTTP_H
#define COORDINATOR_API_CLIENT_HTTP_H

#include <jansson.h>
#include <stdatomic.h>

#include "coordinator/api/client.h"

/* Bytes of a 200 answer as they come. Not PROTO_OK ends the exchange with that and *error. */
typedef enum proto_status api__sink_fn(void *user, const char *data, size_t len,
                                       struct proto_error *error);

struct api__exchange {
    const char *path;
    const char *header; /* one line more, or NULL */
    json_t *body;       /* POSTed, borrowed; NULL: GET */
    const atomic_bool
        *cancel;      /* ends it with PROTO_CANCELLED once it is true; NULL: nothing does */
    unsigned quiet_s; /* silence after which the coordinator is given up */
    api__sink_fn *sink;
    void *user;
    bool *cut; /* set where the coordinator cannot be reached, or not any more; may be NULL */
};

enum proto_status api__exchange(struct api_client *client, const struct api__exchange *exchange,
                                struct proto_error *error);

/* A header of the answer that is being received, or NULL. */
const char *api__answer_header(struct api_client *client, const char *name);

/* An exchange whose answer is one JSON object, the caller's reference. */
enum proto_status api__exchange_json(struct api_client *client, const char *path, json_t *body,
                                     unsigned quiet_s, json_t **answer, struct proto_error *error);

/* The error object of an answer as a status and a text. */
enum proto_status api__answer_error(const json_t *answer, long http, struct proto_error *error);

/* PROTO_FORMAT: the answer is not one of a Caravan coordinator. */
enum proto_status api__answer_odd(const char *what, struct proto_error *error);

#endif
