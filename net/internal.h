/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of this folder share. Everything is for the loop's thread, except what says
 * otherwise and what exchange.c uses: functions over a socket are for the thread that owns it. */
#ifndef NET_INTERNAL_H
#define NET_INTERNAL_H

#include <stdbool.h>
#include <uv.h>
#include <zmq.h>

#include "net/link.h"
#include "net/loop.h"

#define NET__ENDPOINT_BYTES (NET_ADDRESS_BYTES + 16)

struct net__peer;

uv_loop_t *net__loop_uv(struct net_loop *loop);
/* The loop's ZeroMQ context, which has an I/O thread of its own. Any thread. */
void *net__loop_zmq(struct net_loop *loop);
/* Something lives on the loop, or does no more: a loop is destroyed last. Any thread. */
void net__loop_hold(struct net_loop *loop);
void net__loop_release(struct net_loop *loop);

/* A ZeroMQ socket whose events the loop handles (socket.c). */
struct net__socket;

/* Takes the socket over on success. on_ready takes one message off it and handles it, or returns
 * false if there is none; it may close the socket. */
enum proto_status net__socket_create(struct net__socket **out, struct net_loop *loop, void *zmq,
                                     bool (*on_ready)(void *arg), void *arg,
                                     struct proto_error *error);
/* To be called after each send: it may have swallowed the signal that a message has come. */
void net__socket_touch(struct net__socket *socket);
/* No more on_ready; closed(arg) (may be NULL) comes later from the loop. NULL socket is allowed,
 * then closed is not called. */
void net__socket_close(struct net__socket *socket, int linger_ms, void (*closed)(void *arg),
                       void *arg);

/* Answers libzmq's questions whether a client may connect (zap.c). */
enum proto_status net__zap_create(struct net__socket **out, struct net_loop *loop,
                                  struct proto_error *error);

/* The payload takes the message's content and leaves it empty; NULL on lack of memory. */
struct net_payload *net__payload_adopt(zmq_msg_t *msg);
/* Sends the content, if it returns 0; else errno is ZeroMQ's. */
int net__payload_send(struct net_payload *payload, void *zmq, int flags);

/* ---- what links and exchanges share ---- */

#define NET__QUEUE_MESSAGES 1000

/* Opens a socket that is neither bound nor connected, with CURVE and bounds (open.c): a DEALER
 * where there is a server's key, else a ROUTER. `endpoint` is checked, and copied to `own`. */
enum proto_status net__open(void **zmq, struct net_loop *loop, const char *endpoint,
                            const struct net_keypair *keys, const uint8_t *server_key,
                            char own[NET__ENDPOINT_BYTES], struct proto_error *error);
/* Binds, and puts the real port into the endpoint. */
enum proto_status net__bind(void *zmq, char endpoint[NET__ENDPOINT_BYTES],
                            struct proto_error *error);
enum proto_status net__connect(void *zmq, const char *endpoint, struct proto_error *error);

/* A message as it comes off a socket (frames.c): a header (protobuf) and at most one payload. */
struct net__frames {
    uint8_t route[255]; /* of a ROUTER's: ZeroMQ's routing id */
    size_t route_len;
    zmq_msg_t header, payload;
    unsigned n; /* header, payload and what should not be there */
};

void net__frames_init(struct net__frames *frames);
void net__frames_finish(struct net__frames *frames);
/* False if there is no message. */
bool net__frames_receive(struct net__frames *frames, void *zmq, bool routed);
enum proto_status net__frames_decode(struct net__frames *frames, struct proto_msg *msg,
                                     struct net_payload **payload, struct proto_error *error);

/* Encodes and queues a message; route NULL: the socket has one peer. Takes *payload, as
 * net_link_send does. The texts of errors name the endpoint. */
enum proto_status net__send(void *zmq, const struct net__peer *route, const char *endpoint,
                            const struct proto_msg *msg, struct net_payload **payload,
                            struct proto_error *error);

/* A socket that gets what happens to another (monitor.c), opened before that one connects. NULL:
 * errno says why. */
void *net__monitor_open(struct net_loop *loop, void *watched, int events);
/* The next event (ZMQ_EVENT_...), or 0. */
unsigned net__monitor_event(void *monitor);
void net__monitor_stop(void *watched);

/* The peers of a listener (peers.c). */
struct net__peer {
    net_peer number;
    uint8_t key[PROTO_KEY_BYTES];
    bool bad; /* its messages are ignored */
    uint8_t route_len;
    uint8_t route[255]; /* ZeroMQ's routing id */
    struct net__peer *next_by_route, *next_by_number;
};

struct net__peers;

struct net__peers *net__peers_create(void);
void net__peers_destroy(struct net__peers *peers);
/* The peer with this routing id and key, a new one if there is none. NULL: too many, or no
 * memory. route_len is at most 255. */
struct net__peer *net__peers_take(struct net__peers *peers, const void *route, size_t route_len,
                                  const uint8_t key[PROTO_KEY_BYTES]);
/* The sender of a ROUTER's message: NULL if CURVE has proven no key, or as net__peers_take. */
struct net__peer *net__peers_sender(struct net__peers *peers, struct net__frames *frames);
struct net__peer *net__peers_find(const struct net__peers *peers, net_peer number);
/* A peer's message made no sense: it is logged, and the peer's others are ignored. */
void net__peers_shun(struct net__peer *peer, const char *endpoint, const struct proto_error *error);
/* The number is no more; a bad peer's route stays ignored. */
void net__peers_forget(struct net__peers *peers, net_peer number);

/* Watches how a connection fares (trouble.c). Attached before the socket connects. */
struct net__trouble;

enum proto_status net__trouble_attach(struct net__trouble **out, struct net_loop *loop, void *zmq,
                                      const char *endpoint, const struct net_link_handler *handler,
                                      struct proto_error *error);
/* Before the socket is closed. NULL is allowed. */
void net__trouble_detach(struct net__trouble *trouble);

#endif
