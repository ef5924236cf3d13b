/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Bounds on what a file or a peer may ask for. They are checked before memory is taken.
 */
#ifndef PROTO_LIMITS_H
#define PROTO_LIMITS_H

/* The wire's version; a worker of another version is refused with both numbers named. */
#define PROTO_WIRE_VERSION 5u

/* Model shape (from a file's metadata). */
#define PROTO_MAX_LAYERS       512u
#define PROTO_MAX_EXPERTS      1024u
#define PROTO_MAX_EMBD         (1u << 20)
#define PROTO_MAX_HEADS        4096u
#define PROTO_MAX_HEAD_DIM     4096u
#define PROTO_MAX_FF           (1u << 24)
#define PROTO_MAX_VOCAB        (1u << 24)
#define PROTO_MAX_CONTEXT      (1u << 26)
#define PROTO_MAX_TENSORS      (1u << 20)
#define PROTO_MAX_NAME_BYTES   63u

/* Cluster shape. */
#define PROTO_MAX_WORKERS      256u
#define PROTO_MAX_SEQUENCES    4096u /* live at once */
#define PROTO_MAX_BATCH_ROWS   8192u
#define PROTO_MAX_BATCH_RANGES 4096u
#define PROTO_MAX_CANDIDATES   4096u /* a row, short of the whole vocabulary */
#define PROTO_MAX_PROFILE_TYPES 16u  /* weight types that a profile has rates of */
#define PROTO_MAX_PARTS        16384u /* of experts, of all workers together */
#define PROTO_MAX_SLICES       64u    /* of an expert */
#define PROTO_MAX_SOURCES      16u    /* workers named as holding a tensor */

/* Wire frames. */
#define PROTO_MAX_HEADER_BYTES  (4u << 20)   /* a protobuf frame */
#define PROTO_MAX_PAYLOAD_BYTES (512u << 20) /* a tensor frame */
#define PROTO_MAX_STRING_BYTES  4096u
#define PROTO_PIECE_BYTES       (64u << 20)  /* a stored piece is at most this long */
#define PROTO_CHUNK_BYTES       (1u << 20)   /* a piece travels in chunks of this size */
#define PROTO_MAX_KV_PAGES      256u         /* of a cache, in a message */
#define PROTO_HASH_BYTES        32u          /* BLAKE2b-256 */
#define PROTO_KEY_BYTES         32u          /* Curve25519, and the cluster's secret */

#endif
