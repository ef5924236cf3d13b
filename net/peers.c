/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The peers of a listener, found by routing id and by number. A routing id may be chosen by the
 * peer and taken up by another once it is free, so a peer is the pair of routing id and key.
 */
#include "net/internal.h"

#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#include "proto/log.h"

#define BUCKETS   1024u
#define MAX_PEERS 16384u
/* Forgotten bad peers that stay ignored; when there are more, the oldest is a new peer again. */
#define MAX_SHUNNED 1024u

struct net__peers {
    struct net__peer *by_route[BUCKETS], *by_number[BUCKETS];
    struct net__peer *shunned[MAX_SHUNNED]; /* in by_route only; a ring */
    size_t n_shunned;                       /* ever */
    size_t n;                               /* in by_number */
    net_peer last_number;
    bool full_logged;
};

struct net__peers *net__peers_create(void)
{
    return calloc(1, sizeof(struct net__peers));
}

void net__peers_destroy(struct net__peers *peers)
{
    if (!peers)
        return;
    for (size_t i = 0; i < BUCKETS; i++)
        for (struct net__peer *peer = peers->by_route[i]; peer;) {
            struct net__peer *next = peer->next_by_route;
            free(peer);
            peer = next;
        }
    free(peers);
}

/* FNV-1a. */
static size_t bucket(const uint8_t *route, size_t len)
{
    uint32_t hash = 2166136261u;
    for (size_t i = 0; i < len; i++)
        hash = (hash ^ route[i]) * 16777619u;
    return (hash ^ hash >> 16) % BUCKETS;
}

static struct net__peer *add(struct net__peers *peers, size_t at, const void *route,
                             size_t route_len, const uint8_t key[PROTO_KEY_BYTES])
{
    struct net__peer *peer = peers->n < MAX_PEERS ? calloc(1, sizeof *peer) : NULL;
    if (!peer)
        return NULL;
    peer->number = ++peers->last_number;
    memcpy(peer->key, key, PROTO_KEY_BYTES);
    peer->route_len = (uint8_t)route_len;
    memcpy(peer->route, route, route_len);
    peer->next_by_route = peers->by_route[at];
    peers->by_route[at] = peer;
    struct net__peer **head = &peers->by_number[peer->number % BUCKETS];
    peer->next_by_number = *head;
    *head = peer;
    peers->n++;
    return peer;
}

struct net__peer *net__peers_take(struct net__peers *peers, const void *route, size_t route_len,
                                  const uint8_t key[PROTO_KEY_BYTES])
{
    size_t at = bucket(route, route_len);
    for (struct net__peer *peer = peers->by_route[at]; peer; peer = peer->next_by_route)
        if (peer->route_len == route_len && memcmp(peer->route, route, route_len) == 0 &&
            memcmp(peer->key, key, PROTO_KEY_BYTES) == 0)
            return peer;
    return add(peers, at, route, route_len, key);
}

/* The key that CURVE has proven. */
static bool proven_key(zmq_msg_t *frame, uint8_t key[PROTO_KEY_BYTES])
{
    const char *user = zmq_msg_gets(frame, "User-Id");
    size_t len = 0;
    return user &&
           sodium_hex2bin(key, PROTO_KEY_BYTES, user, strlen(user), NULL, &len, NULL) == 0 &&
           len == PROTO_KEY_BYTES;
}

struct net__peer *net__peers_sender(struct net__peers *peers, struct net__frames *frames)
{
    uint8_t key[PROTO_KEY_BYTES];
    if (frames->n == 0 || !proven_key(&frames->header, key))
        return NULL;
    struct net__peer *peer = net__peers_take(peers, frames->route, frames->route_len, key);
    if (!peer && !peers->full_logged) {
        peers->full_logged = true;
        proto_log(PROTO_LOG_ERROR, "NET-PEERS-FULL", "most=%u", MAX_PEERS);
    }
    return peer;
}

void net__peers_shun(struct net__peer *peer, const char *endpoint, const struct proto_error *error)
{
    char id[17];
    sodium_bin2hex(id, sizeof id, peer->key, 8);
    proto_log(PROTO_LOG_WARN, "NET-FRAME-BAD", "endpoint=%s peer=%llu key=%s... error=\"%s\"",
              endpoint, (unsigned long long)peer->number, id, error->text);
    peer->bad = true;
}

struct net__peer *net__peers_find(const struct net__peers *peers, net_peer number)
{
    struct net__peer *peer = peers->by_number[number % BUCKETS];
    while (peer && peer->number != number)
        peer = peer->next_by_number;
    return peer;
}

static void remove_route(struct net__peers *peers, struct net__peer *peer)
{
    struct net__peer **at = &peers->by_route[bucket(peer->route, peer->route_len)];
    while (*at != peer)
        at = &(*at)->next_by_route;
    *at = peer->next_by_route;
    free(peer);
}

void net__peers_forget(struct net__peers *peers, net_peer number)
{
    struct net__peer **at = &peers->by_number[number % BUCKETS];
    while (*at && (*at)->number != number)
        at = &(*at)->next_by_number;
    struct net__peer *peer = *at;
    if (!peer)
        return;
    *at = peer->next_by_number;
    peers->n--;
    if (!peer->bad) {
        remove_route(peers, peer);
        return;
    }
    struct net__peer **slot = &peers->shunned[peers->n_shunned++ % MAX_SHUNNED];
    if (*slot)
        remove_route(peers, *slot);
    *slot = peer;
}
