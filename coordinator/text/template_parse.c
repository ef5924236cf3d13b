/* SPDX-License-Identifier: Apache-2.0 */
/* Statements, and what both halves of the parser stand on. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "coordinator/text/template_tree.h"

static bool parse_list(struct text__parser *p, const char *const *ends, struct text__node **out);

void *text__parse_fail(struct text__parser *p, const char *format, ...)
{
    char text[256];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (p->status == PROTO_OK)
        p->status =
            proto_fail(p->error, PROTO_FORMAT, "template line %u: %s", p->token->line, text);
    return NULL;
}

/* A piece of the source for an error: one line, printable. */
static void quote(const struct text__token *token, char out[40])
{
    size_t n = 0;
    for (size_t i = 0; i < token->len && n < 32; i++)
        out[n++] = (unsigned char)token->text[i] < 0x20 ? ' ' : token->text[i];
    out[n] = '\0';
    /* A character that was cut in two is left out. */
    while (n > 0 && token->len > n && ((unsigned char)out[n - 1] & 0x80))
        out[--n] = '\0';
}

void *text__parse_unexpected(struct text__parser *p, const char *what)
{
    char found[40];
    if (p->token->kind == TEXT__TOKEN_END)
        return text__parse_fail(p, "expected %s, found the template's end", what);
    quote(p->token, found);
    return text__parse_fail(p, "expected %s, found \"%s\"", what, found);
}

bool text__parse_enter(struct text__parser *p)
{
    if (p->depth < TEXT__MAX_NESTING * 2) {
        p->depth++;
        return true;
    }
    if (p->status == PROTO_OK)
        p->status = proto_fail(p->error, PROTO_LIMIT,
                               "template line %u: expressions or statements are nested too deeply",
                               p->token->line);
    return false;
}

void text__parse_leave(struct text__parser *p)
{
    p->depth--;
}

static void *take(struct text__parser *p, size_t bytes)
{
    void *piece = text__arena_take(&p->tmpl->arena, bytes);
    if (!piece && p->status == PROTO_OK)
        p->status = proto_fail_nomem(p->error, bytes, "a template");
    return piece;
}

struct text__node *text__parse_node(struct text__parser *p, enum text__node_kind kind)
{
    struct text__node *node = take(p, sizeof *node);
    if (node) {
        node->kind = kind;
        node->line = p->token->line;
    }
    return node;
}

bool text__parse_is(const struct text__parser *p, enum text__token_kind kind, const char *text)
{
    const struct text__token *t = p->token;
    return t->kind == kind && t->len == strlen(text) && memcmp(t->text, text, t->len) == 0;
}

bool text__parse_skip(struct text__parser *p, enum text__token_kind kind, const char *text)
{
    if (!text__parse_is(p, kind, text))
        return false;
    p->token++;
    return true;
}

bool text__parse_expect(struct text__parser *p, enum text__token_kind kind, const char *text)
{
    char what[40];
    if (text__parse_skip(p, kind, text))
        return true;
    snprintf(what, sizeof what, "\"%s\"", text);
    text__parse_unexpected(p, what);
    return false;
}

bool text__parse_string(struct text__parser *p, const char *bytes, size_t len,
                        struct text__value *out)
{
    struct text__string *string = take(p, sizeof *string);
    struct text__buffer *buffer = take(p, sizeof *buffer);
    if (!string || !buffer)
        return false;
    buffer->data = (char *)(uintptr_t)bytes;
    buffer->len = len;
    buffer->fixed = true;
    string->buffer = buffer;
    string->len = len;
    *out = text__string(string);
    return true;
}

bool text__parse_name(struct text__parser *p, const struct text__token *token, unsigned *number)
{
    struct text_template *t = p->tmpl;
    for (*number = 0; *number < t->n_names; (*number)++) {
        const struct text__string *name = t->names[*number];
        if (name->len == token->len && memcmp(text__bytes(name), token->text, token->len) == 0)
            return true;
    }
    if (t->n_names == TEXT__MAX_NAMES) {
        text__parse_fail(p, "more than %d different names of variables", TEXT__MAX_NAMES);
        return false;
    }
    struct text__value name;
    if (!text__parse_string(p, token->text, token->len, &name))
        return false;
    t->names[t->n_names++] = name.string;
    return true;
}

static bool is_word(const struct text__parser *p, const char *text)
{
    return text__parse_is(p, TEXT__TOKEN_NAME, text);
}

static bool skip_op(struct text__parser *p, const char *text)
{
    return text__parse_skip(p, TEXT__TOKEN_OPERATOR, text);
}

static bool expect_op(struct text__parser *p, const char *text)
{
    return text__parse_expect(p, TEXT__TOKEN_OPERATOR, text);
}

static bool expect_block_end(struct text__parser *p)
{
    if (p->token->kind == TEXT__TOKEN_BLOCK_END) {
        p->token++;
        return true;
    }
    text__parse_unexpected(p, "\"%}\"");
    return false;
}

/* From behind the opening tag to behind the closing one, which is called `end`. */
static struct text__node *parse_body(struct text__parser *p, struct text__node *node,
                                     const char *end)
{
    const char *const ends[] = {end, NULL};
    if (!expect_block_end(p) || !parse_list(p, ends, &node->list))
        return NULL;
    p->token++;
    return expect_block_end(p) ? node : NULL;
}

/* A body that a break would not leave. */
static struct text__node *parse_closed_body(struct text__parser *p, struct text__node *node,
                                            const char *end)
{
    unsigned loops = p->loops;
    p->loops = 0;
    node = parse_body(p, node, end);
    p->loops = loops;
    return node;
}

/* An else with what follows, up to `end`. */
static bool parse_else(struct text__parser *p, struct text__node *node, const char *end)
{
    const char *const ends[] = {end, NULL};
    if (text__parse_skip(p, TEXT__TOKEN_NAME, "else") &&
        (!expect_block_end(p) || !parse_list(p, ends, &node->otherwise)))
        return false;
    p->token++;
    return expect_block_end(p);
}

/* Behind "if": a chain of IF nodes for the elifs. */
static struct text__node *parse_if(struct text__parser *p)
{
    static const char *const ends[] = {"elif", "else", "endif", NULL};
    struct text__node *first = NULL, *node = NULL;
    do {
        struct text__node *next = text__parse_node(p, TEXT__NODE_IF);
        if (!next || !(next->a = text__parse_tuple(p, false)) || !expect_block_end(p) ||
            !parse_list(p, ends, &next->list))
            return NULL;
        if (node)
            node->otherwise = next;
        else
            first = next;
        node = next;
    } while (text__parse_skip(p, TEXT__TOKEN_NAME, "elif"));
    return parse_else(p, node, "endif") ? first : NULL;
}

static struct text__node *parse_for(struct text__parser *p)
{
    static const char *const ends[] = {"else", "endfor", NULL};
    struct text__node *node = text__parse_node(p, TEXT__NODE_FOR);
    if (!node || !(node->a = text__parse_target(p, false)) ||
        !text__parse_expect(p, TEXT__TOKEN_NAME, "in") || !(node->b = text__parse_tuple(p, false)))
        return NULL;
    if (text__parse_skip(p, TEXT__TOKEN_NAME, "if") && !(node->c = text__parse_expression(p, true)))
        return NULL;
    p->loops++;
    if (!expect_block_end(p) || !parse_list(p, ends, &node->list))
        return NULL;
    p->loops--;
    return parse_else(p, node, "endfor") ? node : NULL;
}

static struct text__node *parse_set(struct text__parser *p)
{
    struct text__node *node = text__parse_node(p, TEXT__NODE_SET);
    if (!node || !(node->a = text__parse_target(p, true)))
        return NULL;
    if (skip_op(p, "=")) {
        node->b = text__parse_tuple(p, true);
        return node->b && expect_block_end(p) ? node : NULL;
    }
    node->kind = TEXT__NODE_SET_BLOCK;
    if (skip_op(p, "|") && !(node->b = text__parse_filters(p)))
        return NULL;
    return parse_closed_body(p, node, "endset");
}

static struct text__node *parse_parameter(struct text__parser *p)
{
    struct text__node *node = text__parse_target_name(p, false);
    if (!node)
        return NULL;
    node->kind = TEXT__NODE_PARAMETER;
    if (skip_op(p, "=") && !(node->a = text__parse_expression(p, true)))
        return NULL;
    return node;
}

static struct text__node *parse_macro(struct text__parser *p)
{
    struct text__node *node = text__parse_node(p, TEXT__NODE_MACRO);
    if (!node)
        return NULL;
    if (p->token->kind != TEXT__TOKEN_NAME)
        return text__parse_unexpected(p, "the macro's name");
    if (!text__parse_name(p, p->token, &node->name))
        return NULL;
    node->value = text__string(p->tmpl->names[node->name]);
    p->token++;
    if (!expect_op(p, "("))
        return NULL;
    struct text__node **end = &node->otherwise;
    while (!skip_op(p, ")")) {
        if (node->otherwise && !expect_op(p, ","))
            return NULL;
        if (skip_op(p, ")"))
            break;
        if (!(*end = parse_parameter(p)))
            return NULL;
        end = &(*end)->next;
    }
    return parse_closed_body(p, node, "endmacro");
}

static struct text__node *parse_filter_block(struct text__parser *p)
{
    struct text__node *node = text__parse_node(p, TEXT__NODE_FILTERED);
    if (!node || !(node->b = text__parse_filters(p)))
        return NULL;
    return parse_closed_body(p, node, "endfilter");
}

static struct text__node *parse_generation(struct text__parser *p)
{
    struct text__node *node = text__parse_node(p, TEXT__NODE_SCOPE);
    return node ? parse_closed_body(p, node, "endgeneration") : NULL;
}

static struct text__node *parse_jump(struct text__parser *p, enum text__node_kind kind)
{
    if (p->loops == 0)
        return text__parse_fail(p, "%s outside of a loop",
                                kind == TEXT__NODE_BREAK ? "break" : "continue");
    struct text__node *node = text__parse_node(p, kind);
    return node && expect_block_end(p) ? node : NULL;
}

static struct text__node *parse_break(struct text__parser *p)
{
    return parse_jump(p, TEXT__NODE_BREAK);
}

static struct text__node *parse_continue(struct text__parser *p)
{
    return parse_jump(p, TEXT__NODE_CONTINUE);
}

/* Behind "{%". */
static struct text__node *parse_statement(struct text__parser *p)
{
    static const struct {
        const char *name;
        struct text__node *(*parse)(struct text__parser *p);
    } statements[] = {
        {"if", parse_if},
        {"for", parse_for},
        {"set", parse_set},
        {"macro", parse_macro},
        {"filter", parse_filter_block},
        {"generation", parse_generation},
        {"break", parse_break},
        {"continue", parse_continue},
    };
    struct text__node *node = NULL;
    size_t i = 0, n = sizeof statements / sizeof *statements;
    while (i < n && !is_word(p, statements[i].name))
        i++;
    if (i == n)
        return text__parse_unexpected(
            p, "one of if, for, set, macro, filter, generation, break, continue or the end of what "
               "was opened");
    if (!text__parse_enter(p))
        return NULL;
    p->token++;
    node = statements[i].parse(p);
    text__parse_leave(p);
    return node;
}

static struct text__node *parse_print(struct text__parser *p)
{
    struct text__node *node = text__parse_node(p, TEXT__NODE_PRINT);
    if (!node || !(node->a = text__parse_tuple(p, true)))
        return NULL;
    if (p->token->kind != TEXT__TOKEN_PRINT_END)
        return text__parse_unexpected(p, "\"}}\"");
    p->token++;
    return node;
}

static struct text__node *parse_data(struct text__parser *p)
{
    struct text__node *node = text__parse_node(p, TEXT__NODE_DATA);
    if (!node || !text__parse_string(p, p->token->text, p->token->len, &node->value))
        return NULL;
    p->token++;
    return node;
}

/* Whether the block that begins here ends the list; if so, its name is the next token. */
static bool at_end(struct text__parser *p, const char *const *ends)
{
    for (; *ends; ends++)
        if (p->token->kind == TEXT__TOKEN_NAME && is_word(p, *ends))
            return true;
    return false;
}

/* Statements up to a tag named in ends (NULL: up to the template's end). */
static bool parse_list(struct text__parser *p, const char *const *ends, struct text__node **out)
{
    for (; p->token->kind != TEXT__TOKEN_END; out = &(*out)->next) {
        const struct text__token *token = p->token;
        if (token->kind == TEXT__TOKEN_DATA) {
            *out = parse_data(p);
        } else {
            p->token++;
            if (token->kind == TEXT__TOKEN_BLOCK && ends && at_end(p, ends))
                return true;
            *out = token->kind == TEXT__TOKEN_PRINT ? parse_print(p) : parse_statement(p);
        }
        if (!*out)
            return false;
    }
    if (ends)
        text__parse_fail(p, "the template ends where \"{%% %s %%}\" is missing",
                         ends[1] ? ends[2] ? ends[2] : ends[1] : ends[0]);
    return !ends;
}

enum proto_status text__parse(struct text_template *tmpl, const struct text__token *tokens,
                              struct proto_error *error)
{
    static const struct text__token loop = {TEXT__TOKEN_NAME, 0, "loop", 4};
    struct text__parser p = {.tmpl = tmpl, .token = tokens, .error = error};
    tmpl->names = take(&p, TEXT__MAX_NAMES * sizeof *tmpl->names);
    if (tmpl->names && text__parse_name(&p, &loop, &tmpl->loop_name))
        parse_list(&p, NULL, &tmpl->body);
    return p.status;
}
