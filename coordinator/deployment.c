/* SPDX-License-Identifier: Apache-2.0 */
#include "coordinator/parts.h"

#include "proto/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const state_names[COORD_N_DEPLOYMENT_STATES] = {
    "preparing", "prepared", "committing", "serving", "broken"};

/* From (row) to (column). */
static const bool may_change[COORD_N_DEPLOYMENT_STATES][COORD_N_DEPLOYMENT_STATES] = {
    [COORD_PREPARING] = {[COORD_PREPARED] = true},
    [COORD_PREPARED] = {[COORD_COMMITTING] = true},
    [COORD_COMMITTING] = {[COORD_SERVING] = true, [COORD_BROKEN] = true},
    [COORD_SERVING] = {[COORD_BROKEN] = true},
};

void engine__deployment_set(struct coord_deployment *d, enum coord_deployment_state state)
{
    proto_log(may_change[d->state][state] ? PROTO_LOG_INFO : PROTO_LOG_ERROR, "COORD-PLAN",
              "epoch=%llu from=%s to=%s", (unsigned long long)d->epoch, state_names[d->state],
              state_names[state]);
    d->state = state;
    d->since_ns = net_now_ns();
}

static struct coord_member *add_member(struct coord_deployment *d, struct coord_worker *w)
{
    struct coord_member *m = engine__member(d, w);
    if (m)
        return m;
    m = &d->members[d->n_members++];
    m->worker = w;
    m->stage = m->host = -1;
    return m;
}

static void name_members(struct coord_deployment *d)
{
    const struct shard_plan *plan = d->plan;
    for (uint32_t i = 0; i < plan->n_stages; i++) {
        d->stages[i] = d->workers[plan->stages[i].worker];
        add_member(d, d->stages[i])->stage = (int)i;
    }
    for (uint32_t i = 0; i < plan->n_hosts; i++) {
        d->hosts[i] = d->workers[plan->hosts[i].worker];
        add_member(d, d->hosts[i])->host = (int)i;
    }
}

enum proto_status engine__deployment_create(struct coord_deployment **out, struct shard_plan **plan,
                                            struct coord_worker *const *workers, uint32_t n,
                                            struct proto_error *error)
{
    struct coord_deployment *d = calloc(1, sizeof *d);
    size_t n_members = (size_t)(*plan)->n_stages + (*plan)->n_hosts;
    if (!d) {
        shard_plan_destroy(*plan);
        *plan = NULL;
        return proto_fail_nomem(error, sizeof *d, "the plan");
    }
    d->plan = *plan;
    *plan = NULL;
    d->since_ns = net_now_ns();
    d->n_workers = n;
    d->workers = calloc(n, sizeof(struct coord_worker *));
    d->stages = calloc(d->plan->n_stages, sizeof(struct coord_worker *));
    d->hosts = calloc(d->plan->n_hosts + 1, sizeof(struct coord_worker *));
    d->members = calloc(n_members, sizeof *d->members);
    if (!d->workers || !d->stages || !d->hosts || !d->members) {
        engine__deployment_destroy(d);
        return proto_fail_nomem(error, n_members * sizeof *d->members, "the plan");
    }
    memcpy(d->workers, workers, n * sizeof(struct coord_worker *));
    name_members(d);
    *out = d;
    return PROTO_OK;
}

void engine__deployment_destroy(struct coord_deployment *d)
{
    if (!d)
        return;
    shard_plan_destroy(d->plan);
    free(d->workers);
    free(d->stages);
    free(d->hosts);
    free(d->members);
    free(d->held);
    free(d->answers);
    free(d->refills);
    free(d);
}

struct coord_member *engine__member(const struct coord_deployment *d, const struct coord_worker *w)
{
    for (uint32_t i = 0; d && i < d->n_members; i++)
        if (d->members[i].worker == w)
            return &d->members[i];
    return NULL;
}

void engine__describe_part(const struct coord_deployment *d, const struct coord_worker *w,
                           char *text, size_t bytes)
{
    const struct coord_member *m = engine__member(d, w);
    snprintf(text, bytes, "%s", m ? "" : "nothing");
    if (!m)
        return;
    if (m->stage >= 0) {
        const struct shard_stage *stage = &d->plan->stages[m->stage];
        snprintf(text, bytes, "layers %u-%u", stage->layer_first, stage->layer_end - 1);
    }
    const struct shard_expert_part *part = d->plan->parts;
    for (uint32_t i = 0; i < d->plan->n_parts && m->host >= 0; i++, part++) {
        size_t used = strlen(text);
        if (part->worker != d->plan->hosts[m->host].worker || used + 1 >= bytes)
            continue;
        snprintf(text + used, bytes - used, "%sexperts %u-%u of layers %u-%u", used ? ", " : "",
                 part->expert_first, part->expert_end - 1, part->layer_first, part->layer_end - 1);
    }
}

static bool leaves_out(const struct shard_plan *plan, const bool *without, uint32_t worker)
{
    for (uint32_t i = 0; without && i < plan->n_hosts; i++)
        if (plan->hosts[i].worker == worker)
            return without[i];
    return false;
}

static void copy_kept(struct shard_plan *to, const struct shard_plan *plan, const bool *without)
{
    to->n_stages = plan->n_stages;
    memcpy(to->stages, plan->stages, plan->n_stages * sizeof *to->stages);
    for (uint32_t i = 0; i < plan->n_hosts; i++)
        if (!without || !without[i])
            to->hosts[to->n_hosts++] = plan->hosts[i];
    for (uint32_t i = 0; i < plan->n_parts; i++)
        if (!leaves_out(plan, without, plan->parts[i].worker))
            to->parts[to->n_parts++] = plan->parts[i];
}

struct shard_plan *engine__copy_plan(const struct shard_plan *plan, const bool *without)
{
    struct shard_plan *copy = calloc(1, sizeof *copy);
    if (!copy)
        return NULL;
    copy->stages = calloc(plan->n_stages, sizeof *copy->stages);
    copy->hosts = calloc((size_t)plan->n_hosts + 1, sizeof *copy->hosts);
    copy->parts = calloc((size_t)plan->n_parts + 1, sizeof *copy->parts);
    if (!copy->stages || !copy->hosts || !copy->parts) {
        shard_plan_destroy(copy);
        return NULL;
    }
    copy_kept(copy, plan, without);
    memcpy(copy->why, plan->why, sizeof copy->why);
    return copy;
}
