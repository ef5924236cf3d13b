/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which type each matrix of a quantised file has. Files are named for a mixture ("Q4_K_M"): most
 * matrices are of its base type, those that lose most are of a bigger one. The rules are those by
 * which published files were made without an importance matrix; files that somebody tuned by hand
 * differ. Constant data, any thread.
 */
#ifndef SHARD_MIXTURE_H
#define SHARD_MIXTURE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/type.h"
#include "proto/status.h"

/* Which layers a rule is for. More bits: the first and the last eighth, and every third between. */
enum shard_mixture_where {
    SHARD_MIXTURE_ALL,
    SHARD_MIXTURE_MORE_BITS,
    SHARD_MIXTURE_EIGHTH, /* the first of eight parts */
    SHARD_MIXTURE_SIXTEENTH,
    SHARD_MIXTURE_FIRST_2,
    SHARD_MIXTURE_FIRST_4,
    SHARD_MIXTURE_SHARED_KV /* where 4 heads or more share a KV head, or there are 4 experts */
};

/* Type `a` in the layers `where`, `b` in others. KERN_F32 stands for the base type. */
struct shard_mixture_rule {
    enum kern_type a;
    enum shard_mixture_where where;
    enum kern_type b;
};

struct shard_mixture {
    const char *name;
    enum kern_type base;
    bool uniform;   /* every matrix is of the base type, rows that do not fit it are an error */
    bool by_expert; /* matrices that no expert has are Q8_0 */
    bool no_more;   /* no exceptions for models of 8 experts */
    enum kern_type output, embedding;
    struct shard_mixture_rule v, down, attn_output, qkv;
    enum kern_type qk; /* of attn_q and attn_k */
};

/* A matrix, or stack of them. */
struct shard_mixture_tensor {
    const char *name; /* with "blk.N." */
    uint32_t layer, n_layers;
    uint32_t heads_per_kv, n_experts;
    uint64_t row; /* values of a row */
    bool experts; /* a matrix of each expert */
    bool is_head; /* output.weight, or token_embd.weight where it serves as the head */
};

/* The mixture of that name in any case, or NULL. */
const struct shard_mixture *shard_mixture_find(const char *name);

/* All mixtures, smallest first. */
const struct shard_mixture *shard_mixture_all(size_t *count);

/* A mixture of one type. */
struct shard_mixture shard_mixture_uniform(const struct kern_type_info *type);

/* PROTO_INVALID lists the names: of mixtures, then of types that are none. */
enum proto_status shard_mixture_read(struct shard_mixture *out, const char *name,
                                     struct proto_error *error);

const struct kern_type_info *shard_mixture_type(const struct shard_mixture *mixture,
                                                const struct shard_mixture_tensor *tensor);

/* The header (shard_gguf_card) of a model as a file of the mixture has it. *bytes is malloc'ed and
 * the caller's. */
struct shard_model;
enum proto_status shard_mixture_card(const struct shard_mixture *mixture,
                                     const struct shard_model *model, void **bytes, size_t *len,
                                     struct proto_error *error);

#endif
