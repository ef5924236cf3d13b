/* SPDX-License-Identifier: Apache-2.0 */
/* What this machine has. Any thread. */
#ifndef KERNELS_MACHINE_H
#define KERNELS_MACHINE_H

#include <stdint.h>

/* Bytes of memory that can be had without swapping, as the kernel estimates it (MemAvailable), or
 * what this process's control groups leave of it; 0 where the kernel does not say. */
uint64_t kern_machine_free_memory(void);

/* What a control group (a path below root, where cgroup v2 is mounted) and those above it leave,
 * UINT64_MAX where none has a limit. */
uint64_t kern_machine_group_memory(const char *root, const char *group);

/* Names the machine that this runs on: the same for all its processes, also those in containers,
 * and another for each boot of any machine. 0: the kernel does not say. */
uint64_t kern_machine_id(void);

/* Processors that threads may run on, at least 1. */
unsigned kern_machine_processors(void);

#endif
