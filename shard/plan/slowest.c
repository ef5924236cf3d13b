/* SPDX-License-Identifier: Apache-2.0 */
/*
 * With N experts in all, of which K are drawn, the chance that racer j has n_j of them for all j is
 * prod C(e_j, n_j) / C(N, K). So the chance that none has more than m_j, which is the chance that
 * the slowest takes at most x where m_j = (x - base_j) / each_j, is the coefficient of z^K in
 *     prod_j sum_{n <= m_j} C(e_j, n) z^n
 * over the same coefficient without the limits; and the mean is the integral of 1 - that over x.
 * A racer's share of experts may be a fraction, where copies share them: C is then the product
 * e (e - 1) ... / n! while its factors are positive.
 */
#include "shard/plan/slowest.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

#define STEPS 24 /* of the integral, where there are more different times */

typedef double polynomial[PLAN__MAX_DRAWS + 1];

/* p *= sum_{n <= limit} C(e, n) z^n, up to z^degree. */
static void multiply(polynomial p, double e, uint32_t limit, uint32_t degree)
{
    polynomial q = {1};
    for (uint32_t n = 1; n <= limit && n <= degree; n++)
        q[n] = q[n - 1] * fmax(e - n + 1, 0) / n;
    for (uint32_t d = degree + 1; d-- > 0;) {
        double sum = 0;
        for (uint32_t n = 0; n <= d && n <= limit; n++)
            sum += q[n] * p[d - n];
        p[d] = sum;
    }
}

/* The coefficient where no racer takes longer than x. */
static double count_within(const struct plan__racer *racers, uint32_t n, uint32_t draws, double x)
{
    polynomial p = {1};
    for (uint32_t j = 0; j < n; j++) {
        const struct plan__racer *r = &racers[j];
        double most = draws;
        if (r->always && r->base_s > x)
            return 0;
        if (r->base_s > x)
            most = 0;
        else if (r->each_s > 0)
            most = fmin(most, floor((x - r->base_s) / r->each_s * (1 + 1e-9)));
        multiply(p, r->experts, (uint32_t)most, draws);
    }
    return p[draws];
}

/* One draw: the mean of the racers' times for it. */
static double one_drawn(const struct plan__racer *racers, uint32_t n)
{
    double experts = 0, sum = 0, least = 0;
    for (uint32_t j = 0; j < n; j++)
        least = racers[j].always ? fmax(least, racers[j].base_s) : least;
    for (uint32_t j = 0; j < n; j++) {
        experts += racers[j].experts;
        sum += racers[j].experts * fmax(least, racers[j].base_s + racers[j].each_s);
    }
    return experts > 0 ? sum / experts : least;
}

/* Adds a time to the different ones in ascending order; false: there is no room. */
static bool add_time(double *times, uint32_t *n, double x)
{
    uint32_t at = 0;
    while (at < *n && times[at] < x * (1 - 1e-9))
        at++;
    if (at < *n && times[at] <= x * (1 + 1e-9))
        return true;
    if (*n == STEPS)
        return false;
    memmove(times + at + 1, times + at, (*n - at) * sizeof *times);
    times[at] = x;
    ++*n;
    return true;
}

/* The times between which the chance does not change, or as many evenly spaced ones. */
static uint32_t find_times(double *times, const struct plan__racer *racers, uint32_t n,
                           uint32_t draws)
{
    uint32_t count = 0;
    double longest = 0;
    bool room = true;
    for (uint32_t j = 0; j < n; j++) {
        const struct plan__racer *r = &racers[j];
        uint32_t most = r->experts < draws ? (uint32_t)ceil(r->experts) : draws;
        for (uint32_t k = r->always ? 0 : 1; k <= most && room; k++)
            room = add_time(times, &count, r->base_s + k * r->each_s);
        longest = fmax(longest, r->base_s + most * r->each_s);
    }
    if (room)
        return count;
    for (uint32_t i = 0; i < STEPS; i++)
        times[i] = longest * (i + 1) / STEPS;
    return STEPS;
}

double plan__slowest_drawn(const struct plan__racer *racers, uint32_t n, uint32_t draws)
{
    double times[STEPS], mean = 0, before = 0;
    if (draws == 1)
        return one_drawn(racers, n);
    double all = count_within(racers, n, draws, INFINITY);
    uint32_t count = find_times(times, racers, n, draws);
    for (uint32_t i = 0; i < count && all > 0; i++) {
        double within = count_within(racers, n, draws, (before + times[i]) / 2);
        mean += (times[i] - before) * (1 - within / all);
        before = times[i];
    }
    return mean;
}

double plan__largest_normal(double n)
{
    /* Of 1, 2, 4, ... 1024 values. */
    static const double means[] = {0,     0.564, 1.029, 1.424, 1.766, 2.070,
                                   2.344, 2.594, 2.825, 3.040, 3.241};
    double at = n <= 1 ? 0 : fmin(log2(n), 10);
    uint32_t low = at >= 10 ? 9 : (uint32_t)at;
    return means[low] + (at - low) * (means[low + 1] - means[low]);
}
