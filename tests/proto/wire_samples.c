/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/proto/wire_samples.h"

static struct proto_range ranges[] = {{0, 0, 7, PROTO_WANT_LAST, 64},
                                      {4095, PROTO_MAX_CONTEXT - 1, 1, PROTO_WANT_ALL, 0},
                                      {17, 300, 2, PROTO_WANT_NONE, PROTO_MAX_CANDIDATES}};
static uint32_t drops[] = {3, 0, 4095};
static struct proto_stage_time times[] = {{1, 2, 3, 4, 5, 6}, {UINT64_MAX, 7, 8, 9, 10, 11}};
static struct proto_result_row rows[] = {{0, 6, 64, 1.5f}, {1, 12345678, 0, -3.25e8f}};
static struct proto_host_time host_times[] = {{255, 1, 2, 3, 4, 5, 6},
                                              {0, UINT64_MAX, 300, 0, 0, 0, 1}};
static struct proto_host hosts[] = {{(char *)"tcp://[::1]:10", (char *)"w\xc3\xb6rker", {3}},
                                    {(char *)"", (char *)"other", {4, 5}}};
static struct proto_part parts[] = {{0, 1, PROTO_MAX_LAYERS, 0, 64, 0, 2},
                                    {1, 4, 5, 1000, PROTO_MAX_EXPERTS, 63, PROTO_MAX_SLICES}};
static struct proto_source sources[] = {{(char *)"tcp://[::1]:11", {6}}, {(char *)"", {7, 8}}};
static struct proto_held held[] = {
    {0, 17, 3}, {4095, PROTO_MAX_CONTEXT, 0}, {9, 0, PROTO_MAX_CONTEXT}};
static struct proto_holder holders[] = {{(char *)"tcp://[::1]:12", {9}, 0, 7},
                                        {(char *)"", {1, 2}, 7, PROTO_MAX_LAYERS}};
static struct proto_kv_seq kv_seqs[] = {{0, 1, 2}, {4095, UINT64_MAX, PROTO_MAX_CONTEXT}};
static uint8_t askers[][PROTO_KEY_BYTES] = {{6}, {7, 8}, {9}};
static char *files[] = {(char *)"/a/b.gguf", (char *)""};

/* The first and the last of its bytes. */
#define KEY(byte)                                                                                  \
    {                                                                                              \
        [0] = (byte), [PROTO_KEY_BYTES - 1] = (byte)                                               \
    }

static const struct proto_msg samples[] = {
    [PROTO_MSG_HELLO] = {.kind = PROTO_MSG_HELLO,
                         .hello = {.version = PROTO_WIRE_VERSION,
                                   .name = (char *)"w\xc3\xb6rker",
                                   .endpoint = (char *)"tcp://[::1]:9",
                                   .expert_endpoint = (char *)"tcp://[::1]:10",
                                   .memory_bytes = 1ull << 40,
                                   .threads = 48,
                                   .epoch = 1ull << 62,
                                   .isa = (char *)"avx512",
                                   .proof = KEY(0x5a)}},
    [PROTO_MSG_WELCOME] = {.kind = PROTO_MSG_WELCOME, .welcome = {3, 500, 3000, true}},
    [PROTO_MSG_REFUSE] = {.kind = PROTO_MSG_REFUSE,
                          .refuse = {PROTO_VERSION, (char *)"version 2, not 1"}},
    [PROTO_MSG_PING] = {.kind = PROTO_MSG_PING, .ping.sent_ns = 0x0123456789abcdef},
    [PROTO_MSG_PONG] = {.kind = PROTO_MSG_PONG, .pong = {11, 12, 13, 14, 15, true, 16}},
    [PROTO_MSG_LOAD] = {.kind = PROTO_MSG_LOAD,
                        .load = {.epoch = 2,
                                 .has_stage = true,
                                 .hosts = hosts,
                                 .n_hosts = 2,
                                 .self = 1,
                                 .parts = parts,
                                 .n_parts = 2,
                                 .askers = askers,
                                 .n_askers = 3,
                                 .from = 1,
                                 .holders = holders,
                                 .n_holders = 2,
                                 .stage = 1,
                                 .n_stages = 3,
                                 .layer_first = 4,
                                 .layer_end = 9,
                                 .embed = true,
                                 .head = true,
                                 .kv_type = 1,
                                 .ctx = PROTO_MAX_CONTEXT,
                                 .max_seqs = 6,
                                 .max_rows = 512,
                                 .inexact = true,
                                 .next_endpoint = (char *)"ipc://@x",
                                 .synthetic = (char *)"scout:Q4_0",
                                 .files = files,
                                 .n_files = 2,
                                 .next_key = KEY(1),
                                 .previous_key = KEY(2)}},
    [PROTO_MSG_PROGRESS] = {.kind = PROTO_MSG_PROGRESS, .progress = {1, 2, 3, 4}},
    [PROTO_MSG_READY] = {.kind = PROTO_MSG_READY, .ready = {5, 6, 7, 8}},
    [PROTO_MSG_FAILED] = {.kind = PROTO_MSG_FAILED,
                          .failed = {9, 10, PROTO_CAPACITY, (char *)"too small", 3}},
    [PROTO_MSG_WANT] = {.kind = PROTO_MSG_WANT, .want = {1, PROTO_MAX_TENSORS - 1}},
    [PROTO_MSG_HASHES] = {.kind = PROTO_MSG_HASHES, .hashes = {2, 3, sources, 2}},
    [PROTO_MSG_FETCH] =
        {.kind = PROTO_MSG_FETCH,
         .fetch = {1, 2, 3, PROTO_PIECE_BYTES - PROTO_CHUNK_BYTES, PROTO_CHUNK_BYTES, {9, 8}}},
    [PROTO_MSG_CHUNK] = {.kind = PROTO_MSG_CHUNK, .chunk = {1, 2, 3, 4}},
    [PROTO_MSG_LINK] = {.kind = PROTO_MSG_LINK, .link.epoch = 77 + PROTO_MSG_LINK},
    [PROTO_MSG_LINKED] = {.kind = PROTO_MSG_LINKED, .link.epoch = 77 + PROTO_MSG_LINKED},
    [PROTO_MSG_BATCH] = {.kind = PROTO_MSG_BATCH,
                         .batch = {3, 4, ranges, 3, drops, 3, times, 2, host_times, 2, true, 256}},
    [PROTO_MSG_RESULT] = {.kind = PROTO_MSG_RESULT,
                          .result = {5, 6, 202048, true, rows, 2, times, 2, host_times, 2}},
    [PROTO_MSG_BYE] = {.kind = PROTO_MSG_BYE, .bye.drained = true},
    [PROTO_MSG_MEASURE] = {.kind = PROTO_MSG_MEASURE, .measure.bytes = 1u << 30},
    [PROTO_MSG_MEASURED] = {.kind = PROTO_MSG_MEASURED, .measured.read_bytes_s = 40.25e9},
    [PROTO_MSG_PROFILE] = {.kind = PROTO_MSG_PROFILE,
                           .profile = {.free_bytes = 3ull << 34,
                                       .read_bytes_s = 40.5e9,
                                       .float_ops_s = 1.25e11,
                                       .wake_s = 2e-5,
                                       .run_s = 3e-6,
                                       .disk_bytes_s = 1.5e9,
                                       .machine = 0xfedcba9876543210u,
                                       .machine_read_bytes_s = 5e10,
                                       .machine_ops_s = 9e11,
                                       .types = {{8, 7.5e10, 8e11}, {12, 9e10, 1e12}},
                                       .n_types = 2}},
    [PROTO_MSG_PROBE] = {.kind = PROTO_MSG_PROBE,
                         .probe = {.number = 9,
                                   .endpoint = (char *)"tcp://10.0.0.2:7",
                                   .key = KEY(4)}},
    [PROTO_MSG_PROBED] = {.kind = PROTO_MSG_PROBED, .probed = {9, 3e-4, 1.1e8}},
    [PROTO_MSG_ECHO] = {.kind = PROTO_MSG_ECHO, .echo.number = 12, .echo.proof = KEY(5)},
    [PROTO_MSG_ECHOED] = {.kind = PROTO_MSG_ECHOED, .echoed.number = 13},
    [PROTO_MSG_EXPERTS] = {.kind = PROTO_MSG_EXPERTS, .experts = {11, 12, PROTO_MAX_LAYERS - 1}},
    [PROTO_MSG_EXPERTS_DONE] = {.kind = PROTO_MSG_EXPERTS_DONE,
                                .experts_done = {13, 14, PROTO_NOTFOUND, (char *)"no such expert",
                                                 15}},
    [PROTO_MSG_USAGE] = {.kind = PROTO_MSG_USAGE},
    [PROTO_MSG_USED] = {.kind = PROTO_MSG_USED, .used = {17, 18, 19, PROTO_MAX_EXPERTS}},
    [PROTO_MSG_COMMIT] = {.kind = PROTO_MSG_COMMIT, .commit = {20, 21, held, 3, true, 22, 23}},
    [PROTO_MSG_COMMITTED] = {.kind = PROTO_MSG_COMMITTED,
                             .commit = {20, 21, held, 3, true, 22, 23}},
    [PROTO_MSG_RELEASE] = {.kind = PROTO_MSG_RELEASE, .release = {22, true}},
    [PROTO_MSG_KV_ASK] = {.kind = PROTO_MSG_KV_ASK, .kv_ask = {23, KEY(6)}},
    [PROTO_MSG_KV_HELD] = {.kind = PROTO_MSG_KV_HELD, .kv_held = {24, kv_seqs, 2}},
    [PROTO_MSG_KV_FETCH] = {.kind = PROTO_MSG_KV_FETCH,
                            .kv_fetch = {25, 4095, 26, PROTO_MAX_LAYERS - 1, 27, PROTO_MAX_KV_PAGES,
                                         28, KEY(7)}},
    [PROTO_MSG_KV_CHUNK] = {.kind = PROTO_MSG_KV_CHUNK,
                            .kv_chunk = {29, 30, 31, 32, PROTO_MAX_CONTEXT, 33}},
    [PROTO_MSG_KV_LOST] = {.kind = PROTO_MSG_KV_LOST, .link.epoch = 34},
};

struct proto_msg wire_sample(enum proto_kind kind)
{
    const size_t known = sizeof samples / sizeof samples[0];
    return (size_t)kind < known ? samples[kind] : (struct proto_msg){.kind = kind};
}
