/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A slice of a model as a program: a flat array of operations over numbered buffers, fixed when
 * the slice is cut, with only the batch varying. The program also lists the weights that it
 * reads, so it alone says what a worker must hold. Constant after creation, any thread.
 *
 * Buffers hold one row for each row of the batch. Buffer 0 is the residual stream x (F32, n_embd):
 * what the stage before sent, and what the stage after gets, each with what shard_row_floats says
 * of rows between stages. Operations from `tail` on work on the
 * rows whose results are wanted; an executor runs them on a few rows at a time, since a row of
 * logits is large. The last operation of a program with a head leaves logits in `logits`.
 */
#ifndef SHARD_PROGRAM_H
#define SHARD_PROGRAM_H

#include <stdio.h>

#include "kernels/table.h"
#include "shard/experts.h"
#include "shard/model.h"

enum shard_op_kind {
    SHARD_OP_EMBED,        /* dst = row ids[r] of weight w */
    SHARD_OP_ROPE_TABLE,   /* dst = (cos, sin) pairs of each row's position, n_rot floats, of angles
                              `rope_set`; w: the vector that divides the angles, or none */
    SHARD_OP_RMS_NORM,     /* dst = RMS(a) * w in n_heads groups of `width`; w < 0: no weight */
    SHARD_OP_QUANT,        /* dst = the first `width` values of a quantised as dst's kind; with
                              n_heads: a record for each head, of a's values h * stride on */
    SHARD_OP_MATMUL,       /* dst = w . a */
    SHARD_OP_BIAS,         /* dst += w (a vector) */
    SHARD_OP_COPY,         /* dst = `width` values of a from `offset` on */
    SHARD_OP_ROPE,         /* dst rotated in place by table a; n_heads heads of `width`, of which
                              n_rot values from value `offset` on turn */
    SHARD_OP_SCALE,        /* dst *= scale, or the first value of vector w; `width` values */
    SHARD_OP_SOFTCAP,      /* dst = scale * tanh(dst / scale), `width` values */
    SHARD_OP_TEMPERATURE,  /* dst *= 1 + scale * ln(1 + floor((p + offset) / length)) */
    SHARD_OP_KV_STORE,     /* cache of layer `layer` <- K a, V b; no b: values are keys' starts */
    SHARD_OP_ATTENTION,    /* dst = attention of Q a over the cache of layer `layer`; w: sinks, a
                              number for each head, or none */
    SHARD_OP_GLU,          /* dst = a and b joined by `glu`, `width` values */
    SHARD_OP_ADD,          /* dst += a, `width` values */
    SHARD_OP_ROUTE,        /* dst = the experts and weights of each row, from `width` logits a,
                              which it may change; w: what is added to scores for the choice alone,
                              or none; w2: factors of the weights by expert, or none */
    SHARD_OP_EXPERTS,      /* dst = sum of weighted expert FFNs of layer `layer`, those that the
                              program holds (n_holdings) and, where `remote`, other workers; a, c:
                              operands of gate and up; b: routes; bias: of gate, up and down, by
                              expert, or none. An expert host has the weights alone */
    SHARD_OP_EXPERTS_SEND, /* rows to the workers that hold the rest; operands as EXPERTS, which
                              comes later and receives what they compute */
    SHARD_OP_COPY_HEADS,   /* `width` values of each of n_heads heads: head h's from a's
                              h * stride + offset on go to dst's h * dst_stride + dst_offset on */
    SHARD_OP_MATMUL_HEADS, /* record h of dst = matrix h of w . record h of a, n_heads of them */
    SHARD_OP_SIGMOID_MUL,  /* dst *= sigmoid(a), `width` values */
    SHARD_OP_SIGMOID_SCALE, /* dst *= sigmoid of a's first value, `width` values */
    SHARD_OP_UNIT,  /* n_heads vectors of `width` values of dst, from its value `offset` on, get
                       the length `scale` */
    SHARD_OP_CONV,  /* dst = silu of the causal convolution by w of `width` channels a over the
                       positions of a sequence; what came before is in the state of `layer` */
    SHARD_OP_DELTA, /* dst = gated delta-net of a = [q | k | v] with logits b of beta and c of the
                       decay, and vectors w (dt) and w2 (A); changes the state of `layer` */
    SHARD_OP_SELECT /* dst = rows of a whose results are wanted; starts the tail */
};

enum shard_buffer_kind { SHARD_BUFFER_F32, SHARD_BUFFER_ACT, SHARD_BUFFER_ROUTE };

/* An expert choice of one row; n_experts_used of them in order of falling weight (ties: lower
 * expert first). */
struct shard_choice {
    uint32_t expert;
    float weight;
};

struct shard_buffer {
    char name[24]; /* for printing */
    enum shard_buffer_kind kind;
    enum kern_act act; /* for ACT */
    uint32_t width;    /* most values a row; for ROUTE: choices a row */
    uint32_t records;  /* for ACT: operands of `width` values a row */
    bool tail;         /* holds wanted rows only */
};

/* Floats that a record of a float buffer takes where a row holds one for each head. */
static inline size_t shard_record_floats(size_t width)
{
    return (width + 15) / 16 * 16;
}

/* Floats that the states of a delta-net layer's heads take, n_v matrices of dim x dim, and after
 * them the inputs of the convolution's earlier taps, the oldest position first: taps - 1 rows of
 * the channels of q, k and v. */
static inline uint64_t shard_delta_state_floats(const struct shard_delta *d)
{
    return ((uint64_t)d->n_v * d->dim * d->dim + 15) / 16 * 16;
}
static inline uint64_t shard_delta_conv_floats(const struct shard_delta *d)
{
    uint64_t channels = (uint64_t)d->dim * (2 * d->n_k + d->n_v);
    return ((d->taps - 1) * channels + 15) / 16 * 16;
}

/* Rows of the tail that an executor computes at a time, and so the rows of a tail buffer. */
#define SHARD_TAIL_ROWS 16u

enum shard_weight_form {
    SHARD_WEIGHT_VECTOR, /* floats; the rows of a matrix follow one another */
    SHARD_WEIGHT_PANELS  /* packed by kern_pack; n_mats matrices one after another */
};

struct shard_weight {
    enum shard_weight_form form;
    const struct kern_type_info *type; /* of PANELS */
    uint64_t k, n_out;                 /* of one matrix; a VECTOR has n_out values, k = 1 */
    uint32_t n_mats;                   /* 1, or experts */
    uint32_t first_part, n_parts;      /* tensors in program->parts that hold it, in order */
    /* PANELS may take a part of each tensor: matrices [mat_first, mat_end), mat_end 0 meaning all;
     * of every row_every of their rows the row_n from number row_first on (row_every 0: all), where
     * `transposed` makes each a column (of F32, for transposed quantised values have no blocks);
     * and values [columns.at[0], columns.at[columns.n]) of a row, each segment of which is a matrix
     * of its own, one after another (columns.n 0: all values, as one matrix). */
    uint32_t mat_first, mat_end;
    uint32_t row_every, row_first, row_n;
    bool transposed;
    struct shard_segments columns;
};

/* Routed experts of a layer that a program holds: of experts [expert_first, expert_end) segments
 * [segment_first, segment_end), as matrices numbered from expert_first on. `gate` and `up` have the
 * segments' rows and `down` their columns, columns.n of which is 0 where the experts are one
 * segment. */
struct shard_holding {
    uint32_t expert_first, expert_end;
    uint32_t segment_first, segment_end;
    int32_t gate, up, down; /* weights; up -1: gate has gate's rows and then up's */
};

struct shard_op {
    enum shard_op_kind kind;
    int16_t dst, a, b, c; /* buffers, -1: none */
    int32_t w;            /* weight, -1: none */
    int32_t w2;
    int32_t bias[3];                    /* EXPERTS: vectors */
    uint32_t first_holding, n_holdings; /* EXPERTS: in program->holdings */
    bool remote;                        /* EXPERTS */
    uint32_t layer;                     /* the layer whose cache, state or experts it is about */
    uint32_t width;  /* values an operation covers in a row, a group or a head: see its kind */
    uint32_t offset; /* COPY, COPY_HEADS, ROPE: first value; TEMPERATURE: of positions */
    uint32_t stride, dst_stride, dst_offset; /* COPY_HEADS; QUANT of heads: stride */
    uint32_t n_heads, n_head_kv;
    uint32_t dim_k, dim_v; /* KV_STORE, ATTENTION: of a head */
    enum shard_rope rope;
    enum shard_rope_set rope_set;
    uint32_t n_rot;
    enum shard_glu glu;
    enum shard_mask mask;
    uint32_t window;
    float scale; /* ATTENTION: of scores; TEMPERATURE, SCALE: factor; ROUTE: of weights */
    float eps;
    uint32_t length; /* TEMPERATURE */
    enum shard_gate gate;
    bool gate_normalised, gate_on_input;
    uint32_t n_used, n_groups, n_groups_used;
};

struct shard_program {
    const struct shard_model *model; /* borrowed */
    uint32_t layer_first, layer_end; /* [first, end) */
    bool embed, head;
    struct shard_op *ops;
    size_t n_ops;
    size_t tail; /* first op of the tail; n_ops without a head */
    struct shard_buffer *buffers;
    size_t n_buffers;
    struct shard_weight *weights;
    size_t n_weights;
    uint32_t *parts; /* tensor numbers in model->gguf */
    size_t n_parts;
    struct shard_holding *holdings;
    size_t n_holdings;
    uint32_t worker;
    struct shard_expert_part *placement; /* of a split's experts, all workers'; NULL: no split */
    uint32_t n_placement;
    int16_t logits; /* buffer, -1 without a head */
    /* n_rot/2 radians a position of each set, scaling applied; the divisors of ROPE_TABLE's weight
     * are not, for they are loaded later. */
    double *rope_freqs[SHARD_N_ROPE_SETS];
};

/* Fills n_rot/2 frequencies; see shard_rope_params. */
void shard_rope_fill(double *freqs, const struct shard_rope_params *params);

/* First position that a query at `pos` sees. */
uint64_t shard_mask_first(enum shard_mask mask, uint32_t window, uint64_t pos);

/* Cuts layers [layer_first, layer_end), which may be none, with the embedding if embed and the head
 * if head, and emits the program. model is borrowed. */
enum proto_status shard_program_create(struct shard_program **out, const struct shard_model *model,
                                       uint32_t layer_first, uint32_t layer_end, bool embed,
                                       bool head, struct proto_error *error);

/* A slice whose routed experts are on several workers. */
struct shard_split {
    uint32_t layer_first, layer_end;       /* of the worker's stage, [first, end) */
    bool embed, head;                      /* as for shard_program_create */
    uint32_t worker;                       /* whose program it is */
    const struct shard_expert_part *parts; /* of all workers; NULL: every expert is the slice's */
    uint32_t n_parts;
};

/* The program of a worker's stage. Of the experts of its layers it holds those that `worker` has,
 * and asks the other workers for theirs (SHARD_OP_EXPERTS_SEND). PROTO_INVALID where no worker has
 * some expert of its layers, or a part is out of the model's bounds or has slices that the
 * model's experts cannot be cut into. */
enum proto_status shard_program_create_split(struct shard_program **out,
                                             const struct shard_model *model,
                                             const struct shard_split *split,
                                             struct proto_error *error);

/* The program of an expert host: EXPERTS operations alone, one for each MoE layer outside of the
 * worker's stage of which the worker has experts. It is loaded, and its memory counted, like any
 * other, and run by worker/expert_host.h. PROTO_INVALID where there is no such layer, and as above.
 */
enum proto_status shard_program_create_host(struct shard_program **out,
                                            const struct shard_model *model,
                                            const struct shard_split *split,
                                            struct proto_error *error);
void shard_program_destroy(struct shard_program *program);

/* Floats of a row that passes from the stage that ends before `layer` to the one that starts with
 * it, a multiple of 16: the residual row, and what that stage and later ones need besides
 * (program_carry.c). */
uint32_t shard_row_floats(const struct shard_model *model, uint32_t layer);

/* Whether a slice of layers [first, end) keeps keys and values of layer il: one that it has, or an
 * earlier one whose keys and values a layer of the slice sees. cache_first: the first such layer
 * that a slice may keep, at most layer_first. */
bool shard_keeps_kv(const struct shard_model *model, uint32_t first, uint32_t end, uint32_t il);
uint32_t shard_program_cache_first(const struct shard_program *program);

/* Types of the matrices of a layer's experts; `fused`: gate's and up's are one. */
struct shard_expert_types {
    const struct kern_type_info *gate, *up, *down;
    bool fused;
};
struct shard_expert_types shard_expert_types(const struct shard_model *model, uint32_t layer);

/* Memory the weights take when loaded, in bytes; one weight's. */
uint64_t shard_program_weight_bytes(const struct shard_program *program);
uint64_t shard_weight_bytes(const struct shard_weight *weight);

/* Where segment i of a PANELS' columns lies in a matrix, in bytes; *k: its columns. Of a weight
 * that is not cut, segment 0 is the whole matrix. */
uint64_t shard_weight_segment(const struct shard_weight *weight, uint32_t i, uint64_t *k);

/* Bytes from one row of a buffer to the next: floats rounded up to 16, whole records. */
size_t shard_buffer_stride(const struct shard_buffer *buffer);

/* Memory that the buffers other than x take for batches of max_rows rows, each 64-byte aligned,
 * and what EXPERTS takes besides. */
uint64_t shard_program_buffer_bytes(const struct shard_program *program, uint32_t max_rows);

/* Memory that what other workers are asked, and answer, takes in a stage's program for batches of
 * max_rows rows; and what a host's program answers. A sum is shard_record_floats. */
uint64_t shard_program_asked_bytes(const struct shard_program *program, uint32_t max_rows);
uint64_t shard_program_answer_bytes(const struct shard_program *program, uint32_t max_rows);

/* Query heads of one KV head that a task of an ATTENTION operation takes, and the rows of a sequence
 * (at least 1) where these see `span` positions: many share what they read from memory, but their
 * scores must be kept. */
uint32_t shard_attention_heads(const struct shard_op *op);
uint32_t shard_attention_rows(const struct shard_op *op, uint64_t span);
/* Memory that a thread takes at most for the ATTENTION operations of sequences of ctx positions:
 * kern_attention_scratch, and the pages' addresses. */
uint64_t shard_attention_scratch_bytes(const struct shard_program *program, uint64_t ctx);

/* Scratch of an EXPERTS operation for max_rows rows: an entry is a row's expert in one holding, and
 * entries are sorted by expert. Offsets are from one 64-byte aligned block. */
struct shard_experts_scratch {
    uint64_t entries;      /* at most */
    uint64_t x_gate, x_up; /* operands gathered by entry; the same where gate and up share one */
    uint64_t gate, up;     /* floats by entry, strides of ff_stride floats */
    uint64_t x_down;       /* operand records of down by entry, down_bytes each: one a segment */
    uint64_t down;         /* products with down, by segment and entry, of a block of columns */
    uint64_t products;     /* floats there */
    uint64_t bytes;        /* of it all */
    size_t ff_stride, down_bytes;
};

/* A block of columns is a multiple of these panels, or all: of whole products of OpenBLAS's. */
#define SHARD_EXPERT_PANELS 8u

struct shard_experts_scratch shard_experts_scratch(const struct shard_program *program,
                                                   const struct shard_op *op, uint32_t max_rows);

/* Writes the program as text, one operation a line. */
void shard_program_print(const struct shard_program *program, FILE *out);

#endif
