/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The commands' side of the HTTP calls: a running coordinator, by its URL. Calls block; one thread
 * a client. A callback that returns false ends the call with PROTO_CANCELLED. Errors that the
 * coordinator reports keep its words; where none answers, the text says how to start one.
 */
#ifndef COORDINATOR_API_CLIENT_H
#define COORDINATOR_API_CLIENT_H

#include <jansson.h>
#include <stdatomic.h>

#include "coordinator/engine.h"

#define API_CLIENT_DEFAULT_URL "http://127.0.0.1:8080"

struct api_client;

/* url: "http://HOST:PORT" or "HOST:PORT"; NULL: the default. api_key: NULL for none. */
enum proto_status api_client_create(struct api_client **out, const char *url, const char *api_key,
                                    struct proto_error *error);
/* NULL is allowed. */
void api_client_destroy(struct api_client *client);

/* Ended with coord_status_finish; without parts. */
enum proto_status api_client_status(struct api_client *client, struct coord_status *out,
                                    struct proto_error *error);
/* The same as the coordinator's JSON; malloc'ed, the caller's. */
enum proto_status api_client_status_json(struct api_client *client, char **json,
                                         struct proto_error *error);

struct api_client_completion {
    const char *prompt; /* prompt_len bytes of UTF-8; NULL: ids */
    size_t prompt_len;
    const int32_t *ids;
    size_t n_ids;
    uint32_t max_tokens;
    bool ignore_eog;
    struct text_sampling sampling;
};

struct api_client_done {
    enum coord_finish finish;
    uint64_t n_prompt, n_generated;
};

/* Text as it is generated: whole UTF-8 characters. */
typedef bool api_client_text_fn(void *user, const char *text, size_t len);

enum proto_status api_client_complete(struct api_client *client,
                                      const struct api_client_completion *request,
                                      api_client_text_fn *on_text, void *user,
                                      struct api_client_done *done, struct proto_error *error);

struct api_client_chat {
    const json_t *messages; /* an array, as /v1/chat/completions takes them; borrowed */
    uint32_t max_tokens;
    bool ignore_eog;
    struct text_sampling sampling; /* as above */
    const atomic_bool *cancel;     /* once true, the call ends with PROTO_CANCELLED; may be NULL */
};

/* Text of the answer, or of the thinking before it: whole UTF-8 characters. */
typedef bool api_client_delta_fn(void *user, bool reasoning, const char *text, size_t len);

enum proto_status api_client_chat(struct api_client *client, const struct api_client_chat *request,
                                  api_client_delta_fn *on_delta, void *user,
                                  struct api_client_done *done, struct proto_error *error);

/* One row of logits: n_vocab floats, valid during the call. Rows come in the order of pos. */
typedef bool api_client_row_fn(void *user, uint64_t pos, const float *row, size_t n_vocab);

enum proto_status api_client_logits(struct api_client *client, const int32_t *ids, size_t n_ids,
                                    api_client_row_fn *on_row, void *user,
                                    struct proto_error *error);

/* Measures the cluster (coord_bench_params as in coordinator/bench.h). *text, malloc'ed, gets the
 * tables, or with as_json one JSON object. */
struct coord_bench_params;
enum proto_status api_client_bench(struct api_client *client,
                                   const struct coord_bench_params *params, bool as_json,
                                   char **text, struct proto_error *error);

/* The plan in force beside the best. */
struct api_client_plan {
    const char *aim; /* "latency", "throughput", "balanced" */
    bool apply;      /* put the best in force */
    bool html;       /* a page is wanted */
    bool as_json;    /* text is to be JSON */
    /* Answers; malloc'ed, the caller's. page: NULL if it was not wanted. */
    char *text, *page;
    bool applied; /* a better plan was found, and is being put in force */
};
enum proto_status api_client_plan(struct api_client *client, struct api_client_plan *plan,
                                  struct proto_error *error);

/* Begins to take a worker out of the cluster; its state in the status says how far it is. */
enum proto_status api_client_drain(struct api_client *client, const char *worker,
                                   struct proto_error *error);

/* special: control tokens spelled in the text become their ids; bos: BOS in front where the
 * vocabulary asks for it. *ids is malloc'ed, the caller's. */
enum proto_status api_client_tokenize(struct api_client *client, const char *text, size_t len,
                                      bool special, bool bos, int32_t **ids, size_t *n,
                                      struct proto_error *error);

/* *text is malloc'ed and NUL-terminated, the caller's. */
enum proto_status api_client_detokenize(struct api_client *client, const int32_t *ids, size_t n,
                                        char **text, size_t *len, struct proto_error *error);

#endif
