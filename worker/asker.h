/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A stage's questions to the workers that hold experts of its layers: what the executor calls
 * (struct worker_remote), over an exchange. The loading thread connects, the computing thread asks;
 * never both at once. worker_asker_cancel is for any thread.
 */
#ifndef WORKER_ASKER_H
#define WORKER_ASKER_H

#include "net/exchange.h"
#include "worker/exec.h"

struct worker_asker;

enum proto_status worker_asker_create(struct worker_asker **out, struct net_loop *loop,
                                      const struct net_keypair *own, struct proto_error *error);
/* NULL is allowed. */
void worker_asker_destroy(struct worker_asker *asker);

/* Lets go of the hosts before, and reaches those of other workers that the load's parts name for
 * its layers; waits until each has said that it knows this worker. PROTO_TIMEOUT names the one that
 * cannot be reached. A host that is silent for silence_ms is given up from then on. `cancel` is set
 * before worker_asker_cancel is called. */
enum proto_status worker_asker_connect(struct worker_asker *asker, const struct proto_load *load,
                                       uint32_t silence_ms, const atomic_bool *cancel,
                                       struct proto_error *error);

/* After that failed: 1 + the number of the load's host that could not be reached, 0: it was not
 * that. */
uint32_t worker_asker_unreached(const struct worker_asker *asker);

/* For which another worker is tried to be reached, where one is given up after so much silence. */
uint32_t worker_link_deadline_ms(uint32_t silence_ms);

/* For struct worker_exec_options; valid as long as the asker. */
struct worker_remote worker_asker_calls(struct worker_asker *asker);

/* A batch begins; how long it has waited for answers so far; and what it had of hosts is added to
 * its times. */
void worker_asker_begin(struct worker_asker *asker);
uint64_t worker_asker_waited_ns(const struct worker_asker *asker);
enum proto_status worker_asker_add_times(struct worker_asker *asker, struct proto_batch *batch,
                                         struct proto_error *error);

/* Whether a batch waits for an answer at this moment; any thread. */
bool worker_asker_waiting(const struct worker_asker *asker);

/* Ends waits with PROTO_CANCELLED until there are other connections. */
void worker_asker_cancel(struct worker_asker *asker);

#endif
