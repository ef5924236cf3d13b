/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/exec_sum.h"

float *worker__sum_terms(const struct kern_table *table, const struct worker__term *terms,
                         uint32_t n, uint32_t lo, uint32_t hi, size_t width)
{
    while (n > 1) {
        uint32_t mid = (lo + hi) / 2, below = 0;
        while (below < n && terms[below].number < mid)
            below++;
        if (below > 0 && below < n) {
            float *sum = worker__sum_terms(table, terms, below, lo, mid, width);
            table->add(sum, worker__sum_terms(table, terms + below, n - below, mid, hi, width),
                       width);
            return sum;
        }
        lo = below ? lo : mid;
        hi = below ? mid : hi;
    }
    return terms[0].values;
}

uint32_t worker__segment_node(uint32_t n, uint32_t segment, uint32_t end)
{
    uint32_t lo = 0, hi = n;
    while (lo < segment || hi > end) {
        uint32_t mid = (lo + hi) / 2;
        if (segment < mid)
            hi = mid;
        else
            lo = mid;
    }
    return hi;
}

uint32_t worker__segment_nodes(uint32_t n, uint32_t first, uint32_t end)
{
    uint32_t count = 0;
    for (uint32_t segment = first; segment < end; count++)
        segment = worker__segment_node(n, segment, end);
    return count;
}
