/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ZeroMQ sockets on a libuv loop. A socket's file descriptor (ZMQ_FD) says that "something
 * happened" to the socket, once: any later call on the socket, a send as well, may consume that
 * signal while messages are left to be received, and no other signal comes for them. So the rule
 * is: after anything was done with a socket it is received from until it says that it is empty,
 * which (see zmq_recv: it handles all pending commands before it answers EAGAIN) also rearms the
 * descriptor.
 *
 * One turn receives a limited number of messages. What is left is the next turn's: an idle handle
 * keeps the loop from sleeping, and timers and other sockets have their chance in between.
 */
#include "net/internal.h"

#include <errno.h>
#include <stdlib.h>

#define MESSAGES_PER_TURN 64

struct net__socket {
    void *zmq; /* NULL: closing */
    uv_poll_t poll;
    uv_idle_t more;
    bool has_poll;
    bool (*on_ready)(void *arg);
    void *arg;
    int open_handles;
    void (*closed)(void *arg);
    void *closed_arg;
};

static void turn(struct net__socket *socket)
{
    for (int i = 0; i < MESSAGES_PER_TURN; i++) {
        bool any = socket->on_ready(socket->arg);
        if (!socket->zmq)
            return;
        if (!any) {
            uv_idle_stop(&socket->more);
            return;
        }
    }
    net__socket_touch(socket);
}

static void on_more(uv_idle_t *more)
{
    turn(more->data);
}

static void on_poll(uv_poll_t *poll, int status, int events)
{
    (void)status;
    (void)events;
    turn(poll->data);
}

void net__socket_touch(struct net__socket *socket)
{
    uv_idle_start(&socket->more, on_more);
}

static void handle_closed(uv_handle_t *handle)
{
    struct net__socket *socket = handle->data;
    if (--socket->open_handles > 0)
        return;
    if (socket->closed)
        socket->closed(socket->closed_arg);
    free(socket);
}

static void close_handles(struct net__socket *socket)
{
    uv_close((uv_handle_t *)&socket->more, handle_closed);
    if (socket->has_poll)
        uv_close((uv_handle_t *)&socket->poll, handle_closed);
}

enum proto_status net__socket_create(struct net__socket **out, struct net_loop *loop, void *zmq,
                                     bool (*on_ready)(void *arg), void *arg,
                                     struct proto_error *error)
{
    *out = NULL;
    int fd;
    size_t size = sizeof fd;
    if (zmq_getsockopt(zmq, ZMQ_FD, &fd, &size) != 0)
        return proto_fail_errno(error, errno, "cannot watch", "a socket");
    struct net__socket *socket = calloc(1, sizeof *socket);
    if (!socket)
        return proto_fail_nomem(error, sizeof *socket, "a socket");
    socket->on_ready = on_ready;
    socket->arg = arg;
    uv_idle_init(net__loop_uv(loop), &socket->more);
    socket->more.data = socket;
    socket->open_handles = 1;
    int rc = uv_poll_init(net__loop_uv(loop), &socket->poll, fd);
    if (rc == 0) {
        socket->has_poll = true;
        socket->poll.data = socket;
        socket->open_handles = 2;
        rc = uv_poll_start(&socket->poll, UV_READABLE, on_poll);
    }
    if (rc != 0) {
        close_handles(socket);
        return proto_fail_errno(error, -rc, "cannot watch", "a socket");
    }
    socket->zmq = zmq;
    /* Something may have happened before the descriptor was watched. */
    net__socket_touch(socket);
    *out = socket;
    return PROTO_OK;
}

void net__socket_close(struct net__socket *socket, int linger_ms, void (*closed)(void *arg),
                       void *arg)
{
    if (!socket)
        return;
    void *zmq = socket->zmq;
    socket->zmq = NULL;
    socket->closed = closed;
    socket->closed_arg = arg;
    /* The descriptor goes with the socket, so the loop must have let go of it before. */
    close_handles(socket);
    zmq_setsockopt(zmq, ZMQ_LINGER, &linger_ms, sizeof linger_ms);
    zmq_close(zmq);
}
