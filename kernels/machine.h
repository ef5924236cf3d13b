/* SPDX-License-Identifier: Apache-2.0 */
/* What this machine has. Any thread. */
#ifndef KERNELS_MACHINE_H
#define KERNELS_MACHINE_H

#include <stdint.h>

/* Bytes of memory that can be had without swapping, as the kernel estimates it (MemAvailable);
 * 0 where it does not say. */
uint64_t kern_machine_free_memory(void);

/* Processors that threads may run on, at least 1. */
unsigned kern_machine_processors(void);

#endif
