/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Choosing the next token from candidates. Chain: logit bias and bans, then the steps in their
 * order (by default penalties, DRY, top-n-sigma, top-k, typical, top-p, min-p, XTC, temperature),
 * then a draw. Each step works on what the one before left; probabilities are those of the softmax
 * over what is left. One thread. The draw is a splitmix64 generator, so a seed gives the same
 * tokens anywhere.
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

/* Added to a token's logit; -INFINITY bans it. */
struct text_bias {
    int32_t id;
    float bias;
};

enum text_step {
    TEXT_STEP_PENALTIES,
    TEXT_STEP_DRY,
    TEXT_STEP_TOP_N_SIGMA,
    TEXT_STEP_TOP_K,
    TEXT_STEP_TYPICAL,
    TEXT_STEP_TOP_P,
    TEXT_STEP_MIN_P,
    TEXT_STEP_XTC,
    TEXT_STEP_TEMPERATURE
};
#define TEXT_N_STEPS      9u
#define TEXT_MAX_BIASES   1024u
#define TEXT_MAX_BREAKERS 32u

struct text_sampling {
    float temperature;        /* <= 0: the likeliest of what is left. Default 0.8 */
    float dynatemp_range;     /* 0: off; else the temperature is within temperature -+ range, higher
                                 the flatter the distribution is. Default 0 */
    float dynatemp_exponent;  /* Default 1 */
    int32_t top_k;            /* <= 0: off. Default 40 */
    float top_p;              /* >= 1: off. Default 0.95 */
    float min_p;              /* <= 0: off. Default 0.05 */
    float typical;            /* >= 1: off. Default 1 */
    float top_n_sigma;        /* <= 0: off. Default -1 */
    float xtc_probability;    /* <= 0: off. Default 0 */
    float xtc_threshold;      /* > 0.5: off. Default 0.1 */
    uint32_t repeat_last_n;   /* tokens that penalties look back on. Default 64 */
    float repeat_penalty;     /* 1: off. Default 1 */
    float frequency_penalty;  /* 0: off. Default 0 */
    float presence_penalty;   /* 0: off. Default 0 */
    float dry_multiplier;     /* 0: off. Default 0 */
    float dry_base;           /* Default 1.75 */
    uint32_t dry_allowed_length; /* repetitions shorter than this are free. Default 2 */
    int32_t dry_last_n;       /* tokens that DRY looks back on; -1: all, 0: off. Default -1 */
    uint32_t mirostat;        /* 2: mirostat v2 takes the place of all steps but the temperature;
                                 0: off. Default 0 */
    float mirostat_tau;       /* surprise aimed at, in bits. Default 5 */
    float mirostat_eta;       /* learning rate. Default 0.1 */
    uint64_t seed;            /* Default 0 */
    enum text_step steps[TEXT_N_STEPS]; /* those that are not there are off */
    unsigned n_steps;
    /* Borrowed. */
    const struct text_bias *biases; /* at most TEXT_MAX_BIASES. Default none */
    size_t n_biases;
    const char *const *dry_breakers; /* no repetition goes across a token with one of
                                        these in its text. NULL: \n : " * (the default) */
    size_t n_dry_breakers;
};

#define TEXT_SAMPLING_DEFAULT                                                                      \
    ((struct text_sampling){                                                                       \
        .temperature = 0.8f, .dynatemp_exponent = 1.0f, .top_k = 40, .top_p = 0.95f,               \
        .min_p = 0.05f, .typical = 1.0f, .top_n_sigma = -1.0f, .xtc_threshold = 0.1f,              \
        .repeat_last_n = 64, .repeat_penalty = 1.0f, .dry_base = 1.75f, .dry_allowed_length = 2,   \
        .dry_last_n = -1, .mirostat_tau = 5.0f, .mirostat_eta = 0.1f,                              \
        .steps = {TEXT_STEP_PENALTIES, TEXT_STEP_DRY, TEXT_STEP_TOP_N_SIGMA, TEXT_STEP_TOP_K,      \
                  TEXT_STEP_TYPICAL, TEXT_STEP_TOP_P, TEXT_STEP_MIN_P, TEXT_STEP_XTC,              \
                  TEXT_STEP_TEMPERATURE},                                                          \
        .n_steps = TEXT_N_STEPS})

/* The name of a step: penalties, dry, top_n_sigma, top_k, typical, top_p, min_p, xtc, temperature.
 */
const char *text_step_name(enum text_step step);
/* Reads an order of steps: names with ";" or "," between, each once at most; "" is none.
 * PROTO_INVALID names what is wrong and what is known. */
enum proto_status text_steps_parse(struct text_sampling *s, const char *order,
                                   struct proto_error *error);

/* PROTO_INVALID names the parameter, its value and what is allowed, or the two that contradict each
 * other: mirostat goes only with the temperature and biases (the other parameters must be off or at
 * their defaults), a temperature of 0 needs the temperature among the steps and no range. */
enum proto_status text_sampling_check(const struct text_sampling *s, struct proto_error *error);

/* How many best candidates the chain needs so that its result is as from the whole vocabulary, of
 * which n_banned tokens are banned anyway; 0: the whole vocabulary. */
uint32_t text_sampling_needs(const struct text_sampling *s, size_t n_banned);

/* What the vocabulary adds. Copied. */
struct text_sampler_tokens {
    const int32_t *banned; /* never chosen */
    size_t n_banned;
    const int32_t *breakers; /* the tokens of dry_breakers */
    size_t n_breakers;
    size_t context; /* tokens that will be accepted at most; 0: not known */
};

struct text_sampler;

/* tokens NULL: none. */
enum proto_status text_sampler_create(struct text_sampler **out, const struct text_sampling *s,
                                      const struct text_sampler_tokens *tokens,
                                      struct proto_error *error);
void text_sampler_destroy(struct text_sampler *sampler);

/* Remembers a token of the prompt or of the output (for penalties and DRY). */
void text_sampler_accept(struct text_sampler *sampler, int32_t id);

/* What a sampler holds besides the tokens that it accepted: with both, another one goes on with the
 * very same draws. */
struct text_sampler_state {
    uint64_t random; /* of the generator */
    double mu;       /* mirostat's bound of surprise, in bits */
};

struct text_sampler_state text_sampler_save(const struct text_sampler *sampler);
void text_sampler_restore(struct text_sampler *sampler, const struct text_sampler_state *state);

/* Chooses among n >= 1 candidates (in falling order of logit, ties by id; changed in place). */
int32_t text_sampler_sample(struct text_sampler *sampler, struct text_candidate *candidates,
                            size_t n);

#endif
