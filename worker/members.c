/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/members.h"

#include <string.h>

bool worker_members_admit(struct worker_members *members, const uint8_t *secret,
                          struct net_link *link, net_peer from, const uint8_t key[PROTO_KEY_BYTES],
                          const uint8_t proof[PROTO_KEY_BYTES])
{
    if (!net_proof_ok(proof, secret, key)) {
        net_link_forget(link, from);
        return false;
    }
    unsigned i = 0;
    while (i < PROTO_MAX_WORKERS && memcmp(members->places[i].key, key, PROTO_KEY_BYTES) != 0)
        i++;
    if (i == PROTO_MAX_WORKERS)
        i = members->next++ % PROTO_MAX_WORKERS;
    if (members->places[i].peer && members->places[i].peer != from)
        net_link_forget(link, members->places[i].peer);
    members->places[i].peer = from;
    memcpy(members->places[i].key, key, PROTO_KEY_BYTES);
    return true;
}
