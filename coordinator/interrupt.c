/* SPDX-License-Identifier: Apache-2.0 */
#include "coordinator/interrupt.h"

#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#define EXIT_INTERRUPTED 130

/* One engine is watched at a time: signals belong to the process. */
static pthread_t watcher;
static struct coord_engine *_Atomic watched;
static struct coord_interrupt_flags *_Atomic caught;

static sigset_t end_signals(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGUSR1); /* ends the watcher */
    return set;
}

void coord_interrupt_block(void)
{
    sigset_t set = end_signals();
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    signal(SIGPIPE, SIG_IGN);
}

static void *watch(void *arg)
{
    sigset_t set = end_signals();
    int number, seen = 0;
    (void)arg;
    while (sigwait(&set, &number) == 0 && number != SIGUSR1) {
        struct coord_interrupt_flags *flags = atomic_load(&caught);
        struct coord_engine *engine = atomic_load(&watched);
        if (flags && number == SIGINT)
            atomic_store(&flags->pressed, true);
        if (flags && atomic_load(&flags->soft) && number == SIGINT)
            continue;
        if (++seen > 1)
            _exit(EXIT_INTERRUPTED);
        if (flags)
            atomic_store(&flags->ended, true);
        if (engine)
            coord_engine_interrupt(engine);
    }
    return NULL;
}

enum proto_status coord_interrupt_begin(struct coord_engine *engine, struct proto_error *error)
{
    atomic_store(&watched, engine);
    int rc = pthread_create(&watcher, NULL, watch, NULL);
    return rc ? proto_fail_errno(error, rc, "start", "the signal thread") : PROTO_OK;
}

void coord_interrupt_end(void)
{
    pthread_kill(watcher, SIGUSR1);
    pthread_join(watcher, NULL);
}

void coord_interrupt_catch(struct coord_interrupt_flags *flags)
{
    atomic_store(&caught, flags);
}
