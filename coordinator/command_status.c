/* SPDX-License-Identifier: Apache-2.0 */
#include "coordinator/commands.h"

#include <stdlib.h>

#include "coordinator/backend.h"
#include "coordinator/status_table.h"
#include "coordinator/survey_table.h"

static void print_status(const struct coord_status *s)
{
    printf("model %s, plan %llu, %s, %s%s%s\n", s->model, (unsigned long long)s->epoch,
           s->inexact ? "not exact" : "exact", s->ready ? "ready" : "not ready",
           s->missing[0] ? ": " : "", s->missing);
    printf("requests: %u active of %u, %u waiting, %llu in all, %llu failed\n", s->active,
           s->max_active, s->waiting, (unsigned long long)s->requests,
           (unsigned long long)s->requests_failed);
    printf("tokens: %llu of prompts, %llu generated\n", (unsigned long long)s->prompt_tokens,
           (unsigned long long)s->generated_tokens);
    coord_status_caches(stdout, &s->caches);
    if (s->plan[0])
        printf("plan: %s\n", s->plan);
    putchar('\n');
    coord_status_table(stdout, s);
    if (s->usage)
        putchar('\n');
    coord_status_usage(stdout, s);
    coord_profile_table(stdout, s);
    coord_link_table(stdout, s);
}

static enum proto_status show(struct api_client *client, const struct coord_cli *cli, void *user,
                              struct proto_error *error)
{
    const bool *as_json = user;
    enum proto_status result;
    (void)cli;
    if (*as_json) {
        char *json = NULL;
        result = api_client_status_json(client, &json, error);
        if (!result)
            puts(json);
        free(json);
        return result;
    }
    struct coord_status status;
    result = api_client_status(client, &status, error);
    if (!result) {
        print_status(&status);
        coord_status_finish(&status);
    }
    return result;
}

int command_status(int argc, char **argv)
{
    bool as_json = false;
    const struct coord_option options[] = {
        {0, "json", NULL, "the whole status as JSON", COORD_OPTION_FLAG, &as_json, 0, 0, NULL},
    };
    const struct coord_command command = {
        .name = "status",
        .positional = "",
        .summary = "Shows the workers, the requests and the times of a running coordinator, by\n"
                   "default of the one at " API_CLIENT_DEFAULT_URL ".",
        .groups = COORD_OPTIONS_SERVER,
        .options = options,
        .n_options = 1,
    };
    return coord_client_command(&command, argc, argv, show, &as_json);
}
