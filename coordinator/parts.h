/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files of the engine share. Everything here belongs to the loop's thread, except struct
 * coord_stream, which has a lock of its own, and what is constant after coord_engine_create.
 *
 *   engine.c     life, the loop's thread, calls from other threads
 *   registry.c   workers: who has joined, who is alive
 *   deploy.c     the plan: when it is made, how far its loading is
 *   assign.c     what each worker of the plan is told to load
 *   engine_status.c  what people see of it all
 *   usage.c      how often each expert is chosen
 *   supply.c     the model's bytes, for workers that lack them (a thread of its own)
 *   survey.c     what machines and links can do, measured
 *   local.c      workers that are children of this process
 *   scheduler.c  sequences into batches
 *   results.c    what comes back: tokens, logits, times
 *   stream.c     events on their way to the thread that asked
 */
#ifndef COORDINATOR_PARTS_H
#define COORDINATOR_PARTS_H

#include "coordinator/engine.h"
#include "net/clock.h"
#include "net/link.h"
#include "net/loop.h"
#include "net/probe.h"
#include "shard/plan.h"
#include "shard/store.h"
#include "shard/synthetic.h"

#include <pthread.h>
#include <stdatomic.h>

#define COORD_MAX_WAITING 256u /* requests that wait for a slot */

/* ---- workers ---- */

enum coord_worker_state { COORD_JOINED, COORD_LOADING, COORD_READY, COORD_LOST };

/* One direction, see net/probe.h. */
struct coord_link_rate {
    bool tried;
    double rtt_s, bytes_s; /* 0: not known */
};

struct coord_worker {
    enum coord_worker_state state;
    struct net_link *link; /* it joined by */
    net_peer peer;
    uint8_t key[PROTO_KEY_BYTES];
    char name[64], endpoint[NET_ADDRESS_BYTES], expert_endpoint[NET_ADDRESS_BYTES], isa[16];
    bool local;
    uint32_t threads;
    uint64_t memory_bytes;
    struct net_clock clock;
    uint64_t steps, rss_bytes;
    net_peer rival;    /* another connection with its key, see admit in registry.c */
    uint64_t rival_ns; /* since when; 0: none */
    int stage, host;   /* in the plan, -1: none */
    uint64_t done_bytes, total_bytes, fetched_bytes;
    uint64_t weight_bytes, kv_limit_bytes, scratch_bytes;
    /* Sums since the last reset, as in struct coord_worker_status. */
    uint64_t batches, rows, compute_ns, queue_ns, wire_ns, wire_back_ns, bytes_in, expert_wait_ns;
    struct coord_expert_times experts;
    /* survey.c */
    bool profiled;
    struct proto_profile profile;
    struct coord_link_rate from_here;
    struct coord_link_rate links[PROTO_MAX_WORKERS + 1]; /* to others; [COORD_HERE]: to here */
};

/* ---- requests ---- */

struct coord_seq {
    struct coord_seq *next;
    struct coord_stream *stream; /* one reference */
    uint32_t slot;               /* the workers' sequence number; valid while active */
    enum coord_want want;
    int32_t *ids; /* prompt, then what was generated */
    size_t n_ids, n_prompt;
    size_t sent, done; /* positions in batches so far; of which answered */
    uint32_t max_tokens, candidates, top_logprobs;
    bool ignore_eog, finished;
    uint32_t in_flight; /* batches */
    struct text_sampler *sampler;
    uint64_t first_batch_ns, first_token_ns;
};

struct coord_range {
    struct coord_seq *seq;
    struct proto_range range;
};

struct coord_batch {
    struct coord_batch *next;
    uint64_t id, sent_ns;
    uint32_t n_ranges, n_rows;
    struct coord_range ranges[];
};

/* ---- the engine ---- */

enum coord_state { COORD_WAITING, COORD_DEPLOYING, COORD_SERVING };

struct coord_child {
    struct coord_engine *engine;
    struct net_child *process;
    char name[32];
    uint64_t memory_bytes; /* its share, however much is free when it is restarted */
    uint64_t restart_ns;   /* 0: running */
};

/* A place where workers join. */
struct coord_port {
    struct coord_engine *engine;
    struct net_link *link;
    bool local; /* only this machine's processes reach it */
};

struct coord_supply;

/* The measuring of links. */
struct coord_survey {
    bool active;
    uint32_t from, to; /* numbers of workers, or COORD_HERE */
    uint64_t number;   /* of the measurement */
    uint64_t since_ns;
    uint64_t busy_ns; /* when something was computed last */
    struct net_probe probe; /* from here */
};

struct coord_engine {
    struct coord_engine_options options;
    char *model_path, *synthetic_shape, *worker_path, *layers, *isa, *cache_dir; /* copies of the options' */
    struct shard_synthetic *synthetic; /* NULL: the model is a file */
    struct shard_gguf *gguf;           /* NULL: it is synthetic */
    struct shard_model *model;
    struct text_vocab *vocab;
    struct text_chat *chat;
    void *card;
    size_t card_bytes;
    struct net_cluster_keys keys;

    struct net_loop *loop;
    pthread_t thread;
    bool thread_started;
    struct net_timer *timer;
    struct coord_port inner, outer; /* for children; for workers from elsewhere */
    struct coord_child *children;
    struct coord_supply *supply;

    struct coord_worker *workers[PROTO_MAX_WORKERS];
    uint32_t n_workers;
    struct coord_survey survey;

    enum coord_state state;
    struct shard_plan *plan;
    /* Of the plan, in order: stages, hosts of experts, and both, each worker once. */
    struct coord_worker **stages, **hosts, **members;
    uint32_t n_members;
    uint64_t *usage; /* rows that chose an expert: n_layers x n_experts, or NULL */
    uint64_t usage_ns;
    bool usage_due;    /* batches were computed since it was asked for */
    uint64_t retry_ns; /* when a load that failed is tried again; 0: never */
    uint64_t epoch, deploy_ns, ticked_ns, pinged_ns, progress_ns;
    bool progress_shown;

    struct coord_seq *waiting, **waiting_last, *active, **active_last;
    uint32_t n_waiting, n_active;
    bool *slot_used;
    uint32_t *drops, n_drops; /* slots to forget with the next batch */
    struct coord_batch *batches, **batches_last;
    uint32_t n_batches;
    uint64_t next_batch, progressed_ns;
    uint64_t requests, requests_failed, prompt_tokens, generated_tokens;

    double measured; /* bytes a second; < 0: being measured */
    bool stopping;

    /* For wait_ready: under the mutex. */
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    bool ready, was_ready, interrupted, surveyed;
    struct proto_error failure; /* status OK: none */
};

/* engine.c */
/* Runs fn on the loop's thread and waits for it. */
void engine__call(struct coord_engine *e, void (*fn)(void *arg), void *arg);
/* What wait_ready sees. */
void engine__set_ready(struct coord_engine *e, bool ready);
void engine__fail(struct coord_engine *e, const struct proto_error *error);

/* registry.c */
/* Opens a port where workers join. */
enum proto_status engine__open_port(struct coord_engine *e, struct coord_port *port,
                                    const char *endpoint, struct proto_error *error);
void engine__ping_workers(struct coord_engine *e, uint64_t now_ns);
/* A worker is gone: ends what needs it and waits for its return. */
void engine__lose_worker(struct coord_engine *e, struct coord_worker *w, const char *why);
enum proto_status engine__tell(struct coord_worker *w, const struct proto_msg *msg,
                               struct net_payload **payload, struct proto_error *error);
void engine__describe_missing(const struct coord_engine *e, char *text, size_t bytes);

/* deploy.c */
/* Makes a plan and sends it if everybody who is expected is there. */
void engine__deploy(struct coord_engine *e);
void engine__on_progress(struct coord_engine *e, struct coord_worker *w,
                         const struct proto_progress *progress);
void engine__on_ready(struct coord_engine *e, struct coord_worker *w,
                      const struct proto_ready *ready);
void engine__undeploy(struct coord_engine *e);
/* "layers 0-11", "experts 0-63 of layers 1-47": what the plan gives a worker. */
void engine__describe_part(const struct coord_engine *e, const struct coord_worker *w, char *text,
                           size_t bytes);

/* assign.c */
/* Tells all workers of the plan what to load. */
enum proto_status engine__assign(struct coord_engine *e, struct proto_error *error);

/* usage.c */
enum proto_status engine__usage_create(struct coord_engine *e, struct proto_error *error);
/* Asks the stages now and then while they compute. */
void engine__usage_tick(struct coord_engine *e, uint64_t now_ns);
void engine__on_used(struct coord_engine *e, struct coord_worker *w, const struct proto_used *used,
                     const struct net_payload *payload);

/* supply.c */
enum proto_status engine__supply_create(struct coord_supply **out, struct coord_engine *e,
                                        struct proto_error *error);
void engine__supply_destroy(struct coord_supply *supply);
void engine__supply_want(struct coord_supply *supply, const struct coord_worker *w,
                         const struct proto_want *want);
void engine__supply_fetch(struct coord_supply *supply, const struct coord_worker *w,
                          const struct proto_fetch *fetch);

/* survey.c */
void engine__survey_tick(struct coord_engine *e, uint64_t now_ns);
/* What was measured of a worker is another machine's. */
void engine__survey_forget(struct coord_engine *e, struct coord_worker *w);
void engine__on_profile(struct coord_worker *w, const struct proto_profile *profile);
void engine__on_probed(struct coord_engine *e, const struct coord_worker *w,
                       const struct proto_probed *probed);
void engine__on_echoed(struct coord_engine *e, const struct coord_worker *w,
                       const struct proto_echoed *echoed);
/* Fills out->links, after the workers. False on lack of memory. */
bool engine__describe_links(struct coord_engine *e, struct coord_status *out);

/* local.c */
enum proto_status engine__start_children(struct coord_engine *e, struct proto_error *error);
void engine__tick_children(struct coord_engine *e, uint64_t now_ns);
void engine__end_children(struct coord_engine *e);

/* scheduler.c */
enum proto_status engine__enqueue(struct coord_engine *e, struct coord_seq *seq,
                                  struct proto_error *error);
/* Sends as many batches as there is work and room for. */
void engine__schedule(struct coord_engine *e);
/* Ends a sequence with an event of its stream; its slot is freed when nothing of it is in flight.
 */
void engine__finish_seq(struct coord_engine *e, struct coord_seq *seq,
                        const struct coord_event *event);
void engine__fail_all(struct coord_engine *e, const struct proto_error *error);
void engine__batch_done(struct coord_engine *e, struct coord_batch *batch);
struct coord_batch *engine__find_batch(struct coord_engine *e, uint64_t id);
void engine__seq_destroy(struct coord_seq *seq);

/* results.c */
void engine__on_result(struct coord_engine *e, struct coord_worker *w,
                       const struct proto_result *result, const struct net_payload *payload);
void engine__on_failed(struct coord_engine *e, struct coord_worker *w,
                       const struct proto_failed *failed);

/* stream.c: reference-counted, one for the reader and one for the sequence. */
enum proto_status engine__stream_create(struct coord_stream **out, struct coord_engine *e,
                                        struct proto_error *error);
void engine__stream_unref(struct coord_stream *stream);
/* Adds an event; logits (n_vocab floats, may be unaligned) are copied. False on lack of memory. */
bool engine__stream_push(struct coord_stream *stream, const struct coord_event *event,
                         const void *logits, size_t logits_bytes);
/* The reader has gone away, or has this many bytes still to read. */
bool engine__stream_abandoned(struct coord_stream *stream);
bool engine__stream_full(struct coord_stream *stream);

#endif
