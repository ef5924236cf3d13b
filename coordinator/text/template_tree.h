/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A template as tokens (template_lex.c) and as a tree (template_parse.c for statements,
 * template_expression.c for expressions). The tree is constant once parsed.
 */
#ifndef COORDINATOR_TEXT_TEMPLATE_TREE_H
#define COORDINATOR_TEXT_TEMPLATE_TREE_H

#include "coordinator/text/template.h"
#include "coordinator/text/template_arena.h"
#include "coordinator/text/template_value.h"

#define TEXT__MAX_SOURCE_BYTES ((size_t)1 << 20)
#define TEXT__MAX_TREE_BYTES   ((size_t)256 << 20)
#define TEXT__MAX_NAMES        1000 /* different variables */
#define TEXT__MAX_NESTING      100  /* of statements and brackets in the source */

enum text__token_kind {
    TEXT__TOKEN_END,
    TEXT__TOKEN_DATA,
    TEXT__TOKEN_PRINT,     /* {{ */
    TEXT__TOKEN_PRINT_END, /* }} */
    TEXT__TOKEN_BLOCK,     /* {% */
    TEXT__TOKEN_BLOCK_END, /* %} */
    TEXT__TOKEN_NAME,
    TEXT__TOKEN_STRING, /* without its quotes, escapes as written */
    TEXT__TOKEN_INTEGER,
    TEXT__TOKEN_FLOAT,
    TEXT__TOKEN_OPERATOR
};

struct text__token {
    enum text__token_kind kind;
    unsigned line;
    const char *text; /* in the source */
    size_t len;
};

/* Cuts the source, whose lines end in \n, into tokens: white space is controlled here. The last
 * token is TEXT__TOKEN_END. *tokens is malloc'ed and the caller's. */
enum proto_status text__lex(const char *source, size_t len, struct text__token **tokens,
                            struct proto_error *error);

enum text__node_kind {
    /* Expressions. */
    TEXT__NODE_CONST,     /* value */
    TEXT__NODE_NAME,      /* name */
    TEXT__NODE_LIST,      /* list of items */
    TEXT__NODE_TUPLE,     /* list of items */
    TEXT__NODE_DICT,      /* list of keys and values by turns */
    TEXT__NODE_ATTRIBUTE, /* a.value */
    TEXT__NODE_INDEX,     /* a[b] */
    TEXT__NODE_SLICE,     /* a[list]: start, stop, step; each a CONST none where left out */
    TEXT__NODE_CALL,      /* a(list) */
    TEXT__NODE_FILTER,    /* a | value(list); a is NULL where a block's text comes in */
    TEXT__NODE_TEST,      /* a is value(list) */
    TEXT__NODE_UNARY,     /* op a */
    TEXT__NODE_BINARY,    /* a op b */
    TEXT__NODE_COMPARE,   /* a, then list of OPERAND */
    TEXT__NODE_OPERAND,   /* op a */
    TEXT__NODE_AND,       /* a and b */
    TEXT__NODE_OR,        /* a or b */
    TEXT__NODE_CHOICE,    /* b if a else c; c may be NULL */
    TEXT__NODE_ARGUMENT,  /* in a CALL's list: value=a */
    /* Statements; list is the body. */
    TEXT__NODE_DATA,      /* value */
    TEXT__NODE_PRINT,     /* {{ a }} */
    TEXT__NODE_IF,        /* if a: list, else: otherwise */
    TEXT__NODE_FOR,       /* for a in b if c: list, else: otherwise */
    TEXT__NODE_SET,       /* a = b */
    TEXT__NODE_SET_BLOCK, /* a = text of list, through the filters b */
    TEXT__NODE_MACRO,     /* name, called value; otherwise is the list of PARAMETER */
    TEXT__NODE_PARAMETER, /* name, called value; default a or NULL */
    TEXT__NODE_FILTERED,  /* text of list, through the filters b */
    TEXT__NODE_SCOPE,     /* list, with its own variables */
    TEXT__NODE_BREAK,
    TEXT__NODE_CONTINUE
};

enum text__operator {
    TEXT__OP_ADD,
    TEXT__OP_SUB,
    TEXT__OP_MUL,
    TEXT__OP_DIV,
    TEXT__OP_FLOORDIV,
    TEXT__OP_MOD,
    TEXT__OP_POW,
    TEXT__OP_CONCAT,
    TEXT__OP_NOT,
    TEXT__OP_EQ,
    TEXT__OP_NE,
    TEXT__OP_LT,
    TEXT__OP_LE,
    TEXT__OP_GT,
    TEXT__OP_GE,
    TEXT__OP_IN,
    TEXT__OP_NOT_IN
};

struct text__node {
    enum text__node_kind kind;
    enum text__operator op;
    unsigned line;
    unsigned name; /* number of a variable's name */
    struct text__value value;
    const struct text__callable *callable; /* of FILTER and TEST; NULL: there is none so named */
    struct text__node *a, *b, *c;
    struct text__node *list, *otherwise; /* first of each list */
    struct text__node *next;             /* in the list that this node is in */
};

struct text_template {
    struct text__arena arena;
    struct text__node *body;
    const struct text__string **names; /* of variables, by number */
    unsigned n_names;
    unsigned loop_name; /* the number of "loop" */
};

struct text__parser {
    struct text_template *tmpl;
    const struct text__token *token; /* the one to be read next */
    unsigned depth;
    unsigned loops; /* that a break here would end */
    struct proto_error *error;
    enum proto_status status;
};

/* Parses all statements into tmpl->body. */
enum proto_status text__parse(struct text_template *tmpl, const struct text__token *tokens,
                              struct proto_error *error);

/* What both halves of the parser use. A function that gives NULL has failed: p->status says why. */
void *text__parse_fail(struct text__parser *p, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* Fails: WHAT was expected where the next token stands. */
void *text__parse_unexpected(struct text__parser *p, const char *what);
bool text__parse_enter(struct text__parser *p);
void text__parse_leave(struct text__parser *p);
struct text__node *text__parse_node(struct text__parser *p, enum text__node_kind kind);
bool text__parse_is(const struct text__parser *p, enum text__token_kind kind, const char *text);
bool text__parse_skip(struct text__parser *p, enum text__token_kind kind, const char *text);
bool text__parse_expect(struct text__parser *p, enum text__token_kind kind, const char *text);
/* The number of the variable that a name token names; false without memory. */
bool text__parse_name(struct text__parser *p, const struct text__token *token, unsigned *number);
/* The bytes as a constant, trusted string. */
bool text__parse_string(struct text__parser *p, const char *bytes, size_t len,
                        struct text__value *out);

/* Expressions. with_choice: "a if b else c" is understood. A tuple needs no brackets. */
struct text__node *text__parse_expression(struct text__parser *p, bool with_choice);
struct text__node *text__parse_tuple(struct text__parser *p, bool with_choice);
/* NAME(arguments)|NAME..., the first applied to a NULL node. */
struct text__node *text__parse_filters(struct text__parser *p);
/* What is assigned to: a variable's name (or name.attribute), or several. */
struct text__node *text__parse_target_name(struct text__parser *p, bool with_attribute);
struct text__node *text__parse_target(struct text__parser *p, bool with_attribute);

#endif
