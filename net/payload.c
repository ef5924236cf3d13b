/* SPDX-License-Identifier: Apache-2.0 */
#include "net/internal.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

struct net_payload {
    zmq_msg_t msg;
};

/* What gives wrapped memory back; ZeroMQ holds it as long as it holds the memory. */
struct owner {
    void (*done)(void *data, void *arg);
    void *arg;
    /* Published when the memory is handed to ZeroMQ, whose thread may call release. */
    atomic_bool handed;
};

static void release(void *data, void *hint)
{
    struct owner *owner = hint;
    atomic_load_explicit(&owner->handed, memory_order_acquire);
    if (owner->done)
        owner->done(data, owner->arg);
    free(owner);
}

struct net_payload *net_payload_wrap(void *data, size_t len, void (*done)(void *data, void *arg),
                                     void *arg)
{
    struct net_payload *payload = malloc(sizeof *payload);
    struct owner *owner = malloc(sizeof *owner);
    if (!payload || !owner)
        goto fail;
    owner->done = done;
    owner->arg = arg;
    if (zmq_msg_init_data(&payload->msg, data, len, release, owner) != 0)
        goto fail;
    atomic_init(&owner->handed, false);
    atomic_store_explicit(&owner->handed, true, memory_order_release);
    return payload;

fail:
    free(payload);
    free(owner);
    return NULL;
}

static void free_copy(void *data, void *arg)
{
    (void)arg;
    free(data);
}

struct net_payload *net_payload_copy(const void *data, size_t len)
{
    void *copy = malloc(len ? len : 1);
    if (!copy)
        return NULL;
    if (len)
        memcpy(copy, data, len);
    struct net_payload *payload = net_payload_wrap(copy, len, free_copy, NULL);
    if (!payload)
        free(copy);
    return payload;
}

struct net_payload *net__payload_adopt(zmq_msg_t *msg)
{
    struct net_payload *payload = malloc(sizeof *payload);
    if (!payload)
        return NULL;
    zmq_msg_init(&payload->msg);
    zmq_msg_move(&payload->msg, msg);
    return payload;
}

int net__payload_send(struct net_payload *payload, void *zmq, int flags)
{
    return zmq_msg_send(&payload->msg, zmq, flags) < 0 ? -1 : 0;
}

const void *net_payload_data(const struct net_payload *payload)
{
    return zmq_msg_data((zmq_msg_t *)&payload->msg);
}

size_t net_payload_len(const struct net_payload *payload)
{
    return zmq_msg_size(&payload->msg);
}

void net_payload_destroy(struct net_payload *payload)
{
    if (!payload)
        return;
    zmq_msg_close(&payload->msg);
    free(payload);
}
