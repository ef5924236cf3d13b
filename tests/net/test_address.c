/* SPDX-License-Identifier: Apache-2.0 */
#include <CUnit/Basic.h>

#include <string.h>

#include "net/address.h"

static void expect(const char *address, bool listening, const char *expected)
{
    char endpoint[64];
    struct proto_error error = {0};
    enum proto_status status =
        net_address_endpoint(address, listening, endpoint, sizeof endpoint, &error);
    CU_ASSERT_EQUAL(status, expected ? PROTO_OK : PROTO_INVALID);
    if (expected && status == PROTO_OK)
        CU_ASSERT_STRING_EQUAL(endpoint, expected);
    if (!expected)
        CU_ASSERT_PTR_NOT_NULL(strstr(error.text, "HOST:PORT"));
}

static void test_endpoints(void)
{
    expect("10.0.0.1:7400", false, "tcp://10.0.0.1:7400");
    expect("tcp://host:1", false, "tcp://host:1");
    expect("[fe80::1]:65535", false, "tcp://[fe80::1]:65535");
    expect("ipc://@name", false, "ipc://@name");
    expect("host:0", true, "tcp://host:0");
    expect("*:*", true, "tcp://*:*");
    expect("host:0", false, NULL);
    expect("host:65536", false, NULL);
    expect("host:-1", true, NULL);
    expect("host:12x", false, NULL);
    expect("host", false, NULL);
    expect(":7400", false, NULL);
    expect("", false, NULL);
    expect("ipc://", false, NULL);
    expect("a-name-that-is-longer-than-the-room-for-an-endpoint.example.org:7400", false, NULL);
}

static void test_towards(void)
{
    char host[64];
    struct proto_error error;
    CU_ASSERT_EQUAL(net_address_towards("tcp://127.0.0.1:9", host, sizeof host, &error), PROTO_OK);
    CU_ASSERT_STRING_EQUAL(host, "127.0.0.1");
    CU_ASSERT_EQUAL(net_address_towards("ipc://x", host, sizeof host, &error), PROTO_INVALID);
    CU_ASSERT_STRING_EQUAL(net_address_port("tcp://[::1]:77"), "77");
    CU_ASSERT_STRING_EQUAL(net_address_port("ipc://a:77"), "");
}

int main(void)
{
    CU_initialize_registry();
    CU_pSuite suite = CU_add_suite("address", NULL, NULL);
    CU_add_test(suite, "endpoints", test_endpoints);
    CU_add_test(suite, "towards", test_towards);
    CU_basic_set_mode(CU_BRM_NORMAL);
    CU_basic_run_tests();
    unsigned failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    return failures > 0;
}
