/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The connections that members of the cluster ask by on the worker's listener: one a member, for
 * one that connects anew leaves the old connection behind, and a listener knows so many only. The
 * loop's thread.
 */
#ifndef WORKER_MEMBERS_H
#define WORKER_MEMBERS_H

#include "net/link.h"

struct worker_members {
    struct {
        uint8_t key[PROTO_KEY_BYTES];
        net_peer peer; /* 0: nobody's place */
    } places[PROTO_MAX_WORKERS];
    unsigned next;
};

/* Whether the proof is that of a member with this key. Then the connection that it asked by before
 * is forgotten, or where there are too many another member's; else this one is. */
bool worker_members_admit(struct worker_members *members, const uint8_t *secret,
                          struct net_link *link, net_peer from, const uint8_t key[PROTO_KEY_BYTES],
                          const uint8_t proof[PROTO_KEY_BYTES]);

#endif
