/* SPDX-License-Identifier: Apache-2.0 */
/* The steps that look back on the text: penalties and DRY. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "coordinator/text/sampler_internal.h"

bool text__penalties_on(const struct text_sampling *s)
{
    return s->repeat_last_n > 0 && (s->repeat_penalty != 1.0f || s->frequency_penalty != 0.0f ||
                                    s->presence_penalty != 0.0f);
}

bool text__dry_on(const struct text_sampling *s)
{
    return s->dry_multiplier > 0 && s->dry_last_n != 0;
}

size_t text__dry_window(const struct text_sampling *s)
{
    return s->dry_last_n < 0 ? TEXT__MAX_WINDOW : (size_t)s->dry_last_n;
}

/* How often an id is among sorted ones. */
static size_t count_of(const int32_t *sorted, size_t n, int32_t id)
{
    size_t lo = 0, hi = n, count = 0;
    while (lo < hi) {
        size_t middle = lo + (hi - lo) / 2;
        if (sorted[middle] < id)
            lo = middle + 1;
        else
            hi = middle;
    }
    while (lo + count < n && sorted[lo + count] == id)
        count++;
    return count;
}

/* The first is from Keskar et al., "CTRL" (2019), with the sign of the logit minded; the others are
 * OpenAI's. */
static float penalised(const struct text_sampling *s, float logit, size_t count)
{
    double l = (double)logit;
    l = l > 0 ? l / (double)s->repeat_penalty : l * (double)s->repeat_penalty;
    return (float)(l - (double)count * (double)s->frequency_penalty - (double)s->presence_penalty);
}

size_t text__step_penalties(struct text_sampler *sampler, struct text_candidate *c, size_t n)
{
    const struct text_sampling *s = &sampler->sampling;
    size_t window = sampler->n_recent < s->repeat_last_n ? sampler->n_recent : s->repeat_last_n;
    if (window == 0)
        return n;
    for (size_t i = 0; i < window; i++)
        sampler->sorted[i] = text__recent(sampler, i);
    qsort(sampler->sorted, window, sizeof *sampler->sorted, text__compare_ids);
    for (size_t i = 0; i < n; i++) {
        size_t count = count_of(sampler->sorted, window, c[i].id);
        if (count > 0)
            c[i].logit = penalised(s, c[i].logit, count);
    }
    qsort(c, n, sizeof *c, text__compare_candidates);
    return n;
}

static bool is_breaker(const struct text_sampler *sampler, int32_t id)
{
    return sampler->n_breakers > 0 && bsearch(&id, sampler->breakers, sampler->n_breakers,
                                              sizeof *sampler->breakers, text__compare_ids);
}

/*
 * Read backwards, the text is r[0] (its last token), r[1] ... matches[i] becomes the length of what
 * r and r + i have in common at their beginning, that is, how much of the text's end stands `i`
 * tokens earlier too: the Z algorithm (Gusfield, 1997), linear. Overlaps count.
 */
static void find_matches(struct text_sampler *sampler, size_t window)
{
    uint32_t *z = sampler->matches;
    for (size_t i = 1, left = 0, right = 0; i < window; i++) {
        size_t len = 0;
        if (i < right)
            len = z[i - left] < right - i ? z[i - left] : right - i;
        while (i + len < window && text__recent(sampler, len) == text__recent(sampler, i + len))
            len++;
        z[i] = (uint32_t)len;
        if (i + len > right) {
            left = i;
            right = i + len;
        }
    }
}

/* By id, the longest first. */
static int compare_repeats(const void *a, const void *b)
{
    const struct text__repeat *ra = a, *rb = b;
    if (ra->id != rb->id)
        return ra->id < rb->id ? -1 : 1;
    return (ra->len < rb->len) - (ra->len > rb->len);
}

/* The tokens that would go on with a repetition of the allowed length or more, each once. */
static size_t find_repeats(struct text_sampler *sampler)
{
    const struct text_sampling *s = &sampler->sampling;
    size_t most = text__dry_window(s), n = 0, unique = 0, limit = 0;
    size_t window = sampler->n_recent < most ? sampler->n_recent : most;
    while (limit < window && !is_breaker(sampler, text__recent(sampler, limit)))
        limit++;
    if (limit < s->dry_allowed_length)
        return 0;
    find_matches(sampler, window);
    struct text__repeat *r = sampler->repeats;
    for (size_t i = 1; i < window; i++) {
        uint32_t len = sampler->matches[i] < limit ? sampler->matches[i] : (uint32_t)limit;
        int32_t next = text__recent(sampler, i - 1);
        if (len >= s->dry_allowed_length && !is_breaker(sampler, next))
            r[n++] = (struct text__repeat){next, len};
    }
    qsort(r, n, sizeof *r, compare_repeats);
    for (size_t i = 0; i < n; i++) {
        if (i == 0 || r[i].id != r[i - 1].id)
            r[unique++] = r[i];
    }
    return unique;
}

/* "Don't repeat yourself": the longer the repetition that a token would go on with, the more it
 * loses. Large enough penalties are all the same, and finite. */
size_t text__step_dry(struct text_sampler *sampler, struct text_candidate *c, size_t n)
{
    const struct text_sampling *s = &sampler->sampling;
    size_t repeats = find_repeats(sampler);
    if (repeats == 0)
        return n;
    for (size_t i = 0; i < n; i++) {
        const struct text__repeat *r = bsearch(&c[i].id, sampler->repeats, repeats,
                                               sizeof *sampler->repeats, text__compare_ids);
        if (!r)
            continue;
        double longer = (double)(r->len - s->dry_allowed_length);
        double penalty = (double)s->dry_multiplier * pow((double)s->dry_base, longer);
        c[i].logit = (float)((double)c[i].logit - (penalty < 1e30 ? penalty : 1e30));
    }
    qsort(c, n, sizeof *c, text__compare_candidates);
    return n;
}
