/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The slices that a worker holds: the one in force and, while a plan is prepared, the next, each
 * with connections of its own. A LOAD is prepared beside what serves, and what other workers cache
 * of its layers is copied (worker/kv_move.h); COMMIT puts it in force with the caches of the
 * sequences that go on. The slice that it replaces stays until RELEASE lets it go, for others copy
 * from it. Batches go to the slice of their epoch, those of other epochs are dropped. All calls on
 * the loop's thread.
 */
#ifndef WORKER_EPOCHS_H
#define WORKER_EPOCHS_H

#include "worker/compute.h"
#include "worker/expert_server.h"

struct worker_epochs;

struct worker_epochs_options {
    struct net_loop *loop;
    const struct net_keypair *own;
    const char *name; /* for error texts */
    struct worker_compute *compute;
    struct worker_expert_server *experts;
    struct net_link *listener; /* where the stage before comes in */
    const struct kern_table *table;
    unsigned threads;
    const char *cache_dir;
    bool keep_packed;
    uint64_t memory_bytes;
    uint64_t cache_limit_bytes;
    const uint8_t *secret; /* the cluster's, for connections to workers that have pieces */
    struct worker_supply *supply;
    uint64_t boundary_bytes;                              /* for rows that were sent on */
    void (*tell)(void *arg, const struct proto_msg *msg); /* a message for the coordinator */
    /* And one with a payload, which it takes. */
    void (*tell_with)(void *arg, const struct proto_msg *msg, struct net_payload **payload);
    void *arg;
};

enum proto_status worker_epochs_create(struct worker_epochs **out,
                                       const struct worker_epochs_options *options,
                                       struct proto_error *error);
/* Ends loads and waits for experts, and waits for the loading thread. NULL is allowed. */
void worker_epochs_stop(struct worker_epochs *epochs);
/* Takes the slices down; the computing thread has ended, the experts' server and the loop are
 * there. */
void worker_epochs_close(struct worker_epochs *epochs);
/* After the loop. NULL is allowed. */
void worker_epochs_destroy(struct worker_epochs *epochs);

/* ---- of the coordinator ---- */

/* Takes what it needs of the message and *card. Hosts of experts that are silent for silence_ms are
 * given up. */
void worker_epochs_load(struct worker_epochs *epochs, struct proto_msg *load,
                        struct net_payload **card, uint32_t silence_ms);
/* Takes the message's memory. */
void worker_epochs_commit(struct worker_epochs *epochs, struct proto_commit *commit);
void worker_epochs_release(struct worker_epochs *epochs, const struct proto_release *release);
/* What other workers cache is not to be had for the slice of this epoch: nobody waits for it. */
void worker_epochs_caches_lost(struct worker_epochs *epochs, uint64_t epoch);
void worker_epochs_hashes(struct worker_epochs *epochs, const struct proto_hashes *hashes,
                          struct net_payload **payload);
void worker_epochs_chunk(struct worker_epochs *epochs, const struct proto_chunk *chunk,
                         struct net_payload **payload);
/* How often experts were chosen; *payload NULL: nothing to tell. */
void worker_epochs_usage(struct worker_epochs *epochs, struct proto_msg *msg,
                         struct net_payload **payload);
/* The coordinator is gone: what it was preparing is given up. What serves is kept for the next
 * plan's sake, but its epoch is over. */
void worker_epochs_abandon(struct worker_epochs *epochs);

/* ---- of the stage before, and the next ---- */

/* key: of the stage before; NULL: the coordinator, which is before the first stage. */
void worker_epochs_batch(struct worker_epochs *epochs, const uint8_t *key,
                         struct proto_batch *batch, struct net_payload **payload, uint64_t now_ns);
/* Whether the key is that of a stage before this worker in some plan. */
bool worker_epochs_knows(const struct worker_epochs *epochs, const uint8_t *key);
void worker_epochs_link(struct worker_epochs *epochs, net_peer from, const uint8_t *key,
                        uint64_t epoch);
/* A question of any worker, KV_ASK or KV_FETCH: what does this one cache? */
void worker_epochs_cached(struct worker_epochs *epochs, net_peer from, const uint8_t *key,
                          const struct proto_msg *question);
/* What the computing thread produced: to the next stage. PROTO_NOTFOUND: its epoch is over. */
enum proto_status worker_epochs_pass_on(struct worker_epochs *epochs, struct worker_output *output,
                                        struct proto_error *error);

/* Whether weights of the slice in force were lost, see worker_slice_lost. */
bool worker_epochs_lost(const struct worker_epochs *epochs);

void worker_epochs_tick(struct worker_epochs *epochs, uint64_t now_ns);

/* The latest epoch that was loaded, 0: none. */
uint64_t worker_epochs_latest(const struct worker_epochs *epochs);

/* The epoch in force, 0: none; batches that were dropped as they were of none in force; operations
 * executed so far, and whether one is at this moment. */
uint64_t worker_epochs_serving(const struct worker_epochs *epochs);
uint64_t worker_epochs_stale(const struct worker_epochs *epochs);
uint64_t worker_epochs_steps(const struct worker_epochs *epochs);
bool worker_epochs_computing(const struct worker_epochs *epochs);

#endif
