/* SPDX-License-Identifier: Apache-2.0 */
/* The same numbers in other tensors: what a writer of the file was free to choose. */
#ifndef TESTS_WORKER_MODEL_FORMS_H
#define TESTS_WORKER_MODEL_FORMS_H

#include "shard/gguf.h"

struct model_form {
    bool fuse, split, tie, fuse_experts;
};

/* Writes a model in that form to path. A CUnit test calls. */
void model_rewrite(const struct shard_gguf *gguf, struct model_form form, const char *path);

#endif
