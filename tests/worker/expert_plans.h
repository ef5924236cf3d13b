/* SPDX-License-Identifier: Apache-2.0 */
/* Ways to deal a model's experts to workers, for tests. */
#ifndef TESTS_WORKER_EXPERT_PLANS_H
#define TESTS_WORKER_EXPERT_PLANS_H

#include "shard/experts.h"
#include "shard/model.h"

#define EXPERT_TOKENS    64u
#define EXPERT_MAX_PARTS 64u

/* Worker 0 is the first stage. */
struct expert_plan {
    const char *name;
    uint32_t n_stages;
    struct shard_expert_part parts[EXPERT_MAX_PARTS];
    uint32_t n;
    uint32_t n_layers, n_experts, n_segments; /* the model's */
};

enum expert_deal {
    EXPERTS_TWO_HOSTS,
    EXPERTS_FOUR_HOSTS_OF_SLICES,
    EXPERTS_UNEVEN_HOSTS,
    EXPERTS_A_SLICE_EACH,
    EXPERTS_UNEVEN_SLICES,
    EXPERTS_REPLICAS,
    EXPERTS_SCATTERED,
    EXPERTS_LAYERS_APART,
    EXPERTS_MIXED,
    EXPERTS_EACH_OTHER,
    EXPERTS_N_DEALS
};

/* False: the model's experts cannot be dealt so. */
bool expert_plan_make(struct expert_plan *plan, const struct shard_model *m, enum expert_deal deal);

/* Tokens to compute; at most EXPERT_TOKENS. */
void expert_ids(int32_t *ids, uint32_t n);

#endif
