/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Models with recurrent layers: a sequence that is cut back goes on with the same bits, and the
 * two ways of arranging heads, qwen35moe's and qwen3next's, compute the same.
 */
#include <CUnit/Basic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "shard/gguf_writer.h"
#include "tests/worker/exec_rig.h"

#define N_TOKENS 700u

static struct proto_error error;

static void fill_ids(int32_t *ids, uint32_t n, uint32_t seed)
{
    for (uint32_t i = 0; i < n; i++) {
        seed = seed * 1664525u + 1013904223u;
        ids[i] = (int32_t)(seed >> 16) % 512;
    }
}

/* Goes on at pos with what is there, and compares the rest with the straight run. */
static void check_rest(struct rig *rig, const int32_t *ids, uint64_t pos, uint32_t batch,
                       const float *want)
{
    size_t n_vocab = rig->model->n_vocab;
    uint32_t n = N_TOKENS - (uint32_t)pos;
    float *got = malloc(n * n_vocab * sizeof *got);
    CU_ASSERT_EQUAL(rig_feed(rig, 0, pos, ids + pos, n, batch, got, &error), PROTO_OK);
    CU_ASSERT(memcmp(got, want + pos * n_vocab, n * n_vocab * sizeof *got) == 0);
    free(got);
}

static void check_cut(struct rig *rig, uint32_t batch, const int32_t *ids, const float *want)
{
    int32_t other[N_TOKENS];
    float *ignored = malloc(N_TOKENS * (size_t)rig->model->n_vocab * sizeof *ignored);
    fill_ids(other, N_TOKENS, 2);
    CU_ASSERT_EQUAL(rig_feed(rig, 0, 0, ids, 600, batch, ignored, &error), PROTO_OK);
    CU_ASSERT_EQUAL(rig_feed(rig, 0, 600, other, 80, batch, ignored, &error), PROTO_OK);
    CU_ASSERT_EQUAL(rig_feed(rig, 0, 600, ids + 600, 1, 1, ignored, &error), PROTO_INVALID);
    CU_ASSERT_PTR_NOT_NULL(strstr(error.text, "from position 512"));
    check_rest(rig, ids, 512, 33, want);
    CU_ASSERT_EQUAL(rig_feed(rig, 0, 256, ids + 256, 1, 1, ignored, &error), PROTO_OK);
    check_rest(rig, ids, 257, batch, want);
    check_rest(rig, ids, 0, batch, want);
    free(ignored);
}

static void test_cutting_back(void)
{
    static const uint32_t batches[] = {1, 50, 512};
    struct rig rig;
    int32_t ids[N_TOKENS];
    rig_open(&rig, rig_make("qwen35moe-tiny", "F32", 3, false, NULL));
    fill_ids(ids, N_TOKENS, 1);
    float *want = malloc(N_TOKENS * (size_t)rig.model->n_vocab * sizeof *want);
    rig_start(&rig, &(struct rig_options){.threads = 2});
    CU_ASSERT_EQUAL(rig_feed(&rig, 0, 0, ids, N_TOKENS, 64, want, &error), PROTO_OK);
    rig_stop(&rig);
    for (size_t i = 0; i < sizeof batches / sizeof batches[0]; i++) {
        uint32_t ends[3] = {2, 4, 5};
        rig_start(&rig, &(struct rig_options){.threads = 2, .ends = ends, .n_stages = 3});
        check_cut(&rig, batches[i], ids, want);
        rig_stop(&rig);
    }
    free(want);
    rig_close(&rig);
}

/* qwen35moe-tiny's heads: V head j has K head j mod N_K; grouped, head j is made of head_at(j). */
enum { N_K = 4, N_V = 8, DIM = 32, KEYS = 2 * N_K * DIM };

static size_t head_at(size_t head)
{
    size_t each = N_V / N_K;
    return head % each * N_K + head / each;
}

static const float *tensor_at(const struct shard_gguf *gguf, const char *name)
{
    return (const float *)shard_gguf_tensor(gguf, (size_t)shard_gguf_find_tensor(gguf, name))->data;
}

/* Blocks of `size` values, one for each V head, from `at` on, put into the grouped order. */
static void group_heads(float *to, const float *from, size_t at, size_t size)
{
    for (size_t head = 0; head < N_V; head++)
        memcpy(to + at + head * size, from + at + head_at(head) * size, size * sizeof *to);
}

static void group_tensor(float *to, const struct shard_tensor *t)
{
    const float *from = (const float *)t->data;
    memcpy(to, from, t->bytes);
    if (strstr(t->name, "attn_qkv") || strstr(t->name, "ssm_conv1d"))
        group_heads(to, from, KEYS * t->dims[0], DIM * t->dims[0]);
    else if (strstr(t->name, "attn_gate"))
        group_heads(to, from, 0, DIM * t->dims[0]);
    else if (strstr(t->name, "ssm_dt") || strstr(t->name, "ssm_a"))
        group_heads(to, from, 0, 1);
    else if (strstr(t->name, "ssm_out"))
        for (size_t row = 0; row < t->dims[1]; row++)
            group_heads(to, from, row * t->dims[0], DIM);
}

/* Rows of beta and alpha of each K head's V heads, from the tensor of beta. */
static void join_logits(float *to, const struct shard_gguf *gguf, const struct shard_tensor *beta)
{
    char name[PROTO_MAX_NAME_BYTES + 1];
    size_t each = N_V / N_K, row = beta->dims[0];
    memcpy(name, beta->name, sizeof name);
    memcpy(strstr(name, "ssm_"), "ssm_alpha.weight", sizeof "ssm_alpha.weight");
    const float *from[2] = {(const float *)beta->data, tensor_at(gguf, name)};
    for (size_t i = 0; i < 2 * N_V; i++) {
        size_t k_head = i / (2 * each), which = i / each % 2, head = k_head * each + i % each;
        memcpy(to + i * row, from[which] + head_at(head) * row, row * sizeof *to);
    }
}

static void add_keys(struct shard_gguf_writer *w, const struct shard_gguf *gguf)
{
    for (size_t i = 0; i < shard_gguf_n_values(gguf); i++) {
        const struct shard_gguf_value *v = shard_gguf_value(gguf, i);
        char key[128];
        uint32_t u32;
        float f32;
        snprintf(key, sizeof key, "%.*s", (int)v->key.len, v->key.data);
        const char *suffix = strncmp(key, "qwen35moe.", 10) == 0 ? key + 9 : NULL;
        char renamed[160];
        snprintf(renamed, sizeof renamed, "qwen3next%s", suffix ? suffix : "");
        if (strcmp(key, "general.architecture") == 0)
            shard_gguf_writer_str(w, key, "qwen3next");
        else if (!suffix)
            shard_gguf_writer_value(w, v);
        else if (shard_gguf_u32(gguf, key, &u32, NULL) == PROTO_OK)
            shard_gguf_writer_u32(w, renamed, u32);
        else if (shard_gguf_f32(gguf, key, &f32, NULL) == PROTO_OK)
            shard_gguf_writer_f32(w, renamed, f32);
    }
}

/* The tensor that stands for t in the grouped form; false: none does. joined: attn_qkv and
 * attn_gate are one tensor. */
static bool grouped_name(char *name, const struct shard_tensor *t, bool joined, uint64_t dims[4])
{
    if (strstr(t->name, "ssm_alpha") || (joined && strstr(t->name, "attn_gate")))
        return false;
    memcpy(name, t->name, PROTO_MAX_NAME_BYTES + 1);
    memcpy(dims, t->dims, sizeof t->dims);
    if (strstr(name, "ssm_beta")) {
        memcpy(strstr(name, "ssm_"), "ssm_ba.weight", sizeof "ssm_ba.weight");
        dims[1] *= 2;
    }
    if (joined && strstr(name, "attn_qkv")) {
        memcpy(strstr(name, "attn_"), "ssm_in.weight", sizeof "ssm_in.weight");
        dims[1] += N_V * DIM;
    }
    return true;
}

/* By K head: rows of q and k, and of v and z of its V heads, both grouped already. */
static void join_inputs(float *to, const float *qkv, const float *z, size_t row)
{
    size_t head = DIM * row, each = N_V / N_K * head;
    for (size_t h = 0; h < N_K; h++, to += 2 * (head + each)) {
        memcpy(to, qkv + h * head, head * sizeof *to);
        memcpy(to + head, qkv + (N_K + h) * head, head * sizeof *to);
        memcpy(to + 2 * head, qkv + 2 * N_K * head + h * each, each * sizeof *to);
        memcpy(to + 2 * head + each, z + h * each, each * sizeof *to);
    }
}

/* The joined tensor of a layer whose attn_qkv is t; returns its bytes. */
static size_t make_joined(float *to, const struct shard_gguf *gguf, const struct shard_tensor *t)
{
    char name[PROTO_MAX_NAME_BYTES + 1];
    memcpy(name, t->name, sizeof name);
    memcpy(strstr(name, "attn_"), "attn_gate.weight", sizeof "attn_gate.weight");
    const struct shard_tensor *gate =
        shard_gguf_tensor(gguf, (size_t)shard_gguf_find_tensor(gguf, name));
    float *qkv = malloc(t->bytes), *z = malloc(gate->bytes);
    group_tensor(qkv, t);
    group_tensor(z, gate);
    join_inputs(to, qkv, z, t->dims[0]);
    free(qkv);
    free(z);
    return t->bytes + gate->bytes;
}

static void write_data(FILE *file, const struct shard_gguf *gguf, bool joined)
{
    for (size_t i = 0; i < shard_gguf_n_tensors(gguf); i++) {
        const struct shard_tensor *t = shard_gguf_tensor(gguf, i);
        size_t bytes = t->bytes;
        char name[PROTO_MAX_NAME_BYTES + 1];
        uint64_t dims[4];
        if (!grouped_name(name, t, joined, dims))
            continue;
        float *values = malloc(2 * bytes);
        if (strstr(t->name, "ssm_beta")) {
            join_logits(values, gguf, t);
            bytes *= 2;
        } else if (joined && strstr(t->name, "attn_qkv")) {
            bytes = make_joined(values, gguf, t);
        } else {
            group_tensor(values, t);
        }
        fwrite(values, 1, bytes, file);
        while (ftell(file) % 32)
            fputc(0, file);
        free(values);
    }
}

static void write_grouped(const struct shard_gguf *gguf, bool joined, const char *path)
{
    struct shard_gguf_writer *w = shard_gguf_writer_create();
    void *header;
    size_t len;
    add_keys(w, gguf);
    for (size_t i = 0; i < shard_gguf_n_tensors(gguf); i++) {
        const struct shard_tensor *t = shard_gguf_tensor(gguf, i);
        char name[PROTO_MAX_NAME_BYTES + 1];
        uint64_t dims[4];
        if (grouped_name(name, t, joined, dims))
            shard_gguf_writer_tensor(w, name, t->type, t->n_dims, dims);
    }
    CU_ASSERT_EQUAL_FATAL(shard_gguf_writer_header(w, &header, &len, &error), PROTO_OK);
    FILE *file = fopen(path, "wb");
    CU_ASSERT_PTR_NOT_NULL_FATAL(file);
    fwrite(header, 1, len, file);
    write_data(file, gguf, joined);
    CU_ASSERT_EQUAL(fclose(file), 0);
    free(header);
    shard_gguf_writer_destroy(w);
}

static float *logits_of(struct rig *rig, const int32_t *ids, uint32_t n)
{
    float *logits = malloc(n * (size_t)rig->model->n_vocab * sizeof *logits);
    rig_start(rig, &(struct rig_options){.threads = 2});
    CU_ASSERT_EQUAL(rig_feed(rig, 0, 0, ids, n, 40, logits, &error), PROTO_OK);
    rig_stop(rig);
    return logits;
}

enum { N_GROUPED = 80 };

static float *logits_of_grouped(const struct shard_gguf *gguf, bool joined, const int32_t *ids)
{
    char path[] = "/tmp/caravan-grouped-XXXXXX";
    struct rig grouped;
    int fd = mkstemp(path);
    CU_ASSERT_FATAL(fd >= 0);
    close(fd);
    write_grouped(gguf, joined, path);
    rig_open(&grouped, path);
    remove(path);
    CU_ASSERT_STRING_EQUAL(grouped.model->arch, "qwen3next");
    float *logits = logits_of(&grouped, ids, N_GROUPED);
    rig_close(&grouped);
    return logits;
}

static void test_grouped_heads(void)
{
    struct rig apart;
    int32_t ids[N_GROUPED];
    fill_ids(ids, N_GROUPED, 5);
    rig_open(&apart, rig_make("qwen35moe-tiny", "F32", 4, false, NULL));
    float *want = logits_of(&apart, ids, N_GROUPED);
    float *got = logits_of_grouped(apart.gguf, false, ids);
    float *joined = logits_of_grouped(apart.gguf, true, ids);
    double off = 0, norm = 0;
    size_t n = N_GROUPED * (size_t)apart.model->n_vocab;
    for (size_t i = 0; i < n; i++) {
        off += ((double)got[i] - (double)want[i]) * ((double)got[i] - (double)want[i]);
        norm += (double)want[i] * (double)want[i];
    }
    CU_ASSERT(off <= 1e-10 * norm);
    CU_ASSERT(memcmp(got, joined, n * sizeof *got) == 0);
    free(want);
    free(got);
    free(joined);
    rig_close(&apart);
}

int main(void)
{
    CU_initialize_registry();
    CU_pSuite suite = CU_add_suite("hybrid", NULL, NULL);
    CU_add_test(suite, "cutting back", test_cutting_back);
    CU_add_test(suite, "grouped heads", test_grouped_heads);
    CU_basic_set_mode(CU_BRM_VERBOSE);
    CU_basic_run_tests();
    int failures = (int)CU_get_number_of_failures();
    CU_cleanup_registry();
    return failures != 0;
}
