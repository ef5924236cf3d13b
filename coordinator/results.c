/* SPDX-License-Identifier: Apache-2.0 */
#include "coordinator/parts.h"

#include "proto/log.h"

#include <stdlib.h>
#include <string.h>

/* ---- times ---- */

static uint64_t later(uint64_t to, uint64_t from)
{
    return to > from ? to - from : 0;
}

/* What stages had of hosts. A host that is none was made up. */
static void account_hosts(struct coord_engine *e, const struct coord_batch *batch,
                          const struct proto_result *result)
{
    const struct coord_deployment *d = e->current;
    for (uint32_t i = 0; i < d->n_members; i++)
        if (d->members[i].stage < 0) {
            d->members[i].worker->batches++;
            d->members[i].worker->rows += batch->n_rows;
        }
    for (uint32_t i = 0; i < result->n_host_times; i++) {
        const struct proto_host_time *t = &result->host_times[i];
        if (t->host >= d->plan->n_hosts)
            continue;
        struct coord_expert_times *sum = &d->hosts[t->host]->experts;
        sum->requests += t->requests;
        sum->bytes_in += t->bytes_out;
        sum->bytes_out += t->bytes_in;
        sum->compute_ns += t->compute_ns;
        sum->wire_ns += t->wire_ns;
        sum->wait_ns += t->wait_ns;
    }
}

/* Each stage's times are on its own clock; wire times are differences between clocks, brought to
 * ours by the offsets that pings measure. */
static void account_times(struct coord_engine *e, const struct coord_batch *batch,
                          const struct proto_result *result)
{
    uint64_t left_ns = batch->sent_ns;
    if (result->n_times != e->current->plan->n_stages)
        return;
    for (uint32_t i = 0; i < result->n_times; i++) {
        const struct proto_stage_time *t = &result->times[i];
        struct coord_worker *w = e->current->stages[i];
        w->batches++;
        w->rows += batch->n_rows;
        w->bytes_in += t->bytes;
        w->queue_ns += later(t->started_ns, t->received_ns);
        w->compute_ns += later(t->finished_ns, t->started_ns);
        w->expert_wait_ns += t->expert_wait_ns;
        w->wire_ns += later(net_clock_to_own(&w->clock, t->received_ns), left_ns);
        left_ns = net_clock_to_own(&w->clock, t->finished_ns);
    }
    e->current->stages[result->n_times - 1]->wire_back_ns += later(net_now_ns(), left_ns);
}

/* ---- tokens ---- */

static void count_speed(struct coord_speed *speed, const struct coord_event *done)
{
    if (!done->n_generated)
        return;
    speed->prompt_tokens += done->n_prompt;
    speed->prompt_ns += done->prompt_ns;
    speed->tokens += done->n_generated - 1;
    speed->decode_ns += done->decode_ns;
}

static void finish_normally(struct coord_engine *e, struct coord_seq *seq, enum coord_finish finish)
{
    uint64_t now_ns = net_now_ns();
    struct coord_event event = {.kind = COORD_EVENT_DONE,
                                .finish = finish,
                                .n_prompt = (uint32_t)seq->n_prompt,
                                .n_generated = (uint32_t)(seq->n_ids - seq->n_prompt)};
    if (seq->first_token_ns) {
        event.prompt_ns = later(seq->first_token_ns, seq->first_batch_ns);
        event.decode_ns = later(now_ns, seq->first_token_ns);
    } else {
        event.prompt_ns = later(now_ns, seq->first_batch_ns);
    }
    count_speed(&e->speed, &event);
    engine__finish_seq(e, seq, &event);
}

static int by_logit(const void *a, const void *b)
{
    const struct text_candidate *x = a, *y = b;
    if (x->logit != y->logit)
        return x->logit < y->logit ? 1 : -1;
    return x->id < y->id ? -1 : x->id > y->id;
}

/* The row's candidates in falling order; malloc'ed. A whole vocabulary is sorted here. */
static struct text_candidate *read_candidates(const struct proto_result_row *row, uint32_t n_vocab,
                                              const uint8_t *bytes, uint32_t *n)
{
    *n = row->count ? row->count : n_vocab;
    struct text_candidate *list = malloc(*n * sizeof *list);
    if (!list)
        return NULL;
    if (row->count) {
        memcpy(list, bytes, *n * sizeof *list);
        return list;
    }
    for (uint32_t i = 0; i < *n; i++) {
        list[i].id = (int32_t)i;
        memcpy(&list[i].logit, bytes + i * sizeof(float), sizeof(float));
    }
    qsort(list, *n, sizeof *list, by_logit);
    return list;
}

static bool ids_in_range(const struct text_candidate *list, uint32_t n, uint32_t n_vocab)
{
    for (uint32_t i = 0; i < n; i++)
        if ((uint32_t)list[i].id >= n_vocab)
            return false;
    return true;
}

static void fail_seq(struct coord_engine *e, struct coord_seq *seq, enum proto_status status,
                     const char *text)
{
    struct coord_event event = {.kind = COORD_EVENT_FAILED};
    proto_fail(&event.error, status, "%s", text);
    engine__finish_seq(e, seq, &event);
}

/* Room for one more id; capacity doubles at powers of two. */
static bool grow_ids(struct coord_seq *seq)
{
    if (seq->n_ids & (seq->n_ids - 1))
        return true;
    int32_t *ids = realloc(seq->ids, 2 * seq->n_ids * sizeof *ids);
    if (ids)
        seq->ids = ids;
    return ids != NULL;
}

static void emit_token(struct coord_engine *e, struct coord_seq *seq, struct coord_event *event)
{
    if (!grow_ids(seq)) {
        fail_seq(e, seq, PROTO_NOMEM, "out of memory for the tokens of a request");
        return;
    }
    seq->ids[seq->n_ids++] = event->token;
    if (!seq->first_token_ns)
        seq->first_token_ns = net_now_ns();
    e->generated_tokens++;
    text_sampler_accept(seq->sampler, event->token);
    event->sampler = text_sampler_save(seq->sampler);
    engine__stream_push(seq->stream, event, NULL, 0);
    if (event->eog && !seq->ignore_eog)
        finish_normally(e, seq, COORD_FINISH_STOP);
    else if (seq->n_ids - seq->n_prompt >= seq->max_tokens)
        finish_normally(e, seq, COORD_FINISH_LENGTH);
}

static void on_candidates(struct coord_engine *e, struct coord_seq *seq,
                          const struct proto_result_row *row, uint32_t n_vocab,
                          const uint8_t *bytes)
{
    struct coord_event event = {.kind = COORD_EVENT_TOKEN};
    uint32_t n;
    struct text_candidate *list = read_candidates(row, n_vocab, bytes, &n);
    if (!list || !ids_in_range(list, n, n_vocab)) {
        fail_seq(e, seq, list ? PROTO_FORMAT : PROTO_NOMEM,
                 list ? "a worker returned candidates that are not in the vocabulary"
                      : "out of memory for candidates");
        free(list);
        return;
    }
    event.n_top = seq->top_logprobs < n ? seq->top_logprobs : n;
    for (uint32_t i = 0; i < event.n_top; i++)
        event.top[i] = (struct text_candidate){list[i].id, list[i].logit - row->lse};
    struct text_candidate *as_sent = malloc(n * sizeof *as_sent);
    if (as_sent)
        memcpy(as_sent, list, n * sizeof *as_sent);
    event.token = text_sampler_sample(seq->sampler, list, n);
    event.eog = text_vocab_is_eog(e->vocab, event.token);
    for (uint32_t i = 0; as_sent && i < n; i++)
        if (as_sent[i].id == event.token)
            event.logprob = as_sent[i].logit - row->lse;
    free(as_sent);
    free(list);
    emit_token(e, seq, &event);
}

static void on_logits(struct coord_engine *e, struct coord_seq *seq,
                      const struct proto_result_row *row, const uint8_t *bytes, size_t len)
{
    struct coord_event event = {.kind = COORD_EVENT_LOGITS, .pos = row->pos};
    if (row->pos < seq->logits_done)
        return;
    seq->logits_done = row->pos + 1;
    if (row->count)
        fail_seq(e, seq, PROTO_FORMAT, "a worker returned candidates where all logits were asked");
    else if (!engine__stream_push(seq->stream, &event, bytes, len))
        fail_seq(e, seq, PROTO_NOMEM, "out of memory for logits");
    else if (row->pos + 1 == seq->n_ids)
        finish_normally(e, seq, COORD_FINISH_LENGTH);
}

/* Whether the row is one that the batch asked for. */
static bool row_asked_for(const struct coord_batch *batch, const struct proto_result_row *row)
{
    if (row->range >= batch->n_ranges)
        return false;
    const struct proto_range *r = &batch->ranges[row->range].range;
    if (r->want == PROTO_WANT_LAST)
        return row->pos == r->pos + r->n - 1;
    return r->want == PROTO_WANT_ALL && row->pos >= r->pos && row->pos < r->pos + r->n;
}

static size_t row_bytes(const struct proto_result_row *row, uint32_t n_vocab)
{
    return row->count ? row->count * sizeof(struct text_candidate) : n_vocab * sizeof(float);
}

static void on_rows(struct coord_engine *e, struct coord_batch *batch,
                    const struct proto_result *result, const uint8_t *bytes)
{
    for (uint32_t i = 0; i < result->n_rows; i++) {
        const struct proto_result_row *row = &result->rows[i];
        size_t len = row_bytes(row, result->n_vocab);
        struct coord_seq *seq = row_asked_for(batch, row) ? batch->ranges[row->range].seq : NULL;
        if (seq && !seq->finished && seq->want == COORD_WANT_LOGITS)
            on_logits(e, seq, row, bytes, len);
        else if (seq && !seq->finished)
            on_candidates(e, seq, row, result->n_vocab, bytes);
        bytes += len;
    }
}

/* Whether every range got what it asked for: a sequence whose last position was computed has a new
 * token, or is over. */
static bool answered(const struct coord_batch *batch)
{
    for (uint32_t i = 0; i < batch->n_ranges; i++) {
        const struct coord_range *r = &batch->ranges[i];
        if (!r->seq->finished && r->seq->n_ids <= r->range.pos + r->range.n)
            return false;
    }
    return true;
}

static bool is_in_force(const struct coord_engine *e, uint64_t epoch)
{
    return engine__serving(e) && epoch == e->current->epoch;
}

void engine__on_result(struct coord_engine *e, struct coord_worker *w,
                       const struct proto_result *result, const struct net_payload *payload)
{
    struct proto_error error;
    if (!is_in_force(e, result->epoch)) {
        e->stale_frames++;
        return;
    }
    struct coord_batch *batch = engine__find_batch(e, result->batch);
    if (!batch || w != e->current->stages[batch->stage])
        return;
    enum proto_status status =
        proto_result_check(result, payload ? net_payload_len(payload) : 0, &error);
    if (status == PROTO_OK && result->n_rows && result->n_vocab != e->model->n_vocab)
        status = proto_fail(&error, PROTO_FORMAT, "results for a vocabulary of %u, expected %u",
                            result->n_vocab, e->model->n_vocab);
    if (status != PROTO_OK) {
        engine__lose_worker(e, w, error.text);
        return;
    }
    e->progressed_ns = net_now_ns();
    on_rows(e, batch, result, payload ? net_payload_data(payload) : NULL);
    if (result->last && !answered(batch)) {
        engine__lose_worker(e, w, "it left out rows of a batch's results");
        return;
    }
    if (result->last) {
        /* What only forgets sequences is no batch to those who count. */
        if (batch->n_rows) {
            account_times(e, batch, result);
            account_hosts(e, batch, result);
            engine__note_pace(e, batch, result);
            e->usage_due = true;
        }
        engine__batch_done(e, batch);
    }
    engine__schedule(e);
}

/* ---- failures ---- */

/* What a worker lost, or could not wait for, is no fault of the requests. */
static bool is_loss(enum proto_status status)
{
    return status == PROTO_LOST || status == PROTO_TIMEOUT || status == PROTO_CANCELLED ||
           status == PROTO_NOTFOUND;
}

static void on_batch_failed(struct coord_engine *e, const struct coord_worker *w,
                            const struct proto_failed *failed)
{
    struct coord_batch *batch = engine__find_batch(e, failed->batch);
    struct coord_event event = {.kind = COORD_EVENT_FAILED};
    if (!batch)
        return;
    proto_fail(&event.error, failed->status, "worker \"%s\": %s", w->name, failed->text);
    proto_log(PROTO_LOG_WARN, "COORD-BATCH-FAILED", "batch=%llu error=\"%s\"",
              (unsigned long long)failed->batch, event.error.text);
    if (is_loss(failed->status)) {
        engine__suspect(e, event.error.text);
        return;
    }
    for (uint32_t i = 0; i < batch->n_ranges; i++)
        engine__finish_seq(e, batch->ranges[i].seq, &event);
    engine__batch_done(e, batch);
    engine__schedule(e);
}

void engine__on_failed(struct coord_engine *e, struct coord_worker *w,
                       const struct proto_failed *failed)
{
    struct proto_error error;
    if (failed->batch && is_in_force(e, failed->epoch)) {
        on_batch_failed(e, w, failed);
    } else if (failed->batch) {
        e->stale_frames++;
    } else if (e->next && failed->epoch == e->next->epoch) {
        proto_fail(&error, failed->status, "worker \"%s\" could not load its part: %s", w->name,
                   failed->text);
        engine__load_failed(e, w, failed->unreached, &error);
    }
}
