/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Messages over ZeroMQ with CURVE always on. A listener has many peers; a connection has one, and
 * reconnects by itself. A peer is known by its public key, which CURVE has proven before any
 * message arrives. What may be said by whom is the caller's to check; a frame that does not decode
 * is dropped, logged once (NET-FRAME-BAD), and the peer is reported by on_bad, after which its
 * messages are ignored. All calls on the loop's thread.
 */
#ifndef NET_LINK_H
#define NET_LINK_H

#include "net/keys.h"
#include "net/loop.h"
#include "proto/wire.h"

struct net_link;

/* Bytes that travel after a message. Received ones are the transport's own memory: nothing is
 * copied; data may be unaligned. */
struct net_payload;

/* Takes over `data`; done(data, arg) is called, on any thread, when the transport no longer needs
 * it. NULL on lack of memory (then done is not called). */
struct net_payload *net_payload_wrap(void *data, size_t len, void (*done)(void *data, void *arg),
                                     void *arg);
/* A copy of the bytes; NULL on lack of memory. */
struct net_payload *net_payload_copy(const void *data, size_t len);
const void *net_payload_data(const struct net_payload *payload);
size_t net_payload_len(const struct net_payload *payload);
/* Any thread. NULL is allowed. */
void net_payload_destroy(struct net_payload *payload);

/* A listener's peer: valid until net_link_forget. The number is never reused by the link. */
typedef uint64_t net_peer;

struct net_link_handler {
    /* msg is borrowed for the call (take fields by copying, or move: a field set to NULL is not
     * freed). *payload (may be NULL) is the handler's if it sets *payload to NULL. from: 0 on a
     * connection. key: the peer's public key; on a connection the server's. */
    void (*on_message)(void *arg, net_peer from, const uint8_t key[PROTO_KEY_BYTES],
                       struct proto_msg *msg, struct net_payload **payload);
    /* A peer sent what does not decode. */
    void (*on_bad)(void *arg, net_peer from, const uint8_t key[PROTO_KEY_BYTES],
                   const struct proto_error *error);
    /* Connections only: the handshake was refused (wrong server key) or keeps failing; may come
     * more than once. May be NULL. */
    void (*on_trouble)(void *arg, const struct proto_error *error);
    /* Connections only: one that had come about was closed. What was on its way is lost; another is
     * made as soon as the other side takes it. May not destroy the link; may be NULL. */
    void (*on_closed)(void *arg);
    void *arg;
};

/* Endpoints are "tcp://HOST:PORT" (port 0 or "*": any free one), "ipc://PATH" or "ipc://@NAME"
 * (abstract). */
enum proto_status net_link_listen(struct net_link **out, struct net_loop *loop,
                                  const char *endpoint, const struct net_keypair *own,
                                  const struct net_link_handler *handler,
                                  struct proto_error *error);
enum proto_status net_link_connect(struct net_link **out, struct net_loop *loop,
                                   const char *endpoint, const struct net_keypair *own,
                                   const uint8_t server_key[PROTO_KEY_BYTES],
                                   const struct net_link_handler *handler,
                                   struct proto_error *error);

/* The endpoint that was bound, with its real port. */
const char *net_link_endpoint(const struct net_link *link);

/* Queues a message; never blocks. Takes *payload (and sets it to NULL) on success and on failure;
 * NULL payload pointer or NULL payload: none. PROTO_LOST: the peer is gone. PROTO_BUSY: the queue
 * (1000 messages a peer) is full. What a connection cannot send yet waits in its queue, and what is
 * in the queue when it breaks goes to whoever answers next at that endpoint with that key. */
enum proto_status net_link_send(struct net_link *link, net_peer to, const struct proto_msg *msg,
                                struct net_payload **payload, struct proto_error *error);

/* The number means nobody from now on, and later messages of the peer are from a new one (of a bad
 * peer they stay ignored). What is queued for it may still leave. To be called for every peer that
 * is given up: a listener knows 16384 at most. */
void net_link_forget(struct net_link *link, net_peer peer);

/* Closes at once; queued messages get at most linger_ms to leave. NULL is allowed. */
void net_link_destroy(struct net_link *link, int linger_ms);

#endif
