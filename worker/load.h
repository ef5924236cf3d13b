/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Loads the weights of a program. What the store has as the kernels read it is mapped. The rest is
 * packed: each tensor's pieces are taken from a source, verified where the source can be wrong, and
 * packed into a new file of the store, or into memory where there is no store or no room in it.
 * Runs on a thread of its own; the source's functions may block. Weights that share are loaded and
 * finished on one and the same thread.
 */
#ifndef WORKER_LOAD_H
#define WORKER_LOAD_H

#include <stdatomic.h>

#include "shard/store.h"
#include "shard/synthetic.h"
#include "worker/exec.h"

/* Brings pieces from elsewhere. Calls come from the loading thread only. */
struct worker_fetch {
    /* Hashes of all pieces of a tensor (number in the model card); blocks. */
    enum proto_status (*hashes)(void *arg, uint32_t tensor, uint8_t *hashes, uint64_t n_pieces,
                                struct proto_error *error);
    /* Asks for bytes of a piece; does not block. Up to 32 may be asked for ahead. */
    enum proto_status (*request)(void *arg, uint32_t tensor, uint64_t piece, uint64_t offset,
                                 uint32_t bytes, struct proto_error *error);
    /* The answer to the oldest request not yet received; blocks, with a deadline. The data is
     * valid until the next call. */
    enum proto_status (*receive)(void *arg, const void **data, size_t *len,
                                 struct proto_error *error);
    /* Nothing of what was asked for and not received is wanted any more. */
    void (*drop)(void *arg);
    /* Whether the bytes of the piece that were received were the right ones; and if not, whether it
     * is worth while to ask for it once more. */
    bool (*judge)(void *arg, uint32_t tensor, uint64_t piece, bool right);
    void (*tell)(void *arg); /* logs what came from where so far */
    void *arg;
};

/* Weights of the same model card that are loaded already. */
struct worker_loaded {
    const struct shard_program *program;
    struct worker_weights *weights;
};

struct worker_load_options {
    const struct worker_loaded *loaded; /* what is among these is shared, not loaded again */
    uint32_t n_loaded;
    struct kern_pool *pool;        /* packs in parallel */
    const struct shard_gguf *file; /* a local copy of the model, the card's tensors in the same
                                      order with data; or NULL */
    const struct shard_synthetic *synthetic; /* makes the weights, where it is not NULL */
    struct shard_store *store;               /* of pieces, used where file is NULL */
    struct shard_store *packed;              /* keeps packed weights; or NULL */
    const struct worker_fetch *fetch;        /* used where the store lacks a piece */
    /* Called after each piece: bytes of the file's tensors done, of all, and fetched so far. */
    void (*progress)(void *arg, uint64_t done, uint64_t total, uint64_t fetched);
    void *progress_arg;
    const atomic_bool *cancel; /* set by another thread: PROTO_CANCELLED soon after */
    bool unsaid;               /* the log does not tell of it: nothing is served with the weights */
    struct worker_lazy *lazy;  /* has the weights that are not loaded; the weights' from the call
                                  on, even if it fails; or NULL */
};

/* Maps or takes memory for all weights of the program (shard_program_weight_bytes) and fills it:
 * 64-byte aligned, a VECTOR's padding zero. Pieces that are in the store packed are no longer kept
 * as fetched. What the weights need of the store is on a lease until they are freed. Trouble with
 * the store, such as a full disk, is logged once, and nothing more is kept; on failure *out is
 * empty. PROTO_CORRUPT: a piece came wrong from everybody; PROTO_IO: the local file was cut short;
 * what was fetched stays in the store, and another call goes on from there. */
enum proto_status worker_load(struct worker_weights *out, const struct shard_program *program,
                              const struct worker_load_options *options, struct proto_error *error);

/* For weights of which single matrices are packed, from a local copy of the model. check:
 * PROTO_FORMAT or PROTO_INVALID where the file's tensor is another one. Then matrix `mat` fills
 * kern_packed_bytes of memory. */
enum proto_status worker_load_matrix_check(const struct shard_program *program, size_t weight,
                                           const struct shard_gguf *file,
                                           struct proto_error *error);
void worker_load_matrix(void *memory, const struct shard_program *program, size_t weight,
                        uint32_t mat, const struct shard_gguf *file, struct kern_pool *pool);

/* Whether weights that are mapped were lost, see shard_mapped_lost. */
bool worker_weights_lost(const struct worker_weights *weights);

/* Frees the weights that nobody shares and empties *weights; one that is empty already is allowed.
 */
void worker_weights_finish(struct worker_weights *weights);

#endif
