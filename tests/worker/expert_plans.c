/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/worker/expert_plans.h"

static void give(struct expert_plan *plan, uint32_t worker, uint32_t first, uint32_t end,
                 uint32_t slice, uint32_t n_slices)
{
    plan->parts[plan->n++] = (struct shard_expert_part){.worker = worker,
                                                        .layer_end = plan->n_layers,
                                                        .expert_first = first,
                                                        .expert_end = end,
                                                        .slice = slice,
                                                        .n_slices = n_slices};
}

static bool two_hosts(struct expert_plan *p)
{
    give(p, 1, 0, p->n_experts / 2, 0, 1);
    give(p, 2, p->n_experts / 2, p->n_experts, 0, 1);
    return true;
}

static bool four_hosts_of_slices(struct expert_plan *p)
{
    for (uint32_t w = 0; w < 4; w++)
        give(p, 1 + w, w / 2 * (p->n_experts / 2), p->n_experts / (2 - w / 2), w % 2, 2);
    return p->n_segments >= 2;
}

static bool uneven_hosts(struct expert_plan *p)
{
    give(p, 1, 0, 1, 0, 1);
    give(p, 3, 1, p->n_experts - 2, 0, 1);
    give(p, 2, p->n_experts - 2, p->n_experts, 0, 1);
    return true;
}

static bool a_slice_each(struct expert_plan *p)
{
    for (uint32_t i = 0; i < p->n_segments; i++)
        give(p, 1 + i, 0, p->n_experts, i, p->n_segments);
    return p->n_segments >= 2;
}

static bool uneven_slices(struct expert_plan *p)
{
    give(p, 1, 0, p->n_experts, 0, 3);
    give(p, 0, 0, p->n_experts, 1, 3);
    give(p, 2, 0, p->n_experts, 2, 3);
    return p->n_segments >= 3;
}

static bool replicas(struct expert_plan *p)
{
    give(p, 1, 0, p->n_experts, 0, 1);
    give(p, 2, 0, p->n_experts, 0, 1);
    give(p, 3, 0, p->n_experts / 2, 0, 1);
    if (p->n_segments >= 2) {
        give(p, 4, 0, p->n_experts, 0, 2);
        give(p, 5, 0, p->n_experts, 1, 2);
    }
    return true;
}

/* Some are the stage's own, and the others alternate. */
static bool scattered(struct expert_plan *p)
{
    give(p, 0, 0, p->n_experts / 4, 0, 1);
    give(p, 0, p->n_experts / 2, p->n_experts * 3 / 4, 0, 1);
    for (uint32_t x = 0; x < p->n_experts && p->n < EXPERT_MAX_PARTS; x++) {
        bool own = x < p->n_experts / 4 || (x >= p->n_experts / 2 && x < p->n_experts * 3 / 4);
        if (!own)
            give(p, 1 + x % 2, x, x + 1, 0, 1);
    }
    return p->n_experts <= 16;
}

static bool layers_apart(struct expert_plan *p)
{
    give(p, 1, 0, p->n_experts, 0, 1);
    p->parts[0].layer_end = p->n_layers / 2;
    give(p, 2, 0, p->n_experts, 0, 1);
    p->parts[1].layer_first = p->n_layers / 2;
    return p->n_layers >= 2;
}

/* One worker has whole experts and a slice of the others, in two parts where it has both. */
static bool mixed(struct expert_plan *p)
{
    give(p, 1, 0, p->n_experts / 2, 0, 2);
    give(p, 1, 0, p->n_experts / 2, 1, 2);
    give(p, 1, p->n_experts / 2, p->n_experts, 0, 2);
    give(p, 2, p->n_experts / 2, p->n_experts, 1, 2);
    return p->n_segments >= 2;
}

/* Both stages are hosts of the other. */
static bool each_other(struct expert_plan *p)
{
    give(p, 0, 0, p->n_experts / 2, 0, 1);
    give(p, 1, p->n_experts / 2, p->n_experts, 0, 1);
    return p->n_layers >= 2;
}

static const struct {
    const char *name;
    bool (*make)(struct expert_plan *plan);
    uint32_t n_stages;
} deals[EXPERTS_N_DEALS] = {
    [EXPERTS_TWO_HOSTS] = {"two hosts", two_hosts, 1},
    [EXPERTS_FOUR_HOSTS_OF_SLICES] = {"four hosts, slices of two", four_hosts_of_slices, 1},
    [EXPERTS_UNEVEN_HOSTS] = {"uneven hosts", uneven_hosts, 1},
    [EXPERTS_A_SLICE_EACH] = {"a slice each", a_slice_each, 1},
    [EXPERTS_UNEVEN_SLICES] = {"uneven slices", uneven_slices, 1},
    [EXPERTS_REPLICAS] = {"replicas", replicas, 1},
    [EXPERTS_SCATTERED] = {"scattered", scattered, 1},
    [EXPERTS_LAYERS_APART] = {"layers apart", layers_apart, 1},
    [EXPERTS_MIXED] = {"mixed", mixed, 1},
    [EXPERTS_EACH_OTHER] = {"two stages, hosts of each other", each_other, 2},
};

bool expert_plan_make(struct expert_plan *plan, const struct shard_model *m, enum expert_deal deal)
{
    *plan = (struct expert_plan){.name = deals[deal].name,
                                 .n_stages = deals[deal].n_stages,
                                 .n_layers = m->n_layers,
                                 .n_experts = m->n_experts,
                                 .n_segments = shard_expert_segments(m->ff_expert).n};
    return deals[deal].make(plan);
}

void expert_ids(int32_t *ids, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        ids[i] = (int32_t)((i * 2654435761u >> 7) % 300);
}
