/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/epochs.h"

#include <stdlib.h>
#include <string.h>

#include "proto/log.h"
#include "worker/change.h"
#include "worker/kv_serve.h"
#include "worker/loader.h"

#define FETCH_DEADLINE_MS 60000u
#define LINK_MS           200u

struct worker_epochs {
    struct worker_epochs_options options;
    struct worker_loader *loader;
    struct worker_deployment *current, *next; /* serving; loading, linking, copying or ready */
    /* Out of force: other workers fetch what it cached of layers that are theirs now. */
    struct worker_deployment *previous;
    struct worker_change *pending; /* of current, which is not in force until caches are there */
    struct worker_kv_serve *serve;
    uint64_t latest; /* epoch that was to be loaded */
    uint64_t over;   /* that was in force when the coordinator was lost; 0: none */
    uint64_t stale;  /* batches that came for no epoch in force */
    uint32_t link_deadline_ms;
};

static uint64_t epoch_of(const struct worker_deployment *d)
{
    return d ? worker_deployment_load(d)->epoch : 0;
}

static struct worker_deployment *find(const struct worker_epochs *epochs, uint64_t epoch)
{
    if (epoch && epoch == epoch_of(epochs->current))
        return epochs->current;
    return epoch && epoch == epoch_of(epochs->next) ? epochs->next : NULL;
}

static void tell(void *arg, const struct proto_msg *msg)
{
    const struct worker_epochs *epochs = arg;
    epochs->options.tell(epochs->options.arg, msg);
}

static void tell_failed(struct worker_epochs *epochs, uint64_t epoch, uint64_t batch,
                        const struct proto_error *why)
{
    const struct worker_deployment *d = find(epochs, epoch);
    struct proto_msg msg = {
        .kind = PROTO_MSG_FAILED,
        .failed = {.epoch = epoch,
                   .batch = batch,
                   .status = why->status,
                   .text = (char *)why->text,
                   .unreached = d && !batch ? worker_asker_unreached(d->asker) : 0}};
    tell(epochs, &msg);
}

/* ---- the end of a deployment ---- */

/* What the computing thread does last about a deployment. */
struct retirement {
    struct worker_call call;
    struct worker_epochs *epochs;
    struct worker_deployment *d;
};

static void bury(struct worker_call *call, bool dropped)
{
    struct retirement *r = (struct retirement *)call;
    (void)dropped;
    worker_loader_dispose(r->epochs->loader, r->d);
    free(r);
}

/* Takes no more batches, and waits for nothing any more. */
static void put_out_of_use(struct worker_epochs *epochs, struct worker_deployment *d)
{
    struct proto_error over = {PROTO_CANCELLED, "the coordinator has a newer plan"};
    bool loading = d->state == WORKER_LOADING;
    worker_deployment_set(d, WORKER_RETIRED);
    worker_deployment_cancel(d, &over);
    /* While it is loading the slice is the loading thread's, and has no batches. */
    worker_compute_forget(epochs->options.compute, loading ? NULL : d->slice);
    worker_fetcher_close(d->fetcher);
    net_link_destroy(d->next, 0);
    d->next = NULL;
    worker_kv_move_destroy(d->move);
    d->move = NULL;
    if (d->previous)
        net_link_forget(epochs->options.listener, d->previous);
}

/* After what is queued for the computing thread. */
static void bury_later(struct worker_epochs *epochs, struct worker_deployment **at)
{
    struct worker_deployment *d = *at;
    if (!d)
        return;
    *at = NULL;
    struct retirement *r = calloc(1, sizeof *r);
    if (r)
        *r = (struct retirement){.call.fn = bury, .epochs = epochs, .d = d};
    if (!r || worker_compute_call(epochs->options.compute, &r->call, NULL) != PROTO_OK) {
        proto_log(PROTO_LOG_ERROR, "WORKER-SLICE-KEPT", "epoch=%llu why=\"out of memory\"",
                  (unsigned long long)epoch_of(d));
        free(r);
    }
}

static void retire(struct worker_epochs *epochs, struct worker_deployment **at)
{
    if (*at)
        put_out_of_use(epochs, *at);
    bury_later(epochs, at);
}

/* ---- loads ---- */

static void fail_load(struct worker_epochs *epochs, const struct proto_error *why)
{
    uint64_t epoch = epoch_of(epochs->next);
    proto_log(PROTO_LOG_WARN, "WORKER-LOAD-FAILED", "epoch=%llu error=\"%s\"",
              (unsigned long long)epoch, why->text);
    tell_failed(epochs, epoch, 0, why);
    retire(epochs, &epochs->next);
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
        tell_failed(epochs, epoch, 0, &error);
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
    retire(epochs, &epochs->next);
    if (status == PROTO_OK) {
        epochs->next = d;
        return;
    }
    worker_deployment_destroy(d);
    tell_failed(epochs, epoch, 0, &error);
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
                            .ready = {.epoch = epoch_of(epochs->next),
                                      .weight_bytes = slice->weight_bytes,
                                      .kv_limit_bytes = slice->kv_limit_bytes,
                                      .scratch_bytes = slice->scratch_bytes}};
    struct net_payload *have = worker_supply_have(epochs->options.supply);
    epochs->options.tell_with(epochs->options.arg, &msg, &have);
}

static void on_moved(void *arg);

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
                                             .over = on_moved,
                                             .arg = d};
    struct proto_error error;
    if (load->from && options.kv && worker_kv_move_create(&d->move, &options, &error) != PROTO_OK)
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
        msg->link.epoch == epoch_of(d))
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

static void on_built(void *arg, uint64_t epoch, enum proto_status status,
                     const struct proto_error *error)
{
    struct worker_epochs *epochs = arg;
    if (!epochs->next || epoch_of(epochs->next) != epoch || epochs->next->state != WORKER_LOADING)
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

/* ---- commits ---- */

/* What is in force comes after what it was asked to be. */
static void put_in_force(struct worker_epochs *epochs)
{
    struct worker_deployment *d = epochs->current;
    struct proto_error error;
    if (d->state == WORKER_READY)
        worker_deployment_set(d, WORKER_SERVING);
    if (worker_change_begin(&epochs->pending, &error) != PROTO_OK)
        tell_failed(epochs, epoch_of(d), 0, &error);
}

/* Who waits for caches any longer would wait in vain. */
static void hurry(struct worker_epochs *epochs, const char *why)
{
    if (epochs->pending)
        worker_kv_move_give_up(epochs->current->move, why);
}

/* What other workers copied caches of is needed no more. */
static void bury_previous(struct worker_epochs *epochs)
{
    hurry(epochs, "the plan before is over");
    bury_later(epochs, &epochs->previous);
}

static void begin_change(struct worker_epochs *epochs)
{
    struct worker_deployment *old = epochs->current;
    uint64_t from = worker_change_commit(epochs->pending)->from;
    /* Another coordinator may have had a plan of the same number. */
    bool goes_on = from && from == worker_epochs_serving(epochs);
    epochs->current = epochs->next;
    epochs->next = NULL;
    epochs->previous = old;
    if (!old)
        return;
    put_out_of_use(epochs, old);
    if (goes_on)
        worker_change_inherit(epochs->pending, old->slice);
    else
        bury_later(epochs, &epochs->previous);
}

/* What was to be moved is there, or will not come. */
static void on_moved(void *arg)
{
    struct worker_deployment *d = arg;
    struct worker_epochs *epochs = d->owner;
    worker_change_moved(epochs->pending, worker_kv_move_ends(d->move),
                        worker_kv_move_positions(d->move), worker_kv_move_bytes(d->move), NULL);
    put_in_force(epochs);
}

/* Fetches what the caches lack while nothing is computed, or does without. */
static void complete_caches(struct worker_epochs *epochs)
{
    const struct proto_commit *commit = worker_change_commit(epochs->pending);
    struct worker_kv_move *move = epochs->current->move;
    if (!move) {
        put_in_force(epochs);
        return;
    }
    if (!commit->move || commit->from != worker_deployment_load(epochs->current)->from)
        worker_kv_move_give_up(move, "the plan before is broken");
    worker_kv_move_finish(move, commit->held, commit->n_held);
}

void worker_epochs_commit(struct worker_epochs *epochs, struct proto_commit *commit)
{
    struct proto_error error;
    uint64_t epoch = commit->epoch;
    struct worker_deployment *d = find(epochs, epoch);
    enum proto_status status = PROTO_OK;
    if (d != epochs->current || epochs->pending)
        bury_previous(epochs);
    if (!d || (d->state != WORKER_READY && d->state != WORKER_SERVING)) {
        free(commit->held);
        memset(commit, 0, sizeof *commit);
        status = proto_fail(&error, PROTO_NOTFOUND, "there is no slice of epoch %llu here",
                            (unsigned long long)epoch);
    } else {
        status = worker_change_create(&epochs->pending, epochs->options.compute, d->slice, commit,
                                      &error);
    }
    if (status != PROTO_OK) {
        tell_failed(epochs, epoch, 0, &error);
    } else if (d == epochs->next) {
        begin_change(epochs);
        complete_caches(epochs);
    } else {
        put_in_force(epochs);
    }
}

static bool is_released(const struct worker_deployment *d, const struct proto_release *release)
{
    uint64_t epoch = epoch_of(d);
    return d && (epoch == release->epoch || (release->older && epoch < release->epoch));
}

void worker_epochs_release(struct worker_epochs *epochs, const struct proto_release *release)
{
    if (is_released(epochs->previous, release) || is_released(epochs->current, release))
        bury_previous(epochs);
    if (is_released(epochs->current, release))
        retire(epochs, &epochs->current);
    if (is_released(epochs->next, release))
        retire(epochs, &epochs->next);
}

void worker_epochs_abandon(struct worker_epochs *epochs)
{
    bury_previous(epochs);
    epochs->over = epoch_of(epochs->current);
    retire(epochs, &epochs->next);
}

/* ---- caches, for other workers ---- */

void worker_epochs_cached(struct worker_epochs *epochs, net_peer from, const uint8_t *key,
                          const struct proto_msg *question)
{
    struct worker_deployment *current = epochs->current, *previous = epochs->previous;
    uint64_t epoch =
        question->kind == PROTO_MSG_KV_ASK ? question->kv_ask.epoch : question->kv_fetch.epoch;
    struct worker_slice *first = NULL, *second = NULL;
    if (!worker_kv_serve_admit(epochs->serve, epochs->options.listener, from, key, question))
        return;
    bool serving = current && current->state == WORKER_SERVING;
    if (serving && epoch && epoch == worker_epochs_serving(epochs)) {
        first = current->slice;
    } else if (previous && epoch == epoch_of(previous)) {
        first = previous->slice;
        second = serving ? current->slice : NULL;
    }
    worker_kv_serve_answer(epochs->serve, from, question, first, second);
}

/* ---- batches ---- */

/* Whether the stage before it is who has this key; NULL: the coordinator. */
static bool is_before(const struct worker_deployment *d, const uint8_t *key)
{
    const struct proto_load *load = worker_deployment_load(d);
    if (!load->has_stage)
        return false;
    if (!key)
        return load->stage == 0;
    return load->stage > 0 && memcmp(key, load->previous_key, PROTO_KEY_BYTES) == 0;
}

bool worker_epochs_knows(const struct worker_epochs *epochs, const uint8_t *key)
{
    return (epochs->current && is_before(epochs->current, key)) ||
           (epochs->next && is_before(epochs->next, key));
}

void worker_epochs_link(struct worker_epochs *epochs, net_peer from, const uint8_t *key,
                        uint64_t epoch)
{
    struct worker_deployment *d = find(epochs, epoch);
    struct proto_msg answer = {.kind = PROTO_MSG_LINKED, .link = {.epoch = epoch}};
    if (!d || !is_before(d, key))
        return;
    d->previous = from;
    net_link_send(epochs->options.listener, from, &answer, NULL, NULL);
}

void worker_epochs_batch(struct worker_epochs *epochs, const uint8_t *key,
                         struct proto_batch *batch, struct net_payload **payload, uint64_t now_ns)
{
    struct worker_deployment *d = epochs->current;
    if (!d || d->state != WORKER_SERVING || batch->epoch != worker_epochs_serving(epochs) ||
        !d->slice->exec || (batch->replay ? key != NULL : !is_before(d, key))) {
        epochs->stale++;
        proto_log(PROTO_LOG_DEBUG, "WORKER-BATCH-STALE", "epoch=%llu batch=%llu",
                  (unsigned long long)batch->epoch, (unsigned long long)batch->batch);
        return;
    }
    struct proto_error error;
    enum proto_status status = PROTO_OK;
    uint64_t number = batch->batch, rows = proto_batch_rows(batch);
    const struct shard_program *program = d->slice->program;
    size_t row_bytes =
        program->embed ? 4 : shard_row_floats(program->model, program->layer_first) * sizeof(float);
    size_t found = *payload ? net_payload_len(*payload) : 0;
    if (found != (batch->replay ? 0 : rows * row_bytes))
        status = proto_fail(&error, PROTO_FORMAT,
                            "batch %llu: expected %llu rows of %zu bytes, found %zu bytes",
                            (unsigned long long)number, (unsigned long long)rows, row_bytes, found);
    else
        status = worker_compute_batch(epochs->options.compute, d->slice, d->asker, batch, payload,
                                      now_ns, &error);
    if (status != PROTO_OK)
        tell_failed(epochs, epoch_of(d), number, &error);
}

enum proto_status worker_epochs_pass_on(struct worker_epochs *epochs, struct worker_output *output,
                                        struct proto_error *error)
{
    struct worker_deployment *d = epochs->current;
    if (!d || output->msg.batch.epoch != worker_epochs_serving(epochs))
        return proto_fail(error, PROTO_NOTFOUND, "its epoch is over");
    if (!d->next)
        return proto_fail(error, PROTO_LOST, "there is no next worker");
    return net_link_send(d->next, 0, &output->msg, &output->payload, error);
}

void worker_epochs_usage(struct worker_epochs *epochs, struct proto_msg *msg,
                         struct net_payload **payload)
{
    const struct worker_slice *slice = epochs->current ? epochs->current->slice : NULL;
    *payload = NULL;
    if (!slice || !slice->exec)
        return;
    *msg = (struct proto_msg){
        .kind = PROTO_MSG_USED,
        .used = {.epoch = epoch_of(epochs->current),
                 .layer_first = slice->program->layer_first,
                 .n_layers = slice->program->layer_end - slice->program->layer_first,
                 .n_experts = slice->model->n_experts}};
    size_t bytes = (size_t)msg->used.n_layers * msg->used.n_experts * sizeof(uint32_t);
    uint32_t *counts = malloc(bytes + 1);
    if (!counts)
        return;
    worker_exec_usage(slice->exec, counts);
    *payload = net_payload_copy(counts, bytes);
    free(counts);
}

bool worker_epochs_lost(const struct worker_epochs *epochs)
{
    return worker_epochs_serving(epochs) && worker_slice_lost(epochs->current->slice);
}

uint64_t worker_epochs_latest(const struct worker_epochs *epochs)
{
    return epochs->latest;
}

/* ---- for pings ---- */

uint64_t worker_epochs_serving(const struct worker_epochs *epochs)
{
    uint64_t epoch = epoch_of(epochs->current);
    return epoch == epochs->over ? 0 : epoch;
}

uint64_t worker_epochs_stale(const struct worker_epochs *epochs)
{
    return epochs->stale;
}

uint64_t worker_epochs_steps(const struct worker_epochs *epochs)
{
    const struct worker_slice *slice = epochs->current ? epochs->current->slice : NULL;
    uint64_t steps = worker_expert_server_steps(epochs->options.experts);
    return slice && slice->exec ? steps + worker_exec_steps(slice->exec) : steps;
}

bool worker_epochs_computing(const struct worker_epochs *epochs)
{
    return worker_compute_active(epochs->options.compute) ||
           worker_expert_server_computing(epochs->options.experts);
}

/* ---- life ---- */

enum proto_status worker_epochs_create(struct worker_epochs **out,
                                       const struct worker_epochs_options *options,
                                       struct proto_error *error)
{
    struct worker_epochs *epochs = calloc(1, sizeof *epochs);
    if (!epochs)
        return proto_fail_nomem(error, sizeof *epochs, "the slices");
    epochs->options = *options;
    const struct worker_loader_options loader = {.loop = options->loop,
                                                 .compute = options->compute,
                                                 .experts = options->experts,
                                                 .table = options->table,
                                                 .threads = options->threads,
                                                 .cache_dir = options->cache_dir,
                                                 .keep_packed = options->keep_packed,
                                                 .memory_bytes = options->memory_bytes,
                                                 .cache_limit_bytes = options->cache_limit_bytes,
                                                 .supply = options->supply,
                                                 .boundary_bytes = options->boundary_bytes,
                                                 .tell = tell,
                                                 .done = on_built,
                                                 .arg = epochs};
    enum proto_status status =
        worker_kv_serve_create(&epochs->serve, options->secret, options->compute, error);
    if (status == PROTO_OK)
        status = worker_loader_create(&epochs->loader, &loader, error);
    if (status != PROTO_OK) {
        worker_epochs_destroy(epochs);
        return status;
    }
    *out = epochs;
    return PROTO_OK;
}

void worker_epochs_stop(struct worker_epochs *epochs)
{
    struct proto_error over = {PROTO_CANCELLED, "the worker is stopping"};
    if (!epochs)
        return;
    bury_previous(epochs);
    if (epochs->current)
        worker_deployment_cancel(epochs->current, &over);
    if (epochs->next)
        worker_deployment_cancel(epochs->next, &over);
    worker_loader_stop(epochs->loader);
}

static void close_one(struct worker_epochs *epochs, struct worker_deployment **at)
{
    if (!*at)
        return;
    worker_fetcher_close((*at)->fetcher);
    net_link_destroy((*at)->next, 0);
    worker_kv_move_destroy((*at)->move);
    worker_loader_dispose(epochs->loader, *at);
    *at = NULL;
}

void worker_epochs_close(struct worker_epochs *epochs)
{
    if (!epochs)
        return;
    close_one(epochs, &epochs->next);
    close_one(epochs, &epochs->current);
}

void worker_epochs_destroy(struct worker_epochs *epochs)
{
    if (!epochs)
        return;
    worker_loader_destroy(epochs->loader);
    worker_kv_serve_destroy(epochs->serve);
    free(epochs);
}
