/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Four threads meet here. The loop's thread owns the links and everything in struct session. The
 * computing thread runs batches (compute.c), the experts' thread answers other workers' stages
 * (expert_server.c), and the loading thread builds slices and takes them down (loader.c). The
 * computing and the loading thread speak to the loop only through net_loop_post.
 */
#include "worker/session.h"

#include "net/address.h"
#include "net/link.h"
#include "proto/log.h"
#include "worker/epochs.h"
#include "worker/prober.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define TICK_MS     100u
#define HELLO_MS    500u
#define DEADLINE_MS 3000u /* until the coordinator says otherwise */

struct session {
    const struct worker_session_options *options;
    struct net_loop *loop;
    struct net_timer *timer;
    struct net_link *coordinator, *listener;
    struct worker_compute *compute;
    struct worker_prober *prober;
    struct worker_expert_server *experts;
    struct worker_epochs *epochs;
    struct worker_supply *supply;
    char endpoint[NET_ADDRESS_BYTES + 16];        /* that others use for the listener */
    char expert_endpoint[NET_ADDRESS_BYTES + 16]; /* and for experts */

    bool joined; /* known to the coordinator */
    uint64_t heard_ns, hello_ns;
    uint32_t deadline_ms;
    bool closing;           /* the links are gone: what is still posted is only freed */
    struct proto_error end; /* why the session ends; status OK: terminated */
};

static void end_session(struct session *s, const struct proto_error *why)
{
    if (why && s->end.status == PROTO_OK)
        s->end = *why;
    net_loop_stop(s->loop);
}

/* ---- to the coordinator ---- */

static void tell(struct session *s, const struct proto_msg *msg)
{
    struct proto_error error;
    if (net_link_send(s->coordinator, 0, msg, NULL, &error) != PROTO_OK)
        proto_log(PROTO_LOG_DEBUG, "WORKER-SEND", "kind=%s error=\"%s\"",
                  proto_kind_name(msg->kind), error.text);
}

static void tell_of(void *arg, const struct proto_msg *msg)
{
    tell(arg, msg);
}

static void tell_with(void *arg, const struct proto_msg *msg, struct net_payload **payload)
{
    const struct session *s = arg;
    net_link_send(s->coordinator, 0, msg, payload, NULL);
}

static void tell_hello(struct session *s)
{
    const struct worker_session_options *o = s->options;
    struct proto_msg msg = {.kind = PROTO_MSG_HELLO,
                            .hello = {.version = PROTO_WIRE_VERSION,
                                      .name = (char *)o->name,
                                      .endpoint = s->endpoint,
                                      .expert_endpoint = s->expert_endpoint,
                                      .memory_bytes = o->memory_bytes,
                                      .threads = o->threads,
                                      .isa = (char *)o->table->name,
                                      .epoch = worker_epochs_latest(s->epochs)}};
    net_proof_make(msg.hello.proof, o->token.secret, o->own.public_key);
    tell(s, &msg);
}

static uint64_t resident_bytes(void)
{
    FILE *file = fopen("/proc/self/statm", "r");
    unsigned long long total = 0, resident = 0;
    if (!file)
        return 0;
    if (fscanf(file, "%llu %llu", &total, &resident) != 2)
        resident = 0;
    fclose(file);
    return resident * (uint64_t)sysconf(_SC_PAGESIZE);
}

static void tell_pong(struct session *s, const struct proto_ping *ping, uint64_t now_ns)
{
    struct proto_msg msg = {.kind = PROTO_MSG_PONG,
                            .pong = {.ping_sent_ns = ping->sent_ns,
                                     .received_ns = now_ns,
                                     .steps = worker_epochs_steps(s->epochs),
                                     .rss_bytes = resident_bytes(),
                                     .computing = worker_epochs_computing(s->epochs),
                                     .stale = worker_epochs_stale(s->epochs)}};
    msg.pong.sent_ns = net_now_ns();
    tell(s, &msg);
}

/* ---- what the computing thread produced ---- */

static void stamp_sent(struct proto_stage_time *times, uint32_t n)
{
    if (n)
        times[n - 1].sent_ns = net_now_ns();
}

static void send_to_next(struct session *s, struct worker_output *output)
{
    struct proto_error error;
    uint64_t epoch = output->msg.batch.epoch, batch = output->msg.batch.batch;
    stamp_sent(output->msg.batch.times, output->msg.batch.n_times);
    enum proto_status status = worker_epochs_pass_on(s->epochs, output, &error);
    struct proto_msg msg = {
        .kind = PROTO_MSG_FAILED,
        .failed = {.epoch = epoch, .batch = batch, .status = status, .text = error.text}};
    if (status != PROTO_OK && status != PROTO_NOTFOUND)
        tell(s, &msg);
}

static void send_result(struct session *s, struct worker_output *output)
{
    struct proto_msg *msg = &output->msg;
    struct proto_error error;
    if (msg->result.epoch != worker_epochs_serving(s->epochs))
        return;
    stamp_sent(msg->result.times, msg->result.n_times);
    if (net_link_send(s->coordinator, 0, msg, &output->payload, &error) != PROTO_OK)
        proto_log(PROTO_LOG_WARN, "WORKER-RESULT-LOST", "batch=%llu error=\"%s\"",
                  (unsigned long long)msg->result.batch, error.text);
}

/* On the loop's thread. Outputs of an epoch that is over are dropped. */
static void send_output(void *arg)
{
    struct worker_output *output = arg;
    struct session *s = output->owner;
    if (s->closing)
        ; /* freed below */
    else if (output->msg.kind == PROTO_MSG_BATCH)
        send_to_next(s, output);
    else if (output->msg.kind == PROTO_MSG_RESULT)
        send_result(s, output);
    else if (output->to)
        net_link_send(s->listener, output->to, &output->msg, &output->payload, NULL);
    else
        tell(s, &output->msg);
    worker_output_destroy(output);
}

/* On the computing thread. */
static void deliver_output(void *arg, struct worker_output *output)
{
    struct session *s = arg;
    if (net_loop_post(s->loop, send_output, output) != PROTO_OK)
        worker_output_destroy(output);
}

/* ---- messages ---- */

/* The coordinator may be there again soon: the goodbye lets it know that this worker starts over.
 */
static void lose_coordinator(struct session *s, const char *why)
{
    proto_log(PROTO_LOG_WARN, "WORKER-COORDINATOR-LOST", "reason=\"%s\"", why);
    struct proto_msg msg = {.kind = PROTO_MSG_BYE};
    worker_epochs_abandon(s->epochs);
    tell(s, &msg);
    s->joined = false;
}

/* The worker leaves, and joins again to load its weights anew. */
static void lose_weights(struct session *s)
{
    struct proto_msg msg = {.kind = PROTO_MSG_BYE};
    proto_log(PROTO_LOG_ERROR, "WORKER-WEIGHTS-LOST",
              "epoch=%llu error=\"packed weights were cut short while they were in use\"",
              (unsigned long long)worker_epochs_serving(s->epochs));
    worker_epochs_abandon(s->epochs);
    tell(s, &msg);
    s->joined = false;
}

static void take_welcome(struct session *s, const struct proto_welcome *welcome)
{
    s->deadline_ms = welcome->deadline_ms;
    if (!s->joined) {
        s->joined = true;
        if (welcome->profile)
            worker_compute_profile(s->compute);
        proto_log(PROTO_LOG_INFO, "WORKER-JOINED", "worker=%u coordinator=%s", welcome->worker,
                  s->options->endpoint);
    }
}

static void take_refusal(struct session *s, const struct proto_refuse *refuse)
{
    struct proto_error error;
    proto_fail(&error, refuse->status == PROTO_OK ? PROTO_REFUSED : refuse->status,
               "the coordinator refused this worker: %s", refuse->text);
    end_session(s, &error);
}

static void take_measure(struct session *s, const struct proto_measure *measure)
{
    struct proto_error error;
    if (worker_compute_measure(s->compute, measure->bytes, &error) != PROTO_OK)
        proto_log(PROTO_LOG_WARN, "WORKER-MEASURE-FAILED", "error=\"%s\"", error.text);
}

static void take_usage(struct session *s)
{
    struct proto_msg msg;
    struct net_payload *payload;
    worker_epochs_usage(s->epochs, &msg, &payload);
    if (payload)
        net_link_send(s->coordinator, 0, &msg, &payload, NULL);
}

static void take_goodbye(struct session *s, const struct proto_bye *bye)
{
    if (bye->drained)
        proto_log(PROTO_LOG_INFO, "WORKER-DRAINED", "coordinator=%s", s->options->endpoint);
    if (bye->drained || s->options->local)
        end_session(s, NULL);
    else
        lose_coordinator(s, "it said goodbye");
}

/* What only a worker that has joined takes. */
static void on_joined(struct session *s, struct proto_msg *msg, struct net_payload **payload,
                      uint64_t now_ns)
{
    if (msg->kind == PROTO_MSG_PING)
        tell_pong(s, &msg->ping, now_ns);
    else if (msg->kind == PROTO_MSG_LOAD && *payload)
        worker_epochs_load(s->epochs, msg, payload, s->deadline_ms);
    else if (msg->kind == PROTO_MSG_COMMIT)
        worker_epochs_commit(s->epochs, &msg->commit);
    else if (msg->kind == PROTO_MSG_RELEASE)
        worker_epochs_release(s->epochs, &msg->release);
    else if (msg->kind == PROTO_MSG_KV_LOST)
        worker_epochs_caches_lost(s->epochs, msg->link.epoch);
    else if (msg->kind == PROTO_MSG_BATCH)
        worker_epochs_batch(s->epochs, NULL, &msg->batch, payload, now_ns);
    else if (msg->kind == PROTO_MSG_MEASURE)
        take_measure(s, &msg->measure);
    else if (msg->kind == PROTO_MSG_USAGE)
        take_usage(s);
    else if (msg->kind == PROTO_MSG_PROBE)
        worker_prober_start(s->prober, &msg->probe);
}

static void on_coordinator(void *arg, net_peer from, const uint8_t *key, struct proto_msg *msg,
                           struct net_payload **payload)
{
    struct session *s = arg;
    uint64_t now_ns = net_now_ns();
    (void)from;
    (void)key;
    s->heard_ns = now_ns;
    if (msg->kind == PROTO_MSG_WELCOME)
        take_welcome(s, &msg->welcome);
    else if (msg->kind == PROTO_MSG_REFUSE)
        take_refusal(s, &msg->refuse);
    else if (msg->kind == PROTO_MSG_HASHES)
        worker_epochs_hashes(s->epochs, &msg->hashes, payload);
    else if (msg->kind == PROTO_MSG_CHUNK)
        worker_epochs_chunk(s->epochs, &msg->chunk, payload);
    else if (msg->kind == PROTO_MSG_ECHO)
        net_probe_answer(s->coordinator, 0, &msg->echo);
    else if (msg->kind == PROTO_MSG_ECHOED)
        worker_prober_echoed(s->prober, &msg->echoed);
    else if (msg->kind == PROTO_MSG_BYE)
        take_goodbye(s, &msg->bye);
    else if (s->joined)
        on_joined(s, msg, payload, now_ns);
}

/* Another worker measures the link to this one; strangers have no proof and get no answer. The
 * connection is forgotten with the echo unless it is that of the stage before. */
static void take_echo(struct session *s, net_peer from, const uint8_t *key,
                      const struct proto_echo *echo)
{
    if (net_proof_ok(echo->proof, s->options->token.secret, key))
        net_probe_answer(s->listener, from, echo);
    if (!worker_epochs_knows(s->epochs, key))
        net_link_forget(s->listener, from);
}

/* The stage before this one. Others are known to nobody here and get no answer. */
static void on_previous(void *arg, net_peer from, const uint8_t *key, struct proto_msg *msg,
                        struct net_payload **payload)
{
    struct session *s = arg;
    if (msg->kind == PROTO_MSG_ECHO)
        take_echo(s, from, key, &msg->echo);
    else if (msg->kind == PROTO_MSG_FETCH)
        worker_supply_fetch(s->supply, s->listener, from, key, &msg->fetch);
    else if (msg->kind == PROTO_MSG_KV_ASK || msg->kind == PROTO_MSG_KV_FETCH)
        worker_epochs_cached(s->epochs, from, key, msg);
    else if (!worker_epochs_knows(s->epochs, key))
        net_link_forget(s->listener, from);
    else if (msg->kind == PROTO_MSG_LINK)
        worker_epochs_link(s->epochs, from, key, msg->link.epoch);
    else if (msg->kind == PROTO_MSG_BATCH)
        worker_epochs_batch(s->epochs, key, &msg->batch, payload, net_now_ns());
}

static void on_coordinator_bad(void *arg, net_peer from, const uint8_t *key,
                               const struct proto_error *why)
{
    struct session *s = arg;
    struct proto_error error;
    (void)from;
    (void)key;
    proto_fail(&error, PROTO_FORMAT,
               "the coordinator at %s sent what this worker does not understand (%.300s); are both "
               "of the same version?",
               s->options->endpoint, why->text);
    end_session(s, &error);
}

/* A stranger's or the previous stage's bytes made no sense: the link ignores it from now on, and
 * the coordinator's deadline for the batch says the rest. */
static void on_previous_bad(void *arg, net_peer from, const uint8_t *key,
                            const struct proto_error *error)
{
    (void)arg;
    (void)from;
    (void)key;
    proto_log(PROTO_LOG_WARN, "WORKER-PEER-BAD", "error=\"%s\"", error->text);
}

/* Whoever answers next, the same coordinator as well, knows nothing of this worker. A child ends
 * with its parent. */
static void on_closed(void *arg)
{
    struct session *s = arg;
    if (s->joined && !s->options->local)
        lose_coordinator(s, "its connection was closed");
}

static void on_trouble(void *arg, const struct proto_error *why)
{
    struct session *s = arg;
    if (why->status == PROTO_REFUSED) {
        end_session(s, why);
        return;
    }
    proto_log(PROTO_LOG_WARN, "WORKER-WAITING", "coordinator=%s reason=\"%s\"",
              s->options->endpoint, why->text);
}

/* ---- time ---- */

static void join(struct session *s, uint64_t now_ns)
{
    if (s->options->local && now_ns - s->heard_ns > s->deadline_ms * 3000000ull) {
        struct proto_error error;
        proto_fail(&error, PROTO_TIMEOUT, "the coordinator at %s does not answer",
                   s->options->endpoint);
        end_session(s, &error);
    } else if (now_ns - s->hello_ns > HELLO_MS * 1000000ull) {
        tell_hello(s);
        s->hello_ns = now_ns;
    }
}

static void on_tick(void *arg)
{
    struct session *s = arg;
    uint64_t now_ns = net_now_ns();
    bool silent = now_ns - s->heard_ns > s->deadline_ms * 1000000ull;
    /* A child gets a signal when its parent dies; one that is silent was stopped by a person. */
    if (!s->joined)
        join(s, now_ns);
    else if (silent && !s->options->local)
        lose_coordinator(s, "it has been silent for longer than the deadline");
    else if (worker_epochs_lost(s->epochs))
        lose_weights(s);
    worker_epochs_tick(s->epochs, now_ns);
    worker_prober_tick(s->prober, now_ns);
}

static void on_terminate(void *arg)
{
    struct session *s = arg;
    struct proto_msg msg = {.kind = PROTO_MSG_BYE};
    tell(s, &msg);
    end_session(s, NULL);
}

/* ---- life ---- */

/* `advertise` with the port that `bound` has, if its own is 0. */
static void copy_advertised(char endpoint[NET_ADDRESS_BYTES], const char *advertise,
                            const char *bound)
{
    const char *port = net_address_port(advertise);
    if (strcmp(port, "0") == 0)
        snprintf(endpoint, NET_ADDRESS_BYTES, "%.*s%.16s", (int)(port - advertise), advertise,
                 net_address_port(bound));
    else
        snprintf(endpoint, NET_ADDRESS_BYTES, "%s", advertise);
}

/* Where the stage before may reach this worker. */
static enum proto_status open_listener(struct session *s, struct proto_error *error)
{
    const struct worker_session_options *o = s->options;
    char endpoint[NET_ADDRESS_BYTES] = "tcp://*:0", host[NET_ADDRESS_BYTES];
    if (o->listen)
        snprintf(endpoint, sizeof endpoint, "%s", o->listen);
    else if (strncmp(o->endpoint, "ipc://", 6) == 0)
        snprintf(endpoint, sizeof endpoint, "ipc://@caravan-worker-%ld", (long)getpid());
    struct net_link_handler handler = {
        .on_message = on_previous, .on_bad = on_previous_bad, .arg = s};
    enum proto_status status =
        net_link_listen(&s->listener, s->loop, endpoint, &o->own, &handler, error);
    if (status != PROTO_OK)
        return status;
    const char *bound = net_link_endpoint(s->listener);
    if (o->advertise || strncmp(bound, "ipc://", 6) == 0) {
        copy_advertised(s->endpoint, o->advertise ? o->advertise : bound, bound);
        return PROTO_OK;
    }
    status = net_address_towards(o->endpoint, host, sizeof host, error);
    if (status == PROTO_OK)
        snprintf(s->endpoint, sizeof s->endpoint, "tcp://%.200s:%.16s", host,
                 net_address_port(bound));
    return status;
}

static enum proto_status open_prober(struct session *s, struct proto_error *error)
{
    const struct worker_prober_options options = {.loop = s->loop,
                                                  .own = &s->options->own,
                                                  .secret = s->options->token.secret,
                                                  .coordinator = s->coordinator};
    return worker_prober_create(&s->prober, &options, error);
}

/* The experts' thread, at the same address as the listener's but for the port. */
static enum proto_status open_experts(struct session *s, struct proto_error *error)
{
    const struct worker_session_options *o = s->options;
    char endpoint[NET_ADDRESS_BYTES] = "tcp://*:0";
    if (o->expert_listen)
        snprintf(endpoint, sizeof endpoint, "%s", o->expert_listen);
    else if (strncmp(o->endpoint, "ipc://", 6) == 0)
        snprintf(endpoint, sizeof endpoint, "ipc://@caravan-experts-%ld", (long)getpid());
    enum proto_status status =
        worker_expert_server_create(&s->experts, s->loop, endpoint, &o->own, error);
    if (status != PROTO_OK)
        return status;
    const char *bound = worker_expert_server_endpoint(s->experts);
    const char *host = s->endpoint, *end = strrchr(s->endpoint, ':');
    if (strncmp(bound, "ipc://", 6) == 0 || strncmp(host, "ipc://", 6) == 0)
        snprintf(s->expert_endpoint, sizeof s->expert_endpoint, "%s", bound);
    else
        snprintf(s->expert_endpoint, sizeof s->expert_endpoint, "%.*s:%.16s", (int)(end - host),
                 host, net_address_port(bound));
    return PROTO_OK;
}

static enum proto_status open_compute(struct session *s, struct proto_error *error)
{
    const struct worker_session_options *o = s->options;
    struct worker_compute_options compute = {.table = o->table,
                                             .threads = o->threads,
                                             .cache_dir = o->cache_dir,
                                             .machine = o->machine,
                                             .deliver = deliver_output,
                                             .arg = s};
    return worker_compute_create(&s->compute, &compute, error);
}

static enum proto_status open_epochs(struct session *s, struct proto_error *error)
{
    const struct worker_session_options *o = s->options;
    struct worker_epochs_options epochs = {.loop = s->loop,
                                           .own = &o->own,
                                           .name = o->name,
                                           .compute = s->compute,
                                           .experts = s->experts,
                                           .listener = s->listener,
                                           .table = o->table,
                                           .threads = o->threads,
                                           .cache_dir = o->cache_dir,
                                           .keep_packed = o->keep_packed,
                                           .memory_bytes = o->memory_bytes,
                                           .cache_limit_bytes = o->cache_limit_bytes,
                                           .secret = o->token.secret,
                                           .supply = s->supply,
                                           .boundary_bytes = o->boundary_bytes,
                                           .tell = tell_of,
                                           .tell_with = tell_with,
                                           .arg = s};
    return worker_epochs_create(&s->epochs, &epochs, error);
}

static enum proto_status open_session(struct session *s, struct proto_error *error)
{
    const struct worker_session_options *o = s->options;
    struct net_link_handler handler = {.on_message = on_coordinator,
                                       .on_bad = on_coordinator_bad,
                                       .on_trouble = on_trouble,
                                       .on_closed = on_closed,
                                       .arg = s};
    enum proto_status status = PROTO_OK;
    s->deadline_ms = DEADLINE_MS;
    s->heard_ns = net_now_ns();
    if ((status = net_loop_create(&s->loop, error)) ||
        (status = net_loop_on_terminate(s->loop, on_terminate, s, error)) ||
        (status = open_listener(s, error)) || (status = open_experts(s, error)) ||
        (status = open_compute(s, error)) ||
        (status = worker_supply_create(&s->supply, s->loop, o->token.secret, error)) ||
        (status = open_epochs(s, error)) ||
        (status = net_link_connect(&s->coordinator, s->loop, o->endpoint, &o->own,
                                   o->token.cluster_key, &handler, error)) ||
        (status = open_prober(s, error)) ||
        (status = net_timer_create(&s->timer, s->loop, TICK_MS, on_tick, s, error)))
        return status;
    return PROTO_OK;
}

/* The batch being computed is waited for; a second Ctrl-C does not wait. */
static void close_session(struct session *s)
{
    s->closing = true;
    signal(SIGINT, SIG_DFL);
    signal(SIGTERM, SIG_DFL);
    worker_epochs_stop(s->epochs);
    /* It computes on the computing thread's pool. */
    worker_expert_server_stop(s->experts);
    worker_compute_destroy(s->compute);
    worker_epochs_close(s->epochs);
    worker_expert_server_destroy(s->experts);
    net_timer_destroy(s->timer);
    worker_prober_destroy(s->prober);
    worker_supply_stop(s->supply);
    net_link_destroy(s->listener, 0);
    net_link_destroy(s->coordinator, 200);
}

enum proto_status worker_session_run(const struct worker_session_options *options,
                                     struct proto_error *error)
{
    struct session *s = calloc(1, sizeof *s);
    if (!s)
        return proto_fail_nomem(error, sizeof *s, "the session");
    s->options = options;
    enum proto_status status = open_session(s, error);
    if (status == PROTO_OK) {
        net_loop_run(s->loop);
        status = s->end.status;
        if (status != PROTO_OK)
            proto_fail(error, status, "%s", s->end.text);
    }
    close_session(s);
    net_loop_destroy(s->loop);
    worker_epochs_destroy(s->epochs);
    worker_supply_destroy(s->supply);
    free(s);
    return status;
}
