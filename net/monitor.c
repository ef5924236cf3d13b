/* SPDX-License-Identifier: Apache-2.0 */
/* libzmq reconnects for ever and says what happens to a socket on a monitor socket only. */
#include "net/internal.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

void *net__monitor_open(struct net_loop *loop, void *watched, int events)
{
    /* Never used twice: libzmq lets go of an address some time after its socket was closed. */
    static atomic_ulong number;
    char address[64];
    snprintf(address, sizeof address, "inproc://monitor-%lu", atomic_fetch_add(&number, 1));
    void *monitor = zmq_socket(net__loop_zmq(loop), ZMQ_PAIR);
    /* The reader is connected before there are events: libzmq waits for it. */
    if (monitor && zmq_socket_monitor(watched, address, events) == 0 &&
        zmq_connect(monitor, address) == 0)
        return monitor;
    int why = errno;
    zmq_socket_monitor(watched, NULL, 0);
    if (monitor)
        zmq_close(monitor);
    errno = why;
    return NULL;
}

/* An event is a frame {u16 event, u32 value} and a frame with the endpoint (zmq_socket_monitor). */
unsigned net__monitor_event(void *monitor)
{
    unsigned char frame[6];
    uint16_t event = 0;
    while (event == 0) {
        int len = zmq_recv(monitor, frame, sizeof frame, ZMQ_DONTWAIT);
        if (len < 0 && errno == EINTR)
            continue;
        if (len < 0)
            return 0;
        if (len == (int)sizeof frame)
            memcpy(&event, frame, sizeof event);
        int more = 1;
        size_t size = sizeof more;
        while (zmq_getsockopt(monitor, ZMQ_RCVMORE, &more, &size) == 0 && more)
            zmq_recv(monitor, NULL, 0, ZMQ_DONTWAIT);
    }
    return event;
}

void net__monitor_stop(void *watched)
{
    zmq_socket_monitor(watched, NULL, 0);
}
