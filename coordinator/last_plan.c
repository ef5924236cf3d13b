/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The plan in force as lines of what is remembered (recall.c), so that the next engine can go on
 * with it: a search may deal the same workers other parts, and they would load them again.
 *
 *     plan MODEL                                      (the hash of its header)
 *     stage WORKER FIRST END
 *     part WORKER LAYER-FIRST LAYER-END EXPERT-FIRST EXPERT-END SLICE SLICES
 */
#include "coordinator/parts.h"

#include <stdlib.h>
#include <string.h>

#define MODEL_BYTES (2 * PROTO_HASH_BYTES + 1)
#define MOST_PARTS  65536u

/* ---- telling ---- */

static bool find_number(const uint32_t *numbers, uint32_t n, const struct coord_engine *e,
                        const struct coord_worker *w, uint32_t *found)
{
    for (uint32_t i = 0; i < n; i++)
        if (e->workers[numbers[i]] == w) {
            *found = i;
            return true;
        }
    return false;
}

/* Whether all of the plan's workers are among those that are told of; *places: where. */
static bool find_all(const struct coord_engine *e, const struct shard_plan *plan,
                     struct coord_worker *const *workers, const uint32_t *numbers, uint32_t n,
                     uint32_t places[PROTO_MAX_WORKERS])
{
    for (uint32_t i = 0; i < plan->n_stages; i++)
        if (!find_number(numbers, n, e, workers[plan->stages[i].worker],
                         &places[plan->stages[i].worker]))
            return false;
    for (uint32_t i = 0; i < plan->n_hosts; i++)
        if (!find_number(numbers, n, e, workers[plan->hosts[i].worker],
                         &places[plan->hosts[i].worker]))
            return false;
    return true;
}

static void tell_parts(FILE *out, const struct shard_plan *plan, const uint32_t *places)
{
    for (uint32_t i = 0; i < plan->n_stages; i++) {
        const struct shard_stage *s = &plan->stages[i];
        fprintf(out, "stage %u %u %u\n", places[s->worker], s->layer_first, s->layer_end);
    }
    for (uint32_t i = 0; i < plan->n_parts; i++) {
        const struct shard_expert_part *p = &plan->parts[i];
        fprintf(out, "part %u %u %u %u %u %u %u\n", places[p->worker], p->layer_first, p->layer_end,
                p->expert_first, p->expert_end, p->slice, p->n_slices);
    }
}

void engine__tell_plan(FILE *out, const struct coord_engine *e, const uint32_t *numbers, uint32_t n)
{
    const struct shard_plan *plan = e->current ? e->current->plan : e->last_plan;
    struct coord_worker *const *workers = e->current ? e->current->workers : e->workers;
    uint32_t places[PROTO_MAX_WORKERS] = {0};
    char model[MODEL_BYTES];
    if (!plan || !engine__may_search(e) || !find_all(e, plan, workers, numbers, n, places))
        return;
    coord_engine_fingerprint(e, model);
    fprintf(out, "plan %s\n", model);
    tell_parts(out, plan, places);
}

/* ---- recalling ---- */

static bool grow(void **list, uint32_t n, size_t size)
{
    /* Room is doubled at powers of two. */
    void *grown = n & (n - 1) ? *list : realloc(*list, (n ? 2 * (size_t)n : 1) * size);
    if (grown)
        *list = grown;
    return grown != NULL;
}

static bool recall_stage(const struct coord_engine *e, struct shard_plan *plan, const char *line)
{
    struct shard_stage s = {.embed = plan->n_stages == 0};
    if (sscanf(line, "stage %u %u %u", &s.worker, &s.layer_first, &s.layer_end) != 3 ||
        s.worker >= e->n_workers || plan->n_stages == PROTO_MAX_WORKERS ||
        !grow((void **)&plan->stages, plan->n_stages, sizeof s))
        return false;
    s.head = s.layer_end == e->model->n_layers;
    plan->stages[plan->n_stages++] = s;
    return true;
}

static bool recall_part(const struct coord_engine *e, struct shard_plan *plan, const char *line)
{
    struct shard_expert_part p;
    if (sscanf(line, "part %u %u %u %u %u %u %u", &p.worker, &p.layer_first, &p.layer_end,
               &p.expert_first, &p.expert_end, &p.slice, &p.n_slices) != 7 ||
        p.worker >= e->n_workers || p.n_slices == 0 || SHARD_EXPERT_SEGMENTS % p.n_slices != 0 ||
        plan->n_parts == MOST_PARTS || !grow((void **)&plan->parts, plan->n_parts, sizeof p))
        return false;
    plan->parts[plan->n_parts++] = p;
    return true;
}

static void forget(struct coord_engine *e)
{
    shard_plan_destroy(e->last_plan);
    e->last_plan = NULL;
}

void engine__recall_plan(struct coord_engine *e, const char *line)
{
    char model[MODEL_BYTES];
    if (strncmp(line, "plan ", 5) == 0) {
        forget(e);
        coord_engine_fingerprint(e, model);
        if (strncmp(line + 5, model, MODEL_BYTES - 1) == 0)
            e->last_plan = calloc(1, sizeof *e->last_plan);
        return;
    }
    bool is_part = strncmp(line, "part ", 5) == 0;
    if (e->last_plan && !(is_part ? recall_part : recall_stage)(e, e->last_plan, line))
        forget(e);
}

/* ---- going on with it ---- */

uint32_t engine__last_worker(const struct coord_engine *e, struct coord_worker *const *workers,
                             uint32_t n, uint32_t number)
{
    for (uint32_t i = 0; i < n; i++)
        if (workers[i] == e->workers[number])
            return i;
    return UINT32_MAX;
}

bool engine__last_plan_possible(const struct coord_engine *e, struct coord_worker *const *workers,
                                uint32_t n)
{
    const struct shard_plan *plan = e->last_plan;
    if (!plan || e->current)
        return false;
    for (uint32_t i = 0; i < plan->n_stages; i++)
        if (engine__last_worker(e, workers, n, plan->stages[i].worker) == UINT32_MAX)
            return false;
    for (uint32_t i = 0; i < plan->n_parts; i++)
        if (engine__last_worker(e, workers, n, plan->parts[i].worker) == UINT32_MAX)
            return false;
    return plan->n_stages > 0;
}
