/* SPDX-License-Identifier: Apache-2.0 */
#include "coordinator/parts.h"

enum proto_status engine__choose_plan(const struct coord_engine *e,
                                      struct coord_worker *const *workers, uint32_t n,
                                      struct shard_plan **out, struct proto_error *error)
{
    struct shard_plan_worker machines[PROTO_MAX_WORKERS];
    for (uint32_t i = 0; i < n; i++)
        machines[i] = (struct shard_plan_worker){.name = workers[i]->name,
                                                 .memory_bytes = workers[i]->memory_bytes,
                                                 .threads = workers[i]->threads};
    struct shard_plan_options options = {.kv = e->options.kv,
                                         .ctx = e->options.ctx,
                                         .max_seqs = e->options.parallel,
                                         .max_rows = e->options.batch,
                                         .layers = e->layers,
                                         .split = e->options.split,
                                         .stages = e->options.stages,
                                         .slices = e->options.slices,
                                         .replicas = e->options.replicas};
    return shard_plan_create(out, e->model, machines, n, &options, error);
}

/* Workers that the plan gives something to. */
static uint32_t count_members(const struct shard_plan *plan)
{
    uint32_t n = plan->n_stages;
    for (uint32_t i = 0; i < plan->n_hosts; i++) {
        bool is_stage = false;
        for (uint32_t s = 0; s < plan->n_stages; s++)
            is_stage |= plan->stages[s].worker == plan->hosts[i].worker;
        n += !is_stage;
    }
    return n;
}

/* A plan in force holds the whole model, so that another one only helps by using workers that were
 * expected. */
bool engine__worth_it(const struct coord_engine *e, struct coord_worker *const *workers,
                      const struct shard_plan *plan)
{
    uint32_t n_expected = e->options.local_workers + e->options.workers;
    (void)workers;
    return count_members(plan) > e->current->n_members && e->current->n_members < n_expected;
}
