/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Machines and links as the planner sees them: numbers only, from a cluster file or measured by
 * workers. What nobody knows is estimated by plan_cluster_complete, and said to be.
 */
#ifndef SHARD_PLAN_CLUSTER_H
#define SHARD_PLAN_CLUSTER_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/status.h"

#define PLAN_MAX_MACHINES 10000u

/* A processor with its memory: a machine's CPU, or a GPU in it. Zero: not known. */
struct plan_device {
    uint64_t memory_bytes;  /* for weights, KV and scratch */
    double read_bytes_s;    /* that kernels read from it */
    double ops_row_s;       /* multiplications and additions of int8 products of one row */
    double ops_rows_s;      /* and of many rows, 512 say */
    double ops_float_s;     /* of attention, F32 */
};

struct plan_machine {
    char name[64];
    struct plan_device cpu, gpu; /* gpu.memory_bytes 0: none */
    double disk_bytes_s;         /* that weights are read with */
    double overhead_s;           /* of a batch besides its operations: waking threads, frames */
    bool coordinator;            /* the coordinator runs here */
    uint32_t estimated;          /* bit i: field i of the above was estimated, see cluster.c */
};

/* One direction of a pair of machines. */
struct plan_link {
    double rtt_s;   /* of a small frame and its answer */
    double bytes_s;
};

struct plan_cluster {
    uint32_t n_machines;
    struct plan_machine *machines;
    struct plan_link any; /* between any two that `links` does not name */
    uint32_t n_links;
    struct plan_named_link {
        uint32_t from, to;
        struct plan_link link;
    } *links; /* sorted by (from, to) */
    bool link_estimated;
};

#endif
