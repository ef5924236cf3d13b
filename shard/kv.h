/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The KV cache of a slice: for each sequence and layer whose keys and values the slice's layers
 * see (shard_keeps_kv), pages of SHARD_KV_PAGE_ROWS positions. A page holds, for each KV head, its
 * K rows and then its V rows. Pages come from one pool with a limit; a chunked or windowed layer
 * gives back the pages that no later query can see. A recurrent layer has a state in place of
 * pages, and copies of it (shard/kv_state.h), from the same limit. One thread (the one that
 * executes).
 */
#ifndef SHARD_KV_H
#define SHARD_KV_H

#include "shard/program.h"

#define SHARD_KV_PAGE_ROWS 32u

/* Copies of a sequence's recurrent states that are kept, and the positions between them: a
 * sequence may be cut back to any of the last SHARD_KV_SNAPSHOTS multiples. */
#define SHARD_KV_SNAPSHOTS      2u
#define SHARD_KV_SNAPSHOT_EVERY 256u

struct shard_kv;

/* Whether a model's rows can be kept as a type: quantised ones are whole blocks. PROTO_UNSUPPORTED
 * names the dimensions, PROTO_INVALID a number that is no type. */
enum proto_status shard_kv_check(const struct shard_model *model, enum kern_kv type,
                                 struct proto_error *error);

struct shard_kv_options {
    enum kern_kv type;
    uint32_t max_seqs;
    uint64_t ctx;       /* positions a sequence may take; 0: PROTO_MAX_CONTEXT */
    uint64_t max_bytes; /* of pages; 0: no limit */
};

enum proto_status shard_kv_create(struct shard_kv **out, const struct shard_program *program,
                                  const struct shard_kv_options *options,
                                  struct proto_error *error);
void shard_kv_destroy(struct shard_kv *kv);

/* Makes room for positions [pos, pos + n) of a sequence in every layer of the slice, after which
 * the sequence ends. On failure (PROTO_CAPACITY: the text says how much is missing) nothing has
 * changed. pos may go back over what is there (rows are overwritten, later ones forgotten), but
 * not to where a layer has given back positions that it would have to see or no copy of a
 * recurrent state was kept (the text says from where the sequence can go on), and it may not skip
 * positions; the end may not pass the context: PROTO_INVALID. */
enum proto_status shard_kv_reserve(struct shard_kv *kv, uint32_t seq, uint64_t pos, uint32_t n,
                                   struct proto_error *error);

/* A position, at most pos, from which reserve accepts that a sequence goes on: pos itself, that of
 * a copy of its recurrent states, or 0. */
uint64_t shard_kv_resume(const struct shard_kv *kv, uint32_t seq, uint64_t pos);

/* A recurrent layer's state, to be moved on by the positions reserved last, and the copy of it to
 * be made once it is that of pos, the number of positions behind it, or NULL if none is kept
 * there. Floats as shard_delta_state_floats and shard_delta_conv_floats say. */
float *shard_kv_state(const struct shard_kv *kv, uint32_t seq, uint32_t layer);
float *shard_kv_snapshot(const struct shard_kv *kv, uint32_t seq, uint32_t layer, uint64_t pos);

/* After a batch that ended at position next - 1: gives back pages that no query at next or later
 * sees. */
void shard_kv_trim(struct shard_kv *kv, uint32_t seq, uint64_t next);

/* Forgets a sequence. */
void shard_kv_drop(struct shard_kv *kv, uint32_t seq);

/* ---- from one slice's cache to another's (shard/kv_move.c) ---- */

/* Positions of a sequence that were reserved. Its version changes whenever some of them are
 * forgotten: what was read of it at a version is right as long as that is the same. */
uint64_t shard_kv_end(const struct shard_kv *kv, uint32_t seq);
uint64_t shard_kv_version(const struct shard_kv *kv, uint32_t seq);

/* The layers that the slice may keep something of. Constant; any thread. */
void shard_kv_layers(const struct shard_kv *kv, uint32_t *first, uint32_t *n);

/* What the slice keeps of any layer, 0 where it keeps none: bytes of a page, and of a sequence's
 * recurrent state. Whether another slice keeps it in the same form. Constant; any thread. */
size_t shard_kv_page_bytes(const struct shard_kv *kv, uint32_t layer);
size_t shard_kv_state_bytes(const struct shard_kv *kv, uint32_t layer);
bool shard_kv_alike(const struct shard_kv *kv, const struct shard_kv *other, uint32_t layer);

/* The first page of a layer that a query at pos sees. Constant; any thread. */
uint64_t shard_kv_first_page(const struct shard_kv *kv, uint32_t layer, uint64_t pos);

/* Copies pages [page, page + n) of a layer, or its state behind the sequence's last position, to
 * `out`; false where they are not all there. */
bool shard_kv_read_pages(const struct shard_kv *kv, uint32_t seq, uint32_t layer, uint64_t page,
                         uint32_t n, void *out);
bool shard_kv_read_state(const struct shard_kv *kv, uint32_t seq, uint32_t layer, void *out);

/* The other way, for a sequence that has not begun here; shard_kv_take begins it, shard_kv_drop
 * forgets what was written. PROTO_INVALID: there is no such place; PROTO_CAPACITY as reserve. */
enum proto_status shard_kv_write_pages(struct shard_kv *kv, uint32_t seq, uint32_t layer,
                                       uint64_t page, uint32_t n, const void *bytes,
                                       struct proto_error *error);
enum proto_status shard_kv_write_state(struct shard_kv *kv, uint32_t seq, uint32_t layer,
                                       const void *bytes, struct proto_error *error);

/* Begins a sequence at position `end` with what `from` (NULL: nothing) has of layers that both
 * keep in the same form, and with what was written of the others. Where all is from `from`, a
 * recurrent state may be cut back as it could there; else no copies are kept. False: it is not all
 * there, and the sequence is forgotten. `from` keeps the rest, and the sequence's end and version,
 * for others to read. */
bool shard_kv_take(struct shard_kv *kv, struct shard_kv *from, uint32_t seq, uint64_t end);

/* The page tables of one KV head: element i points at rows of positions 32 i .. 32 i + 31. Valid
 * until the next reserve, trim or drop of that sequence. Released pages are NULL. The table is of
 * page bases: a head's K rows start k_offset bytes into a page, its V rows v_offset, which with MLA
 * are the starts of its K rows. */
struct shard_kv_view {
    void *const *pages;
    size_t n_pages;
};
struct shard_kv_view shard_kv_view(const struct shard_kv *kv, uint32_t seq, uint32_t layer);
size_t shard_kv_k_offset(const struct shard_kv *kv, uint32_t layer, uint32_t head);
size_t shard_kv_v_offset(const struct shard_kv *kv, uint32_t layer, uint32_t head);

uint32_t shard_kv_max_seqs(const struct shard_kv *kv);
enum kern_kv shard_kv_type(const struct shard_kv *kv);

/* Bytes of pages in use, and the bytes that a sequence of n positions takes at most: a chunked or
 * windowed layer holds its window and, until the batch is done, the batch's rows. */
uint64_t shard_kv_used(const struct shard_kv *kv);
uint64_t shard_kv_bytes(const struct shard_program *program, enum kern_kv type, uint64_t n);

/* The same for max_seqs sequences; what is more than any machine has (2^52) stays there. */
uint64_t shard_kv_limit(const struct shard_program *program, enum kern_kv type, uint64_t n,
                        uint32_t max_seqs);

#endif
