/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Brings pieces from the coordinator and from other workers that hold them: the bridge between the
 * loading thread, which asks for chunks and waits, and the loop's thread, which sends the questions
 * and gets the answers.
 *
 * Several chunks are under way at each source, the next is asked of the one that is expected to
 * bring it first, and the coordinator is spared. Who is silent is left, and asked no more; who
 * lacks a piece is asked for others. Bytes are worth nothing until the loading thread has hashed
 * them: it says so (judge), and after a piece of several sources that was wrong it is asked of one
 * source at a time, so that it shows who lied.
 */
#ifndef WORKER_FETCH_H
#define WORKER_FETCH_H

#include "net/link.h"
#include "worker/load.h"

struct worker_fetcher;

struct worker_fetcher_options {
    uint64_t epoch;
    uint32_t deadline_ms; /* longest silence of everybody while an answer is due */
    uint32_t silence_ms;  /* after which another worker is left; 0: 3000 */
    /* Sends a message to the coordinator; called on the loading thread, any number of times. The
     * message holds no pointers. */
    enum proto_status (*send)(void *arg, const struct proto_msg *msg, struct proto_error *error);
    void *arg;
    /* For connections to other workers; loop NULL: the coordinator alone is asked. */
    struct net_loop *loop;
    const struct net_keypair *own; /* borrowed */
    const uint8_t *secret;         /* the cluster's; borrowed */
};

enum proto_status worker_fetcher_create(struct worker_fetcher **out,
                                        const struct worker_fetcher_options *options,
                                        struct proto_error *error);
/* Lets go of the connections to other workers: on the loop's thread, before the fetcher is
 * destroyed. Who is still waiting for one of them asks others. May be repeated. NULL is allowed. */
void worker_fetcher_close(struct worker_fetcher *fetcher);
/* After the loading, on any thread. NULL is allowed. */
void worker_fetcher_destroy(struct worker_fetcher *fetcher);

/* What the loading thread calls. */
struct worker_fetch worker_fetcher_calls(struct worker_fetcher *fetcher);

/* Answers of the coordinator, from the loop's thread; take *payload. Answers nobody asked for are
 * dropped. */
void worker_fetcher_hashes(struct worker_fetcher *fetcher, const struct proto_hashes *hashes,
                           struct net_payload **payload);
void worker_fetcher_chunk(struct worker_fetcher *fetcher, const struct proto_chunk *chunk,
                          struct net_payload **payload);
/* Ends all waits with this error. */
void worker_fetcher_fail(struct worker_fetcher *fetcher, const struct proto_error *error);

#endif
