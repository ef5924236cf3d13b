/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/kv_serve.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "worker/members.h"

struct worker_kv_serve {
    const uint8_t *secret;
    struct worker_compute *compute;
    struct worker_members askers;
    atomic_uint waiting; /* questions */
};

struct question {
    struct worker_call call;
    struct worker_kv_serve *serve;
    net_peer from;
    struct proto_msg msg; /* holds no pointers */
    struct shard_kv *caches[2];
    uint32_t n_caches;
};

/* ---- the computing thread ---- */

static void list_sequences(const struct question *q, struct proto_kv_held *held)
{
    const struct shard_kv *kv = q->n_caches ? q->caches[0] : NULL;
    uint32_t max = kv ? shard_kv_max_seqs(kv) : 0;
    held->epoch = q->msg.kv_ask.epoch;
    held->seqs = calloc((size_t)max + 1, sizeof *held->seqs);
    for (uint32_t seq = 0; held->seqs && seq < max; seq++)
        if (shard_kv_end(kv, seq))
            held->seqs[held->n_seqs++] = (struct proto_kv_seq){
                .seq = seq, .version = shard_kv_version(kv, seq), .end = shard_kv_end(kv, seq)};
}

/* Whether it is asked for what has that form here; the bytes of it are no more than a chunk, or
 * what cannot be less. */
static bool fits(const struct shard_kv *kv, const struct proto_kv_fetch *f)
{
    uint64_t page = shard_kv_page_bytes(kv, f->layer);
    if (f->n == 0)
        return f->bytes == shard_kv_state_bytes(kv, f->layer);
    return page && f->bytes == page * f->n && (f->n == 1 || f->bytes <= WORKER_KV_CHUNK_BYTES);
}

static bool read_cache(const struct shard_kv *kv, const struct proto_kv_fetch *f, void *out)
{
    if (!fits(kv, f) || shard_kv_version(kv, f->seq) != f->version)
        return false;
    return f->n ? shard_kv_read_pages(kv, f->seq, f->layer, f->page, f->n, out)
                : shard_kv_read_state(kv, f->seq, f->layer, out);
}

static void free_data(void *data, void *arg)
{
    (void)arg;
    free(data);
}

static struct net_payload *read_chunk(const struct question *q, const struct proto_kv_fetch *f)
{
    void *data = q->n_caches && fits(q->caches[0], f) ? malloc(f->bytes) : NULL;
    bool found = false;
    for (uint32_t i = 0; data && i < q->n_caches && !found; i++)
        found = read_cache(q->caches[i], f, data);
    struct net_payload *payload = found ? net_payload_wrap(data, f->bytes, free_data, NULL) : NULL;
    if (!payload)
        free(data);
    return payload;
}

static void answer(const struct question *q, struct worker_output *output)
{
    const struct proto_kv_fetch *f = &q->msg.kv_fetch;
    output->to = q->from;
    if (q->msg.kind == PROTO_MSG_KV_ASK) {
        output->msg.kind = PROTO_MSG_KV_HELD;
        list_sequences(q, &output->msg.kv_held);
        return;
    }
    output->msg = (struct proto_msg){.kind = PROTO_MSG_KV_CHUNK,
                                     .kv_chunk = {.epoch = f->epoch,
                                                  .seq = f->seq,
                                                  .version = f->version,
                                                  .layer = f->layer,
                                                  .page = f->page,
                                                  .n = f->n}};
    output->payload = read_chunk(q, f);
}

/* Without memory there is no answer, and who asked does without. */
static void run_question(struct worker_call *call, bool dropped)
{
    struct question *q = (struct question *)call;
    struct worker_output *output = dropped ? NULL : calloc(1, sizeof *output);
    if (output)
        answer(q, output);
    /* Before: whoever has an answer may ask the next question. */
    atomic_fetch_sub(&q->serve->waiting, 1);
    if (output)
        worker_compute_deliver(q->serve->compute, output);
    free(q);
}

/* ---- the loop's thread ---- */

enum proto_status worker_kv_serve_create(struct worker_kv_serve **out, const uint8_t *secret,
                                         struct worker_compute *compute, struct proto_error *error)
{
    struct worker_kv_serve *serve = calloc(1, sizeof *serve);
    if (!serve)
        return proto_fail_nomem(error, sizeof *serve, "the supply of caches");
    serve->secret = secret;
    serve->compute = compute;
    *out = serve;
    return PROTO_OK;
}

void worker_kv_serve_destroy(struct worker_kv_serve *serve)
{
    free(serve);
}

bool worker_kv_serve_admit(struct worker_kv_serve *serve, struct net_link *listener, net_peer from,
                           const uint8_t key[PROTO_KEY_BYTES], const struct proto_msg *question)
{
    const uint8_t *proof =
        question->kind == PROTO_MSG_KV_ASK ? question->kv_ask.proof : question->kv_fetch.proof;
    return worker_members_admit(&serve->askers, serve->secret, listener, from, key, proof);
}

void worker_kv_serve_answer(struct worker_kv_serve *serve, net_peer from,
                            const struct proto_msg *question, struct worker_slice *first,
                            struct worker_slice *second)
{
    struct worker_slice *slices[] = {first, second};
    struct question *q = NULL;
    if (atomic_load(&serve->waiting) < WORKER_KV_QUESTIONS)
        q = calloc(1, sizeof *q);
    if (!q)
        return;
    *q = (struct question){.call.fn = run_question, .serve = serve, .from = from, .msg = *question};
    for (int i = 0; i < 2; i++)
        if (slices[i] && slices[i]->kv)
            q->caches[q->n_caches++] = slices[i]->kv;
    atomic_fetch_add(&serve->waiting, 1);
    if (worker_compute_call(serve->compute, &q->call, NULL) != PROTO_OK)
        run_question(&q->call, true);
}
