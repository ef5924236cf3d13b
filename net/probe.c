/* SPDX-License-Identifier: Apache-2.0 */
#include "net/probe.h"

#include <stdlib.h>
#include <string.h>

#define FIRST_BYTES (128u << 10) /* times a power of GROWTH: NET_PROBE_MOST_BYTES */
#define GROWTH      4u
#define LONG_S      0.075 /* the next payload would take four times as long */
#define LEAST_SHARE 0.1   /* of a payload's time that is not the round trip */

void net_probe_init(struct net_probe *probe, uint64_t number)
{
    *probe = (struct net_probe){.number = number};
}

void net_probe_sent(struct net_probe *probe, uint64_t now_ns)
{
    probe->sent_ns = now_ns;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

/* The first trip pays for the connection's handshake. */
static void take_trip(struct net_probe *probe, double seconds)
{
    if (probe->trips++ == 0)
        return;
    probe->times[probe->trips - 2] = seconds;
    if (probe->trips <= NET_PROBE_TRIPS)
        return;
    qsort(probe->times, NET_PROBE_TRIPS, sizeof probe->times[0], by_value);
    probe->rtt_s = probe->times[NET_PROBE_TRIPS / 2];
    probe->bytes = FIRST_BYTES;
}

/* Whether it was the last payload. */
static bool take_payload(struct net_probe *probe, double seconds)
{
    double way = seconds - probe->rtt_s;
    double rate = probe->bytes / (way > LEAST_SHARE * seconds ? way : LEAST_SHARE * seconds);
    if (probe->bytes < NET_PROBE_MOST_BYTES) {
        probe->bytes_s = rate;
        probe->bytes *= GROWTH;
        return seconds > LONG_S;
    }
    probe->rates[probe->largest++] = rate;
    qsort(probe->rates, probe->largest, sizeof rate, by_value);
    probe->bytes_s = probe->rates[probe->largest / 2];
    return probe->largest == NET_PROBE_LARGEST;
}

bool net_probe_echoed(struct net_probe *probe, uint64_t number, uint64_t now_ns, bool *done)
{
    *done = false;
    if (number != probe->number || now_ns < probe->sent_ns)
        return false;
    uint64_t ns = now_ns - probe->sent_ns;
    double seconds = (double)(ns ? ns : 1) * 1e-9;
    probe->number++;
    if (probe->bytes)
        *done = take_payload(probe, seconds);
    else
        take_trip(probe, seconds);
    return !*done;
}

static void free_payload(void *data, void *arg)
{
    (void)arg;
    free(data);
}

enum proto_status net_probe_send(struct net_probe *probe, struct net_link *link, net_peer to,
                                 const uint8_t *proof, struct proto_error *error)
{
    struct proto_msg msg = {.kind = PROTO_MSG_ECHO, .echo = {.number = probe->number}};
    struct net_payload *payload = NULL;
    if (proof)
        memcpy(msg.echo.proof, proof, PROTO_KEY_BYTES);
    if (probe->bytes) {
        void *bytes = calloc(1, probe->bytes);
        payload = bytes ? net_payload_wrap(bytes, probe->bytes, free_payload, NULL) : NULL;
        if (!payload) {
            free(bytes);
            return proto_fail_nomem(error, probe->bytes, "measuring a link");
        }
    }
    net_probe_sent(probe, net_now_ns());
    return net_link_send(link, to, &msg, &payload, error);
}

void net_probe_answer(struct net_link *link, net_peer to, const struct proto_echo *echo)
{
    struct proto_msg msg = {.kind = PROTO_MSG_ECHOED, .echoed = {.number = echo->number}};
    net_link_send(link, to, &msg, NULL, NULL);
}
