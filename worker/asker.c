/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/asker.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LINK_MS 200u
/* For a connection to be made: some silences, within bounds. */
#define LINK_SILENCES 2u
#define LINK_LEAST_MS 2000u
#define LINK_MOST_MS  10000u
/* For an answer of a host that is alive: its experts may have to come from a disk. */
#define ANSWER_DEADLINE_MS 60000u

/* A host that this stage asks. */
struct host {
    uint32_t number; /* in the load's hosts */
    char text[160];  /* for errors */
    bool linked;
    uint64_t asked, asked_ns; /* the request that has no answer yet, 0: none; and when */
    struct proto_host_time time;
};

struct worker_asker {
    struct net_loop *loop;
    struct net_keypair own;
    pthread_mutex_t mutex;         /* over the pointer, for worker_asker_cancel */
    struct net_exchange *exchange; /* NULL: no host is asked */
    struct host *hosts;            /* by place in the exchange */
    uint32_t n_hosts;
    uint64_t epoch, last_number;
    atomic_uint unreached;      /* 1 + the number of the host that could not be reached */
    struct net_received answer; /* the data of the last receive */
    atomic_bool waiting;
};

enum proto_status worker_asker_create(struct worker_asker **out, struct net_loop *loop,
                                      const struct net_keypair *own, struct proto_error *error)
{
    struct worker_asker *asker = calloc(1, sizeof *asker);
    if (!asker)
        return proto_fail_nomem(error, sizeof *asker, "connections to experts");
    pthread_mutex_init(&asker->mutex, NULL);
    asker->loop = loop;
    asker->own = *own;
    *out = asker;
    return PROTO_OK;
}

/* Puts another exchange, or none, in place. */
static void replace(struct worker_asker *asker, struct net_exchange *exchange)
{
    pthread_mutex_lock(&asker->mutex);
    struct net_exchange *old = asker->exchange;
    asker->exchange = exchange;
    pthread_mutex_unlock(&asker->mutex);
    net_exchange_destroy(old, 0);
}

static void disconnect(struct worker_asker *asker)
{
    replace(asker, NULL);
    net_received_finish(&asker->answer);
    free(asker->hosts);
    asker->hosts = NULL;
    asker->n_hosts = 0;
}

void worker_asker_destroy(struct worker_asker *asker)
{
    if (!asker)
        return;
    disconnect(asker);
    pthread_mutex_destroy(&asker->mutex);
    free(asker);
}

void worker_asker_cancel(struct worker_asker *asker)
{
    pthread_mutex_lock(&asker->mutex);
    if (asker->exchange)
        net_exchange_cancel(asker->exchange);
    pthread_mutex_unlock(&asker->mutex);
}

/* ---- connecting ---- */

/* Whether a host other than this worker has experts of the stage's layers; what it has of all. */
static bool is_asked(const struct proto_load *load, uint32_t number, char text[160])
{
    struct proto_part all = {.layer_first = UINT32_MAX, .expert_first = UINT32_MAX};
    bool asked = false;
    for (uint32_t i = 0; i < load->n_parts && load->has_stage && number != load->self; i++) {
        const struct proto_part *p = &load->parts[i];
        if (p->host != number)
            continue;
        asked |= p->layer_first < load->layer_end && p->layer_end > load->layer_first;
        all.layer_first = p->layer_first < all.layer_first ? p->layer_first : all.layer_first;
        all.layer_end = p->layer_end > all.layer_end ? p->layer_end : all.layer_end;
        all.expert_first = p->expert_first < all.expert_first ? p->expert_first : all.expert_first;
        all.expert_end = p->expert_end > all.expert_end ? p->expert_end : all.expert_end;
    }
    snprintf(text, 160, "worker \"%.48s\", which holds experts %u-%u of layers %u-%u",
             load->hosts[number].name, all.expert_first, all.expert_end - 1, all.layer_first,
             all.layer_end - 1);
    return asked;
}

static enum proto_status choose_hosts(struct worker_asker *asker, const struct proto_load *load,
                                      struct net_exchange_host **list, struct proto_error *error)
{
    asker->hosts = calloc(load->n_hosts + 1, sizeof *asker->hosts);
    *list = calloc(load->n_hosts + 1, sizeof **list);
    if (!asker->hosts || !*list)
        return proto_fail_nomem(error, load->n_hosts * sizeof **list, "connections to experts");
    for (uint32_t i = 0; i < load->n_hosts; i++) {
        struct host *host = &asker->hosts[asker->n_hosts];
        if (!is_asked(load, i, host->text))
            continue;
        host->number = i;
        (*list)[asker->n_hosts].endpoint = load->hosts[i].endpoint;
        memcpy((*list)[asker->n_hosts].key, load->hosts[i].key, PROTO_KEY_BYTES);
        asker->n_hosts++;
    }
    return PROTO_OK;
}

/* Asks those who have not answered whether they know this worker. */
static bool ask_links(struct worker_asker *asker)
{
    struct proto_msg msg = {.kind = PROTO_MSG_LINK, .link = {.epoch = asker->epoch}};
    bool all = true;
    for (uint32_t i = 0; i < asker->n_hosts; i++) {
        all &= asker->hosts[i].linked;
        if (!asker->hosts[i].linked)
            net_exchange_send(asker->exchange, i, &msg, NULL, NULL);
    }
    return all;
}

/* Takes answers until it is time to ask again; each may be the last. */
static enum proto_status take_links(struct worker_asker *asker, struct proto_error *error)
{
    struct net_received got;
    uint64_t until_ns = net_now_ns() + LINK_MS * 1000000ull;
    bool all = false;
    enum proto_status status = PROTO_OK;
    while (status == PROTO_OK && !all) {
        status = net_exchange_receive(asker->exchange, &got, until_ns, error);
        if (status == PROTO_OK && got.msg.kind == PROTO_MSG_LINKED &&
            got.msg.link.epoch == asker->epoch)
            asker->hosts[got.from].linked = true;
        if (status == PROTO_OK)
            net_received_finish(&got);
        all = true;
        for (uint32_t i = 0; i < asker->n_hosts; i++)
            all &= asker->hosts[i].linked;
    }
    return status == PROTO_TIMEOUT || status == PROTO_LOST ? PROTO_OK : status;
}

uint32_t worker_link_deadline_ms(uint32_t silence_ms)
{
    if (silence_ms > LINK_MOST_MS / LINK_SILENCES)
        return LINK_MOST_MS;
    uint32_t ms = LINK_SILENCES * silence_ms;
    return ms < LINK_LEAST_MS ? LINK_LEAST_MS : ms;
}

static enum proto_status fail_link(struct worker_asker *asker, uint32_t deadline_ms,
                                   struct proto_error *error)
{
    uint32_t i = 0;
    while (asker->hosts[i].linked)
        i++;
    atomic_store(&asker->unreached, 1 + asker->hosts[i].number);
    return proto_fail(error, PROTO_TIMEOUT,
                      "%s, cannot be reached at %s within %.1f s; is a firewall between them?",
                      asker->hosts[i].text, net_exchange_endpoint(asker->exchange, i),
                      (double)deadline_ms / 1000);
}

uint32_t worker_asker_unreached(const struct worker_asker *asker)
{
    return atomic_load(&asker->unreached);
}

static enum proto_status link_up(struct worker_asker *asker, uint32_t silence_ms,
                                 const atomic_bool *cancel, struct proto_error *error)
{
    uint32_t deadline_ms = worker_link_deadline_ms(silence_ms);
    uint64_t deadline_ns = net_now_ns() + deadline_ms * 1000000ull;
    while (!ask_links(asker)) {
        if (atomic_load(cancel))
            return proto_fail(error, PROTO_CANCELLED, "cancelled");
        if (net_now_ns() > deadline_ns)
            return fail_link(asker, deadline_ms, error);
        enum proto_status status = take_links(asker, error);
        if (status != PROTO_OK)
            return status;
    }
    return PROTO_OK;
}

enum proto_status worker_asker_connect(struct worker_asker *asker, const struct proto_load *load,
                                       uint32_t silence_ms, const atomic_bool *cancel,
                                       struct proto_error *error)
{
    struct net_exchange_host *list = NULL;
    struct net_exchange *exchange = NULL;
    disconnect(asker);
    asker->epoch = load->epoch;
    atomic_store(&asker->unreached, 0);
    enum proto_status status = choose_hosts(asker, load, &list, error);
    if (status == PROTO_OK && asker->n_hosts)
        status = net_exchange_connect(&exchange, asker->loop, list, asker->n_hosts, &asker->own,
                                      silence_ms, error);
    free(list);
    if (status == PROTO_OK && exchange) {
        replace(asker, exchange);
        status = link_up(asker, silence_ms, cancel, error);
    }
    if (status != PROTO_OK)
        disconnect(asker);
    return status;
}

/* ---- asking ---- */

static struct host *find_host(struct worker_asker *asker, uint32_t number)
{
    for (uint32_t i = 0; i < asker->n_hosts; i++)
        if (asker->hosts[i].number == number)
            return &asker->hosts[i];
    return NULL;
}

static enum proto_status fail_host(const struct host *host, const char *why,
                                   struct proto_error *error)
{
    return proto_fail(error, PROTO_LOST, "%s, does not answer: %s", host->text, why);
}

static enum proto_status send_request(void *arg, uint32_t number, uint32_t layer, const void *bytes,
                                      size_t len, struct proto_error *error)
{
    struct worker_asker *asker = arg;
    struct host *host = find_host(asker, number);
    if (!host)
        return proto_fail(error, PROTO_LOST, "no worker is connected that holds the experts");
    struct net_payload *payload = net_payload_copy(bytes, len);
    if (!payload)
        return proto_fail_nomem(error, len, "a request for experts");
    struct proto_msg msg = {
        .kind = PROTO_MSG_EXPERTS,
        .experts = {.epoch = asker->epoch, .number = ++asker->last_number, .layer = layer}};
    uint64_t now_ns = net_now_ns();
    struct proto_error why;
    enum proto_status status =
        net_exchange_send(asker->exchange, (net_peer)(host - asker->hosts), &msg, &payload, &why);
    if (status != PROTO_OK)
        return fail_host(host, why.text, error);
    host->asked = asker->last_number;
    host->asked_ns = now_ns;
    host->time.host = number;
    host->time.requests++;
    host->time.bytes_out += len;
    return PROTO_OK;
}

static enum proto_status fail_wait(const struct worker_asker *asker, enum proto_status status,
                                   const struct proto_error *why, struct proto_error *error)
{
    for (uint32_t i = 0; i < asker->n_hosts && status == PROTO_TIMEOUT; i++)
        if (asker->hosts[i].asked)
            return fail_host(&asker->hosts[i], why->text, error);
    return proto_fail(error, status, "%s", why->text);
}

/* Whether it is the answer that is waited for, whose times are then added. */
static bool accept_answer(struct worker_asker *asker, const struct net_received *got,
                          uint64_t waited_ns)
{
    struct host *host = &asker->hosts[got->from];
    const struct proto_experts_done *done = &got->msg.experts_done;
    if (got->msg.kind != PROTO_MSG_EXPERTS_DONE || done->epoch != asker->epoch || !host->asked ||
        done->number != host->asked)
        return false;
    uint64_t whole_ns = net_now_ns() - host->asked_ns;
    host->asked = 0;
    host->time.bytes_in += got->payload ? net_payload_len(got->payload) : 0;
    host->time.compute_ns += done->compute_ns;
    host->time.wire_ns += whole_ns > done->compute_ns ? whole_ns - done->compute_ns : 0;
    host->time.wait_ns += waited_ns;
    return true;
}

/* Receives until it is an answer that is waited for. */
static enum proto_status wait_answer(struct worker_asker *asker, struct proto_error *error)
{
    struct net_received *got = &asker->answer;
    uint64_t started_ns = net_now_ns(), deadline_ns = started_ns + ANSWER_DEADLINE_MS * 1000000ull;
    struct proto_error why;
    for (;;) {
        net_received_finish(got);
        enum proto_status status = net_exchange_receive(asker->exchange, got, deadline_ns, &why);
        const struct host *host = &asker->hosts[got->from];
        if (status == PROTO_OK && accept_answer(asker, got, net_now_ns() - started_ns))
            return PROTO_OK;
        if (status == PROTO_LOST && host->asked)
            return fail_host(host, "the connection broke", error);
        if (status == PROTO_FORMAT)
            return proto_fail(error, status, "%s: %s", host->text, why.text);
        if (status != PROTO_OK && status != PROTO_LOST)
            return fail_wait(asker, status, &why, error);
    }
}

static enum proto_status receive_answer(void *arg, uint32_t *number, const void **data, size_t *len,
                                        struct proto_error *error)
{
    struct worker_asker *asker = arg;
    struct net_received *got = &asker->answer;
    atomic_store(&asker->waiting, true);
    enum proto_status status = wait_answer(asker, error);
    atomic_store(&asker->waiting, false);
    if (status != PROTO_OK)
        return status;
    const struct proto_experts_done *done = &got->msg.experts_done;
    *number = asker->hosts[got->from].number;
    if (done->status != PROTO_OK)
        return proto_fail(error, done->status, "%s: %s", asker->hosts[got->from].text, done->text);
    *data = got->payload ? net_payload_data(got->payload) : "";
    *len = got->payload ? net_payload_len(got->payload) : 0;
    return PROTO_OK;
}

struct worker_remote worker_asker_calls(struct worker_asker *asker)
{
    return (struct worker_remote){.send = send_request, .receive = receive_answer, .arg = asker};
}

/* ---- times ---- */

void worker_asker_begin(struct worker_asker *asker)
{
    for (uint32_t i = 0; i < asker->n_hosts; i++) {
        asker->hosts[i].asked = 0;
        memset(&asker->hosts[i].time, 0, sizeof asker->hosts[i].time);
    }
}

uint64_t worker_asker_waited_ns(const struct worker_asker *asker)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < asker->n_hosts; i++)
        sum += asker->hosts[i].time.wait_ns;
    return sum;
}

/* The batch's times of this host; stages before may have asked it too. There is room. */
static struct proto_host_time *times_of(struct proto_batch *batch, uint64_t number)
{
    uint32_t i = 0;
    while (i < batch->n_host_times && batch->host_times[i].host != number)
        i++;
    if (i == batch->n_host_times)
        batch->host_times[batch->n_host_times++] = (struct proto_host_time){.host = number};
    return &batch->host_times[i];
}

enum proto_status worker_asker_add_times(struct worker_asker *asker, struct proto_batch *batch,
                                         struct proto_error *error)
{
    size_t most = batch->n_host_times + (size_t)asker->n_hosts;
    if (!asker->n_hosts)
        return PROTO_OK;
    struct proto_host_time *times = realloc(batch->host_times, most * sizeof *times);
    if (!times)
        return proto_fail_nomem(error, most * sizeof *times, "times of hosts");
    batch->host_times = times;
    for (uint32_t i = 0; i < asker->n_hosts; i++) {
        const struct proto_host_time *from = &asker->hosts[i].time;
        if (!from->requests)
            continue;
        struct proto_host_time *to = times_of(batch, from->host);
        to->requests += from->requests;
        to->bytes_out += from->bytes_out;
        to->bytes_in += from->bytes_in;
        to->compute_ns += from->compute_ns;
        to->wire_ns += from->wire_ns;
        to->wait_ns += from->wait_ns;
    }
    return PROTO_OK;
}

bool worker_asker_waiting(const struct worker_asker *asker)
{
    return atomic_load(&asker->waiting);
}
