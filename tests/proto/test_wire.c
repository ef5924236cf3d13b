/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/proto/wire_samples.h"

#include <CUnit/Basic.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FIRST_KIND PROTO_MSG_HELLO
#define LAST_KIND  PROTO_MSG_KV_LOST

static uint8_t *encode(const struct proto_msg *msg, size_t *len)
{
    uint8_t *bytes;
    struct proto_error error;
    enum proto_status status = proto_msg_encode(msg, &bytes, len, &error);
    if (status != PROTO_OK)
        printf("\n%s: %s\n", proto_kind_name(msg->kind), error.text);
    CU_ASSERT_EQUAL_FATAL(status, PROTO_OK);
    return bytes;
}

/* Decodes bytes that lie at the end of their memory, so that a sanitizer sees one read too many. */
static enum proto_status decode_copy(const uint8_t *bytes, size_t len, struct proto_msg *msg)
{
    uint8_t *copy = malloc(len ? len : 1);
    memcpy(copy, bytes, len);
    struct proto_error error = {.status = PROTO_OK};
    enum proto_status status = proto_msg_decode(copy, len, msg, &error);
    free(copy);
    if (status != PROTO_OK) {
        CU_ASSERT_EQUAL(error.status, status);
        CU_ASSERT_EQUAL(msg->kind, 0);
    }
    return status;
}

static void test_every_kind_round_trips(void)
{
    for (int kind = FIRST_KIND; kind <= LAST_KIND; kind++) {
        struct proto_msg msg = wire_sample((enum proto_kind)kind), back;
        size_t len;
        uint8_t *bytes = encode(&msg, &len);
        CU_ASSERT_EQUAL_FATAL(decode_copy(bytes, len, &back), PROTO_OK);
        wire_check_same(&msg, &back);
        proto_msg_finish(&back);
        CU_ASSERT_EQUAL(back.kind, 0);
        free(bytes);
    }
}

static void test_null_strings_are_empty(void)
{
    struct proto_msg msg = wire_sample(PROTO_MSG_HELLO), back;
    msg.hello.name = msg.hello.endpoint = msg.hello.isa = NULL;
    size_t len;
    uint8_t *bytes = encode(&msg, &len);
    CU_ASSERT_EQUAL_FATAL(decode_copy(bytes, len, &back), PROTO_OK);
    CU_ASSERT_STRING_EQUAL(back.hello.name, "");
    CU_ASSERT_STRING_EQUAL(back.hello.isa, "");
    proto_msg_finish(&back);
    free(bytes);
}

/* A coordinator that does not know the field means an exact cluster. */
static void test_loads_are_exact_unless_told(void)
{
    struct proto_msg msg = wire_sample(PROTO_MSG_LOAD), back;
    uint8_t *told, *untold;
    size_t told_len, len;
    struct proto_error error;
    CU_ASSERT_EQUAL(proto_msg_encode(&msg, &told, &told_len, &error), PROTO_OK);
    msg.load.inexact = false;
    CU_ASSERT_EQUAL(proto_msg_encode(&msg, &untold, &len, &error), PROTO_OK);
    CU_ASSERT(len < told_len);
    CU_ASSERT_EQUAL_FATAL(proto_msg_decode(untold, len, &back, &error), PROTO_OK);
    CU_ASSERT_FALSE(back.load.inexact);
    proto_msg_finish(&back);
    free(told);
    free(untold);
}

static void test_every_truncation_is_survived(void)
{
    for (int kind = FIRST_KIND; kind <= LAST_KIND; kind++) {
        struct proto_msg msg = wire_sample((enum proto_kind)kind), back;
        size_t len;
        uint8_t *bytes = encode(&msg, &len);
        for (size_t cut = 0; cut < len; cut++) {
            /* The body's length stands in front: nothing shorter parses. */
            CU_ASSERT_EQUAL(decode_copy(bytes, cut, &back), PROTO_FORMAT);
        }
        free(bytes);
    }
}

static void test_flipped_bytes_are_survived(void)
{
    uint32_t random = 1;
    for (int kind = FIRST_KIND; kind <= LAST_KIND; kind++) {
        struct proto_msg msg = wire_sample((enum proto_kind)kind), back;
        size_t len;
        uint8_t *bytes = encode(&msg, &len);
        for (int round = 0; round < 2000 && len > 0; round++) {
            uint8_t *damaged = malloc(len);
            memcpy(damaged, bytes, len);
            for (int flips = 1 + round % 3; flips > 0; flips--) {
                random = random * 1664525u + 1013904223u;
                damaged[(random >> 8) % len] ^= (uint8_t)(1u << (random >> 29));
            }
            if (decode_copy(damaged, len, &back) == PROTO_OK) {
                uint8_t *again;
                size_t again_len;
                CU_ASSERT_EQUAL(proto_msg_encode(&back, &again, &again_len, NULL), PROTO_OK);
                free(again);
                proto_msg_finish(&back);
            }
            free(damaged);
        }
        free(bytes);
    }
}

static void test_frames_that_are_no_message(void)
{
    struct proto_msg msg;
    uint8_t unknown[] = {0xfa, 0x07, 0x00}; /* member 127, empty */
    CU_ASSERT_EQUAL(decode_copy((const uint8_t *)"", 0, &msg), PROTO_FORMAT);
    CU_ASSERT_EQUAL(decode_copy(unknown, sizeof unknown, &msg), PROTO_FORMAT);
    size_t len = PROTO_MAX_HEADER_BYTES + 1;
    uint8_t *large = calloc(1, len);
    CU_ASSERT_EQUAL(decode_copy(large, len, &msg), PROTO_FORMAT);
    /* More than a million members of an unknown number: refused before they have taken much. */
    for (size_t i = 0; i + 3 < len; i += 3)
        memcpy(large + i, "\xf0\x01\x01", 3);
    CU_ASSERT_EQUAL(decode_copy(large, len / 3 * 3, &msg), PROTO_FORMAT);
    free(large);
}

/* Neither side lets it pass: encoding fails with PROTO_INVALID. */
static void refuse(const struct proto_msg *msg)
{
    uint8_t *bytes;
    size_t len;
    struct proto_error error;
    CU_ASSERT_EQUAL(proto_msg_encode(msg, &bytes, &len, &error), PROTO_INVALID);
    CU_ASSERT_PTR_NULL(bytes);
}

#define REFUSE(kind, change)                                                                       \
    do {                                                                                           \
        struct proto_msg m = wire_sample(kind);                                                    \
        change;                                                                                    \
        refuse(&m);                                                                                \
    } while (0)

static void test_limits(void)
{
    static char large[PROTO_MAX_STRING_BYTES + 2];
    memset(large, 'x', sizeof large - 1);
    REFUSE(PROTO_MSG_HELLO, m.hello.name = large);
    REFUSE(PROTO_MSG_HELLO, m.hello.threads = 0);
    REFUSE(PROTO_MSG_HELLO, m.hello.epoch++);
    REFUSE(PROTO_MSG_WELCOME, m.welcome.ping_ms = 0);
    REFUSE(PROTO_MSG_REFUSE, m.refuse.status = PROTO_OK);
    REFUSE(PROTO_MSG_FAILED, m.failed.status = (enum proto_status)99);
    REFUSE(PROTO_MSG_LOAD, m.load.stage = m.load.n_stages);
    REFUSE(PROTO_MSG_LOAD, m.load.n_stages = 0);
    REFUSE(PROTO_MSG_LOAD, m.load.n_stages = PROTO_MAX_WORKERS + 1);
    REFUSE(PROTO_MSG_LOAD, m.load.layer_first = m.load.layer_end + 1);
    REFUSE(PROTO_MSG_LOAD, m.load.layer_end = PROTO_MAX_LAYERS + 1);
    REFUSE(PROTO_MSG_LOAD, m.load.ctx = 0);
    REFUSE(PROTO_MSG_LOAD, m.load.max_seqs = PROTO_MAX_SEQUENCES + 1);
    REFUSE(PROTO_MSG_LOAD, m.load.max_rows = PROTO_MAX_BATCH_ROWS + 1);
    REFUSE(PROTO_MSG_LOAD, m.load.n_files = 1u << 20);
    REFUSE(PROTO_MSG_PROGRESS, m.progress.done_bytes = m.progress.total_bytes + 1);
    REFUSE(PROTO_MSG_WANT, m.want.tensor = PROTO_MAX_TENSORS);
    REFUSE(PROTO_MSG_HASHES, m.hashes.tensor = PROTO_MAX_TENSORS);
    REFUSE(PROTO_MSG_HASHES, m.hashes.n_sources = PROTO_MAX_SOURCES + 1);
    REFUSE(PROTO_MSG_FETCH, m.fetch.bytes = PROTO_CHUNK_BYTES + 1);
    REFUSE(PROTO_MSG_FETCH, m.fetch.bytes = 0);
    REFUSE(PROTO_MSG_FETCH, m.fetch.offset++);
    REFUSE(PROTO_MSG_CHUNK, m.chunk.offset = PROTO_PIECE_BYTES);
    REFUSE(PROTO_MSG_BATCH, m.batch.batch = 0);
    REFUSE(PROTO_MSG_BATCH, m.batch.n_ranges = PROTO_MAX_BATCH_RANGES + 1);
    REFUSE(PROTO_MSG_BATCH, m.batch.n_drops = PROTO_MAX_SEQUENCES + 1);
    REFUSE(PROTO_MSG_BATCH, m.batch.n_times = PROTO_MAX_WORKERS + 1);
    REFUSE(PROTO_MSG_RESULT, m.result.batch = 0);
    REFUSE(PROTO_MSG_RESULT, m.result.n_rows = PROTO_MAX_BATCH_ROWS + 1);
    REFUSE(PROTO_MSG_RESULT, m.result.n_vocab = 63); /* fewer than a row has candidates */
    REFUSE(PROTO_MSG_MEASURE, m.measure.bytes = 0);
    REFUSE(PROTO_MSG_MEASURED, m.measured.read_bytes_s = (double)NAN);
    REFUSE(PROTO_MSG_MEASURED, m.measured.read_bytes_s = -1);
    REFUSE(PROTO_MSG_PROFILE, m.profile.read_bytes_s = 0);
    REFUSE(PROTO_MSG_PROFILE, m.profile.read_bytes_s = (double)INFINITY);
    REFUSE(PROTO_MSG_PROFILE, m.profile.float_ops_s = (double)NAN);
    REFUSE(PROTO_MSG_PROFILE, m.profile.wake_s = -1e-9);
    REFUSE(PROTO_MSG_PROFILE, m.profile.run_s = 1e9);
    REFUSE(PROTO_MSG_PROFILE, m.profile.disk_bytes_s = -1);
    REFUSE(PROTO_MSG_PROFILE, m.profile.machine_read_bytes_s = -1);
    REFUSE(PROTO_MSG_PROFILE, m.profile.machine_ops_s = (double)NAN);
    REFUSE(PROTO_MSG_PROFILE, m.profile.n_types = PROTO_MAX_PROFILE_TYPES + 1);
    REFUSE(PROTO_MSG_PROFILE, m.profile.types[1].type = 1u << 20);
    REFUSE(PROTO_MSG_PROFILE, m.profile.types[1].row_ops_s = 0);
    REFUSE(PROTO_MSG_PROFILE, m.profile.types[0].rows_ops_s = 1e19);
    REFUSE(PROTO_MSG_PROBED, m.probed.rtt_s = (double)NAN);
    REFUSE(PROTO_MSG_PROBED, m.probed.bytes_s = -1);
    REFUSE(PROTO_MSG_EXPERTS, m.experts.layer = PROTO_MAX_LAYERS);
    REFUSE(PROTO_MSG_EXPERTS_DONE, m.experts_done.status = (enum proto_status)99);
    REFUSE(PROTO_MSG_USED, m.used.n_experts = PROTO_MAX_EXPERTS + 1);
    REFUSE(PROTO_MSG_USED, m.used.layer_first = PROTO_MAX_LAYERS - m.used.n_layers + 1);
    struct proto_held one = {PROTO_MAX_SEQUENCES, 0, 0};
    REFUSE(PROTO_MSG_COMMIT, (m.commit.held = &one, m.commit.n_held = 1));
    one = (struct proto_held){0, PROTO_MAX_CONTEXT + 1ull, 0};
    REFUSE(PROTO_MSG_COMMITTED, (m.commit.held = &one, m.commit.n_held = 1));
    one = (struct proto_held){0, 0, PROTO_MAX_CONTEXT + 1ull};
    REFUSE(PROTO_MSG_COMMITTED, (m.commit.held = &one, m.commit.n_held = 1));
    REFUSE(PROTO_MSG_BATCH, m.batch.stop = PROTO_MAX_WORKERS + 1);
    REFUSE(PROTO_MSG_COMMIT, m.commit.n_held = PROTO_MAX_SEQUENCES + 1);
    REFUSE((enum proto_kind)0, (void)0);
    REFUSE((enum proto_kind)(LAST_KIND + 1), (void)0);
}

static void test_limits_of_caches(void)
{
    struct proto_holder holder = {.layer_first = 2, .layer_end = 1};
    REFUSE(PROTO_MSG_LOAD, (m.load.holders = &holder, m.load.n_holders = 1));
    holder.layer_end = PROTO_MAX_LAYERS + 1;
    REFUSE(PROTO_MSG_LOAD, (m.load.holders = &holder, m.load.n_holders = 1));
    REFUSE(PROTO_MSG_LOAD, m.load.n_holders = PROTO_MAX_WORKERS + 1);
    struct proto_kv_seq one = {PROTO_MAX_SEQUENCES, 0, 0};
    REFUSE(PROTO_MSG_KV_HELD, (m.kv_held.seqs = &one, m.kv_held.n_seqs = 1));
    one = (struct proto_kv_seq){0, 0, PROTO_MAX_CONTEXT + 1ull};
    REFUSE(PROTO_MSG_KV_HELD, (m.kv_held.seqs = &one, m.kv_held.n_seqs = 1));
    REFUSE(PROTO_MSG_KV_HELD, m.kv_held.n_seqs = PROTO_MAX_SEQUENCES + 1);
    REFUSE(PROTO_MSG_KV_FETCH, m.kv_fetch.seq = PROTO_MAX_SEQUENCES);
    REFUSE(PROTO_MSG_KV_FETCH, m.kv_fetch.layer = PROTO_MAX_LAYERS);
    REFUSE(PROTO_MSG_KV_FETCH, m.kv_fetch.n = PROTO_MAX_KV_PAGES + 1);
    REFUSE(PROTO_MSG_KV_FETCH, m.kv_fetch.page = PROTO_MAX_CONTEXT + 1ull);
    REFUSE(PROTO_MSG_KV_FETCH, m.kv_fetch.bytes = 0);
    REFUSE(PROTO_MSG_KV_FETCH, m.kv_fetch.bytes = PROTO_MAX_PAYLOAD_BYTES + 1ull);
    REFUSE(PROTO_MSG_KV_CHUNK, m.kv_chunk.n = PROTO_MAX_KV_PAGES + 1);
}

#define REFUSE_PART(change)                                                                        \
    do {                                                                                           \
        struct proto_part p = {1, 2, 3, 4, 5, 0, 2};                                               \
        change;                                                                                    \
        REFUSE(PROTO_MSG_LOAD, (m.load.parts = &p, m.load.n_parts = 1));                           \
    } while (0)

static void test_limits_of_hosts_and_parts(void)
{
    REFUSE(PROTO_MSG_LOAD, m.load.has_stage = false); /* and layers */
    REFUSE(PROTO_MSG_LOAD, m.load.n_hosts = PROTO_MAX_WORKERS + 1);
    REFUSE(PROTO_MSG_LOAD, m.load.n_hosts = 0); /* and parts */
    REFUSE(PROTO_MSG_LOAD, m.load.n_parts = PROTO_MAX_PARTS + 1);
    REFUSE(PROTO_MSG_LOAD, m.load.n_askers = PROTO_MAX_WORKERS + 1);
    REFUSE(PROTO_MSG_LOAD, m.load.self = 2);
    REFUSE_PART(p.host = 2);
    REFUSE_PART(p.layer_first = 3);
    REFUSE_PART(p.layer_end = PROTO_MAX_LAYERS + 1);
    REFUSE_PART(p.expert_first = 5);
    REFUSE_PART(p.expert_end = PROTO_MAX_EXPERTS + 1);
    REFUSE_PART(p.n_slices = 0);
    REFUSE_PART(p.n_slices = PROTO_MAX_SLICES + 1);
    REFUSE_PART(p.slice = 2);
    struct proto_host_time time = {.host = PROTO_MAX_WORKERS};
    REFUSE(PROTO_MSG_BATCH, (m.batch.host_times = &time, m.batch.n_host_times = 1));
    REFUSE(PROTO_MSG_RESULT, (m.result.host_times = &time, m.result.n_host_times = 1));
    REFUSE(PROTO_MSG_RESULT, m.result.n_host_times = PROTO_MAX_WORKERS + 1);
}

#define REFUSE_RANGE(change)                                                                       \
    do {                                                                                           \
        struct proto_range r = {1, 2, 3, PROTO_WANT_LAST, 4};                                      \
        change;                                                                                    \
        REFUSE(PROTO_MSG_BATCH, (m.batch.ranges = &r, m.batch.n_ranges = 1));                      \
    } while (0)

static void test_limits_of_ranges_and_rows(void)
{
    REFUSE_RANGE(r.seq = PROTO_MAX_SEQUENCES);
    REFUSE_RANGE(r.n = 0);
    REFUSE_RANGE(r.n = PROTO_MAX_BATCH_ROWS + 1);
    REFUSE_RANGE(r.pos = PROTO_MAX_CONTEXT - 2);
    REFUSE_RANGE(r.pos = UINT64_MAX);
    REFUSE_RANGE(r.want = (enum proto_want_rows)3);
    REFUSE_RANGE(r.candidates = PROTO_MAX_CANDIDATES + 1);
    struct proto_range two[] = {{0, 0, PROTO_MAX_BATCH_ROWS, PROTO_WANT_NONE, 0},
                                {1, 0, 1, PROTO_WANT_NONE, 0}};
    REFUSE(PROTO_MSG_BATCH, (m.batch.ranges = two, m.batch.n_ranges = 2));
    struct proto_result_row row = {0, 0, 1, INFINITY};
    REFUSE(PROTO_MSG_RESULT, (m.result.rows = &row, m.result.n_rows = 1));
    row = (struct proto_result_row){PROTO_MAX_BATCH_RANGES, 0, 1, 0};
    REFUSE(PROTO_MSG_RESULT, (m.result.rows = &row, m.result.n_rows = 1));
    row = (struct proto_result_row){0, PROTO_MAX_CONTEXT, 1, 0};
    REFUSE(PROTO_MSG_RESULT, (m.result.rows = &row, m.result.n_rows = 1));
    row = (struct proto_result_row){0, 0, PROTO_MAX_CANDIDATES + 1, 0};
    REFUSE(PROTO_MSG_RESULT, (m.result.rows = &row, m.result.n_rows = 1));
}

static void refuse_frame(const uint8_t *bytes, size_t len, const char *why)
{
    struct proto_msg msg;
    struct proto_error error = {.status = PROTO_OK};
    CU_ASSERT_EQUAL(proto_msg_decode(bytes, len, &msg, &error), PROTO_FORMAT);
    CU_ASSERT_PTR_NOT_NULL(strstr(error.text, why));
}

/* What an honest encoder cannot make: frames by hand. Field numbers as in wire.proto. */
static void test_hand_made_frames(void)
{
    static const uint8_t short_proof[] = {0x0a, 5, 0x08, PROTO_WIRE_VERSION, 0x1a, 1, 0xff};
    refuse_frame(short_proof, sizeof short_proof, "32 bytes");
    /* A batch with two sequences and one position. */
    static const uint8_t uneven[] = {0x82, 0x01, 9, 0x10, 1, 0x1a, 2, 0, 1, 0x22, 1, 0};
    refuse_frame(uneven, sizeof uneven, "number of ranges");
    /* A batch with times that are not whole stages. */
    static const uint8_t torn[] = {0x82, 0x01, 12, 0x10, 1, 0x4a, 8, 1, 2, 3, 4, 5, 6, 7, 8};
    refuse_frame(torn, sizeof torn, "stage times");
    static const uint8_t half_host[] = {0x82, 0x01, 6, 0x10, 1, 0x52, 2, 1, 2};
    refuse_frame(half_host, sizeof half_host, "host times");
    /* A load with an endpoint and no key, with part of a part, with half a key of an asker. */
    static const uint8_t keyless[] = {0x92, 0x01, 1, 'a'};
    uint8_t load[80] = {0x32, 68, 0x6a, 32}; /* next_key and previous_key, zero */
    load[36] = 0x72;
    load[37] = 32;
    size_t at = 70;
    memcpy(load + at, keyless, 4);
    load[1] += 4;
    refuse_frame(load, at + 4, "number of hosts");
    static const uint8_t part[] = {0xb2, 0x01, 1, 5}, asker[] = {0xba, 0x01, 1, 5};
    memcpy(load + at, part, 4);
    refuse_frame(load, at + 4, "number of parts");
    memcpy(load + at, asker, 4);
    refuse_frame(load, at + 4, "number of askers");
    /* A commit with two sequences and one position. */
    static const uint8_t half_held[] = {0xf2, 0x01, 7, 0x1a, 2, 0, 1, 0x22, 1, 5};
    refuse_frame(half_held, sizeof half_held, "number of sequences");
    /* The same of what a slice holds, and a load with a holder's endpoint alone. */
    static const uint8_t half_kv[] = {0x92, 0x02, 7, 0x12, 2, 0, 1, 0x1a, 1, 5};
    refuse_frame(half_kv, sizeof half_kv, "number of sequences");
    static const uint8_t holder[] = {0xca, 0x01, 1, 'a'};
    memcpy(load + at, holder, 4);
    refuse_frame(load, at + 4, "number of holders");
    static const uint8_t unknown_status[] = {0x4a, 2, 0x18, 99};
    refuse_frame(unknown_status, sizeof unknown_status, "unknown status");
    static const uint8_t nan_rate[] = {0xa2, 0x01, 9, 0x09, 0, 0, 0, 0, 0, 0, 0xf8, 0x7f};
    refuse_frame(nan_rate, sizeof nan_rate, "finite");
}

static void test_another_version_is_understood(void)
{
    struct proto_msg msg;
    /* A hello of version 9 with nothing else in it, and its reason to refuse us. */
    uint8_t hello[] = {0x0a, 2, 0x08, 9};
    CU_ASSERT_EQUAL_FATAL(decode_copy(hello, sizeof hello, &msg), PROTO_OK);
    CU_ASSERT_EQUAL(msg.hello.version, 9);
    proto_msg_finish(&msg);
    uint8_t reason[] = {0x1a, 6, 0x08, 99, 0x12, 2, 'n', 'o'};
    CU_ASSERT_EQUAL_FATAL(decode_copy(reason, sizeof reason, &msg), PROTO_OK);
    CU_ASSERT_EQUAL(msg.refuse.status, PROTO_REFUSED);
    CU_ASSERT_STRING_EQUAL(msg.refuse.text, "no");
    proto_msg_finish(&msg);
}

static void test_texts_are_fit_to_show(void)
{
    static const char *const cases[][2] = {
        {"\x1b[31mred\n", "?[31mred?"},
        {"a\x7f", "a?"},
        {"gr\xc3\xbc\xc3\x9f", "gr\xc3\xbc\xc3\x9f"},
        {"\xc3", "?"},
        {"\xc0\xaf", "??"},
        {"\xed\xa0\x80", "???"},
        {"\xe0\x80\xaf", "???"},
        {"\xe2\x82\xac", "\xe2\x82\xac"},
        {"\xf0\x9f\x90\xab", "\xf0\x9f\x90\xab"},
        {"\xf5\x80\x80\x80", "????"},
        {"\xc2\x85", "??"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct proto_msg msg = wire_sample(PROTO_MSG_FAILED), back;
        msg.failed.text = (char *)cases[i][0];
        size_t len;
        uint8_t *bytes = encode(&msg, &len);
        CU_ASSERT_EQUAL_FATAL(decode_copy(bytes, len, &back), PROTO_OK);
        CU_ASSERT_STRING_EQUAL(back.failed.text, cases[i][1]);
        proto_msg_finish(&back);
        free(bytes);
    }
}

static void test_payload_of_a_result(void)
{
    struct proto_result result = wire_sample(PROTO_MSG_RESULT).result;
    const struct proto_batch batch = wire_sample(PROTO_MSG_BATCH).batch;
    result.n_vocab = 1000;
    struct proto_error error;
    CU_ASSERT_EQUAL(proto_result_check(&result, 64 * 8 + 1000 * 4, &error), PROTO_OK);
    CU_ASSERT_EQUAL(proto_result_check(&result, 64 * 8 + 1000 * 4 - 1, &error), PROTO_FORMAT);
    CU_ASSERT_EQUAL(proto_result_check(&result, 0, &error), PROTO_FORMAT);
    result.n_rows = 0;
    CU_ASSERT_EQUAL(proto_result_check(&result, 0, &error), PROTO_OK);
    CU_ASSERT_EQUAL(proto_batch_rows(&batch), 10);
}

static void test_kinds_have_names(void)
{
    CU_ASSERT_STRING_EQUAL(proto_kind_name(PROTO_MSG_HELLO), "hello");
    for (int kind = FIRST_KIND; kind <= LAST_KIND; kind++)
        CU_ASSERT_STRING_NOT_EQUAL(proto_kind_name((enum proto_kind)kind), "unknown");
    CU_ASSERT_STRING_EQUAL(proto_kind_name((enum proto_kind)0), "unknown");
    CU_ASSERT_STRING_EQUAL(proto_kind_name((enum proto_kind)1000), "unknown");
}

int main(void)
{
    CU_initialize_registry();
    CU_pSuite suite = CU_add_suite("wire", NULL, NULL);
    CU_ADD_TEST(suite, test_every_kind_round_trips);
    CU_ADD_TEST(suite, test_null_strings_are_empty);
    CU_ADD_TEST(suite, test_loads_are_exact_unless_told);
    CU_ADD_TEST(suite, test_every_truncation_is_survived);
    CU_ADD_TEST(suite, test_flipped_bytes_are_survived);
    CU_ADD_TEST(suite, test_frames_that_are_no_message);
    CU_ADD_TEST(suite, test_limits);
    CU_ADD_TEST(suite, test_limits_of_ranges_and_rows);
    CU_ADD_TEST(suite, test_limits_of_hosts_and_parts);
    CU_ADD_TEST(suite, test_limits_of_caches);
    CU_ADD_TEST(suite, test_hand_made_frames);
    CU_ADD_TEST(suite, test_another_version_is_understood);
    CU_ADD_TEST(suite, test_texts_are_fit_to_show);
    CU_ADD_TEST(suite, test_payload_of_a_result);
    CU_ADD_TEST(suite, test_kinds_have_names);
    CU_basic_run_tests();
    int failures = (int)CU_get_number_of_failures();
    CU_cleanup_registry();
    return failures != 0;
}
