/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files of the engine share. Everything here belongs to the loop's thread, except struct
 * coord_stream, which has a lock of its own, and what is constant after coord_engine_create.
 *
 *   engine.c     life, the loop's thread, calls from other threads
 *   engine_requests.c  requests become sequences
 *   registry.c   workers: who has joined, who is alive
 *   replan.c     when there has to be another plan, and for whom
 *   rebalance.c  when a better one is looked for
 *   blame.c      who is left out when one goes wrong
 *   choose.c     which plan it is to be
 *   question.c   what the planner is asked for that
 *   worth.c      what a plan is to take, and would gain
 *   deployment.c a plan with its workers
 *   beside.c     whether there is room for another plan beside it
 *   deploy.c     how a plan is prepared and put in force
 *   assign.c     what each worker of the plan is told to load
 *   engine_status.c  what people see of it all
 *   usage.c      how often each expert is chosen
 *   supply.c     the model's bytes, for workers that lack them (a thread of its own)
 *   survey.c     what machines and links can do, measured
 *   recall.c     workers of an earlier life
 *   last_plan.c  and its plan
 *   local.c      workers that are children of this process
 *   scheduler.c  sequences into batches
 *   results.c    what comes back: tokens, logits, times
 *   slow.c       workers that take longer than they should
 *   stream.c     events on their way to the thread that asked
 */
#ifndef COORDINATOR_PARTS_H
#define COORDINATOR_PARTS_H

#include "coordinator/engine.h"
#include "coordinator/pace.h"
#include "net/clock.h"
#include "net/link.h"
#include "net/loop.h"
#include "net/probe.h"
#include "shard/plan.h"
#include "shard/store.h"
#include "shard/synthetic.h"

#include <pthread.h>
#include <stdatomic.h>

/* ---- workers ---- */

enum coord_worker_state { COORD_JOINED, COORD_LOST, COORD_LEFT /* it was drained */ };

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
    uint64_t steps, rss_bytes, stale_frames;
    uint64_t stepped_ns; /* when it last was seen to compute */
    bool draining;       /* is to leave as soon as others have its part */
    uint32_t blame;      /* connections to and from it that could not be made */
    uint64_t shunned_ns; /* until then it is left out of plans if that can be; 0: no */
    net_peer rival;    /* another connection with its key, see admit in registry.c */
    uint64_t rival_ns; /* since when; 0: none */
    /* Sums since the last reset, as in struct coord_worker_status. */
    uint64_t batches, rows, compute_ns, queue_ns, wire_ns, wire_back_ns, bytes_in, expert_wait_ns;
    struct coord_expert_times experts;
    struct coord_pace pace;
    uint8_t *have; /* as in struct proto_ready; NULL: nothing */
    size_t have_bytes;
    /* survey.c */
    bool profiled;
    struct proto_profile profile;
    struct coord_link_rate from_here;
    struct coord_link_rate links[PROTO_MAX_WORKERS + 1]; /* to others; [COORD_HERE]: to here */
    /* recall.c */
    bool recalled; /* known from an earlier life, has not joined since */
    char recalled_host[NET_ADDRESS_BYTES];
};

/* ---- requests ---- */

/* Positions of a sequence that one stage alone lacks: it gets its input of them again, which the
 * stage before it has kept, and answers when it has computed them. */
struct coord_refill {
    uint32_t stage;
    uint64_t at, done, end; /* the next to be sent, those computed; at its end when done is */
};

struct coord_seq {
    struct coord_seq *next;
    struct coord_stream *stream; /* one reference */
    uint32_t slot;               /* the workers' sequence number; valid while active */
    enum coord_want want;
    int32_t *ids; /* prompt, then what was generated */
    size_t n_ids, n_prompt;
    size_t sent, done;  /* positions in batches so far; of which answered */
    size_t logits_done; /* rows of logits that were handed over */
    struct coord_refill refill;
    uint32_t max_tokens, candidates, top_logprobs;
    bool ignore_eog, finished;
    bool cached; /* workers have positions of it */
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
    bool refill;    /* of ranges' sequences */
    uint32_t stage; /* that answers */
    struct coord_range ranges[];
};

/* ---- the engine ---- */

enum coord_deployment_state {
    COORD_PREPARING,  /* its workers load */
    COORD_PREPARED,   /* they have; batches of the plan in force are still on their way */
    COORD_COMMITTING, /* its workers take the caches over */
    COORD_SERVING,
    COORD_BROKEN, /* a worker or a connection is lost: what the others cached is still there */
    COORD_N_DEPLOYMENT_STATES
};

/* A worker of a plan. */
struct coord_member {
    struct coord_worker *worker;
    int stage, host; /* in the plan, -1: none */
    bool ready, committed;
    bool released; /* it was told to let its part go, though no other plan is in force yet */
    uint64_t done_bytes, total_bytes, fetched_bytes;
    uint64_t weight_bytes, kv_limit_bytes, scratch_bytes;
    /* What it is expected to compute for a sequence's token at its beginning, more for each
     * position before it, and for each further row of a batch. token_s 0: not known. */
    double token_s, depth_s, row_s;
};

/* A plan with its workers. */
struct coord_deployment {
    enum coord_deployment_state state;
    uint64_t epoch, since_ns; /* the state's beginning */
    struct shard_plan *plan;
    struct coord_worker **workers; /* by their numbers in the plan */
    uint32_t n_workers;
    struct coord_worker **stages, **hosts; /* in the plan's order */
    struct coord_member *members;          /* stages, then those that are hosts alone */
    uint32_t n_members;
    bool expected; /* of members it is known, or cannot be, what they are expected to compute */
    /* While committing: what was asked of all members, and then what is true of all. */
    struct proto_held *held;    /* of each sequence */
    struct proto_held *answers; /* n_held of each stage */
    struct coord_refill *refills; /* of each sequence */
    uint32_t n_held;
};

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

/* A link that is being measured. */
struct coord_probe {
    bool active;
    uint32_t from, to; /* numbers of workers, or COORD_HERE */
    uint64_t number;   /* of the measurement */
    uint64_t since_ns;
    struct net_probe probe; /* from here */
};

#define COORD_MAX_PROBES (PROTO_MAX_WORKERS / 2u)

/* The measuring of links. */
struct coord_survey {
    struct coord_probe probes[COORD_MAX_PROBES];
    uint64_t number;    /* of the last measurement */
    uint64_t busy_ns; /* when something was computed last */
    uint64_t awaits_ns; /* since when the first plan waits for it; 0: it does not */
    bool decided;       /* the first plan was not, or is no longer, waited with */
    bool said;          /* that it is */
};

struct coord_engine {
    struct coord_engine_options options;
    char *model_path, *synthetic_shape, *worker_path, *layers, *isa,
        *cache_dir;                    /* copies of the options' */
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

    /* The plan in force, from the first one on, and the one that is to follow; or NULL. */
    struct coord_deployment *current, *next;
    char loss[256]; /* why the plan in force is broken */
    struct proto_error stuck; /* why there is no next, while nothing serves; status OK: no reason */
    uint64_t stuck_ns;        /* since when that is so; 0: it is not */
    uint32_t n_relinks;       /* in a row, of plans whose connections broke with nobody lost */
    uint64_t relinked_ns, settle_ns; /* the last; when to do so unless a loss explains it; 0: no */
    uint64_t *usage; /* rows that chose an expert: n_layers x n_experts, or NULL */
    uint64_t usage_ns;
    bool usage_due;    /* batches were computed since it was asked for */
    uint64_t retry_ns; /* when a load that failed is tried again; 0: never */
    uint64_t joined_ns; /* when a worker joined last */
    uint32_t retries;  /* since one did not fail */
    uint32_t same_failures; /* in a row, of this reason */
    char last_failure[PROTO_ERROR_TEXT_BYTES];
    char said_plan[240]; /* on standard error */
    uint64_t epoch; /* the last that was given out */
    struct plan_shape *shape;     /* what layers take; NULL: nobody has asked; beside.c */
    bool served_before;           /* in an earlier life, this model */
    struct shard_plan *last_plan; /* of an earlier life, or NULL; its workers: numbers in workers */
    uint64_t deploy_ns, ticked_ns, pinged_ns, progress_ns;
    bool progress_shown;

    struct coord_seq *waiting, **waiting_last, *active, **active_last;
    uint32_t n_waiting, n_active;
    bool *slot_used;
    uint32_t *drops, n_drops; /* slots to forget with the next batch */
    struct coord_batch *batches, **batches_last;
    uint32_t n_batches;
    uint64_t next_batch, progressed_ns;
    uint64_t requests, requests_failed, prompt_tokens, generated_tokens;
    uint64_t stale_frames; /* answers to batches of plans that are over */
    struct coord_speed speed;
    struct coord_caches caches;
    uint64_t quiet_ns;     /* since when nothing was computed; rebalance.c */
    uint64_t planned_with; /* what was known when a plan was looked for */

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
/* A load has failed: it is tried again, later each time. A reason is said once, and then less and
 * less often. */
void engine__retry_later(struct coord_engine *e, const struct proto_error *error);
/* What wait_ready sees. */
void engine__set_ready(struct coord_engine *e, bool ready);
void engine__fail(struct coord_engine *e, const struct proto_error *error);

/* registry.c */
/* Opens a port where workers join. */
enum proto_status engine__open_port(struct coord_engine *e, struct coord_port *port,
                                    const char *endpoint, struct proto_error *error);
bool engine__is_here(const struct coord_worker *w);
void engine__ping_workers(struct coord_engine *e, uint64_t now_ns);
/* A worker is gone: others take its part, or its return is waited for. */
void engine__lose_worker(struct coord_engine *e, struct coord_worker *w, const char *why);
enum proto_status engine__tell(struct coord_worker *w, const struct proto_msg *msg,
                               struct net_payload **payload, struct proto_error *error);
void engine__describe_missing(const struct coord_engine *e, char *text, size_t bytes);

/* replan.c */
/* Looks whether the workers that are here call for another plan, and begins on it. To be called
 * after anything that matters to that. */
void engine__replan(struct coord_engine *e);
/* Puts the best plan for the workers that are here in force if it is worth the change. */
void engine__improve(struct coord_engine *e);
/* Members that are lost or draining, or did their part badly in a plan that is broken. */
uint32_t engine__count_leaving(const struct coord_deployment *d);
/* While nothing serves: ends requests that have waited long enough. */
void engine__check_patience(struct coord_engine *e, uint64_t now_ns);
bool engine__out_of_patience(const struct coord_engine *e, uint64_t now_ns);

/* rebalance.c */
/* Looks for a better plan now that a worker is slower, or faster, than it was known to be. */
void engine__replan_around(struct coord_engine *e);
/* Looks for a better plan when something that matters to it has changed, and nothing is computed. */
void engine__rebalance_tick(struct coord_engine *e, uint64_t now_ns);

/* blame.c */
/* Batches that are overdue although all workers are there. */
void engine__check_batches(struct coord_engine *e, uint64_t now_ns);
/* A plan's workers could not load or reach one another; unreached as in struct proto_failed. */
void engine__load_failed(struct coord_engine *e, struct coord_worker *w, uint32_t unreached,
                         const struct proto_error *error);
/* The plan in force works no more although nobody is known to be lost. */
void engine__suspect(struct coord_engine *e, const char *why);

/* deployment.c */
/* Takes the plan, also on failure; its workers are numbers in `workers`. */
enum proto_status engine__deployment_create(struct coord_deployment **out, struct shard_plan **plan,
                                            struct coord_worker *const *workers, uint32_t n,
                                            struct proto_error *error);
void engine__deployment_destroy(struct coord_deployment *d);
/* Checked against the table of changes, and logged. */
void engine__deployment_set(struct coord_deployment *d, enum coord_deployment_state state);
/* NULL: it is no member, or d is NULL. */
struct coord_member *engine__member(const struct coord_deployment *d, const struct coord_worker *w);
/* "layers 0-11", "experts 0-63 of layers 1-47": what the plan gives a worker. */
void engine__describe_part(const struct coord_deployment *d, const struct coord_worker *w,
                           char *text, size_t bytes);
/* A plan like this one without some of its hosts, or with all; NULL on lack of memory. */
struct shard_plan *engine__copy_plan(const struct shard_plan *plan, const bool *without);

/* beside.c */
/* Weights that a worker of one plan and a worker of another have in common, if they are the same. */
uint64_t coord_plan_common_bytes(const struct plan_shape *shape, const struct shard_plan *a,
                                 uint32_t worker_a, const struct shard_plan *b, uint32_t worker_b);
/* Whether the plan's workers can prepare it beside the one in force. While that one serves,
 * PROTO_CAPACITY names who cannot; else those who cannot are told to let their old parts go. */
enum proto_status engine__make_room(struct coord_engine *e, const struct shard_plan *plan,
                                    struct coord_worker *const *workers,
                                    struct proto_error *error);

/* deploy.c */
bool engine__serving(const struct coord_engine *e);
/* Begins to prepare a plan, in place of one that is being prepared. */
enum proto_status engine__prepare(struct coord_engine *e, struct coord_deployment **d,
                                  struct proto_error *error);
/* Gives up the plan that is being prepared, if there is one. */
void engine__drop_next(struct coord_engine *e);
/* What is in flight is lost; sequences stay. */
void engine__break(struct coord_engine *e, const char *why);
/* Workers that were to leave and have no part any more are told to. */
void engine__dismiss(struct coord_engine *e);
/* Puts the next plan in force once it is prepared and no batch is in flight. */
void engine__try_commit(struct coord_engine *e);
void engine__on_progress(struct coord_engine *e, struct coord_worker *w,
                         const struct proto_progress *progress);
void engine__on_ready(struct coord_engine *e, struct coord_worker *w,
                      const struct proto_ready *ready);
void engine__on_committed(struct coord_engine *e, struct coord_worker *w,
                          const struct proto_commit *commit);
void engine__check_commit(struct coord_engine *e, uint64_t now_ns);
/* Who prepares the next plan, or puts it in force, need not wait for what a lost worker cached. */
void engine__lose_caches(struct coord_engine *e);

/* choose.c */
/* Whether the options leave the plan to a search. */
bool engine__may_search(const struct coord_engine *e);
/* Whether all workers that are here are on one computer: whoever starts several of them there wants
 * all to work, so the plan is made by rule. */
bool engine__one_computer(const struct coord_engine *e);
/* The best plan for these workers, at most PROTO_MAX_WORKERS; its workers are their indices. The
 * caller destroys it. */
enum proto_status engine__choose_plan(const struct coord_engine *e,
                                      struct coord_worker *const *workers, uint32_t n,
                                      struct shard_plan **out, struct proto_error *error);

/* Says anew what is expected of a plan that has other workers than those it was chosen for. */
void engine__explain_change(const struct coord_engine *e, struct shard_plan *plan,
                            struct coord_worker *const *workers, uint32_t n);

/* worth.c */
/* What a plan that engine__choose_plan made of these workers is predicted to gain over the one in
 * force: 0.1 is 10% faster. */
enum proto_status engine__plan_gain(const struct coord_engine *e,
                                    struct coord_worker *const *workers,
                                    const struct shard_plan *plan, double *gain,
                                    struct proto_error *error);

/* Whether a plan that engine__choose_plan made of these workers is so much better than the one in
 * force that it is worth the change. */
bool engine__worth_it(const struct coord_engine *e, struct coord_worker *const *workers,
                      const struct shard_plan *plan);

/* Fills what the plan in force is expected to take of its members, as fast as they have measured
 * themselves to be; all are profiled. */
enum proto_status engine__expect_pace(const struct coord_engine *e, struct coord_deployment *d,
                                      struct proto_error *error);

/* assign.c */
/* Tells all workers of a plan what to load. */
enum proto_status engine__assign(struct coord_engine *e, struct coord_deployment *d,
                                 struct proto_error *error);

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
/* What a worker can give others, from now on; payload NULL: nothing. */
void engine__supply_have(struct coord_worker *w, const struct net_payload *payload);

/* survey.c */
void engine__survey_tick(struct coord_engine *e, uint64_t now_ns);
/* What was measured of a worker is another machine's. */
void engine__survey_forget(struct coord_engine *e, struct coord_worker *w);
void engine__on_profile(struct coord_engine *e, struct coord_worker *w,
                        const struct proto_profile *profile);
void engine__on_probed(struct coord_engine *e, const struct coord_worker *w,
                       const struct proto_probed *probed);
void engine__on_echoed(struct coord_engine *e, const struct coord_worker *w,
                       const struct proto_echoed *echoed);
/* Whether the first plan is to wait: machines from elsewhere, or their links, are still being
 * measured. When that is over engine__replan is called again. */
bool engine__survey_awaited(struct coord_engine *e, uint64_t now_ns);
/* Fills out->links between workers that the status has. False on lack of memory. */
bool engine__describe_links(const struct coord_engine *e, struct coord_status *out);

/* recall.c */
/* Takes up what coord_engine_memory said; NULL: nothing. */
enum proto_status engine__recall(struct coord_engine *e, const char *memory,
                                 struct proto_error *error);
/* Whether a worker that joins is where it was in an earlier life: once. */
bool engine__recalled(struct coord_worker *w);

/* last_plan.c */
/* Tells of the plan in force, or of the last one as long as there is none. numbers: of the workers
 * that are told of. */
void engine__tell_plan(FILE *out, const struct coord_engine *e, const uint32_t *numbers,
                       uint32_t n);
/* Takes one of those lines up, after those of the workers. What makes no sense is forgotten. */
void engine__recall_plan(struct coord_engine *e, const char *line);
/* Whether no plan was in force yet, and the last one's workers are all among these. */
bool engine__last_plan_possible(const struct coord_engine *e, struct coord_worker *const *workers,
                                uint32_t n);
/* Where a worker of the last plan is among these; UINT32_MAX: nowhere. */
uint32_t engine__last_worker(const struct coord_engine *e, struct coord_worker *const *workers,
                             uint32_t n, uint32_t number);

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
/* Takes all batches off the list: their answers will not come. */
void engine__forget_batches(struct coord_engine *e);
void engine__seq_destroy(struct coord_seq *seq);

/* results.c */
void engine__on_result(struct coord_engine *e, struct coord_worker *w,
                       const struct proto_result *result, const struct net_payload *payload);
void engine__on_failed(struct coord_engine *e, struct coord_worker *w,
                       const struct proto_failed *failed);

/* slow.c */
/* Takes up the times of a batch of the plan in force. */
void engine__note_pace(struct coord_engine *e, const struct coord_batch *batch,
                       const struct proto_result *result);
/* Notices workers that are slow, or no longer, and sees to it. */
void engine__pace_tick(struct coord_engine *e, uint64_t now_ns);

/* stream.c: reference-counted, one for the reader and one for the sequence. */
enum proto_status engine__stream_create(struct coord_stream **out, struct coord_engine *e,
                                        const struct coord_request *request,
                                        struct proto_error *error);
void engine__stream_unref(struct coord_stream *stream);
/* Adds an event; logits (n_vocab floats, may be unaligned) are copied. False on lack of memory. */
bool engine__stream_push(struct coord_stream *stream, const struct coord_event *event,
                         const void *logits, size_t logits_bytes);
/* The reader has gone away, or has this many bytes still to read. */
bool engine__stream_abandoned(struct coord_stream *stream);
bool engine__stream_full(struct coord_stream *stream);

#endif
