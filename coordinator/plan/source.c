/* SPDX-License-Identifier: Apache-2.0 */
#include "coordinator/plan/source.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "coordinator/files.h"
#include "coordinator/plan/config.h"

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

/* The model in source->gguf; the source is closed if there is none. */
static enum proto_status finish(struct coord_source *source, enum proto_status status,
                                struct proto_error *error)
{
    if (!status)
        status = shard_model_create(&source->model, source->gguf, error);
    if (status) {
        coord_source_close(source);
        return status;
    }
    for (size_t i = 0; i < shard_gguf_n_tensors(source->gguf); i++)
        source->file_bytes += shard_gguf_tensor(source->gguf, i)->bytes;
    return PROTO_OK;
}

static enum proto_status from_header(struct coord_source *out, enum proto_status status,
                                     void *bytes, size_t len, struct proto_error *error)
{
    if (!status)
        status = shard_gguf_parse(&out->gguf, bytes, len, out->name, error);
    free(bytes);
    return finish(out, status, error);
}

enum proto_status coord_source_make(struct coord_source *out, const struct shard_dims *dims,
                                    const struct shard_mixture *mixture, struct proto_error *error)
{
    void *bytes;
    size_t len;
    *out = (struct coord_source){.note = dims->note};
    snprintf(out->name, sizeof out->name, "%.140s %s", dims->preset, mixture->name);
    enum proto_status status = shard_dims_header(dims, mixture, &bytes, &len, error);
    return from_header(out, status, bytes, len, error);
}

enum proto_status coord_source_as(struct coord_source *out, const struct coord_source *source,
                                  const struct shard_mixture *mixture, struct proto_error *error)
{
    void *bytes;
    size_t len;
    *out = (struct coord_source){.note = source->note};
    snprintf(out->name, sizeof out->name, "%.140s as %s", source->model->name, mixture->name);
    enum proto_status status = shard_mixture_card(mixture, source->model, &bytes, &len, error);
    return from_header(out, status, bytes, len, error);
}

static enum proto_status open_config(struct coord_source *out, const char *path,
                                     const struct shard_mixture *mixture, struct proto_error *error)
{
    char *bytes;
    size_t len;
    struct shard_dims dims;
    enum proto_status status = coord_read_file(path, &bytes, &len, error);
    if (status)
        return status;
    status = coord_config_parse(&dims, bytes, len, path, error);
    free(bytes);
    return status ? status : coord_source_make(out, &dims, mixture, error);
}

static bool is_file(const char *path)
{
    struct stat info;
    return !stat(path, &info);
}

/* "NAME:TYPE", split at `colon`. */
static enum proto_status open_shape(struct coord_source *out, const char *text, const char *colon,
                                    struct proto_error *error)
{
    struct shard_mixture mixture;
    struct shard_dims dims;
    char *name = strndup(text, (size_t)(colon - text));
    if (!name)
        return proto_fail_nomem(error, strlen(text), "a model's name");
    enum proto_status status = shard_mixture_read(&mixture, colon + 1, error);
    if (!status && is_file(name)) {
        status = open_config(out, name, &mixture, error);
    } else if (!status) {
        status = shard_dims_read(&dims, name, NULL, 0, error);
        if (!status)
            status = coord_source_make(out, &dims, &mixture, error);
    }
    free(name);
    return status;
}

static bool is_json(const char *path)
{
    size_t len = strlen(path);
    return len > 5 && !strcmp(path + len - 5, ".json");
}

enum proto_status coord_source_open(struct coord_source *out, const char *text,
                                    struct proto_error *error)
{
    struct shard_dims dims;
    const char *colon = strrchr(text, ':');
    *out = (struct coord_source){0};
    bool there = is_file(text);
    if (!there && colon)
        return open_shape(out, text, colon, error);
    if (is_json(text) || (!there && shard_dims_read(&dims, text, NULL, 0, NULL) == PROTO_OK))
        return proto_fail(error, PROTO_INVALID,
                          "%.200s says no quantisation, expected one as in %.200s:Q4_K_M", text,
                          text);
    if (!there)
        return proto_fail(error, PROTO_NOTFOUND,
                          "%.200s is no file and no known model, expected a GGUF file, or a model "
                          "and a quantisation such as maverick:Q4_K_M (caravan plan --list)",
                          text);
    snprintf(out->name, sizeof out->name, "%.150s", base_name(text));
    return finish(out, shard_gguf_open(&out->gguf, text, error), error);
}

void coord_source_close(struct coord_source *source)
{
    shard_model_destroy(source->model);
    shard_gguf_close(source->gguf);
    *source = (struct coord_source){0};
}
