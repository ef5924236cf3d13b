/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/worker/service_rig.h"

#include <stdlib.h>

struct service service = {.file = (char *)""};

static struct service_machine *const machines[] = {&service.stage, &service.stranger,
                                                   &service.hosts[0], &service.hosts[1]};
#define N_MACHINES (sizeof machines / sizeof machines[0])

static void *run_loop(void *arg)
{
    net_loop_run(arg);
    return NULL;
}

int service_set_up(void)
{
    for (size_t i = 0; i < N_MACHINES; i++) {
        struct service_machine *m = machines[i];
        if (net_keypair_generate(&m->key, NULL) || net_loop_create(&m->loop, NULL) ||
            pthread_create(&m->thread, NULL, run_loop, m->loop))
            abort();
    }
    return 0;
}

int service_tear_down(void)
{
    for (size_t i = 0; i < N_MACHINES; i++) {
        net_loop_stop(machines[i]->loop);
        pthread_join(machines[i]->thread, NULL);
        net_loop_destroy(machines[i]->loop);
    }
    return 0;
}

struct proto_load service_load(bool split)
{
    static struct proto_part parts[SERVICE_HOSTS] = {{0, 0, SERVICE_LAYERS, 0, 4, 0, 1},
                                                     {1, 0, SERVICE_LAYERS, 4, 8, 0, 1}};
    return (struct proto_load){.epoch = SERVICE_EPOCH,
                               .has_stage = true,
                               .n_stages = 1,
                               .layer_end = SERVICE_LAYERS,
                               .embed = true,
                               .head = true,
                               .ctx = 64,
                               .max_seqs = 1,
                               .max_rows = SERVICE_ROWS,
                               .files = &service.file,
                               .n_files = 1,
                               .hosts = service.list,
                               .n_hosts = split ? SERVICE_HOSTS : 0,
                               .self = PROTO_NO_HOST,
                               .parts = parts,
                               .n_parts = split ? SERVICE_HOSTS : 0};
}
