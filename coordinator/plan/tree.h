/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A YAML document whose nodes know their places, and tables that say what its mappings may hold.
 * Nodes are numbers, 0 is none. An alias is a node that is reached twice, so nothing depends on how
 * a file was written. One thread.
 */
#ifndef COORDINATOR_PLAN_TREE_H
#define COORDINATOR_PLAN_TREE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/status.h"

struct coord_tree;

/* Reads the only document of `bytes`; `name` is the file's, for error texts, and borrowed like
 * `error`, which all of a tree's failures fill. The caller destroys the tree. PROTO_FORMAT: no
 * YAML; PROTO_INVALID: nothing in it, or more than one document; PROTO_LIMIT: above 16 MiB. */
enum proto_status coord_tree_create(struct coord_tree **out, const void *bytes, size_t len,
                                    const char *name, struct proto_error *error);
/* NULL is allowed. */
void coord_tree_destroy(struct coord_tree *tree);

int coord_tree_root(const struct coord_tree *tree);

/* Fails with "NAME:LINE:COLUMN: text". */
enum proto_status coord_tree_fail(const struct coord_tree *tree, int node, enum proto_status status,
                                  const char *format, ...) __attribute__((format(printf, 4, 5)));

/* PROTO_NOMEM with the tree's error. */
enum proto_status coord_tree_fail_nomem(const struct coord_tree *tree, unsigned long long bytes);

/* What a node is, for error texts: "-5", `the text "5"`, "a list". */
#define COORD_TREE_SHOWN 80
const char *coord_tree_show(const struct coord_tree *tree, int node, char text[COORD_TREE_SHOWN]);

/* Whether text may be shown on a terminal: it has no control characters. */
bool coord_tree_shows(const char *text, size_t len);

/* The text of a scalar; NULL for others. */
const char *coord_tree_text(const struct coord_tree *tree, int node, size_t *len);

/* Items of a list, -1 where the node is none; item i. */
long coord_tree_count(const struct coord_tree *tree, int node);
int coord_tree_item(const struct coord_tree *tree, int node, long i);

/* Whether node a stands before b in the file. */
bool coord_tree_before(const struct coord_tree *tree, int a, int b);

/* What a value is, and what becomes of it. */
enum coord_field_kind {
    COORD_FIELD_GIGABYTES, /* uint64_t, in bytes */
    COORD_FIELD_REAL,      /* double, multiplied by `unit` */
    COORD_FIELD_WHOLE,     /* uint32_t */
    COORD_FIELD_FLAG,      /* bool */
    COORD_FIELD_TEXT,      /* int, a scalar node */
    COORD_FIELD_TREE       /* int, any node */
};

struct coord_field {
    const char *key;
    enum coord_field_kind kind;
    size_t offset;
    double unit, min, max; /* bounds as written in the file */
};

/* Reads a mapping by a table of at most 32 keys into the struct at base; `what` is for error texts.
 * PROTO_INVALID: no mapping, an unknown key, one that is there twice, a value that is none. */
enum proto_status coord_tree_read(const struct coord_tree *tree, int node, const char *what,
                                  const struct coord_field *fields, size_t n, void *base);

#endif
