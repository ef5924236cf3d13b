/* SPDX-License-Identifier: Apache-2.0 */
/* What the server takes at once, and what it says to those that are too many. */
#include "coordinator/api/job.h"

#include <math.h>

#define MAX_BODIES  ((size_t)256 << 20) /* of all requests at once */
#define MAX_RETRY_S 300.0
#define WEIGHT      0.2 /* of the latest in a running mean */

static double mean(double so_far, double latest)
{
    return so_far > 0 ? so_far + WEIGHT * (latest - so_far) : latest;
}

void api__note_length(struct api_server *server, size_t n_tokens)
{
    pthread_mutex_lock(&server->rates);
    server->tokens_each = mean(server->tokens_each, (double)n_tokens);
    pthread_mutex_unlock(&server->rates);
}

void api__note_speed(struct api_server *server, double seconds)
{
    uint64_t n = atomic_exchange(&server->n_tokens, 0);
    if (n == 0)
        return;
    pthread_mutex_lock(&server->rates);
    server->tokens_s = mean(server->tokens_s, (double)n / seconds);
    pthread_mutex_unlock(&server->rates);
}

/* Until the choices that run and wait now have got the tokens that a choice usually gets. */
static unsigned retry_after(struct api_server *server, size_t n_running)
{
    pthread_mutex_lock(&server->rates);
    double tokens_s = server->tokens_s, each = server->tokens_each;
    pthread_mutex_unlock(&server->rates);
    double seconds = tokens_s > 0 ? ceil((double)n_running * each / tokens_s) : 1;
    return (unsigned)fmin(fmax(seconds, 1), MAX_RETRY_S);
}

bool api__enter(struct api_server *server, size_t n, struct api__fault *fault)
{
    unsigned most = server->max_running, before = atomic_load(&server->n_running);
    do {
        if (n > most || before > most - n) {
            api__fault_set(fault, 429, NULL, "busy",
                           "%u answers are computed or wait already, at most %u are taken; try "
                           "again later",
                           before, most);
            fault->retry_s = retry_after(server, before);
            return false;
        }
    } while (!atomic_compare_exchange_weak(&server->n_running, &before, before + (unsigned)n));
    return true;
}

void api__leave(struct api_server *server, size_t n)
{
    atomic_fetch_sub(&server->n_running, (unsigned)n);
}

bool api__hold_body(struct api__request *r, size_t n, struct api__fault *fault)
{
    struct api_server *server = r->server;
    if (atomic_fetch_add(&server->body_bytes, n) + n <= MAX_BODIES) {
        r->counted += n;
        return true;
    }
    atomic_fetch_sub(&server->body_bytes, n);
    api__fault_set(
        fault, 429, NULL, "busy",
        "the bodies of the requests that are here take %zu bytes, which is the most; try "
        "again later",
        MAX_BODIES);
    fault->retry_s = retry_after(server, atomic_load(&server->n_running));
    return false;
}
