/* SPDX-License-Identifier: Apache-2.0 */
/* A listener is a ROUTER socket, a connection a DEALER. */
#include "net/internal.h"

#include <stdlib.h>
#include <string.h>

struct net_link {
    struct net_loop *loop;
    void *zmq;
    struct net__socket *socket;
    struct net__trouble *trouble; /* of a connection */
    struct net__peers *peers;     /* of a listener, else NULL */
    struct net__peer server;      /* of a connection */
    struct net_link_handler handler;
    char endpoint[NET__ENDPOINT_BYTES];
};

static void shun(struct net_link *link, struct net__peer *peer, const struct proto_error *error)
{
    net__peers_shun(peer, link->endpoint, error);
    /* The handler may forget the peer. */
    const struct net__peer copy = *peer;
    link->handler.on_bad(link->handler.arg, copy.number, copy.key, error);
}

static void deliver(struct net_link *link, struct net__peer *peer, struct net__frames *frames)
{
    struct proto_msg msg;
    struct net_payload *payload = NULL;
    struct proto_error error;
    if (net__frames_decode(frames, &msg, &payload, &error) != PROTO_OK) {
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
    struct net__frames frames;
    net__frames_init(&frames);
    bool any = net__frames_receive(&frames, link->zmq, link->peers != NULL);
    struct net__peer *peer = &link->server;
    if (link->peers)
        peer = any ? net__peers_sender(link->peers, &frames) : NULL;
    if (any && peer && !peer->bad)
        deliver(link, peer, &frames);
    net__frames_finish(&frames);
    return any;
}

/* Frees what is not the socket's. */
static void free_link(void *arg)
{
    struct net_link *link = arg;
    net__peers_destroy(link->peers);
    free(link);
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
    link->loop = loop;
    link->handler = *handler;
    if (server_key)
        memcpy(link->server.key, server_key, PROTO_KEY_BYTES);
    else
        link->peers = net__peers_create();
    enum proto_status status = PROTO_OK;
    if (!server_key && !link->peers)
        status = proto_fail_nomem(error, sizeof *link, "peers");
    if (status == PROTO_OK)
        status = net__open(&link->zmq, loop, endpoint, own, server_key, link->endpoint, error);
    if (status == PROTO_OK)
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

enum proto_status net_link_listen(struct net_link **out, struct net_loop *loop,
                                  const char *endpoint, const struct net_keypair *own,
                                  const struct net_link_handler *handler, struct proto_error *error)
{
    struct net_link *link;
    enum proto_status status = create(&link, loop, endpoint, own, NULL, handler, error);
    *out = NULL;
    if (status != PROTO_OK)
        return status;
    status = net__bind(link->zmq, link->endpoint, error);
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
    if (status == PROTO_OK)
        status = net__connect(link->zmq, link->endpoint, error);
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

enum proto_status net_link_send(struct net_link *link, net_peer to, const struct proto_msg *msg,
                                struct net_payload **payload, struct proto_error *error)
{
    const struct net__peer *peer = link->peers ? net__peers_find(link->peers, to) : NULL;
    if (link->peers && !peer) {
        if (payload) {
            net_payload_destroy(*payload);
            *payload = NULL;
        }
        return proto_fail(error, PROTO_LOST, "%s: no peer %llu", link->endpoint,
                          (unsigned long long)to);
    }
    enum proto_status status = net__send(link->zmq, peer, link->endpoint, msg, payload, error);
    net__socket_touch(link->socket);
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
