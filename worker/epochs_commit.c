/* SPDX-License-Identifier: Apache-2.0 */
/* A slice that was prepared comes into force, and others go. */
#include "worker/epochs_parts.h"

#include <stdlib.h>
#include <string.h>

#include "proto/log.h"

/* What is in force comes after what it was asked to be. */
static void put_in_force(struct worker_epochs *epochs)
{
    struct worker_deployment *d = epochs->current;
    struct proto_error error;
    if (d->state == WORKER_READY)
        worker_deployment_set(d, WORKER_SERVING);
    if (worker_change_begin(&epochs->pending, &error) != PROTO_OK)
        worker__epochs_fail(epochs, worker__epoch_of(d), 0, &error);
}

/* Who waits for caches any longer would wait in vain. */
static void hurry(struct worker_epochs *epochs, const char *why)
{
    if (epochs->pending)
        worker_kv_move_give_up(epochs->current->move, why);
}

void worker__epochs_bury_previous(struct worker_epochs *epochs)
{
    hurry(epochs, "the plan before is over");
    worker__epochs_bury(epochs, &epochs->previous);
}

static void begin_change(struct worker_epochs *epochs)
{
    struct worker_deployment *old = epochs->current;
    uint64_t from = worker_change_commit(epochs->pending)->from;
    /* Another coordinator may have had a plan of the same number. */
    bool goes_on = from && from == worker_epochs_serving(epochs);
    epochs->current = epochs->next;
    epochs->next = NULL;
    epochs->previous = old;
    if (!old)
        return;
    worker__epochs_put_out_of_use(epochs, old);
    if (goes_on)
        worker_change_inherit(epochs->pending, old->slice);
    else
        worker__epochs_bury(epochs, &epochs->previous);
}

void worker__epochs_on_moved(void *arg)
{
    struct worker_deployment *d = arg;
    struct worker_epochs *epochs = d->owner;
    worker_change_moved(epochs->pending, worker_kv_move_ends(d->move),
                        worker_kv_move_positions(d->move), worker_kv_move_bytes(d->move), NULL);
    put_in_force(epochs);
}

/* Fetches what the caches lack while nothing is computed, or does without. */
static void complete_caches(struct worker_epochs *epochs)
{
    const struct proto_commit *commit = worker_change_commit(epochs->pending);
    struct worker_kv_move *move = epochs->current->move;
    if (!move) {
        put_in_force(epochs);
        return;
    }
    if (!commit->move || commit->from != worker_deployment_load(epochs->current)->from)
        worker_kv_move_give_up(move, "the plan before is broken");
    worker_kv_move_finish(move, commit->held, commit->n_held);
}

void worker_epochs_commit(struct worker_epochs *epochs, struct proto_commit *commit)
{
    struct proto_error error;
    uint64_t epoch = commit->epoch;
    struct worker_deployment *d = worker__epochs_find(epochs, epoch);
    enum proto_status status = PROTO_OK;
    if (d != epochs->current || epochs->pending)
        worker__epochs_bury_previous(epochs);
    if (!d || (d->state != WORKER_READY && d->state != WORKER_SERVING)) {
        free(commit->held);
        memset(commit, 0, sizeof *commit);
        status = proto_fail(&error, PROTO_NOTFOUND, "there is no slice of epoch %llu here",
                            (unsigned long long)epoch);
    } else {
        status = worker_change_create(&epochs->pending, epochs->options.compute, d->slice, commit,
                                      &error);
    }
    if (status != PROTO_OK) {
        worker__epochs_fail(epochs, epoch, 0, &error);
    } else if (d == epochs->next) {
        begin_change(epochs);
        complete_caches(epochs);
    } else {
        put_in_force(epochs);
    }
}

static bool is_released(const struct worker_deployment *d, const struct proto_release *release)
{
    uint64_t epoch = worker__epoch_of(d);
    return d && (epoch == release->epoch || (release->older && epoch < release->epoch));
}

void worker_epochs_release(struct worker_epochs *epochs, const struct proto_release *release)
{
    if (is_released(epochs->previous, release) || is_released(epochs->current, release))
        worker__epochs_bury_previous(epochs);
    if (is_released(epochs->current, release))
        worker__epochs_retire(epochs, &epochs->current);
    if (is_released(epochs->next, release))
        worker__epochs_retire(epochs, &epochs->next);
}

void worker_epochs_caches_lost(struct worker_epochs *epochs, uint64_t epoch)
{
    struct worker_deployment *d = worker__epochs_find(epochs, epoch);
    if (!d)
        return;
    d->caches_lost = true;
    if (d->move)
        worker_kv_move_give_up(d->move, "a worker that has some of them is lost");
}

void worker_epochs_abandon(struct worker_epochs *epochs)
{
    worker__epochs_bury_previous(epochs);
    epochs->over = worker__epoch_of(epochs->current);
    worker__epochs_retire(epochs, &epochs->next);
}
