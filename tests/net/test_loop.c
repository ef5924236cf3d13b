/* SPDX-License-Identifier: Apache-2.0 */
#include "net/loop.h"

#include <CUnit/Basic.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct net_loop *make(void)
{
    struct net_loop *loop;
    CU_ASSERT_EQUAL_FATAL(net_loop_create(&loop, NULL), PROTO_OK);
    return loop;
}

static void stop(void *loop)
{
    net_loop_stop(loop);
}

#define POSTERS 4
#define POSTS   2000

struct posted {
    struct net_loop *loop;
    int from, number;
    int *next; /* of that thread: the number that is expected */
    int *left;
};

static void on_posted(void *arg)
{
    struct posted *posted = arg;
    CU_ASSERT_EQUAL(posted->number, posted->next[posted->from]);
    posted->next[posted->from]++;
    if (--*posted->left == 0)
        net_loop_stop(posted->loop);
}

static void *poster(void *arg)
{
    struct posted *posted = arg;
    for (int i = 0; i < POSTS; i++)
        if (net_loop_post(posted[i].loop, on_posted, &posted[i]) != PROTO_OK)
            abort();
    return NULL;
}

static void test_posts_come_in_order(void)
{
    struct net_loop *loop = make();
    static struct posted posted[POSTERS][POSTS];
    int next[POSTERS] = {0}, left = POSTERS * POSTS;
    pthread_t threads[POSTERS];
    for (int t = 0; t < POSTERS; t++)
        for (int i = 0; i < POSTS; i++)
            posted[t][i] = (struct posted){loop, t, i, next, &left};
    for (int t = 0; t < POSTERS; t++)
        pthread_create(&threads[t], NULL, poster, posted[t]);
    net_loop_run(loop);
    for (int t = 0; t < POSTERS; t++)
        pthread_join(threads[t], NULL);
    CU_ASSERT_EQUAL(left, 0);
    net_loop_destroy(loop);
}

struct chain {
    struct net_loop *loop;
    int left;
};

static void on_chain(void *arg)
{
    struct chain *chain = arg;
    if (--chain->left > 0)
        net_loop_post(chain->loop, on_chain, chain);
}

static void test_destroy_runs_what_was_posted(void)
{
    struct net_loop *loop = make();
    struct chain chain = {loop, 5};
    net_loop_post(loop, on_chain, &chain);
    net_loop_destroy(loop);
    CU_ASSERT_EQUAL(chain.left, 0);
    net_loop_destroy(NULL);
}

static void *run(void *loop)
{
    net_loop_run(loop);
    return NULL;
}

static void test_stop_from_another_thread(void)
{
    for (int i = 0; i < 50; i++) {
        struct net_loop *loop = make();
        pthread_t thread;
        pthread_create(&thread, NULL, run, loop);
        net_loop_stop(loop); /* maybe before it runs */
        net_loop_stop(loop);
        pthread_join(thread, NULL);
        net_loop_destroy(loop);
    }
}

struct ticks {
    struct net_loop *loop;
    struct net_timer *timer;
    int n;
};

static void on_tick(void *arg)
{
    struct ticks *ticks = arg;
    if (++ticks->n == 3) {
        net_timer_destroy(ticks->timer);
        net_loop_stop(ticks->loop);
    }
}

/* Posts itself for ever. */
static void keep_busy(void *arg)
{
    struct ticks *ticks = arg;
    if (ticks->n < 3)
        net_loop_post(ticks->loop, keep_busy, ticks);
}

static void test_timers_repeat_in_a_busy_loop(void)
{
    struct ticks ticks = {.loop = make()};
    uint64_t start = net_now_ns();
    CU_ASSERT_EQUAL_FATAL(net_timer_create(&ticks.timer, ticks.loop, 10, on_tick, &ticks, NULL),
                          PROTO_OK);
    net_loop_post(ticks.loop, keep_busy, &ticks);
    net_loop_run(ticks.loop);
    CU_ASSERT_EQUAL(ticks.n, 3);
    /* libuv counts in whole milliseconds. */
    CU_ASSERT(net_now_ns() - start >= 27 * 1000000u);
    net_loop_destroy(ticks.loop);
}

static void test_signals(void)
{
    struct net_loop *loop = make();
    CU_ASSERT_EQUAL_FATAL(net_loop_on_terminate(loop, stop, loop, NULL), PROTO_OK);
    kill(getpid(), SIGTERM);
    net_loop_run(loop);
    net_loop_destroy(loop);
    loop = make();
    CU_ASSERT_EQUAL_FATAL(net_loop_on_terminate(loop, stop, loop, NULL), PROTO_OK);
    kill(getpid(), SIGINT);
    net_loop_run(loop);
    net_loop_destroy(loop);
}

struct ended {
    struct net_loop *loop;
    int n, signal;
    int64_t code;
};

static void on_exit_stop(void *arg, int64_t code, int number)
{
    struct ended *ended = arg;
    ended->n++;
    ended->code = code;
    ended->signal = number;
    net_loop_stop(ended->loop);
}

static struct net_child *start(struct ended *ended, const char *script, const char *input)
{
    const char *const argv[] = {"/bin/sh", "-c", script, NULL};
    struct net_child *child;
    CU_ASSERT_EQUAL_FATAL(
        net_child_start(&child, ended->loop, argv, input, on_exit_stop, ended, NULL), PROTO_OK);
    return child;
}

static void test_child_reads_its_input(void)
{
    struct ended ended = {.loop = make()};
    struct net_child *child = start(
        &ended, "read a; read b; read c && exit 1; test \"$a $b\" = 'x y' && exit 7", "x\ny\n");
    CU_ASSERT(net_child_pid(child) > 0);
    net_loop_run(ended.loop);
    CU_ASSERT_EQUAL(ended.n, 1);
    CU_ASSERT_EQUAL(ended.code, 7);
    CU_ASSERT_EQUAL(ended.signal, 0);
    net_child_terminate(child); /* too late, and harmless */
    net_child_destroy(child);
    net_loop_destroy(ended.loop);
}

static void test_large_input_that_is_not_read(void)
{
    struct ended ended = {.loop = make()};
    size_t len = 4u << 20;
    char *input = malloc(len + 1);
    memset(input, 'x', len);
    input[len] = 0;
    struct net_child *child = start(&ended, "exit 3", input);
    free(input);
    net_loop_run(ended.loop);
    CU_ASSERT_EQUAL(ended.code, 3);
    net_child_destroy(child);
    net_loop_destroy(ended.loop);
}

static void test_terminate_ends_the_child(void)
{
    struct ended ended = {.loop = make()};
    struct net_child *child = start(&ended, "while :; do sleep 60; done", NULL);
    net_child_terminate(child);
    net_loop_run(ended.loop);
    CU_ASSERT_EQUAL(ended.signal, SIGTERM);
    net_child_destroy(child);
    net_loop_destroy(ended.loop);
}

static void test_destroy_kills_and_waits(void)
{
    struct ended ended = {.loop = make()};
    struct net_child *child = start(&ended, "trap '' TERM; while :; do sleep 60; done", NULL);
    int pid = net_child_pid(child);
    net_child_terminate(child);
    net_child_destroy(child);
    CU_ASSERT_EQUAL(kill(pid, 0), -1);
    CU_ASSERT_EQUAL(errno, ESRCH);
    net_loop_destroy(ended.loop);
    CU_ASSERT_EQUAL(ended.n, 0);
    net_child_destroy(NULL);
    net_child_terminate(NULL);
}

static void test_program_that_is_not_there(void)
{
    struct net_loop *loop = make();
    const char *const argv[] = {"/nowhere/caravan-worker", NULL};
    struct net_child *child;
    struct proto_error error;
    CU_ASSERT_EQUAL(net_child_start(&child, loop, argv, "", on_exit_stop, NULL, &error),
                    PROTO_NOTFOUND);
    CU_ASSERT_PTR_NULL(child);
    CU_ASSERT_PTR_NOT_NULL(strstr(error.text, "/nowhere/caravan-worker"));
    net_loop_destroy(loop);
}

int main(void)
{
    CU_initialize_registry();
    CU_pSuite suite = CU_add_suite("loop", NULL, NULL);
    CU_ADD_TEST(suite, test_posts_come_in_order);
    CU_ADD_TEST(suite, test_destroy_runs_what_was_posted);
    CU_ADD_TEST(suite, test_stop_from_another_thread);
    CU_ADD_TEST(suite, test_timers_repeat_in_a_busy_loop);
    CU_ADD_TEST(suite, test_signals);
    CU_ADD_TEST(suite, test_child_reads_its_input);
    CU_ADD_TEST(suite, test_large_input_that_is_not_read);
    CU_ADD_TEST(suite, test_terminate_ends_the_child);
    CU_ADD_TEST(suite, test_destroy_kills_and_waits);
    CU_ADD_TEST(suite, test_program_that_is_not_there);
    CU_basic_run_tests();
    int failures = (int)CU_get_number_of_failures();
    CU_cleanup_registry();
    return failures != 0;
}
