/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Perplexity of a text: its ids (BOS in front) cut into windows of ctx; the first id of each is
 * replaced by BOS; positions ctx/2 to ctx-2 of a window each predict the next id; the result is
 * exp of the mean negative log-likelihood. What does not fill a window is left out.
 */
#ifndef COORDINATOR_PERPLEXITY_H
#define COORDINATOR_PERPLEXITY_H

#include "coordinator/backend.h"

struct coord_perplexity {
    double value, std_error; /* of the value, from the spread of the log-likelihoods */
    uint64_t n_windows, n_scored;
};

/* ids: the text's, with BOS first where the vocabulary has one (bos >= 0). progress: called after
 * each window with the perplexity so far; may be NULL. */
enum proto_status coord_perplexity(struct coord_backend *backend, const int32_t *ids, size_t n,
                                   uint32_t ctx, int32_t bos,
                                   void (*progress)(uint64_t done, uint64_t of, double so_far),
                                   struct coord_perplexity *out, struct proto_error *error);

/* -log softmax(logits)[id], in double. */
double coord_negative_log_likelihood(const float *logits, size_t n_vocab, int32_t id);

#endif
