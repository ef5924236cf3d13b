/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Cluster files: machines and links in YAML, as short as their owner's knowledge.
 *
 *     machines:
 *       - {name: gaming, memory_gb: 64, read_gb_s: 60, gpu: {memory_gb: 12, read_gb_s: 360}}
 *       - {name: mini, count: 3, memory_gb: 96, tops_int8: 2.5}
 *     link: {rtt_ms: 0.3, mbit_s: 1000}
 *     links:
 *       - {between: [gaming, mini-1], rtt_ms: 0.1, mbit_s: 10000}
 *       - {from: mini, to: gaming, rtt_ms: 0.3, mbit_s: 100}
 *
 * A machine has a name and memory_gb, that Caravan may use; what else is not said is zero, for
 * plan_cluster_complete to estimate: read_gb_s, tops_int8 (products of many rows), tops_int8_row
 * (of one), tflops (attention), threads, disk_gb_s, overhead_ms, request_ms. gpu: {} has the first
 * four. coordinator: true says where the coordinator runs. count: N stands for N machines, mini-1
 * to mini-N; a link may name all of them as mini. `link` is between any two; `links` are of
 * single pairs, both ways (between) or one way (from, to); what one does not say is as `link` says.
 * A file that names links but no `link` must name every pair. 1 GB is 10^9 bytes.
 */
#ifndef COORDINATOR_PLAN_CLUSTER_FILE_H
#define COORDINATOR_PLAN_CLUSTER_FILE_H

#include <stddef.h>

#include "shard/plan/cluster.h"

/* The cluster as the file says, not completed; the caller destroys it. `name` is the file's, for
 * error texts: "NAME:LINE:COLUMN: what was found, what was expected". PROTO_FORMAT: no YAML;
 * PROTO_INVALID: not a cluster; PROTO_LIMIT: too much of something. */
enum proto_status coord_cluster_parse(struct plan_cluster **out, const void *bytes, size_t len,
                                      const char *name, struct proto_error *error);

/* The file at path, or standard input for "-". */
enum proto_status coord_cluster_read(struct plan_cluster **out, const char *path,
                                     struct proto_error *error);

#endif
