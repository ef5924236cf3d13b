/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of worker_epochs share: epochs.c (batches, life), epochs_load.c, epochs_commit.c.
 */
#ifndef WORKER_EPOCHS_PARTS_H
#define WORKER_EPOCHS_PARTS_H

#include "worker/change.h"
#include "worker/epochs.h"
#include "worker/kv_serve.h"
#include "worker/loader.h"

struct worker_epochs {
    struct worker_epochs_options options;
    struct worker_loader *loader;
    struct worker_deployment *current, *next; /* serving; loading, linking, copying or ready */
    /* Out of force: other workers fetch what it cached of layers that are theirs now. */
    struct worker_deployment *previous;
    struct worker_change *pending; /* of current, which is not in force until caches are there */
    struct worker_kv_serve *serve;
    uint64_t latest; /* epoch that was to be loaded */
    uint64_t over;   /* that was in force when the coordinator was lost; 0: none */
    uint64_t stale;  /* batches that came for no epoch in force */
    uint32_t link_deadline_ms;
};

/* 0: d is NULL. */
uint64_t worker__epoch_of(const struct worker_deployment *d);

/* The slice in force or in preparation that has this epoch, or NULL. */
struct worker_deployment *worker__epochs_find(const struct worker_epochs *epochs, uint64_t epoch);

/* To the coordinator; arg is the struct worker_epochs. */
void worker__epochs_tell(void *arg, const struct proto_msg *msg);
void worker__epochs_fail(struct worker_epochs *epochs, uint64_t epoch, uint64_t batch,
                         const struct proto_error *why);

/* Takes no more batches, and waits for nothing any more. */
void worker__epochs_put_out_of_use(struct worker_epochs *epochs, struct worker_deployment *d);
/* Frees *at, which may be NULL, after what is queued for the computing thread; retire puts it out
 * of use before. */
void worker__epochs_bury(struct worker_epochs *epochs, struct worker_deployment **at);
void worker__epochs_retire(struct worker_epochs *epochs, struct worker_deployment **at);

/* epochs_load.c: the loader's callback. */
void worker__epochs_on_built(void *arg, uint64_t epoch, enum proto_status status,
                             const struct proto_error *error);

/* epochs_commit.c: what was to be moved is there, or will not come; arg is the deployment. */
void worker__epochs_on_moved(void *arg);
/* What other workers copied caches of is needed no more. */
void worker__epochs_bury_previous(struct worker_epochs *epochs);

#endif
