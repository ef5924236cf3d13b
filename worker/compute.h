/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The computing thread of a worker: takes batches in the order they came, runs the slice's
 * program, and hands what comes out (residual rows for the next stage, or candidates) back. The
 * loop's thread submits; `deliver` is called on the computing thread.
 */
#ifndef WORKER_COMPUTE_H
#define WORKER_COMPUTE_H

#include "worker/asker.h"
#include "worker/slice.h"

/* A message that a batch produced; the receiver frees it with worker_output_destroy. */
struct worker_output {
    void *owner;     /* what deliver was given as arg */
    bool to_next;    /* else to the coordinator */
    bool batch_done; /* the last message of its batch */
    net_peer to;     /* of the listener: who asked; 0: it is no answer to another worker */
    struct proto_msg msg;
    struct net_payload *payload;
};
void worker_output_destroy(struct worker_output *output);

struct worker_compute_options {
    const struct kern_table *table;
    unsigned threads;
    const char *cache_dir; /* where the machine's profile is kept; NULL: the default */
    uint64_t machine;      /* see struct worker_profile_options */
    /* Takes the output. Never blocks. */
    void (*deliver)(void *arg, struct worker_output *output);
    void *arg;
};

struct worker_compute;

enum proto_status worker_compute_create(struct worker_compute **out,
                                        const struct worker_compute_options *options,
                                        struct proto_error *error);
/* Drops what is queued, waits for the batch in work. NULL is allowed. */
void worker_compute_destroy(struct worker_compute *compute);

/* The pool that executors of this thread use. */
struct kern_pool *worker_compute_pool(struct worker_compute *compute);

/* Queues a batch for a slice whose executor asks by `asker`. Takes the batch's memory (zeroing
 * *batch) and *payload, also on failure. The payload has been checked to have the right size. Slice
 * and asker stay valid until a call queued after worker_compute_forget has come. */
enum proto_status worker_compute_batch(struct worker_compute *compute, struct worker_slice *slice,
                                       struct worker_asker *asker, struct proto_batch *batch,
                                       struct net_payload **payload, uint64_t received_ns,
                                       struct proto_error *error);

/* Drops the slice's batches that are queued; one that is in work goes on. */
void worker_compute_forget(struct worker_compute *compute, const struct worker_slice *slice);

/* Something to be done on the computing thread after what is queued. */
struct worker_call {
    /* Comes once; dropped: the thread has ended, and the caller's is another one. */
    void (*fn)(struct worker_call *call, bool dropped);
};
enum proto_status worker_compute_call(struct worker_compute *compute, struct worker_call *call,
                                      struct proto_error *error);

/* Hands an output on as those of batches are; for calls. */
void worker_compute_deliver(struct worker_compute *compute, struct worker_output *output);

/* Whether a batch is in work that does not wait for another worker's experts. */
bool worker_compute_active(struct worker_compute *compute);

/* Queues a measurement of the read bandwidth; its answer is delivered like a batch's. */
enum proto_status worker_compute_measure(struct worker_compute *compute, uint64_t bytes,
                                         struct proto_error *error);

/* Asks for a profile of the machine, which is delivered; what fails is logged. One that is kept
 * comes at once. Else the thread that computes measures it, while it has nothing else to do: what
 * comes meanwhile is done first, and measuring begins anew when there was no work for a second. */
void worker_compute_profile(struct worker_compute *compute);

/* From one to the other no profile is measured: the machine is busy with something else. */
void worker_compute_hold(struct worker_compute *compute);
void worker_compute_let_go(struct worker_compute *compute);

#endif
