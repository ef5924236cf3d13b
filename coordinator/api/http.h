/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files of the HTTP side share: the server, a request while it is answered, faults (an
 * HTTP status with OpenAI's error object) and replies. Only files of this folder include it.
 *
 * A request runs on its connection's own thread from the first byte to the last, so only the
 * count of requests needs a lock; the engine has its own.
 */
#ifndef COORDINATOR_API_HTTP_H
#define COORDINATOR_API_HTTP_H

#include <jansson.h>
#include <microhttpd.h>
#include <pthread.h>
#include <stdatomic.h>

#include "coordinator/api/server.h"

/* How often a waiting request looks whether its client is still there and the server stays up. */
#define API__POLL_MS 100
/* How long a client may stay silent, or leave what it was sent unread. */
#define API__IDLE_TIMEOUT_S 30u

struct api_server {
    struct MHD_Daemon *daemon;
    struct coord_engine *engine;
    char *api_key; /* NULL: none */
    char model[128];
    char url[320];
    int64_t started; /* Unix time */
    atomic_bool stopping;
    atomic_bool measuring; /* a bench is running */
    atomic_bool planning;  /* plans are being compared */
    pthread_mutex_t mutex; /* of the two below */
    pthread_cond_t answered;
    unsigned n_requests; /* begun, not completed */
};

/* Why a request is not answered with what it asked for. */
struct api__fault {
    unsigned status;  /* HTTP; 0: no fault */
    const char *code; /* static, or NULL */
    char param[64];   /* the field at fault, or "" */
    char message[PROTO_ERROR_TEXT_BYTES];
};

struct api__request {
    struct api_server *server;
    struct MHD_Connection *connection;
    const struct api__route *route; /* NULL: unknown path */
    const char *rest; /* of the path behind a route that ends in '/'; valid while answering */
    char *body;
    size_t len, cap;
    uint64_t discarded; /* bytes of a body that nobody will read */
    struct api__fault fault;
    unsigned status; /* answered with */
};

/* Fills *fault and returns false, so that a check can `return api__fault_set(...)`. param and code
 * may be NULL. */
bool api__fault_set(struct api__fault *fault, unsigned status, const char *param, const char *code,
                    const char *format, ...) __attribute__((format(printf, 5, 6)));

/* The engine's error as a fault: INVALID 400, BUSY 429, LOST, TIMEOUT and CANCELLED 503, else 500.
 * Returns false. */
bool api__fault_from(struct api__fault *fault, const struct proto_error *error);

/* {"error": {...}}; NULL without memory. */
json_t *api__fault_json(const struct api__fault *fault);

/* Replies. json and text (malloc'ed) are taken over, also on failure. MHD_NO drops the
 * connection. */
enum MHD_Result api__reply_json(struct api__request *r, unsigned status, json_t *json);
enum MHD_Result api__reply_text(struct api__request *r, unsigned status, const char *type,
                                char *text, size_t len);
enum MHD_Result api__reply_fault(struct api__request *r, const struct api__fault *fault);
/* Queues and releases a response made elsewhere (NULL: MHD_NO). */
enum MHD_Result api__reply(struct api__request *r, unsigned status, struct MHD_Response *response);

/* The methods that a route takes, as an Allow header lists them. */
const char *api__allowed(const struct api__route *route);

/* True when the client closed its side or the server stops: what runs for it should end. */
bool api__gone(const struct api_server *server, struct MHD_Connection *connection);

/* Suspends and resumes the connection's idle timeout while the server is the one that is slow. */
void api__working(struct MHD_Connection *connection, bool working);

/* The next event of a stream; false when the client is gone. */
bool api__next(const struct api_server *server, struct MHD_Connection *connection,
               struct coord_stream *stream, struct coord_event *event);

/* PROTO_CANCELLED's fault, of a server that stops. Returns false. */
bool api__fault_stopping(struct api__fault *fault);

/* Handlers of routes. */
enum MHD_Result api__health(struct api__request *r);
enum MHD_Result api__models(struct api__request *r);
enum MHD_Result api__model(struct api__request *r);
enum MHD_Result api__metrics(struct api__request *r);
enum MHD_Result api__status(struct api__request *r);
enum MHD_Result api__completions(struct api__request *r);
enum MHD_Result api__chat(struct api__request *r);
enum MHD_Result api__tokenize(struct api__request *r);
enum MHD_Result api__detokenize(struct api__request *r);
enum MHD_Result api__logits(struct api__request *r);
enum MHD_Result api__bench(struct api__request *r);
enum MHD_Result api__plan(struct api__request *r);
enum MHD_Result api__drain(struct api__request *r);

#endif
