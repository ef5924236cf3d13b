/* SPDX-License-Identifier: Apache-2.0 */
#include "net/clock.h"

#define BEST_LIVES 64u

void net_clock_init(struct net_clock *clock, uint64_t now_ns)
{
    *clock = (struct net_clock){.last_heard_ns = now_ns, .best_rtt_ns = UINT64_MAX};
}

void net_clock_heard(struct net_clock *clock, uint64_t now_ns)
{
    clock->last_heard_ns = now_ns;
}

void net_clock_sample(struct net_clock *clock, uint64_t sent_ns, uint64_t received_ns,
                      uint64_t replied_ns, uint64_t got_ns)
{
    if (got_ns < sent_ns || replied_ns < received_ns || replied_ns - received_ns > got_ns - sent_ns)
        return;
    uint64_t rtt = (got_ns - sent_ns) - (replied_ns - received_ns);
    if (rtt > clock->best_rtt_ns && clock->samples < BEST_LIVES) {
        clock->samples++;
        return;
    }
    clock->best_rtt_ns = rtt;
    /* ((received - sent) + (replied - got)) / 2, whose terms differ by the round trip; modulo
     * 2^64, as a peer's clock may be anywhere. */
    clock->offset_ns = (int64_t)(received_ns - sent_ns - rtt / 2);
    clock->samples = 0;
}

bool net_clock_overdue(const struct net_clock *clock, uint64_t now_ns, uint64_t deadline_ns)
{
    return now_ns > clock->last_heard_ns && now_ns - clock->last_heard_ns > deadline_ns;
}

uint64_t net_clock_to_own(const struct net_clock *clock, uint64_t peer_ns)
{
    return peer_ns - (uint64_t)clock->offset_ns;
}
