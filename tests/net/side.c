/* SPDX-License-Identifier: Apache-2.0 */
#include "side.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#define DEADLINE_S 60

static void count(struct side *side, unsigned *counter)
{
    pthread_mutex_lock(&side->lock);
    ++*counter;
    pthread_cond_broadcast(&side->changed);
    pthread_mutex_unlock(&side->lock);
}

static uint8_t byte_of(uint64_t number, size_t i)
{
    return (uint8_t)(number * 31 + i + (i >> 8));
}

static bool payload_ok(const struct net_payload *payload, uint64_t number)
{
    const uint8_t *bytes = net_payload_data(payload);
    size_t len = net_payload_len(payload);
    for (size_t i = 0; i < len; i++)
        if (bytes[i] != byte_of(number, i))
            return false;
    return true;
}

static void on_message(void *arg, net_peer from, const uint8_t key[PROTO_KEY_BYTES],
                       struct proto_msg *msg, struct net_payload **payload)
{
    struct side *side = arg;
    struct side_heard heard = {.number = msg->ping.sent_ns, .from = from};
    memcpy(heard.key, key, sizeof heard.key);
    if (*payload) {
        heard.has_payload = true;
        heard.payload_len = net_payload_len(*payload);
        heard.payload_ok = payload_ok(*payload, heard.number);
    }
    if (side->echo)
        net_link_send(side->link, from, msg, payload, NULL);
    if (side->quit) {
        net_link_destroy(side->link, 0);
        side->link = NULL;
    }
    pthread_mutex_lock(&side->lock);
    if (side->n_heard < SIDE_HEARD)
        side->heard[side->n_heard] = heard;
    pthread_mutex_unlock(&side->lock);
    count(side, &side->n_heard);
}

static void on_bad(void *arg, net_peer from, const uint8_t key[PROTO_KEY_BYTES],
                   const struct proto_error *error)
{
    (void)key;
    struct side *side = arg;
    if (side->forget_bad)
        net_link_forget(side->link, from);
    pthread_mutex_lock(&side->lock);
    side->bad_from = from;
    side->bad = *error;
    pthread_mutex_unlock(&side->lock);
    count(side, &side->n_bad);
}

static void on_trouble(void *arg, const struct proto_error *error)
{
    struct side *side = arg;
    pthread_mutex_lock(&side->lock);
    side->trouble = *error;
    pthread_mutex_unlock(&side->lock);
    count(side, &side->n_trouble);
}

static void on_closed(void *arg)
{
    struct side *side = arg;
    count(side, &side->n_closed);
}

static void *run(void *arg)
{
    struct side *side = arg;
    net_loop_run(side->loop);
    return NULL;
}

void side_start(struct side *side)
{
    memset(side, 0, sizeof *side);
    pthread_mutex_init(&side->lock, NULL);
    pthread_cond_init(&side->changed, NULL);
    if (net_keypair_generate(&side->key, NULL) != PROTO_OK ||
        net_loop_create(&side->loop, NULL) != PROTO_OK ||
        pthread_create(&side->thread, NULL, run, side) != 0)
        abort();
}

void side_finish(struct side *side)
{
    net_loop_stop(side->loop);
    pthread_join(side->thread, NULL);
    net_link_destroy(side->link, 0);
    net_loop_destroy(side->loop);
    /* What ZeroMQ's thread did under the lock comes before what follows, to a sanitizer too. */
    pthread_mutex_lock(&side->lock);
    pthread_mutex_unlock(&side->lock);
    pthread_cond_destroy(&side->changed);
    pthread_mutex_destroy(&side->lock);
}

unsigned side_count(struct side *side, const unsigned *counter)
{
    pthread_mutex_lock(&side->lock);
    unsigned n = *counter;
    pthread_mutex_unlock(&side->lock);
    return n;
}

bool side_wait(struct side *side, const unsigned *counter, unsigned n)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += DEADLINE_S;
    int rc = 0;
    pthread_mutex_lock(&side->lock);
    while (*counter < n && rc == 0)
        rc = pthread_cond_timedwait(&side->changed, &side->lock, &until);
    bool ok = *counter >= n;
    pthread_mutex_unlock(&side->lock);
    return ok;
}

struct call {
    struct side *side;
    void (*fn)(void *arg);
    void *arg;
};

static void on_call(void *arg)
{
    struct call *call = arg;
    struct side *side = call->side;
    call->fn(call->arg);
    count(side, &side->n_done);
}

void side_call(struct side *side, void (*fn)(void *arg), void *arg)
{
    struct call call = {side, fn, arg};
    unsigned n = side_count(side, &side->n_done);
    if (net_loop_post(side->loop, on_call, &call) != PROTO_OK ||
        !side_wait(side, &side->n_done, n + 1))
        abort();
}

struct opening {
    struct side *side;
    const char *endpoint;
    const uint8_t *server_key;
    enum proto_status status;
    struct proto_error *error;
};

static void open_link(void *arg)
{
    struct opening *opening = arg;
    struct side *side = opening->side;
    const struct net_link_handler handler = {on_message, on_bad, on_trouble, on_closed, side};
    if (opening->server_key)
        opening->status = net_link_connect(&side->link, side->loop, opening->endpoint, &side->key,
                                           opening->server_key, &handler, opening->error);
    else
        opening->status = net_link_listen(&side->link, side->loop, opening->endpoint, &side->key,
                                          &handler, opening->error);
}

enum proto_status side_listen(struct side *side, const char *endpoint, struct proto_error *error)
{
    struct opening opening = {side, endpoint, NULL, PROTO_OK, error};
    side_call(side, open_link, &opening);
    return opening.status;
}

void side_connect(struct side *side, const char *endpoint, const uint8_t server_key[32])
{
    struct opening opening = {side, endpoint, server_key, PROTO_OK, NULL};
    side_call(side, open_link, &opening);
    if (opening.status != PROTO_OK)
        abort();
}

struct closing {
    struct side *side;
    int linger_ms;
};

static void close_link(void *arg)
{
    struct closing *closing = arg;
    net_link_destroy(closing->side->link, closing->linger_ms);
    closing->side->link = NULL;
}

void side_close(struct side *side, int linger_ms)
{
    struct closing closing = {side, linger_ms};
    side_call(side, close_link, &closing);
}

struct sending {
    struct side *side;
    net_peer to;
    uint64_t number;
    size_t payload_len;
    enum proto_status status;
};

static void released(void *data, void *arg)
{
    struct side *side = arg;
    free(data);
    count(side, &side->n_released);
}

static void send_ping(void *arg)
{
    struct sending *sending = arg;
    struct proto_msg msg = {.kind = PROTO_MSG_PING, .ping = {sending->number}};
    struct net_payload *payload = NULL;
    if (sending->payload_len != SIDE_NO_PAYLOAD) {
        uint8_t *bytes = malloc(sending->payload_len ? sending->payload_len : 1);
        for (size_t i = 0; i < sending->payload_len; i++)
            bytes[i] = byte_of(sending->number, i);
        payload = net_payload_wrap(bytes, sending->payload_len, released, sending->side);
    }
    sending->status = net_link_send(sending->side->link, sending->to, &msg, &payload, NULL);
    if (payload)
        abort();
}

enum proto_status side_send(struct side *side, net_peer to, uint64_t number, size_t payload_len)
{
    struct sending sending = {side, to, number, payload_len, PROTO_OK};
    side_call(side, send_ping, &sending);
    return sending.status;
}
