/* SPDX-License-Identifier: Apache-2.0 */
/* Private to the reader of cluster files: cluster_file.c reads machines, cluster_links.c links. */
#ifndef COORDINATOR_PLAN_CLUSTER_INTERNAL_H
#define COORDINATOR_PLAN_CLUSTER_INTERNAL_H

#include "coordinator/plan/tree.h"
#include "shard/plan/cluster.h"

/* A name that a link may use: of a machine, or of `count` machines alike. */
struct coord__name {
    char name[sizeof((struct plan_machine *)0)->name];
    uint32_t first, count;
    int node;
};

struct coord__cluster_reader {
    struct coord_tree *tree;
    struct plan_cluster *cluster;
    int coordinator;           /* the machine that says so */
    struct coord__name *names; /* sorted by name once all are there */
    size_t n_names;
};

/* Reads `link` and `links`, either of which may be 0, into the cluster, whose machines are there.
 */
enum proto_status coord__cluster_links(struct coord__cluster_reader *r, int link, int links);

int coord__name_compare(const void *a, const void *b);

#endif
