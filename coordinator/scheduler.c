/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sequences into batches. A sequence's token list grows as tokens are chosen; `sent` says how many
 * of its positions have gone out. What has not gone out is ready: one position for a sequence that
 * generates, many for a prompt, or for a sequence part of whose cache was lost. Up to as many
 * batches are in flight as there are stages, so that each stage has one to compute; a prompt's
 * chunks may follow one another without waiting, since batches keep their order through the
 * pipeline. Generating sequences are spread evenly over the batches in flight; prompts fill what is
 * left of a batch.
 *
 * The order in which sequences share batches changes no result (design: exactness), so this file
 * is free to do what is fastest.
 */
#include "coordinator/parts.h"

#include "proto/log.h"

#include <stdlib.h>
#include <string.h>

#define CHUNKS_A_STAGE 4u
#define MIN_CHUNK      32u
#define CHUNK_STEP     16u /* kernels like row counts that are multiples of their groups */

void engine__seq_destroy(struct coord_seq *seq)
{
    if (!seq)
        return;
    if (seq->stream)
        engine__stream_unref(seq->stream);
    text_sampler_destroy(seq->sampler);
    free(seq->ids);
    free(seq);
}

enum proto_status engine__enqueue(struct coord_engine *e, struct coord_seq *seq,
                                  struct proto_error *error)
{
    char missing[PROTO_ERROR_TEXT_BYTES];
    if (engine__out_of_patience(e, net_now_ns())) {
        engine__describe_missing(e, missing, sizeof missing);
        return proto_fail(error, PROTO_LOST, "no request can be taken yet: %s", missing);
    }
    if (e->n_waiting >= COORD_MAX_WAITING)
        return proto_fail(error, PROTO_BUSY,
                          "%u requests are waiting already, which is the most; try again later",
                          e->n_waiting);
    e->requests++;
    e->n_waiting++;
    *e->waiting_last = seq;
    e->waiting_last = &seq->next;
    return PROTO_OK;
}

/* ---- slots ---- */

static void activate(struct coord_engine *e)
{
    while (e->waiting && e->n_active < e->options.parallel) {
        struct coord_seq *seq = e->waiting;
        uint32_t slot = 0;
        while (e->slot_used[slot])
            slot++;
        e->waiting = seq->next;
        if (!e->waiting)
            e->waiting_last = &e->waiting;
        e->n_waiting--;
        e->slot_used[slot] = true;
        seq->slot = slot;
        seq->next = NULL;
        *e->active_last = seq;
        e->active_last = &seq->next;
        e->n_active++;
    }
}

/* Frees sequences that are over and have nothing in flight. */
static void retire(struct coord_engine *e)
{
    struct coord_seq **at = &e->active;
    while (*at) {
        struct coord_seq *seq = *at;
        if (!seq->finished || seq->in_flight) {
            at = &seq->next;
            continue;
        }
        *at = seq->next;
        e->n_active--;
        e->slot_used[seq->slot] = false;
        if (seq->cached)
            e->drops[e->n_drops++] = seq->slot;
        engine__seq_destroy(seq);
    }
    e->active_last = at;
}

void engine__finish_seq(struct coord_engine *e, struct coord_seq *seq,
                        const struct coord_event *event)
{
    if (seq->finished)
        return;
    seq->finished = true;
    if (event->kind == COORD_EVENT_FAILED)
        e->requests_failed++;
    engine__stream_push(seq->stream, event, NULL, 0);
}

static void cancel_abandoned(struct coord_engine *e)
{
    struct coord_event event = {.kind = COORD_EVENT_DONE, .finish = COORD_FINISH_CANCELLED};
    for (struct coord_seq *seq = e->active; seq; seq = seq->next)
        if (!seq->finished && engine__stream_abandoned(seq->stream))
            engine__finish_seq(e, seq, &event);
}

/* ---- batches ---- */

struct draft {
    struct coord_batch *batch;
    uint32_t max_rows;
    bool prompts; /* holds rows of a prompt */
};

static void add_range(struct draft *draft, struct coord_seq *seq, uint32_t n)
{
    struct coord_batch *batch = draft->batch;
    bool at_end = seq->sent + n == seq->n_ids;
    bool logits = seq->want == COORD_WANT_LOGITS && seq->sent + n > seq->logits_done;
    enum proto_want_rows want = logits   ? PROTO_WANT_ALL
                                : at_end ? PROTO_WANT_LAST
                                         : PROTO_WANT_NONE;
    batch->ranges[batch->n_ranges++] = (struct coord_range){
        .seq = seq,
        .range = {.seq = seq->slot,
                  .pos = seq->sent,
                  .n = n,
                  .want = want,
                  .candidates = want == PROTO_WANT_NONE ? 0 : seq->candidates}};
    batch->n_rows += n;
    seq->sent += n;
    seq->cached = true;
    seq->in_flight++;
}

/* Takes a position at a time; not a prompt, nor what has to be computed again. */
static bool generating(const struct coord_seq *seq)
{
    return !seq->finished && seq->n_ids > seq->n_prompt && seq->n_ids <= seq->sent + 1;
}

static bool refilling(const struct coord_seq *seq)
{
    return seq->refill.done < seq->refill.end;
}

static size_t ready_rows(const struct coord_seq *seq)
{
    return seq->finished || refilling(seq) ? 0 : seq->n_ids - seq->sent;
}

/* Generating sequences that this batch takes: an even share of all, so that each stage always has
 * about the same to do. */
static uint32_t fair_share(const struct coord_engine *e)
{
    uint32_t n = 0;
    for (const struct coord_seq *seq = e->active; seq; seq = seq->next)
        n += generating(seq);
    uint32_t n_stages = e->current->plan->n_stages;
    return (n + n_stages - 1) / n_stages;
}

static void add_generating(struct coord_engine *e, struct draft *draft)
{
    uint32_t left = fair_share(e);
    for (struct coord_seq *seq = e->active; seq && left; seq = seq->next) {
        if (!generating(seq) || !ready_rows(seq) || draft->batch->n_rows == draft->max_rows)
            continue;
        add_range(draft, seq, 1);
        left--;
    }
}

/* Rows of prompts that a batch takes beside those of generating sequences. A pipeline of S stages
 * computes m chunks in the time of m + S - 1, so there must be several for each stage; but every
 * chunk reads all weights, so they must not be short either. */
static size_t prompt_room(const struct coord_engine *e, const struct draft *draft)
{
    size_t rows = 0, room = draft->max_rows - draft->batch->n_rows;
    size_t stages = e->current->plan->n_stages;
    for (const struct coord_seq *seq = e->active; seq; seq = seq->next)
        rows += seq->finished || generating(seq) ? 0 : seq->n_ids;
    if (stages > 1) {
        size_t chunks = CHUNKS_A_STAGE * stages, chunk = (rows + chunks - 1) / chunks;
        chunk = (chunk + CHUNK_STEP - 1) / CHUNK_STEP * CHUNK_STEP;
        chunk = chunk < MIN_CHUNK ? MIN_CHUNK : chunk;
        room = chunk < room ? chunk : room;
    }
    return room;
}

static void add_prompts(struct coord_engine *e, struct draft *draft)
{
    size_t room = prompt_room(e, draft);
    for (struct coord_seq *seq = e->active; seq; seq = seq->next) {
        size_t n = generating(seq) ? 0 : ready_rows(seq);
        if (!n || !room || (seq->want == COORD_WANT_LOGITS && engine__stream_full(seq->stream)))
            continue;
        n = n < room ? n : room;
        add_range(draft, seq, (uint32_t)n);
        room -= n;
        draft->prompts = true;
        if (!seq->first_batch_ns)
            seq->first_batch_ns = net_now_ns();
    }
}

/* What a stage lacks comes first; a batch is for one stage. */
static bool add_refills(struct coord_engine *e, struct draft *draft)
{
    struct coord_batch *batch = draft->batch;
    for (struct coord_seq *seq = e->active; seq; seq = seq->next) {
        struct coord_refill *r = &seq->refill;
        uint64_t n = draft->max_rows - batch->n_rows, left = r->end - r->at;
        if (seq->finished || !left || !n || (batch->refill && batch->stage != r->stage))
            continue;
        n = left < n ? left : n;
        batch->refill = true;
        batch->stage = r->stage;
        batch->ranges[batch->n_ranges++] = (struct coord_range){
            .seq = seq, .range = {.seq = seq->slot, .pos = r->at, .n = (uint32_t)n}};
        batch->n_rows += (uint32_t)n;
        r->at += n;
        seq->cached = true;
        seq->in_flight++;
    }
    return batch->refill;
}

/* Sequences take turns: the one that was served goes to the end of the list. */
static void rotate(struct coord_engine *e)
{
    struct coord_seq *seq = e->active;
    if (!seq || !seq->next)
        return;
    e->active = seq->next;
    seq->next = NULL;
    *e->active_last = seq;
    e->active_last = &seq->next;
}

static int32_t *gather_ids(const struct coord_batch *batch)
{
    int32_t *ids = malloc(batch->n_rows * sizeof *ids + 1);
    size_t at = 0;
    for (uint32_t i = 0; ids && i < batch->n_ranges; i++) {
        const struct coord_range *r = &batch->ranges[i];
        memcpy(ids + at, r->seq->ids + r->range.pos, r->range.n * sizeof *ids);
        at += r->range.n;
    }
    return ids;
}

static void free_ids(void *data, void *arg)
{
    (void)arg;
    free(data);
}

/* Who gets it: of a refill the stage before the one that lacks something. */
static struct coord_worker **first_stage(const struct coord_engine *e,
                                         const struct coord_batch *batch)
{
    return &e->current->stages[batch->refill && batch->stage ? batch->stage - 1 : 0];
}

static enum proto_status send_batch(struct coord_engine *e, struct coord_batch *batch,
                                    struct proto_error *error)
{
    int32_t *ids = gather_ids(batch);
    struct proto_range *ranges = malloc(batch->n_ranges * sizeof *ranges + 1);
    struct net_payload *payload = NULL;
    if (ids)
        payload = net_payload_wrap(ids, batch->n_rows * sizeof *ids, free_ids, NULL);
    if (!payload || !ranges) {
        if (!payload)
            free(ids);
        net_payload_destroy(payload);
        free(ranges);
        return proto_fail_nomem(error, batch->n_rows * sizeof *ids, "a batch");
    }
    for (uint32_t i = 0; i < batch->n_ranges; i++)
        ranges[i] = batch->ranges[i].range;
    struct proto_msg msg = {.kind = PROTO_MSG_BATCH,
                            .batch = {.epoch = e->current->epoch,
                                      .batch = batch->id,
                                      .replay = batch->refill && batch->stage,
                                      .stop = batch->refill ? batch->stage + 1 : 0,
                                      .ranges = ranges,
                                      .n_ranges = batch->n_ranges,
                                      .drops = e->drops,
                                      .n_drops = e->n_drops}};
    batch->sent_ns = net_now_ns();
    if (msg.batch.replay) {
        net_payload_destroy(payload);
        payload = NULL;
    }
    enum proto_status status = engine__tell(*first_stage(e, batch), &msg, &payload, error);
    free(ranges);
    return status;
}

/* Sends one batch; false when there is nothing to send. */
static bool dispatch(struct coord_engine *e)
{
    struct proto_error error;
    struct coord_batch *batch =
        calloc(1, sizeof *batch + e->options.parallel * sizeof *batch->ranges);
    struct draft draft = {.batch = batch, .max_rows = e->options.batch};
    if (!batch)
        return false;
    batch->stage = e->current->plan->n_stages - 1;
    if (!add_refills(e, &draft)) {
        add_generating(e, &draft);
        add_prompts(e, &draft);
    }
    if (batch->n_rows == 0 && e->n_drops == 0) {
        free(batch);
        return false;
    }
    batch->id = e->next_batch++;
    *e->batches_last = batch;
    e->batches_last = &batch->next;
    e->n_batches++;
    if (e->n_batches == 1)
        e->progressed_ns = net_now_ns();
    if (send_batch(e, batch, &error) != PROTO_OK) {
        engine__lose_worker(e, *first_stage(e, batch),
                            error.status == PROTO_LOST ? "its connection was closed" : error.text);
        return false;
    }
    e->n_drops = 0;
    rotate(e);
    return true;
}

/* One more than the stages may be in flight while prompts are read, so that a stage finds its next
 * chunk waiting. */
static uint32_t in_flight_limit(const struct coord_engine *e)
{
    for (const struct coord_seq *seq = e->active; seq; seq = seq->next)
        if ((!generating(seq) && ready_rows(seq)) || (!seq->finished && refilling(seq)))
            return e->current->plan->n_stages + 1;
    return e->current->plan->n_stages;
}

/* The next plan comes into force between two batches. */
static bool takes_batches(const struct coord_engine *e)
{
    return engine__serving(e) && (!e->next || e->next->state == COORD_PREPARING);
}

void engine__schedule(struct coord_engine *e)
{
    cancel_abandoned(e);
    retire(e);
    if (e->stopping)
        return;
    engine__try_commit(e);
    if (!takes_batches(e))
        return;
    activate(e);
    while (takes_batches(e) && e->n_batches < in_flight_limit(e) && dispatch(e))
        continue;
}

struct coord_batch *engine__find_batch(struct coord_engine *e, uint64_t id)
{
    for (struct coord_batch *batch = e->batches; batch; batch = batch->next)
        if (batch->id == id)
            return batch;
    return NULL;
}

/* Takes a batch off the list: its sequences have one less in flight. */
static void remove_batch(struct coord_engine *e, struct coord_batch *batch)
{
    struct coord_batch **at = &e->batches;
    while (*at != batch)
        at = &(*at)->next;
    *at = batch->next;
    if (!*at)
        e->batches_last = at;
    e->n_batches--;
    for (uint32_t i = 0; i < batch->n_ranges; i++)
        batch->ranges[i].seq->in_flight--;
    free(batch);
}

void engine__batch_done(struct coord_engine *e, struct coord_batch *batch)
{
    for (uint32_t i = 0; i < batch->n_ranges; i++) {
        struct coord_seq *seq = batch->ranges[i].seq;
        if (batch->refill)
            seq->refill.done += batch->ranges[i].range.n;
        else
            seq->done += batch->ranges[i].range.n;
    }
    remove_batch(e, batch);
}

void engine__forget_batches(struct coord_engine *e)
{
    while (e->batches)
        remove_batch(e, e->batches);
    for (struct coord_seq *seq = e->active; seq; seq = seq->next) {
        seq->sent = seq->done;
        seq->refill = (struct coord_refill){0};
    }
    retire(e);
}

void engine__fail_all(struct coord_engine *e, const struct proto_error *error)
{
    struct coord_event event = {.kind = COORD_EVENT_FAILED, .error = *error};
    engine__forget_batches(e);
    for (struct coord_seq *seq = e->active; seq; seq = seq->next)
        engine__finish_seq(e, seq, &event);
    while (e->waiting) {
        struct coord_seq *seq = e->waiting;
        e->waiting = seq->next;
        engine__finish_seq(e, seq, &event);
        engine__seq_destroy(seq);
    }
    e->waiting_last = &e->waiting;
    e->n_waiting = 0;
    retire(e);
}
