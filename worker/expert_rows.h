/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Rows on their way to experts on another worker, as bytes. Pure functions, any thread.
 *
 * A request has the rows of a batch that have experts of one layer there:
 *
 *   u32 n_rows, n_groups, n_members, 0
 *   n_groups groups (8 bytes):   u32 row; u16 n_members; u8 first segment; u8 end of segments, its
 *                                upper bit set where the segments are joined
 *   n_members members (8 bytes): u32 expert; f32 weight
 *   n_rows records               gate's operand (kernels/act.h, kern_act_bytes of n_embd values),
 *                                and up's where it is of another kind
 *
 * all little-endian. A group is a set of a row's experts that the host adds up itself, namely the
 * chosen ones under a node of the tree of experts (shard/experts.h); its members follow those of
 * the groups before. Groups are in order of row and members in order of expert. Each group asks for
 * vectors of n_embd floats: one for each segment, or, where its members are all that the row has
 * (joined), one for each maximal node of the tree of segments that lies within.
 *
 * The answer is those vectors, F32, in order, and nothing else.
 *
 * So a request has 16 + rows * record + 8 * (groups + members) bytes, of which `record` is
 * n_embd + n_embd / 8 + 4 * n_embd / block bytes (block: 32 or 256 by gate's type), up to 64, or
 * 4 * n_embd for float types; an answer has 4 * n_embd * vectors. Where a host has all of a row's
 * experts, groups and vectors are one a row.
 */
#ifndef WORKER_EXPERT_ROWS_H
#define WORKER_EXPERT_ROWS_H

#include "shard/program.h"

/* What both sides know of a layer. */
struct worker_expert_shape {
    uint32_t n_embd, n_experts, n_used;
    uint32_t n_segments;
    size_t gate_bytes, up_bytes; /* of a record; up_bytes 0: up reads gate's */
    uint32_t max_rows;           /* of a batch */
};

struct worker_expert_group {
    uint32_t row, first_member;
    uint16_t n_members;
    uint8_t segment_first, segment_end;
    bool joined;
    uint32_t first_vector; /* of the answer */
};

struct worker_expert_member {
    uint32_t expert;
    float weight;
};

/* A request taken apart. The arrays are the caller's, for worker_expert_rows_most of each. */
struct worker_expert_rows {
    uint32_t n_rows, n_groups, n_members, n_vectors;
    struct worker_expert_group *groups;
    struct worker_expert_member *members;
    const char *records; /* in the request; of any alignment */
};

/* Groups, and members, that a request has at most: each expert of a row in each segment. */
uint32_t worker_expert_rows_most(const struct worker_expert_shape *shape);

/* Vectors that a group asks for. */
uint32_t worker_expert_vectors(const struct worker_expert_shape *shape,
                               const struct worker_expert_group *group);

/* Takes a request apart and checks all of it (it comes from a peer): PROTO_FORMAT, or PROTO_LIMIT
 * where its answer would not fit in a frame. */
enum proto_status worker_expert_rows_parse(struct worker_expert_rows *out,
                                           const struct worker_expert_shape *shape,
                                           const void *bytes, size_t len,
                                           struct proto_error *error);

/* Bytes of the request that rows describe, and of its answer. */
uint64_t worker_expert_request_bytes(const struct worker_expert_shape *shape,
                                     const struct worker_expert_rows *rows);
uint64_t worker_expert_answer_bytes(const struct worker_expert_shape *shape,
                                    const struct worker_expert_rows *rows);

/* Writes all of a request but the records, and returns where those go. */
void *worker_expert_rows_write(void *to, const struct worker_expert_rows *rows);

#endif
