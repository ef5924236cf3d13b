/* SPDX-License-Identifier: Apache-2.0 */
/* The template language: what each piece of it prints, where it fails and how, its limits, and
 * which bytes of the result are untrusted. Expected texts are those of Jinja2 in a sandbox. */
#include <CUnit/Basic.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "coordinator/text/template_value.h"

#define DAY 1768435200LL /* 2026-01-15 */

static const char variables[] =
    "{\"s\":\"Hello, W\\u00f6rld\",\"n\":5,\"f\":1.5,\"l\":[3,1,2],"
    "\"d\":{\"b\":1,\"a\":[1,\"x\"],\"C\":null},\"z\":null,\"t\":true,"
    "\"m\":[{\"role\":\"user\",\"n\":2},{\"role\":\"tool\",\"n\":1,\"x\":{\"y\":3}}],"
    "\"w\":\"  a b  c "
    "\",\"h\":\"<a>'&\\\"\",\"q\":\"it's\",\"fl\":[0.1,1e20,1e16,1e15,1e-5,0.0001,-0.0],"
    "\"it\":{\"items\":5},\"text\":\"l1\\nl2\\r\\n\\nl3\\n\"}";

static enum proto_status render_with(const char *source, const char *json,
                                     const struct text__limits *limits,
                                     struct text_rendered *rendered, struct proto_error *error)
{
    struct text_template *tmpl;
    json_t *values = json_loads(json, 0, NULL);
    CU_ASSERT_PTR_NOT_NULL_FATAL(values);
    *rendered = (struct text_rendered){0};
    enum proto_status status = text_template_create(&tmpl, source, strlen(source), error);
    if (status == PROTO_OK)
        status = text__render(tmpl, values, DAY, limits, rendered, error);
    text_template_destroy(tmpl);
    json_decref(values);
    return status;
}

static void check(const char *source, const char *expected)
{
    struct text_rendered rendered;
    struct proto_error error = {0};
    enum proto_status status =
        render_with(source, variables, &text__default_limits, &rendered, &error);
    bool equal = status == PROTO_OK && strcmp(rendered.text, expected) == 0;
    CU_ASSERT_TRUE(equal);
    if (!equal)
        fprintf(stderr, "%s\n  gave     %s\n  expected %s\n", source,
                status ? error.text : rendered.text, expected);
    text_rendered_finish(&rendered);
}

static void check_fails(const char *source, enum proto_status expected, const char *text)
{
    struct text_rendered rendered;
    struct proto_error error = {0};
    enum proto_status status =
        render_with(source, variables, &text__default_limits, &rendered, &error);
    bool right = status == expected && strcmp(error.text, text) == 0;
    CU_ASSERT_TRUE(right);
    if (!right)
        fprintf(stderr, "%s\n  gave     %d %s\n  expected %d %s\n", source, (int)status,
                status ? error.text : rendered.text, (int)expected, text);
    text_rendered_finish(&rendered);
}

static void test_values(void)
{
    check("{{ s }}|{{ n }}|{{ f }}|{{ l }}|{{ d }}|{{ z }}|{{ t }}|{{ nope }}",
          "Hello, Wörld|5|1.5|[3, 1, 2]|{'b': 1, 'a': [1, 'x'], 'C': None}|None|True|");
    check("{{ [q, h, '\\t\\x00é\\u200b', nope] }}",
          "[\"it's\", '<a>\\'&\"', '\\t\\x00é\\u200b', Undefined]");
    check("{{ fl }}", "[0.1, 1e+20, 1e+16, 1000000000000000.0, 1e-05, 0.0001, -0.0]");
    check("{{ 0.1 + 0.2 }} {{ 1e100 }} {{ 100.0 }}", "0.30000000000000004 1e+100 100.0");
    check("{{ () }}{{ (1,) }}{{ 1, 2 }}{{ {} }}{{ range(3) }}", "()(1,)(1, 2){}range(0, 3)");
    check("{{ d.items() }}{{ d.keys()|list }}", "dict_items([('b', 1), ('a', [1, 'x']), ('C', "
                                                "None)])['b', 'a', 'C']");
    check("{{ 'a' \"b\" }}{{ 'a\\'b\\x41\\u00e9\\101\\d' }}", "aba'bAéA\\d");
}

static void test_operators(void)
{
    check("{{ 1 + 2 * 3 - 4 // 3 % 2 }} {{ 7 // -2 }} {{ -7 % 3 }} {{ 7 % -3 }} {{ 4 / 2 }} "
          "{{ 2 ** 10 }} {{ 2 ** -1 }} {{ -1.5 % 1 }}",
          "6 -4 2 -2 2.0 1024 0.5 0.5");
    check("{{ 'a' ~ 1 ~ none ~ [1, 'b'] }} {{ 'ab' * 2 }} {{ [1] + [2] }} {{ true + 1 }}",
          "a1None[1, 'b'] abab [1, 2] 2");
    check("{{ 1 < 2 < 3 }}{{ 1 < 2 > 3 }}{{ 1 == 1.0 }}{{ [1] == [1.0] }}{{ (1,) == [1] }}",
          "TrueFalseTrueTrueFalse");
    check("{{ 'a' in 'abc' }}{{ 1 in l }}{{ 'b' in d }}{{ 9 not in l }}{{ not 1 in l }}",
          "TrueTrueTrueTrueFalse");
    check("{{ 1 and 0 }}{{ 0 or 'x' }}{{ none or 'd' }}{{ 'a' if t }}{{ 'a' if z }}"
          "{{ 'a' if z else 'b' if z else 'c' }}",
          "0xdac");
    check("{{ -n|string }}{{ 'a' ~ 'b' + 'c' }}{{ 'x' + 1 ~ 1 }}", "-5abcx11");
}

static void test_slices(void)
{
    check("{{ s[0] }}{{ s[-1] }}{{ s[1:3] }}{{ s[::-1] }}{{ s[:-2] }}{{ s[8:] }}{{ s[5:1:-2] }}",
          "HdeldlröW ,olleHHello, Wörörld,l");
    check("{{ l[1:] }}{{ l[::-1] }}{{ l[-2:] }}{{ l[5:] }}{{ (1,2,3)[1:] }}{{ l[-9:9] }}",
          "[1, 2][2, 1, 3][1, 2][](2, 3)[3, 1, 2]");
    check("{{ l[9] }}|{{ d['no'] }}|{{ z.x }}|{{ n.x }}|{{ m.0.role }}|{{ m[-1]['x'].y }}",
          "||||user|3");
    check("{{ it['items'] }}{{ d['items'] is callable }}{{ it.items is callable }}", "5TrueTrue");
    check("{{ d.get('b') }}{{ d.get('no') }}{{ d.get('no', 'z') }}{{ l.append is defined }}",
          "1NonezFalse");
}

static void test_strings(void)
{
    check("{{ w.split() }}{{ w.split(None, 1) }}{{ w.split(' ', 2) }}{{ 'a,b,c'.rsplit(',', 1) }}",
          "['a', 'b', 'c']['a', 'b  c ']['', '', 'a b  c ']['a,b', 'c']");
    check("[{{ w.strip() }}][{{ w.lstrip() }}][{{ w.rstrip() }}][{{ 'xxaxx'.strip('x') }}]",
          "[a b  c][a b  c ][  a b  c][a]");
    check("{{ 'abc'.startswith('a') }}{{ 'abc'.startswith(('x', 'a')) }}{{ 'abc'.endswith('b') }}",
          "TrueTrueFalse");
    check("{{ '{}-{}'.format(1, 'x') }}{{ '{1}{0}'.format('a', 'b') }}{{ '{k}{{}}'.format(k=z) }}"
          "{{ '{{{}}}'.format(1) }}",
          "1-xbaNone{}{1}");
    check("{{ 'aXbX'.replace('X', '-', 1) }}{{ 'ab'.replace('', '-') }}{{ 5|replace(5, 'y') }}",
          "a-bX-a-b-y");
    check("{{ s.upper() }}{{ 'ÀĀß'|lower }}{{ 'ß'|upper }}{{ 'hELLO wORLD-foo'|title }}"
          "{{ 'aBC'|capitalize }}",
          "HELLO, WÖRLDàāßSSHello World-FooAbc");
    check("{{ 'éab'.find('a') }}{{ 'abab'.count('ab') }}{{ ','.join(['a', 'b']) }}", "12a,b");
    check("{{ text|indent(2, true) }}|{{ text.splitlines() }}",
          "  l1\n  l2\n\n  l3\n|['l1', 'l2', '', 'l3']");
    check("{{ h|safe }}{{ h|safe + h }}{{ h|safe ~ h }}{{ (h|safe)[0:2] + '<' }}",
          "<a>'&\"<a>'&\"&lt;a&gt;&#39;&amp;&#34;<a>'&\"<a>'&\"<a&lt;");
}

static void test_filters(void)
{
    check("{{ m|selectattr('role', 'equalto', 'user')|list }}{{ m|selectattr('x')|list|length }}"
          "{{ m|rejectattr('x', 'defined')|map(attribute='n')|list }}{{ [1, 0]|select|list }}",
          "[{'role': 'user', 'n': 2}]1[2][1]");
    check("{{ [1, 2, 3]|reject('equalto', 2)|list }}{{ m|map(attribute='x', default='D')|list }}"
          "{{ ['a']|map('upper')|list }}{{ none|selectattr('x')|list }}",
          "[1, 3]['D', {'y': 3}]['A'][]");
    check("{% set g = m|map(attribute='n') %}{{ g|first }}{{ g|list }}{{ g|list }}", "2[1][]");
    check(
        "{{ l|sort }}{{ ['b', 'A', 'a']|sort }}{{ m|sort(attribute='n')|map(attribute='n')|list }}"
        "{{ l|sort(reverse=true) }}{{ l|min }}{{ l|max }}",
        "[1, 2, 3]['A', 'a', 'b'][1, 2][3, 2, 1]13");
    check("{{ ['a', 'A', 'b', 1, 1.0]|unique|list }}{{ l|first }}{{ l|last }}{{ 'abc'|reverse }}",
          "['a', 'b', 1]32cba");
    check("{{ l|join(', ') }}{{ m|join(',', attribute='role') }}{{ nope|join }}",
          "3, 1, 2user,tool");
    check("{% for k, v in d|dictsort %}{{ k }}{% endfor %}{% for k, v in d|items %}{{ k }}"
          "{% endfor %}",
          "abCbaC");
    check("{{ nope|default('x') }}{{ ''|default('x') }}{{ ''|default('y', true) }}{{ z|d('w') }}",
          "xyNone");
    check(
        "{{ '12'|int }}{{ '12.7'|int }}{{ 'x'|int(7) }}{{ -3.9|int }}{{ z|int }}{{ '1.5'|float }}",
        "12127-301.5");
    check("{{ s|length }}{{ d|length }}{{ nope|length }}{{ 5|trim }}{{ nope|upper }}", "12305");
}

static void test_json(void)
{
    check("{{ d|tojson }}{{ [1.0, true, 'é\"\\n']|tojson }}{{ 'é😀'|tojson(ensure_ascii=true) }}",
          "{\"b\": 1, \"a\": [1, \"x\"], \"C\": null}[1.0, true, \"é\\\"\\n\"]"
          "\"\\u00e9\\ud83d\\ude00\"");
    check("{{ d|tojson(indent=2) }}", "{\n  \"b\": 1,\n  \"a\": [\n    1,\n    \"x\"\n  ],\n  "
                                      "\"C\": null\n}");
    check("{{ d|tojson(separators=(',', ':'), sort_keys=true) }}",
          "{\"C\":null,\"a\":[1,\"x\"],\"b\":1}");
    check("{{ {1: 2, none: 3}|tojson }}{{ []|tojson(indent=2) }}", "{\"1\": 2, \"null\": 3}[]");
    check("{{ '{\"b\": [1, \"x\"], \"a\": 1.5}'|from_json }}", "{'b': [1, 'x'], 'a': 1.5}");
    check("{% set x = '[1]'|from_json %}{{ x + ['{\"k\": 1}'|from_json] }}", "[1, {'k': 1}]");
}

static void test_tests(void)
{
    check("{{ nope is defined }}{{ nope is none }}{{ nope is iterable }}{{ nope is mapping }}",
          "FalseFalseTrueFalse");
    check("{{ s is iterable }}{{ s is sequence }}{{ d is sequence }}{{ n is iterable }}"
          "{{ (m|map('length')) is sequence }}{{ l is string }}",
          "TrueTrueTrueFalseFalseFalse");
    check(
        "{{ t is number }}{{ n is integer }}{{ t is integer }}{{ f is float }}{{ z is not none }}",
        "TrueTrueFalseTrueFalse");
    check("{{ t is true }}{{ 0 is false }}{{ n is odd }}{{ n is divisibleby 5 }}{{ n is in [5] }}",
          "TrueFalseTrueTrueTrue");
}

static void test_statements(void)
{
    check("{% if z %}a{% elif n %}b{% else %}c{% endif %}{% if z %}a{% else %}c{% endif %}", "bc");
    check("{% for i in range(9) if i % 2 %}{{ i }}{{ loop.index }}{{ loop.first }}{{ loop.last }}"
          "{% if i == 3 %}{% continue %}{% endif %}{% if i == 5 %}{% break %}{% endif %},{% endfor "
          "%}",
          "11TrueFalse,32FalseFalse53FalseFalse");
    check("{% for i in [] %}x{% else %}none{% endfor %}{% for a, b in [(1, 2)] %}{{ a }}{{ b }}"
          "{% endfor %}",
          "none12");
    check("{% for i in [1, 2] %}{{ loop.previtem }}{{ loop.nextitem }}{{ loop.length }}"
          "{{ loop.revindex }};{% endfor %}",
          "222;121;");
    check("{% set x = 1 %}{% for i in l %}{% set x = x + i %}{{ x }}{% endfor %}{{ x }}", "4231");
    check("{% set ns = namespace(a=1) %}{% for i in l %}{% set ns.a = ns.a + i %}{% endfor %}"
          "{{ ns.a }}{{ ns.b is defined }}",
          "7False");
    check("{% set a, b = 1, 2 %}{{ b }}{% set c | upper | trim %} x{{ a }} {% endset %}[{{ c }}]",
          "2[X1]");
    check("{% filter upper %}a{% set i = 1 %}{% endfilter %}{% generation %}g{% set j = 1 %}"
          "{% endgeneration %}{{ i }}{{ j }}",
          "Ag");
    check("{{ strftime_now('%Y-%m-%d|%d %b %Y|%B %d, %Y') }}",
          "2026-01-15|15 Jan 2026|January 15, 2026");
}

static void test_macros(void)
{
    check("{% macro a(x, y=2, z=x) %}[{{ x }}{{ y }}{{ z }}]{% endmacro %}{{ a(1) }}{{ a(1, 3) }}"
          "{{ a(y=1, x=0) }}{{ a() }}",
          "[121][131][010][2]");
    check("{% macro f(n) %}{{ n }}{% if n > 0 %}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(5) }}",
          "543210");
    check("{% macro g() %}{{ later }}{% endmacro %}{% set later = 3 %}{{ g() }}", "3");
    check("{% set ns = namespace(k=none) %}{% for i in l %}{% macro h() %}{{ i }}{% endmacro %}"
          "{% if loop.first %}{% set ns.k = h %}{% endif %}{% endfor %}{{ ns.k() }}",
          "3");
    check("{% macro g(x) %}{% set y = x ~ '!' %}{{ y }}{% endmacro %}{{ g('a') + g('b') }}{{ y }}",
          "a!b!");
}

static void test_white_space(void)
{
    check("  {% if t %}\n x\n  {%- endif %}   \n y {#- c -#}  z\n  {# d #}\n{{- ' a' -}}   b\n",
          " x   \n yz\n ab");
    check("a\n  {%+ if t %}b{% endif +%}\nc\n\n", "a\n  b\nc\n");
    check("{% if t %}\r\na\r\n{% endif %}\rb", "a\nb");
    check("  {{ n }}\n  {{ n }}\n", "  5\n  5");
    check("{{ {'a': {'b': 1}}['a']['b'] }}{{ '}}' }}{# {{ #}", "1}}");
}

/* A string or list that grows in place must not change those that were made of it before. */
static void test_growing(void)
{
    check("{% set q = namespace(s='', l=[]) %}{% for i in range(9) %}{% if i == 4 %}"
          "{% set q.t = q.s %}{% set q.k = q.l %}{% endif %}{% set q.s = q.s ~ i %}"
          "{% set q.l = q.l + [i] %}{% endfor %}{{ q.t ~ 'x' }} {{ q.t }} {{ q.s }} "
          "{{ q.s + q.s[7:] }} {{ q.k + ['x'] }} {{ q.k }} {{ q.l }}",
          "0123x 0123 012345678 01234567878 [0, 1, 2, 3, 'x'] [0, 1, 2, 3] "
          "[0, 1, 2, 3, 4, 5, 6, 7, 8]");
}

static void test_failures(void)
{
    check_fails("{{ raise_exception('Only <é> roles') }}", PROTO_INVALID, "Only <é> roles");
    check_fails("{{ raise_exception(['a']) }}", PROTO_INVALID, "['a']");
    check_fails("{{ {}['a\\nb'].x }}", PROTO_INVALID,
                "template line 1: 'dict object' has no attribute 'a b'");
    check_fails("a\n{{ nope.x }}", PROTO_INVALID, "template line 2: 'nope' is undefined");
    check_fails("{{ d.no.x }}", PROTO_INVALID,
                "template line 1: 'dict object' has no attribute 'no'");
    check_fails("{{ l.append(1) }}", PROTO_INVALID,
                "template line 1: access to attribute 'append' of 'list' object is unsafe.");
    check_fails("{{ 'a' + 1 }}", PROTO_INVALID,
                "template line 1: + is not possible between 'str' and 'int'");
    check_fails("{% for i in z %}{% endfor %}", PROTO_INVALID,
                "template line 1: 'NoneType' object is not iterable");
    check_fails("{{ (m|map('length'))|tojson }}", PROTO_INVALID,
                "template line 1: tojson: a value of type 'generator' is no JSON");
    check_fails("{{ 1 // 0 }}", PROTO_INVALID, "template line 1: division by zero");
    check_fails("{{ 9223372036854775807 + n }}", PROTO_INVALID,
                "template line 1: an integer does not fit in 64 bits");
    check_fails("{{ 5|nope }}", PROTO_INVALID, "template line 1: there is no filter 'nope'");
    check_fails("{% macro a() %}{% endmacro %}{{ a(1) }}", PROTO_INVALID,
                "template line 1: macro 'a' takes not more than 0 argument(s)");
    check("{% if z %}{{ 5|nope }}{% endif %}ok", "ok");
}

static void test_malformed(void)
{
    check_fails("a\n{{ 1 + }}", PROTO_FORMAT,
                "template line 2: expected an expression, found \"}}\"");
    check_fails("{% if t %}", PROTO_FORMAT,
                "template line 1: the template ends where \"{% endif %}\" is missing");
    check_fails("{{ 'abc }}", PROTO_FORMAT,
                "template line 1: the string that begins here has no end");
    check_fails("{# abc", PROTO_FORMAT,
                "template line 1: the comment that begins here has no end: \"#}\" is missing");
    check_fails("{{ (1 }}", PROTO_FORMAT,
                "template line 1: a bracket is closed that was not opened");
    check_fails("{% break %}", PROTO_FORMAT, "template line 1: break outside of a loop");
    check_fails("{{ '\\u12' }}", PROTO_FORMAT,
                "template line 1: a malformed escape \\u in a string");
    check_fails("\xff", PROTO_FORMAT, "the template is not UTF-8");
    check_fails("{% set 5 = 3 %}", PROTO_FORMAT,
                "template line 1: expected a variable's name, found \"5\"");
}

/* An error's text that is too long is cut between characters. */
static void test_long_failure(void)
{
    struct text_rendered rendered;
    struct proto_error error = {0};
    CU_ASSERT_EQUAL(render_with("{{ raise_exception('é' * 900) }}", "{}", &text__default_limits,
                                &rendered, &error),
                    PROTO_INVALID);
    CU_ASSERT_EQUAL(strlen(error.text), (PROTO_ERROR_TEXT_BYTES - 1) / 2 * 2);
}

static void check_limit(const char *source, const struct text__limits *limits, const char *text)
{
    struct text_rendered rendered;
    struct proto_error error = {0};
    CU_ASSERT_EQUAL(render_with(source, variables, limits, &rendered, &error), PROTO_LIMIT);
    CU_ASSERT_PTR_NULL(rendered.text);
    CU_ASSERT_PTR_NULL(strchr(error.text, '\n'));
    CU_ASSERT_PTR_NOT_NULL(strstr(error.text, text));
    if (!strstr(error.text, text))
        fprintf(stderr, "%s\n  gave %s\n", source, error.text);
    text_rendered_finish(&rendered);
}

static void test_limits(void)
{
    const struct text__limits small = {
        .steps = 100000, .memory_bytes = (size_t)1 << 20, .text_bytes = (size_t)64 << 10};
    const struct text__limits *usual = &text__default_limits;
    check_limit("{% for a in range(1000) %}{% for b in range(1000) %}{% endfor %}{% endfor %}",
                &small, "more than 100000 steps");
    check_limit("{% set x = 'a' * 60000 %}{% for i in range(900) %}{{ (x|length) }}{% endfor %}",
                &small, "more than 100000 steps");
    check_limit("{% set q = namespace(s='ab') %}{% for i in range(99) %}{% set q.s = q.s + q.s %}"
                "{% endfor %}",
                &small, "a text longer than 65536 bytes");
    check_limit("{{ range(9000)|list * 9 }}", &small, "more than 1048576 bytes of values");
    check_limit("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", usual,
                "more than 100 calls of macros");
    check_limit("{% set q = namespace(l=[]) %}{% for i in range(9999) %}{% set q.l = [q.l] %}"
                "{% endfor %}{{ q.l }}",
                usual, "nested too deeply");
    check_limit("{{ range(100001) }}", usual, "a range of more than 100000");
    check_limit("{{ range(-9223372036854775807, 9223372036854775807) }}", usual, "a range of more");
}

/* Short templates that ask for a lot: each ends at one of the usual limits. */
static void test_greed(void)
{
    static const char *const sources[] = {
        "{{ 'x' * 1000000000000 }}",
        "{{ [1] * 1000000000000 }}",
        "{{ ('a' * 9999999)|replace('a', 'b' * 9999) }}",
        "{{ ('a' * 9999999)|replace('', 'b' * 9999) }}",
        "{{ (['a' * 999] * 99999)|join('b' * 99999) }}",
        "{{ ('b' * 999999).join(['a'] * 99999) }}",
        "{{ ('{0}' * 999999).format('x' * 99999) }}",
        "{{ 'a\nb'|indent(1000000000000) }}",
        "{{ ('a\n' * 999999)|indent('x' * 99999) }}",
        "{{ [[1]]|tojson(indent=1000000000000) }}",
        "{{ ([1] * 99999)|tojson(separators=('x' * 999999, ':')) }}",
        "{{ (['a' * 500000] * 99999)|sort|length }}",
        "{{ (['a' * 500000] * 99999)|unique|list|length }}",
        "{% set s = 'a ' * 5000000 %}{% for i in range(99999) %}{% set x = s.split() %}{% endfor "
        "%}",
        "{% for i in range(99999) %}{% set x = range(99999)|select('odd')|list %}{% endfor %}",
        "{% for i in range(99999) %}{% set x %}{% for j in range(99999) %}y{% endfor %}{% endset %}"
        "{% endfor %}",
        "{% macro f(n) %}{% if n > 0 %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}"
        "{{ f(90) }}",
        "{% macro f(g) %}{{ g(f) }}{% endmacro %}{% macro g(f) %}{{ f(g) }}{% endmacro %}"
        "{{ f(g) }}",
        "{% set q = namespace() %}{% set q.a = q %}{{ q }}",
    };
    for (size_t i = 0; i < sizeof sources / sizeof *sources; i++)
        check_limit(sources[i], &text__default_limits, "");
}

/* Values that hold another twice are small, but long to go through. */
static void test_sharing(void)
{
    static const char *const uses[] = {"q.l == q.m", "q.l < q.m",         "q.l in [q.m]",
                                       "{q.l: 1}",   "q.l|string|length", "q.l|tojson|length"};
    for (size_t i = 0; i < sizeof uses / sizeof *uses; i++) {
        char source[300];
        snprintf(source, sizeof source,
                 "{%% set q = namespace(l=(), m=()) %%}{%% for i in range(90) %%}"
                 "{%% set q.l = (q.l, q.l) %%}{%% set q.m = (q.m, q.m) %%}{%% endfor %%}{{ %s }}",
                 uses[i]);
        check_limit(source, &text__default_limits, "");
    }
}

static void test_nesting(void)
{
    char source[9000];
    size_t n = 0;
    n += (size_t)sprintf(source, "{{ ");
    for (int i = 0; i < 150; i++)
        source[n++] = '(';
    strcpy(source + n, "1");
    check_limit(source, &text__default_limits, "more than 100 brackets");
    n = (size_t)sprintf(source, "{{ ");
    for (int i = 0; i < 300; i++)
        source[n++] = '-';
    strcpy(source + n, "1 }}");
    check_limit(source, &text__default_limits, "nested too deeply");
    n = (size_t)sprintf(source, "{{ 1");
    for (int i = 0; i < 4000; i++)
        n += (size_t)sprintf(source + n, "+1");
    strcpy(source + n, " }}");
    check_limit(source, &text__default_limits, "nested too deeply");
    n = 0;
    for (int i = 0; i < 300; i++)
        n += (size_t)sprintf(source + n, "{%% if 1 %%}");
    check_limit(source, &text__default_limits, "nested too deeply");
}

/* Untrusted bytes are shown in brackets. */
static void check_untrusted(const char *source, const char *json, const char *expected)
{
    struct text_rendered r;
    struct proto_error error = {0};
    char shown[1000];
    size_t n = 0, at = 0;
    CU_ASSERT_EQUAL_FATAL(render_with(source, json, &text__default_limits, &r, &error), PROTO_OK);
    for (size_t i = 0; i < r.n_untrusted; i++) {
        n += (size_t)sprintf(shown + n, "%.*s[%.*s]", (int)(r.untrusted[i].first - at), r.text + at,
                             (int)(r.untrusted[i].end - r.untrusted[i].first),
                             r.text + r.untrusted[i].first);
        at = r.untrusted[i].end;
    }
    sprintf(shown + n, "%s", r.text + at);
    CU_ASSERT_STRING_EQUAL(shown, expected);
    if (strcmp(shown, expected) != 0)
        fprintf(stderr, "%s\n  gave     %s\n  expected %s\n", source, shown, expected);
    text_rendered_finish(&r);
}

static void test_untrusted(void)
{
    static const char json[] =
        "{\"bos_token\":\"<s>\",\"eos_token\":\"</s>\",\"x\":\" a<s>b \",\"tools\":[{\"k\":1}],"
        "\"messages\":[{\"role\":\"user\",\"content\":\"hi\"},{\"role\":\"<s>\",\"content\":2}]}";
    check_untrusted("{{ bos_token }}u:{{ x }}{{ eos_token }}", json, "<s>u:[ a<s>b ]</s>");
    check_untrusted("{{ 'u' ~ x|trim + 'v' }}", json, "u[a<s>b]v");
    check_untrusted("{{ x.replace('b', 'cc')|upper }}", json, "[ A<S>]CC[ ]");
    check_untrusted("{{ x.split('<')[1] }}{{ x[::-1] }}{{ x[1] }}", json, "[s>b  b>s<a a]");
    check_untrusted("{% set y %}1{{ x }}2{% endset %}{{ y[4:] }}{{ y|length }}", json, "[s>b ]29");
    check_untrusted("{% macro f(a) %}<{{ a }}>{% endmacro %}{{ f(x)|trim }}", json, "<[ a<s>b ]>");
    check_untrusted("{{ '{}|{}'.format(x, 1) }}{{ [x, 1]|join(',') }}", json,
                    "[ a<s>b ]|1[ a<s>b ],1");
    check_untrusted("{{ {'t': x}|tojson }}{{ [x] }}", json, "{\"t\": [\" a<s>b \"]}['[ a<s>b ]']");
    check_untrusted("{{ tools|tojson }}{% for k in tools[0] %}{{ k }}{% endfor %}", json,
                    "[{[\"k\"]: 1}][k]");
    check_untrusted("{{ ('{\"a\": \"' ~ x ~ '\"}')|from_json }}", json, "{'[a]': '[ a<s>b ]'}");
    check_untrusted("{% for m in messages %}{{ m.role }}{{ m.content }}{% endfor %}", json,
                    "user[hi<s>]2");
    check_untrusted("{{ x|safe + '<' }}", json, "[ a<s>b ]&lt;");
}

int main(void)
{
    CU_initialize_registry();
    CU_pSuite suite = CU_add_suite("template", NULL, NULL);
    CU_add_test(suite, "values", test_values);
    CU_add_test(suite, "operators", test_operators);
    CU_add_test(suite, "slices", test_slices);
    CU_add_test(suite, "strings", test_strings);
    CU_add_test(suite, "filters", test_filters);
    CU_add_test(suite, "json", test_json);
    CU_add_test(suite, "tests", test_tests);
    CU_add_test(suite, "statements", test_statements);
    CU_add_test(suite, "macros", test_macros);
    CU_add_test(suite, "white space", test_white_space);
    CU_add_test(suite, "growing", test_growing);
    CU_add_test(suite, "failures", test_failures);
    CU_add_test(suite, "long failure", test_long_failure);
    CU_add_test(suite, "malformed", test_malformed);
    CU_add_test(suite, "limits", test_limits);
    CU_add_test(suite, "greed", test_greed);
    CU_add_test(suite, "sharing", test_sharing);
    CU_add_test(suite, "nesting", test_nesting);
    CU_add_test(suite, "untrusted", test_untrusted);
    CU_basic_set_mode(CU_BRM_NORMAL);
    CU_basic_run_tests();
    unsigned failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    return failures ? EXIT_FAILURE : EXIT_SUCCESS;
}
