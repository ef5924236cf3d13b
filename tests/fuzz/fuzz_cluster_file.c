/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as a cluster file: a cluster that the planner takes, or one line that says where it is
 * wrong. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "coordinator/plan/cluster_file.h"
#include "fuzz.h"

static void check_refusal(enum proto_status status, const struct proto_error *error)
{
    unsigned line, column;
    FUZZ_CHECK(status == error->status && status != PROTO_NOMEM);
    FUZZ_CHECK(!strchr(error->text, '\n'));
    FUZZ_CHECK(sscanf(error->text, "fuzz:%u:%u: ", &line, &column) == 2 && line && column);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct plan_cluster *cluster;
    struct proto_error error = {0};
    enum proto_status status = coord_cluster_parse(&cluster, data, len, "fuzz", &error);
    if (status) {
        check_refusal(status, &error);
        FUZZ_CHECK(!cluster);
        return 0;
    }
    FUZZ_CHECK(cluster->n_machines > 0 && cluster->n_machines <= PLAN_MAX_MACHINES);
    FUZZ_CHECK(plan_cluster_complete(cluster, &error) == PROTO_OK);
    plan_cluster_destroy(cluster);
    return 0;
}
