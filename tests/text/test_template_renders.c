/* SPDX-License-Identifier: Apache-2.0 */
/* Real chat templates: every render of the shared folder, to the byte. Skipped without it. */
#include <CUnit/Basic.h>
#include <dirent.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "coordinator/text/template.h"

#define DAY 1768435200LL /* 2026-01-15, the day of the reference */

static char folder[512];

static char *read_file(const char *path, size_t *len)
{
    FILE *file = fopen(path, "rb");
    if (!file)
        return NULL;
    char *text = malloc(1 << 20);
    *len = text ? fread(text, 1, 1 << 20, file) : 0;
    fclose(file);
    return text;
}

/* raise_exception's text is the error; the words of other errors are our own. */
static bool is_expected_error(const char *text, const char *expected)
{
    bool raised = !strchr(expected, '\'') && !strstr(expected, "TypeError");
    return !raised || strcmp(text, expected) == 0;
}

static void check_case(const struct text_template *tmpl, const char *name, const json_t *item)
{
    struct text_rendered r;
    struct proto_error error = {0};
    const json_t *expected = json_object_get(item, "expected");
    const char *failure = json_string_value(json_object_get(item, "error"));
    enum proto_status status = text_template_render(tmpl, item, DAY, &r, &error);
    bool right;
    if (failure)
        right = status == PROTO_INVALID && is_expected_error(error.text, failure);
    else
        right = status == PROTO_OK && r.len == json_string_length(expected) &&
                memcmp(r.text, json_string_value(expected), r.len) == 0;
    CU_ASSERT_TRUE(right);
    if (!right)
        fprintf(stderr, "%s %s: %s\n", name, json_string_value(json_object_get(item, "label")),
                status ? error.text : "the text differs");
    text_rendered_finish(&r);
}

static void check_template(const char *name)
{
    char path[1024];
    size_t len = 0;
    struct text_template *tmpl;
    struct proto_error error = {0};
    int stem = (int)(strlen(name) - strlen(".jinja"));
    snprintf(path, sizeof path, "%s/%s", folder, name);
    char *source = read_file(path, &len);
    CU_ASSERT_PTR_NOT_NULL_FATAL(source);
    snprintf(path, sizeof path, "%s/%.*s.json", folder, stem, name);
    json_t *cases = json_load_file(path, JSON_ALLOW_NUL, NULL);
    CU_ASSERT_FATAL(json_array_size(cases) > 0);
    CU_ASSERT_EQUAL(text_template_create(&tmpl, source, len, &error), PROTO_OK);
    if (!tmpl)
        fprintf(stderr, "%s: %s\n", name, error.text);
    for (size_t i = 0; tmpl && i < json_array_size(cases); i++)
        check_case(tmpl, name, json_array_get(cases, i));
    text_template_destroy(tmpl);
    json_decref(cases);
    free(source);
}

static int is_template(const struct dirent *entry)
{
    const char *end = strrchr(entry->d_name, '.');
    return end && strcmp(end, ".jinja") == 0;
}

static void test_renders(void)
{
    struct dirent **names;
    int n = scandir(folder, &names, is_template, alphasort);
    CU_ASSERT_FATAL(n > 0);
    for (int i = 0; i < n; i++) {
        check_template(names[i]->d_name);
        free(names[i]);
    }
    free(names);
}

int main(void)
{
    const char *shared = getenv("CARAVAN_SHARED");
    snprintf(folder, sizeof folder, "%s/templates", shared ? shared : SOURCE_DIR "/../shared");
    DIR *there = opendir(folder);
    if (!there) {
        printf("skipped: %s is missing\n", folder);
        return 77;
    }
    closedir(there);
    CU_initialize_registry();
    CU_pSuite suite = CU_add_suite("template renders", NULL, NULL);
    CU_add_test(suite, "renders", test_renders);
    CU_basic_set_mode(CU_BRM_NORMAL);
    CU_basic_run_tests();
    unsigned failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    return failures ? EXIT_FAILURE : EXIT_SUCCESS;
}
