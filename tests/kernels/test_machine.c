/* SPDX-License-Identifier: Apache-2.0 */
/* What control groups leave of the machine's memory, from folders as the kernel has them. */
#include <CUnit/Basic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kernels/machine.h"

static char root[] = "/tmp/caravan-machine-XXXXXX";
static const char *const files[] = {"memory.max", "memory.current", "memory.stat"};
static const char *const groups[] = {"/", "/a", "/a/b"};

static const char *path_of(const char *group, const char *file)
{
    static char path[128];
    snprintf(path, sizeof path, "%s%s/%s", root, group, file);
    return path;
}

static void put(const char *group, const char *file, const char *text)
{
    FILE *f = fopen(path_of(group, file), "w");
    CU_ASSERT_PTR_NOT_NULL_FATAL(f);
    fputs(text, f);
    fclose(f);
}

static int make_folders(void)
{
    return !mkdtemp(root) || mkdir(path_of("/a", ""), 0700) || mkdir(path_of("/a/b", ""), 0700);
}

static int remove_folders(void)
{
    for (int g = 2; g >= 0; g--) {
        for (int i = 0; i < 3; i++)
            unlink(path_of(groups[g], files[i]));
        rmdir(path_of(groups[g], ""));
    }
    return 0;
}

static void test_groups(void)
{
    CU_ASSERT_EQUAL(kern_machine_group_memory(root, "/"), UINT64_MAX);
    CU_ASSERT_EQUAL(kern_machine_group_memory(root, "/none/there"), UINT64_MAX);
    put("/a", "memory.max", "8000000000\n");
    put("/a", "memory.current", "3000000000\n");
    CU_ASSERT_EQUAL(kern_machine_group_memory(root, "/a"), 5000000000);
    put("/a", "memory.stat", "anon 5\nfile 9\ninactive_file 1000000000\nactive_file 7\n");
    CU_ASSERT_EQUAL(kern_machine_group_memory(root, "/a"), 6000000000);
    /* The tightest of those above. */
    put("/a/b", "memory.max", "max\n");
    put("/a/b", "memory.current", "1000\n");
    CU_ASSERT_EQUAL(kern_machine_group_memory(root, "/a/b"), 6000000000);
    put("/a/b", "memory.max", "5000\n");
    CU_ASSERT_EQUAL(kern_machine_group_memory(root, "/a/b"), 4000);
    put("/a/b", "memory.current", "6000\n");
    CU_ASSERT_EQUAL(kern_machine_group_memory(root, "/a/b"), 0);
    /* A container sees its own group as the root. */
    put("/", "memory.max", "100\n");
    put("/", "memory.current", "40\n");
    CU_ASSERT_EQUAL(kern_machine_group_memory(root, "/"), 60);
    CU_ASSERT_EQUAL(kern_machine_group_memory(root, ""), 60);
}

static void test_machine(void)
{
    CU_ASSERT(kern_machine_free_memory() > 1 << 20);
    CU_ASSERT(kern_machine_processors() >= 1);
}

int main(void)
{
    CU_initialize_registry();
    CU_pSuite suite = CU_add_suite("machine", make_folders, remove_folders);
    CU_add_test(suite, "groups", test_groups);
    CU_add_test(suite, "machine", test_machine);
    CU_basic_set_mode(CU_BRM_NORMAL);
    CU_basic_run_tests();
    unsigned failures = CU_get_number_of_failures() + CU_get_number_of_suites_failed();
    CU_cleanup_registry();
    return failures > 0;
}
