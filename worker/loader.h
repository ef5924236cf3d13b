/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The thread that builds slices and takes them down, one after another in the order of asking, so
 * that a slice whose weights another one shares is there until that one is built. After the slice
 * it reaches the workers that hold experts of the stage's layers.
 */
#ifndef WORKER_LOADER_H
#define WORKER_LOADER_H

#include "worker/compute.h"
#include "worker/deployment.h"
#include "worker/expert_server.h"

struct worker_loader;

struct worker_loader_options {
    struct net_loop *loop;
    struct worker_compute *compute; /* borrowed, as are all of these */
    struct worker_expert_server *experts;
    const struct kern_table *table;
    unsigned threads;
    const char *cache_dir;
    bool keep_packed; /* keep packed weights in it */
    uint64_t memory_bytes;
    uint64_t cache_limit_bytes;
    struct worker_supply *supply;
    uint64_t boundary_bytes; /* for rows that were sent on */
    /* Called on the loop's thread: a message for the coordinator, and the end of a build. Neither
     * after worker_loader_stop. */
    void (*tell)(void *arg, const struct proto_msg *msg);
    void (*done)(void *arg, uint64_t epoch, enum proto_status status,
                 const struct proto_error *error);
    void *arg;
};

enum proto_status worker_loader_create(struct worker_loader **out,
                                       const struct worker_loader_options *options,
                                       struct proto_error *error);
/* Drops what is still to be built, takes down what is to be, and waits for the thread; what it
 * builds has been cancelled. NULL is allowed. */
void worker_loader_stop(struct worker_loader *loader);
/* After the loop, which may still hold what was posted. NULL is allowed. */
void worker_loader_destroy(struct worker_loader *loader);

/* For a fetcher's options: sends by way of the loop. */
enum proto_status worker_loader_send(void *loader, const struct proto_msg *msg,
                                     struct proto_error *error);

/* Builds the deployment's slice, sharing weights with those of `before` that have one. Hosts that
 * are silent for silence_ms are given up. The deployment stays until it is disposed of, and those
 * before until then too. The loop's thread. */
enum proto_status worker_loader_build(struct worker_loader *loader, struct worker_deployment *d,
                                      struct worker_deployment *const *before, uint32_t n_before,
                                      uint32_t silence_ms, struct proto_error *error);

/* Takes a deployment down that nobody computes with any more. Any thread; at once after
 * worker_loader_stop. */
void worker_loader_dispose(struct worker_loader *loader, struct worker_deployment *d);

#endif
