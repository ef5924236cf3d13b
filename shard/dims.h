/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The dimensions of a model, from which the names, shapes and types of all its tensors follow: of
 * presets, of models that people run, and of configuration files. Numbers only.
 */
#ifndef SHARD_DIMS_H
#define SHARD_DIMS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/status.h"
#include "shard/mixture.h"

/* Notes of shapes that stand for others. */
#define SHARD_DIMS_NO_INDEX   "counted without its attention's index"
#define SHARD_DIMS_COMPRESSED "counted as latent attention, whose KV is not compressed further"
#define SHARD_DIMS_DELTA      "counted as delta-nets and full attention"

struct shard_dims {
    const char *preset, *arch;
    uint32_t layers, embd, heads, kv, hd, ff, vocab, ctx; /* hd: head dimension */
    double theta, eps;                                    /* RoPE base; of the RMS norms */
    uint32_t experts, used, ffe, step; /* ffe: width of an expert; step: every step-th layer */
    uint32_t dense, shared, ffs;       /* leading dense layers; shared experts; their width */
    uint32_t groups, groups_used;
    uint32_t qlora, kvlora, nope, rope, vhd; /* latent attention; qlora 0: q is not compressed */
    uint32_t swa, rope_freqs;                /* sliding window; whether RoPE has factors */
    uint32_t layer_input, shared_kv; /* gemma4: width of layers' own inputs; last layers that have
                                        no K and V of their own */
    uint32_t every;                  /* each every-th layer has full attention */
    uint32_t kv_full;                /* gemma4: KV heads of those layers; 0: kv */
    uint32_t dkeys, dvalues, dhead;  /* delta-net: K heads, V heads, their dimension */
    uint32_t tied;                   /* 1: the head is the embedding */
    const char *note;  /* of a shape that stands for an architecture that cannot be run: how it
                          differs; else NULL */
    const char *usual; /* the mixture that its owners publish; NULL: Q4_K_M is what people take */
};

/* Fills *dims from the preset's or known model's row and the "key=value" changes. */
enum proto_status shard_dims_read(struct shard_dims *dims, const char *preset,
                                  const char *const *sets, size_t n_sets,
                                  struct proto_error *error);

/* Models that people run, at full size; any thread. */
const struct shard_dims *shard_dims_known(size_t *count);

/* The GGUF header of such a model without a vocabulary: metadata and tensor table, for
 * shard_gguf_parse. *bytes is malloc'ed and the caller's. PROTO_INVALID names what does not go with
 * what. */
enum proto_status shard_dims_header(const struct shard_dims *dims,
                                    const struct shard_mixture *mixture, void **bytes, size_t *len,
                                    struct proto_error *error);

#endif
