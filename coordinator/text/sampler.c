/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every step is in double precision and in the candidates' order, so that a seed gives the same
 * tokens on every machine.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "coordinator/text/sampler_internal.h"

int text__compare_ids(const void *a, const void *b)
{
    int32_t ia = *(const int32_t *)a, ib = *(const int32_t *)b;
    return (ia > ib) - (ia < ib);
}

int text__compare_candidates(const void *a, const void *b)
{
    const struct text_candidate *ca = a, *cb = b;
    if (ca->logit != cb->logit)
        return ca->logit < cb->logit ? 1 : -1;
    return (ca->id > cb->id) - (ca->id < cb->id);
}

/* By id, bans first. */
static int compare_biases(const void *a, const void *b)
{
    const struct text_bias *ba = a, *bb = b;
    if (ba->id != bb->id)
        return ba->id < bb->id ? -1 : 1;
    return (ba->bias > bb->bias) - (ba->bias < bb->bias);
}

static enum proto_status copy_biases(struct text_sampler *sampler, const struct text_sampling *s,
                                     const struct text_sampler_tokens *tokens,
                                     struct proto_error *error)
{
    size_t n = s->n_biases + tokens->n_banned;
    if (n == 0)
        return PROTO_OK;
    sampler->biases = malloc(n * sizeof *sampler->biases);
    if (!sampler->biases)
        return proto_fail_nomem(error, n * sizeof *sampler->biases, "logit biases");
    for (size_t i = 0; i < s->n_biases; i++)
        sampler->biases[i] = s->biases[i];
    for (size_t i = 0; i < tokens->n_banned; i++)
        sampler->biases[s->n_biases + i] = (struct text_bias){tokens->banned[i], -INFINITY};
    qsort(sampler->biases, n, sizeof *sampler->biases, compare_biases);
    for (size_t i = 0; i < n; i++) {
        if (i == 0 || sampler->biases[i].id != sampler->biases[i - 1].id)
            sampler->biases[sampler->n_biases++] = sampler->biases[i];
    }
    return PROTO_OK;
}

static enum proto_status copy_breakers(struct text_sampler *sampler,
                                       const struct text_sampler_tokens *tokens,
                                       struct proto_error *error)
{
    if (!text__dry_on(&sampler->sampling) || tokens->n_breakers == 0)
        return PROTO_OK;
    size_t bytes = tokens->n_breakers * sizeof *sampler->breakers;
    sampler->breakers = malloc(bytes);
    if (!sampler->breakers)
        return proto_fail_nomem(error, bytes, "sequence breakers");
    memcpy(sampler->breakers, tokens->breakers, bytes);
    sampler->n_breakers = tokens->n_breakers;
    qsort(sampler->breakers, sampler->n_breakers, sizeof *sampler->breakers, text__compare_ids);
    return PROTO_OK;
}

static size_t at_most(size_t n, size_t limit)
{
    return n < limit ? n : limit;
}

/* Memory for the tokens that are looked back on. */
static enum proto_status make_history(struct text_sampler *sampler, size_t context,
                                      struct proto_error *error)
{
    const struct text_sampling *s = &sampler->sampling;
    size_t limit = context > 0 ? at_most(context, TEXT__MAX_WINDOW) : TEXT__MAX_WINDOW;
    size_t penalties = text__penalties_on(s) ? at_most(s->repeat_last_n, limit) : 0;
    size_t dry = text__dry_on(s) ? at_most(text__dry_window(s), limit) : 0;
    sampler->cap = penalties > dry ? penalties : dry;
    if (sampler->cap > 0)
        sampler->recent = malloc(sampler->cap * sizeof *sampler->recent);
    if (penalties > 0)
        sampler->sorted = malloc(penalties * sizeof *sampler->sorted);
    if (dry > 0) {
        sampler->matches = malloc(dry * sizeof *sampler->matches);
        sampler->repeats = malloc(dry * sizeof *sampler->repeats);
    }
    if ((sampler->cap > 0 && !sampler->recent) || (penalties > 0 && !sampler->sorted) ||
        (dry > 0 && (!sampler->matches || !sampler->repeats)))
        return proto_fail_nomem(error, sampler->cap * 5 * sizeof *sampler->recent,
                                "a sampler's recent tokens");
    return PROTO_OK;
}

enum proto_status text_sampler_create(struct text_sampler **out, const struct text_sampling *s,
                                      const struct text_sampler_tokens *tokens,
                                      struct proto_error *error)
{
    static const struct text_sampler_tokens none;
    if (!tokens)
        tokens = &none;
    enum proto_status status = text_sampling_check(s, error);
    if (status != PROTO_OK)
        return status;
    struct text_sampler *sampler = calloc(1, sizeof *sampler);
    if (!sampler)
        return proto_fail_nomem(error, sizeof *sampler, "a sampler");
    sampler->sampling = *s;
    sampler->state = s->seed;
    sampler->mu = 2.0 * (double)s->mirostat_tau;
    status = copy_biases(sampler, s, tokens, error);
    if (status == PROTO_OK)
        status = copy_breakers(sampler, tokens, error);
    if (status == PROTO_OK)
        status = make_history(sampler, tokens->context, error);
    if (status != PROTO_OK) {
        text_sampler_destroy(sampler);
        return status;
    }
    *out = sampler;
    return PROTO_OK;
}

void text_sampler_destroy(struct text_sampler *sampler)
{
    if (!sampler)
        return;
    free(sampler->biases);
    free(sampler->breakers);
    free(sampler->recent);
    free(sampler->sorted);
    free(sampler->matches);
    free(sampler->repeats);
    free(sampler);
}

void text_sampler_accept(struct text_sampler *sampler, int32_t id)
{
    if (sampler->cap == 0)
        return;
    sampler->recent[sampler->next] = id;
    sampler->next = (sampler->next + 1) % sampler->cap;
    if (sampler->n_recent < sampler->cap)
        sampler->n_recent++;
}

struct text_sampler_state text_sampler_save(const struct text_sampler *sampler)
{
    return (struct text_sampler_state){sampler->state, sampler->mu};
}

void text_sampler_restore(struct text_sampler *sampler, const struct text_sampler_state *state)
{
    sampler->state = state->random;
    sampler->mu = state->mu;
}

/* splitmix64 (Steele, Lea and Flood, 2014). */
double text__uniform(struct text_sampler *sampler)
{
    uint64_t z = sampler->state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    z ^= z >> 31;
    return (double)(z >> 11) * 0x1p-53;
}

static const struct text_bias *find_bias(const struct text_sampler *sampler, int32_t id)
{
    return bsearch(&id, sampler->biases, sampler->n_biases, sizeof *sampler->biases,
                   text__compare_ids); /* an id is where a bias begins */
}

/* Adds the biases; what is banned goes, as long as anything is left. */
static size_t apply_biases(const struct text_sampler *sampler, struct text_candidate *c, size_t n)
{
    bool changed = false;
    for (size_t i = 0; i < n && sampler->n_biases > 0; i++) {
        const struct text_bias *bias = find_bias(sampler, c[i].id);
        if (!bias)
            continue;
        c[i].logit = isinf(bias->bias) ? -INFINITY : c[i].logit + bias->bias;
        changed = true;
    }
    if (changed)
        qsort(c, n, sizeof *c, text__compare_candidates);
    while (n > 1 && c[n - 1].logit == -INFINITY && c[0].logit != -INFINITY)
        n--;
    return n;
}

int32_t text_sampler_sample(struct text_sampler *sampler, struct text_candidate *c, size_t n)
{
    static text__step_fn *const functions[TEXT_N_STEPS] = {
        [TEXT_STEP_PENALTIES] = text__step_penalties,
        [TEXT_STEP_DRY] = text__step_dry,
        [TEXT_STEP_TOP_N_SIGMA] = text__step_top_n_sigma,
        [TEXT_STEP_TOP_K] = text__step_top_k,
        [TEXT_STEP_TYPICAL] = text__step_typical,
        [TEXT_STEP_TOP_P] = text__step_top_p,
        [TEXT_STEP_MIN_P] = text__step_min_p,
        [TEXT_STEP_XTC] = text__step_xtc,
        [TEXT_STEP_TEMPERATURE] = text__step_temperature,
    };
    const struct text_sampling *s = &sampler->sampling;
    n = apply_biases(sampler, c, n);
    if (s->mirostat)
        return c[text__mirostat(sampler, c, n)].id;
    for (unsigned i = 0; i < s->n_steps; i++) {
        if (text__step_on(s, s->steps[i]))
            n = functions[s->steps[i]](sampler, c, n);
    }
    return n == 1 ? c[0].id : c[text__draw(sampler, c, n)].id;
}
