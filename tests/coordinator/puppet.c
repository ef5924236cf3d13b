/* SPDX-License-Identifier: Apache-2.0 */
#include "puppet.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "net/loop.h"

#define DEADLINE_S 60

static void say_hello(struct puppet *puppet)
{
    struct proto_msg msg = {
        .kind = PROTO_MSG_HELLO,
        .hello = {.version = puppet->options.version ? puppet->options.version : PROTO_WIRE_VERSION,
                  .name = "puppet",
                  .endpoint = "tcp://127.0.0.1:9",
                  .memory_bytes = 1u << 30,
                  .threads = 1,
                  .isa = "wood"}};
    net_proof_make(msg.hello.proof, puppet->cluster->secret, puppet->key.public_key);
    msg.hello.proof[0] ^= puppet->options.wrong_proof;
    puppet_send(puppet, &msg, NULL, 0);
}

static void say_failed(struct puppet *puppet)
{
    struct proto_msg msg = {.kind = PROTO_MSG_FAILED,
                            .failed = {.epoch = puppet->epoch,
                                       .status = PROTO_NOSPACE,
                                       .text = "the strings are tangled",
                                       .unreached = puppet->options.unreached}};
    puppet_send(puppet, &msg, NULL, 0);
}

static void say_ready(struct puppet *puppet)
{
    struct proto_msg msg = {.kind = PROTO_MSG_READY, .ready = {.epoch = puppet->epoch}};
    puppet_send(puppet, &msg, NULL, 0);
}

/* It has nothing of any sequence. */
static void say_committed(struct puppet *puppet, const struct proto_commit *commit)
{
    struct proto_msg msg = {.kind = PROTO_MSG_COMMITTED, .commit = *commit};
    for (uint32_t i = 0; i < commit->n_held; i++)
        commit->held[i].pos = 0;
    puppet_send(puppet, &msg, NULL, 0);
}

static void say_pong(struct puppet *puppet, const struct proto_ping *ping)
{
    uint64_t now_ns = net_now_ns();
    struct proto_msg msg = {
        .kind = PROTO_MSG_PONG,
        .pong = {.ping_sent_ns = ping->sent_ns, .received_ns = now_ns, .sent_ns = now_ns}};
    puppet_send(puppet, &msg, NULL, 0);
}

static void note(struct puppet *puppet, const struct proto_msg *msg)
{
    pthread_mutex_lock(&puppet->mutex);
    puppet->heard[msg->kind]++;
    if (msg->kind == PROTO_MSG_REFUSE)
        snprintf(puppet->refusal, sizeof puppet->refusal, "%s", msg->refuse.text);
    if (msg->kind == PROTO_MSG_LOAD)
        puppet->epoch = msg->load.epoch;
    pthread_cond_broadcast(&puppet->changed);
    pthread_mutex_unlock(&puppet->mutex);
}

static void on_message(void *arg, net_peer from, const uint8_t key[PROTO_KEY_BYTES],
                       struct proto_msg *msg, struct net_payload **payload)
{
    struct puppet *puppet = arg;
    (void)from;
    (void)key;
    (void)payload;
    note(puppet, msg);
    if (msg->kind == PROTO_MSG_PING)
        say_pong(puppet, &msg->ping);
    else if (msg->kind == PROTO_MSG_LOAD && puppet->heard[msg->kind] == puppet->options.bad_load)
        say_failed(puppet);
    else if (msg->kind == PROTO_MSG_LOAD)
        say_ready(puppet);
    else if (msg->kind == PROTO_MSG_COMMIT)
        say_committed(puppet, &msg->commit);
    else if (msg->kind == PROTO_MSG_BATCH && puppet->options.on_batch)
        puppet->options.on_batch(puppet, &msg->batch);
}

static void on_bad(void *arg, net_peer from, const uint8_t key[PROTO_KEY_BYTES],
                   const struct proto_error *error)
{
    (void)arg;
    (void)from;
    (void)key;
    fprintf(stderr, "the engine sent a bad frame: %s\n", error->text);
    abort();
}

static void *run(void *arg)
{
    struct puppet *puppet = arg;
    net_loop_run(puppet->loop);
    return NULL;
}

void puppet_start(struct puppet *puppet, const char *endpoint,
                  const struct net_cluster_keys *cluster, const struct puppet_options *options)
{
    struct net_link_handler handler = {.on_message = on_message, .on_bad = on_bad, .arg = puppet};
    memset(puppet, 0, sizeof *puppet);
    puppet->options = *options;
    puppet->cluster = cluster;
    pthread_mutex_init(&puppet->mutex, NULL);
    pthread_cond_init(&puppet->changed, NULL);
    if (net_keypair_generate(&puppet->key, NULL) || net_loop_create(&puppet->loop, NULL) ||
        net_link_connect(&puppet->link, puppet->loop, endpoint, &puppet->key,
                         cluster->pair.public_key, &handler, NULL))
        abort();
    say_hello(puppet);
    if (pthread_create(&puppet->thread, NULL, run, puppet))
        abort();
}

void puppet_finish(struct puppet *puppet)
{
    net_loop_stop(puppet->loop);
    pthread_join(puppet->thread, NULL);
    net_link_destroy(puppet->link, 0);
    net_loop_destroy(puppet->loop);
    pthread_cond_destroy(&puppet->changed);
    pthread_mutex_destroy(&puppet->mutex);
}

static void rejoin(void *arg)
{
    struct puppet *puppet = arg;
    struct proto_msg msg = {.kind = PROTO_MSG_BYE};
    puppet_send(puppet, &msg, NULL, 0);
    say_hello(puppet);
}

void puppet_rejoin(struct puppet *puppet)
{
    if (net_loop_post(puppet->loop, rejoin, puppet) != PROTO_OK)
        abort();
}

bool puppet_wait(struct puppet *puppet, enum proto_kind kind, unsigned n)
{
    struct timespec until;
    int rc = 0;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += DEADLINE_S;
    pthread_mutex_lock(&puppet->mutex);
    while (puppet->heard[kind] < n && rc == 0)
        rc = pthread_cond_timedwait(&puppet->changed, &puppet->mutex, &until);
    bool ok = puppet->heard[kind] >= n;
    pthread_mutex_unlock(&puppet->mutex);
    return ok;
}

unsigned puppet_heard(struct puppet *puppet, enum proto_kind kind)
{
    pthread_mutex_lock(&puppet->mutex);
    unsigned n = puppet->heard[kind];
    pthread_mutex_unlock(&puppet->mutex);
    return n;
}

static void release(void *data, void *arg)
{
    (void)arg;
    free(data);
}

void puppet_send(struct puppet *puppet, const struct proto_msg *msg, const void *bytes, size_t len)
{
    struct net_payload *payload = NULL;
    struct proto_error error;
    if (bytes) {
        void *copy = malloc(len + 1);
        if (!copy)
            abort();
        memcpy(copy, bytes, len);
        payload = net_payload_wrap(copy, len, release, NULL);
    }
    if (net_link_send(puppet->link, 0, msg, &payload, &error) != PROTO_OK) {
        fprintf(stderr, "the puppet cannot send: %s\n", error.text);
        abort();
    }
}

struct post {
    struct puppet *puppet;
    struct proto_msg msg;
};

static void send_post(void *arg)
{
    struct post *post = arg;
    puppet_send(post->puppet, &post->msg, NULL, 0);
    free(post);
}

void puppet_post(struct puppet *puppet, const struct proto_msg *msg)
{
    struct post *post = malloc(sizeof *post);
    if (!post)
        abort();
    *post = (struct post){puppet, *msg};
    if (net_loop_post(puppet->loop, send_post, post) != PROTO_OK)
        abort();
}
