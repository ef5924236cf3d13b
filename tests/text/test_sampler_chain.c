/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The chain of sampling against a slow reference, which follows each step's definition word for
 * word over a table of all tokens, with any parameters in any order; and as many candidates as are
 * said to be needed against the whole vocabulary.
 */
#include <CUnit/Basic.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "coordinator/text/sampler.h"

#define VOCAB   60
#define HISTORY 48

static struct proto_error error;

static uint64_t state = 3;

static unsigned random_below(unsigned n)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (unsigned)(state >> 33) % n;
}

static float random_float(double low, double high)
{
    return (float)(low + (high - low) * random_below(1 << 20) / (1 << 20));
}

/* The reference. */
struct slow {
    struct text_sampling s;
    float logit[VOCAB];
    bool alive[VOCAB];
    int32_t history[HISTORY * 4];
    size_t n_history;
    int32_t banned[4], breakers[4];
    size_t n_banned, n_breakers;
    uint64_t state;
    double mu;
};

static bool is_among(const int32_t *ids, size_t n, int32_t id)
{
    for (size_t i = 0; i < n; i++) {
        if (ids[i] == id)
            return true;
    }
    return false;
}

static double slow_uniform(struct slow *r)
{
    uint64_t z = r->state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    z ^= z >> 31;
    return (double)(z >> 11) / 9007199254740992.0;
}

static size_t n_alive(const struct slow *r)
{
    size_t n = 0;
    for (int i = 0; i < VOCAB; i++)
        n += r->alive[i];
    return n;
}

/* The living token of the given rank: the highest logit first, then the lowest id. */
static int at_rank(const struct slow *r, size_t rank)
{
    for (int i = 0; i < VOCAB; i++) {
        size_t before = 0;
        for (int j = 0; j < VOCAB && r->alive[i]; j++)
            before +=
                r->alive[j] && (r->logit[j] > r->logit[i] || (r->logit[j] == r->logit[i] && j < i));
        if (r->alive[i] && before == rank)
            return i;
    }
    abort();
}

static void probabilities(const struct slow *r, double *p)
{
    double sum = 0, top = (double)r->logit[at_rank(r, 0)];
    for (int i = 0; i < VOCAB; i++) {
        p[i] = r->alive[i] ? exp((double)r->logit[i] - top) : 0;
        sum += p[i];
    }
    for (int i = 0; i < VOCAB; i++)
        p[i] /= sum;
}

static double slow_entropy(const double *p)
{
    double h = 0;
    for (int i = 0; i < VOCAB; i++)
        h -= p[i] > 0 ? p[i] * log(p[i]) : 0;
    return h;
}

static void slow_penalties(struct slow *r)
{
    size_t window = r->n_history < r->s.repeat_last_n ? r->n_history : r->s.repeat_last_n;
    for (int i = 0; i < VOCAB; i++) {
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
static size_t repetition(const struct slow *r, size_t at, size_t first)
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

static void slow_dry(struct slow *r)
{
    size_t window = r->n_history;
    if (r->s.dry_last_n >= 0 && (size_t)r->s.dry_last_n < window)
        window = (size_t)r->s.dry_last_n;
    size_t first = r->n_history - window;
    for (int i = 0; i < VOCAB; i++) {
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

static void slow_top_n_sigma(struct slow *r)
{
    double n = (double)n_alive(r), mean = 0, square = 0, top = (double)r->logit[at_rank(r, 0)];
    for (int i = 0; i < VOCAB; i++)
        mean += r->alive[i] ? (double)r->logit[i] : 0;
    mean /= n;
    for (int i = 0; i < VOCAB; i++)
        square += r->alive[i] ? pow((double)r->logit[i] - mean, 2) : 0;
    for (int i = 0; i < VOCAB; i++)
        r->alive[i] =
            r->alive[i] && (double)r->logit[i] >= top - (double)r->s.top_n_sigma * sqrt(square / n);
}

static void slow_top_k(struct slow *r)
{
    bool kept[VOCAB] = {false};
    for (size_t i = 0; i < (size_t)r->s.top_k && i < n_alive(r); i++)
        kept[at_rank(r, i)] = true;
    memcpy(r->alive, kept, sizeof kept);
}

static void slow_typical(struct slow *r)
{
    double p[VOCAB], sum = 0;
    bool kept[VOCAB] = {false};
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

static void slow_top_p(struct slow *r)
{
    double p[VOCAB], sum = 0;
    bool kept[VOCAB] = {false};
    probabilities(r, p);
    for (size_t rank = 0; rank < n_alive(r) && sum < (double)r->s.top_p; rank++) {
        kept[at_rank(r, rank)] = true;
        sum += p[at_rank(r, rank)];
    }
    memcpy(r->alive, kept, sizeof kept);
}

static void slow_min_p(struct slow *r)
{
    double p[VOCAB];
    probabilities(r, p);
    double most = p[at_rank(r, 0)];
    for (int i = 0; i < VOCAB; i++)
        r->alive[i] = r->alive[i] && p[i] >= (double)r->s.min_p * most;
}

static void slow_xtc(struct slow *r)
{
    double p[VOCAB];
    bool lucky = slow_uniform(r) < (double)r->s.xtc_probability;
    size_t top = 0, n = n_alive(r);
    probabilities(r, p);
    while (top < n && p[at_rank(r, top)] >= (double)r->s.xtc_threshold)
        top++;
    for (size_t i = 0; i + 1 < top && lucky; i++)
        r->alive[at_rank(r, 0)] = false;
}

static void slow_temperature(struct slow *r)
{
    double t = (double)r->s.temperature, range = (double)r->s.dynatemp_range;
    if (t <= 0) {
        int best = at_rank(r, 0);
        memset(r->alive, 0, sizeof r->alive);
        r->alive[best] = true;
        return;
    }
    if (range > 0 && n_alive(r) > 1) {
        double p[VOCAB], low = fmax(t - range, 0);
        probabilities(r, p);
        t = low + (t + range - low) * pow(slow_entropy(p) / log((double)n_alive(r)),
                                          (double)r->s.dynatemp_exponent);
    }
    for (int i = 0; i < VOCAB; i++)
        r->logit[i] = (float)((double)r->logit[i] / t);
}

static int slow_draw(struct slow *r)
{
    double p[VOCAB], u = slow_uniform(r), sum = 0;
    size_t n = n_alive(r);
    probabilities(r, p);
    for (size_t rank = 0; rank < n; rank++) {
        sum += p[at_rank(r, rank)];
        if (u < sum)
            return at_rank(r, rank);
    }
    return at_rank(r, n - 1);
}

static int slow_mirostat(struct slow *r)
{
    double p[VOCAB];
    slow_temperature(r);
    probabilities(r, p);
    int best = at_rank(r, 0);
    for (int i = 0; i < VOCAB; i++)
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

static int slow_sample(struct slow *r, const float *logits)
{
    static void (*const steps[TEXT_N_STEPS])(struct slow *) = {
        slow_penalties, slow_dry,   slow_top_n_sigma, slow_top_k,       slow_typical,
        slow_top_p,     slow_min_p, slow_xtc,         slow_temperature,
    };
    memcpy(r->logit, logits, sizeof r->logit);
    for (int i = 0; i < VOCAB; i++)
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

/* Comparing. */

static struct text_bias biases[4];

static bool half(void)
{
    return random_below(2);
}

static void random_order(struct text_sampling *s)
{
    if (half())
        return;
    for (unsigned i = TEXT_N_STEPS; i-- > 1;) {
        unsigned other = random_below(i + 1);
        enum text_step step = s->steps[i];
        s->steps[i] = s->steps[other];
        s->steps[other] = step;
    }
    s->n_steps = half() ? TEXT_N_STEPS : random_below(TEXT_N_STEPS + 1);
}

static void random_history_parameters(struct text_sampling *s)
{
    s->repeat_last_n = half() ? 64 : random_below(8);
    s->repeat_penalty = half() ? 1 : random_float(half() ? 1 : 0.5, 2);
    s->frequency_penalty = half() ? 0 : random_float(half() ? 0 : -1, 1);
    s->presence_penalty = half() ? 0 : random_float(half() ? 0 : -1, 1);
    s->dry_multiplier = half() ? 0 : random_float(0.1, 2);
    s->dry_base = random_float(1, 2);
    s->dry_allowed_length = 1 + random_below(3);
    s->dry_last_n = half() ? -1 : (int32_t)random_below(20);
}

static struct text_sampling random_sampling(void)
{
    struct text_sampling s = TEXT_SAMPLING_DEFAULT;
    s.seed = random_below(1000);
    s.temperature = random_below(4) == 0 ? 0 : half() ? 1 : random_float(0.3, 2);
    s.dynatemp_range = half() || s.temperature <= 0 ? 0 : random_float(0, 2);
    s.dynatemp_exponent = random_float(0.5, 2);
    s.top_k = half() ? 0 : (int32_t)(1 + random_below(12));
    s.top_p = half() ? 1 : random_float(0.2, 0.99);
    s.min_p = half() ? 0 : random_float(0.01, 0.5);
    s.typical = half() ? 1 : random_float(0.2, 0.99);
    s.top_n_sigma = half() ? -1 : random_float(0.3, 3);
    s.xtc_probability = half() ? 0 : random_float(0, 1);
    s.xtc_threshold = random_float(0.02, 0.6);
    random_history_parameters(&s);
    s.n_biases = half() ? 0 : 1 + random_below(4);
    s.biases = biases;
    for (size_t i = 0; i < s.n_biases; i++) {
        int32_t id = (int32_t)(i * 15 + random_below(15));
        biases[i] = (struct text_bias){id, half() ? -INFINITY : random_float(half() ? 0 : -3, 0)};
        if (random_below(8) == 0)
            biases[i].bias = random_float(0, 3);
    }
    random_order(&s);
    return s;
}

static struct text_sampling random_mirostat(void)
{
    struct text_sampling s = TEXT_SAMPLING_DEFAULT;
    s.seed = random_below(1000);
    s.mirostat = 2;
    s.temperature = random_float(0.5, 2);
    s.mirostat_tau = random_float(0.5, 6);
    s.mirostat_eta = random_float(0.05, 0.5);
    return s;
}

static int by_logit(const void *a, const void *b)
{
    const struct text_candidate *ca = a, *cb = b;
    if (ca->logit != cb->logit)
        return ca->logit < cb->logit ? 1 : -1;
    return ca->id - cb->id;
}

static unsigned n_partial; /* runs with fewer candidates than all */

static int32_t sample(struct text_sampler *sampler, const float *logits, size_t n)
{
    struct text_candidate c[VOCAB];
    for (int i = 0; i < VOCAB; i++)
        c[i] = (struct text_candidate){i, logits[i]};
    qsort(c, VOCAB, sizeof *c, by_logit);
    return text_sampler_sample(sampler, c, n);
}

/* Several tokens with one set of parameters: all three ways must agree on each. */
static bool agree(const struct text_sampling *s)
{
    struct slow slow = {.s = *s, .state = s->seed, .mu = 2 * (double)s->mirostat_tau};
    slow.n_banned = random_below(4);
    slow.n_breakers = random_below(4);
    for (int i = 0; i < 4; i++) {
        slow.banned[i] = (int32_t)random_below(VOCAB);
        slow.breakers[i] = (int32_t)random_below(8);
    }
    const struct text_sampler_tokens tokens = {slow.banned, slow.n_banned, slow.breakers,
                                               slow.n_breakers, half() ? 0 : HISTORY * 4};
    uint32_t needs = text_sampling_needs(s, slow.n_banned);
    struct text_sampler *all = NULL, *some = NULL;
    bool equal = text_sampler_create(&all, s, &tokens, &error) == PROTO_OK &&
                 text_sampler_create(&some, s, &tokens, &error) == PROTO_OK;
    bool whole = half();
    n_partial += needs > 0 && needs < VOCAB;
    for (int i = 0; i < HISTORY + 8 && equal; i++) {
        int32_t id = (int32_t)random_below(i % 8 ? 4 : 8);
        if (i >= HISTORY) {
            float logits[VOCAB];
            for (int t = 0; t < VOCAB; t++)
                logits[t] = whole ? (float)random_below(9) - 4 : random_float(-6, 6);
            id = slow_sample(&slow, logits);
            equal = sample(all, logits, VOCAB) == id &&
                    sample(some, logits, needs > 0 && needs < VOCAB ? needs : VOCAB) == id;
        }
        slow.history[slow.n_history++] = id;
        text_sampler_accept(all, id);
        text_sampler_accept(some, id);
    }
    text_sampler_destroy(all);
    text_sampler_destroy(some);
    return equal;
}

static void test_chain(void)
{
    unsigned checked = 0;
    n_partial = 0;
    for (int round = 0; round < 5000; round++) {
        struct text_sampling s = random_sampling();
        if (text_sampling_check(&s, &error) != PROTO_OK)
            continue;
        checked++;
        CU_ASSERT_TRUE_FATAL(agree(&s));
    }
    CU_ASSERT(checked > 3500);
    CU_ASSERT(n_partial > 250);
}

static void test_mirostat(void)
{
    for (int round = 0; round < 1000; round++) {
        struct text_sampling s = random_mirostat();
        CU_ASSERT_EQUAL_FATAL(text_sampling_check(&s, &error), PROTO_OK);
        CU_ASSERT_EQUAL(text_sampling_needs(&s, 0), 0);
        CU_ASSERT_TRUE_FATAL(agree(&s));
    }
}

/* A DRY window of a hundred thousand tokens, all the same: no quadratic search. */
static void test_long_history(void)
{
    struct text_sampling s = TEXT_SAMPLING_DEFAULT;
    s.temperature = 0;
    s.dry_multiplier = 1;
    struct text_sampler *sampler = NULL;
    CU_ASSERT_EQUAL_FATAL(text_sampler_create(&sampler, &s, NULL, &error), PROTO_OK);
    for (int i = 0; i < 1 << 20; i++)
        text_sampler_accept(sampler, 7);
    for (int i = 0; i < 4; i++) {
        struct text_candidate c[] = {{7, 1e6f}, {8, 0}};
        CU_ASSERT_EQUAL(text_sampler_sample(sampler, c, 2), 8);
        text_sampler_accept(sampler, 7);
    }
    text_sampler_destroy(sampler);
}

static void test_banned(void)
{
    struct text_sampling s = TEXT_SAMPLING_DEFAULT;
    s.temperature = 0;
    const struct text_bias up[] = {{1, 5}, {2, -INFINITY}};
    s.biases = up;
    s.n_biases = 2;
    const int32_t ban = 1;
    struct text_sampler *sampler = NULL;
    CU_ASSERT_EQUAL_FATAL(text_sampler_create(&sampler, &s,
                                              &(struct text_sampler_tokens){&ban, 1, NULL, 0, 0},
                                              &error),
                          PROTO_OK);
    struct text_candidate c[] = {{2, 9}, {1, 8}, {5, -3}, {4, -3}};
    qsort(c, 4, sizeof *c, by_logit);
    CU_ASSERT_EQUAL(text_sampler_sample(sampler, c, 4), 4); /* a ban wins over a bias */
    struct text_candidate only[] = {{1, 8}};
    CU_ASSERT_EQUAL(text_sampler_sample(sampler, only, 1), 1); /* there must be a token */
    text_sampler_destroy(sampler);
}

static void test_orders(void)
{
    struct text_sampling s = TEXT_SAMPLING_DEFAULT;
    CU_ASSERT_EQUAL(text_steps_parse(&s, "temperature;top_k,xtc", &error), PROTO_OK);
    CU_ASSERT(s.n_steps == 3 && s.steps[0] == TEXT_STEP_TEMPERATURE &&
              s.steps[1] == TEXT_STEP_TOP_K && s.steps[2] == TEXT_STEP_XTC);
    CU_ASSERT_EQUAL(text_steps_parse(&s, "", &error), PROTO_OK);
    CU_ASSERT_EQUAL(s.n_steps, 0);
    CU_ASSERT_EQUAL(text_steps_parse(&s, "top_k;top_k", &error), PROTO_INVALID);
    CU_ASSERT_PTR_NOT_NULL(strstr(error.text, "top_k twice"));
    CU_ASSERT_EQUAL(text_steps_parse(&s, "top_q", &error), PROTO_INVALID);
    CU_ASSERT_PTR_NOT_NULL(strstr(error.text, "\"top_q\""));
    CU_ASSERT_EQUAL(text_steps_parse(&s, "top_k;;min_p", &error), PROTO_INVALID);
}

static void check_refused(struct text_sampling s, const char *word)
{
    CU_ASSERT_EQUAL(text_sampling_check(&s, &error), PROTO_INVALID);
    CU_ASSERT_PTR_NOT_NULL(strstr(error.text, word));
}

#define CHECK_REFUSED(field, value, word)                                                          \
    do {                                                                                           \
        struct text_sampling s_ = usual;                                                           \
        s_.field = value;                                                                          \
        check_refused(s_, word);                                                                   \
    } while (0)

static void test_refused(void)
{
    struct text_sampling usual = TEXT_SAMPLING_DEFAULT;
    CHECK_REFUSED(typical, 0, "typical is 0;");
    CHECK_REFUSED(xtc_probability, 1.5f, "xtc_probability is 1.5");
    CHECK_REFUSED(xtc_threshold, -1, "xtc_threshold is -1");
    CHECK_REFUSED(dry_base, 0.5f, "dry_base is 0.5");
    CHECK_REFUSED(dry_multiplier, -1, "dry_multiplier");
    CHECK_REFUSED(dry_allowed_length, 0, "dry_allowed_length is 0");
    CHECK_REFUSED(dry_last_n, -2, "dry_penalty_last_n is -2");
    CHECK_REFUSED(frequency_penalty, NAN, "frequency_penalty");
    CHECK_REFUSED(presence_penalty, INFINITY, "presence_penalty is inf");
    CHECK_REFUSED(top_n_sigma, NAN, "top_n_sigma");
    CHECK_REFUSED(dynatemp_range, -1, "dynatemp_range is -1");
    CHECK_REFUSED(dynatemp_exponent, 0, "dynatemp_exponent is 0");
    CHECK_REFUSED(mirostat, 1, "mirostat is 1");
    CHECK_REFUSED(mirostat_tau, 0, "mirostat_tau is 0");
    CHECK_REFUSED(mirostat_eta, 2, "mirostat_eta is 2");
    CHECK_REFUSED(n_biases, TEXT_MAX_BIASES + 1, "logit_bias has 1025");
    CHECK_REFUSED(n_steps, TEXT_N_STEPS + 1, "samplers has 10");
    const struct text_bias wrong[] = {{3, NAN}, {-1, 0}};
    usual.biases = wrong;
    CHECK_REFUSED(n_biases, 1, "token 3");
    usual.biases = wrong + 1;
    CHECK_REFUSED(n_biases, 1, "token -1");
}

static void test_contradictions(void)
{
    struct text_sampling usual = TEXT_SAMPLING_DEFAULT;
    usual.temperature = 0;
    CHECK_REFUSED(dynatemp_range, 1, "dynatemp_range is 1 at a temperature of 0");
    CHECK_REFUSED(n_steps, 3, "temperature is 0, but samplers");
    usual = TEXT_SAMPLING_DEFAULT;
    usual.mirostat = 2;
    CU_ASSERT_EQUAL(text_sampling_check(&usual, &error), PROTO_OK);
    CHECK_REFUSED(temperature, 0, "temperature is 0");
    CHECK_REFUSED(top_k, 7, "top_k is 7, but mirostat");
    CHECK_REFUSED(top_p, 0.5f, "top_p is 0.5, but mirostat");
    CHECK_REFUSED(min_p, 0.5f, "min_p");
    CHECK_REFUSED(typical, 0.5f, "typical");
    CHECK_REFUSED(top_n_sigma, 1, "top_n_sigma");
    CHECK_REFUSED(xtc_probability, 0.5f, "xtc_probability");
    CHECK_REFUSED(repeat_penalty, 1.5f, "repeat_penalty");
    CHECK_REFUSED(frequency_penalty, 1, "frequency_penalty");
    CHECK_REFUSED(presence_penalty, 1, "presence_penalty");
    CHECK_REFUSED(dry_multiplier, 1, "dry_multiplier");
    CHECK_REFUSED(n_steps, 2, "samplers is given, but mirostat");
}

static void test_needs(void)
{
    struct text_sampling s = TEXT_SAMPLING_DEFAULT;
    CU_ASSERT_EQUAL(text_sampling_needs(&s, 3), 43);
    const struct text_bias down[] = {{1, -1}, {2, -INFINITY}}, up[] = {{1, 0.5f}};
    s.biases = down;
    s.n_biases = 2;
    CU_ASSERT_EQUAL(text_sampling_needs(&s, 0), 42);
    s.biases = up;
    s.n_biases = 1;
    CU_ASSERT_EQUAL(text_sampling_needs(&s, 0), 0);
    s = TEXT_SAMPLING_DEFAULT;
    s.presence_penalty = 1;
    CU_ASSERT_EQUAL(text_sampling_needs(&s, 0), 104);
    s.dry_multiplier = 1; /* looks back on everything */
    CU_ASSERT_EQUAL(text_sampling_needs(&s, 0), 0);
    s.dry_last_n = 100;
    CU_ASSERT_EQUAL(text_sampling_needs(&s, 0), 140);
    s.presence_penalty = -1;
    CU_ASSERT_EQUAL(text_sampling_needs(&s, 0), 0);
    s = TEXT_SAMPLING_DEFAULT;
    s.top_n_sigma = 1;
    CU_ASSERT_EQUAL(text_sampling_needs(&s, 0), 0);
    s.temperature = 0;
    CU_ASSERT_EQUAL(text_sampling_needs(&s, 0), 1);
    s.xtc_probability = 0.5f;
    CU_ASSERT_EQUAL(text_sampling_needs(&s, 0), 0);
    s = TEXT_SAMPLING_DEFAULT;
    CU_ASSERT_EQUAL(text_steps_parse(&s, "min_p;temperature;top_k;top_p", &error), PROTO_OK);
    CU_ASSERT_EQUAL(text_sampling_needs(&s, 0), 40);
    s.dynatemp_range = 0.5f;
    CU_ASSERT_EQUAL(text_sampling_needs(&s, 0), 0);
}

int main(void)
{
    CU_initialize_registry();
    CU_pSuite suite = CU_add_suite("sampler chain", NULL, NULL);
    CU_add_test(suite, "chain against slow", test_chain);
    CU_add_test(suite, "mirostat against slow", test_mirostat);
    CU_add_test(suite, "long history", test_long_history);
    CU_add_test(suite, "bans", test_banned);
    CU_add_test(suite, "orders", test_orders);
    CU_add_test(suite, "refused", test_refused);
    CU_add_test(suite, "contradictions", test_contradictions);
    CU_add_test(suite, "needs", test_needs);
    CU_basic_run_tests();
    unsigned failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    return failures > 0;
}
