/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Private to the synthetic models: what a preset says, the tensors that follow from it, and the
 * rule that gives each tensor its bytes.
 */
#ifndef SHARD_MKMODEL_SPEC_H
#define SHARD_MKMODEL_SPEC_H

#include "shard/gguf.h"
#include "shard/gguf_writer.h"

struct shard__dims {
    const char *preset, *arch;
    uint32_t layers, embd, heads, kv, hd, ff, vocab, ctx; /* hd: head dimension */
    double theta, eps;                                    /* RoPE base; of the RMS norms */
    uint32_t experts, used, ffe, step; /* ffe: width of an expert; step: every step-th layer */
    uint32_t dense, shared, ffs;       /* leading dense layers; shared experts; their width */
    uint32_t groups, groups_used;
    uint32_t qlora, kvlora, nope, rope, vhd; /* latent attention */
    uint32_t swa, rope_freqs;                /* sliding window; whether RoPE has factors */
    uint32_t layer_input, shared_kv; /* gemma4: width of layers' own inputs; last layers that have
                                        no K and V of their own */
};

/* Fills *dims from the preset's row and the "key=value" changes. */
enum proto_status shard__dims_read(struct shard__dims *dims, const char *preset,
                                   const char *const *sets, size_t n_sets,
                                   struct proto_error *error);

enum shard__rule {
    SHARD__UNIFORM, /* v(i) * float(sqrt(3) * std), or blocks of random bytes with set scales */
    SHARD__NORM,    /* 1 + 0.1 v(i) */
    SHARD__VALUES   /* as given */
};

/* How a tensor gets its bytes. */
struct shard__recipe {
    enum shard__rule rule;
    double std;    /* standard deviation of UNIFORM */
    float *values; /* of VALUES, owned */
};

/* A model to be written: its header and, for each tensor in order, the recipe. */
struct shard__spec {
    struct shard_gguf_writer *writer;
    struct shard__recipe *recipes;
    size_t n, capacity;
};

/* The metadata and tensors of a model; matrices in `type`. finish is allowed after a failure. */
enum proto_status shard__spec_init(struct shard__spec *spec, const struct shard__dims *dims,
                                   const struct kern_type_info *type, struct proto_error *error);
void shard__spec_finish(struct shard__spec *spec);

/* Adds a vocabulary of n tokens: specials, 256 bytes, letters and common pairs, fillers. */
enum proto_status shard__spec_vocab(struct shard_gguf_writer *writer, uint32_t n,
                                    struct proto_error *error);

/* Writes blocks [first, first + n) of a tensor to dst (a float is a block of one). first is a
 * multiple of 8 and dst has 8 bytes to spare: bytes are made in words of 8. */
void shard__fill(uint8_t *dst, const struct shard_tensor *tensor,
                 const struct shard__recipe *recipe, uint64_t seed, uint64_t first, uint64_t n);

#endif
