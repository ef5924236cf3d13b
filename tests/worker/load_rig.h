/* SPDX-License-Identifier: Apache-2.0 */
/* What the tests of loading share: a program, models that it may be of, a coordinator's part. */
#ifndef TESTS_WORKER_LOAD_RIG_H
#define TESTS_WORKER_LOAD_RIG_H

#include "worker/load.h"

#define N_TENSORS 9u
#define N_WEIGHTS 7u
#define EXPERTS   3
#define LARGE     (N_TENSORS - 1)

/* A program's weights over tensors of all shapes that a loader meets. `large` has several chunks,
 * and in the big model more than one piece. */
struct shape {
    const char *name;
    enum kern_type type;
    uint64_t dims[3];
};
extern const struct shape shapes[N_TENSORS];
extern struct shard_model model;
extern struct shard_weight weights[N_WEIGHTS];
extern struct shard_program program;

extern char dir[];
extern struct shard_gguf *gguf, *big;
extern struct kern_pool *pool;
extern struct proto_error error;

/* What a coordinator would do, with its faults. */
struct fake {
    const struct shard_gguf *from;
    struct {
        uint32_t tensor;
        uint64_t at;
        uint32_t bytes;
    } queue[64];
    unsigned first, count, most; /* most: requests ever outstanding */
    uint64_t received;           /* bytes, over all loads */
    int lose_after;              /* answers; -1: never */
    int corrupt;                 /* answers for `large` yet to be spoilt */
    bool cut;                    /* answers come a byte short */
    void (*meanwhile)(void);     /* called with the first answer for `experts` */
    atomic_bool *cancel;         /* set with the first answer */
    uint8_t answer[PROTO_CHUNK_BYTES];
};
extern struct fake fake;
extern const struct worker_fetch fetch;
void fake_reset(const struct shard_gguf *from);

/* Where progress got to. */
struct seen {
    uint64_t done, total, fetched;
};

int open_all(void);
int close_all(void);
struct shard_store *open_store(void);
void drop_store(struct shard_store *store);

/* Writes `name`.gguf with random bytes for tensors; `large` gets large_rows rows, and the first
 * tensor the name first_name. */
struct shard_gguf *make_model(const char *name, uint64_t large_rows, const char *first_name);
void set_weights(void);
void use_model(const struct shard_gguf *used);

uint64_t total_bytes(const struct shard_program *of);
void check_weights(const struct worker_weights *loaded, const struct shard_program *of);
/* Matrices that did not become mappings; in_memory: after the last load. */
size_t count_in_memory(const struct worker_weights *loaded, const struct shard_program *of);
extern size_t in_memory;

/* Loads, expecting status; right weights after PROTO_OK, none otherwise. */
struct seen load(const struct shard_program *what, struct worker_load_options options,
                 enum proto_status expected);

#endif
