/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A listener is a ROUTER socket, a connection a DEALER. A message is a header frame (protobuf) and
 * at most one payload frame; a ROUTER puts the peer's routing id in front. Every frame of a
 * listener carries the sender's public key as User-Id (zap.c).
 */
#include "net/internal.h"

#include <errno.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#include "net/address.h"
#include "proto/log.h"

#define QUEUE_MESSAGES   1000
#define HANDSHAKE_MS     3000
#define RECONNECT_MS     100
#define RECONNECT_MAX_MS 2000
#define KEEPALIVE_IDLE_S 30
/* A frame on the wire is a little longer than what is in it: CURVE's nonce and authenticator. */
#define CURVE_EXTRA_BYTES 64

struct net_link {
    struct net_loop *loop;
    void *zmq;
    struct net__socket *socket;
    struct net__trouble *trouble; /* of a connection */
    struct net__peers *peers;     /* of a listener, else NULL */
    struct net__peer server;      /* of a connection */
    bool full_logged;
    struct net_link_handler handler;
    char endpoint[NET_ADDRESS_BYTES + 16];
};

/* A message as it comes off the socket. */
struct frames {
    uint8_t route[255];
    size_t route_len;
    zmq_msg_t header, payload;
    unsigned n; /* header, payload and what should not be there */
};

static void frames_init(struct frames *frames)
{
    frames->route_len = 0;
    frames->n = 0;
    zmq_msg_init(&frames->header);
    zmq_msg_init(&frames->payload);
}

static void frames_finish(struct frames *frames)
{
    zmq_msg_close(&frames->header);
    zmq_msg_close(&frames->payload);
}

static int receive_frame(void *zmq, zmq_msg_t *frame)
{
    int rc;
    do
        rc = zmq_msg_recv(frame, zmq, ZMQ_DONTWAIT);
    while (rc < 0 && errno == EINTR);
    return rc;
}

/* Returns false if there is no message. Messages come whole. */
static bool frames_receive(struct frames *frames, void *zmq, bool routed)
{
    zmq_msg_t spare;
    zmq_msg_init(&spare);
    bool more = true, any = false;
    while (more) {
        zmq_msg_t *frame = &spare;
        bool is_route = routed && !any;
        if (!is_route && frames->n == 0)
            frame = &frames->header;
        else if (!is_route && frames->n == 1)
            frame = &frames->payload;
        if (receive_frame(zmq, frame) < 0)
            break;
        any = true;
        more = zmq_msg_more(frame);
        if (!is_route) {
            frames->n++;
            continue;
        }
        size_t len = zmq_msg_size(frame);
        frames->route_len = len < sizeof frames->route ? len : sizeof frames->route;
        memcpy(frames->route, zmq_msg_data(frame), frames->route_len);
    }
    zmq_msg_close(&spare);
    return any;
}

/* The key that CURVE has proven. */
static bool proven_key(zmq_msg_t *frame, uint8_t key[PROTO_KEY_BYTES])
{
    const char *user = zmq_msg_gets(frame, "User-Id");
    size_t len = 0;
    return user &&
           sodium_hex2bin(key, PROTO_KEY_BYTES, user, strlen(user), NULL, &len, NULL) == 0 &&
           len == PROTO_KEY_BYTES;
}

static struct net__peer *sender(struct net_link *link, struct frames *frames)
{
    if (!link->peers)
        return &link->server;
    uint8_t key[PROTO_KEY_BYTES];
    if (frames->n == 0 || !proven_key(&frames->header, key))
        return NULL;
    struct net__peer *peer = net__peers_take(link->peers, frames->route, frames->route_len, key);
    if (!peer && !link->full_logged) {
        link->full_logged = true;
        proto_log(PROTO_LOG_ERROR, "NET-PEERS-FULL", "endpoint=%s", link->endpoint);
    }
    return peer;
}

static enum proto_status decode(struct frames *frames, struct proto_msg *msg,
                                struct net_payload **payload, struct proto_error *error)
{
    if (frames->n > 2)
        return proto_fail(error, PROTO_FORMAT, "message of %u frames, at most 2 are expected",
                          frames->n);
    if (zmq_msg_size(&frames->payload) > PROTO_MAX_PAYLOAD_BYTES)
        return proto_fail(error, PROTO_FORMAT, "payload of %zu bytes, at most %u are expected",
                          zmq_msg_size(&frames->payload), PROTO_MAX_PAYLOAD_BYTES);
    enum proto_status status =
        proto_msg_decode(zmq_msg_data(&frames->header), zmq_msg_size(&frames->header), msg, error);
    if (status != PROTO_OK || frames->n < 2)
        return status;
    *payload = net__payload_adopt(&frames->payload);
    if (*payload)
        return PROTO_OK;
    proto_msg_finish(msg);
    return proto_fail_nomem(error, sizeof(zmq_msg_t), "a payload");
}

static void shun(struct net_link *link, struct net__peer *peer, const struct proto_error *error)
{
    char id[17];
    sodium_bin2hex(id, sizeof id, peer->key, 8);
    proto_log(PROTO_LOG_WARN, "NET-FRAME-BAD", "endpoint=%s peer=%llu key=%s... error=\"%s\"",
              link->endpoint, (unsigned long long)peer->number, id, error->text);
    peer->bad = true;
    /* The handler may forget the peer. */
    const struct net__peer copy = *peer;
    link->handler.on_bad(link->handler.arg, copy.number, copy.key, error);
}

static void deliver(struct net_link *link, struct net__peer *peer, struct frames *frames)
{
    struct proto_msg msg;
    struct net_payload *payload = NULL;
    struct proto_error error;
    if (decode(frames, &msg, &payload, &error) != PROTO_OK) {
        shun(link, peer, &error);
        return;
    }
    uint8_t key[PROTO_KEY_BYTES];
    memcpy(key, peer->key, sizeof key);
    link->handler.on_message(link->handler.arg, peer->number, key, &msg, &payload);
    net_payload_destroy(payload);
    proto_msg_finish(&msg);
}

static bool on_ready(void *arg)
{
    struct net_link *link = arg;
    struct frames frames;
    frames_init(&frames);
    bool any = frames_receive(&frames, link->zmq, link->peers != NULL);
    struct net__peer *peer = any ? sender(link, &frames) : NULL;
    if (peer && !peer->bad)
        deliver(link, peer, &frames);
    frames_finish(&frames);
    return any;
}

static int set_int(void *zmq, int option, int value)
{
    return zmq_setsockopt(zmq, option, &value, sizeof value);
}

static int set_key(void *zmq, int option, const uint8_t key[PROTO_KEY_BYTES])
{
    return zmq_setsockopt(zmq, option, key, PROTO_KEY_BYTES);
}

static int set_options(struct net_link *link, const struct net_keypair *own)
{
    void *zmq = link->zmq;
    int64_t most = (int64_t)PROTO_MAX_PAYLOAD_BYTES + CURVE_EXTRA_BYTES;
    int rc = zmq_setsockopt(zmq, ZMQ_MAXMSGSIZE, &most, sizeof most);
    rc |= set_int(zmq, ZMQ_LINGER, 0);
    rc |= set_int(zmq, ZMQ_IPV6, 1);
    rc |= set_int(zmq, ZMQ_SNDHWM, QUEUE_MESSAGES);
    rc |= set_int(zmq, ZMQ_RCVHWM, QUEUE_MESSAGES);
    rc |= set_int(zmq, ZMQ_HANDSHAKE_IVL, HANDSHAKE_MS);
    rc |= set_int(zmq, ZMQ_TCP_KEEPALIVE, 1);
    rc |= set_int(zmq, ZMQ_TCP_KEEPALIVE_IDLE, KEEPALIVE_IDLE_S);
    rc |= set_key(zmq, ZMQ_CURVE_SECRETKEY, own->secret_key);
    rc |= set_key(zmq, ZMQ_CURVE_PUBLICKEY, own->public_key);
    if (link->peers) {
        rc |= set_int(zmq, ZMQ_CURVE_SERVER, 1);
        rc |= zmq_setsockopt(zmq, ZMQ_ZAP_DOMAIN, "caravan", strlen("caravan"));
        rc |= set_int(zmq, ZMQ_ROUTER_MANDATORY, 1);
    } else {
        rc |= set_key(zmq, ZMQ_CURVE_SERVERKEY, link->server.key);
        rc |= set_int(zmq, ZMQ_RECONNECT_IVL, RECONNECT_MS);
        rc |= set_int(zmq, ZMQ_RECONNECT_IVL_MAX, RECONNECT_MAX_MS);
    }
    return rc;
}

/* Frees what is not the socket's. */
static void free_link(void *arg)
{
    struct net_link *link = arg;
    net__peers_destroy(link->peers);
    free(link);
}

static enum proto_status check_endpoint(struct net_link *link, const char *endpoint, bool listening,
                                        struct proto_error *error)
{
    if (strncmp(endpoint, "tcp://", 6) != 0 && strncmp(endpoint, "ipc://", 6) != 0)
        return proto_fail(error, PROTO_INVALID,
                          "endpoint \"%.300s\": expected tcp://HOST:PORT or ipc://PATH", endpoint);
    return net_address_endpoint(endpoint, listening, link->endpoint, sizeof link->endpoint, error);
}

/* A link with a socket that is neither bound nor connected. */
static enum proto_status create(struct net_link **out, struct net_loop *loop, const char *endpoint,
                                const struct net_keypair *own, const uint8_t *server_key,
                                const struct net_link_handler *handler, struct proto_error *error)
{
    *out = NULL;
    struct net_link *link = calloc(1, sizeof *link);
    if (!link)
        return proto_fail_nomem(error, sizeof *link, "a socket");
    enum proto_status status = check_endpoint(link, endpoint, !server_key, error);
    if (status != PROTO_OK) {
        free(link);
        return status;
    }
    link->loop = loop;
    link->handler = *handler;
    if (server_key)
        memcpy(link->server.key, server_key, PROTO_KEY_BYTES);
    else
        link->peers = net__peers_create();
    if (!server_key && !link->peers)
        status = proto_fail_nomem(error, sizeof *link, "peers");
    else if (!(link->zmq = zmq_socket(net__loop_zmq(loop), server_key ? ZMQ_DEALER : ZMQ_ROUTER)) ||
             set_options(link, own) != 0)
        status = proto_fail_errno(error, errno, "cannot create a socket for", endpoint);
    else
        status = net__socket_create(&link->socket, loop, link->zmq, on_ready, link, error);
    if (status != PROTO_OK) {
        if (link->zmq)
            zmq_close(link->zmq);
        free_link(link);
        return status;
    }
    net__loop_hold(loop);
    *out = link;
    return PROTO_OK;
}

static enum proto_status fail_endpoint(const struct net_link *link, const char *action,
                                       struct proto_error *error)
{
    const char *why = zmq_strerror(errno);
    if (errno == EADDRINUSE)
        why = "address already in use; choose another port";
    else if (errno == ENODEV || errno == EADDRNOTAVAIL)
        why = "no such address on this machine; give one of its addresses, or * for all";
    else if (errno == EINVAL)
        why = "not a valid endpoint; expected tcp://HOST:PORT or ipc://PATH";
    return proto_fail(error, errno == EINVAL ? PROTO_INVALID : PROTO_IO, "cannot %s %s: %s", action,
                      link->endpoint, why);
}

enum proto_status net_link_listen(struct net_link **out, struct net_loop *loop,
                                  const char *endpoint, const struct net_keypair *own,
                                  const struct net_link_handler *handler, struct proto_error *error)
{
    struct net_link *link;
    enum proto_status status = create(&link, loop, endpoint, own, NULL, handler, error);
    *out = NULL;
    if (status != PROTO_OK)
        return status;
    size_t size = sizeof link->endpoint;
    if (zmq_bind(link->zmq, endpoint) != 0) {
        status = fail_endpoint(link, "listen on", error);
    } else if (zmq_getsockopt(link->zmq, ZMQ_LAST_ENDPOINT, link->endpoint, &size) != 0) {
        status = proto_fail_errno(error, errno, "cannot find the port of", endpoint);
    }
    if (status != PROTO_OK) {
        net_link_destroy(link, 0);
        return status;
    }
    *out = link;
    return PROTO_OK;
}

enum proto_status net_link_connect(struct net_link **out, struct net_loop *loop,
                                   const char *endpoint, const struct net_keypair *own,
                                   const uint8_t server_key[PROTO_KEY_BYTES],
                                   const struct net_link_handler *handler,
                                   struct proto_error *error)
{
    struct net_link *link;
    enum proto_status status = create(&link, loop, endpoint, own, server_key, handler, error);
    *out = NULL;
    if (status != PROTO_OK)
        return status;
    status =
        net__trouble_attach(&link->trouble, loop, link->zmq, link->endpoint, &link->handler, error);
    if (status == PROTO_OK && zmq_connect(link->zmq, endpoint) != 0)
        status = fail_endpoint(link, "connect to", error);
    if (status != PROTO_OK) {
        net_link_destroy(link, 0);
        return status;
    }
    *out = link;
    return PROTO_OK;
}

const char *net_link_endpoint(const struct net_link *link)
{
    return link->endpoint;
}

static enum proto_status fail_send(const struct net_link *link, struct proto_error *error)
{
    if (errno == EAGAIN)
        return proto_fail(error, PROTO_BUSY, "%s: %d messages wait to be sent", link->endpoint,
                          QUEUE_MESSAGES);
    return proto_fail(error, PROTO_LOST, "%s: the peer is gone", link->endpoint);
}

/* Only the first frame meets a full queue or a lost peer: ZeroMQ takes or drops a message as a
 * whole. */
static enum proto_status send_frames(struct net_link *link, net_peer to, const uint8_t *header,
                                     size_t header_len, struct net_payload *payload,
                                     struct proto_error *error)
{
    if (link->peers) {
        const struct net__peer *peer = net__peers_find(link->peers, to);
        if (!peer)
            return proto_fail(error, PROTO_LOST, "%s: no peer %llu", link->endpoint,
                              (unsigned long long)to);
        if (zmq_send(link->zmq, peer->route, peer->route_len, ZMQ_DONTWAIT | ZMQ_SNDMORE) < 0)
            return fail_send(link, error);
    }
    if (zmq_send(link->zmq, header, header_len, ZMQ_DONTWAIT | (payload ? ZMQ_SNDMORE : 0)) < 0)
        return fail_send(link, error);
    if (payload && net__payload_send(payload, link->zmq, ZMQ_DONTWAIT) != 0)
        return fail_send(link, error);
    return PROTO_OK;
}

enum proto_status net_link_send(struct net_link *link, net_peer to, const struct proto_msg *msg,
                                struct net_payload **payload_ptr, struct proto_error *error)
{
    struct net_payload *payload = payload_ptr ? *payload_ptr : NULL;
    if (payload_ptr)
        *payload_ptr = NULL;
    uint8_t *header = NULL;
    size_t header_len = 0;
    enum proto_status status = proto_msg_encode(msg, &header, &header_len, error);
    if (status == PROTO_OK && payload && net_payload_len(payload) > PROTO_MAX_PAYLOAD_BYTES)
        status = proto_fail(error, PROTO_LIMIT, "payload of %zu bytes, at most %u can be sent",
                            net_payload_len(payload), PROTO_MAX_PAYLOAD_BYTES);
    if (status == PROTO_OK) {
        status = send_frames(link, to, header, header_len, payload, error);
        net__socket_touch(link->socket);
    }
    free(header);
    net_payload_destroy(payload);
    return status;
}

void net_link_forget(struct net_link *link, net_peer peer)
{
    if (link->peers)
        net__peers_forget(link->peers, peer);
}

void net_link_destroy(struct net_link *link, int linger_ms)
{
    if (!link)
        return;
    net__loop_release(link->loop);
    net__trouble_detach(link->trouble);
    net__socket_close(link->socket, linger_ms, free_link, link);
}
