/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The answer to a batch: turns rows of logits into what the coordinator asked for (the best
 * candidates with the log-sum-exp, or the whole row) and sends it in parts of bounded size. Lives
 * for one batch on the computing thread.
 */
#ifndef WORKER_ANSWER_H
#define WORKER_ANSWER_H

#include "worker/compute.h"

struct worker_answer {
    const struct proto_batch *batch; /* borrowed */
    const struct kern_table *table;
    uint32_t n_vocab;
    void (*deliver)(void *arg, struct worker_output *output);
    void *arg;
    struct proto_result_row *rows; /* of the part being filled */
    uint32_t n_rows, cap_rows;
    uint8_t *bytes;
    size_t len, cap;
};

void worker_answer_init(struct worker_answer *answer, const struct proto_batch *batch,
                        const struct kern_table *table, uint32_t n_vocab,
                        void (*deliver)(void *arg, struct worker_output *output), void *arg);

/* A worker_logits_fn; arg is the answer. */
enum proto_status worker_answer_rows(void *arg, const struct worker_result_row *rows,
                                     uint32_t n_rows, float *logits, size_t ld,
                                     struct proto_error *error);

/* Sends the last part, with the batch's stage times. */
enum proto_status worker_answer_finish(struct worker_answer *answer, struct proto_error *error);

/* Frees what was not sent. */
void worker_answer_discard(struct worker_answer *answer);

/* The n best of n_vocab logits in falling order (ties: lower id first) as {u32 id, f32 logit}
 * pairs at out. n <= n_vocab. */
void worker_best_candidates(const float *logits, uint32_t n_vocab, uint32_t n, uint8_t *out);

#endif
