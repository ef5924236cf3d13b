/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/worker/model_forms.h"

#include <CUnit/Basic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "shard/gguf_writer.h"

static struct proto_error error;

static size_t type_bytes(const struct shard_tensor *t)
{
    return (size_t)(t->bytes / t->dims[2]);
}

#define MAX_EXPERTS 16

struct part {
    char name[PROTO_MAX_NAME_BYTES + 1];
    const struct kern_type_info *type;
    uint64_t dims[3];
    const uint8_t *data[2 * MAX_EXPERTS]; /* one after another */
    size_t bytes[2 * MAX_EXPERTS];
};

static void add_part(struct part *parts, size_t *n, const struct shard_tensor *t)
{
    struct part *p = &parts[(*n)++];
    *p = (struct part){.type = t->type, .data = {t->data}, .bytes = {t->bytes}};
    memcpy(p->name, t->name, sizeof p->name);
    memcpy(p->dims, t->dims, sizeof p->dims);
}

static void add_expert_parts(struct part *parts, size_t *n, const struct shard_tensor *t)
{
    const char *end = strstr(t->name, "_exps");
    for (uint64_t x = 0; x < t->dims[2]; x++) {
        add_part(parts, n, t);
        struct part *p = &parts[*n - 1];
        snprintf(p->name, sizeof p->name, "%.*s.%u.weight", (int)(end - t->name), t->name,
                 (unsigned)x);
        p->dims[2] = 1;
        p->data[0] = t->data + x * type_bytes(t);
        p->bytes[0] = type_bytes(t);
    }
}

/* ffn_gate_exps is followed by ffn_up_exps; each expert's rows of both come together. */
static void add_gate_up_part(struct part *parts, size_t *n, const struct shard_gguf *gguf, size_t i)
{
    const struct shard_tensor *two[2] = {shard_gguf_tensor(gguf, i),
                                         shard_gguf_tensor(gguf, i + 1)};
    add_part(parts, n, two[0]);
    struct part *p = &parts[*n - 1];
    CU_ASSERT_FATAL(p->dims[2] <= MAX_EXPERTS);
    char *rest = strstr(p->name, "_exps");
    memmove(rest + 3, rest, strlen(rest) + 1);
    memcpy(rest, "_up", 3);
    p->dims[1] *= 2;
    for (size_t j = 0; j < 2 * p->dims[2]; j++) {
        p->bytes[j] = type_bytes(two[j % 2]);
        p->data[j] = two[j % 2]->data + j / 2 * p->bytes[j];
    }
}

/* attn_q is followed by attn_k and attn_v. */
static void add_fused_part(struct part *parts, size_t *n, const struct shard_gguf *gguf, size_t i)
{
    add_part(parts, n, shard_gguf_tensor(gguf, i));
    struct part *p = &parts[*n - 1];
    char *letter = strstr(p->name, "attn_q") + 6;
    memmove(letter + 2, letter, strlen(letter) + 1);
    memcpy(letter, "kv", 2);
    for (size_t j = 1; j < 3; j++) {
        const struct shard_tensor *t = shard_gguf_tensor(gguf, i + j);
        p->dims[1] += t->dims[1];
        p->data[j] = t->data;
        p->bytes[j] = t->bytes;
    }
}

static void write_parts(const struct shard_gguf *gguf, const struct part *parts, size_t n,
                        const char *path)
{
    struct shard_gguf_writer *w = shard_gguf_writer_create();
    void *header;
    size_t len;
    for (size_t i = 0; i < shard_gguf_n_values(gguf); i++)
        shard_gguf_writer_value(w, shard_gguf_value(gguf, i));
    for (size_t i = 0; i < n; i++) {
        uint32_t n_dims = parts[i].dims[2] > 1 ? 3 : parts[i].dims[1] > 1 ? 2 : 1;
        shard_gguf_writer_tensor(w, parts[i].name, parts[i].type, n_dims, parts[i].dims);
    }
    CU_ASSERT_EQUAL_FATAL(shard_gguf_writer_header(w, &header, &len, &error), PROTO_OK);
    FILE *file = fopen(path, "wb");
    CU_ASSERT_PTR_NOT_NULL_FATAL(file);
    fwrite(header, 1, len, file);
    for (size_t i = 0; i < n; i++) {
        for (int j = 0; j < 2 * MAX_EXPERTS && parts[i].data[j]; j++)
            fwrite(parts[i].data[j], 1, parts[i].bytes[j], file);
        while (ftell(file) % 32)
            fputc(0, file);
    }
    CU_ASSERT_EQUAL(fclose(file), 0);
    free(header);
    shard_gguf_writer_destroy(w);
}

void model_rewrite(const struct shard_gguf *gguf, struct model_form form, const char *path)
{
    size_t n_tensors = shard_gguf_n_tensors(gguf), n = 0;
    struct part *parts = calloc(n_tensors + 512, sizeof *parts);
    const struct shard_tensor *embd =
        shard_gguf_tensor(gguf, (size_t)shard_gguf_find_tensor(gguf, "token_embd.weight"));
    for (size_t i = 0; i < n_tensors; i++) {
        const struct shard_tensor *t = shard_gguf_tensor(gguf, i);
        if (form.fuse && strstr(t->name, "attn_q.weight")) {
            add_fused_part(parts, &n, gguf, i);
            i += 2;
        } else if (form.fuse_experts && strstr(t->name, "ffn_gate_exps.weight")) {
            add_gate_up_part(parts, &n, gguf, i);
            i++;
        } else if (form.split && strstr(t->name, "_exps")) {
            add_expert_parts(parts, &n, t);
        } else {
            add_part(parts, &n, t);
            /* The reference of a tied output is the same matrix under both names. */
            if (strcmp(t->name, "output.weight") == 0) {
                parts[n - 1].data[0] = embd->data;
                n -= form.tie;
            }
        }
    }
    write_parts(gguf, parts, n, path);
    free(parts);
}
