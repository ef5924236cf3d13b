/* SPDX-License-Identifier: Apache-2.0 */
#include "coordinator/parts.h"

#include "proto/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PING_MS  250u
#define PAUSE_MS 1000u /* between two looks that are meant to be much closer */
#define RIVAL_MS 1000u /* for which a worker must be silent before another takes its place */

#define CLOSED "its connection was closed"

enum proto_status engine__tell(struct coord_worker *w, const struct proto_msg *msg,
                               struct net_payload **payload, struct proto_error *error)
{
    return net_link_send(w->link, w->peer, msg, payload, error);
}

bool engine__is_here(const struct coord_worker *w)
{
    return w->state == COORD_JOINED;
}

static struct coord_worker *find_peer(struct coord_engine *e, const struct net_link *link,
                                      net_peer peer)
{
    for (uint32_t i = 0; i < e->n_workers; i++)
        if (e->workers[i]->link == link && e->workers[i]->peer == peer &&
            engine__is_here(e->workers[i]))
            return e->workers[i];
    return NULL;
}

static struct coord_worker *find_key(struct coord_engine *e, const uint8_t *key)
{
    for (uint32_t i = 0; i < e->n_workers; i++)
        if (memcmp(e->workers[i]->key, key, PROTO_KEY_BYTES) == 0)
            return e->workers[i];
    return NULL;
}

static struct coord_worker *find_name(struct coord_engine *e, const char *name)
{
    for (uint32_t i = 0; i < e->n_workers; i++)
        if (strcmp(e->workers[i]->name, name) == 0)
            return e->workers[i];
    return NULL;
}

/* One whose record may be given up: no plan names it. */
static struct coord_worker *find_gone(struct coord_engine *e)
{
    for (uint32_t i = 0; i < e->n_workers; i++)
        if (!engine__is_here(e->workers[i]) && !engine__member(e->current, e->workers[i]) &&
            !engine__member(e->next, e->workers[i]))
            return e->workers[i];
    return NULL;
}

static void refuse(struct coord_port *port, net_peer peer, enum proto_status status,
                   const char *text)
{
    struct proto_msg msg = {.kind = PROTO_MSG_REFUSE,
                            .refuse = {.status = status, .text = (char *)text}};
    net_link_send(port->link, peer, &msg, NULL, NULL);
    net_link_forget(port->link, peer);
    proto_log(PROTO_LOG_WARN, "COORD-WORKER-REFUSED", "reason=\"%s\"", text);
}

/* Why this hello is refused; PROTO_OK if it is not. Of another version only the version is known,
 * so it comes first. A stranger learns nothing beyond that and that its token is wrong. */
static enum proto_status judge(struct coord_engine *e, const uint8_t *key,
                               const struct proto_hello *hello, struct proto_error *why)
{
    if (hello->version != PROTO_WIRE_VERSION)
        return proto_fail(why, PROTO_VERSION,
                          "it speaks protocol version %u, expected %u; install the same release of "
                          "Caravan on both machines",
                          hello->version, PROTO_WIRE_VERSION);
    if (!net_proof_ok(hello->proof, e->keys.secret, key))
        return proto_fail(
            why, PROTO_REFUSED,
            "its join token is not this cluster's; use the one that `caravan keygen` printed on "
            "the coordinator's machine");
    if (!find_key(e, key) && e->n_workers == PROTO_MAX_WORKERS && !find_gone(e))
        return proto_fail(why, PROTO_LIMIT, "the cluster has %u workers, which is the most",
                          PROTO_MAX_WORKERS);
    return PROTO_OK;
}

static enum proto_status ping(struct coord_worker *w)
{
    struct proto_msg msg = {.kind = PROTO_MSG_PING, .ping = {.sent_ns = net_now_ns()}};
    return engine__tell(w, &msg, NULL, NULL);
}

/* Whether a hello with the key of a worker that is here may be taken. It is of that worker, whose
 * connection was closed, or of the successor of one that died just now, or of a second process with
 * the same key, which is refused: whether the first still answers pings tells. Until then the
 * second is left to ask again. */
static bool admit(struct coord_port *port, net_peer from, struct coord_worker *same)
{
    struct proto_error why;
    uint64_t now_ns = net_now_ns();
    if (!same || !engine__is_here(same) || (same->peer == from && same->link == port->link))
        return true;
    if (ping(same) == PROTO_LOST) {
        engine__lose_worker(port->engine, same, CLOSED);
        return true;
    }
    if (!same->rival_ns || same->rival != from) {
        same->rival = from;
        same->rival_ns = now_ns;
        return false;
    }
    if (same->clock.last_heard_ns > same->rival_ns + PING_MS * 1000000ull) {
        proto_fail(&why, PROTO_REFUSED,
                   "worker \"%s\" already uses the same key; each worker needs its own: start this "
                   "one with another --key-file",
                   same->name);
        refuse(port, from, why.status, why.text);
        return false;
    }
    if (now_ns - same->rival_ns < RIVAL_MS * 1000000ull)
        return false;
    engine__lose_worker(port->engine, same, "it is silent, and was started again");
    return true;
}

/* Another worker of that name gets a number after it. */
static void choose_name(struct coord_engine *e, struct coord_worker *w, const char *wanted)
{
    const char *base = *wanted ? wanted : "worker";
    char name[sizeof w->name];
    snprintf(name, sizeof name, "%.50s", base);
    for (unsigned i = 2;; i++) {
        struct coord_worker *taken = find_name(e, name);
        if (!taken || taken == w)
            break;
        snprintf(name, sizeof name, "%.50s-%u", base, i);
    }
    memcpy(w->name, name, sizeof w->name);
}

/* The record of the worker with this key, new or from before it was lost. A worker that comes back
 * with a new key (a child has no other) goes on under its old name. Where there are too many
 * records, that of a worker which is lost is given up. */
static struct coord_worker *record_for(struct coord_engine *e, const uint8_t *key,
                                       const struct proto_hello *hello)
{
    struct coord_worker *w = find_key(e, key);
    if (!w) {
        w = find_name(e, hello->name);
        if (w && engine__is_here(w))
            w = NULL;
    }
    if (!w && e->n_workers == PROTO_MAX_WORKERS) {
        w = find_gone(e);
        choose_name(e, w, hello->name);
    }
    if (!w) {
        w = calloc(1, sizeof *w);
        if (!w)
            return NULL;
        e->workers[e->n_workers++] = w;
        choose_name(e, w, hello->name);
    }
    memcpy(w->key, key, PROTO_KEY_BYTES);
    return w;
}

/* What a worker kept of plans that others carry out by now. */
static void release_leftovers(struct coord_engine *e, struct coord_worker *w, uint64_t epoch)
{
    struct proto_msg msg = {.kind = PROTO_MSG_RELEASE, .release = {.epoch = epoch, .older = true}};
    if (epoch && engine__serving(e) && !engine__member(e->current, w) &&
        !engine__member(e->next, w))
        engine__tell(w, &msg, NULL, NULL);
}

static void on_hello(struct coord_port *port, net_peer from, const uint8_t *key,
                     const struct proto_hello *hello)
{
    struct coord_engine *e = port->engine;
    struct proto_error why;
    if (judge(e, key, hello, &why) != PROTO_OK) {
        refuse(port, from, why.status, why.text);
        return;
    }
    if (!admit(port, from, find_key(e, key)))
        return;
    struct coord_worker *w = find_peer(e, port->link, from);
    bool known = w != NULL;
    if (!known && !(w = record_for(e, key, hello)))
        return; /* out of memory: the worker asks again */
    /* A coordinator before this one may have given out more. */
    e->epoch = hello->epoch > e->epoch ? hello->epoch : e->epoch;
    if (!known) {
        w->state = COORD_JOINED;
        w->rival_ns = w->shunned_ns = 0;
        w->draining = false;
        w->blame = 0;
        w->link = port->link;
        w->peer = from;
        w->local = port->local;
        w->threads = hello->threads;
        w->memory_bytes = hello->memory_bytes;
        snprintf(w->endpoint, sizeof w->endpoint, "%s", hello->endpoint);
        snprintf(w->expert_endpoint, sizeof w->expert_endpoint, "%s", hello->expert_endpoint);
        snprintf(w->isa, sizeof w->isa, "%s", hello->isa);
        e->joined_ns = net_now_ns();
        net_clock_init(&w->clock, e->joined_ns);
        engine__survey_forget(e, w);
        engine__supply_have(w, NULL);
        proto_log(PROTO_LOG_INFO, "COORD-WORKER-JOINED",
                  "name=%s endpoint=%s threads=%u memory_gb=%.1f isa=%s", w->name, w->endpoint,
                  w->threads, (double)w->memory_bytes / 1e9, w->isa);
    }
    struct proto_msg msg = {.kind = PROTO_MSG_WELCOME,
                            .welcome = {.worker = 0,
                                        .ping_ms = PING_MS,
                                        .deadline_ms = e->options.deadline_ms,
                                        .profile = e->options.profile}};
    for (uint32_t i = 0; i < e->n_workers; i++)
        if (e->workers[i] == w)
            msg.welcome.worker = i;
    engine__tell(w, &msg, NULL, NULL);
    if (known)
        return;
    engine__replan(e);
    release_leftovers(e, w, hello->epoch);
}

static void on_pong(struct coord_engine *e, struct coord_worker *w, const struct proto_pong *pong,
                    uint64_t now_ns)
{
    net_clock_sample(&w->clock, pong->ping_sent_ns, pong->received_ns, pong->sent_ns, now_ns);
    if (pong->steps != w->steps || pong->computing)
        e->progressed_ns = w->stepped_ns = now_ns;
    w->steps = pong->steps;
    w->rss_bytes = pong->rss_bytes;
    w->stale_frames = pong->stale;
}

static void on_measured(struct coord_engine *e, const struct proto_measured *measured)
{
    pthread_mutex_lock(&e->mutex);
    e->measured = measured->read_bytes_s;
    pthread_cond_broadcast(&e->changed);
    pthread_mutex_unlock(&e->mutex);
}

static void on_known(struct coord_engine *e, struct coord_worker *w, struct proto_msg *msg,
                     struct net_payload **payload)
{
    uint64_t now_ns = net_now_ns();
    net_clock_heard(&w->clock, now_ns);
    if (msg->kind == PROTO_MSG_PONG)
        on_pong(e, w, &msg->pong, now_ns);
    else if (msg->kind == PROTO_MSG_RESULT)
        engine__on_result(e, w, &msg->result, *payload);
    else if (msg->kind == PROTO_MSG_FAILED)
        engine__on_failed(e, w, &msg->failed);
    else if (msg->kind == PROTO_MSG_PROGRESS)
        engine__on_progress(e, w, &msg->progress);
    else if (msg->kind == PROTO_MSG_READY) {
        engine__supply_have(w, *payload);
        engine__on_ready(e, w, &msg->ready);
    } else if (msg->kind == PROTO_MSG_COMMITTED)
        engine__on_committed(e, w, &msg->commit);
    else if (msg->kind == PROTO_MSG_WANT)
        engine__supply_want(e->supply, w, &msg->want);
    else if (msg->kind == PROTO_MSG_FETCH)
        engine__supply_fetch(e->supply, w, &msg->fetch);
    else if (msg->kind == PROTO_MSG_MEASURED)
        on_measured(e, &msg->measured);
    else if (msg->kind == PROTO_MSG_PROFILE)
        engine__on_profile(e, w, &msg->profile);
    else if (msg->kind == PROTO_MSG_PROBED)
        engine__on_probed(e, w, &msg->probed);
    else if (msg->kind == PROTO_MSG_ECHO)
        net_probe_answer(w->link, w->peer, &msg->echo);
    else if (msg->kind == PROTO_MSG_ECHOED)
        engine__on_echoed(e, w, &msg->echoed);
    else if (msg->kind == PROTO_MSG_USED)
        engine__on_used(e, w, &msg->used, *payload);
    else if (msg->kind == PROTO_MSG_BYE)
        engine__lose_worker(e, w, "it left the cluster");
}

static void on_message(void *arg, net_peer from, const uint8_t *key, struct proto_msg *msg,
                       struct net_payload **payload)
{
    struct coord_port *port = arg;
    struct coord_worker *w = find_peer(port->engine, port->link, from);
    if (msg->kind == PROTO_MSG_HELLO)
        on_hello(port, from, key, &msg->hello);
    else if (w)
        on_known(port->engine, w, msg, payload);
    else {
        /* A stranger, or a worker that was given up: it says hello again when it notices the
         * silence. */
        port->engine->stale_frames += msg->kind == PROTO_MSG_RESULT;
        net_link_forget(port->link, from);
    }
}

static void on_bad(void *arg, net_peer from, const uint8_t *key, const struct proto_error *error)
{
    struct coord_port *port = arg;
    struct coord_worker *w = find_peer(port->engine, port->link, from);
    char why[PROTO_ERROR_TEXT_BYTES + 64];
    (void)key;
    if (!w)
        return;
    snprintf(why, sizeof why, "it sent a frame that makes no sense (%s)", error->text);
    engine__lose_worker(port->engine, w, why);
}

enum proto_status engine__open_port(struct coord_engine *e, struct coord_port *port,
                                    const char *endpoint, struct proto_error *error)
{
    struct net_link_handler handler = {.on_message = on_message, .on_bad = on_bad, .arg = port};
    port->engine = e;
    return net_link_listen(&port->link, e->loop, endpoint, &e->keys.pair, &handler, error);
}

/* 'worker "a" with layers 0-3, worker "b" with layers 4-5 are lost; '. */
static size_t list_lost(const struct coord_engine *e, char *text, size_t bytes)
{
    char part[120];
    size_t used = 0;
    uint32_t n_lost = 0;
    for (uint32_t i = 0; i < e->n_workers; i++) {
        const struct coord_worker *w = e->workers[i];
        if (w->state != COORD_LOST || used >= bytes)
            continue;
        bool member = engine__member(e->current, w) != NULL;
        engine__describe_part(e->current, w, part, sizeof part);
        int n = snprintf(text + used, bytes - used, "%sworker \"%s\"%s%s", used ? ", " : "",
                         w->name, member ? " with " : "", member ? part : "");
        used += n > 0 ? (size_t)n : 0;
        n_lost++;
    }
    if (n_lost && used < bytes)
        used +=
            (size_t)snprintf(text + used, bytes - used, " %s lost; ", n_lost > 1 ? "are" : "is");
    return used;
}

/* Before anything was served. */
static void describe_start(const struct coord_engine *e, char *text, size_t bytes)
{
    uint32_t expected = e->options.local_workers + e->options.workers, there = 0;
    for (uint32_t i = 0; i < e->n_workers; i++)
        there += engine__is_here(e->workers[i]);
    size_t used = list_lost(e, text, bytes);
    if (used < bytes)
        snprintf(text + used, bytes - used, "%u of %u workers are here%s%s", there, expected,
                 e->stuck.status ? "; " : "", e->stuck.status ? e->stuck.text : "");
}

void engine__describe_missing(const struct coord_engine *e, char *text, size_t bytes)
{
    text[0] = 0;
    if (!e->current && e->next)
        snprintf(text, bytes, "the model is being loaded");
    else if (!e->current && e->survey.awaits_ns && !e->survey.decided)
        snprintf(text, bytes, "the machines and their links are being measured");
    else if (!e->current && e->failure.status != PROTO_OK)
        snprintf(text, bytes, "%s", e->failure.text);
    else if (!e->current)
        describe_start(e, text, bytes);
    else if (e->next)
        snprintf(text, bytes, "%s; what it had is being loaded again", e->loss);
    else
        snprintf(text, bytes, "%s%s%s", e->loss, e->stuck.status ? "; " : "",
                 e->stuck.status ? e->stuck.text : "");
}

/* What is said of a loss, as long as it is not made good. */
static void describe_loss(const struct coord_engine *e, const struct coord_worker *w,
                          const char *why, struct proto_error *error)
{
    const struct coord_deployment *d = engine__member(e->current, w) ? e->current : e->next;
    char part[160];
    engine__describe_part(d, w, part, sizeof part);
    proto_fail(error, PROTO_LOST, "worker \"%s\" with %.100s is lost: %.100s", w->name, part, why);
}

void engine__lose_worker(struct coord_engine *e, struct coord_worker *w, const char *why)
{
    struct proto_error error;
    const struct coord_member *m = engine__member(e->current, w);
    bool serves = m != NULL, cached = m && m->stage >= 0,
         is_next = engine__member(e->next, w) != NULL;
    if (!engine__is_here(w))
        return;
    proto_log(PROTO_LOG_WARN, "COORD-WORKER-LOST", "name=%s reason=\"%s\"", w->name, why);
    w->state = COORD_LOST;
    w->draining = false;
    net_link_forget(w->link, w->peer);
    describe_loss(e, w, why, &error);
    /* Once workers take the next plan's parts over, that is the one that counts. */
    if (e->next && e->next->state == COORD_COMMITTING ? is_next : serves)
        engine__break(e, error.text);
    if (cached && !is_next)
        engine__lose_caches(e);
    if (!e->was_ready && !e->options.respawn && w->local)
        engine__fail(e, &error);
    engine__replan(e);
}

/* Where this process did not run for a while (Ctrl-Z, a laptop that slept), it did not listen
 * either, and nobody's silence means anything. */
static void forgive_pause(struct coord_engine *e, uint64_t now_ns)
{
    if (e->ticked_ns && now_ns - e->ticked_ns > PAUSE_MS * 1000000ull) {
        for (uint32_t i = 0; i < e->n_workers; i++)
            net_clock_heard(&e->workers[i]->clock, now_ns);
        e->progressed_ns = now_ns;
    }
    e->ticked_ns = now_ns;
}

void engine__ping_workers(struct coord_engine *e, uint64_t now_ns)
{
    forgive_pause(e, now_ns);
    uint64_t deadline_ns = (uint64_t)e->options.deadline_ms * 1000000u;
    bool due = now_ns - e->pinged_ns >= PING_MS * 1000000ull;
    char why[96];
    for (uint32_t i = 0; i < e->n_workers; i++) {
        struct coord_worker *w = e->workers[i];
        if (!engine__is_here(w))
            continue;
        if (net_clock_overdue(&w->clock, now_ns, deadline_ns)) {
            snprintf(why, sizeof why, "nothing was heard of it for %.1f s",
                     (double)(now_ns - w->clock.last_heard_ns) / 1e9);
            engine__lose_worker(e, w, why);
        } else if (due && ping(w) == PROTO_LOST) {
            engine__lose_worker(e, w, CLOSED);
        }
    }
    if (due)
        e->pinged_ns = now_ns;
}
