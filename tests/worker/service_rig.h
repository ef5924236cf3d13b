/* SPDX-License-Identifier: Apache-2.0 */
/* Machines of a stage and of hosts of its experts in one process, for tests. */
#ifndef TESTS_WORKER_SERVICE_RIG_H
#define TESTS_WORKER_SERVICE_RIG_H

#include <pthread.h>

#include "net/keys.h"
#include "net/loop.h"
#include "proto/wire.h"

#define SERVICE_HOSTS  2
#define SERVICE_LAYERS 3
#define SERVICE_ROWS   5
#define SERVICE_EPOCH  7

/* A machine: a loop on a thread of its own, and a key. */
struct service_machine {
    struct net_loop *loop;
    pthread_t thread;
    struct net_keypair key;
};

struct service {
    struct service_machine stage, stranger, hosts[SERVICE_HOSTS];
    struct proto_host list[SERVICE_HOSTS]; /* of loads; tests fill it */
    char *file;                            /* the model */
};
extern struct service service;

/* Starts and stops the machines. */
int service_set_up(void);
int service_tear_down(void);

/* What the stage loads: experts 0-3 are on host 0, 4-7 on host 1, or all are the stage's. It points
 * into `service`. */
struct proto_load service_load(bool split);

#endif
