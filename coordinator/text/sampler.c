/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every step is in double precision and in the candidates' order, so that a seed gives the same
 * tokens on every machine.
 */
#include "coordinator/text/sampler.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "proto/limits.h"

#define MAX_WINDOW (1u << 20)

struct text_sampler {
    struct text_sampling sampling;
    uint64_t state;
    int32_t *recent; /* ring of the last repeat_last_n tokens */
    int32_t *sorted; /* scratch of the same size */
    uint32_t n_recent, next;
};

static bool penalises(const struct text_sampling *s)
{
    return s->repeat_penalty != 1.0f && s->repeat_last_n > 0;
}

enum proto_status text_sampling_check(const struct text_sampling *s, struct proto_error *error)
{
    if (!isfinite(s->temperature))
        return proto_fail(
            error, PROTO_INVALID,
            "temperature is %g; a finite number is expected, 0 for the likeliest token",
            (double)s->temperature);
    if (!isfinite(s->top_p) || s->top_p <= 0)
        return proto_fail(error, PROTO_INVALID,
                          "top_p is %g; a number above 0 is expected, 1 to turn it off",
                          (double)s->top_p);
    if (!isfinite(s->min_p) || s->min_p > 1)
        return proto_fail(error, PROTO_INVALID,
                          "min_p is %g; a number up to 1 is expected, 0 to turn it off",
                          (double)s->min_p);
    if (!isfinite(s->repeat_penalty) || s->repeat_penalty <= 0)
        return proto_fail(error, PROTO_INVALID,
                          "repeat_penalty is %g; a number above 0 is expected, 1 to turn it off",
                          (double)s->repeat_penalty);
    if (s->repeat_last_n > MAX_WINDOW)
        return proto_fail(error, PROTO_INVALID, "repeat_last_n is %u; at most %u is allowed",
                          s->repeat_last_n, MAX_WINDOW);
    return PROTO_OK;
}

/*
 * Let k be the tokens that the chain reads after penalties: 1 if greedy, else top_k. A penalty of
 * at least 1 only lowers logits, and those of at most w = repeat_last_n tokens. Of the best k + w
 * candidates, at least k are not lowered. A token outside has a logit no higher than any of these
 * k (and the higher id on a tie) before penalties, so it cannot pass them afterwards: the k best
 * are among the candidates. top_p, min_p and the draw see only those k. A penalty below 1 may
 * raise any token of the window, wherever it stands; without top_k the probabilities are over the
 * whole vocabulary.
 */
uint32_t text_sampling_needs(const struct text_sampling *s)
{
    if (penalises(s) && s->repeat_penalty < 1)
        return 0;
    if (s->temperature > 0 && s->top_k <= 0)
        return 0;
    uint64_t k = s->temperature > 0 ? (uint64_t)s->top_k : 1;
    uint64_t needs = k + (penalises(s) ? s->repeat_last_n : 0);
    return needs <= PROTO_MAX_CANDIDATES ? (uint32_t)needs : 0;
}

enum proto_status text_sampler_create(struct text_sampler **out, const struct text_sampling *s,
                                      struct proto_error *error)
{
    enum proto_status status = text_sampling_check(s, error);
    if (status != PROTO_OK)
        return status;
    struct text_sampler *sampler = calloc(1, sizeof *sampler);
    if (!sampler)
        return proto_fail_nomem(error, sizeof *sampler, "a sampler");
    sampler->sampling = *s;
    sampler->state = s->seed;
    if (penalises(s)) {
        sampler->recent = malloc(s->repeat_last_n * sizeof *sampler->recent);
        sampler->sorted = malloc(s->repeat_last_n * sizeof *sampler->sorted);
        if (!sampler->recent || !sampler->sorted) {
            text_sampler_destroy(sampler);
            return proto_fail_nomem(error, 2 * s->repeat_last_n * sizeof *sampler->recent,
                                    "a sampler's recent tokens");
        }
    }
    *out = sampler;
    return PROTO_OK;
}

void text_sampler_destroy(struct text_sampler *sampler)
{
    if (!sampler)
        return;
    free(sampler->recent);
    free(sampler->sorted);
    free(sampler);
}

void text_sampler_accept(struct text_sampler *sampler, int32_t id)
{
    if (!sampler->recent)
        return;
    sampler->recent[sampler->next] = id;
    sampler->next = (sampler->next + 1) % sampler->sampling.repeat_last_n;
    if (sampler->n_recent < sampler->sampling.repeat_last_n)
        sampler->n_recent++;
}

static int compare_ids(const void *a, const void *b)
{
    int32_t ia = *(const int32_t *)a, ib = *(const int32_t *)b;
    return (ia > ib) - (ia < ib);
}

static int compare_candidates(const void *a, const void *b)
{
    const struct text_candidate *ca = a, *cb = b;
    if (ca->logit != cb->logit)
        return ca->logit < cb->logit ? 1 : -1;
    return (ca->id > cb->id) - (ca->id < cb->id);
}

/* Formula: Keskar et al., "CTRL" (2019), with the sign of the logit minded. */
static void apply_penalty(struct text_sampler *sampler, struct text_candidate *c, size_t n)
{
    if (sampler->n_recent == 0)
        return;
    float penalty = sampler->sampling.repeat_penalty;
    memcpy(sampler->sorted, sampler->recent, sampler->n_recent * sizeof *sampler->sorted);
    qsort(sampler->sorted, sampler->n_recent, sizeof *sampler->sorted, compare_ids);
    bool changed = false;
    for (size_t i = 0; i < n; i++) {
        if (!bsearch(&c[i].id, sampler->sorted, sampler->n_recent, sizeof *sampler->sorted,
                     compare_ids))
            continue;
        c[i].logit = c[i].logit > 0 ? c[i].logit / penalty : c[i].logit * penalty;
        changed = true;
    }
    if (changed)
        qsort(c, n, sizeof *c, compare_candidates);
}

/* Probability of a candidate relative to the first one's. Equal logits weigh the same even where
 * they are infinite. */
static double weight(const struct text_candidate *c, size_t i, double temperature)
{
    if (c[i].logit == c[0].logit)
        return 1.0;
    return exp(((double)c[i].logit - (double)c[0].logit) / temperature);
}

static double total_weight(const struct text_candidate *c, size_t n, double temperature)
{
    double total = 0;
    for (size_t i = 0; i < n; i++)
        total += weight(c, i, temperature);
    return total;
}

/* Keeps the likeliest up to the one whose sum reaches p. */
static size_t cut_top_p(const struct text_candidate *c, size_t n, double p)
{
    double enough = p * total_weight(c, n, 1.0), sum = 0;
    for (size_t i = 0; i < n; i++) {
        sum += weight(c, i, 1.0);
        if (sum >= enough)
            return i + 1;
    }
    return n;
}

static size_t cut_min_p(const struct text_candidate *c, size_t n, double p)
{
    size_t kept = 1;
    while (kept < n && weight(c, kept, 1.0) >= p)
        kept++;
    return kept;
}

/* splitmix64 (Steele, Lea and Flood, 2014); uniform in [0, 1). */
static double next_uniform(struct text_sampler *sampler)
{
    uint64_t z = sampler->state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    z ^= z >> 31;
    return (double)(z >> 11) * 0x1p-53;
}

static int32_t draw(struct text_sampler *sampler, const struct text_candidate *c, size_t n)
{
    double temperature = (double)sampler->sampling.temperature;
    double left = next_uniform(sampler) * total_weight(c, n, temperature);
    for (size_t i = 0; i < n; i++) {
        left -= weight(c, i, temperature);
        if (left < 0)
            return c[i].id;
    }
    /* Rounding may leave a trifle: the last one that can be drawn at all. */
    while (n > 1 && weight(c, n - 1, temperature) == 0)
        n--;
    return c[n - 1].id;
}

int32_t text_sampler_sample(struct text_sampler *sampler, struct text_candidate *candidates,
                            size_t n)
{
    const struct text_sampling *s = &sampler->sampling;
    if (penalises(s))
        apply_penalty(sampler, candidates, n);
    if (s->temperature <= 0)
        return candidates[0].id;
    if (s->top_k > 0 && (size_t)s->top_k < n)
        n = (size_t)s->top_k;
    if (s->top_p < 1)
        n = cut_top_p(candidates, n, (double)s->top_p);
    if (s->min_p > 0)
        n = cut_min_p(candidates, n, (double)s->min_p);
    return draw(sampler, candidates, n);
}
