/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Three threads meet here. The loop's thread owns the sockets and everything in struct session.
 * The computing thread runs batches (compute.c). While a slice is being built, a loading thread
 * runs (build_slice); it alone touches the slice then, after it has waited for the computing
 * thread to finish what it had of the old one. The two other threads speak to the loop only
 * through net_loop_post.
 */
#include "worker/session.h"

#include "net/address.h"
#include "net/link.h"
#include "proto/log.h"
#include "worker/compute.h"
#include "worker/fetch.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define TICK_MS           100u
#define HELLO_MS          500u
#define LINK_MS           200u
#define LINK_DEADLINE_MS  10000u
#define FETCH_DEADLINE_MS 60000u
#define PROGRESS_MS       100u
#define DEADLINE_MS       3000u /* until the coordinator says otherwise */

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
    char endpoint[NET_ADDRESS_BYTES + 16]; /* that others use for the listener */

    enum session_state state;
    uint64_t heard_ns, hello_ns, link_ns, link_since_ns;
    uint32_t deadline_ms;
    bool closing;           /* the links are gone: what is still posted is only freed */
    struct proto_error end; /* why the session ends; status OK: terminated */

    struct worker_slice *slice; /* the loading thread's while `building` */
    struct proto_msg load;      /* the load in force (kind LOAD), or zero */
    struct proto_msg wanted;    /* a load that came while building */
    struct net_payload *wanted_card;

    /* The loading thread. */
    bool building;
    pthread_t builder;
    struct net_payload *card;
    struct worker_fetcher *fetcher;
    atomic_bool cancel;
    uint64_t progress_ns;
    enum proto_status built;
    struct proto_error build_error;
};

static void set_state(struct session *s, enum session_state state)
{
    if (s->state == state)
        return;
    proto_log(may_change[s->state][state] ? PROTO_LOG_INFO : PROTO_LOG_ERROR, "WORKER-STATE",
              "from=%s to=%s epoch=%llu", state_names[s->state], state_names[state],
              (unsigned long long)s->load.load.epoch);
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

static void tell_failed(struct session *s, uint64_t batch, const struct proto_error *why)
{
    struct proto_msg msg = {.kind = PROTO_MSG_FAILED,
                            .failed = {.epoch = s->load.load.epoch,
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
                                      .memory_bytes = o->memory_bytes,
                                      .threads = o->threads,
                                      .isa = (char *)o->table->name}};
    net_proof_make(msg.hello.proof, o->token.secret, o->own.public_key);
    tell(s, &msg);
}

static void tell_ready(struct session *s)
{
    set_state(s, STATE_READY);
    struct proto_msg msg = {.kind = PROTO_MSG_READY,
                            .ready = {.epoch = s->load.load.epoch,
                                      .weight_bytes = shard_program_weight_bytes(s->slice->program),
                                      .kv_limit_bytes = s->slice->kv_limit_bytes,
                                      .scratch_bytes = s->slice->scratch_bytes}};
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
    bool computing = s->state == STATE_READY && s->slice;
    struct proto_msg msg = {.kind = PROTO_MSG_PONG,
                            .pong = {.ping_sent_ns = ping->sent_ns,
                                     .received_ns = now_ns,
                                     .steps = computing ? worker_exec_steps(s->slice->exec) : 0,
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
    uint64_t epoch = s->load.load.epoch;
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
    } else if (msg->kind == PROTO_MSG_FAILED || msg->kind == PROTO_MSG_MEASURED) {
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

/* ---- building a slice ---- */

struct note {
    struct session *session;
    struct proto_msg msg;
};

/* On the loop's thread. */
static void send_note(void *arg)
{
    struct note *note = arg;
    if (!note->session->closing)
        tell(note->session, &note->msg);
    free(note);
}

/* On the loading thread. */
static enum proto_status post_note(void *arg, const struct proto_msg *msg,
                                   struct proto_error *error)
{
    struct session *s = arg;
    struct note *note = malloc(sizeof *note);
    if (note)
        *note = (struct note){.session = s, .msg = *msg};
    if (!note || net_loop_post(s->loop, send_note, note) != PROTO_OK) {
        free(note);
        return proto_fail_nomem(error, sizeof *note, "a message");
    }
    return PROTO_OK;
}

static void post_progress(void *arg, uint64_t done, uint64_t total, uint64_t fetched)
{
    struct session *s = arg;
    uint64_t now_ns = net_now_ns();
    if (done < total && now_ns - s->progress_ns < PROGRESS_MS * 1000000ull)
        return;
    s->progress_ns = now_ns;
    struct proto_msg msg = {.kind = PROTO_MSG_PROGRESS,
                            .progress = {.epoch = s->load.load.epoch,
                                         .done_bytes = done,
                                         .total_bytes = total,
                                         .fetched_bytes = fetched}};
    post_note(s, &msg, NULL);
}

static void slice_built(void *arg);

/* The loading thread: the slice in force serves again, or is replaced. */
static void *build_slice(void *arg)
{
    struct session *s = arg;
    const struct proto_load *load = &s->load.load;
    const void *card = net_payload_data(s->card);
    size_t card_bytes = net_payload_len(s->card);
    worker_compute_drain(s->compute);
    s->built = PROTO_OK;
    if (s->slice && worker_slice_serves(s->slice, load, card, card_bytes)) {
        worker_slice_renew(s->slice, load->epoch);
    } else {
        worker_slice_destroy(s->slice);
        s->slice = NULL;
        struct worker_fetch fetch = worker_fetcher_calls(s->fetcher);
        struct worker_slice_options how = {.table = s->options->table,
                                           .compute_pool = worker_compute_pool(s->compute),
                                           .threads = s->options->threads,
                                           .cache_dir = s->options->cache_dir,
                                           .keep_packed = s->options->keep_packed,
                                           .fetch = &fetch,
                                           .progress = post_progress,
                                           .progress_arg = s,
                                           .cancel = &s->cancel};
        s->built = worker_slice_create(&s->slice, load, card, card_bytes, &how, &s->build_error);
    }
    net_loop_post(s->loop, slice_built, s);
    return NULL;
}

static void fail_load(struct session *s, const struct proto_error *why)
{
    proto_log(PROTO_LOG_WARN, "WORKER-LOAD-FAILED", "epoch=%llu error=\"%s\"",
              (unsigned long long)s->load.load.epoch, why->text);
    tell_failed(s, 0, why);
    if (s->state != STATE_JOINING)
        set_state(s, STATE_JOINED);
}

static void start_build(struct session *s)
{
    struct proto_error error;
    const struct worker_fetcher_options fetcher = {
        .epoch = s->load.load.epoch, .deadline_ms = FETCH_DEADLINE_MS, .send = post_note, .arg = s};
    set_state(s, STATE_LOADING);
    atomic_store(&s->cancel, false);
    enum proto_status status = worker_fetcher_create(&s->fetcher, &fetcher, &error);
    if (status == PROTO_OK) {
        int rc = pthread_create(&s->builder, NULL, build_slice, s);
        if (rc)
            status = proto_fail_errno(&error, rc, "start", "the loading thread");
    }
    s->building = status == PROTO_OK;
    if (!s->building)
        fail_load(s, &error);
}

/* Puts a load in force and starts to build, unless a build is still ending. */
static void take_load(struct session *s, struct proto_msg *load, struct net_payload **card)
{
    if (s->building) {
        struct proto_error over = {PROTO_CANCELLED, "the coordinator has a newer plan"};
        atomic_store(&s->cancel, true);
        worker_fetcher_fail(s->fetcher, &over);
        proto_msg_finish(&s->wanted);
        net_payload_destroy(s->wanted_card);
        s->wanted = *load;
        s->wanted_card = *card;
    } else {
        net_link_destroy(s->next, 0);
        s->next = NULL;
        proto_msg_finish(&s->load);
        net_payload_destroy(s->card);
        s->load = *load;
        s->card = *card;
        start_build(s);
    }
    memset(load, 0, sizeof *load);
    *card = NULL;
}

static void on_linked(void *arg, net_peer from, const uint8_t *key, struct proto_msg *msg,
                      struct net_payload **payload);
static void on_next_bad(void *arg, net_peer from, const uint8_t *key,
                        const struct proto_error *error);

/* The slice is loaded: reach the next stage, or be ready. */
static void link_up(struct session *s)
{
    const struct proto_load *load = &s->load.load;
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

/* On the loop's thread, after build_slice. */
static void slice_built(void *arg)
{
    struct session *s = arg;
    if (s->closing)
        return;
    pthread_join(s->builder, NULL);
    s->building = false;
    worker_fetcher_destroy(s->fetcher);
    s->fetcher = NULL;
    if (s->wanted.kind) {
        struct proto_msg load = s->wanted;
        struct net_payload *card = s->wanted_card;
        memset(&s->wanted, 0, sizeof s->wanted);
        s->wanted_card = NULL;
        take_load(s, &load, &card);
    } else if (s->state != STATE_LOADING) {
        return; /* the coordinator went away meanwhile; the slice stays for its return */
    } else if (s->built == PROTO_OK) {
        link_up(s);
    } else {
        fail_load(s, &s->build_error);
    }
}

/* ---- messages ---- */

/* A batch, from the coordinator (first stage) or from the stage before. */
static void take_batch(struct session *s, struct proto_batch *batch, struct net_payload **payload,
                       uint64_t now_ns)
{
    if (s->state != STATE_READY || batch->epoch != s->load.load.epoch) {
        proto_log(PROTO_LOG_DEBUG, "WORKER-BATCH-STALE", "epoch=%llu batch=%llu",
                  (unsigned long long)batch->epoch, (unsigned long long)batch->batch);
        return;
    }
    struct proto_error error;
    enum proto_status status = PROTO_OK;
    uint64_t number = batch->batch, rows = proto_batch_rows(batch);
    const struct shard_program *program = s->slice->program;
    size_t row_bytes =
        program->embed ? 4 : shard_row_floats(program->model, program->layer_first) * sizeof(float);
    size_t found = *payload ? net_payload_len(*payload) : 0;
    if (found != rows * row_bytes)
        status = proto_fail(&error, PROTO_FORMAT,
                            "batch %llu: expected %llu rows of %zu bytes, found %zu bytes",
                            (unsigned long long)number, (unsigned long long)rows, row_bytes, found);
    else
        status = worker_compute_batch(s->compute, s->slice, batch, payload, now_ns, &error);
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
    if (s->fetcher)
        worker_fetcher_fail(s->fetcher, &error);
    if (s->building)
        atomic_store(&s->cancel, true);
    tell(s, &msg);
    set_state(s, STATE_JOINING);
}

static void take_welcome(struct session *s, const struct proto_welcome *welcome)
{
    s->deadline_ms = welcome->deadline_ms;
    if (s->state == STATE_JOINING) {
        set_state(s, STATE_JOINED);
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
    else if (msg->kind == PROTO_MSG_BATCH && s->load.load.stage == 0)
        take_batch(s, &msg->batch, payload, now_ns);
    else if (msg->kind == PROTO_MSG_HASHES && s->fetcher)
        worker_fetcher_hashes(s->fetcher, &msg->hashes, payload);
    else if (msg->kind == PROTO_MSG_CHUNK && s->fetcher)
        worker_fetcher_chunk(s->fetcher, &msg->chunk, payload);
    else if (msg->kind == PROTO_MSG_MEASURE && joined)
        take_measure(s, &msg->measure);
    else if (msg->kind == PROTO_MSG_BYE)
        take_goodbye(s);
}

/* The stage before this one. Others are known to nobody here and get no answer. */
static void on_previous(void *arg, net_peer from, const uint8_t *key, struct proto_msg *msg,
                        struct net_payload **payload)
{
    struct session *s = arg;
    const struct proto_load *load = &s->load.load;
    if (s->load.kind != PROTO_MSG_LOAD || load->stage == 0 ||
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
        msg->link.epoch == s->load.load.epoch)
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
            s->options->name, s->load.load.next_endpoint, LINK_DEADLINE_MS / 1000);
        fail_load(s, &error);
    } else if (now_ns - s->link_ns > LINK_MS * 1000000ull) {
        struct proto_msg msg = {.kind = PROTO_MSG_LINK, .link = {.epoch = s->load.load.epoch}};
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

static enum proto_status open_session(struct session *s, struct proto_error *error)
{
    const struct worker_session_options *o = s->options;
    struct worker_compute_options compute = {
        .table = o->table, .threads = o->threads, .deliver = deliver_output, .arg = s};
    struct net_link_handler handler = {.on_message = on_coordinator,
                                       .on_bad = on_coordinator_bad,
                                       .on_trouble = on_trouble,
                                       .arg = s};
    enum proto_status status = PROTO_OK;
    s->deadline_ms = DEADLINE_MS;
    s->heard_ns = net_now_ns();
    if ((status = net_loop_create(&s->loop, error)) ||
        (status = net_loop_on_terminate(s->loop, on_terminate, s, error)) ||
        (status = open_listener(s, error)) ||
        (status = worker_compute_create(&s->compute, &compute, error)) ||
        (status = net_link_connect(&s->coordinator, s->loop, o->endpoint, &o->own,
                                   o->token.cluster_key, &handler, error)) ||
        (status = net_timer_create(&s->timer, s->loop, TICK_MS, on_tick, s, error)))
        return status;
    return PROTO_OK;
}

static void close_session(struct session *s)
{
    struct proto_error over = {PROTO_CANCELLED, "the worker is stopping"};
    s->closing = true;
    /* The batch being computed is waited for; a second Ctrl-C does not wait. */
    signal(SIGINT, SIG_DFL);
    signal(SIGTERM, SIG_DFL);
    atomic_store(&s->cancel, true);
    if (s->fetcher)
        worker_fetcher_fail(s->fetcher, &over);
    if (s->building)
        pthread_join(s->builder, NULL);
    worker_compute_destroy(s->compute);
    net_timer_destroy(s->timer);
    net_link_destroy(s->next, 0);
    net_link_destroy(s->listener, 0);
    net_link_destroy(s->coordinator, 200);
    worker_fetcher_destroy(s->fetcher);
    worker_slice_destroy(s->slice);
    proto_msg_finish(&s->load);
    proto_msg_finish(&s->wanted);
    net_payload_destroy(s->card);
    net_payload_destroy(s->wanted_card);
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
    free(s);
    return status;
}
