/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Workers ask for hashes and for bytes; hashing a tensor takes seconds and reading one may wait for
 * the disk, so a thread of its own answers, in order. It reads only what is constant (the model
 * file); answers go out on the loop's thread.
 */
#include "coordinator/parts.h"

#include "proto/log.h"

#include <stdlib.h>
#include <string.h>

struct order {
    struct order *next;
    struct coord_engine *engine;
    struct net_link *link;
    net_peer peer;
    bool hashes; /* else a chunk */
    uint64_t epoch;
    struct proto_fetch fetch;
    /* The answer. */
    struct proto_msg msg;
    struct net_payload *payload;
    struct proto_error error;
};

struct coord_supply {
    struct coord_engine *engine;
    struct shard_store *store;
    struct shard_manifest *manifest;
    pthread_t thread;
    bool started, stopping;
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    struct order *first, **last;
};

/* On the loop's thread. */
static void send_answer(void *arg)
{
    struct order *order = arg;
    struct coord_engine *e = order->engine;
    struct proto_error error;
    if (!e->stopping &&
        net_link_send(order->link, order->peer, &order->msg, &order->payload, &error) != PROTO_OK)
        proto_log(PROTO_LOG_WARN, "COORD-SUPPLY", "error=\"%s\"", error.text);
    net_payload_destroy(order->payload);
    free(order);
}

static void free_data(void *data, void *arg)
{
    (void)arg;
    free(data);
}

static enum proto_status answer_hashes(struct coord_supply *supply, struct order *order)
{
    const struct shard_tensor *tensor =
        shard_gguf_tensor(supply->engine->gguf, order->fetch.tensor);
    size_t bytes = shard_pieces_count(tensor) * PROTO_HASH_BYTES;
    uint8_t *hashes = malloc(bytes);
    if (!hashes)
        return proto_fail_nomem(&order->error, bytes, "hashes");
    enum proto_status status =
        shard_manifest_hashes(supply->manifest, order->fetch.tensor, hashes, &order->error);
    if (status == PROTO_OK)
        order->payload = net_payload_wrap(hashes, bytes, free_data, NULL);
    if (!order->payload)
        free(hashes);
    order->msg = (struct proto_msg){
        .kind = PROTO_MSG_HASHES, .hashes = {.epoch = order->epoch, .tensor = order->fetch.tensor}};
    return status;
}

static enum proto_status answer_chunk(struct coord_supply *supply, struct order *order)
{
    const struct proto_fetch *f = &order->fetch;
    const struct shard_tensor *tensor = shard_gguf_tensor(supply->engine->gguf, f->tensor);
    struct shard_piece piece = {0};
    if (f->piece < shard_pieces_count(tensor))
        piece = shard_pieces_get(tensor, f->piece);
    if (f->bytes == 0 || f->bytes > PROTO_CHUNK_BYTES || f->offset > piece.bytes ||
        f->bytes > piece.bytes - f->offset)
        return proto_fail(&order->error, PROTO_FORMAT,
                          "a worker asked for bytes %llu+%u of piece %llu of %s, which has %llu",
                          (unsigned long long)f->offset, f->bytes, (unsigned long long)f->piece,
                          tensor->name, (unsigned long long)piece.bytes);
    void *data = malloc(f->bytes);
    if (!data)
        return proto_fail_nomem(&order->error, f->bytes, "a chunk");
    memcpy(data, tensor->data + piece.offset + f->offset, f->bytes);
    order->payload = net_payload_wrap(data, f->bytes, free_data, NULL);
    if (!order->payload)
        free(data);
    order->msg = (struct proto_msg){
        .kind = PROTO_MSG_CHUNK,
        .chunk = {
            .epoch = order->epoch, .tensor = f->tensor, .piece = f->piece, .offset = f->offset}};
    return PROTO_OK;
}

static struct order *next_order(struct coord_supply *supply)
{
    pthread_mutex_lock(&supply->mutex);
    while (!supply->first && !supply->stopping)
        pthread_cond_wait(&supply->changed, &supply->mutex);
    struct order *order = supply->stopping ? NULL : supply->first;
    if (order) {
        supply->first = order->next;
        if (!supply->first)
            supply->last = &supply->first;
    }
    pthread_mutex_unlock(&supply->mutex);
    return order;
}

static void *supply_main(void *arg)
{
    struct coord_supply *supply = arg;
    struct order *order;
    while ((order = next_order(supply))) {
        enum proto_status status =
            order->hashes ? answer_hashes(supply, order) : answer_chunk(supply, order);
        if (status != PROTO_OK)
            proto_log(PROTO_LOG_WARN, "COORD-SUPPLY", "error=\"%s\"", order->error.text);
        if (status != PROTO_OK || net_loop_post(supply->engine->loop, send_answer, order)) {
            /* The worker's deadline for the answer says the rest. */
            net_payload_destroy(order->payload);
            free(order);
        }
    }
    return NULL;
}

enum proto_status engine__supply_create(struct coord_supply **out, struct coord_engine *e,
                                        struct proto_error *error)
{
    struct coord_supply *supply = calloc(1, sizeof *supply);
    if (!supply)
        return proto_fail_nomem(error, sizeof *supply, "the supply of weights");
    supply->engine = e;
    supply->last = &supply->first;
    pthread_mutex_init(&supply->mutex, NULL);
    pthread_cond_init(&supply->changed, NULL);
    enum proto_status status = shard_store_open(&supply->store, e->cache_dir, error);
    if (status == PROTO_OK)
        status = shard_manifest_create(&supply->manifest, supply->store, e->gguf, error);
    if (status == PROTO_OK) {
        int rc = pthread_create(&supply->thread, NULL, supply_main, supply);
        supply->started = rc == 0;
        if (rc)
            status = proto_fail_errno(error, rc, "start", "the supply's thread");
    }
    if (status != PROTO_OK) {
        engine__supply_destroy(supply);
        return status;
    }
    *out = supply;
    return PROTO_OK;
}

void engine__supply_destroy(struct coord_supply *supply)
{
    if (!supply)
        return;
    pthread_mutex_lock(&supply->mutex);
    supply->stopping = true;
    pthread_cond_signal(&supply->changed);
    pthread_mutex_unlock(&supply->mutex);
    if (supply->started)
        pthread_join(supply->thread, NULL);
    while (supply->first) {
        struct order *order = supply->first;
        supply->first = order->next;
        free(order);
    }
    shard_manifest_destroy(supply->manifest);
    shard_store_close(supply->store);
    pthread_cond_destroy(&supply->changed);
    pthread_mutex_destroy(&supply->mutex);
    free(supply);
}

static void take_order(struct coord_supply *supply, const struct coord_worker *w, bool hashes,
                       uint64_t epoch, const struct proto_fetch *fetch)
{
    struct order *order = NULL;
    if (supply && fetch->tensor < shard_gguf_n_tensors(supply->engine->gguf))
        order = calloc(1, sizeof *order);
    if (!order)
        return;
    order->engine = supply->engine;
    order->link = w->link;
    order->peer = w->peer;
    order->hashes = hashes;
    order->epoch = epoch;
    order->fetch = *fetch;
    pthread_mutex_lock(&supply->mutex);
    *supply->last = order;
    supply->last = &order->next;
    pthread_cond_signal(&supply->changed);
    pthread_mutex_unlock(&supply->mutex);
}

void engine__supply_want(struct coord_supply *supply, const struct coord_worker *w,
                         const struct proto_want *want)
{
    struct proto_fetch fetch = {.tensor = want->tensor};
    take_order(supply, w, true, want->epoch, &fetch);
}

void engine__supply_fetch(struct coord_supply *supply, const struct coord_worker *w,
                          const struct proto_fetch *fetch)
{
    take_order(supply, w, false, fetch->epoch, fetch);
}
