/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/deployment.h"

#include <stdlib.h>
#include <string.h>

#include "proto/log.h"

static const char *const state_names[WORKER_N_STATES] = {"loading", "linking", "copying",
                                                         "ready",   "serving", "retired"};

/* From (row) to (column). */
static const bool may_change[WORKER_N_STATES][WORKER_N_STATES] = {
    [WORKER_LOADING] = {[WORKER_LINKING] = true,
                        [WORKER_COPYING] = true,
                        [WORKER_READY] = true,
                        [WORKER_RETIRED] = true},
    [WORKER_LINKING] = {[WORKER_COPYING] = true, [WORKER_READY] = true, [WORKER_RETIRED] = true},
    [WORKER_COPYING] = {[WORKER_READY] = true, [WORKER_RETIRED] = true},
    [WORKER_READY] = {[WORKER_SERVING] = true, [WORKER_RETIRED] = true},
    [WORKER_SERVING] = {[WORKER_RETIRED] = true},
};

const struct proto_load *worker_deployment_load(const struct worker_deployment *d)
{
    return &d->msg.load;
}

void worker_deployment_set(struct worker_deployment *d, enum worker_deployment_state state)
{
    proto_log(may_change[d->state][state] ? PROTO_LOG_INFO : PROTO_LOG_ERROR, "WORKER-STATE",
              "from=%s to=%s epoch=%llu", state_names[d->state], state_names[state],
              (unsigned long long)d->msg.load.epoch);
    d->state = state;
}

enum proto_status worker_deployment_create(struct worker_deployment **out, struct net_loop *loop,
                                           const struct net_keypair *own, struct proto_msg *load,
                                           struct net_payload **card,
                                           const struct worker_fetcher_options *fetcher,
                                           struct proto_error *error)
{
    struct worker_deployment *d = calloc(1, sizeof *d);
    enum proto_status status = d ? PROTO_OK : proto_fail_nomem(error, sizeof *d, "a deployment");
    if (d) {
        d->msg = *load;
        d->card = *card;
    } else {
        proto_msg_finish(load);
        net_payload_destroy(*card);
    }
    memset(load, 0, sizeof *load);
    *card = NULL;
    if (status == PROTO_OK)
        status = worker_asker_create(&d->asker, loop, own, error);
    if (status == PROTO_OK)
        status = worker_fetcher_create(&d->fetcher, fetcher, error);
    if (status != PROTO_OK) {
        worker_deployment_destroy(d);
        return status;
    }
    *out = d;
    return PROTO_OK;
}

void worker_deployment_destroy(struct worker_deployment *d)
{
    if (!d)
        return;
    worker_asker_destroy(d->asker);
    worker_fetcher_destroy(d->fetcher);
    worker_slice_destroy(d->slice);
    proto_msg_finish(&d->msg);
    net_payload_destroy(d->card);
    free(d);
}

void worker_deployment_cancel(struct worker_deployment *d, const struct proto_error *why)
{
    atomic_store(&d->cancel, true);
    worker_fetcher_fail(d->fetcher, why);
    worker_asker_cancel(d->asker);
}
