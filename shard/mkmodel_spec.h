/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Private to the synthetic models: what a preset says, the tensors that follow from it, and the
 * rule that gives each tensor its bytes.
 */
#ifndef SHARD_MKMODEL_SPEC_H
#define SHARD_MKMODEL_SPEC_H

#include "shard/dims.h"
#include "shard/gguf.h"
#include "shard/gguf_writer.h"

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

/* The metadata and tensors of a model without its vocabulary. finish is allowed after a failure. */
enum proto_status shard__spec_init(struct shard__spec *spec, const struct shard_dims *dims,
                                   const struct shard_mixture *mixture, struct proto_error *error);
void shard__spec_finish(struct shard__spec *spec);

/* Adds a vocabulary of n tokens: specials, 256 bytes, letters and common pairs, fillers. */
enum proto_status shard__spec_vocab(struct shard_gguf_writer *writer, uint32_t n,
                                    struct proto_error *error);

/* Writes blocks [first, first + n) of a tensor to dst (a float is a block of one). first is a
 * multiple of 8 and dst has 8 bytes to spare: bytes are made in words of 8. */
void shard__fill(uint8_t *dst, const struct shard_tensor *tensor,
                 const struct shard__recipe *recipe, uint64_t seed, uint64_t first, uint64_t n);

#endif
