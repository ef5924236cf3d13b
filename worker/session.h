/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A worker's membership in a cluster: joins the coordinator, loads the slice it is given, links up
 * with the next stage, passes batches to the computing thread and their results on. When the
 * coordinator falls silent it goes back to joining, keeping its slice, so that a coordinator that
 * returns finds it ready.
 */
#ifndef WORKER_SESSION_H
#define WORKER_SESSION_H

#include "kernels/table.h"
#include "net/keys.h"

#include <stdbool.h>

struct worker_session_options {
    const char *endpoint;   /* of the coordinator */
    struct net_token token; /* the cluster's key and secret */
    struct net_keypair own;
    const char *name;           /* shown to people */
    const char *listen;         /* endpoint for the stage before; NULL: chosen */
    const char *advertise;      /* endpoint others use for it, port 0: listen's; NULL: found out */
    const char *expert_listen;  /* endpoint for stages that need experts; NULL: chosen */
    const char *cache_dir;      /* of the store; NULL: the default */
    bool keep_packed;           /* keep packed weights in it */
    uint64_t cache_limit_bytes; /* as of shard_store_limit */
    const struct kern_table *table;
    unsigned threads;
    uint64_t memory_bytes;
    uint64_t machine;        /* see struct proto_profile */
    uint64_t boundary_bytes; /* beside it, for rows sent on (worker/boundary.h) */
    bool local;              /* a child of the coordinator: ends with it */
};

/* Runs until terminated (PROTO_OK), until the coordinator refuses it, or, for a local worker,
 * until the coordinator is gone. Blocks. */
enum proto_status worker_session_run(const struct worker_session_options *options,
                                     struct proto_error *error);

#endif
