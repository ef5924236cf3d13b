/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a command computes with: an engine of its own, or a coordinator that runs already
 * (--server). Calls block. One thread.
 */
#ifndef COORDINATOR_BACKEND_H
#define COORDINATOR_BACKEND_H

#include "coordinator/api/client.h"
#include "coordinator/options.h"

struct coord_backend {
    struct coord_engine *engine; /* NULL with a client */
    struct api_client *client;   /* NULL with an engine */
    struct net_cluster_keys keys;
};

/* Connects, or starts an engine and waits until it is ready. ctx_needed: positions that the
 * command's work takes at most, where --ctx does not say (0: unknown). */
enum proto_status coord_backend_open(struct coord_backend *backend, const struct coord_cli *cli,
                                     uint64_t ctx_needed, struct proto_error *error);
void coord_backend_close(struct coord_backend *backend);

/* Ids of a text; *ids is malloc'ed. bos: BOS in front where the vocabulary asks for it. */
enum proto_status coord_backend_tokenize(struct coord_backend *backend, const char *text,
                                         size_t len, bool special, bool bos, int32_t **ids,
                                         size_t *n, struct proto_error *error);

/* All logits of all positions of ids, row by row in order. */
enum proto_status coord_backend_logits(struct coord_backend *backend, const int32_t *ids, size_t n,
                                       api_client_row_fn *on_row, void *user,
                                       struct proto_error *error);

/* Generates text. request->prompt is given (not ids). special: control tokens
 * spelled in the prompt become their ids. *done gets the DONE event; its times are 0 with a
 * client. */
enum proto_status coord_backend_complete(struct coord_backend *backend,
                                         const struct api_client_completion *request, bool special,
                                         api_client_text_fn *on_text, void *user,
                                         struct coord_event *done, struct proto_error *error);

/* The whole of a command of a coordinator that runs already: reads the command line, connects and
 * calls. The exit status. */
typedef enum proto_status coord_client_fn(struct api_client *client, const struct coord_cli *cli,
                                          void *user, struct proto_error *error);
int coord_client_command(const struct coord_command *command, int argc, char **argv,
                         coord_client_fn *fn, void *user);

#endif
