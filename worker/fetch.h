/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The bridge between the loading thread, which asks for pieces and waits, and the loop's thread,
 * which sends the questions to the coordinator and gets the answers.
 */
#ifndef WORKER_FETCH_H
#define WORKER_FETCH_H

#include "net/link.h"
#include "worker/load.h"

struct worker_fetcher;

struct worker_fetcher_options {
    uint64_t epoch;
    uint32_t deadline_ms; /* longest silence while an answer is due */
    /* Sends a message to the coordinator; called on the loading thread, any number of times. The
     * message holds no pointers. */
    enum proto_status (*send)(void *arg, const struct proto_msg *msg, struct proto_error *error);
    void *arg;
};

enum proto_status worker_fetcher_create(struct worker_fetcher **out,
                                        const struct worker_fetcher_options *options,
                                        struct proto_error *error);
/* The loading thread has ended. NULL is allowed. */
void worker_fetcher_destroy(struct worker_fetcher *fetcher);

/* What the loading thread calls. */
struct worker_fetch worker_fetcher_calls(struct worker_fetcher *fetcher);

/* Answers, from the loop's thread; take *payload. Answers nobody asked for are dropped. */
void worker_fetcher_hashes(struct worker_fetcher *fetcher, const struct proto_hashes *hashes,
                           struct net_payload **payload);
void worker_fetcher_chunk(struct worker_fetcher *fetcher, const struct proto_chunk *chunk,
                          struct net_payload **payload);
/* Ends all waits with this error. */
void worker_fetcher_fail(struct worker_fetcher *fetcher, const struct proto_error *error);

#endif
