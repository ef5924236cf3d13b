/* SPDX-License-Identifier: Apache-2.0 */
#include "coordinator/parts.h"

#include "kernels/machine.h"
#include "proto/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define RESTART_MS 1000u

/* Memory that each child may use, in equal parts, in bytes. */
static uint64_t memory_share(const struct coord_engine *e)
{
    uint64_t all = e->options.memory_bytes;
    return (all ? all : kern_machine_free_memory() / 10 * 9) / e->options.local_workers;
}

static unsigned thread_share(const struct coord_engine *e)
{
    unsigned share = kern_machine_processors() / e->options.local_workers;
    return e->options.threads ? e->options.threads : share ? share : 1;
}

static void on_exit_child(void *arg, int64_t code, int signal)
{
    struct coord_child *child = arg;
    struct coord_engine *e = child->engine;
    struct coord_worker *worker = NULL;
    struct proto_error error;
    char why[96];
    if (e->stopping)
        return;
    if (signal)
        snprintf(why, sizeof why, "its process was ended by signal %d", signal);
    else
        snprintf(why, sizeof why, "its process ended with status %lld", (long long)code);
    child->restart_ns = net_now_ns() + RESTART_MS * 1000000ull;
    for (uint32_t i = 0; i < e->n_workers; i++)
        if (e->workers[i]->local && strcmp(e->workers[i]->name, child->name) == 0)
            worker = e->workers[i];
    if (worker) {
        engine__lose_worker(e, worker, why);
    } else if (!e->options.respawn) {
        proto_fail(&error, PROTO_LOST, "local worker \"%s\" could not join: %s", child->name, why);
        engine__fail(e, &error);
    }
}

/* This machine's address for workers from elsewhere, "HOST:0"; false: there are none, or the
 * cluster's key does not say it. */
static bool find_host(const struct coord_engine *e, char host[NET_ADDRESS_BYTES])
{
    const char *address = e->keys.address, *port = strrchr(address, ':');
    if (!e->options.listen || !port)
        return false;
    return snprintf(host, NET_ADDRESS_BYTES, "%.*s:0", (int)(port - address), address) <
           (int)NET_ADDRESS_BYTES;
}

static enum proto_status start_child(struct coord_child *child, struct proto_error *error)
{
    struct coord_engine *e = child->engine;
    char token[NET_TOKEN_TEXT_BYTES + 1], threads[16], memory[32], limit[32],
        host[NET_ADDRESS_BYTES];
    net_token_format(&e->keys, token);
    strcat(token, "\n");
    snprintf(threads, sizeof threads, "%u", thread_share(e));
    snprintf(memory, sizeof memory, "%.6f", (double)child->memory_bytes / 1e9);
    snprintf(limit, sizeof limit, "%.6f", (double)e->options.cache_limit_gb);
    const char *argv[32] = {
        e->worker_path, "--local", "--join",        net_link_endpoint(e->inner.link),
        "--token",      "-",       "--name",        child->name,
        "--threads",    threads,   "--memory",      memory,
        "--log",        "error",   "--keep-packed", e->options.keep_packed ? "on" : "off",
        "--cache-limit", limit};
    size_t n = 18;
    if (e->isa) {
        argv[n++] = "--isa";
        argv[n++] = e->isa;
    }
    if (e->cache_dir) {
        argv[n++] = "--cache-dir";
        argv[n++] = e->cache_dir;
    }
    if (find_host(e, host)) {
        const char *const reachable[] = {"--listen", "*:0",         "--expert-listen",
                                         "*:0",      "--advertise", host};
        memcpy(argv + n, reachable, sizeof reachable);
        n += sizeof reachable / sizeof reachable[0];
    }
    argv[n] = NULL;
    child->restart_ns = 0;
    return net_child_start(&child->process, e->loop, argv, token, on_exit_child, child, error);
}

enum proto_status engine__start_children(struct coord_engine *e, struct proto_error *error)
{
    uint64_t share = memory_share(e);
    e->children = calloc(e->options.local_workers, sizeof *e->children);
    if (!e->children)
        return proto_fail_nomem(error, e->options.local_workers * sizeof *e->children, "workers");
    for (unsigned i = 0; i < e->options.local_workers; i++) {
        e->children[i].engine = e;
        e->children[i].memory_bytes = share;
        snprintf(e->children[i].name, sizeof e->children[i].name, "local-%u", i + 1);
    }
    enum proto_status status = PROTO_OK;
    for (unsigned i = 0; i < e->options.local_workers && status == PROTO_OK; i++)
        status = start_child(&e->children[i], error);
    return status;
}

void engine__tick_children(struct coord_engine *e, uint64_t now_ns)
{
    struct proto_error error;
    if (!e->options.respawn || !e->children)
        return;
    for (unsigned i = 0; i < e->options.local_workers; i++) {
        struct coord_child *child = &e->children[i];
        if (!child->restart_ns || now_ns < child->restart_ns)
            continue;
        net_child_destroy(child->process);
        child->process = NULL;
        if (start_child(child, &error) != PROTO_OK) {
            proto_log(PROTO_LOG_ERROR, "COORD-CHILD-START", "error=\"%s\"", error.text);
            child->restart_ns = now_ns + RESTART_MS * 1000000ull;
        }
    }
}

void engine__end_children(struct coord_engine *e)
{
    if (!e->children)
        return;
    for (unsigned i = 0; i < e->options.local_workers; i++)
        net_child_terminate(e->children[i].process);
    for (unsigned i = 0; i < e->options.local_workers; i++)
        net_child_destroy(e->children[i].process);
    free(e->children);
    e->children = NULL;
}
