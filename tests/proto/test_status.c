/* SPDX-License-Identifier: Apache-2.0 */
#include "proto/status.h"

#include <CUnit/Basic.h>
#include <errno.h>
#include <string.h>

#include "proto/log.h"

static void test_wire_values_round_trip(void)
{
#define X(value, name, text)                                                                       \
    CU_ASSERT_EQUAL(proto_status_from_wire(value), PROTO_##name);                                  \
    CU_ASSERT_STRING_EQUAL(proto_status_name(PROTO_##name), #name);                                \
    CU_ASSERT_STRING_EQUAL(proto_status_text(PROTO_##name), text);
    PROTO_STATUS_MAP(X)
#undef X
    CU_ASSERT_EQUAL(proto_status_from_wire(17), PROTO_FORMAT);
    CU_ASSERT_EQUAL(proto_status_from_wire(~0u), PROTO_FORMAT);
    CU_ASSERT_STRING_EQUAL(proto_status_text((enum proto_status)999), "unknown status");
}

static void test_fail_fills_and_returns(void)
{
    struct proto_error error;
    CU_ASSERT_EQUAL(proto_fail(&error, PROTO_LIMIT, "%d of %s", 3, "x"), PROTO_LIMIT);
    CU_ASSERT_EQUAL(error.status, PROTO_LIMIT);
    CU_ASSERT_STRING_EQUAL(error.text, "3 of x");
    CU_ASSERT_EQUAL(proto_fail(NULL, PROTO_IO, "nobody reads this"), PROTO_IO);
}

static void test_long_text_is_cut(void)
{
    char text[2 * PROTO_ERROR_TEXT_BYTES];
    memset(text, 'a', sizeof text - 1);
    text[sizeof text - 1] = 0;
    struct proto_error error;
    proto_fail(&error, PROTO_IO, "%s", text);
    CU_ASSERT_EQUAL(strlen(error.text), PROTO_ERROR_TEXT_BYTES - 1);
}

static void test_errno_becomes_status(void)
{
    static const struct {
        int number;
        enum proto_status status;
    } cases[] = {{ENOSPC, PROTO_NOSPACE},
                 {EDQUOT, PROTO_NOSPACE},
                 {ENOENT, PROTO_NOTFOUND},
                 {ENOMEM, PROTO_NOMEM},
                 {EACCES, PROTO_IO}};
    struct proto_error error;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        CU_ASSERT_EQUAL(proto_fail_errno(&error, cases[i].number, "cannot open", "/x"),
                        cases[i].status);
    CU_ASSERT_STRING_EQUAL(error.text, "cannot open /x: Permission denied");
    CU_ASSERT_EQUAL(proto_fail_nomem(&error, 12345, "a row"), PROTO_NOMEM);
    CU_ASSERT_PTR_NOT_NULL(strstr(error.text, "12345 bytes for a row"));
}

static void test_log_levels_have_names(void)
{
    CU_ASSERT_EQUAL(proto_log_level_by_name("error"), PROTO_LOG_ERROR);
    CU_ASSERT_EQUAL(proto_log_level_by_name("debug"), PROTO_LOG_DEBUG);
    CU_ASSERT_EQUAL(proto_log_level_by_name("loud"), -1);
}

int main(void)
{
    CU_initialize_registry();
    CU_pSuite suite = CU_add_suite("status", NULL, NULL);
    CU_ADD_TEST(suite, test_wire_values_round_trip);
    CU_ADD_TEST(suite, test_fail_fills_and_returns);
    CU_ADD_TEST(suite, test_long_text_is_cut);
    CU_ADD_TEST(suite, test_errno_becomes_status);
    CU_ADD_TEST(suite, test_log_levels_have_names);
    CU_basic_run_tests();
    int failures = (int)CU_get_number_of_failures();
    CU_cleanup_registry();
    return failures != 0;
}
