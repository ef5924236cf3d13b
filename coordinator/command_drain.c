/* SPDX-License-Identifier: Apache-2.0 */
#include "coordinator/commands.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#include "coordinator/backend.h"

#define POLL_MS 200

/* Whether the worker is a member no more. */
static enum proto_status look(struct api_client *client, const char *worker, bool *gone,
                              struct proto_error *error)
{
    struct coord_status s;
    enum proto_status status = api_client_status(client, &s, error);
    if (status != PROTO_OK)
        return status;
    *gone = true;
    for (uint32_t i = 0; i < s.n_workers; i++)
        if (strcmp(s.workers[i].name, worker) == 0 && strcmp(s.workers[i].state, "left") != 0) {
            *gone = strcmp(s.workers[i].state, "lost") == 0;
            if (!*gone && strcmp(s.workers[i].state, "draining") != 0)
                status = proto_fail(error, PROTO_CANCELLED,
                                    "worker \"%.64s\" stays: the others could not take its part, "
                                    "see the coordinator's log",
                                    worker);
        }
    coord_status_finish(&s);
    return status;
}

static enum proto_status drain(struct api_client *client, const struct coord_cli *cli, void *user,
                               struct proto_error *error)
{
    const char *worker = cli->positional[0];
    (void)user;
    const struct timespec pause = {.tv_nsec = POLL_MS * 1000000l};
    bool gone = false;
    enum proto_status status = api_client_drain(client, worker, error);
    while (status == PROTO_OK && !gone) {
        status = look(client, worker, &gone, error);
        if (status == PROTO_OK && !gone)
            nanosleep(&pause, NULL);
    }
    if (status == PROTO_OK)
        printf("worker %s has left the cluster\n", worker);
    return status;
}

int command_drain(int argc, char **argv)
{
    const struct coord_command command = {
        .name = "drain",
        .positional = "WORKER",
        .summary = "Takes a worker out of a running cluster: others get its part while it goes on\n"
                   "computing, then it is told to leave and ends. No request is disturbed. The\n"
                   "coordinator is by default that at " API_CLIENT_DEFAULT_URL ".",
        .groups = COORD_OPTIONS_SERVER,
        .min_positional = 1,
        .max_positional = 1,
    };
    return coord_client_command(&command, argc, argv, drain, NULL);
}
