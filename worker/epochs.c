/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/epochs_parts.h"

#include <stdlib.h>
#include <string.h>

#include "proto/log.h"

uint64_t worker__epoch_of(const struct worker_deployment *d)
{
    return d ? worker_deployment_load(d)->epoch : 0;
}

struct worker_deployment *worker__epochs_find(const struct worker_epochs *epochs, uint64_t epoch)
{
    if (epoch && epoch == worker__epoch_of(epochs->current))
        return epochs->current;
    return epoch && epoch == worker__epoch_of(epochs->next) ? epochs->next : NULL;
}

void worker__epochs_tell(void *arg, const struct proto_msg *msg)
{
    const struct worker_epochs *epochs = arg;
    epochs->options.tell(epochs->options.arg, msg);
}

void worker__epochs_fail(struct worker_epochs *epochs, uint64_t epoch, uint64_t batch,
                         const struct proto_error *why)
{
    const struct worker_deployment *d = worker__epochs_find(epochs, epoch);
    struct proto_msg msg = {
        .kind = PROTO_MSG_FAILED,
        .failed = {.epoch = epoch,
                   .batch = batch,
                   .status = why->status,
                   .text = (char *)why->text,
                   .unreached = d && !batch ? worker_asker_unreached(d->asker) : 0}};
    worker__epochs_tell(epochs, &msg);
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

void worker__epochs_put_out_of_use(struct worker_epochs *epochs, struct worker_deployment *d)
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
void worker__epochs_bury(struct worker_epochs *epochs, struct worker_deployment **at)
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
                  (unsigned long long)worker__epoch_of(d));
        free(r);
    }
}

void worker__epochs_retire(struct worker_epochs *epochs, struct worker_deployment **at)
{
    if (*at)
        worker__epochs_put_out_of_use(epochs, *at);
    worker__epochs_bury(epochs, at);
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
    } else if (previous && epoch == worker__epoch_of(previous)) {
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
    struct worker_deployment *d = worker__epochs_find(epochs, epoch);
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
        worker__epochs_fail(epochs, worker__epoch_of(d), number, &error);
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
        .used = {.epoch = worker__epoch_of(epochs->current),
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
    uint64_t epoch = worker__epoch_of(epochs->current);
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
                                                 .tell = worker__epochs_tell,
                                                 .done = worker__epochs_on_built,
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
    worker__epochs_bury_previous(epochs);
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
