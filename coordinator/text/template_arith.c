/* SPDX-License-Identifier: Apache-2.0 */
/* Operators on values: as Python's, but integers end at 64 bits. */
#include <math.h>

#include "coordinator/text/template_tree.h"

static bool too_large(struct text__run *run)
{
    return text__fail(run, "an integer does not fit in 64 bits");
}

static bool add_strings(struct text__run *run, const struct text__string *a,
                        const struct text__string *b, struct text__value *out)
{
    if (a->markup || b->markup) {
        a = text__escape(run, a);
        b = text__escape(run, b);
    }
    const struct text__string *sum = a && b ? text__concat(run, a, b) : NULL;
    *out = text__string(sum);
    return sum != NULL;
}

static bool repeat_string(struct text__run *run, const struct text__string *s, int64_t times,
                          struct text__value *out)
{
    struct text__buffer *buffer = text__buffer_new(run);
    if (!buffer)
        return false;
    for (int64_t i = 0; i < times && s->len > 0; i++)
        if (!text__put_string(run, buffer, s))
            return false;
    struct text__string *all = text__whole(run, buffer);
    if (!all)
        return false;
    all->markup = s->markup;
    *out = text__string(all);
    return true;
}

static bool repeat_list(struct text__run *run, const struct text__list *from, int64_t times,
                        struct text__value *out)
{
    struct text__list *list = text__list_new(run, from->type, 0);
    for (int64_t i = 0; list && i < times && from->n > 0; i++)
        for (size_t k = 0; k < from->n; k++)
            if (!text__work(run, 1) || !text__list_push(run, list, &from->items[k]))
                return false;
    if (list)
        *out = text__list(list);
    return list != NULL;
}

/* The quotient towards minus infinity and the remainder with b's sign; b is not 0. */
static bool divide_ints(struct text__run *run, int64_t a, int64_t b, enum text__operator op,
                        struct text__value *out)
{
    /* The one quotient that does not fit; in C its remainder is undefined too. */
    if (a == INT64_MIN && b == -1 && op != TEXT__OP_MOD)
        return too_large(run);
    if (b == -1) {
        *out = text__int(op == TEXT__OP_MOD ? 0 : -a);
        return true;
    }
    int64_t rest = a % b, quotient = a / b;
    if (rest != 0 && (rest < 0) != (b < 0)) {
        quotient--;
        rest += b;
    }
    *out = text__int(op == TEXT__OP_MOD ? rest : quotient);
    return true;
}

static bool int_power(struct text__run *run, int64_t base, int64_t exponent,
                      struct text__value *out)
{
    int64_t power = 1;
    if (exponent < 0) {
        *out = text__real(pow((double)base, (double)exponent));
        return base != 0 || text__fail(run, "0 to a negative power");
    }
    /* Only these never leave 64 bits. */
    if (base == 0 || base == 1 || base == -1)
        exponent = exponent == 0 ? 0 : 2 - (exponent & 1);
    for (; exponent > 0; exponent--)
        if (__builtin_mul_overflow(power, base, &power))
            return too_large(run);
    *out = text__int(power);
    return true;
}

static bool int_arithmetic(struct text__run *run, enum text__operator op, int64_t a, int64_t b,
                           struct text__value *out)
{
    int64_t result = 0;
    bool overflow = false;
    switch (op) {
    case TEXT__OP_ADD:
        overflow = __builtin_add_overflow(a, b, &result);
        break;
    case TEXT__OP_SUB:
        overflow = __builtin_sub_overflow(a, b, &result);
        break;
    case TEXT__OP_MUL:
        overflow = __builtin_mul_overflow(a, b, &result);
        break;
    case TEXT__OP_POW:
        return int_power(run, a, b, out);
    default:
        return divide_ints(run, a, b, op, out);
    }
    *out = text__int(result);
    return !overflow || too_large(run);
}

static double real_modulo(double a, double b)
{
    double rest = fmod(a, b);
    return rest != 0 && (rest < 0) != (b < 0) ? rest + b : rest;
}

static double real_arithmetic(enum text__operator op, double a, double b)
{
    switch (op) {
    case TEXT__OP_ADD:
        return a + b;
    case TEXT__OP_SUB:
        return a - b;
    case TEXT__OP_MUL:
        return a * b;
    case TEXT__OP_DIV:
        return a / b;
    case TEXT__OP_FLOORDIV:
        return floor(a / b);
    case TEXT__OP_MOD:
        return real_modulo(a, b);
    default:
        return pow(a, b);
    }
}

static bool numbers(struct text__run *run, enum text__operator op, const struct text__value *a,
                    const struct text__value *b, struct text__value *out)
{
    int64_t x = 0, y = 0;
    bool ints = text__as_int(a, &x);
    ints = text__as_int(b, &y) && ints;
    double p = a->kind == TEXT__FLOAT ? a->real : (double)x;
    double q = b->kind == TEXT__FLOAT ? b->real : (double)y;
    if (q == 0 && (op == TEXT__OP_DIV || op == TEXT__OP_FLOORDIV || op == TEXT__OP_MOD))
        return text__fail(run, "division by zero");
    if (ints && op != TEXT__OP_DIV)
        return int_arithmetic(run, op, x, y, out);
    *out = text__real(real_arithmetic(op, p, q));
    return true;
}

static bool is_sequence(const struct text__value *v)
{
    return v->kind == TEXT__LIST && v->list->type <= TEXT__LIST_TUPLE;
}

static bool repeat(struct text__run *run, const struct text__value *v, int64_t times,
                   struct text__value *out)
{
    return v->kind == TEXT__STRING ? repeat_string(run, v->string, times, out)
                                   : repeat_list(run, v->list, times, out);
}

static bool concatenate(struct text__run *run, const struct text__value *a,
                        const struct text__value *b, struct text__value *out)
{
    const struct text__string *x = text__str(run, a), *y = text__str(run, b);
    *out = text__string(x && y ? text__concat(run, x, y) : NULL);
    return out->string != NULL;
}

static const char *operator_text(enum text__operator op)
{
    static const char *const texts[] = {"+", "-", "*", "/", "//", "%", "**"};
    return texts[op];
}

bool text__arithmetic(struct text__run *run, unsigned op, const struct text__value *a,
                      const struct text__value *b, struct text__value *out)
{
    int64_t times;
    if (op == TEXT__OP_CONCAT)
        return concatenate(run, a, b, out);
    if (a->kind == TEXT__UNDEFINED || b->kind == TEXT__UNDEFINED)
        return text__fail_undefined(run, a->kind == TEXT__UNDEFINED ? a : b);
    if (text__is_number(a) && text__is_number(b))
        return numbers(run, op, a, b, out);
    if (op == TEXT__OP_ADD && a->kind == TEXT__STRING && b->kind == TEXT__STRING)
        return add_strings(run, a->string, b->string, out);
    if (op == TEXT__OP_ADD && is_sequence(a) && is_sequence(b) && a->list->type == b->list->type) {
        struct text__list *sum = text__list_join(run, a->list, b->list);
        *out = text__list(sum);
        return sum != NULL;
    }
    if (op == TEXT__OP_MUL && (a->kind == TEXT__STRING || is_sequence(a)) &&
        text__as_int(b, &times))
        return repeat(run, a, times, out);
    if (op == TEXT__OP_MUL && (b->kind == TEXT__STRING || is_sequence(b)) &&
        text__as_int(a, &times))
        return repeat(run, b, times, out);
    return text__fail(run, "%s is not possible between '%s' and '%s'", operator_text(op),
                      text__type_name(a), text__type_name(b));
}

bool text__negate(struct text__run *run, const struct text__value *v, struct text__value *out)
{
    int64_t integer;
    if (v->kind == TEXT__UNDEFINED)
        return text__fail_undefined(run, v);
    if (!text__is_number(v))
        return text__fail(run, "- is not possible before '%s'", text__type_name(v));
    if (!text__as_int(v, &integer)) {
        *out = text__real(-v->real);
        return true;
    }
    if (integer == INT64_MIN)
        return too_large(run);
    *out = text__int(-integer);
    return true;
}

bool text__compare(struct text__run *run, unsigned op, const struct text__value *a,
                   const struct text__value *b, bool *out)
{
    bool done, negate = op == TEXT__OP_NE || op == TEXT__OP_NOT_IN;
    switch (op) {
    case TEXT__OP_EQ:
    case TEXT__OP_NE:
        done = text__equal(run, a, b, out);
        break;
    case TEXT__OP_IN:
    case TEXT__OP_NOT_IN:
        done = text__contains(run, b, a, out);
        break;
    default: {
        /* a > b is b < a; a <= b is a < b or a == b, so that a NaN is neither. */
        bool swap = op == TEXT__OP_GT || op == TEXT__OP_GE;
        done = text__less(run, swap ? b : a, swap ? a : b, out);
        if (done && !*out && (op == TEXT__OP_LE || op == TEXT__OP_GE))
            done = text__equal(run, a, b, out);
    }
    }
    if (done && negate)
        *out = !*out;
    return done;
}
