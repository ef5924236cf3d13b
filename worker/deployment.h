/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A plan's part on this worker, by epoch: what the coordinator asked for, the slice that was loaded
 * for it, and the connections that belong to it. The loop's thread owns all but the slice, which is
 * the loading thread's while it is built and when it is destroyed, and the computing and the
 * experts' threads' while it serves.
 */
#ifndef WORKER_DEPLOYMENT_H
#define WORKER_DEPLOYMENT_H

#include "worker/asker.h"
#include "worker/fetch.h"
#include "worker/kv_move.h"
#include "worker/slice.h"

enum worker_deployment_state {
    WORKER_LOADING, /* the loading thread has it */
    WORKER_LINKING, /* loaded; the next stage has not answered yet */
    WORKER_COPYING, /* linked; caches are being copied from other workers */
    WORKER_READY,   /* prepared */
    WORKER_SERVING, /* in force: takes batches */
    WORKER_RETIRED, /* being taken down */
    WORKER_N_STATES
};

struct worker_task;

struct worker_deployment {
    enum worker_deployment_state state;
    struct proto_msg msg; /* the LOAD */
    struct net_payload *card;
    struct worker_slice *slice;
    struct worker_asker *asker;
    struct worker_fetcher *fetcher;
    atomic_bool cancel; /* of the loading */
    struct net_link *next;
    net_peer previous; /* the stage before, on the listener; 0: not heard of */
    uint64_t link_ns, link_since_ns;
    struct worker_kv_move *move; /* of caches to the slice's; NULL: none is under way */
    bool caches_lost;            /* those that others have: nothing is to be moved */
    void *owner;                 /* for the handlers of `next` and `move` */
    struct worker_task *burial;  /* the loader's; taken when it is built, so that it cannot fail */
};

/* Takes the message's memory and *card, also on failure. `send` is as of the fetcher's options. */
enum proto_status worker_deployment_create(struct worker_deployment **out, struct net_loop *loop,
                                           const struct net_keypair *own, struct proto_msg *load,
                                           struct net_payload **card,
                                           const struct worker_fetcher_options *fetcher,
                                           struct proto_error *error);
/* The loading thread, or when there is none; `next` and `move` are gone already. NULL is allowed.
 */
void worker_deployment_destroy(struct worker_deployment *d);

const struct proto_load *worker_deployment_load(const struct worker_deployment *d);

/* Checked against the table of changes, and logged. */
void worker_deployment_set(struct worker_deployment *d, enum worker_deployment_state state);

/* Ends the loading and waits for experts soon. */
void worker_deployment_cancel(struct worker_deployment *d, const struct proto_error *why);

#endif
