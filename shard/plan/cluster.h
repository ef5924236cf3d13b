/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Machines and links as the planner sees them: numbers only, from a cluster file or measured by
 * workers. What nobody knows is estimated by plan_cluster_complete, and said to be.
 */
#ifndef SHARD_PLAN_CLUSTER_H
#define SHARD_PLAN_CLUSTER_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/table.h"
#include "proto/status.h"

#define PLAN_MAX_MACHINES 10000u

/* Which processor of a machine. Nothing executes programs on a GPU yet: a placement with one can be
 * planned and predicted, but not deployed (plan_placement_uses_gpu). */
enum plan_device_kind { PLAN_CPU, PLAN_GPU };
#define PLAN_N_DEVICES 2

/* A processor with its memory: a machine's CPU, or a GPU in it. Zero: not known. */
struct plan_device {
    uint64_t memory_bytes; /* for weights, KV and scratch */
    double read_bytes_s;   /* that kernels read from it */
    double ops_row_s;      /* multiplications and additions of int8 products of one row */
    double ops_rows_s;     /* and of many rows, 512 say */
    double ops_float_s;    /* of attention, F32 */
};

/* Of plan_machine.estimated: field f of device d is bit d * 5 + f, f counted from memory_bytes. */
#define PLAN_ESTIMATED_DEVICE_FIELDS 5
#define PLAN_ESTIMATED_DISK          (1u << 10)
#define PLAN_ESTIMATED_OVERHEAD      (1u << 11)
#define PLAN_ESTIMATED_REQUEST       (1u << 12)
#define PLAN_ESTIMATED_THREADS       (1u << 13)

struct plan_machine {
    char name[64];
    struct plan_device device[PLAN_N_DEVICES]; /* [PLAN_GPU].memory_bytes 0: it has none */
    double disk_bytes_s;                       /* that weights are read with */
    double overhead_s; /* of a stage's batch besides its operations: waking threads, frames */
    double request_s;  /* the same of a request to an expert host */
    uint32_t threads;  /* of the CPU; each has scratch of its own */
    bool coordinator;  /* the coordinator runs here; on no machine: somewhere else */
    /* Machines with the same number are one computer's, whose memory and processors they share:
     * while its CPU works this one takes so much of what the whole computer can compute, or read
     * (up to 1; 0: all). computer 0: its own. */
    uint32_t computer;
    double compute_share, read_share;
    uint32_t estimated; /* what was estimated, see above */
};

/* In place of a machine's number: where the coordinator runs, if that is none of the machines. */
#define PLAN_ELSEWHERE UINT32_MAX

/* One direction of a pair of machines. */
struct plan_link {
    double rtt_s; /* of a small frame and its answer */
    double bytes_s;
};

struct plan_named_link {
    uint32_t from, to; /* one may be PLAN_ELSEWHERE */
    struct plan_link link;
};

struct plan_cluster {
    uint32_t n_machines;
    struct plan_machine *machines;
    struct plan_link any;   /* between any two that `links` does not name */
    struct plan_link local; /* between processes, and processors, of one machine */
    uint32_t n_links;
    struct plan_named_link *links; /* sorted by (from, to); both directions of a pair are named */
    bool link_estimated;           /* of `any`: something was estimated */
    bool shared;                   /* some machines are one computer's; set by complete */
};

/* Fills what is zero with estimates and says so in `estimated` and `link_estimated`. PROTO_INVALID
 * names a machine without a CPU's memory, a number that is negative or not finite, a link that
 * names no machine or is out of order, a second coordinator; PROTO_LIMIT too many machines. */
enum proto_status plan_cluster_complete(struct plan_cluster *cluster, struct proto_error *error);

/* From a machine to another; `local` to itself, and to another of its computer if `links` does not
 * name the pair. One of both may be PLAN_ELSEWHERE. */
struct plan_link plan_cluster_link(const struct plan_cluster *cluster, uint32_t from, uint32_t to);

/* The machine where the coordinator runs, or PLAN_ELSEWHERE. */
uint32_t plan_cluster_coordinator(const struct plan_cluster *cluster);

/* Copies with machines and links of its own; the caller destroys it. Room is taken for
 * `more` machines behind the last, which are zero and not counted. */
enum proto_status plan_cluster_copy(struct plan_cluster **out, const struct plan_cluster *cluster,
                                    uint32_t more, struct proto_error *error);
/* Of a cluster on the heap whose arrays are too. NULL is allowed. */
void plan_cluster_destroy(struct plan_cluster *cluster);

/* Operations a second by weight type as a worker measured them, 0: not measured. */
struct plan_type_rates {
    double row_s[KERN_TYPE_SLOTS], rows_s[KERN_TYPE_SLOTS];
};

/* Sets the device's ops_row_s and ops_rows_s to what a model reaches whose operations a row are
 * type_ops (plan_shape.type_ops): the harmonic mean. Types that were not measured count as the
 * slowest that was; without any the device stays as it is. */
void plan_device_rate(struct plan_device *device, const struct plan_type_rates *rates,
                      const double type_ops[KERN_TYPE_SLOTS]);

#endif
