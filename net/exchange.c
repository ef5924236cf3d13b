/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A wait polls the sockets, the monitors that tell of broken connections, and an event descriptor
 * that a cancel signals. libzmq's own heartbeats, which its I/O threads answer, tell a host that
 * computes for long from one that is gone.
 */
#include "net/exchange.h"

#include <errno.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "net/internal.h"

/* Heartbeats within the time after which silence breaks a connection. */
#define HEARTBEATS 4

#define EVENTS (ZMQ_EVENT_HANDSHAKE_SUCCEEDED | ZMQ_EVENT_DISCONNECTED)

struct place {
    void *zmq, *monitor; /* a listener has no monitor */
    bool connected;
    uint8_t key[PROTO_KEY_BYTES];
    char endpoint[NET__ENDPOINT_BYTES];
};

struct net_exchange {
    struct net_loop *loop;
    struct net__peers *peers; /* of a listener, else NULL */
    int cancel_fd;
    atomic_bool cancelled;
    uint32_t n_places, turn; /* the place that is looked at first, so that each has its turn */
    struct place *places;    /* hosts; a listener has one */
    zmq_pollitem_t *items;   /* the descriptor, then socket and monitor of each place */
};

static enum proto_status create(struct net_exchange **out, struct net_loop *loop, uint32_t n,
                                struct proto_error *error)
{
    *out = NULL;
    struct net_exchange *x = calloc(1, sizeof *x);
    if (!x)
        return proto_fail_nomem(error, sizeof *x, "an exchange");
    net__loop_hold(loop);
    x->loop = loop;
    x->n_places = n;
    x->places = calloc(n, sizeof *x->places);
    x->items = calloc(1 + 2 * (size_t)n, sizeof *x->items);
    x->cancel_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    enum proto_status status = PROTO_OK;
    if (!x->places || !x->items)
        status = proto_fail_nomem(error, n * sizeof *x->places, "connections");
    else if (x->cancel_fd < 0)
        status = proto_fail_errno(error, errno, "cannot create", "an event descriptor");
    if (status != PROTO_OK) {
        x->n_places = 0;
        net_exchange_destroy(x, 0);
        return status;
    }
    *out = x;
    return PROTO_OK;
}

static int set_heartbeat(void *zmq, uint32_t silence_ms)
{
    int period = (int)(silence_ms / HEARTBEATS) + 1, silence = (int)silence_ms;
    return zmq_setsockopt(zmq, ZMQ_HEARTBEAT_IVL, &period, sizeof period) |
           zmq_setsockopt(zmq, ZMQ_HEARTBEAT_TIMEOUT, &silence, sizeof silence);
}

static enum proto_status connect_place(struct net_exchange *x, struct place *place,
                                       const struct net_exchange_host *host,
                                       const struct net_keypair *own, uint32_t silence_ms,
                                       struct proto_error *error)
{
    memcpy(place->key, host->key, PROTO_KEY_BYTES);
    enum proto_status status =
        net__open(&place->zmq, x->loop, host->endpoint, own, host->key, place->endpoint, error);
    if (status != PROTO_OK)
        return status;
    if (set_heartbeat(place->zmq, silence_ms) == 0)
        place->monitor = net__monitor_open(x->loop, place->zmq, EVENTS);
    if (!place->monitor)
        return proto_fail_errno(error, errno, "cannot watch", place->endpoint);
    return net__connect(place->zmq, place->endpoint, error);
}

static void fill_items(struct net_exchange *x)
{
    x->items[0] = (zmq_pollitem_t){.fd = x->cancel_fd, .events = ZMQ_POLLIN};
    for (uint32_t i = 0; i < x->n_places; i++) {
        x->items[1 + i] = (zmq_pollitem_t){.socket = x->places[i].zmq, .events = ZMQ_POLLIN};
        x->items[1 + x->n_places + i] =
            (zmq_pollitem_t){.socket = x->places[i].monitor, .events = ZMQ_POLLIN};
    }
}

static int n_items(const struct net_exchange *x)
{
    return (int)(1 + (x->peers ? 1 : 2 * x->n_places));
}

enum proto_status net_exchange_connect(struct net_exchange **out, struct net_loop *loop,
                                       const struct net_exchange_host *hosts, uint32_t n_hosts,
                                       const struct net_keypair *own, uint32_t silence_ms,
                                       struct proto_error *error)
{
    struct net_exchange *x;
    *out = NULL;
    if (n_hosts == 0 || n_hosts > PROTO_MAX_WORKERS)
        return proto_fail(error, PROTO_LIMIT, "%u hosts of experts: expected 1 to %u", n_hosts,
                          PROTO_MAX_WORKERS);
    enum proto_status status = create(&x, loop, n_hosts, error);
    for (uint32_t i = 0; i < n_hosts && status == PROTO_OK; i++)
        status = connect_place(x, &x->places[i], &hosts[i], own, silence_ms, error);
    if (status != PROTO_OK) {
        net_exchange_destroy(x, 0);
        return status;
    }
    fill_items(x);
    *out = x;
    return PROTO_OK;
}

enum proto_status net_exchange_listen(struct net_exchange **out, struct net_loop *loop,
                                      const char *endpoint, const struct net_keypair *own,
                                      struct proto_error *error)
{
    struct net_exchange *x;
    *out = NULL;
    enum proto_status status = create(&x, loop, 1, error);
    if (status != PROTO_OK)
        return status;
    struct place *place = x->places;
    x->peers = net__peers_create();
    if (!x->peers)
        status = proto_fail_nomem(error, sizeof *place, "peers");
    if (status == PROTO_OK)
        status = net__open(&place->zmq, loop, endpoint, own, NULL, place->endpoint, error);
    if (status == PROTO_OK)
        status = net__bind(place->zmq, place->endpoint, error);
    if (status != PROTO_OK) {
        net_exchange_destroy(x, 0);
        return status;
    }
    fill_items(x);
    *out = x;
    return PROTO_OK;
}

const char *net_exchange_endpoint(const struct net_exchange *x, uint32_t host)
{
    return x->places[host].endpoint;
}

/* Takes one event; true if the connection broke. */
static bool broke(struct place *place)
{
    unsigned event;
    while (place->monitor && (event = net__monitor_event(place->monitor))) {
        bool was = place->connected;
        place->connected = event == ZMQ_EVENT_HANDSHAKE_SUCCEEDED;
        if (was && !place->connected)
            return true;
    }
    return false;
}

enum proto_status net_exchange_send(struct net_exchange *x, net_peer to,
                                    const struct proto_msg *msg, struct net_payload **payload,
                                    struct proto_error *error)
{
    struct place *place = &x->places[x->peers || to >= x->n_places ? 0 : to];
    const struct net__peer *peer = x->peers ? net__peers_find(x->peers, to) : NULL;
    bool known = x->peers ? peer != NULL : to < x->n_places;
    /* What broke before is not this message's matter. */
    while (known && broke(place))
        ;
    if (known && (peer || place->connected))
        return net__send(place->zmq, peer, place->endpoint, msg, payload, error);
    if (payload) {
        net_payload_destroy(*payload);
        *payload = NULL;
    }
    return proto_fail(error, PROTO_LOST, "%s: no connection", place->endpoint);
}

/* Fills *out from a message; PROTO_BUSY: it is nobody's. */
static enum proto_status accept_message(struct net_exchange *x, uint32_t number,
                                        struct net__frames *frames, struct net_received *out,
                                        struct proto_error *error)
{
    struct place *place = &x->places[number];
    struct net__peer *peer = x->peers ? net__peers_sender(x->peers, frames) : NULL;
    if (x->peers && (!peer || peer->bad))
        return PROTO_BUSY;
    out->from = peer ? peer->number : number;
    memcpy(out->key, peer ? peer->key : place->key, PROTO_KEY_BYTES);
    struct proto_error why;
    enum proto_status status = net__frames_decode(frames, &out->msg, &out->payload, &why);
    if (status == PROTO_OK)
        return status;
    if (status != PROTO_FORMAT || !peer)
        return proto_fail(error, status, "%s: %s", place->endpoint, why.text);
    net__peers_shun(peer, place->endpoint, &why);
    net__peers_forget(x->peers, peer->number);
    return PROTO_BUSY;
}

/* Looks at a place for a message or for the end of its connection. PROTO_BUSY: there is none, or
 * with *any, perhaps others. */
static enum proto_status look(struct net_exchange *x, uint32_t number, struct net_received *out,
                              bool *any, struct proto_error *error)
{
    struct place *place = &x->places[number];
    struct net__frames frames;
    net__frames_init(&frames);
    *any = net__frames_receive(&frames, place->zmq, x->peers != NULL);
    enum proto_status status = *any ? accept_message(x, number, &frames, out, error) : PROTO_BUSY;
    net__frames_finish(&frames);
    if (*any || !broke(place))
        return status;
    out->from = number;
    return proto_fail(error, PROTO_LOST, "%s: the connection broke", place->endpoint);
}

/* Looks at all places, the one after the last that had something first. */
static enum proto_status look_around(struct net_exchange *x, struct net_received *out, bool *any,
                                     struct proto_error *error)
{
    *any = false;
    for (uint32_t i = 0; i < x->n_places && !*any; i++) {
        uint32_t number = (x->turn + i) % x->n_places;
        enum proto_status status = look(x, number, out, any, error);
        if (*any)
            x->turn = (number + 1) % x->n_places;
        if (status != PROTO_BUSY)
            return status;
    }
    return PROTO_BUSY;
}

static long wait_ms(uint64_t deadline_ns)
{
    if (deadline_ns == UINT64_MAX)
        return -1;
    uint64_t now_ns = net_now_ns();
    uint64_t ms = deadline_ns > now_ns ? (deadline_ns - now_ns + 999999) / 1000000 : 0;
    return ms < INT_MAX ? (long)ms : INT_MAX;
}

enum proto_status net_exchange_receive(struct net_exchange *x, struct net_received *out,
                                       uint64_t deadline_ns, struct proto_error *error)
{
    memset(out, 0, sizeof *out);
    for (;;) {
        if (atomic_load(&x->cancelled))
            return proto_fail(error, PROTO_CANCELLED, "cancelled");
        bool any;
        enum proto_status status = look_around(x, out, &any, error);
        if (status != PROTO_BUSY)
            return status;
        if (any)
            continue;
        long ms = wait_ms(deadline_ns);
        if (ms == 0)
            return proto_fail(error, PROTO_TIMEOUT, "no answer came in time");
        if (zmq_poll(x->items, n_items(x), ms) < 0 && errno != EINTR)
            return proto_fail_errno(error, errno, "cannot wait for", "messages");
    }
}

void net_received_finish(struct net_received *received)
{
    proto_msg_finish(&received->msg);
    net_payload_destroy(received->payload);
    received->payload = NULL;
}

void net_exchange_forget(struct net_exchange *x, net_peer peer)
{
    if (x->peers)
        net__peers_forget(x->peers, peer);
}

void net_exchange_cancel(struct net_exchange *x)
{
    const uint64_t one = 1;
    atomic_store(&x->cancelled, true);
    /* Fails only where the descriptor is signalled already. */
    if (write(x->cancel_fd, &one, sizeof one) < 0)
        return;
}

void net_exchange_destroy(struct net_exchange *x, int linger_ms)
{
    if (!x)
        return;
    for (uint32_t i = 0; x->places && i < x->n_places; i++) {
        struct place *place = &x->places[i];
        if (place->monitor) {
            net__monitor_stop(place->zmq);
            zmq_close(place->monitor);
        }
        if (!place->zmq)
            continue;
        zmq_setsockopt(place->zmq, ZMQ_LINGER, &linger_ms, sizeof linger_ms);
        zmq_close(place->zmq);
    }
    if (x->cancel_fd >= 0)
        close(x->cancel_fd);
    net__loop_release(x->loop);
    net__peers_destroy(x->peers);
    free(x->places);
    free(x->items);
    free(x);
}
