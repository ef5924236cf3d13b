/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Gives other workers of the cluster the pieces of tensors whose weights this one holds: packing
 * loses nothing, so the file's bytes are made of the packed ones, on a thread of its own. Who asks
 * must prove to be of the cluster, and checks every piece by its hash.
 */
#ifndef WORKER_SUPPLY_H
#define WORKER_SUPPLY_H

#include "net/link.h"
#include "worker/load.h"

struct worker_supply;

/* secret: the cluster's, borrowed. */
enum proto_status worker_supply_create(struct worker_supply **out, struct net_loop *loop,
                                       const uint8_t *secret, struct proto_error *error);
/* Ends the thread that answers; before the link that the questions came by is destroyed. NULL is
 * allowed. */
void worker_supply_stop(struct worker_supply *supply);
/* Borrows no weights any more. NULL is allowed. */
void worker_supply_destroy(struct worker_supply *supply);

/* Weights of a program of the cluster's model are there, and about to go; remove waits while one is
 * read. Any thread. PROTO_NOMEM leaves them out. A NULL supply does nothing. */
enum proto_status worker_supply_add(struct worker_supply *supply,
                                    const struct shard_program *program,
                                    const struct worker_weights *weights,
                                    struct proto_error *error);
void worker_supply_remove(struct worker_supply *supply, const struct worker_weights *weights);

/* What can be given, as the payload of a READY; NULL: nothing, or no memory. Any thread. */
struct net_payload *worker_supply_have(struct worker_supply *supply);

/* A question of another worker, on the loop's thread. It gets no answer without proof. */
void worker_supply_fetch(struct worker_supply *supply, struct net_link *link, net_peer from,
                         const uint8_t key[PROTO_KEY_BYTES], const struct proto_fetch *fetch);

/* Bytes [offset, offset + bytes) of piece i of a tensor of the program's model, out of its weights.
 * False where they do not hold them as they are in the file. */
bool worker_supply_read(const struct shard_program *program, const struct worker_weights *weights,
                        uint32_t tensor, uint64_t i, uint64_t offset, uint32_t bytes, void *out);

#endif
