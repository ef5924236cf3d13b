/* SPDX-License-Identifier: Apache-2.0 */
/* The dimensions of a model from its config.json, as Hugging Face transformers writes it. */
#ifndef COORDINATOR_PLAN_CONFIG_H
#define COORDINATOR_PLAN_CONFIG_H

#include "shard/dims.h"

/* Reads a configuration; `name` is for error texts and becomes dims->preset, borrowed. Of models
 * with several parts it is that of the text. PROTO_FORMAT: no JSON, with line and column;
 * PROTO_INVALID names the key that is missing or out of bounds; PROTO_UNSUPPORTED a model_type that
 * is not known. */
enum proto_status coord_config_parse(struct shard_dims *dims, const void *bytes, size_t len,
                                     const char *name, struct proto_error *error);

#endif
