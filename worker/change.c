/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/change.h"

#include <stdlib.h>
#include <string.h>

struct worker_change {
    struct worker_call call;
    struct worker_compute *compute;
    struct worker_slice *slice;
    struct worker_slice *old; /* whose caches are taken over, or NULL */
    uint64_t *ends;           /* of sequences that were moved; NULL: none was */
    struct proto_commit commit;
};

static bool is_held(const struct proto_commit *commit, uint32_t seq)
{
    for (uint32_t i = 0; i < commit->n_held; i++)
        if (commit->held[i].seq == seq)
            return true;
    return false;
}

/* Forgets sequences that are over, and finds out how far the others can go on. */
static void settle(struct worker_slice *slice, struct proto_commit *commit)
{
    struct shard_kv *kv = slice->kv;
    uint32_t max = shard_kv_max_seqs(kv);
    for (uint32_t seq = 0; seq < max; seq++)
        if (!is_held(commit, seq)) {
            shard_kv_drop(kv, seq);
            worker_boundary_drop(slice->boundary, seq);
        }
    for (uint32_t i = 0; i < commit->n_held; i++) {
        struct proto_held *held = &commit->held[i];
        held->pos = held->seq < max ? shard_kv_resume(kv, held->seq, held->pos) : 0;
        held->kept = worker_boundary_kept(slice->boundary, held->seq);
    }
}

/* Whether nothing but what the old slice has is missing. */
static bool has_all(const struct shard_kv *old, const struct shard_kv *kv)
{
    uint32_t first, n;
    shard_kv_layers(kv, &first, &n);
    for (uint32_t layer = first; layer < first + n; layer++)
        if (!shard_kv_alike(kv, old, layer))
            return false;
    return true;
}

static void take_caches(const struct worker_change *change)
{
    struct shard_kv *kv = change->slice->kv, *old = change->old ? change->old->kv : NULL;
    if (!change->ends && (!old || !has_all(old, kv)))
        return;
    for (uint32_t seq = 0; seq < shard_kv_max_seqs(kv); seq++)
        shard_kv_take(kv, old, seq, change->ends ? change->ends[seq] : shard_kv_end(old, seq));
}

/* Caches of layers, and rows that were sent on after the same layer. */
static void inherit(const struct worker_change *change)
{
    struct worker_slice *slice = change->slice, *old = change->old;
    if (slice->kv)
        take_caches(change);
    if (old && slice->program && old->program &&
        slice->program->layer_end == old->program->layer_end)
        worker_boundary_take(slice->boundary, old->boundary);
}

static void tell_committed(struct worker_change *change)
{
    struct worker_output *output = calloc(1, sizeof *output);
    if (!output)
        return; /* the coordinator's deadline says the rest */
    output->msg.kind = PROTO_MSG_COMMITTED;
    output->msg.commit = change->commit;
    memset(&change->commit, 0, sizeof change->commit);
    worker_compute_deliver(change->compute, output);
}

static void make_change(struct worker_call *call, bool dropped)
{
    struct worker_change *change = (struct worker_change *)call;
    if (!dropped) {
        inherit(change);
        if (change->slice->kv)
            settle(change->slice, &change->commit);
        tell_committed(change);
    }
    worker_change_destroy(change);
}

enum proto_status worker_change_create(struct worker_change **out, struct worker_compute *compute,
                                       struct worker_slice *slice, struct proto_commit *commit,
                                       struct proto_error *error)
{
    struct worker_change *change = calloc(1, sizeof *change);
    if (change)
        *change = (struct worker_change){
            .call.fn = make_change, .compute = compute, .slice = slice, .commit = *commit};
    else
        free(commit->held);
    memset(commit, 0, sizeof *commit);
    *out = change;
    return change ? PROTO_OK : proto_fail_nomem(error, sizeof *change, "a change of slices");
}

void worker_change_destroy(struct worker_change *change)
{
    if (!change)
        return;
    free(change->ends);
    free(change->commit.held);
    free(change);
}

const struct proto_commit *worker_change_commit(const struct worker_change *change)
{
    return &change->commit;
}

void worker_change_inherit(struct worker_change *change, struct worker_slice *old)
{
    change->old = old;
}

enum proto_status worker_change_moved(struct worker_change *change, const uint64_t *ends,
                                      uint64_t positions, uint64_t bytes, struct proto_error *error)
{
    size_t len = shard_kv_max_seqs(change->slice->kv) * sizeof *ends;
    change->ends = malloc(len);
    if (!change->ends)
        return proto_fail_nomem(error, len, "a change of slices");
    memcpy(change->ends, ends, len);
    change->commit.moved = positions;
    change->commit.moved_bytes = bytes;
    return PROTO_OK;
}

enum proto_status worker_change_begin(struct worker_change **change, struct proto_error *error)
{
    struct worker_change *c = *change;
    *change = NULL;
    enum proto_status status = worker_compute_call(c->compute, &c->call, error);
    if (status != PROTO_OK)
        worker_change_destroy(c);
    return status;
}
