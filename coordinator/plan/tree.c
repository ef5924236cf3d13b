/* SPDX-License-Identifier: Apache-2.0 */
#include "coordinator/plan/tree.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

#define MAX_FILE_BYTES (16u << 20)

struct coord_tree {
    yaml_document_t document;
    const char *name;
    struct proto_error *error;
};

/* libyaml's readers of a document do not say that they leave it as it is. */
static const yaml_node_t *node_of(const struct coord_tree *tree, int node)
{
    return yaml_document_get_node((yaml_document_t *)&tree->document, node);
}

static enum proto_status fail_yaml(const struct coord_tree *tree, const yaml_parser_t *parser)
{
    if (parser->error == YAML_MEMORY_ERROR)
        return coord_tree_fail_nomem(tree, MAX_FILE_BYTES);
    return proto_fail(tree->error, PROTO_FORMAT, "%.200s:%zu:%zu: %s, expected YAML", tree->name,
                      parser->problem_mark.line + 1, parser->problem_mark.column + 1,
                      parser->problem ? parser->problem : "this cannot be read");
}

/* A file holds one document, which is not empty. */
static enum proto_status check_alone(const struct coord_tree *tree, yaml_parser_t *parser)
{
    yaml_document_t next;
    if (!node_of(tree, 1))
        return proto_fail(tree->error, PROTO_INVALID, "%.200s:1:1: the file is empty", tree->name);
    if (!yaml_parser_load(parser, &next))
        return fail_yaml(tree, parser);
    const yaml_node_t *root = yaml_document_get_root_node(&next);
    enum proto_status status = PROTO_OK;
    if (root)
        status = proto_fail(tree->error, PROTO_INVALID,
                            "%.200s:%zu:%zu: a second document begins, expected one", tree->name,
                            root->start_mark.line + 1, root->start_mark.column + 1);
    yaml_document_delete(&next);
    return status;
}

static enum proto_status load(struct coord_tree *tree, yaml_parser_t *parser)
{
    if (!yaml_parser_load(parser, &tree->document))
        return fail_yaml(tree, parser);
    return check_alone(tree, parser);
}

enum proto_status coord_tree_create(struct coord_tree **out, const void *bytes, size_t len,
                                    const char *name, struct proto_error *error)
{
    yaml_parser_t parser;
    *out = NULL;
    if (len > MAX_FILE_BYTES)
        return proto_fail(error, PROTO_LIMIT, "%.200s: has %zu bytes, expected at most %u", name,
                          len, MAX_FILE_BYTES);
    struct coord_tree *tree = calloc(1, sizeof *tree);
    if (!tree || !yaml_parser_initialize(&parser)) {
        free(tree);
        return proto_fail_nomem(error, sizeof *tree, "a file's tree");
    }
    tree->name = name;
    tree->error = error;
    yaml_parser_set_input_string(&parser, bytes, len);
    enum proto_status status = load(tree, &parser);
    yaml_parser_delete(&parser);
    if (status)
        coord_tree_destroy(tree);
    else
        *out = tree;
    return status;
}

void coord_tree_destroy(struct coord_tree *tree)
{
    if (!tree)
        return;
    yaml_document_delete(&tree->document);
    free(tree);
}

int coord_tree_root(const struct coord_tree *tree)
{
    return node_of(tree, 1) ? 1 : 0;
}

enum proto_status coord_tree_fail(const struct coord_tree *tree, int node, enum proto_status status,
                                  const char *format, ...)
{
    char text[PROTO_ERROR_TEXT_BYTES];
    yaml_mark_t mark = node_of(tree, node)->start_mark;
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    return proto_fail(tree->error, status, "%.200s:%zu:%zu: %s", tree->name, mark.line + 1,
                      mark.column + 1, text);
}

enum proto_status coord_tree_fail_nomem(const struct coord_tree *tree, unsigned long long bytes)
{
    return proto_fail_nomem(tree->error, bytes, tree->name);
}

const char *coord_tree_text(const struct coord_tree *tree, int node, size_t *len)
{
    const yaml_node_t *n = node_of(tree, node);
    if (n->type != YAML_SCALAR_NODE)
        return NULL;
    *len = n->data.scalar.length;
    return (const char *)n->data.scalar.value;
}

/* Written without quotes, so that it may be a number or true. */
static bool is_plain(const yaml_node_t *node)
{
    return node->type == YAML_SCALAR_NODE && node->data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
}

bool coord_tree_shows(const char *text, size_t len)
{
    const unsigned char *s = (const unsigned char *)text;
    for (size_t i = 0; i < len; i++) {
        bool c1 = s[i] == 0xc2 && i + 1 < len && s[i + 1] < 0xa0; /* U+0080 to U+009F */
        if (s[i] < 0x20 || s[i] == 0x7f || c1)
            return false;
    }
    return true;
}

const char *coord_tree_show(const struct coord_tree *tree, int node, char text[COORD_TREE_SHOWN])
{
    const yaml_node_t *n = node_of(tree, node);
    if (n->type != YAML_SCALAR_NODE)
        return n->type == YAML_SEQUENCE_NODE ? "a list" : "keys and values";
    const char *value = (const char *)n->data.scalar.value;
    size_t len = n->data.scalar.length;
    bool plain = is_plain(n);
    if (plain && !len)
        return "nothing";
    if (!coord_tree_shows(value, len))
        return "a text with control characters";
    snprintf(text, COORD_TREE_SHOWN, plain ? "%.60s" : "the text \"%.60s\"", value);
    return text;
}

long coord_tree_count(const struct coord_tree *tree, int node)
{
    const yaml_node_t *n = node_of(tree, node);
    return n->type == YAML_SEQUENCE_NODE ? n->data.sequence.items.top - n->data.sequence.items.start
                                         : -1;
}

int coord_tree_item(const struct coord_tree *tree, int node, long i)
{
    return node_of(tree, node)->data.sequence.items.start[i];
}

bool coord_tree_before(const struct coord_tree *tree, int a, int b)
{
    return node_of(tree, a)->start_mark.index < node_of(tree, b)->start_mark.index;
}

static bool is_word(const yaml_node_t *node, const char *word)
{
    return node->type == YAML_SCALAR_NODE && node->data.scalar.length == strlen(word) &&
           !memcmp(node->data.scalar.value, word, node->data.scalar.length);
}

static bool take_number(const yaml_node_t *node, double *out)
{
    char *end;
    if (!is_plain(node))
        return false;
    const char *text = (const char *)node->data.scalar.value;
    size_t len = node->data.scalar.length;
    if (!len || strspn(text, "0123456789.eE+-") != len)
        return false;
    *out = strtod(text, &end);
    return end == text + len && isfinite(*out);
}

static enum proto_status read_number(const struct coord_tree *tree, const struct coord_field *field,
                                     int node, void *target)
{
    double number = 0;
    char text[COORD_TREE_SHOWN];
    bool whole = field->kind == COORD_FIELD_WHOLE;
    if (!take_number(node_of(tree, node), &number) ||
        !(number >= field->min && number <= field->max) || (whole && number != floor(number)))
        return coord_tree_fail(tree, node, PROTO_INVALID,
                               "%s is %s, expected a %snumber from %.7g to %.7g", field->key,
                               coord_tree_show(tree, node, text), whole ? "whole " : "", field->min,
                               field->max);
    if (whole)
        *(uint32_t *)target = (uint32_t)number;
    else if (field->kind == COORD_FIELD_GIGABYTES)
        *(uint64_t *)target = (uint64_t)(number * 1e9);
    else
        *(double *)target = number * field->unit;
    return PROTO_OK;
}

static enum proto_status read_flag(const struct coord_tree *tree, const struct coord_field *field,
                                   int node, bool *target)
{
    char text[COORD_TREE_SHOWN];
    const yaml_node_t *n = node_of(tree, node);
    *target = is_plain(n) && is_word(n, "true");
    if (*target || (is_plain(n) && is_word(n, "false")))
        return PROTO_OK;
    return coord_tree_fail(tree, node, PROTO_INVALID, "%s is %s, expected true or false",
                           field->key, coord_tree_show(tree, node, text));
}

static enum proto_status read_value(const struct coord_tree *tree, const struct coord_field *field,
                                    int node, void *target)
{
    char text[COORD_TREE_SHOWN];
    switch (field->kind) {
    case COORD_FIELD_GIGABYTES:
    case COORD_FIELD_REAL:
    case COORD_FIELD_WHOLE:
        return read_number(tree, field, node, target);
    case COORD_FIELD_FLAG:
        return read_flag(tree, field, node, target);
    case COORD_FIELD_TEXT:
        if (node_of(tree, node)->type != YAML_SCALAR_NODE)
            return coord_tree_fail(tree, node, PROTO_INVALID, "%s is %s, expected a name",
                                   field->key, coord_tree_show(tree, node, text));
        *(int *)target = node;
        return PROTO_OK;
    case COORD_FIELD_TREE:
        *(int *)target = node;
        return PROTO_OK;
    }
    return PROTO_OK;
}

static enum proto_status fail_key(const struct coord_tree *tree, int key, const char *what,
                                  const struct coord_field *fields, size_t n)
{
    char list[192] = "", text[COORD_TREE_SHOWN];
    for (size_t i = 0, len = 0; i < n && len < sizeof list; i++)
        len +=
            (size_t)snprintf(list + len, sizeof list - len, "%s%s", i ? ", " : "", fields[i].key);
    return coord_tree_fail(tree, key, PROTO_INVALID, "%s knows no key %s, expected one of: %s",
                           what, coord_tree_show(tree, key, text), list);
}

enum proto_status coord_tree_read(const struct coord_tree *tree, int node, const char *what,
                                  const struct coord_field *fields, size_t n, void *base)
{
    char text[COORD_TREE_SHOWN];
    uint32_t seen = 0;
    const yaml_node_t *mapping = node_of(tree, node);
    if (mapping->type != YAML_MAPPING_NODE)
        return coord_tree_fail(tree, node, PROTO_INVALID,
                               "%s is %s, expected keys and values such as {%s: ...}", what,
                               coord_tree_show(tree, node, text), fields[0].key);
    for (const yaml_node_pair_t *pair = mapping->data.mapping.pairs.start;
         pair < mapping->data.mapping.pairs.top; pair++) {
        size_t i = 0;
        while (i < n && !is_word(node_of(tree, pair->key), fields[i].key))
            i++;
        if (i == n)
            return fail_key(tree, pair->key, what, fields, n);
        if (seen & 1u << i)
            return coord_tree_fail(tree, pair->key, PROTO_INVALID,
                                   "%s has the key %s twice, expected it once", what,
                                   fields[i].key);
        seen |= 1u << i;
        enum proto_status status =
            read_value(tree, &fields[i], pair->value, (char *)base + fields[i].offset);
        if (status)
            return status;
    }
    return PROTO_OK;
}
