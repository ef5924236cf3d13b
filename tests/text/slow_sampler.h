/* SPDX-License-Identifier: Apache-2.0 */
/* The chain of sampling, each step's definition word for word over a table of all tokens, slowly:
 * what the sampler is compared with. */
#ifndef TESTS_TEXT_SLOW_SAMPLER_H
#define TESTS_TEXT_SLOW_SAMPLER_H

#include <stdbool.h>

#include "coordinator/text/sampler.h"

#define SLOW_VOCAB   60
#define SLOW_HISTORY 192

/* The caller fills s, the tokens and state (the seed) and mu (twice tau), and appends to the
 * history what was accepted. */
struct slow_sampler {
    struct text_sampling s;
    float logit[SLOW_VOCAB];
    bool alive[SLOW_VOCAB];
    int32_t history[SLOW_HISTORY];
    size_t n_history;
    int32_t banned[4], breakers[4];
    size_t n_banned, n_breakers;
    uint64_t state;
    double mu;
};

/* The token that is drawn; logits of the whole vocabulary. */
int slow_sampler_sample(struct slow_sampler *r, const float *logits);

#endif
