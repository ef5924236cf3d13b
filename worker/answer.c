/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/answer.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* A part is sent when it has grown beyond this; a row may make it longer. */
#define PART_BYTES (8u << 20)

struct candidate {
    uint32_t id;
    float logit;
};

/* Whether a is a worse candidate than b. A logit that is not a number is the worst. */
static bool worse(struct candidate a, struct candidate b)
{
    if (a.logit < b.logit || (a.logit != a.logit && b.logit == b.logit))
        return true;
    if (a.logit > b.logit || (b.logit != b.logit && a.logit == a.logit))
        return false;
    return a.id > b.id;
}

static void sift_down(struct candidate *heap, uint32_t n, uint32_t i)
{
    for (;;) {
        uint32_t child = 2 * i + 1;
        if (child >= n)
            return;
        if (child + 1 < n && worse(heap[child + 1], heap[child]))
            child++;
        if (!worse(heap[child], heap[i]))
            return;
        struct candidate swap = heap[i];
        heap[i] = heap[child];
        heap[child] = swap;
        i = child;
    }
}

void worker_best_candidates(const float *logits, uint32_t n_vocab, uint32_t n, uint8_t *out)
{
    /* A heap of the n best so far with the worst on top, then a heap sort. The pairs have the
     * wire's layout, so the heap lies in the payload itself. */
    struct candidate *heap = (struct candidate *)(void *)out;
    for (uint32_t id = 0; id < n; id++)
        heap[id] = (struct candidate){id, logits[id]};
    for (uint32_t i = n / 2; i-- > 0;)
        sift_down(heap, n, i);
    for (uint32_t id = n; id < n_vocab; id++) {
        struct candidate c = {id, logits[id]};
        if (worse(heap[0], c)) {
            heap[0] = c;
            sift_down(heap, n, 0);
        }
    }
    for (uint32_t left = n; left > 1; left--) {
        struct candidate worst = heap[0];
        heap[0] = heap[left - 1];
        heap[left - 1] = worst;
        sift_down(heap, left - 1, 0);
    }
}

void worker_answer_init(struct worker_answer *answer, const struct proto_batch *batch,
                        const struct kern_table *table, uint32_t n_vocab,
                        void (*deliver)(void *arg, struct worker_output *output), void *arg)
{
    *answer = (struct worker_answer){
        .batch = batch, .table = table, .n_vocab = n_vocab, .deliver = deliver, .arg = arg};
}

static enum proto_status reserve(struct worker_answer *answer, size_t more_bytes,
                                 struct proto_error *error)
{
    if (answer->len + more_bytes > answer->cap) {
        size_t cap = (answer->len + more_bytes) * 2;
        uint8_t *bytes = realloc(answer->bytes, cap);
        if (!bytes)
            return proto_fail_nomem(error, cap, "results");
        answer->bytes = bytes;
        answer->cap = cap;
    }
    if (answer->n_rows == answer->cap_rows) {
        uint32_t cap = answer->cap_rows ? answer->cap_rows * 2 : 16;
        struct proto_result_row *rows = realloc(answer->rows, cap * sizeof *rows);
        if (!rows)
            return proto_fail_nomem(error, cap * sizeof *rows, "results");
        answer->rows = rows;
        answer->cap_rows = cap;
    }
    return PROTO_OK;
}

static void free_bytes(void *data, void *arg)
{
    (void)arg;
    free(data);
}

/* Copies a list of the batch; NULL where there is none. */
static bool copy_list(void *out, const void *list, size_t bytes)
{
    void *copy = bytes ? malloc(bytes) : NULL;
    if (copy)
        memcpy(copy, list, bytes);
    memcpy(out, &copy, sizeof copy);
    return copy || !bytes;
}

/* The times of stages and hosts, into the last part. */
static bool copy_times(struct proto_result *result, const struct proto_batch *batch)
{
    bool ok = copy_list(&result->times, batch->times, batch->n_times * sizeof *batch->times) &&
              copy_list(&result->host_times, batch->host_times,
                        batch->n_host_times * sizeof *batch->host_times);
    result->n_times = batch->n_times;
    result->n_host_times = batch->n_host_times;
    return ok;
}

/* Sends what has been filled and starts anew. */
static enum proto_status send_part(struct worker_answer *answer, bool last,
                                   struct proto_error *error)
{
    struct worker_output *output = calloc(1, sizeof *output);
    struct proto_msg msg = {.kind = PROTO_MSG_RESULT,
                            .result = {.epoch = answer->batch->epoch,
                                       .batch = answer->batch->batch,
                                       .n_vocab = answer->n_vocab,
                                       .last = last}};
    bool timed = !last || copy_times(&msg.result, answer->batch);
    if (output && timed && answer->len)
        output->payload = net_payload_wrap(answer->bytes, answer->len, free_bytes, NULL);
    if (!output || !timed || (answer->len && !output->payload)) {
        free(output);
        proto_msg_finish(&msg);
        return proto_fail_nomem(error, sizeof *output, "results");
    }
    msg.result.rows = answer->rows;
    msg.result.n_rows = answer->n_rows;
    output->batch_done = last;
    output->msg = msg;
    if (!answer->len)
        free(answer->bytes);
    answer->bytes = NULL;
    answer->rows = NULL;
    answer->len = answer->cap = 0;
    answer->n_rows = answer->cap_rows = 0;
    answer->deliver(answer->arg, output);
    return PROTO_OK;
}

static enum proto_status add_row(struct worker_answer *answer, const struct worker_result_row *row,
                                 const float *logits, struct proto_error *error)
{
    uint32_t wanted = answer->batch->ranges[row->range].candidates;
    uint32_t n = wanted > answer->n_vocab ? answer->n_vocab : wanted;
    size_t bytes = n ? n * sizeof(struct candidate) : answer->n_vocab * sizeof(float);
    enum proto_status status = reserve(answer, bytes, error);
    if (status != PROTO_OK)
        return status;
    float max;
    float lse = answer->table->lse(logits, answer->n_vocab, &max);
    if (!isfinite(lse))
        return proto_fail(error, PROTO_CORRUPT,
                          "the logits at position %llu are not finite numbers: the model's weights "
                          "are damaged, or its activations overflow",
                          (unsigned long long)row->pos);
    if (n)
        worker_best_candidates(logits, answer->n_vocab, n, answer->bytes + answer->len);
    else
        memcpy(answer->bytes + answer->len, logits, bytes);
    answer->len += bytes;
    answer->rows[answer->n_rows++] =
        (struct proto_result_row){.range = row->range, .pos = row->pos, .count = n, .lse = lse};
    return PROTO_OK;
}

enum proto_status worker_answer_rows(void *arg, const struct worker_result_row *rows,
                                     uint32_t n_rows, float *logits, size_t ld,
                                     struct proto_error *error)
{
    struct worker_answer *answer = arg;
    for (uint32_t i = 0; i < n_rows; i++) {
        enum proto_status status = add_row(answer, &rows[i], logits + i * ld, error);
        if (status == PROTO_OK && answer->len > PART_BYTES)
            status = send_part(answer, false, error);
        if (status != PROTO_OK)
            return status;
    }
    return PROTO_OK;
}

enum proto_status worker_answer_finish(struct worker_answer *answer, struct proto_error *error)
{
    return send_part(answer, true, error);
}

void worker_answer_discard(struct worker_answer *answer)
{
    free(answer->rows);
    free(answer->bytes);
    answer->rows = NULL;
    answer->bytes = NULL;
}
