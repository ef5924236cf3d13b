/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/machine.h"

#include <ctype.h>
#include <limits.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

/* The number behind a name at the start of a line ("" is in front of any). */
static bool read_number(const char *folder, const char *file, const char *name, uint64_t *out)
{
    char path[PATH_MAX], line[256];
    unsigned long long value;
    bool found = false;
    if (snprintf(path, sizeof path, "%s/%s", folder, file) >= (int)sizeof path)
        return false;
    FILE *f = fopen(path, "r");
    while (f && !found && fgets(line, sizeof line, f))
        found = strncmp(line, name, strlen(name)) == 0 &&
                sscanf(line + strlen(name), "%llu", &value) == 1;
    if (f)
        fclose(f);
    if (found)
        *out = value;
    return found;
}

/* Cached files that nobody has used lately make room when it is needed, so they count as free. */
static uint64_t group_room(const char *folder)
{
    uint64_t most, used, cached = 0;
    if (!read_number(folder, "memory.max", "", &most) ||
        !read_number(folder, "memory.current", "", &used))
        return UINT64_MAX;
    read_number(folder, "memory.stat", "inactive_file ", &cached);
    used -= cached < used ? cached : used;
    return used < most ? most - used : 0;
}

uint64_t kern_machine_group_memory(const char *root, const char *group)
{
    char folder[PATH_MAX];
    uint64_t least = UINT64_MAX;
    size_t root_len = strlen(root);
    if (snprintf(folder, sizeof folder, "%s%s", root, group) >= (int)sizeof folder)
        return least;
    for (;;) {
        uint64_t room = group_room(folder);
        least = room < least ? room : least;
        char *slash = strrchr(folder, '/');
        if (!slash || (size_t)(slash - folder) < root_len)
            return least;
        *slash = '\0';
    }
}

uint64_t kern_machine_free_memory(void)
{
    uint64_t kib = 0, room = UINT64_MAX;
    char line[PATH_MAX];
    read_number("/proc", "meminfo", "MemAvailable:", &kib);
    FILE *f = fopen("/proc/self/cgroup", "r");
    while (f && fgets(line, sizeof line, f)) {
        line[strcspn(line, "\n")] = '\0';
        if (strncmp(line, "0::", 3) == 0)
            room = kern_machine_group_memory("/sys/fs/cgroup", line + 3);
    }
    if (f)
        fclose(f);
    return room < kib * 1024 ? room : kib * 1024;
}

/* The kernel makes up a UUID when it boots; its two halves are added. */
uint64_t kern_machine_id(void)
{
    uint64_t halves[2] = {0};
    unsigned digits = 0;
    FILE *f = fopen("/proc/sys/kernel/random/boot_id", "r");
    for (int c; f && digits < 32 && (c = fgetc(f)) != EOF;) {
        if (!isxdigit(c))
            continue;
        unsigned digit = isdigit(c) ? (unsigned)(c - '0') : (unsigned)(tolower(c) - 'a') + 10;
        halves[digits / 16] = halves[digits / 16] << 4 | digit;
        digits++;
    }
    if (f)
        fclose(f);
    return digits == 32 ? halves[0] + halves[1] : 0;
}

unsigned kern_machine_processors(void)
{
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) != 0 || CPU_COUNT(&set) < 1)
        return 1;
    return (unsigned)CPU_COUNT(&set);
}
