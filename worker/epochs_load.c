/* SPDX-License-Identifier: Apache-2.0 */
/* A slice is prepared beside the one in force: loaded, linked to the next stage, its caches copied.
 */
#include "worker/epochs_parts.h"

#include "proto/log.h"

#define FETCH_DEADLINE_MS 60000u
#define LINK_MS           200u

static void fail_load(struct worker_epochs *epochs, const struct proto_error *why)
{
    uint64_t epoch = worker__epoch_of(epochs->next);
    proto_log(PROTO_LOG_WARN, "WORKER-LOAD-FAILED", "epoch=%llu error=\"%s\"",
              (unsigned long long)epoch, why->text);
    worker__epochs_fail(epochs, epoch, 0, why);
    worker__epochs_retire(epochs, &epochs->next);
}

void worker_epochs_load(struct worker_epochs *epochs, struct proto_msg *load,
                        struct net_payload **card, uint32_t silence_ms)
{
    const struct worker_epochs_options *o = &epochs->options;
    const struct worker_fetcher_options fetcher = {.epoch = load->load.epoch,
                                                   .deadline_ms = FETCH_DEADLINE_MS,
                                                   .send = worker_loader_send,
                                                   .arg = epochs->loader,
                                                   .loop = o->loop,
                                                   .own = o->own,
                                                   .secret = o->secret};
    struct worker_deployment *before[WORKER_MAX_SLICES], *replaced = epochs->next, *d = NULL;
    uint32_t n_before = 0;
    uint64_t epoch = load->load.epoch;
    struct proto_error error;
    if (epoch <= epochs->latest) {
        proto_fail(&error, PROTO_INVALID, "epoch %llu is over here, the latest is %llu",
                   (unsigned long long)epoch, (unsigned long long)epochs->latest);
        worker__epochs_fail(epochs, epoch, 0, &error);
        return;
    }
    epochs->latest = epoch;
    epochs->link_deadline_ms = worker_link_deadline_ms(silence_ms);
    enum proto_status status =
        worker_deployment_create(&d, o->loop, o->own, load, card, &fetcher, &error);
    if (status == PROTO_OK && epochs->current)
        before[n_before++] = epochs->current;
    if (status == PROTO_OK && replaced && replaced->state != WORKER_LOADING)
        before[n_before++] = replaced;
    if (status == PROTO_OK)
        status = worker_loader_build(epochs->loader, d, before, n_before, silence_ms, &error);
    worker__epochs_retire(epochs, &epochs->next);
    if (status == PROTO_OK) {
        epochs->next = d;
        return;
    }
    worker_deployment_destroy(d);
    worker__epochs_fail(epochs, epoch, 0, &error);
}

void worker_epochs_hashes(struct worker_epochs *epochs, const struct proto_hashes *hashes,
                          struct net_payload **payload)
{
    if (epochs->next)
        worker_fetcher_hashes(epochs->next->fetcher, hashes, payload);
}

void worker_epochs_chunk(struct worker_epochs *epochs, const struct proto_chunk *chunk,
                         struct net_payload **payload)
{
    if (epochs->next)
        worker_fetcher_chunk(epochs->next->fetcher, chunk, payload);
}

static void tell_ready(struct worker_epochs *epochs)
{
    const struct worker_slice *slice = epochs->next->slice;
    worker_deployment_set(epochs->next, WORKER_READY);
    struct proto_msg msg = {.kind = PROTO_MSG_READY,
                            .ready = {.epoch = worker__epoch_of(epochs->next),
                                      .weight_bytes = slice->weight_bytes,
                                      .kv_limit_bytes = slice->kv_limit_bytes,
                                      .scratch_bytes = slice->scratch_bytes}};
    struct net_payload *have = worker_supply_have(epochs->options.supply);
    epochs->options.tell_with(epochs->options.arg, &msg, &have);
}

static void on_copied(void *arg)
{
    struct worker_deployment *d = arg;
    struct worker_epochs *epochs = d->owner;
    if (d == epochs->next && d->state == WORKER_COPYING)
        tell_ready(epochs);
}

/* Linked: what other workers cache of its layers is copied ahead. What keeps that from beginning
 * costs time later, and nothing else. */
static void copy_caches(struct worker_epochs *epochs)
{
    const struct worker_epochs_options *o = &epochs->options;
    struct worker_deployment *d = epochs->next, *current = epochs->current;
    const struct proto_load *load = worker_deployment_load(d);
    bool is_from = current && load->from && load->from == worker_epochs_serving(epochs);
    struct worker_kv_move_options options = {.loop = o->loop,
                                             .own = o->own,
                                             .secret = o->secret,
                                             .load = load,
                                             .kv = d->slice->kv,
                                             .here = is_from ? current->slice->kv : NULL,
                                             .ready = on_copied,
                                             .over = worker__epochs_on_moved,
                                             .arg = d};
    struct proto_error error;
    if (load->from && options.kv && !d->caches_lost &&
        worker_kv_move_create(&d->move, &options, &error) != PROTO_OK)
        proto_log(PROTO_LOG_WARN, "WORKER-KV-MOVE", "epoch=%llu why=\"%s\"",
                  (unsigned long long)load->epoch, error.text);
    if (!d->move) {
        tell_ready(epochs);
        return;
    }
    worker_deployment_set(d, WORKER_COPYING);
    worker_kv_move_tick(d->move, net_now_ns());
}

static void on_linked(void *arg, net_peer from, const uint8_t *key, struct proto_msg *msg,
                      struct net_payload **payload)
{
    struct worker_deployment *d = arg;
    struct worker_epochs *epochs = d->owner;
    (void)from;
    (void)key;
    (void)payload;
    if (msg->kind == PROTO_MSG_LINKED && d == epochs->next && d->state == WORKER_LINKING &&
        msg->link.epoch == worker__epoch_of(d))
        copy_caches(epochs);
}

static void on_next_bad(void *arg, net_peer from, const uint8_t *key,
                        const struct proto_error *error)
{
    (void)arg;
    (void)from;
    (void)key;
    proto_log(PROTO_LOG_WARN, "WORKER-NEXT-BAD", "error=\"%s\"", error->text);
}

/* The slice is loaded: reach the next stage, or be ready. */
static void link_up(struct worker_epochs *epochs)
{
    struct worker_deployment *d = epochs->next;
    const struct proto_load *load = worker_deployment_load(d);
    struct net_link_handler handler = {.on_message = on_linked, .on_bad = on_next_bad, .arg = d};
    struct proto_error error;
    d->owner = epochs;
    if (load->next_endpoint[0] == 0) {
        copy_caches(epochs);
        return;
    }
    if (net_link_connect(&d->next, epochs->options.loop, load->next_endpoint, epochs->options.own,
                         load->next_key, &handler, &error) != PROTO_OK) {
        fail_load(epochs, &error);
        return;
    }
    worker_deployment_set(d, WORKER_LINKING);
    d->link_since_ns = net_now_ns();
    d->link_ns = 0;
}

void worker__epochs_on_built(void *arg, uint64_t epoch, enum proto_status status,
                             const struct proto_error *error)
{
    struct worker_epochs *epochs = arg;
    if (!epochs->next || worker__epoch_of(epochs->next) != epoch ||
        epochs->next->state != WORKER_LOADING)
        return;
    worker_fetcher_close(epochs->next->fetcher);
    if (status == PROTO_OK)
        link_up(epochs);
    else
        fail_load(epochs, error);
}

static void link_again(struct worker_epochs *epochs, uint64_t now_ns)
{
    struct worker_deployment *d = epochs->next;
    const struct proto_load *load = worker_deployment_load(d);
    if (now_ns - d->link_since_ns > epochs->link_deadline_ms * 1000000ull) {
        struct proto_error error;
        proto_fail(
            &error, PROTO_LOST,
            "worker %s cannot reach the next worker at %s within %.1f s; is a firewall between "
            "them?",
            epochs->options.name, load->next_endpoint, epochs->link_deadline_ms / 1000.0);
        fail_load(epochs, &error);
    } else if (now_ns - d->link_ns > LINK_MS * 1000000ull) {
        struct proto_msg msg = {.kind = PROTO_MSG_LINK, .link = {.epoch = load->epoch}};
        net_link_send(d->next, 0, &msg, NULL, NULL);
        d->link_ns = now_ns;
    }
}

void worker_epochs_tick(struct worker_epochs *epochs, uint64_t now_ns)
{
    if (epochs->next && epochs->next->state == WORKER_LINKING)
        link_again(epochs, now_ns);
    if (epochs->next && epochs->next->move)
        worker_kv_move_tick(epochs->next->move, now_ns);
    struct worker_deployment *d = epochs->current;
    if (d && d->move)
        worker_kv_move_tick(d->move, now_ns);
    if (d && d->move && worker_kv_move_is_over(d->move)) {
        worker_kv_move_destroy(d->move);
        d->move = NULL;
    }
}
