/* SPDX-License-Identifier: Apache-2.0 */
#include "coordinator/parts.h"

#include <stdlib.h>
#include <string.h>

/* What all loads of a plan have in common. */
struct assignment {
    char **files; /* the model's, which a worker of this machine reads itself */
    struct proto_host *hosts;
    struct proto_part *parts;
    uint8_t (*askers)[PROTO_KEY_BYTES];
    uint64_t from;                /* the plan in force, 0: none */
    struct proto_holder *holders; /* its stages */
    uint32_t n_holders;
};

static void leave_card(void *data, void *arg)
{
    (void)data;
    (void)arg;
}

/* The plan's number of a worker becomes its number among the hosts. */
static uint32_t host_of(const struct shard_plan *plan, uint32_t worker)
{
    uint32_t i = 0;
    while (plan->hosts[i].worker != worker)
        i++;
    return i;
}

static void fill_hosts(const struct coord_deployment *d, struct assignment *a)
{
    const struct shard_plan *plan = d->plan;
    for (uint32_t i = 0; i < plan->n_hosts; i++) {
        a->hosts[i].endpoint = d->hosts[i]->expert_endpoint;
        a->hosts[i].name = d->hosts[i]->name;
        memcpy(a->hosts[i].key, d->hosts[i]->key, PROTO_KEY_BYTES);
    }
    for (uint32_t i = 0; i < plan->n_parts; i++) {
        const struct shard_expert_part *part = &plan->parts[i];
        a->parts[i] = (struct proto_part){.host = host_of(plan, part->worker),
                                          .layer_first = part->layer_first,
                                          .layer_end = part->layer_end,
                                          .expert_first = part->expert_first,
                                          .expert_end = part->expert_end,
                                          .slice = part->slice,
                                          .n_slices = part->n_slices};
    }
    for (uint32_t i = 0; i < plan->n_stages; i++)
        memcpy(a->askers[i], d->stages[i]->key, PROTO_KEY_BYTES);
}

static void fill_stage(const struct coord_engine *e, const struct coord_deployment *d,
                       uint32_t stage, struct proto_load *load)
{
    const struct shard_stage *part = &d->plan->stages[stage];
    bool last = stage + 1 == d->plan->n_stages;
    load->has_stage = true;
    load->stage = stage;
    load->layer_first = part->layer_first;
    load->layer_end = part->layer_end;
    load->embed = part->embed;
    load->head = part->head;
    load->next_endpoint = last ? "" : d->stages[stage + 1]->endpoint;
    memcpy(load->previous_key, stage ? d->stages[stage - 1]->key : e->keys.pair.public_key,
           PROTO_KEY_BYTES);
    if (!last)
        memcpy(load->next_key, d->stages[stage + 1]->key, PROTO_KEY_BYTES);
}

/* Who caches what, as long as all of it is there. */
static enum proto_status fill_holders(const struct coord_engine *e, struct assignment *a,
                                      struct proto_error *error)
{
    const struct coord_deployment *d = e->current;
    if (!engine__serving(e))
        return PROTO_OK;
    a->holders = calloc(d->plan->n_stages, sizeof *a->holders);
    if (!a->holders)
        return proto_fail_nomem(error, d->plan->n_stages * sizeof *a->holders,
                                "the plan's messages");
    a->from = d->epoch;
    a->n_holders = d->plan->n_stages;
    for (uint32_t i = 0; i < a->n_holders; i++) {
        a->holders[i].endpoint = d->stages[i]->endpoint;
        a->holders[i].layer_first = d->plan->stages[i].layer_first;
        a->holders[i].layer_end = d->plan->stages[i].layer_end;
        memcpy(a->holders[i].key, d->stages[i]->key, PROTO_KEY_BYTES);
    }
    return PROTO_OK;
}

static enum proto_status send_load(struct coord_engine *e, const struct coord_deployment *d,
                                   const struct coord_member *m, const struct assignment *a,
                                   struct proto_error *error)
{
    bool hosts = m->host >= 0;
    struct proto_msg msg = {.kind = PROTO_MSG_LOAD,
                            .load = {.epoch = d->epoch,
                                     .n_stages = d->plan->n_stages,
                                     .kv_type = e->options.kv,
                                     .ctx = e->options.ctx,
                                     .max_seqs = e->options.parallel,
                                     .max_rows = e->options.batch,
                                     .inexact = e->options.inexact,
                                     .synthetic = e->synthetic_shape,
                                     .hosts = a->hosts,
                                     .n_hosts = d->plan->n_hosts,
                                     .self = hosts ? (uint32_t)m->host : PROTO_NO_HOST,
                                     .parts = a->parts,
                                     .n_parts = d->plan->n_parts,
                                     .askers = a->askers,
                                     .n_askers = hosts ? d->plan->n_stages : 0,
                                     .from = a->from,
                                     .holders = a->holders,
                                     .n_holders = a->n_holders}};
    if (m->stage >= 0)
        fill_stage(e, d, (uint32_t)m->stage, &msg.load);
    if (m->worker->local) {
        msg.load.files = a->files;
        msg.load.n_files = e->gguf ? (uint32_t)shard_gguf_n_files(e->gguf) : 0;
    }
    /* The card lives as long as the engine, which outlives its links. */
    struct net_payload *card = net_payload_wrap(e->card, e->card_bytes, leave_card, NULL);
    if (!card)
        return proto_fail_nomem(error, e->card_bytes, "the model card");
    enum proto_status status = engine__tell(m->worker, &msg, &card, error);
    /* Of a worker that is gone more is heard soon. */
    return status == PROTO_LOST ? PROTO_OK : status;
}

static enum proto_status make_assignment(const struct coord_engine *e,
                                         const struct coord_deployment *d, struct assignment *a,
                                         struct proto_error *error)
{
    const struct shard_plan *plan = d->plan;
    size_t n_files = e->gguf ? shard_gguf_n_files(e->gguf) : 0;
    a->files = calloc(n_files + 1, sizeof *a->files);
    a->hosts = calloc(plan->n_hosts + 1, sizeof *a->hosts);
    a->parts = calloc(plan->n_parts + 1, sizeof *a->parts);
    a->askers = calloc(plan->n_stages, sizeof *a->askers);
    if (!a->files || !a->hosts || !a->parts || !a->askers)
        return proto_fail_nomem(error, plan->n_parts * sizeof *a->parts, "the plan's messages");
    for (size_t i = 0; i < n_files; i++)
        a->files[i] = (char *)shard_gguf_path(e->gguf, i);
    fill_hosts(d, a);
    return fill_holders(e, a, error);
}

enum proto_status engine__assign(struct coord_engine *e, struct coord_deployment *d,
                                 struct proto_error *error)
{
    struct assignment a = {0};
    enum proto_status status = make_assignment(e, d, &a, error);
    for (uint32_t i = 0; i < d->n_members && status == PROTO_OK; i++)
        status = send_load(e, d, &d->members[i], &a, error);
    free(a.files);
    free(a.hosts);
    free(a.parts);
    free(a.askers);
    free(a.holders);
    return status;
}
