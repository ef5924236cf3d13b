/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The engine: a model on a cluster. It owns the event loop's thread, the registry of workers, the
 * plan and the scheduler; requests come from any thread and their answers are read from streams,
 * which block. One engine serves one model.
 *
 * Life: create (opens the model, starts local workers, listens) -> wait_ready -> submit ... ->
 * destroy (ends children, frees everything).
 */
#ifndef COORDINATOR_ENGINE_H
#define COORDINATOR_ENGINE_H

#include <stdio.h>

#include "coordinator/text/chat.h"
#include "coordinator/text/sampler.h"
#include "coordinator/text/vocab.h"
#include "kernels/table.h"
#include "net/keys.h"
#include "proto/wire.h"
#include "shard/model.h"
#include "shard/plan.h"
#include "shard/plan/search.h"

#define COORD_MAX_WAITING 256u /* requests that wait for a slot */

struct coord_engine;
struct coord_stream;

/* When workers that join get a part of what others do. */
enum coord_rebalance {
    COORD_REBALANCE_AUTO, /* where it is worth it */
    COORD_REBALANCE_ASK,  /* when a person says so */
    COORD_REBALANCE_OFF   /* only to make a loss good */
};

struct coord_engine_options {
    const char *model_path;
    const char *synthetic;     /* instead of a file: a shape as in shard/synthetic.h; or NULL */
    const char *worker_path;   /* the caravan-worker program; NULL: beside this program */
    unsigned local_workers;    /* children of this process; default 1 */
    unsigned workers;          /* workers from elsewhere to wait for before planning; default 0 */
    unsigned threads;          /* of each local worker; 0: processors / local_workers, at least 1 */
    uint64_t memory_bytes;     /* of all local workers; 0: nine tenths of what is free */
    const char *isa;           /* of local workers; NULL: the best */
    const char *layers;        /* "0-11,12-23" or NULL */
    enum shard_split_kind split; /* this and the following as in struct shard_plan_options */
    uint32_t stages, slices, replicas;
    bool map_experts;          /* as there; for local workers, which have the model's file */
    enum plan_aim aim;          /* of a plan that is searched */
    uint32_t rebalance_percent; /* by which another plan must be faster to replace one in force */
    const char *listen;        /* endpoint for workers from elsewhere ("tcp://..."), or NULL */
    const struct net_cluster_keys *keys; /* NULL: made for this run */
    enum kern_kv kv;           /* F32 loses nothing; F16 takes half the memory, Q8_0 and Q4_0 less */
    uint32_t ctx;              /* positions of a sequence; 0: the model's, at most 8192 or what
                                  ctx_needed says */
    uint64_t ctx_needed;       /* positions that are known to be needed; 0: unknown */
    uint32_t parallel;         /* sequences at once; 0: 4, at least the number of stages */
    uint32_t batch;            /* rows of a batch; 0: 512 */
    bool inexact;              /* float products of many rows may be OpenBLAS's where it is faster */
    uint32_t deadline_ms;      /* silence after which a worker is lost; 0: 2000 */
    uint32_t patience_s;       /* for which requests wait where those who are left cannot serve */
    enum coord_rebalance rebalance;
    const char *cache_dir;     /* of the store; NULL: the default */
    float cache_limit_gb;      /* of local workers, 1e9 bytes; 0: none */
    bool keep_packed;          /* local workers keep packed weights in it: a second copy */
    bool respawn;              /* restart local workers that end */
    bool progress;             /* show progress of loading on standard error */
    uint64_t first_epoch;      /* epochs are higher than this one */
    const char *memory;        /* what coord_engine_memory said in an earlier life; NULL: nothing */
    bool profile;              /* workers measure their machines and, while idle, the links */
};

enum proto_status coord_engine_create(struct coord_engine **out,
                                      const struct coord_engine_options *options,
                                      struct proto_error *error);
void coord_engine_destroy(struct coord_engine *engine);

/* Waits until every slice is loaded; PROTO_CANCELLED after coord_engine_interrupt. Workers that
 * are not there yet are waited for as long as it takes if options.workers > 0 (who is missing is
 * said on standard error); a cluster too small is an error that says what is missing. */
enum proto_status coord_engine_wait_ready(struct coord_engine *engine, struct proto_error *error);

/* Ends waits and streams with PROTO_CANCELLED. Safe in a signal handler's thread, not in the
 * handler itself. */
void coord_engine_interrupt(struct coord_engine *engine);

const struct text_vocab *coord_engine_vocab(const struct coord_engine *engine);
const struct text_chat *coord_engine_chat(const struct coord_engine *engine);
const struct shard_model *coord_engine_model(const struct coord_engine *engine);
uint32_t coord_engine_ctx(const struct coord_engine *engine);
/* What is to be remembered of workers and links; malloc'ed text, NULL without memory. */
char *coord_engine_memory(struct coord_engine *engine);
/* A hash of the model's header (shape, vocabulary, all metadata) in hexadecimal. */
void coord_engine_fingerprint(const struct coord_engine *engine,
                              char text[2 * PROTO_HASH_BYTES + 1]);
/* The endpoint that workers join, "" if none. */
const char *coord_engine_endpoint(const struct coord_engine *engine);

struct coord_event;

/* Takes an event as it comes, on the engine's thread, which it must not hold up. False: no more are
 * wanted. */
typedef bool coord_event_fn(void *user, const struct coord_event *event);

enum coord_want {
    COORD_WANT_TOKENS, /* generate */
    COORD_WANT_LOGITS  /* all logits of every position of ids, nothing is generated */
};

struct coord_request {
    enum coord_want want;
    const int32_t *ids; /* the prompt, at least one */
    size_t n_ids;
    uint32_t max_tokens;
    bool ignore_eog;    /* go on after an end-of-generation token */
    uint32_t top_logprobs; /* candidates reported with each token, at most 20 */
    struct text_sampling sampling;
    /* Goes on with what another engine began: ids are the prompt and what was generated so far, and
     * this is its sampler behind the last of them. NULL: a new request. */
    const struct text_sampler_state *sampler;
    /* Where set, it takes the events instead of coord_stream_next. It may be called before
     * coord_engine_submit returns, and never after coord_stream_destroy has returned. */
    coord_event_fn *on_event;
    void *user;
};

enum coord_event_kind {
    COORD_EVENT_TOKEN,
    COORD_EVENT_LOGITS,
    COORD_EVENT_DONE,
    COORD_EVENT_FAILED
};

enum coord_finish { COORD_FINISH_STOP, COORD_FINISH_LENGTH, COORD_FINISH_CANCELLED };

struct coord_event {
    enum coord_event_kind kind;
    /* TOKEN */
    int32_t token;
    float logprob; /* natural log of its probability before sampling's changes */
    bool eog;      /* an end-of-generation token: not to be shown */
    struct text_candidate top[20]; /* logit field holds logprobs */
    uint32_t n_top;
    struct text_sampler_state sampler; /* behind the token */
    /* LOGITS: one row */
    uint64_t pos;
    const float *logits; /* n_vocab floats, valid until the next call on the stream */
    /* DONE */
    enum coord_finish finish;
    uint64_t prompt_ns, decode_ns; /* from submission's first batch to the first token; from then */
    uint32_t n_prompt, n_generated;
    /* FAILED */
    struct proto_error error;
};

/* Queues a request. The ids are copied. PROTO_INVALID: empty prompt, id out of range, prompt and
 * max_tokens 0 ... longer than the context (named with both numbers); PROTO_BUSY: the queue is
 * full; PROTO_LOST: workers are missing (the text says which). max_tokens is cut to what the
 * context leaves. */
enum proto_status coord_engine_submit(struct coord_engine *engine,
                                      const struct coord_request *request,
                                      struct coord_stream **out, struct proto_error *error);

/* The next event; blocks. After DONE or FAILED no more come. Returns false when timeout_ms (-1:
 * none) passed without one. */
bool coord_stream_next(struct coord_stream *stream, struct coord_event *event, int timeout_ms);

/* Ends the request if it still runs and frees the stream. Never blocks on workers. */
void coord_stream_destroy(struct coord_stream *stream);

/* What stages had of a worker's experts since the last coord_engine_reset_times. wire_ns: from
 * request to answer less the computing; wait_ns: that stages did nothing but wait for it. */
struct coord_expert_times {
    uint64_t requests, bytes_in, bytes_out, compute_ns, wire_ns, wait_ns;
};

/* What people see of a cluster. */
struct coord_worker_status {
    char name[64], endpoint[NET_ADDRESS_BYTES], isa[16], state[16]; /* joined loading ready lost */
    char expert_endpoint[NET_ADDRESS_BYTES]; /* where stages ask it for experts */
    bool local;
    uint32_t threads, layer_first, layer_end; /* layer_end 0: no layers */
    bool embed, head;
    /* Experts that it holds for stages: of layers [.., ..), slice expert_slice of n_slices of
     * experts [.., ..). n_slices 0: none. */
    uint32_t expert_first, expert_end, expert_layer_first, expert_layer_end;
    uint32_t expert_slice, n_slices;
    uint64_t memory_bytes, weight_bytes, kv_limit_bytes, scratch_bytes, rss_bytes;
    uint64_t stale_frames; /* batches that it dropped, as their plans were over */
    uint64_t done_bytes, total_bytes; /* of loading */
    double rtt_ms;
    /* Since the last coord_engine_reset_times; sums over batches, in ns. wire: from the stage
     * before (or the coordinator) to this one; after: back to the coordinator, last stage only. */
    uint64_t batches, rows, compute_ns, queue_ns, wire_ns, wire_back_ns, bytes_in;
    uint64_t expert_wait_ns; /* of compute_ns: a stage's that it waited for experts of others */
    struct coord_expert_times experts;
    bool profiled; /* the machine has been measured */
    struct proto_profile profile;
    double slowdown; /* how many times slower than that it computes; 0: it is not slow */
};

#define COORD_HERE PROTO_MAX_WORKERS /* where a worker's number stands: the coordinator */

/* One direction of a link that was measured; net/probe.h says how. */
struct coord_link_status {
    uint32_t from, to; /* in the status' workers, or COORD_HERE */
    double rtt_s, bytes_s;
};

/* Sums over the requests that were answered with the plan in force. */
struct coord_speed {
    uint64_t prompt_tokens, prompt_ns; /* until their first tokens */
    uint64_t tokens, decode_ns;        /* after them */
};

/* What became of cached positions when plans changed, since the start. */
struct coord_caches {
    uint64_t moved, moved_bytes; /* positions that a worker took up from others, sums over workers */
    uint64_t replayed;           /* computed again by all stages */
    uint64_t refilled;           /* by one stage alone */
};

struct coord_status {
    char model[128];
    uint64_t epoch;
    bool ready, inexact;
    enum kern_kv kv;
    uint32_t ctx, max_rows; /* of a sequence, of a batch */
    char missing[256]; /* what is missing when not ready, "" otherwise */
    uint32_t n_workers;
    struct coord_worker_status *workers; /* stages first, in order */
    uint32_t n_links;
    struct coord_link_status *links; /* those that are known */
    /* Experts elsewhere than with their stage; .worker: in workers. Of a worker's parts its
     * expert_first and so on are from the least to the most. */
    uint32_t n_parts;
    struct shard_expert_part *parts;
    struct coord_speed speed;
    struct coord_caches caches;
    char plan[240]; /* why it is this plan, in a line; "": nothing is known */
    uint32_t active, waiting, max_active; /* requests */
    uint64_t requests, requests_failed, prompt_tokens, generated_tokens; /* since the start */
    uint64_t stale_frames; /* answers of plans that were over, which were dropped */
    /* How often each expert was chosen by a row since the start: n_layers x n_experts, zero for
     * layers without experts; NULL for dense models. At most some seconds old. */
    uint64_t *usage;
    uint32_t n_layers, n_experts;
};

enum proto_status coord_engine_status(struct coord_engine *engine, struct coord_status *out,
                                      struct proto_error *error);
void coord_status_finish(struct coord_status *status);
void coord_engine_reset_times(struct coord_engine *engine);

/* Begins to take a worker out of the cluster: others get its part, then it is told to leave, which
 * the status shows ("draining", "left"). PROTO_NOTFOUND: there is no such worker; PROTO_CAPACITY and
 * the like: the others cannot do without it (the text says why), and nothing has changed. */
enum proto_status coord_engine_drain(struct coord_engine *engine, const char *worker,
                                     struct proto_error *error);

/* Waits until the workers have measured their machines and every link has been measured or given
 * up; options.profile was set. PROTO_TIMEOUT after deadline_s. */
enum proto_status coord_engine_wait_survey(struct coord_engine *engine, uint32_t deadline_s,
                                           struct proto_error *error);

/* Puts a plan in force; its workers are indices of `names`, which is of workers that are here. Takes
 * the plan, also on failure. PROTO_LOST: one is not here any more; PROTO_BUSY: another plan is being
 * put in force. */
enum proto_status coord_engine_apply_plan(struct coord_engine *engine, struct shard_plan **plan,
                                          const char *const *names, uint32_t n,
                                          struct proto_error *error);

/* Bytes a second that the first stage's worker reads from memory with its threads, measured now;
 * no request may be running. */
enum proto_status coord_engine_read_bandwidth(struct coord_engine *engine, double *bytes_s,
                                              struct proto_error *error);

#endif
