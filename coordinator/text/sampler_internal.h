/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of the sampler share. */
#ifndef COORDINATOR_TEXT_SAMPLER_INTERNAL_H
#define COORDINATOR_TEXT_SAMPLER_INTERNAL_H

#include <stdbool.h>

#include "coordinator/text/sampler.h"

/* Tokens looked back on at most. */
#define TEXT__MAX_WINDOW (1u << 20)

/* A token, and the longest repetition that it would go on with. */
struct text__repeat {
    int32_t id;
    uint32_t len;
};

struct text_sampler {
    struct text_sampling sampling; /* biases and breakers: not to be used */
    uint64_t state;
    double mu;                /* mirostat's bound of surprise */
    struct text_bias *biases; /* by id; the bans too */
    size_t n_biases;
    int32_t *breakers; /* in rising order */
    size_t n_breakers;
    int32_t *recent; /* ring of the last `cap` tokens */
    size_t cap, n_recent, next;
    int32_t *sorted;              /* scratch of penalties */
    uint32_t *matches;            /* scratch of DRY */
    struct text__repeat *repeats; /* and another */
};

bool text__penalties_on(const struct text_sampling *s);
bool text__dry_on(const struct text_sampling *s);
bool text__step_on(const struct text_sampling *s, enum text_step step);
/* Tokens that DRY looks back on. */
size_t text__dry_window(const struct text_sampling *s);

int text__compare_ids(const void *a, const void *b);
/* Falling logits, ties by rising id. */
int text__compare_candidates(const void *a, const void *b);

/* The token that came `back` tokens ago; 0: the last one. */
static inline int32_t text__recent(const struct text_sampler *sampler, size_t back)
{
    size_t at = sampler->next + sampler->cap - 1 - back;
    return sampler->recent[at >= sampler->cap ? at - sampler->cap : at];
}

/* Uniform in [0, 1). */
double text__uniform(struct text_sampler *sampler);

/* Steps. They get candidates in order and leave them so; they return how many are left, at least
 * one. */
typedef size_t text__step_fn(struct text_sampler *sampler, struct text_candidate *c, size_t n);

text__step_fn text__step_penalties, text__step_dry, text__step_top_n_sigma, text__step_top_k,
    text__step_typical, text__step_top_p, text__step_min_p, text__step_xtc, text__step_temperature;

/* Draws one; returns its place. */
size_t text__draw(struct text_sampler *sampler, const struct text_candidate *c, size_t n);
/* Mirostat v2 instead of the steps and the draw. */
size_t text__mirostat(struct text_sampler *sampler, struct text_candidate *c, size_t n);

#endif
