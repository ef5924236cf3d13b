/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Four threads meet here. The loop's thread owns the links and everything in struct session. The
 * computing thread runs batches (compute.c), the experts' thread answers other workers' stages
 * (expert_server.c), and while a slice is being built, a loading thread runs (loader.c). The
 * computing and the loading thread speak to the loop only through net_loop_post.
 */
#include "worker/session.h"

#include "net/address.h"
#include "net/link.h"
#include "proto/log.h"
#include "worker/loader.h"
#include "worker/prober.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define TICK_MS          100u
#define HELLO_MS         500u
#define LINK_MS          200u
#define LINK_DEADLINE_MS 10000u
#define DEADLINE_MS      3000u /* until the coordinator says otherwise */

enum session_state {
    STATE_JOINING, /* not known to the coordinator */
    STATE_JOINED,  /* known, without a slice */
    STATE_LOADING, /* the loading thread runs */
    STATE_LINKING, /* the slice is loaded, the next stage has not answered yet */
    STATE_READY,   /* takes batches */
    STATE_N
};

static const char *const state_names[STATE_N] = {"joining", "joined", "loading", "linking",
                                                 "ready"};

/* From (row) to (column). */
static const bool may_change[STATE_N][STATE_N] = {
    [STATE_JOINING] = {[STATE_JOINED] = true},
    [STATE_JOINED] = {[STATE_JOINING] = true, [STATE_LOADING] = true},
    [STATE_LOADING] = {[STATE_JOINING] = true,
                       [STATE_JOINED] = true,
                       [STATE_LINKING] = true,
                       [STATE_READY] = true},
    [STATE_LINKING] = {[STATE_JOINING] = true,
                       [STATE_JOINED] = true,
                       [STATE_LOADING] = true,
                       [STATE_READY] = true},
    [STATE_READY] = {[STATE_JOINING] = true, [STATE_LOADING] = true},
};

struct session {
    const struct worker_session_options *options;
    struct net_loop *loop;
    struct net_timer *timer;
    struct net_link *coordinator, *listener, *next;
    struct worker_compute *compute;
    struct worker_prober *prober;
    struct worker_asker *asker;
    struct worker_expert_server *experts;
    struct worker_loader *loader;
    char endpoint[NET_ADDRESS_BYTES + 16];        /* that others use for the listener */
    char expert_endpoint[NET_ADDRESS_BYTES + 16]; /* and for experts */

    enum session_state state;
    uint64_t heard_ns, hello_ns, link_ns, link_since_ns;
    uint32_t deadline_ms;
    bool closing;           /* the links are gone: what is still posted is only freed */
    struct proto_error end; /* why the session ends; status OK: terminated */
};

static const struct proto_load *load_of(const struct session *s)
{
    return worker_loader_load(s->loader);
}

static void set_state(struct session *s, enum session_state state)
{
    if (s->state == state)
        return;
    proto_log(may_change[s->state][state] ? PROTO_LOG_INFO : PROTO_LOG_ERROR, "WORKER-STATE",
              "from=%s to=%s epoch=%llu", state_names[s->state], state_names[state],
              (unsigned long long)load_of(s)->epoch);
    s->state = state;
}

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

static void tell_failed(struct session *s, uint64_t batch, const struct proto_error *why)
{
    struct proto_msg msg = {.kind = PROTO_MSG_FAILED,
                            .failed = {.epoch = load_of(s)->epoch,
                                       .batch = batch,
                                       .status = why->status,
                                       .text = (char *)why->text}};
    tell(s, &msg);
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
                                      .isa = (char *)o->table->name}};
    net_proof_make(msg.hello.proof, o->token.secret, o->own.public_key);
    tell(s, &msg);
}

static void tell_ready(struct session *s)
{
    const struct worker_slice *slice = worker_loader_slice(s->loader);
    set_state(s, STATE_READY);
    struct proto_msg msg = {.kind = PROTO_MSG_READY,
                            .ready = {.epoch = load_of(s)->epoch,
                                      .weight_bytes = slice->weight_bytes,
                                      .kv_limit_bytes = slice->kv_limit_bytes,
                                      .scratch_bytes = slice->scratch_bytes}};
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
    const struct worker_slice *slice = worker_loader_slice(s->loader);
    uint64_t steps = worker_expert_server_steps(s->experts);
    if (s->state == STATE_READY && slice && slice->exec)
        steps += worker_exec_steps(slice->exec);
    struct proto_msg msg = {.kind = PROTO_MSG_PONG,
                            .pong = {.ping_sent_ns = ping->sent_ns,
                                     .received_ns = now_ns,
                                     .steps = steps,
                                     .rss_bytes = resident_bytes()}};
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
    stamp_sent(output->msg.batch.times, output->msg.batch.n_times);
    enum proto_status status =
        s->next ? net_link_send(s->next, 0, &output->msg, &output->payload, &error)
                : proto_fail(&error, PROTO_LOST, "there is no next worker");
    if (status != PROTO_OK)
        tell_failed(s, output->msg.batch.batch, &error);
}

/* On the loop's thread. Outputs of an epoch that is over are dropped. */
static void send_output(void *arg)
{
    struct worker_output *output = arg;
    struct session *s = output->owner;
    uint64_t epoch = load_of(s)->epoch;
    struct proto_msg *msg = &output->msg;
    if (s->closing) {
        worker_output_destroy(output);
        return;
    }
    if (msg->kind == PROTO_MSG_BATCH && msg->batch.epoch == epoch) {
        send_to_next(s, output);
    } else if (msg->kind == PROTO_MSG_RESULT && msg->result.epoch == epoch) {
        struct proto_error error;
        stamp_sent(msg->result.times, msg->result.n_times);
        if (net_link_send(s->coordinator, 0, msg, &output->payload, &error) != PROTO_OK)
            proto_log(PROTO_LOG_WARN, "WORKER-RESULT-LOST", "batch=%llu error=\"%s\"",
                      (unsigned long long)msg->result.batch, error.text);
    } else if (msg->kind == PROTO_MSG_FAILED || msg->kind == PROTO_MSG_MEASURED ||
               msg->kind == PROTO_MSG_PROFILE) {
        tell(s, msg);
    }
    worker_output_destroy(output);
}

/* On the computing thread. */
static void deliver_output(void *arg, struct worker_output *output)
{
    struct session *s = arg;
    if (net_loop_post(s->loop, send_output, output) != PROTO_OK)
        worker_output_destroy(output);
}

/* ---- loads ---- */

static void fail_load(struct session *s, const struct proto_error *why)
{
    proto_log(PROTO_LOG_WARN, "WORKER-LOAD-FAILED", "epoch=%llu error=\"%s\"",
              (unsigned long long)load_of(s)->epoch, why->text);
    tell_failed(s, 0, why);
    if (s->state != STATE_JOINING)
        set_state(s, STATE_JOINED);
}

static void take_load(struct session *s, struct proto_msg *load, struct net_payload **card)
{
    net_link_destroy(s->next, 0);
    s->next = NULL;
    set_state(s, STATE_LOADING);
    worker_loader_take(s->loader, load, card, s->deadline_ms);
}

static void on_linked(void *arg, net_peer from, const uint8_t *key, struct proto_msg *msg,
                      struct net_payload **payload);
static void on_next_bad(void *arg, net_peer from, const uint8_t *key,
                        const struct proto_error *error);

/* The slice is loaded: reach the next stage, or be ready. */
static void link_up(struct session *s)
{
    const struct proto_load *load = load_of(s);
    if (load->next_endpoint[0] == 0) {
        tell_ready(s);
        return;
    }
    struct proto_error error;
    struct net_link_handler handler = {.on_message = on_linked, .on_bad = on_next_bad, .arg = s};
    if (net_link_connect(&s->next, s->loop, load->next_endpoint, &s->options->own, load->next_key,
                         &handler, &error) != PROTO_OK) {
        fail_load(s, &error);
        return;
    }
    set_state(s, STATE_LINKING);
    s->link_since_ns = net_now_ns();
    s->link_ns = 0;
}

/* Where the coordinator went away meanwhile, the slice stays for its return. */
static void on_loaded(void *arg, enum proto_status status, const struct proto_error *error)
{
    struct session *s = arg;
    if (s->state == STATE_LOADING && status == PROTO_OK)
        link_up(s);
    else if (s->state == STATE_LOADING)
        fail_load(s, error);
}

/* ---- messages ---- */

/* A batch, from the coordinator (first stage) or from the stage before. */
static void take_batch(struct session *s, struct proto_batch *batch, struct net_payload **payload,
                       uint64_t now_ns)
{
    struct worker_slice *slice = worker_loader_slice(s->loader);
    if (s->state != STATE_READY || !slice->exec || batch->epoch != load_of(s)->epoch) {
        proto_log(PROTO_LOG_DEBUG, "WORKER-BATCH-STALE", "epoch=%llu batch=%llu",
                  (unsigned long long)batch->epoch, (unsigned long long)batch->batch);
        return;
    }
    struct proto_error error;
    enum proto_status status = PROTO_OK;
    uint64_t number = batch->batch, rows = proto_batch_rows(batch);
    const struct shard_program *program = slice->program;
    size_t row_bytes =
        program->embed ? 4 : shard_row_floats(program->model, program->layer_first) * sizeof(float);
    size_t found = *payload ? net_payload_len(*payload) : 0;
    if (found != rows * row_bytes)
        status = proto_fail(&error, PROTO_FORMAT,
                            "batch %llu: expected %llu rows of %zu bytes, found %zu bytes",
                            (unsigned long long)number, (unsigned long long)rows, row_bytes, found);
    else
        status = worker_compute_batch(s->compute, slice, batch, payload, now_ns, &error);
    if (status != PROTO_OK)
        tell_failed(s, number, &error);
}

/* The coordinator may be there again soon: the goodbye lets it know that this worker starts over.
 */
static void lose_coordinator(struct session *s, const char *why)
{
    proto_log(PROTO_LOG_WARN, "WORKER-COORDINATOR-LOST", "reason=\"%s\"", why);
    struct proto_msg msg = {.kind = PROTO_MSG_BYE};
    struct proto_error error;
    proto_fail(&error, PROTO_LOST, "the coordinator is gone: %s", why);
    worker_loader_cancel(s->loader, &error);
    /* A batch in work may be waiting for experts. */
    worker_asker_cancel(s->asker);
    tell(s, &msg);
    set_state(s, STATE_JOINING);
}

static void take_welcome(struct session *s, const struct proto_welcome *welcome)
{
    struct proto_error error;
    s->deadline_ms = welcome->deadline_ms;
    if (s->state == STATE_JOINING) {
        set_state(s, STATE_JOINED);
        if (welcome->profile && worker_compute_profile(s->compute, &error) != PROTO_OK)
            proto_log(PROTO_LOG_WARN, "WORKER-PROFILE-FAILED", "error=\"%s\"", error.text);
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
        tell_failed(s, 0, &error);
}

static void take_usage(struct session *s)
{
    const struct worker_slice *slice = worker_loader_slice(s->loader);
    if (s->state != STATE_READY || !slice->exec)
        return;
    struct proto_msg msg = {
        .kind = PROTO_MSG_USED,
        .used = {.epoch = load_of(s)->epoch,
                 .layer_first = slice->program->layer_first,
                 .n_layers = slice->program->layer_end - slice->program->layer_first,
                 .n_experts = slice->model->n_experts}};
    size_t bytes = (size_t)msg.used.n_layers * msg.used.n_experts * sizeof(uint32_t);
    uint32_t *counts = malloc(bytes + 1);
    if (!counts)
        return;
    worker_exec_usage(slice->exec, counts);
    struct net_payload *payload = net_payload_copy(counts, bytes);
    free(counts);
    if (payload)
        net_link_send(s->coordinator, 0, &msg, &payload, NULL);
}

static void take_goodbye(struct session *s)
{
    if (s->options->local)
        end_session(s, NULL);
    else
        lose_coordinator(s, "it said goodbye");
}

static void on_coordinator(void *arg, net_peer from, const uint8_t *key, struct proto_msg *msg,
                           struct net_payload **payload)
{
    struct session *s = arg;
    uint64_t now_ns = net_now_ns();
    (void)from;
    (void)key;
    s->heard_ns = now_ns;
    bool joined = s->state != STATE_JOINING;
    if (msg->kind == PROTO_MSG_WELCOME)
        take_welcome(s, &msg->welcome);
    else if (msg->kind == PROTO_MSG_REFUSE)
        take_refusal(s, &msg->refuse);
    else if (msg->kind == PROTO_MSG_PING && joined)
        tell_pong(s, &msg->ping, now_ns);
    else if (msg->kind == PROTO_MSG_LOAD && joined && *payload)
        take_load(s, msg, payload);
    else if (msg->kind == PROTO_MSG_BATCH && load_of(s)->has_stage && load_of(s)->stage == 0)
        take_batch(s, &msg->batch, payload, now_ns);
    else if (msg->kind == PROTO_MSG_HASHES)
        worker_loader_hashes(s->loader, &msg->hashes, payload);
    else if (msg->kind == PROTO_MSG_CHUNK)
        worker_loader_chunk(s->loader, &msg->chunk, payload);
    else if (msg->kind == PROTO_MSG_MEASURE && joined)
        take_measure(s, &msg->measure);
    else if (msg->kind == PROTO_MSG_USAGE)
        take_usage(s);
    else if (msg->kind == PROTO_MSG_PROBE && joined)
        worker_prober_start(s->prober, &msg->probe);
    else if (msg->kind == PROTO_MSG_ECHO)
        net_probe_answer(s->coordinator, 0, &msg->echo);
    else if (msg->kind == PROTO_MSG_ECHOED)
        worker_prober_echoed(s->prober, &msg->echoed);
    else if (msg->kind == PROTO_MSG_BYE)
        take_goodbye(s);
}

/* Another worker measures the link to this one; strangers have no proof and get no answer. The
 * connection is forgotten with the echo unless it is that of the stage before. */
static void take_echo(struct session *s, net_peer from, const uint8_t *key,
                      const struct proto_echo *echo)
{
    if (net_proof_ok(echo->proof, s->options->token.secret, key))
        net_probe_answer(s->listener, from, echo);
    if (memcmp(key, load_of(s)->previous_key, PROTO_KEY_BYTES) != 0)
        net_link_forget(s->listener, from);
}

/* The stage before this one. Others are known to nobody here and get no answer. */
static void on_previous(void *arg, net_peer from, const uint8_t *key, struct proto_msg *msg,
                        struct net_payload **payload)
{
    struct session *s = arg;
    const struct proto_load *load = load_of(s);
    if (msg->kind == PROTO_MSG_ECHO) {
        take_echo(s, from, key, &msg->echo);
        return;
    }
    if (!load->has_stage || load->stage == 0 ||
        memcmp(key, load->previous_key, PROTO_KEY_BYTES) != 0) {
        net_link_forget(s->listener, from);
        return;
    }
    if (msg->kind == PROTO_MSG_LINK && msg->link.epoch == load->epoch) {
        struct proto_msg answer = {.kind = PROTO_MSG_LINKED, .link = {.epoch = load->epoch}};
        net_link_send(s->listener, from, &answer, NULL, NULL);
    } else if (msg->kind == PROTO_MSG_BATCH) {
        take_batch(s, &msg->batch, payload, net_now_ns());
    }
}

static void on_linked(void *arg, net_peer from, const uint8_t *key, struct proto_msg *msg,
                      struct net_payload **payload)
{
    struct session *s = arg;
    (void)from;
    (void)key;
    (void)payload;
    if (msg->kind == PROTO_MSG_LINKED && s->state == STATE_LINKING &&
        msg->link.epoch == load_of(s)->epoch)
        tell_ready(s);
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

static void on_next_bad(void *arg, net_peer from, const uint8_t *key,
                        const struct proto_error *error)
{
    (void)arg;
    (void)from;
    (void)key;
    proto_log(PROTO_LOG_WARN, "WORKER-NEXT-BAD", "error=\"%s\"", error->text);
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

static void link_again(struct session *s, uint64_t now_ns)
{
    if (now_ns - s->link_since_ns > LINK_DEADLINE_MS * 1000000ull) {
        struct proto_error error;
        proto_fail(
            &error, PROTO_TIMEOUT,
            "worker %s cannot reach the next worker at %s within %u s; is a firewall between "
            "them?",
            s->options->name, load_of(s)->next_endpoint, LINK_DEADLINE_MS / 1000);
        fail_load(s, &error);
    } else if (now_ns - s->link_ns > LINK_MS * 1000000ull) {
        struct proto_msg msg = {.kind = PROTO_MSG_LINK, .link = {.epoch = load_of(s)->epoch}};
        net_link_send(s->next, 0, &msg, NULL, NULL);
        s->link_ns = now_ns;
    }
}

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
    if (s->state == STATE_JOINING)
        join(s, now_ns);
    else if (silent && !s->options->local)
        lose_coordinator(s, "it has been silent for longer than the deadline");
    else if (s->state == STATE_LINKING)
        link_again(s, now_ns);
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
        snprintf(s->endpoint, sizeof s->endpoint, "%s", o->advertise ? o->advertise : bound);
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
                                             .asker = s->asker,
                                             .deliver = deliver_output,
                                             .arg = s};
    return worker_compute_create(&s->compute, &compute, error);
}

static enum proto_status open_loader(struct session *s, struct proto_error *error)
{
    const struct worker_session_options *o = s->options;
    struct worker_loader_options loader = {.loop = s->loop,
                                           .compute = s->compute,
                                           .asker = s->asker,
                                           .experts = s->experts,
                                           .table = o->table,
                                           .threads = o->threads,
                                           .cache_dir = o->cache_dir,
                                           .keep_packed = o->keep_packed,
                                           .tell = tell_of,
                                           .done = on_loaded,
                                           .arg = s};
    return worker_loader_create(&s->loader, &loader, error);
}

static enum proto_status open_session(struct session *s, struct proto_error *error)
{
    const struct worker_session_options *o = s->options;
    struct net_link_handler handler = {.on_message = on_coordinator,
                                       .on_bad = on_coordinator_bad,
                                       .on_trouble = on_trouble,
                                       .arg = s};
    enum proto_status status = PROTO_OK;
    s->deadline_ms = DEADLINE_MS;
    s->heard_ns = net_now_ns();
    if ((status = net_loop_create(&s->loop, error)) ||
        (status = net_loop_on_terminate(s->loop, on_terminate, s, error)) ||
        (status = open_listener(s, error)) || (status = open_experts(s, error)) ||
        (status = worker_asker_create(&s->asker, s->loop, &o->own, error)) ||
        (status = open_compute(s, error)) || (status = open_loader(s, error)) ||
        (status = net_link_connect(&s->coordinator, s->loop, o->endpoint, &o->own,
                                   o->token.cluster_key, &handler, error)) ||
        (status = open_prober(s, error)) ||
        (status = net_timer_create(&s->timer, s->loop, TICK_MS, on_tick, s, error)))
        return status;
    return PROTO_OK;
}

/* The batch being computed is waited for; a second Ctrl-C does not wait. The slice is freed after
 * the loop, when nothing is posted any more. */
static void close_session(struct session *s)
{
    s->closing = true;
    signal(SIGINT, SIG_DFL);
    signal(SIGTERM, SIG_DFL);
    worker_loader_stop(s->loader);
    if (s->asker)
        worker_asker_cancel(s->asker);
    worker_expert_server_destroy(s->experts);
    worker_compute_destroy(s->compute);
    worker_asker_destroy(s->asker);
    net_timer_destroy(s->timer);
    worker_prober_destroy(s->prober);
    net_link_destroy(s->next, 0);
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
    worker_loader_destroy(s->loader);
    free(s);
    return status;
}
