/* SPDX-License-Identifier: Apache-2.0 */
/* The slowest of several hosts over which chance spreads work. Private to shard/plan. */
#ifndef SHARD_PLAN_SLOWEST_H
#define SHARD_PLAN_SLOWEST_H

#include <stdint.h>

/* Hosts that have `experts` experts take base_s + n * each_s for n > 0 of them, and no time for
 * none. always: base_s even for none. */
struct plan__racer {
    double experts, base_s, each_s;
    int always;
};

/* Draws that are counted exactly. */
#define PLAN__MAX_DRAWS 12u

/* The mean of the slowest racer's time, if `draws` (1 to PLAN__MAX_DRAWS) different experts are
 * drawn of all that the racers have, each set as likely as another. */
double plan__slowest_drawn(const struct plan__racer *racers, uint32_t n, uint32_t draws);

/* Standard deviations by which the largest of n normal values is above the mean, on average. */
double plan__largest_normal(double n);

#endif
