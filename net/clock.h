/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Liveness and clock offset of a peer, from pings (pure; the caller brings the times).
 * offset = peer clock - own clock, from the exchange with the shortest round trip:
 * ((received - sent) + (replied - got)) / 2 (NTP, RFC 5905 section 8).
 */
#ifndef NET_CLOCK_H
#define NET_CLOCK_H

#include <stdbool.h>
#include <stdint.h>

struct net_clock {
    uint64_t last_heard_ns; /* own clock */
    uint64_t best_rtt_ns;   /* UINT64_MAX: none yet */
    int64_t offset_ns;
    uint32_t samples; /* others since the best one */
};

void net_clock_init(struct net_clock *clock, uint64_t now_ns);
/* Anything arrived from the peer. */
void net_clock_heard(struct net_clock *clock, uint64_t now_ns);
/* A ping's answer: sent and got on our clock, received and replied on the peer's. Times that
 * contradict each other are ignored. The best sample is forgotten after 64 others, so that drifting
 * clocks are followed. */
void net_clock_sample(struct net_clock *clock, uint64_t sent_ns, uint64_t received_ns,
                      uint64_t replied_ns, uint64_t got_ns);
bool net_clock_overdue(const struct net_clock *clock, uint64_t now_ns, uint64_t deadline_ns);
/* A time of the peer's clock on ours. */
uint64_t net_clock_to_own(const struct net_clock *clock, uint64_t peer_ns);

#endif
