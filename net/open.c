/* SPDX-License-Identifier: Apache-2.0 */
/* Sockets between machines: CURVE always on, everything bounded. */
#include "net/internal.h"

#include <errno.h>
#include <string.h>

#include "net/address.h"

#define HANDSHAKE_MS     3000
#define CONNECT_MS       2000 /* the system would wait longer after each packet that is lost */
#define RECONNECT_MS     100
#define RECONNECT_MAX_MS 500
#define KEEPALIVE_IDLE_S 30
/* A frame on the wire is a little longer than what is in it: CURVE's nonce and authenticator. */
#define CURVE_EXTRA_BYTES 64

static int set_int(void *zmq, int option, int value)
{
    return zmq_setsockopt(zmq, option, &value, sizeof value);
}

static int set_key(void *zmq, int option, const uint8_t key[PROTO_KEY_BYTES])
{
    return zmq_setsockopt(zmq, option, key, PROTO_KEY_BYTES);
}

static int set_options(void *zmq, const struct net_keypair *keys, const uint8_t *server_key)
{
    int64_t most = (int64_t)PROTO_MAX_PAYLOAD_BYTES + CURVE_EXTRA_BYTES;
    int rc = zmq_setsockopt(zmq, ZMQ_MAXMSGSIZE, &most, sizeof most);
    rc |= set_int(zmq, ZMQ_LINGER, 0);
    rc |= set_int(zmq, ZMQ_IPV6, 1);
    rc |= set_int(zmq, ZMQ_SNDHWM, NET__QUEUE_MESSAGES);
    rc |= set_int(zmq, ZMQ_RCVHWM, NET__QUEUE_MESSAGES);
    rc |= set_int(zmq, ZMQ_HANDSHAKE_IVL, HANDSHAKE_MS);
    rc |= set_int(zmq, ZMQ_TCP_KEEPALIVE, 1);
    rc |= set_int(zmq, ZMQ_TCP_KEEPALIVE_IDLE, KEEPALIVE_IDLE_S);
    rc |= set_key(zmq, ZMQ_CURVE_SECRETKEY, keys->secret_key);
    rc |= set_key(zmq, ZMQ_CURVE_PUBLICKEY, keys->public_key);
    if (server_key) {
        rc |= set_key(zmq, ZMQ_CURVE_SERVERKEY, server_key);
        rc |= set_int(zmq, ZMQ_CONNECT_TIMEOUT, CONNECT_MS);
        rc |= set_int(zmq, ZMQ_RECONNECT_IVL, RECONNECT_MS);
        rc |= set_int(zmq, ZMQ_RECONNECT_IVL_MAX, RECONNECT_MAX_MS);
    } else {
        rc |= set_int(zmq, ZMQ_CURVE_SERVER, 1);
        rc |= zmq_setsockopt(zmq, ZMQ_ZAP_DOMAIN, "caravan", strlen("caravan"));
        rc |= set_int(zmq, ZMQ_ROUTER_MANDATORY, 1);
    }
    return rc;
}

enum proto_status net__open(void **zmq, struct net_loop *loop, const char *endpoint,
                            const struct net_keypair *keys, const uint8_t *server_key,
                            char own[NET__ENDPOINT_BYTES], struct proto_error *error)
{
    *zmq = NULL;
    if (strncmp(endpoint, "tcp://", 6) != 0 && strncmp(endpoint, "ipc://", 6) != 0)
        return proto_fail(error, PROTO_INVALID,
                          "endpoint \"%.300s\": expected tcp://HOST:PORT or ipc://PATH", endpoint);
    enum proto_status status =
        net_address_endpoint(endpoint, !server_key, own, NET__ENDPOINT_BYTES, error);
    if (status != PROTO_OK)
        return status;
    *zmq = zmq_socket(net__loop_zmq(loop), server_key ? ZMQ_DEALER : ZMQ_ROUTER);
    if (*zmq && set_options(*zmq, keys, server_key) == 0)
        return PROTO_OK;
    status = proto_fail_errno(error, errno, "cannot create a socket for", endpoint);
    if (*zmq)
        zmq_close(*zmq);
    *zmq = NULL;
    return status;
}

static enum proto_status fail_endpoint(const char *endpoint, const char *action,
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
                      endpoint, why);
}

enum proto_status net__bind(void *zmq, char endpoint[NET__ENDPOINT_BYTES],
                            struct proto_error *error)
{
    size_t size = NET__ENDPOINT_BYTES;
    if (zmq_bind(zmq, endpoint) != 0)
        return fail_endpoint(endpoint, "listen on", error);
    if (zmq_getsockopt(zmq, ZMQ_LAST_ENDPOINT, endpoint, &size) != 0)
        return proto_fail_errno(error, errno, "cannot find the port of", endpoint);
    return PROTO_OK;
}

enum proto_status net__connect(void *zmq, const char *endpoint, struct proto_error *error)
{
    if (zmq_connect(zmq, endpoint) != 0)
        return fail_endpoint(endpoint, "connect to", error);
    return PROTO_OK;
}
