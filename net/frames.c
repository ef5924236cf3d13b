/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Messages on sockets: a header frame (protobuf) and at most one payload frame; a ROUTER puts the
 * peer's routing id in front. Every frame of a ROUTER carries the sender's public key as User-Id
 * (zap.c).
 */
#include "net/internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

void net__frames_init(struct net__frames *frames)
{
    frames->route_len = 0;
    frames->n = 0;
    zmq_msg_init(&frames->header);
    zmq_msg_init(&frames->payload);
}

void net__frames_finish(struct net__frames *frames)
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

/* Messages come whole. */
bool net__frames_receive(struct net__frames *frames, void *zmq, bool routed)
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

enum proto_status net__frames_decode(struct net__frames *frames, struct proto_msg *msg,
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

static enum proto_status fail_send(const char *endpoint, struct proto_error *error)
{
    if (errno == EAGAIN)
        return proto_fail(error, PROTO_BUSY, "%s: %d messages wait to be sent", endpoint,
                          NET__QUEUE_MESSAGES);
    return proto_fail(error, PROTO_LOST, "%s: the peer is gone", endpoint);
}

/* Only the first frame meets a full queue or a lost peer: ZeroMQ takes or drops a message as a
 * whole. */
static int send_frames(void *zmq, const struct net__peer *route, const uint8_t *header,
                       size_t header_len, struct net_payload *payload)
{
    if (route && zmq_send(zmq, route->route, route->route_len, ZMQ_DONTWAIT | ZMQ_SNDMORE) < 0)
        return -1;
    if (zmq_send(zmq, header, header_len, ZMQ_DONTWAIT | (payload ? ZMQ_SNDMORE : 0)) < 0)
        return -1;
    return payload ? net__payload_send(payload, zmq, ZMQ_DONTWAIT) : 0;
}

enum proto_status net__send(void *zmq, const struct net__peer *route, const char *endpoint,
                            const struct proto_msg *msg, struct net_payload **payload_ptr,
                            struct proto_error *error)
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
    if (status == PROTO_OK && send_frames(zmq, route, header, header_len, payload) != 0)
        status = fail_send(endpoint, error);
    free(header);
    net_payload_destroy(payload);
    return status;
}
