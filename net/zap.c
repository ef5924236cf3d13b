/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The ZeroMQ authentication protocol (RFC 27/ZAP): libzmq asks, for each client that has proven
 * its CURVE key, whether it may connect. Every key may; what it may do is decided from its
 * messages, which carry the key as User-Id (hexadecimal). The cluster's public key, which a client
 * needs to get this far, is in the join token only. Mechanisms without keys are refused.
 */
#include "net/internal.h"

#include <errno.h>
#include <sodium.h>
#include <string.h>

/* version, request id, domain, address, identity, mechanism, credentials */
enum { VERSION, REQUEST, DOMAIN, ADDRESS, IDENTITY, MECHANISM, CREDENTIALS, N_FRAMES };

#define FRAME_BYTES 256

struct request {
    unsigned n; /* frames seen, may be above N_FRAMES */
    size_t len[N_FRAMES];
    char data[N_FRAMES][FRAME_BYTES];
};

static bool is(const struct request *request, int frame, const char *text)
{
    return request->len[frame] == strlen(text) &&
           memcmp(request->data[frame], text, request->len[frame]) == 0;
}

static bool receive(void *zmq, struct request *request)
{
    int more = 1;
    for (request->n = 0; more; request->n++) {
        zmq_msg_t frame;
        zmq_msg_init(&frame);
        int rc;
        do
            rc = zmq_msg_recv(&frame, zmq, ZMQ_DONTWAIT);
        while (rc < 0 && errno == EINTR);
        if (rc < 0) {
            zmq_msg_close(&frame);
            return false;
        }
        more = zmq_msg_more(&frame);
        if (request->n < N_FRAMES) {
            size_t len = zmq_msg_size(&frame);
            if (len > FRAME_BYTES)
                len = FRAME_BYTES;
            request->len[request->n] = len;
            memcpy(request->data[request->n], zmq_msg_data(&frame), len);
        }
        zmq_msg_close(&frame);
    }
    return true;
}

static void answer(void *zmq, const struct request *request)
{
    bool ok = request->n == N_FRAMES && is(request, VERSION, "1.0") &&
              is(request, MECHANISM, "CURVE") && request->len[CREDENTIALS] == PROTO_KEY_BYTES;
    char user[2 * PROTO_KEY_BYTES + 1] = "";
    if (ok)
        sodium_bin2hex(user, sizeof user, (const uint8_t *)request->data[CREDENTIALS],
                       PROTO_KEY_BYTES);
    const char *code = ok ? "200" : "400", *text = ok ? "OK" : "no CURVE key";
    size_t id_len = request->n > REQUEST ? request->len[REQUEST] : 0;
    const int more = ZMQ_SNDMORE | ZMQ_DONTWAIT;
    zmq_send(zmq, "1.0", 3, more);
    zmq_send(zmq, request->data[REQUEST], id_len, more);
    zmq_send(zmq, code, 3, more);
    zmq_send(zmq, text, strlen(text), more);
    zmq_send(zmq, user, strlen(user), more);
    zmq_send(zmq, "", 0, ZMQ_DONTWAIT);
}

static bool on_ready(void *zmq)
{
    struct request request;
    if (!receive(zmq, &request))
        return false;
    answer(zmq, &request);
    return true;
}

enum proto_status net__zap_create(struct net__socket **out, struct net_loop *loop,
                                  struct proto_error *error)
{
    void *zmq = zmq_socket(net__loop_zmq(loop), ZMQ_REP);
    if (!zmq)
        return proto_fail_errno(error, errno, "cannot create", "a socket");
    enum proto_status status;
    if (zmq_bind(zmq, "inproc://zeromq.zap.01") != 0)
        status = proto_fail_errno(error, errno, "cannot listen on", "inproc://zeromq.zap.01");
    else
        status = net__socket_create(out, loop, zmq, on_ready, zmq, error);
    if (status != PROTO_OK)
        zmq_close(zmq);
    return status;
}
