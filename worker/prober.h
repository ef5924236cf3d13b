/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Measures links for the coordinator: to other workers, over a connection like the one that rows
 * travel on, or to the coordinator over the worker's own. One at a time, for a few tenths of a
 * second, at the coordinator's word. The loop's thread.
 */
#ifndef WORKER_PROBER_H
#define WORKER_PROBER_H

#include "net/probe.h"

struct worker_prober_options {
    struct net_loop *loop;
    const struct net_keypair *own;
    const uint8_t *secret;        /* the cluster's */
    struct net_link *coordinator; /* outlives the prober */
};

struct worker_prober;

enum proto_status worker_prober_create(struct worker_prober **out,
                                       const struct worker_prober_options *options,
                                       struct proto_error *error);
/* NULL is allowed. */
void worker_prober_destroy(struct worker_prober *prober);

/* Begins a measurement, whose result (PROBED) goes to the coordinator; gives up one that is under
 * way. */
void worker_prober_start(struct worker_prober *prober, const struct proto_probe *probe);

/* The coordinator's answer to an echo. */
void worker_prober_echoed(struct worker_prober *prober, const struct proto_echoed *echoed);

/* To be called now and then: ends what takes too long. */
void worker_prober_tick(struct worker_prober *prober, uint64_t now_ns);

#endif
