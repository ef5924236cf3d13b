/* SPDX-License-Identifier: Apache-2.0 */
#include "coordinator/api/job.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "proto/log.h"

#define DEFAULT_LISTEN      "127.0.0.1:8080"
#define DEFAULT_CONNECTIONS 256u
#define DEFAULT_WAITING     256u
#define DEFAULT_RESUME_S    60u
#define DEFAULT_KEEP_S      600u
/* Connections beyond the most: their requests are refused with a text, and they may not be silent
 * for long. Further ones wait in line until these are gone. */
#define SURPLUS           32u
#define SURPLUS_TIMEOUT_S 2u
#define MAX_BODY_BYTES    ((size_t)16 << 20)
/* A body that will be refused is still read up to here: a client that is busy sending would not
 * see the answer otherwise. */
#define MAX_DISCARD_BYTES ((uint64_t)64 << 20)
/* Requests to one address wait in line while all connections are taken. */
#define LISTEN_BACKLOG 128
/* For clients to take their answers before connections are cut. */
#define STOP_S 1

enum method { GET, POST };

struct api__route {
    const char *path; /* one that ends in '/' takes everything below it too */
    enum method method;
    bool open; /* asks for no key */
    enum MHD_Result (*answer)(struct api__request *r);
};

static const struct api__route routes[] = {
    {"/health", GET, true, api__health},
    {"/metrics", GET, false, api__metrics},
    {"/v1/models", GET, false, api__models},
    {"/v1/models/", GET, false, api__model},
    {"/v1/completions", POST, false, api__completions},
    {"/v1/chat/completions", POST, false, api__chat},
    {"/v1/requests/", GET, false, api__resume},
    {"/caravan/v1/status", GET, false, api__status},
    {"/caravan/v1/tokenize", POST, false, api__tokenize},
    {"/caravan/v1/detokenize", POST, false, api__detokenize},
    {"/caravan/v1/logits", POST, false, api__logits},
    {"/caravan/v1/bench", POST, false, api__bench},
    {"/caravan/v1/cluster/plan", POST, false, api__plan},
    {"/caravan/v1/cluster/drain", POST, false, api__drain},
};

static const struct api__route *find_route(const char *path)
{
    for (size_t i = 0; i < sizeof routes / sizeof routes[0]; i++) {
        size_t len = strlen(routes[i].path);
        bool below = routes[i].path[len - 1] == '/';
        if (below ? strncmp(path, routes[i].path, len) == 0 && path[len]
                  : strcmp(path, routes[i].path) == 0)
            return &routes[i];
    }
    return NULL;
}

/* Takes as long for every key of a length, however much of it is right. */
static bool key_matches(const char *given, const char *key)
{
    size_t n_given = strlen(given), n_key = strlen(key);
    unsigned differs = n_given != n_key;
    for (size_t i = 0; i < n_given; i++)
        differs |= (unsigned char)given[i] ^ (unsigned char)key[i % n_key];
    return !differs;
}

static bool check_key(const struct api__request *r, struct api__fault *fault)
{
    const char *key = r->server->api_key;
    if (!key || (r->route && r->route->open))
        return true;
    const char *given =
        MHD_lookup_connection_value(r->connection, MHD_HEADER_KIND, MHD_HTTP_HEADER_AUTHORIZATION);
    if (!given || strncasecmp(given, "Bearer ", 7) != 0)
        return api__fault_set(fault, 401, NULL, "invalid_api_key",
                              "this server asks for a key: send 'Authorization: Bearer KEY'");
    if (!key_matches(given + 7, key))
        return api__fault_set(fault, 401, NULL, "invalid_api_key",
                              "the key in 'Authorization: Bearer KEY' is not this server's");
    return true;
}

const char *api__allowed(const struct api__route *route)
{
    return route->method == POST ? "POST" : "GET, HEAD";
}

static bool check_method(const struct api__request *r, const char *method, struct api__fault *fault)
{
    bool fits = r->route->method == POST ? strcmp(method, MHD_HTTP_METHOD_POST) == 0
                                         : strcmp(method, MHD_HTTP_METHOD_GET) == 0 ||
                                               strcmp(method, MHD_HTTP_METHOD_HEAD) == 0;
    if (!fits)
        return api__fault_set(fault, 405, NULL, "method_not_allowed",
                              "%s does not take %.16s, expected %s", r->route->path, method,
                              api__allowed(r->route));
    return true;
}

/* A web page may make a browser send any body to a loopback address, but not with this type
 * unless the server agrees to it first. */
static bool check_type(const struct api__request *r, struct api__fault *fault)
{
    static const char json[] = "application/json";
    const char *type =
        MHD_lookup_connection_value(r->connection, MHD_HEADER_KIND, MHD_HTTP_HEADER_CONTENT_TYPE);
    size_t n = sizeof json - 1;
    if (type && strncasecmp(type, json, n) == 0 && strchr("; \t", type[n]))
        return true;
    return api__fault_set(fault, 415, NULL, "unsupported_media_type",
                          "the body's type is '%.64s', expected 'Content-Type: application/json'",
                          type ? type : "");
}

static bool check_length(const struct api__request *r, struct api__fault *fault)
{
    const char *text =
        MHD_lookup_connection_value(r->connection, MHD_HEADER_KIND, MHD_HTTP_HEADER_CONTENT_LENGTH);
    if (text && strtoull(text, NULL, 10) > MAX_BODY_BYTES)
        return api__fault_set(fault, 413, NULL, "body_too_large",
                              "the body has %.20s bytes, at most %zu are taken", text,
                              MAX_BODY_BYTES);
    return true;
}

static void count_request(struct api_server *server, int change)
{
    pthread_mutex_lock(&server->mutex);
    server->n_requests += (unsigned)change;
    pthread_cond_signal(&server->answered);
    pthread_mutex_unlock(&server->mutex);
}

static bool check_connections(const struct api_server *server, struct api__fault *fault)
{
    unsigned n = atomic_load(&server->n_connections);
    return n <= server->max_connections ||
           api__fault_set(fault, 503, NULL, "too_many_connections",
                          "%u connections are open, at most %u are served; try again later", n,
                          server->max_connections);
}

/* What can be said before the body is read. */
static void check_head(struct api__request *r, const char *path, const char *method)
{
    if (!check_connections(r->server, &r->fault))
        return;
    if (!check_key(r, &r->fault))
        return;
    if (!r->route) {
        api__fault_set(&r->fault, 404, NULL, "unknown_path", "there is nothing at %.200s", path);
        return;
    }
    if (check_method(r, method, &r->fault) && r->route->method == POST && check_type(r, &r->fault))
        check_length(r, &r->fault);
}

static bool client_waits_to_send(const struct api__request *r)
{
    const char *expect =
        MHD_lookup_connection_value(r->connection, MHD_HEADER_KIND, MHD_HTTP_HEADER_EXPECT);
    return expect && strcasecmp(expect, "100-continue") == 0;
}

static enum MHD_Result begin(struct api_server *server, struct MHD_Connection *connection,
                             const char *path, const char *method, void **state)
{
    struct api__request *r = calloc(1, sizeof *r);
    if (!r)
        return MHD_NO;
    *state = r;
    count_request(server, 1);
    r->server = server;
    r->connection = connection;
    r->route = find_route(path);
    check_head(r, path, method);
    return r->fault.status && client_waits_to_send(r) ? api__reply_fault(r, &r->fault) : MHD_YES;
}

static void refuse_body(struct api__request *r)
{
    atomic_fetch_sub(&r->server->body_bytes, r->counted);
    r->counted = 0;
    free(r->body);
    r->body = NULL;
    r->len = r->cap = 0;
}

static enum MHD_Result take_body(struct api__request *r, const char *data, size_t *len)
{
    size_t n = *len;
    *len = 0;
    if (!r->fault.status && n > MAX_BODY_BYTES - r->len) {
        api__fault_set(&r->fault, 413, NULL, "body_too_large", "the body is longer than %zu bytes",
                       MAX_BODY_BYTES);
        refuse_body(r);
    }
    if (r->fault.status) {
        r->discarded += n;
        return r->discarded > MAX_DISCARD_BYTES ? MHD_NO : MHD_YES;
    }
    if (!api__hold_body(r, n, &r->fault)) {
        refuse_body(r);
        return MHD_YES;
    }
    if (r->cap - r->len < n) {
        size_t cap = r->cap > 0 ? r->cap : 4096;
        while (cap - r->len < n)
            cap *= 2;
        char *body = realloc(r->body, cap);
        if (!body) {
            api__fault_set(&r->fault, 500, NULL, NULL, "out of memory for a body of %zu bytes",
                           r->len + n);
            refuse_body(r);
            return MHD_YES;
        }
        r->body = body;
        r->cap = cap;
    }
    memcpy(r->body + r->len, data, n);
    r->len += n;
    return MHD_YES;
}

static enum MHD_Result answer(struct api__request *r, const char *path)
{
    if (r->fault.status)
        return api__reply_fault(r, &r->fault);
    r->rest = path + strlen(r->route->path);
    api__working(r->connection, true);
    enum MHD_Result result = r->route->answer(r);
    api__working(r->connection, false);
    return result;
}

static enum MHD_Result on_request(void *user, struct MHD_Connection *connection, const char *path,
                                  const char *method, const char *version, const char *data,
                                  size_t *len, void **state)
{
    (void)version;
    struct api__request *r = *state;
    if (!r)
        return begin(user, connection, path, method, state);
    if (*len > 0)
        return take_body(r, data, len);
    return answer(r, path);
}

static void on_completed(void *user, struct MHD_Connection *connection, void **state,
                         enum MHD_RequestTerminationCode how)
{
    (void)user;
    (void)connection;
    struct api__request *r = *state;
    if (!r)
        return;
    proto_log(PROTO_LOG_INFO, "API-REQUEST", "path=%s status=%u complete=%d",
              r->route ? r->route->path : "-", r->status,
              how == MHD_REQUEST_TERMINATED_COMPLETED_OK);
    count_request(r->server, -1);
    refuse_body(r);
    free(r);
    *state = NULL;
}

/* Splits "HOST:PORT", "[HOST]:PORT" or ":PORT" (loopback). */
static enum proto_status split_listen(const char *listen, char host[256], char port[8],
                                      struct proto_error *error)
{
    const char *colon = strrchr(listen, ':');
    size_t n_host = colon ? (size_t)(colon - listen) : 0;
    char *end = NULL;
    long number = colon && colon[1] >= '0' && colon[1] <= '9' ? strtol(colon + 1, &end, 10) : -1;
    bool bracketed = n_host >= 2 && listen[0] == '[' && listen[n_host - 1] == ']';
    bool bare_v6 = !bracketed && n_host > 0 && memchr(listen, ':', n_host);
    if (number < 0 || number > 65535 || *end || n_host >= 256 || bare_v6)
        return proto_fail(error, PROTO_INVALID,
                          "listen address '%.100s': expected HOST:PORT, [IPV6]:PORT or :PORT",
                          listen);
    snprintf(port, 8, "%ld", number);
    snprintf(host, 256, "%.*s", (int)(bracketed ? n_host - 2 : n_host), listen + bracketed);
    if (n_host == 0)
        snprintf(host, 256, "127.0.0.1");
    return PROTO_OK;
}

static enum proto_status bind_failed(int error_number, const char *listen,
                                     struct proto_error *error)
{
    if (error_number == EADDRINUSE)
        return proto_fail(error, PROTO_REFUSED,
                          "%s is taken by another program; choose another port with --listen, or "
                          "port 0 for any free one",
                          listen);
    return proto_fail(error, PROTO_IO, "cannot listen on %s: %s", listen, strerror(error_number));
}

static enum proto_status open_socket(const char *listen_on, int *out, struct proto_error *error)
{
    char host[256], port[8];
    enum proto_status status = split_listen(listen_on, host, port, error);
    if (status)
        return status;
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV | AI_PASSIVE};
    struct addrinfo *found = NULL;
    int rc = getaddrinfo(host, port, &hints, &found);
    if (rc)
        return proto_fail(error, PROTO_NOTFOUND, "listen address %s: no address of '%s': %s",
                          listen_on, host, gai_strerror(rc));
    int one = 1;
    int fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) ||
        bind(fd, found->ai_addr, found->ai_addrlen) || listen(fd, LISTEN_BACKLOG)) {
        status = bind_failed(errno, listen_on, error);
        if (fd >= 0)
            close(fd);
    } else {
        *out = fd;
    }
    freeaddrinfo(found);
    return status;
}

/* The address that the socket really has. */
static void write_url(int fd, char *url, size_t bytes)
{
    struct sockaddr_storage address = {0};
    socklen_t len = sizeof address;
    char host[INET6_ADDRSTRLEN + 32] = "?", port[8] = "0";
    getsockname(fd, (struct sockaddr *)&address, &len);
    getnameinfo((struct sockaddr *)&address, len, host, sizeof host, port, sizeof port,
                NI_NUMERICHOST | NI_NUMERICSERV);
    bool v6 = address.ss_family == AF_INET6;
    snprintf(url, bytes, "http://%s%s%s:%s", v6 ? "[" : "", host, v6 ? "]" : "", port);
}

static void name_model(struct api_server *server, const char *name)
{
    if (!name || !*name)
        name = coord_engine_model(server->engine)->name;
    snprintf(server->model, sizeof server->model, "%s", *name ? name : "caravan");
}

static void on_connection(void *user, struct MHD_Connection *connection, void **state,
                          enum MHD_ConnectionNotificationCode code)
{
    struct api_server *server = user;
    (void)state;
    if (code == MHD_CONNECTION_NOTIFY_CLOSED)
        atomic_fetch_sub(&server->n_connections, 1);
    else if (atomic_fetch_add(&server->n_connections, 1) >= server->max_connections)
        MHD_set_connection_option(connection, MHD_CONNECTION_OPTION_TIMEOUT, SURPLUS_TIMEOUT_S);
}

static enum proto_status start_daemon(struct api_server *server, int fd, struct proto_error *error)
{
    server->daemon = MHD_start_daemon(
        MHD_USE_THREAD_PER_CONNECTION | MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_POLL |
            MHD_USE_ITC,
        0, NULL, NULL, on_request, server, MHD_OPTION_LISTEN_SOCKET, fd,
        MHD_OPTION_NOTIFY_COMPLETED, on_completed, NULL, MHD_OPTION_NOTIFY_CONNECTION,
        on_connection, server, MHD_OPTION_CONNECTION_LIMIT, server->max_connections + SURPLUS,
        MHD_OPTION_CONNECTION_TIMEOUT, API__IDLE_TIMEOUT_S, MHD_OPTION_END);
    if (!server->daemon)
        return proto_fail(error, PROTO_IO, "cannot start the HTTP server on %s: %s", server->url,
                          strerror(errno));
    return PROTO_OK;
}

static void init_lock(struct api_server *server)
{
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_mutex_init(&server->mutex, NULL);
    pthread_mutex_init(&server->rates, NULL);
    pthread_cond_init(&server->answered, &attr);
    pthread_cond_init(&server->kept, &attr);
    pthread_condattr_destroy(&attr);
}

static unsigned or_default(unsigned given, unsigned usual)
{
    return given ? given : usual;
}

static enum proto_status set_up(struct api_server *server, const struct api_server_options *options,
                                struct proto_error *error)
{
    struct coord_status status;
    enum proto_status rc = coord_engine_status(server->engine, &status, error);
    if (rc)
        return rc;
    server->max_running = status.max_active + or_default(options->max_waiting, DEFAULT_WAITING);
    coord_status_finish(&status);
    server->journal = options->journal;
    server->started = (int64_t)time(NULL);
    server->resume_s = or_default(options->resume_s, DEFAULT_RESUME_S);
    server->keep_s = or_default(options->keep_s, DEFAULT_KEEP_S);
    server->max_connections = or_default(options->max_connections, DEFAULT_CONNECTIONS);
    name_model(server, options->model_name);
    if (options->api_key && !(server->api_key = strdup(options->api_key)))
        return proto_fail_nomem(error, strlen(options->api_key), "the API key");
    return PROTO_OK;
}

enum proto_status api_server_start(struct api_server **out, struct coord_engine *engine,
                                   const struct api_server_options *options,
                                   struct proto_error *error)
{
    if (options->api_key && !*options->api_key)
        return proto_fail(error, PROTO_INVALID, "the API key is empty, expected some characters");
    struct api_server *server = calloc(1, sizeof *server);
    if (!server)
        return proto_fail_nomem(error, sizeof *server, "the HTTP server");
    int fd = -1;
    server->engine = engine;
    init_lock(server);
    enum proto_status status;
    if (!(status = set_up(server, options, error)) &&
        !(status = open_socket(options->listen ? options->listen : DEFAULT_LISTEN, &fd, error)) &&
        !(status = api__jobs_start(server, error))) {
        write_url(fd, server->url, sizeof server->url);
        status = start_daemon(server, fd, error);
    }
    if (status) {
        if (fd >= 0 && !server->daemon)
            close(fd);
        api_server_stop(server);
        return status;
    }
    *out = server;
    return PROTO_OK;
}

const char *api_server_url(const struct api_server *server)
{
    return server->url;
}

/* Requests end by themselves once the server is stopping: their clients are told why, if they read
 * on. */
static void await_answers(struct api_server *server)
{
    struct timespec deadline;
    int rc = 0;
    clock_gettime(CLOCK_MONOTONIC, &deadline);
    deadline.tv_sec += STOP_S;
    pthread_mutex_lock(&server->mutex);
    while (server->n_requests > 0 && rc == 0)
        rc = pthread_cond_timedwait(&server->answered, &server->mutex, &deadline);
    pthread_mutex_unlock(&server->mutex);
}

void api_server_stop(struct api_server *server)
{
    if (!server)
        return;
    atomic_store(&server->stopping, true);
    if (server->daemon) {
        int fd = MHD_quiesce_daemon(server->daemon);
        await_answers(server);
        MHD_stop_daemon(server->daemon);
        if (fd >= 0)
            close(fd);
    }
    api__jobs_stop(server);
    pthread_cond_destroy(&server->kept);
    pthread_cond_destroy(&server->answered);
    pthread_mutex_destroy(&server->rates);
    pthread_mutex_destroy(&server->mutex);
    free(server->api_key);
    free(server);
}
