/* SPDX-License-Identifier: Apache-2.0 */
/* A stage's experts on other workers; private to the executor. */
#ifndef WORKER_EXEC_REMOTE_H
#define WORKER_EXEC_REMOTE_H

#include "worker/exec.h"
#include "worker/expert_rows.h"

/* Floats that grow to what is asked for; at a multiple of 64 bytes. */
struct worker__vectors {
    float *at;
    size_t n_floats;
};

/* Makes room for n_floats; what was there is gone. */
enum proto_status worker__vectors_take(struct worker__vectors *vectors, size_t n_floats,
                                       struct proto_error *error);

/* Who has which experts of a layer. Hosts are numbered here: 0 is the stage's own worker, and the
 * others follow in order of worker. */
struct worker__holders {
    uint32_t n_hosts;
    uint32_t *workers; /* of each host */
    uint32_t *start;   /* first holder of each expert and segment, and one more */
    uint16_t *holders; /* hosts, ascending */
};

/* A group of a row's experts, and the host that adds them up. */
struct worker__piece {
    struct worker_expert_group group; /* first_vector: of the host's */
    uint32_t host;
};

/* What one host gets and gives at an operation. */
struct worker__host_share {
    uint32_t n_chosen; /* rows' experts so far */
    uint32_t n_vectors, first_vector;
    bool waiting; /* for its answer */
};

struct worker__remote {
    const struct worker_remote *transport; /* NULL: all experts are here */
    struct worker__holders *holders;       /* of each EXPERTS_SEND, by number of operation */
    size_t n_holders;
    struct worker__piece *pieces; /* in order of row, segment and expert */
    uint32_t n_pieces;
    uint32_t *row_pieces; /* first of each row, and one more */
    uint32_t *rows;       /* of a request */
    struct worker_expert_group *groups;
    struct worker_expert_member *members;
    struct worker__host_share *shares;
    uint32_t n_waiting;
    struct worker__vectors vectors, request;
};

enum proto_status worker__remote_init(struct worker__remote *remote,
                                      const struct shard_program *program,
                                      const struct worker_exec_options *options,
                                      struct proto_error *error);
void worker__remote_finish(struct worker__remote *remote);
uint64_t worker__remote_bytes(const struct shard_program *program, uint32_t max_rows);

#endif
