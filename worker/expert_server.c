/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/expert_server.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "proto/log.h"

/* A stage that may ask. */
struct asker {
    uint8_t key[PROTO_KEY_BYTES];
    net_peer peer; /* its connection, 0: none yet */
};

/* What is served to the stages of a plan. */
struct service {
    struct service *next;
    uint64_t epoch;
    struct worker_expert_host *host; /* NULL: not yet */
    struct asker *askers;
    uint32_t n_askers;
};

struct worker_expert_server {
    struct net_exchange *exchange;
    pthread_t thread;
    bool started;
    atomic_uint_fast64_t n_answered;
    atomic_bool computing;
    pthread_mutex_t mutex; /* over what follows; held while a request is computed */
    struct service *services;
    struct service *over; /* whose connections the thread has yet to let go of */
};

static struct service **find_service(struct worker_expert_server *server, uint64_t epoch)
{
    struct service **at = &server->services;
    while (*at && (*at)->epoch != epoch)
        at = &(*at)->next;
    return at;
}

static struct asker *find_asker(struct service *service, const uint8_t key[PROTO_KEY_BYTES])
{
    for (uint32_t i = 0; service && i < service->n_askers; i++)
        if (memcmp(service->askers[i].key, key, PROTO_KEY_BYTES) == 0)
            return &service->askers[i];
    return NULL;
}

/* Whether the sender may ask. A stage that connects anew leaves its old connection behind. */
static bool admit(struct worker_expert_server *server, struct service *service,
                  const struct net_received *got)
{
    struct asker *asker = find_asker(service, got->key);
    net_peer gone = asker ? asker->peer : got->from;
    if (asker && gone == got->from)
        return true;
    if (gone)
        net_exchange_forget(server->exchange, gone);
    if (asker)
        asker->peer = got->from;
    return asker != NULL;
}

static enum proto_status compute(const struct service *service, const struct net_received *request,
                                 struct net_payload **answer, struct proto_error *error)
{
    const void *data, *bytes = request->payload ? net_payload_data(request->payload) : "";
    size_t len = 0, request_len = request->payload ? net_payload_len(request->payload) : 0;
    if (!service->host)
        return proto_fail(error, PROTO_NOTFOUND, "no experts are loaded");
    enum proto_status status = worker_expert_host_run(service->host, request->msg.experts.layer,
                                                      bytes, request_len, &data, &len, error);
    if (status != PROTO_OK)
        return status;
    *answer = net_payload_copy(data, len);
    return *answer ? PROTO_OK : proto_fail_nomem(error, len, "an answer");
}

static void send_answer(struct worker_expert_server *server, net_peer to,
                        const struct proto_msg *msg, struct net_payload **payload)
{
    struct proto_error error;
    if (net_exchange_send(server->exchange, to, msg, payload, &error) != PROTO_OK)
        proto_log(PROTO_LOG_DEBUG, "WORKER-EXPERTS-SEND", "error=\"%s\"", error.text);
}

static void answer_request(struct worker_expert_server *server, const struct service *service,
                           const struct net_received *request)
{
    const struct proto_experts *asked = &request->msg.experts;
    struct proto_error error;
    struct net_payload *payload = NULL;
    uint64_t started_ns = net_now_ns();
    struct proto_msg msg = {.kind = PROTO_MSG_EXPERTS_DONE,
                            .experts_done = {.epoch = asked->epoch, .number = asked->number}};
    atomic_store(&server->computing, true);
    msg.experts_done.status = compute(service, request, &payload, &error);
    atomic_store(&server->computing, false);
    if (msg.experts_done.status != PROTO_OK)
        msg.experts_done.text = error.text;
    msg.experts_done.compute_ns = net_now_ns() - started_ns;
    atomic_fetch_add(&server->n_answered, 1);
    send_answer(server, request->from, &msg, &payload);
}

static void bury(struct worker_expert_server *server, bool forget)
{
    while (server->over) {
        struct service *service = server->over;
        server->over = service->next;
        for (uint32_t i = 0; forget && i < service->n_askers; i++)
            if (service->askers[i].peer)
                net_exchange_forget(server->exchange, service->askers[i].peer);
        free(service->askers);
        free(service);
    }
}

/* The plan that a message is about; 0: none. */
static uint64_t epoch_of(const struct proto_msg *msg)
{
    return msg->kind == PROTO_MSG_LINK      ? msg->link.epoch
           : msg->kind == PROTO_MSG_EXPERTS ? msg->experts.epoch
                                            : 0;
}

/* Strangers get no answer, nor does who asks for another plan. */
static void handle(struct worker_expert_server *server, const struct net_received *got)
{
    const struct proto_msg *msg = &got->msg;
    pthread_mutex_lock(&server->mutex);
    bury(server, true);
    struct service *service = *find_service(server, epoch_of(msg));
    if (!admit(server, service, got)) {
        pthread_mutex_unlock(&server->mutex);
        return;
    }
    if (msg->kind == PROTO_MSG_LINK) {
        struct proto_msg linked = {.kind = PROTO_MSG_LINKED, .link = {.epoch = service->epoch}};
        send_answer(server, got->from, &linked, NULL);
    } else {
        answer_request(server, service, got);
    }
    pthread_mutex_unlock(&server->mutex);
}

static void *server_main(void *arg)
{
    struct worker_expert_server *server = arg;
    struct net_received got;
    struct proto_error error;
    enum proto_status status = PROTO_OK;
    while (status == PROTO_OK || status == PROTO_NOMEM) {
        status = net_exchange_receive(server->exchange, &got, UINT64_MAX, &error);
        if (status == PROTO_OK) {
            handle(server, &got);
            net_received_finish(&got);
        } else if (status != PROTO_CANCELLED) {
            proto_log(PROTO_LOG_ERROR, "WORKER-EXPERTS-RECEIVE", "error=\"%s\"", error.text);
        }
    }
    return NULL;
}

enum proto_status worker_expert_server_create(struct worker_expert_server **out,
                                              struct net_loop *loop, const char *endpoint,
                                              const struct net_keypair *own,
                                              struct proto_error *error)
{
    struct worker_expert_server *server = calloc(1, sizeof *server);
    if (!server)
        return proto_fail_nomem(error, sizeof *server, "the experts' thread");
    pthread_mutex_init(&server->mutex, NULL);
    enum proto_status status = net_exchange_listen(&server->exchange, loop, endpoint, own, error);
    if (status == PROTO_OK) {
        int rc = pthread_create(&server->thread, NULL, server_main, server);
        server->started = rc == 0;
        if (rc)
            status = proto_fail_errno(error, rc, "start", "the experts' thread");
    }
    if (status != PROTO_OK) {
        worker_expert_server_destroy(server);
        return status;
    }
    *out = server;
    return PROTO_OK;
}

void worker_expert_server_stop(struct worker_expert_server *server)
{
    if (!server || !server->started)
        return;
    net_exchange_cancel(server->exchange);
    pthread_join(server->thread, NULL);
    server->started = false;
}

void worker_expert_server_destroy(struct worker_expert_server *server)
{
    if (!server)
        return;
    worker_expert_server_stop(server);
    net_exchange_destroy(server->exchange, 0);
    while (server->services)
        worker_expert_server_forget(server, server->services->epoch);
    bury(server, false);
    pthread_mutex_destroy(&server->mutex);
    free(server);
}

const char *worker_expert_server_endpoint(const struct worker_expert_server *server)
{
    return net_exchange_endpoint(server->exchange, 0);
}

enum proto_status worker_expert_server_expect(struct worker_expert_server *server,
                                              const struct proto_load *load,
                                              struct proto_error *error)
{
    struct service *service = calloc(1, sizeof *service);
    if (service)
        service->askers = calloc(load->n_askers + 1, sizeof *service->askers);
    if (!service || !service->askers) {
        free(service);
        return proto_fail_nomem(error, load->n_askers * sizeof *service->askers, "keys of stages");
    }
    service->epoch = load->epoch;
    service->n_askers = load->n_askers;
    for (uint32_t i = 0; i < load->n_askers; i++)
        memcpy(service->askers[i].key, load->askers[i], PROTO_KEY_BYTES);
    pthread_mutex_lock(&server->mutex);
    service->next = server->services;
    server->services = service;
    pthread_mutex_unlock(&server->mutex);
    return PROTO_OK;
}

void worker_expert_server_serve(struct worker_expert_server *server, uint64_t epoch,
                                struct worker_expert_host *host)
{
    pthread_mutex_lock(&server->mutex);
    struct service *service = *find_service(server, epoch);
    if (service)
        service->host = host;
    pthread_mutex_unlock(&server->mutex);
}

void worker_expert_server_forget(struct worker_expert_server *server, uint64_t epoch)
{
    pthread_mutex_lock(&server->mutex);
    struct service **at = find_service(server, epoch), *service = *at;
    if (service) {
        *at = service->next;
        service->host = NULL;
        service->next = server->over;
        server->over = service;
    }
    pthread_mutex_unlock(&server->mutex);
}

uint64_t worker_expert_server_steps(const struct worker_expert_server *server)
{
    return atomic_load(&server->n_answered);
}

bool worker_expert_server_computing(const struct worker_expert_server *server)
{
    return atomic_load(&server->computing);
}
