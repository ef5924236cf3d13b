/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Signals: SIGINT and SIGTERM are blocked before any thread exists and taken by sigwait in the main
 * thread, so no handler runs anywhere. Another thread waits for the model to load, and wakes the
 * main thread with SIGUSR1 if that fails.
 */
#include "coordinator/commands.h"

#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#include "coordinator/api/server.h"
#include "coordinator/options.h"

struct service {
    struct coord_engine *engine;
    struct api_server *server;
    struct coord_journal *journal; /* NULL: nothing is kept */
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
                  "url=%s everybody who reaches it may use the model: set --api-key-file", url);
}

static void warn_if_mute(const struct coord_engine *engine)
{
    struct proto_error error;
    if (text_chat_check(coord_engine_chat(engine), &error))
        proto_log(PROTO_LOG_WARN, "API-NO-CHAT", "%s", error.text);
}

/* A cluster has one coordinator. Others on this machine are told apart by what they serve where. */
static enum proto_status state_path(const struct coord_cli *cli,
                                    const struct api_server_options *options,
                                    const struct net_cluster_keys *keys, char *path, size_t bytes,
                                    struct proto_error *error)
{
    char what[1024] = "cluster ";
    if (keys)
        sodium_bin2hex(what + 8, sizeof what - 8, keys->pair.public_key, PROTO_KEY_BYTES);
    else
        snprintf(what, sizeof what, "here %s %s", cli->model ? cli->model : cli->synthetic,
                 options->listen ? options->listen : "");
    return coord_journal_path(path, bytes, what, error);
}

/* Where nobody asked for a state, it is done without one that cannot be had. */
static enum proto_status open_journal(struct service *s, const struct coord_cli *cli,
                                      const struct api_server_options *options,
                                      const struct net_cluster_keys *keys, const char *state)
{
    static const uint8_t none[PROTO_KEY_BYTES];
    char path[PATH_MAX];
    if (state && strcmp(state, "off") == 0)
        return PROTO_OK;
    enum proto_status status = PROTO_OK;
    if (!state)
        status = state_path(cli, options, keys, path, sizeof path, &s->error);
    if (!status)
        status = coord_journal_open(&s->journal, state ? state : path,
                                    keys ? keys->pair.public_key : none, &s->error);
    if (state || (status != PROTO_BUSY && status != PROTO_IO && status != PROTO_NOSPACE &&
                  status != PROTO_NOTFOUND))
        return status;
    proto_log(PROTO_LOG_WARN, "COORD-NO-STATE", "requests cannot be resumed after a restart: %s",
              s->error.text);
    return PROTO_OK;
}

static enum proto_status serve(struct service *s, const struct coord_cli *cli,
                               struct api_server_options *options, const char *state)
{
    struct coord_engine_options engine_options;
    struct net_cluster_keys keys;
    char listen[NET_ADDRESS_BYTES], model[2 * PROTO_HASH_BYTES + 1];
    enum proto_status status = coord_cli_engine(cli, &engine_options, &keys, listen, &s->error);
    if (status)
        return status;
    status = open_journal(s, cli, options, engine_options.keys, state);
    engine_options.first_epoch = coord_journal_first_epoch(s->journal);
    char *memory = coord_journal_get(s->journal, "workers");
    engine_options.memory = memory;
    engine_options.respawn = true;
    engine_options.progress = true;
    options->journal = s->journal;
    if (!status)
        status = coord_engine_create(&s->engine, &engine_options, &s->error);
    free(memory);
    if (!status) {
        coord_engine_fingerprint(s->engine, model);
        status = coord_journal_set_model(s->journal, model, &s->error);
    }
    if (!status)
        status = api_server_start(&s->server, s->engine, options, &s->error);
    if (!status) {
        warn_if_open(s->server, options->api_key);
        warn_if_mute(s->engine);
        status = run(s);
    }
    api_server_stop(s->server);
    coord_engine_destroy(s->engine);
    coord_journal_close(s->journal);
    return status;
}

int command_serve(int argc, char **argv)
{
    struct api_server_options server_options = {0};
    struct coord_option_key key_file = {.key = &server_options.api_key};
    uint32_t connections = 256, waiting = 256, resume_s = 60, keep_s = 600;
    const char *state = NULL;
    const struct coord_option options[] = {
        {0, "listen", "ADDR", "HOST:PORT of the HTTP server, port 0 for any (127.0.0.1:8080)",
         COORD_OPTION_TEXT, &server_options.listen, 0, 0, NULL},
        {0, "api-key", "KEY", "ask clients for this key", COORD_OPTION_TEXT,
         &server_options.api_key, 0, 0, NULL},
        {0, "api-key-file", "FILE",
         "a file with that key in its first line: what stands on a command line others may see",
         COORD_OPTION_KEY, &key_file, 0, 0, NULL},
        {0, "model-name", "NAME", "the model's id for clients (the name in its file)",
         COORD_OPTION_TEXT, &server_options.model_name, 0, 0, NULL},
        {0, "max-connections", "N", "HTTP connections at once (256)", COORD_OPTION_U32,
         &connections, 1, 65536, NULL},
        {0, "max-waiting", "N", "answers that wait for a place at most, others get 429 (256)",
         COORD_OPTION_U32, &waiting, 1, COORD_MAX_WAITING, NULL},
        {0, "state", "FILE",
         "what outlives a restart: requests, epochs; or off (~/.local/state/caravan/...)",
         COORD_OPTION_TEXT, &state, 0, 0, NULL},
        {0, "resume", "SECONDS", "after a restart, requests wait for their clients (60)",
         COORD_OPTION_U32, &resume_s, 1, 86400, NULL},
        {0, "keep-requests", "SECONDS", "answers can be asked for again (600)", COORD_OPTION_U32,
         &keep_s, 1, 86400, NULL},
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
    server_options.max_waiting = waiting;
    server_options.resume_s = resume_s;
    server_options.keep_s = keep_s;
    block_signals();
    struct service service = {0};
    enum proto_status status = serve(&service, &cli, &server_options, state);
    return status ? coord_cli_fail(&command, &service.error) : 0;
}
