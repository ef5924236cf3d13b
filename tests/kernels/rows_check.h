/* SPDX-License-Identifier: Apache-2.0 */
/* Inputs and comparisons shared by the tests of the row functions. */
#ifndef TESTS_KERNELS_ROWS_CHECK_H
#define TESTS_KERNELS_ROWS_CHECK_H

#include <CUnit/Basic.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/table.h"

static const size_t check_widths[] = {1,  2,  3,  5,  7,  8,  9,  15, 16, 17, 18,  24,  31,  32,
                                      33, 40, 47, 48, 63, 64, 65, 70, 80, 88, 128, 172, 2048};
#define N_CHECK_WIDTHS (sizeof(check_widths) / sizeof(check_widths[0]))

enum check_input { INPUT_ORDINARY, INPUT_EXTREME, INPUT_NOT_FINITE, N_INPUTS };

static uint64_t check_state = 88172645463325252u;

static inline uint32_t check_random(void)
{
    check_state ^= check_state << 13;
    check_state ^= check_state >> 7;
    check_state ^= check_state << 17;
    return (uint32_t)(check_state >> 32);
}

static inline float check_value(enum check_input input)
{
    static const float extremes[] = {0.0f,    -0.0f,  1.0f,     -1.0f,    1e-45f, -1e-45f, 1e-38f,
                                     -1e-38f, 1e-20f, 1e20f,    -1e20f,   3e38f,  -3e38f,  88.7f,
                                     -87.3f,  127.5f, 65504.0f, 65520.0f, 6e-8f};
    static const float not_finite[] = {INFINITY, -INFINITY, NAN};
    uint32_t r = check_random();
    if (input == INPUT_NOT_FINITE && r % 5 == 0)
        return not_finite[r / 5 % 3];
    if (input == INPUT_EXTREME && r % 2)
        return extremes[r / 2 % (sizeof(extremes) / sizeof(extremes[0]))];
    return (float)((double)r / 4294967296.0 * 8.0 - 4.0);
}

/* A buffer as kernels/table.h promises it: 64-byte aligned, room to a multiple of 16 floats. */
static inline float *check_row(size_t n, enum check_input input)
{
    size_t room = (n + 15) / 16 * 16;
    float *row = aligned_alloc(64, room ? room * sizeof(float) : 64);
    if (!row)
        abort();
    for (size_t i = 0; i < room; i++)
        row[i] = i < n ? check_value(input) : NAN;
    return row;
}

static inline float *check_copy(const float *row, size_t n)
{
    float *copy = check_row(n, INPUT_ORDINARY);
    memcpy(copy, row, n * sizeof(float));
    return copy;
}

/* Of every width with every kind of values. */
static inline void check_each_case(void (*check)(size_t n, enum check_input input))
{
    for (size_t w = 0; w < N_CHECK_WIDTHS; w++)
        for (enum check_input input = INPUT_ORDINARY; input < N_INPUTS; input++)
            check(check_widths[w], input);
}

/* Bits are equal, where any NaN is as good as another. */
static inline void check_same(const float *found, const float *expected, size_t n, const char *what,
                              const char *isa)
{
    for (size_t i = 0; i < n; i++) {
        if (memcmp(found + i, expected + i, sizeof(float)) == 0 ||
            (found[i] != found[i] && expected[i] != expected[i]))
            continue;
        printf("%s %s: value %zu of %zu is %a, expected %a\n", isa, what, i, n, (double)found[i],
               (double)expected[i]);
        CU_FAIL("values differ");
        return;
    }
    CU_PASS("values are the same");
}

#endif
