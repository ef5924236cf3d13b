/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Brings the slice that a load asks for into memory, on a thread of its own, which first waits for
 * the computing thread and the experts' thread to finish what they had of the slice before, and
 * last reaches the workers that hold experts of the stage's layers. A slice that already is what is
 * asked for serves again. All calls are made on the loop's thread.
 */
#ifndef WORKER_LOADER_H
#define WORKER_LOADER_H

#include "worker/asker.h"
#include "worker/compute.h"
#include "worker/expert_server.h"

struct worker_loader;

struct worker_loader_options {
    struct net_loop *loop;
    struct worker_compute *compute; /* borrowed, as are all of these */
    struct worker_asker *asker;
    struct worker_expert_server *experts;
    const struct kern_table *table;
    unsigned threads;
    const char *cache_dir;
    bool keep_packed; /* keep packed weights in it */
    /* Called on the loop's thread: a message for the coordinator, and the end of a load, with the
     * slice or the error. Neither after worker_loader_stop. */
    void (*tell)(void *arg, const struct proto_msg *msg);
    void (*done)(void *arg, enum proto_status status, const struct proto_error *error);
    void *arg;
};

enum proto_status worker_loader_create(struct worker_loader **out,
                                       const struct worker_loader_options *options,
                                       struct proto_error *error);
/* Ends the load in work and waits for its thread. NULL is allowed. */
void worker_loader_stop(struct worker_loader *loader);
/* After the loop, which may still hold what was posted. NULL is allowed. */
void worker_loader_destroy(struct worker_loader *loader);

/* Puts a load in force, and starts on it, or cancels the one in work, whose end then starts it.
 * Hosts that are silent for silence_ms are given up. Takes the message's memory and *card. A load
 * that cannot be started ends with `done` before this returns. */
void worker_loader_take(struct worker_loader *loader, struct proto_msg *load,
                        struct net_payload **card, uint32_t silence_ms);

/* The load in force; its epoch is 0 while there is none. */
const struct proto_load *worker_loader_load(const struct worker_loader *loader);
/* The slice of that load; NULL while it is being loaded, and after that failed. */
struct worker_slice *worker_loader_slice(const struct worker_loader *loader);

/* Answers of the coordinator. */
void worker_loader_hashes(struct worker_loader *loader, const struct proto_hashes *hashes,
                          struct net_payload **payload);
void worker_loader_chunk(struct worker_loader *loader, const struct proto_chunk *chunk,
                         struct net_payload **payload);

/* Ends the load in work, if there is one, soon. */
void worker_loader_cancel(struct worker_loader *loader, const struct proto_error *why);

#endif
