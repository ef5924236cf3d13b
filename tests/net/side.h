/* SPDX-License-Identifier: Apache-2.0 */
/* One end of a link for the tests: a loop on a thread of its own, and a record of what its link
 * was told. Messages are pings that carry a number; a payload's bytes follow from the number. */
#ifndef TESTS_NET_SIDE_H
#define TESTS_NET_SIDE_H

#include <pthread.h>
#include <stdatomic.h>

#include "net/link.h"

#define SIDE_HEARD 16384

struct side_heard {
    uint64_t number;
    net_peer from;
    uint8_t key[PROTO_KEY_BYTES];
    size_t payload_len;
    bool has_payload, payload_ok;
};

struct side {
    struct net_loop *loop;
    pthread_t thread;
    struct net_keypair key;
    struct net_link *link;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    atomic_bool echo;       /* every ping is sent back, payload and all */
    atomic_bool quit;       /* the link is destroyed by its first message */
    atomic_bool forget_bad; /* a bad peer is forgotten at once */

    /* Under lock. */
    unsigned n_heard, n_bad, n_trouble, n_closed, n_released, n_done;
    struct side_heard heard[SIDE_HEARD];
    net_peer bad_from;
    struct proto_error bad, trouble;
};

void side_start(struct side *side);
/* Ends the loop and its link. */
void side_finish(struct side *side);

/* Runs fn(arg) on the side's loop and waits for it. */
void side_call(struct side *side, void (*fn)(void *arg), void *arg);

enum proto_status side_listen(struct side *side, const char *endpoint, struct proto_error *error);
void side_connect(struct side *side, const char *endpoint, const uint8_t server_key[32]);
void side_close(struct side *side, int linger_ms);

/* Sends ping `number`, with a payload of payload_len bytes if that is not SIDE_NO_PAYLOAD. */
#define SIDE_NO_PAYLOAD SIZE_MAX
enum proto_status side_send(struct side *side, net_peer to, uint64_t number, size_t payload_len);

/* The value of one of the counters above, now. */
unsigned side_count(struct side *side, const unsigned *counter);

/* Waits until *counter (one of the above) is at least n; false if that takes a minute. */
bool side_wait(struct side *side, const unsigned *counter, unsigned n);

#endif
