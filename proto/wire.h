/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The messages between coordinator and workers, as checked C structs. On the wire a message is a
 * protobuf frame (wire.proto) and, where said below, one payload frame of raw bytes after it.
 * Decoding trusts nothing: counts and lengths are bounded by limits.h, numbers that must be finite
 * are, enums are known (kv_type is the receiver's to check); anything else is PROTO_FORMAT with a
 * text. Any thread, no state.
 *
 * Times are nanoseconds of the sender's monotonic clock.
 */
#ifndef PROTO_WIRE_H
#define PROTO_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/limits.h"
#include "proto/status.h"

enum proto_kind {
    PROTO_MSG_HELLO = 1,    /* worker -> coordinator, first */
    PROTO_MSG_WELCOME = 2,  /* coordinator -> worker */
    PROTO_MSG_REFUSE = 3,   /* coordinator -> worker: says why, nothing else */
    PROTO_MSG_PING = 4,     /* coordinator -> worker */
    PROTO_MSG_PONG = 5,     /* worker -> coordinator */
    PROTO_MSG_LOAD = 6,     /* coordinator -> worker; payload: model card */
    PROTO_MSG_PROGRESS = 7, /* worker -> coordinator, while it loads */
    PROTO_MSG_READY = 8,    /* worker -> coordinator: slice loaded, next worker reached; payload:
                               see struct proto_ready */
    PROTO_MSG_FAILED = 9,   /* worker -> coordinator: a load or a batch failed */
    PROTO_MSG_WANT = 10,    /* worker -> coordinator: hashes of a tensor's pieces, please */
    PROTO_MSG_HASHES = 11,  /* coordinator -> worker; payload: 32 bytes a piece */
    PROTO_MSG_FETCH = 12,   /* worker -> coordinator, other worker: bytes of a piece, please */
    PROTO_MSG_CHUNK = 13,   /* back; payload: the bytes, none where it does not have them */
    PROTO_MSG_LINK = 14,    /* worker -> next worker: are you there, do you know me? */
    PROTO_MSG_LINKED = 15,  /* next worker -> worker: yes */
    PROTO_MSG_BATCH = 16,   /* to a stage; payload: token ids (i32) for the first stage, else
                               residual rows (f32, n_rows x stride) */
    PROTO_MSG_RESULT = 17,  /* last stage -> coordinator; payload: see struct proto_result */
    PROTO_MSG_BYE = 18,     /* either side: closing */
    PROTO_MSG_MEASURE = 19, /* coordinator -> worker: measure the read bandwidth */
    PROTO_MSG_MEASURED = 20, /* worker -> coordinator */
    PROTO_MSG_EXPERTS = 21,  /* stage -> expert host; payload: rows (worker/expert_rows.h) */
    PROTO_MSG_EXPERTS_DONE = 22, /* expert host -> stage; payload: the answer */
    PROTO_MSG_USAGE = 23,        /* coordinator -> stage: how often was each expert chosen? */
    PROTO_MSG_USED = 24,         /* stage -> coordinator; payload: see struct proto_used */
    PROTO_MSG_PROFILE = 25,  /* worker -> coordinator: what its machine can do */
    PROTO_MSG_PROBE = 26,    /* coordinator -> worker: measure the link to another worker or here */
    PROTO_MSG_PROBED = 27,   /* worker -> coordinator */
    PROTO_MSG_ECHO = 28,     /* between any two: answer at once; payload: bytes that mean nothing */
    PROTO_MSG_ECHOED = 29,   /* back, without payload */
    PROTO_MSG_COMMIT = 30,   /* coordinator -> worker: the slice of this epoch serves from now on */
    PROTO_MSG_COMMITTED = 31, /* worker -> coordinator: it does, and knows this of sequences */
    PROTO_MSG_RELEASE = 32,  /* coordinator -> worker: an epoch's slice is needed no more */
    PROTO_MSG_KV_ASK = 33,   /* worker -> worker: what sequences does your slice cache? */
    PROTO_MSG_KV_HELD = 34,  /* back */
    PROTO_MSG_KV_FETCH = 35, /* worker -> worker: a part of a sequence's cache, please */
    PROTO_MSG_KV_CHUNK = 36, /* back; payload: the bytes, none where it is not there */
    PROTO_MSG_KV_LOST = 37   /* coordinator -> worker: what others cache is not to be had for the
                                slice of this epoch */
};

struct proto_hello {
    uint32_t version;
    char *name;                        /* shown to people; unique names are the coordinator's care */
    uint8_t proof[PROTO_KEY_BYTES];    /* keyed BLAKE2b of the worker's public key by the secret */
    char *endpoint;                    /* where this worker listens for the stage before it */
    char *expert_endpoint;             /* and where for stages that need experts of it */
    uint64_t memory_bytes;             /* what it offers */
    uint32_t threads;
    char *isa;                         /* "avx512" */
    uint64_t epoch;                    /* the latest that it was told of: the next one is above it */
};

struct proto_welcome {
    uint32_t worker;      /* number given by the coordinator */
    uint32_t ping_ms;     /* interval of pings */
    uint32_t deadline_ms; /* silence after which either side gives the other up */
    bool profile;         /* the worker is to send its profile; may take a few seconds to measure */
};

struct proto_refuse {
    enum proto_status status;
    char *text;
};

struct proto_ping {
    uint64_t sent_ns;
};

struct proto_pong {
    uint64_t ping_sent_ns; /* echoed */
    uint64_t received_ns, sent_ns;
    uint64_t steps;      /* operations executed so far: stands still only when idle or stuck */
    uint64_t rss_bytes;  /* resident memory */
    bool computing;      /* an operation is being executed at this moment */
    uint64_t stale;      /* batches dropped so far since their epoch was not in force */
};

/* A worker that holds routed experts. */
struct proto_host {
    char *endpoint; /* where it listens for requests */
    char *name;     /* for error texts */
    uint8_t key[PROTO_KEY_BYTES];
};

/* As struct shard_expert_part; `host` is a number in the load's hosts. */
struct proto_part {
    uint32_t host;
    uint32_t layer_first, layer_end;
    uint32_t expert_first, expert_end;
    uint32_t slice, n_slices;
};

#define PROTO_NO_HOST UINT32_MAX

/* A stage of the plan in force. */
struct proto_holder {
    char *endpoint; /* where it listens */
    uint8_t key[PROTO_KEY_BYTES];
    uint32_t layer_first, layer_end;
};

struct proto_load {
    uint64_t epoch;
    bool has_stage; /* false: the worker holds experts alone, and has no layers */
    uint32_t stage, n_stages;
    uint32_t layer_first, layer_end;
    bool embed, head;
    uint32_t kv_type; /* enum kern_kv */
    uint64_t ctx;
    uint32_t max_seqs, max_rows;
    bool inexact; /* see struct worker_exec_options; senders that do not know it mean exact */
    char *next_endpoint;                    /* "" for the last stage */
    uint8_t next_key[PROTO_KEY_BYTES];      /* public key of the next stage */
    uint8_t previous_key[PROTO_KEY_BYTES];  /* of the stage before, or of the coordinator */
    char *synthetic; /* shape (shard/synthetic.h) whose weights are made, not loaded; "": none */
    char **files;                           /* local copy of the model to read, may be empty */
    uint32_t n_files;
    struct proto_host *hosts; /* all workers that hold experts */
    uint32_t n_hosts;
    uint32_t self;            /* this worker's number among them, or PROTO_NO_HOST */
    struct proto_part *parts; /* experts of all hosts; none: stages hold their layers' */
    uint32_t n_parts;
    uint8_t (*askers)[PROTO_KEY_BYTES]; /* keys of the stages that may ask this host */
    uint32_t n_askers;
    uint64_t from;                /* epoch of the plan in force; 0: nothing serves */
    struct proto_holder *holders; /* its stages, which have the caches */
    uint32_t n_holders;
};

struct proto_progress {
    uint64_t epoch;
    uint64_t done_bytes, total_bytes;
    uint64_t fetched_bytes; /* of which came over the network */
};

/* The payload has a bit for each tensor of the model card, the first one lowest in the first byte:
 * set where the worker can give others pieces of it. */
struct proto_ready {
    uint64_t epoch;
    uint64_t weight_bytes, kv_limit_bytes, scratch_bytes;
};

struct proto_failed {
    uint64_t epoch;
    uint64_t batch; /* 0: the load failed */
    enum proto_status status;
    char *text;
    uint32_t unreached; /* 1 + the number of the load's host that could not be reached; 0: none */
};

/* A sequence's first `pos` positions. */
struct proto_held {
    uint32_t seq;
    uint64_t pos;
    uint64_t kept; /* COMMITTED: of how many the rows are kept that were sent on */
};

/* COMMIT: positions that the caches are believed to have; sequences not named are to be forgotten.
 * COMMITTED: at most so many, from which each can go on. */
struct proto_commit {
    uint64_t epoch;
    uint64_t from; /* COMMIT: the epoch whose caches hold the sequences; 0: none */
    struct proto_held *held;
    uint32_t n_held;
    bool move;            /* COMMIT: the stages of `from` are there, what they hold can be had */
    uint64_t moved;       /* COMMITTED: sum of sequences' positions that it has thanks to others */
    uint64_t moved_bytes; /* that it had from them */
};

/* Other workers of the cluster may ask for what a slice caches. The proof is as in a hello. */
struct proto_kv_ask {
    uint64_t epoch; /* of the slice */
    uint8_t proof[PROTO_KEY_BYTES];
};

/* See shard_kv_version. */
struct proto_kv_seq {
    uint32_t seq;
    uint64_t version, end;
};

struct proto_kv_held {
    uint64_t epoch;
    struct proto_kv_seq *seqs;
    uint32_t n_seqs;
};

/* Pages as they lie in the cache (shard/kv.h), or with n 0 a layer's recurrent state. */
struct proto_kv_fetch {
    uint64_t epoch;
    uint32_t seq;
    uint64_t version;
    uint32_t layer;
    uint64_t page;  /* the first */
    uint32_t n;     /* at most PROTO_MAX_KV_PAGES */
    uint64_t bytes; /* that the asker expects */
    uint8_t proof[PROTO_KEY_BYTES];
};

struct proto_kv_chunk {
    uint64_t epoch;
    uint32_t seq;
    uint64_t version;
    uint32_t layer;
    uint64_t page;
    uint32_t n;
};

struct proto_want {
    uint64_t epoch;
    uint32_t tensor; /* number in the model card */
};

/* A worker that can give pieces of a tensor. */
struct proto_source {
    char *endpoint; /* where it listens */
    uint8_t key[PROTO_KEY_BYTES];
};

/* Without a payload: the coordinator does not know the hashes. */
struct proto_hashes {
    uint64_t epoch;
    uint32_t tensor;
    struct proto_source *sources; /* beside the coordinator */
    uint32_t n_sources;
};

struct proto_fetch {
    uint64_t epoch;
    uint32_t tensor;
    uint64_t piece;
    uint64_t offset; /* in the piece */
    uint32_t bytes;  /* at most PROTO_CHUNK_BYTES */
    uint8_t proof[PROTO_KEY_BYTES]; /* as in a hello, for other workers; else zeros */
};

struct proto_chunk {
    uint64_t epoch;
    uint32_t tensor;
    uint64_t piece;
    uint64_t offset;
};

struct proto_link {
    uint64_t epoch;
};

struct proto_measure {
    uint64_t bytes; /* size of the memory to read */
};

struct proto_measured {
    double read_bytes_s;
};

/* A machine as its worker measured it with all its threads. A product of a row of k values with a
 * matrix of n rows counts 2 n k operations; rates are operations a second. */
struct proto_type_rate {
    uint32_t type;     /* of the weights: enum kern_type */
    double row_ops_s;  /* one row, weights that no cache holds */
    double rows_ops_s; /* 512 rows */
};

struct proto_profile {
    uint64_t free_bytes; /* memory that can be had without swapping, now */
    double read_bytes_s; /* of memory, in sequence */
    double float_ops_s;  /* of attention over a KV cache of F32 */
    double wake_s;       /* from handing a loop to sleeping threads until all have done it */
    double run_s;        /* the same while they still spin */
    double disk_bytes_s; /* read from the cache directory's disk; 0: could not be measured */
    /* Of the whole machine, which other workers may share: workers that name the same one are on
     * it. What it does with all its processors: reads, and products of 512 rows of types[0]. */
    uint64_t machine;                           /* 0: not known */
    double machine_read_bytes_s, machine_ops_s; /* 0: not measured */
    struct proto_type_rate types[PROTO_MAX_PROFILE_TYPES];
    uint32_t n_types;
};

struct proto_probe {
    uint64_t number;               /* for the answer */
    char *endpoint;                /* of the other worker; "": the coordinator by its own link */
    uint8_t key[PROTO_KEY_BYTES];  /* of the other worker */
};

struct proto_probed {
    uint64_t number;
    double rtt_s, bytes_s; /* as in net/probe.h; 0: not reached, not measured */
};

struct proto_echo {
    uint64_t number;
    uint8_t proof[PROTO_KEY_BYTES]; /* as in a hello: workers answer members of the cluster only */
};

struct proto_echoed {
    uint64_t number;
};

/* What a batch wants back of a range of rows. */
enum proto_want_rows { PROTO_WANT_NONE = 0, PROTO_WANT_LAST = 1, PROTO_WANT_ALL = 2 };

struct proto_range {
    uint32_t seq; /* below PROTO_MAX_SEQUENCES */
    uint64_t pos; /* of the first row */
    uint32_t n;   /* rows */
    enum proto_want_rows want;
    uint32_t candidates; /* best candidates of a wanted row; 0: the whole vocabulary */
};

/* When a stage handled a batch, on that stage's clock. */
struct proto_stage_time {
    uint64_t received_ns; /* frame taken from the socket */
    uint64_t started_ns, finished_ns; /* computing */
    uint64_t sent_ns;     /* handed to the next socket */
    uint64_t bytes;       /* received */
    uint64_t expert_wait_ns; /* between started and finished: for experts of other workers */
};

/* What a batch had of an expert host: sums over the requests of all stages up to now. */
struct proto_host_time {
    uint64_t host; /* its number in the load's hosts */
    uint64_t requests;
    uint64_t bytes_out, bytes_in; /* payloads, as the stage sees them */
    uint64_t compute_ns;           /* of the host */
    uint64_t wire_ns;              /* from request to answer less that: on the way, and in queues */
    uint64_t wait_ns;              /* that the stage did nothing but wait for it */
};

struct proto_batch {
    uint64_t epoch, batch; /* batch numbers start at 1 and never repeat in an epoch */
    struct proto_range *ranges;
    uint32_t n_ranges;
    uint32_t *drops; /* sequences to forget before computing */
    uint32_t n_drops;
    struct proto_stage_time *times; /* one for each stage passed so far */
    uint32_t n_times;
    struct proto_host_time *host_times; /* one for each host that was asked */
    uint32_t n_host_times;
    bool replay;   /* coordinator -> a stage: send on again what you sent on of these ranges; without
                      payload, and nothing is computed */
    uint32_t stop; /* the stage whose caches it is for answers, and passes nothing on: its number and
                      one; 0: the last */
};

/* A part of a batch's results: rows in the order of the batch's wanted rows. The payload holds,
 * for each row, `counts[i]` candidates {u32 id, f32 logit} in falling order of logit (ties: lower
 * id first), or for a count of 0 the whole vocabulary as f32 logits. A batch with nothing wanted
 * has one result without rows. */
struct proto_result_row {
    uint32_t range; /* index of the batch's range */
    uint64_t pos;
    uint32_t count; /* candidates; 0: whole vocabulary */
    float lse;      /* log-sum-exp of all logits */
};

struct proto_result {
    uint64_t epoch, batch;
    uint32_t n_vocab;
    bool last; /* no more parts of this batch follow */
    struct proto_result_row *rows;
    uint32_t n_rows;
    struct proto_stage_time *times; /* all stages; in the last part only */
    uint32_t n_times;
    struct proto_host_time *host_times; /* likewise */
    uint32_t n_host_times;
};

struct proto_release {
    uint64_t epoch;
    bool older; /* and what is of epochs before it */
};

struct proto_bye {
    bool drained; /* coordinator: the worker was asked to leave, and need not come back */
};

struct proto_experts {
    uint64_t epoch;
    uint64_t number; /* of the request, never used twice by a stage in an epoch */
    uint32_t layer;
};

struct proto_experts_done {
    uint64_t epoch, number;    /* of the request */
    enum proto_status status;  /* OK: the payload is the answer */
    char *text;                /* else what failed */
    uint64_t compute_ns;
};

/* The payload counts, for each of the layers and each expert, the rows that chose it since the last
 * time that the stage was asked: n_layers x n_experts u32, little-endian. */
struct proto_used {
    uint64_t epoch;
    uint32_t layer_first, n_layers, n_experts;
};

struct proto_msg {
    enum proto_kind kind;
    union {
        struct proto_hello hello;
        struct proto_welcome welcome;
        struct proto_refuse refuse;
        struct proto_ping ping;
        struct proto_pong pong;
        struct proto_load load;
        struct proto_progress progress;
        struct proto_ready ready;
        struct proto_failed failed;
        struct proto_want want;
        struct proto_hashes hashes;
        struct proto_fetch fetch;
        struct proto_chunk chunk;
        struct proto_link link;     /* LINK, LINKED, KV_LOST */
        struct proto_batch batch;
        struct proto_result result;
        struct proto_measure measure;
        struct proto_measured measured;
        struct proto_profile profile;
        struct proto_probe probe;
        struct proto_probed probed;
        struct proto_echo echo;
        struct proto_echoed echoed;
        struct proto_experts experts;
        struct proto_experts_done experts_done;
        struct proto_used used;
        struct proto_bye bye;
        struct proto_release release;
        struct proto_commit commit; /* COMMIT, COMMITTED */
        struct proto_kv_ask kv_ask;
        struct proto_kv_held kv_held;
        struct proto_kv_fetch kv_fetch;
        struct proto_kv_chunk kv_chunk;
    };
};

/* Encodes; *bytes is malloc'ed and the caller's. Strings NULL are sent as "". What would not decode
 * at the other side is PROTO_INVALID. */
enum proto_status proto_msg_encode(const struct proto_msg *msg, uint8_t **bytes, size_t *len,
                                   struct proto_error *error);

/* Decodes and checks; *msg owns its memory until proto_msg_finish. Control characters and broken
 * UTF-8 in strings become '?'. Of a hello of another version only `version` is to be relied on. */
enum proto_status proto_msg_decode(const void *bytes, size_t len, struct proto_msg *msg,
                                   struct proto_error *error);

/* Frees what a decoded message owns and zeroes it. */
void proto_msg_finish(struct proto_msg *msg);

/* Rows of a batch: the sum of its ranges. */
uint64_t proto_batch_rows(const struct proto_batch *batch);

/* PROTO_FORMAT unless the payload has exactly the size that the result's rows need. */
enum proto_status proto_result_check(const struct proto_result *result, size_t payload_bytes,
                                     struct proto_error *error);

/* "hello", ... for logs. */
const char *proto_kind_name(enum proto_kind kind);

#endif
