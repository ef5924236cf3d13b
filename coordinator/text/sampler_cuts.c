/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The steps that look at the distribution, the draw, and mirostat. Sources: Holtzman et al. (2020)
 * for top-p; Nguyen et al. (2024) for min-p; Meister et al. (2023) for typical; Tang et al. (2024)
 * for top-n-sigma; Basu et al. (2021) for mirostat.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "coordinator/text/sampler_internal.h"

/* Logit of a candidate relative to the first one's. Equal ones are equal even where they are
 * infinite. */
static double below(const struct text_candidate *c, size_t i)
{
    return c[i].logit == c[0].logit ? 0.0 : (double)c[i].logit - (double)c[0].logit;
}

/* Probability relative to the first one's. */
static double weight(const struct text_candidate *c, size_t i)
{
    return exp(below(c, i));
}

static double total_weight(const struct text_candidate *c, size_t n)
{
    double total = 0;
    for (size_t i = 0; i < n; i++)
        total += weight(c, i);
    return total;
}

/* In nats. */
static double entropy(const struct text_candidate *c, size_t n)
{
    double total = total_weight(c, n), sum = 0;
    for (size_t i = 0; i < n; i++) {
        double w = weight(c, i);
        if (w > 0)
            sum += w * below(c, i);
    }
    return log(total) - sum / total;
}

bool text__step_on(const struct text_sampling *s, enum text_step step)
{
    switch (step) {
    case TEXT_STEP_PENALTIES:
        return text__penalties_on(s);
    case TEXT_STEP_DRY:
        return text__dry_on(s);
    case TEXT_STEP_TOP_N_SIGMA:
        return s->top_n_sigma > 0;
    case TEXT_STEP_TOP_K:
        return s->top_k > 0;
    case TEXT_STEP_TYPICAL:
        return s->typical < 1;
    case TEXT_STEP_TOP_P:
        return s->top_p < 1;
    case TEXT_STEP_MIN_P:
        return s->min_p > 0;
    case TEXT_STEP_XTC:
        return s->xtc_probability > 0 && s->xtc_threshold <= 0.5f;
    case TEXT_STEP_TEMPERATURE:
        return s->temperature != 1.0f || s->dynatemp_range > 0;
    }
    return false;
}

/* Keeps logits of at least the highest less so many standard deviations. */
size_t text__step_top_n_sigma(struct text_sampler *sampler, struct text_candidate *c, size_t n)
{
    double mean = 0, square = 0;
    for (size_t i = 0; i < n; i++)
        mean += (double)c[i].logit / (double)n;
    for (size_t i = 0; i < n; i++)
        square += ((double)c[i].logit - mean) * ((double)c[i].logit - mean) / (double)n;
    if (!isfinite(square))
        return n;
    double lowest = (double)c[0].logit - (double)sampler->sampling.top_n_sigma * sqrt(square);
    size_t kept = 1;
    while (kept < n && (double)c[kept].logit >= lowest)
        kept++;
    return kept;
}

size_t text__step_top_k(struct text_sampler *sampler, struct text_candidate *c, size_t n)
{
    (void)c;
    size_t k = (size_t)sampler->sampling.top_k;
    return k < n ? k : n;
}

struct surprise {
    double first, log_total, entropy;
};

/* How far the surprise at a candidate is from the one to be expected. */
static double oddity(const struct surprise *s, const struct text_candidate *c)
{
    double relative = (double)c->logit == s->first ? 0.0 : (double)c->logit - s->first;
    return fabs(s->log_total - relative - s->entropy);
}

static int compare_oddities(const void *a, const void *b, void *context)
{
    double oa = oddity(context, a), ob = oddity(context, b);
    if (oa != ob)
        return oa < ob ? -1 : 1;
    return text__compare_candidates(a, b);
}

/* Keeps the most typical ones up to the one whose sum is above p. */
size_t text__step_typical(struct text_sampler *sampler, struct text_candidate *c, size_t n)
{
    double total = total_weight(c, n), sum = 0;
    struct surprise s = {(double)c[0].logit, log(total), entropy(c, n)};
    qsort_r(c, n, sizeof *c, compare_oddities, &s);
    size_t kept = 0;
    while (kept < n && sum <= (double)sampler->sampling.typical) {
        double relative = (double)c[kept].logit == s.first ? 0 : (double)c[kept].logit - s.first;
        sum += exp(relative) / total;
        kept++;
    }
    qsort(c, kept, sizeof *c, text__compare_candidates);
    return kept;
}

/* Keeps the likeliest up to the one whose sum reaches p. */
size_t text__step_top_p(struct text_sampler *sampler, struct text_candidate *c, size_t n)
{
    double enough = (double)sampler->sampling.top_p * total_weight(c, n), sum = 0;
    for (size_t i = 0; i < n; i++) {
        sum += weight(c, i);
        if (sum >= enough)
            return i + 1;
    }
    return n;
}

size_t text__step_min_p(struct text_sampler *sampler, struct text_candidate *c, size_t n)
{
    size_t kept = 1;
    while (kept < n && weight(c, kept) >= (double)sampler->sampling.min_p)
        kept++;
    return kept;
}

/* "Exclude top choices": of those that reach the threshold, only the least likely stays. */
size_t text__step_xtc(struct text_sampler *sampler, struct text_candidate *c, size_t n)
{
    double lowest = (double)sampler->sampling.xtc_threshold * total_weight(c, n);
    size_t top = 0;
    bool lucky = text__uniform(sampler) < (double)sampler->sampling.xtc_probability;
    while (top < n && weight(c, top) >= lowest)
        top++;
    if (!lucky || top < 2)
        return n;
    memmove(c, c + top - 1, (n - top + 1) * sizeof *c);
    return n - top + 1;
}

/* Quotients stay finite down to here, and any lower temperature draws the same. */
#define LOWEST_TEMPERATURE 1e-20

size_t text__step_temperature(struct text_sampler *sampler, struct text_candidate *c, size_t n)
{
    const struct text_sampling *s = &sampler->sampling;
    double t = (double)s->temperature, range = (double)s->dynatemp_range;
    if (t <= 0)
        return 1;
    if (range > 0 && n > 1) {
        double low = t > range ? t - range : 0, high = t + range;
        double flat = entropy(c, n) / log((double)n);
        t = low + (high - low) * pow(flat > 0 ? flat : 0, (double)s->dynatemp_exponent);
    }
    t = t > LOWEST_TEMPERATURE ? t : LOWEST_TEMPERATURE;
    for (size_t i = 0; i < n; i++)
        c[i].logit = (float)((double)c[i].logit / t);
    return n;
}

size_t text__draw(struct text_sampler *sampler, const struct text_candidate *c, size_t n)
{
    double left = text__uniform(sampler) * total_weight(c, n);
    for (size_t i = 0; i < n; i++) {
        left -= weight(c, i);
        if (left < 0)
            return i;
    }
    /* Rounding may leave a trifle: the last one that can be drawn at all. */
    while (n > 1 && weight(c, n - 1) == 0)
        n--;
    return n - 1;
}

size_t text__mirostat(struct text_sampler *sampler, struct text_candidate *c, size_t n)
{
    const struct text_sampling *s = &sampler->sampling;
    n = text__step_temperature(sampler, c, n);
    double total = total_weight(c, n), lowest = total * exp2(-sampler->mu);
    size_t kept = 1;
    while (kept < n && weight(c, kept) >= lowest)
        kept++;
    size_t drawn = text__draw(sampler, c, kept);
    double surprise = log2(total_weight(c, kept)) - below(c, drawn) / log(2.0);
    sampler->mu -= (double)s->mirostat_eta * (surprise - (double)s->mirostat_tau);
    return drawn;
}
