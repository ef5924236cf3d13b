/* SPDX-License-Identifier: Apache-2.0 */
/* Statements. A for loop's body, a macro, a set block, a filter block and a generation block have
 * variables of their own; an if has not. */
#include <string.h>

#include "coordinator/text/template_tree.h"

static struct text__scope *scope_new(struct text__run *run, struct text__scope *parent)
{
    struct text__scope *scope = text__take(run, sizeof *scope);
    if (scope)
        scope->parent = parent;
    return scope;
}

bool text__scope_set(struct text__run *run, struct text__scope *scope, unsigned name,
                     const struct text__value *value)
{
    if (!text__work(run, 1 + scope->n / 16))
        return false;
    for (size_t i = 0; i < scope->n; i++)
        if (scope->variables[i].name == name) {
            scope->variables[i].value = *value;
            return true;
        }
    if (scope->n == scope->cap) {
        size_t cap = scope->cap ? 2 * scope->cap : 4;
        struct text__variable *variables = text__take(run, cap * sizeof *variables);
        if (!variables)
            return false;
        if (scope->n)
            memcpy(variables, scope->variables, scope->n * sizeof *variables);
        scope->variables = variables;
        scope->cap = cap;
    }
    scope->variables[scope->n++] = (struct text__variable){name, *value};
    return true;
}

/* Targets. */

static bool assign_attribute(struct text__run *run, struct text__scope *scope,
                             const struct text__node *target, const struct text__value *value)
{
    struct text__value object;
    if (!text__eval(run, scope, target->a, &object))
        return false;
    if (object.kind != TEXT__NAMESPACE)
        return text__fail(run, "cannot assign attribute on non-namespace object");
    return text__dict_put(run, object.dict, &target->value, value);
}

static bool assign(struct text__run *run, struct text__scope *scope,
                   const struct text__node *target, const struct text__value *value);

static bool assign_each(struct text__run *run, struct text__scope *scope,
                        const struct text__node *target, const struct text__value *value)
{
    struct text__value *items;
    size_t n, i = 0;
    if (value->kind == TEXT__UNDEFINED)
        return text__fail_undefined(run, value);
    if (!text__items(run, value, &items, &n))
        return false;
    const struct text__node *t = target->list;
    for (; t && i < n; t = t->next, i++)
        if (!assign(run, scope, t, &items[i]))
            return false;
    if (t || i < n)
        return text__fail(run, "%s values to unpack", t ? "not enough" : "too many");
    return true;
}

static bool assign(struct text__run *run, struct text__scope *scope,
                   const struct text__node *target, const struct text__value *value)
{
    switch (target->kind) {
    case TEXT__NODE_TUPLE:
        return assign_each(run, scope, target, value);
    case TEXT__NODE_ATTRIBUTE:
        return assign_attribute(run, scope, target, value);
    default:
        return text__scope_set(run, scope, target->name, value);
    }
}

/* Texts. */

/* What the statements write, as a string. */
static bool capture(struct text__run *run, struct text__scope *scope, const struct text__node *list,
                    struct text__value *out)
{
    struct text__buffer *outer = run->out;
    run->out = text__buffer_new(run);
    if (!run->out || !text__exec(run, scope, list))
        return false;
    *out = text__string(text__whole(run, run->out));
    run->out = outer;
    return out->string != NULL;
}

/* The text of a block that has variables of its own, through its filters. */
static bool capture_block(struct text__run *run, struct text__scope *scope,
                          const struct text__node *node, struct text__value *out)
{
    struct text__value text;
    struct text__scope *inner = scope_new(run, scope);
    if (!inner || !capture(run, inner, node->list, &text))
        return false;
    *out = text;
    return !node->b || text__apply_filters(run, inner, node->b, &text, out);
}

/* Macros. */

static bool check_arguments(struct text__run *run, const struct text__macro *macro,
                            const struct text__call *call)
{
    size_t n = 0;
    const struct text__string *of = macro->node->value.string, *name;
    for (const struct text__node *p = macro->node->otherwise; p; p = p->next)
        n++;
    if (call->n_args > n)
        return text__fail(run, "macro '%.*s' takes not more than %zu argument(s)",
                          (int)text__cut(of, 100), text__bytes(of), n);
    for (size_t i = 0; i < call->n_named; i++) {
        const struct text__node *p = macro->node->otherwise;
        name = call->named[i].name;
        for (size_t k = 0; p && text__string_compare(p->value.string, name) != 0; k++)
            p = p->next;
        if (!p)
            return text__fail(run, "macro '%.*s' takes no keyword argument '%.*s'",
                              (int)text__cut(of, 100), text__bytes(of), (int)text__cut(name, 100),
                              text__bytes(name));
    }
    return true;
}

/* The argument for parameter number i: given by place, by name, or else ABSENT. */
static struct text__value argument(const struct text__call *call, size_t i,
                                   const struct text__string *name)
{
    if (i < call->n_args)
        return call->args[i];
    for (size_t k = 0; k < call->n_named; k++)
        if (text__string_compare(call->named[k].name, name) == 0)
            return call->named[k].value;
    return (struct text__value){0};
}

static bool bind_parameters(struct text__run *run, struct text__scope *scope,
                            const struct text__macro *macro, const struct text__call *call)
{
    size_t i = 0;
    for (const struct text__node *p = macro->node->otherwise; p; p = p->next, i++) {
        struct text__value value = argument(call, i, p->value.string);
        if (value.kind == TEXT__ABSENT) {
            value = text__undefined(TEXT__ABSENT, p->value.string);
            if (p->a && !text__eval(run, scope, p->a, &value))
                return false;
        }
        if (!text__scope_set(run, scope, p->name, &value))
            return false;
    }
    return true;
}

bool text__call_macro(struct text__run *run, const struct text__macro *macro,
                      const struct text__call *call, struct text__value *out)
{
    if (run->calls == TEXT__MAX_CALLS)
        return text__fail_limit(run, "more than %d calls of macros inside each other",
                                TEXT__MAX_CALLS);
    struct text__scope *scope = scope_new(run, macro->scope);
    if (!scope || !check_arguments(run, macro, call) || !bind_parameters(run, scope, macro, call))
        return false;
    run->calls++;
    unsigned line = run->line;
    bool done = capture(run, scope, macro->node->list, out);
    run->calls--;
    if (done)
        run->line = line;
    return done;
}

static bool define_macro(struct text__run *run, struct text__scope *scope,
                         const struct text__node *node)
{
    struct text__macro *macro = text__take(run, sizeof *macro);
    if (!macro)
        return false;
    *macro = (struct text__macro){node, scope};
    for (struct text__scope *s = scope; s; s = s->parent)
        s->captured = true;
    struct text__value value = {.kind = TEXT__MACRO, .macro = macro};
    return text__scope_set(run, scope, node->name, &value);
}

/* Loops. */

/* The items for which a loop's condition holds. */
static bool filter_items(struct text__run *run, struct text__scope *scope,
                         const struct text__node *node, struct text__value **items, size_t *n)
{
    struct text__list *kept = text__list_new(run, TEXT__LIST_LIST, 0);
    struct text__scope *inner = scope_new(run, scope);
    if (!kept || !inner)
        return false;
    for (size_t i = 0; i < *n; i++) {
        struct text__value holds;
        if (!assign(run, inner, node->a, &(*items)[i]) ||
            !text__eval(run, inner, node->c, &holds) ||
            (text__truth(&holds) && !text__list_push(run, kept, &(*items)[i])))
            return false;
    }
    *items = kept->items;
    *n = kept->n;
    return true;
}

/* Runs the body for each item. The variables of one turn are gone in the next, unless a macro still
 * sees them. */
static bool run_loop(struct text__run *run, struct text__scope *outer,
                     const struct text__node *node, struct text__loop *loop)
{
    struct text__scope *scope = NULL;
    struct text__value value = {.kind = TEXT__LOOP, .loop = loop};
    for (; loop->i < loop->n; loop->i++) {
        if (!scope || scope->captured)
            scope = scope_new(run, outer);
        if (!scope)
            return false;
        scope->n = 0;
        if (!text__scope_set(run, scope, run->tmpl->loop_name, &value) ||
            !assign(run, scope, node->a, &loop->items[loop->i]) ||
            !text__exec(run, scope, node->list))
            return false;
        bool over = run->flow == TEXT__FLOW_BREAK;
        run->flow = TEXT__FLOW_ON;
        if (over)
            break;
    }
    return true;
}

static bool exec_for(struct text__run *run, struct text__scope *scope,
                     const struct text__node *node)
{
    struct text__value over, *items;
    size_t n;
    if (!text__eval(run, scope, node->b, &over) || !text__items(run, &over, &items, &n) ||
        (node->c && !filter_items(run, scope, node, &items, &n)))
        return false;
    if (n == 0) {
        struct text__scope *inner = node->otherwise ? scope_new(run, scope) : scope;
        return inner && text__exec(run, inner, node->otherwise);
    }
    struct text__loop *loop = text__take(run, sizeof *loop);
    if (!loop)
        return false;
    *loop = (struct text__loop){items, n, 0};
    return run_loop(run, scope, node, loop);
}

/* The chain of elifs is as long as the template likes. */
static bool exec_if(struct text__run *run, struct text__scope *scope, const struct text__node *node)
{
    for (;;) {
        struct text__value condition;
        if (!text__eval(run, scope, node->a, &condition))
            return false;
        if (text__truth(&condition))
            return text__exec(run, scope, node->list);
        const struct text__node *next = node->otherwise;
        if (!next || next->kind != TEXT__NODE_IF || next->next)
            return text__exec(run, scope, next);
        node = next;
        run->line = node->line;
    }
}

static bool exec_set(struct text__run *run, struct text__scope *scope,
                     const struct text__node *node)
{
    struct text__value value;
    return (node->kind == TEXT__NODE_SET ? text__eval(run, scope, node->b, &value)
                                         : capture_block(run, scope, node, &value)) &&
           assign(run, scope, node->a, &value);
}

static bool exec_text(struct text__run *run, struct text__scope *scope,
                      const struct text__node *node)
{
    struct text__value value = node->value;
    if (node->kind == TEXT__NODE_PRINT && !text__eval(run, scope, node->a, &value))
        return false;
    if ((node->kind == TEXT__NODE_FILTERED || node->kind == TEXT__NODE_SCOPE) &&
        !capture_block(run, scope, node, &value))
        return false;
    return text__put_str(run, run->out, &value);
}

static bool exec_node(struct text__run *run, struct text__scope *scope,
                      const struct text__node *node)
{
    switch (node->kind) {
    case TEXT__NODE_IF:
        return exec_if(run, scope, node);
    case TEXT__NODE_FOR:
        return exec_for(run, scope, node);
    case TEXT__NODE_SET:
    case TEXT__NODE_SET_BLOCK:
        return exec_set(run, scope, node);
    case TEXT__NODE_MACRO:
        return define_macro(run, scope, node);
    case TEXT__NODE_BREAK:
        run->flow = TEXT__FLOW_BREAK;
        return true;
    case TEXT__NODE_CONTINUE:
        run->flow = TEXT__FLOW_CONTINUE;
        return true;
    default:
        return exec_text(run, scope, node);
    }
}

bool text__exec(struct text__run *run, struct text__scope *scope, const struct text__node *list)
{
    if (!text__enter(run))
        return false;
    bool done = true;
    for (const struct text__node *n = list; n && done && run->flow == TEXT__FLOW_ON; n = n->next) {
        run->line = n->line;
        done = text__work(run, 1) && exec_node(run, scope, n);
    }
    text__leave(run);
    return done;
}
