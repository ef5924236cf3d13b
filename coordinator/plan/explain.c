/* SPDX-License-Identifier: Apache-2.0 */
#include "coordinator/plan/explain.h"

#include <stdio.h>

#include "coordinator/plan/view.h"

/* ", 3 workers left out"; nothing for none. */
static const char *counted(uint32_t n, const char *before, const char *after,
                           char text[COORD_PLAN_TEXT])
{
    text[0] = '\0';
    if (n)
        snprintf(text, COORD_PLAN_TEXT, ", %s%u worker%s%s", before, n, n == 1 ? "" : "s", after);
    return text;
}

/* Workers that parts name. */
static uint32_t count_hosts(const struct plan_placement *p)
{
    uint32_t n = 0;
    for (uint32_t w = 0; w < p->n_workers; w++) {
        uint32_t i = 0;
        while (i < p->n_parts && p->parts[i].worker != w)
            i++;
        n += i < p->n_parts;
    }
    return n;
}

void coord_plan_explain(char *text, size_t bytes, const struct plan_placement *placement,
                        const struct plan_cost *cost, const struct plan_cluster *cluster,
                        const struct plan_load *load, enum plan_aim aim)
{
    char hosts[COORD_PLAN_TEXT], idle[COORD_PLAN_TEXT], bound[PLAN_BOTTLENECK_TEXT];
    char prefill[32], decode[32];
    bool many = aim == PLAN_THROUGHPUT;
    snprintf(text, bytes,
             "%u stage%s%s%s; predicted %s tokens/s prefill, %s decode; bottleneck: %s",
             placement->n_stages, placement->n_stages == 1 ? "" : "s",
             counted(count_hosts(placement), "experts on ", "", hosts),
             counted(cluster->n_machines - placement->n_workers, "", " left out", idle),
             coord_plan_number(many ? 1 / cost->row_s : load->prompt / cost->prompt_s, prefill),
             coord_plan_number(many ? load->sequences / cost->step_s : 1 / cost->decode_s, decode),
             plan_bottleneck_text(many ? &cost->many_bound : &cost->decode_bound, cluster, bound));
}
