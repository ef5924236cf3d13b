/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/proto/wire_samples.h"

#include <CUnit/Basic.h>
#include <string.h>

static void check_hello(const struct proto_hello *a, const struct proto_hello *b)
{
    CU_ASSERT_EQUAL(a->version, b->version);
    CU_ASSERT_STRING_EQUAL(a->name, b->name);
    CU_ASSERT_EQUAL(memcmp(a->proof, b->proof, PROTO_KEY_BYTES), 0);
    CU_ASSERT_STRING_EQUAL(a->endpoint, b->endpoint);
    CU_ASSERT_STRING_EQUAL(a->expert_endpoint, b->expert_endpoint);
    CU_ASSERT_EQUAL(a->memory_bytes, b->memory_bytes);
    CU_ASSERT_EQUAL(a->epoch, b->epoch);
    CU_ASSERT_EQUAL(a->threads, b->threads);
    CU_ASSERT_STRING_EQUAL(a->isa, b->isa);
}

static void check_load(const struct proto_load *a, const struct proto_load *b)
{
    CU_ASSERT_EQUAL(a->epoch, b->epoch);
    CU_ASSERT_EQUAL(a->stage, b->stage);
    CU_ASSERT_EQUAL(a->n_stages, b->n_stages);
    CU_ASSERT_EQUAL(a->layer_first, b->layer_first);
    CU_ASSERT_EQUAL(a->layer_end, b->layer_end);
    CU_ASSERT_EQUAL(a->embed, b->embed);
    CU_ASSERT_EQUAL(a->head, b->head);
    CU_ASSERT_EQUAL(a->kv_type, b->kv_type);
    CU_ASSERT_EQUAL(a->ctx, b->ctx);
    CU_ASSERT_EQUAL(a->max_seqs, b->max_seqs);
    CU_ASSERT_EQUAL(a->max_rows, b->max_rows);
    CU_ASSERT_EQUAL(a->inexact, b->inexact);
    CU_ASSERT_STRING_EQUAL(a->next_endpoint, b->next_endpoint);
    CU_ASSERT_STRING_EQUAL(a->synthetic, b->synthetic);
    CU_ASSERT_EQUAL(memcmp(a->next_key, b->next_key, PROTO_KEY_BYTES), 0);
    CU_ASSERT_EQUAL(memcmp(a->previous_key, b->previous_key, PROTO_KEY_BYTES), 0);
    CU_ASSERT_EQUAL_FATAL(a->n_files, b->n_files);
    for (uint32_t i = 0; i < a->n_files; i++)
        CU_ASSERT_STRING_EQUAL(a->files[i], b->files[i]);
    CU_ASSERT_EQUAL(a->has_stage, b->has_stage);
    CU_ASSERT_EQUAL(a->self, b->self);
    CU_ASSERT_EQUAL_FATAL(a->n_hosts, b->n_hosts);
    for (uint32_t i = 0; i < a->n_hosts; i++) {
        CU_ASSERT_STRING_EQUAL(a->hosts[i].endpoint, b->hosts[i].endpoint);
        CU_ASSERT_STRING_EQUAL(a->hosts[i].name, b->hosts[i].name);
        CU_ASSERT_EQUAL(memcmp(a->hosts[i].key, b->hosts[i].key, PROTO_KEY_BYTES), 0);
    }
    CU_ASSERT_EQUAL_FATAL(a->n_parts, b->n_parts);
    CU_ASSERT_EQUAL(memcmp(a->parts, b->parts, a->n_parts * sizeof *a->parts), 0);
    CU_ASSERT_EQUAL_FATAL(a->n_askers, b->n_askers);
    CU_ASSERT_EQUAL(memcmp(a->askers, b->askers, a->n_askers * PROTO_KEY_BYTES), 0);
    CU_ASSERT_EQUAL(a->from, b->from);
    CU_ASSERT_EQUAL_FATAL(a->n_holders, b->n_holders);
    for (uint32_t i = 0; i < a->n_holders; i++) {
        const struct proto_holder *x = &a->holders[i], *y = &b->holders[i];
        CU_ASSERT_STRING_EQUAL(x->endpoint, y->endpoint);
        CU_ASSERT_EQUAL(memcmp(x->key, y->key, PROTO_KEY_BYTES), 0);
        CU_ASSERT(x->layer_first == y->layer_first && x->layer_end == y->layer_end);
    }
}

static void check_host_times(const struct proto_host_time *a, uint32_t n_a,
                             const struct proto_host_time *b, uint32_t n_b)
{
    CU_ASSERT_EQUAL_FATAL(n_a, n_b);
    CU_ASSERT_EQUAL(memcmp(a, b, n_a * sizeof *a), 0);
}

static void check_batch(const struct proto_batch *a, const struct proto_batch *b)
{
    CU_ASSERT_EQUAL(a->epoch, b->epoch);
    CU_ASSERT_EQUAL(a->batch, b->batch);
    CU_ASSERT_EQUAL_FATAL(a->n_ranges, b->n_ranges);
    for (uint32_t i = 0; i < a->n_ranges; i++) {
        CU_ASSERT_EQUAL(a->ranges[i].seq, b->ranges[i].seq);
        CU_ASSERT_EQUAL(a->ranges[i].pos, b->ranges[i].pos);
        CU_ASSERT_EQUAL(a->ranges[i].n, b->ranges[i].n);
        CU_ASSERT_EQUAL(a->ranges[i].want, b->ranges[i].want);
        CU_ASSERT_EQUAL(a->ranges[i].candidates, b->ranges[i].candidates);
    }
    CU_ASSERT_EQUAL(a->replay, b->replay);
    CU_ASSERT_EQUAL(a->stop, b->stop);
    CU_ASSERT_EQUAL_FATAL(a->n_drops, b->n_drops);
    CU_ASSERT_EQUAL(memcmp(a->drops, b->drops, a->n_drops * sizeof *a->drops), 0);
    CU_ASSERT_EQUAL_FATAL(a->n_times, b->n_times);
    CU_ASSERT_EQUAL(memcmp(a->times, b->times, a->n_times * sizeof *a->times), 0);
    check_host_times(a->host_times, a->n_host_times, b->host_times, b->n_host_times);
}

static void check_result(const struct proto_result *a, const struct proto_result *b)
{
    CU_ASSERT_EQUAL(a->epoch, b->epoch);
    CU_ASSERT_EQUAL(a->batch, b->batch);
    CU_ASSERT_EQUAL(a->n_vocab, b->n_vocab);
    CU_ASSERT_EQUAL(a->last, b->last);
    CU_ASSERT_EQUAL_FATAL(a->n_rows, b->n_rows);
    for (uint32_t i = 0; i < a->n_rows; i++) {
        CU_ASSERT_EQUAL(a->rows[i].range, b->rows[i].range);
        CU_ASSERT_EQUAL(a->rows[i].pos, b->rows[i].pos);
        CU_ASSERT_EQUAL(a->rows[i].count, b->rows[i].count);
        CU_ASSERT_EQUAL(a->rows[i].lse, b->rows[i].lse);
    }
    CU_ASSERT_EQUAL_FATAL(a->n_times, b->n_times);
    CU_ASSERT_EQUAL(memcmp(a->times, b->times, a->n_times * sizeof *a->times), 0);
    check_host_times(a->host_times, a->n_host_times, b->host_times, b->n_host_times);
}

#define SAME(field) CU_ASSERT_EQUAL(a->field, b->field)

static void check_weights(const struct proto_msg *a, const struct proto_msg *b)
{
    switch (a->kind) {
    case PROTO_MSG_WANT:
        SAME(want.epoch);
        SAME(want.tensor);
        break;
    case PROTO_MSG_HASHES:
        SAME(hashes.epoch);
        SAME(hashes.tensor);
        CU_ASSERT_EQUAL_FATAL(a->hashes.n_sources, b->hashes.n_sources);
        for (uint32_t i = 0; i < a->hashes.n_sources; i++) {
            const struct proto_source *x = &a->hashes.sources[i], *y = &b->hashes.sources[i];
            CU_ASSERT_STRING_EQUAL(x->endpoint, y->endpoint);
            CU_ASSERT_EQUAL(memcmp(x->key, y->key, PROTO_KEY_BYTES), 0);
        }
        break;
    case PROTO_MSG_FETCH:
        SAME(fetch.epoch);
        SAME(fetch.tensor);
        SAME(fetch.piece);
        SAME(fetch.offset);
        SAME(fetch.bytes);
        CU_ASSERT_EQUAL(memcmp(a->fetch.proof, b->fetch.proof, PROTO_KEY_BYTES), 0);
        break;
    case PROTO_MSG_CHUNK:
        SAME(chunk.epoch);
        SAME(chunk.tensor);
        SAME(chunk.piece);
        SAME(chunk.offset);
        break;
    default:
        break;
    }
}

static void check_plain(const struct proto_msg *a, const struct proto_msg *b)
{
    switch (a->kind) {
    case PROTO_MSG_WELCOME:
        SAME(welcome.worker);
        SAME(welcome.ping_ms);
        SAME(welcome.deadline_ms);
        SAME(welcome.profile);
        break;
    case PROTO_MSG_PING:
        SAME(ping.sent_ns);
        break;
    case PROTO_MSG_PONG:
        SAME(pong.ping_sent_ns);
        SAME(pong.received_ns);
        SAME(pong.sent_ns);
        SAME(pong.steps);
        SAME(pong.rss_bytes);
        SAME(pong.computing);
        SAME(pong.stale);
        break;
    case PROTO_MSG_PROGRESS:
        SAME(progress.epoch);
        SAME(progress.done_bytes);
        SAME(progress.total_bytes);
        SAME(progress.fetched_bytes);
        break;
    case PROTO_MSG_READY:
        SAME(ready.epoch);
        SAME(ready.weight_bytes);
        SAME(ready.kv_limit_bytes);
        SAME(ready.scratch_bytes);
        break;
    case PROTO_MSG_LINK:
    case PROTO_MSG_LINKED:
    case PROTO_MSG_KV_LOST:
        SAME(link.epoch);
        break;
    case PROTO_MSG_MEASURE:
        SAME(measure.bytes);
        break;
    case PROTO_MSG_MEASURED:
        SAME(measured.read_bytes_s);
        break;
    case PROTO_MSG_PROBED:
        SAME(probed.number);
        SAME(probed.rtt_s);
        SAME(probed.bytes_s);
        break;
    case PROTO_MSG_ECHO:
        SAME(echo.number);
        CU_ASSERT_EQUAL(memcmp(a->echo.proof, b->echo.proof, PROTO_KEY_BYTES), 0);
        break;
    case PROTO_MSG_ECHOED:
        SAME(echoed.number);
        break;
    case PROTO_MSG_EXPERTS:
        SAME(experts.epoch);
        SAME(experts.number);
        SAME(experts.layer);
        break;
    case PROTO_MSG_USED:
        SAME(used.epoch);
        SAME(used.layer_first);
        SAME(used.n_layers);
        SAME(used.n_experts);
        break;
    case PROTO_MSG_BYE:
        SAME(bye.drained);
        break;
    case PROTO_MSG_RELEASE:
        SAME(release.epoch);
        SAME(release.older);
        break;
    default:
        break;
    }
}

static void check_profile(const struct proto_profile *a, const struct proto_profile *b)
{
    SAME(free_bytes);
    SAME(read_bytes_s);
    SAME(float_ops_s);
    SAME(wake_s);
    SAME(run_s);
    SAME(disk_bytes_s);
    SAME(machine);
    SAME(machine_read_bytes_s);
    SAME(machine_ops_s);
    CU_ASSERT_EQUAL_FATAL(a->n_types, b->n_types);
    for (uint32_t i = 0; i < a->n_types; i++) {
        SAME(types[i].type);
        SAME(types[i].row_ops_s);
        SAME(types[i].rows_ops_s);
    }
}

static void check_commit(const struct proto_commit *a, const struct proto_commit *b)
{
    SAME(epoch);
    SAME(from);
    SAME(move);
    SAME(moved);
    SAME(moved_bytes);
    CU_ASSERT_EQUAL_FATAL(a->n_held, b->n_held);
    for (uint32_t i = 0; i < a->n_held; i++) {
        SAME(held[i].seq);
        SAME(held[i].pos);
        SAME(held[i].kept);
    }
}

static void check_kv(const struct proto_msg *a, const struct proto_msg *b)
{
    switch (a->kind) {
    case PROTO_MSG_KV_ASK:
        SAME(kv_ask.epoch);
        CU_ASSERT_EQUAL(memcmp(a->kv_ask.proof, b->kv_ask.proof, PROTO_KEY_BYTES), 0);
        break;
    case PROTO_MSG_KV_HELD:
        SAME(kv_held.epoch);
        CU_ASSERT_EQUAL_FATAL(a->kv_held.n_seqs, b->kv_held.n_seqs);
        for (uint32_t i = 0; i < a->kv_held.n_seqs; i++) {
            SAME(kv_held.seqs[i].seq);
            SAME(kv_held.seqs[i].version);
            SAME(kv_held.seqs[i].end);
        }
        break;
    case PROTO_MSG_KV_FETCH:
        SAME(kv_fetch.epoch);
        SAME(kv_fetch.seq);
        SAME(kv_fetch.version);
        SAME(kv_fetch.layer);
        SAME(kv_fetch.page);
        SAME(kv_fetch.n);
        SAME(kv_fetch.bytes);
        CU_ASSERT_EQUAL(memcmp(a->kv_fetch.proof, b->kv_fetch.proof, PROTO_KEY_BYTES), 0);
        break;
    default:
        SAME(kv_chunk.epoch);
        SAME(kv_chunk.seq);
        SAME(kv_chunk.version);
        SAME(kv_chunk.layer);
        SAME(kv_chunk.page);
        SAME(kv_chunk.n);
    }
}

void wire_check_same(const struct proto_msg *a, const struct proto_msg *b)
{
    CU_ASSERT_EQUAL_FATAL(a->kind, b->kind);
    switch (a->kind) {
    case PROTO_MSG_HELLO:
        check_hello(&a->hello, &b->hello);
        break;
    case PROTO_MSG_REFUSE:
        SAME(refuse.status);
        CU_ASSERT_STRING_EQUAL(a->refuse.text, b->refuse.text);
        break;
    case PROTO_MSG_LOAD:
        check_load(&a->load, &b->load);
        break;
    case PROTO_MSG_WANT:
    case PROTO_MSG_HASHES:
    case PROTO_MSG_FETCH:
    case PROTO_MSG_CHUNK:
        check_weights(a, b);
        break;
    case PROTO_MSG_FAILED:
        SAME(failed.epoch);
        SAME(failed.batch);
        SAME(failed.status);
        SAME(failed.unreached);
        CU_ASSERT_STRING_EQUAL(a->failed.text, b->failed.text);
        break;
    case PROTO_MSG_BATCH:
        check_batch(&a->batch, &b->batch);
        break;
    case PROTO_MSG_RESULT:
        check_result(&a->result, &b->result);
        break;
    case PROTO_MSG_PROFILE:
        check_profile(&a->profile, &b->profile);
        break;
    case PROTO_MSG_PROBE:
        SAME(probe.number);
        CU_ASSERT_STRING_EQUAL(a->probe.endpoint, b->probe.endpoint);
        CU_ASSERT_EQUAL(memcmp(a->probe.key, b->probe.key, PROTO_KEY_BYTES), 0);
        break;
    case PROTO_MSG_EXPERTS_DONE:
        SAME(experts_done.epoch);
        SAME(experts_done.number);
        SAME(experts_done.status);
        SAME(experts_done.compute_ns);
        CU_ASSERT_STRING_EQUAL(a->experts_done.text, b->experts_done.text);
        break;
    case PROTO_MSG_COMMIT:
    case PROTO_MSG_COMMITTED:
        check_commit(&a->commit, &b->commit);
        break;
    case PROTO_MSG_KV_ASK:
    case PROTO_MSG_KV_HELD:
    case PROTO_MSG_KV_FETCH:
    case PROTO_MSG_KV_CHUNK:
        check_kv(a, b);
        break;
    default:
        check_plain(a, b);
    }
}
