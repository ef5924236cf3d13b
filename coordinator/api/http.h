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
    struct coord_journal *journal; /* NULL: nothing outlives the server */
    char *api_key;                 /* NULL: none */
    char model[128];
    char url[320];
    int64_t started; /* Unix time */
    unsigned resume_s, keep_s;
    unsigned max_connections, max_running; /* choices that are computed or wait for it */
    atomic_bool stopping;
    atomic_bool measuring; /* a bench is running */
    atomic_bool planning;  /* plans are being compared */
    atomic_uint n_connections, n_running;
    atomic_size_t body_bytes;      /* of requests that are being read or answered */
    atomic_uint_fast64_t n_tokens; /* generated so far */
    pthread_mutex_t mutex;         /* of what follows */
    pthread_cond_t answered;
    unsigned n_requests; /* begun, not completed */
    /* job.c */
    struct api__job *jobs;
    pthread_cond_t kept; /* the keeper is to end */
    pthread_t keeper;
    bool keeper_started, keeper_ends;
    char *memory;         /* the keeper's: of the engine, as the journal has it */
    uint64_t noted_epoch; /* likewise */
    /* limits.c */
    pthread_mutex_t rates;        /* of the two below; no other lock is taken inside */
    double tokens_s, tokens_each; /* while there is work; of a choice that ended. 0: unknown */
};

/* Why a request is not answered with what it asked for. */
struct api__fault {
    unsigned status;  /* HTTP; 0: no fault */
    const char *code; /* static, or NULL */
    char param[64];   /* the field at fault, or "" */
    char message[PROTO_ERROR_TEXT_BYTES];
    unsigned retry_s; /* of 429 and 503: when it may be tried again; 0: soon */
};

struct api__request {
    struct api_server *server;
    struct MHD_Connection *connection;
    const struct api__route *route; /* NULL: unknown path */
    const char *rest; /* of the path behind a route that ends in '/'; valid while answering */
    char *body;
    size_t len, cap;
    size_t counted;     /* among the server's body_bytes */
    uint64_t discarded; /* bytes of a body that nobody will read */
    struct api__fault fault;
    unsigned status; /* answered with */
    char id[48];     /* of the request for text, "": it is none */
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

/* Of CLOCK_MONOTONIC. */
uint64_t api__now_ns(void);
/* *at becomes the time of CLOCK_MONOTONIC in ms. */
void api__after_ms(struct timespec *at, long ms);

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
enum MHD_Result api__resume(struct api__request *r);
enum MHD_Result api__tokenize(struct api__request *r);
enum MHD_Result api__detokenize(struct api__request *r);
enum MHD_Result api__logits(struct api__request *r);
enum MHD_Result api__bench(struct api__request *r);
enum MHD_Result api__plan(struct api__request *r);
enum MHD_Result api__drain(struct api__request *r);

#endif
