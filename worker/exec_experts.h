/* SPDX-License-Identifier: Apache-2.0 */
/* What computes routed experts; private to the executor and the expert host. */
#ifndef WORKER_EXEC_EXPERTS_H
#define WORKER_EXEC_EXPERTS_H

#include "worker/exec_state.h"
#include "worker/expert_rows.h"

/* Operand records of rows, `stride` bytes apart. */
struct worker__operand {
    const char *rows;
    size_t stride, bytes;
};

/* Rows and what is asked of experts for them. A member's expert and segment are in one group. */
struct worker__expert_rows {
    struct worker__operand gate, up; /* the same where both read one */
    uint32_t n_groups;
    const struct worker_expert_group *groups; /* in order of row */
    const struct worker_expert_member *members;
    float *vectors; /* the groups' vectors go here, `ld` floats apart */
    size_t ld;
};

/* Computes the groups' vectors with the operation's holdings. False where an expert is in none. */
bool worker__experts_compute(struct worker_exec *e, const struct shard_op *op,
                             const struct worker__expert_rows *rows);

/* Lists the choices of n_rows rows (e->asked.members), n_used each, in order of expert. */
void worker__list_choices(struct worker_exec *e, const struct shard_op *op, size_t n_rows);

/* The records of a buffer that is an operand of gate or up. */
struct worker__operand worker__expert_operand(const struct worker_exec *e, int16_t buffer);

/* The layer of an operation as both ends of a request know it. */
struct worker_expert_shape worker__expert_shape(const struct worker_exec *e,
                                                const struct shard_op *op);

#endif
