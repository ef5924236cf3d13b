/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the planner needs to know of a model: bytes and operations by layer, for one way of using it
 * (KV type, context, sequences, rows of a batch). Made from a model's header, or filled by hand for
 * a model that has no file: everything here is plain numbers. Constant after creation, any thread.
 *
 * Operations are multiplications and additions: a matrix of n x k has 2 n k a row.
 */
#ifndef SHARD_PLAN_SHAPE_H
#define SHARD_PLAN_SHAPE_H

#include "kernels/table.h"
#include "shard/experts.h"
#include "shard/model.h"

struct plan_shape_options {
    enum kern_kv kv;
    uint64_t ctx;      /* positions a sequence may take */
    uint32_t max_seqs; /* sequences that must fit at full length */
    uint32_t max_rows; /* rows of a batch */
};

struct plan_layer {
    /* Weights besides routed experts; a batch reads them all, once. */
    uint64_t weight_bytes;
    double ops;
    /* Of these: what is computed while experts on other machines compute (the shared expert). */
    uint64_t beside_bytes;
    double beside_ops;
    /* Routed experts. */
    uint32_t n_experts, n_used; /* 0: a dense layer */
    uint32_t n_segments;        /* that an expert can be cut into, see shard/experts.h */
    const float *popular;   /* n_experts + 1: popularity of the experts before each, n_experts in
                               all; NULL: rows choose all alike. See plan_shape_popularity. */
    uint64_t expert_bytes;  /* of one, whole */
    double expert_ops;      /* of one, a row */
    uint64_t request_bytes; /* a row sent to a host of experts */
    uint64_t answer_bytes;  /* a sum sent back, see plan_range_answers */
    /* Attention and states. */
    double key_ops;         /* F32, for each key that a row sees */
    double row_ops;         /* F32, besides */
    uint64_t key_bytes;     /* read for each key that a sequence's row sees */
    uint64_t state_bytes;   /* read and written for each sequence */
    uint64_t window;        /* keys that a row sees at most; 0: all */
    bool chunked;           /* the window is a chunk: half of it on average */
    uint64_t kv_bytes;      /* memory for max_seqs sequences of ctx positions */
    uint64_t kv_seen_bytes; /* memory of another layer's keys and values, kept also where that
                               layer is not: counted once a stage, see plan_placement_measure */
    uint32_t kv_layer;      /* whose keys and values it sees */
    uint64_t row_bytes;     /* a row from the stage before, where a stage starts here */
};

struct plan_shape {
    const struct shard_model *model; /* borrowed; NULL: made by hand */
    char name[128];
    struct plan_shape_options options;
    uint32_t n_layers;
    struct plan_layer *layers;
    uint64_t embed_bytes;
    uint64_t head_bytes;              /* read once a batch with wanted rows */
    double head_ops;                  /* a wanted row */
    uint64_t tied_bytes;              /* of embed and head, held once by a stage that has both */
    uint64_t scratch_bytes;           /* of a stage: buffers for max_rows rows */
    uint64_t thread_bytes;            /* and for each thread besides */
    uint64_t asker_scratch_bytes;     /* of a stage whose experts are elsewhere, besides, at most */
    uint64_t host_scratch_bytes;      /* of a host of experts that answers a sum a segment */
    double weight_bits;               /* a weight, on average */
    double type_ops[KERN_TYPE_SLOTS]; /* a row's by weight type, used experts included */
    float *popularity; /* what layers' `popular` point into; NULL: nothing is known */
};

/* Sizes come from the programs of single layers and are those of memory. The caller destroys the
 * shape. PROTO_LIMIT names an option out of range; PROTO_UNSUPPORTED KV that cannot be kept so. */
enum proto_status plan_shape_create(struct plan_shape **out, const struct shard_model *model,
                                    const struct plan_shape_options *options,
                                    struct proto_error *error);
/* A copy with weights of `bits` each on average in place of weight_bits, other things alike, but
 * without a model: its programs would have other sizes. */
enum proto_status plan_shape_scaled(struct plan_shape **out, const struct plan_shape *shape,
                                    double bits, struct proto_error *error);
/* How often rows chose each expert: counts[layer * n_experts + expert], of n_layers layers. Where
 * little was counted experts stay nearly alike. PROTO_INVALID: counts of another model. */
enum proto_status plan_shape_popularity(struct plan_shape *shape, const uint64_t *counts,
                                        uint32_t n_layers, uint32_t n_experts,
                                        struct proto_error *error);
/* Popularity of experts [first, end) of a layer, in experts as popular as the mean. */
double plan_layer_popularity(const struct plan_layer *layer, uint32_t first, uint32_t end);

/* Of a shape on the heap whose layers are too. NULL is allowed. */
void plan_shape_destroy(struct plan_shape *shape);

/* Bytes of all weights; of those that a token reads; expert layers. */
uint64_t plan_shape_weight_bytes(const struct plan_shape *shape);
uint64_t plan_shape_token_bytes(const struct plan_shape *shape);
uint32_t plan_shape_moe_layers(const struct plan_shape *shape);

/* Keys that the row at position `depth` sees. */
double plan_layer_keys(const struct plan_layer *layer, double depth);

/* Experts that `rows` rows touch of `experts` of a layer's, on average, if all are equally likely:
 * experts * (1 - (1 - n_used / n_experts)^rows). */
double plan_layer_touched(const struct plan_layer *layer, double experts, double rows);
/* The same of experts that are together as popular as `popularity` of the mean ones, and alike. */
double plan_layer_touched_of(const struct plan_layer *layer, double experts, double popularity,
                             double rows);

#endif
