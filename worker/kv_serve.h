/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Gives other workers of the cluster what this one caches of sequences, when a plan moves layers to
 * them. The computing thread owns the caches: it copies a part of them for each question, after the
 * batches that came before it. Who asks must prove to be of the cluster. All calls on the loop's
 * thread.
 */
#ifndef WORKER_KV_SERVE_H
#define WORKER_KV_SERVE_H

#include "worker/compute.h"

/* In a question: pages of at most so many bytes, or one; questions that wait at once. */
#define WORKER_KV_CHUNK_BYTES (256u << 10)
#define WORKER_KV_QUESTIONS   256u

struct worker_kv_serve;

/* secret: the cluster's, borrowed, as is the computing thread. */
enum proto_status worker_kv_serve_create(struct worker_kv_serve **out, const uint8_t *secret,
                                         struct worker_compute *compute, struct proto_error *error);
/* After the computing thread has ended. NULL is allowed. */
void worker_kv_serve_destroy(struct worker_kv_serve *serve);

/* Whether a question (KV_ASK or KV_FETCH) that came by the listener is a member's; the connection
 * of others is forgotten. */
bool worker_kv_serve_admit(struct worker_kv_serve *serve, struct net_link *listener, net_peer from,
                           const uint8_t key[PROTO_KEY_BYTES], const struct proto_msg *question);

/* Has the question answered by an output of the computing thread for `from`. The first of the
 * slices has, or had, the caches, the second (NULL: none) took some over; both stay until a call
 * queued later has come. Both NULL: the epoch is not known here. One question too many gets no
 * answer. */
void worker_kv_serve_answer(struct worker_kv_serve *serve, net_peer from,
                            const struct proto_msg *question, struct worker_slice *first,
                            struct worker_slice *second);

#endif
