/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Choosing the next token from candidates. Chain: penalties, top-k, top-p, min-p, temperature,
 * draw. One thread. The draw is a splitmix64 generator, so a seed gives the same tokens anywhere.
 */
#ifndef COORDINATOR_TEXT_SAMPLER_H
#define COORDINATOR_TEXT_SAMPLER_H

#include <stddef.h>
#include <stdint.h>

#include "proto/status.h"

struct text_candidate {
    int32_t id;
    float logit;
};

struct text_sampling {
    float temperature;     /* <= 0: greedy (the largest logit, lowest id on a tie). Default 0.8 */
    int32_t top_k;         /* <= 0: off. Default 40 */
    float top_p;           /* >= 1: off. Default 0.95 */
    float min_p;           /* <= 0: off. Default 0.05 */
    float repeat_penalty;  /* 1: off. Default 1 */
    uint32_t repeat_last_n; /* tokens looked back on. Default 64 */
    uint64_t seed;         /* Default 0 */
};

#define TEXT_SAMPLING_DEFAULT                                                                      \
    ((struct text_sampling){.temperature = 0.8f, .top_k = 40, .top_p = 0.95f, .min_p = 0.05f,      \
                            .repeat_penalty = 1.0f, .repeat_last_n = 64, .seed = 0})

/* PROTO_INVALID names the parameter, its value and what is allowed (finite; top_p > 0; ...). */
enum proto_status text_sampling_check(const struct text_sampling *s, struct proto_error *error);

/* How many best candidates the chain needs so that its result is as from the whole vocabulary;
 * 0: the whole vocabulary. */
uint32_t text_sampling_needs(const struct text_sampling *s);

struct text_sampler;

enum proto_status text_sampler_create(struct text_sampler **out, const struct text_sampling *s,
                                      struct proto_error *error);
void text_sampler_destroy(struct text_sampler *sampler);

/* Remembers a token of the prompt or of the output (for penalties). */
void text_sampler_accept(struct text_sampler *sampler, int32_t id);

/* Chooses among n >= 1 candidates (in falling order of logit, ties by id; changed in place). */
int32_t text_sampler_sample(struct text_sampler *sampler, struct text_candidate *candidates,
                            size_t n);

#endif
