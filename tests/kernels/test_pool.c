/* SPDX-License-Identifier: Apache-2.0 */
/* Loops of the thread pool: every item is done once, in chunks, and is seen by the caller. */
#include <CUnit/Basic.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>
#include <time.h>

#include "kernels/bandwidth.h"

enum { MAX_THREADS = 8, MAX_ITEMS = 5000 };

struct loop {
    size_t n, chunk;
    unsigned n_threads;
    unsigned times[MAX_ITEMS];       /* how often each item was done */
    atomic_uint inside[MAX_THREADS]; /* calls that run with this thread number */
    atomic_uint wrong;
};

static void count(void *arg, size_t first, size_t last, unsigned thread)
{
    struct loop *loop = arg;
    int bad = first >= last || last > loop->n || thread >= loop->n_threads;
    if (bad || (loop->chunk && last - first > loop->chunk)) {
        atomic_fetch_add(&loop->wrong, 1);
        return;
    }
    if (atomic_fetch_add(&loop->inside[thread], 1) != 0)
        atomic_fetch_add(&loop->wrong, 1);
    for (size_t i = first; i < last; i++)
        loop->times[i]++;
    atomic_fetch_sub(&loop->inside[thread], 1);
}

static struct kern_pool *create(unsigned n_threads)
{
    struct kern_pool *pool;
    struct proto_error error;
    CU_ASSERT_EQUAL_FATAL(kern_pool_create(&pool, n_threads, &error), PROTO_OK);
    CU_ASSERT_EQUAL(kern_pool_threads(pool), n_threads);
    return pool;
}

static int run_is_right(struct kern_pool *pool, struct loop *loop, size_t n, size_t chunk)
{
    memset(loop->times, 0, sizeof(loop->times));
    loop->n = n;
    loop->chunk = chunk;
    kern_pool_run(pool, n, chunk, count, loop);
    int right = atomic_load(&loop->wrong) == 0;
    for (size_t i = 0; i < MAX_ITEMS; i++)
        right &= loop->times[i] == (i < n);
    return right;
}

static void test_every_item_once(void)
{
    static const size_t sizes[] = {0, 1, 2, 7, 64, 1000, MAX_ITEMS};
    static const size_t chunks[] = {0, 1, 3, 64, 5000, 1u << 30, SIZE_MAX};
    static struct loop loop;
    for (unsigned threads = 1; threads <= MAX_THREADS; threads++) {
        struct kern_pool *pool = create(threads);
        loop.n_threads = threads;
        for (size_t s = 0; s < 7; s++)
            for (size_t c = 0; c < 7; c++)
                CU_ASSERT_TRUE(run_is_right(pool, &loop, sizes[s], chunks[c]));
        kern_pool_destroy(pool);
    }
}

static void add_index(void *arg, size_t first, size_t last, unsigned thread)
{
    (void)thread;
    unsigned long sum = 0;
    for (size_t i = first; i < last; i++)
        sum += i;
    atomic_fetch_add((atomic_ulong *)arg, sum);
}

/* Short loops one after another, with chunks and lengths that change, and now and then a pause
 * longer than threads spin, so that they are met running, spinning and asleep. */
static void test_many_loops(void)
{
    for (unsigned threads = 1; threads <= MAX_THREADS; threads++) {
        struct kern_pool *pool = create(threads);
        unsigned long wrong = 0;
        for (size_t run = 0; run < 2000; run++) {
            size_t n = 1 + run * 7 % 301;
            atomic_ulong sum = 0;
            kern_pool_run(pool, n, run % 5, add_index, &sum);
            wrong += atomic_load(&sum) != n * (n - 1) / 2;
            if (run % 500 == 0)
                nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
        }
        CU_ASSERT_EQUAL(wrong, 0);
        kern_pool_destroy(pool);
    }
}

/* Each loop reads what the one before wrote: the caller and the threads see all of it. */
struct chain {
    unsigned *from, *to;
    size_t n;
};

static void step(void *arg, size_t first, size_t last, unsigned thread)
{
    (void)thread;
    struct chain *chain = arg;
    for (size_t i = first; i < last; i++)
        chain->to[i] = chain->from[(i + 1) % chain->n] + 1;
}

static void test_loops_see_each_other(void)
{
    static unsigned a[500], b[500];
    struct kern_pool *pool = create(4);
    struct chain chain = {a, b, 500};
    memset(a, 0, sizeof(a));
    for (unsigned run = 1; run <= 1000; run++) {
        kern_pool_run(pool, 500, 1 + run % 9, step, &chain);
        chain = (struct chain){chain.to, chain.from, 500};
    }
    for (size_t i = 0; i < 500; i++)
        CU_ASSERT_EQUAL(chain.from[i], 1000);
    kern_pool_destroy(pool);
}

/* One item a thread, and none ends before all have begun; then the threads are slower than the
 * caller, so that a loop that does not wait for them is found out. */
struct meeting {
    unsigned n_threads;
    atomic_uint arrived;
    unsigned finished[MAX_THREADS];
};

static void meet(void *arg, size_t first, size_t last, unsigned thread)
{
    (void)first;
    (void)last;
    struct meeting *meeting = arg;
    atomic_fetch_add(&meeting->arrived, 1);
    while (atomic_load(&meeting->arrived) < meeting->n_threads)
        sched_yield();
    if (thread)
        nanosleep(&(struct timespec){.tv_nsec = 500000}, NULL);
    meeting->finished[thread]++;
}

static void test_all_threads_take_part(void)
{
    for (unsigned threads = 1; threads <= MAX_THREADS; threads++) {
        struct kern_pool *pool = create(threads);
        for (unsigned run = 0; run < 5; run++) {
            struct meeting meeting = {.n_threads = threads};
            kern_pool_run(pool, threads, 1, meet, &meeting);
            for (unsigned i = 0; i < threads; i++)
                CU_ASSERT_EQUAL(meeting.finished[i], 1);
            nanosleep(&(struct timespec){.tv_nsec = run * 200000}, NULL);
        }
        kern_pool_destroy(pool);
    }
}

struct caller {
    struct kern_pool *pool;
    struct loop loop;
    unsigned n_wrong;
};

static void *call_often(void *arg)
{
    struct caller *caller = arg;
    for (unsigned i = 1; i <= 2000; i++) {
        kern_pool_run(caller->pool, caller->loop.n, caller->loop.chunk, count, &caller->loop);
        for (size_t item = 0; item < caller->loop.n; item++)
            caller->n_wrong += caller->loop.times[item] != i;
    }
    return NULL;
}

static void test_two_callers(void)
{
    static struct caller callers[2];
    pthread_t threads[2];
    struct kern_pool *pool = create(3);
    for (unsigned i = 0; i < 2; i++) {
        callers[i] =
            (struct caller){.pool = pool, .loop = {.n = 40 + i, .chunk = 1 + i, .n_threads = 3}};
        CU_ASSERT_EQUAL_FATAL(pthread_create(&threads[i], NULL, call_often, &callers[i]), 0);
    }
    for (unsigned i = 0; i < 2; i++) {
        pthread_join(threads[i], NULL);
        CU_ASSERT_EQUAL(callers[i].n_wrong, 0);
        CU_ASSERT_EQUAL(callers[i].loop.wrong, 0);
    }
    kern_pool_destroy(pool);
}

static void test_create_and_destroy(void)
{
    struct proto_error error;
    struct kern_pool *pool;
    for (unsigned i = 0; i < 200; i++) {
        atomic_ulong sum = 0;
        pool = create(1 + i % MAX_THREADS);
        for (unsigned run = 0; run < i % 4; run++)
            kern_pool_run(pool, 100, 1, add_index, &sum);
        kern_pool_destroy(pool);
        CU_ASSERT_EQUAL(atomic_load(&sum), i % 4 * 4950);
    }
    kern_pool_destroy(NULL);
    CU_ASSERT_EQUAL(kern_pool_create(&pool, 0, &error), PROTO_INVALID);
    CU_ASSERT_PTR_NULL(pool);
    CU_ASSERT_EQUAL(kern_pool_create(&pool, KERN_POOL_MAX_THREADS + 1, &error), PROTO_INVALID);
    CU_ASSERT_PTR_NOT_NULL(strstr(error.text, "257"));
}

/* Linked with --wrap=pthread_create, so that the system can be made to refuse threads. */
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*start)(void *),
                          void *arg);
int __real_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*start)(void *),
                          void *arg);

static unsigned threads_left = UINT32_MAX;

int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*start)(void *),
                          void *arg)
{
    return threads_left-- ? __real_pthread_create(thread, attr, start, arg) : EAGAIN;
}

static void test_thread_refused(void)
{
    struct proto_error error;
    struct kern_pool *pool;
    threads_left = 3;
    CU_ASSERT_EQUAL(kern_pool_create(&pool, MAX_THREADS, &error), PROTO_LIMIT);
    threads_left = UINT32_MAX;
    CU_ASSERT_PTR_NULL(pool);
    CU_ASSERT_PTR_NOT_NULL(strstr(error.text, "could start 4"));
}

static void test_bandwidth(void)
{
    struct kern_pool *pool = create(2);
    struct proto_error error;
    double speed = -1;
    CU_ASSERT_EQUAL(kern_read_bandwidth(pool, 8u << 20, 2, &speed, &error), PROTO_OK);
    CU_ASSERT_TRUE(speed > 0);
    CU_ASSERT_EQUAL(kern_read_bandwidth(pool, 0, 2, &speed, &error), PROTO_INVALID);
    CU_ASSERT_EQUAL(speed, 0);
    CU_ASSERT_EQUAL(kern_read_bandwidth(pool, 8u << 20, 0, &speed, &error), PROTO_INVALID);
    kern_pool_destroy(pool);
}

int main(void)
{
    CU_initialize_registry();
    CU_pSuite suite = CU_add_suite("pool", NULL, NULL);
    CU_add_test(suite, "every item once", test_every_item_once);
    CU_add_test(suite, "many loops", test_many_loops);
    CU_add_test(suite, "loops see each other", test_loops_see_each_other);
    CU_add_test(suite, "all threads take part", test_all_threads_take_part);
    CU_add_test(suite, "two callers", test_two_callers);
    CU_add_test(suite, "create and destroy", test_create_and_destroy);
    CU_add_test(suite, "thread refused", test_thread_refused);
    CU_add_test(suite, "bandwidth", test_bandwidth);
    CU_basic_set_mode(CU_BRM_NORMAL);
    CU_basic_run_tests();
    unsigned failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    return failures != 0;
}
