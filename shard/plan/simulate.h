/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A placement at work, as discrete events: sequences arrive, wait, are read in chunks and answered
 * a token at a time in batches, of which as many are in flight as there are stages; processors,
 * and the outgoing and incoming side of each machine's link, serve one thing at a time in the order
 * of arrival. Times of single operations are the cost model's (shard/plan/cost.h); queues, uneven
 * choices of experts and chance are what it leaves out. Seeded: the same options give the same
 * answer.
 */
#ifndef SHARD_PLAN_SIMULATE_H
#define SHARD_PLAN_SIMULATE_H

#include "shard/plan/cost.h"

struct plan_simulation {
    uint64_t seed;
    uint32_t requests; /* that arrive in all */
    double arrivals_s; /* a second, as a Poisson process; 0: closed, `clients` of them always */
    uint32_t clients;  /* closed: each sends a request when its last is answered */
    uint32_t max_seqs; /* sequences in work at once, others wait; 0: the shape's */
    uint32_t max_rows; /* of a batch; 0: the shape's */
    uint32_t prompt, answer; /* tokens of a request; prompt 0: it starts with one token */
    bool spread;             /* lengths of prompts and answers are exponential about these */
    double zipf;             /* experts' popularity: the r-th most popular of a layer's is chosen in
                                proportion to r^-zipf; 0: as the shape says, else all alike */
};

struct plan_percentiles {
    double mean, p50, p90, p99, max;
};

struct plan_simulated {
    double seconds; /* simulated */
    double prompt_tokens_s, answer_tokens_s;
    double requests_s;
    struct plan_percentiles first_s;   /* from arrival to the first token */
    struct plan_percentiles token_s;   /* between tokens of a sequence */
    struct plan_percentiles request_s; /* from arrival to the last token */
    double queue_mean;                 /* requests that wait for a place, on average over time */
    /* The busiest processor and link: share of the time that it works. */
    struct plan_bottleneck busiest, busiest_link;
    bool saturated; /* open: requests arrive faster than they are answered */
};

/* The placement is whole, the cluster complete. PROTO_LIMIT: a number out of range. */
enum proto_status plan_simulate(struct plan_simulated *out, const struct plan_placement *placement,
                                const struct plan_shape *shape, const struct plan_cluster *cluster,
                                const struct plan_simulation *options, struct proto_error *error);

/* Where it saturates: the requests a second that the placement answers when there is always one
 * waiting, and what is busiest then (`options` with its arrivals replaced). */
enum proto_status plan_saturation(struct plan_simulated *out,
                                  const struct plan_placement *placement,
                                  const struct plan_shape *shape,
                                  const struct plan_cluster *cluster,
                                  const struct plan_simulation *options, struct proto_error *error);

#endif
