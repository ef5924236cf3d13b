/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The part of CUnit's interface that the kernels' tests use, for processors that no CUnit is there
 * for (KERNELS_ONLY). Tests run when they are added; failed assertions are printed and counted.
 */
#ifndef TESTS_CUNIT_BASIC_H
#define TESTS_CUNIT_BASIC_H

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { CUE_SUCCESS, CU_BRM_NORMAL, CU_BRM_VERBOSE };
typedef const char *CU_pSuite;

static unsigned cu_failures;

static inline void cu_check(int right, const char *what, const char *file, int line)
{
    if (right)
        return;
    cu_failures++;
    printf("%s:%d: failed: %s\n", file, line, what);
}

#define CU_ASSERT(value)                cu_check((value) != 0, #value, __FILE__, __LINE__)
#define CU_ASSERT_TRUE(value)           CU_ASSERT(value)
#define CU_ASSERT_EQUAL(a, b)           cu_check((a) == (b), #a " == " #b, __FILE__, __LINE__)
#define CU_ASSERT_PTR_EQUAL(a, b)       CU_ASSERT_EQUAL(a, b)
#define CU_ASSERT_PTR_NULL(a)           CU_ASSERT_EQUAL(a, NULL)
#define CU_ASSERT_PTR_NOT_NULL(a)       CU_ASSERT((a) != NULL)
#define CU_ASSERT_DOUBLE_EQUAL(a, b, e) CU_ASSERT(fabs((double)(a) - (b)) <= fabs((double)(e)))
#define CU_PASS(text)                   cu_check(1, text, __FILE__, __LINE__)
#define CU_FAIL(text)                   cu_check(0, text, __FILE__, __LINE__)
#define CU_ASSERT_EQUAL_FATAL(a, b)                                                                \
    do {                                                                                           \
        CU_ASSERT_EQUAL(a, b);                                                                     \
        if (cu_failures)                                                                           \
            exit(1);                                                                               \
    } while (0)

static inline int CU_initialize_registry(void)
{
    return CUE_SUCCESS;
}

static inline CU_pSuite CU_add_suite(const char *name, int (*init)(void), int (*cleanup)(void))
{
    (void)init, (void)cleanup;
    return name;
}

static inline void CU_add_test(CU_pSuite suite, const char *name, void (*test)(void))
{
    printf("%s: %s\n", suite, name);
    test();
}

static inline void CU_basic_set_mode(int mode)
{
    (void)mode;
}

static inline void CU_basic_run_tests(void)
{
}

static inline unsigned CU_get_number_of_failures(void)
{
    return cu_failures;
}

static inline int CU_get_error(void)
{
    return CUE_SUCCESS;
}

static inline void CU_cleanup_registry(void)
{
}

#endif
