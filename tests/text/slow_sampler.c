/* SPDX-License-Identifier: Apache-2.0 */
#include "slow_sampler.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static bool is_among(const int32_t *ids, size_t n, int32_t id)
{
    for (size_t i = 0; i < n; i++) {
        if (ids[i] == id)
            return true;
    }
    return false;
}

static double slow_uniform(struct slow_sampler *r)
{
    uint64_t z = r->state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    z ^= z >> 31;
    return (double)(z >> 11) / 9007199254740992.0;
}

static size_t n_alive(const struct slow_sampler *r)
{
    size_t n = 0;
    for (int i = 0; i < SLOW_VOCAB; i++)
        n += r->alive[i];
    return n;
}

/* The living token of the given rank: the highest logit first, then the lowest id. */
static int at_rank(const struct slow_sampler *r, size_t rank)
{
    for (int i = 0; i < SLOW_VOCAB; i++) {
        size_t before = 0;
        for (int j = 0; j < SLOW_VOCAB && r->alive[i]; j++)
            before +=
                r->alive[j] && (r->logit[j] > r->logit[i] || (r->logit[j] == r->logit[i] && j < i));
        if (r->alive[i] && before == rank)
            return i;
    }
    abort();
}

static void probabilities(const struct slow_sampler *r, double *p)
{
    double sum = 0, top = (double)r->logit[at_rank(r, 0)];
    for (int i = 0; i < SLOW_VOCAB; i++) {
        p[i] = r->alive[i] ? exp((double)r->logit[i] - top) : 0;
        sum += p[i];
    }
    for (int i = 0; i < SLOW_VOCAB; i++)
        p[i] /= sum;
}

static double slow_entropy(const double *p)
{
    double h = 0;
    for (int i = 0; i < SLOW_VOCAB; i++)
        h -= p[i] > 0 ? p[i] * log(p[i]) : 0;
    return h;
}

static void slow_penalties(struct slow_sampler *r)
{
    size_t window = r->n_history < r->s.repeat_last_n ? r->n_history : r->s.repeat_last_n;
    for (int i = 0; i < SLOW_VOCAB; i++) {
        unsigned count = 0;
        for (size_t back = 1; back <= window; back++)
            count += r->history[r->n_history - back] == i;
        if (count == 0)
            continue;
        double l = (double)r->logit[i];
        l = l > 0 ? l / (double)r->s.repeat_penalty : l * (double)r->s.repeat_penalty;
        r->logit[i] =
            (float)(l - count * (double)r->s.frequency_penalty - (double)r->s.presence_penalty);
    }
}

/* Length of the repetition that ends before place `at` of the last `window` tokens. */
static size_t repetition(const struct slow_sampler *r, size_t at, size_t first)
{
    size_t len = 0;
    while (at >= first + len + 1) {
        int32_t end = r->history[r->n_history - 1 - len];
        if (r->history[at - 1 - len] != end || is_among(r->breakers, r->n_breakers, end))
            break;
        len++;
    }
    return len;
}

static void slow_dry(struct slow_sampler *r)
{
    size_t window = r->n_history;
    if (r->s.dry_last_n >= 0 && (size_t)r->s.dry_last_n < window)
        window = (size_t)r->s.dry_last_n;
    size_t first = r->n_history - window;
    for (int i = 0; i < SLOW_VOCAB; i++) {
        size_t longest = 0;
        for (size_t at = first; at < r->n_history; at++) {
            size_t len = r->history[at] == i ? repetition(r, at, first) : 0;
            longest = len > longest ? len : longest;
        }
        if (longest < r->s.dry_allowed_length || is_among(r->breakers, r->n_breakers, i))
            continue;
        double growth = pow((double)r->s.dry_base, (double)(longest - r->s.dry_allowed_length));
        r->logit[i] = (float)((double)r->logit[i] - (double)r->s.dry_multiplier * growth);
    }
}

static void slow_top_n_sigma(struct slow_sampler *r)
{
    double n = (double)n_alive(r), mean = 0, square = 0, top = (double)r->logit[at_rank(r, 0)];
    for (int i = 0; i < SLOW_VOCAB; i++)
        mean += r->alive[i] ? (double)r->logit[i] : 0;
    mean /= n;
    for (int i = 0; i < SLOW_VOCAB; i++)
        square += r->alive[i] ? pow((double)r->logit[i] - mean, 2) : 0;
    for (int i = 0; i < SLOW_VOCAB; i++)
        r->alive[i] =
            r->alive[i] && (double)r->logit[i] >= top - (double)r->s.top_n_sigma * sqrt(square / n);
}

static void slow_top_k(struct slow_sampler *r)
{
    bool kept[SLOW_VOCAB] = {false};
    for (size_t i = 0; i < (size_t)r->s.top_k && i < n_alive(r); i++)
        kept[at_rank(r, i)] = true;
    memcpy(r->alive, kept, sizeof kept);
}

static void slow_typical(struct slow_sampler *r)
{
    double p[SLOW_VOCAB], sum = 0;
    bool kept[SLOW_VOCAB] = {false};
    probabilities(r, p);
    double h = slow_entropy(p);
    for (size_t n = n_alive(r); n > 0 && sum <= (double)r->s.typical; n--) {
        int best = -1;
        for (size_t rank = 0; rank < n_alive(r); rank++) {
            int i = at_rank(r, rank);
            if (!kept[i] && (best < 0 || fabs(-log(p[i]) - h) < fabs(-log(p[best]) - h) - 1e-12))
                best = i;
        }
        kept[best] = true;
        sum += p[best];
    }
    memcpy(r->alive, kept, sizeof kept);
}

static void slow_top_p(struct slow_sampler *r)
{
    double p[SLOW_VOCAB], sum = 0;
    bool kept[SLOW_VOCAB] = {false};
    probabilities(r, p);
    for (size_t rank = 0; rank < n_alive(r) && sum < (double)r->s.top_p; rank++) {
        kept[at_rank(r, rank)] = true;
        sum += p[at_rank(r, rank)];
    }
    memcpy(r->alive, kept, sizeof kept);
}

static void slow_min_p(struct slow_sampler *r)
{
    double p[SLOW_VOCAB];
    probabilities(r, p);
    double most = p[at_rank(r, 0)];
    for (int i = 0; i < SLOW_VOCAB; i++)
        r->alive[i] = r->alive[i] && p[i] >= (double)r->s.min_p * most;
}

static void slow_xtc(struct slow_sampler *r)
{
    double p[SLOW_VOCAB];
    bool lucky = slow_uniform(r) < (double)r->s.xtc_probability;
    size_t top = 0, n = n_alive(r);
    probabilities(r, p);
    while (top < n && p[at_rank(r, top)] >= (double)r->s.xtc_threshold)
        top++;
    for (size_t i = 0; i + 1 < top && lucky; i++)
        r->alive[at_rank(r, 0)] = false;
}

static void slow_temperature(struct slow_sampler *r)
{
    double t = (double)r->s.temperature, range = (double)r->s.dynatemp_range;
    if (t <= 0) {
        int best = at_rank(r, 0);
        memset(r->alive, 0, sizeof r->alive);
        r->alive[best] = true;
        return;
    }
    if (range > 0 && n_alive(r) > 1) {
        double p[SLOW_VOCAB], low = fmax(t - range, 0);
        probabilities(r, p);
        t = low + (t + range - low) * pow(slow_entropy(p) / log((double)n_alive(r)),
                                          (double)r->s.dynatemp_exponent);
    }
    for (int i = 0; i < SLOW_VOCAB; i++)
        r->logit[i] = (float)((double)r->logit[i] / t);
}

static int slow_draw(struct slow_sampler *r)
{
    double p[SLOW_VOCAB], u = slow_uniform(r), sum = 0;
    size_t n = n_alive(r);
    probabilities(r, p);
    for (size_t rank = 0; rank < n; rank++) {
        sum += p[at_rank(r, rank)];
        if (u < sum)
            return at_rank(r, rank);
    }
    return at_rank(r, n - 1);
}

static int slow_mirostat(struct slow_sampler *r)
{
    double p[SLOW_VOCAB];
    slow_temperature(r);
    probabilities(r, p);
    int best = at_rank(r, 0);
    for (int i = 0; i < SLOW_VOCAB; i++)
        r->alive[i] = r->alive[i] && (i == best || -log2(p[i]) <= r->mu);
    int drawn = slow_draw(r);
    probabilities(r, p);
    r->mu -= (double)r->s.mirostat_eta * (-log2(p[drawn]) - (double)r->s.mirostat_tau);
    return drawn;
}

static bool is_on(const struct text_sampling *s, enum text_step step)
{
    const bool on[TEXT_N_STEPS] = {
        s->repeat_last_n > 0,
        s->dry_multiplier > 0 && s->dry_last_n != 0,
        s->top_n_sigma > 0,
        s->top_k > 0,
        s->typical<1, s->top_p<1, s->min_p> 0, s->xtc_probability> 0 && s->xtc_threshold <= 0.5f,
        true,
    };
    return on[step];
}

int slow_sampler_sample(struct slow_sampler *r, const float *logits)
{
    static void (*const steps[TEXT_N_STEPS])(struct slow_sampler *) = {
        slow_penalties, slow_dry,   slow_top_n_sigma, slow_top_k,       slow_typical,
        slow_top_p,     slow_min_p, slow_xtc,         slow_temperature,
    };
    memcpy(r->logit, logits, sizeof r->logit);
    for (int i = 0; i < SLOW_VOCAB; i++)
        r->alive[i] = !is_among(r->banned, r->n_banned, i);
    for (size_t i = 0; i < r->s.n_biases; i++) {
        r->logit[r->s.biases[i].id] += r->s.biases[i].bias;
        if (r->s.biases[i].bias == -INFINITY)
            r->alive[r->s.biases[i].id] = false;
    }
    if (r->s.mirostat)
        return slow_mirostat(r);
    for (unsigned i = 0; i < r->s.n_steps; i++) {
        if (is_on(&r->s, r->s.steps[i]))
            steps[r->s.steps[i]](r);
    }
    return n_alive(r) == 1 ? at_rank(r, 0) : slow_draw(r);
}
