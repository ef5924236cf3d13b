/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The HTTP side: OpenAI's completions and chats, model list, health and metrics, and the calls that
 * Caravan's own commands make to a running cluster. A thread a connection (libmicrohttpd), so a
 * slow client delays nobody. Requests outlive their connections, and with a journal the server:
 * job.h says how.
 */
#ifndef COORDINATOR_API_SERVER_H
#define COORDINATOR_API_SERVER_H

#include "coordinator/journal.h"

struct api_server;

struct api_server_options {
    /* "HOST:PORT", "[::1]:PORT" or ":PORT" (loopback); port 0: any free one. NULL:
     * "127.0.0.1:8080". */
    const char *listen;
    const char *api_key;      /* NULL: none is asked for */
    const char *model_name;   /* id in /v1/models; NULL: the model's name */
    unsigned max_connections; /* 0: 256 */
    unsigned max_waiting;     /* choices that wait for a place; 0: 256 */
    unsigned resume_s; /* for which requests of an earlier server wait for their clients; 0: 60 */
    unsigned keep_s;   /* for which finished requests can be asked for again; 0: 600 */
    struct coord_journal *journal; /* borrowed, outlives the server; NULL: none */
};

/* engine is borrowed and outlives the server. Requests that the journal has are taken up again. */
enum proto_status api_server_start(struct api_server **out, struct coord_engine *engine,
                                   const struct api_server_options *options,
                                   struct proto_error *error);
/* "http://127.0.0.1:8080", with the real port. */
const char *api_server_url(const struct api_server *server);
/* Running requests are cancelled. NULL is allowed. */
void api_server_stop(struct api_server *server);

#endif
