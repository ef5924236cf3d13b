/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/prober.h"

#include <stdlib.h>

#include "proto/log.h"

#define DEADLINE_MS 10000u
#define NUMBERS     64u /* more than a measurement has echoes */

struct worker_prober {
    struct worker_prober_options options;
    uint8_t proof[PROTO_KEY_BYTES];
    struct net_probe probe;
    struct net_link *other; /* NULL: to the coordinator, or nothing under way */
    bool active;
    uint64_t number;    /* the coordinator's */
    uint64_t next_echo; /* number */
    uint64_t started_ns;
};

enum proto_status worker_prober_create(struct worker_prober **out,
                                       const struct worker_prober_options *options,
                                       struct proto_error *error)
{
    *out = calloc(1, sizeof **out);
    if (!*out)
        return proto_fail_nomem(error, sizeof **out, "measuring links");
    (*out)->options = *options;
    net_proof_make((*out)->proof, options->secret, options->own->public_key);
    return PROTO_OK;
}

static void close_other(struct worker_prober *prober)
{
    net_link_destroy(prober->other, 0);
    prober->other = NULL;
}

void worker_prober_destroy(struct worker_prober *prober)
{
    if (!prober)
        return;
    close_other(prober);
    free(prober);
}

/* Says what is known by now. The connection is closed by the next tick: this may be its call. */
static void finish(struct worker_prober *prober)
{
    struct proto_msg msg = {.kind = PROTO_MSG_PROBED,
                            .probed = {.number = prober->number,
                                       .rtt_s = prober->probe.rtt_s,
                                       .bytes_s = prober->probe.bytes_s}};
    prober->active = false;
    net_link_send(prober->options.coordinator, 0, &msg, NULL, NULL);
}

static void send_echo(struct worker_prober *prober)
{
    struct net_link *link = prober->other ? prober->other : prober->options.coordinator;
    struct proto_error error;
    if (net_probe_send(&prober->probe, link, 0, prober->proof, &error) == PROTO_OK)
        return;
    proto_log(PROTO_LOG_DEBUG, "WORKER-PROBE", "error=\"%s\"", error.text);
    finish(prober);
}

static void take_answer(struct worker_prober *prober, uint64_t number)
{
    bool done = false;
    if (!prober->active)
        return;
    if (net_probe_echoed(&prober->probe, number, net_now_ns(), &done))
        send_echo(prober);
    else if (done)
        finish(prober);
}

static void on_other(void *arg, net_peer from, const uint8_t *key, struct proto_msg *msg,
                     struct net_payload **payload)
{
    (void)from, (void)key, (void)payload;
    if (msg->kind == PROTO_MSG_ECHOED)
        take_answer(arg, msg->echoed.number);
}

static void on_other_bad(void *arg, net_peer from, const uint8_t *key,
                         const struct proto_error *error)
{
    (void)from, (void)key, (void)error;
    struct worker_prober *prober = arg;
    if (prober->active)
        finish(prober);
}

void worker_prober_start(struct worker_prober *prober, const struct proto_probe *probe)
{
    const struct worker_prober_options *o = &prober->options;
    const struct net_link_handler handler = {
        .on_message = on_other, .on_bad = on_other_bad, .arg = prober};
    struct proto_error error;
    close_other(prober);
    net_probe_init(&prober->probe, prober->next_echo);
    prober->next_echo += NUMBERS;
    prober->active = true;
    prober->number = probe->number;
    prober->started_ns = net_now_ns();
    if (probe->endpoint[0] && net_link_connect(&prober->other, o->loop, probe->endpoint, o->own,
                                               probe->key, &handler, &error) != PROTO_OK) {
        proto_log(PROTO_LOG_DEBUG, "WORKER-PROBE", "error=\"%s\"", error.text);
        finish(prober);
        return;
    }
    send_echo(prober);
}

void worker_prober_echoed(struct worker_prober *prober, const struct proto_echoed *echoed)
{
    if (!prober->other)
        take_answer(prober, echoed->number);
}

void worker_prober_tick(struct worker_prober *prober, uint64_t now_ns)
{
    if (prober->active && now_ns - prober->started_ns > DEADLINE_MS * 1000000ull)
        finish(prober);
    if (!prober->active)
        close_other(prober);
}
