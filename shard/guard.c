/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The handler walks a list that only grows: a guard that has ended keeps its place and is used
 * again. The length is written last and cleared first, and a length of 0 guards nothing.
 */
#include "shard/guard.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

struct shard__guard {
    struct shard__guard *next; /* constant */
    atomic_uintptr_t start;
    atomic_size_t len;
    atomic_bool lost;
    bool taken; /* under the mutex */
};

static _Atomic(struct shard__guard *) guards;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static struct sigaction before;
static uintptr_t page;

static struct shard__guard *guard_of(uintptr_t at)
{
    for (struct shard__guard *g = atomic_load(&guards); g; g = g->next) {
        size_t len = atomic_load(&g->len);
        uintptr_t start = atomic_load(&g->start);
        if (at >= start && at - start < len)
            return g;
    }
    return NULL;
}

static void on_bus_error(int number, siginfo_t *info, void *context)
{
    int errno_before = errno;
    uintptr_t at = (uintptr_t)info->si_addr & ~(page - 1);
    struct shard__guard *guard = guard_of((uintptr_t)info->si_addr);
    (void)context;
    if (!guard) {
        sigaction(number, &before, NULL); /* the read is tried again, and ends as it would have */
        return;
    }
    uintptr_t end =
        (atomic_load(&guard->start) + atomic_load(&guard->len) + page - 1) & ~(page - 1);
    atomic_store(&guard->lost, true);
    if (mmap((void *)at, end - at, PROT_READ | PROT_WRITE,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0) == MAP_FAILED)
        sigaction(number, &before, NULL);
    errno = errno_before;
}

static void install(void)
{
    struct sigaction action = {.sa_sigaction = on_bus_error, .sa_flags = SA_SIGINFO};
    page = (uintptr_t)sysconf(_SC_PAGESIZE);
    sigemptyset(&action.sa_mask);
    sigaction(SIGBUS, &action, &before);
}

static struct shard__guard *take(void)
{
    struct shard__guard *guard = atomic_load(&guards);
    while (guard && guard->taken)
        guard = guard->next;
    if (!guard && (guard = calloc(1, sizeof *guard))) {
        guard->next = atomic_load(&guards);
        atomic_store(&guards, guard);
    }
    if (guard)
        guard->taken = true;
    return guard;
}

struct shard__guard *shard__guard_begin(const void *mapping, size_t len)
{
    pthread_once(&once, install);
    pthread_mutex_lock(&mutex);
    struct shard__guard *guard = take();
    pthread_mutex_unlock(&mutex);
    if (!guard)
        return NULL;
    atomic_store(&guard->lost, false);
    atomic_store(&guard->start, (uintptr_t)mapping);
    atomic_store(&guard->len, len);
    return guard;
}

bool shard__guard_lost(const struct shard__guard *guard)
{
    return atomic_load(&guard->lost);
}

void shard__guard_end(struct shard__guard *guard)
{
    if (!guard)
        return;
    atomic_store(&guard->len, 0);
    pthread_mutex_lock(&mutex);
    guard->taken = false;
    pthread_mutex_unlock(&mutex);
}
