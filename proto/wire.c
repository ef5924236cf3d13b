/* SPDX-License-Identifier: Apache-2.0 */
#include "proto/wire.h"

#include <stdlib.h>
#include <string.h>

static void load_finish(struct proto_load *load)
{
    if (load->files)
        for (uint32_t i = 0; i < load->n_files; i++)
            free(load->files[i]);
    free(load->files);
    if (load->hosts)
        for (uint32_t i = 0; i < load->n_hosts; i++) {
            free(load->hosts[i].endpoint);
            free(load->hosts[i].name);
        }
    free(load->hosts);
    free(load->parts);
    free(load->askers);
    if (load->holders)
        for (uint32_t i = 0; i < load->n_holders; i++)
            free(load->holders[i].endpoint);
    free(load->holders);
    free(load->next_endpoint);
    free(load->synthetic);
}

void proto_msg_finish(struct proto_msg *msg)
{
    switch (msg->kind) {
    case PROTO_MSG_HELLO:
        free(msg->hello.name);
        free(msg->hello.endpoint);
        free(msg->hello.expert_endpoint);
        free(msg->hello.isa);
        break;
    case PROTO_MSG_REFUSE:
        free(msg->refuse.text);
        break;
    case PROTO_MSG_LOAD:
        load_finish(&msg->load);
        break;
    case PROTO_MSG_FAILED:
        free(msg->failed.text);
        break;
    case PROTO_MSG_PROBE:
        free(msg->probe.endpoint);
        break;
    case PROTO_MSG_HASHES:
        for (uint32_t i = 0; i < msg->hashes.n_sources; i++)
            free(msg->hashes.sources[i].endpoint);
        free(msg->hashes.sources);
        break;
    case PROTO_MSG_BATCH:
        free(msg->batch.ranges);
        free(msg->batch.drops);
        free(msg->batch.times);
        free(msg->batch.host_times);
        break;
    case PROTO_MSG_RESULT:
        free(msg->result.rows);
        free(msg->result.times);
        free(msg->result.host_times);
        break;
    case PROTO_MSG_EXPERTS_DONE:
        free(msg->experts_done.text);
        break;
    case PROTO_MSG_COMMIT:
    case PROTO_MSG_COMMITTED:
        free(msg->commit.held);
        break;
    case PROTO_MSG_KV_HELD:
        free(msg->kv_held.seqs);
        break;
    default:
        break;
    }
    memset(msg, 0, sizeof *msg);
}

uint64_t proto_batch_rows(const struct proto_batch *batch)
{
    uint64_t rows = 0;
    for (uint32_t i = 0; i < batch->n_ranges; i++)
        rows += batch->ranges[i].n;
    return rows;
}

enum proto_status proto_result_check(const struct proto_result *result, size_t payload_bytes,
                                     struct proto_error *error)
{
    uint64_t need = 0;
    for (uint32_t i = 0; i < result->n_rows; i++) {
        uint64_t count = result->rows[i].count;
        need += count ? count * 8 : (uint64_t)result->n_vocab * 4;
    }
    if (need != payload_bytes)
        return proto_fail(error, PROTO_FORMAT,
                          "result of batch %llu: payload of %zu bytes, its %u rows need %llu",
                          (unsigned long long)result->batch, payload_bytes, result->n_rows,
                          (unsigned long long)need);
    return PROTO_OK;
}

const char *proto_kind_name(enum proto_kind kind)
{
    static const char *const names[] = {
        [PROTO_MSG_HELLO] = "hello",
        [PROTO_MSG_WELCOME] = "welcome",
        [PROTO_MSG_REFUSE] = "refuse",
        [PROTO_MSG_PING] = "ping",
        [PROTO_MSG_PONG] = "pong",
        [PROTO_MSG_LOAD] = "load",
        [PROTO_MSG_PROGRESS] = "progress",
        [PROTO_MSG_READY] = "ready",
        [PROTO_MSG_FAILED] = "failed",
        [PROTO_MSG_WANT] = "want",
        [PROTO_MSG_HASHES] = "hashes",
        [PROTO_MSG_FETCH] = "fetch",
        [PROTO_MSG_CHUNK] = "chunk",
        [PROTO_MSG_LINK] = "link",
        [PROTO_MSG_LINKED] = "linked",
        [PROTO_MSG_BATCH] = "batch",
        [PROTO_MSG_RESULT] = "result",
        [PROTO_MSG_BYE] = "bye",
        [PROTO_MSG_MEASURE] = "measure",
        [PROTO_MSG_MEASURED] = "measured",
        [PROTO_MSG_PROFILE] = "profile",
        [PROTO_MSG_PROBE] = "probe",
        [PROTO_MSG_PROBED] = "probed",
        [PROTO_MSG_ECHO] = "echo",
        [PROTO_MSG_ECHOED] = "echoed",
        [PROTO_MSG_EXPERTS] = "experts",
        [PROTO_MSG_EXPERTS_DONE] = "experts_done",
        [PROTO_MSG_USAGE] = "usage",
        [PROTO_MSG_USED] = "used",
        [PROTO_MSG_COMMIT] = "commit",
        [PROTO_MSG_COMMITTED] = "committed",
        [PROTO_MSG_RELEASE] = "release",
        [PROTO_MSG_KV_ASK] = "kv_ask",
        [PROTO_MSG_KV_HELD] = "kv_held",
        [PROTO_MSG_KV_FETCH] = "kv_fetch",
        [PROTO_MSG_KV_CHUNK] = "kv_chunk",
        [PROTO_MSG_KV_LOST] = "kv_lost",
    };
    unsigned i = (unsigned)kind;
    return i < sizeof names / sizeof *names && names[i] ? names[i] : "unknown";
}
