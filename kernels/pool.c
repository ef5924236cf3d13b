/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One word, `state`, says whether a loop is open, how many threads are inside it, and a generation
 * that makes every loop's word differ from those before:
 *
 *     bit 0: open    bit 1: quit    bits 2-10: threads inside    bits 11-31: generation
 *
 * A thread may enter only while the word says open, by the same exchange that counts it; then it
 * takes chunks until none are left and leaves. The caller takes chunks too. When none are left it
 * closes the loop and waits for those inside. So a thread that sleeps or comes late costs the loop
 * nothing: it finds the word closed and never touches the loop's fields, which the caller writes
 * only while the word is closed and nobody is inside.
 *
 * Threads sleep on `state` (futex). The caller skips the wake-up call where `sleepers` is 0; a
 * thread counts itself there before the kernel compares the word, and the caller changes the word
 * before it reads the count, so one of the two sees the other. The caller sleeps on `done`, which
 * the last thread out of a closed loop increments.
 */
#include "kernels/pool.h"

#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define OPEN            1u
#define QUIT            2u
#define INSIDE          4u
#define INSIDE_MASK     (511u * INSIDE)
#define GENERATION      2048u
#define GENERATION_MASK (~(GENERATION - 1u))

#define SPIN_NS          50000
#define PAUSES_PER_CLOCK 32

/* A thread that waits for its turn takes a cache line that the running ones do not write. */
#define LINE_BYTES 64

/* A thread's own share of a loop: items [next, end) have not been taken. */
struct share {
    _Alignas(LINE_BYTES) atomic_size_t next;
    size_t end;
};

struct worker {
    struct kern_pool *pool;
    unsigned thread;
    pthread_t handle;
};

struct kern_pool {
    _Alignas(LINE_BYTES) _Atomic uint32_t state;
    _Atomic uint32_t sleepers;
    _Alignas(LINE_BYTES) _Atomic uint32_t done;
    _Atomic uint32_t caller_sleeps;
    _Alignas(LINE_BYTES) size_t chunk;
    kern_pool_fn *fn;
    void *arg;
    unsigned n_threads; /* the caller included */
    unsigned n_started;
    struct worker *workers; /* n_threads - 1, behind the shares */
    /* Of the calling thread whose loop runs, and of the one that is next: who has just had its turn
     * waits behind it, or it would never sleep long enough to lose one. */
    pthread_mutex_t turn, next;
    struct share shares[];
};

static void futex_wait(_Atomic uint32_t *word, uint32_t expected)
{
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, expected, NULL, NULL, 0);
}

static void futex_wake_all(_Atomic uint32_t *word)
{
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0);
}

static void pause_briefly(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* Spins while (*word & mask) is `value`; false when the time for spinning was over first. */
static bool spin_while(_Atomic uint32_t *word, uint32_t mask, uint32_t value)
{
    int64_t start = 0;
    for (unsigned i = 1;; i++) {
        if ((atomic_load_explicit(word, memory_order_acquire) & mask) != value)
            return true;
        pause_briefly();
        if (i % PAUSES_PER_CLOCK)
            continue;
        int64_t now = now_ns();
        if (!start)
            start = now;
        if (now - start >= SPIN_NS)
            return false;
    }
}

static void take_share(struct kern_pool *pool, struct share *share, unsigned thread)
{
    size_t end = share->end, chunk = pool->chunk;
    for (;;) {
        size_t first = atomic_fetch_add_explicit(&share->next, chunk, memory_order_relaxed);
        if (first >= end)
            return;
        pool->fn(pool->arg, first, end - first < chunk ? end : first + chunk, thread);
    }
}

/* The thread's own share first, then what is left of the others'. */
static void take_chunks(struct kern_pool *pool, unsigned thread)
{
    unsigned n = pool->n_threads;
    for (unsigned i = thread; i < thread + n; i++)
        take_share(pool, &pool->shares[i < n ? i : i - n], thread);
}

/* Counts the calling thread as inside, unless the loop is closed. */
static bool enter(struct kern_pool *pool)
{
    uint32_t state = atomic_load_explicit(&pool->state, memory_order_relaxed);
    while (state & OPEN)
        if (atomic_compare_exchange_weak_explicit(&pool->state, &state, state + INSIDE,
                                                  memory_order_acquire, memory_order_relaxed))
            return true;
    return false;
}

static void leave(struct kern_pool *pool)
{
    uint32_t state = atomic_fetch_sub_explicit(&pool->state, INSIDE, memory_order_acq_rel) - INSIDE;
    if (state & (OPEN | INSIDE_MASK))
        return;
    atomic_fetch_add(&pool->done, 1);
    if (atomic_load(&pool->caller_sleeps))
        futex_wake_all(&pool->done);
}

/* Waits for an open loop of another generation than *seen, which becomes *seen; false: the pool
 * ends. */
static bool wait_open(struct kern_pool *pool, uint32_t *seen)
{
    for (;;) {
        uint32_t state = atomic_load(&pool->state);
        if (state & QUIT)
            return false;
        if ((state & GENERATION_MASK) != *seen) {
            *seen = state & GENERATION_MASK;
            if (state & OPEN)
                return true;
        }
        if (spin_while(&pool->state, GENERATION_MASK | QUIT, *seen))
            continue;
        atomic_fetch_add(&pool->sleepers, 1);
        state = atomic_load(&pool->state);
        if ((state & (GENERATION_MASK | QUIT)) == *seen)
            futex_wait(&pool->state, state);
        atomic_fetch_sub(&pool->sleepers, 1);
    }
}

static void *worker_main(void *arg)
{
    struct worker *worker = arg;
    struct kern_pool *pool = worker->pool;
    uint32_t seen = 0;
    while (wait_open(pool, &seen))
        if (enter(pool)) {
            take_chunks(pool, worker->thread);
            leave(pool);
        }
    return NULL;
}

/* Starts the threads with all signals blocked, so that the program's own threads get them. */
static int start_workers(struct kern_pool *pool)
{
    sigset_t all, before;
    int failed = 0;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    for (unsigned i = 0; i + 1 < pool->n_threads && !failed; i++) {
        struct worker *worker = &pool->workers[i];
        *worker = (struct worker){.pool = pool, .thread = i + 1};
        failed = pthread_create(&worker->handle, NULL, worker_main, worker);
        pool->n_started += !failed;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return failed;
}

enum proto_status kern_pool_create(struct kern_pool **out, unsigned n_threads,
                                   struct proto_error *error)
{
    *out = NULL;
    if (n_threads < 1 || n_threads > KERN_POOL_MAX_THREADS)
        return proto_fail(error, PROTO_INVALID,
                          "threads: expected 1 to %u, found %u; choose another number",
                          KERN_POOL_MAX_THREADS, n_threads);
    size_t workers_at = sizeof(struct kern_pool) + n_threads * sizeof(struct share);
    size_t bytes = workers_at + (n_threads - 1) * sizeof(struct worker);
    bytes = (bytes + LINE_BYTES - 1) / LINE_BYTES * LINE_BYTES;
    struct kern_pool *pool = aligned_alloc(LINE_BYTES, bytes);
    if (!pool)
        return proto_fail_nomem(error, bytes, "a thread pool");
    memset(pool, 0, bytes);
    pool->n_threads = n_threads;
    pool->workers = (struct worker *)((char *)pool + workers_at);
    pthread_mutex_init(&pool->turn, NULL);
    pthread_mutex_init(&pool->next, NULL);
    int failed = start_workers(pool);
    if (failed) {
        unsigned started = pool->n_started + 1;
        kern_pool_destroy(pool);
        return proto_fail(error, PROTO_LIMIT,
                          "threads: expected to start %u, could start %u (%s); use fewer threads",
                          n_threads, started, strerror(failed));
    }
    *out = pool;
    return PROTO_OK;
}

void kern_pool_destroy(struct kern_pool *pool)
{
    if (!pool)
        return;
    atomic_fetch_or(&pool->state, QUIT);
    futex_wake_all(&pool->state);
    for (unsigned i = 0; i < pool->n_started; i++)
        pthread_join(pool->workers[i].handle, NULL);
    pthread_mutex_destroy(&pool->turn);
    pthread_mutex_destroy(&pool->next);
    free(pool);
}

unsigned kern_pool_threads(const struct kern_pool *pool)
{
    return pool->n_threads;
}

static void open_loop(struct kern_pool *pool)
{
    uint32_t state = atomic_load_explicit(&pool->state, memory_order_relaxed);
    atomic_store(&pool->state, state + GENERATION + OPEN);
    if (atomic_load(&pool->sleepers))
        futex_wake_all(&pool->state);
}

static void close_loop(struct kern_pool *pool)
{
    uint32_t done = atomic_load(&pool->done);
    uint32_t state = atomic_fetch_and_explicit(&pool->state, ~OPEN, memory_order_acq_rel);
    if (!(state & INSIDE_MASK) || spin_while(&pool->done, UINT32_MAX, done))
        return;
    atomic_store(&pool->caller_sleeps, 1);
    while (atomic_load(&pool->done) == done)
        futex_wait(&pool->done, done);
    atomic_store(&pool->caller_sleeps, 0);
}

static size_t default_chunk(size_t n, unsigned n_threads)
{
    size_t pieces = n_threads == 1 ? 1 : (size_t)n_threads * 4;
    return n / pieces + (n % pieces != 0);
}

/* Whole chunks for every thread, as even as they go. */
static void share_out(struct kern_pool *pool, size_t n)
{
    size_t n_chunks = n / pool->chunk + (n % pool->chunk != 0), first = 0;
    for (unsigned i = 0; i < pool->n_threads; i++) {
        size_t end = n_chunks * (i + 1) / pool->n_threads * pool->chunk;
        end = end < n ? end : n;
        pool->shares[i].end = end;
        atomic_store_explicit(&pool->shares[i].next, first, memory_order_relaxed);
        first = end;
    }
}

/* On the calling thread alone; touches nothing that loops of others do. */
static void run_alone(size_t n, size_t chunk, kern_pool_fn *fn, void *arg)
{
    for (size_t first = 0; first < n; first += chunk)
        fn(arg, first, n - first < chunk ? n : first + chunk, 0);
}

void kern_pool_run(struct kern_pool *pool, size_t n, size_t chunk, kern_pool_fn *fn, void *arg)
{
    if (!n)
        return;
    if (!chunk)
        chunk = default_chunk(n, pool->n_threads);
    chunk = chunk < n ? chunk : n;
    if (pool->n_threads == 1 || chunk == n) {
        run_alone(n, chunk, fn, arg);
        return;
    }
    pthread_mutex_lock(&pool->next);
    pthread_mutex_lock(&pool->turn);
    pthread_mutex_unlock(&pool->next);
    pool->chunk = chunk;
    pool->fn = fn;
    pool->arg = arg;
    share_out(pool, n);
    open_loop(pool);
    take_chunks(pool, 0);
    close_loop(pool);
    pthread_mutex_unlock(&pool->turn);
}
