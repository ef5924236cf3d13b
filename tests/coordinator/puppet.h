/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A worker that does as a test says. It joins over TCP as the only stage, answers pings, says that
 * it is ready without having loaded anything, and answers batches with made-up results.
 */
#ifndef TESTS_COORDINATOR_PUPPET_H
#define TESTS_COORDINATOR_PUPPET_H

#include <pthread.h>
#include <stdbool.h>

#include "net/keys.h"
#include "net/link.h"

struct puppet;

struct puppet_options {
    uint32_t version; /* of the protocol; 0: the right one */
    bool wrong_proof;
    unsigned bad_load;  /* the number of a load that fails; 0: none */
    uint32_t unreached; /* what it says then, as in struct proto_failed */
    /* Answers a batch, on the puppet's loop; NULL: not at all. */
    void (*on_batch)(struct puppet *puppet, const struct proto_batch *batch);
};

struct puppet {
    struct puppet_options options;
    const struct net_cluster_keys *cluster;
    struct net_keypair key;
    struct net_loop *loop;
    struct net_link *link;
    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    unsigned heard[64]; /* by kind; under the mutex */
    char refusal[PROTO_ERROR_TEXT_BYTES];
    uint64_t epoch; /* of the last load */
};

void puppet_start(struct puppet *puppet, const char *endpoint,
                  const struct net_cluster_keys *cluster, const struct puppet_options *options);
void puppet_finish(struct puppet *puppet);

/* Leaves the cluster and joins again. */
void puppet_rejoin(struct puppet *puppet);

/* Waits until n messages of a kind have come; false if that takes a minute. */
bool puppet_wait(struct puppet *puppet, enum proto_kind kind, unsigned n);
unsigned puppet_heard(struct puppet *puppet, enum proto_kind kind);

/* On the puppet's loop or, with `post`, from any thread. bytes may be NULL. */
void puppet_send(struct puppet *puppet, const struct proto_msg *msg, const void *bytes, size_t len);
/* Copies what msg points at only by reference: it has to be there until the next answer. */
void puppet_post(struct puppet *puppet, const struct proto_msg *msg);

#endif
