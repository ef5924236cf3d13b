/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What may be planned: a model's file, or a model without one, of which only the header is made:
 * "maverick:Q4_K_M" (a known model or a preset of mkmodel, and a quantisation) or
 * "FOLDER/config.json:Q4_K_M". Sizes are exact in either case, since both are read by the same
 * code.
 */
#ifndef COORDINATOR_PLAN_SOURCE_H
#define COORDINATOR_PLAN_SOURCE_H

#include "shard/dims.h"
#include "shard/model.h"

struct coord_source {
    struct shard_gguf *gguf;
    struct shard_model *model;
    char name[160];      /* "maverick Q4_K_M"; of a file its name without folders */
    const char *note;    /* of an architecture that cannot be run: how it is counted; else NULL */
    uint64_t file_bytes; /* of all tensors */
};

/* The caller closes it. PROTO_NOTFOUND: no such file, and the text is not NAME:TYPE. */
enum proto_status coord_source_open(struct coord_source *out, const char *text,
                                    struct proto_error *error);

/* A known model or other dimensions. */
enum proto_status coord_source_make(struct coord_source *out, const struct shard_dims *dims,
                                    const struct shard_mixture *mixture, struct proto_error *error);

/* The same model in another quantisation. */
enum proto_status coord_source_as(struct coord_source *out, const struct coord_source *source,
                                  const struct shard_mixture *mixture, struct proto_error *error);

/* Of a zeroed or failed one too. */
void coord_source_close(struct coord_source *source);

#endif
