/* SPDX-License-Identifier: Apache-2.0 */
/* Plans that go wrong although nobody is known to be lost: who is left out of the next one. */
#include "coordinator/parts.h"

#include "proto/log.h"

#include <stdio.h>

#define SHUN_MS     60000u /* for which a worker that could not do its part is left out */
#define RELINK_MS   60000u /* plans whose connections break after a longer time are not in a row */
#define MAX_RELINKS 2u

/* Whom a member could not reach; NULL: it was not that. */
static struct coord_worker *find_far_end(const struct coord_deployment *d,
                                         const struct coord_member *m, enum proto_status status,
                                         uint32_t unreached)
{
    if (unreached > 0 && unreached <= d->plan->n_hosts)
        return d->hosts[unreached - 1];
    if (status != PROTO_LOST || m->stage < 0 || m->stage + 1 >= (int)d->plan->n_stages)
        return NULL;
    return d->stages[m->stage + 1];
}

/* Who is to blame for a load that failed: of a connection that could not be made the end that had
 * more such trouble before, or the far one. */
static struct coord_worker *find_blamed(const struct coord_deployment *d, struct coord_worker *w,
                                        enum proto_status status, uint32_t unreached)
{
    const struct coord_member *m = engine__member(d, w);
    struct coord_worker *far = m ? find_far_end(d, m, status, unreached) : NULL;
    if (!far)
        return w;
    w->blame++;
    far->blame++;
    return w->blame > far->blame ? w : far;
}

void engine__load_failed(struct coord_engine *e, struct coord_worker *w, uint32_t unreached,
                         const struct proto_error *error)
{
    uint64_t now_ns = net_now_ns();
    struct coord_worker *blamed = find_blamed(e->next, w, error->status, unreached);
    bool committing = e->next->state == COORD_COMMITTING;
    if (committing) {
        engine__break(e, error->text);
    } else {
        engine__drop_next(e);
        if (!e->current && !e->served_before) {
            engine__fail(e, error);
            return;
        }
    }
    blamed->shunned_ns = now_ns + SHUN_MS * 1000000ull;
    engine__retry_later(e, error);
    if (!engine__serving(e)) {
        e->stuck = *error;
        if (!e->stuck_ns)
            e->stuck_ns = now_ns;
    }
}

/* The stage at which batches stay: the first that has computed nothing since they were sent, else
 * the last, whose results do not come. */
static struct coord_worker *find_culprit(const struct coord_engine *e)
{
    uint32_t n = e->current->plan->n_stages;
    for (uint32_t i = 0; i < n && e->batches; i++)
        if (e->current->stages[i]->stepped_ns < e->batches->sent_ns)
            return e->current->stages[i];
    return e->current->stages[n - 1];
}

void engine__suspect(struct coord_engine *e, const char *why)
{
    uint64_t now_ns = net_now_ns();
    struct coord_worker *culprit = find_culprit(e);
    if (now_ns > e->relinked_ns + RELINK_MS * 1000000ull)
        e->n_relinks = 0;
    e->relinked_ns = now_ns;
    if (++e->n_relinks > MAX_RELINKS)
        culprit->shunned_ns = now_ns + SHUN_MS * 1000000ull;
    proto_log(PROTO_LOG_WARN, "COORD-SUSPECT", "epoch=%llu times=%u why=\"%s\"",
              (unsigned long long)e->current->epoch, e->n_relinks, why);
    /* A worker that is lost is missed by its silence soon. */
    e->settle_ns = now_ns + (uint64_t)e->options.deadline_ms * 1000000u;
    engine__break(e, why);
}

/* Whoever is silent is lost soon, and explains what does not come. */
static bool all_heard(const struct coord_engine *e, uint64_t now_ns)
{
    uint64_t silence_ns = (uint64_t)e->options.deadline_ms * 1000000u / 2;
    for (uint32_t i = 0; i < e->current->n_members; i++)
        if (now_ns > e->current->members[i].worker->clock.last_heard_ns + silence_ns)
            return false;
    return true;
}

void engine__check_batches(struct coord_engine *e, uint64_t now_ns)
{
    uint64_t deadline_ns = (uint64_t)e->options.deadline_ms * 1000000u;
    char why[160];
    if (e->settle_ns && now_ns >= e->settle_ns) {
        e->settle_ns = 0;
        engine__replan(e);
    }
    if (!engine__serving(e) || !e->n_batches || now_ns < e->progressed_ns + deadline_ns ||
        !all_heard(e, now_ns))
        return;
    snprintf(why, sizeof why,
             "batch %llu got no answer for %.1f s although every worker is alive: a connection "
             "between two of them may be broken",
             (unsigned long long)e->batches->id, (double)(now_ns - e->progressed_ns) / 1e9);
    engine__suspect(e, why);
    e->settle_ns = 0; /* all have been heard of since */
    engine__replan(e);
}
