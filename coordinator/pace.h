/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Whether a worker computes more slowly than it could, from what its batches took over what they
 * were expected to take.
 *
 * Predictions are off, by some 10 to 30% for one kind of part, and what makes all workers slower
 * (longer contexts, more sequences) is nobody's fault. So a worker's median over its last batches
 * is compared with its own lowest, less what the others' have risen by, and, of three or more, with
 * the median of all. What holds for HOLD is believed.
 */
#ifndef COORDINATOR_PACE_H
#define COORDINATOR_PACE_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/wire.h"

#define COORD_PACE_BATCHES 32u                   /* that a median is of */
#define COORD_PACE_HOLD_NS (10ull * 1000000000u) /* that it has to last */

/* Zero: nothing is known. */
struct coord_pace {
    double ratios[COORD_PACE_BATCHES]; /* measured over expected; a ring */
    uint64_t n, judged;                /* that were added, and that at the last judgement */
    uint64_t added_ns;                 /* when the last was */
    double median, best;               /* best: the lowest median; 0: none yet */
    uint64_t since_ns;                 /* since when `slowdown` holds no more; 0: it does */
    double slowdown; /* how many times slower it computes than it could; 0: it is not slow */
};

/* Another plan is in force: parts, and how far predictions are off, are others. The lowest median
 * of a worker that is slow stays, as there is nothing else to see its recovery by. */
void coord_pace_begin(struct coord_pace *pace);

/* A batch. Nothing is added unless both times are above zero. */
void coord_pace_add(struct coord_pace *pace, double measured_s, double expected_s, uint64_t now_ns);

/* Workers that do the same kind of work in one plan, at most PROTO_MAX_WORKERS; to be called
 * several times a second. Sets changed[i] where a slowdown has changed. */
void coord_pace_judge(struct coord_pace *const *paces, uint32_t n, uint64_t now_ns, bool *changed);

#endif
