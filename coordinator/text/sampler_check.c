/* SPDX-License-Identifier: Apache-2.0 */
/* What sampling parameters are allowed, and what they ask of the last stage. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "coordinator/text/sampler_internal.h"
#include "proto/limits.h"

static const char *const names[TEXT_N_STEPS] = {
    "penalties", "dry", "top_n_sigma", "top_k", "typical", "top_p", "min_p", "xtc", "temperature",
};

const char *text_step_name(enum text_step step)
{
    return (unsigned)step < TEXT_N_STEPS ? names[step] : "?";
}

static bool has_step(const struct text_sampling *s, enum text_step step)
{
    for (unsigned i = 0; i < s->n_steps; i++) {
        if (s->steps[i] == step)
            return true;
    }
    return false;
}

enum proto_status text_steps_parse(struct text_sampling *s, const char *order,
                                   struct proto_error *error)
{
    s->n_steps = 0;
    while (*order) {
        size_t len = strcspn(order, ";,"), step = 0;
        while (step < TEXT_N_STEPS &&
               (strlen(names[step]) != len || memcmp(names[step], order, len) != 0))
            step++;
        if (step == TEXT_N_STEPS)
            return proto_fail(error, PROTO_INVALID,
                              "samplers has \"%.*s\"; known are penalties, dry, top_n_sigma, "
                              "top_k, typical, top_p, min_p, xtc and temperature, with ; between",
                              len < 40 ? (int)len : 40, order);
        if (has_step(s, (enum text_step)step))
            return proto_fail(error, PROTO_INVALID, "samplers has %s twice; once is allowed",
                              names[step]);
        s->steps[s->n_steps++] = (enum text_step)step;
        order += len + (order[len] != '\0');
    }
    return PROTO_OK;
}

/* Numbers and their bounds, which are allowed themselves. */
static const struct {
    const char *name;
    size_t at;
    double min, max;
    const char *allowed;
} bounds[] = {
#define FIELD(field) #field, offsetof(struct text_sampling, field)
    {FIELD(temperature), -HUGE_VAL, 1e6, "a number up to 1e6, 0 for the likeliest token"},
    {FIELD(dynatemp_range), 0, 1e6, "a number from 0 (off) to 1e6"},
    {FIELD(dynatemp_exponent), 1e-6, 1e6, "a number from 1e-6 to 1e6"},
    {FIELD(top_p), 1e-9, 1e6, "a number above 0, 1 to turn it off"},
    {FIELD(min_p), -1e6, 1, "a number up to 1, 0 to turn it off"},
    {FIELD(typical), 1e-9, 1e6, "a number above 0, 1 to turn it off"},
    {FIELD(top_n_sigma), -1e6, 1e6, "a number, 0 or less to turn it off"},
    {FIELD(xtc_probability), 0, 1, "a number from 0 (off) to 1"},
    {FIELD(xtc_threshold), 0, 1, "a number from 0 to 1, above 0.5 to turn it off"},
    {FIELD(repeat_penalty), 1e-6, 1e6, "a number above 0, 1 to turn it off"},
    {FIELD(frequency_penalty), -1e6, 1e6, "a number from -1e6 to 1e6, 0 to turn it off"},
    {FIELD(presence_penalty), -1e6, 1e6, "a number from -1e6 to 1e6, 0 to turn it off"},
    {FIELD(dry_multiplier), 0, 1e6, "a number from 0 (off) to 1e6"},
    {FIELD(dry_base), 1, 1e6, "a number from 1 to 1e6"},
    {FIELD(mirostat_tau), 1e-6, 1e6, "a number above 0"},
    {FIELD(mirostat_eta), 1e-6, 1, "a number above 0, up to 1"},
#undef FIELD
};

static enum proto_status check_bounds(const struct text_sampling *s, struct proto_error *error)
{
    for (size_t i = 0; i < sizeof bounds / sizeof *bounds; i++) {
        float value;
        memcpy(&value, (const char *)s + bounds[i].at, sizeof value);
        if (!isfinite(value) || (double)value < bounds[i].min || (double)value > bounds[i].max)
            return proto_fail(error, PROTO_INVALID, "%s is %g; expected %s", bounds[i].name,
                              (double)value, bounds[i].allowed);
    }
    if (s->repeat_last_n > TEXT__MAX_WINDOW)
        return proto_fail(error, PROTO_INVALID, "repeat_last_n is %u; at most %u is allowed",
                          s->repeat_last_n, TEXT__MAX_WINDOW);
    if (s->dry_allowed_length < 1 || s->dry_allowed_length > TEXT__MAX_WINDOW)
        return proto_fail(error, PROTO_INVALID, "dry_allowed_length is %u; expected 1 to %u",
                          s->dry_allowed_length, TEXT__MAX_WINDOW);
    if (s->dry_last_n < -1 || s->dry_last_n > (int32_t)TEXT__MAX_WINDOW)
        return proto_fail(error, PROTO_INVALID,
                          "dry_penalty_last_n is %d; expected 0 to %u, or -1 for all",
                          s->dry_last_n, TEXT__MAX_WINDOW);
    if (s->mirostat != 0 && s->mirostat != 2)
        return proto_fail(error, PROTO_INVALID,
                          "mirostat is %u; expected 0 (off) or 2 (the second version)",
                          s->mirostat);
    return PROTO_OK;
}

static enum proto_status check_lists(const struct text_sampling *s, struct proto_error *error)
{
    if (s->n_biases > TEXT_MAX_BIASES)
        return proto_fail(error, PROTO_INVALID, "logit_bias has %zu tokens; at most %u are allowed",
                          s->n_biases, TEXT_MAX_BIASES);
    for (size_t i = 0; i < s->n_biases; i++) {
        const struct text_bias *b = &s->biases[i];
        if (b->id < 0 || isnan(b->bias) || b->bias == INFINITY)
            return proto_fail(error, PROTO_INVALID,
                              "logit_bias of token %d is %g; expected a token of the vocabulary "
                              "and a number, or -inf to ban it",
                              b->id, (double)b->bias);
    }
    if (s->n_dry_breakers > TEXT_MAX_BREAKERS)
        return proto_fail(error, PROTO_INVALID,
                          "dry_sequence_breakers has %zu texts; at most %u are allowed",
                          s->n_dry_breakers, TEXT_MAX_BREAKERS);
    for (size_t i = 0; i < s->n_dry_breakers; i++) {
        if (s->dry_breakers[i][0] == '\0')
            return proto_fail(error, PROTO_INVALID,
                              "dry_sequence_breakers: text %zu is empty; give one or leave it out",
                              i + 1);
    }
    for (unsigned i = 0; i < s->n_steps; i++) {
        if (s->n_steps > TEXT_N_STEPS || (unsigned)s->steps[i] >= TEXT_N_STEPS)
            return proto_fail(error, PROTO_INVALID,
                              "samplers has %u steps, number %u is %u; %u are known", s->n_steps,
                              i + 1, (unsigned)s->steps[i], TEXT_N_STEPS);
    }
    return PROTO_OK;
}

/* What has no part in mirostat must be off or as it is by default. */
static enum proto_status check_mirostat(const struct text_sampling *s, struct proto_error *error)
{
    const struct text_sampling usual = TEXT_SAMPLING_DEFAULT;
    const struct {
        const char *name;
        double value;
        bool fits;
    } others[] = {
        {"top_k", s->top_k, s->top_k <= 0 || s->top_k == usual.top_k},
        {"top_p", (double)s->top_p, s->top_p >= 1 || s->top_p == usual.top_p},
        {"min_p", (double)s->min_p, s->min_p <= 0 || s->min_p == usual.min_p},
        {"typical", (double)s->typical, s->typical >= 1},
        {"top_n_sigma", (double)s->top_n_sigma, s->top_n_sigma <= 0},
        {"xtc_probability", (double)s->xtc_probability, s->xtc_probability <= 0},
        {"repeat_penalty", (double)s->repeat_penalty, s->repeat_penalty == 1},
        {"frequency_penalty", (double)s->frequency_penalty, s->frequency_penalty == 0},
        {"presence_penalty", (double)s->presence_penalty, s->presence_penalty == 0},
        {"dry_multiplier", (double)s->dry_multiplier, s->dry_multiplier == 0},
    };
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        if (!others[i].fits)
            return proto_fail(error, PROTO_INVALID,
                              "%s is %g, but mirostat takes its place: leave one of them out",
                              others[i].name, others[i].value);
    }
    if (s->n_steps != usual.n_steps || memcmp(s->steps, usual.steps, sizeof usual.steps) != 0)
        return proto_fail(error, PROTO_INVALID,
                          "samplers is given, but mirostat takes their place: leave one of them "
                          "out");
    if (s->temperature <= 0)
        return proto_fail(error, PROTO_INVALID,
                          "temperature is %g, which leaves mirostat nothing to draw from: expected "
                          "above 0",
                          (double)s->temperature);
    return PROTO_OK;
}

enum proto_status text_sampling_check(const struct text_sampling *s, struct proto_error *error)
{
    enum proto_status status = check_bounds(s, error);
    if (status == PROTO_OK)
        status = check_lists(s, error);
    if (status != PROTO_OK)
        return status;
    if (s->mirostat)
        return check_mirostat(s, error);
    if (s->temperature <= 0 && s->dynatemp_range > 0)
        return proto_fail(error, PROTO_INVALID,
                          "dynatemp_range is %g at a temperature of %g: expected 0, or a "
                          "temperature above 0",
                          (double)s->dynatemp_range, (double)s->temperature);
    if (s->temperature <= 0 && !has_step(s, TEXT_STEP_TEMPERATURE))
        return proto_fail(error, PROTO_INVALID,
                          "temperature is %g, but samplers leaves the temperature out: add it, or "
                          "give a temperature above 0",
                          (double)s->temperature);
    return PROTO_OK;
}

/*
 * How many candidates. A token is *lowered* if its logit falls by a bias, a ban or a penalty. Let
 * at most w tokens be lowered before a step that keeps the best k. Of the best k + w candidates, at
 * least k are not lowered. A token outside has a logit no higher than any of these k (and the
 * higher id on a tie) before, so it cannot pass them afterwards: the k best are among the
 * candidates, and later steps see only those. Steps before that one must give the same with fewer
 * candidates: that goes for min-p, which compares with the best one, and for a fixed temperature,
 * but not for what adds up probabilities. What may raise a token, wherever it stands, and a draw
 * from all of them need the whole vocabulary.
 */
#define ALL UINT64_MAX

struct needs {
    uint64_t lowered; /* biases and bans */
    uint64_t window;  /* tokens that penalties or DRY may lower: windows hold one another */
    bool cut;         /* a step has left candidates out */
};

/* Whether penalties may raise a token. */
static bool raises(const struct text_sampling *s)
{
    return s->repeat_penalty < 1 || s->frequency_penalty < 0 || s->presence_penalty < 0;
}

static void widen(struct needs *needs, uint64_t window)
{
    if (window > needs->window)
        needs->window = window;
}

/* The likeliest of all is what is asked for: cuts that keep the best change nothing. ALL where a
 * step does. */
static uint64_t greedy_needs(const struct text_sampling *s, struct needs needs)
{
    for (unsigned i = 0; i < s->n_steps && s->steps[i] != TEXT_STEP_TEMPERATURE; i++) {
        enum text_step step = s->steps[i];
        if (!text__step_on(s, step))
            continue;
        bool history = step == TEXT_STEP_PENALTIES || step == TEXT_STEP_DRY;
        if (step == TEXT_STEP_TYPICAL || step == TEXT_STEP_XTC || (history && needs.cut))
            return ALL;
        needs.cut = needs.cut || !history;
        if (step == TEXT_STEP_PENALTIES)
            widen(&needs, raises(s) ? ALL / 2 : s->repeat_last_n);
        else if (step == TEXT_STEP_DRY)
            widen(&needs, text__dry_window(s));
    }
    return 1 + needs.lowered + needs.window;
}

static uint64_t chain_needs(const struct text_sampling *s, struct needs needs)
{
    for (unsigned i = 0; i < s->n_steps; i++) {
        if (!text__step_on(s, s->steps[i]))
            continue;
        switch (s->steps[i]) {
        case TEXT_STEP_PENALTIES:
            if (raises(s))
                return ALL;
            widen(&needs, s->repeat_last_n);
            break;
        case TEXT_STEP_DRY:
            widen(&needs, text__dry_window(s));
            break;
        case TEXT_STEP_TOP_K:
            return (uint64_t)s->top_k + needs.lowered + needs.window;
        case TEXT_STEP_TEMPERATURE:
            if (s->temperature <= 0)
                return 1 + needs.lowered + needs.window;
            if (s->dynatemp_range > 0)
                return ALL;
            break;
        case TEXT_STEP_MIN_P:
            break;
        default:
            return ALL;
        }
    }
    return ALL;
}

uint32_t text_sampling_needs(const struct text_sampling *s, size_t n_banned)
{
    struct needs needs = {.lowered = n_banned + s->n_biases};
    for (size_t i = 0; i < s->n_biases; i++) {
        if (s->biases[i].bias > 0)
            return 0;
    }
    if (s->mirostat)
        return 0;
    uint64_t n = chain_needs(s, needs);
    uint64_t greedy = s->temperature <= 0 ? greedy_needs(s, needs) : ALL;
    n = greedy < n ? greedy : n;
    return n <= PROTO_MAX_CANDIDATES ? (uint32_t)n : 0;
}
