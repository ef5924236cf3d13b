/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Brings what sequences have cached to the slice of a plan that is being prepared, from the workers
 * that hold those layers in the plan in force (worker/kv_serve.h). While that serves, complete
 * pages are copied ahead, round after round, until little is left; a page that is full never
 * changes. When the plan is committed nothing is computed any more: then sequences are listed for
 * the last time, and the rest is fetched, with the recurrent states, which are new after every
 * token.
 *
 * Nothing of a sequence counts unless all holders have confirmed it then, by the version and the
 * length that it has with them: what was cut back, or is another's by now, is told apart by that.
 * Where a holder is silent, too slow, or sends what does not fit, the move is given up, and the
 * coordinator has everything computed again. Chunks are small and few are on their way at once, so
 * that neither batches nor other traffic wait for them. All calls on the loop's thread.
 */
#ifndef WORKER_KV_MOVE_H
#define WORKER_KV_MOVE_H

#include "net/link.h"
#include "shard/kv.h"

struct worker_kv_move;

struct worker_kv_move_options {
    struct net_loop *loop;
    const struct net_keypair *own; /* borrowed, as are all of these */
    const uint8_t *secret;         /* the cluster's */
    const struct proto_load *load; /* of the slice: who holds what */
    struct shard_kv *kv;           /* the slice's: the move's until it is over */
    const struct shard_kv *here;   /* this worker's of the plan in force, of which only the form is
                                      looked at; NULL: none */
    /* Little is left to be moved, or nothing can be: once. And after finish: it is over, once. Not
     * within create or destroy; neither may destroy the move. */
    void (*ready)(void *arg);
    void (*over)(void *arg);
    void *arg;
};

/* *out is NULL where all layers are here, or nobody is said to hold the others. */
enum proto_status worker_kv_move_create(struct worker_kv_move **out,
                                        const struct worker_kv_move_options *options,
                                        struct proto_error *error);
/* NULL is allowed. */
void worker_kv_move_destroy(struct worker_kv_move *move);

void worker_kv_move_tick(struct worker_kv_move *move, uint64_t now_ns);

/* The plan in force computes no more, and these sequences go on. */
void worker_kv_move_finish(struct worker_kv_move *move, const struct proto_held *held,
                           uint32_t n_held);
/* Nothing is moved; over comes if finish was called. */
void worker_kv_move_give_up(struct worker_kv_move *move, const char *why);
bool worker_kv_move_is_over(const struct worker_kv_move *move);

/* When it is over: for each sequence of the slice's cache the position up to which all that was
 * to be moved is there, 0: it is not. What was brought: the sum of them, and bytes. */
const uint64_t *worker_kv_move_ends(const struct worker_kv_move *move);
uint64_t worker_kv_move_positions(const struct worker_kv_move *move);
uint64_t worker_kv_move_bytes(const struct worker_kv_move *move);

#endif
