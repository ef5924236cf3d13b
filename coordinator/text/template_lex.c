/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Tokens. Outside of tags everything is data. White space around tags goes as in Jinja2 with
 * trim_blocks and lstrip_blocks: "-" inside a tag's mark takes all white space on that side; a
 * statement or comment otherwise takes the blanks before it if they begin the line, and one line
 * end behind it; "+" keeps them.
 */
#include <stdlib.h>
#include <string.h>

#include "coordinator/text/template_tree.h"

struct lexer {
    const char *source;
    size_t len, at;
    unsigned line;
    bool line_starting; /* what was read last ended a line */
    struct text__token *tokens;
    size_t n, cap;
    char brackets[TEXT__MAX_NESTING];
    unsigned n_brackets;
    struct proto_error *error;
};

static enum proto_status fail(struct lexer *l, const char *what)
{
    return proto_fail(l->error, PROTO_FORMAT, "template line %u: %s", l->line, what);
}

static enum proto_status push(struct lexer *l, enum text__token_kind kind, const char *text,
                              size_t len)
{
    if (l->n == l->cap) {
        size_t cap = l->cap ? 2 * l->cap : 256;
        struct text__token *tokens = realloc(l->tokens, cap * sizeof *tokens);
        if (!tokens)
            return proto_fail_nomem(l->error, cap * sizeof *tokens, "the template's tokens");
        l->tokens = tokens;
        l->cap = cap;
    }
    l->tokens[l->n++] = (struct text__token){kind, l->line, text, len};
    return PROTO_OK;
}

static bool looking_at(const struct lexer *l, const char *text)
{
    size_t n = strlen(text);
    return l->len - l->at >= n && memcmp(l->source + l->at, text, n) == 0;
}

static void advance(struct lexer *l, size_t n)
{
    for (size_t i = 0; i < n; i++)
        l->line += l->source[l->at + i] == '\n';
    l->at += n;
}

/* Bytes of white space at the front of a text. */
static size_t leading_space(const char *text, size_t len)
{
    size_t at = 0;
    while (at < len) {
        size_t next = at;
        if (!text__is_space(text__char(text, &next)))
            break;
        at = next;
    }
    return at;
}

static size_t without_trailing_space(const char *text, size_t len)
{
    while (len > 0) {
        size_t start = len - 1;
        while (start > 0 && ((unsigned char)text[start] & 0xc0) == 0x80)
            start--;
        size_t next = start;
        if (!text__is_space(text__char(text, &next)))
            break;
        len = start;
    }
    return len;
}

/* The length of the data before a tag whose mark is followed by sign. */
static size_t strip_before(const struct lexer *l, const char *data, size_t len, char sign,
                           bool print)
{
    size_t kept = without_trailing_space(data, len);
    if (sign == '-')
        return kept;
    if (sign == '+' || print)
        return len;
    size_t line = len;
    while (line > 0 && data[line - 1] != '\n')
        line--;
    return (line > 0 || l->line_starting) && kept <= line ? line : len;
}

/* Behind a tag's end: what "-" or trim_blocks takes. */
static void skip_after(struct lexer *l, char sign, bool print)
{
    if (sign == '-')
        advance(l, leading_space(l->source + l->at, l->len - l->at));
    else if (sign != '+' && !print && l->at < l->len && l->source[l->at] == '\n')
        advance(l, 1);
    l->line_starting = l->source[l->at - 1] == '\n';
}

static enum proto_status lex_comment(struct lexer *l, char first_sign)
{
    size_t begin = l->at + 2 + (first_sign == '-' || first_sign == '+');
    size_t end = begin;
    while (end + 1 < l->len && (l->source[end] != '#' || l->source[end + 1] != '}'))
        end++;
    if (end + 1 >= l->len)
        return fail(l, "the comment that begins here has no end: \"#}\" is missing");
    char sign = end > begin ? l->source[end - 1] : 0;
    advance(l, end + 2 - l->at);
    skip_after(l, sign, false);
    return PROTO_OK;
}

static bool is_name_char(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static size_t digits(const struct lexer *l, size_t at)
{
    size_t start = at;
    while (at < l->len && (is_digit(l->source[at]) || (at > start && l->source[at] == '_')))
        at++;
    return at;
}

static enum proto_status lex_number(struct lexer *l)
{
    enum text__token_kind kind = TEXT__TOKEN_INTEGER;
    size_t end = digits(l, l->at);
    if (end + 1 < l->len && l->source[end] == '.' && is_digit(l->source[end + 1])) {
        kind = TEXT__TOKEN_FLOAT;
        end = digits(l, end + 1);
    }
    if (end < l->len && (l->source[end] == 'e' || l->source[end] == 'E')) {
        size_t exponent = end + 1;
        exponent += exponent < l->len && strchr("+-", l->source[exponent]) && l->source[exponent];
        if (digits(l, exponent) > exponent) {
            kind = TEXT__TOKEN_FLOAT;
            end = digits(l, exponent);
        }
    }
    enum proto_status status = push(l, kind, l->source + l->at, end - l->at);
    l->at = end;
    return status;
}

static enum proto_status lex_string(struct lexer *l)
{
    char quote = l->source[l->at];
    size_t end = l->at + 1;
    while (end < l->len && l->source[end] != quote)
        end += l->source[end] == '\\' ? 2 : 1;
    if (end >= l->len)
        return fail(l, "the string that begins here has no end");
    enum proto_status status = push(l, TEXT__TOKEN_STRING, l->source + l->at + 1, end - l->at - 1);
    advance(l, end + 1 - l->at);
    return status;
}

static enum proto_status count_bracket(struct lexer *l, char c)
{
    static const char open[] = "([{", close[] = ")]}";
    const char *p = strchr(open, c);
    if (p) {
        if (l->n_brackets == TEXT__MAX_NESTING)
            return proto_fail(l->error, PROTO_LIMIT,
                              "template line %u: more than %d brackets inside each other", l->line,
                              TEXT__MAX_NESTING);
        l->brackets[l->n_brackets++] = close[p - open];
    } else if (strchr(close, c)) {
        if (l->n_brackets == 0 || l->brackets[l->n_brackets - 1] != c)
            return fail(l, "a bracket is closed that was not opened");
        l->n_brackets--;
    }
    return PROTO_OK;
}

static enum proto_status lex_operator(struct lexer *l)
{
    static const char *const twos[] = {"//", "**", "==", "!=", ">=", "<="};
    for (size_t i = 0; i < sizeof twos / sizeof *twos; i++)
        if (looking_at(l, twos[i])) {
            l->at += 2;
            return push(l, TEXT__TOKEN_OPERATOR, twos[i], 2);
        }
    char c = l->source[l->at];
    if (!c || !strchr("+-*/%~()[]{}<>=.:|,", c))
        return proto_fail(l->error, PROTO_FORMAT,
                          "template line %u: a character that begins nothing (byte 0x%02x)",
                          l->line, (unsigned char)c);
    enum proto_status status = count_bracket(l, c);
    if (status == PROTO_OK)
        status = push(l, TEXT__TOKEN_OPERATOR, l->source + l->at, 1);
    l->at++;
    return status;
}

/* Takes the tag's end if it is here. */
static enum proto_status lex_end(struct lexer *l, bool print, bool *ended)
{
    static const char *const ends[2][3] = {{"-%}", "+%}", "%}"}, {"-}}", "}}", "}}"}};
    *ended = false;
    for (int i = 0; i < 3 && l->n_brackets == 0; i++) {
        const char *end = ends[print][i];
        if (!looking_at(l, end))
            continue;
        enum proto_status status =
            push(l, print ? TEXT__TOKEN_PRINT_END : TEXT__TOKEN_BLOCK_END, end, strlen(end));
        l->at += strlen(end);
        skip_after(l, end[0], print);
        *ended = true;
        return status;
    }
    return PROTO_OK;
}

static enum proto_status lex_one(struct lexer *l)
{
    char c = l->source[l->at];
    if (is_digit(c))
        return lex_number(l);
    if (c == '"' || c == '\'')
        return lex_string(l);
    if (!is_name_char(c))
        return lex_operator(l);
    size_t end = l->at;
    while (end < l->len && is_name_char(l->source[end]))
        end++;
    enum proto_status status = push(l, TEXT__TOKEN_NAME, l->source + l->at, end - l->at);
    l->at = end;
    return status;
}

static enum proto_status lex_tag(struct lexer *l, bool print, char sign)
{
    enum proto_status status =
        push(l, print ? TEXT__TOKEN_PRINT : TEXT__TOKEN_BLOCK, l->source + l->at, 2);
    l->at += 2 + (sign == '-' || sign == '+');
    l->n_brackets = 0;
    while (status == PROTO_OK) {
        advance(l, leading_space(l->source + l->at, l->len - l->at));
        if (l->at == l->len)
            return fail(l, "the template ends inside a tag");
        bool ended;
        status = lex_end(l, print, &ended);
        if (ended || status != PROTO_OK)
            return status;
        status = lex_one(l);
    }
    return status;
}

/* The next "{{", "{%" or "{#". */
static size_t next_tag(const struct lexer *l)
{
    for (size_t i = l->at; i + 1 < l->len; i++)
        if (l->source[i] == '{' && l->source[i + 1] && strchr("{%#", l->source[i + 1]))
            return i;
    return l->len;
}

static enum proto_status lex_piece(struct lexer *l)
{
    size_t tag = next_tag(l), len = tag - l->at;
    char mark = 0, sign = 0;
    if (tag < l->len) {
        mark = l->source[tag + 1];
        sign = tag + 2 < l->len ? l->source[tag + 2] : 0;
        len = strip_before(l, l->source + l->at, len, sign, mark == '{');
    }
    enum proto_status status = PROTO_OK;
    if (len > 0)
        status = push(l, TEXT__TOKEN_DATA, l->source + l->at, len);
    advance(l, tag - l->at);
    if (status != PROTO_OK || !mark)
        return status;
    return mark == '#' ? lex_comment(l, sign) : lex_tag(l, mark == '{', sign);
}

enum proto_status text__lex(const char *source, size_t len, struct text__token **tokens,
                            struct proto_error *error)
{
    struct lexer l = {
        .source = source, .len = len, .line = 1, .line_starting = true, .error = error};
    enum proto_status status = PROTO_OK;
    while (l.at < l.len && status == PROTO_OK)
        status = lex_piece(&l);
    if (status == PROTO_OK)
        status = push(&l, TEXT__TOKEN_END, source + len, 0);
    if (status != PROTO_OK) {
        free(l.tokens);
        l.tokens = NULL;
    }
    *tokens = l.tokens;
    return status;
}
