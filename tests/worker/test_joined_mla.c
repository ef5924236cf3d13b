/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Old files of MLA hold the rows of k_b and v_b in one tensor, attn_kv_b. Two files are made of
 * deepseek2-tiny, whose K rows are its V rows too: an old one, and one with k_b as the transposed
 * floats of those rows. Both are to give the same bits.
 */
#include <CUnit/Basic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "shard/gguf_writer.h"
#include "tests/worker/exec_rig.h"

enum { LAYERS = 3, HEADS = 4, NOPE = 32, DIM_V = 32, N_ROT = 16, RANK = 32, N_TOKENS = 70 };

static struct proto_error error;

struct bytes {
    uint8_t data[HEADS * (NOPE + DIM_V) * RANK * sizeof(float)];
    size_t n;
};

static void add_bytes(struct bytes *out, const void *data, size_t n)
{
    memcpy(out->data + out->n, data, n);
    out->n += n;
}

static void joined_rows(struct bytes *out, const struct shard_tensor *v_b)
{
    size_t head = v_b->bytes / HEADS;
    for (size_t h = 0; h < HEADS; h++) {
        add_bytes(out, v_b->data + (h + 1) % HEADS * head, head);
        add_bytes(out, v_b->data + h * head, head);
    }
}

static void transposed_rows(struct bytes *out, const struct shard_tensor *v_b)
{
    static float rows[HEADS][NOPE][RANK];
    kern_dequantize(v_b->type, v_b->data, HEADS * NOPE * RANK, &rows[0][0][0]);
    for (size_t h = 0; h < HEADS; h++)
        for (size_t r = 0; r < RANK; r++)
            for (size_t i = 0; i < NOPE; i++)
                add_bytes(out, &rows[(h + 1) % HEADS][i][r], sizeof(float));
}

/* What a file has in place of k_b and v_b; *skip: nothing. */
static void replace(const struct shard_tensor *t, bool joined, struct shard_tensor *out,
                    struct bytes *bytes, bool *skip)
{
    char *name = strstr(out->name, "attn_v_b");
    *skip = strstr(t->name, "attn_k_b");
    if (!name)
        return;
    if (!joined) {
        add_bytes(bytes, t->data, t->bytes);
        return;
    }
    memcpy(name, "attn_kv_b.weight", sizeof "attn_kv_b.weight");
    out->n_dims = 2;
    out->dims[1] = HEADS * (NOPE + DIM_V);
    joined_rows(bytes, t);
}

static const struct shard_tensor *tensor_of(const struct shard_gguf *gguf, size_t layer,
                                            const char *name)
{
    char full[64];
    snprintf(full, sizeof full, "blk.%zu.%s", layer, name);
    return shard_gguf_tensor(gguf, (size_t)shard_gguf_find_tensor(gguf, full));
}

static void copy_keys(struct shard_gguf_writer *w, const struct shard_gguf *gguf, bool joined)
{
    for (size_t i = 0; i < shard_gguf_n_values(gguf); i++) {
        const struct shard_gguf_value *v = shard_gguf_value(gguf, i);
        char key[96];
        snprintf(key, sizeof key, "%.*s", (int)v->key.len, v->key.data);
        if (!joined || (!strstr(key, "_mla") && !strstr(key, "attention.key_length") &&
                        !strstr(key, "attention.value_length") && !strstr(key, "head_count_kv")))
            shard_gguf_writer_value(w, v);
    }
    if (!joined)
        return;
    shard_gguf_writer_u32(w, "deepseek2.attention.key_length", NOPE + N_ROT);
    shard_gguf_writer_u32(w, "deepseek2.attention.value_length", DIM_V);
    shard_gguf_writer_u32(w, "deepseek2.attention.head_count_kv", HEADS);
}

static void put(FILE *file, const void *data, size_t n)
{
    fwrite(data, 1, n, file);
    while (ftell(file) % 32)
        fputc(0, file);
}

static void write_tensors(struct shard_gguf_writer *w, FILE *file, const struct shard_gguf *gguf,
                          bool joined)
{
    static const uint64_t k_b[3] = {NOPE, RANK, HEADS};
    for (size_t i = 0; i < shard_gguf_n_tensors(gguf); i++) {
        const struct shard_tensor *t = shard_gguf_tensor(gguf, i);
        struct shard_tensor out = *t;
        static struct bytes bytes;
        bool skip;
        bytes.n = 0;
        replace(t, joined, &out, &bytes, &skip);
        if (skip)
            continue;
        if (file)
            put(file, bytes.n ? bytes.data : t->data, bytes.n ? bytes.n : t->bytes);
        else
            shard_gguf_writer_tensor(w, out.name, out.type, out.n_dims, out.dims);
    }
    for (size_t il = 0; il < LAYERS && !joined; il++) {
        static struct bytes bytes;
        char name[64];
        snprintf(name, sizeof name, "blk.%zu.attn_k_b.weight", il);
        bytes.n = 0;
        transposed_rows(&bytes, tensor_of(gguf, il, "attn_v_b.weight"));
        if (file)
            put(file, bytes.data, bytes.n);
        else
            shard_gguf_writer_tensor(w, name, kern_type_find(KERN_F32), 3, k_b);
    }
}

static void write_file(const struct shard_gguf *gguf, bool joined, const char *path)
{
    struct shard_gguf_writer *w = shard_gguf_writer_create();
    void *header;
    size_t len;
    copy_keys(w, gguf, joined);
    write_tensors(w, NULL, gguf, joined);
    CU_ASSERT_EQUAL_FATAL(shard_gguf_writer_header(w, &header, &len, &error), PROTO_OK);
    FILE *file = fopen(path, "wb");
    CU_ASSERT_PTR_NOT_NULL_FATAL(file);
    fwrite(header, 1, len, file);
    write_tensors(w, file, gguf, joined);
    CU_ASSERT_EQUAL(fclose(file), 0);
    free(header);
    shard_gguf_writer_destroy(w);
}

/* Logits of some tokens; also checks what of the model does not depend on the form. */
static float *logits_of(const struct shard_gguf *gguf, bool joined, const uint32_t *ends,
                        uint32_t n_stages)
{
    char path[] = "/tmp/caravan-joined-XXXXXX";
    int32_t ids[N_TOKENS];
    struct rig rig;
    int fd = mkstemp(path);
    CU_ASSERT_FATAL(fd >= 0);
    close(fd);
    write_file(gguf, joined, path);
    rig_open(&rig, path);
    remove(path);
    CU_ASSERT_EQUAL(rig.model->mla.joined, joined);
    CU_ASSERT(rig.model->head_dim_k == RANK + N_ROT && rig.model->layers[1].n_head_kv == 1);
    for (int i = 0; i < N_TOKENS; i++)
        ids[i] = (i * 37 + 5) % 512;
    float *logits = malloc(N_TOKENS * (size_t)rig.model->n_vocab * sizeof *logits);
    rig_start(&rig, &(struct rig_options){.threads = 2, .ends = ends, .n_stages = n_stages});
    CU_ASSERT_EQUAL(rig_feed(&rig, 0, 0, ids, N_TOKENS, 30, logits, &error), PROTO_OK);
    rig_close(&rig);
    return logits;
}

static void test_same_bits(void)
{
    static const char *const types[] = {"F32", "BF16", "Q8_0", "Q4_0"};
    static const uint32_t ends[2] = {1, LAYERS};
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        struct rig base;
        rig_open(&base, rig_make("deepseek2-tiny", types[i], 5, false, NULL));
        float *split = logits_of(base.gguf, false, NULL, 0);
        float *joined = logits_of(base.gguf, true, NULL, 0);
        float *stages = logits_of(base.gguf, true, ends, 2);
        size_t bytes = N_TOKENS * (size_t)base.model->n_vocab * sizeof *split;
        CU_ASSERT(memcmp(split, joined, bytes) == 0);
        CU_ASSERT(memcmp(split, stages, bytes) == 0);
        free(split);
        free(joined);
        free(stages);
        rig_close(&base);
    }
}

int main(void)
{
    CU_initialize_registry();
    CU_pSuite suite = CU_add_suite("joined mla", NULL, NULL);
    CU_add_test(suite, "same bits as split", test_same_bits);
    CU_basic_set_mode(CU_BRM_VERBOSE);
    CU_basic_run_tests();
    int failures = (int)CU_get_number_of_failures();
    CU_cleanup_registry();
    return failures != 0;
}
