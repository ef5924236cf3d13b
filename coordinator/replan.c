/* SPDX-License-Identifier: Apache-2.0 */
/*
 * When another plan is needed, and for whom.
 *
 * The first plan waits for as many workers as were announced. From then on, in later lives of the
 * coordinator as well, whoever is here has to do: when a worker is lost the rest goes on, at best
 * with nothing moved (experts that others hold as well, a standby that takes the lost part), else
 * with a plan made anew. Workers beyond those that a plan needs stand by. A plan is only prepared
 * if its workers are here, and given up as soon as one is not.
 */
#include "coordinator/parts.h"

#include "proto/log.h"

#include <stdlib.h>
#include <string.h>

static uint32_t expected(const struct coord_engine *e)
{
    return e->options.local_workers + e->options.workers;
}

/* For a worker that was there in an earlier life, since another one joined. */
#define LEAST_WAIT_MS 2000u
#define MOST_WAIT_MS  10000u

/* ---- who is here ---- */

static bool is_shunned(const struct coord_worker *w)
{
    return w->shunned_ns > net_now_ns();
}

/* Workers that a plan may be made of: children first, then in the order of joining. */
static uint32_t gather(const struct coord_engine *e, struct coord_worker **out, bool shunned)
{
    uint32_t n = 0;
    for (int local = 1; local >= 0; local--)
        for (uint32_t i = 0; i < e->n_workers; i++) {
            struct coord_worker *w = e->workers[i];
            if (engine__is_here(w) && !w->draining && w->local == (local != 0) &&
                (shunned || !is_shunned(w)))
                out[n++] = w;
        }
    return n;
}

static struct coord_worker *find_here(const struct coord_engine *e, const char *name)
{
    for (uint32_t i = 0; i < e->n_workers; i++)
        if (engine__is_here(e->workers[i]) && strcmp(e->workers[i]->name, name) == 0)
            return e->workers[i];
    return NULL;
}

/* Children join in the order in which they happen to start; their stages follow their names. */
static int by_name(const void *a, const void *b)
{
    const struct coord_worker *x = *(struct coord_worker *const *)a;
    const struct coord_worker *y = *(struct coord_worker *const *)b;
    size_t x_len = strlen(x->name), y_len = strlen(y->name);
    return x_len != y_len ? (x_len > y_len ? 1 : -1) : strcmp(x->name, y->name);
}

static void sort_children(struct coord_worker **workers, uint32_t n)
{
    uint32_t n_local = 0;
    while (n_local < n && workers[n_local]->local)
        n_local++;
    qsort(workers, n_local, sizeof(struct coord_worker *), by_name);
}

/* Of more than `most` those of the plan in force come first. */
static uint32_t limit(const struct coord_engine *e, struct coord_worker **workers, uint32_t n,
                      uint32_t most)
{
    struct coord_worker *kept[PROTO_MAX_WORKERS];
    uint32_t n_standby = 0, n_kept = 0;
    for (uint32_t i = 0; i < n; i++)
        n_standby += !engine__member(e->current, workers[i]);
    uint32_t room = most > n - n_standby ? most - (n - n_standby) : 0;
    for (uint32_t i = 0; i < n; i++) {
        bool member = engine__member(e->current, workers[i]) != NULL;
        if (member || room)
            kept[n_kept++] = workers[i];
        room -= !member && room;
    }
    memcpy(workers, kept, n_kept * sizeof(struct coord_worker *));
    return n_kept;
}

/* ---- plans ---- */

static enum proto_status prepare_plan(struct coord_engine *e, struct shard_plan **plan,
                                      struct coord_worker *const *workers, uint32_t n,
                                      struct proto_error *error)
{
    struct coord_deployment *d = NULL;
    enum proto_status status = engine__make_room(e, *plan, workers, error);
    if (status != PROTO_OK) {
        shard_plan_destroy(*plan);
        *plan = NULL;
        return status;
    }
    status = engine__deployment_create(&d, plan, workers, n, error);
    return status == PROTO_OK ? engine__prepare(e, &d, error) : status;
}

static enum proto_status prepare_anew(struct coord_engine *e, struct coord_worker **workers,
                                      uint32_t n, struct proto_error *error)
{
    struct shard_plan *plan = NULL;
    if (n == 0)
        return proto_fail(error, PROTO_LOST, "no other worker is here");
    enum proto_status status = engine__choose_plan(e, workers, n, &plan, error);
    return status == PROTO_OK ? prepare_plan(e, &plan, workers, n, error) : status;
}

/* The plan in force with other workers in the places of some, NULL where one has none. */
static enum proto_status prepare_same(struct coord_engine *e, struct coord_worker *const *workers,
                                      const bool *without, struct proto_error *error)
{
    struct shard_plan *plan = engine__copy_plan(e->current->plan, without);
    if (!plan)
        return proto_fail_nomem(error, sizeof *plan, "the plan");
    uint32_t n = e->current->n_workers;
    if (without || memcmp(workers, e->current->workers, n * sizeof(struct coord_worker *)) != 0)
        engine__explain_change(e, plan, workers, n);
    return prepare_plan(e, &plan, workers, n, error);
}

/* Who works badly is only left out where there has to be another plan anyway. */
static bool is_leaving(const struct coord_deployment *d, const struct coord_worker *w)
{
    return !engine__is_here(w) || w->draining || (d->state == COORD_BROKEN && is_shunned(w));
}

uint32_t engine__count_leaving(const struct coord_deployment *d)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < d->n_members; i++)
        n += is_leaving(d, d->members[i].worker);
    return n;
}

/* Whether all of a part is held by hosts that stay. */
static bool has_replica(const struct coord_deployment *d, const struct shard_expert_part *part,
                        uint32_t layer, uint32_t expert)
{
    for (uint32_t i = 0; i < d->plan->n_parts; i++) {
        const struct shard_expert_part *p = &d->plan->parts[i];
        if (p->n_slices == part->n_slices && p->slice == part->slice && layer >= p->layer_first &&
            layer < p->layer_end && expert >= p->expert_first && expert < p->expert_end &&
            !is_leaving(d, d->workers[p->worker]))
            return true;
    }
    return false;
}

static bool is_spare(const struct coord_deployment *d, const struct shard_expert_part *part)
{
    for (uint32_t layer = part->layer_first; layer < part->layer_end; layer++)
        for (uint32_t expert = part->expert_first; expert < part->expert_end; expert++)
            if (!has_replica(d, part, layer, expert))
                return false;
    return true;
}

/* The plan in force without hosts whose experts others hold as well, if only such are leaving. */
static bool shrink(struct coord_engine *e)
{
    const struct coord_deployment *d = e->current;
    bool without[PROTO_MAX_WORKERS] = {false};
    struct proto_error error;
    for (uint32_t i = 0; i < d->plan->n_stages; i++)
        if (is_leaving(d, d->stages[i]))
            return false;
    for (uint32_t i = 0; i < d->plan->n_parts; i++)
        if (is_leaving(d, d->workers[d->plan->parts[i].worker]) && !is_spare(d, &d->plan->parts[i]))
            return false;
    for (uint32_t i = 0; i < d->plan->n_hosts; i++)
        without[i] = is_leaving(d, d->hosts[i]);
    return prepare_same(e, d->workers, without, &error) == PROTO_OK;
}

/* What a member's part takes in memory. */
static uint64_t bytes_of(const struct coord_deployment *d, const struct coord_member *m)
{
    if (m->stage >= 0) {
        const struct shard_stage *s = &d->plan->stages[m->stage];
        return s->weight_bytes + s->kv_bytes + s->scratch_bytes;
    }
    const struct shard_plan_host *h = &d->plan->hosts[m->host];
    return h->weight_bytes + h->scratch_bytes;
}

/* A worker without a part that has room for one. */
static struct coord_worker *find_standby(const struct coord_engine *e,
                                         struct coord_worker *const *taken, uint64_t bytes)
{
    struct coord_worker *here[PROTO_MAX_WORKERS];
    uint32_t n = gather(e, here, false);
    for (uint32_t i = 0; i < n; i++) {
        bool free = !engine__member(e->current, here[i]) && here[i]->memory_bytes >= bytes;
        for (uint32_t k = 0; k < e->current->n_workers && free; k++)
            free = taken[k] != here[i];
        if (free)
            return here[i];
    }
    return NULL;
}

/* The plan in force with standbys in the places of those that are leaving. */
static bool substitute(struct coord_engine *e)
{
    const struct coord_deployment *d = e->current;
    struct coord_worker *workers[PROTO_MAX_WORKERS];
    struct proto_error error;
    memcpy(workers, d->workers, d->n_workers * sizeof(struct coord_worker *));
    for (uint32_t i = 0; i < d->n_workers; i++) {
        const struct coord_member *m = engine__member(d, workers[i]);
        if (!m || !is_leaving(d, workers[i]))
            continue;
        workers[i] = find_standby(e, workers, bytes_of(d, m));
        if (!workers[i])
            return false;
    }
    return prepare_same(e, workers, NULL, &error) == PROTO_OK;
}

/* ---- where nothing is served ---- */

static void be_stuck(struct coord_engine *e, const struct proto_error *why)
{
    uint64_t now_ns = net_now_ns();
    if (!e->stuck_ns || strcmp(e->stuck.text, why->text) != 0)
        proto_log(PROTO_LOG_WARN, "COORD-WAITING", "loss=\"%s\" why=\"%s\"", e->loss, why->text);
    e->stuck = *why;
    if (!e->stuck_ns)
        e->stuck_ns = now_ns;
    engine__check_patience(e, now_ns);
}

/* A plan for all that are here, at best without those that work badly. */
static void plan_anew(struct coord_engine *e)
{
    struct coord_worker *workers[PROTO_MAX_WORKERS];
    struct proto_error error;
    uint32_t n = gather(e, workers, false);
    sort_children(workers, n);
    if (prepare_anew(e, workers, n, &error) == PROTO_OK)
        return;
    n = gather(e, workers, true);
    sort_children(workers, n);
    if (prepare_anew(e, workers, n, &error) != PROTO_OK)
        be_stuck(e, &error);
}

/* As for workers that others cannot reach. */
static uint64_t wait_ms(const struct coord_engine *e)
{
    uint64_t ms = 2ull * e->options.deadline_ms;
    ms = ms > LEAST_WAIT_MS ? ms : LEAST_WAIT_MS;
    return ms < MOST_WAIT_MS ? ms : MOST_WAIT_MS;
}

/* Those that were there in an earlier life, and still are, come soon one after another. */
static bool are_awaited(struct coord_engine *e, uint32_t n)
{
    uint64_t due_ns = e->joined_ns + wait_ms(e) * 1000000ull;
    if (n >= expected(e))
        return false;
    if (!e->served_before)
        return true;
    bool awaited = net_now_ns() < due_ns;
    if (awaited)
        e->retry_ns = due_ns;
    return awaited;
}

static void plan_first(struct coord_engine *e)
{
    struct coord_worker *workers[PROTO_MAX_WORKERS];
    struct proto_error error;
    uint32_t n = gather(e, workers, true);
    if (n == 0 || are_awaited(e, n) || engine__survey_awaited(e, net_now_ns()))
        return;
    if (n < expected(e) || e->retries) {
        plan_anew(e);
        return;
    }
    sort_children(workers, n);
    /* An earlier failure is over. */
    pthread_mutex_lock(&e->mutex);
    e->failure.status = PROTO_OK;
    pthread_mutex_unlock(&e->mutex);
    if (prepare_anew(e, workers, n, &error) != PROTO_OK)
        engine__fail(e, &error);
}

static void recover(struct coord_engine *e)
{
    struct coord_worker *workers[PROTO_MAX_WORKERS];
    struct proto_error error;
    if (!e->was_ready && !e->served_before && gather(e, workers, true) < expected(e))
        return;
    if (engine__count_leaving(e->current)) {
        e->settle_ns = 0;
        if (shrink(e) || substitute(e))
            return;
    } else if (e->settle_ns || prepare_same(e, e->current->workers, NULL, &error) == PROTO_OK) {
        return;
    }
    plan_anew(e);
}

/* ---- while it serves ---- */

/* Others take the part of a worker that is to leave. */
static enum proto_status plan_departure(struct coord_engine *e, struct proto_error *error)
{
    struct coord_worker *workers[PROTO_MAX_WORKERS];
    if (shrink(e) || substitute(e))
        return PROTO_OK;
    uint32_t n = gather(e, workers, true);
    sort_children(workers, n);
    return prepare_anew(e, workers, n, error);
}

struct departure {
    struct coord_engine *e;
    const char *name;
    enum proto_status status;
    struct proto_error *error;
};

static void drain(void *arg)
{
    struct departure *q = arg;
    struct coord_engine *e = q->e;
    struct coord_worker *w = find_here(e, q->name);
    q->status = PROTO_OK;
    if (!w) {
        q->status =
            proto_fail(q->error, PROTO_NOTFOUND,
                       "there is no worker \"%.64s\" here; caravan status lists them", q->name);
        return;
    }
    if (w->draining)
        return;
    w->draining = true;
    if (!engine__serving(e) || (e->next && e->next->state == COORD_COMMITTING)) {
        engine__replan(e);
        engine__dismiss(e);
    } else if (engine__member(e->current, w)) {
        q->status = plan_departure(e, q->error);
        w->draining = q->status == PROTO_OK;
    } else {
        if (engine__member(e->next, w))
            engine__drop_next(e);
        engine__dismiss(e);
        engine__replan(e);
    }
}

enum proto_status coord_engine_drain(struct coord_engine *e, const char *worker,
                                     struct proto_error *error)
{
    struct departure q = {.e = e, .name = worker, .status = PROTO_NOMEM, .error = error};
    engine__call(e, drain, &q);
    return q.status;
}

/* Puts the best plan for these workers in force if it is worth the change. */
static void improve(struct coord_engine *e, struct coord_worker **workers, uint32_t n)
{
    struct shard_plan *plan = NULL;
    struct proto_error error;
    sort_children(workers, n);
    if (engine__choose_plan(e, workers, n, &plan, &error) != PROTO_OK)
        return;
    if (!engine__worth_it(e, workers, plan))
        shard_plan_destroy(plan);
    else if (prepare_plan(e, &plan, workers, n, &error) != PROTO_OK)
        proto_log(PROTO_LOG_WARN, "COORD-REBALANCE", "error=\"%s\"", error.text);
}

void engine__improve(struct coord_engine *e)
{
    struct coord_worker *workers[PROTO_MAX_WORKERS];
    uint32_t n = gather(e, workers, false);
    improve(e, workers, n);
}

/* Workers that joined, or came back, may make a better plan. */
static void consider_joined(struct coord_engine *e)
{
    struct coord_worker *workers[PROTO_MAX_WORKERS];
    uint32_t n = gather(e, workers, false);
    if (e->options.rebalance != COORD_REBALANCE_AUTO || n <= e->current->n_members)
        return;
    if (e->current->n_members < expected(e))
        n = limit(e, workers, n, expected(e));
    improve(e, workers, n);
}

void engine__replan(struct coord_engine *e)
{
    struct proto_error error;
    if (e->stopping)
        return;
    if (e->next && e->next->state != COORD_COMMITTING && engine__count_leaving(e->next))
        engine__drop_next(e);
    if (e->next)
        return;
    if (!e->current)
        plan_first(e);
    else if (!engine__serving(e))
        recover(e);
    else if (e->retry_ns)
        return;
    else if (!engine__count_leaving(e->current))
        consider_joined(e);
    else if (plan_departure(e, &error) != PROTO_OK)
        proto_log(PROTO_LOG_WARN, "COORD-DRAIN", "error=\"%s\"", error.text);
}

/* ---- patience ---- */

/* Where nobody can come any more there is nothing to wait for. */
static bool may_come(const struct coord_engine *e)
{
    return e->outer.link || e->options.respawn;
}

bool engine__out_of_patience(const struct coord_engine *e, uint64_t now_ns)
{
    return e->stuck_ns && !e->next &&
           (!may_come(e) || now_ns >= e->stuck_ns + e->options.patience_s * 1000000000ull);
}

void engine__check_patience(struct coord_engine *e, uint64_t now_ns)
{
    struct proto_error error;
    char missing[PROTO_ERROR_TEXT_BYTES];
    if (!engine__out_of_patience(e, now_ns) || (!e->active && !e->waiting))
        return;
    engine__describe_missing(e, missing, sizeof missing);
    proto_fail(&error, PROTO_LOST, "%s; the request cannot go on", missing);
    engine__fail_all(e, &error);
}

/* ---- a plan that a person chose ---- */

struct question {
    struct coord_engine *e;
    struct shard_plan *plan;
    const char *const *names;
    uint32_t n;
    enum proto_status status;
    struct proto_error *error;
};

static void apply(void *arg)
{
    struct question *q = arg;
    struct coord_worker *workers[PROTO_MAX_WORKERS];
    for (uint32_t i = 0; i < q->n; i++) {
        workers[i] = find_here(q->e, q->names[i]);
        if (workers[i])
            continue;
        q->status =
            proto_fail(q->error, PROTO_LOST,
                       "worker \"%s\" is not here any more; compare plans again", q->names[i]);
        return;
    }
    if (!q->e->next && !engine__serving(q->e))
        q->status = proto_fail(q->error, PROTO_BUSY,
                               "no plan is in force; caravan status says what is missing");
    else if (q->e->next)
        q->status =
            proto_fail(q->error, PROTO_BUSY, "another plan is being put in force; try again later");
    else
        q->status = prepare_plan(q->e, &q->plan, workers, q->n, q->error);
}

enum proto_status coord_engine_apply_plan(struct coord_engine *e, struct shard_plan **plan,
                                          const char *const *names, uint32_t n,
                                          struct proto_error *error)
{
    struct question q = {
        .e = e, .plan = *plan, .names = names, .n = n, .status = PROTO_NOMEM, .error = error};
    *plan = NULL;
    engine__call(e, apply, &q);
    shard_plan_destroy(q.plan);
    return q.status;
}
