/* SPDX-License-Identifier: Apache-2.0 */
#include "coordinator/parts.h"

#include <stdlib.h>
#include <string.h>

#define USAGE_MS 1000u

enum proto_status engine__usage_create(struct coord_engine *e, struct proto_error *error)
{
    size_t n = (size_t)e->model->n_layers * e->model->n_experts;
    if (n == 0)
        return PROTO_OK;
    e->usage = calloc(n, sizeof *e->usage);
    return e->usage ? PROTO_OK : proto_fail_nomem(error, n * sizeof *e->usage, "expert statistics");
}

void engine__usage_tick(struct coord_engine *e, uint64_t now_ns)
{
    struct proto_msg msg = {.kind = PROTO_MSG_USAGE};
    if (!e->usage || !e->usage_due || !engine__serving(e) ||
        now_ns - e->usage_ns < USAGE_MS * 1000000ull)
        return;
    e->usage_ns = now_ns;
    e->usage_due = false;
    for (uint32_t i = 0; i < e->current->plan->n_stages; i++)
        engine__tell(e->current->stages[i], &msg, NULL, NULL);
}

/* Adds what a stage counted; one that counts other layers than its own is not believed. */
void engine__on_used(struct coord_engine *e, struct coord_worker *w, const struct proto_used *used,
                     const struct net_payload *payload)
{
    uint32_t n_experts = e->model->n_experts;
    size_t n = (size_t)used->n_layers * n_experts;
    const struct coord_member *m = engine__member(e->current, w);
    if (!e->usage || !m || m->stage < 0 || used->epoch != e->current->epoch ||
        used->n_experts != n_experts)
        return;
    const struct shard_stage *stage = &e->current->plan->stages[m->stage];
    if (used->layer_first != stage->layer_first ||
        used->layer_first + used->n_layers != stage->layer_end || !payload ||
        net_payload_len(payload) != n * sizeof(uint32_t)) {
        engine__lose_worker(e, w, "its statistics of experts are not of its layers");
        return;
    }
    const uint8_t *bytes = net_payload_data(payload);
    for (size_t i = 0; i < n; i++) {
        uint32_t count;
        memcpy(&count, bytes + i * sizeof count, sizeof count);
        e->usage[(size_t)used->layer_first * n_experts + i] += count;
    }
}
