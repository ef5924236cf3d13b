/* SPDX-License-Identifier: Apache-2.0 */
/* A model cut into slices that are executed one after another in this process, for tests. */
#ifndef TESTS_WORKER_EXEC_RIG_H
#define TESTS_WORKER_EXEC_RIG_H

#include "shard/mkmodel.h"
#include "worker/exec.h"
#include "worker/load.h"

#include "worker/expert_host.h"

#define RIG_MAX_STAGES  8
#define RIG_MAX_WORKERS 12

struct rig_options {
    const uint32_t *ends; /* layer after the last of each stage; NULL: one stage */
    uint32_t n_stages;
    unsigned threads;  /* default 1 */
    uint32_t max_rows; /* default 512 */
    uint32_t max_seqs; /* default 4 */
    uint64_t ctx;      /* default: no limit */
    enum kern_kv kv;
    bool inexact;
    bool in_file; /* experts stay in the file, and slots are as few as can be */
    int isa;      /* 1 + enum kern_isa; 0: the best */
    /* Stage s is worker s, and every worker with experts outside of its layers is a host. */
    const struct shard_expert_part *parts; /* NULL: no experts elsewhere */
    uint32_t n_parts;
};

/* Experts of a worker for the stages of others. */
struct rig_host {
    struct shard_program *program;
    struct worker_weights weights;
    struct worker_expert_host *host;
};

/* An answer that no stage has received yet. */
struct rig_answer {
    uint32_t host;
    char *data; /* at an odd address, as a frame may be */
    size_t len;
};

struct rig_stage {
    struct shard_program *program;
    struct worker_weights weights;
    struct shard_kv *kv;
    struct worker_exec *exec;
};

struct rig {
    struct shard_gguf *gguf;
    struct shard_model *model;
    struct kern_pool *pool;
    struct rig_options options;
    struct rig_stage stages[RIG_MAX_STAGES];
    float *x, *wire;
    struct rig_host hosts[RIG_MAX_WORKERS];
    struct worker_remote remote;
    struct rig_answer answers[RIG_MAX_WORKERS]; /* the last comes first */
    uint32_t n_answers;
    char *received;
    uint64_t n_requests, request_bytes, answer_bytes;
    void (*tamper)(struct rig *rig, struct rig_answer *answer); /* before it is received, or NULL */
};

/* Makes a preset in a temporary file that is gone when the program ends; its path is returned and
 * valid until the next call. digest may be NULL. Exits the program on failure, as do open and
 * start. */
const char *rig_make(const char *preset, const char *type, uint64_t seed, bool sparse,
                     char digest[65]);
/* The same of seed 3 with dimensions that differ from the preset's, as in shard/mkmodel.h. */
const char *rig_make_with(const char *preset, const char *type, const char *const *sets,
                          size_t n_sets);

void rig_open(struct rig *rig, const char *path);
void rig_close(struct rig *rig);

/* Loads the slices; stop frees them, and the rig may be started again. */
void rig_start(struct rig *rig, const struct rig_options *options);
void rig_stop(struct rig *rig);

/* Runs a batch through all stages; the wanted rows' logits go to `logits`, n_vocab floats a row. */
enum proto_status rig_run(struct rig *rig, const struct proto_range *ranges, uint32_t n_ranges,
                          const int32_t *ids, float *logits, struct proto_error *error);

/* Runs ids of a sequence from pos on in batches of at most `batch` rows, all rows wanted. */
enum proto_status rig_feed(struct rig *rig, uint32_t seq, uint64_t pos, const int32_t *ids,
                           uint32_t n, uint32_t batch, float *logits, struct proto_error *error);

/* Forgets a sequence in all stages. */
void rig_drop(struct rig *rig, uint32_t seq);

#endif
