/* SPDX-License-Identifier: Apache-2.0 */
/* How products are cut. */
#include "worker/cut.h"

#include <CUnit/Basic.h>

#define TYPE KERN_Q8_0

static const struct kern_table plain, unpacking = {.least_rows[TYPE] = 200},
                                      whole = {.least_rows[TYPE] = KERN_ALL_ROWS};

static void test_a_row_streams_panels(void)
{
    CU_ASSERT_EQUAL(worker_cut_panels(&plain, TYPE, 10000, 512, 1, 2), 6);
    CU_ASSERT_EQUAL(worker_cut_panels(&plain, TYPE, 1000000, 512, 1, 2), 1);
}

static void test_many_rows_take_panels_by_twos(void)
{
    CU_ASSERT_EQUAL(worker_cut_panels(&plain, TYPE, 36000, 512, 99, 2), 6);
    CU_ASSERT_EQUAL(worker_cut_panels(&plain, TYPE, 200000, 512, 99, 2), 2);
    CU_ASSERT_EQUAL(worker_cut_panels(&plain, TYPE, 9000000, 512, 99, 2), 2);
}

static void test_threads_share_few_panels(void)
{
    CU_ASSERT_EQUAL(worker_cut_panels(&whole, TYPE, 36000, 512, 99, 8), 8);
    CU_ASSERT_EQUAL(worker_cut_panels(&plain, TYPE, 36000, 32, 99, 8), 2);
    CU_ASSERT_EQUAL(worker_cut_panels(&plain, TYPE, 36000, 31, 99, 8), 1);
}

static void test_rows_of_a_call(void)
{
    CU_ASSERT_EQUAL(worker_cut_rows(&plain, TYPE, 8192, 64), 64);
    CU_ASSERT_EQUAL(worker_cut_rows(&plain, TYPE, 8192, 129), 44);
    CU_ASSERT_EQUAL(worker_cut_rows(&plain, TYPE, 8192, 512), 64);
    CU_ASSERT_EQUAL(worker_cut_rows(&plain, TYPE, 1u << 30, 512), 4);
    CU_ASSERT_EQUAL(worker_cut_rows(&unpacking, TYPE, 8192, 512), 172);
    CU_ASSERT_EQUAL(worker_cut_rows(&whole, TYPE, 8192, 512), 512);
}

int main(void)
{
    CU_initialize_registry();
    CU_pSuite suite = CU_add_suite("cut", NULL, NULL);
    CU_add_test(suite, "a row streams panels", test_a_row_streams_panels);
    CU_add_test(suite, "many rows take panels by twos", test_many_rows_take_panels_by_twos);
    CU_add_test(suite, "threads share few panels", test_threads_share_few_panels);
    CU_add_test(suite, "rows of a call", test_rows_of_a_call);
    CU_basic_set_mode(CU_BRM_VERBOSE);
    CU_basic_run_tests();
    int failures = (int)CU_get_number_of_failures();
    CU_cleanup_registry();
    return failures != 0;
}
