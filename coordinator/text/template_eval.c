/* SPDX-License-Identifier: Apache-2.0 */
/* Expressions. */
#include <string.h>

#include "coordinator/text/template_tree.h"

static bool lookup(struct text__run *run, const struct text__scope *scope,
                   const struct text__node *node, struct text__value *out)
{
    for (const struct text__scope *s = scope; s; s = s->parent) {
        if (!text__work(run, s->n / 16))
            return false;
        for (size_t i = 0; i < s->n; i++)
            if (s->variables[i].name == node->name) {
                *out = s->variables[i].value;
                return true;
            }
    }
    const struct text__callable *function = text__function_find(node->value.string);
    *out = function ? (struct text__value){.kind = TEXT__FUNCTION, .function = function}
                    : text__undefined(TEXT__ABSENT, node->value.string);
    return true;
}

static bool eval_list(struct text__run *run, struct text__scope *scope,
                      const struct text__node *node, struct text__value *out)
{
    struct text__list *list =
        text__list_new(run, node->kind == TEXT__NODE_LIST ? TEXT__LIST_LIST : TEXT__LIST_TUPLE, 0);
    for (const struct text__node *n = node->list; list && n; n = n->next) {
        struct text__value item;
        if (!text__eval(run, scope, n, &item) || !text__list_push(run, list, &item))
            return false;
    }
    *out = text__list(list);
    return list != NULL;
}

static bool eval_dict(struct text__run *run, struct text__scope *scope,
                      const struct text__node *node, struct text__value *out)
{
    struct text__dict *dict = text__dict_new(run, 0);
    for (const struct text__node *n = node->list; dict && n; n = n->next->next) {
        struct text__value key, value;
        if (!text__eval(run, scope, n, &key) || !text__eval(run, scope, n->next, &value) ||
            !text__dict_put(run, dict, &key, &value))
            return false;
    }
    *out = text__dict(dict);
    return dict != NULL;
}

static bool eval_slice(struct text__run *run, struct text__scope *scope,
                       const struct text__node *node, struct text__value *out)
{
    struct text__value object, bounds[3];
    if (!text__eval(run, scope, node->a, &object))
        return false;
    const struct text__node *n = node->list;
    for (int i = 0; i < 3; i++, n = n->next)
        if (!text__eval(run, scope, n, &bounds[i]))
            return false;
    return text__slice(run, &object, bounds, out);
}

/* The arguments of a call, filter or test. */
static bool eval_arguments(struct text__run *run, struct text__scope *scope,
                           const struct text__node *list, struct text__call *call)
{
    *call = (struct text__call){0};
    for (const struct text__node *n = list; n; n = n->next) {
        call->n_named += n->kind == TEXT__NODE_ARGUMENT;
        call->n_args += n->kind != TEXT__NODE_ARGUMENT;
    }
    if (!list)
        return true;
    call->args = text__take(run, call->n_args * sizeof *call->args);
    call->named = text__take(run, call->n_named * sizeof *call->named);
    if (!call->args || !call->named)
        return false;
    struct text__value *next = call->args;
    struct text__named *named = call->named;
    for (const struct text__node *n = list; n; n = n->next) {
        bool has_name = n->kind == TEXT__NODE_ARGUMENT;
        if (!text__eval(run, scope, has_name ? n->a : n, has_name ? &named->value : next))
            return false;
        if (has_name)
            (named++)->name = n->value.string;
        else
            next++;
    }
    return true;
}

static bool eval_call(struct text__run *run, struct text__scope *scope,
                      const struct text__node *node, struct text__value *out)
{
    struct text__value callee, self = {0};
    struct text__call call;
    if (!text__eval(run, scope, node->a, &callee) || !eval_arguments(run, scope, node->list, &call))
        return false;
    switch (callee.kind) {
    case TEXT__MACRO:
        return text__call_macro(run, callee.macro, &call, out);
    case TEXT__FUNCTION:
        return text__invoke(run, callee.function, &self, &call, out);
    case TEXT__METHOD: {
        const struct text__callable *method = text__method(&callee, &self);
        return text__invoke(run, method, &self, &call, out);
    }
    case TEXT__UNDEFINED:
        return text__fail_undefined(run, &callee);
    default:
        return text__fail(run, "'%s' object is not callable", text__type_name(&callee));
    }
}

/* What has no such name is an error only where it is reached. */
static bool eval_callable(struct text__run *run, struct text__scope *scope,
                          const struct text__node *node, const struct text__value *operand,
                          struct text__value *out)
{
    struct text__call call;
    const struct text__string *name = node->value.string;
    if (!node->callable)
        return text__fail(run, "there is no %s '%.*s'",
                          node->kind == TEXT__NODE_FILTER ? "filter" : "test",
                          (int)text__cut(name, 100), text__bytes(name));
    return eval_arguments(run, scope, node->list, &call) &&
           text__invoke(run, node->callable, operand, &call, out);
}

bool text__apply_filters(struct text__run *run, struct text__scope *scope,
                         const struct text__node *filters, const struct text__value *text,
                         struct text__value *out)
{
    struct text__value operand = *text;
    if (!text__enter(run))
        return false;
    bool done = !filters->a || text__apply_filters(run, scope, filters->a, text, &operand);
    done = done && eval_callable(run, scope, filters, &operand, out);
    text__leave(run);
    return done;
}

static bool eval_unary(struct text__run *run, const struct text__node *node,
                       const struct text__value *v, struct text__value *out)
{
    if (node->op == TEXT__OP_NOT) {
        *out = text__bool(!text__truth(v));
        return true;
    }
    struct text__value negative;
    if (!text__negate(run, v, &negative))
        return false;
    *out = negative;
    return node->op == TEXT__OP_SUB || text__negate(run, &negative, out);
}

static bool eval_comparison(struct text__run *run, struct text__scope *scope,
                            const struct text__node *node, struct text__value *out)
{
    struct text__value left, right;
    if (!text__eval(run, scope, node->a, &left))
        return false;
    bool holds = true;
    for (const struct text__node *n = node->list; n && holds; n = n->next) {
        if (!text__eval(run, scope, n->a, &right) ||
            !text__compare(run, n->op, &left, &right, &holds))
            return false;
        left = right;
    }
    *out = text__bool(holds);
    return true;
}

static bool eval_choice(struct text__run *run, struct text__scope *scope,
                        const struct text__node *node, struct text__value *out)
{
    struct text__value condition;
    if (!text__eval(run, scope, node->a, &condition))
        return false;
    const struct text__node *chosen = text__truth(&condition) ? node->b : node->c;
    if (chosen)
        return text__eval(run, scope, chosen, out);
    return text__undefined_because(
        run, "the inline if-expression evaluated to false and no else section was defined.", out);
}

/* Nodes that need their first operand and nothing of the scope but their second. */
static bool eval_operands(struct text__run *run, struct text__scope *scope,
                          const struct text__node *node, struct text__value *out)
{
    struct text__value a, b;
    if (!text__eval(run, scope, node->a, &a))
        return false;
    switch (node->kind) {
    case TEXT__NODE_AND:
    case TEXT__NODE_OR:
        *out = a;
        return text__truth(&a) == (node->kind == TEXT__NODE_OR) ||
               text__eval(run, scope, node->b, out);
    case TEXT__NODE_ATTRIBUTE:
        return text__attribute(run, &a, node->value.string, out);
    case TEXT__NODE_INDEX:
        return text__eval(run, scope, node->b, &b) && text__index(run, &a, &b, out);
    case TEXT__NODE_BINARY:
        return text__eval(run, scope, node->b, &b) && text__arithmetic(run, node->op, &a, &b, out);
    case TEXT__NODE_UNARY:
        return eval_unary(run, node, &a, out);
    default:
        return eval_callable(run, scope, node, &a, out);
    }
}

static bool eval_node(struct text__run *run, struct text__scope *scope,
                      const struct text__node *node, struct text__value *out)
{
    switch (node->kind) {
    case TEXT__NODE_CONST:
        *out = node->value;
        return true;
    case TEXT__NODE_NAME:
        return lookup(run, scope, node, out);
    case TEXT__NODE_LIST:
    case TEXT__NODE_TUPLE:
        return eval_list(run, scope, node, out);
    case TEXT__NODE_DICT:
        return eval_dict(run, scope, node, out);
    case TEXT__NODE_SLICE:
        return eval_slice(run, scope, node, out);
    case TEXT__NODE_CALL:
        return eval_call(run, scope, node, out);
    case TEXT__NODE_COMPARE:
        return eval_comparison(run, scope, node, out);
    case TEXT__NODE_CHOICE:
        return eval_choice(run, scope, node, out);
    default:
        return eval_operands(run, scope, node, out);
    }
}

bool text__eval(struct text__run *run, struct text__scope *scope, const struct text__node *node,
                struct text__value *out)
{
    if (!text__work(run, 1) || !text__enter(run))
        return false;
    bool done = eval_node(run, scope, node, out);
    text__leave(run);
    return done;
}
