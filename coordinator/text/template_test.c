/* SPDX-License-Identifier: Apache-2.0 */
/* Tests: what stands behind "is". */
#include "coordinator/text/template_tree.h"

#define TEST(name, condition)                                                                      \
    static bool test_##name(struct text__run *run, const struct text__value *v,                    \
                            const struct text__bound *args, struct text__value *out)               \
    {                                                                                              \
        (void)run;                                                                                 \
        (void)args;                                                                                \
        *out = text__bool(condition);                                                              \
        return true;                                                                               \
    }

TEST(defined, v->kind != TEXT__UNDEFINED)
TEST(undefined, v->kind == TEXT__UNDEFINED)
TEST(none, v->kind == TEXT__NONE)
TEST(boolean, v->kind == TEXT__BOOL)
TEST(true, v->kind == TEXT__BOOL && v->boolean)
TEST(false, v->kind == TEXT__BOOL && !v->boolean)
TEST(integer, v->kind == TEXT__INT)
TEST(float, v->kind == TEXT__FLOAT)
TEST(number, text__is_number(v))
TEST(string, v->kind == TEXT__STRING)
TEST(mapping, v->kind == TEXT__DICT)
/* An undefined value can be looped over, and has a length. */
TEST(iterable, v->kind == TEXT__UNDEFINED || v->kind == TEXT__STRING || v->kind == TEXT__LIST ||
                   v->kind == TEXT__DICT)
TEST(sequence, v->kind == TEXT__UNDEFINED || v->kind == TEXT__STRING || v->kind == TEXT__DICT ||
                   (v->kind == TEXT__LIST && v->list->type <= TEXT__LIST_RANGE))
TEST(callable, v->kind == TEXT__MACRO || v->kind == TEXT__FUNCTION || v->kind == TEXT__METHOD)

static bool compare(struct text__run *run, enum text__operator op, const struct text__value *v,
                    const struct text__bound *args, struct text__value *out)
{
    bool holds;
    if (!text__compare(run, op, v, &args->v[0], &holds))
        return false;
    *out = text__bool(holds);
    return true;
}

#define COMPARISON(name, op)                                                                       \
    static bool test_##name(struct text__run *run, const struct text__value *v,                    \
                            const struct text__bound *args, struct text__value *out)               \
    {                                                                                              \
        return compare(run, op, v, args, out);                                                     \
    }

COMPARISON(eq, TEXT__OP_EQ)
COMPARISON(ne, TEXT__OP_NE)
COMPARISON(lt, TEXT__OP_LT)
COMPARISON(le, TEXT__OP_LE)
COMPARISON(gt, TEXT__OP_GT)
COMPARISON(ge, TEXT__OP_GE)
COMPARISON(in, TEXT__OP_IN)

static bool remainder_is(struct text__run *run, const struct text__value *v, int64_t divisor,
                         int64_t rest, struct text__value *out)
{
    int64_t n;
    if (!text__want_int(run, v, "a test for divisibility", &n))
        return false;
    if (divisor == 0)
        return text__fail(run, "division by zero");
    *out = text__bool(divisor == -1 || (n % divisor != 0) == (rest != 0));
    return true;
}

static bool test_odd(struct text__run *run, const struct text__value *v,
                     const struct text__bound *args, struct text__value *out)
{
    (void)args;
    return remainder_is(run, v, 2, 1, out);
}

static bool test_even(struct text__run *run, const struct text__value *v,
                      const struct text__bound *args, struct text__value *out)
{
    (void)args;
    return remainder_is(run, v, 2, 0, out);
}

static bool test_divisibleby(struct text__run *run, const struct text__value *v,
                             const struct text__bound *args, struct text__value *out)
{
    int64_t divisor;
    return text__want_int(run, &args->v[0], "divisibleby", &divisor) &&
           remainder_is(run, v, divisor, 0, out);
}

const struct text__callable *text__test_find(const struct text__string *name)
{
    static const struct text__callable tests[] = {
        {"defined", test_defined, 0, false, {NULL}},
        {"undefined", test_undefined, 0, false, {NULL}},
        {"none", test_none, 0, false, {NULL}},
        {"boolean", test_boolean, 0, false, {NULL}},
        {"true", test_true, 0, false, {NULL}},
        {"false", test_false, 0, false, {NULL}},
        {"integer", test_integer, 0, false, {NULL}},
        {"float", test_float, 0, false, {NULL}},
        {"number", test_number, 0, false, {NULL}},
        {"string", test_string, 0, false, {NULL}},
        {"mapping", test_mapping, 0, false, {NULL}},
        {"iterable", test_iterable, 0, false, {NULL}},
        {"sequence", test_sequence, 0, false, {NULL}},
        {"callable", test_callable, 0, false, {NULL}},
        {"odd", test_odd, 0, false, {NULL}},
        {"even", test_even, 0, false, {NULL}},
        {"divisibleby", test_divisibleby, 1, false, {"num"}},
        {"eq", test_eq, 1, false, {"other"}},
        {"equalto", test_eq, 1, false, {"other"}},
        {"==", test_eq, 1, false, {"other"}},
        {"ne", test_ne, 1, false, {"other"}},
        {"!=", test_ne, 1, false, {"other"}},
        {"lt", test_lt, 1, false, {"other"}},
        {"lessthan", test_lt, 1, false, {"other"}},
        {"<", test_lt, 1, false, {"other"}},
        {"le", test_le, 1, false, {"other"}},
        {"<=", test_le, 1, false, {"other"}},
        {"gt", test_gt, 1, false, {"other"}},
        {"greaterthan", test_gt, 1, false, {"other"}},
        {">", test_gt, 1, false, {"other"}},
        {"ge", test_ge, 1, false, {"other"}},
        {">=", test_ge, 1, false, {"other"}},
        {"in", test_in, 1, false, {"seq"}},
    };
    return text__callable_find(tests, sizeof tests / sizeof *tests, name);
}
