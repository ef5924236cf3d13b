/* SPDX-License-Identifier: Apache-2.0 */
#include "coordinator/pace.h"

#include <math.h>
#include <string.h>

#define SLOW      1.5 /* times slower than what is known: that is worth a word */
#define WELL      1.2 /* below it a slow worker has recovered */
#define MOST      1e3 /* times: more may as well be a lie */
#define FEW       3u  /* workers that have a median worth comparing with */
#define SILENT_NS (COORD_PACE_HOLD_NS / 2) /* without a batch nothing is known to last */

void coord_pace_begin(struct coord_pace *pace)
{
    pace->n = pace->judged = 0;
    pace->since_ns = 0;
    if (pace->slowdown == 0)
        pace->best = 0;
}

void coord_pace_add(struct coord_pace *pace, double measured_s, double expected_s, uint64_t now_ns)
{
    if (!(measured_s > 0 && expected_s > 0))
        return;
    pace->ratios[pace->n++ % COORD_PACE_BATCHES] = measured_s / expected_s;
    pace->added_ns = now_ns;
}

/* Of at least one; the lower one of an even number. The list is sorted up to there. */
static double median_of(double *list, uint32_t n)
{
    for (uint32_t i = 0; i <= (n - 1) / 2; i++)
        for (uint32_t k = i + 1; k < n; k++)
            if (list[k] < list[i]) {
                double least = list[k];
                list[k] = list[i];
                list[i] = least;
            }
    return list[(n - 1) / 2];
}

static bool is_known(const struct coord_pace *p, uint64_t now_ns)
{
    return p->n >= COORD_PACE_BATCHES && now_ns < p->added_ns + SILENT_NS;
}

static void update(struct coord_pace *p)
{
    double sorted[COORD_PACE_BATCHES];
    memcpy(sorted, p->ratios, sizeof sorted);
    p->median = median_of(sorted, COORD_PACE_BATCHES);
    if (p->best == 0 || p->median < p->best)
        p->best = p->median;
}

/* By how much the others have all become slower; 1 without others. */
static double common_rise(struct coord_pace *const *paces, uint32_t n, uint32_t self,
                          uint64_t now_ns)
{
    double rise = INFINITY;
    for (uint32_t i = 0; i < n; i++)
        if (i != self && is_known(paces[i], now_ns))
            rise = fmin(rise, paces[i]->median / paces[i]->best);
    return isfinite(rise) ? rise : 1;
}

/* The median of all, where they are enough. */
static double middle_of(struct coord_pace *const *paces, uint32_t n, uint64_t now_ns)
{
    double medians[PROTO_MAX_WORKERS];
    uint32_t known = 0;
    for (uint32_t i = 0; i < n; i++)
        if (is_known(paces[i], now_ns))
            medians[known++] = paces[i]->median;
    return known < FEW ? INFINITY : median_of(medians, known);
}

/* Whether what is known holds no more, now that it is that many times slower than it could be. */
static bool differs(const struct coord_pace *p, double times)
{
    if (p->slowdown == 0)
        return times > SLOW;
    return times < WELL || times < p->slowdown / SLOW || times > p->slowdown * SLOW;
}

static bool settle(struct coord_pace *p, double times, uint64_t now_ns)
{
    if (!differs(p, times)) {
        p->since_ns = 0;
        return false;
    }
    if (p->since_ns == 0)
        p->since_ns = now_ns;
    if (now_ns < p->since_ns + COORD_PACE_HOLD_NS)
        return false;
    p->slowdown = times < WELL ? 0 : fmin(times, MOST);
    p->since_ns = 0;
    return true;
}

void coord_pace_judge(struct coord_pace *const *paces, uint32_t n, uint64_t now_ns, bool *changed)
{
    for (uint32_t i = 0; i < n; i++)
        if (is_known(paces[i], now_ns))
            update(paces[i]);
    double middle = middle_of(paces, n, now_ns);
    for (uint32_t i = 0; i < n; i++) {
        struct coord_pace *p = paces[i];
        changed[i] = false;
        if (!is_known(p, now_ns)) {
            p->since_ns = 0;
            continue;
        }
        if (p->n == p->judged)
            continue;
        p->judged = p->n;
        double times =
            fmax(p->median / p->best / common_rise(paces, n, i, now_ns), p->median / middle);
        changed[i] = settle(p, times, now_ns);
    }
}
