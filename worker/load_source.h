/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where a tensor's bytes come from while weights are loaded. For each piece, the first of these
 * that has it:
 *
 *   the synthetic    made, where the model is
 *   the local file   as mapped, not hashed: it is this machine's own copy
 *   the store        mapped and hashed
 *   the fetch        into the store, which hashes it; into memory, hashed as well, where there is
 *                    no store, no room in it, or another process is fetching that very piece
 *
 * The loading thread only.
 */
#ifndef WORKER_LOAD_SOURCE_H
#define WORKER_LOAD_SOURCE_H

#include "worker/load.h"

/* What the tensors of a load share. */
struct worker__shelf {
    const struct worker_load_options *options; /* borrowed */
    struct shard_lease *lease;                 /* borrowed; or NULL */
    bool closed; /* no more pieces are put into the store: there was trouble with it */
    bool told;   /* so it was said */
};

/* Logs trouble with the store, pieces or packed weights, the first time. */
void worker__shelf_tell(struct worker__shelf *shelf, const struct proto_error *why);

#define WORKER__AHEAD_MOST 32u /* chunks asked for before they are needed */

/* A tensor that is being read, from its first piece to its last. */
struct worker__source {
    struct worker__shelf *shelf;               /* borrowed */
    const struct worker_load_options *options; /* the shelf's */
    const struct shard_tensor *tensor;         /* as the model card has it */
    uint32_t number;                           /* in the model card */
    const uint8_t *local;                      /* its bytes in the local file, or NULL */
    uint8_t *hashes;             /* of its pieces, where there is no local file; owned */
    uint64_t fetched;            /* bytes that came over the network so far */
    uint32_t mat_first, mat_end; /* matrices that are needed; mat_end 0: all */
    struct worker__chunk {
        uint64_t piece, offset, bytes;
    } asked[WORKER__AHEAD_MOST]; /* and not received yet, oldest first; in a ring */
    unsigned first_asked, n_asked;
    struct worker__chunk last_asked;
    struct shard_synthetic_tensor made; /* from the first piece to the last */
};

/* A piece's bytes, for as long as they are needed. */
struct worker__loan {
    const uint8_t *data;
    struct shard_mapped mapped; /* to be unmapped */
    void *owned;                /* to be freed */
};

/* Finds the tensor in the local file (PROTO_FORMAT where the file has another one in its place) or
 * asks for its hashes. */
enum proto_status worker__source_init(struct worker__source *source, struct worker__shelf *shelf,
                                      const struct shard_gguf *card, uint32_t number,
                                      struct proto_error *error);
void worker__source_finish(struct worker__source *source);

/* Names the tensor's bytes: by the hashes of its pieces, or by the stamps of the local file. */
void worker__source_identify(const struct worker__source *source,
                             uint8_t identity[PROTO_HASH_BYTES]);

/* Removes the tensor's pieces from the store; nothing with a local file. */
void worker__source_drop(const struct worker__source *source);

/* The bytes of piece i. PROTO_CANCELLED soon after the options' flag is set; PROTO_CORRUPT where
 * the bytes fetched are wrong time after time. */
enum proto_status worker__source_borrow(struct worker__source *source, uint64_t i,
                                        struct worker__loan *loan, struct proto_error *error);
/* PROTO_IO where the bytes were lost while they were lent, so that they were not what they should
 * be. */
enum proto_status worker__source_return(struct worker__source *source, uint64_t i,
                                        struct worker__loan *loan, struct proto_error *error);

#endif
