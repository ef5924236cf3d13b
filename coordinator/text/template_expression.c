/* SPDX-License-Identifier: Apache-2.0 */
/* Expressions, by recursive descent in the order of Jinja2's precedence. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "coordinator/text/template_tree.h"

static struct text__node *parse_unary(struct text__parser *p, bool with_filters);

struct operator
{
    const char *text;
    enum text__operator op;
};

static bool is_op(const struct text__parser *p, const char *text)
{
    return text__parse_is(p, TEXT__TOKEN_OPERATOR, text);
}

static bool is_word(const struct text__parser *p, const char *text)
{
    return text__parse_is(p, TEXT__TOKEN_NAME, text);
}

static bool skip_op(struct text__parser *p, const char *text)
{
    return text__parse_skip(p, TEXT__TOKEN_OPERATOR, text);
}

static bool skip_word(struct text__parser *p, const char *text)
{
    return text__parse_skip(p, TEXT__TOKEN_NAME, text);
}

static bool expect_op(struct text__parser *p, const char *text)
{
    return text__parse_expect(p, TEXT__TOKEN_OPERATOR, text);
}

static struct text__node *make(struct text__parser *p, enum text__node_kind kind,
                               struct text__node *a, struct text__node *b)
{
    if (!a || !b)
        return NULL;
    struct text__node *node = text__parse_node(p, kind);
    if (node) {
        node->a = a;
        node->b = b;
    }
    return node;
}

static struct text__node *constant(struct text__parser *p, struct text__value value)
{
    struct text__node *node = text__parse_node(p, TEXT__NODE_CONST);
    if (node)
        node->value = value;
    return node;
}

/* Numbers. */

static struct text__node *parse_number(struct text__parser *p)
{
    const struct text__token *token = p->token++;
    char digits[64], *end;
    size_t n = 0;
    for (size_t i = 0; i < token->len && n + 1 < sizeof digits; i++)
        if (token->text[i] != '_')
            digits[n++] = token->text[i];
    digits[n] = '\0';
    errno = 0;
    struct text__value value = token->kind == TEXT__TOKEN_INTEGER
                                   ? text__int(strtoll(digits, &end, 10))
                                   : text__real(strtod(digits, &end));
    if (n + 1 == sizeof digits || (errno == ERANGE && token->kind == TEXT__TOKEN_INTEGER)) {
        p->token--;
        return text__parse_fail(p, "the number %.20s... is too large", digits);
    }
    return constant(p, value);
}

/* Strings. */

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Reads n hexadecimal digits at text; false if they are not there or are no character. */
static bool hex_char(const char *text, size_t len, size_t n, uint32_t *c)
{
    *c = 0;
    if (len < n)
        return false;
    for (size_t i = 0; i < n; i++) {
        int digit = hex_digit(text[i]);
        if (digit < 0)
            return false;
        *c = *c << 4 | (uint32_t)digit;
    }
    return *c <= 0x10ffff && (*c < 0xd800 || *c > 0xdfff);
}

static size_t octal_char(const char *text, size_t len, uint32_t *c)
{
    size_t n = 0;
    for (*c = 0; n < 3 && n < len && text[n] >= '0' && text[n] <= '7'; n++)
        *c = *c << 3 | (uint32_t)(text[n] - '0');
    return n;
}

/* Writes what the escape at text (behind its backslash, len >= 1 bytes) means. An escape that means
 * nothing stays as it is. False if it is malformed. */
static bool unescape(const char *text, size_t len, size_t *n_read, char *out, size_t *n_out)
{
    static const char from[] = "\\'\"abfnrtv", to[] = "\\'\"\a\b\f\n\r\t\v";
    const char *known = text[0] ? strchr(from, text[0]) : NULL;
    size_t digits = text[0] == 'x' ? 2 : text[0] == 'u' ? 4 : text[0] == 'U' ? 8 : 0;
    uint32_t c;
    *n_read = 1;
    if (known) {
        out[(*n_out)++] = to[known - from];
        return true;
    }
    if (text[0] == '\n')
        return true;
    if (digits) {
        *n_read = 1 + digits;
        if (!hex_char(text + 1, len - 1, digits, &c))
            return false;
    } else {
        *n_read = octal_char(text, len, &c);
    }
    if (*n_read == 0)
        out[(*n_out)++] = '\\';
    else
        *n_out += text__char_write(c, out + *n_out);
    return true;
}

/* One or more string tokens, which are one string. */
static struct text__node *parse_string(struct text__parser *p)
{
    size_t cap = 0, n = 0;
    for (const struct text__token *t = p->token; t->kind == TEXT__TOKEN_STRING; t++)
        cap += t->len;
    char *bytes = text__arena_take(&p->tmpl->arena, cap + 4);
    if (!bytes)
        return text__parse_fail(p, "no memory for a string");
    for (; p->token->kind == TEXT__TOKEN_STRING; p->token++) {
        const char *text = p->token->text;
        for (size_t i = 0; i < p->token->len;) {
            if (text[i] != '\\') {
                bytes[n++] = text[i++];
                continue;
            }
            size_t n_read;
            if (!unescape(text + i + 1, p->token->len - i - 1, &n_read, bytes, &n))
                return text__parse_fail(p, "a malformed escape \\%c in a string", text[i + 1]);
            i += 1 + n_read;
        }
    }
    struct text__value value;
    return text__parse_string(p, bytes, n, &value) ? constant(p, value) : NULL;
}

/* Lists, tuples and dicts. */

/* Items up to the closing bracket, into node->list. */
static struct text__node *parse_items(struct text__parser *p, struct text__node *node,
                                      const char *close)
{
    struct text__node **end = node ? &node->list : NULL;
    while (node && !skip_op(p, close)) {
        if (node->list && (!expect_op(p, ",") || skip_op(p, close)))
            return p->status ? NULL : node;
        if (!(*end = text__parse_expression(p, true)))
            return NULL;
        end = &(*end)->next;
        if (node->kind != TEXT__NODE_DICT)
            continue;
        if (!expect_op(p, ":") || !(*end = text__parse_expression(p, true)))
            return NULL;
        end = &(*end)->next;
    }
    return node;
}

static bool ends_tuple(const struct text__parser *p)
{
    return p->token->kind == TEXT__TOKEN_PRINT_END || p->token->kind == TEXT__TOKEN_BLOCK_END ||
           is_op(p, ")") || is_op(p, "=") || is_word(p, "if") || is_word(p, "in");
}

struct text__node *text__parse_tuple(struct text__parser *p, bool with_choice)
{
    struct text__node *first = text__parse_expression(p, with_choice);
    if (!first || !is_op(p, ","))
        return first;
    struct text__node *tuple = text__parse_node(p, TEXT__NODE_TUPLE);
    if (!tuple)
        return NULL;
    tuple->list = first;
    for (struct text__node **end = &first->next; skip_op(p, ",") && !ends_tuple(p);
         end = &(*end)->next)
        if (!(*end = text__parse_expression(p, with_choice)))
            return NULL;
    return p->status ? NULL : tuple;
}

static struct text__node *parse_brackets(struct text__parser *p)
{
    if (skip_op(p, ")"))
        return text__parse_node(p, TEXT__NODE_TUPLE);
    struct text__node *node = text__parse_tuple(p, true);
    return node && expect_op(p, ")") ? node : NULL;
}

static struct text__node *parse_name(struct text__parser *p)
{
    static const struct {
        const char *name;
        struct text__value value;
    } constants[] = {
        {"true", {.kind = TEXT__BOOL, .boolean = true}},
        {"True", {.kind = TEXT__BOOL, .boolean = true}},
        {"false", {.kind = TEXT__BOOL}},
        {"False", {.kind = TEXT__BOOL}},
        {"none", {.kind = TEXT__NONE}},
        {"None", {.kind = TEXT__NONE}},
    };
    for (size_t i = 0; i < sizeof constants / sizeof *constants; i++)
        if (skip_word(p, constants[i].name))
            return constant(p, constants[i].value);
    struct text__node *node = text__parse_node(p, TEXT__NODE_NAME);
    if (!node || !text__parse_name(p, p->token, &node->name))
        return NULL;
    node->value = text__string(p->tmpl->names[node->name]);
    p->token++;
    return node;
}

static struct text__node *parse_primary(struct text__parser *p)
{
    switch (p->token->kind) {
    case TEXT__TOKEN_NAME:
        return parse_name(p);
    case TEXT__TOKEN_STRING:
        return parse_string(p);
    case TEXT__TOKEN_INTEGER:
    case TEXT__TOKEN_FLOAT:
        return parse_number(p);
    default:
        break;
    }
    if (skip_op(p, "("))
        return parse_brackets(p);
    if (skip_op(p, "["))
        return parse_items(p, text__parse_node(p, TEXT__NODE_LIST), "]");
    if (skip_op(p, "{"))
        return parse_items(p, text__parse_node(p, TEXT__NODE_DICT), "}");
    return text__parse_unexpected(p, "an expression");
}

/* What follows a primary expression. */

static struct text__node *parse_argument(struct text__parser *p)
{
    const struct text__token *name = p->token;
    bool named = name->kind == TEXT__TOKEN_NAME && name[1].kind == TEXT__TOKEN_OPERATOR &&
                 name[1].len == 1 && name[1].text[0] == '=';
    if (!named)
        return text__parse_expression(p, true);
    struct text__node *node = text__parse_node(p, TEXT__NODE_ARGUMENT);
    if (!node || !text__parse_string(p, name->text, name->len, &node->value))
        return NULL;
    p->token += 2;
    node->a = text__parse_expression(p, true);
    return node->a ? node : NULL;
}

/* Behind the opening bracket. */
static bool parse_arguments(struct text__parser *p, struct text__node *call)
{
    struct text__node **end = &call->list;
    bool named = false;
    while (!skip_op(p, ")")) {
        if (call->list && (!expect_op(p, ",") || skip_op(p, ")")))
            return p->status == PROTO_OK;
        if (!(*end = parse_argument(p)))
            return false;
        if (named && (*end)->kind != TEXT__NODE_ARGUMENT)
            return text__parse_fail(p, "an argument without a name behind one with a name");
        named = (*end)->kind == TEXT__NODE_ARGUMENT;
        end = &(*end)->next;
    }
    return true;
}

static struct text__node *parse_call(struct text__parser *p, struct text__node *callee)
{
    struct text__node *node = text__parse_node(p, TEXT__NODE_CALL);
    if (!node)
        return NULL;
    node->a = callee;
    return parse_arguments(p, node) ? node : NULL;
}

static struct text__node *parse_attribute(struct text__parser *p, struct text__node *object)
{
    if (p->token->kind == TEXT__TOKEN_INTEGER)
        return make(p, TEXT__NODE_INDEX, object, parse_number(p));
    if (p->token->kind != TEXT__TOKEN_NAME)
        return text__parse_unexpected(p, "an attribute's name");
    struct text__node *node = text__parse_node(p, TEXT__NODE_ATTRIBUTE);
    if (!node || !text__parse_string(p, p->token->text, p->token->len, &node->value))
        return NULL;
    node->a = object;
    p->token++;
    return node;
}

/* Behind [. */
static struct text__node *parse_subscript(struct text__parser *p, struct text__node *object)
{
    struct text__node *parts[3] = {NULL};
    int n = 0;
    for (;; n++) {
        parts[n] = is_op(p, ":") || is_op(p, "]") ? constant(p, text__none())
                                                  : text__parse_expression(p, true);
        if (!parts[n])
            return NULL;
        if (n == 2 || !skip_op(p, ":"))
            break;
    }
    if (n == 0 && is_op(p, "]") && p->token[-1].text[0] == '[')
        return text__parse_unexpected(p, "an index");
    if (!expect_op(p, "]"))
        return NULL;
    if (n == 0)
        return make(p, TEXT__NODE_INDEX, object, parts[0]);
    struct text__node *node = text__parse_node(p, TEXT__NODE_SLICE);
    if (!parts[2])
        parts[2] = constant(p, text__none());
    if (!node || !parts[2])
        return NULL;
    node->a = object;
    node->list = parts[0];
    parts[0]->next = parts[1];
    parts[1]->next = parts[2];
    return node;
}

static struct text__node *parse_postfix(struct text__parser *p, struct text__node *node)
{
    while (node) {
        if (skip_op(p, "."))
            node = parse_attribute(p, node);
        else if (skip_op(p, "["))
            node = parse_subscript(p, node);
        else if (skip_op(p, "("))
            node = parse_call(p, node);
        else
            break;
    }
    return node;
}

/* A FILTER or TEST node that is named by the next token. */
static struct text__node *parse_callable(struct text__parser *p, enum text__node_kind kind)
{
    if (p->token->kind != TEXT__TOKEN_NAME)
        return text__parse_unexpected(p, kind == TEXT__NODE_FILTER ? "a filter's name"
                                                                   : "a test's name");
    struct text__node *node = text__parse_node(p, kind);
    if (!node || !text__parse_string(p, p->token->text, p->token->len, &node->value))
        return NULL;
    p->token++;
    node->callable = kind == TEXT__NODE_FILTER ? text__filter_find(node->value.string)
                                               : text__test_find(node->value.string);
    return node;
}

static struct text__node *parse_filter(struct text__parser *p, struct text__node *operand)
{
    struct text__node *node = parse_callable(p, TEXT__NODE_FILTER);
    if (!node || (skip_op(p, "(") && !parse_arguments(p, node)))
        return NULL;
    node->a = operand;
    return node;
}

struct text__node *text__parse_filters(struct text__parser *p)
{
    struct text__node *node = parse_filter(p, NULL);
    while (node && skip_op(p, "|"))
        node = parse_filter(p, node);
    return node;
}

/* Whether an argument without brackets follows a test's name. */
static bool test_argument_follows(const struct text__parser *p)
{
    if (p->token->kind == TEXT__TOKEN_NAME)
        return !is_word(p, "else") && !is_word(p, "or") && !is_word(p, "and") &&
               !is_word(p, "if") && !is_word(p, "is") && !is_word(p, "in") && !is_word(p, "not");
    return p->token->kind == TEXT__TOKEN_STRING || p->token->kind == TEXT__TOKEN_INTEGER ||
           p->token->kind == TEXT__TOKEN_FLOAT || is_op(p, "[") || is_op(p, "{");
}

/* Behind "is". */
static struct text__node *parse_test(struct text__parser *p, struct text__node *operand)
{
    bool negated = skip_word(p, "not");
    struct text__node *node = parse_callable(p, TEXT__NODE_TEST);
    if (!node)
        return NULL;
    node->a = operand;
    if (skip_op(p, "(")) {
        if (!parse_arguments(p, node))
            return NULL;
    } else if (test_argument_follows(p)) {
        node->list = parse_postfix(p, parse_primary(p));
        if (!node->list)
            return NULL;
    }
    if (!negated)
        return node;
    struct text__node *not_node = make(p, TEXT__NODE_UNARY, node, node);
    if (not_node)
        not_node->op = TEXT__OP_NOT;
    return not_node;
}

static struct text__node *parse_filters_and_tests(struct text__parser *p, struct text__node *node)
{
    while (node) {
        if (skip_op(p, "|"))
            node = parse_filter(p, node);
        else if (skip_word(p, "is"))
            node = parse_test(p, node);
        else if (skip_op(p, "("))
            node = parse_call(p, node);
        else
            break;
    }
    return node;
}

static struct text__node *parse_signed(struct text__parser *p, enum text__operator op)
{
    struct text__node *operand = parse_unary(p, false);
    struct text__node *node = make(p, TEXT__NODE_UNARY, operand, operand);
    if (node)
        node->op = op;
    return node;
}

static struct text__node *parse_unary(struct text__parser *p, bool with_filters)
{
    struct text__node *node;
    if (!text__parse_enter(p))
        return NULL;
    if (skip_op(p, "-"))
        node = parse_signed(p, TEXT__OP_SUB);
    else if (skip_op(p, "+"))
        node = parse_signed(p, TEXT__OP_ADD);
    else
        node = parse_primary(p);
    node = parse_postfix(p, node);
    if (with_filters)
        node = parse_filters_and_tests(p, node);
    text__parse_leave(p);
    return node;
}

/* Operators with two sides, the tightest first. */

static const struct operator binary[][5] = {
    {{"**", TEXT__OP_POW}},
    {{"*", TEXT__OP_MUL}, {"/", TEXT__OP_DIV}, {"//", TEXT__OP_FLOORDIV}, {"%", TEXT__OP_MOD}},
    {{"~", TEXT__OP_CONCAT}},
    {{"+", TEXT__OP_ADD}, {"-", TEXT__OP_SUB}},
};

static bool skip_binary(struct text__parser *p, const struct operator* level,
                        enum text__operator *op)
{
    for (; level->text; level++)
        if (skip_op(p, level->text)) {
            *op = level->op;
            return true;
        }
    return false;
}

static struct text__node *parse_binary(struct text__parser *p, int level)
{
    struct text__node *node = level < 0 ? parse_unary(p, true) : parse_binary(p, level - 1);
    enum text__operator op;
    while (level >= 0 && node && skip_binary(p, binary[level], &op)) {
        node = make(p, TEXT__NODE_BINARY, node, parse_binary(p, level - 1));
        if (node)
            node->op = op;
    }
    return node;
}

static bool skip_comparison(struct text__parser *p, enum text__operator *op)
{
    static const struct operator comparisons[] = {
        {"==", TEXT__OP_EQ}, {"!=", TEXT__OP_NE}, {"<", TEXT__OP_LT}, {"<=", TEXT__OP_LE},
        {">", TEXT__OP_GT},  {">=", TEXT__OP_GE}, {NULL, 0},
    };
    if (skip_binary(p, comparisons, op))
        return true;
    *op = TEXT__OP_IN;
    if (skip_word(p, "in"))
        return true;
    *op = TEXT__OP_NOT_IN;
    const struct text__token *next = p->token + 1;
    if (!is_word(p, "not") || next->kind != TEXT__TOKEN_NAME || next->len != 2 ||
        memcmp(next->text, "in", 2) != 0)
        return false;
    p->token += 2;
    return true;
}

static struct text__node *parse_comparison(struct text__parser *p)
{
    int loosest = (int)(sizeof binary / sizeof *binary) - 1;
    struct text__node *node = parse_binary(p, loosest), *whole = NULL, **end = NULL;
    enum text__operator op;
    while (node && skip_comparison(p, &op)) {
        if (!whole) {
            whole = make(p, TEXT__NODE_COMPARE, node, node);
            end = whole ? &whole->list : NULL;
        }
        struct text__node *operand = parse_binary(p, loosest);
        if (!whole || !(*end = make(p, TEXT__NODE_OPERAND, operand, operand)))
            return NULL;
        (*end)->op = op;
        end = &(*end)->next;
    }
    return whole ? whole : node;
}

static struct text__node *parse_not(struct text__parser *p)
{
    if (!is_word(p, "not"))
        return parse_comparison(p);
    if (!text__parse_enter(p))
        return NULL;
    p->token++;
    struct text__node *operand = parse_not(p);
    struct text__node *node = make(p, TEXT__NODE_UNARY, operand, operand);
    if (node)
        node->op = TEXT__OP_NOT;
    text__parse_leave(p);
    return node;
}

static struct text__node *parse_and(struct text__parser *p)
{
    struct text__node *node = parse_not(p);
    while (node && skip_word(p, "and"))
        node = make(p, TEXT__NODE_AND, node, parse_not(p));
    return node;
}

static struct text__node *parse_or(struct text__parser *p)
{
    struct text__node *node = parse_and(p);
    while (node && skip_word(p, "or"))
        node = make(p, TEXT__NODE_OR, node, parse_and(p));
    return node;
}

static struct text__node *parse_choice(struct text__parser *p)
{
    struct text__node *node = parse_or(p);
    while (node && skip_word(p, "if")) {
        struct text__node *chosen = node;
        node = make(p, TEXT__NODE_CHOICE, parse_or(p), chosen);
        if (node && skip_word(p, "else") && !(node->c = text__parse_expression(p, true)))
            return NULL;
    }
    return node;
}

struct text__node *text__parse_expression(struct text__parser *p, bool with_choice)
{
    if (!text__parse_enter(p))
        return NULL;
    struct text__node *node = with_choice ? parse_choice(p) : parse_or(p);
    text__parse_leave(p);
    return node;
}

/* Targets of set and for. */

struct text__node *text__parse_target_name(struct text__parser *p, bool with_attribute)
{
    if (p->token->kind != TEXT__TOKEN_NAME)
        return text__parse_unexpected(p, "a variable's name");
    struct text__node *node = parse_name(p);
    if (node && node->kind != TEXT__NODE_NAME) {
        p->token--;
        return text__parse_unexpected(p, "a variable's name");
    }
    if (node && with_attribute && skip_op(p, "."))
        node = parse_attribute(p, node);
    return node;
}

struct text__node *text__parse_target(struct text__parser *p, bool with_attribute)
{
    bool brackets = skip_op(p, "(");
    struct text__node *first = text__parse_target_name(p, with_attribute);
    if (!first || !is_op(p, ","))
        return first && (!brackets || expect_op(p, ")")) ? first : NULL;
    struct text__node *tuple = text__parse_node(p, TEXT__NODE_TUPLE);
    if (!tuple)
        return NULL;
    tuple->list = first;
    for (struct text__node **end = &first->next; skip_op(p, ",") && !ends_tuple(p);
         end = &(*end)->next)
        if (!(*end = text__parse_target_name(p, with_attribute)))
            return NULL;
    return !brackets || expect_op(p, ")") ? tuple : NULL;
}
