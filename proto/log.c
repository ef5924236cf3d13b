/* SPDX-License-Identifier: Apache-2.0 */
#include "proto/log.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static const char *const level_names[] = {"error", "warn", "info", "debug"};
static _Atomic int max_level = PROTO_LOG_WARN;

void proto_log_set_level(enum proto_log_level level)
{
    atomic_store(&max_level, (int)level);
}

int proto_log_level_by_name(const char *name)
{
    for (int i = 0; i < 4; i++)
        if (strcmp(name, level_names[i]) == 0)
            return i;
    return -1;
}

void proto_log(enum proto_log_level level, const char *id, const char *format, ...)
{
    if ((int)level > atomic_load(&max_level))
        return;
    char line[1024];
    int used = snprintf(line, sizeof line, "%s %s ", level_names[level], id);
    va_list args;
    va_start(args, format);
    int more = vsnprintf(line + used, sizeof line - (size_t)used, format, args);
    va_end(args);
    size_t total = (size_t)used + (more > 0 ? (size_t)more : 0);
    if (total > sizeof line - 1)
        total = sizeof line - 1;
    line[total] = '\n';
    /* A log that cannot be written has nowhere else to go. */
    ssize_t ignored = write(STDERR_FILENO, line, total + 1);
    (void)ignored;
}
