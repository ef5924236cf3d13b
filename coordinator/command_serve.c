/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Signals: SIGINT and SIGTERM are blocked before any thread exists and taken by sigwait in the main
 * thread, so no handler runs anywhere. Another thread waits for the model to load, and wakes the
 * main thread with SIGUSR1 if that fails.
 */
#include "coordinator/commands.h"

#include <pthread.h>
#include <signal.h>
#include <string.h>

#include "coordinator/api/server.h"
#include "coordinator/options.h"

struct service {
    struct coord_engine *engine;
    struct api_server *server;
    pthread_t main_thread;
    enum proto_status status; /* of loading; read after the loader has been joined */
    struct proto_error error;
};

static void *load(void *user)
{
    struct service *s = user;
    s->status = coord_engine_wait_ready(s->engine, &s->error);
    if (!s->status)
        fprintf(stderr, "caravan: %s is served at %s\n", coord_engine_model(s->engine)->name,
                api_server_url(s->server));
    else
        pthread_kill(s->main_thread, SIGUSR1);
    return NULL;
}

static void block_signals(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGUSR1);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    signal(SIGPIPE, SIG_IGN);
}

/* Waits for a signal. A second one ends the program at once, should the cluster be slow to let
 * go. */
static void wait_signal(void)
{
    sigset_t set;
    int number;
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGUSR1);
    sigwait(&set, &number);
    sigdelset(&set, SIGUSR1);
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
}

static enum proto_status run(struct service *s)
{
    s->main_thread = pthread_self();
    pthread_t loader;
    int rc = pthread_create(&loader, NULL, load, s);
    if (rc)
        return proto_fail(&s->error, PROTO_IO, "cannot start a thread: %s", strerror(rc));
    wait_signal();
    coord_engine_interrupt(s->engine);
    pthread_join(loader, NULL);
    return s->status == PROTO_CANCELLED ? PROTO_OK : s->status;
}

static void warn_if_open(const struct api_server *server, const char *api_key)
{
    const char *url = api_server_url(server);
    bool loopback = strncmp(url, "http://127.", 11) == 0 || strncmp(url, "http://[::1]", 12) == 0;
    if (!loopback && !api_key)
        proto_log(PROTO_LOG_WARN, "API-OPEN",
                  "url=%s everybody who reaches it may use the model: set --api-key", url);
}

static void warn_if_mute(const struct coord_engine *engine)
{
    struct proto_error error;
    if (text_chat_check(coord_engine_chat(engine), &error))
        proto_log(PROTO_LOG_WARN, "API-NO-CHAT", "%s", error.text);
}

static enum proto_status serve(struct service *s, const struct coord_cli *cli,
                               const struct api_server_options *options)
{
    struct coord_engine_options engine_options;
    struct net_cluster_keys keys;
    char listen[NET_ADDRESS_BYTES];
    enum proto_status status = coord_cli_engine(cli, &engine_options, &keys, listen, &s->error);
    if (status)
        return status;
    engine_options.respawn = true;
    engine_options.progress = true;
    status = coord_engine_create(&s->engine, &engine_options, &s->error);
    if (!status)
        status = api_server_start(&s->server, s->engine, options, &s->error);
    if (!status) {
        warn_if_open(s->server, options->api_key);
        warn_if_mute(s->engine);
        status = run(s);
    }
    api_server_stop(s->server);
    coord_engine_destroy(s->engine);
    return status;
}

int command_serve(int argc, char **argv)
{
    struct api_server_options server_options = {0};
    uint32_t connections = 256;
    const struct coord_option options[] = {
        {0, "listen", "ADDR", "HOST:PORT of the HTTP server, port 0 for any (127.0.0.1:8080)",
         COORD_OPTION_TEXT, &server_options.listen, 0, 0, NULL},
        {0, "api-key", "KEY", "ask clients for this key", COORD_OPTION_TEXT,
         &server_options.api_key, 0, 0, NULL},
        {0, "model-name", "NAME", "the model's id for clients (the name in its file)",
         COORD_OPTION_TEXT, &server_options.model_name, 0, 0, NULL},
        {0, "max-connections", "N", "HTTP connections at once (256)", COORD_OPTION_U32,
         &connections, 1, 65536, NULL},
    };
    const struct coord_command command = {
        .name = "serve",
        .positional = "",
        .summary = "Loads a model on workers and serves it over HTTP, as OpenAI's completions.",
        .groups = COORD_OPTIONS_MODEL | COORD_OPTIONS_CLUSTER,
        .options = options,
        .n_options = sizeof options / sizeof options[0],
    };
    struct coord_cli cli;
    coord_cli_default(&cli);
    cli.profile = true;
    int rc = coord_cli_parse(&cli, &command, argc, argv);
    if (rc >= 0)
        return rc;
    server_options.max_connections = connections;
    block_signals();
    struct service service = {0};
    enum proto_status status = serve(&service, &cli, &server_options);
    return status ? coord_cli_fail(&command, &service.error) : 0;
}
