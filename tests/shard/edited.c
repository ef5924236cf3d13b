/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/shard/edited.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "shard/gguf_writer.h"
#include "shard/mkmodel.h"

static void require(enum proto_status status, const struct proto_error *error)
{
    if (status == PROTO_OK)
        return;
    fprintf(stderr, "%s\n", error->text);
    exit(1);
}

struct shard_gguf *preset_open(const char *preset, const char *type, bool sparse)
{
    char dir[] = "/tmp/caravan-preset-XXXXXX", path[64], digest[65];
    struct proto_error error;
    struct shard_gguf *gguf;
    struct shard_mkmodel_options options = {
        .preset = preset, .type = type, .seed = 1, .sparse = sparse};
    if (!mkdtemp(dir)) {
        perror(dir);
        exit(1);
    }
    snprintf(path, sizeof path, "%s/model.gguf", dir);
    require(shard_mkmodel(&options, path, digest, &error), &error);
    require(shard_gguf_open(&gguf, path, &error), &error);
    /* The mapping stays. */
    unlink(path);
    rmdir(dir);
    return gguf;
}

static bool is(const struct shard_gguf_value *value, const char *key)
{
    return key && strlen(key) == value->key.len && !memcmp(key, value->key.data, value->key.len);
}

static bool keeps_value(const struct shard_gguf_value *value, const struct edit *edits, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (is(value, edits[i].drop_key) || is(value, edits[i].u32_key) ||
            is(value, edits[i].str_key) || is(value, edits[i].f32_key))
            return false;
    }
    return true;
}

static void add_values(struct shard_gguf_writer *w, const struct edit *e)
{
    if (e->u32_key)
        shard_gguf_writer_u32(w, e->u32_key, e->u32);
    if (e->str_key)
        shard_gguf_writer_str(w, e->str_key, e->str);
    if (e->f32_key)
        shard_gguf_writer_f32(w, e->f32_key, e->f32);
}

static void add_tensor(struct shard_gguf_writer *w, const struct edit *e)
{
    uint32_t n_dims = 0;
    while (n_dims < 4 && e->dims[n_dims])
        n_dims++;
    shard_gguf_writer_tensor(w, e->tensor, kern_type_find(e->type), n_dims, e->dims);
}

static bool keeps_tensor(const char *name, const struct edit *edits, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if ((edits[i].drop_tensor && !strcmp(name, edits[i].drop_tensor)) ||
            (edits[i].tensor && !strcmp(name, edits[i].tensor)))
            return false;
    }
    return true;
}

struct shard_gguf *edited(const struct shard_gguf *base, const struct edit *edits, size_t n)
{
    struct shard_gguf_writer *w = shard_gguf_writer_create();
    struct proto_error error;
    struct shard_gguf *gguf;
    void *bytes;
    size_t len;
    for (size_t i = 0; i < shard_gguf_n_values(base); i++) {
        if (keeps_value(shard_gguf_value(base, i), edits, n))
            shard_gguf_writer_value(w, shard_gguf_value(base, i));
    }
    for (size_t i = 0; i < n; i++)
        add_values(w, &edits[i]);
    for (size_t i = 0; i < shard_gguf_n_tensors(base); i++) {
        const struct shard_tensor *t = shard_gguf_tensor(base, i);
        if (keeps_tensor(t->name, edits, n))
            shard_gguf_writer_tensor(w, t->name, t->type, t->n_dims, t->dims);
    }
    for (size_t i = 0; i < n; i++) {
        if (edits[i].tensor)
            add_tensor(w, &edits[i]);
    }
    require(shard_gguf_writer_header(w, &bytes, &len, &error), &error);
    shard_gguf_writer_destroy(w);
    require(shard_gguf_parse(&gguf, bytes, len, "edited", &error), &error);
    free(bytes);
    return gguf;
}
