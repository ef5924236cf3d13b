/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Answers requests for the experts that this worker holds, on a thread and a socket of its own: a
 * stage that waits for experts of another worker, which waits for experts of this one, gets them.
 * Requests of the stages of plans that it was told of are served, all others are dropped. Calls may
 * come from any thread, and may block for as long as a request is computed.
 */
#ifndef WORKER_EXPERT_SERVER_H
#define WORKER_EXPERT_SERVER_H

#include "net/exchange.h"
#include "worker/expert_host.h"

struct worker_expert_server;

/* Listens, and serves nobody yet. */
enum proto_status worker_expert_server_create(struct worker_expert_server **out,
                                              struct net_loop *loop, const char *endpoint,
                                              const struct net_keypair *own,
                                              struct proto_error *error);
/* Serves nobody any more; waits for the request in work. NULL is allowed, as below. */
void worker_expert_server_stop(struct worker_expert_server *server);
void worker_expert_server_destroy(struct worker_expert_server *server);

/* The endpoint that was bound, with its real port. */
const char *worker_expert_server_endpoint(const struct worker_expert_server *server);

/* From now on the load's askers hear that they are known in its epoch; requests are refused until
 * there is a host. Copies what it needs. */
enum proto_status worker_expert_server_expect(struct worker_expert_server *server,
                                              const struct proto_load *load,
                                              struct proto_error *error);

/* Serves experts of this host to the epoch's askers; it is borrowed until the epoch is forgotten.
 */
void worker_expert_server_serve(struct worker_expert_server *server, uint64_t epoch,
                                struct worker_expert_host *host);

/* Lets go of an epoch's host, after the request in work. */
void worker_expert_server_forget(struct worker_expert_server *server, uint64_t epoch);

/* Requests answered so far, for liveness; any thread. */
uint64_t worker_expert_server_steps(const struct worker_expert_server *server);

/* Whether a request is being computed at this moment; any thread. */
bool worker_expert_server_computing(const struct worker_expert_server *server);

#endif
