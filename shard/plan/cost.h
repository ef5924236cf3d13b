/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How fast a placement would be. All times in seconds.
 *
 * Products of R rows with weights of b bytes and o operations a row take
 *     max(b / read_bytes_s, R o / rate(R)),  rate(R) = ops_rows_s R / (R + ops_rows_s/ops_row_s -
 * 1) so that rate(1) = ops_row_s. Attention takes max(bytes / read_bytes_s, operations /
 * ops_float_s) besides. A stage's batch takes the sum over its layers and overhead_s; a hop takes
 * rtt / 2 and the rows' bytes / bytes_s.
 *
 * At a layer with experts elsewhere the stage sends its requests one after another, its sibling
 * processor's over the local link, computes its own experts and the shared one, and goes on when
 * the last answer is there: the slowest of the hosts that the rows use, on average over the rows'
 * choices, with answers one after another on the stage's link.
 */
#ifndef SHARD_PLAN_COST_H
#define SHARD_PLAN_COST_H

#include "shard/plan/placement.h"

/* What a speed is asked for. Zero: the default in brackets. */
struct plan_load {
    uint64_t depth;     /* position of the decoded token [half of ctx, at most 4,096] */
    uint32_t prompt;    /* tokens of a prompt [512] */
    uint32_t answer;    /* tokens that follow it, for weighing requests [256] */
    uint32_t sequences; /* at once, where there are many [the shape's max_seqs] */
};

/* Where the time goes: products bound by arithmetic, by memory, links, and waiting for threads to
 * wake and for experts elsewhere longer than for the wire. */
struct plan_budget {
    double compute_s, memory_s, wire_s, wait_s;
};

enum plan_bottleneck_kind {
    PLAN_BOUND_COMPUTE, /* arithmetic of `machine` */
    PLAN_BOUND_MEMORY,  /* memory bandwidth of `machine` */
    PLAN_BOUND_LINK,    /* the link, or links, of `machine` */
    PLAN_BOUND_LATENCY, /* round trips of `machine` */
    PLAN_BOUND_WAKE     /* overhead_s or request_s of `machine` */
};

struct plan_bottleneck {
    enum plan_bottleneck_kind kind;
    uint32_t machine;
    enum plan_device_kind device;
    double share; /* of the time */
};

struct plan_cost {
    /* One sequence. */
    double decode_s;          /* a token */
    struct plan_budget token; /* sums to decode_s */
    struct plan_bottleneck decode_bound;
    double frames;     /* on the wire a token, between processes: 2 x MoE layers x hosts
                          used + hops; the token id and its answer count as hops */
    double wire_bytes; /* of rows a token, on links between machines or processes, without
                          frames' headers */
    /* A prompt of load.prompt tokens in chunks, alone. */
    double prompt_s;
    struct plan_bottleneck prefill_bound;
    uint32_t chunk_rows;
    /* Many: as many batches in flight as stages, load.sequences sequences decoding. */
    double step_s; /* until every sequence has one more token */
    double row_s;  /* of the busiest resource, for a token of a prompt: with many prompts
                      1 / row_s tokens a second are read */
    struct plan_bottleneck many_bound;
    /* What a search minimises: seconds of a request (prompt and answer) alone, and its share of the
     * cluster's time among many. */
    double request_alone_s, request_many_s;
};

/* What one worker does; for tables. */
struct plan_usage {
    struct plan_budget token; /* its part in a token; sums to decode_s over workers, but for the
                                 coordinator's hops */
    double busy;      /* share of decode_s in which it works; a stage works also while it waits */
    double prefill_s; /* that it computes for a prompt's token */
};

/* The cluster is complete, the placement whole; whether it fits does not matter. usage: n_workers
 * of them, or NULL. Fails only for want of memory. */
enum proto_status plan_cost_estimate(struct plan_cost *out, struct plan_usage *usage,
                                     const struct plan_placement *placement,
                                     const struct plan_shape *shape,
                                     const struct plan_cluster *cluster,
                                     const struct plan_load *load, struct proto_error *error);

/* load with its defaults in place. */
struct plan_load plan_load_complete(const struct plan_load *load, const struct plan_shape *shape);

/* "memory bandwidth of mini (62% of the time)". */
#define PLAN_BOTTLENECK_TEXT 160
const char *plan_bottleneck_text(const struct plan_bottleneck *bottleneck,
                                 const struct plan_cluster *cluster,
                                 char text[PLAN_BOTTLENECK_TEXT]);

#endif
