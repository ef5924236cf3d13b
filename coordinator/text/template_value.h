/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Values of templates: Python's, as far as templates see them.
 *
 * All that a render makes lives in its arena until the render is over, so nothing has an owner.
 * Values do not change once made, with two exceptions: a namespace's attributes, and how far a
 * generator has been read. A string is a view of a buffer, so slices copy nothing; a buffer that
 * ends where a string ends may grow behind it, so adding to a string again and again is linear in
 * the end. Lists do the same. The buffer knows which of its bytes came from outside (the spans);
 * every function that makes a string of others carries that along.
 */
#ifndef COORDINATOR_TEXT_TEMPLATE_VALUE_H
#define COORDINATOR_TEXT_TEMPLATE_VALUE_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "coordinator/text/template.h"
#include "coordinator/text/template_arena.h"

enum text__kind {
    TEXT__ABSENT, /* no value: an argument that was not given */
    TEXT__UNDEFINED,
    TEXT__NONE,
    TEXT__BOOL,
    TEXT__INT,
    TEXT__FLOAT,
    TEXT__STRING,
    TEXT__LIST, /* and whatever else is items in a row: see enum text__list_type */
    TEXT__DICT,
    TEXT__NAMESPACE,
    TEXT__LOOP,
    TEXT__MACRO,
    TEXT__FUNCTION,
    TEXT__METHOD
};

struct text__value {
    uint8_t kind;   /* enum text__kind */
    uint8_t owner;  /* METHOD: kind of its object. UNDEFINED: kind of what lacks `string`, or
                       ABSENT for a variable, or STRING where `string` is the whole explanation */
    uint16_t index; /* METHOD: in the table of its owner's methods */
    union {
        bool boolean;
        int64_t integer;
        double real;
        const struct text__string *string;
        struct text__list *list;
        struct text__dict *dict; /* also a namespace's attributes */
        const struct text__loop *loop;
        const struct text__macro *macro;
        const struct text__callable *function;
        const void *object; /* METHOD: its string, list or dict */
    };
};

struct text__buffer {
    char *data;
    size_t len, cap;
    struct text_span *spans; /* untrusted bytes, in order, disjoint */
    size_t n_spans, cap_spans;
    struct text_span whole; /* where spans is of one that covers all */
    bool fixed;             /* never grows */
};

struct text__string {
    struct text__buffer *buffer;
    size_t first, len; /* bytes of the buffer */
    bool markup;       /* went through "safe": what is added to it gets escaped */
};

enum text__list_type {
    TEXT__LIST_LIST,
    TEXT__LIST_TUPLE,
    TEXT__LIST_RANGE,
    TEXT__LIST_GENERATOR, /* can be read once */
    TEXT__LIST_KEYS,
    TEXT__LIST_VALUES,
    TEXT__LIST_ITEMS
};

struct text__list {
    enum text__list_type type;
    size_t n, taken; /* taken: how many a generator has given */
    struct text__value *items;
    struct text__backing *backing; /* of items; NULL: they cannot grow */
};

struct text__backing {
    struct text__value *items;
    size_t n, cap;
};

struct text__pair {
    struct text__value key, value;
};

struct text__dict {
    struct text__pair *pairs; /* in the order in which they came */
    size_t n, cap;
    uint32_t *slots; /* pair's number + 1 by hash; NULL while there are few pairs */
    size_t n_slots;
};

struct text__loop {
    const struct text__value *items;
    size_t n, i;
};

struct text__macro {
    const struct text__node *node;
    struct text__scope *scope; /* where it was defined */
};

struct text__variable {
    unsigned name;
    struct text__value value;
};

struct text__scope {
    struct text__scope *parent;
    struct text__variable *variables;
    size_t n, cap;
    bool captured; /* a macro keeps it */
};

enum text__flow { TEXT__FLOW_ON, TEXT__FLOW_BREAK, TEXT__FLOW_CONTINUE };

struct text__limits {
    uint64_t steps; /* an evaluated node is one, and so are TEXT__STEP_BYTES bytes looked at */
    size_t memory_bytes;
    size_t text_bytes; /* of any one string, and of the whole */
};

#define TEXT__STEP_BYTES 32u
#define TEXT__MAX_CALLS  100  /* macros inside each other */
#define TEXT__MAX_DEPTH  1500 /* nodes and values inside each other */

extern const struct text__limits text__default_limits;

/* One render. */
struct text__run {
    const struct text_template *tmpl;
    struct text__arena arena;
    struct text__limits limits;
    uint64_t work; /* TEXT__STEP_BYTES of it are a step */
    unsigned depth, calls;
    struct text__buffer *out; /* where statements write */
    enum text__flow flow;
    unsigned line; /* of the statement that is run */
    long long unix_time;
    enum proto_status status;
    struct proto_error *error;
};

/* Rendering with limits other than the usual. */
enum proto_status text__render(const struct text_template *tmpl, const json_t *variables,
                               long long unix_time, const struct text__limits *limits,
                               struct text_rendered *out, struct proto_error *error);

/* Functions below that give a bool give false, and pointers are NULL, after a failure, which the
 * run keeps. */

/* PROTO_INVALID with the line in front of the text. */
bool text__fail(struct text__run *run, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
bool text__fail_limit(struct text__run *run, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* The error of using an undefined value. */
bool text__fail_undefined(struct text__run *run, const struct text__value *value);
/* What the arena's last failure was. */
bool text__fail_memory(struct text__run *run, size_t bytes);
void *text__take(struct text__run *run, size_t bytes);
/* Counts work: steps, or bytes looked at and a little for having come. */
bool text__work(struct text__run *run, uint64_t steps);
bool text__work_bytes(struct text__run *run, size_t bytes);
bool text__enter(struct text__run *run);
void text__leave(struct text__run *run);

/* Making values. */
static inline struct text__value text__none(void)
{
    return (struct text__value){.kind = TEXT__NONE};
}

static inline struct text__value text__bool(bool boolean)
{
    return (struct text__value){.kind = TEXT__BOOL, .boolean = boolean};
}

static inline struct text__value text__int(int64_t integer)
{
    return (struct text__value){.kind = TEXT__INT, .integer = integer};
}

static inline struct text__value text__real(double real)
{
    return (struct text__value){.kind = TEXT__FLOAT, .real = real};
}

static inline struct text__value text__string(const struct text__string *string)
{
    return (struct text__value){.kind = TEXT__STRING, .string = string};
}

static inline struct text__value text__list(struct text__list *list)
{
    return (struct text__value){.kind = TEXT__LIST, .list = list};
}

static inline struct text__value text__dict(struct text__dict *dict)
{
    return (struct text__value){.kind = TEXT__DICT, .dict = dict};
}

/* Undefined: an explanation, or a variable (owner TEXT__ABSENT) or attribute that is not there. */
bool text__undefined_because(struct text__run *run, const char *why, struct text__value *out);
struct text__value text__undefined(enum text__kind owner, const struct text__string *name);

static inline bool text__is_list(const struct text__value *v, enum text__list_type type)
{
    return v->kind == TEXT__LIST && v->list->type == type;
}

static inline bool text__is_number(const struct text__value *v)
{
    return v->kind == TEXT__INT || v->kind == TEXT__BOOL || v->kind == TEXT__FLOAT;
}

/* An integer or bool as an integer. */
static inline bool text__as_int(const struct text__value *v, int64_t *out)
{
    *out = v->kind == TEXT__BOOL ? v->boolean : v->integer;
    return v->kind == TEXT__BOOL || v->kind == TEXT__INT;
}

/* Python's name of the value's type ("NoneType"). */
const char *text__type_name(const struct text__value *v);
bool text__truth(const struct text__value *v);
bool text__equal(struct text__run *run, const struct text__value *a, const struct text__value *b,
                 bool *out);
/* a < b, for numbers, strings, and tuples or lists of them. */
bool text__less(struct text__run *run, const struct text__value *a, const struct text__value *b,
                bool *out);
/* item in container. */
bool text__contains(struct text__run *run, const struct text__value *container,
                    const struct text__value *item, bool *out);
/* Python's len(). */
bool text__length(struct text__run *run, const struct text__value *v, size_t *out);
/* What a for loop over the value would give. Empties a generator. */
bool text__items(struct text__run *run, const struct text__value *v, struct text__value **items,
                 size_t *n);

/* Lists and dicts. */
struct text__list *text__list_new(struct text__run *run, enum text__list_type type, size_t cap);
bool text__list_push(struct text__run *run, struct text__list *list,
                     const struct text__value *item);
struct text__list *text__list_join(struct text__run *run, const struct text__list *a,
                                   const struct text__list *b);
/* A list of the dict's keys, values or (key, value) tuples. */
struct text__list *text__dict_list(struct text__run *run, const struct text__dict *dict,
                                   enum text__list_type type);
struct text__dict *text__dict_new(struct text__run *run, size_t cap);
/* The key's value (NULL in *out if it is not there). Fails for a key that cannot be one. */
bool text__dict_get(struct text__run *run, const struct text__dict *dict,
                    const struct text__value *key, struct text__value **out);
bool text__dict_put(struct text__run *run, struct text__dict *dict, const struct text__value *key,
                    const struct text__value *value);
/* Sorts n items by their keys, stably. */
bool text__sort(struct text__run *run, struct text__value *items, struct text__value *keys,
                size_t n, bool reverse);

/* Strings (template_string.c). */
static inline const char *text__bytes(const struct text__string *s)
{
    return s->len ? s->buffer->data + s->first : "";
}

bool text__string_is(const struct text__string *s, const char *text);
int text__string_compare(const struct text__string *a, const struct text__string *b);
struct text__buffer *text__buffer_new(struct text__run *run);
bool text__put(struct text__run *run, struct text__buffer *buffer, const char *bytes, size_t len,
               bool untrusted);
/* Bytes [first, first + len) of the string. */
bool text__put_part(struct text__run *run, struct text__buffer *buffer,
                    const struct text__string *s, size_t first, size_t len);
static inline bool text__put_string(struct text__run *run, struct text__buffer *buffer,
                                    const struct text__string *s)
{
    return text__put_part(run, buffer, s, 0, s->len);
}
/* Whether the byte came from outside. */
bool text__untrusted_at(const struct text__string *s, size_t at);
/* All of the buffer as a string. */
struct text__string *text__whole(struct text__run *run, struct text__buffer *buffer);
/* Bytes that outlive the run, not copied. */
struct text__string *text__borrow(struct text__run *run, const char *bytes, size_t len,
                                  bool untrusted);
const struct text__string *text__part(struct text__run *run, const struct text__string *s,
                                      size_t first, size_t len);
const struct text__string *text__concat(struct text__run *run, const struct text__string *a,
                                        const struct text__string *b);
/* The string with & < > ' " written as HTML entities, unless it is markup already. */
const struct text__string *text__escape(struct text__run *run, const struct text__string *s);
/* First place of needle at or after `from` (or the last place before `from`, for _last), or
 * SIZE_MAX. Counts work. */
size_t text__find(struct text__run *run, const struct text__string *s, size_t from,
                  const struct text__string *needle);
size_t text__find_last(struct text__run *run, const struct text__string *s, size_t end,
                       const struct text__string *needle);
const struct text__string *text__replace(struct text__run *run, const struct text__string *s,
                                         const struct text__string *old,
                                         const struct text__string *with, int64_t count);
/* Bytes of whole characters that are at most so many. */
size_t text__cut(const struct text__string *s, size_t most);
/* Characters: how many, and the offset of number i (i at most their count). */
size_t text__n_chars(const struct text__string *s);
size_t text__char_offset(const struct text__string *s, size_t i);

/* Unicode (template_case.c). The text is valid UTF-8. */
uint32_t text__char(const char *bytes, size_t *at); /* moves *at behind it */
size_t text__char_write(uint32_t c, char out[4]);
bool text__is_space(uint32_t c);
bool text__is_printable(uint32_t c);
/* At most 3 characters. */
unsigned text__upper(uint32_t c, uint32_t out[3]);
unsigned text__lower(uint32_t c, uint32_t out[3]);

enum text__case { TEXT__CASE_UPPER, TEXT__CASE_LOWER, TEXT__CASE_CAPITAL, TEXT__CASE_TITLE };
const struct text__string *text__recase(struct text__run *run, const struct text__string *s,
                                        enum text__case to);
enum { TEXT__STRIP_LEFT = 1, TEXT__STRIP_RIGHT = 2, TEXT__STRIP_BOTH = 3 };
/* Without the characters of chars (NULL: white space) at its ends. */
const struct text__string *text__strip(struct text__run *run, const struct text__string *s,
                                       const struct text__string *chars, unsigned sides);

/* Writing values (template_print.c, template_json.c). */
#define TEXT__FLOAT_BYTES 32
/* As Python's repr(). */
void text__float_text(double real, char out[TEXT__FLOAT_BYTES]);
/* Python's str(); a string stays itself but is no markup any more. */
const struct text__string *text__str(struct text__run *run, const struct text__value *v);
/* The same without making a string. */
bool text__put_str(struct text__run *run, struct text__buffer *buffer, const struct text__value *v);

struct text__json_style {
    const struct text__string *item_separator, *key_separator; /* NULL: the usual */
    const struct text__string *indent;                         /* NULL: on one line */
    bool ensure_ascii, sort_keys;
};
bool text__put_json(struct text__run *run, struct text__buffer *buffer,
                    const struct text__json_style *style, const struct text__value *v);
/* Borrows the strings of json, which must outlive the run. Strings are untrusted, but for the names
 * of roles in messages. */
bool text__from_json(struct text__run *run, const json_t *json, bool untrusted,
                     struct text__value *out);
bool text__from_messages(struct text__run *run, const json_t *messages, struct text__value *out);
/* Parses JSON text. */
bool text__parse_json(struct text__run *run, const struct text__string *s, struct text__value *out);

/* Calls: what was written, and what it means for a callable with named parameters. */
struct text__named {
    const struct text__string *name;
    struct text__value value;
};

struct text__call {
    struct text__value *args;
    struct text__named *named;
    size_t n_args, n_named;
};

#define TEXT__MAX_PARAMS 5

struct text__bound {
    struct text__value v[TEXT__MAX_PARAMS]; /* ABSENT where not given */
    const struct text__call *call;
};

typedef bool text__fn(struct text__run *run, const struct text__value *self,
                      const struct text__bound *args, struct text__value *out);

/* A filter, test, method or function. */
struct text__callable {
    const char *name;
    text__fn *fn;
    unsigned required;                    /* parameters that must be given */
    bool variadic;                        /* takes the call as it is */
    const char *params[TEXT__MAX_PARAMS]; /* NULL behind the last */
};

bool text__invoke(struct text__run *run, const struct text__callable *callable,
                  const struct text__value *self, const struct text__call *call,
                  struct text__value *out);
const struct text__callable *text__callable_find(const struct text__callable *table, size_t n,
                                                 const struct text__string *name);
const struct text__callable *text__filter_find(const struct text__string *name);
/* Filters on sequences (template_sequence.c), looked up by the one above. */
const struct text__callable *text__sequence_filter_find(const struct text__string *name);
const struct text__callable *text__test_find(const struct text__string *name);
const struct text__callable *text__function_find(const struct text__string *name);
/* The method of an object, by name or by a METHOD value; NULL: there is none. */
bool text__method_find(const struct text__value *object, const struct text__string *name,
                       struct text__value *out);
const struct text__callable *text__method(const struct text__value *method,
                                          struct text__value *self);
/* An argument that must be a string or an integer; `of` is the callable's name. */
bool text__want_string(struct text__run *run, const struct text__value *v, const char *of,
                       const struct text__string **out);
bool text__want_int(struct text__run *run, const struct text__value *v, const char *of,
                    int64_t *out);

/* Attributes, indexes and slices (template_access.c), as Jinja's sandbox gives them. */
bool text__attribute(struct text__run *run, const struct text__value *object,
                     const struct text__string *name, struct text__value *out);
bool text__index(struct text__run *run, const struct text__value *object,
                 const struct text__value *key, struct text__value *out);
/* bounds: start, stop, step; NONE where left out. */
bool text__slice(struct text__run *run, const struct text__value *object,
                 const struct text__value bounds[3], struct text__value *out);
/* The attribute "a.b.c" or the index of an item, as filters take them. */
bool text__dotted(struct text__run *run, const struct text__value *object,
                  const struct text__value *path, struct text__value *out);

/* Evaluation. */
struct text__node;
bool text__arithmetic(struct text__run *run, unsigned op, const struct text__value *a,
                      const struct text__value *b, struct text__value *out);
bool text__negate(struct text__run *run, const struct text__value *v, struct text__value *out);
bool text__eval(struct text__run *run, struct text__scope *scope, const struct text__node *node,
                struct text__value *out);
bool text__apply_filters(struct text__run *run, struct text__scope *scope,
                         const struct text__node *filters, const struct text__value *text,
                         struct text__value *out);
bool text__compare(struct text__run *run, unsigned op, const struct text__value *a,
                   const struct text__value *b, bool *out);
bool text__call_macro(struct text__run *run, const struct text__macro *macro,
                      const struct text__call *call, struct text__value *out);
bool text__exec(struct text__run *run, struct text__scope *scope, const struct text__node *list);
bool text__scope_set(struct text__run *run, struct text__scope *scope, unsigned name,
                     const struct text__value *value);

#endif
