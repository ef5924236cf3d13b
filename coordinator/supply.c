/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Workers ask for hashes and for bytes; hashing a tensor takes seconds and reading one may wait for
 * the disk, so a thread of its own answers, in order. It reads only what is constant (the model
 * file). Where the file was cut short meanwhile an answer says that there are no such bytes, and
 * the worker asks others, whom each answer with hashes names.
 */
#include "coordinator/parts.h"

#include "net/answerer.h"
#include "proto/log.h"

#include <stdlib.h>
#include <string.h>

struct coord_supply {
    struct coord_engine *engine;
    struct shard_store *store;
    struct shard_manifest *manifest;
    struct net_answerer *answerer;
    bool told; /* that the model's file is not whole any more; the answerer's thread */
    struct proto_source sources[PROTO_MAX_SOURCES]; /* of the answer that is being sent */
};

static void free_data(void *data, void *arg)
{
    (void)arg;
    free(data);
}

/* Whether what was read of the model's file was really in it; says so once if not. */
static bool is_whole(struct coord_supply *supply)
{
    const struct shard_gguf *gguf = supply->engine->gguf;
    if (!shard_gguf_lost(gguf))
        return true;
    if (!supply->told)
        proto_log(
            PROTO_LOG_ERROR, "COORD-MODEL-LOST",
            "file=\"%s\" error=\"it was cut short while it is served; put it back and restart "
            "the coordinator\"",
            shard_gguf_path(gguf, 0));
    supply->told = true;
    return false;
}

static enum proto_status answer_hashes(struct coord_supply *supply, const struct proto_want *want,
                                       struct proto_msg *answer, struct net_payload **payload,
                                       struct proto_error *error)
{
    const struct shard_tensor *tensor = shard_gguf_tensor(supply->engine->gguf, want->tensor);
    size_t bytes = shard_pieces_count(tensor) * PROTO_HASH_BYTES;
    uint8_t *hashes = malloc(bytes);
    if (!hashes)
        return proto_fail_nomem(error, bytes, "hashes");
    answer->kind = PROTO_MSG_HASHES;
    answer->hashes = (struct proto_hashes){.epoch = want->epoch, .tensor = want->tensor};
    enum proto_status status = shard_manifest_hashes(supply->manifest, want->tensor, hashes, error);
    if (status == PROTO_OK)
        *payload = net_payload_wrap(hashes, bytes, free_data, NULL);
    else
        proto_log(PROTO_LOG_WARN, "COORD-SUPPLY", "error=\"%s\"", error->text);
    if (!*payload)
        free(hashes);
    return PROTO_OK;
}

static enum proto_status answer_chunk(struct coord_supply *supply, const struct proto_fetch *f,
                                      struct proto_msg *answer, struct net_payload **payload,
                                      struct proto_error *error)
{
    const struct shard_tensor *tensor = shard_gguf_tensor(supply->engine->gguf, f->tensor);
    struct shard_piece piece;
    enum proto_status status =
        shard_pieces_chunk(tensor, f->piece, f->offset, f->bytes, &piece, error);
    if (status != PROTO_OK)
        return status;
    *answer = (struct proto_msg){
        .kind = PROTO_MSG_CHUNK,
        .chunk = {.epoch = f->epoch, .tensor = f->tensor, .piece = f->piece, .offset = f->offset}};
    void *data = malloc(f->bytes);
    if (!data)
        return proto_fail_nomem(error, f->bytes, "a chunk");
    memcpy(data, tensor->data + piece.offset + f->offset, f->bytes);
    if (is_whole(supply))
        *payload = net_payload_wrap(data, f->bytes, free_data, NULL);
    if (!*payload)
        free(data);
    return PROTO_OK;
}

static enum proto_status answer(void *arg, const struct proto_msg *question, struct proto_msg *msg,
                                struct net_payload **payload, struct proto_error *error)
{
    return question->kind == PROTO_MSG_WANT
               ? answer_hashes(arg, &question->want, msg, payload, error)
               : answer_chunk(arg, &question->fetch, msg, payload, error);
}

static bool has(const struct coord_worker *w, uint32_t tensor)
{
    return w->state != COORD_LOST && !w->local && tensor / 8 < w->have_bytes &&
           (w->have[tensor / 8] >> tensor % 8 & 1);
}

/* Names the workers that have pieces of the tensor; those of this machine read the file itself and
 * are reached by nobody else. */
static void name_sources(void *arg, const uint8_t key[PROTO_KEY_BYTES], struct proto_msg *msg)
{
    struct coord_supply *supply = arg;
    const struct coord_engine *e = supply->engine;
    if (msg->kind != PROTO_MSG_HASHES)
        return;
    uint32_t n = 0;
    for (uint32_t i = 0; i < e->n_workers && n < PROTO_MAX_SOURCES; i++) {
        struct coord_worker *w = e->workers[i];
        if (!has(w, msg->hashes.tensor) || memcmp(w->key, key, PROTO_KEY_BYTES) == 0)
            continue;
        supply->sources[n].endpoint = w->endpoint;
        memcpy(supply->sources[n++].key, w->key, PROTO_KEY_BYTES);
    }
    msg->hashes.sources = supply->sources;
    msg->hashes.n_sources = n;
}

enum proto_status engine__supply_create(struct coord_supply **out, struct coord_engine *e,
                                        struct proto_error *error)
{
    struct coord_supply *supply = calloc(1, sizeof *supply);
    if (!supply)
        return proto_fail_nomem(error, sizeof *supply, "the supply of weights");
    supply->engine = e;
    const struct net_answerer_options options = {
        .answer = answer, .complete = name_sources, .arg = supply, .name = "the supply of weights"};
    /* Without a store hashes are made anew at the next start. */
    if (shard_store_open(&supply->store, e->cache_dir, error) != PROTO_OK)
        proto_log(PROTO_LOG_WARN, "COORD-HASHES-UNKEPT", "why=\"%s\"", error->text);
    enum proto_status status =
        shard_manifest_create(&supply->manifest, supply->store, e->gguf, error);
    if (status == PROTO_OK)
        status = net_answerer_create(&supply->answerer, e->loop, &options, error);
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
    net_answerer_destroy(supply->answerer);
    shard_manifest_destroy(supply->manifest);
    shard_store_close(supply->store);
    free(supply);
}

static void ask(struct coord_supply *supply, const struct coord_worker *w, uint32_t tensor,
                const struct proto_msg *question)
{
    if (supply && tensor < shard_gguf_n_tensors(supply->engine->gguf))
        net_answerer_ask(supply->answerer, w->link, w->peer, w->key, question);
}

void engine__supply_want(struct coord_supply *supply, const struct coord_worker *w,
                         const struct proto_want *want)
{
    const struct proto_msg question = {.kind = PROTO_MSG_WANT, .want = *want};
    ask(supply, w, want->tensor, &question);
}

void engine__supply_fetch(struct coord_supply *supply, const struct coord_worker *w,
                          const struct proto_fetch *fetch)
{
    const struct proto_msg question = {.kind = PROTO_MSG_FETCH, .fetch = *fetch};
    ask(supply, w, fetch->tensor, &question);
}

void engine__supply_have(struct coord_worker *w, const struct net_payload *payload)
{
    size_t bytes = payload ? net_payload_len(payload) : 0;
    free(w->have);
    w->have = NULL;
    w->have_bytes = 0;
    if (bytes == 0 || bytes > PROTO_MAX_TENSORS / 8 || !(w->have = malloc(bytes)))
        return;
    memcpy(w->have, net_payload_data(payload), bytes);
    w->have_bytes = bytes;
}
