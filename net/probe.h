/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Measures a link by echoes (PROTO_MSG_ECHO, ECHOED); pure but for sending, the caller brings the
 * times. Small echoes first, whose median is the round trip; then payloads of growing size until
 * one takes long enough, or to the largest, of which several are sent and the median counts. They
 * are a single frame each as a batch's rows are, so that encryption counts. The payload's way is
 * timed, the answer is small: this is one direction.
 */
#ifndef NET_PROBE_H
#define NET_PROBE_H

#include "net/link.h"

#define NET_PROBE_TRIPS   15u
#define NET_PROBE_LARGEST 3u /* payloads of the largest size */

/* No payload is larger; the time of the last one is about 0.3 s at most on links that the one
 * before it took less than 75 ms on. */
#define NET_PROBE_MOST_BYTES (8u << 20)

struct net_probe {
    uint64_t number, sent_ns; /* of the echo that is under way */
    uint32_t bytes;           /* its payload; 0: none */
    unsigned trips;           /* small ones that came back; the first is not counted */
    unsigned largest;         /* payloads of the largest size that came back */
    double times[NET_PROBE_TRIPS], rates[NET_PROBE_LARGEST];
    double rtt_s, bytes_s; /* 0: not known yet */
};

/* Numbers of echoes follow `number`, so that an answer to an earlier probe is not taken for one to
 * this. */
void net_probe_init(struct net_probe *probe, uint64_t number);

/* The echo to send now: its number and payload are in probe->number and probe->bytes. */
void net_probe_sent(struct net_probe *probe, uint64_t now_ns);

/* An answer came. True: send the next echo; false: it is none to the echo under way, or *done. */
bool net_probe_echoed(struct net_probe *probe, uint64_t number, uint64_t now_ns, bool *done);

/* Sends the next echo over a link. proof: see struct proto_echo; NULL where none is asked for. */
enum proto_status net_probe_send(struct net_probe *probe, struct net_link *link, net_peer to,
                                 const uint8_t *proof, struct proto_error *error);

/* Answers an echo. */
void net_probe_answer(struct net_link *link, net_peer to, const struct proto_echo *echo);

#endif
