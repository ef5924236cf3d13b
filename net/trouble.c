/* SPDX-License-Identifier: Apache-2.0 */
/* Tells a connection's owner why it does not come about, and when it ends. */
#include "net/internal.h"

#include <errno.h>
#include <stdlib.h>

/* Said at the third attempt in vain (the other side may just be starting), then seldom. */
#define FIRST_REPORT 3u
#define NEXT_REPORTS 64u

#define EVENTS                                                                                     \
    (ZMQ_EVENT_CONNECTED | ZMQ_EVENT_CONNECT_RETRIED | ZMQ_EVENT_HANDSHAKE_SUCCEEDED |             \
     ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL | ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL |                  \
     ZMQ_EVENT_HANDSHAKE_FAILED_AUTH | ZMQ_EVENT_DISCONNECTED)

struct net__trouble {
    void *watched, *monitor;
    struct net__socket *socket;
    const char *endpoint;
    const struct net_link_handler *handler;
    unsigned unreached; /* attempts since the other side was reached */
    unsigned cut;       /* connections that ended within the handshake, since one succeeded */
    unsigned failed;    /* handshakes since one succeeded */
    bool proven;        /* the other side had the right key once */
    bool up;            /* the connection has come about */
};

static void report(struct net__trouble *trouble, enum proto_status status, const char *what)
{
    struct proto_error error;
    proto_fail(&error, status, "%s: %s", trouble->endpoint, what);
    if (trouble->handler->on_trouble)
        trouble->handler->on_trouble(trouble->handler->arg, &error);
}

static void report_refused(struct net__trouble *trouble)
{
    report(
        trouble, PROTO_REFUSED,
        "the handshake was refused; the key we have is not this cluster's (make a new token with "
        "'caravan keygen'), or what listens there is not Caravan");
}

/* Who has another key breaks off, each time. So does who ends, or is stopped, at that moment, and a
 * relay with nobody behind it. */
static void handle_cut(struct net__trouble *trouble)
{
    if (++trouble->cut % NEXT_REPORTS != FIRST_REPORT)
        return;
    if (trouble->proven)
        report(trouble, PROTO_LOST,
               "connections are closed before anything is said; is the coordinator or worker "
               "running there?");
    else
        report_refused(trouble);
}

/* Also comes where a handshake failed. */
static void handle_end(struct net__trouble *trouble)
{
    bool was_up = trouble->up;
    trouble->up = false;
    if (was_up && trouble->handler->on_closed)
        trouble->handler->on_closed(trouble->handler->arg);
}

static void handle(struct net__trouble *trouble, unsigned event)
{
    switch (event) {
    case ZMQ_EVENT_CONNECTED:
        trouble->unreached = 0;
        break;
    case ZMQ_EVENT_CONNECT_RETRIED:
        if (++trouble->unreached % NEXT_REPORTS == FIRST_REPORT)
            report(trouble, PROTO_LOST,
                   "no connection (refused or unreachable); is the address right, and is the "
                   "coordinator or worker running there?");
        break;
    case ZMQ_EVENT_HANDSHAKE_SUCCEEDED:
        trouble->failed = trouble->cut = 0;
        trouble->proven = trouble->up = true;
        break;
    case ZMQ_EVENT_DISCONNECTED:
        handle_end(trouble);
        break;
    case ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL:
        handle_cut(trouble);
        break;
    case ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL:
    case ZMQ_EVENT_HANDSHAKE_FAILED_AUTH:
        if (trouble->failed++ % NEXT_REPORTS == 0)
            report_refused(trouble);
        break;
    default:
        break;
    }
}

static bool on_ready(void *arg)
{
    struct net__trouble *trouble = arg;
    unsigned event = net__monitor_event(trouble->monitor);
    if (event)
        handle(trouble, event);
    return event != 0;
}

enum proto_status net__trouble_attach(struct net__trouble **out, struct net_loop *loop, void *zmq,
                                      const char *endpoint, const struct net_link_handler *handler,
                                      struct proto_error *error)
{
    *out = NULL;
    struct net__trouble *trouble = calloc(1, sizeof *trouble);
    if (!trouble)
        return proto_fail_nomem(error, sizeof *trouble, "a connection");
    trouble->watched = zmq;
    trouble->endpoint = endpoint;
    trouble->handler = handler;
    enum proto_status status = PROTO_OK;
    trouble->monitor = net__monitor_open(loop, zmq, EVENTS);
    if (!trouble->monitor)
        status = proto_fail_errno(error, errno, "cannot watch", endpoint);
    else
        status =
            net__socket_create(&trouble->socket, loop, trouble->monitor, on_ready, trouble, error);
    if (status == PROTO_OK) {
        *out = trouble;
        return PROTO_OK;
    }
    if (trouble->monitor) {
        net__monitor_stop(zmq);
        zmq_close(trouble->monitor);
    }
    free(trouble);
    return status;
}

void net__trouble_detach(struct net__trouble *trouble)
{
    if (!trouble)
        return;
    net__monitor_stop(trouble->watched);
    net__socket_close(trouble->socket, 0, free, trouble);
}
