/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Requests and answers for a thread that waits for them itself: a round trip costs no turn of the
 * event loop. Like a link, with CURVE always on and every peer known by its proven key: a listener
 * has many peers, the other side a connection to each of its hosts.
 *
 * One thread at a time uses an exchange; which one may change, with a lock or a join in between.
 * net_exchange_cancel alone may be called by any thread. The loop is not used but for its sockets'
 * context, and answers questions about keys while it runs.
 */
#ifndef NET_EXCHANGE_H
#define NET_EXCHANGE_H

#include "net/link.h"

struct net_exchange;

struct net_exchange_host {
    const char *endpoint; /* as of net_link_connect */
    uint8_t key[PROTO_KEY_BYTES];
};

/* Waits for hosts' connections are not the exchange's: PROTO_OK says that they are being made. A
 * connection on which nothing is heard for silence_ms, not even of the transport, is broken. */
enum proto_status net_exchange_connect(struct net_exchange **out, struct net_loop *loop,
                                       const struct net_exchange_host *hosts, uint32_t n_hosts,
                                       const struct net_keypair *own, uint32_t silence_ms,
                                       struct proto_error *error);

enum proto_status net_exchange_listen(struct net_exchange **out, struct net_loop *loop,
                                      const char *endpoint, const struct net_keypair *own,
                                      struct proto_error *error);

/* The endpoint that was bound, with its real port; of host `host` on the other side. */
const char *net_exchange_endpoint(const struct net_exchange *exchange, uint32_t host);

/* Queues a message for a peer of a listener, or for the host of that number. Never blocks; takes
 * *payload as net_link_send does. PROTO_LOST: there is no connection. */
enum proto_status net_exchange_send(struct net_exchange *exchange, net_peer to,
                                    const struct proto_msg *msg, struct net_payload **payload,
                                    struct proto_error *error);

struct net_received {
    net_peer from; /* a listener's peer, or the number of a host */
    uint8_t key[PROTO_KEY_BYTES];
    struct proto_msg msg;
    struct net_payload *payload; /* NULL: none */
};

/* Takes the next message, from whoever sent one, and waits for it until deadline_ns (of
 * net_now_ns; UINT64_MAX: for ever). *out is the caller's to finish after PROTO_OK. Else:
 * PROTO_TIMEOUT, PROTO_CANCELLED, PROTO_NOMEM; and with out->from set and nothing to finish
 * PROTO_LOST: the connection to that host broke, answers to what was sent over it do not come;
 * PROTO_FORMAT: it sent what does not decode. A listener ignores such a peer, as a link does. */
enum proto_status net_exchange_receive(struct net_exchange *exchange, struct net_received *out,
                                       uint64_t deadline_ns, struct proto_error *error);
void net_received_finish(struct net_received *received);

/* A peer of a listener is given up, see net_link_forget. */
void net_exchange_forget(struct net_exchange *exchange, net_peer peer);

/* Ends the wait in progress, and all later ones at once, with PROTO_CANCELLED. */
void net_exchange_cancel(struct net_exchange *exchange);

/* What is queued gets at most linger_ms to leave. NULL is allowed. */
void net_exchange_destroy(struct net_exchange *exchange, int linger_ms);

#endif
